"""The engine: virtual services, NAT rules and the connections made by them."""

import os
from collections.abc import Callable
from typing import Self

from lvscore import _engine
from lvscore._arguments import integer
from lvscore.connections import Connections
from lvscore.director import Director
from lvscore.errors import ConfigError, LvscoreError, NotFoundError
from lvscore.explain import Explanation, explain
from lvscore.helpers import Helpers
from lvscore.model import Timeouts, TimerWheel
from lvscore.nat import RuleEngine
from lvscore.port_pools import PortPools
from lvscore.routes import Routes, RouteTables
from lvscore.sysctl import (
    CONNTRACK_SETTINGS,
    CONNTRACK_TIMEOUTS,
    ENGINE_SETTINGS,
    Sysctl,
    conntrack_settings,
)

__all__ = ["Engine"]

_PAGE = 4096  # bytes: what amemthresh counts


class Engine(Director, RuleEngine):
    """A connection-tracking and NAT engine: LVS-NAT director, and DNAT/SNAT router.

    The engine is a function of its state, the frames and the time: it reads no clock, no
    socket and no file. One engine belongs to one thread at a time.

    Args:
        max_connections: bound on the connections held at once; a packet that would open one
            more is dropped with ``Reason.TABLE_FULL``. Memory is taken as connections come.
        seed: source of all chance (hash key, port choice, the scheduler twos): an integer or up
            to 16 bytes. The same seed and the same calls give the same bytes. Default: drawn
            from the operating system, which protects the table against flooding.

    Raises:
        ConfigError: ``max_connections`` is not in 1..33554432, or the seed is none, or too long.

    ``copy.deepcopy`` and pickle make an engine that does with every packet what this one would
    have done, as :meth:`save` and :meth:`load` do; a Host is not copied with it.
    """

    def __init__(self, *, max_connections: int = 1_048_576, seed: int | bytes | None = None):
        super().__init__(max_connections, _key(seed))
        self._route_tables = RouteTables()
        self._pool_events_taken = 0
        self._nft_ruleset: object = None  # lvscore.nft's own

    def __repr__(self) -> str:
        try:
            what = (
                f"{len(self.services)} services, {len(self.rules)} rules, "
                f"{len(self.connections)} connections"
            )
        except LvscoreError as error:  # at work in another thread
            what = str(error)
        return f"<{type(self).__name__}: {what}>"

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[type[Self], bytes]]:
        from lvscore.snapshot import dump, parse

        return parse, (type(self), b"".join(dump(self)))

    @property
    def routes(self) -> Routes:
        """Interfaces, their addresses and routes, as far as NAT needs them."""
        return Routes(self, self._route_tables)

    @property
    def sysctl(self) -> Sysctl:
        """Settings of IPVS and conntrack by the kernel's names:
        ``engine.sysctl["net.ipv4.vs.sloppy_tcp"] = 1``."""
        return Sysctl({**ENGINE_SETTINGS, **conntrack_settings(self)}, self._setting_get,
                      self._setting_set)  # fmt: skip

    def _setting_get(self, name: str) -> int:
        if name in CONNTRACK_SETTINGS:
            return _engine.conntrack_get(self, list(CONNTRACK_SETTINGS).index(name))
        if name in CONNTRACK_TIMEOUTS:
            return _engine.tracker_timeout_get(self, CONNTRACK_TIMEOUTS[name][0])
        return _engine.sysctl_get(self, name)

    def _setting_set(self, name: str, value: int) -> None:
        if name in CONNTRACK_SETTINGS:
            _engine.conntrack_set(self, list(CONNTRACK_SETTINGS).index(name), value)
        elif name in CONNTRACK_TIMEOUTS:
            for state in CONNTRACK_TIMEOUTS[name]:
                _engine.tracker_timeout_set(self, state, value)
        else:
            _engine.sysctl_set(self, name, value)

    @property
    def available_memory(self) -> int | None:
        """Bytes of memory that the machine has left, ``None`` (the default) for enough.

        ``drop_entry``, ``drop_packet`` and ``secure_tcp`` in modes 1 and 2 act while it is below
        ``net.ipv4.vs.amemthresh`` pages of 4096 bytes, and their setting reads 2 then
        (ip_vs_ctl.c, update_defense_level). An engine asks no operating system: tell it, for
        example from psutil, ``free`` plus ``buffers`` of ``virtual_memory()``.

        Raises:
            ConfigError: the value is negative or not an integer.
        """
        pages = _engine.available_pages_get(self)
        return None if pages is None else pages * _PAGE

    @available_memory.setter
    def available_memory(self, value: int | None) -> None:
        count = 0 if value is None else integer(value)
        if count is None or not 0 <= count < 2**63:
            raise ConfigError(f"available_memory={value!r} is not a number of bytes, or None")
        _engine.available_pages_set(self, None if value is None else count // _PAGE)

    @property
    def connections(self) -> Connections:
        """The connection table: length, iteration, look-up, snapshot to NumPy."""
        return Connections(self)

    @property
    def templates(self) -> Connections:
        """Persistence templates, as connections of kind ``"template"``: from a client's network
        and port 0, of state NONE or ASSURED."""
        return Connections(self, templates=True)

    @property
    def helpers(self) -> Helpers:
        """Helpers that are on: ``engine.helpers.add("ftp")``."""
        return Helpers(self)

    @property
    def port_pools(self) -> PortPools:
        """How full the port pools of source NAT are, and the quota of their clients."""
        return PortPools(self)

    @property
    def timeouts(self) -> Timeouts:
        """The IPVS timeouts that ``ipvsadm --set`` changes, in seconds."""
        return Timeouts(*_engine.timeouts_get(self))

    def set_timeouts(
        self, *, tcp: int | None = None, tcp_fin: int | None = None, udp: int | None = None
    ) -> None:
        """Change timeouts (seconds, 1..2678400); ``None`` keeps one. As ``ipvsadm --set``.

        A connection takes the new timeout with its next packet (ip_vs_proto_tcp.c).

        Raises:
            ConfigError: a timeout is out of range.
        """
        seconds = []
        for name, value in (("tcp", tcp), ("tcp_fin", tcp_fin), ("udp", udp)):
            number = 0 if value is None else integer(value)
            if number is None or not (value is None or 1 <= number <= 2678400):
                raise ConfigError(f"timeout {name}={value!r} is not in 1..2678400 seconds")
            seconds.append(number)
        _engine.timeouts_set(self, *seconds)

    @property
    def timer_wheel(self) -> TimerWheel | None:
        """The kernel's timer wheel whose lateness IPVS's connections and templates are to have;
        ``None`` (the default): they end at their nominal time.

        Until it is late enough a packet still finds what is over, and is listed with 0 s left.
        Flows of the NAT rules end at their nominal time, in the kernel as well.

        Raises:
            ConfigError: its ``hz`` or ``jiffies`` are out of range.
        """
        hz, jiffies = _engine.jiffies_get(self)
        return TimerWheel(hz, jiffies) if hz else None

    @timer_wheel.setter
    def timer_wheel(self, value: TimerWheel | None) -> None:
        if value is None:
            _engine.jiffies_set(self, 0, 0)
            return
        if not isinstance(value, TimerWheel):
            raise ConfigError(f"timer_wheel={value!r}: expected a TimerWheel, or None")
        hz, jiffies = integer(value.hz), integer(value.jiffies)
        if hz is None or not 1 <= hz <= 10_000:
            raise ConfigError(f"timer_wheel: hz {value.hz!r} is not in 1..10000")
        if jiffies is None or not 0 <= jiffies < 1 << 64:
            raise ConfigError(f"timer_wheel: jiffies {value.jiffies!r} are not in 0..2**64-1")
        _engine.jiffies_set(self, hz, jiffies)

    def explain(self, frame: bytes | bytearray | memoryview, now: int | None = None, *,
                link_type: int = 1, mark: int = 0,
                ingress: str | None = None) -> Explanation:  # fmt: skip
        """Say what would happen to a frame, and why, step by step, without any effect.

        It runs the frame through a copy of the engine, so that the answer cannot differ from
        what :meth:`process` would do; the cost grows with the connection table.

        Args:
            frame: the frame; it is not changed.
            now: time in nanoseconds; default: the engine's own.
            link_type: LINKTYPE_ number of its link header.
            mark: its firewall mark.
            ingress: name of the interface of a :class:`lvscore.Host` that it comes in by. Then the
                Host's routes decide, and rules with ``-i`` may match; what the Host would do
                next (answer, ask for a neighbour) is not told. Without it, as without a Host.

        Raises:
            NotFoundError: no Host has an interface ``ingress``.
        """
        number = self._route_tables.numbers.get(ingress) if ingress is not None else None
        if ingress is not None and (number is None or not _engine.interface_present(self, number)):
            raise NotFoundError(f"no Host has an interface {ingress}")
        return explain(
            self,
            memoryview(frame).tobytes(),
            self.now if now is None else now,
            link_type,
            mark,
            number,
        )

    # Its file

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything that the engine knows to a file.

        Configuration, connections with their states and timers, templates, counters, port pools
        and the source of chance are in it; :mod:`lvscore.snapshot` says what is not. The file is
        replaced as a whole or not at all, and only its owner may read it: it holds the key of
        the table.

        Raises:
            SnapshotError: the file cannot be written.
        """
        from lvscore.snapshot import save

        save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, now: int | None = None) -> Self:
        """Make an engine of what :meth:`save` wrote: it does with every packet what the other
        would have done.

        Args:
            path: the file.
            now: what the engine's time is to be instead of what it was, in nanoseconds: where
                the clock of this process has another origin. Default: time goes on as it was, and
                what has expired meanwhile goes with the next packet.

        Raises:
            SnapshotError: there is no such file, it is not one of ours, damaged, or of a version
                that is not known.
        """
        from lvscore.snapshot import load

        return load(cls, path, now)

    # The languages of administrators

    def ipvsadm(self, command: str) -> str:
        """Carry out one ipvsadm command line and return what ipvsadm prints.

        Args:
            command: for example ``"-A -t 172.16.1.100:80 -s rr"`` or ``"-L -n"``.

        Raises:
            CommandError: the command was refused, with ipvsadm's own message and status.
        """
        from lvscore.ipvsadm import run

        return run(self, command)

    def iptables(self, command: str) -> str:
        """Carry out one iptables command line (tables nat, mangle and raw); return what it prints.

        Args:
            command: for example ``"-t nat -A PREROUTING -d 10.0.0.200 -j DNAT --to 172.16.1.100"``.

        Raises:
            CommandError: the command is not valid, or has an option that does not exist here.
        """
        from lvscore.iptables import run

        return run(self, command)

    def nft(self, command: str) -> str:
        """Carry out nft commands on the NAT and mangle rules; return what nft prints.

        Args:
            command: one command, for example ``"add rule ip nat prerouting ip daddr 10.0.0.200
                tcp dport 80 dnat to 172.16.1.100:8080"``, or a script, whose commands are
                carried out all or not at all.

        Raises:
            CommandError: the command is not valid, or says what does not exist here.
        """
        from lvscore.nft import run

        return run(self, command)

    def conntrack(self, command: str) -> str:
        """Carry out one conntrack command line and return what the conntrack tool prints.

        Args:
            command: for example ``"-L -p tcp --orig-dst 10.0.0.200 -o extended"``.

        Raises:
            CommandError: the command is not valid, or has an option that does not exist here.
        """
        from lvscore.conntrack import run

        return run(self, command)


def _key(seed: object) -> bytes:
    """The 16 bytes that a seed stands for."""
    if seed is None:
        return os.urandom(16)
    if isinstance(seed, bytes | bytearray | memoryview):
        if len(seed) > 16:
            raise ConfigError(f"seed has {len(seed)} bytes; expected at most 16")
        return bytes(seed).ljust(16, b"\0")
    number = integer(seed)
    if number is None or not 0 <= number < 1 << 128:
        raise ConfigError(f"seed {seed!r} is neither in 0..2**128-1 nor bytes")
    return number.to_bytes(16, "little")
