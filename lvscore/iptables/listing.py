"""Rules as iptables prints them: ``-S`` and iptables-save, and the columns of ``-L``.

The columns and words are those of iptables 1.8.9 (iptables/xshared.c, extensions/libxt_*.c).
"""

import socket
from collections.abc import Iterator
from ipaddress import ip_network
from typing import TYPE_CHECKING

from lvscore.addresses import AddressRange, Network, PortRange, protocol_name
from lvscore.iptables.grammar import ALL_CHAINS, PROTOCOLS
from lvscore.model import Mark, Rule

if TYPE_CHECKING:
    from lvscore.engine import Engine

__all__ = ["format_count", "format_rule", "format_target", "list_chain", "list_rules"]

_TO = {"DNAT": "to-destination", "SNAT": "to-source"}
_MULTIPORT = {"source": "sports", "destination": "dports", "either": "ports"}
_PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}


def format_rule(rule: Rule, counters: tuple[int, int] | None = None) -> str:
    """Return the rule as ``iptables -S`` and iptables-save write it, with ``-c`` if counted."""
    words = [*_match_words(rule)]
    if counters is not None:
        words.append(f"-c {counters[0]} {counters[1]}")
    return " ".join([f"-A {rule.chain}", *words, *_target_words(rule)])


def _not(rule: Rule, name: str) -> str:
    return "! " if name in rule.negated else ""


def _match_words(rule: Rule) -> Iterator[str]:
    if rule.source is not None and rule.source.prefixlen:
        yield f"{_not(rule, 'source')}-s {rule.source}"
    if rule.destination is not None and rule.destination.prefixlen:
        yield f"{_not(rule, 'destination')}-d {rule.destination}"
    if rule.in_interface is not None:
        yield f"{_not(rule, 'in_interface')}-i {rule.in_interface}"
    if rule.out_interface is not None:
        yield f"{_not(rule, 'out_interface')}-o {rule.out_interface}"
    if rule.protocol is not None:
        name = _PROTOCOL_NAMES.get(rule.protocol, str(rule.protocol))
        yield f"{_not(rule, 'protocol')}-p {name}"
        if rule.source_ports or rule.destination_ports:
            yield f"-m {name}"
    if rule.source_ports:
        yield f"{_not(rule, 'source_ports')}--sport {_format_ports(rule.source_ports)}"
    if rule.destination_ports:
        yield f"{_not(rule, 'destination_ports')}--dport {_format_ports(rule.destination_ports)}"
    if rule.multiport:
        ports = ",".join(map(_format_ports, rule.multiport.ports))
        yield f"-m multiport {_not(rule, 'multiport')}--{_MULTIPORT[rule.multiport.side]} {ports}"
    if rule.mark:
        yield f"-m mark {_not(rule, 'mark')}--mark {_format_mark(rule.mark)}"
    if rule.virtual_address:
        yield f"-m ipvs {_not(rule, 'virtual_address')}--vaddr {_network(rule.virtual_address)}"


def _target_words(rule: Rule) -> Iterator[str]:
    yield f"-j {rule.target}"
    if rule.target in _TO:
        yield f"--{_TO[rule.target]} {format_target(rule)}"
    elif rule.target == "NETMAP":
        yield f"--to {_netmap(rule)}"
    elif rule.target == "MARK" and rule.set_mark:
        yield f"--set-xmark {rule.set_mark.value:#x}/{rule.set_mark.mask:#x}"
    elif rule.target == "CT":
        yield f"--helper {rule.helper}"
    elif rule.ports is not None:
        yield f"--to-ports {rule.ports}"
    if rule.random:
        yield f"--{rule.random}"
    if rule.persistent:
        yield "--persistent"


def _format_ports(ports: PortRange) -> str:
    return str(ports).replace("-", ":")


def _format_mark(mark: Mark) -> str:
    return f"{mark.value:#x}" if mark.mask == 0xFFFFFFFF else f"{mark.value:#x}/{mark.mask:#x}"


def _network(network: Network) -> str:
    """A prefix, or the address alone if it is one."""
    whole = network.prefixlen == network.max_prefixlen
    return str(network.network_address) if whole else str(network)


def _netmap(rule: Rule) -> str:
    assert isinstance(rule.addresses, AddressRange)
    first, last = rule.addresses
    length = first.max_prefixlen - (int(first) ^ int(last)).bit_length()
    return _network(ip_network((first, length)))


def format_target(rule: Rule) -> str:
    """What a DNAT or SNAT rule translates to."""
    addresses = rule.addresses
    assert isinstance(addresses, AddressRange)
    if rule.ports is None:
        return str(addresses)
    base = "" if rule.port_base is None else f"/{rule.port_base}"
    text = f"[{addresses}]" if rule.family == 6 else str(addresses)
    return f"{text}:{rule.ports}{base}"


# Columns


def list_rules(engine: "Engine", table: str, chains: tuple[str, ...], rules: list[Rule],
               number: int, verbose: bool) -> str:  # fmt: skip
    """``-S``: policies and rules; with a number the rule of that number alone."""
    counters = {rule.number: engine.rule_counters(rule) for rule in rules} if verbose else {}
    lines = [f"-P {chain} ACCEPT" + (" -c 0 0" if verbose else "") for chain in chains]
    lines += [format_rule(rule, counters.get(rule.number)) for rule in rules]
    if number:
        lines = lines[len(chains) :][number - 1 : number]
    return "".join(f"{line}\n" for line in lines)


def list_chain(
    engine: "Engine", chain: str, rules: list[Rule], listing: frozenset[str], number: int
) -> str:
    """One chain of ``-L``; with a number the rule of that number alone, without a title."""
    verbose, numeric = "verbose" in listing, "numeric" in listing
    exact = "exact" in listing
    policy = "policy ACCEPT" + (" 0 packets, 0 bytes" if verbose else "")
    lines = [] if number else [f"Chain {chain} ({policy})", _title(listing)]
    for position, rule in enumerate(rules, 1):
        if number not in (0, position):
            continue
        line = f"{position:<5}" if "line-numbers" in listing else ""
        if verbose:
            pairs = engine.rule_counters(rule)
            line += " ".join(format_count(n, 8 if exact else 5, exact) for n in pairs) + " "
        lines.append(line + _columns(rule, verbose, numeric) + _details(rule, numeric))
    return "".join(f"{line}\n" for line in lines)


def _title(listing: frozenset[str]) -> str:
    line = "num  " if "line-numbers" in listing else ""
    if "verbose" in listing:
        line += "    pkts      bytes " if "exact" in listing else " pkts bytes "
    line += f"{'target':<9}  {'prot':<4} opt "
    if "verbose" in listing:
        line += f"{'in':<6} {'out':<6}  "
    return line + f"{'source':<19}  {'destination':<19} "


def format_count(number: int, width: int, exact: bool) -> str:
    """A counter, cut to thousands, millions and so on with their letter (print_num)."""
    if exact or number <= 99999:
        return f"{number:>{width}}"
    for letter in "KMGT":
        number = (number + 500) // 1000
        if number <= 9999 or letter == "T":
            break
    return f"{number:>{width - 1}}{letter}"


def _columns(rule: Rule, verbose: bool, numeric: bool) -> str:
    protocol = str(rule.protocol or 0)
    if not numeric:
        protocol = "all" if not rule.protocol else _PROTOCOL_NAMES.get(rule.protocol, protocol)
    line = f"{rule.target:<9} {'!' if 'protocol' in rule.negated else ' '}{protocol:<4} -- "
    if verbose:
        for name in ("in_interface", "out_interface"):
            line += f" {_not(rule, name).strip() + (getattr(rule, name) or '*'):<6}"
        line += " "
    every = ("0.0.0.0/0" if rule.family == 4 else "::/0") if numeric else "anywhere"
    columns = []
    for name in ("source", "destination"):
        network = getattr(rule, name)
        text = every if network is None or not network.prefixlen else _network(network)
        columns.append(f"{'!' if name in rule.negated else ' '}{text:<19}")
    return line + " ".join(columns) + " "


def _service(port: int, protocol: int | None, numeric: bool) -> str:
    if not numeric and protocol is not None:
        try:
            return socket.getservbyport(port, protocol_name(protocol))
        except OSError:
            pass
    return str(port)


def _details(rule: Rule, numeric: bool) -> str:
    words = [*_match_details(rule, numeric), *_target_details(rule)]
    return "".join(f" {word}" for word in words)


def _port_details(rule: Rule, name: str, letter: str, numeric: bool) -> Iterator[str]:
    ports = getattr(rule, name)
    if ports is None:
        return
    inverted = "!" if name in rule.negated else ""
    first = _service(ports.first, rule.protocol, numeric)
    if ports.first == ports.last:
        yield f"{letter}pt:{inverted}{first}"
    else:
        last = _service(ports.last, rule.protocol, numeric)
        yield f"{letter}pts:{inverted}{first}:{last}"


def _match_details(rule: Rule, numeric: bool) -> Iterator[str]:
    if rule.source_ports or rule.destination_ports:
        yield protocol_name(rule.protocol or 0)
        yield from _port_details(rule, "source_ports", "s", numeric)
        yield from _port_details(rule, "destination_ports", "d", numeric)
    if rule.multiport:
        ports = ",".join(
            ":".join(_service(port, rule.protocol, numeric) for port in sorted(set(given)))
            for given in rule.multiport.ports
        )
        inverted = " !" if "multiport" in rule.negated else ""
        yield f"multiport {_MULTIPORT[rule.multiport.side]} {inverted}{ports}"
    if rule.mark:
        inverted = "! " if "mark" in rule.negated else ""
        yield f"mark match {inverted}{_format_mark(rule.mark)}"
    if rule.virtual_address:
        yield f"{_not(rule, 'virtual_address')}vaddr {_network(rule.virtual_address)}"


def _target_details(rule: Rule) -> Iterator[str]:
    match rule.target:
        case "DNAT" | "SNAT":
            yield f"to:{format_target(rule)}"
        case "NETMAP":
            yield f"to:{_netmap(rule)}"
        case "MASQUERADE" if rule.ports:
            yield f"masq ports: {rule.ports}"
        case "REDIRECT" if rule.ports:
            yield f"redir ports {rule.ports}"
        case "MARK" if rule.set_mark:
            yield f"MARK {_mark_details(rule.set_mark)}"
        case "CT":
            yield f"CT helper {rule.helper}"
    if rule.random:
        yield rule.random
    if rule.persistent:
        yield "persistent"


def _mark_details(mark: Mark) -> str:
    if mark.value == 0:
        return f"and {~mark.mask & 0xFFFFFFFF:#x}"
    if mark.value == mark.mask:
        return f"or {mark.value:#x}"
    if mark.mask == 0:
        return f"xor {mark.value:#x}"
    if mark.mask == 0xFFFFFFFF:
        return f"set {mark.value:#x}"
    return f"xset {mark.value:#x}/{mark.mask:#x}"


def chains_of(table: str, chain: str) -> tuple[str, ...]:
    """The chains that a listing is about."""
    return (chain,) if chain else ALL_CHAINS[table]
