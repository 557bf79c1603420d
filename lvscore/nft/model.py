"""What nft's text says, as values: matches, actions, rules, commands."""

from dataclasses import dataclass, field

from lvscore.addresses import AddressRange, PortRange
from lvscore.integers import parse_unsigned
from lvscore.model import Mark
from lvscore.nft.scanner import Token

__all__ = [
    "HOOKS",
    "Action",
    "BaseChain",
    "Command",
    "Match",
    "NftRule",
    "Span",
    "protocol_name",
    "protocol_number",
]

_PROTOCOLS = {
    1: "icmp", 2: "igmp", 4: "ipencap", 6: "tcp", 17: "udp", 33: "dccp", 41: "ipv6", 47: "gre",
    50: "esp", 51: "ah", 58: "ipv6-icmp", 89: "ospf", 103: "pim", 112: "vrrp", 132: "sctp",
    136: "udplite",
}  # fmt: skip
_NUMBERS = {**{name: number for number, name in _PROTOCOLS.items()}, "icmpv6": 58, "ipip": 4}

HOOKS = {
    ("nat", "prerouting"): ("nat", "PREROUTING"),
    ("nat", "postrouting"): ("nat", "POSTROUTING"),
    ("filter", "prerouting"): ("mangle", "PREROUTING"),
}
"""Types and hooks of base chains, and the chains that they are here."""


def protocol_name(number: int) -> str:
    """A transport protocol as nft prints it."""
    return _PROTOCOLS.get(number, str(number))


def protocol_number(text: str) -> int | None:
    """The number of a transport protocol, None if there is no such name."""
    return _NUMBERS.get(text, parse_unsigned(text, 0xFF))


@dataclass(frozen=True, slots=True)
class Span:
    """One value of a match: a number, a range of them, or the name of an interface.

    ``length`` is that of a prefix, None for a single value or a range. Of an interface ``name``
    counts alone.
    """

    low: int = 0
    high: int = 0
    length: int | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Match:
    """``ip saddr 10.0.0.0/24``, ``tcp dport != { 80, 443 }``, ``meta mark & 0xff == 0x1``."""

    key: str
    """``"ip saddr"``, ``"iifname"``, ``"tcp dport"``, ``"meta mark"``, ..."""
    spans: tuple[Span, ...]
    negated: bool = False
    is_set: bool = False
    mask: int | None = None
    """Of ``meta mark``: the bits that count."""


@dataclass(frozen=True, slots=True)
class Action:
    """What a rule does: ``name`` is dnat, snat, masquerade, redirect, mark, accept or return."""

    name: str
    addresses: AddressRange | None = None
    ports: PortRange | None = None
    prefix: bool = False
    """Host bits stay (``dnat prefix to``)."""
    random: str = ""
    persistent: bool = False
    mark: Mark | None = None
    family: int = 0
    """Of table family inet: 4 or 6 where it is told."""


@dataclass(frozen=True, slots=True)
class NftRule:
    """One rule as text has it."""

    matches: tuple[Match, ...]
    action: Action
    counter: tuple[int, int] | None = None
    """Packets and bytes to begin with, None: not counted."""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class BaseChain:
    """``type nat hook prerouting priority dstnat``."""

    type: str
    hook: str
    priority: int


@dataclass(frozen=True, slots=True)
class Command:
    """One command; ``first`` and ``last`` are its tokens, others those of what it names."""

    verb: str
    object: str
    first: Token
    last: Token
    family: str = "ip"
    table: str = ""
    chain: str = ""
    base: BaseChain | None = None
    rule: NftRule | None = None
    place: tuple[str, int] | None = None
    """``("handle", 4)``, or ``("index", 0)``."""
    names: dict[str, Token] = field(default_factory=dict)
    """Where the names of table, chain and handle stand."""
