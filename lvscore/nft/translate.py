"""Between nft's rules and those of an engine.

A rule of nft's may be several of an engine's: of addresses, interfaces and protocols in a set,
and of ranges that are no prefix, each is a rule of its own.
"""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network, summarize_address_range
from itertools import product
from typing import Any

from lvscore.addresses import Address, AddressRange, Network, PortRange
from lvscore.errors import ConfigError
from lvscore.model import Mark, Multiport, Rule
from lvscore.nft.model import Action, Match, NftRule, Span, protocol_name

__all__ = ["as_network", "nft_rule", "rules"]

_MOST_RULES = 256
_MOST_PORTS = 15
_FIELDS = {
    "saddr": "source", "daddr": "destination", "iifname": "in_interface",
    "oifname": "out_interface", "sport": "source_ports", "dport": "destination_ports",
}  # fmt: skip
_WITH_PORTS = {"tcp": 6, "udp": 17, "sctp": 132}
_PORT_NAMES = {number: name for name, number in _WITH_PORTS.items()}
_TARGETS = {"dnat": "DNAT", "snat": "SNAT", "masquerade": "MASQUERADE", "redirect": "REDIRECT",
            "mark": "MARK", "accept": "ACCEPT", "return": "RETURN"}  # fmt: skip
_ACTIONS = {target: name for name, target in _TARGETS.items()}

Fields = dict[str, Any]


def rules(rule: NftRule, family: str, table: str, chain: str) -> list[Rule]:
    """The rules of an engine that a rule of nft's means, for its ``table`` and ``chain``.

    Raises:
        ConfigError: there are none that say it.
    """
    choices = [_choices(match) for match in rule.matches]
    count = 1
    for options in choices:
        count *= len(options)
    if count > _MOST_RULES:
        raise ConfigError(f"{count} rules would be needed; at most {_MOST_RULES}")
    found = []
    for version in _versions(rule, family):
        base = _acting(rule.action, version, table, chain)
        for parts in product(*choices):
            found.append(replace(base, **_joined(parts)))
    for made in found:
        if made.ports is not None and made.protocol not in _PORT_NAMES:
            raise ConfigError(
                "transport protocol mapping is only valid after transport protocol match"
            )
    return found


def _versions(rule: NftRule, family: str) -> tuple[int, ...]:
    """The address families that a rule is for."""
    if family != "inet":
        return (4,) if family == "ip" else (6,)
    told = {4 if match.key.startswith("ip ") else 6 for match in rule.matches
            if match.key.startswith(("ip ", "ip6 "))}  # fmt: skip
    if rule.action.family:
        told.add(rule.action.family)
    if len(told) > 1:
        raise ConfigError("conflicting protocols specified: ip vs. ip6")
    if rule.action.addresses is not None:
        version = rule.action.addresses.first.version
        if not told:
            raise ConfigError("ip or ip6 must be specified with address for inet tables.")
        if told != {version}:
            raise ConfigError("conflicting protocols specified: ip vs. ip6")
    return tuple(told) or (4, 6)


def _acting(action: Action, version: int, table: str, chain: str) -> Rule:
    """A rule that does what an action says, and matches everything."""
    target = "NETMAP" if action.prefix else _TARGETS[action.name]
    return Rule(
        target,
        version,
        action.addresses,
        action.ports,
        random="random-fully" if action.random == "fully-random" else action.random,
        persistent=action.persistent,
        set_mark=action.mark,
        chain=chain,
        table=table,
    )


def _joined(parts: tuple[Fields, ...]) -> Fields:
    """One choice of every match, together."""
    found: Fields = {"negated": frozenset()}
    through = False
    for part in parts:
        for name, value in part.items():
            if name == "negated":
                found["negated"] |= value
            elif name == "th":
                through = True
            elif name in found and not (name == "protocol" and found[name] == value):
                if name == "protocol":
                    names = protocol_name(found[name]), protocol_name(value)
                    raise ConfigError("conflicting protocols specified: {} vs. {}".format(*names))
                raise ConfigError(f"two matches of {name} in a rule are not available")
            else:
                found[name] = value
    if through and found.get("protocol") not in _PORT_NAMES:
        raise ConfigError("th needs meta l4proto tcp, udp or sctp before it")
    return found


def _choices(match: Match) -> list[Fields]:
    """What a match says, as fields of a rule: any one of these."""
    head, _, last = match.key.partition(" ")
    if last in ("saddr", "daddr"):
        return _address_choices(match, _FIELDS[last])
    if match.key in ("iifname", "oifname"):
        names = [span.name[:-1] + "+" if span.name.endswith("*") else span.name
                 for span in match.spans]  # fmt: skip
        return _plain(match, _FIELDS[match.key], names)
    if last in ("l4proto", "protocol"):
        return _plain(match, "protocol", [span.low for span in match.spans])
    if last == "mark":
        mask = 0xFFFFFFFF if match.mask is None else match.mask
        return _plain(match, "mark", [Mark(span.low, mask) for span in match.spans])
    transport: Fields = {"th": True} if head == "th" else {"protocol": _WITH_PORTS[head]}
    return [{**transport, **fields} for fields in _port_choices(match, last)]


def _plain(match: Match, field: str, values: list[Any]) -> list[Fields]:
    if match.negated and len(values) > 1:
        raise ConfigError(f"{match.key} != with a set is not available")
    return [_field(match, field, value) for value in values]


def _field(match: Match, field: str, value: object) -> Fields:
    return {field: value, "negated": frozenset({field} if match.negated else ())}


def _address_choices(match: Match, field: str) -> list[Fields]:
    kind = IPv4Address if match.key.startswith("ip ") else IPv6Address
    networks: list[Network] = []
    for span in match.spans:
        networks += summarize_address_range(kind(span.low), kind(span.high))
    if match.negated and len(networks) > 1:
        raise ConfigError(f"{match.key} != with more than one prefix is not available")
    return [_field(match, field, network) for network in networks]


def _port_choices(match: Match, last: str) -> list[Fields]:
    if not match.is_set:
        span = match.spans[0]
        return [_field(match, _FIELDS[last], PortRange(span.low, span.high))]
    side = "source" if last == "sport" else "destination"
    groups: list[list[PortRange]] = [[]]
    size = 0
    for span in match.spans:
        takes = 1 + (span.low != span.high)
        if size + takes > _MOST_PORTS:
            groups.append([])
            size = 0
        groups[-1].append(PortRange(span.low, span.high))
        size += takes
    if match.negated and len(groups) > 1:
        raise ConfigError(f"{match.key} != with more than {_MOST_PORTS} ports is not available")
    return [_field(match, "multiport", Multiport(side, tuple(group))) for group in groups]


# From an engine's rules


def nft_rule(rule: Rule) -> NftRule | None:
    """A rule as nft says it, None if it cannot."""
    side = rule.multiport.side if rule.multiport else "source"
    if rule.virtual_address or rule.port_base is not None or side == "either" or (
        rule.table not in ("nat", "mangle")
    ):  # fmt: skip
        return None
    action = Action(
        "dnat" if (rule.target, rule.chain) == ("NETMAP", "PREROUTING")
        else "snat" if rule.target == "NETMAP" else _ACTIONS[rule.target],
        rule.addresses,
        rule.ports,
        prefix=rule.target == "NETMAP",
        random="fully-random" if rule.random == "random-fully" else rule.random,
        persistent=rule.persistent,
        mark=rule.set_mark,
    )  # fmt: skip
    return NftRule(tuple(_matches(rule)), action, (0, 0))


def _matches(rule: Rule) -> list[Match]:
    found = []
    for field, key in (("in_interface", "iifname"), ("out_interface", "oifname")):
        name = getattr(rule, field)
        if name is not None:
            shown = name[:-1] + "*" if name.endswith("+") else name
            found.append(Match(key, (Span(name=shown),), field in rule.negated))
    for field, key in (("source", "saddr"), ("destination", "daddr")):
        network = getattr(rule, field)
        if network is not None:
            family = "ip" if rule.family == 4 else "ip6"
            negated = field in rule.negated
            found.append(Match(f"{family} {key}", (_network_span(network),), negated))
    name = _PORT_NAMES.get(rule.protocol or 0, "")
    if rule.protocol and (
        not name or not (rule.source_ports or rule.destination_ports or rule.multiport)
    ):
        spans = (Span(rule.protocol, rule.protocol),)
        found.append(Match("meta l4proto", spans, "protocol" in rule.negated))
    for field, key in (("source_ports", "sport"), ("destination_ports", "dport")):
        ports = getattr(rule, field)
        if ports is not None:
            found.append(Match(f"{name} {key}", (_port_span(ports),), field in rule.negated))
    if rule.multiport is not None:
        key = "sport" if rule.multiport.side == "source" else "dport"
        ranges = tuple(map(_port_span, sorted(set(rule.multiport.ports))))
        found.append(
            Match(f"{name} {key}", ranges, "multiport" in rule.negated, is_set=len(ranges) > 1)
        )
    if rule.mark is not None:
        mask = None if rule.mark.mask == 0xFFFFFFFF else rule.mark.mask
        spans = (Span(rule.mark.value, rule.mark.value),)
        found.append(Match("meta mark", spans, "mark" in rule.negated, mask=mask))
    return found


def _network_span(network: Network) -> Span:
    whole = network.prefixlen == network.max_prefixlen
    return Span(int(network[0]), int(network[-1]), None if whole else network.prefixlen)


def _port_span(ports: PortRange) -> Span:
    return Span(ports.first, ports.last, None if ports.first == ports.last else -1)


def as_network(addresses: AddressRange) -> Network | None:
    """The prefix that a range of addresses is, None if it is none."""
    first: Address = addresses.first
    length = first.max_prefixlen - (int(first) ^ int(addresses.last)).bit_length()
    network = ip_network((first, length), strict=False)
    return network if (network[0], network[-1]) == tuple(addresses) else None
