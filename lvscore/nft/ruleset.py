"""Tables and chains of nft's around an engine's rules: names, handles, what text made a rule."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lvscore.model import Rule
from lvscore.nft.model import HOOKS, BaseChain, NftRule
from lvscore.nft.translate import nft_rule

if TYPE_CHECKING:
    from lvscore.engine import Engine

__all__ = ["Chain", "Entry", "Ruleset", "Table", "ruleset_of"]

VERSIONS = {"ip": (4,), "ip6": (6,), "inet": (4, 6)}
_FOREIGN = {
    ("mangle", "PREROUTING"): BaseChain("filter", "prerouting", -150),
    ("nat", "PREROUTING"): BaseChain("nat", "prerouting", -100),
    ("nat", "POSTROUTING"): BaseChain("nat", "postrouting", 100),
}


@dataclass
class Entry:
    """A rule: its text, None if nft cannot say it, and the engine's rules that it is."""

    handle: int
    text: NftRule | None
    rules: tuple[Rule, ...]


@dataclass
class Chain:
    """A base chain."""

    name: str
    handle: int
    base: BaseChain
    entries: list[Entry] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, str]:
        """The engine's chain."""
        return HOOKS[self.base.type, self.base.hook]


@dataclass
class Table:
    """A table; handles of its chains, sets and rules count on from ``last``."""

    family: str
    name: str
    handle: int
    last: int = 0
    chains: dict[str, Chain] = field(default_factory=dict)

    def next_handle(self) -> int:
        """A handle that nothing in the table has had."""
        self.last += 1
        return self.last


@dataclass
class Ruleset:
    """All tables, in the order in which they were made."""

    tables: dict[tuple[str, str], Table] = field(default_factory=dict)
    last: int = 0

    def add_table(self, family: str, name: str) -> Table:
        """Make a table."""
        self.last += 1
        table = Table(family, name, self.last)
        self.tables[family, name] = table
        return table

    def copy(self) -> "Ruleset":
        """The same, with tables and chains of its own; rules are not changed, but replaced."""
        tables = {
            key: replace(
                table,
                chains={
                    name: replace(chain, entries=list(chain.entries))
                    for name, chain in table.chains.items()
                },
            )
            for key, table in self.tables.items()
        }
        return Ruleset(tables, self.last)

    def chains(self) -> Iterator[tuple[Table, Chain]]:
        """All chains, and their tables."""
        for table in self.tables.values():
            for chain in table.chains.values():
                yield table, chain

    def at(self, version: int, key: tuple[str, str]) -> Chain | None:
        """The chain at a hook, of an address family."""
        for table, chain in self.chains():
            if chain.key == key and version in VERSIONS[table.family]:
                return chain
        return None

    def follow(self, engine: "Engine") -> None:
        """Take in what other languages did to the engine's rules."""
        for key, base in _FOREIGN.items():
            for version, family in ((4, "ip"), (6, "ip6")):
                given = [rule for rule in engine._chains[key] if rule.family == version]
                if given and self.at(version, key) is None:
                    self._add_foreign(family, key, base)
        for table, chain in self.chains():
            given = [
                rule for rule in engine._chains[chain.key] if rule.family in VERSIONS[table.family]
            ]
            chain.entries = _matched(table, chain, given)

    def _add_foreign(self, family: str, key: tuple[str, str], base: BaseChain) -> None:
        """Make the chain that iptables-nft would have."""
        table = self.tables.get((family, key[0])) or self.add_table(family, key[0])
        name = key[1]
        while name in table.chains:
            name += "_"
        table.chains[name] = Chain(name, table.next_handle(), base)


def _matched(table: Table, chain: Chain, given: list[Rule]) -> list[Entry]:
    """The entries of a chain whose rules are these now, in their order."""
    known = {rule.number: (rule, entry) for entry in chain.entries for rule in entry.rules}
    present = {rule.number: rule for rule in given}
    found: list[Entry] = []
    taken: set[int] = set()
    for rule in given:
        if rule.number in taken:
            continue
        before, entry = known.get(rule.number, (None, None))
        whole = entry is not None and all(
            present.get(other.number) == other for other in entry.rules
        )
        if entry is not None and before == rule and whole:
            found.append(entry)
            taken |= {other.number for other in entry.rules}
        else:
            found.append(Entry(table.next_handle(), nft_rule(rule), (rule,)))
    return found


def ruleset_of(engine: "Engine") -> Ruleset:
    """The tables of an engine."""
    if not isinstance(engine._nft_ruleset, Ruleset):
        engine._nft_ruleset = Ruleset()
    return engine._nft_ruleset
