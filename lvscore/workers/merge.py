"""What a program prints of several engines that share one configuration.

They have the same services, servers and rules in the same order, and connections of their own:
lines are the same but for what is counted, which is added up.
"""

import json
import re
from collections.abc import Callable, Sequence

from lvscore import iptables, ipvsadm
from lvscore.conntrack.grammar import parse as parse_conntrack
from lvscore.errors import CommandError
from lvscore.iptables.listing import format_count as format_rule_count
from lvscore.ipvsadm.listing import COLUMNS, format_count
from lvscore.model import Outcome

__all__ = ["ask", "merged"]

_FILTERS = ("iptables", "ip6tables")
_FOUND = re.compile(r"(\d+)( flow entries| expectations)")


def ask(argv: Sequence[str]) -> list[str]:
    """The words that each engine is asked with: numbers in full, where they are added up."""
    program, *words = argv
    if program == "ipvsadm" and _table(words) in ("stats", "rate"):
        return [program, *words, "--exact"] if not _is_exact(words) else list(argv)
    if program in _FILTERS:
        listing = _listing(words)
        if listing is not None and "verbose" in listing and "exact" not in listing:
            return [program, *words, "-x"]
    return list(argv)


def merged(argv: Sequence[str], outcomes: Sequence[Outcome]) -> Outcome:
    """What the program prints and returns for all engines together.

    Args:
        argv: what was asked for, which :func:`ask` may have changed for the engines.
        outcomes: what each of them answered, in order.
    """
    program, *words = argv
    if program == "conntrack":
        return _conntrack(words, outcomes)
    for outcome in outcomes:
        if outcome.status:
            return outcome
    texts = [outcome.stdout for outcome in outcomes]
    if program == "ipvsadm" and _lists_connections(words):
        text = texts[0] + "".join(
            line for other in texts[1:] for line in other.splitlines(keepends=True)[2:]
        )
    elif program == "ipvsadm" and (columns := _table(words)) is not None:
        exact = _is_exact(words)
        text = _by_line(texts, lambda lines: _services(lines, columns, exact))
    elif program in _FILTERS:
        listing = _listing(words) or frozenset()
        text = _by_line(texts, lambda lines: _rules(lines, listing))
    elif program == "nft":
        text = _by_line(texts, lambda lines: _added(lines, _NFT))
    else:
        text = texts[0]
    return Outcome(0, text, outcomes[0].stderr)


def _by_line(texts: list[str], add: Callable[[tuple[str, ...]], str]) -> str:
    """Lines that are the same but for their numbers."""
    split = [text.splitlines() for text in texts]
    if len({len(lines) for lines in split}) != 1:
        return "".join(texts)  # not one configuration: show it as it is
    return "".join(f"{add(lines)}\n" for lines in zip(*split, strict=True))


def _added(lines: tuple[str, ...], pattern: re.Pattern[str]) -> str:
    """The first line, with the sums of all groups of a pattern in their places."""
    found = [pattern.search(line) for line in lines]
    first = found[0]
    if first is None:
        return lines[0]
    text, end = "", 0
    for group in range(1, pattern.groups + 1):
        total = sum(int(match[group]) for match in found if match is not None)
        text += lines[0][end : first.start(group)] + str(total)
        end = first.end(group)
    return text + lines[0][end:]


# ipvsadm


def _command(words: Sequence[str]) -> ipvsadm.Command | None:
    try:
        return ipvsadm.parse(words)
    except CommandError:
        return None


def _lists_connections(words: Sequence[str]) -> bool:
    command = _command(words)
    return command is not None and command.name == "list" and "connection" in command.options


def _table(words: Sequence[str]) -> str | None:
    """Which columns a listing of services has; None: it is none."""
    command = _command(words)
    if command is None or command.name != "list":
        return None
    if {"connection", "timeout", "daemon"} & set(command.options):
        return None
    return next((name for name in COLUMNS if name in command.options), "")


def _is_exact(words: Sequence[str]) -> bool:
    command = _command(words)
    return command is not None and "exact" in command.options


_STATISTICS = re.compile(r"^(.*\S)((?: +\d+){5})$")
_CONNECTIONS = re.compile(r"^(  -> .*\S +)(\d+) +(\d+) *$")
_PERSISTENT = re.compile(r"^(  -> .*\S +)(\d+) +(\d+) +(\d+) *$")


def _services(lines: tuple[str, ...], columns: str, exact: bool) -> str:
    if columns in ("stats", "rate"):
        pattern = _STATISTICS
    else:
        pattern = _PERSISTENT if columns == "persistent-conn" else _CONNECTIONS
    found = [match for line in lines if (match := pattern.match(line))]
    if len(found) != len(lines):
        return lines[0]
    name = found[0][1]
    if pattern is _STATISTICS:
        counts = zip(*(map(int, match[2].split()) for match in found), strict=True)
        return f"{name:<33}" + "".join(format_count(sum(c), exact=exact) for c in counts)
    totals = [
        sum(map(int, counts)) for counts in zip(*(m.groups()[1:] for m in found), strict=True)
    ]
    widths = (11, 10, 10) if pattern is _PERSISTENT else (10, 10)
    return name + " ".join(f"{n:<{width}}" for n, width in zip(totals, widths, strict=True))


# iptables and nft

_NFT = re.compile(r"counter packets (\d+) bytes (\d+)")
_SAVED = re.compile(r" -c (\d+) (\d+)(?= |$)")
_VERBOSE = re.compile(r"^( *\d+) ( *\d+) (.*)$")
_NUMBER = 5  # characters of --line-numbers


def _listing(words: Sequence[str]) -> frozenset[str] | None:
    """The options of a listing in columns; None: it is none."""
    try:
        command = iptables.parse(words)
    except CommandError:
        return None
    return command.listing if command.action == "list" else None


def _rules(lines: tuple[str, ...], listing: frozenset[str]) -> str:
    if "verbose" not in listing:
        return _added(lines, _SAVED)
    exact = "exact" in listing
    start = _NUMBER if "line-numbers" in listing else 0
    found = [match for line in lines if (match := _VERBOSE.match(line[start:]))]
    if len(found) != len(lines):
        return lines[0] if exact else lines[0].replace("    pkts      bytes ", " pkts bytes ", 1)
    counts = [sum(int(match[group]) for match in found) for group in (1, 2)]
    shown = " ".join(format_rule_count(n, 8 if exact else 5, exact) for n in counts)
    return f"{lines[0][:start]}{shown} {found[0][3]}"


# conntrack


def _conntrack(words: Sequence[str], outcomes: Sequence[Outcome]) -> Outcome:
    """One that finds nothing in an engine fails there: it fails only if all do."""
    good = [outcome for outcome in outcomes if not outcome.status]
    if not good:
        return outcomes[0]
    texts = [outcome.stdout for outcome in good]
    try:
        action = parse_conntrack(list(words)).action
    except CommandError:
        return good[0]
    if action == "count":
        text = f"{sum(map(int, texts))}\n"
    elif action == "stats":
        text = "".join(t.replace("cpu=0", f"cpu={n}", 1) for n, t in enumerate(texts))
    elif texts[0].startswith('{"conntrack": '):
        lists = (json.loads(text)["conntrack"] for text in texts)
        text = json.dumps({"conntrack": [entry for entries in lists for entry in entries]}) + "\n"
    elif any(text.startswith("<?xml") for text in texts):
        split = [text.splitlines(keepends=True) for text in texts if text]
        body = [line for lines in split for line in lines[2:-1]]
        text = "".join([*split[0][:2], *body, split[0][-1]])
    elif action == "version":
        text = texts[0]
    else:
        text = "".join(texts)
    total = sum(int(match[1]) for o in good if (match := _FOUND.search(o.stderr)))
    return Outcome(0, text, _FOUND.sub(rf"{total}\2", good[0].stderr))
