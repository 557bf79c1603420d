"""The options that configure a director, which several commands share."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import click

from lvscore import config, iptables
from lvscore.config import (
    DEFAULT_MAX_CONNECTIONS,
    Command,
    Configuration,
    InterfaceEntry,
    RouteEntry,
    located,
)
from lvscore.engine import Engine
from lvscore.errors import ConfigError
from lvscore.ipvsadm.restore import parse_words

__all__ = ["Options", "WholeNumber", "engine_options"]

_Function = TypeVar("_Function", bound=Callable[..., object])


class WholeNumber(click.IntRange):
    """An integer of a range; what is none is called no integer, not no "integer range"."""

    name = "integer"


_OPTIONS = (
    click.option(
        "-c",
        "--config",
        "config_file",
        metavar="FILE",
        help="Services and rules: lines of ipvsadm -S and iptables -t nat; or all of it, as TOML.",
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
        type=WholeNumber(0, 2**128 - 1),
        metavar="N",
        help="Source of all chance: the same seed gives the same bytes. Default: 0; live: by lot.",
    ),
    click.option(
        "--max-connections",
        type=int,
        metavar="N",
        help=f"Most connections held at once.  [default: {DEFAULT_MAX_CONNECTIONS}]",
    ),
)


def engine_options(function: _Function) -> _Function:
    """Decorate a command with the options that :class:`Options` takes."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@dataclass(frozen=True, slots=True)
class Options:
    """These options as they were given."""

    config_file: str | None
    ipvsadm_commands: tuple[str, ...]
    iptables_commands: tuple[str, ...]
    interfaces: tuple[str, ...]
    routes: tuple[str, ...]
    seed: int | None
    max_connections: int | None

    def engine(self) -> Engine:
        """Make the engine that they describe; routes lead out of interfaces.

        Raises:
            ConfigError: an option or a line of the file is not valid; the message says where.
        """
        found = self.read(live=False)
        engine = Engine(max_connections=found.max_connections, seed=found.seed or 0)
        found.apply(engine)
        return engine

    def read(self, *, live: bool) -> Configuration:
        """Read the file, and add what the other options say; ``live``: routes have gateways.

        Raises: as :meth:`engine`.
        """
        file = Configuration("") if self.config_file is None else config.load(self.config_file)
        return replace(
            file,
            commands=(*file.commands, *self._commands()),
            interfaces=self._interfaces(file.interfaces),
            routes=(*file.routes, *(_route(text, live) for text in self.routes)),
            seed=file.seed if self.seed is None else self.seed,
            max_connections=(
                file.max_connections if self.max_connections is None else self.max_connections
            ),
        )

    def _commands(self) -> list[Command]:
        commands = []
        for text in self.ipvsadm_commands:
            where = f"--ipvsadm {text!r}"
            with located(where):
                commands.append(Command(where, parse_words(iptables.split(text))))
        for text in self.iptables_commands:
            where = f"--iptables {text!r}"
            with located(where):
                commands.append(Command(where, iptables.parse(iptables.split(text))))
        return commands

    def _interfaces(self, given: tuple[InterfaceEntry, ...]) -> tuple[InterfaceEntry, ...]:
        entries = {entry.name: entry for entry in given}
        for text in self.interfaces:
            name, address = _pair("--interface", text, "NAME=ADDRESS/LENGTH")
            if "/" not in address:
                raise ConfigError(f"--interface {text!r}: expected NAME=ADDRESS/LENGTH")
            entry = entries.get(name, InterfaceEntry("", name))
            addresses = (*entry.address, address)
            where = entry.where
            if not where or where.startswith("--"):
                shown = f"{name}={','.join(addresses)}"
                where = f"--interface {shown!r}"
            entries[name] = entry._replace(where=where, address=addresses)
        return tuple(entries.values())


def _route(text: str, live: bool) -> RouteEntry:
    expected = "PREFIX=GATEWAY" if live else "PREFIX=NAME"
    prefix, way = _pair("--route", text, expected)
    where = f"--route {text!r}"
    return RouteEntry(where, prefix, via=way) if live else RouteEntry(where, prefix, dev=way)


def _pair(option: str, text: str, expected: str) -> tuple[str, str]:
    first, _, last = text.partition("=")
    if not first or not last:
        raise ConfigError(f"{option} {text!r}: expected {expected}")
    return first, last
