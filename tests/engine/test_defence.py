"""drop_entry: what a flood leaves goes before its time."""

from packets import CLIENT, RS1, SECOND, VIP, tcp, udp

import lvscore


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


def test_off_by_default_and_in_modes_that_wait_for_memory():
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
