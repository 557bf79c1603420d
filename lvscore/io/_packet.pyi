"""Frames of a packet socket, many at once: a ring that is shared with the kernel, or copies."""

from typing import Self, final

import numpy as np
import numpy.typing as npt

from lvscore._frames import FrameBatch

__all__ = ["PacketQueue"]

@final
class PacketQueue:
    def __new__(
        cls,
        descriptor: int,
        sender: int,
        slots: int = 0,
        size: int = 0,
        version: int = 2,
        vlan: int = 0,
        long: int = -1,
        blocks: int = 0,
        block: int = 0,
        long_size: int = 0,
    ) -> Self: ...
    @property
    def received(self) -> int: ...
    @property
    def sent(self) -> int: ...
    @property
    def refused(self) -> int: ...
    @property
    def skipped(self) -> int: ...
    def receive(self, now: int) -> FrameBatch: ...
    def send(self, batch: FrameBatch, select: npt.NDArray[np.uint8]) -> None: ...
    def forward(self, batch: FrameBatch, start: int, end: int, egress: int) -> None: ...
