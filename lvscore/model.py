"""What an engine is configured with and tells, as values: statistics, timeouts, rules."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from lvscore.addresses import AddressRange, Network, PortRange

__all__ = [
    "SCHEDULERS",
    "SCHEDULER_FLAGS",
    "TABLES",
    "TARGETS",
    "Mark",
    "Multiport",
    "Outcome",
    "Rate",
    "Rule",
    "Statistics",
    "Timeouts",
    "TimerWheel",
    "Tunnel",
]

SCHEDULERS: Mapping[str, int] = MappingProxyType(
    {
        "rr": 1,
        "wrr": 2,
        "lc": 3,
        "wlc": 4,
        "lblc": 13,
        "lblcr": 14,
        "dh": 6,
        "sh": 5,
        "sed": 8,
        "nq": 9,
        "fo": 10,
        "ovf": 11,
        "mh": 7,
        "twos": 12,
        "none": 0,
    }
)
"""Scheduler names, as IPVS has them, and their numbers in the core.

A service whose scheduler is ``"none"`` refuses all new connections.
"""

SCHEDULER_FLAGS: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "sh": MappingProxyType({"sh-fallback": 8, "sh-port": 16}),
        "mh": MappingProxyType({"mh-fallback": 8, "mh-port": 16}),
    }
)
"""Flags of the schedulers that have any, and their bits (include/uapi/linux/ip_vs.h).

``-fallback``: a client whose server takes nothing goes to another. ``-port``: the client's port
counts besides its address.
"""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters of a server, a service or the whole engine.

    Bytes are IP packet lengths as received, without the link header (ip_vs_core.c).
    """

    connections: int = 0
    packets_in: int = 0
    packets_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    def __add__(self, other: "Statistics") -> "Statistics":
        return Statistics(
            self.connections + other.connections,
            self.packets_in + other.packets_in,
            self.packets_out + other.packets_out,
            self.bytes_in + other.bytes_in,
            self.bytes_out + other.bytes_out,
        )

    def __sub__(self, other: "Statistics") -> "Statistics":
        return Statistics(
            self.connections - other.connections,
            self.packets_in - other.packets_in,
            self.packets_out - other.packets_out,
            self.bytes_in - other.bytes_in,
            self.bytes_out - other.bytes_out,
        )


@dataclass(frozen=True, slots=True)
class Rate:
    """What a server, a service or the whole engine does in a second, as a moving average.

    It moves by a quarter of the difference every 2 s of the engine's time, and is rounded
    (ip_vs_est.c): connections, packets in and out, bytes in and out (bytes, in spite of "bps").
    """

    cps: int = 0
    inpps: int = 0
    outpps: int = 0
    inbps: int = 0
    outbps: int = 0


@dataclass(frozen=True, slots=True)
class Tunnel:
    """How packets to a server of forwarding method ``"tunnel"`` are wrapped.

    Attributes:
        type: ``"ipip"`` (IP in IP), ``"gue"`` (Generic UDP Encapsulation) or ``"gre"``.
        port: UDP port of GUE, 1..65535; 0 for the others.
        checksum: ``""`` or ``"nocsum"`` (none), ``"csum"`` (GUE: UDP's, GRE: its own) or
            ``"remcsum"`` (GUE: remote checksum offload, which without offloads is ``"csum"``).
    """

    type: str = "ipip"
    port: int = 0
    checksum: str = ""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The three IPVS timeouts that ``ipvsadm --set`` changes, in seconds."""

    tcp: int = 900
    tcp_fin: int = 120
    udp: int = 300


@dataclass(frozen=True, slots=True)
class TimerWheel:
    """A kernel's timer wheel (kernel/time/timer.c), as far as its lateness goes.

    A long timer ends with the bucket of its level, up to an eighth of its timeout late: at 250 Hz
    one of 60 or 120 s at the next multiple of 512 jiffies (2 s), one of 300 or 900 s at the next
    multiple of 4096 jiffies (16.4 s).

    Attributes:
        hz: jiffies per second, the kernel's ``CONFIG_HZ``: 1..10000.
        jiffies: the kernel's jiffies when the engine's time is 0 ns, 0..2**64-1. Where that time
            is CLOCK_MONOTONIC, ``/proc/timer_list`` tells: ``jiffies`` less ``now`` (ns) *
            ``hz`` / 10**9. A 64-bit kernel boots with 2**32 - 300 * ``hz``.
    """

    hz: int
    jiffies: int = 0


class Outcome(NamedTuple):
    """What a program leaves behind: its exit status, and what it printed."""

    status: int
    stdout: str = ""
    stderr: str = ""


class Mark(NamedTuple):
    """Bits of a packet mark: ``value`` under ``mask``.

    As a match: the mark's bits under ``mask`` are ``value``. As what a rule sets: the bits of
    ``mask`` are cleared, then ``value`` is added by exclusive or (``--set-xmark``).
    """

    value: int
    mask: int = 0xFFFFFFFF


class Multiport(NamedTuple):
    """``-m multiport``: ports of ``"source"``, ``"destination"`` or ``"either"`` side."""

    side: str
    ports: tuple[PortRange, ...]


TARGETS: Mapping[str, str] = MappingProxyType(
    {
        "DNAT": "PREROUTING",
        "SNAT": "POSTROUTING",
        "MASQUERADE": "POSTROUTING",
        "REDIRECT": "PREROUTING",
        "NETMAP": "",
        "ACCEPT": "",
        "RETURN": "",
        "MARK": "PREROUTING",
        "CT": "PREROUTING",
    }
)
"""Targets of rules, and the chain that each is for; ``""``: more than one."""

TABLES: Mapping[str, str] = MappingProxyType({"MARK": "mangle", "CT": "raw"})
"""The tables of targets that are not nat's; ``ACCEPT`` and ``RETURN`` are for all tables."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; rules of a chain are consulted in their order, see :attr:`Engine.rules`.

    ``target`` is one of :data:`TARGETS`. ``None`` in a match field matches everything.
    ``ACCEPT`` and ``RETURN`` end the chain: what they match is not translated, or not marked.
    """

    target: str
    family: int
    addresses: AddressRange | None = None
    """What to translate to; of ``NETMAP`` the first and last address of the network."""
    ports: PortRange | None = None
    source: Network | None = None
    destination: Network | None = None
    protocol: int | None = None
    source_ports: PortRange | None = None
    destination_ports: PortRange | None = None
    out_interface: str | None = None
    in_interface: str | None = None
    multiport: Multiport | None = None
    mark: Mark | None = None
    virtual_address: Network | None = None
    """``-m ipvs --vaddr``: of an IPVS connection to this virtual address."""
    negated: frozenset[str] = frozenset()
    """Names of match fields that must not match: ``{"source"}`` is ``! -s``."""
    random: str = ""
    """How a port is drawn: ``""``, ``"random"`` or ``"random-fully"``."""
    persistent: bool = False
    """Of several addresses a source always gets the same."""
    port_base: int | None = None
    """The destination port that ``ports.first`` stands for; those behind it are shifted alike."""
    set_mark: Mark | None = None
    """What ``MARK`` does."""
    helper: str = ""
    """The helper that ``CT`` gives to flows: ``"ftp"``."""
    chain: str = ""
    """``"PREROUTING"`` or ``"POSTROUTING"``."""
    table: str = ""
    """``"nat"``, ``"mangle"`` or ``"raw"``."""
    number: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        if not self.chain:
            object.__setattr__(self, "chain", TARGETS.get(self.target, ""))
        if not self.table:
            object.__setattr__(self, "table", TABLES.get(self.target, "nat"))
