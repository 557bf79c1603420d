"""Packet sockets (packet(7)): every network interface of Ethernet has them."""

import mmap
import socket
import struct

from lvscore.errors import InterfaceError
from lvscore.io._packet import PacketQueue
from lvscore.io.device import LiveInterface, link_address, longest_packet

__all__ = ["PacketInterface"]

# linux/if_packet.h
_SOL_PACKET = 263
_ADD_MEMBERSHIP, _RX_RING, _AUXDATA, _VERSION, _VNET_HDR, _IGNORE_OUTGOING = 1, 5, 8, 10, 15, 23
_MR_ALLMULTI = 2
_TPACKET_V2, _TPACKET_V3 = 1, 2
_ETH_P_ALL = 3
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_SLOT, _SLOTS = 1 << 17, 512
_BLOCK, _BLOCKS, _FRAME = 1 << 20, 32, 2048
_RETIRE = 1  # milliseconds: the least there is
_BUFFER = 8 << 20
_NO_OFFLOADS = bytes(10)  # struct virtio_net_hdr


class PacketInterface(LiveInterface):
    """An interface by a packet socket.

    Args:
        name: of the interface.
        backend: ``"ring"`` or ``"copy"``.
        mode: of a ring, ``"latency"``: TPACKET_V2, ``"throughput"``: TPACKET_V3.

    Raises:
        InterfaceError: no such interface, no permission, or not an Ethernet interface.
    """

    def __init__(self, name: str, backend: str, mode: str = "latency") -> None:
        super().__init__(name, backend, mode)
        self._ring: mmap.mmap | None = None
        self._socket = _opened(name)
        try:
            self.mac = link_address(self._socket, name)
            self.mtu = longest_packet(self._socket, name)
            version = 3 if mode == "throughput" else 2
            if backend == "ring":
                self._ring = (_blocks if version == 3 else _slots)(self._socket)
            self._socket.bind((name, _ETH_P_ALL))
            self._queue = PacketQueue(self._socket.fileno(), self._ring, version)
        except OSError as error:
            self._socket.close()
            raise InterfaceError(error.errno, error.strerror, name) from error

    def fileno(self) -> int:
        return self._socket.fileno()

    def _write(self, frame: bytes) -> None:
        self._socket.send(_NO_OFFLOADS + frame)

    def close(self) -> None:
        self._socket.close()


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


def _slots(opened: socket.socket) -> mmap.mmap:
    """A ring of slots, each for one frame, which is there as soon as it has come."""
    opened.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V2)
    opened.setsockopt(_SOL_PACKET, _RX_RING, struct.pack("4I", _SLOT, _SLOTS, _SLOT, _SLOTS))
    return mmap.mmap(opened.fileno(), _SLOT * _SLOTS, mmap.MAP_SHARED)


def _blocks(opened: socket.socket) -> mmap.mmap:
    """A ring of blocks of frames, each there when it is full or a millisecond has passed."""
    opened.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V3)
    request = struct.pack(
        "7I", _BLOCK, _BLOCKS, _FRAME, _BLOCK // _FRAME * _BLOCKS, _RETIRE, 0, 0
    )  # struct tpacket_req3
    opened.setsockopt(_SOL_PACKET, _RX_RING, request)
    return mmap.mmap(opened.fileno(), _BLOCK * _BLOCKS, mmap.MAP_SHARED)
