"""From nft's text to commands."""

from lvscore.integers import parse_decimal
from lvscore.nft.expressions import Expressions
from lvscore.nft.model import HOOKS, BaseChain, Command
from lvscore.nft.scanner import Source, Token

__all__ = ["STANDARD_PRIORITIES", "parse"]

_FAMILIES = ("ip", "ip6", "inet")
_VERBS = ("add", "create", "insert", "replace", "delete", "flush", "list")
_OBJECTS = {
    "add": ("table", "chain", "rule"),
    "create": ("table", "chain"),
    "insert": ("rule",),
    "replace": ("rule",),
    "delete": ("table", "chain", "rule"),
    "flush": ("ruleset", "table", "chain"),
    "list": ("ruleset", "table", "tables", "chain", "chains"),
}
STANDARD_PRIORITIES = {
    "raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100,
}  # fmt: skip
_OF_HOOK = {"dstnat": "prerouting", "srcnat": "postrouting"}


def parse(source: Source) -> list[Command]:
    """Read all commands of a text; a ``table`` with a block becomes several.

    Raises:
        CommandError: the text is not nft's, or says what does not exist here.
    """
    return _Script(source).commands()


class _Script(Expressions):
    def commands(self) -> list[Command]:
        found: list[Command] = []
        self.skip_ends()
        while self.peek().kind != "end":
            found += self._command()
            if not self.at_end() or self.peek().text == "}":
                self.unexpected(self.peek())
            self.skip_ends()
        return found

    def _command(self) -> list[Command]:
        first = self.word("a command")
        if first.text == "table":
            return self._table_block(first)
        if first.text not in _VERBS:
            if first.text in ("define", "include", "reset", "rename", "monitor", "describe", "get",
                              "import", "export", "destroy", "undefine", "redefine"):  # fmt: skip
                self.fail(first, f"{first.text} is not available")
            self.unexpected(first)
        kind = self.word("what to " + first.text)
        if kind.text not in _OBJECTS[first.text]:
            known = ("set", "map", "element", "counter", "quota", "limit", "flowtable", "ct",
                     "handle", "sets", "maps", "rules", "hooks", "meter", "synproxy")  # fmt: skip
            if kind.text in known or kind.text in _OBJECTS["list"]:
                self.fail(first, f"{first.text} {kind.text} is not available", kind)
            self.unexpected(kind)
        if kind.text in ("ruleset", "tables", "chains"):
            family = self.next().text if self.peek().text in _FAMILIES else ""
            return [Command(first.text, kind.text, first, self.last, family)]
        return self._named(first, kind)

    def _family(self) -> str:
        token = self.peek()
        if token.text in ("arp", "bridge", "netdev"):
            self.fail(token, f"family {token.text} is not available")
        return self.next().text if token.text in _FAMILIES else "ip"

    def _named(self, first: Token, kind: Token) -> list[Command]:
        """A command about a table, a chain or a rule."""
        family = self._family()
        names: dict[str, Token] = {}
        if kind.text == "table" and first.text == "delete" and self.peek().text == "handle":
            self.fail(self.peek(), "delete table by handle is not available")
        names["table"] = self.word("the name of a table")
        table = names["table"].text
        if kind.text == "table":
            if self.peek().text == "{" and first.text in ("add", "create"):
                blocks = self._table_body(first, family, table, names)
                made = Command(first.text, "table", first, self.last, family, table, names=names)
                return [made, *blocks]
            return [Command(first.text, "table", first, self.last, family, table, names=names)]
        names["chain"] = self.word("the name of a chain")
        chain = names["chain"].text
        if kind.text == "chain":
            base = None
            if self.peek().text == "{" and first.text in ("add", "create"):
                self.next()
                base = self._base(names["chain"])
                self.skip_ends()
                self.expect("}")
            return [
                Command(first.text, "chain", first, self.last, family, table, chain, base,
                        names=names)
            ]  # fmt: skip
        place = self._place_of(first.text, names)
        rule = None if first.text == "delete" else self.rule(family)
        return [
            Command(first.text, "rule", first, self.last, family, table, chain, None, rule, place,
                    names)
        ]  # fmt: skip

    def _place_of(self, verb: str, names: dict[str, Token]) -> tuple[str, int] | None:
        token = self.peek()
        if token.text in ("handle", "position", "index"):
            if token.text == "index" and verb in ("delete", "replace"):
                self.unexpected(token)
            self.next()
            number = self.number("a number")
            names["handle"] = self.last
            return "index" if token.text == "index" else "handle", number
        if verb in ("delete", "replace"):
            self.fail(token, f"syntax error, unexpected {token.text}, expecting handle")
        return None

    # Blocks

    def _table_block(self, first: Token) -> list[Command]:
        family = self._family()
        names = {"table": self.word("the name of a table")}
        table = names["table"].text
        body = self._table_body(first, family, table, names) if self.peek().text == "{" else []
        return [Command("add", "table", first, self.last, family, table, names=names), *body]

    def _table_body(
        self, first: Token, family: str, table: str, names: dict[str, Token]
    ) -> list[Command]:
        """The chains of a table, then all their rules, which is the order of nft's handles."""
        chains: list[Command] = []
        rules: list[Command] = []
        self.expect("{")
        self.skip_ends()
        while self.peek().text != "}":
            token = self.word("chain")
            if token.text != "chain":
                if token.text in ("set", "map", "counter", "quota", "flowtable", "ct", "flags",
                                  "comment", "limit", "synproxy", "secmark"):  # fmt: skip
                    self.fail(token, f"{token.text} in a table is not available")
                self.unexpected(token)
            name = self.word("the name of a chain")
            own = {**names, "chain": name}
            self.expect("{")
            self.skip_ends()
            base = None
            if self.peek().text == "type":
                base = self._base(name)
            chains.append(
                Command("add", "chain", first, name, family, table, name.text, base, names=own)
            )
            rules += self._chain_rules(family, table, own)
            self.expect("}")
            self.skip_ends()
        self.expect("}")
        return chains + rules

    def _chain_rules(self, family: str, table: str, names: dict[str, Token]) -> list[Command]:
        rules = []
        self.skip_ends()
        while self.peek().text != "}":
            begin = self.peek()
            if begin.text in ("type", "policy") or begin.kind != "word":
                self.unexpected(begin)
            if begin.text == "comment":
                self.fail(begin, "comment of a chain is not available")
            rule = self.rule(family)
            rules.append(
                Command("add", "rule", begin, self.last, family, table, names["chain"].text, None,
                        rule, None, names)
            )  # fmt: skip
            self.skip_ends()
        return rules

    def _base(self, name: Token) -> BaseChain:
        """``type nat hook prerouting priority dstnat; policy accept;``"""
        self.skip_ends()
        self.expect("type")
        kind = self.word("the type of a chain")
        self.expect("hook")
        hook = self.word("a hook")
        if (kind.text, hook.text) not in HOOKS:
            self.fail(
                kind, f"a chain of type {kind.text} at hook {hook.text} is not available", hook
            )
        if self.peek().text == "device":
            self.fail(self.peek(), "device is not available")
        self.expect("priority")
        priority = self._priority(hook)
        lowest, highest = (-199, 2**31 - 1) if kind.text == "nat" else (-199, -101)
        if not lowest <= priority <= highest:
            which = "above conntrack's" if kind.text == "nat" else "mangle (-199..-101)"
            self.fail(self.last, f"priority {priority} is not available: expected {which}")
        if self.peek().text == ";":
            self.next()
        while self.peek().kind == "newline":
            self.next()
        if self.peek().text == "policy":
            self.next()
            policy = self.word("a policy")
            if policy.text != "accept":
                self.fail(policy, f"policy {policy.text} is not available")
        return BaseChain(kind.text, hook.text, priority)

    def _priority(self, hook: Token) -> int:
        token = self.word("a priority")
        text, sign = token.text, 1
        if text in STANDARD_PRIORITIES:
            if _OF_HOOK.get(text, hook.text) != hook.text:
                self.fail(token, f"priority {text} is not of hook {hook.text}")
            number = STANDARD_PRIORITIES[text]
            if self.peek().text in ("+", "-"):
                sign = 1 if self.next().text == "+" else -1
                number += sign * self.number("a number")
            return number
        priority = parse_decimal(text.removeprefix("-"), 0, 2**31 - 1)
        if priority is None:
            self.fail(token, f"'{text}' is invalid priority.")
        return -priority if text.startswith("-") else priority
