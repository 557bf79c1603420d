"""AF_XDP: the driver hands frames over before the kernel has looked at them.

An XDP program gives every frame that the interface receives to the socket of its queue; the
kernel sees none of them. Sockets, program and its place at the driver go with the process.
"""

import contextlib
import ctypes
import mmap
import os
import select
import socket
import struct
import time
from fcntl import ioctl

import numpy as np
import numpy.typing as npt

from lvscore._frames import FrameBatch
from lvscore.errors import InterfaceError
from lvscore.io import bpf
from lvscore.io._xdp import XdpQueue
from lvscore.io.device import LiveInterface, link_address, longest_packet

__all__ = ["XdpInterface"]

# linux/if_xdp.h
_AF_XDP, _SOL_XDP = 44, 283
_MMAP_OFFSETS, _RX_RING, _TX_RING, _UMEM_REG, _FILL_RING, _COMPLETION_RING = 1, 2, 3, 4, 5, 6
_STATISTICS, _OPTIONS, _ZERO_COPY = 7, 8, 1
_USE_NEED_WAKEUP = 8
_PAGE_OFFSETS = {
    _RX_RING: 0, _TX_RING: 0x80000000, _FILL_RING: 0x100000000, _COMPLETION_RING: 0x180000000,
}  # fmt: skip
_CHUNK, _CHUNKS, _ENTRIES = 4096, 4096, 2048
_LONGEST = _CHUNK - 256 - 18  # headroom of the driver, Ethernet header and a tag
_BUSY_SECONDS = 2.0  # the kernel lets go of a queue late
_EBUSY, _ERANGE, _EOPNOTSUPP, _ENODEV = 16, 34, 95, 19

_libc = ctypes.CDLL(None, use_errno=True)


class XdpInterface(LiveInterface):
    """An interface by AF_XDP sockets, one for each of its receive queues.

    Raises:
        InterfaceError: no such interface, no permission, an MTU above 3822, or a driver that
            cannot run XDP programs itself.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, "xdp")
        self._closing = contextlib.ExitStack()
        self._queues: list[XdpQueue] = []
        self._sockets: list[socket.socket] = []
        try:
            number = socket.if_nametoindex(name)
        except (OSError, ValueError):
            raise InterfaceError(_ENODEV, "no such network interface", name) from None
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
                self.mac = link_address(control, name)
                self.mtu = longest_packet(control, name)
                queues = _receive_queues(control, name)
            if self.mtu > _LONGEST:
                raise OSError(_ERANGE, "")
            self._open(number, queues)
        except OSError as error:
            self.close()
            raise InterfaceError(error.errno, _reason(error), name) from None

    def _open(self, number: int, queues: int) -> None:
        sockets = self._own(bpf.make_socket_map(queues))
        program = self._own(bpf.load_redirect(sockets))
        self._descriptor = -1
        for queue in range(queues):
            opened = self._closing.enter_context(socket.socket(_AF_XDP, socket.SOCK_RAW, 0))
            memory = mmap.mmap(-1, _CHUNK * _CHUNKS, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            registered = struct.pack("QQIIII", address, len(memory), _CHUNK, 0, 0, 0)
            opened.setsockopt(_SOL_XDP, _UMEM_REG, registered)
            rings = _rings(opened)
            _bind(opened, number, queue)
            self._queues.append(XdpQueue(opened.fileno(), memory, rings, self.mac))
            self._sockets.append(opened)
            bpf.put_socket(sockets, queue, opened.fileno())
            self._descriptor = opened.fileno()
        if queues > 1:
            every = self._closing.enter_context(select.epoll())
            for one in self._queues:
                every.register(one.descriptor, select.EPOLLIN)
            self._descriptor = every.fileno()
        options = opened.getsockopt(_SOL_XDP, _OPTIONS, 4)
        self.zero_copy = bool(struct.unpack("I", options)[0] & _ZERO_COPY)
        self._own(bpf.attach_xdp(program, number))

    def _own(self, descriptor: int) -> int:
        self._closing.callback(os.close, descriptor)
        return descriptor

    def fileno(self) -> int:
        return self._descriptor

    def receive(self, now: int) -> FrameBatch:
        for _ in self._queues:
            batch = self._queues[0].receive(now)
            if len(batch):
                break
            self._queues.append(self._queues.pop(0))  # let all have their turn
        return batch

    def write_batch(
        self, batch: FrameBatch, select: npt.NDArray[np.bool_ | np.uint8] | None = None
    ) -> None:
        chosen = np.ones(len(batch), np.uint8) if select is None else select.astype(np.uint8)
        self._queues[0].send(batch, chosen)

    def forward(self, batch: FrameBatch, start: int, end: int, egress: int) -> None:
        self._queues[0].forward(batch, start, end, egress)

    def _write(self, frame: bytes) -> None:
        self._queues[0].write(frame)

    @property
    def statistics(self) -> dict[str, int]:
        self._count_dropped()
        names = ("received", "sent", "refused", "skipped")
        counts = {name: sum(getattr(queue, name) for queue in self._queues) for name in names}
        return counts | {"dropped": self._dropped}

    def _count_dropped(self) -> None:
        if self._sockets:
            said = [s.getsockopt(_SOL_XDP, _STATISTICS, 48) for s in self._sockets]
            # struct xdp_statistics: rx_dropped, rx_ring_full
            self._dropped = sum(struct.unpack_from(f"{at}xQ", one)[0] for one in said
                                for at in (0, 24))  # fmt: skip

    def close(self) -> None:
        self._count_dropped()
        self._sockets.clear()
        self._closing.close()


def _receive_queues(control: socket.socket, name: str) -> int:
    """How many receive queues an interface has (ETHTOOL_GCHANNELS)."""
    channels = bytearray(struct.pack("9I", 0x3C, *[0] * 8))
    address = ctypes.addressof(ctypes.c_char.from_buffer(channels))
    try:
        ioctl(control, 0x8946, struct.pack("16sQ16x", name.encode(), address))  # SIOCETHTOOL
    except OSError:
        return 1
    counts = struct.unpack("9I", channels)
    count: int = counts[5] + counts[8]  # receive queues, and combined ones
    return max(1, count)


def _rings(opened: socket.socket) -> tuple[tuple[mmap.mmap, int, int, int, int, int], ...]:
    """Make the four rings of a socket, and map them, as XdpQueue takes them."""
    kinds = (_FILL_RING, _COMPLETION_RING, _RX_RING, _TX_RING)
    for kind in kinds:
        opened.setsockopt(_SOL_XDP, kind, _CHUNKS if kind == _FILL_RING else _ENTRIES)
    offsets = struct.unpack("16Q", opened.getsockopt(_SOL_XDP, _MMAP_OFFSETS, 128))
    rings = []
    for kind, place in zip(kinds, (8, 12, 0, 4), strict=True):
        producer, consumer, entries, flags = offsets[place : place + 4]
        count = _CHUNKS if kind == _FILL_RING else _ENTRIES
        length = entries + count * (16 if kind in (_RX_RING, _TX_RING) else 8)
        mapped = mmap.mmap(
            opened.fileno(), length, mmap.MAP_SHARED | mmap.MAP_POPULATE,
            offset=_PAGE_OFFSETS[kind],
        )  # fmt: skip
        rings.append((mapped, producer, consumer, entries, flags, count))
    return tuple(rings)


def _bind(opened: socket.socket, number: int, queue: int) -> None:
    """Bind a socket to a queue, which a socket that was closed may still hold for a moment."""
    address = struct.pack("HHIII", _AF_XDP, _USE_NEED_WAKEUP, number, queue, 0)
    until = time.monotonic() + _BUSY_SECONDS
    while _libc.bind(opened.fileno(), address, len(address)) < 0:
        code = ctypes.get_errno()
        if code != _EBUSY or time.monotonic() > until:
            raise OSError(code, os.strerror(code))
        time.sleep(0.01)


def _reason(error: OSError) -> str:
    if error.errno == 1:
        return "AF_XDP needs root, or CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF"
    if error.errno == _EBUSY:
        return "another XDP program, or another socket, is there"
    if error.errno == _ERANGE:
        return f"the MTU is too long for XDP; expected at most {_LONGEST}"
    if error.errno == _EOPNOTSUPP:
        return "its driver runs no XDP programs; expected another backend"
    return error.strerror or str(error)
