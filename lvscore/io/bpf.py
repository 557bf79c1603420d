"""The bpf(2) system call, as far as two programs need it: one that hands all frames to sockets
(XDP), and one that lets packets for some addresses go no further (tc).

Everything lives as long as its descriptor: nothing is left behind, however a process ends.
"""

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Sequence

__all__ = [
    "attach_ingress",
    "attach_xdp",
    "load_drop",
    "load_redirect",
    "make_address_map",
    "make_socket_map",
    "put_address",
    "put_socket",
    "remove_address",
]

_NUMBERS = {
    "x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280, "ppc64le": 361,
    "s390x": 351, "i686": 357, "armv7l": 386,
}  # fmt: skip
# linux/bpf.h
_MAP_CREATE, _MAP_UPDATE_ELEM, _MAP_DELETE_ELEM, _PROG_LOAD, _LINK_CREATE = 0, 2, 3, 5, 28
_MAP_TYPE_HASH, _MAP_TYPE_XSKMAP = 1, 17
_PROG_TYPE_SCHED_CLS, _PROG_TYPE_XDP = 3, 6
_ATTACH_XDP, _ATTACH_TCX_INGRESS = 37, 46
_FUNC_MAP_LOOKUP, _FUNC_REDIRECT_MAP, _FUNC_LOAD_BYTES_RELATIVE = 1, 51, 68
_XDP_PASS, _TCX_NEXT, _TCX_DROP = 2, -1, 2
_HEADER_NETWORK = 1  # BPF_HDR_START_NET
_PROTOCOL = 16  # offset of __sk_buff.protocol
_KEY = 24  # bytes: family, address, padding
_ADDRESSES = 4096
_FLAGS_DRV_MODE = 4  # XDP_FLAGS_DRV_MODE (linux/if_link.h)
_QUEUE_INDEX = 16  # offset of xdp_md.rx_queue_index

_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attributes: bytes) -> int:
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(38, f"the number of bpf(2) on {platform.machine()} is not known")
    held = ctypes.create_string_buffer(attributes, len(attributes))
    result = _libc.syscall(
        ctypes.c_long(number), ctypes.c_int(command), held, ctypes.c_uint(len(attributes))
    )
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def make_socket_map(size: int) -> int:
    """The descriptor of a map from queue numbers to sockets (BPF_MAP_TYPE_XSKMAP)."""
    return _bpf(_MAP_CREATE, struct.pack("5I", _MAP_TYPE_XSKMAP, 4, 4, size, 0))


def put_socket(sockets: int, queue: int, descriptor: int) -> None:
    """Let a queue's frames go to a socket, which is bound to it."""
    key, value = ctypes.c_uint(queue), ctypes.c_uint(descriptor)
    _bpf(
        _MAP_UPDATE_ELEM,
        struct.pack("IxxxxQQQ", sockets, ctypes.addressof(key), ctypes.addressof(value), 0),
    )


def load_redirect(sockets: int) -> int:
    """The descriptor of a program that gives a frame to its queue's socket, or, if there is
    none, to the kernel."""
    lines = (
        (0x61, 1 << 4 | 2, _QUEUE_INDEX, 0),  # r2 = the number of the queue
        (0x18, 1 << 4 | 1, 0, sockets),  # r1 = the map
        (0, 0, 0, 0),
        (0xB7, 3, 0, _XDP_PASS),  # r3 = what is done without a socket
        (0x85, 0, 0, _FUNC_REDIRECT_MAP),
        (0x95, 0, 0, 0),
    )
    return _load(_PROG_TYPE_XDP, _ATTACH_XDP, lines)


def _load(kind: int, place: int, lines: Sequence[tuple[int, int, int, int]]) -> int:
    program = b"".join(struct.pack("BBhi", *line) for line in lines)
    held = ctypes.create_string_buffer(program, len(program))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = struct.pack(
        "IIQQ IIQ II 16s II", kind, len(lines), ctypes.addressof(held),
        ctypes.addressof(licence), 0, 0, 0, 0, 0, b"lvscore", 0, place,
    )  # fmt: skip
    return _bpf(_PROG_LOAD, attributes)


def make_address_map() -> int:
    """The descriptor of a set of addresses."""
    return _bpf(_MAP_CREATE, struct.pack("5I", _MAP_TYPE_HASH, _KEY, 4, _ADDRESSES, 0))


def _address_key(packed: bytes) -> "ctypes.Array[ctypes.c_char]":
    family = struct.pack("I", 4 if len(packed) == 4 else 6)
    return ctypes.create_string_buffer((family + packed).ljust(_KEY, b"\0"), _KEY)


def put_address(addresses: int, packed: bytes) -> None:
    """Add an address of 4 or 16 bytes to a set."""
    key, value = _address_key(packed), ctypes.c_uint(1)
    _bpf(
        _MAP_UPDATE_ELEM,
        struct.pack("IxxxxQQQ", addresses, ctypes.addressof(key), ctypes.addressof(value), 0),
    )


def remove_address(addresses: int, packed: bytes) -> None:
    """Take an address out of a set."""
    key = _address_key(packed)
    _bpf(_MAP_DELETE_ELEM, struct.pack("IxxxxQQQ", addresses, ctypes.addressof(key), 0, 0))


def load_drop(addresses: int) -> int:
    """The descriptor of a program that drops packets for the addresses of a set."""
    four, six = (int.from_bytes(kind, sys.byteorder) for kind in (b"\x08\x00", b"\x86\xdd"))
    lines = (
        (0xBF, 1 << 4 | 6, 0, 0),  # r6 = the packet
        (0x61, 6 << 4 | 7, _PROTOCOL, 0),  # r7 = its protocol
        (0xB7, 0, 0, 0),
        (0x7B, 0 << 4 | 10, -24, 0),  # the key is empty
        (0x7B, 0 << 4 | 10, -16, 0),
        (0x7B, 0 << 4 | 10, -8, 0),
        (0xB7, 2, 0, 16),  # IPv4: the destination is there ...
        (0xB7, 4, 0, 4),  # ... and so long
        (0xB7, 5, 0, 4),
        (0x15, 7, 4, four),
        (0x55, 7, 18, six),  # neither: go on to the kernel
        (0xB7, 2, 0, 24),
        (0xB7, 4, 0, 16),
        (0xB7, 5, 0, 6),
        (0x63, 5 << 4 | 10, -24, 0),  # the key's family
        (0xBF, 6 << 4 | 1, 0, 0),
        (0xBF, 10 << 4 | 3, 0, 0),
        (0x07, 3, 0, -20),
        (0xB7, 5, 0, _HEADER_NETWORK),
        (0x85, 0, 0, _FUNC_LOAD_BYTES_RELATIVE),
        (0x55, 0, 8, 0),
        (0x18, 1 << 4 | 1, 0, addresses),
        (0, 0, 0, 0),
        (0xBF, 10 << 4 | 2, 0, 0),
        (0x07, 2, 0, -24),
        (0x85, 0, 0, _FUNC_MAP_LOOKUP),
        (0x15, 0, 2, 0),
        (0xB7, 0, 0, _TCX_DROP),
        (0x95, 0, 0, 0),
        (0xB7, 0, 0, _TCX_NEXT),
        (0x95, 0, 0, 0),
    )
    return _load(_PROG_TYPE_SCHED_CLS, _ATTACH_TCX_INGRESS, lines)


def attach_ingress(program: int, interface: int) -> int:
    """The descriptor of a program's place where an interface's packets come in, behind packet
    sockets (tcx, Linux 6.6); closed, it is free again."""
    return _bpf(_LINK_CREATE, struct.pack("4I 16x", program, interface, _ATTACH_TCX_INGRESS, 0))


def attach_xdp(program: int, interface: int) -> int:
    """The descriptor of a program's place at an interface's driver; closed, it is free again."""
    return _bpf(_LINK_CREATE, struct.pack("4I", program, interface, _ATTACH_XDP, _FLAGS_DRV_MODE))
