"""Frames for an engine: many frames in one buffer, described by dense arrays."""

from collections.abc import Iterable, Sequence
from typing import Self, final

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

__all__ = ["FrameBatch"]

_Integers = Sequence[int] | npt.NDArray[np.integer]

@final
class FrameBatch:
    def __init__(
        self,
        buffer: Buffer,
        offsets: _Integers,
        lengths: _Integers,
        timestamps: _Integers,
        *,
        link_type: int = 1,
        original_lengths: _Integers | None = None,
    ) -> None: ...
    @classmethod
    def of(
        cls, frames: Iterable[Buffer], timestamps: _Integers | None = None, *, link_type: int = 1
    ) -> Self: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> memoryview: ...
    @property
    def link_type(self) -> int: ...
    @property
    def offset(self) -> npt.NDArray[np.uint64]: ...
    @property
    def length(self) -> npt.NDArray[np.uint32]: ...
    @property
    def original_length(self) -> npt.NDArray[np.uint32]: ...
    @property
    def timestamp(self) -> npt.NDArray[np.int64]: ...
    @property
    def mark(self) -> npt.NDArray[np.uint32]: ...
    @property
    def egress(self) -> npt.NDArray[np.uint32]: ...
    @property
    def verdict(self) -> npt.NDArray[np.uint8]: ...
    @property
    def reason(self) -> npt.NDArray[np.uint8]: ...
