"""Frames of a TAP device and packets of a TUN device, with their virtio_net_hdr (tun.c)."""

from typing import Self, final

import numpy as np
import numpy.typing as npt

from lvscore._frames import FrameBatch

__all__ = ["TunQueue"]

@final
class TunQueue:
    def __new__(cls, descriptor: int, mac: bytes, peer: bytes | None) -> Self: ...
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
