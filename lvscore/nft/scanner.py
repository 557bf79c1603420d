"""A text in nft's language as tokens that know where they stand."""

import re
from dataclasses import dataclass
from typing import NoReturn

from lvscore.errors import CommandError

__all__ = ["Source", "Token", "is_open"]

_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r]+|\\\n|\#[^\n]*)
    |(?P<newline>\n)
    |(?P<string>"[^"\n]*")
    |(?P<symbol>!=|==|[{}();,=!&|^])
    |(?P<word>[^\s{}();,=!&|^"\#\\]+)""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Token:
    """One word or sign; ``kind`` is word, string, symbol, newline or end."""

    kind: str
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Source:
    """The text, and what it is called in messages (``""``: a command line)."""

    text: str
    name: str = ""

    def tokens(self) -> list[Token]:
        """All tokens, and one of kind end behind them.

        Raises:
            CommandError: there is something that no token begins with.
        """
        found = []
        place = 0
        while place < len(self.text):
            match = _TOKEN.match(self.text, place)
            if match is None:
                bad = Token("symbol", self.text[place], place, place + 1)
                self.fail(bad, f"syntax error, unexpected {bad.text!r}")
            kind = match.lastgroup or ""
            text = match[0][1:-1] if kind == "string" else match[0]
            if kind != "blank":
                found.append(Token(kind, text, place, match.end()))
            place = match.end()
        found.append(Token("end", "end of file", len(self.text), len(self.text) + 1))
        return found

    def fail(self, token: Token, message: str, last: Token | None = None) -> NoReturn:
        """Refuse what stands at a token, or from it to another, as nft tells it."""
        begin = self.text.rfind("\n", 0, token.start) + 1
        finish = self.text.find("\n", begin)
        line = self.text[begin:] if finish < 0 else self.text[begin:finish]
        first = token.start - begin
        stop = max(first + 1, min((last or token).end - begin, len(line)))
        where = ""
        if self.name:
            row = self.text.count("\n", 0, token.start) + 1
            where = f"{self.name}:{row}:{first + 1}-{stop}: "
        blank = "".join("\t" if sign == "\t" else " " for sign in line[:first])
        raise CommandError(
            f"{where}Error: {message}\n{line}\n{blank.ljust(first)}{'^' * (stop - first)}", 1
        )


def is_open(text: str) -> bool:
    """Whether a brace of a text is still to be closed: it goes on on the next line."""
    try:
        signs = [token.text for token in Source(text).tokens() if token.kind == "symbol"]
    except CommandError:
        return False
    return signs.count("{") > signs.count("}")
