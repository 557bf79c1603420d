"""Frames of an AF_XDP socket: chunks of one memory that go round between kernel and engine."""

from typing import Self, final

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

from lvscore._frames import FrameBatch

__all__ = ["XdpQueue"]

@final
class XdpQueue:
    def __new__(
        cls,
        descriptor: int,
        memory: Buffer,
        rings: tuple[tuple[Buffer, int, int, int, int, int], ...],
        mac: bytes,
    ) -> Self: ...
    @property
    def descriptor(self) -> int: ...
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
    def write(self, frame: Buffer) -> bool: ...
