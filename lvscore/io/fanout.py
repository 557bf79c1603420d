"""Frames of one interface shared out to several packet sockets (PACKET_FANOUT_CBPF, packet(7)).

Both directions of a connection go to the same socket: what is hashed is the address of the
outside peer, which translation leaves alone. Of an ICMP error it is that of the packet it is about.
"""

import ctypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from lvscore.addresses import Network
from lvscore.errors import ConfigError

__all__ = [
    "Share", "length_filter", "neighbour_filter", "nothing_filter", "peer_program",
    "socket_filter",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Share:
    """The part of an interface's frames that one of several processes takes.

    Attributes:
        number: of this one, from 0. They have to open the interface in this order. ARP and
            Neighbor Discovery are for the first; all hear of link addresses.
        inside: networks of the servers and of the director: an address outside them is a peer's.
        group: of the sockets, as the first one's ``LiveInterface.group`` says; None: a new one.
    """

    number: int
    inside: tuple[Network, ...]
    group: int | None = None


# Classic BPF (linux/filter.h)
_LD_W, _LD_H, _LD_B, _LD_IND_W, _LD_IND_B = 0x20, 0x28, 0x30, 0x40, 0x50
_LD_IMM, _LD_MEM, _ST, _LDX_MSH, _LDX_IMM = 0x00, 0x60, 0x02, 0xB1, 0x01
_AND, _RSH, _MUL, _XOR_X, _TAX, _LDX_MEM = 0x54, 0x74, 0x24, 0xAC, 0x07, 0x61
_JA, _JEQ, _JSET, _JEQ_X, _RET, _RET_A = 0x05, 0x15, 0x45, 0x1D, 0x06, 0x16
_LD_LEN, _JGT = 0x80, 0x25
_NET = 0x100000000 - 0x100000  # SKF_NET_OFF: offsets from the network header
_PROTOCOL = 0x100000000 - 0x1000  # SKF_AD_OFF + SKF_AD_PROTOCOL
_MOST = 4096  # BPF_MAXINSNS
_GOLDEN = 0x9E3779B1
_SRC, _DST = 0, 4  # words of the scratch memory


class _Program:
    """Instructions, with jumps to names."""

    def __init__(self) -> None:
        self._lines: list[tuple[int, int | str, bool]] = []
        self._names: dict[str, int] = {}

    def add(self, code: int, k: int = 0) -> None:
        self._lines.append((code, k, False))

    def name(self, name: str) -> None:
        self._names[name] = len(self._lines)

    def go(self, name: str) -> None:
        self._lines.append((_JA, name, False))

    def unless(self, code: int, k: int, name: str) -> None:
        """Go elsewhere, however far, unless a comparison with A holds."""
        self._lines.append((code, k, True))
        self.go(name)

    def when(self, code: int, k: int, name: str) -> None:
        """Go elsewhere if it holds."""
        self._lines.append((code, k, False))
        self.go(name)

    def packed(self) -> bytes:
        if len(self._lines) > _MOST:
            raise ConfigError(f"a program of {len(self._lines)} instructions; {_MOST} at most: "
                              "give fewer networks that are inside")  # fmt: skip
        packed = b""
        for at, (code, k, skip) in enumerate(self._lines):
            value = self._names[k] - at - 1 if isinstance(k, str) else k
            # A comparison is followed by a jump: it is taken if it holds, or else.
            when = (1, 0) if skip else (0, 1) if code in (_JEQ, _JGT, _JSET, _JEQ_X) else (0, 0)
            packed += struct.pack("HBBI", code, *when, value)
        return packed


def peer_program(inside: Sequence[Network]) -> bytes:
    """The program of a group: a number that is the same for both directions.

    Raises:
        ConfigError: there are more networks than a program has room for (some hundred).
    """
    program = _Program()
    program.add(_LD_W, _PROTOCOL)
    program.when(_JEQ, 0x0800, "ipv4")
    program.when(_JEQ, 0x86DD, "ipv6")
    program.name("first")
    program.add(_RET, 0)
    for version in (4, 6):
        _family(program, version, [n for n in inside if n.version == version])
    return program.packed()


def _family(program: _Program, version: int, inside: Sequence[Network]) -> None:
    name = f"ipv{version}"
    words, source, destination = (1, 12, 16) if version == 4 else (4, 8, 24)
    program.name(name)
    if version == 4:
        program.add(_LD_B, _NET + 9)
        program.unless(_JEQ, 1, f"{name} itself")
        program.add(_LD_H, _NET + 6)
        program.when(_JSET, 0x1FFF, f"{name} itself")
        program.add(_LDX_MSH, _NET)
        program.add(_LD_IND_B, _NET)
        for kind in (3, 4, 5, 11, 12):
            program.when(_JEQ, kind, f"{name} quoted")
    else:
        program.add(_LD_B, _NET + 6)
        program.unless(_JEQ, 58, f"{name} itself")
        program.add(_LD_B, _NET + 40)
        for kind in (133, 134, 135, 136, 137):
            program.when(_JEQ, kind, "neighbours")
        program.when(_JSET, 0x80, f"{name} itself")
        program.add(_LDX_IMM, 40)
        program.go(f"{name} quoted")
        program.name("neighbours")
        program.add(_RET, 0)
    program.name(f"{name} itself")
    for start, kept in ((source, _SRC), (destination, _DST)):
        for word in range(words):
            program.add(_LD_W, _NET + start + 4 * word)
            program.add(_ST, kept + word)
    program.go(f"{name} peer")
    program.name(f"{name} quoted")
    for start, kept in ((source, _SRC), (destination, _DST)):
        for word in range(words):
            program.add(_LD_IND_W, _NET + 8 + start + 4 * word)
            program.add(_ST, kept + word)
    program.name(f"{name} peer")
    for number, network in enumerate(inside):
        _contains(program, network, f"{name} inside", f"{name} not {number}")
        program.name(f"{name} not {number}")
    _hash(program, _SRC, words)
    program.name(f"{name} inside")
    _hash(program, _DST, words)


def _contains(program: _Program, network: Network, within: str, outside: str) -> None:
    """Go to ``within`` if the source is in a network, else to ``outside``."""
    packed, masks = network.network_address.packed, network.netmask.packed
    for word in range(len(packed) // 4):
        mask = int.from_bytes(masks[4 * word : 4 * word + 4], "big")
        if mask:
            program.add(_LD_MEM, _SRC + word)
            program.add(_AND, mask)
            program.unless(_JEQ, int.from_bytes(packed[4 * word : 4 * word + 4], "big"), outside)
    program.go(within)


def _hash(program: _Program, start: int, words: int) -> None:
    program.add(_LD_MEM, start)
    for word in range(1, words):
        program.add(_LDX_MEM, start + word)
        program.add(_MUL, _GOLDEN)
        program.add(_XOR_X)
    program.add(_MUL, _GOLDEN)
    program.add(_RSH, 16)
    program.add(_RET_A)


def nothing_filter() -> bytes:
    """A socket filter that lets nothing in."""
    return struct.pack("HBBI", _RET, 0, 0, 0)


def length_filter(most: int, *, longer: bool) -> bytes:
    """A socket filter that lets in frames of so many bytes at most, or those that are longer."""
    program = _Program()
    program.add(_LD_LEN)
    program.when(_JGT, most, "longer")
    program.add(_RET, 0 if longer else 0xFFFFFFFF)
    program.name("longer")
    program.add(_RET, 0xFFFFFFFF if longer else 0)
    return program.packed()


def neighbour_filter() -> bytes:
    """A socket filter that lets in what tells of link addresses: ARP replies and announcements,
    neighbor advertisements."""
    program = _Program()
    program.add(_LD_W, _PROTOCOL)
    program.when(_JEQ, 0x0806, "arp")
    program.unless(_JEQ, 0x86DD, "no")
    program.add(_LD_B, _NET + 6)
    program.unless(_JEQ, 58, "no")
    program.add(_LD_B, _NET + 40)
    program.when(_JEQ, 136, "yes")
    program.go("no")
    program.name("arp")
    program.add(_LD_H, _NET + 6)
    program.when(_JEQ, 2, "yes")
    program.add(_LD_W, _NET + 14)
    program.add(_TAX)
    program.add(_LD_W, _NET + 24)
    program.unless(_JEQ_X, 0, "no")
    program.name("yes")
    program.add(_RET, 0xFFFFFFFF)
    program.name("no")
    program.add(_RET, 0)
    return program.packed()


def socket_filter(program: bytes) -> tuple[bytes, object]:
    """A program as setsockopt(2) takes it (struct sock_fprog), and what has to live meanwhile."""
    held = ctypes.create_string_buffer(program, len(program))
    return struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(held)), held
