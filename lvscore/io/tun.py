"""TAP and TUN devices: the wire of an interface of the kernel ends here (tun(4))."""

import os
import socket
import struct
from fcntl import ioctl
from pathlib import Path

from lvscore.errors import InterfaceError
from lvscore.io._tun import TunQueue
from lvscore.io.device import LiveInterface, link_address, longest_packet

__all__ = ["TunInterface"]

# linux/if_tun.h
_TUNSETIFF, _TUNSETPERSIST, _TUNSETOFFLOAD, _TUNSETVNETHDRSZ = (
    0x400454CA, 0x400454CB, 0x400454D0, 0x400454D8,
)  # fmt: skip
_KIND = {"tun": 1, "tap": 2}
_IFF_NO_PI, _IFF_VNET_HDR = 0x1000, 0x4000
_CSUM_TSO4_TSO6_ECN = 1 | 2 | 4 | 8
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_NO_OFFLOADS = bytes(10)  # struct virtio_net_hdr
_EBUSY, _EINVAL, _ENODEV = 16, 22, 19


class TunInterface(LiveInterface):
    """The other end of a TAP or TUN device.

    Args:
        name: of the device; if there is none it is made, and set up.
        backend: ``"tap"``: Ethernet, ``"tun"``: IP alone.
        persistent: leave the device there afterwards.

    Raises:
        InterfaceError: no permission, the name is that of another kind of interface, or another
            program is attached.
    """

    def __init__(self, name: str, backend: str, persistent: bool = False) -> None:
        super().__init__(name, backend)
        if not 0 < len(name.encode()) < 16 or "\0" in name or "/" in name:
            raise InterfaceError(_EINVAL, "not a name of 1 to 15 bytes", name)
        made = name not in (known for _, known in socket.if_nameindex())
        try:
            self._device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise InterfaceError(error.errno, f"/dev/net/tun: {error.strerror}", name) from None
        try:
            self._attach(made, persistent)
        except OSError as error:
            os.close(self._device)
            raise InterfaceError(error.errno, _reason(error, backend), name) from None

    def _attach(self, made: bool, persistent: bool) -> None:
        flags = _KIND[self.backend] | _IFF_NO_PI | _IFF_VNET_HDR
        ioctl(self._device, _TUNSETIFF, struct.pack("16sH22x", self.name.encode(), flags))
        ioctl(self._device, _TUNSETVNETHDRSZ, struct.pack("i", len(_NO_OFFLOADS)))
        ioctl(self._device, _TUNSETOFFLOAD, _CSUM_TSO4_TSO6_ECN)
        if persistent:
            ioctl(self._device, _TUNSETPERSIST, 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            self.mtu = longest_packet(control, self.name)
            if self.backend == "tap":
                kernel = link_address(control, self.name)
                # The kernel's end has its address, this one another of the same wire, always
                # the same one: local, and of one station.
                self.mac = bytes([(kernel[0] | 2) ^ 4]) + kernel[1:]
            else:
                self.mac, self.peer = b"\2\0\0\0\0\1", b"\2\0\0\0\0\2"
            if made:
                request = struct.pack("16sH22x", self.name.encode(), 0)
                up = struct.unpack_from("H", ioctl(control, _SIOCGIFFLAGS, request), 16)[0]
                request = struct.pack("16sH22x", self.name.encode(), up | _IFF_UP)
                ioctl(control, _SIOCSIFFLAGS, request)
        self._queue = TunQueue(self._device, self.mac, self.peer)
        self._dropped_before = _dropped(self.name)

    def fileno(self) -> int:
        return self._device

    def _write(self, frame: bytes) -> None:
        os.write(self._device, _NO_OFFLOADS + (frame if self.peer is None else frame[14:]))

    def _count_dropped(self) -> None:
        if self._device >= 0:
            self._dropped = _dropped(self.name) - self._dropped_before

    def close(self) -> None:
        if self._device >= 0:
            self._count_dropped()
            os.close(self._device)
            self._device = -1


def _dropped(name: str) -> int:
    """Frames for which the queue of a device had no room."""
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
        device, _, counts = line.partition(":")
        if device.strip() == name:
            return int(counts.split()[11])
    return 0


def _reason(error: OSError, backend: str) -> str:
    if error.errno == _EINVAL:
        return f"not a {backend} device"
    if error.errno == _EBUSY:
        return "another program is attached to it"
    if error.errno == 1:
        return f"{backend} devices need root, CAP_NET_ADMIN, or to be their owner"
    return error.strerror or str(error)
