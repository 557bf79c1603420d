"""Network interfaces of this machine as sources and sinks: packet sockets (packet(7))."""

import mmap
import socket
import struct
from collections.abc import Iterable
from fcntl import ioctl
from ipaddress import IPv6Address
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from lvscore._frames import FrameBatch
from lvscore.errors import ConfigError, InterfaceError
from lvscore.io._packet import PacketQueue

__all__ = ["BACKENDS", "LiveInterface", "kernel_addresses", "open_interface"]

BACKENDS = ("ring", "copy")
"""Fastest first: a TPACKET_V2 ring shared with the kernel, and recvmmsg(2)."""

# linux/if_packet.h
_SOL_PACKET = 263
_ADD_MEMBERSHIP, _RX_RING, _AUXDATA, _VERSION, _VNET_HDR, _IGNORE_OUTGOING = 1, 5, 8, 10, 15, 23
_MR_ALLMULTI = 2
_TPACKET_V2 = 1
_ETH_P_ALL = 3
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_SLOT = 1 << 17
_SLOTS = 512
_BUFFER = 8 << 20
_NO_OFFLOADS = bytes(10)  # struct virtio_net_hdr


class LiveInterface:
    """A network interface, open for reading and writing frames; see :func:`open_interface`."""

    def __init__(self, name: str, backend: str) -> None:
        self.name = name
        self.backend = backend
        self._ring: mmap.mmap | None = None
        self._refused = 0
        self._socket = _opened(name)
        try:
            self.mac = _mac(self._socket, name)
            self.mtu = _mtu(self._socket, name)
            if backend == "ring":
                self._ring = _ring(self._socket)
            self._socket.bind((name, _ETH_P_ALL))
            self._queue = PacketQueue(self._socket.fileno(), self._ring)
        except OSError as error:
            self._socket.close()
            raise InterfaceError(error.errno, error.strerror, name) from error

    def fileno(self) -> int:
        """What select(2) and poll(2) wait on for frames to read."""
        return self._socket.fileno()

    def receive(self, now: int) -> FrameBatch:
        """The frames that have come in, at most 64, all with the time ``now`` (nanoseconds).

        They lie where the kernel put them, valid until the next call. Does not wait.
        """
        return self._queue.receive(now)

    def write_batch(
        self, batch: FrameBatch, select: npt.NDArray[np.bool_ | np.uint8] | None = None
    ) -> None:
        """Send the frames of a batch of an interface, or those of which ``select`` is true."""
        chosen = np.ones(len(batch), np.uint8) if select is None else select.astype(np.uint8)
        self._queue.send(batch, chosen)

    def write(self, frames: Iterable[bytes]) -> None:
        """Send whole frames; what the kernel refuses is counted."""
        for frame in frames:
            try:
                self._socket.send(_NO_OFFLOADS + frame)
            except OSError:
                self._refused += 1

    @property
    def statistics(self) -> dict[str, int]:
        """Frames: received, sent by batch, refused by the kernel, skipped as not for this host."""
        queue = self._queue
        return {
            "received": queue.received,
            "sent": queue.sent,
            "refused": queue.refused + self._refused,
            "skipped": queue.skipped,
        }

    def close(self) -> None:
        """Let go of the interface; what was read is no longer valid."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_interface(name: str, *, backend: str = "auto") -> LiveInterface:
    """Open a network interface.

    Offloads stay on: checksums and segmentation that the kernel left undone are handed through
    (PACKET_VNET_HDR). Own frames are not read.

    Args:
        name: an Ethernet interface, ``"eth1"``.
        backend: ``"ring"`` (a TPACKET_V2 ring of 64 MiB), ``"copy"`` (recvmmsg), or ``"auto"``:
            the first of these that works; :attr:`LiveInterface.backend` says which.

    Raises:
        ConfigError: there is no such backend.
        InterfaceError: no such interface, no permission, or not an Ethernet interface.
    """
    if backend != "auto":
        if backend not in BACKENDS:
            raise ConfigError(f"backend {backend!r} is not auto, {' or '.join(BACKENDS)}")
        return LiveInterface(name, backend)
    try:
        return LiveInterface(name, "ring")
    except InterfaceError as error:
        if error.errno not in _NO_RING:
            raise
    return LiveInterface(name, "copy")


_NO_RING = (12, 22, 92)  # ENOMEM, EINVAL, ENOPROTOOPT


def _opened(name: str) -> socket.socket:
    """A packet socket that hears of nothing yet."""
    try:
        socket.if_nametoindex(name)
    except (OSError, ValueError):
        raise InterfaceError(19, "no such network interface", name) from None
    try:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    except PermissionError as error:
        raise InterfaceError(error.errno, "packet sockets need root or CAP_NET_RAW", name) from None
    member = struct.pack("IHH8s", socket.if_nametoindex(name), _MR_ALLMULTI, 0, b"")
    try:
        opened.setsockopt(_SOL_PACKET, _VNET_HDR, 1)
        opened.setsockopt(_SOL_PACKET, _AUXDATA, 1)
        opened.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
        # Solicitations for IPv6 addresses go to groups.
        opened.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, member)
    except OSError as error:
        opened.close()
        raise InterfaceError(error.errno, error.strerror, name) from error
    for option in (_SO_RCVBUFFORCE, _SO_SNDBUFFORCE):
        try:
            opened.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        except PermissionError:  # CAP_NET_RAW alone: the system's own size
            break
    return opened


def _ring(opened: socket.socket) -> mmap.mmap:
    opened.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V2)
    opened.setsockopt(_SOL_PACKET, _RX_RING, struct.pack("4I", _SLOT, _SLOTS, _SLOT, _SLOTS))
    return mmap.mmap(opened.fileno(), _SLOT * _SLOTS, mmap.MAP_SHARED)


def _mac(opened: socket.socket, name: str) -> bytes:
    request = ioctl(opened, 0x8927, struct.pack("16s24x", name.encode()))  # SIOCGIFHWADDR
    if struct.unpack_from("H", request, 16)[0] != 1:  # ARPHRD_ETHER
        raise InterfaceError(22, "not an Ethernet interface", name)
    return request[18:24]


def _mtu(opened: socket.socket, name: str) -> int:
    request = ioctl(opened, 0x8921, struct.pack("16s24x", name.encode()))  # SIOCGIFMTU
    mtu: int = struct.unpack_from("i", request, 16)[0]
    return mtu


def kernel_addresses() -> list[str]:
    """Addresses that the kernel answers for in this network namespace, but loopback's."""
    found: list[str] = []
    previous = ""
    for line in Path("/proc/net/fib_trie").read_text().splitlines():
        words = line.split()
        if words[:1] == ["|--"]:
            previous = words[1]
        elif words[:3] == ["/32", "host", "LOCAL"] and not previous.startswith("127."):
            found.append(previous)
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:  # a kernel without IPv6
        lines = []
    found += [str(IPv6Address(bytes.fromhex(line.split()[0]))) for line in lines]
    return found
