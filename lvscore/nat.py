"""NAT, mangle and raw rules of an engine: checked here, consulted in the core."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TypedDict, Unpack, cast

from lvscore import _engine
from lvscore.addresses import (
    Address,
    AddressRange,
    Endpoint,
    Network,
    PortRange,
    parse_address,
    parse_network,
    parse_ports,
    parse_protocol,
    parse_target,
)
from lvscore.errors import ConfigError, LimitError, NotFoundError
from lvscore.model import TABLES, TARGETS, Mark, Multiport, Rule

if TYPE_CHECKING:
    from lvscore.engine import Engine
    from lvscore.routes import Routes

__all__ = ["CHAINS", "RuleEngine"]

NetworkLike = str | Address | Network
PortsLike = str | int | range | tuple[int, int] | PortRange

CHAINS = (
    ("raw", "PREROUTING"),
    ("mangle", "PREROUTING"),
    ("nat", "PREROUTING"),
    ("nat", "POSTROUTING"),
)
"""The chains there are, by table, in the order in which a packet meets them."""

_TARGET_NUMBERS = {
    "DNAT": 1,
    "SNAT": 2,
    "MASQUERADE": 3,
    "REDIRECT": 4,
    "NETMAP": 5,
    "ACCEPT": 6,
    "RETURN": 6,
    "MARK": 7,
    "CT": 8,
}
_NEGATABLE = {
    "source": 0x01,
    "destination": 0x02,
    "protocol": 0x04,
    "source_ports": 0x08,
    "destination_ports": 0x10,
    "in_interface": 0x20,
    "out_interface": 0x40,
    "mark": 0x80,
    "multiport": 0x100,
    "virtual_address": 0x200,
}
_SIDES = {"source": 1, "destination": 2, "either": 3}
_RANGE_ADDRESSES, _RANGE_PORTS, _RANGE_RANDOM, _RANGE_PERSISTENT, _RANGE_OFFSET = 1, 2, 4, 8, 32
_MULTIPORT_MAX = 15
_WITH_PORTS = (6, 17, 132)


class Match(TypedDict, total=False):
    """What a rule may match: the match fields of :class:`lvscore.model.Rule`, also as text."""

    source: NetworkLike | None
    destination: NetworkLike | None
    protocol: str | int | None
    source_ports: PortsLike | None
    destination_ports: PortsLike | None
    in_interface: str | None
    out_interface: str | None
    multiport: Multiport | None
    mark: Mark | None
    virtual_address: NetworkLike | None
    negated: frozenset[str]


class RuleEngine(_engine.EngineCore):
    """The part of an engine that has NAT rules."""

    def __init__(self, max_connections: int, seed: bytes) -> None:
        super().__init__(max_connections, seed)
        self._chains: dict[tuple[str, str], list[Rule]] = {key: [] for key in CHAINS}
        self._last_rule = 0
        self._made_chains: set[tuple[str, str, int]] = set()
        """Chains that had rules, by family: to iptables an empty one is not the same as none."""
        self._changed_chains: dict[tuple[str, str], int] | None = None
        """Of each chain how many rules from its start are unchanged."""

    def add_dnat(
        self,
        to: str | Address | Endpoint,
        *,
        random: str = "",
        persistent: bool = False,
        port_base: int | None = None,
        **match: Unpack[Match],
    ) -> Rule:
        """Append a destination NAT rule: ``-t nat -A PREROUTING ... -j DNAT --to-destination``.

        Args:
            to: ``"a"``, ``"a-b"``, ``"a:p"``, ``"a:p-q"``, ``"a-b:p-q"``; IPv6 in brackets
                when a port follows. A port needs ``protocol``.
            random: ``"random"``: the port of a range is drawn by lot.
            persistent: of several addresses a client always gets the same.
            port_base: the destination port that the first port of the range stands for.
            match: ``source`` and ``destination`` (prefixes), ``protocol`` (``"tcp"``, ...),
                ``source_ports`` and ``destination_ports`` (need ``protocol``),
                ``in_interface``, ``multiport``, ``mark``, and ``negated``.

        Returns:
            The rule, which :meth:`remove_rule` takes.

        Raises:
            ConfigError: an argument is not valid, or families are mixed.
        """
        addresses, ports = parse_target(to)
        return self.add_rule(
            _matching(
                Rule("DNAT", addresses.first.version, addresses, ports, random=random,
                     persistent=persistent, port_base=port_base), match)
        )  # fmt: skip

    def add_snat(
        self,
        to: str | Address | Endpoint | tuple[str | Address, str | Address],
        *,
        random: str = "",
        persistent: bool = False,
        **match: Unpack[Match],
    ) -> Rule:
        """Append a source NAT rule: ``-t nat -A POSTROUTING ... -j SNAT --to-source``.

        A source that another connection has mapped keeps its mapping where that is free; else
        the source port is kept while the reply tuple is free; else another is taken from the
        range given, or from the port's own class (1-511, 600-1023, 1024-65535;
        nf_nat_core.c). When none is free the packet is dropped with ``Reason.NO_PORT``.

        Args: as :meth:`add_dnat`; ``out_interface`` needs :attr:`routes` or a Host.

        Raises:
            ConfigError: an argument is not valid, or families are mixed.
        """
        addresses, ports = parse_target(to)
        return self.add_rule(
            _matching(
                Rule("SNAT", addresses.first.version, addresses, ports, random=random,
                     persistent=persistent), match)
        )  # fmt: skip

    def add_masquerade(
        self,
        *,
        to_ports: PortsLike | None = None,
        random: str = "",
        family: int = 4,
        **match: Unpack[Match],
    ) -> Rule:
        """Append a masquerading rule: SNAT to the address of the interface the packet leaves by.

        The interface and its address come from :attr:`routes` or the Host; a packet that has no
        route, or whose interface has no address, is dropped with ``Reason.NO_ROUTE``.

        Args: as :meth:`add_snat`; ``to_ports`` bounds the ports; ``family`` (4 or 6) counts
            where no prefix tells it.

        Raises:
            ConfigError: an argument is not valid, or families are mixed.
        """
        ports = None if to_ports is None else parse_ports(to_ports)
        family = _family_of(match) or family
        rule = Rule("MASQUERADE", family, ports=ports, random=random)
        return self.add_rule(_matching(rule, match))

    def add_redirect(
        self,
        *,
        to_ports: PortsLike | None = None,
        random: str = "",
        family: int = 4,
        **match: Unpack[Match],
    ) -> Rule:
        """Append a rule that sends packets to this host: ``-t nat -A PREROUTING -j REDIRECT``.

        The address is the first one of the interface that a packet comes in by, which a Host
        knows; without one the packet is dropped with ``Reason.NO_ROUTE``.

        Args: as :meth:`add_masquerade`.

        Raises:
            ConfigError: an argument is not valid, or families are mixed.
        """
        ports = None if to_ports is None else parse_ports(to_ports)
        family = _family_of(match) or family
        return self.add_rule(_matching(Rule("REDIRECT", family, ports=ports, random=random), match))

    def add_netmap(
        self, to: NetworkLike, *, chain: str = "PREROUTING", **match: Unpack[Match]
    ) -> Rule:
        """Append a rule that maps a network onto another, host bits staying as they are.

        Args: ``to`` is the network to map to; in ``chain`` PREROUTING destinations are mapped,
            in POSTROUTING sources. The rest as :meth:`add_dnat`.

        Raises:
            ConfigError: an argument is not valid, or families are mixed.
        """
        network = parse_network(to)
        addresses = AddressRange(network[0], network[-1])
        rule = Rule("NETMAP", network.version, addresses, chain=chain)
        return self.add_rule(_matching(rule, match))

    def add_mark(self, value: int | Mark, *, family: int = 4, **match: Unpack[Match]) -> Rule:
        """Append a rule that marks packets: ``-t mangle -A PREROUTING ... -j MARK``.

        Args: ``value`` is the mark, or bits of it to clear and to toggle. The rest as
            :meth:`add_dnat`.

        Raises:
            ConfigError: an argument is not valid, or families are mixed.
        """
        mark = value if isinstance(value, Mark) else Mark(value)
        family = _family_of(match) or family
        return self.add_rule(_matching(Rule("MARK", family, set_mark=mark), match))

    def add_ct(self, helper: str, *, family: int = 4, **match: Unpack[Match]) -> Rule:
        """Append a rule that gives flows a helper: ``-t raw -A PREROUTING ... -j CT --helper``.

        It counts every packet that it matches; what opens a flow has it looked after to its end.
        Helper ``"ftp"`` (nf_conntrack_ftp.c, nf_nat_ftp.c) expects the data connections that
        PORT, EPRT and the answers 227 and 229 announce. Where rules translate the control
        connection, the announcement is made to fit, and the data connection is translated
        alike; a packet that becomes longer or shorter has verdict STOLEN, and what leaves for it
        is in :attr:`Engine.emitted`. A command that is cut is dropped with
        ``Reason.PARTIAL_COMMAND``, so that it is sent again whole. The numbers
        of PORT and 227 are put together by their bits, however large, as the kernel does it.

        Args: ``helper`` is ``"ftp"``, which needs ``protocol="tcp"``. The rest as
            :meth:`add_dnat`.

        Raises:
            ConfigError: there is no such helper, an argument is not valid, or families are mixed.
        """
        family = _family_of(match) or family
        return self.add_rule(_matching(Rule("CT", family, helper=helper), match))

    def add_rule(self, rule: Rule, position: int | None = None) -> Rule:
        """Add a rule to its chain.

        Args:
            rule: what to add; its number is given here.
            position: how many rules of the chain, of either family, come before it; default: all.

        Raises:
            ConfigError: the rule is not valid.
            LimitError: the chain has 4096 rules.
        """
        _check(rule)
        key = rule.table, rule.chain
        chain = list(self._chains[key])
        added = self._number_rule(rule)
        if position is None or position >= len(chain):
            chain.append(added)
            self._install_rules(key, chain, kept=len(chain) - 1)
        else:
            chain.insert(position, added)
            self._install_rules(key, chain)
        self._made_chains.add((*key, rule.family))
        return added

    def remove_rule(self, rule: Rule) -> None:
        """Remove a rule; connections that it made keep their translation, until no rule that
        translates is left: then nothing is tracked any more, and flows pass as they are.

        Raises:
            NotFoundError: the rule is not one of this engine's.
        """
        chain = self._chain_of(rule)
        rest = [other for other in chain if other.number != rule.number]
        self._install_rules((rule.table, rule.chain), rest)

    def edit_rule(self, rule: Rule, **changes: object) -> Rule:
        """Replace a rule in its place; ``changes`` are fields of :class:`Rule`.

        Raises:
            NotFoundError: the rule is not one of this engine's.
            ConfigError: there is no such field, or the rule would not be valid.
        """
        chain = self._chain_of(rule)
        forbidden = {"target", "number", "family", "chain", "table"} & changes.keys()
        if forbidden:
            raise ConfigError(f"a rule's {forbidden.pop()} cannot be changed; add another rule")
        try:
            changed = replace(rule, **changes)  # type: ignore[arg-type]
        except TypeError as error:
            raise ConfigError(str(error)) from None
        _check(changed)
        self._install_rules(
            (rule.table, rule.chain),
            [changed if other.number == rule.number else other for other in chain],
        )
        return changed

    def clear_rules(self) -> None:
        """Remove all rules of all chains."""
        for key in CHAINS:
            self._install_rules(key, [])

    @property
    def rules(self) -> list[Rule]:
        """All rules: those of raw, mangle, nat PREROUTING, nat POSTROUTING, in this order."""
        return [rule for key in CHAINS for rule in self._chains[key]]

    def rule_counters(self, rule: Rule) -> tuple[int, int]:
        """Packets and bytes (IP lengths) that a rule matched; NAT rules see first packets only,
        raw rules see all.

        Raises:
            NotFoundError: the rule is not one of this engine's.
        """
        self._chain_of(rule)
        counters: dict[int, tuple[int, int]] = _engine.rule_counters(
            self, f"{rule.table} {rule.chain}"
        )
        return counters.get(rule.number, (0, 0))

    def _chain_of(self, rule: Rule) -> list[Rule]:
        if not isinstance(rule, Rule):
            raise NotFoundError(f"no such rule: {rule!r}; expected one of engine.rules")
        chain = self._chains.get((rule.table, rule.chain), [])
        if all(other.number != rule.number for other in chain):
            raise NotFoundError(f"no such rule: {rule}")
        return chain

    def _number_rule(self, rule: Rule) -> Rule:
        """A rule with a number that no other has or had."""
        self._last_rule += 1
        return replace(rule, number=self._last_rule)

    @contextmanager
    def _rules_together(self, *, kept: bool = True) -> Iterator[None]:
        """Changes of rules that reach the core when all are made; if one fails, or if they are
        not to be kept, none does.
        """
        if self._changed_chains is not None:  # a part of more
            yield
            return
        before = dict(self._chains)
        changed: dict[tuple[str, str], int] = {}
        self._changed_chains = changed
        done = False
        try:
            yield
            done = kept
        finally:
            self._changed_chains = None
            if not done:
                self._chains.update(before)
            for key in changed:  # those put back, too: they may know a new interface
                self._install_rules(key, self._chains[key], kept=changed[key] if done else 0)

    def _install_rules(self, key: tuple[str, str], chain: list[Rule], *, kept: int = 0) -> None:
        """Give a chain its rules, of which the first ``kept`` are what it has already."""
        if len(chain) > _engine.MOST_RULES:
            raise LimitError(f"{len(chain)} rules in a chain; at most {_engine.MOST_RULES}")
        routes = cast("Engine", self).routes
        new = chain[kept:]
        for rule in new:  # every name has its number before one with + asks for them
            for name in (rule.in_interface, rule.out_interface):
                if name is not None and not name.endswith("+"):
                    routes.index(name)
        if self._changed_chains is not None:
            self._changed_chains[key] = min(kept, self._changed_chains.get(key, kept))
        else:
            install = _engine.rules_append if kept else _engine.rules_set
            install(self, " ".join(key), [_packed(rule, routes) for rule in new])
        self._chains[key] = chain

    def _interface_named(self) -> None:
        """A name of an interface was heard for the first time: names with + may mean it."""
        for key, chain in self._chains.items():
            names = {name for rule in chain for name in (rule.in_interface, rule.out_interface)}
            if any(name is not None and name.endswith("+") for name in names):
                self._install_rules(key, chain)


def _family_of(match: Match) -> int:
    """The family that the prefixes of a match tell, or 0."""
    for value in (match.get("source"), match.get("destination"), match.get("virtual_address")):
        if value is not None:
            return parse_network(value).version
    return 0


def _matching(rule: Rule, match: Match) -> Rule:
    """The rule with its matches read."""

    def network(value: NetworkLike | None) -> Network | None:
        return None if value is None else parse_network(value)

    def ports(value: PortsLike | None) -> PortRange | None:
        return None if value is None else parse_ports(value)

    unknown = match.keys() - Match.__annotations__.keys()
    if unknown:
        raise TypeError(f"unexpected keyword argument {sorted(unknown)[0]!r}")
    protocol = match.get("protocol")
    return replace(
        rule,
        source=network(match.get("source")),
        destination=network(match.get("destination")),
        protocol=None if protocol is None else parse_protocol(protocol),
        source_ports=ports(match.get("source_ports")),
        destination_ports=ports(match.get("destination_ports")),
        in_interface=match.get("in_interface"),
        out_interface=match.get("out_interface"),
        multiport=match.get("multiport"),
        mark=match.get("mark"),
        virtual_address=network(match.get("virtual_address")),
        negated=match.get("negated", frozenset()),
    )


def _check(rule: Rule) -> None:
    """Raise ConfigError for a rule that makes no sense."""
    if rule.target not in TARGETS:
        raise ConfigError(f"unknown target {rule.target!r}: expected one of {', '.join(TARGETS)}")
    if (rule.table, rule.chain) not in CHAINS or TARGETS[rule.target] not in ("", rule.chain):
        raise ConfigError(f"target {rule.target} is not for {rule.table} {rule.chain or 'chain'}")
    if rule.target not in ("ACCEPT", "RETURN") and rule.table != TABLES.get(rule.target, "nat"):
        raise ConfigError(f"target {rule.target} is not for table {rule.table}")
    _check_families(rule)
    for name, given in (
        ("destination_ports", rule.destination_ports),
        ("source_ports", rule.source_ports),
        ("a port to translate to", rule.ports),
        ("multiport", rule.multiport),
    ):
        if given is not None and (rule.protocol not in _WITH_PORTS or "protocol" in rule.negated):
            raise ConfigError(f"{name} needs protocol tcp, udp or sctp")
    if rule.out_interface is not None and rule.chain == "PREROUTING":
        raise ConfigError(
            f"a {rule.target} rule runs before routing and cannot match out_interface"
        )
    if rule.in_interface is not None and rule.chain == "POSTROUTING":
        raise ConfigError(f"a {rule.target} rule runs behind routing and cannot match in_interface")
    _check_details(rule)


def _check_families(rule: Rule) -> None:
    families = {n.version for n in (rule.source, rule.destination, rule.virtual_address) if n}
    if rule.addresses is not None:
        families.add(rule.addresses.first.version)
    if len(families | {rule.family}) > 1:
        raise ConfigError(f"{rule.target} rule mixes IPv4 and IPv6 addresses")


def _check_details(rule: Rule) -> None:
    needs_addresses = rule.target in ("DNAT", "SNAT", "NETMAP")
    if needs_addresses != (rule.addresses is not None):
        raise ConfigError(
            f"target {rule.target} {'needs' if needs_addresses else 'has no'} addresses"
        )
    if (rule.target == "MARK") != (rule.set_mark is not None):
        raise ConfigError("a mark to set belongs to target MARK, and only to that")
    _check_helper(rule)
    if rule.random not in ("", "random", "random-fully"):
        raise ConfigError(f"random={rule.random!r}: expected '', 'random' or 'random-fully'")
    if rule.port_base is not None and (rule.ports is None or rule.target != "DNAT"):
        raise ConfigError("port_base belongs to a DNAT rule with ports")
    for name in rule.negated:
        if name not in _NEGATABLE or getattr(rule, name) is None:
            raise ConfigError(f"negated {name!r} is not a match of the rule")
    for mark in (rule.mark, rule.set_mark):
        if mark is not None and not all(0 <= n < 1 << 32 for n in mark):
            raise ConfigError(f"mark {mark} is not in 0..2**32-1")
    if rule.multiport is not None and (
        rule.multiport.side not in _SIDES
        or not rule.multiport.ports
        or sum(1 + (p.first != p.last) for p in rule.multiport.ports) > _MULTIPORT_MAX
    ):
        raise ConfigError(
            f"{rule.multiport}: expected 'source', 'destination' or 'either' and at most "
            f"{_MULTIPORT_MAX} ports, a range counting as two"
        )


def _check_helper(rule: Rule) -> None:
    if (rule.target == "CT") != bool(rule.helper):
        raise ConfigError("a helper belongs to target CT, and target CT needs one")
    if rule.helper and rule.helper != "ftp":
        raise ConfigError(f"no helper {rule.helper!r}; there is 'ftp'")
    if rule.helper and (rule.protocol != 6 or "protocol" in rule.negated):
        raise ConfigError(f"helper {rule.helper} needs protocol tcp")


def _packed(rule: Rule, routes: "Routes") -> tuple[object, ...]:
    """The rule as the core takes it: addresses as bytes, ranges with both ends."""
    zero = parse_address("0.0.0.0" if rule.family == 4 else "::")
    every, none = PortRange(0, 65535), PortRange(0, 0)
    low, high = rule.addresses or (zero, zero)
    flags = (
        (_RANGE_ADDRESSES if rule.addresses else 0)
        | (_RANGE_PORTS if rule.ports else 0)
        | (_RANGE_RANDOM if rule.random else 0)
        | (_RANGE_PERSISTENT if rule.persistent else 0)
        | (_RANGE_OFFSET if rule.port_base is not None else 0)
    )

    def prefix(network: Network | None) -> tuple[bytes, int]:
        if network is None:
            return zero.packed, 0
        return network.network_address.packed, network.prefixlen

    def interface(name: str | None) -> int | tuple[int, ...]:
        if name is None:
            return -1
        return routes.indices(name[:-1]) if name.endswith("+") else routes.index(name)

    return (
        rule.number,
        _TARGET_NUMBERS[rule.target],
        rule.family,
        rule.protocol or 0,
        *prefix(rule.source),
        *prefix(rule.destination),
        *(rule.source_ports or every),
        *(rule.destination_ports or every),
        interface(rule.in_interface),
        interface(rule.out_interface),
        sum(_NEGATABLE[name] for name in rule.negated),
        _SIDES[rule.multiport.side] if rule.multiport else 0,
        rule.multiport.ports if rule.multiport else (),
        *(rule.mark or (0, 0)),
        None if rule.virtual_address is None else rule.virtual_address.network_address.packed,
        0 if rule.virtual_address is None else rule.virtual_address.prefixlen,
        low.packed,
        high.packed,
        *(rule.ports or none),
        rule.port_base or 0,
        flags,
        *(rule.set_mark or (0, 0)),
    )
