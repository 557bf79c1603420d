"""Options as the popt library reads them, which is how ipvsadm understands its command line.

Options and other words may be mixed; short options may be joined (``-Ln``) and carry their
value (``-w5``, ``-w=5``, ``-w 5``); long options are written out in full (``--weight=5``,
``--weight 5``). A value is the next word even if it begins with a dash, except where the value
is optional.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from lvscore.errors import CommandError

__all__ = ["Option", "Scanner", "Value"]


class Value(Enum):
    """Whether an option takes a value."""

    NONE = 0
    REQUIRED = 1
    OPTIONAL = 2


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its long and short name, and whether it takes a value."""

    long: str
    short: str = ""
    value: Value = Value.NONE


class Scanner:
    """Reads options from left to right, one at a time, so that errors come in that order.

    Attributes:
        word: the word that was taken last: the option's, or its value's.
        arguments: words that are no options, as far as they have been read.
    """

    def __init__(self, argv: Iterable[str], options: Iterable[Option]) -> None:
        options = tuple(options)
        self._long = {option.long: option for option in options}
        self._short = {name: option for option in options for name in option.short}
        self._words = list(argv)
        self._next = 0
        self.word = ""
        self.arguments: list[str] = []

    def __iter__(self) -> Iterator[tuple[Option, str | None]]:
        while self._next < len(self._words):
            self.word = self._take()
            if self.word == "--":
                self.arguments += self._words[self._next :]
                return
            if self.word.startswith("--"):
                yield self._read_long(self.word)
            elif self.word.startswith("-") and self.word != "-":
                yield from self._read_short(self.word)
            else:
                self.arguments.append(self.word)

    def _take(self) -> str:
        self._next += 1
        return self._words[self._next - 1]

    def _read_long(self, word: str) -> tuple[Option, str | None]:
        name, equals, value = word[2:].partition("=")
        option = self._long.get(name)
        if option is None:
            raise self._error("unknown option")
        if not equals:
            return option, self._value(option)
        if option.value is Value.NONE:
            raise self._error("option does not take an argument")
        return option, value

    def _read_short(self, word: str) -> Iterator[tuple[Option, str | None]]:
        letters = word[1:]
        while letters:
            option = self._short.get(letters[0])
            letters = letters[1:]
            if option is None:
                raise self._error("unknown option")
            if option.value is not Value.NONE and letters:
                yield option, letters.removeprefix("=")
                return
            yield option, self._value(option)

    def _value(self, option: Option) -> str | None:
        """The value of an option that stands at the end of its word."""
        left = self._next < len(self._words)
        if option.value is Value.REQUIRED:
            if not left:
                raise self._error("missing argument")
            self.word = self._take()
            return self.word
        if option.value is Value.OPTIONAL and left and not self._words[self._next].startswith("-"):
            self.word = self._take()
            return self.word
        return None

    def _error(self, problem: str) -> CommandError:
        return CommandError(f"{self.word}: {problem}", 255)
