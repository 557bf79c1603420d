"""From the words of an iptables command line to a Command."""

import contextlib
import re
import shlex
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from lvscore.addresses import (
    AddressRange,
    Network,
    PortRange,
    parse_network,
    parse_port,
    parse_ports,
    parse_target,
    protocol_name,
)
from lvscore.errors import CommandError, ConfigError
from lvscore.integers import parse_decimal, parse_unsigned
from lvscore.model import TARGETS, Mark, Multiport, Rule
from lvscore.nat import CHAINS

__all__ = ["ALL_CHAINS", "FAMILIES", "Command", "fail", "parse", "split"]

FAMILIES = {"iptables": 4, "ip6tables": 6}
ALL_CHAINS = {
    "raw": ("PREROUTING", "OUTPUT"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
}
"""The chains that iptables lists, also those that have no rules here."""

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "gre": 47, "esp": 50, "ah": 51, "icmpv6": 58,
             "ipv6-icmp": 58, "sctp": 132}  # fmt: skip
_ACTIONS = {"append", "insert", "delete", "check", "replace", "flush", "zero", "list-rules", "list",
            "policy", "delete-chain"}  # fmt: skip
_WHOLE_CHAIN = {"flush", "zero", "list-rules", "list", "delete-chain"}
_SHORT = {
    "t": "table",
    "A": "append",
    "I": "insert",
    "D": "delete",
    "C": "check",
    "R": "replace",
    "F": "flush",
    "Z": "zero",
    "S": "list-rules",
    "L": "list",
    "P": "policy",
    "X": "delete-chain",
    "s": "source",
    "d": "destination",
    "p": "protocol",
    "m": "match",
    "j": "jump",
    "i": "in-interface",
    "o": "out-interface",
    "n": "numeric",
    "v": "verbose",
    "x": "exact",
    "w": "wait",
}
_LISTING = {"numeric", "verbose", "exact", "line-numbers"}
_LONG = {
    **{name: name for name in _SHORT.values()},
    "src": "source",
    "dst": "destination",
    "proto": "protocol",
    "line-numbers": "line-numbers",
}
_MATCHES: dict[str, dict[str, str]] = {
    "tcp": {
        "sport": "sport",
        "source-port": "sport",
        "dport": "dport",
        "destination-port": "dport",
    },
    "multiport": {
        "sports": "sports",
        "source-ports": "sports",
        "dports": "dports",
        "destination-ports": "dports",
        "ports": "ports",
    },
    "mark": {"mark": "mark"},
    "ipvs": {"vaddr": "vaddr"},
}
_MATCHES["udp"] = _MATCHES["sctp"] = _MATCHES["tcp"]
_SERVICE = re.compile("[A-Za-z][A-Za-z0-9+._-]*")
_WITH_PORTS = ("tcp", "udp", "sctp")
_RANDOM = {"random": "random"}
_RANDOMS = {**_RANDOM, "random-fully": "random-fully"}
_TARGET_OPTIONS: dict[str, dict[str, str]] = {
    "DNAT": {"to-destination": "to", **_RANDOM, "persistent": "persistent"},
    "SNAT": {"to-source": "to", **_RANDOMS, "persistent": "persistent"},
    "MASQUERADE": {"to-ports": "to", **_RANDOMS},
    "REDIRECT": {"to-ports": "to", **_RANDOM},
    "NETMAP": {"to": "to"},
    "MARK": {name: name for name in ("set-mark", "set-xmark", "and-mark", "or-mark", "xor-mark")},
    "CT": {"helper": "helper"},
    "ACCEPT": {},
    "RETURN": {},
}
_FLAGS = {"random", "random-fully", "persistent", *_LISTING}
_NEGATABLE = {
    "source", "destination", "protocol", "in-interface", "out-interface",
    "sport", "dport", "sports", "dports", "ports", "mark", "vaddr",
}  # fmt: skip
_FIELDS = {
    "in-interface": "in_interface", "out-interface": "out_interface", "sport": "source_ports",
    "dport": "destination_ports", "sports": "multiport", "dports": "multiport",
    "ports": "multiport", "vaddr": "virtual_address",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Command:
    """One command line, checked.

    ``action`` is the long name of what to do; ``chain`` and ``number`` are ``""`` and 0 where
    they were not given; ``rules`` are the rules meant: more than one where lists of addresses
    were given; ``family`` is 4, 6 or 0 for both; ``listing`` names the options of a listing.
    """

    action: str
    table: str = "nat"
    chain: str = ""
    number: int = 0
    rules: tuple[Rule, ...] = ()
    family: int = 0
    listing: frozenset[str] = frozenset()


def split(line: str) -> list[str]:
    """Return the words of a line as a shell would take it.

    Raises:
        CommandError: a quote is left open.
    """
    try:
        return shlex.split(line)
    except ValueError as error:
        raise CommandError(f"cannot split {line!r} into words: {error}") from None


def fail(message: str, status: int = 2) -> NoReturn:
    """Refuse a command line."""
    raise CommandError(message, status)


def parse(words: Sequence[str]) -> Command:
    """Read the words of a command line; ``iptables`` or ``ip6tables`` may lead them.

    Raises:
        CommandError: naming the word and what was expected.
    """
    family = FAMILIES.get(words[0], 0) if words else 0
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
    negate: bool = False
    given: dict[str, str] = field(default_factory=dict)
    negated: set[str] = field(default_factory=set)
    matches: list[str] = field(default_factory=list)
    # Options of targets: which they are depends on the target, which may come later.
    later: list[tuple[str, str]] = field(default_factory=list)

    def command(self) -> Command:
        self.words = self._target_first(self.words)
        while self.words:
            self._read(self.words.pop(0))
        if self.negate:
            fail("nothing behind !")
        table = self.given.pop("table", "filter")
        if table not in ALL_CHAINS:
            fail(f"table {table} is not available: expected -t nat, -t mangle or -t raw")
        if not self.action:
            fail("no command: expected -A, -I, -D, -C, -R, -F, -Z, -S, -L, -P or -X")
        self._check_chain(table)
        listing = frozenset(self.given.keys() & _LISTING)
        for name in listing:
            if self.action not in ("list", "list-rules"):
                fail(f"option --{name} is only for -L and -S")
            del self.given[name]
        without_rule = self.action in _WHOLE_CHAIN or (self.number and self.action == "delete")
        if without_rule or self.action == "policy":
            if self.given or self.matches or self.later:
                fail(f"a rule cannot be given with --{self.action} here")
            return Command(self.action, table, self.chain, self.number, (), self.family, listing)
        rules = tuple(self._rules(table))
        if self.action == "replace" and (len(rules) != 1 or not self.number):
            fail("-R needs the number of a rule, and one rule")
        return Command(self.action, table, self.chain, self.number, rules, self.family)

    def _target_first(self, words: list[str]) -> list[str]:
        """Bring -j to the front, since it tells what the options of the target are."""
        for position, word in enumerate(words):
            if word in ("-j", "--jump") and position + 1 < len(words):
                rest = words[:position] + words[position + 2 :]
                return [word, words[position + 1], *rest]
            if word.startswith("-j") and not word.startswith("--") and len(word) > 2:
                return [word, *words[:position], *words[position + 1 :]]
        return words

    def _check_chain(self, table: str) -> None:
        if self.action in _WHOLE_CHAIN and not self.chain:
            return
        known = [chain for name, chain in CHAINS if name == table]
        shown = self.action in ("list", "list-rules", "flush", "zero", "policy")
        if self.chain in known or (shown and self.chain in ALL_CHAINS[table]):
            return
        fail(f"chain {self.chain!r} is not available: expected {' or '.join(known)}")

    def _read(self, word: str) -> None:
        if word == "!":
            if self.negate:
                fail("multiple consecutive ! are not allowed")
            self.negate = True
        elif word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            option = self._long_name(name)
            self._take(option, value if equals else self._value(option, word), word)
        elif word.startswith("-") and len(word) > 1:
            if word[1] not in _SHORT:
                fail(f"option {word[:2]} is not available")
            option = _SHORT[word[1]]
            if option in _LISTING and len(word) > 2:
                self.words.insert(0, "-" + word[2:])  # -nv is -n -v
                self._take(option, "", word[:2])
            else:
                self._take(option, word[2:] or self._value(option, word), word[:2])
        else:
            fail(f"unexpected word {word!r}")

    def _known(self) -> dict[str, str]:
        """Long options that may stand here, and what they stand for."""
        known = dict(_LONG)
        protocol = "" if "protocol" not in self.given else protocol_name(
            _protocol(self.given["protocol"]) or 0
        )  # fmt: skip
        for match in [*self.matches, protocol]:
            known.update(_MATCHES.get(match, {}))
        known.update(_TARGET_OPTIONS.get(self.given.get("jump", ""), {}))
        return known

    def _long_name(self, name: str) -> str:
        """The option that a long name, perhaps abbreviated, stands for."""
        known = self._known()
        if name in known:
            return known[name]
        names = sorted({full for alias, full in known.items() if alias.startswith(name)})
        if not names:
            for match, options in _MATCHES.items():
                if name in options:
                    needed = "-p tcp, udp or sctp" if match == "tcp" else f"-m {match}"
                    fail(f"--{name} needs {needed} before it")
            fail(f"option --{name} is not available")
        if len(names) > 1:
            fail(f"option --{name} is ambiguous: {', '.join(f'--{full}' for full in names)}")
        return names[0]

    def _value(self, option: str, word: str) -> str:
        if option in _FLAGS:
            return ""
        if option in _WHOLE_CHAIN or option == "wait":
            return self.words.pop(0) if self.words and self.words[0][:1] not in "-!" else ""
        if not self.words:
            fail(f"option {word} needs a value")
        return self.words.pop(0)

    def _take(self, option: str, value: str, word: str) -> None:
        if value == "!":
            fail(f"! stands before an option, not behind: ! {word}")
        if option == "wait":
            return
        if self.negate:
            if option not in _NEGATABLE:
                fail(f"option {word} cannot be negated")
            self.negated.add(_FIELDS.get(option, option))
            self.negate = False
        if option in _ACTIONS:
            self._take_action(option, value, word)
        elif option == "match":
            if value not in _MATCHES:
                fail(f"match {value} is not available")
            self.matches.append(value)
        elif option in self.given and option not in _LISTING:
            fail(f"multiple --{option} options")
        else:
            self.given[option] = value

    def _take_action(self, option: str, value: str, word: str) -> None:
        if self.action:
            fail(f"--{self.action} and {word} cannot be used together")
        self.action, self.chain = option, value
        if option == "policy":
            if not self.words or self.words.pop(0) != "ACCEPT":
                fail("the only policy that is available is ACCEPT")
        elif option == "insert":
            self.number = 1
        if option in ("insert", "delete", "replace", "list-rules", "list", "zero") and (
            self.words and (number := parse_decimal(self.words[0], 0, 2**31 - 1)) is not None
        ):
            self.number = number
            if self.number == 0:
                fail(f"rule number 0 with --{option}: expected 1 or more")
            del self.words[0]

    # The rule

    def _rules(self, table: str) -> list[Rule]:
        given = self.given
        target = given.get("jump") or fail(f"no target: expected -j {', '.join(TARGETS)}")
        if target not in TARGETS:
            fail(f"target {target} is not available: expected {', '.join(TARGETS)}")
        protocol = _protocol(given.get("protocol", "all"))
        for name in self.matches:
            if name in _WITH_PORTS and (protocol is None or name != protocol_name(protocol)):
                fail(f"match {name} is not available" + (": no -p" if protocol is None else ""))
            elif name not in _WITH_PORTS and not set(_MATCHES[name].values()) & given.keys():
                fail(f"match {name} has no option: expected --{next(iter(_MATCHES[name]))}")
        sources = _networks(given.get("source"))
        destinations = _networks(given.get("destination"))
        if len(sources) * len(destinations) > 1 and {"source", "destination"} & self.negated:
            fail("! cannot be used with a list of addresses")
        return [
            self._rule(table, target, protocol, source, destination)
            for source in sources
            for destination in destinations
        ]

    def _rule(
        self, table: str, target: str, protocol: int | None, source: Network | None,
        destination: Network | None,
    ) -> Rule:  # fmt: skip
        given = self.given
        addresses, ports, base = self._to(target)
        virtual = parse_network(given["vaddr"]) if "vaddr" in given else None
        random = next((name for name in ("random-fully", "random") if name in given), "")
        return Rule(
            target=target,
            family=self._family([source, destination, virtual], addresses),
            addresses=addresses,
            ports=ports,
            source=source,
            destination=destination,
            protocol=protocol,
            source_ports=_ports(given.get("sport"), "--sport", protocol),
            destination_ports=_ports(given.get("dport"), "--dport", protocol),
            out_interface=given.get("out-interface"),
            in_interface=given.get("in-interface"),
            multiport=self._multiport(protocol),
            mark=_mark(given["mark"]) if "mark" in given else None,
            virtual_address=virtual,
            negated=frozenset(self.negated),
            random=random,
            persistent="persistent" in given,
            port_base=base,
            set_mark=self._set_mark() if target == "MARK" else None,
            helper=given["helper"] if "helper" in given else self._no_helper(target),
            chain=self.chain,
            table=table,
        )

    def _no_helper(self, target: str) -> str:
        """What stands for a helper where none was given."""
        return fail("target CT needs --helper") if target == "CT" else ""

    def _to(self, target: str) -> tuple[AddressRange | None, PortRange | None, int | None]:
        """Addresses and ports to translate to, and the port that the first stands for."""
        text = self.given.get("to")
        if text is None:
            if target in ("DNAT", "SNAT", "NETMAP"):
                fail(f"target {target} needs --{next(iter(_TARGET_OPTIONS[target]))}")
            return None, None, None
        if target in ("MASQUERADE", "REDIRECT"):
            return None, parse_ports(_numbered("", "", text)), None
        if target == "NETMAP":
            network = parse_network(text)
            return AddressRange(network[0], network[-1]), None, None
        if ":" in text:
            text = _numbered(*text.rpartition(":"))
        base = None
        if target == "DNAT" and "/" in text:
            text, _, base_text = text.partition("/")
            base = parse_port(base_text, whole=text)
        addresses, ports = parse_target(text)
        return addresses, ports, base

    def _multiport(self, protocol: int | None) -> Multiport | None:
        sides = {"sports": "source", "dports": "destination", "ports": "either"}
        names = [name for name in sides if name in self.given]
        if not names:
            return None
        if len(names) > 1:
            fail(f"--{names[0]} and --{names[1]} cannot be used together")
        if protocol not in (6, 17, 132):
            fail("match multiport needs -p tcp, udp or sctp")
        ports = [_port_range(text, protocol) for text in self.given[names[0]].split(",")]
        return Multiport(sides[names[0]], tuple(ports))

    def _set_mark(self) -> Mark:
        options = [name for name in _TARGET_OPTIONS["MARK"] if name in self.given]
        if len(options) != 1:
            fail(f"target MARK needs one of --{', --'.join(_TARGET_OPTIONS['MARK'])}")
        value, mask = _mark(self.given[options[0]])
        match options[0]:
            case "set-mark":
                return Mark(value, value | mask)
            case "and-mark":
                return Mark(0, ~value & 0xFFFFFFFF)
            case "or-mark":
                return Mark(value, value)
            case "xor-mark":
                return Mark(value, 0)
        return Mark(value, mask)

    def _family(self, networks: list[Network | None], addresses: AddressRange | None) -> int:
        """The family that all addresses agree on."""
        families = {network.version for network in networks if network is not None}
        if addresses is not None:
            families.add(addresses.first.version)
        if len(families) > 1:
            fail("the rule mixes IPv4 and IPv6 addresses")
        family = next(iter(families), self.family or 4)
        if self.family and family != self.family:
            program = "iptables" if self.family == 4 else "ip6tables"
            fail(f"{program} cannot take IPv{family} addresses")
        return family


def _networks(text: str | None) -> list[Network | None]:
    """The prefixes of a list; the whole of a family is none."""
    if text is None:
        return [None]
    networks = [parse_network(part) for part in text.split(",")]
    return [network if network.prefixlen else None for network in networks]


def _protocol(text: str) -> int | None:
    name = text.lower()
    if name in ("all", "0"):
        return None
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    number = parse_decimal(name, 1, 0xFF)
    if number is not None:
        return number
    fail(f"unknown protocol {text!r}: expected a number or one of {', '.join(PROTOCOLS)}")


def _ports(text: str | None, option: str, protocol: int | None) -> PortRange | None:
    if text is None:
        return None
    if protocol not in (6, 17, 132):
        fail(f"{option} needs -p tcp, udp or sctp before it")
    return _port_range(text, protocol)


def _port_range(text: str, protocol: int) -> PortRange:
    first, colon, last = text.partition(":")
    low = _port(first or "0", protocol, text)
    return parse_ports((low, _port(last or "65535", protocol, text) if colon else low))


def _port(text: str, protocol: int, whole: str) -> int:
    if not text.isascii() or not text.isdigit():
        try:
            return socket.getservbyname(text, protocol_name(protocol))
        except (OSError, ValueError):
            fail(f"{whole!r} is not a port or a range of ports")
    return parse_port(text, whole=whole)


def _numbered(address: str, colon: str, port: str) -> str:
    """A target whose port may be the name of a service, with its number instead."""
    if _SERVICE.fullmatch(port) and (address.endswith("]") or ":" not in address):
        with contextlib.suppress(OSError):
            port = str(socket.getservbyname(port))
    return f"{address}{colon}{port}"


def _mark(text: str) -> Mark:
    value, slash, mask = text.partition("/")
    number = parse_unsigned(value, 0xFFFFFFFF)
    bits = parse_unsigned(mask, 0xFFFFFFFF) if slash else 0xFFFFFFFF
    if number is None or bits is None:
        fail(f"{text!r} is not a mark: expected value or value/mask, in 0..2**32-1")
    return Mark(number, bits)
