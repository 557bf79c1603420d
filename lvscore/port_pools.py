"""Port pools of source NAT: how full they are, when they will be, and who uses them."""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from math import inf
from typing import TYPE_CHECKING

from lvscore import _engine
from lvscore._arguments import integer
from lvscore.addresses import Address, PortRange, protocol_name
from lvscore.errors import ConfigError

if TYPE_CHECKING:
    from lvscore.engine import Engine

__all__ = ["PortPool", "PortPoolEvent", "PortPools"]


@dataclass(frozen=True, slots=True)
class PortPool:
    """The ports that mappings of one translated address towards one remote endpoint share.

    A port that is taken towards one endpoint is free towards every other, so each endpoint has
    a pool of its own (nf_nat_core.c: the reply tuple has to be unique).
    """

    protocol: str
    """``"tcp"``, ``"udp"``, ``"sctp"``, ``"icmp"`` or ``"ipv6-icmp"``."""
    address: Address
    """The translated source address."""
    remote: Address
    """The destination, as it is after all translation."""
    remote_port: int
    """0 for ICMP, whose identifiers are what is shared."""
    ports: PortRange
    """What may be chosen: the rule's range, or the class of the source port (1-511, 600-1023,
    1024-65535; ICMP 0-65535)."""
    used: int
    """Connections that hold a port, those that time out still included."""
    capacity: int
    growth: float
    """Ports more per second, averaged as IPVS's estimator does (a quarter of the change in each
    2 s); below 0 when there are fewer."""

    @property
    def usage(self) -> float:
        """The share in use, 0 to 1."""
        return self.used / self.capacity

    @property
    def forecast(self) -> float:
        """Seconds until the pool is full at the present growth; ``inf`` if it does not grow."""
        if self.used >= self.capacity:
            return 0.0
        return (self.capacity - self.used) / self.growth if self.growth > 0 else inf


@dataclass(frozen=True, slots=True)
class PortPoolEvent:
    """A pool has reached a level."""

    now: int
    """Time in nanoseconds."""
    percent: int
    """80, 95 or 100."""
    pool: PortPool
    """As it was."""


def _pool(row: tuple[int, int, bytes, bytes, int, int, int, int, int, float]) -> PortPool:
    _, protocol, address, remote, remote_port, low, high, used, capacity, growth = row
    return PortPool(
        protocol_name(protocol),
        ip_address(address),
        ip_address(remote),
        remote_port,
        PortRange(low, high),
        used,
        capacity,
        growth,
    )


class PortPools:
    """The port pools that are in use: iterating gives each as a :class:`PortPool`, the fullest
    first.

    Every connection whose source a rule translates (SNAT, MASQUERADE, NETMAP in POSTROUTING)
    holds one port, from its first packet until it ends; the counts are exact at any time.
    """

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine

    def __iter__(self) -> Iterator[PortPool]:
        pools = [_pool(row) for row in _engine.pools_list(self._engine, False)]
        return iter(sorted(pools, key=lambda pool: pool.usage, reverse=True))

    def __len__(self) -> int:
        return len(_engine.pools_list(self._engine, False))

    def __repr__(self) -> str:
        return f"PortPools({len(self)} in use, quota={self.quota})"

    def events(self) -> list[PortPoolEvent]:
        """What happened since the last call: pools that reached 80, 95 and 100 % of their ports.

        A level is announced again after the pool has fallen five per cent below it. At most the
        latest 256 events are kept between two calls.
        """
        engine = self._engine
        engine._pool_events_taken, rows = _engine.pools_events(engine, engine._pool_events_taken)
        return [PortPoolEvent(now, percent, _pool(row)) for now, percent, row in rows]

    def clients(self) -> dict[Address, int]:
        """Ports that each client (source address before translation) holds, over all pools."""
        rows = _engine.pools_list(self._engine, True)
        return {ip_address(row[2]): row[7] for row in rows}

    @property
    def quota(self) -> int | None:
        """Ports that one client may hold at once, ``None`` (the default) for any number.

        A packet that would open one more connection is dropped with ``Reason.PORT_QUOTA``;
        connections that are there stay when the quota shrinks. The kernel has no such bound of
        its own (iptables would use xt_connlimit).

        Raises:
            ConfigError: when set to what is not in 1..2**32-1.
        """
        return _engine.pools_quota(self._engine) or None

    @quota.setter
    def quota(self, value: int | None) -> None:
        quota = 0 if value is None else integer(value)
        if quota is None or not (value is None or 1 <= quota < 1 << 32):
            raise ConfigError(f"quota={value!r} is not in 1..2**32-1, or None")
        _engine.pools_quota_set(self._engine, quota)
