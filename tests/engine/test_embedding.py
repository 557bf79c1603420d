"""What programs that embed an engine do with it, besides sending packets through."""

import copy
import pickle

import numpy
import pytest
from packets import CLIENT, RS1, RS2, SECOND, VIP, tcp, udp

import lvscore
from lvscore import Host, Reason, Verdict


@pytest.fixture
def engine():
    engine = lvscore.Engine(seed=1, max_connections=64)
    web = engine.add_service("tcp", f"{VIP}:80", scheduler="rr")
    web.add_server(f"{RS1}:80")
    web.add_server(f"{RS2}:80")
    engine.add_snat("192.0.2.9", source="10.0.0.0/8", destination="198.51.100.0/24")
    engine.process(tcp(CLIENT, 1000, VIP, 80), SECOND)
    engine.process(udp(CLIENT, 1000, "198.51.100.1", 53), SECOND)
    return engine


class Own(lvscore.Engine):
    pass


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, *(lambda e, n=n: pickle.loads(pickle.dumps(e, n)) for n in (0, 5))],
)
def test_a_copy_does_what_the_engine_would_have_done(engine, copied):
    other = copied(engine)
    assert [str(c) for c in other.connections] == [str(c) for c in engine.connections]
    assert other.ipvsadm("-Ln --stats") == engine.ipvsadm("-Ln --stats")
    for port in range(1000, 1005):
        frames = [tcp(CLIENT, port, VIP, 80) for _ in range(2)]
        assert engine.process(frames[0], 2 * SECOND) == other.process(frames[1], 2 * SECOND)
        assert frames[0] == frames[1]
    engine.clear_services()
    assert len(other.services) == 1


def test_a_copy_of_an_engine_of_ones_own_is_such_a_one():
    assert type(copy.copy(Own(seed=0))) is Own


def test_a_copied_handle_is_one_of_the_copied_engine(engine):
    service = copy.deepcopy(engine.services[0])
    service.add_server("172.16.1.9:80")
    assert (len(service.servers), len(engine.services[0].servers)) == (3, 2)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_host_is_not_copied(copied):
    with pytest.raises(TypeError, match="a Host is not copied: copy its engine"):
        copied(Host(lvscore.Engine(seed=0)))


def test_a_time_that_is_no_integer(engine):
    """time.time() counts seconds, and would pass for the first nanoseconds of 1970."""
    for now in (1.5, "1", [], numpy.float64(2)):
        for call in (
            lambda now=now: engine.process(tcp(CLIENT, 1, VIP, 80), now),
            lambda now=now: engine.expire(now),
            lambda now=now: engine.explain(b"", now),
        ):
            with pytest.raises(lvscore.ConfigError, match="is not an integer, in nanoseconds"):
                call()
    assert engine.now == SECOND
    assert engine.process(tcp(CLIENT, 1000, VIP, 80), numpy.int64(7 * SECOND)) == Verdict.FORWARD
    assert engine.now == 7 * SECOND


def test_numbers_of_numpy(engine):
    (row,) = [row for row in engine.connections.snapshot() if row["is_service"]]
    ends = (CLIENT, row["client_port"]), (VIP, row["virtual_port"])
    found = engine.connections[row["protocol"], ends[0], ends[1]]
    assert found.client.port == 1000
    assert type(found.client.port) is int
    server = engine.services[0].add_server(("172.16.1.9", numpy.uint16(80)), weight=numpy.int8(7))
    assert server.weight == 7
    engine.sysctl["expire_nodest_conn"] = numpy.bool_(True).astype(int)
    assert engine.sysctl["expire_nodest_conn"] == 1
    engine.add_fwmark_service(numpy.uint32(7), persistence=numpy.int64(60))
    engine.helpers.add("ftp", ports=numpy.array([21, 2121]))
    assert engine.helpers["ftp"] == (21, 2121)
    engine.available_memory = numpy.int64(1 << 30)
    engine.port_pools.quota = numpy.int64(9)
    assert engine.port_pools.quota == 9
    engine.add_dnat("10.1.1.1", protocol="tcp", destination_ports=numpy.int32(80))
    same = lvscore.Engine(seed=numpy.uint8(7), max_connections=numpy.int16(100))
    assert same.max_connections == 100


@pytest.mark.parametrize(
    "call",
    [
        lambda e: lvscore.Engine(seed="x"),
        lambda e: lvscore.Engine(seed=1.5),
        lambda e: lvscore.Engine(max_connections=5.0),
        lambda e: e.services[0].add_server("172.16.1.9:80", method="tunnel", tunnel=5),
        lambda e: e.add_service("tcp", "1.2.3.4:80", scheduler="sh", scheduler_flags="sh-port"),
        lambda e: e.add_service("tcp", ("1.2.3.4", 80.0)),
        lambda e: e.connections["tcp"],
        lambda e: e.connections[0],
        lambda e: e.connections["tcp", f"{CLIENT}:1000"],
        lambda e: lvscore.create_pcap("/nowhere", like=5),
    ],
)
def test_arguments_of_the_wrong_kind(engine, call):
    with pytest.raises(lvscore.ConfigError, match=r"'|5|0|expected"):
        call(engine)


def test_a_frame_to_explain_is_bytes(engine):
    for wrong in (5, "text"):  # bytes(5) would be five zeros
        with pytest.raises(TypeError, match="bytes-like"):
            engine.explain(wrong)


def test_what_is_in_the_table(engine):
    connections = engine.connections
    assert ("tcp", f"{CLIENT}:1000", f"{VIP}:80") in connections
    assert ("tcp", f"{CLIENT}:1001", f"{VIP}:80") not in connections
    first = next(iter(connections))
    assert first in connections
    assert first._replace(packets_in=99) not in connections
    assert "tcp" not in connections


def test_connections_that_end_while_they_are_looked_at():
    engine = lvscore.Engine(seed=1)
    options = {"persistence": 10, "persistence_engine": "sip", "scheduler": "rr"}
    engine.add_service("udp", f"{VIP}:5060", **options).add_server(f"{RS1}:5060")
    for port in range(5):
        message = b"INVITE sip:a@b SIP/2.0\r\nCall-ID: call-%d@x\r\n\r\n" % port
        engine.process(udp(CLIENT, 6000 + port, VIP, 5060, message), 1)
    for table in (engine.templates, engine.connections):
        assert len(table) == 5
    seen = [iter(engine.templates), iter(engine.connections)]
    for rows in seen:
        next(rows)
    engine.expire(10_000 * SECOND)
    assert len(engine.connections) == len(engine.templates) == 0
    assert [len(list(rows)) for rows in seen] == [4, 4]


def test_settings_are_a_mapping(engine):
    assert engine.sysctl.get("no_such") is None
    assert engine.sysctl.get("no_such", 3) == 3
    assert engine.sysctl.get("net.ipv4.vs.sloppy_tcp") == 0
    with pytest.raises(lvscore.NotFoundError, match=r"; there is net.ipv4.vs.sloppy_tcp$"):
        engine.sysctl["net/ipv4/vs/slopy_tcp"]


def test_how_they_are_shown(engine):
    shown = "<Engine: 1 services, 1 rules, 2 connections>"
    assert repr(engine) == shown
    assert repr(engine.connections) == f"<2 connections of {shown}>"
    assert repr(engine.templates) == f"<0 templates of {shown}>"
    engine.sysctl["sloppy_tcp"] = 1
    assert repr(engine.sysctl).endswith("not as by default: {'net.ipv4.vs.sloppy_tcp': 1}>")
    host = Host(lvscore.Engine(seed=0))
    assert (
        repr(host) == "<Host with no interfaces, of <Engine: 0 services, 0 rules, 0 connections>>"
    )
    host.add_interface("eth1")
    assert repr(host).startswith("<Host with eth1, of <Engine: ")
    assert "initialised" in repr(Own.__new__(Own))
    assert engine.reasons[Reason.NEW_CONNECTION] == 2
