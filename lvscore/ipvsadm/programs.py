"""The three programs ipvsadm, ipvsadm-save and ipvsadm-restore: words and standard input in,
exit status, standard output and standard error out.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lvscore.errors import CommandError
from lvscore.ipvsadm.commands import apply
from lvscore.ipvsadm.grammar import TRY_HELP, parse
from lvscore.model import Outcome

if TYPE_CHECKING:
    from lvscore.engine import Engine

__all__ = ["Outcome", "execute"]

_SAVE_HELP = """ipvsadm-save: Script to save the IPVS table to stdout.
   With the -n option, prints out the table in numeric format.
"""


def execute(engine: "Engine", argv: Sequence[str], stdin: str = "") -> Outcome:
    """Run a program on an engine as a shell would: nothing that it is told raises.

    Args:
        engine: the engine to configure or list.
        argv: ``ipvsadm``, ``ipvsadm-save`` or ``ipvsadm-restore``, and its words.
        stdin: what ``ipvsadm -R`` and ``ipvsadm-restore`` read. As with the real ones, lines
            before one that is refused stay carried out; :func:`lvscore.ipvsadm.restore` takes
            all lines or none.
    """
    program, *words = argv
    match program:
        case "ipvsadm":
            return _ipvsadm(engine, words, stdin)
        case "ipvsadm-save":
            if any(word.startswith("-") and word != "-n" for word in words):
                return Outcome(1, "", _SAVE_HELP)
            return _ipvsadm(engine, ["-S", *(["-n"] if "-n" in words else [])], "")
        case "ipvsadm-restore":
            engine.clear_services()
            lines = (line for line in stdin.split("\n") if not line.startswith("#"))
            return _read_commands(engine, "\n".join(lines))
    return Outcome(127, "", f"{program}: command not found\n")


def _ipvsadm(engine: "Engine", words: Sequence[str], stdin: str) -> Outcome:
    try:
        command = parse(words)
        if command.name == "restore":
            return _read_commands(engine, stdin)
        return Outcome(0, apply(engine, command))
    except CommandError as error:
        return Outcome(error.status, "", f"{error}\n")


def _read_commands(engine: "Engine", text: str) -> Outcome:
    """``ipvsadm -R``: one command a line, words split at blanks, no quotes and no comments.

    A command that the kernel refuses is told of, and the next one read; the status is that of
    the last. ipvsadm ends at once with the first one that it does not understand itself.
    """
    status, out, errors = 0, "", ""
    for line in text.split("\n"):
        words = [word for word in line.split() if word != "ipvsadm"]
        if not words:
            continue
        try:
            command = parse(words)
            if command.name == "restore":
                raise CommandError(TRY_HELP, 255)
            out += apply(engine, command)
            status = 0
        except CommandError as error:
            errors += f"{error}\n"
            status = error.status
            if status != 255 or str(error) == TRY_HELP:
                break
        else:
            if command.name in ("help", "version"):
                break
    return Outcome(status, out, errors)
