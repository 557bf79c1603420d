"""Packet sockets (packet(7)): every network interface of Ethernet has them."""

import contextlib
import select
import socket
import struct
from collections.abc import Iterable

from lvscore._frames import FrameBatch
from lvscore.addresses import Network
from lvscore.errors import ConfigError, InterfaceError
from lvscore.io._packet import PacketQueue
from lvscore.io.device import LiveInterface, link_address, longest_packet
from lvscore.io.fanout import (
    Share,
    length_filter,
    neighbour_filter,
    nothing_filter,
    peer_program,
    socket_filter,
)
from lvscore.io.vlan import port_of, vlan_filter

__all__ = ["PacketInterface"]

# linux/if_packet.h
_SOL_PACKET = 263
_ADD_MEMBERSHIP, _RX_RING, _STATISTICS, _AUXDATA, _VERSION = 1, 5, 6, 8, 10
_VNET_HDR, _IGNORE_OUTGOING = 15, 23
_FANOUT, _FANOUT_DATA = 18, 22
_FANOUT_CBPF, _FANOUT_UNIQUE_ID = 6, 0x2000
_MR_ALLMULTI = 2
_TPACKET_V2, _TPACKET_V3 = 1, 2
_ETH_P_ALL = 3
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_COPY_THRESHOLD = 7
_HEAD = 128  # of a slot, before the frame
_SLOTS, _RING = 4096, 64 << 20  # at most, slots and bytes
_LONG, _LONG_BLOCKS = 69632, 16  # a slot for a super-frame of 64 KiB, and how many MiB of them
_PIECE = 1 << 17  # of memory in one piece, at least
_BLOCK, _BLOCKS, _FRAME = 1 << 20, 32, 2048
_RETIRE = 1  # milliseconds: the least there is
_BUFFER = 32 << 20
_NO_OFFLOADS = bytes(10)  # struct virtio_net_hdr


class PacketInterface(LiveInterface):
    """An interface by a packet socket.

    Args:
        name: of the interface, or of a VLAN on it: ``"eth1.10"``.
        backend: ``"ring"`` or ``"copy"``.
        mode: of a ring, ``"latency"``: TPACKET_V2, ``"throughput"``: TPACKET_V3.
        share: take a part of the frames alone; then nothing comes in until :meth:`begin`.

    Raises:
        ConfigError: a share of a VLAN.
        InterfaceError: no such interface, no permission, or not an Ethernet interface.
    """

    def __init__(
        self, name: str, backend: str, mode: str = "latency", share: Share | None = None
    ) -> None:
        super().__init__(name, backend, mode)
        self._closing = contextlib.ExitStack()
        self._first = False
        self._hearing: PacketQueue | None = None
        self._port, self._vlan = port_of(name)
        if self._vlan and share is not None:
            raise ConfigError(f"{name}: a VLAN of an interface cannot be shared between workers")
        self._socket = self._closing.enter_context(_opened(self._port))
        self._sockets = [self._socket]
        self._either: select.epoll | None = None
        self._sender = self._closing.enter_context(_opened(self._port, hears=False))
        try:
            self.mac = link_address(self._socket, self._port)
            self.mtu = longest_packet(self._socket, self._port)
            version = 3 if mode == "throughput" else 2
            slots, size = 0, 0
            if backend == "ring" and version == 3:
                slots, size = _blocks(self._socket)
            elif backend == "ring":
                slots, size = _slots(self._socket, self.mtu)
            if share is not None:
                _filter(self._socket, nothing_filter())
            long = (-1, 0, 0, 0)
            if self._vlan:
                _filter(self._socket, vlan_filter(self._vlan))
            elif share is None and backend == "ring" and version == 2 and size < _LONG:
                long = self._open_long(size - _HEAD)
            self._socket.bind((self._port, _ETH_P_ALL))
            self._sender.bind((self._port, 0))
            descriptors = self._socket.fileno(), self._sender.fileno()
            self._queue = PacketQueue(*descriptors, slots, size, version, self._vlan, *long)
            if share is not None:
                self._join(share)
        except OSError as error:
            self.close()
            raise InterfaceError(error.errno, error.strerror, name) from error

    def _open_long(self, most: int) -> tuple[int, int, int, int]:
        """A second socket, with a ring for the super-frames, of more than ``most`` bytes: it is
        worth its memory to have them copied once less, and by their sender's processor."""
        _filter(self._socket, length_filter(most, longer=False))
        opened = self._closing.enter_context(_opened(self._port))
        self._sockets.append(opened)
        _filter(opened, length_filter(most, longer=True))
        _ring(opened, _BLOCK, _LONG_BLOCKS, _LONG)
        opened.bind((self._port, _ETH_P_ALL))
        return opened.fileno(), _LONG_BLOCKS, _BLOCK, _LONG

    def _join(self, share: Share) -> None:
        """Take a share; whoever is not the first hears of link addresses by another socket."""
        kind = _FANOUT_CBPF
        if share.group is None:
            kind |= _FANOUT_UNIQUE_ID
        request = (share.group or 0) | kind << 16
        self._socket.setsockopt(_SOL_PACKET, _FANOUT, struct.pack("I", request))
        joined = self._socket.getsockopt(_SOL_PACKET, _FANOUT, 4)
        self.group = struct.unpack("I", joined)[0] & 0xFFFF
        if share.number == 0:
            self._first = True
            self.share(share.inside)
            return
        hearing = self._closing.enter_context(_opened(self.name))
        self._sockets.append(hearing)
        _filter(hearing, neighbour_filter())
        hearing.bind((self.name, _ETH_P_ALL))
        self._hearing = PacketQueue(hearing.fileno(), self._sender.fileno())

    def share(self, inside: Iterable[Network]) -> None:
        if not self._first:
            super().share(inside)
        packed, held = socket_filter(peer_program(list(inside)))
        self._socket.setsockopt(_SOL_PACKET, _FANOUT_DATA, packed)
        del held

    def begin(self) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)

    def fileno(self) -> int:
        if len(self._sockets) < 2:
            return self._socket.fileno()
        if self._either is None:
            self._either = self._closing.enter_context(select.epoll())
            for opened in self._sockets:
                self._either.register(opened, select.EPOLLIN)
        return self._either.fileno()

    def descriptors(self) -> tuple[int, ...]:
        return tuple(opened.fileno() for opened in self._sockets)

    def receive(self, now: int) -> FrameBatch:
        batch = self._queue.receive(now)
        if not len(batch) and self._hearing is not None:
            batch = self._hearing.receive(now)
        if not len(batch) and self._either is not None:
            self.recover()  # an error of two sockets is not told by what one waits on
        return batch

    def recover(self) -> None:
        for opened in self._sockets:  # or poll(2) tells it for ever
            opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if self._socket.getsockname()[0] != self._port:  # another may have the name by now
            raise InterfaceError(19, "the interface is gone", self.name)

    def _write(self, frame: bytes) -> None:
        if self._vlan:
            frame = frame[:12] + struct.pack("!HH", 0x8100, self._vlan) + frame[12:]
        self._sender.send(_NO_OFFLOADS + frame)

    def _count_dropped(self) -> None:
        for opened in self._sockets:  # each tells of what was dropped since it last told
            said = opened.getsockopt(_SOL_PACKET, _STATISTICS, 8)  # struct tpacket_stats
            self._dropped += struct.unpack("2I", said)[1]

    def close(self) -> None:
        self._count_dropped()
        self._sockets.clear()
        self._closing.close()


def _filter(opened: socket.socket, program: bytes) -> None:
    packed, held = socket_filter(program)
    opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, packed)
    del held


def _opened(name: str, hears: bool = True) -> socket.socket:
    """A packet socket that hears of nothing yet, or never."""
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
        if hears:  # solicitations for IPv6 addresses go to groups
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


def _slots(opened: socket.socket, mtu: int) -> tuple[int, int]:
    """A ring of slots, each for one frame, which is there as soon as it has come; a frame that is
    longer than the MTU has it, a super-frame, waits beside the ring."""
    size = 1 << (mtu + _HEAD - 1).bit_length()
    slots, block = min(_SLOTS, _RING // size), max(size, _PIECE)
    _ring(opened, block, slots * size // block, size)
    return slots, size


def _ring(opened: socket.socket, block: int, blocks: int, size: int) -> None:
    """Blocks of memory with slots, for frames of less than ``size``; others wait beside them."""
    opened.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V2)
    opened.setsockopt(_SOL_PACKET, _COPY_THRESHOLD, 1)
    request = struct.pack("4I", block, blocks, size, block // size * blocks)  # struct tpacket_req
    opened.setsockopt(_SOL_PACKET, _RX_RING, request)


def _blocks(opened: socket.socket) -> tuple[int, int]:
    """A ring of blocks of frames, each there when it is full or a millisecond has passed."""
    opened.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V3)
    request = struct.pack(
        "7I", _BLOCK, _BLOCKS, _FRAME, _BLOCK // _FRAME * _BLOCKS, _RETIRE, 0, 0
    )  # struct tpacket_req3
    opened.setsockopt(_SOL_PACKET, _RX_RING, request)
    return _BLOCKS, _BLOCK
