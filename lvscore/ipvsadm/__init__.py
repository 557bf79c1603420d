"""ipvsadm's language: command lines in, its text out.

:func:`run` reads a command line as ipvsadm 1.31 does and gives its text, messages and exit
statuses; :func:`execute` runs ``ipvsadm``, ``ipvsadm-save`` and ``ipvsadm-restore`` as a shell
would. What this engine cannot do (the sync daemon) is refused by name. Ports may be names of the
services database; addresses are numeric, names are never looked up.
"""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lvscore.errors import CommandError
from lvscore.ipvsadm.commands import apply
from lvscore.ipvsadm.grammar import Command, parse
from lvscore.ipvsadm.listing import format_connections, format_listing, format_saved
from lvscore.ipvsadm.proc import format_ip_vs, format_ip_vs_conn, format_ip_vs_stats
from lvscore.ipvsadm.programs import Outcome, execute
from lvscore.ipvsadm.restore import restore

if TYPE_CHECKING:
    from lvscore.engine import Engine

__all__ = [
    "Command",
    "Outcome",
    "execute",
    "format_connections",
    "format_ip_vs",
    "format_ip_vs_conn",
    "format_ip_vs_stats",
    "format_listing",
    "format_saved",
    "parse",
    "restore",
    "run",
    "save",
]


def run(engine: "Engine", command: str | Sequence[str]) -> str:
    """Carry out one ipvsadm command line and return what ipvsadm prints.

    Args:
        engine: the engine to configure or list.
        command: a line as a shell would take it, or its words; ``ipvsadm`` may lead it.

    Raises:
        CommandError: the command was refused, with ipvsadm's own message and exit status.
    """
    return apply(engine, parse(_words(command)))


def _words(command: str | Sequence[str]) -> list[str]:
    if isinstance(command, str):
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise CommandError(f"cannot split {command!r} into words: {error}") from None
    else:
        words = list(command)
    if words and words[0] == "ipvsadm":
        del words[0]
    return words


def save(engine: "Engine") -> str:
    """Return the commands that make the virtual services again, as ``ipvsadm -S -n`` does."""
    return format_saved(engine)
