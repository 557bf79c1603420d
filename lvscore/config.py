"""Configuration files: the lines of ipvsadm and iptables that make an engine's services and rules.

::

    # the director of the LVS-NAT lab
    -A -t 172.16.1.100:80 -s rr
    -a -t 172.16.1.100:80 -r 172.16.1.7:80 -m
    iptables -t nat -A PREROUTING -d 10.0.0.200 -j DNAT --to 172.16.1.100

A line is one command, as ``ipvsadm -S`` prints it (with or without ``ipvsadm`` before it), an
``iptables`` or ``ip6tables`` command of table nat (``-t nat`` alone may begin it), or a line of
an iptables-save block (``*nat`` to ``COMMIT``). Lines that are empty or begin with ``#`` are
skipped.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lvscore import iptables, ipvsadm
from lvscore.errors import CommandError, ConfigError
from lvscore.ipvsadm.commands import apply as apply_ipvsadm
from lvscore.ipvsadm.restore import parse_words
from lvscore.model import Timeouts

if TYPE_CHECKING:
    from lvscore.engine import Engine

__all__ = ["Configuration", "load", "parse", "save", "write"]


@dataclass(frozen=True, slots=True)
class Configuration:
    """The commands of a configuration file, read and not yet carried out.

    Attributes:
        name: what to call the file in errors.
        commands: (line number, command) in the order of the file.
    """

    name: str
    commands: tuple[tuple[int, ipvsadm.Command | iptables.Command], ...]

    def apply(self, engine: "Engine") -> None:
        """Give an engine this configuration.

        Raises:
            ConfigError: the engine has services or rules already.
            CommandError: a command was refused; the message begins with file and line, and the
                engine has no services and rules, as before.
        """
        if engine.services or engine.rules:
            raise ConfigError(f"{self.name}: the engine has services or rules already")
        timeouts = engine.timeouts
        try:
            for number, command in self.commands:
                with _located(self.name, number):
                    if isinstance(command, iptables.Command):
                        iptables.apply(engine, command)
                    else:
                        apply_ipvsadm(engine, command)
        except BaseException:
            engine.clear_services()
            engine.clear_rules()
            engine.set_timeouts(tcp=timeouts.tcp, tcp_fin=timeouts.tcp_fin, udp=timeouts.udp)
            raise


def load(path: str | os.PathLike[str]) -> Configuration:
    """Read a configuration file.

    Raises:
        ConfigError: the file cannot be read.
        CommandError: a line cannot be read; the message begins with file and line.
    """
    name = os.fspath(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{name}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: byte {error.start} is not UTF-8 text") from None
    return parse(text, name)


def parse(text: str, name: str = "configuration") -> Configuration:
    """Read the text of a configuration file.

    Raises:
        CommandError: a line cannot be read; the message begins with ``name`` and its number.
    """
    commands: list[tuple[int, ipvsadm.Command | iptables.Command]] = []
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        with _located(name, number):
            if words in (["*nat"], ["*mangle"]):
                table = words[0][1:]
            elif table and words == ["COMMIT"]:
                table = ""
            elif table:
                if not words[0].startswith(":"):
                    commands.append((number, iptables.parse(["-t", table, *iptables.split(line)])))
            elif words[0] in ("iptables", "ip6tables") or words[0].startswith("-t"):
                commands.append((number, iptables.parse(iptables.split(line))))
            else:
                commands.append((number, parse_words(words)))
    return Configuration(name, tuple(commands))


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
    name = os.path.realpath(path)  # what a symbolic link names is replaced, not the link
    try:
        mode = os.stat(name).st_mode & 0o777 if os.path.exists(name) else 0o644
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(name), prefix=".lvscore-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(save(engine))
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, mode)
            os.replace(temporary, name)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise ConfigError(f"{os.fspath(path)}: {error.strerror or error}") from None


@contextmanager
def _located(name: str, number: int) -> Iterator[None]:
    try:
        yield
    except CommandError as error:
        raise CommandError(f"{name}:{number}: {error}", error.status) from None
