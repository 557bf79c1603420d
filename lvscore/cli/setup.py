"""The options that make an engine, which several commands share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from lvscore import config, iptables
from lvscore.engine import Engine
from lvscore.errors import ConfigError, LvscoreError
from lvscore.host import Host
from lvscore.ipvsadm.commands import apply as apply_ipvsadm
from lvscore.ipvsadm.restore import parse_words

__all__ = ["engine_options", "host_of", "make_engine"]

_Function = TypeVar("_Function", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "-c",
        "--config",
        "config_file",
        metavar="FILE",
        help="Services and rules: lines of ipvsadm -S and iptables -t nat.",
    ),
    click.option(
        "--ipvsadm",
        "ipvsadm_commands",
        metavar="COMMAND",
        multiple=True,
        help='One ipvsadm command, e.g. "-A -t 172.16.1.100:80 -s rr"; may be repeated.',
    ),
    click.option(
        "--iptables",
        "iptables_commands",
        metavar="COMMAND",
        multiple=True,
        help='One iptables command, e.g. "-t nat -A POSTROUTING ..."; may be repeated.',
    ),
    click.option(
        "--interface",
        "interfaces",
        metavar="NAME=ADDRESS/LENGTH",
        multiple=True,
        help="An interface's address; may be repeated.",
    ),
    click.option(
        "--route",
        "routes",
        metavar="PREFIX=NAME",
        multiple=True,
        help='A route out of an interface ("default=eth0"); live, by a gateway; may be repeated.',
    ),
    click.option(
        "--seed",
        type=click.IntRange(0, 2**128 - 1),
        default=0,
        show_default=True,
        metavar="N",
        help="Source of all chance: the same seed gives the same bytes.",
    ),
    click.option(
        "--max-connections",
        type=int,
        default=1_048_576,
        show_default=True,
        metavar="N",
        help="Most connections held at once.",
    ),
)


def engine_options(function: _Function) -> _Function:
    """Decorate a command with the options that :func:`make_engine` takes."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def make_engine(
    *,
    config_file: str | None,
    ipvsadm_commands: tuple[str, ...],
    iptables_commands: tuple[str, ...],
    interfaces: tuple[str, ...],
    routes: tuple[str, ...],
    seed: int,
    max_connections: int,
) -> Engine:
    """Make the engine that the options describe.

    Raises:
        ConfigError: an option or a line of the file is not valid; the message says where.
    """
    configuration = None if config_file is None else config.load(config_file)
    engine = Engine(max_connections=max_connections, seed=seed)
    _add_interfaces(engine, interfaces)
    for text in routes:
        prefix, name = _pair("--route", text, "PREFIX=NAME")
        with _named("--route", text):
            engine.routes.add(prefix, name)
    if configuration is not None:
        configuration.apply(engine)
    for command in ipvsadm_commands:
        with _named("--ipvsadm", command):
            apply_ipvsadm(engine, parse_words(iptables.split(command)))
    for command in iptables_commands:
        with _named("--iptables", command):
            iptables.run(engine, command)
    return engine


def host_of(engine: Engine, interfaces: tuple[str, ...], routes: tuple[str, ...]) -> Host:
    """Make the Host that the options of a live director describe; its routes have gateways.

    Raises:
        ConfigError: an option is not valid, or there is no interface.
    """
    host = Host(engine)
    for name, given in _addresses(interfaces).items():
        with _named("--interface", f"{name}={','.join(given)}"):
            host.add_interface(name, addresses=given)
    if not host.interfaces:
        raise ConfigError("no interface: expected --interface NAME=ADDRESS/LENGTH")
    for text in routes:
        prefix, gateway = _pair("--route", text, "PREFIX=GATEWAY")
        with _named("--route", text):
            host.add_route(prefix, via=gateway)
    return host


def _add_interfaces(engine: Engine, interfaces: tuple[str, ...]) -> None:
    for name, given in _addresses(interfaces).items():
        with _named("--interface", f"{name}={','.join(given)}"):
            engine.routes.add_interface(name, given)


def _addresses(interfaces: tuple[str, ...]) -> dict[str, list[str]]:
    addresses: dict[str, list[str]] = {}
    for text in interfaces:
        name, address = _pair("--interface", text, "NAME=ADDRESS/LENGTH")
        if "/" not in address:
            raise ConfigError(f"--interface {text!r}: expected NAME=ADDRESS/LENGTH")
        addresses.setdefault(name, []).append(address)
    return addresses


def _pair(option: str, text: str, expected: str) -> tuple[str, str]:
    first, _, last = text.partition("=")
    if not first or not last:
        raise ConfigError(f"{option} {text!r}: expected {expected}")
    return first, last


@contextmanager
def _named(option: str, value: str) -> Iterator[None]:
    try:
        yield
    except LvscoreError as error:
        raise ConfigError(f"{option} {value!r}: {error}") from None
