"""The defence: what a flood leaves goes before its time, and when the defence acts."""

import pytest
from packets import CLIENT, RS1, SECOND, VIP, tcp, udp

import lvscore

PAGE = 4096
LOW = 1000 * PAGE  # below amemthresh's default of 1024 pages


def flooded(count=640, protocol="tcp"):
    engine = lvscore.Engine(seed=3)
    engine.add_service(protocol, f"{VIP}:80", scheduler="rr").add_server(f"{RS1}:80")
    make = tcp if protocol == "tcp" else udp
    for port in range(count):
        engine.process(make(CLIENT, 1024 + port, VIP, 80), 0)
    return engine


def test_a_thirty_second_of_half_open_connections_goes_each_second():
    engine = flooded()
    engine.sysctl["net.ipv4.vs.drop_entry"] = 3
    engine.expire(int(0.9 * SECOND))
    assert len(engine.connections) == 640
    engine.expire(1 * SECOND)
    assert 610 <= len(engine.connections) <= 621
    engine.expire(30 * SECOND)
    assert 200 <= len(engine.connections) <= 300  # (31/32)**30 of them


def test_off_by_default_and_while_there_is_memory():
    for mode in (0, 1, 2):
        engine = flooded(64)
        engine.sysctl["net.ipv4.vs.drop_entry"] = mode
        engine.expire(50 * SECOND)
        assert len(engine.connections) == 64


def test_established_connections_have_a_minute_of_grace():
    engine = flooded(320)
    engine.sysctl["net.ipv4.vs.drop_entry"] = 3
    for port in range(320):
        engine.process(tcp(CLIENT, 1024 + port, VIP, 80, "A"), 0)
    engine.expire(59 * SECOND)
    assert len(engine.connections) == 320
    engine.expire(600 * SECOND)
    assert len(engine.connections) < 320


def test_udp_goes_by_its_packets():
    """A flow with more than eight packets is not part of a flood."""
    engine = flooded(64, "udp")
    engine.sysctl["net.ipv4.vs.drop_entry"] = 3
    for port in range(32):
        for _ in range(9):
            engine.process(udp(CLIENT, 1024 + port, VIP, 80), 0)
    engine.expire(290 * SECOND)
    assert 32 <= len(engine.connections) < 64


def test_unassured_templates_go_with_their_connections():
    engine = lvscore.Engine(seed=3)
    service = engine.add_service("tcp", f"{VIP}:80", persistence=600)
    service.add_server(f"{RS1}:80")
    engine.sysctl["net.ipv4.vs.drop_entry"] = 3
    for n in range(64):
        engine.process(tcp(f"10.0.0.{n}", 1, VIP, 80), 0)
    engine.expire(40 * SECOND)
    assert len(engine.templates) < 64
    assert service.servers[0].persistent == len(engine.templates)


def test_the_same_seed_drops_the_same():
    def left():
        engine = flooded()
        engine.sysctl["net.ipv4.vs.drop_entry"] = 3
        engine.expire(5 * SECOND)
        return sorted(str(c.client) for c in engine.connections)

    assert left() == left()


@pytest.mark.parametrize("mode", [1, 2])
@pytest.mark.parametrize("name", ["drop_entry", "drop_packet", "secure_tcp"])
def test_automatic_modes_read_2_while_memory_is_low(name, mode):
    engine = lvscore.Engine()
    setting = f"net.ipv4.vs.{name}"
    engine.sysctl[setting] = mode
    assert engine.sysctl[setting] == 1
    engine.available_memory = LOW
    assert engine.sysctl[setting] == 2
    engine.available_memory = 1024 * PAGE
    assert engine.sysctl[setting] == 1
    engine.available_memory = 0
    engine.available_memory = None
    assert engine.sysctl[setting] == 1
    for fixed in (0, 3):
        engine.sysctl[setting] = fixed
        engine.available_memory = 0
        assert engine.sysctl[setting] == fixed


def test_entries_go_while_memory_is_low():
    engine = flooded()
    engine.sysctl["net.ipv4.vs.drop_entry"] = 1
    engine.available_memory = LOW
    engine.expire(5 * SECOND)
    left = len(engine.connections)
    assert left < 600
    engine.available_memory = 2 * LOW
    engine.expire(50 * SECOND)
    assert len(engine.connections) == left


def opened(engine, ports):
    """The ports of those SYNs that get through."""
    drop = lvscore.Verdict.DROP
    return [p for p in ports if engine.process(tcp(CLIENT, p, VIP, 80), engine.now) != drop]


def test_packets_go_at_a_rate_that_grows_as_memory_shrinks():
    """One of amemthresh / (amemthresh - available); each second counts anew."""
    engine = flooded(0)
    engine.sysctl["net.ipv4.vs.drop_packet"] = 1
    engine.available_memory = 768 * PAGE  # 1024 / 256: every fourth
    assert opened(engine, range(1, 10)) == [1, 2, 3, 5, 6, 7, 9]
    engine.expire(1 * SECOND)
    assert opened(engine, range(11, 20)) == [11, 12, 13, 15, 16, 17, 19]
    engine.available_memory = 0  # every one
    assert opened(engine, range(21, 29)) == []
    engine.available_memory = None
    assert opened(engine, range(31, 39)) == list(range(31, 39))


def test_packets_go_at_the_rate_that_is_set_from_the_first_on():
    engine = flooded(0)
    engine.sysctl["net.ipv4.vs.am_droprate"] = 4
    engine.sysctl["net.ipv4.vs.drop_packet"] = 3
    assert opened(engine, range(1, 11)) == [2, 3, 4, 6, 7, 8, 10]


def test_the_threshold_is_a_setting():
    engine = lvscore.Engine()
    engine.sysctl["net.ipv4.vs.drop_entry"] = 1
    engine.available_memory = LOW
    engine.sysctl["net.ipv4.vs.amemthresh"] = 1000
    assert engine.sysctl["net.ipv4.vs.drop_entry"] == 1
    engine.sysctl["net.ipv4.vs.amemthresh"] = 1001
    assert engine.sysctl["net.ipv4.vs.drop_entry"] == 2
    assert engine.available_memory == LOW


@pytest.mark.parametrize("value", [-1, 1.5, "1", 2**63])
def test_memory_is_a_number_of_bytes(value):
    engine = lvscore.Engine()
    with pytest.raises(lvscore.ConfigError, match=r"available_memory="):
        engine.available_memory = value
    assert engine.available_memory is None
