"""The engine: virtual services, NAT rules and the connections made by them."""

import os
from dataclasses import replace

from lvscore.addresses import (
    Address,
    Endpoint,
    Network,
    PortRange,
    parse_address,
    parse_network,
    parse_ports,
    parse_protocol,
    parse_target,
)
from lvscore.connections import Connections
from lvscore.director import Director
from lvscore.errors import ConfigError, NotFoundError
from lvscore.explain import Explanation, explain
from lvscore.helpers import Helpers
from lvscore.model import Rule, Timeouts
from lvscore.routes import Routes
from lvscore.sysctl import ENGINE_SETTINGS, Sysctl

__all__ = ["Engine"]

NetworkLike = str | Address | Network
PortsLike = str | int | range | tuple[int, int] | PortRange


class Engine(Director):
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
        ConfigError: ``max_connections`` is not in 1..33554432, or the seed is too long.
    """

    def __init__(self, *, max_connections: int = 1_048_576, seed: int | bytes | None = None):
        if seed is None:
            key = os.urandom(16)
        elif isinstance(seed, int):
            if not 0 <= seed < 1 << 128:
                raise ConfigError(f"seed {seed} is not in 0..2**128-1")
            key = seed.to_bytes(16, "little")
        elif len(seed) <= 16:
            key = bytes(seed).ljust(16, b"\0")
        else:
            raise ConfigError(f"seed has {len(seed)} bytes; expected at most 16")
        super().__init__(max_connections, key)
        self._dnat: list[Rule] = []
        self._snat: list[Rule] = []
        self._last_rule = 0
        self._routes = Routes(self)

    # NAT rules

    def add_dnat(
        self,
        to: str | Address | Endpoint,
        *,
        destination: NetworkLike | None = None,
        source: NetworkLike | None = None,
        protocol: str | int | None = None,
        destination_ports: PortsLike | None = None,
        source_ports: PortsLike | None = None,
    ) -> Rule:
        """Append a destination NAT rule: ``-t nat -A PREROUTING ... -j DNAT --to-destination``.

        Args:
            to: ``"a"``, ``"a-b"``, ``"a:p"``, ``"a:p-q"``, ``"a-b:p-q"``; IPv6 in brackets
                when a port follows. A port needs ``protocol``.
            destination: prefix that the packet's destination lies in.
            source: prefix that the packet's source lies in.
            protocol: ``"tcp"``, ``"udp"``, ``"icmp"`` ...
            destination_ports: ports of the packet's destination; needs ``protocol``.
            source_ports: ports of the packet's source; needs ``protocol``.

        Returns:
            The rule, which :meth:`remove_rule` takes.

        Raises:
            ConfigError: an argument is not valid, or families are mixed.
        """
        return self._add_rule("DNAT", to, destination, source, protocol, destination_ports,
                              source_ports, None)  # fmt: skip

    def add_snat(
        self,
        to: str | Address | Endpoint | tuple[str | Address, str | Address],
        *,
        source: NetworkLike | None = None,
        destination: NetworkLike | None = None,
        protocol: str | int | None = None,
        source_ports: PortsLike | None = None,
        destination_ports: PortsLike | None = None,
        out_interface: str | None = None,
    ) -> Rule:
        """Append a source NAT rule: ``-t nat -A POSTROUTING ... -j SNAT --to-source``.

        The source port is kept while the reply tuple is free, else another is taken from the
        range given, or from the port's own class (1-511, 600-1023, 1024-65535;
        nf_nat_core.c). When none is free the packet is dropped with ``Reason.NO_PORT``.

        Args: as :meth:`add_dnat`; ``out_interface`` needs :attr:`routes`.

        Raises:
            ConfigError: an argument is not valid, or families are mixed.
        """
        return self._add_rule("SNAT", to, destination, source, protocol, destination_ports,
                              source_ports, out_interface)  # fmt: skip

    def add_masquerade(
        self,
        *,
        source: NetworkLike | None = None,
        destination: NetworkLike | None = None,
        protocol: str | int | None = None,
        source_ports: PortsLike | None = None,
        destination_ports: PortsLike | None = None,
        to_ports: PortsLike | None = None,
        out_interface: str | None = None,
        family: int = 4,
    ) -> Rule:
        """Append a masquerading rule: SNAT to the address of the interface the packet leaves by.

        The interface and its address come from :attr:`routes`; a packet that has no route, or
        whose interface has no address, is dropped with ``Reason.NO_ROUTE``.

        Args: as :meth:`add_snat`; ``to_ports`` bounds the ports; ``family`` (4 or 6) counts
            where no prefix tells it.

        Raises:
            ConfigError: an argument is not valid, or families are mixed.
        """
        return self._add_rule("MASQUERADE", None, destination, source, protocol,
                              destination_ports, source_ports, out_interface,
                              to_ports, family)  # fmt: skip

    def _add_rule(
        self,
        target: str,
        to: str | Address | Endpoint | tuple[str | Address, str | Address] | None,
        destination: NetworkLike | None,
        source: NetworkLike | None,
        protocol: str | int | None,
        destination_ports: PortsLike | None,
        source_ports: PortsLike | None,
        out_interface: str | None,
        to_ports: PortsLike | None = None,
        family: int = 4,
    ) -> Rule:
        addresses, ports = (None, None) if to is None else parse_target(to)
        if to_ports is not None:
            ports = parse_ports(to_ports)
        networks = [parse_network(n) if n is not None else None for n in (source, destination)]
        families = {n.version for n in networks if n is not None}
        if addresses is not None:
            families.add(addresses.first.version)
        if len(families) > 1:
            raise ConfigError(f"{target} rule mixes IPv4 and IPv6 addresses")
        number = None if protocol is None else parse_protocol(protocol)
        for name, given in (
            ("destination_ports", destination_ports),
            ("source_ports", source_ports),
            ("a port to translate to", ports),
        ):
            if given is not None and number not in (6, 17, 132):
                raise ConfigError(f"{name} needs protocol tcp, udp or sctp")
        if out_interface is not None and target == "DNAT":
            raise ConfigError("a DNAT rule runs before routing and cannot match out_interface")
        rule = Rule(
            target=target,
            family=families.pop() if families else family,
            addresses=addresses,
            ports=ports,
            source=networks[0],
            destination=networks[1],
            protocol=number,
            source_ports=None if source_ports is None else parse_ports(source_ports),
            destination_ports=(
                None if destination_ports is None else parse_ports(destination_ports)
            ),
            out_interface=out_interface,
            number=self._last_rule + 1,
        )
        chain = self._dnat if target == "DNAT" else self._snat
        self._install_rules([*chain, rule], target == "DNAT")
        self._last_rule += 1
        return rule

    def remove_rule(self, rule: Rule) -> None:
        """Remove a rule; connections that it made keep their translation.

        Raises:
            NotFoundError: the rule is not one of this engine's.
        """
        chain = self._dnat if rule.target == "DNAT" else self._snat
        rest = [other for other in chain if other.number != rule.number]
        if len(rest) == len(chain):
            raise NotFoundError(f"no such rule: {rule}")
        self._install_rules(rest, rule.target == "DNAT")

    def edit_rule(self, rule: Rule, **changes: object) -> Rule:
        """Replace a rule in its place; ``changes`` are fields of :class:`Rule`.

        Raises:
            NotFoundError: the rule is not one of this engine's.
            ConfigError: there is no such field.
        """
        chain = self._dnat if rule.target == "DNAT" else self._snat
        if all(other.number != rule.number for other in chain):
            raise NotFoundError(f"no such rule: {rule}")
        forbidden = {"target", "number", "family"} & changes.keys()
        if forbidden:
            raise ConfigError(f"a rule's {forbidden.pop()} cannot be changed; add another rule")
        try:
            changed = replace(rule, **changes)  # type: ignore[arg-type]
        except TypeError as error:
            raise ConfigError(str(error)) from None
        self._install_rules(
            [changed if other.number == rule.number else other for other in chain],
            rule.target == "DNAT",
        )
        return changed

    def clear_rules(self) -> None:
        """Remove all NAT rules."""
        self._install_rules([], True)
        self._install_rules([], False)

    @property
    def rules(self) -> list[Rule]:
        """All NAT rules: PREROUTING, then POSTROUTING, each in the order of consulting."""
        return [*self._dnat, *self._snat]

    def _install_rules(self, chain: list[Rule], prerouting: bool) -> None:
        self._rules_set(prerouting, [_packed(rule, self._routes) for rule in chain])
        if prerouting:
            self._dnat = chain
        else:
            self._snat = chain

    @property
    def routes(self) -> Routes:
        """Interfaces, their addresses and routes, as far as NAT needs them."""
        return self._routes

    # State

    @property
    def sysctl(self) -> Sysctl:
        """IPVS settings by the kernel's names: ``engine.sysctl["net.ipv4.vs.sloppy_tcp"] = 1``."""
        return Sysctl(ENGINE_SETTINGS, self._sysctl_get, self._sysctl_set)

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
    def timeouts(self) -> Timeouts:
        """The IPVS timeouts that ``ipvsadm --set`` changes, in seconds."""
        return Timeouts(*self._timeouts_get())

    def set_timeouts(
        self, *, tcp: int | None = None, tcp_fin: int | None = None, udp: int | None = None
    ) -> None:
        """Change timeouts (seconds, 1..2678400); ``None`` keeps one. As ``ipvsadm --set``.

        A connection takes the new timeout with its next packet (ip_vs_proto_tcp.c).

        Raises:
            ConfigError: a timeout is out of range.
        """
        for name, value in (("tcp", tcp), ("tcp_fin", tcp_fin), ("udp", udp)):
            if value is not None and not 1 <= value <= 2678400:
                raise ConfigError(f"timeout {name}={value} is not in 1..2678400 seconds")
        self._timeouts_set(tcp or 0, tcp_fin or 0, udp or 0)

    def explain(self, frame: bytes | bytearray | memoryview, now: int | None = None, *,
                link_type: int = 1, mark: int = 0) -> Explanation:  # fmt: skip
        """Say what would happen to a frame, and why, step by step, without any effect.

        It runs the frame through a copy of the engine, so that the answer cannot differ from
        what :meth:`process` would do; the cost grows with the connection table.

        Args:
            frame: the frame; it is not changed.
            now: time in nanoseconds; default: the engine's own.
            link_type: LINKTYPE_ number of its link header.
            mark: its firewall mark.
        """
        return explain(self, bytes(frame), self.now if now is None else now, link_type, mark)

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
        """Carry out one iptables command line of the ``nat`` table and return what it prints.

        Args:
            command: for example ``"-t nat -A PREROUTING -d 10.0.0.200 -j DNAT --to 172.16.1.100"``.

        Raises:
            CommandError: the command is not valid, or has an option that does not exist here.
        """
        from lvscore.iptables import run

        return run(self, command)


def _packed(rule: Rule, routes: Routes) -> tuple[object, ...]:
    """The rule as the core takes it: addresses as 16 bytes, ranges with both ends."""
    source = rule.source
    destination = rule.destination
    sport = rule.source_ports or PortRange(0, 65535)
    dport = rule.destination_ports or PortRange(0, 65535)
    zero = parse_address("0.0.0.0" if rule.family == 4 else "::")
    low, high = rule.addresses or (zero, zero)
    ports = rule.ports or PortRange(0, 0)
    return (
        {"DNAT": 1, "SNAT": 2, "MASQUERADE": 3}[rule.target],
        rule.family,
        rule.protocol or 0,
        (source.network_address if source else zero).packed,
        source.prefixlen if source else 0,
        (destination.network_address if destination else zero).packed,
        destination.prefixlen if destination else 0,
        *sport,
        *dport,
        -1 if rule.out_interface is None else routes.index(rule.out_interface),
        low.packed,
        high.packed,
        rule.ports is not None,
        *ports,
        rule.number,
    )
