"""The bpf(2) system call, as far as an XDP program that hands all frames to sockets needs it.

Everything lives as long as its descriptor: nothing is left behind, however a process ends.
"""

import ctypes
import os
import platform
import struct

__all__ = ["attach_xdp", "load_redirect", "make_socket_map", "put_socket"]

_NUMBERS = {
    "x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280, "ppc64le": 361,
    "s390x": 351, "i686": 357, "armv7l": 386,
}  # fmt: skip
# linux/bpf.h
_MAP_CREATE, _MAP_UPDATE_ELEM, _PROG_LOAD, _LINK_CREATE = 0, 2, 5, 28
_MAP_TYPE_XSKMAP, _PROG_TYPE_XDP, _ATTACH_XDP = 17, 6, 37
_FUNC_REDIRECT_MAP, _XDP_PASS = 51, 2
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
    program = b"".join(struct.pack("BBhi", *line) for line in lines)
    held = ctypes.create_string_buffer(program, len(program))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = struct.pack(
        "IIQQ IIQ II 16s II", _PROG_TYPE_XDP, len(lines), ctypes.addressof(held),
        ctypes.addressof(licence), 0, 0, 0, 0, 0, b"lvscore", 0, _ATTACH_XDP,
    )  # fmt: skip
    return _bpf(_PROG_LOAD, attributes)


def attach_xdp(program: int, interface: int) -> int:
    """The descriptor of a program's place at an interface's driver; closed, it is free again."""
    return _bpf(_LINK_CREATE, struct.pack("4I", program, interface, _ATTACH_XDP, _FLAGS_DRV_MODE))
