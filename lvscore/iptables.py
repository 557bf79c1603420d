"""iptables' language, as far as NAT goes: ``-t nat`` rules that DNAT, SNAT and MASQUERADE.

``-A``, ``-I``, ``-D``, ``-F`` and ``-S`` on PREROUTING and POSTROUTING, matching by ``-s``,
``-d``, ``-p``, ``--sport``, ``--dport`` and ``-o``. Long options may be abbreviated, as
iptables takes them (``--to``). Anything else is refused by name.

A leading ``iptables`` or ``ip6tables`` tells the address family; without it the addresses do,
and ``-F``, ``-S`` and rule numbers are about the rules of both families.
"""

import shlex
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NoReturn

from lvscore.addresses import (
    PROTOCOLS,
    AddressRange,
    PortRange,
    parse_network,
    parse_ports,
    parse_protocol,
    parse_target,
    protocol_name,
)
from lvscore.errors import CommandError, ConfigError, LimitError, NotFoundError
from lvscore.model import Rule

if TYPE_CHECKING:
    from lvscore.engine import Engine

__all__ = ["CHAINS", "Command", "apply", "format_rule", "parse", "restore", "run", "save", "split"]

CHAINS = ("PREROUTING", "POSTROUTING")
_ALL_CHAINS = ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")
_FAMILIES = {"iptables": 4, "ip6tables": 6}
_CHAIN_OF = {"DNAT": "PREROUTING", "SNAT": "POSTROUTING", "MASQUERADE": "POSTROUTING"}
_TARGET_OPTION = {"DNAT": "to-destination", "SNAT": "to-source", "MASQUERADE": "to-ports"}
_ACTIONS = {"append", "insert", "delete", "flush", "list-rules"}

_SHORT = {
    "t": "table",
    "A": "append",
    "I": "insert",
    "D": "delete",
    "F": "flush",
    "S": "list-rules",
    "s": "source",
    "d": "destination",
    "p": "protocol",
    "m": "match",
    "j": "jump",
    "o": "out-interface",
}
_LONG = {
    **{name: name for name in _SHORT.values()},
    "src": "source",
    "dst": "destination",
    "proto": "protocol",
    "sport": "sport",
    "source-port": "sport",
    "dport": "dport",
    "destination-port": "dport",
    **{name: name for name in _TARGET_OPTION.values()},
}


@dataclass(frozen=True, slots=True)
class Command:
    """One command line, checked.

    ``action`` is the long name of what to do; ``chain`` and ``number`` are ``""`` and 0 where
    they were not given, ``rule`` is ``None`` where there is none; ``family`` is 4, 6 or 0 for
    both.
    """

    action: str
    chain: str = ""
    number: int = 0
    rule: Rule | None = None
    family: int = 0


def run(engine: "Engine", command: str | Sequence[str]) -> str:
    """Carry out one iptables command line and return what it prints.

    Args:
        engine: the engine whose rules to change or list.
        command: a line as a shell would take it, or its words.

    Raises:
        CommandError: the command was refused; nothing was changed.
    """
    words = split(command) if isinstance(command, str) else command
    return apply(engine, parse(words))


def split(line: str) -> list[str]:
    """Return the words of a line as a shell would take it.

    Raises:
        CommandError: a quote is left open.
    """
    try:
        return shlex.split(line)
    except ValueError as error:
        raise CommandError(f"cannot split {line!r} into words: {error}") from None


def _fail(message: str, status: int = 2) -> NoReturn:
    raise CommandError(message, status)


# Words to Command


def parse(words: Sequence[str]) -> Command:
    """Read the words of a command line; ``iptables`` or ``ip6tables`` may lead them.

    Raises:
        CommandError: naming the word and what was expected.
    """
    family = _FAMILIES.get(words[0], 0) if words else 0
    reader = _Reader(list(words[1:] if family else words), family)
    try:
        return reader.command()
    except CommandError:
        raise
    except ConfigError as error:
        raise CommandError(str(error)) from None


@dataclass
class _Reader:
    words: list[str]
    family: int
    action: str = ""
    chain: str = ""
    number: int = 0
    given: dict[str, str] = field(default_factory=dict)
    matches: list[str] = field(default_factory=list)
    # Which option "--to" is short for depends on the target, which may come later.
    target_options: list[tuple[str, list[str], str]] = field(default_factory=list)

    def command(self) -> Command:
        while self.words:
            self._read(self.words.pop(0))
        if self.given.get("table") != "nat":
            given = self.given.get("table", "filter")
            _fail(f"table {given} is not available: expected -t nat")
        if not self.action:
            _fail("no command: expected -A, -I, -D, -F or -S")
        any_chain = self.action in ("flush", "list-rules") and not self.chain
        if self.chain not in CHAINS and not any_chain:
            _fail(f"chain {self.chain!r} is not available: expected {' or '.join(CHAINS)}")
        matching = (self.given.keys() - {"table"}) or self.matches or self.target_options
        if self.action in ("flush", "list-rules") or (self.number and self.action == "delete"):
            if matching:
                _fail(f"a rule cannot be given with --{self.action} here")
            return Command(self.action, self.chain, self.number, None, self.family)
        return Command(self.action, self.chain, self.number, self._rule(), self.family)

    def _read(self, word: str) -> None:
        if word == "!":
            _fail("negation (!) is not available")
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            names = _long_names(name)
            value = value if equals else self._value(word, names)
            if set(names) <= set(_TARGET_OPTION.values()):
                self.target_options.append((word.partition("=")[0], names, value))
            else:
                self._take(names[0], value, word)
        elif word.startswith("-") and len(word) > 1:
            if word[1] not in _SHORT:
                _fail(f"option {word[:2]} is not available")
            names = [_SHORT[word[1]]]
            self._take(names[0], word[2:] or self._value(word, names), word[:2])
        else:
            _fail(f"unexpected word {word!r}")

    def _value(self, word: str, names: list[str]) -> str:
        if names[0] in ("flush", "list-rules"):
            return self.words.pop(0) if self.words and self.words[0][:1] not in "-!" else ""
        if not self.words:
            _fail(f"option {word} needs a value")
        return self.words.pop(0)

    def _take(self, name: str, value: str, word: str) -> None:
        if value == "!":
            _fail("negation (!) is not available")
        if name in _ACTIONS:
            if self.action:
                _fail(f"--{self.action} and {word} cannot be used together")
            self.action, self.chain = name, value
            if name == "insert":
                self.number = 1
            if name in ("insert", "delete") and self.words and self.words[0].isdecimal():
                self.number = int(self.words.pop(0))
                if self.number == 0:
                    _fail(f"rule number 0 with --{name}: expected 1 or more")
        elif name == "match":
            self.matches.append(value)
        elif name in self.given:
            _fail(f"multiple --{name} options")
        else:
            self.given[name] = value

    def _rule(self) -> Rule:
        given = self.given
        target = given.get("jump") or _fail("no target: expected -j DNAT, SNAT or MASQUERADE")
        if target not in _CHAIN_OF:
            _fail(f"target {target} is not available: expected DNAT, SNAT or MASQUERADE")
        if self.chain != _CHAIN_OF[target]:
            _fail(f"target {target} is for chain {_CHAIN_OF[target]}, not {self.chain}")
        if "out-interface" in given and self.chain == "PREROUTING":
            _fail("-o cannot be used in PREROUTING, which runs before routing")
        to = self._target_value(target)
        protocol = _protocol(given.get("protocol", "all"))
        for name in self.matches:
            if protocol is None or name != protocol_name(protocol):
                _fail(f"match {name} is not available" + (": no -p" if protocol is None else ""))
        addresses, ports = None, None
        if to is not None and target == "MASQUERADE":
            ports = parse_ports(to)
        elif to is not None:
            addresses, ports = parse_target(to)
        rule = Rule(
            target=target,
            family=self.family,
            addresses=addresses,
            ports=ports,
            protocol=protocol,
            out_interface=given.get("out-interface"),
            source_ports=_ports(given.get("sport"), "--sport", protocol),
            destination_ports=_ports(given.get("dport"), "--dport", protocol),
        )
        return self._with_networks(rule)

    def _target_value(self, target: str) -> str | None:
        option = _TARGET_OPTION[target]
        value = None
        for word, names, text in self.target_options:
            if option not in names:
                _fail(f"option {word} is not available with target {target}")
            if value is not None:
                _fail(f"multiple --{option} options")
            value = text
        if value is None and target != "MASQUERADE":
            _fail(f"target {target} needs --{option}")
        return value

    def _with_networks(self, rule: Rule) -> Rule:
        """The rule with its prefixes, and with the family that all addresses agree on."""
        families = {} if rule.addresses is None else {rule.addresses.first.version: "target"}
        networks = {}
        for name in ("source", "destination"):
            text = self.given.get(name)
            if text is None:
                continue
            if "," in text:
                _fail(f"a list of addresses ({text}) is not available: write a rule for each")
            network = parse_network(text)
            families[network.version] = text
            networks[name] = network if network.prefixlen else None
        if len(families) > 1:
            _fail(f"the rule mixes IPv4 and IPv6 addresses: {' and '.join(families.values())}")
        family = next(iter(families), self.family or 4)
        if self.family and family != self.family:
            program = "iptables" if self.family == 4 else "ip6tables"
            _fail(f"{program} cannot take IPv{family} addresses")
        return replace(
            rule,
            family=family,
            source=networks.get("source"),
            destination=networks.get("destination"),
        )


def _long_names(name: str) -> list[str]:
    """The options that a long name, perhaps abbreviated, stands for."""
    if name in _LONG:
        return [_LONG[name]]
    names = sorted({full for alias, full in _LONG.items() if alias.startswith(name)})
    if not names:
        _fail(f"option --{name} is not available")
    if len(names) > 1 and not set(names) <= set(_TARGET_OPTION.values()):
        _fail(f"option --{name} is ambiguous: {', '.join(f'--{full}' for full in names)}")
    return names


def _protocol(text: str) -> int | None:
    return None if text.lower() in ("all", "0") else parse_protocol(text)


def _ports(text: str | None, option: str, protocol: int | None) -> PortRange | None:
    if text is None:
        return None
    if protocol not in (6, 17, 132):
        _fail(f"{option} needs -p tcp, udp or sctp before it")
    first, colon, last = text.partition(":")
    low = _port(first or "0", protocol, text)
    return PortRange(low, _port(last or "65535", protocol, text)) if colon else PortRange(low, low)


def _port(text: str, protocol: int, whole: str) -> int:
    if not text.isascii() or not text.isdigit():
        try:
            return socket.getservbyname(text, protocol_name(protocol))
        except OSError:
            _fail(f"{whole!r} is not a port or a range of ports")
    return parse_ports(text).first


# Command to effect


@contextmanager
def _numbered(number: int) -> Iterator[None]:
    try:
        yield
    except CommandError as error:
        raise CommandError(f"line {number}: {error}", error.status) from None


def apply(engine: "Engine", command: Command) -> str:
    """Carry out one command and return what it prints.

    Raises:
        CommandError: the command was refused; nothing was changed.
    """
    rules = [
        rule
        for rule in engine.rules
        if command.chain in ("", rule.chain) and command.family in (0, rule.family)
    ]
    try:
        match command.action:
            case "append" if command.rule:
                _append(engine, command.rule)
            case "insert" if command.rule:
                _insert(engine, command.rule, _pick(rules, command, extra=1))
            case "delete":
                found = _pick(rules, command) if command.number else _same(rules, command)
                if found is not None:
                    engine.remove_rule(found)
            case "flush":
                for rule in rules:
                    engine.remove_rule(rule)
            case "list-rules":
                chains = (command.chain,) if command.chain else _ALL_CHAINS
                lines = [f"-P {chain} ACCEPT" for chain in chains] + [
                    format_rule(rule) for rule in rules
                ]
                return "".join(f"{line}\n" for line in lines)
    except CommandError:
        raise
    except (ConfigError, LimitError, NotFoundError) as error:
        raise CommandError(str(error)) from None
    return ""


def _pick(rules: list[Rule], command: Command, extra: int = 0) -> Rule | None:
    if command.number > len(rules) + extra:
        _fail(f"no rule {command.number} in {command.chain}, which has {len(rules)}", 1)
    return rules[command.number - 1] if command.number <= len(rules) else None


def _same(rules: list[Rule], command: Command) -> Rule:
    for rule in rules:
        if rule == command.rule:
            return rule
    _fail("no such rule" + (f": {format_rule(command.rule)}" if command.rule else ""), 1)


def _append(engine: "Engine", rule: Rule) -> Rule:
    matching = {
        "source": rule.source,
        "destination": rule.destination,
        "protocol": rule.protocol,
        "source_ports": rule.source_ports,
        "destination_ports": rule.destination_ports,
    }
    if rule.target == "DNAT":
        return engine.add_dnat(_format_target(rule), **matching)  # type: ignore[arg-type]
    out = rule.out_interface
    if rule.target == "SNAT":
        return engine.add_snat(
            _format_target(rule),
            out_interface=out,
            **matching,  # type: ignore[arg-type]
        )
    return engine.add_masquerade(
        to_ports=rule.ports,
        out_interface=out,
        family=rule.family,
        **matching,  # type: ignore[arg-type]
    )


def _insert(engine: "Engine", rule: Rule, before: Rule | None) -> None:
    added = _append(engine, rule)
    if before is None:
        return
    chain = [other for other in engine.rules if other.chain == rule.chain and other is not added]
    chain.insert(next(i for i, other in enumerate(chain) if other is before), added)
    engine._install_rules(chain, rule.chain == "PREROUTING")


# Effect to words


def format_rule(rule: Rule) -> str:
    """Return the rule as ``iptables -S`` and iptables-save write it."""
    return f"-A {rule.chain} {' '.join(_rule_words(rule))}"


def _rule_words(rule: Rule) -> Iterator[str]:
    if rule.source is not None and rule.source.prefixlen:
        yield f"-s {rule.source}"
    if rule.destination is not None and rule.destination.prefixlen:
        yield f"-d {rule.destination}"
    if rule.out_interface is not None:
        yield f"-o {rule.out_interface}"
    if rule.protocol is not None:
        name = "ipv6-icmp" if rule.protocol == PROTOCOLS["icmpv6"] else protocol_name(rule.protocol)
        yield f"-p {name}"
        if rule.source_ports or rule.destination_ports:
            yield f"-m {name}"
    if rule.source_ports:
        yield f"--sport {_format_ports(rule.source_ports)}"
    if rule.destination_ports:
        yield f"--dport {_format_ports(rule.destination_ports)}"
    yield f"-j {rule.target}"
    if rule.target != "MASQUERADE":
        yield f"--{_TARGET_OPTION[rule.target]} {_format_target(rule)}"
    elif rule.ports is not None:
        yield f"--to-ports {rule.ports}"


def _format_ports(ports: PortRange) -> str:
    return str(ports).replace("-", ":")


def _format_target(rule: Rule) -> str:
    addresses = rule.addresses
    assert isinstance(addresses, AddressRange)
    if rule.ports is None:
        return str(addresses)
    return f"[{addresses}]:{rule.ports}" if rule.family == 6 else f"{addresses}:{rule.ports}"


def save(engine: "Engine", family: int = 4) -> str:
    """Return the rules of one family (4 or 6) as iptables-save or ip6tables-save prints them."""
    lines = ["*nat", *(f":{chain} ACCEPT [0:0]" for chain in _ALL_CHAINS)]
    lines += [format_rule(rule) for rule in engine.rules if rule.family == family]
    return "".join(f"{line}\n" for line in [*lines, "COMMIT"])


def restore(engine: "Engine", text: str, family: int = 4) -> None:
    """Replace the rules of one family by those that :func:`save` wrote.

    Raises:
        CommandError: a line cannot be read or carried out; the message begins with its number,
            and the rules are as they were.
    """
    program = "iptables" if family == 4 else "ip6tables"
    commands = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0][0] in "#:" or line.strip() in ("*nat", "COMMIT"):
            continue
        with _numbered(number):
            if words[0] not in ("-A", "--append"):
                _fail(f"{line.strip()!r} is not a rule of table nat: expected -A")
            commands.append((number, parse([program, "-t", "nat", *split(line)])))
    before = engine.rules
    try:
        apply(engine, Command("flush", family=family))
        for number, command in commands:
            with _numbered(number):
                apply(engine, command)
    except BaseException:
        for chain in CHAINS:
            rules = [rule for rule in before if rule.chain == chain]
            engine._install_rules(rules, chain == "PREROUTING")
        raise
