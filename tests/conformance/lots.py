"""Lots that the kernel drew: ports, identifiers and addresses that only need to be consistent.

Where a recording's kernel chose the source of a translated flow by lot, lvscore chooses another.
The first packet of the flow tells what each chose; from then on what the kernel chose is
exchanged for what lvscore chose, in packets that come in and in what is compared, so that every
later packet must keep to the choice. Two flows that the kernel kept apart must stay apart.
"""

import re
from collections.abc import Callable, Container
from typing import NamedTuple

ICMP, TCP, UDP, SCTP = 1, 6, 17, 132
_ERRORS = {3, 4, 5, 11, 12}
_PROTOCOLS = {"tcp": TCP, "udp": UDP, "icmp": ICMP, "sctp": SCTP}
_TUPLE = re.compile(
    r"(?P<head>src=(?P<from>[\d.]+) dst=(?P<to>[\d.]+))"
    r"(?P<middle> (?:sport=(?P<sport>\d+) dport=|type=\d+ code=\d+ id=))(?P<dport>\d+)"
)
_CHECKSUM_AT = {TCP: 16, UDP: 6}


class Endpoint(NamedTuple):
    """An address and a port, or an ICMP identifier, as bytes."""

    protocol: int
    address: bytes
    port: bytes


class Lot(NamedTuple):
    """A drawn end of a flow, and the address and port of its other end."""

    drawn: Endpoint
    peer: tuple[bytes, bytes]


class Lots:
    """What the kernel and lvscore drew, for one scenario."""

    def __init__(
        self, pools: Container[bytes], is_mapped: Callable[[Endpoint, Endpoint], bool] | None = None
    ) -> None:
        self.pools = pools
        """Addresses that flows are translated to: only their ports are lots."""
        self.is_mapped = is_mapped
        """Whether lvscore translates a source to this end in a flow that it still has."""
        self.ours: dict[Lot, Endpoint] = {}
        self.theirs: dict[Lot, Endpoint] = {}
        self.mapped: dict[tuple[Endpoint, Endpoint], Endpoint] = {}

    def learn(self, arrived: bytes, recorded: str, emitted: str) -> None:
        """Take two versions of what became of the first packet of a flow; learn a lot if an end
        differs.

        A source that the kernel mapped alike for two destinations must be mapped alike here too.
        """
        a, b = bytearray.fromhex(recorded), bytearray.fromhex(emitted)
        for at in (12, 16):
            there, here = _lot(a, at), _lot(b, at)
            if there is None or here is None:
                return
            if there.drawn != here.drawn or there in self.ours or here in self.theirs:
                self._learn(arrived, a, b, at, there, here)
                return

    def _learn(
        self, arrived: bytes, a: bytearray, b: bytearray, at: int, there: Lot, here: Lot
    ) -> None:
        """The same of one end."""
        if (there.drawn.address, there.peer) != (here.drawn.address, here.peer) or (
            self.ours.get(there, there.drawn) == here.drawn
            and self.theirs.get(here, here.drawn) == there.drawn
        ):
            return
        if there.drawn.address not in self.pools:
            return
        exchanged = bytearray(b)
        if there.drawn != here.drawn:
            _replace(exchanged, 0, at, there.drawn)
        source = _lot(arrived, 12)
        if exchanged != a:
            return
        if at == 12 and source is not None:
            key = source.drawn, there.drawn
            before = self.mapped.get(key, here.drawn)
            if before != here.drawn and self.is_mapped and self.is_mapped(source.drawn, before):
                return
            self.mapped[key] = here.drawn
        self._forget(there, self.ours, self.theirs)
        self._forget(here, self.theirs, self.ours)
        if there != here:
            self.ours[there], self.theirs[here] = here.drawn, there.drawn

    @staticmethod
    def _forget(lot: Lot, drawn: dict[Lot, Endpoint], back: dict[Lot, Endpoint]) -> None:
        """Forget what an end was exchanged for, in a flow before this one."""
        if lot in drawn:
            del back[Lot(drawn.pop(lot), lot.peer)]

    def incoming(self, packet: bytes) -> bytes:
        """A recorded packet as a peer of lvscore would have sent it."""
        return self._exchange(packet, self.ours)

    def outgoing(self, packet: str) -> str:
        """A packet of lvscore's as the recorded kernel would have sent it."""
        return self._exchange(bytes.fromhex(packet), self.theirs).hex()

    def listing(self, text: str) -> str:
        """Lines of conntrack's with what lvscore drew exchanged for what the kernel drew."""
        return re.sub(
            r"(?m)^(?P<head>(?:ipv4 +2 )?(?P<name>icmp|tcp|udp|sctp) .*)$",
            lambda line: _TUPLE.sub(
                lambda match: self._shown(_PROTOCOLS[line["name"]], match), line["head"]
            ),
            text,
        )

    def _shown(self, protocol: int, match: re.Match[str]) -> str:
        """One tuple of a line."""
        source, target = _packed(match["from"]), _packed(match["to"])
        sport, dport = _port(match["sport"]) if match["sport"] else b"", _port(match["dport"])
        there = self.theirs.get(Lot(Endpoint(protocol, target, dport), (source, sport)))
        if there is not None:
            return f"{match['head']}{match['middle']}{int.from_bytes(there.port, 'big')}"
        there = self.theirs.get(Lot(Endpoint(protocol, source, sport), (target, dport)))
        if there is None:
            return match[0]
        return f"{match['head']} sport={int.from_bytes(there.port, 'big')} dport={match['dport']}"

    def _exchange(self, packet: bytes, lots: dict[Lot, Endpoint]) -> bytes:
        data = bytearray(packet)
        _exchange_ends(data, 0, lots)
        start = _quote(data)
        if start:
            before = bytes(data[start:])
            _exchange_ends(data, start, lots)
            _sum(data, (data[0] & 15) * 4 + 2, before, bytes(data[start:]))
        return bytes(data)


def _packed(address: str) -> bytes:
    return bytes(map(int, address.split(".")))


def _port(text: str) -> bytes:
    return int(text).to_bytes(2, "big")


def _exchange_ends(data: bytearray, start: int, lots: dict[Lot, Endpoint]) -> None:
    for at in (12, 16):
        lot = _lot(data[start:], at)
        if lot in lots:
            _replace(data, start, at, lots[lot])


def _quote(data: bytes | bytearray) -> int:
    """Where the packet begins that an ICMP error quotes, or 0."""
    if len(data) < 28 or data[0] >> 4 != 4 or data[9] != ICMP:
        return 0
    start = (data[0] & 15) * 4
    whole = len(data) >= start + 8 + 20 and data[start] in _ERRORS
    return start + 8 if whole else 0


def _lot(data: bytes | bytearray, at: int) -> Lot | None:
    """The source (12) or destination (16) of an IPv4 packet, with the other end."""
    if len(data) < 24 or data[0] >> 4 != 4:
        return None
    header = (data[0] & 15) * 4
    place = _port_at(data, at, header)
    if place is None or len(data) < place + 2:
        return None
    drawn = Endpoint(data[9], bytes(data[at : at + 4]), bytes(data[place : place + 2]))
    other = 28 - at
    place = None if data[9] == ICMP else _port_at(data, other, header)
    port = b"" if place is None else bytes(data[place : place + 2])
    return Lot(drawn, (bytes(data[other : other + 4]), port))


def _port_at(data: bytes | bytearray, at: int, header: int) -> int | None:
    if len(data) <= header:
        return None
    if data[9] in (TCP, UDP, SCTP):
        return header + (0 if at == 12 else 2)
    if data[9] == ICMP and data[header] in ((8,) if at == 12 else (0,)):
        return header + 4
    return None


def _replace(data: bytearray, start: int, at: int, endpoint: Endpoint) -> None:
    """Write an endpoint into the packet that begins at ``start``, and its checksums."""
    header = (data[start] & 15) * 4
    place = _port_at(data[start:], at, header)
    assert place is not None
    old = bytes(data[start + at : start + at + 4]) + bytes(data[start + place : start + place + 2])
    new = endpoint.address + endpoint.port
    crc = data[start + 9] == SCTP and _crc(data, start + header)
    data[start + at : start + at + 4] = endpoint.address
    data[start + place : start + place + 2] = endpoint.port
    _sum(data, start + 10, old[:4], new[:4])
    if data[start + 9] == ICMP:
        _sum(data, start + header + 2, old[4:], new[4:])
        return
    if data[start + 9] == SCTP:
        at = start + header + 8
        if crc and data[at : at + 4] == crc:
            data[at : at + 4] = _crc(data, start + header)
        return
    field = start + header + _CHECKSUM_AT[data[start + 9]]
    # A quoted TCP header that is cut keeps its checksum, as netfilter leaves it.
    tcp = data[start + 9] == TCP
    least = start + header + 20 if tcp and start else field + 2
    if len(data) >= least and (tcp or data[field : field + 2] != b"\0\0"):
        _sum(data, field, old, new)


def _crc(data: bytearray, l4: int) -> bytes:
    """The CRC32c of an SCTP packet, or of what is quoted of one; none if its header is cut."""
    if len(data) < l4 + 12:
        return b""
    crc = 0xFFFFFFFF
    for byte in bytes(data[l4 : l4 + 8] + bytes(4) + data[l4 + 12 :]):
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return (crc ^ 0xFFFFFFFF).to_bytes(4, "little")


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total = sum(memoryview(bytes(data) + b"\0" * (len(data) & 1)).cast("H"))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int.from_bytes((~total & 0xFFFF).to_bytes(2, "little"), "big")


def _sum(data: bytearray, field: int, old: bytes, new: bytes) -> None:
    """Update a checksum for a change (RFC 1624, equation 3)."""
    total = ~int.from_bytes(data[field : field + 2], "big") & 0xFFFF
    total += checksum(old) + (~checksum(new) & 0xFFFF)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    data[field : field + 2] = (~total & 0xFFFF).to_bytes(2, "big")
