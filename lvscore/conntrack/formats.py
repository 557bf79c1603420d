"""How entries are printed: as lines, XML, commands that would make them again, JSON.

The lines, the XML and the commands are those of conntrack-tools 1.4.7 and of
libnetfilter_conntrack (snprintf_default.c, snprintf_xml.c); the JSON is lvscore's own.
"""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lvscore.conntrack.entries import PROTOCOL_NAMES, WITH_PORTS, Entry, Side

__all__ = ["Style", "format_entries", "format_entry"]

_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Style:
    """What is printed of an entry."""

    kind: str = "default"
    """``"default"``, ``"xml"``, ``"save"`` or ``"json"``."""
    extended: bool = False
    """Begin a line with the network protocol."""
    id: bool = False
    """End a line with the identifier, which means nothing but sameness."""
    start: bool = False
    """Print when a connection began, if timestamps are on (``ktimestamp``)."""
    counters: bool = False
    """Print packets and bytes (``nf_conntrack_acct``)."""
    now: int | None = None
    """The engine's time in nanoseconds, if timestamps are on (``nf_conntrack_timestamp``)."""


def format_entry(entry: Entry, style: Style | None = None) -> str:
    """Return one entry as ``conntrack -L`` prints it, without an end of line."""
    style = style or Style()
    match style.kind:
        case "xml":
            return _xml(entry, style)
        case "save":
            return " ".join(_save_words(entry))
        case "json":
            return json.dumps(_fields(entry, style))
        case _:
            return " ".join(_words(entry, style))


def format_entries(entries: list[Entry], style: Style) -> str:
    """Return what ``conntrack -L`` prints of several entries."""
    if style.kind == "json":
        return json.dumps({"conntrack": [_fields(entry, style) for entry in entries]}) + "\n"
    lines = [format_entry(entry, style) for entry in entries]
    if style.kind == "xml" and lines:
        head = '<?xml version="1.0" encoding="utf-8"?>'
        lines = [head, "<conntrack>", *lines, "</conntrack>"]
    return "".join(f"{line}\n" for line in lines)


# Lines


def _words(entry: Entry, style: Style) -> Iterator[str]:
    if style.extended:
        yield f"{'ipv4' if entry.family == 4 else 'ipv6':<8} {2 if entry.family == 4 else 10}"
    yield f"{PROTOCOL_NAMES.get(entry.protocol, 'unknown'):<8} {entry.protocol}"
    yield str(entry.seconds)
    if entry.state:
        yield entry.state
    yield from _side_words(entry, entry.original)
    if style.counters:
        yield f"packets={entry.packets[0]} bytes={entry.bytes[0]}"
    if not entry.replied:
        yield "[UNREPLIED]"
    yield from _side_words(entry, entry.reply)
    if style.counters:
        yield f"packets={entry.packets[1]} bytes={entry.bytes[1]}"
    if entry.assured:
        yield "[ASSURED]"
    yield "mark=0"
    if style.now is not None:
        yield f"delta-time={_age(entry, style.now)}"
        if style.start:
            yield f"[start={time.ctime(entry.created_ns // _SECOND)}]"
    if entry.helper:
        yield f"helper={entry.helper}"
    yield "use=1"
    if style.id:
        yield f"id={entry.id}"


def _age(entry: Entry, now: int) -> int:
    """Whole seconds of the clock between two of its readings."""
    return now // _SECOND - entry.created_ns // _SECOND


def _side_words(entry: Entry, side: Side) -> Iterator[str]:
    yield f"src={side.source} dst={side.destination}"
    if entry.protocol in WITH_PORTS:
        yield f"sport={side.source_port} dport={side.destination_port}"
    elif entry.protocol in (1, 58):
        kind = side.destination_port
        yield f"type={kind >> 8} code={kind & 0xFF} id={side.source_port}"
    elif entry.protocol == 47:
        yield "srckey=0x0 dstkey=0x0"


# XML and JSON

_Fields = dict[str, object]


def _fields(entry: Entry, style: Style) -> dict[str, _Fields]:
    """The three parts of an entry, as XML and JSON have them."""
    return {
        "original": _side_fields(entry, entry.original, 0, style.counters),
        "reply": _side_fields(entry, entry.reply, 1, style.counters),
        "independent": _common_fields(entry, style),
    }


def _side_fields(entry: Entry, side: Side, direction: int, counters: bool) -> _Fields:
    layer4: _Fields = {
        "protonum": entry.protocol,
        "protoname": PROTOCOL_NAMES.get(entry.protocol, "unknown"),
    }
    if entry.protocol in WITH_PORTS:
        layer4 |= {"sport": side.source_port, "dport": side.destination_port}
    elif entry.protocol == 47:
        layer4 |= {"srckey": "0x0", "dstkey": "0x0"}
    fields: _Fields = {
        "layer3": {
            "protonum": 2 if entry.family == 4 else 10,
            "protoname": f"ipv{entry.family}",
            "src": str(side.source),
            "dst": str(side.destination),
        },
        "layer4": layer4,
    }
    if counters:
        fields["counters"] = {"packets": entry.packets[direction], "bytes": entry.bytes[direction]}
    return fields


def _common_fields(entry: Entry, style: Style) -> _Fields:
    fields: _Fields = {"state": entry.state} if entry.state else {}
    fields |= {"timeout": entry.seconds, "mark": 0, "use": 1, "id": entry.id}
    if entry.assured:
        fields["assured"] = True
    if not entry.replied:
        fields["unreplied"] = True
    if style.now is not None:
        if style.start:
            fields["timestamp"] = {"start": entry.created_ns}
        fields["deltatime"] = _age(entry, style.now)
    if entry.helper and style.kind == "json":
        fields["helper"] = entry.helper
    return fields


def _xml(entry: Entry, style: Style) -> str:
    parts = _fields(entry, style)
    metas = "".join(
        f'<meta direction="{name}">{_elements(part)}</meta>' for name, part in parts.items()
    )
    helper = f"<helper>{entry.helper}</helper>" if entry.helper else ""
    return f"<flow>{metas}{helper}</flow>"


def _elements(fields: Mapping[str, object]) -> str:
    """Fields as elements; those of a protocol's number and name are attributes."""
    text = ""
    for name, value in fields.items():
        if name in ("protonum", "protoname"):
            continue
        if value is True:
            text += f"<{name}/>"
        elif isinstance(value, Mapping):
            attributes = "".join(
                f' {key}="{value[key]}"' for key in ("protonum", "protoname") if key in value
            )
            text += f"<{name}{attributes}>{_elements(value)}</{name}>"
        else:
            text += f"<{name}>{value}</{name}>"
    return text


# Commands


def _save_words(entry: Entry) -> Iterator[str]:
    """The command that would make the entry again (``-o save``)."""
    status = [
        name
        for name, is_set in (("SEEN_REPLY", entry.replied), ("ASSURED", entry.assured))
        if is_set
    ]
    original, reply = entry.original, entry.reply
    yield f"-A -t {entry.seconds} -u {','.join(status) or 'UNSET'}"
    yield f"-s {original.source} -d {original.destination}"
    yield f"-{'r' if reply.source == original.destination else 'g'} {reply.source}"
    yield f"-{'q' if reply.destination == original.source else 'n'} {reply.destination}"
    yield f"-p {PROTOCOL_NAMES.get(entry.protocol, entry.protocol)}"
    if entry.protocol in WITH_PORTS:
        yield f"--sport {original.source_port} --dport {original.destination_port}"
        yield f"--reply-port-src {reply.source_port} --reply-port-dst {reply.destination_port}"
    elif entry.protocol in (1, 58):
        name = PROTOCOL_NAMES[entry.protocol]
        kind = original.destination_port
        yield f"--{name}-type {kind >> 8} --{name}-code {kind & 0xFF}"
        yield f"--{name}-id {original.source_port}"
    elif entry.protocol == 47:
        yield "--srckey 0 --dstkey 0 --reply-key-src 0 --reply-key-dst 0"
    if entry.state:
        yield f"--state {entry.state}"
