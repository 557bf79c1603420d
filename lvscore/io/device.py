"""What all kinds of live interfaces have in common."""

import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable
from fcntl import ioctl
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from lvscore._frames import FrameBatch
from lvscore.addresses import Network
from lvscore.errors import ConfigError, InterfaceError

__all__ = ["LiveInterface", "Queue", "link_address", "longest_packet"]


class Queue(Protocol):
    """The compiled part of an interface."""

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


class LiveInterface(ABC):
    """A network interface, open for reading and writing frames; see :func:`open_interface`.

    Attributes:
        name: of the interface.
        backend: how frames are read and written.
        mode: ``"latency"`` or ``"throughput"``.
        mac: the link address on this side.
        mtu: longest IP packet, bytes.
        group: of the sockets that share its frames (:class:`Share`), or None.
        zero_copy: frames are where the driver put them, with AF_XDP.
        peer: on a wire without link addresses (TUN), the one that stands for all neighbours.
    """

    peer: bytes | None = None
    zero_copy: bool = False

    def __init__(self, name: str, backend: str, mode: str = "latency") -> None:
        self.name = name
        self.backend = backend
        self.mode = mode
        self.mac = bytes(6)
        self.mtu = 1500
        self.group: int | None = None
        self._refused = 0
        self._dropped = 0
        self._queue: Queue

    @abstractmethod
    def fileno(self) -> int:
        """What select(2) and poll(2) wait on for frames to read."""

    def descriptors(self) -> tuple[int, ...]:
        """What :meth:`fileno` stands for: one of them is readable when there are frames."""
        return (self.fileno(),)

    def begin(self) -> None:  # noqa: B027  (most have nothing to do)
        """Let frames come in: of an interface that is opened with a share of them, when all
        others are open, too."""

    def share(self, inside: Iterable[Network]) -> None:
        """Share frames out by other networks that are inside (:class:`Share`), from now on.

        Raises:
            ConfigError: it is not the first share of an interface's frames, or there are more
                networks than a program has room for.
        """
        raise ConfigError(f"interface {self.name}: not the first of several shares")

    @abstractmethod
    def close(self) -> None:
        """Let go of the interface; what was read is no longer valid."""

    @abstractmethod
    def _write(self, frame: bytes) -> None:
        """Send a frame; OSError: it was refused."""

    @abstractmethod
    def _count_dropped(self) -> None:
        """Bring ``_dropped`` up to date, while the interface is open."""

    def receive(self, now: int) -> FrameBatch:
        """The frames that have come in, at most 64, all with the time ``now`` (nanoseconds).

        They lie where the kernel put them, valid until the next call. Does not wait.
        """
        return self._queue.receive(now)

    def recover(self) -> None:
        """Go on after poll(2) told of an error: the link went down, and may come up again.

        Raises:
            InterfaceError: the interface is gone.
        """
        try:
            socket.if_nametoindex(self.name)
        except OSError:
            raise InterfaceError(19, "the interface is gone", self.name) from None

    def write_batch(
        self, batch: FrameBatch, select: npt.NDArray[np.bool_ | np.uint8] | None = None
    ) -> None:
        """Send the frames of a batch of an interface, or those of which ``select`` is true."""
        if select is None:
            select = np.ones(len(batch), np.uint8)
        self._queue.send(batch, select.view(np.uint8))

    def forward(self, batch: FrameBatch, start: int, end: int, egress: int) -> None:
        """Send the frames from ``start`` to ``end`` that a Host sends on by the interface with
        the number ``egress`` (:meth:`lvscore.Host.number`)."""
        self._queue.forward(batch, start, end, egress)

    def write(self, frames: Iterable[bytes]) -> None:
        """Send whole frames; what the kernel refuses is counted."""
        for frame in frames:
            try:
                self._write(frame)
            except OSError:
                self._refused += 1

    @property
    def statistics(self) -> dict[str, int]:
        """Frames: received, sent by batch, refused by the kernel, skipped as not for this host,
        and dropped by the kernel since the interface was opened: there was no room for them."""
        self._count_dropped()
        queue = self._queue
        return {
            "received": queue.received,
            "sent": queue.sent,
            "refused": queue.refused + self._refused,
            "skipped": queue.skipped,
            "dropped": self._dropped,
        }

    def __str__(self) -> str:
        way = self.backend if self.mode == "latency" else f"{self.backend}, {self.mode}"
        return f"{self.name} ({way})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def link_address(opened: socket.socket, name: str) -> bytes:
    """The link address of an interface.

    Raises:
        InterfaceError: it is not an Ethernet interface.
    """
    request = ioctl(opened, 0x8927, struct.pack("16s24x", name.encode()))  # SIOCGIFHWADDR
    if struct.unpack_from("H", request, 16)[0] != 1:  # ARPHRD_ETHER
        raise InterfaceError(22, "not an Ethernet interface", name)
    return request[18:24]


def longest_packet(opened: socket.socket, name: str) -> int:
    """The MTU of an interface, bytes."""
    request = ioctl(opened, 0x8921, struct.pack("16s24x", name.encode()))  # SIOCGIFMTU
    mtu: int = struct.unpack_from("i", request, 16)[0]
    return mtu
