"""Network interfaces of this machine as sources and sinks of frames."""

import socket
import struct
from fcntl import ioctl
from ipaddress import IPv6Address
from pathlib import Path

from lvscore.errors import ConfigError, InterfaceError
from lvscore.io.device import LiveInterface, longest_packet
from lvscore.io.fanout import Share
from lvscore.io.packet_socket import PacketInterface
from lvscore.io.tun import TunInterface
from lvscore.io.vlan import port_of
from lvscore.io.xdp import XdpInterface

__all__ = [
    "BACKENDS",
    "MODES",
    "interface_is_up",
    "interface_mtu",
    "kernel_addresses",
    "open_interface",
]

BACKENDS = ("ring", "copy", "tap", "tun", "xdp")
"""A ring shared with the kernel, recvmmsg(2), devices whose other end is here, and AF_XDP."""
MODES = ("latency", "throughput")


def open_interface(
    name: str,
    *,
    backend: str = "auto",
    mode: str = "latency",
    persistent: bool = False,
    share: Share | None = None,
) -> LiveInterface:
    """Open a network interface.

    Offloads stay on: checksums and segmentation that the kernel left undone are handed through
    (virtio_net_hdr). Own frames are not read.

    Args:
        name: of an Ethernet interface, ``"eth1"``; ring and copy take ``"eth1.10"`` for VLAN 10 on
            eth1 where the machine has no such interface.
        backend: ``"ring"`` (a ring of a packet socket), ``"copy"`` (recvmmsg), ``"tap"`` or
            ``"tun"`` (the other end of such a device, which is made if it is not there), ``"xdp"``
            (AF_XDP: the kernel sees nothing of the interface meanwhile), or ``"auto"``: the
            first of ring and copy that works; :attr:`LiveInterface.backend` says which.
        mode: of a ring. ``"latency"``: TPACKET_V2, a frame is there as soon as it has come;
            ``"throughput"``: TPACKET_V3, which takes less time for each frame, and keeps frames
            for up to a millisecond. :attr:`LiveInterface.mode` says which.
        persistent: leave a TAP or TUN device there after :meth:`LiveInterface.close`; one that
            was there stays in any case.
        share: take a part of its frames alone, the others are for other processes (of ring and
            copy); nothing comes in until :meth:`LiveInterface.begin`.

    Raises:
        ConfigError: there is no such backend or mode, or not of this backend.
        InterfaceError: no such interface, no permission, or not an Ethernet interface.
    """
    if backend not in ("auto", *BACKENDS):
        raise ConfigError(f"backend {backend!r} is not auto, {', '.join(BACKENDS)}")
    if mode not in MODES:
        raise ConfigError(f"mode {mode!r} is not {' or '.join(MODES)}")
    if mode == "throughput" and backend not in ("auto", "ring"):
        raise ConfigError(f"backend {backend!r} has no mode {mode!r}; expected ring")
    if share is not None and backend not in ("auto", "ring", "copy"):
        raise ConfigError(f"backend {backend!r} cannot be shared; expected ring or copy")
    if backend in ("tap", "tun"):
        return TunInterface(name, backend, persistent)
    if persistent:
        raise ConfigError(f"backend {backend!r}: only tap and tun devices can be left behind")
    if backend == "xdp":
        return XdpInterface(name)
    if backend != "auto":
        return PacketInterface(name, backend, mode, share)
    try:
        return PacketInterface(name, "ring", mode, share)
    except InterfaceError as error:
        if error.errno not in _NO_RING:
            raise
    return PacketInterface(name, "copy", share=share)


_SIOCGIFFLAGS, _IFF_UP = 0x8913, 1  # netdevice(7)
_NO_RING = (12, 22, 92)  # ENOMEM, EINVAL, ENOPROTOOPT


def interface_mtu(name: str) -> int | None:
    """The longest IP packet of an interface, bytes; None: there is none of this name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            return min(longest_packet(control, port_of(name)[0]), 65535)  # loopback has one more
        except (OSError, ValueError, struct.error):
            return None


def interface_is_up(name: str) -> bool:
    """Whether the machine has set an interface up: no frame passes it before."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            request = struct.pack("16s24x", port_of(name)[0].encode())
            answer = ioctl(control, _SIOCGIFFLAGS, request)
        except (OSError, ValueError, struct.error):
            return False
    return bool(struct.unpack_from("H", answer, 16)[0] & _IFF_UP)


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
