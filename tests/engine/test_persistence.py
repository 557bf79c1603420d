"""Persistence: templates, their timers, and what depends on them; marks; one-packet scheduling."""

import pytest
from packets import CLIENT, RS1, RS2, SECOND, VIP, flow, tcp, udp

import lvscore
from lvscore import Reason, Verdict
from lvscore.errors import ConfigError


def persistent(protocol="tcp", port=80, engine=None, **options):
    engine = engine or lvscore.Engine(seed=1)
    options = {"persistence": 50, "scheduler": "rr", **options}
    service = engine.add_service(protocol, f"{VIP}:{port}", **options)
    for server in (RS1, RS2):
        service.add_server(f"{server}:{8080 if port else 0}")
    return engine, service


def opened(engine, client=CLIENT, sport=1000, dport=80, now=0, mark=0):
    """The server that takes a new connection."""
    frame = tcp(client, sport, VIP, dport)
    assert engine.process(frame, now, mark=mark) == Verdict.FORWARD, engine.last_reason
    return flow(frame)[2]


def templates(engine):
    return {
        (str(t.client), str(t.virtual), str(t.server)): (t.state, t.expires_ns)
        for t in engine.templates
    }


def test_a_client_keeps_its_server():
    engine, service = persistent()
    first = opened(engine)
    assert first == RS2
    assert opened(engine, sport=1001) == first
    assert opened(engine, client="10.0.0.10") == RS1
    assert [s.persistent for s in service.servers] == [1, 1]
    assert templates(engine) == {
        (f"{CLIENT}:0", f"{VIP}:80", f"{RS2}:8080"): ("NONE", 50 * SECOND),
        ("10.0.0.10:0", f"{VIP}:80", f"{RS1}:8080"): ("NONE", 50 * SECOND),
    }


def test_clients_of_a_network_are_one():
    engine, _ = persistent(netmask=24)
    assert opened(engine, client="10.0.0.1") == opened(engine, client="10.0.0.200")
    assert opened(engine, client="10.0.1.1") != opened(engine, client="10.0.0.1", sport=7)
    assert {client for client, _, _ in templates(engine)} == {"10.0.0.0:0", "10.0.1.0:0"}


def test_netmask_reads_back():
    engine, service = persistent(netmask="255.0.255.0")
    assert str(service.netmask) == "255.0.255.0"
    six = engine.add_service("tcp", "[2001:db8::1]:80", persistence=9, netmask=64)
    assert (six.netmask, six.persistence) == (64, 9)
    six.edit(persistence=0)
    assert six.persistence == 0


def test_a_template_is_assured_by_an_established_connection():
    engine, _ = persistent()
    server = opened(engine)
    engine.process(tcp(server, 8080, CLIENT, 1000, "SA"), 0)
    assert [t.state for t in engine.templates] == ["NONE"]
    engine.process(tcp(CLIENT, 1000, VIP, 80, "A"), 0)
    assert [t.state for t in engine.templates] == ["ASSURED"]


def test_udp_assures_with_an_answer_and_takes_the_fast_path_from_then_on():
    engine, _ = persistent("udp", 53)
    request = udp(CLIENT, 1000, VIP, 53)
    engine.process(request, 0)
    assert [t.state for t in engine.templates] == ["NONE"]
    answer = udp(flow(request)[2], 8080, CLIENT, 1000)
    batch = lvscore.FrameBatch.of([answer, answer])
    engine.process_batch(batch)
    assert set(batch.reason) == {Reason.REPLY}
    assert [t.state for t in engine.templates] == ["ASSURED"]


def test_a_new_connection_restarts_the_template_and_packets_do_not():
    engine, _ = persistent()
    opened(engine)
    engine.process(tcp(CLIENT, 1000, VIP, 80, "A"), 20 * SECOND)
    assert [t.expires_ns for t in engine.templates] == [30 * SECOND]
    opened(engine, sport=1001, now=20 * SECOND)
    assert [t.expires_ns for t in engine.templates] == [50 * SECOND]


def test_a_template_outlives_its_connections_by_a_minute_at_a_time():
    engine, _ = persistent()  # SYN_RECV lasts 60 s, the template 50 s
    opened(engine)
    engine.expire(51 * SECOND)
    assert [t.expires_ns for t in engine.templates] == [59 * SECOND]
    engine.expire(109 * SECOND)
    assert (len(engine.connections), len(engine.templates)) == (0, 1)
    engine.expire(110 * SECOND)
    assert len(engine.templates) == 0


def test_time_that_leaps_gives_the_same():
    engine, _ = persistent()
    opened(engine)
    engine.expire(109 * SECOND)
    assert len(engine.templates) == 1


def test_weight_0_and_thresholds_do_not_drive_a_client_away():
    engine, service = persistent()
    server = opened(engine)
    service.edit_server(f"{server}:8080", weight=0)
    assert opened(engine, sport=1001) == server
    service.edit_server(f"{server}:8080", weight=1, upper_threshold=1)
    assert opened(engine, sport=1002) == server


def test_expire_quiescent_template():
    engine, service = persistent()
    engine.sysctl["net.ipv4.vs.expire_quiescent_template"] = 1
    server = opened(engine)
    service.edit_server(f"{server}:8080", weight=0)
    other = opened(engine, sport=1001)
    assert other != server
    assert sorted(templates(engine)) == [
        (f"{CLIENT}:0", f"{VIP}:65535", f"{server}:65535"),
        (f"{CLIENT}:0", f"{VIP}:80", f"{other}:8080"),
    ]


def test_the_template_of_a_removed_server_is_renamed():
    engine, service = persistent()
    server = opened(engine)
    service.remove_server(f"{server}:8080")
    assert opened(engine, sport=1001) != server
    assert sum(virtual.endswith(":65535") for _, virtual, _ in templates(engine)) == 1


def test_expire_nodest_conn_takes_templates_too():
    engine, service = persistent()
    engine.sysctl["net.ipv4.vs.expire_nodest_conn"] = 1
    opened(engine)
    service.remove()
    assert (len(engine.connections), len(engine.templates)) == (0, 0)


def test_a_controlled_connection_is_not_begun_anew():
    """is_new_conn_expected: one with a template keeps its server, closed or not."""
    engine, _ = persistent()
    server = opened(engine)
    engine.process(tcp(server, 8080, CLIENT, 1000, "R"), 0)
    assert opened(engine) == server
    assert engine.last_reason == Reason.REQUEST


def test_port_0_stands_for_all_ports():
    engine, _ = persistent(port=0)
    frames = [tcp(CLIENT, 1000 + n, VIP, port) for n, port in enumerate((80, 443, 2222))]
    for frame in frames:
        assert engine.process(frame, 0) == Verdict.FORWARD
    assert {flow(frame)[2] for frame in frames} == {RS2}
    assert [flow(frame)[3] for frame in frames] == [80, 443, 2222]
    assert list(templates(engine)) == [(f"{CLIENT}:0", f"{VIP}:0", f"{RS2}:0")]


def test_an_exact_port_comes_before_port_0():
    engine, _ = persistent(port=0)
    exact = engine.add_service("tcp", f"{VIP}:443", scheduler="rr")
    exact.add_server("172.16.1.9:443")
    assert opened(engine, dport=443) == "172.16.1.9"
    assert opened(engine, dport=444) == RS2


def test_port_0_needs_persistence():
    with pytest.raises(ConfigError, match="persistent"):
        lvscore.Engine().add_service("tcp", f"{VIP}:0")


def marked(**options):
    engine = lvscore.Engine(seed=1)
    service = engine.add_fwmark_service(7, scheduler="rr", **options)
    service.add_server(f"{RS1}:0")
    service.add_server(f"{RS2}:8080")
    return engine, service


def test_a_mark_selects_its_service():
    engine, service = marked()
    assert (service.mark, service.endpoint, service.protocol) == (7, None, "")
    frame = tcp(CLIENT, 1, "192.0.2.1", 80)
    assert engine.process(bytearray(frame), 0) == Verdict.PASS
    assert engine.process(frame, 0, mark=7) == Verdict.FORWARD
    assert flow(frame) == (CLIENT, 1, RS2, 8080)
    other = tcp(CLIENT, 2, "192.0.2.1", 443)
    engine.process(other, 0, mark=7)
    assert flow(other)[2:] == (RS1, 443)  # port 0: a server keeps the packet's own
    engine.remove_fwmark_service(7)
    assert engine.process(tcp(CLIENT, 3, "192.0.2.1", 80), 0, mark=7) == Verdict.PASS


def test_marks_in_a_batch():
    engine, _ = marked()
    batch = lvscore.FrameBatch.of([tcp(CLIENT, port, "192.0.2.1", 80) for port in (1, 2, 3)])
    batch.mark[1] = 7
    engine.process_batch(batch)
    assert list(batch.verdict) == [Verdict.PASS, Verdict.FORWARD, Verdict.PASS]


def test_a_persistent_mark_has_one_template_for_all_its_ports():
    engine, _ = marked(persistence=300)
    for sport, dport in ((1, 80), (2, 443)):
        frame = tcp(CLIENT, sport, "192.0.2.1", dport)
        engine.process(frame, 0, mark=7)
        assert flow(frame)[2:] == (RS2, dport)
    template = next(iter(engine.templates))
    assert (template.protocol, template.kind) == ("ip", "template")
    assert str(template.virtual) == "0.0.0.7:0"


def test_cache_bypass():
    """No server takes it, so it goes where it was going."""
    engine, service = marked()
    for server in service.servers:
        server.edit(weight=0)
    frame = tcp(CLIENT, 1, "192.0.2.1", 80)
    assert engine.process(bytearray(frame), 0, mark=7) == Verdict.DROP
    engine.sysctl["net.ipv4.vs.cache_bypass"] = 1
    sent = bytearray(frame)
    assert engine.process(sent, 0, mark=7) == Verdict.FORWARD
    assert sent == frame
    assert "0.0.0.0:0" in engine.ipvsadm("-L -n -c")


def test_one_packet_scheduling_keeps_nothing():
    engine = lvscore.Engine(seed=1)
    service = engine.add_service("udp", f"{VIP}:53", scheduler="rr", one_packet=True)
    for server in (RS1, RS2):
        service.add_server(f"{server}:5353")
    taken = []
    for _ in range(4):
        frame = udp(CLIENT, 1000, VIP, 53)
        assert engine.process(frame, 0) == Verdict.FORWARD
        taken.append(flow(frame)[2])
    assert taken == [RS2, RS1, RS2, RS1]
    assert len(engine.connections) == 0
    assert (service.statistics.connections, service.statistics.packets_in) == (4, 4)
    assert [(s.active, s.inactive) for s in service.servers] == [(0, 0), (0, 0)]
    assert engine.process(udp(RS1, 5353, CLIENT, 1000), 0) == Verdict.PASS


def test_one_packet_is_for_udp():
    with pytest.raises(ConfigError, match="udp"):
        lvscore.Engine().add_service("tcp", f"{VIP}:53", one_packet=True)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"persistence": -1}, "-1"),
        ({"persistence": 2678401}, "2678401"),
        ({"persistence": 9, "netmask": 33}, "33"),
        ({"persistence": 9, "netmask": "x"}, "'x'"),
        ({"persistence": 9, "netmask": "2001:db8::"}, "IPv4"),
        ({"persistence_engine": "h323"}, "h323"),
    ],
)
def test_bad_options_are_named(options, named):
    engine = lvscore.Engine()
    with pytest.raises(ConfigError, match=named):
        engine.add_service("udp", f"{VIP}:53", **options)
    assert engine.services == []


def test_templates_have_a_bound():
    engine = lvscore.Engine(seed=1, max_connections=4)
    _, service = persistent(engine=engine)
    verdicts = [engine.process(tcp(f"10.0.1.{n}", 1, VIP, 80), 0) for n in range(6)]
    assert verdicts == [Verdict.FORWARD] * 4 + [Verdict.DROP] * 2
    assert engine.last_reason == Reason.TABLE_FULL
    assert sum(s.persistent for s in service.servers) == 4


def test_every_datagram_of_one_packet_scheduling_renews_the_template():
    """ip_vs_sched_persist puts the template after every connection, also of one packet."""
    engine, _ = persistent("udp", 53, one_packet=True)
    servers = []
    for second in (0, 40, 80):
        frame = udp(CLIENT, 1000, VIP, 53)
        engine.process(frame, second * SECOND)
        servers.append(flow(frame)[2])
        assert [t.expires_ns for t in engine.templates] == [50 * SECOND]
    assert len(set(servers)) == 1
    engine.expire(130 * SECOND)
    assert len(engine.templates) == 0
