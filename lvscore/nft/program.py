"""The program nft: words and standard input in, exit status, standard output and error out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lvscore.errors import CommandError
from lvscore.model import Outcome
from lvscore.nft.commands import apply, scan

if TYPE_CHECKING:
    from lvscore.engine import Engine

__all__ = ["Options", "execute", "options"]

_LONG = {"handle": "a", "check": "c", "numeric": "n", "file": "f"}


@dataclass
class Options:
    """nft's options, and the words of a command behind them."""

    handles: bool = False
    check: bool = False
    file: str | None = None
    words: tuple[str, ...] = ()


def options(words: Sequence[str]) -> Options:
    """Read the words behind ``nft``: ``-a``, ``-c``, ``-n``, ``-f FILE``, and a command.

    Raises:
        CommandError: an option is not available.
    """
    found = Options()
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        letters = word[1:] if not word.startswith("--") else _LONG.get(word[2:], "-")
        for letter in letters:
            if letter not in "acfn":
                raise CommandError(f"nft: option {word} is not available", 1)
            if letter == "f" and not rest:
                raise CommandError("nft: option requires an argument -- 'f'", 1)
            if letter == "f":
                found.file = rest.pop(0)
            found.handles |= letter == "a"
            found.check |= letter == "c"
    found.words = tuple(rest)
    return found


def execute(engine: "Engine", words: Sequence[str], stdin: str = "") -> Outcome:
    """Run nft as a shell would: nothing that it is told raises. ``-f -`` reads ``stdin``."""
    try:
        given = options(words)
        if given.file is None:
            script = scan(" ".join(given.words))
        elif given.file != "-":
            raise CommandError(f"nft: -f {given.file}: expected -, for standard input", 1)
        else:
            script = scan(stdin, "/dev/stdin")
        if not script.commands and given.file is None:
            raise CommandError("nft: no command specified", 1)
        return Outcome(0, apply(engine, script, handles=given.handles, check=given.check))
    except CommandError as error:
        return Outcome(error.status, "", f"{error}\n")
