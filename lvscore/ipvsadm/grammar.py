"""ipvsadm's grammar: from the words of a command line to a :class:`Command`, or its error.

Errors come in ipvsadm's order: those of single options from left to right, then options that
are missing, illegal or in conflict, then what does not go together. All of the language is
read here; what this engine can carry out of it is decided in :mod:`lvscore.ipvsadm.commands`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType
from typing import NamedTuple, NoReturn

from lvscore.addresses import Address
from lvscore.errors import CommandError
from lvscore.ipvsadm.popt import Option, Scanner, Value
from lvscore.ipvsadm.values import (
    SCTP,
    TCP,
    UDP,
    parse_address_port,
    parse_ipv4,
    parse_number,
)
from lvscore.model import Tunnel

__all__ = ["TRY_HELP", "Command", "ServiceKey", "parse"]

TRY_HELP = "Try `ipvsadm -h' or 'ipvsadm --help' for more information."

MAX_TIMEOUT = 31 * 24 * 60 * 60
_INT_MAX = 2**31 - 1
_IPIP = Tunnel()


class ServiceKey(NamedTuple):
    """What selects a virtual service: protocol, address and port, or a firewall mark."""

    protocol: int
    address: Address | None
    port: int
    mark: int = 0
    family: int = 4


@dataclass(frozen=True, slots=True)
class Command:
    """One command line, checked: every field is as ipvsadm would hand it to the kernel.

    ``name`` is ipvsadm's own for the command ("add-service", "list" ...); ``options`` are the
    names of the options that were written out.
    """

    name: str
    options: frozenset[str] = frozenset()
    service: ServiceKey | None = None
    scheduler: str = "wlc"
    scheduler_flags: tuple[str, ...] = ()
    persistence: int = 0
    netmask: Address | int | None = None
    one_packet: bool = False
    persistence_engine: str = ""
    server: tuple[Address, int] | None = None
    method: str = "route"
    weight: int = 1
    upper_threshold: int = 0
    lower_threshold: int = 0
    tunnel: Tunnel = _IPIP
    timeouts: tuple[int, int, int] = (0, 0, 0)
    daemon: str = ""
    sort: bool = True


_COMMANDS: Mapping[str, tuple[Option, str]] = MappingProxyType(
    {
        long: (Option(long, short, value), name)
        for long, short, value, name in (
            ("add-service", "A", Value.NONE, "add-service"),
            ("edit-service", "E", Value.NONE, "edit-service"),
            ("delete-service", "D", Value.NONE, "delete-service"),
            ("clear", "C", Value.NONE, "flush"),
            ("restore", "R", Value.NONE, "restore"),
            ("save", "S", Value.NONE, "save"),
            ("add-server", "a", Value.NONE, "add-server"),
            ("edit-server", "e", Value.NONE, "edit-server"),
            ("delete-server", "d", Value.NONE, "delete-server"),
            ("list", "Ll", Value.NONE, "list"),
            ("zero", "Z", Value.NONE, "zero"),
            ("set", "", Value.NONE, "set"),
            ("start-daemon", "", Value.REQUIRED, "start-daemon"),
            ("stop-daemon", "", Value.REQUIRED, "stop-daemon"),
            ("help", "h", Value.NONE, "help"),
            ("version", "v", Value.NONE, "version"),
        )
    }
)

# Long name, short name, value, and the name that messages use and that ``Command.options`` has.
_OPTIONS: Mapping[str, tuple[Option, str]] = MappingProxyType(
    {
        long: (Option(long, short, value), name)
        for long, short, value, name in (
            ("numeric", "n", Value.NONE, "numeric"),
            ("connection", "c", Value.NONE, "connection"),
            ("tcp-service", "t", Value.REQUIRED, "service-address"),
            ("udp-service", "u", Value.REQUIRED, "service-address"),
            ("sctp-service", "", Value.REQUIRED, "service-address"),
            ("fwmark-service", "f", Value.REQUIRED, "service-address"),
            ("ipv6", "6", Value.NONE, ""),
            ("scheduler", "s", Value.REQUIRED, "scheduler"),
            ("persistent", "p", Value.OPTIONAL, "persistent"),
            ("netmask", "M", Value.REQUIRED, "netmask"),
            ("real-server", "r", Value.REQUIRED, "real-server"),
            ("gatewaying", "g", Value.NONE, "forwarding-method"),
            ("ipip", "i", Value.NONE, "forwarding-method"),
            ("masquerading", "m", Value.NONE, "forwarding-method"),
            ("weight", "w", Value.REQUIRED, "weight"),
            ("u-threshold", "x", Value.REQUIRED, "u-threshold"),
            ("l-threshold", "y", Value.REQUIRED, "l-threshold"),
            ("mcast-interface", "", Value.REQUIRED, "mcast-interface"),
            ("timeout", "", Value.NONE, "timeout"),
            ("daemon", "", Value.NONE, "daemon"),
            ("stats", "", Value.NONE, "stats"),
            ("rate", "", Value.NONE, "rate"),
            ("thresholds", "", Value.NONE, "thresholds"),
            ("persistent-conn", "", Value.NONE, "persistent-conn"),
            ("nosort", "", Value.NONE, "nosort"),
            ("sort", "", Value.NONE, ""),
            ("syncid", "", Value.REQUIRED, "syncid"),
            ("exact", "X", Value.NONE, "exact"),
            ("ops", "o", Value.NONE, "ops"),
            ("pe", "", Value.REQUIRED, "pe"),
            ("sched-flags", "b", Value.REQUIRED, "sched-flags"),
            ("mcast-group", "", Value.REQUIRED, "mcast-group"),
            ("mcast-port", "", Value.REQUIRED, "mcast-port"),
            ("mcast-ttl", "", Value.REQUIRED, "mcast-ttl"),
            ("sync-maxlen", "", Value.REQUIRED, "sync-maxlen"),
            ("tun-info", "", Value.NONE, "tun-info"),
            ("tun-type", "", Value.REQUIRED, "tun-type"),
            ("tun-port", "", Value.REQUIRED, "tun-port"),
            ("tun-nocsum", "", Value.NONE, "tun-nocsum"),
            ("tun-csum", "", Value.NONE, "tun-csum"),
            ("tun-remcsum", "", Value.NONE, "tun-remcsum"),
        )
    }
)

_ALL_OPTIONS = tuple(entry[0] for entry in (*_COMMANDS.values(), *_OPTIONS.values()))

# Options are checked in the order of the table, which decides which of several errors is told.
_ORDER = list(dict.fromkeys(name for _, name in _OPTIONS.values() if name))


class _Legality(NamedTuple):
    required: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    exclusive: frozenset[str] = frozenset()


def _legality(required: str = "", optional: str = "", exclusive: str = "") -> _Legality:
    return _Legality(*(frozenset(names.split()) for names in (required, optional, exclusive)))


_SERVICE = _legality("service-address", "scheduler persistent netmask ops pe sched-flags")
_SERVER = _legality(
    "service-address real-server",
    "forwarding-method weight u-threshold l-threshold "
    "tun-type tun-port tun-nocsum tun-csum tun-remcsum",
)
_LEGALITY: Mapping[str, _Legality] = MappingProxyType(
    {
        "add-service": _SERVICE,
        "edit-service": _SERVICE,
        "delete-service": _legality("service-address"),
        "flush": _legality(),
        "restore": _legality(),
        "set": _legality(),
        "list": _legality(
            "",
            "numeric stats rate thresholds persistent-conn nosort syncid exact tun-info",
            "connection service-address timeout daemon",
        ),
        "add-server": _SERVER,
        "edit-server": _SERVER,
        "delete-server": _legality("service-address real-server"),
        "start-daemon": _legality(
            "", "mcast-interface syncid mcast-group mcast-port mcast-ttl sync-maxlen"
        ),
        "stop-daemon": _legality("", "syncid"),
        "save": _legality("", "numeric"),
        "zero": _legality("", "service-address"),
    }
)

_TUNNEL_ORDER = ["tun-port", "tun-nocsum", "tun-csum", "tun-remcsum"]
_TUNNEL_LEGALITY: Mapping[str, _Legality] = MappingProxyType(
    {
        "ipip": _legality(),
        "gue": _legality("tun-port", "", "tun-nocsum tun-csum tun-remcsum"),
        "gre": _legality("", "", "tun-nocsum tun-csum"),
    }
)

_SCHEDULER_FLAGS: Mapping[str, int] = MappingProxyType(
    {
        "flag-1": 1,
        "flag-2": 2,
        "flag-3": 3,
        "sh-fallback": 1,
        "sh-port": 2,
        "mh-fallback": 1,
        "mh-port": 2,
    }
)


def parse(argv: Sequence[str]) -> Command:
    """Read the words behind ``ipvsadm``.

    Raises:
        CommandError: with ipvsadm's message and exit status.
    """
    if not argv:
        return Command("list")
    scanner = Scanner(argv, _ALL_OPTIONS)
    options = iter(scanner)
    try:
        first, value = next(options)
    except (StopIteration, CommandError):
        raise CommandError(TRY_HELP, 255) from None
    if first.long not in _COMMANDS:
        raise CommandError(TRY_HELP, 255)
    name = _COMMANDS[first.long][1]
    if name in ("help", "version"):
        return Command(name)
    words = _Words(name, value)
    for option, value in options:
        if option.long in _COMMANDS:
            _fail(f"invalid option `{scanner.word}'")
        words.read(option.long, value)
    return words.finish(scanner.arguments)


def _fail(message: str) -> NoReturn:
    raise CommandError(message, 2)


class _Words:
    """What has been read of a command line."""

    def __init__(self, name: str, value: str | None) -> None:
        self.name = name
        self.given: set[str] = set()
        self.fields: dict[str, object] = {}
        self.service: ServiceKey | None = None
        self.flags: str | None = None
        self.scheduler = ""
        self.tunnel_type = "ipip"
        self.tunnel_port = 0
        if value is not None:
            if value not in ("master", "backup"):
                what = "parameter specified" if name == "start-daemon" else "specified"
                _fail(f"illegal start{'-' if name == 'start-daemon' else '_'}daemon {what}")
            self.fields["daemon"] = value

    def read(self, option: str, value: str | None) -> None:
        """Take one option; ``value`` is ``None`` where it has none."""
        name = _OPTIONS[option][1]
        if name:
            if name in self.given:
                _fail(f"multiple '{name}' options specified")
            self.given.add(name)
        text = value or ""
        match option:
            case "tcp-service" | "udp-service" | "sctp-service" | "fwmark-service":
                self._set_service(_service(option, text))
            case "ipv6":
                if self.service is None or not self.service.mark:
                    _fail("-6 used before -f\n")
                self._set_service(self.service._replace(family=6))
            case "scheduler":
                self.scheduler = text
            case "persistent":
                self.fields["persistence"] = 360 if value is None else _timeout(text, 1)
            case "netmask":
                self.fields["netmask"] = self._netmask(text)
            case "real-server":
                self.fields["server"] = self._server(text)
            case "gatewaying" | "ipip" | "masquerading":
                method = {"gatewaying": "route", "ipip": "tunnel", "masquerading": "masquerade"}
                self.fields["method"] = method[option]
            case "weight":
                self.fields["weight"] = _number(text, "weight", 0, _INT_MAX)
            case "u-threshold":
                self.fields["upper_threshold"] = _number(text, "u_threshold", 0, _INT_MAX)
            case "l-threshold":
                self.fields["lower_threshold"] = _number(text, "l_threshold", 0, _INT_MAX)
            case "nosort":
                self.fields["sort"] = False
            case "ops":
                self.fields["one_packet"] = True
            case "pe":
                self.fields["persistence_engine"] = text
            case "sched-flags":
                self.flags = text
            case "syncid":
                _number(text, "syncid", 0, 255)
            case "mcast-group":
                _check_group(text)
            case "mcast-port":
                _number(text, "mcast-port", 1, 65535)
            case "mcast-ttl":
                _number(text, "mcast-ttl", 1, 255)
            case "sync-maxlen":
                _number(text, "sync-maxlen", 1, 65507)
            case "tun-type":
                if text not in _TUNNEL_LEGALITY:
                    _fail("illegal tunnel type specified")
                self.tunnel_type = text
            case "tun-port":
                self.tunnel_port = _number(text, "tunnel port", 1, 65535)

    def _set_service(self, service: ServiceKey) -> None:
        self.service = service
        if service.family == 6:
            self.fields["netmask"] = None  # one given before was read as that of IPv4

    def _server(self, text: str) -> tuple[Address, int]:
        service = self.service or ServiceKey(0, None, 0)
        # Names of ports are those of TCP where the service is a mark.
        found = parse_address_port(text, TCP if service.mark else service.protocol)
        if found is None:
            _fail("illegal real server address[:port] specified")
        address, port = found
        return address, service.port if port is None else port

    def _netmask(self, text: str) -> Address | int:
        if self.service and self.service.family == 6:
            leading = re.match(r"\s*[+-]?[0-9]+", text, re.ASCII)  # as atoi does
            length = parse_number(leading[0], 1, 128) if leading else None
            return _fail("illegal ipv6 netmask specified") if length is None else length
        mask = parse_ipv4(text)
        return _fail("illegal virtual server persistent mask specified") if mask is None else mask

    def finish(self, arguments: list[str]) -> Command:
        """Check what the options say together."""
        if self.name == "set":
            self.fields["timeouts"] = _timeouts(arguments)
            arguments = arguments[3:]
        if arguments:
            _fail(f"unexpected argument {arguments[0]}")
        # An empty name is none: ipvsadm then takes its default.
        scheduler = self.scheduler or "wlc"
        flags = () if self.flags is None else _scheduler_flags(scheduler, self.flags)
        _check_options(self.given, _LEGALITY[self.name], _ORDER, f"'{self.name}' command")
        if self.name in ("add-service", "edit-service"):
            self._check_service()
        elif self.name in ("add-server", "edit-server"):
            self._check_server()
        elif self.name == "list":
            self._check_list()
        return Command(
            name=self.name,
            options=frozenset(self.given),
            service=self.service,
            scheduler=scheduler,
            scheduler_flags=flags,
            tunnel=self._tunnel(),
            **self.fields,  # type: ignore[arg-type]
        )

    def _tunnel(self) -> Tunnel:
        names = {"tun-nocsum": "nocsum", "tun-csum": "csum", "tun-remcsum": "remcsum"}
        checksum = next((names[name] for name in _TUNNEL_ORDER[1:] if name in self.given), "")
        return Tunnel(self.tunnel_type, self.tunnel_port, checksum)

    def _check_service(self) -> None:
        service = self.service
        assert service is not None
        if not service.mark and service.port == 0 and "persistent" not in self.given:
            _fail("Zero port specified for non-persistent service")
        if "ops" in self.given and not service.mark and service.protocol != UDP:
            _fail("One-Packet Scheduling is only for UDP virtual services")

    def _check_server(self) -> None:
        service, server = self.service, self.fields["server"]
        assert service is not None
        assert isinstance(server, tuple)
        method = self.fields.get("method", "route")
        if method != "masquerade" and not service.mark:
            self.fields["server"] = server[0], service.port
        if server[0].version != service.family and method != "tunnel":
            _fail("Different address family is allowed only for tunneling servers")
        tunnel_options = self.given & {"tun-type", *_TUNNEL_ORDER}
        if tunnel_options and method != "tunnel":
            _fail("Tunnel options conflict with forward method")
        _check_options(
            self.given & set(_TUNNEL_ORDER),
            _TUNNEL_LEGALITY[self.tunnel_type],
            _TUNNEL_ORDER,
            f"'{self.tunnel_type}' tunnel type",
        )

    def _check_list(self) -> None:
        columns = self.given & {"stats", "rate", "thresholds"}
        if self.given & {"timeout", "daemon"}:
            columns |= self.given & {"persistent-conn"}
        if columns and self.given & {"connection", "timeout", "daemon"}:
            _fail("options conflicts in the list command")


def _check_options(given: set[str], legal: _Legality, order: Sequence[str], place: str) -> None:
    exclusive = ""
    for name in order:
        if name not in given:
            if name in legal.required:
                _fail(f"You need to supply the '{name}' option for the {place}")
        elif name in legal.exclusive:
            if exclusive:
                _fail(f"The option '{name}' conflicts with the '{exclusive}' option in the {place}")
            exclusive = name
        elif name not in legal.required and name not in legal.optional:
            _fail(f"Illegal '{name}' option with the {place}")


def _service(option: str, text: str) -> ServiceKey:
    if option == "fwmark-service":
        mark = parse_number(text, 1, 2**32 - 1)
        if mark is None:
            _fail(f"invalid fwmark value `{text}' specified")
        return ServiceKey(0, None, 0, mark)
    protocol = {"tcp-service": TCP, "udp-service": UDP, "sctp-service": SCTP}[option]
    found = parse_address_port(text, protocol)
    if found is None:
        _fail("illegal virtual server address[:port] specified")
    return ServiceKey(protocol, found[0], found[1] or 0, family=found[0].version)


def _number(text: str, name: str, low: int, high: int) -> int:
    number = parse_number(text, low, high)
    return _fail(f"illegal {name} specified") if number is None else number


def _timeout(text: str, low: int) -> int:
    number = parse_number(text, low, MAX_TIMEOUT)
    return _fail(f"invalid timeout value `{text}' specified") if number is None else number


def _timeouts(arguments: list[str]) -> tuple[int, int, int]:
    if len(arguments) < 3:
        _fail("--set option requires 3 timeout values")
    tcp, tcp_fin, udp = (_timeout(text, 0) for text in arguments[:3])
    return tcp, tcp_fin, udp


def _check_group(text: str) -> None:
    version: type[IPv4Address | IPv6Address] = IPv6Address if ":" in text else IPv4Address
    try:
        group = version(text)
    except ValueError:
        group = None
    if group is None or not group.is_multicast or "%" in text:
        _fail(f"invalid IPv{6 if ':' in text else 4} mcast-group `{text}'")


def _scheduler_flags(scheduler: str, text: str) -> tuple[str, ...]:
    """The flags of a comma list, sorted, by the names that the scheduler gives them."""
    numbers = set()
    for name in filter(None, text.split(",")):
        if name not in _SCHEDULER_FLAGS:
            _fail(f"invalid scheduler flag `{name}'")
        if not name.startswith(("flag-", f"{scheduler}-")):
            _fail(f"incompatible scheduler flag `{name}'")
        numbers.add(_SCHEDULER_FLAGS[name])
    return tuple(
        f"{scheduler}-{('', 'fallback', 'port')[number]}"
        if scheduler in ("sh", "mh") and number < 3
        else f"flag-{number}"
        for number in sorted(numbers)
    )
