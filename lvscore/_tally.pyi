"""Counting what became of frames, and choosing those that are sent on, without a step per frame."""

from typing import final

import numpy as np
import numpy.typing as npt

from lvscore._frames import FrameBatch

__all__ = ["Tally", "sent"]

@final
class Tally:
    @property
    def bytes(self) -> int: ...
    @property
    def frames(self) -> int: ...
    @property
    def outcomes(self) -> npt.NDArray[np.uint64]: ...
    def measure(self, batch: FrameBatch) -> None: ...
    def count(self, batch: FrameBatch) -> None: ...

def sent(batch: FrameBatch) -> npt.NDArray[np.bool_]: ...
