"""Virtual services: who takes a connection, what becomes of it, what is counted."""

import pytest
from packets import CLIENT, RS1, RS2, SECOND, VIP, checksums_good, flow, tcp, udp

import lvscore
from lvscore import Reason, Verdict


def send(engine, frame, now=0):
    verdict = engine.process(frame, now)
    assert verdict != Verdict.FORWARD or checksums_good(frame)
    return verdict, engine.last_reason


def web(scheduler="rr", servers=(RS1, RS2), weights=None, **options):
    engine = lvscore.Engine(seed=1)
    service = engine.add_service("tcp", f"{VIP}:80", scheduler=scheduler, **options)
    for n, server in enumerate(servers):
        service.add_server(f"{server}:8080", weight=1 if weights is None else weights[n])
    return engine, service


def opened_by(engine, count, first=1000):
    """The last octets of the servers that took so many new connections."""
    taken = []
    for port in range(first, first + count):
        frame = tcp(CLIENT, port, VIP, 80)
        assert send(engine, frame) == (Verdict.FORWARD, Reason.NEW_CONNECTION)
        taken.append(flow(frame)[2].split(".")[-1])
    return "".join(taken)


def test_the_lab():
    engine, _ = web()
    request = tcp(CLIENT, 40000, VIP, 80)
    send(engine, request)
    assert flow(request) == (CLIENT, 40000, RS2, 8080)  # the last added comes first
    reply = tcp(RS2, 8080, CLIENT, 40000, "SA")
    assert send(engine, reply) == (Verdict.FORWARD, Reason.REPLY)
    assert flow(reply) == (VIP, 80, CLIENT, 40000)


@pytest.mark.parametrize(
    ("scheduler", "weights", "expected"),
    [
        ("rr", (1, 1), "878787"),
        ("wrr", (3, 1), "877787778777"),
        ("wrr", (1, 3), "878887888788"),
        ("lc", (1, 1), "878787"),
        ("wlc", (1, 1), "878787"),
        ("wlc", (3, 1), "877787"),
        ("rr", (1, 0), "777"),
    ],
)
def test_picks(scheduler, weights, expected):
    engine, _ = web(scheduler, weights=weights)
    assert opened_by(engine, len(expected)) == expected


def test_sh_sends_a_client_to_one_server():
    engine, _ = web("sh")
    for client, server in (("10.0.0.1", RS1), ("10.0.0.2", RS1), ("192.168.1.10", RS2)):
        for port in (1000, 2000):
            frame = tcp(client, port, VIP, 80)
            send(engine, frame)
            assert flow(frame)[2] == server


def test_editing_in_the_middle():
    engine, service = web()
    assert opened_by(engine, 2) == "87"
    service.edit_server(f"{RS2}:8080", weight=0)
    assert opened_by(engine, 2, 2000) == "77"
    kept = tcp(CLIENT, 1000, VIP, 80, "A")
    assert send(engine, kept) == (Verdict.FORWARD, Reason.REQUEST)
    assert flow(kept)[2] == RS2  # weight 0 keeps what there is
    service.edit(scheduler="lc")
    service.edit_server(f"{RS2}:8080", weight=1)
    # One active connection there, three here.
    assert opened_by(engine, 2, 3000) == "88"


def test_no_server():
    engine, _ = web(servers=())
    frame = tcp(CLIENT, 1000, VIP, 80)
    before = bytes(frame)
    assert send(engine, frame) == (Verdict.DROP, Reason.NO_REAL_SERVER)
    assert bytes(frame) == before


def test_removal_drops_and_adding_again_revives():
    engine, service = web(servers=(RS1,))
    opened_by(engine, 1)
    service.remove_server(f"{RS1}:8080")
    assert send(engine, tcp(CLIENT, 1000, VIP, 80, "A")) == (Verdict.DROP, Reason.SERVER_REMOVED)
    # Answers are still translated: only requests look at the server.
    assert send(engine, tcp(RS1, 8080, CLIENT, 1000, "SA"))[1] == Reason.REPLY
    server = service.add_server(f"{RS1}:8080")
    assert (server.active, server.inactive) == (1, 0)
    assert server.statistics.connections == 1
    assert send(engine, tcp(CLIENT, 1000, VIP, 80, "A"))[1] == Reason.REQUEST
    assert service.statistics.connections == 1


def test_a_server_forgotten_for_two_minutes_begins_anew():
    engine, service = web(servers=(RS1,))
    opened_by(engine, 1)
    service.remove_server(f"{RS1}:8080")
    engine.expire(121 * SECOND)  # SYN_RECV: 60 s
    assert len(engine.connections) == 0
    engine.expire(400 * SECOND)
    server = service.add_server(f"{RS1}:8080")
    assert server.statistics.connections == 0
    assert service.statistics.connections == 1  # the service remembers


def test_connections_of_removed_servers_end_when_a_server_is_removed():
    """With expire_nodest_conn=1, also those of servers that were removed before it was set."""
    engine, service = web(servers=(RS1, RS2))
    opened_by(engine, 2)
    service.remove_server(f"{RS1}:8080")
    engine.sysctl["net.ipv4.vs.expire_nodest_conn"] = 1
    engine.add_service("udp", f"{VIP}:53").remove()
    assert len(engine.connections) == 2
    service.remove_server(f"{RS2}:8080")
    assert len(engine.connections) == 0


def test_a_server_is_forgotten_two_minutes_after_its_last_connection_however_time_passes():
    """Its connection ends after 60 s, also if nobody looks until much later."""
    engine, service = web(servers=(RS1,))
    opened_by(engine, 1)
    service.remove_server(f"{RS1}:8080")
    engine.expire(400 * SECOND)
    assert service.add_server(f"{RS1}:8080").statistics.connections == 0


def test_a_new_service_begins_its_statistics_anew():
    engine, service = web(servers=(RS1,))
    opened_by(engine, 1)
    service.remove()
    again = engine.add_service("tcp", f"{VIP}:80", scheduler="rr")
    server = again.add_server(f"{RS1}:8080")
    assert server.statistics.connections == 0
    assert server.active == 1  # the connection is still there
    assert engine.statistics.connections == 1


TCP_LIFE = [
    ("out", "S", "SYN_RECV", 60, (1, 0)),
    ("in", "SA", "SYN_RECV", 60, (1, 0)),
    ("out", "A", "ESTABLISHED", 900, (1, 0)),
    ("in", "PA", "ESTABLISHED", 900, (1, 0)),
    ("in", "FA", "FIN_WAIT", 120, (0, 1)),
    ("out", "A", "FIN_WAIT", 120, (0, 1)),
    ("out", "FA", "TIME_WAIT", 120, (0, 1)),
]


def test_the_life_of_a_tcp_connection():
    engine, service = web(servers=(RS1,))
    server = service.find_server(f"{RS1}:8080")
    for second, (way, flags, state, timeout, counts) in enumerate(TCP_LIFE):
        frame = (
            tcp(CLIENT, 1000, VIP, 80, flags)
            if way == "out"
            else tcp(RS1, 8080, CLIENT, 1000, flags)
        )
        assert send(engine, frame, second * SECOND)[0] == Verdict.FORWARD
        connection = engine.connections["tcp", f"{CLIENT}:1000", f"{VIP}:80"]
        assert (connection.state, connection.expires_ns) == (state, timeout * SECOND)
        assert (server.active, server.inactive) == counts
    last = (len(TCP_LIFE) - 1) * SECOND
    assert engine.expire(last + 120 * SECOND - 1) == 0  # never early
    assert engine.expire(last + 120 * SECOND) == 1  # and at the nominal time
    assert (server.active, server.inactive) == (0, 0)


@pytest.mark.parametrize("flags", ["R", ""])
def test_reset_and_no_flags_close(flags):
    engine, _ = web()
    opened_by(engine, 1)
    send(engine, tcp(RS2, 8080, CLIENT, 1000, "SA"))
    send(engine, tcp(CLIENT, 1000, VIP, 80, "A"))
    send(engine, tcp(CLIENT, 1000, VIP, 80, flags))
    assert engine.connections["tcp", f"{CLIENT}:1000", f"{VIP}:80"].state == "CLOSE"


@pytest.mark.parametrize("flags", ["A", "R", "F", "", "SR"])
def test_what_does_not_open(flags):
    engine, _ = web()
    frame = tcp(CLIENT, 1000, VIP, 80, flags)
    before = bytes(frame)
    assert send(engine, frame) == (Verdict.LOCAL, Reason.TCP_NOT_SYN)
    assert bytes(frame) == before
    assert send(engine, tcp(CLIENT, 20, VIP, 80)) == (Verdict.LOCAL, Reason.SOURCE_PORT_20)


def close_connection(engine):
    opened_by(engine, 1)
    for way, flags, *_ in TCP_LIFE[1:]:
        frame = (
            tcp(CLIENT, 1000, VIP, 80, flags)
            if way == "out"
            else tcp(RS2, 8080, CLIENT, 1000, flags)
        )
        send(engine, frame)


def test_a_syn_in_time_wait_begins_anew():
    engine, service = web()
    close_connection(engine)
    frame = tcp(CLIENT, 1000, VIP, 80)
    assert send(engine, frame) == (Verdict.FORWARD, Reason.CONNECTION_REUSED)
    assert flow(frame)[2] == RS1  # scheduled anew
    assert len(engine.connections) == 1
    assert [(s.active, s.inactive) for s in service] == [(0, 0), (1, 0)]


def test_a_syn_in_an_open_connection_is_a_request():
    engine, _ = web()
    opened_by(engine, 1)
    frame = tcp(CLIENT, 1000, VIP, 80)
    assert send(engine, frame) == (Verdict.FORWARD, Reason.REQUEST)
    assert flow(frame)[2] == RS2


def test_a_syn_in_time_wait_without_the_service():
    engine, service = web()
    close_connection(engine)
    service.remove()
    frame = tcp(CLIENT, 1000, VIP, 80)
    assert send(engine, frame) == (Verdict.LOCAL, Reason.LOCAL_ADDRESS)
    assert len(engine.connections) == 0


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("zero", [False, True])
def test_udp(family, zero):
    client, vip, server = (
        (CLIENT, VIP, RS1) if family == 4 else ("2001:db8::9", "2001:db8::100", "fd00::7")
    )
    engine = lvscore.Engine(seed=1)
    endpoint = vip if family == 4 else f"[{vip}]"
    service = engine.add_service("udp", f"{endpoint}:53", scheduler="rr")
    real = service.add_server((server, 1053))
    options = {"chksum": 0} if zero else {}
    request = udp(client, 5353, vip, 53, **options)
    assert send(engine, request) == (Verdict.FORWARD, Reason.NEW_CONNECTION)
    assert flow(request) == (client, 5353, server, 1053)  # and the checksum is there and right
    reply = udp(server, 1053, client, 5353, **options)
    assert send(engine, reply, SECOND) == (Verdict.FORWARD, Reason.REPLY)
    assert flow(reply) == (vip, 53, client, 5353)
    assert (real.active, real.inactive) == (0, 1)
    assert engine.expire(301 * SECOND - 1) == 0
    assert engine.expire(301 * SECOND) == 1


def test_ipv6_tcp():
    engine = lvscore.Engine(seed=1)
    service = engine.add_service("tcp", "[2001:db8::100]:80", scheduler="wlc")
    service.add_server("[fd00::7]:8080")
    frame = tcp("2001:db8::9", 1000, "2001:db8::100", 80)
    assert send(engine, frame) == (Verdict.FORWARD, Reason.NEW_CONNECTION)
    assert flow(frame) == ("2001:db8::9", 1000, "fd00::7", 8080)
    reply = tcp("fd00::7", 8080, "2001:db8::9", 1000, "SA")
    assert send(engine, reply)[1] == Reason.REPLY
    assert flow(reply) == ("2001:db8::100", 80, "2001:db8::9", 1000)


def test_a_server_without_port_takes_the_service_port():
    engine = lvscore.Engine(seed=1)
    engine.add_service("tcp", f"{VIP}:80", scheduler="rr").add_server(RS1)
    frame = tcp(CLIENT, 1000, VIP, 80)
    send(engine, frame)
    assert flow(frame)[2:] == (RS1, 80)


@pytest.mark.parametrize("length", range(20))
def test_cut_headers(length):
    """A TCP header that ends early: dropped, counted in, and the timer runs anew."""
    engine, service = web(servers=(RS1,))
    opened_by(engine, 1)
    frame = tcp(CLIENT, 1000, VIP, 80, "A")[: 34 + length]
    frame[16:18] = (20 + length).to_bytes(2, "big")
    before = bytes(frame)
    verdict = engine.process(frame, 30 * SECOND)
    assert bytes(frame) == before
    assert engine.last_reason == Reason.TRUNCATED_TRANSPORT_HEADER
    connection = engine.connections["tcp", f"{CLIENT}:1000", f"{VIP}:80"]
    if length >= 4:
        assert verdict == Verdict.DROP
        assert connection.expires_ns == 60 * SECOND
        assert service.statistics.packets_in == 2
    else:
        assert verdict == Verdict.LOCAL
        assert connection.expires_ns == 30 * SECOND


def test_counters():
    engine, service = web(servers=(RS1,))
    opened_by(engine, 1)
    send(engine, tcp(RS1, 8080, CLIENT, 1000, "SA", payload=b"12345"))
    connection = engine.connections["tcp", f"{CLIENT}:1000", f"{VIP}:80"]
    expected = lvscore.Statistics(1, 1, 1, 40, 45)
    assert (connection.packets_in, connection.packets_out) == (1, 1)
    assert (connection.bytes_in, connection.bytes_out) == (40, 45)
    assert service.statistics == engine.statistics == expected
    assert service.find_server(f"{RS1}:8080").statistics == expected
    service.remove()
    assert engine.statistics == expected


def two_services_one_server():
    engine = lvscore.Engine(seed=1)
    for port in (80, 81):
        service = engine.add_service("tcp", f"{VIP}:{port}", scheduler="rr")
        service.add_server(f"{RS1}:8080")
    return engine


def test_shadowed_reply_tuples():
    """The newest connection answers; when it goes the older one appears again."""
    engine = two_services_one_server()
    send(engine, tcp(CLIENT, 1000, VIP, 80))
    send(engine, tcp(CLIENT, 1000, VIP, 81), SECOND)
    assert len(engine.connections) == 2
    reply = tcp(RS1, 8080, CLIENT, 1000, "A")
    send(engine, bytearray(reply), SECOND)
    assert engine.connections["tcp", f"{RS1}:8080", f"{CLIENT}:1000"].virtual.port == 81
    # The newer one is reset and gone after 10 s, the older is still SYN_RECV.
    send(engine, tcp(CLIENT, 1000, VIP, 81, "R"), 2 * SECOND)
    send(engine, tcp(CLIENT, 1000, VIP, 80, "S"), 2 * SECOND)
    assert engine.expire(12 * SECOND) == 1
    again = bytearray(reply)
    assert send(engine, again, 13 * SECOND)[1] == Reason.REPLY
    assert flow(again) == (VIP, 80, CLIENT, 1000)
