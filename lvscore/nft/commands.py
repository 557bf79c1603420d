"""Carrying out nft's commands on an engine."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from lvscore.errors import CommandError, ConfigError, LimitError
from lvscore.iptables import format_rule as iptables_rule
from lvscore.nft.grammar import parse
from lvscore.nft.listing import format_base, format_rule
from lvscore.nft.model import Command
from lvscore.nft.ruleset import VERSIONS, Chain, Entry, Ruleset, Table, ruleset_of
from lvscore.nft.scanner import Source
from lvscore.nft.translate import rules

if TYPE_CHECKING:
    from lvscore.engine import Engine

__all__ = ["Script", "apply", "run", "scan"]

_NO_SUCH = "Could not process rule: No such file or directory"
_UNSUPPORTED = "Could not process rule: Operation not supported"
_CHAINS_OF = {
    "dnat": {("nat", "PREROUTING")},
    "redirect": {("nat", "PREROUTING")},
    "snat": {("nat", "POSTROUTING")},
    "masquerade": {("nat", "POSTROUTING")},
    "mark": {("mangle", "PREROUTING")},
}


@dataclass(frozen=True)
class Script:
    """A text that was read: nothing in it is unknown."""

    source: Source
    commands: tuple[Command, ...]


def scan(text: str, name: str = "") -> Script:
    """Read a text in nft's language; ``name`` is what messages call it.

    Raises:
        CommandError: it is not nft's, or says what does not exist here.
    """
    source = Source(text, name)
    return Script(source, tuple(parse(source)))


def run(engine: "Engine", command: str) -> str:
    """Carry out one nft command, or a script of many, and return what is printed.

    Args:
        engine: the engine whose rules to change or list.
        command: ``add rule ip nat prerouting ...``, with or without ``nft`` and ``-a`` before it;
            or the text of a file.

    Raises:
        CommandError: something was refused; nothing was changed.
    """
    handles = False
    text = command.lstrip()
    while text.split(None, 1)[:1] in (["nft"], ["-a"], ["--handle"], ["-n"], ["-nn"]):
        option, _, text = text.partition(" ")
        handles |= option in ("-a", "--handle")
        text = text.lstrip()
    name = "/dev/stdin" if "\n" in text.rstrip("\n") else ""
    return apply(engine, scan(text, name), handles=handles)


def apply(engine: "Engine", script: Script, *, handles: bool = False, check: bool = False) -> str:
    """Carry out the commands of a text, all or none.

    Args:
        engine: the engine whose rules to change or list.
        script: what :func:`scan` read.
        handles: list handles, too.
        check: change nothing in the end, whether or not something is refused.

    Raises:
        CommandError: something was refused; nothing was changed.
    """
    ruleset = ruleset_of(engine)
    ruleset.follow(engine)
    kept = ruleset.copy()
    done = False
    try:
        with engine._rules_together(kept=not check):
            text = "".join(
                _Runner(engine, ruleset, script.source, command, handles).run()
                for command in script.commands
            )
        done = not check
        return text
    finally:
        if not done:
            engine._nft_ruleset = kept


@dataclass
class _Runner:
    """One command at work."""

    engine: "Engine"
    ruleset: Ruleset
    source: Source
    command: Command
    handles: bool

    def run(self) -> str:
        command = self.command
        if command.verb == "list":
            return self._list()
        getattr(self, f"_{command.verb}_{command.object}")()
        return ""

    # Finding

    def _fail(self, name: str, message: str) -> NoReturn:
        """Refuse what a name of the command's stands for."""
        self.source.fail(self.command.names[name], message)

    def _table(self, message: str = _NO_SUCH) -> Table:
        table = self.ruleset.tables.get((self.command.family, self.command.table))
        if table is None:
            self._fail("table", message)
        return table

    def _chain(self, message: str = _NO_SUCH) -> Chain:
        chain = self._table(message).chains.get(self.command.chain)
        if chain is None:
            self._fail("chain", message)
        return chain

    def _entry(self, chain: Chain) -> int:
        """The place in its chain of the rule that a handle or an index names."""
        assert self.command.place is not None
        kind, number = self.command.place
        if kind == "index" and number < len(chain.entries):
            return number
        for place, entry in enumerate(chain.entries):
            if kind == "handle" and entry.handle == number:
                return place
        return self._fail("handle", _NO_SUCH)

    # Tables and chains

    def _add_table(self) -> None:
        command = self.command
        if (command.family, command.table) not in self.ruleset.tables:
            self.ruleset.add_table(command.family, command.table)

    def _create_table(self) -> None:
        if (self.command.family, self.command.table) in self.ruleset.tables:
            self._fail("table", "Could not process rule: File exists")
        self._add_table()

    def _delete_table(self) -> None:
        self._flush_table()
        del self.ruleset.tables[self.command.family, self.command.table]

    def _flush_table(self) -> None:
        for chain in self._table().chains.values():
            self._empty(chain)

    def _flush_ruleset(self) -> None:
        for key, table in list(self.ruleset.tables.items()):
            if self.command.family in ("", table.family):
                for chain in table.chains.values():
                    self._empty(chain)
                del self.ruleset.tables[key]

    def _add_chain(self) -> None:
        command = self.command
        table = self._table("No such file or directory")
        old = table.chains.get(command.chain)
        if old is not None:
            if command.base not in (None, old.base):
                self._fail("chain", "Could not process rule: File exists")
            return
        if command.base is None:
            self._fail("chain", "a chain without type and hook is not available")
        chain = Chain(command.chain, table.next_handle(), command.base)
        for version in VERSIONS[table.family]:
            other = self.ruleset.at(version, chain.key)
            if other is not None:
                self._fail("chain", f"chain {other.name} is at hook {command.base.hook} already; "
                                    "a second one is not available")  # fmt: skip
        table.chains[command.chain] = chain

    def _create_chain(self) -> None:
        if self.command.chain in self._table("No such file or directory").chains:
            self._fail("chain", "Could not process rule: File exists")
        self._add_chain()

    def _delete_chain(self) -> None:
        self._empty(self._chain())
        del self._table().chains[self.command.chain]

    def _flush_chain(self) -> None:
        self._empty(self._chain())

    def _empty(self, chain: Chain) -> None:
        for entry in chain.entries:
            self._remove(entry)
        chain.entries = []

    def _remove(self, entry: Entry) -> None:
        for rule in entry.rules:
            self.engine.remove_rule(rule)

    # Rules

    def _add_rule(self) -> None:
        chain = self._chain()
        place = len(chain.entries) if self.command.place is None else self._entry(chain) + 1
        self._put(chain, place)

    def _insert_rule(self) -> None:
        chain = self._chain()
        self._put(chain, 0 if self.command.place is None else self._entry(chain))

    def _replace_rule(self) -> None:
        chain = self._chain()
        place = self._entry(chain)
        old = chain.entries[place]
        self._put(chain, place)
        self._remove(old)
        chain.entries.remove(old)

    def _delete_rule(self) -> None:
        chain = self._chain()
        self._remove(chain.entries.pop(self._entry(chain)))

    def _put(self, chain: Chain, place: int) -> None:
        """Add the command's rule to a chain, before the rule that is in this place."""
        command = self.command
        assert command.rule is not None
        if chain.key not in _CHAINS_OF.get(command.rule.action.name, {chain.key}):
            self.source.fail(command.first, _UNSUPPORTED, command.last)
        table = self._table()
        try:
            wanted = rules(command.rule, table.family, *chain.key)
            position = self._position(chain, place)
            made = tuple(
                self.engine.add_rule(rule, position + offset) for offset, rule in enumerate(wanted)
            )
        except CommandError:
            raise
        except (ConfigError, LimitError) as error:
            self.source.fail(command.first, str(error), command.last)
        for match in command.rule.matches:
            if match.is_set:
                table.next_handle()  # nft's anonymous sets have handles of their own
        chain.entries.insert(place, Entry(table.next_handle(), command.rule, made))

    def _position(self, chain: Chain, place: int) -> int:
        """How many rules of the engine's chain come before a rule in this place."""
        numbers = [rule.number for rule in self.engine._chains[chain.key]]
        if place < len(chain.entries):
            return numbers.index(chain.entries[place].rules[0].number)
        if chain.entries:
            return numbers.index(chain.entries[-1].rules[-1].number) + 1
        return len(numbers)

    # Listing

    def _list(self) -> str:
        command = self.command
        tables = [
            table
            for table in self.ruleset.tables.values()
            if command.family in ("", table.family) or command.object in ("table", "chain")
        ]
        match command.object:
            case "tables":
                return "".join(f"table {table.family} {table.name}\n" for table in tables)
            case "table":
                tables = [self._table("No such file or directory")]
            case "chain":
                chain = self._chain("No such file or directory")
                return self._text(self._table(), [chain])
            case "chains":
                return "".join(
                    self._text(table, list(table.chains.values()), rules=False) for table in tables
                )
        return "".join(self._text(table, list(table.chains.values())) for table in tables)

    def _text(self, table: Table, chains: list[Chain], *, rules: bool = True) -> str:
        """A table with some of its chains."""
        lines = [f"table {table.family} {table.name} {{" + self._handle(table.handle)]
        for place, chain in enumerate(chains):
            if place and rules:
                lines.append("")
            lines.append(f"\tchain {chain.name} {{" + self._handle(chain.handle))
            lines.append(f"\t\t{format_base(chain.base)}")
            lines += self._rule_lines(table, chain) if rules else ()
            lines.append("\t}")
        return "".join(f"{line}\n" for line in [*lines, "}"])

    def _handle(self, number: int) -> str:
        return f" # handle {number}" if self.handles else ""

    def _rule_lines(self, table: Table, chain: Chain) -> Iterator[str]:
        for entry in chain.entries:
            if entry.text is None:  # as nft lists what only iptables can say
                yield f"\t\t# xt: {iptables_rule(entry.rules[0])}" + self._handle(entry.handle)
                continue
            counts = [self.engine.rule_counters(rule) for rule in entry.rules]
            counted = sum(n for n, _ in counts), sum(n for _, n in counts)
            line = format_rule(entry.text, table.family, counted)
            yield f"\t\t{line}" + self._handle(entry.handle)
