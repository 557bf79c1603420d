"""Carrying out iptables commands on an engine, and iptables-save's text."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from lvscore import _engine
from lvscore.errors import CommandError, ConfigError, LimitError, NotFoundError
from lvscore.iptables.grammar import ALL_CHAINS, Command, fail, parse, split
from lvscore.iptables.listing import chains_of, format_rule, list_chain, list_rules
from lvscore.model import Rule
from lvscore.nat import CHAINS

if TYPE_CHECKING:
    from lvscore.engine import Engine

__all__ = ["apply", "restore", "save"]

_NO_SUCH = "No chain/target/match by that name."
_BAD_RULE = "Bad rule (does a matching rule exist in that chain?)."


@contextmanager
def numbered(number: int) -> Iterator[None]:
    """Tell the line that a command stands on."""
    try:
        yield
    except CommandError as error:
        raise CommandError(f"line {number}: {error}", error.status) from None


def apply(engine: "Engine", command: Command) -> str:
    """Carry out one command and return what it prints.

    Raises:
        CommandError: the command was refused; nothing was changed.
    """
    rules = [
        rule
        for rule in (engine.rules if command.action != "append" else ())
        if rule.table == command.table
        and command.chain in ("", rule.chain)
        and command.family in (0, rule.family)
    ]
    try:
        with engine._rules_together():
            return _apply(engine, command, rules)
    except CommandError:
        raise
    except (ConfigError, LimitError, NotFoundError) as error:
        raise CommandError(str(error)) from None


def _apply(engine: "Engine", command: Command, rules: list[Rule]) -> str:
    match command.action:
        case "append":
            for rule in command.rules:
                engine.add_rule(rule)
        case "insert":
            if command.number > len(rules) + 1:
                _refuse(command, "Index of insertion too big.")
            place = _place(engine, command, rules)
            for offset, rule in enumerate(command.rules):
                engine.add_rule(rule, place + offset)
        case "delete" if command.number:
            if command.number > len(rules):
                made = bool(_made(engine, command))
                _refuse(command, "Index of deletion too big." if made else _NO_SUCH)
            engine.remove_rule(rules[command.number - 1])
        case "delete":
            for wanted in command.rules:
                engine.remove_rule(_same(command, rules, wanted))
        case "check":
            for wanted in command.rules:
                _same(command, rules, wanted)
        case "replace":
            if command.number > len(rules):
                made = bool(_made(engine, command))
                _refuse(command, "Index of replacement too big." if made else _NO_SUCH)
            place = _place(engine, command, rules)
            engine.remove_rule(rules[command.number - 1])
            engine.add_rule(command.rules[0], place)
        case "policy":
            family = command.family or 4
            engine._made_chains.add((command.table, command.chain, family))
        case "delete-chain":  # the user's, of which there are none; and what is empty
            engine._made_chains -= _made(engine, command) - {
                (rule.table, rule.chain, rule.family) for rule in engine.rules
            }
        case "flush":
            for rule in rules:
                engine.remove_rule(rule)
        case "zero":
            for table, chain in CHAINS:
                if table == command.table and command.chain in ("", chain):
                    _engine.rules_zero(engine, f"{table} {chain}")
        case "list-rules":
            chains = chains_of(command.table, command.chain)
            verbose = "verbose" in command.listing
            return list_rules(engine, command.table, chains, rules, command.number, verbose)
        case "list":
            return "\n".join(
                list_chain(engine, chain, [rule for rule in rules if rule.chain == chain],
                           command.listing, command.number)
                for chain in chains_of(command.table, command.chain)
            )  # fmt: skip
    return ""


def _place(engine: "Engine", command: Command, rules: list[Rule]) -> int:
    """How many rules of the whole chain, of both families, come before an inserted one."""
    chain = engine._chains[command.table, command.chain]
    if command.number > len(rules):
        return len(chain)
    number = rules[command.number - 1].number
    return next(i for i, rule in enumerate(chain) if rule.number == number)


def _same(command: Command, rules: list[Rule], wanted: Rule) -> Rule:
    for rule in rules:
        if rule == wanted:
            return rule
    return _refuse(command, _BAD_RULE)


def _made(engine: "Engine", command: Command) -> set[tuple[str, str, int]]:
    """The chains that a command means and that nftables has: made by a rule or a policy."""
    return {
        (table, chain, family)
        for table, chain, family in engine._made_chains
        if table == command.table and command.chain in ("", chain) and command.family in (0, family)
    }


def _refuse(command: Command, message: str) -> NoReturn:
    """What the kernel does not take, with the words of the program for its error."""
    fail(f"{'ip6tables' if command.family == 6 else 'iptables'}: {message}", 1)


def save(engine: "Engine", family: int = 4, *, table: str = "", counters: bool = False) -> str:
    """Return the rules of one family (4 or 6) as iptables-save or ip6tables-save prints them.

    Args:
        engine: whose rules.
        family: 4 or 6.
        table: this one alone (``-t``); else tables that have no rule are left out, but for nat.
        counters: with packets and bytes of each rule (``-c``).
    """
    lines: list[str] = []
    for name in ("mangle", "raw", "nat"):
        rules = [r for r in engine.rules if r.table == name and r.family == family]
        if name == table or (not table and (rules or name == "nat")):
            lines += [f"*{name}", *(f":{chain} ACCEPT [0:0]" for chain in ALL_CHAINS[name])]
            for rule in rules:
                counted = "[{}:{}] ".format(*engine.rule_counters(rule)) if counters else ""
                lines.append(counted + format_rule(rule))
            lines.append("COMMIT")
    return "".join(f"{line}\n" for line in lines)


def restore(engine: "Engine", text: str, family: int = 4) -> None:
    """Replace the rules of one family by those that :func:`save` wrote.

    The rules of a table are replaced if the text has that table.

    Raises:
        CommandError: a line cannot be read or carried out; the message begins with its number,
            and the rules are as they were.
    """
    program = "iptables" if family == 4 else "ip6tables"
    commands: list[tuple[int, Command]] = []
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0][0] in "#:":
            continue
        with numbered(number):
            if words[0][0] == "*" or words[0] == "COMMIT":
                table = _restored_table(words[0], table)
                if table:
                    commands.append((number, Command("flush", table, family=family)))
                continue
            if words[0].startswith("["):  # counters
                line = line.partition("]")[2]
            if not table or line.split()[0] not in ("-A", "--append"):
                fail(f"{line.strip()!r} is not a rule of a table: expected -A")
            commands.append((number, parse([program, "-t", table, *split(line)])))
    if table:
        fail(f"table {table} has no COMMIT")
    with engine._rules_together():
        for number, command in commands:
            with numbered(number):
                apply(engine, command)


def _restored_table(word: str, table: str) -> str:
    """The table that a line opens, or none where it closes one."""
    if word == "COMMIT" and table:
        return ""
    if table or word[1:] not in ALL_CHAINS:
        fail(f"{word!r} is not available: expected *nat, *mangle or *raw")
    return word[1:]
