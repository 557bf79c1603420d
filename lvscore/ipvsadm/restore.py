"""Reads the text of ``ipvsadm -S`` back: all of it, or nothing.

The real ``ipvsadm -R`` stops in the middle and leaves what it had done until then; here the
whole text is read, and tried on an engine of its own, before the engine is touched.
"""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lvscore.errors import CommandError
from lvscore.ipvsadm.commands import CONFIGURING, apply
from lvscore.ipvsadm.grammar import Command, parse

if TYPE_CHECKING:
    from lvscore.engine import Engine

__all__ = ["Line", "apply_lines", "parse_words", "read", "restore"]


class Line(NamedTuple):
    """A command and the number of its line."""

    number: int
    command: Command


def read(text: str) -> list[Line]:
    """Read saved text: one command a line, with or without ``ipvsadm`` before it.

    Lines that are empty or begin with ``#`` are skipped. Words are split at blanks; there are
    no quotes.

    Raises:
        CommandError: a line cannot be read; the message begins with its number.
    """
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                lines.append(Line(number, parse_words(line.split())))
            except CommandError as error:
                raise CommandError(f"line {number}: {error}", error.status) from None
    return lines


def parse_words(words: Sequence[str]) -> Command:
    """Read one command that changes the configuration.

    Raises:
        CommandError: it cannot be read, or is another command.
    """
    command = parse(_unsigned([word for word in words if word != "ipvsadm"]))
    if command.name not in CONFIGURING:
        raise CommandError(f"the '{command.name}' command has no place in saved rules")
    return command


def _unsigned(words: list[str]) -> list[str]:
    """Words with marks as ``-f`` takes them: ``-S`` prints those of 2**31 and more negative."""
    for i in range(1, len(words)):
        if words[i - 1] == "-f" and re.fullmatch("-[0-9]{1,10}", words[i]):
            words[i] = str(int(words[i]) % 2**32)
    return words


def apply_lines(engine: "Engine", lines: Iterable[Line]) -> None:
    """Carry out commands one after the other.

    Raises:
        CommandError: a command was refused; the ones before it stay.
    """
    for number, command in lines:
        try:
            apply(engine, command)
        except CommandError as error:
            raise CommandError(f"line {number}: {error}", error.status) from None


def restore(engine: "Engine", text: str) -> None:
    """Replace all virtual services by those of ``text``, as ``ipvsadm-restore`` does.

    Connections stay until they expire.

    Raises:
        CommandError: a line cannot be read or carried out; the message begins with its number,
            and the engine is as it was.
    """
    from lvscore.engine import Engine

    lines = read(text)
    apply_lines(Engine(max_connections=1, seed=0), lines)
    engine.clear_services()
    apply_lines(engine, lines)
