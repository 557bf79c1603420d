"""An engine in a file: everything it knows, so that another process goes on where it was.

The file begins with a line that names its format and a line with the SHA-256 of the rest. Then
comes a line of JSON with what there is once and the layouts of the blocks that follow it: rows of
connections and the like, as NumPy has structured arrays. A later version reads what this one wrote:
fields go by name, and those that are not there are 0.

Not in it: datagrams whose fragments are not all there yet, frames of the latest call
(``engine.emitted``), and a Host, which is configuration: put the loaded engine into one.
"""

import hashlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lvscore import _engine, iptables
from lvscore._files import replace_file
from lvscore.errors import ConfigError, LvscoreError, SnapshotError
from lvscore.nat import CHAINS

if TYPE_CHECKING:
    from lvscore.engine import Engine

__all__ = ["dump", "is_snapshot", "load", "parse", "save"]

_FORMAT = 2
_TITLE = b"lvscore snapshot "
_Loaded = TypeVar("_Loaded", bound="Engine")


def save(engine: "Engine", path: str | os.PathLike[str]) -> None:
    """Write an engine to a file, which only its owner may read, and which is replaced as a whole.

    Raises:
        SnapshotError: the file cannot be written.
    """
    try:
        replace_file(os.fspath(path), dump(engine), mode=0o600)
    except OSError as error:
        raise SnapshotError(f"{os.fspath(path)}: {error.strerror or error}") from None


def is_snapshot(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as a saved engine does, of whatever version, or is empty.

    Raises:
        OSError: it cannot be read.
    """
    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(_TITLE)) in (_TITLE, b"")


def load(kind: type[_Loaded], path: str | os.PathLike[str], now: int | None = None) -> _Loaded:
    """Read an engine from a file; see :meth:`lvscore.Engine.load`."""
    name = os.fspath(path)
    try:
        return parse(kind, Path(path).read_bytes(), now)
    except OSError as error:
        raise SnapshotError(f"{name}: {error.strerror or error}") from None
    except SnapshotError as error:
        raise SnapshotError(f"{name}: {error}") from None


def dump(engine: "Engine") -> list[bytes | bytearray]:
    """The pieces of the file."""
    state, rows = _engine.snapshot_take(engine)
    header = {
        "max_connections": engine.max_connections,
        "state": state,
        "layouts": _engine.snapshot_layouts(),
        "byteorder": sys.byteorder,
        "rows": {name: len(block) for name, block in rows.items()},
        "routes": _routes(engine),
        "rules": {" ".join(key): _rules(engine, key) for key in CHAINS},
        "last_rule": engine._last_rule,
        "pool_events_seen": engine._pool_events_taken,
    }
    pieces = [json.dumps(header).encode() + b"\n", *rows.values()]
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return [_TITLE + b"%d\n" % _FORMAT, digest.hexdigest().encode() + b"\n", *pieces]


def parse(kind: type[_Loaded], data: bytes, now: int | None = None) -> _Loaded:
    """Make an engine of what :func:`dump` gave, joined; see :meth:`lvscore.Engine.load`."""
    try:
        header, rows = _read(data)
        engine = kind(max_connections=header["max_connections"], seed=0)
        _put_routes(engine, header["routes"])
        for key in CHAINS:
            _put_rules(engine, key, header["rules"][" ".join(key)])
        engine._last_rule = header["last_rule"]
        engine._pool_events_taken = header["pool_events_seen"]
        _engine.snapshot_put(engine, header["state"], rows)
    except SnapshotError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, LvscoreError) as error:
        raise SnapshotError(f"damaged: {type(error).__name__}: {error}") from None
    if now is not None:
        _engine.snapshot_shift(engine, now - engine.now)
    return engine


def _read(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The header, and the blocks as rows of this version's structs."""
    if not data.startswith(_TITLE):
        raise SnapshotError("not a saved engine of lvscore")
    title, _, rest = data.partition(b"\n")
    version = title.removeprefix(_TITLE).decode("latin-1")
    if version != str(_FORMAT):
        raise SnapshotError(f"format {version[:20]!r}: expected {_FORMAT}")
    digest, _, body = rest.partition(b"\n")
    if digest != hashlib.sha256(body).hexdigest().encode():
        raise SnapshotError("damaged or cut short: its checksum is not right")
    line, _, blocks = body.partition(b"\n")
    header = json.loads(line)
    if header["byteorder"] != sys.byteorder:
        raise SnapshotError(f"of a {header['byteorder']}-endian machine")
    dtypes = _dtypes()
    written = {kind: _dtype(layout) for kind, layout in header["layouts"].items()}
    rows = {}
    start = 0
    for name, length in header["rows"].items():
        kind = name.rpartition(".")[2]
        block = np.frombuffer(blocks[start : start + length], written[kind])
        rows[name] = _converted(block, dtypes[kind]).tobytes()
        start += length
    return header, rows


def _dtypes() -> dict[str, "np.dtype[np.void]"]:
    return {kind: _dtype(layout) for kind, layout in _engine.snapshot_layouts().items()}


def _dtype(layout: Any) -> "np.dtype[np.void]":
    found: np.dtype[np.void] = np.dtype(layout)
    return found


def _converted(rows: "np.ndarray[Any, Any]", dtype: "np.dtype[np.void]") -> "np.ndarray[Any, Any]":
    """Rows of this version's layout: by the names of their fields. So it is even where the layout
    is the same, but has gaps: what it has forgotten is missed at once."""
    if rows.dtype == dtype and dtype.itemsize == sum(
        dtype[name].itemsize for name in dtype.names or ()
    ):
        return rows
    result = np.zeros(len(rows), dtype)
    with np.errstate(invalid="ignore"):
        for name in set(dtype.names or ()).intersection(rows.dtype.names or ()):
            result[name] = rows[name]
    return result


# What is Python's


def _routes(engine: "Engine") -> dict[str, Any]:
    routes = engine.routes
    return {
        "numbers": list(engine._route_tables.numbers),
        "interfaces": [
            [interface.name, [f"{a}/{network.prefixlen}" for a, network in interface.addresses]]
            for interface in routes.interfaces
        ],
        "routes": [[str(route.network), route.interface] for route in routes.routes],
    }


def _put_routes(engine: "Engine", given: dict[str, Any]) -> None:
    engine._route_tables.numbers.update({name: i for i, name in enumerate(given["numbers"])})
    for name, addresses in given["interfaces"]:
        engine.routes.add_interface(name, addresses)
    for network, name in given["routes"]:
        engine.routes.add(network, name)


def _rules(engine: "Engine", key: tuple[str, str]) -> list[list[Any]]:
    """(number, family, rule in iptables' words, packets, bytes) of a chain's rules."""
    counters = _engine.rule_counters(engine, " ".join(key))
    return [
        [rule.number, rule.family, iptables.format_rule(rule), *counters[rule.number]]
        for rule in engine._chains[key]
    ]


def _put_rules(engine: "Engine", key: tuple[str, str], given: list[list[Any]]) -> None:
    chain = []
    counters = {}
    for number, family, text, packets, count in given:
        program = "iptables" if family == 4 else "ip6tables"
        words = iptables.split(text)
        rules = iptables.parse([program, "-t", key[0], *words]).rules
        if len(rules) != 1 or rules[0].chain != key[1]:
            raise ConfigError(f"{text!r} is not one rule of chain {key[1]}")
        chain.append(replace(rules[0], number=number))
        counters[number] = packets, count
    engine._install_rules(key, chain)
    _engine.rule_counters_set(engine, " ".join(key), counters)
