"""conntrack's command lines: words to a request (conntrack-tools, src/conntrack.c)."""

from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import NoReturn

from lvscore.addresses import Address
from lvscore.conntrack.entries import PROTOCOL_NUMBERS, WITH_PORTS
from lvscore.conntrack.formats import Style
from lvscore.errors import CommandError
from lvscore.integers import parse_decimal, parse_unsigned

__all__ = ["TITLE", "Masked", "Nat", "Request", "fail", "parse", "refuse"]

TITLE = "conntrack v1.4.7 (conntrack-tools): "
_TRY = "\nTry `conntrack -h' or 'conntrack --help' for more information."

_COMMANDS = {"L": "list", "G": "get", "D": "delete", "U": "update", "F": "flush", "C": "count",
             "S": "stats", "V": "version"}  # fmt: skip
_LONG = {
    "dump": "L", "get": "G", "delete": "D", "update": "U", "flush": "F", "counter": "C",
    "stats": "S", "version": "V", "create": "I", "add": "A", "event": "E", "help": "h",
    "orig-src": "s", "src": "s", "orig-dst": "d", "dst": "d", "reply-src": "r", "reply-dst": "q",
    "protonum": "p", "timeout": "t", "status": "u", "zero": "z", "event-mask": "e",
    "tuple-src": "tuple-src", "tuple-dst": "tuple-dst", "mask-src": "{", "mask-dst": "}",
    "nat-range": "a", "mark": "m", "secmark": "c", "id": "i", "family": "f", "src-nat": "n",
    "dst-nat": "g", "output": "o", "buffer-size": "b", "any-nat": "j", "zone": "w",
    "label": "l", "label-add": "label-add", "label-del": "label-del", "orig-zone": "orig-zone",
    "reply-zone": "reply-zone",
}  # fmt: skip
_PORT_OPTIONS = {
    "orig-port-src": "sport", "sport": "sport", "orig-port-dst": "dport", "dport": "dport",
    "reply-port-src": "reply-sport", "reply-port-dst": "reply-dport",
}  # fmt: skip
_KEY_OPTIONS = {"srckey": "srckey", "dstkey": "dstkey", "reply-key-src": "reply-srckey",
                "reply-key-dst": "reply-dstkey"}  # fmt: skip
_NO_VALUE = set("FChVSz")
_OPTIONAL_VALUE = set("LGDUIAE") | set("ngj")
# Accepted by the tool, and without a meaning here.
_MISSING = {"I", "A", "E", "h", "c", "e", "b", "a", "z", "tuple-src", "tuple-dst", "label-add",
            "label-del"}  # fmt: skip
# In the order in which the tool looks at them, with the names that it has for them.
_NAMES = {
    "s": "src", "d": "dst", "r": "reply-src", "q": "reply-dst", "p": "protonum", "t": "timeout",
    "u": "status", "{": "mask-src", "}": "mask-dst", "m": "mark", "i": "id", "f": "family",
    "n": "src-nat", "g": "dst-nat", "o": "output", "j": "any-nat", "w": "zone", "l": "label",
    "orig-zone": "orig-zone", "reply-zone": "reply-zone",
}  # fmt: skip
_LEGAL = {
    "list": set(_NAMES) - {"t", "i"},
    "get": set("sdrqpio"),
    "delete": set(_NAMES) - {"j"},
    "update": set(_NAMES) - {"j", "w", "orig-zone", "reply-zone"},
    "flush": {"f"},
    "count": set(),
    "stats": set(),
    "version": set(),
}
_EXPECT_COMMANDS = {"list": {"f", "o"}, "flush": set(), "count": set()}
_OUTPUTS = ("xml", "extended", "timestamp", "id", "ktimestamp", "labels", "save", "json")
_STATUSES = ("ASSURED", "SEEN_REPLY", "UNSET", "FIXED_TIMEOUT", "EXPECTED", "OFFLOAD", "UNREPLIED")
_STATES = {
    6: ("NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK",
        "TIME_WAIT", "CLOSE", "LISTEN"),
    132: ("NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED", "SHUTDOWN_SENT",
          "SHUTDOWN_RECD", "SHUTDOWN_ACK_SENT", "HEARTBEAT_SENT"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Masked:
    """An address, of which only the bits of the mask count."""

    address: Address
    mask: int

    def __contains__(self, address: Address) -> bool:
        return (
            address.version == self.address.version
            and (int(address) ^ int(self.address)) & self.mask == 0
        )


@dataclass(frozen=True, slots=True)
class Nat:
    """What ``-n``, ``-g`` or ``-j`` ask for: an address, and with it a port; or anything."""

    address: Address | None = None
    port: int | None = None


@dataclass
class Request:
    """A command line that was read."""

    action: str = ""
    table: str = "conntrack"
    family: int = 0
    protocol: int | None = None
    addresses: dict[str, Masked] = field(default_factory=dict)
    """By option letter: s, d, r, q."""
    layer4: dict[str, int] = field(default_factory=dict)
    """What the protocol has: ports or GRE keys (``reply-`` those of the answers), or type, code
    and id of an echo."""
    state: str = ""
    status: frozenset[str] = frozenset()
    mark: tuple[int, int] | None = None
    id: int | None = None
    zone: int = 0
    seconds: int | None = None
    nat: dict[str, Nat] = field(default_factory=dict)
    style: Style = field(default_factory=Style)


def fail(message: str, status: int = 2) -> NoReturn:
    """Refuse a command in the tool's own words."""
    raise CommandError(TITLE + message + (_TRY if status == 2 else ""), status)


def refuse(message: str) -> NoReturn:
    """Refuse what the tool takes, and lvscore does not have."""
    raise CommandError(f"conntrack: {message}", 2)


def parse(words: list[str]) -> Request:
    """Read the words behind ``conntrack``.

    Raises:
        CommandError: they are no command, or ask for what does not exist here.
    """
    request = Request()
    masks: dict[str, str] = {}
    given: set[str] = set()
    words = list(words)
    while words:
        word = words.pop(0)
        if word == "--" or word[:1] != "-" or word == "-":
            refuse(f"unexpected word {word!r}")
        for letter, name, value in _options(word, words, request.protocol):
            if letter in _MISSING:
                refuse(f"option {name} is not available")
            if letter in _COMMANDS:
                _command(request, letter, words)
                continue
            given.add(letter)
            if letter in "{}":
                masks["s" if letter == "{" else "d"] = value or ""
            else:
                _take(request, letter, name, value)
    _masks(request, masks)
    _check(request, given)
    return request


def _options(
    word: str, words: list[str], protocol: int | None
) -> list[tuple[str, str, str | None]]:
    """The options of one word, with what they are called and their values."""
    if word.startswith("--"):
        name, equals, attached = word[2:].partition("=")
        letter = _long(name, word, protocol)
        value: str | None = attached if equals else None
        if value is None and letter not in _NO_VALUE | _OPTIONAL_VALUE:
            value = _next(word, words)
        return [(letter, f"--{name}", _optional(letter, value, words))]
    found: list[tuple[str, str, str | None]] = []
    rest = word[1:]
    while rest:
        letter, rest = rest[0], rest[1:]
        if letter not in _LONG.values():
            fail(f"unknown option `{word}'")
        value = None
        if letter not in _NO_VALUE:
            value, rest = rest or None, ""
            if value is None and letter not in _OPTIONAL_VALUE:
                value = _next(word, words)
        found.append((letter, f"-{letter}", _optional(letter, value, words)))
    return found


def _next(word: str, words: list[str]) -> str:
    if not words:
        fail(f"option `{word}' requires an argument")
    return words.pop(0)


def _optional(letter: str, value: str | None, words: list[str]) -> str | None:
    """The address that may stand behind ``-n``, ``-g`` and ``-j``."""
    if letter in ("n", "g", "j") and value is None and words and words[0][:1] not in ("-", "!"):
        return words.pop(0)
    return value


def _long(name: str, word: str, protocol: int | None) -> str:
    """The option that a long name, or an abbreviation of it, means."""
    known = {**_LONG, **_protocol_options(protocol)}
    if name in known:
        return known[name]
    letters = {letter for full, letter in known.items() if name and full.startswith(name)}
    if len(letters) != 1:
        fail(f"unknown option `{word}'")
    return letters.pop()


def _protocol_options(protocol: int | None) -> dict[str, str]:
    """The options that a protocol has, once ``-p`` has named it."""
    if protocol in (1, 58):
        name = "icmp" if protocol == 1 else "icmpv6"
        return {f"{name}-{part}": part for part in ("type", "code", "id")}
    if protocol == 47:
        return {**_KEY_OPTIONS}
    if protocol in WITH_PORTS:
        return {**_PORT_OPTIONS, **({"state": "state"} if protocol in _STATES else {})}
    return {}


def _command(request: Request, letter: str, words: list[str]) -> None:
    if letter in ("S", "V"):
        table = "conntrack"
    else:
        word = words.pop(0) if words and words[0][:1] not in ("-", "!") else "conntrack"
        tables = ("expect", "conntrack", "dying", "unconfirmed")
        table = next((name for name in tables if name.startswith(word)), "")
        if not table:
            fail(f"unknown type `{word}'")
        if table in ("dying", "unconfirmed") and letter != "L":
            fail("Can't do that command with tables `dying' and `unconfirmed'")
    if request.action:
        fail("Invalid commands combination")
    request.action, request.table = _COMMANDS[letter], table


def _take(request: Request, letter: str, name: str, value: str | None) -> None:
    """Note an option that is no command."""
    text = value or ""
    match letter:
        case "s" | "d" | "r" | "q":
            request.addresses[letter] = _masked(request, text)
        case "p":
            request.protocol = _protocol(text)
        case "f":
            _family(request, {"ipv4": 4, "ipv6": 6}.get(text) or fail(
                f"`{text}' unsupported protocol"))  # fmt: skip
        case "u":
            request.status |= _words_of(text, _STATUSES)
        case "o":
            request.style = _style(request.style, _words_of(text, _OUTPUTS))
        case "m":
            number, slash, mask = text.partition("/")
            bits = _number(mask, name) if slash else 0xFFFFFFFF
            request.mark = _number(number, name), bits
        case "n" | "g" | "j":
            request.nat[letter] = Nat() if value is None else _nat(request, value, letter)
        case "w" | "orig-zone" | "reply-zone":
            request.zone |= _number(text, name)
        case "i":
            request.id = _number(text, name)
        case "t":
            request.seconds = _number(text, name)
        case "l":
            fail(f"unknown label '{text}'")
        case "state":
            states = _STATES[request.protocol or 0]
            if text not in states:
                kind = "TCP" if request.protocol == 6 else "SCTP"
                fail(f"unknown {kind} state `{text}'")
            request.state = text
        case _:
            request.layer4[letter] = _number(text, name, 0xFFFF)


def _number(text: str, name: str, highest: int = 0xFFFFFFFF) -> int:
    number = parse_unsigned(text, highest)
    if number is None:
        refuse(f"{text!r} behind {name} is not a number of 0..{highest}")
    return number


def _decimal(text: str, highest: int, complaint: str) -> int:
    number = parse_decimal(text, 0, highest)
    return fail(complaint) if number is None else number


def _family(request: Request, family: int) -> None:
    if request.family not in (0, family):
        fail("mismatched address family")
    request.family = family


def _ip(text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError:
        fail(f"Invalid IP address `{text}'")


def _masked(request: Request, text: str) -> Masked:
    word, slash, prefix = text.partition("/")
    address = _ip(word)
    _family(request, address.version)
    length: int = address.max_prefixlen
    if slash:
        length = _decimal(prefix, length, "Invalid netmask")
    return Masked(address, (1 << length) - 1 << address.max_prefixlen - length)


def _masks(request: Request, masks: dict[str, str]) -> None:
    """Apply ``--mask-src`` and ``--mask-dst``, which may come before or behind the addresses."""
    for letter, text in masks.items():
        name = {"s": "src", "d": "dst"}[letter]
        if letter not in request.addresses:
            fail(f"Can't use --mask-{name} without --{name}")
        mask = _ip(text)
        _family(request, mask.version)
        masked = request.addresses[letter]
        request.addresses[letter] = replace(masked, mask=int(mask) & masked.mask)


def _protocol(text: str) -> int:
    name = {"ipv6-icmp": "icmpv6"}.get(text.lower(), text.lower())
    if name in PROTOCOL_NUMBERS:
        return PROTOCOL_NUMBERS[name]
    return _decimal(name, 0xFF, f"`{text}' unsupported protocol")


def _words_of(text: str, known: tuple[str, ...]) -> frozenset[str]:
    """The words of a list, each of which may be abbreviated."""
    found = set()
    words = text.split(",")
    for place, word in enumerate(words):
        full = [name for name in known if word and name.lower().startswith(word.lower())]
        if not full:
            fail(f"Bad parameter `{','.join(words[place:])}'")
        found.add(full[0])
    return frozenset(found)


def _style(style: Style, outputs: frozenset[str]) -> Style:
    kinds = outputs & {"xml", "save", "json"} | {style.kind} - {"default"}
    others = outputs - {"xml", "save", "json"}
    if "save" in kinds and (len(kinds) > 1 or others):
        fail("cannot combine save output with any other output type, use -o save only", 1)
    if len(kinds) > 1:
        refuse("outputs xml and json cannot be combined")
    return replace(
        style,
        kind="".join(kinds) or "default",
        extended=style.extended or "extended" in others,
        id=style.id or "id" in others,
        start=style.start or "ktimestamp" in others,
    )


def _nat(request: Request, text: str, letter: str) -> Nat:
    if "/" in text:
        fail(f"CIDR notation unavailable for `--{_NAMES[letter]}'")
    word, port = text, None
    if text.startswith("["):
        word, _, behind = text[1:].partition("]")
        port = behind[1:] if behind.startswith(":") else None
    elif text.count(":") == 1:
        word, _, port = text.partition(":")
    address = _ip(word)
    _family(request, address.version)
    if port is None:
        return Nat(address)
    complaint = f"Invalid port `{port}'" if port else "No port specified after `:'"
    return Nat(address, _decimal(port, 0xFFFF, complaint))


def _check(request: Request, given: set[str]) -> None:
    """Whether the command takes the options that it was given."""
    if not request.action:
        refuse("no command: expected -L, -G, -D, -U, -F, -C or -S")
    if "j" in request.nat and len(request.nat) > 1:
        fail("cannot specify `--src-nat' or `--dst-nat' with `--any-nat'")
    legal = _LEGAL[request.action]
    if request.table == "expect":
        legal = _check_expect(request)
    for letter, name in _NAMES.items():
        if letter in given and letter not in legal:
            fail(f"Illegal option `--{name}' with this command")
        if letter == "p" and letter not in given and request.action == "get":
            fail("You need to supply the `--protonum' option for this command")
    if request.action == "get":
        _check_get(request)


def _check_expect(request: Request) -> set[str]:
    """The options that a command about table expect may have."""
    if request.action not in _EXPECT_COMMANDS:
        refuse(f"--{request.action} is not available with table expect")
    if request.style not in (Style(), Style(kind="xml")):
        refuse("of outputs of table expect only xml is available")
    return _EXPECT_COMMANDS[request.action]


def _check_get(request: Request) -> None:
    """A whole tuple is needed to get a connection."""
    by_reply = {"r", "q"} <= request.addresses.keys() and not {"s", "d"} & request.addresses.keys()
    if not by_reply and not {"s", "d"} <= request.addresses.keys():
        fail("you have to specify `--src' and `--dst'")
    ports = {"reply-sport", "reply-dport"} if by_reply else {"sport", "dport"}
    if request.protocol in WITH_PORTS and not ports <= request.layer4.keys():
        fail("you have to specify `--sport' and `--dport'")
    if request.protocol == 47 and not {"srckey", "dstkey"} <= request.layer4.keys():
        fail("you have to specify `--srckey' and `--dstkey'")
    if request.protocol in (1, 58):
        name = "icmp" if request.protocol == 1 else "icmpv6"
        for part in ("type", "code", "id"):
            if part not in request.layer4:
                fail(f"You need to supply the `--{name}-{part}' option for this command")
    if by_reply:
        fail("Operation failed: invalid parameters", 1)
