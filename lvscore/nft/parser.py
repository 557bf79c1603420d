"""Going through the tokens of nft's text."""

from typing import NoReturn

from lvscore.integers import parse_decimal
from lvscore.nft.scanner import Source, Token

__all__ = ["Parser"]


class Parser:
    """A place in a text, and the steps from it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._tokens = source.tokens()
        self._place = 0
        self.last = self._tokens[0]

    def peek(self) -> Token:
        """The next token, which stays."""
        return self._tokens[self._place]

    def next(self) -> Token:
        """Take the next token."""
        self.last = self._tokens[self._place]
        if self.last.kind != "end":
            self._place += 1
        return self.last

    def back(self) -> None:
        """Put the last token back."""
        self._place -= 1

    def at_end(self) -> bool:
        """Whether a command ends here."""
        token = self.peek()
        return token.kind in ("newline", "end") or (
            token.kind == "symbol" and token.text in (";", "}")
        )

    def skip_newlines(self) -> None:
        """Go on to what is no end of a line."""
        while self.peek().kind == "newline":
            self._place += 1

    def skip_ends(self) -> None:
        """Go on to what is no end of a command."""
        while self.peek().kind == "newline" or self.peek().text == ";":
            self._place += 1

    def fail(self, token: Token, message: str, last: Token | None = None) -> NoReturn:
        """Refuse what stands at a token."""
        self._source.fail(token, message, last)

    def unexpected(self, token: Token) -> NoReturn:
        """Refuse a token that does not fit."""
        text = {"newline": "newline", "end": "end of file"}.get(token.kind, token.text)
        self.fail(token, f"syntax error, unexpected {text}")

    def word(self, what: str) -> Token:
        """Take a word."""
        token = self.next()
        if token.kind != "word":
            text = {"newline": "newline", "end": "end of file"}.get(token.kind, token.text)
            self.fail(token, f"syntax error, unexpected {text}, expecting {what}")
        return token

    def expect(self, text: str) -> Token:
        """Take this very token."""
        token = self.next()
        if token.text != text or token.kind == "string":
            shown = {"newline": "newline", "end": "end of file"}.get(token.kind, token.text)
            self.fail(token, f"syntax error, unexpected {shown}, expecting {text}")
        return token

    def string(self, what: str) -> str:
        """Take a quoted text, or a word."""
        token = self.next()
        if token.kind not in ("string", "word"):
            self.fail(token, f"syntax error, unexpected {token.text}, expecting {what}")
        return token.text

    def number(self, what: str) -> int:
        """Take a number."""
        token = self.word(what)
        number = parse_decimal(token.text, 0, 10**19 - 1)
        if number is None:
            self.fail(token, f"syntax error, unexpected {token.text}, expecting {what}")
        return number
