"""Carrying out conntrack's commands on an engine."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lvscore import _engine
from lvscore.addresses import Address
from lvscore.conntrack.entries import Entry, Side, entries
from lvscore.conntrack.expectations import expectations, format_expectations
from lvscore.conntrack.formats import format_entries
from lvscore.conntrack.grammar import TITLE, Nat, Request, fail, parse, refuse
from lvscore.constants import Reason
from lvscore.errors import CommandError
from lvscore.model import Outcome

if TYPE_CHECKING:
    from lvscore.engine import Engine

__all__ = ["execute", "run"]

_DONE = {"list": "shown", "get": "shown", "delete": "deleted", "update": "updated"}


def run(engine: "Engine", command: str | Sequence[str]) -> str:
    """Carry out one conntrack command line and return what it prints on standard output.

    Raises:
        CommandError: the command was refused, or found nothing to delete, to update or to get;
            then nothing was changed.
    """
    try:
        words = shlex.split(command) if isinstance(command, str) else list(command)
    except ValueError as error:
        refuse(f"cannot split {command!r}: {error}")
    request = parse(words[1:] if words[:1] == ["conntrack"] else words)
    text, _ = _carry_out(engine, request)
    return text


def execute(engine: "Engine", words: Sequence[str]) -> Outcome:
    """Run the conntrack tool as a shell would: nothing that it is told raises.

    Its summary ("... 3 flow entries have been shown.") goes to standard error, as the tool's.
    """
    try:
        request = parse(list(words))
        text, count = _carry_out(engine, request)
    except CommandError as error:
        return Outcome(error.status, "", f"{error}\n")
    summary = ""
    if request.table == "expect":
        if request.action == "list":
            summary = f"{TITLE}{count} expectations have been shown.\n"
        elif request.action == "flush":
            summary = f"{TITLE}expectation table has been emptied.\n"
    elif request.action in _DONE:
        summary = f"{TITLE}{count} flow entries have been {_DONE[request.action]}.\n"
    elif request.action == "flush":
        summary = f"{TITLE}connection tracking table has been emptied.\n"
    return Outcome(0, text, summary)


def _carry_out(engine: "Engine", request: Request) -> tuple[str, int]:
    """What a command prints, and how many entries it was about."""
    if request.table == "expect":
        return _expect(engine, request)
    match request.action:
        case "version":
            return f"{TITLE.removesuffix(': ')}\n", 0
        case "count":
            return f"{len(entries(engine))}\n", 0
        case "stats":
            return _stats(engine), 0
    chosen = [] if request.table != "conntrack" else list(_chosen(engine, request))
    match request.action:
        case "flush":
            _end(engine, chosen)
            return "", len(chosen)
        case "delete":
            if not chosen:
                fail("0 flow entries have been deleted.", 1)
            _end(engine, chosen)
        case "update":
            chosen = _update(engine, request, chosen)
    return _printed(engine, request, chosen), len(chosen)


def _expect(engine: "Engine", request: Request) -> tuple[str, int]:
    """The same of a command about what helpers expect; the tool lists IPv4 unless told."""
    family = request.family or 4
    expected = [one for one in expectations(engine) if one.source.version == family]
    match request.action:
        case "count":
            return f"{len(expected)}\n", 0
        case "flush":
            _engine.expectations_end(engine)
            return "", 0
    return format_expectations(expected, xml=request.style.kind == "xml"), len(expected)


def _printed(engine: "Engine", request: Request, chosen: list[Entry]) -> str:
    timestamps = engine.sysctl["net.netfilter.nf_conntrack_timestamp"]
    style = replace(
        request.style,
        counters=bool(engine.sysctl["net.netfilter.nf_conntrack_acct"]),
        now=engine.now if timestamps else None,
    )
    return format_entries(chosen, style)


def _end(engine: "Engine", chosen: list[Entry]) -> None:
    for entry in chosen:
        _engine.conntrack_end(engine, entry.id)


def _update(engine: "Engine", request: Request, chosen: list[Entry]) -> list[Entry]:
    """Give entries another time to live, or make them assured; the entries that changed."""
    mark, _ = request.mark or (0, 0)
    if mark:
        refuse(f"mark {mark} cannot be set: connections have no marks")
    if request.status - {"ASSURED", "SEEN_REPLY", "UNSET"}:
        refuse("of a status only ASSURED can be set")
    assures = "ASSURED" in request.status
    if "SEEN_REPLY" in request.status and not all(entry.replied for entry in chosen):
        refuse("status SEEN_REPLY cannot be set")
    changed = [
        entry
        for entry in chosen
        if (assures and not entry.assured)
        or (request.seconds is not None and request.seconds != entry.seconds)
    ]
    if not changed:
        fail("0 flow entries have been updated.", 1)
    for entry in changed:
        _engine.conntrack_update(engine, entry.id, request.seconds, assures)
    numbers = {entry.id for entry in changed}
    return [entry for entry in entries(engine) if entry.id in numbers]


def _stats(engine: "Engine") -> str:
    """The kernel's counters (ctnetlink's CTA_STATS_*) that exist here, as of one processor.

    Four of them are of what an engine of one thread cannot meet.
    """
    invalid, errors, early_drops = _engine.conntrack_statistics(engine)
    no_port = engine.reasons.get(Reason.NO_PORT, 0)
    dropped = no_port + engine.reasons.get(Reason.TABLE_FULL, 0)
    return (
        f"cpu=0   \tinvalid={invalid} insert=0 insert_failed={no_port} drop={dropped} "
        f"early_drop={early_drops} error={errors} search_restart=0 clash_resolve=0 "
        "chaintoolong=0 \n"
    )


def _chosen(engine: "Engine", request: Request) -> Iterator[Entry]:
    found = entries(engine)
    if request.action == "get":
        found = [entry for entry in found if _has_tuple(entry, request)]
        if not found:
            fail("Operation failed: such conntrack doesn't exist", 1)
        if not any(_fits(entry, request) for entry in found):  # found by its answer's tuple
            fail("0 flow entries have been shown.", 1)
    elif request.action in ("list", "delete") and request.status == {"UNSET"}:
        fail("Operation failed: invalid parameters", 1)
    for entry in found:
        if _fits(entry, request):
            yield entry


def _has_tuple(entry: Entry, request: Request) -> bool:
    return any(
        side.source == request.addresses["s"].address
        and side.destination == request.addresses["d"].address
        and entry.protocol == request.protocol
        and _layer4_fits(side, entry.protocol, request.layer4)
        for side in (entry.original, entry.reply)
    )


def _layer4_fits(side: Side, protocol: int, wanted: dict[str, int]) -> bool:
    if protocol in (1, 58):
        have = {
            "id": side.source_port,
            "type": side.destination_port >> 8,
            "code": side.destination_port & 0xFF,
        }
    else:
        have = {
            "sport": side.source_port,
            "dport": side.destination_port,
            "srckey": 0,
            "dstkey": 0,
        }
    return all(have[name] == wanted[name] for name in have.keys() & wanted.keys())


def _fits(entry: Entry, request: Request) -> bool:
    """Whether an entry passes all filters."""
    original, reply = entry.original, entry.reply
    addresses = {
        "s": original.source,
        "d": original.destination,
        "r": reply.source,
        "q": reply.destination,
    }
    mark, _ = request.mark or (0, 0)
    replies = {
        name.removeprefix("reply-"): number
        for name, number in request.layer4.items()
        if name.startswith("reply-")
    }
    return (
        request.family in (0, entry.family)
        and request.protocol in (None, entry.protocol)
        and request.id in (None, entry.id)
        and request.zone == 0
        and (request.action == "update" or mark == 0)  # of a connection it is 0
        and all(addresses[letter] in masked for letter, masked in request.addresses.items())
        and _layer4_fits(original, entry.protocol, request.layer4)
        and _layer4_fits(reply, entry.protocol, replies)
        and request.state in ("", entry.state)
        and (request.action == "update" or _status_fits(entry, request.status))
        and _nat_fits(entry, request.nat)
    )


def _status_fits(entry: Entry, wanted: frozenset[str]) -> bool:
    have = {
        "ASSURED": entry.assured,
        "SEEN_REPLY": entry.replied,
        "UNREPLIED": not entry.replied,
        "UNSET": True,
        "EXPECTED": entry.expected,
    }
    return all(have.get(name, False) for name in wanted)


def _nat_fits(entry: Entry, wanted: dict[str, Nat]) -> bool:
    """Whether an entry is translated as asked for.

    The tool compares what stands in the place of ports in the two tuples, whatever it is: of an
    echo the identifier with the type and code of the answer. So an echo counts as translated
    where no address is asked for (libnetfilter_conntrack, objopt.c).
    """
    original, reply = entry.original, entry.reply
    source = original.source, original.source_port, reply.destination, reply.destination_port
    destination = original.destination, original.destination_port, reply.source, reply.source_port
    if "j" in wanted:
        return _side_fits(wanted["j"], *source) or _side_fits(wanted["j"], *destination)
    return ("n" not in wanted or _side_fits(wanted["n"], *source)) and (
        "g" not in wanted or _side_fits(wanted["g"], *destination)
    )


def _side_fits(wanted: Nat, before: Address, port: int, after: Address, to_port: int) -> bool:
    if wanted.address is None:
        return (before, port) != (after, to_port)
    return (before != after and after == wanted.address) and (
        wanted.port is None or (port != to_port and to_port == wanted.port)
    )
