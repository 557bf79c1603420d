"""Configuration files: TOML, or lines of ipvsadm and iptables.

A file whose name ends in ``.toml`` describes a whole director (:mod:`lvscore.config.toml`); any
other holds the lines that make its services and rules (:mod:`lvscore.config.lines`). Both are read
as a :class:`Configuration`, which an engine or a Host is given, or which a running director is
changed to (:func:`reload`).
"""

import os

from lvscore.config import toml
from lvscore.config.configuration import (
    DEFAULT_MAX_CONNECTIONS,
    Command,
    Configuration,
    InterfaceEntry,
    NeighbourEntry,
    RouteEntry,
    located,
)
from lvscore.config.lines import parse, save, write
from lvscore.config.reload import adopt, reload
from lvscore.errors import ConfigError

__all__ = [
    "DEFAULT_MAX_CONNECTIONS",
    "Command",
    "Configuration",
    "InterfaceEntry",
    "NeighbourEntry",
    "RouteEntry",
    "adopt",
    "load",
    "located",
    "parse",
    "reload",
    "save",
    "write",
]


def load(path: str | os.PathLike[str]) -> Configuration:
    """Read a configuration file.

    Raises:
        ConfigError: the file cannot be read, or is not valid TOML.
        CommandError: a line cannot be read; the message begins with file and line.
    """
    name = os.fspath(path)
    try:
        with open(name, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise ConfigError(f"{name or repr(name)}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: byte {error.start} is not UTF-8 text") from None
    return toml.parse(text, name) if name.endswith(".toml") else parse(text, name)
