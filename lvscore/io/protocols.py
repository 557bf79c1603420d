"""What an engine's frames come from and go to, as typing protocols."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from lvscore._frames import FrameBatch

__all__ = ["Sink", "Source"]


@runtime_checkable
class Source(Protocol):
    """Frames to be read: an iterable of FrameBatch, each valid until the next is asked for."""

    @property
    def link_type(self) -> int:
        """LINKTYPE_ number of the frames; each batch has its own where a source mixes them."""

    def __iter__(self) -> Iterator[FrameBatch]: ...


@runtime_checkable
class Sink(Protocol):
    """Where frames are written to."""

    def write_batch(
        self, batch: FrameBatch, select: npt.NDArray[np.bool_ | np.uint8] | None = None
    ) -> None:
        """Write the frames of ``batch``, or those of which ``select`` is true."""

    def close(self) -> None:
        """Write out what is buffered and let go of resources; may be called again."""
