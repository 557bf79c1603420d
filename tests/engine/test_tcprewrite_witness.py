"""An outside witness: what another program's stateless rewriting made of the same capture.

Requests through the engine must equal the rewritten ones; rewritten replies through the engine
must equal the original ones.
"""

from collections import Counter

import captures
import pytest
from test_round_trip import blanked, flow_of

import lvscore
from lvscore import Verdict

FOLDER = captures.SHARED / "tcpreplay"
CLIENT = bytes([172, 16, 11, 12])

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no shared captures of tcpreplay")


def address(*octets):
    return bytes(octets)


def pnat():
    engine = lvscore.Engine(seed=1)
    engine.add_dnat(to="172.16.0.172", destination="96.17.211.172")
    return engine, {address(96, 17, 211, 172)}


def portmap():
    engine = lvscore.Engine(seed=1)
    engine.add_dnat(to="96.17.211.172:8080", destination="96.17.211.172", protocol="tcp",
                    destination_ports=80)  # fmt: skip
    engine.add_dnat(to="216.34.181.45:8080", destination="216.34.181.45", protocol="tcp",
                    destination_ports=80)  # fmt: skip
    return engine, {address(96, 17, 211, 172), address(216, 34, 181, 45)}


def endpoints():
    """Every server becomes one address, the client another: DNAT and SNAT together."""
    engine = lvscore.Engine(seed=1)
    for server in ("96.17.211.172", "216.34.181.45"):
        engine.add_dnat(to="10.10.0.2", destination=server)
    engine.add_snat(to="10.10.0.1", source="172.16.11.12", destination="10.10.0.2")
    return engine, {address(96, 17, 211, 172), address(216, 34, 181, 45)}


@pytest.mark.parametrize(
    ("name", "make", "least"), [("pnat", pnat, 40), ("portmap", portmap, 90),
                                ("endpoint", endpoints, 90)]
)  # fmt: skip
def test_witness(name, make, least):
    original = captures.load(FOLDER / "test--test.pcap")[0].frames
    rewritten = captures.load(FOLDER / f"test.rewrite_{name}")[0].frames
    engine, servers = make()
    # The other program looks neither at checksums nor at windows.
    engine.sysctl["net.netfilter.nf_conntrack_checksum"] = 0
    engine.sysctl["net.netfilter.nf_conntrack_tcp_be_liberal"] = 1
    counts = Counter()
    for before, after in zip(original, rewritten, strict=True):
        flow = flow_of(before.data, 1)
        if flow is None or flow[0] != 6:
            continue
        _, (source, _), (destination, _) = flow
        if source == CLIENT and destination in servers:
            sent, expected = bytearray(before.data), after.data
        elif source in servers and destination == CLIENT:
            sent, expected = bytearray(after.data), before.data
        else:
            continue
        assert engine.process(sent, before.time) == Verdict.FORWARD
        assert blanked(bytes(sent), 1, False)[14:] == blanked(expected, 1, False)[14:]
        counts["request" if source == CLIENT else "reply"] += 1
    assert counts["request"] + counts["reply"] >= least
    assert min(counts.values()) >= least // 3
