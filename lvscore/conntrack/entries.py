"""Connections as conntrack sees them."""

from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, NamedTuple

from lvscore import _engine
from lvscore.addresses import PROTOCOLS, Address
from lvscore.connections import connection_dtype
from lvscore.constants import State

if TYPE_CHECKING:
    from lvscore.engine import Engine

__all__ = ["PROTOCOL_NAMES", "PROTOCOL_NUMBERS", "WITH_PORTS", "Entry", "Side", "entries"]

PROTOCOL_NUMBERS = {**PROTOCOLS, "gre": 47, "dccp": 33, "udplite": 136}
"""The protocols that conntrack has names for."""
PROTOCOL_NAMES = {number: name for name, number in PROTOCOL_NUMBERS.items()}
WITH_PORTS = (6, 17, 33, 132, 136)

_ICMP_ANSWERS = {8: 0, 13: 14, 15: 16, 17: 18, 128: 129}


class Side(NamedTuple):
    """One tuple of a connection. Of ICMP the ports are (identifier, type << 8 | code)."""

    source: Address
    destination: Address
    source_port: int
    destination_port: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A connection as conntrack sees it."""

    family: int
    protocol: int
    seconds: int
    """Until it expires."""
    state: str
    """Of TCP and SCTP, else empty."""
    original: Side
    reply: Side
    replied: bool
    assured: bool
    packets: tuple[int, int]
    bytes: tuple[int, int]
    id: int
    created_ns: int
    """When it began, on the engine's clock."""
    helper: str = ""
    """That looks after it."""
    expected: bool = False
    """Whether another connection announced it: its first packet was RELATED."""

    @property
    def source_nat(self) -> Address | None:
        """What the source is translated to."""
        translated = self.reply.destination, self.reply.destination_port
        if self.protocol in (1, 58):
            translated = self.reply.destination, self.reply.source_port
        if translated == (self.original.source, self.original.source_port):
            return None
        return self.reply.destination

    @property
    def destination_nat(self) -> Address | None:
        """What the destination is translated to."""
        here = self.original.destination, self.original.destination_port
        there = self.reply.source, self.reply.source_port
        if self.protocol in (1, 58):
            return None if here[0] == there[0] else there[0]
        return None if here == there else self.reply.source


def entries(engine: "Engine") -> list[Entry]:
    """The connections that conntrack knows, in no particular order."""
    import numpy

    rows = numpy.frombuffer(_engine.conntrack_snapshot(engine), connection_dtype())
    return [_entry(row) for row in rows]


def _entry(row: Any) -> Entry:
    family = int(row["family"])

    def address(name: str) -> Address:
        packed = row[name].tobytes()
        return ip_address(packed[12:]) if family == 4 else IPv6Address(packed)

    def port(name: str) -> int:
        return int(row[name + "_port"])

    protocol = int(row["protocol"])
    original = Side(address("client"), address("virtual"), port("client"), port("virtual"))
    reply = Side(address("server"), address("local"), port("server"), port("local"))
    if protocol in (1, 58):
        answer = _ICMP_ANSWERS.get(reply.source_port >> 8, 0)
        kind = answer << 8 | reply.source_port & 0xFF
        reply = reply._replace(source_port=reply.destination_port, destination_port=kind)
    state = State(int(row["state"])).name if protocol in (6, 132) else ""
    if state == "SHUTDOWN_RECEIVED":
        state = "SHUTDOWN_RECD"
    return Entry(
        family=family,
        protocol=protocol,
        seconds=max(0, int(row["expires_ns"])) // 1_000_000_000,
        state=state,
        original=original,
        reply=reply,
        replied=bool(row["seen_reply"]),
        assured=bool(row["assured"]),
        packets=(int(row["packets_in"]), int(row["packets_out"])),
        bytes=(int(row["bytes_in"]), int(row["bytes_out"])),
        id=int(row["id"]),
        created_ns=int(row["created_ns"]),
        helper="ftp" if row["has_helper"] else "",
        expected=bool(row["expected"]),
    )
