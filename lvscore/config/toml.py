"""A director's configuration in TOML; ``examples/director.toml`` shows every key.

Keys are the words of ipvsadm's long options, of ip(8) and of sysctl(8). A key that is not known
is refused, and so is a value of another kind: nothing in a file goes unheard.
"""

import json
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from lvscore.addresses import parse_address, parse_endpoint, parse_network
from lvscore.config.configuration import (
    DEFAULT_MAX_CONNECTIONS,
    Command,
    Configuration,
    InterfaceEntry,
    NeighbourEntry,
    RouteEntry,
    located,
)
from lvscore.config.lines import parse as parse_lines
from lvscore.errors import AddressError, ConfigError
from lvscore.io.interface import BACKENDS, MODES
from lvscore.ipvsadm.restore import parse_words
from lvscore.model import SCHEDULER_FLAGS, SCHEDULERS, TimerWheel

__all__ = ["parse", "read"]

Check = Callable[[str, object], Any]
Table = dict[str, Any]


def parse(text: str, name: str = "director.toml") -> Configuration:
    """Read the text of a file.

    Raises:
        ConfigError: it is not TOML, or a key or value is not valid: the message names the file,
            the key, the value, and what was expected.
        CommandError: an ipvsadm, iptables or nft line in it is not valid.
    """
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: {error}") from None
    return read(given, name)


def read(given: Table, name: str = "director.toml") -> Configuration:
    """Read a file's content, as :mod:`tomllib` gives it.

    Raises: as :func:`parse`.
    """
    file = _table(f"{name}: ", given, _FILE)
    director = _table(f"{name}: director.", file.get("director", {}), _DIRECTOR)
    lines: list[Command] = []
    for language in ("ipvsadm", "iptables", "nft"):
        there = _table(f"{name}: {language}.", file.get(language, {}), {"lines": _text})
        lines += parse_lines(there.get("lines", ""), f"{name}: {language}.lines").commands
    commands = [*_timeouts(name, file), *_services(name, file), *lines]
    return Configuration(
        name=name,
        commands=tuple(commands),
        interfaces=_interfaces(name, file),
        routes=_routes(name, file),
        neighbours=tuple(
            NeighbourEntry(where, **entry)
            for where, entry in _entries(name, file, "neighbour", _NEIGHBOUR, "to")
        ),
        sysctl=dict(_settings(f"{name}: sysctl.", "", file.get("sysctl", {}))),
        helpers={
            helper: tuple(_table(f"{name}: helper.{helper}.", there, _HELPER).get("ports", (21,)))
            for helper, there in file.get("helper", {}).items()
        },
        port_quota=director.get("port-quota"),
        timer_wheel=director.get("timer-wheel"),
        modules=tuple(director.get("modules", ())),
        backend=director.get("backend"),
        mode=director.get("mode"),
        control=director.get("control"),
        state=director.get("state"),
        state_interval=director.get("state-interval", 10),
        max_connections=director.get("max-connections", DEFAULT_MAX_CONNECTIONS),
        seed=director.get("seed"),
        workers=director.get("workers", 1),
        inside=tuple(director.get("inside", ())),
        shield=director.get("shield", False),
    )


def _timeouts(name: str, file: Table) -> list[Command]:
    where = f"{name}: timeout"
    given = _table(f"{where}.", file.get("timeout", {}), _TIMEOUT)
    words = ["--set", *(str(given.get(key, 0)) for key in _TIMEOUT)]
    return [Command(where, parse_words(words))] if given else []


def _interfaces(name: str, file: Table) -> tuple[InterfaceEntry, ...]:
    entries = []
    for interface, there in file.get("interface", {}).items():
        where = f"{name}: interface {interface}"
        given = _table(f"{where}: ", there, _INTERFACE)
        entries.append(
            InterfaceEntry(
                where,
                interface,
                tuple(given.get("address", ())),
                given.get("mtu"),
                given.get("backend"),
                given.get("mode"),
                given.get("persistent", False),
            )
        )
    return tuple(entries)


def _routes(name: str, file: Table) -> tuple[RouteEntry, ...]:
    return tuple(
        RouteEntry(where, **entry) for where, entry in _entries(name, file, "route", _ROUTE, "to")
    )


def _services(name: str, file: Table) -> list[Command]:
    commands = []
    for number, there in enumerate(file.get("service", []), 1):
        where, key = _named(name, "service", number, there, *_SERVICE_KEYS)
        given = _table(f"{where}: ", there, _SERVICE)
        if len(given.keys() & set(_SERVICE_KEYS)) != 1:
            raise ConfigError(f"{where}: expected one of {', '.join(_SERVICE_KEYS)}")
        selector = [f"--{key}", str(given[key])]
        if given.get("ipv6"):
            if key != "fwmark-service":
                _wrong(f"{where}: ipv6", True, "it with a fwmark-service alone")
            selector.append("-6")
        commands.append(Command(where, _command(where, ["-A", *selector, *_options(given)])))
        for index, server in enumerate(given.get("server", []), 1):
            inner, _ = _named(f"{where}, ", "server", index, server, "real-server")
            one = _table(f"{inner}: ", server, _SERVER)
            if "real-server" not in one:
                raise ConfigError(f"{inner}: expected real-server")
            if one.get("l-threshold", 0) > one.get("u-threshold", 0):
                _wrong(f"{inner}: l-threshold", one["l-threshold"], "no more than u-threshold")
            words = ["-a", *selector, "--real-server", one["real-server"], *_server_words(one)]
            commands.append(Command(inner, _command(inner, words)))
    return commands


def _command(where: str, words: list[str]) -> Any:
    with located(where):
        return parse_words(words)


def _options(given: Table) -> list[str]:
    words = []
    for key in ("scheduler", "persistent", "netmask", "pe"):
        if key in given:
            words += [f"--{key}", str(given[key])]
    if "sched-flags" in given:
        words += ["--sched-flags", ",".join(given["sched-flags"])]
    return [*words, *(["--ops"] if given.get("ops") else [])]


def _server_words(given: Table) -> list[str]:
    words = [f"--{given.get('forward', 'masquerading')}"]
    for key in ("weight", "u-threshold", "l-threshold", "tun-type", "tun-port"):
        if key in given:
            words += [f"--{key}", str(given[key])]
    return [*words, *([f"--tun-{given['tun-checksum']}"] if "tun-checksum" in given else [])]


def _settings(where: str, prefix: str, given: Table) -> Any:
    """(name, (where, value)) of each setting; ``net.ipv4.ip_forward = 1`` nests tables."""
    for key, value in given.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _settings(where, f"{name}.", value)
        else:
            yield name, (f"{where}{name} = {value}", _number(0, 2**31 - 1)(f"{where}{name}", value))


# Tables and what they hold


def _table(where: str, given: object, known: Mapping[str, Check]) -> Table:
    """A table all of whose keys are known and all of whose values are checked."""
    if not isinstance(given, dict):
        _wrong(where.rstrip(": ."), given, "a table")
    for key in given:
        if key not in known:
            raise ConfigError(
                f"{where}{key} = {_shown(given[key])}: no such key; there are {', '.join(known)}"
            )
    return {key: known[key](f"{where}{key}", value) for key, value in given.items()}


def _entries(name: str, file: Table, kind: str, known: Mapping[str, Check], key: str) -> Any:
    """(where, checked table) of an array of tables."""
    for number, there in enumerate(file.get(kind, []), 1):
        where, _ = _named(name, kind, number, there, key)
        given = _table(f"{where}: ", there, known)
        for needed in _NEEDED[kind]:
            if needed not in given:
                raise ConfigError(f"{where}: expected {needed}")
        yield where, given


def _named(name: str, kind: str, number: int, there: object, *keys: str) -> tuple[str, str]:
    """What to call a table of an array: by the key that tells it from others, else by number."""
    start = name if name.endswith(", ") else f"{name}: "
    if isinstance(there, dict):
        for key in keys:
            if key in there:
                return f"{start}{kind} {there[key]}", key
    return f"{start}{kind} {number}", ""


def _wrong(where: str, value: object, expected: str) -> NoReturn:
    raise ConfigError(f"{where} = {_shown(value)}: expected {expected}")


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _text(where: str, value: object) -> str:
    if not isinstance(value, str):
        _wrong(where, value, "text")
    return value


def _flag(where: str, value: object) -> bool:
    if not isinstance(value, bool):
        _wrong(where, value, "true or false")
    return value


def _number(low: int, high: int) -> Check:
    def check(where: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            _wrong(where, value, f"a number in {low}..{high}")
        return value

    return check


def _one_of(*names: str) -> Check:
    def check(where: str, value: object) -> str:
        if value not in names:
            _wrong(where, value, f"one of {', '.join(names)}")
        return str(value)

    return check


def _list_of(item: Check) -> Check:
    def check(where: str, value: object) -> list[Any]:
        if not isinstance(value, list):
            _wrong(where, value, "a list")
        return [item(where, one) for one in value]

    return check


def _tables(where: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        _wrong(where, value, f"[[{where.rpartition(' ')[2]}]], an array of tables")
    return value


def _named_tables(where: str, value: object) -> Table:
    if not isinstance(value, dict):
        _wrong(where, value, "tables")
    return value


def _readable(read: Callable[[str], object], expected: str) -> Check:
    def check(where: str, value: object) -> str:
        try:
            read(_text(where, value))
        except AddressError:
            _wrong(where, value, expected)
        return str(value)

    return check


def _timer_wheel(where: str, value: object) -> TimerWheel:
    given = _table(f"{where}.", value, {"hz": _number(1, 10_000), "jiffies": _number(0, 2**64 - 1)})
    if "hz" not in given:
        _wrong(where, value, "hz")
    return TimerWheel(**given)


def _with_length(text: str) -> object:
    if "/" not in text:
        raise AddressError(text)
    return parse_network(text)


_address = _readable(parse_address, "an address")
_endpoint = _readable(parse_endpoint, 'address and port, as in "172.16.1.100:80"')
_server = _readable(lambda text: parse_endpoint(text, 0), "an address, or address and port")
_on_wire = _readable(_with_length, '"address/length", as in "172.16.1.3/24"')
_seconds = _number(1, 2678400)
_weight = _number(0, 2**31 - 1)

_FILE: Mapping[str, Check] = {
    **dict.fromkeys(("director", "sysctl", "timeout", "ipvsadm", "iptables", "nft"), _named_tables),
    **dict.fromkeys(("interface", "helper"), _named_tables),
    **dict.fromkeys(("route", "neighbour", "service"), _tables),
}
_DIRECTOR: Mapping[str, Check] = {
    "control": _text,
    "backend": _one_of("auto", *BACKENDS),
    "mode": _one_of(*MODES),
    "state": _text,
    "state-interval": _number(1, 86400),
    "max-connections": _number(1, 33554432),
    "seed": _number(0, 2**63 - 1),
    "workers": _number(1, 256),
    "shield": _flag,
    "inside": _list_of(_readable(parse_network, 'a network, as in "172.16.1.0/24"')),
    "port-quota": _number(1, 2**32 - 1),
    "timer-wheel": _timer_wheel,
    "modules": _list_of(_text),
}
_INTERFACE: Mapping[str, Check] = {
    "address": _list_of(_on_wire),
    "mtu": _number(68, 65535),
    "backend": _one_of("auto", *BACKENDS),
    "mode": _one_of(*MODES),
    "persistent": _flag,
}
_ROUTE: Mapping[str, Check] = {"to": _text, "via": _address, "dev": _text, "local": _flag}
_NEIGHBOUR: Mapping[str, Check] = {"to": _address, "lladdr": _text, "dev": _text}
_NEEDED = {"route": ("to",), "neighbour": ("to", "lladdr", "dev")}
_HELPER: Mapping[str, Check] = {"ports": _list_of(_number(1, 65535))}
_TIMEOUT: Mapping[str, Check] = {"tcp": _seconds, "tcpfin": _seconds, "udp": _seconds}
_SERVICE_KEYS = ("tcp-service", "udp-service", "sctp-service", "fwmark-service")
_SERVICE: Mapping[str, Check] = {
    **dict.fromkeys(_SERVICE_KEYS[:3], _endpoint),
    "fwmark-service": _number(1, 2**32 - 1),
    "ipv6": _flag,
    "scheduler": _one_of(*SCHEDULERS),
    "sched-flags": _list_of(_one_of(*(f for flags in SCHEDULER_FLAGS.values() for f in flags))),
    "persistent": _seconds,
    "netmask": _text,
    "ops": _flag,
    "pe": _one_of("sip"),
    "server": _tables,
}
_SERVER: Mapping[str, Check] = {
    "real-server": _server,
    "forward": _one_of("masquerading", "gatewaying", "ipip"),
    "weight": _weight,
    "u-threshold": _weight,
    "l-threshold": _weight,
    "tun-type": _one_of("ipip", "gue", "gre"),
    "tun-port": _number(1, 65535),
    "tun-checksum": _one_of("nocsum", "csum", "remcsum"),
}
