"""conntrack's language: ``-L``, ``-D``, ``-F`` and ``-C`` with the tool's filters and formats.

The lines are those of conntrack-tools 1.4.7 (libnetfilter_conntrack, snprintf_default.c). An
option that does not exist here is refused by name.
"""

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from lvscore import _engine
from lvscore.addresses import (
    PROTOCOLS,
    Address,
    Network,
    parse_network,
    parse_port,
)
from lvscore.connections import connection_dtype
from lvscore.constants import State
from lvscore.errors import AddressError, CommandError
from lvscore.model import Outcome

if TYPE_CHECKING:
    from lvscore.engine import Engine

__all__ = ["Entry", "Side", "entries", "execute", "format_entry", "run"]

_PROTOCOLS = {**PROTOCOLS, "gre": 47, "dccp": 33, "udplite": 136}
_NAMES = {number: name for name, number in _PROTOCOLS.items()}
_FAMILIES = {"ipv4": 4, "ipv6": 6}
_ICMP_ANSWERS = {8: 0, 13: 14, 15: 16, 17: 18, 128: 129}
_WITH_PORTS = (6, 17, 33, 132, 136)
_TITLE = "conntrack v1.4.7 (conntrack-tools): "


class Side(NamedTuple):
    """One tuple of a connection. Of ICMP the ports are (identifier, type << 8 | code)."""

    source: Address
    destination: Address
    source_port: int
    destination_port: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A connection as conntrack sees it."""

    family: int
    protocol: int
    seconds: int
    """Until it expires."""
    state: str
    """Of TCP and SCTP, else empty."""
    original: Side
    reply: Side
    replied: bool
    assured: bool
    packets: tuple[int, int]
    bytes: tuple[int, int]
    id: int

    @property
    def source_nat(self) -> Address | None:
        """What the source is translated to."""
        translated = self.reply.destination, self.reply.destination_port
        if self.protocol in (1, 58):
            translated = self.reply.destination, self.reply.source_port
        if translated == (self.original.source, self.original.source_port):
            return None
        return self.reply.destination

    @property
    def destination_nat(self) -> Address | None:
        """What the destination is translated to."""
        here = self.original.destination, self.original.destination_port
        there = self.reply.source, self.reply.source_port
        if self.protocol in (1, 58):
            return None if here[0] == there[0] else there[0]
        return None if here == there else self.reply.source


def entries(engine: "Engine") -> list[Entry]:
    """The connections that conntrack knows, in no particular order."""
    import numpy

    rows = numpy.frombuffer(_engine.conntrack_snapshot(engine), connection_dtype())
    return [_entry(row) for row in rows]


def _entry(row: Any) -> Entry:
    family = int(row["family"])

    def address(name: str) -> Address:
        packed = row[name].tobytes()
        return ip_address(packed[12:]) if family == 4 else IPv6Address(packed)

    def port(name: str) -> int:
        return int(row[name + "_port"])

    protocol = int(row["protocol"])
    original = Side(address("client"), address("virtual"), port("client"), port("virtual"))
    reply = Side(address("server"), address("local"), port("server"), port("local"))
    if protocol in (1, 58):
        answer = _ICMP_ANSWERS.get(reply.source_port >> 8, 0)
        kind = answer << 8 | reply.source_port & 0xFF
        reply = reply._replace(source_port=reply.destination_port, destination_port=kind)
    state = State(int(row["state"])).name if protocol in (6, 132) else ""
    if state == "SHUTDOWN_RECEIVED":
        state = "SHUTDOWN_RECD"
    return Entry(
        family=family,
        protocol=protocol,
        seconds=max(0, int(row["expires_ns"])) // 1_000_000_000,
        state=state,
        original=original,
        reply=reply,
        replied=bool(row["seen_reply"]),
        assured=bool(row["assured"]),
        packets=(int(row["packets_in"]), int(row["packets_out"])),
        bytes=(int(row["bytes_in"]), int(row["bytes_out"])),
        id=int(row["id"]),
    )


def format_entry(
    entry: Entry, *, extended: bool = False, id: bool = False, counters: bool = False
) -> str:
    """Return the line that the conntrack tool prints.

    Args:
        extended: begin with the network protocol (``-o extended``).
        id: end with the identifier (``-o id``), which means nothing but sameness.
        counters: with packets and bytes (``nf_conntrack_acct``).
    """
    return " ".join(_words(entry, extended, id, counters))


def _words(entry: Entry, extended: bool, id: bool, counters: bool) -> Iterator[str]:
    if extended:
        yield f"{'ipv4' if entry.family == 4 else 'ipv6':<8} {2 if entry.family == 4 else 10}"
    yield f"{_NAMES.get(entry.protocol, 'unknown'):<8} {entry.protocol}"
    yield str(entry.seconds)
    if entry.state:
        yield entry.state
    yield from _side_words(entry, entry.original)
    if counters:
        yield f"packets={entry.packets[0]} bytes={entry.bytes[0]}"
    if not entry.replied:
        yield "[UNREPLIED]"
    yield from _side_words(entry, entry.reply)
    if counters:
        yield f"packets={entry.packets[1]} bytes={entry.bytes[1]}"
    if entry.assured:
        yield "[ASSURED]"
    yield "mark=0 use=1"
    if id:
        yield f"id={entry.id}"


def _side_words(entry: Entry, side: Side) -> Iterator[str]:
    yield f"src={side.source} dst={side.destination}"
    if entry.protocol in _WITH_PORTS:
        yield f"sport={side.source_port} dport={side.destination_port}"
    elif entry.protocol in (1, 58):
        kind = side.destination_port
        yield f"type={kind >> 8} code={kind & 0xFF} id={side.source_port}"
    elif entry.protocol == 47:
        yield "srckey=0x0 dstkey=0x0"


# Command lines

_COMMANDS = {
    **dict.fromkeys(("-L", "--dump"), "list"),
    **dict.fromkeys(("-D", "--delete"), "delete"),
    **dict.fromkeys(("-F", "--flush"), "flush"),
    **dict.fromkeys(("-C", "--count"), "count"),
}
_OPTIONS = {
    **dict.fromkeys(("-s", "--src", "--orig-src"), "orig-src"),
    **dict.fromkeys(("-d", "--dst", "--orig-dst"), "orig-dst"),
    **dict.fromkeys(("-r", "--reply-src"), "reply-src"),
    **dict.fromkeys(("-q", "--reply-dst"), "reply-dst"),
    **dict.fromkeys(("--sport", "--orig-port-src"), "orig-port-src"),
    **dict.fromkeys(("--dport", "--orig-port-dst"), "orig-port-dst"),
    "--reply-port-src": "reply-port-src",
    "--reply-port-dst": "reply-port-dst",
    **dict.fromkeys(("-p", "--proto", "--protonum"), "proto"),
    **dict.fromkeys(("-f", "--family"), "family"),
    **dict.fromkeys(("-n", "--src-nat"), "src-nat"),
    **dict.fromkeys(("-g", "--dst-nat"), "dst-nat"),
    **dict.fromkeys(("-j", "--any-nat"), "any-nat"),
    **dict.fromkeys(("-u", "--status"), "status"),
    "--state": "state",
    **dict.fromkeys(("-o", "--output"), "output"),
}
_OPTIONAL_VALUE = {"src-nat", "dst-nat", "any-nat"}
_OUTPUTS = {"extended", "id"}

Filter = Callable[[Entry], bool]


def run(engine: "Engine", command: str | Sequence[str]) -> str:
    """Carry out one conntrack command line and return what it prints on standard output.

    Raises:
        CommandError: the command was refused, or there was nothing to delete; then nothing was
            changed.
    """
    try:
        words = shlex.split(command) if isinstance(command, str) else list(command)
    except ValueError as error:
        _fail(f"cannot split {command!r}: {error}")
    request = _parse(words[1:] if words[:1] == ["conntrack"] else words)
    text, _ = _carry_out(engine, request)
    return text


def execute(engine: "Engine", words: Sequence[str]) -> Outcome:
    """Run the conntrack tool as a shell would: nothing that it is told raises.

    Its summary ("... 3 flow entries have been shown.") goes to standard error, as the tool's.
    """
    try:
        request = _parse(list(words))
        text, count = _carry_out(engine, request)
    except CommandError as error:
        return Outcome(error.status, "", f"{error}\n")
    summary = {
        "list": f"{_TITLE}{count} flow entries have been shown.\n",
        "delete": f"{_TITLE}{count} flow entries have been deleted.\n",
        "flush": f"{_TITLE}connection tracking table has been emptied.\n",
    }
    return Outcome(0, text, summary.get(request.action, ""))


def _carry_out(engine: "Engine", request: "_Request") -> tuple[str, int]:
    """What a command prints, and how many entries it was about."""
    if request.action == "count":
        return f"{len(entries(engine))}\n", 0
    if request.action == "flush":
        for entry in entries(engine):
            _engine.conntrack_end(engine, entry.id)
        return "", 0
    chosen = [e for e in entries(engine) if all(test(e) for test in request.filters)]
    if request.action == "delete":
        if not chosen:
            raise CommandError(f"{_TITLE}0 flow entries have been deleted.", 1)
        for entry in chosen:
            _engine.conntrack_end(engine, entry.id)
    counters = bool(engine.sysctl["net.netfilter.nf_conntrack_acct"])
    lines = [
        format_entry(
            entry,
            extended="extended" in request.outputs,
            id="id" in request.outputs,
            counters=counters,
        )
        for entry in chosen
    ]
    return "".join(f"{line}\n" for line in lines), len(chosen)


@dataclass
class _Request:
    action: str = ""
    filters: list[Filter] = field(default_factory=list)
    outputs: set[str] = field(default_factory=set)


def _fail(message: str) -> NoReturn:
    raise CommandError(f"conntrack: {message}", 2)


def _parse(words: list[str]) -> _Request:
    request = _Request()
    given: dict[str, str] = {}
    while words:
        word = words.pop(0)
        name, equals, attached = word.partition("=")
        if word in _COMMANDS:
            if request.action:
                _fail(f"command {word} besides another")
            request.action = _COMMANDS[word]
            if words and words[0][:1] != "-" and words.pop(0) != "conntrack":
                _fail(f"no table but conntrack is available with {word}")
        elif (
            word != "-"
            and (option := _OPTIONS.get(name if name.startswith("--") else word)) is not None
        ):
            if option in given:
                _fail(f"option {name} is given twice")
            given[option] = attached if equals else _value(option, name, words)
        else:
            _fail(f"option {word} is not available")
    if not request.action:
        _fail("no command: expected -L, -D, -F or -C")
    if request.action in ("flush", "count") and given:
        _fail(f"option --{next(iter(given))} is not available with --{request.action}")
    for option, text in given.items():
        _take(request, option, text, given)
    return request


def _value(option: str, name: str, words: list[str]) -> str:
    if words and words[0][:1] != "-":
        return words.pop(0)
    if option in _OPTIONAL_VALUE:
        return ""
    _fail(f"option {name} needs a value")


def _take(request: _Request, option: str, text: str, given: dict[str, str]) -> None:
    if option == "output":
        for name in text.split(","):
            if name not in _OUTPUTS:
                expected = " or ".join(sorted(_OUTPUTS))
                _fail(f"output {name!r} is not available: expected {expected}")
            request.outputs.add(name)
        return
    request.filters.append(_filter(option, text, given))


def _filter(option: str, text: str, given: dict[str, str]) -> Filter:
    match option:
        case "family":
            if text not in _FAMILIES:
                _fail(f"unknown family {text!r}: expected ipv4 or ipv6")
            return lambda entry: entry.family == _FAMILIES[text]
        case "proto":
            number = _protocol(text)
            return lambda entry: entry.protocol == number
        case "state":
            if _protocol(given.get("proto", "0")) not in (6, 132):
                _fail("--state needs -p tcp or sctp")
            return lambda entry: entry.state == text.upper()
        case "status":
            return _status(text)
        case "src-nat" | "dst-nat" | "any-nat":
            return _nat(option, text)
        case _ if "port" in option:
            if _protocol(given.get("proto", "0")) not in _WITH_PORTS:
                _fail(f"--{option} needs -p tcp, udp or sctp")
            return _port(option, text)
        case _:
            return _address(option, text)


def _protocol(text: str) -> int:
    name = {"ipv6-icmp": "icmpv6"}.get(text.lower(), text.lower())
    if name in _PROTOCOLS:
        return _PROTOCOLS[name]
    if name.isdigit() and int(name) < 256:
        return int(name)
    _fail(f"unknown protocol {text!r}")


def _network(text: str) -> Network:
    try:
        return parse_network(text)
    except AddressError as error:
        _fail(str(error))


def _within(address: Address | None, network: Network | None) -> bool:
    if address is None:
        return False
    return network is None or (address.version == network.version and address in network)


def _address(option: str, text: str) -> Filter:
    network = _network(text)
    name = "source" if option.endswith("src") else "destination"
    tuple_name = option.partition("-")[0].replace("orig", "original")
    return lambda entry: _within(getattr(getattr(entry, tuple_name), name), network)


def _port(option: str, text: str) -> Filter:
    try:
        port = parse_port(text)
    except AddressError as error:
        _fail(str(error))
    name = "source_port" if option.endswith("src") else "destination_port"
    tuple_name = option.partition("-")[0].replace("orig", "original")
    return lambda entry: bool(getattr(getattr(entry, tuple_name), name) == port)


def _nat(option: str, text: str) -> Filter:
    network = _network(text) if text else None

    def test(entry: Entry) -> bool:
        return (option != "dst-nat" and _within(entry.source_nat, network)) or (
            option != "src-nat" and _within(entry.destination_nat, network)
        )

    return test


def _status(text: str) -> Filter:
    tests: dict[str, Filter] = {
        "ASSURED": lambda entry: entry.assured,
        "SEEN_REPLY": lambda entry: entry.replied,
        "UNREPLIED": lambda entry: not entry.replied,
        "SRC_NAT": lambda entry: entry.source_nat is not None,
        "DST_NAT": lambda entry: entry.destination_nat is not None,
    }
    names = text.upper().split(",")
    for name in names:
        if name not in tests:
            _fail(f"status {name!r} is not available: expected {', '.join(tests)}")
    return lambda entry: all(tests[name](entry) for name in names)
