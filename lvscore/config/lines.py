"""Configuration as lines of ipvsadm and iptables: what makes an engine's services and rules.

::

    # the director of the LVS-NAT lab
    -A -t 172.16.1.100:80 -s rr
    -a -t 172.16.1.100:80 -r 172.16.1.7:80 -m
    iptables -t nat -A PREROUTING -d 10.0.0.200 -j DNAT --to 172.16.1.100

A line is one command, as ``ipvsadm -S`` prints it (with or without ``ipvsadm`` before it), an
``iptables`` or ``ip6tables`` command of table nat (``-t nat`` alone may begin it), a line of
an iptables-save block (``*nat`` to ``COMMIT``), or an nft command, which goes on over as many
lines as its braces hold: an nft file may be one, or part of one. Lines that are empty or begin
with ``#`` are skipped.
"""

import os
from typing import TYPE_CHECKING

from lvscore import iptables, ipvsadm, nft
from lvscore._files import replace_file
from lvscore.config.configuration import Command, Configuration, located
from lvscore.errors import CommandError, ConfigError
from lvscore.ipvsadm.grammar import TRY_HELP
from lvscore.ipvsadm.restore import parse_words
from lvscore.model import Timeouts

if TYPE_CHECKING:
    from lvscore.engine import Engine

__all__ = ["parse", "save", "write"]


_NFT = ("table", "add", "create", "insert", "replace", "delete", "flush", "nft")


def parse(text: str, name: str = "configuration") -> Configuration:
    """Read such lines.

    Raises:
        CommandError: a line cannot be read; the message begins with ``name`` and its number.
    """
    commands: list[Command] = []
    table = ""
    lines = enumerate(text.splitlines(), 1)
    for number, line in lines:
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] in _NFT and not table:
            script = [line]
            while nft.is_open("\n".join(script)):
                more = next(lines, None)
                if more is None:
                    break
                script.append(more[1])
            if words[0] == "nft":
                script[0] = line.replace("nft", "   ", 1)
            source = "\n" * (number - 1) + "\n".join(script)
            commands.append(Command(f"{name}:{number}", nft.scan(source, name)))
            continue
        where = f"{name}:{number}"
        with located(where):
            if words in (["*nat"], ["*mangle"], ["*raw"]):
                table = words[0][1:]
            elif table and words == ["COMMIT"]:
                table = ""
            elif table:
                if not words[0].startswith(":"):
                    command = iptables.parse(["-t", table, *iptables.split(line)])
                    commands.append(Command(where, command))
            elif words[0] in ("iptables", "ip6tables") or words[0].startswith("-t"):
                commands.append(Command(where, iptables.parse(iptables.split(line))))
            else:
                commands.append(Command(where, _ipvsadm(words)))
    return Configuration(name, tuple(commands))


def _ipvsadm(words: list[str]) -> ipvsadm.Command:
    try:
        return parse_words(words)
    except CommandError as error:
        if str(error) != TRY_HELP:
            raise
        begin = " ".join(words[:2])
        raise CommandError(
            f"{begin!r} begins no line of ipvsadm -S, iptables or nft", error.status
        ) from None


def save(engine: "Engine") -> str:
    """Return the text of a configuration file that makes the engine's services and rules.

    Unlike ``ipvsadm -S`` it forgets nothing: timeouts, thresholds, and the order of adding.
    """
    lines = []
    timeouts = engine.timeouts
    if timeouts != Timeouts():
        lines.append(f"--set {timeouts.tcp} {timeouts.tcp_fin} {timeouts.udp}\n")
    lines.append(ipvsadm.format_saved(engine, complete=True))
    for rule in engine.rules:
        program = "iptables" if rule.family == 4 else "ip6tables"
        lines.append(f"{program} -t {rule.table} {iptables.format_rule(rule)}\n")
    return "".join(lines)


def write(engine: "Engine", path: str | os.PathLike[str]) -> None:
    """Save to a file, which is replaced as a whole or not at all.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        replace_file(os.fspath(path), [save(engine).encode()])
    except OSError as error:
        raise ConfigError(f"{os.fspath(path)}: {error.strerror or error}") from None
