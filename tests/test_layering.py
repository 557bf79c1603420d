"""Imports point down: every import line of the package, compiled or not, against the layers."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lvscore"

# Each line may import from the lines above it, and from nothing in its own line.
CORE_LAYERS = [
    {"consts", "bytes", "machine"},
    {"checksum", "crc32c", "hash", "jiffies"},
    {"wire"},
    {"flow", "offload", "segment", "sequence", "track_sctp"},
    {"estimator", "expect", "ftp"},
    {"index", "sip", "wheel", "route", "track", "server", "emit", "fragment", "port_pool"},
    {"locality", "rule_sctp", "tcp_window", "verify"},
    {"scheduler_types"},
    {"scheduler_turn", "scheduler_load", "scheduler_hash"},
    {"scheduler_maglev", "scheduler_locality"},
    {"scheduler"},
    {"connection", "event", "forward", "service", "translate"},
    {"entry", "load", "lookup", "quote", "rename"},
    {"path", "rules"},
    {"next_hop", "unique_tuple"},
    {"state"},
    {"lifetime", "prefault", "related", "tunnel"},
    {"progress"},
    {"early_drop", "nat", "nfct"},
    {"nfct_postrouting"},
    {"helper", "persistence", "transmit", "tunnel_error"},
    {"rule_ftp", "schedule"},
    {"defence"},
    {"clock", "director", "icmp", "defragment", "selfcheck"},
    {"conntrack", "lane"},
    {"lane6", "lane_open", "lane_track"},
    {"lane_host", "pipeline"},
    {"lane6_host", "lane_track_host"},
]
LAYERS = [
    *({f"_core.{name}" for name in layer} for layer in CORE_LAYERS),
    {"_files", "_fork", "constants", "integers", "report", "source_address"},
    {"errors"},
    {"_arguments"},
    {"_frames", "addresses", "sysctl"},
    {
        "_engine",
        "_probe",
        "_probe_frame",
        "_probe_ftp",
        "_probe_packet",
        "_probe_payload",
        "_probe_scheduler",
        "_probe_server",
        "_probe_store",
        "_probe_window",
        "_tally",
        "model",
    },
    {"services"},
    {"director", "nat"},
    {"connections", "explain", "helpers", "port_pools", "routes"},
    {"engine"},
    {"host"},
    {"io"},  # knows no engine: see below
    {"conntrack", "iptables", "ipvsadm", "live", "runner"},
    {"nft"},
    {"config", "control", "programs", "snapshot"},
    {"takeover"},
    {"workers"},
    {"", "cli"},
    {"__main__"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
# An import inside a function is a choice at run time, not a dependency of the module.
COMPILED = re.compile(r"^(?:from (lvscore[\w.]*) c?import (.+)|c?import (lvscore[\w.]*))", re.M)


def name_of(path):
    """The module as the layers call it: lvscore/_core/wire.pxd is _core.wire."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return unit(parts)


def unit(parts):
    """Sub-packages but _core are one unit each."""
    return ".".join(parts[:2] if parts[:1] == ["_core"] else parts[:1])


def imported_by_python(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lvscore"):
            if node.module == "lvscore":
                yield from (f"lvscore.{alias.name}" for alias in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("lvscore"))


def imported_by_cython(path):
    for module, names, plain in COMPILED.findall(path.read_text()):
        if module == "lvscore._core":
            yield f"{module}.{names.split()[0]}"
        else:
            yield module or plain


def imports(path):
    found = imported_by_python(path) if path.suffix == ".py" else imported_by_cython(path)
    for module in found:
        yield unit([part for part in module.split(".")[1:] if part])


SOURCES = [
    path for path in sorted(PACKAGE.rglob("*"))
    if path.suffix in (".py", ".pyx", ".pxd") and path.stat().st_size
]  # fmt: skip


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    name = name_of(path)
    assert name in RANK, f"{name} has no layer yet"
    for other in imports(path):
        if other == name:
            continue  # a package's own modules, and the .pxd of a .pyx
        if name == "cli" and other in ("__version__", "io"):
            continue
        assert other in RANK, f"{name} imports {other}, which has no layer"
        assert RANK[other] < RANK[name], f"{name} imports {other} from above"


def test_the_reader_of_imports_sees_them():
    """The test above would pass if nothing was found."""
    assert "state" in {name.split(".")[-1] for name in imports(PACKAGE / "_core" / "pipeline.pxd")}
    assert "errors" in set(imports(PACKAGE / "_engine.pyx"))
    assert "_engine" in set(imports(PACKAGE / "director.py"))


def test_the_core_imports_nothing_but_libc_and_itself():
    for path in sorted((PACKAGE / "_core").glob("*.pxd")):
        for line in path.read_text().splitlines():
            if re.match(r"(from|c?import)\s", line):
                assert re.match(r"from (libc\.\w+|lvscore\._core\.\w+) cimport ", line), (
                    path,
                    line,
                )


def test_io_knows_no_engine():
    for path in sorted((PACKAGE / "io").iterdir()):
        if path.suffix in (".py", ".pyx", ".pxd"):
            assert not {"_engine", "engine", "services"} & set(imports(path)), path
