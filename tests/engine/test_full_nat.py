"""net.ipv4.vs.conntrack=1: conntrack knows services' connections, and rules translate sources."""

import pytest
from packets import CLIENT, RS1, RS2, SECOND, VIP, checksums_good, flow, ip, udp
from scapy.layers.inet import ICMP, IP, TCP

import lvscore
from lvscore import Reason, Verdict, conntrack

DIP = "172.16.1.3"
MATCH = f"iptables -t nat -A POSTROUTING -m ipvs --vaddr {VIP} -j SNAT --to-source {DIP}"
OF_CLIENT = f"iptables -t nat -A POSTROUTING -s {CLIENT} -j SNAT --to-source {DIP}"


def director(*rules, protocol="tcp", method="masquerade", on=1):
    engine = lvscore.Engine(seed=1)
    engine.sysctl["net.ipv4.vs.conntrack"] = on
    for rule in rules or (MATCH,):
        engine.iptables(rule)
    service = engine.add_service(protocol, f"{VIP}:80", scheduler="rr")
    service.add_server(f"{RS1}:{8080 if method == 'masquerade' else 80}", method=method)
    return engine


def send(engine, frame, now=0):
    verdict = engine.process(frame, now)
    assert verdict != Verdict.FORWARD or checksums_good(frame)
    return verdict, engine.last_reason


def segment(source, sport, destination, dport, flags, seq=0, ack=0, payload=b""):
    header = TCP(sport=sport, dport=dport, flags=flags, seq=seq, ack=ack, window=64240)
    return bytearray(bytes(ip(source, destination) / header / payload))


def open_connection(engine, port=40000, now=0):
    for frame in (
        segment(CLIENT, port, VIP, 80, "S", 1000),
        segment(RS1, 8080, DIP, port, "SA", 5000, 1001),
        segment(CLIENT, port, VIP, 80, "A", 1001, 5001),
    ):
        assert send(engine, frame, now)[0] == Verdict.FORWARD


def lines(engine):
    return conntrack.run(engine, "conntrack -L").splitlines()


def test_both_ways_are_translated():
    engine = director()
    request = segment(CLIENT, 40000, VIP, 80, "S", 1000)
    assert send(engine, request) == (Verdict.FORWARD, Reason.NEW_CONNECTION)
    assert flow(request) == (DIP, 40000, RS1, 8080)
    assert lines(engine) == [
        f"tcp      6 120 SYN_SENT src={CLIENT} dst={VIP} sport=40000 dport=80 [UNREPLIED] "
        f"src={RS1} dst={DIP} sport=8080 dport=40000 mark=0 use=1"
    ]
    answer = segment(RS1, 8080, DIP, 40000, "SA", 5000, 1001)
    assert send(engine, answer) == (Verdict.FORWARD, Reason.REPLY)
    assert flow(answer) == (VIP, 80, CLIENT, 40000)
    request = segment(CLIENT, 40000, VIP, 80, "A", 1001, 5001)
    assert send(engine, request) == (Verdict.FORWARD, Reason.REQUEST)
    assert flow(request) == (DIP, 40000, RS1, 8080)
    assert lines(engine)[0].split()[2:4] == ["432000", "ESTABLISHED"]
    assert lines(engine)[0].split()[-3] == "[ASSURED]"
    (connection,) = engine.connections
    assert (connection.state, str(connection.server)) == ("ESTABLISHED", f"{RS1}:8080")
    (rule,) = engine.rules
    assert engine.rule_counters(rule) == (1, 40)


def test_without_the_setting_the_rules_do_not_see_it():
    engine = director(on=0)
    request = segment(CLIENT, 40000, VIP, 80, "S", 1000)
    assert send(engine, request)[0] == Verdict.FORWARD
    assert flow(request) == (CLIENT, 40000, RS1, 8080)
    assert lines(engine) == []


@pytest.mark.parametrize(
    ("match", "source"),
    [
        (f"-m ipvs --vaddr {VIP}", DIP),
        (f"-m ipvs ! --vaddr {VIP}", CLIENT),
        ("-m ipvs --vaddr 172.16.1.0/24", DIP),
        ("-m ipvs --vaddr 172.16.1.101", CLIENT),
        (f"-d {RS1}", DIP),  # behind IPVS's translation,
        (f"-d {VIP}", CLIENT),
        ("-p tcp --dport 8080", DIP),
        ("-p tcp --dport 80", CLIENT),
        ("-p udp", CLIENT),
    ],
)
def test_what_postrouting_matches(match, source):
    engine = director(f"iptables -t nat -A POSTROUTING {match} -j SNAT --to-source {DIP}")
    request = segment(CLIENT, 40000, VIP, 80, "S", 1000)
    assert send(engine, request)[0] == Verdict.FORWARD
    assert flow(request) == (source, 40000, RS1, 8080)


def test_masquerading():
    engine = director("iptables -t nat -A POSTROUTING -o srv -j MASQUERADE")
    engine.routes.add_interface("srv", [f"{DIP}/24"])
    request = segment(CLIENT, 40000, VIP, 80, "S", 1000)
    assert send(engine, request)[0] == Verdict.FORWARD
    assert flow(request) == (DIP, 40000, RS1, 8080)


def test_two_clients_of_one_port():
    engine = director()
    used = set()
    for client in range(5):
        request = segment(f"10.0.0.{client + 1}", 40000, VIP, 80, "S", 1000)
        assert send(engine, request)[0] == Verdict.FORWARD
        source, port, *_ = flow(request)
        assert source == DIP
        answer = segment(RS1, 8080, DIP, port, "SA", 5000, 1001)
        assert send(engine, answer)[0] == Verdict.FORWARD
        assert flow(answer) == (VIP, 80, f"10.0.0.{client + 1}", 40000)
        used.add(port)
    assert len(used) == 5


def test_a_range_that_is_used_up():
    engine = director(
        f"iptables -t nat -A POSTROUTING -p tcp -m ipvs --vaddr {VIP} "
        f"-j SNAT --to-source {DIP}:7000-7001"
    )
    for client in (1, 2):
        assert send(engine, segment(f"10.0.0.{client}", 40000, VIP, 80, "S"))[0] == Verdict.FORWARD
    late = segment("10.0.0.3", 40000, VIP, 80, "S")
    assert send(engine, bytearray(late)) == (Verdict.DROP, Reason.NO_PORT)
    assert len(lines(engine)) == 2
    # IPVS's connection is there; sent again, the SYN looks for a port again.
    assert len(engine.connections) == 3
    conntrack.run(engine, "conntrack -D -s 10.0.0.1")
    assert send(engine, late)[0] == Verdict.FORWARD
    assert flow(late)[0] == DIP


def test_an_invalid_segment_passes_source_nat_by():
    """Unless it may open a flow of its own, on its way out (test_full_nat_invalid.py)."""
    engine = director()
    engine.sysctl["net.netfilter.nf_conntrack_tcp_loose"] = 0
    open_connection(engine)
    request = segment(CLIENT, 40000, VIP, 80, "A", 1001 + 10_000_000, 5001, b"x")
    assert send(engine, request) == (Verdict.FORWARD, Reason.REQUEST)
    assert flow(request) == (CLIENT, 40000, RS1, 8080)
    assert len(lines(engine)) == 1
    # Back it would be an answer to this host, of no flow.
    answer = segment(RS1, 8080, DIP, 40000, "A", 5001 + 10_000_000, 1001, b"x")
    assert send(engine, answer)[1] == Reason.INVALID_STATE
    assert flow(answer) == (RS1, 8080, DIP, 40000)


def test_conntrack_forgets_before_ipvs():
    engine = director(protocol="udp")
    request = udp(CLIENT, 5000, VIP, 80)
    assert send(engine, bytearray(request))[0] == Verdict.FORWARD
    assert len(lines(engine)) == 1
    engine.expire(31 * SECOND)
    assert lines(engine) == []
    assert len(engine.connections) == 1
    late = udp(RS1, 8080, DIP, 5000)
    assert send(engine, late, 32 * SECOND)[1] != Reason.REPLY
    assert send(engine, request, 33 * SECOND) == (Verdict.FORWARD, Reason.REQUEST)
    assert flow(request) == (DIP, 5000, RS1, 8080)
    answer = udp(RS1, 8080, DIP, 5000)
    assert send(engine, answer, 33 * SECOND) == (Verdict.FORWARD, Reason.REPLY)
    assert flow(answer) == (VIP, 80, CLIENT, 5000)


def test_ipvs_ends_conntracks_entry():
    engine = director()
    open_connection(engine)
    engine.expire(901 * SECOND)
    assert len(engine.connections) == 0
    assert lines(engine) == []


def test_conntracks_entries_end_alone():
    engine = director()
    open_connection(engine)
    conntrack.run(engine, "conntrack -F")
    assert lines(engine) == []
    assert len(engine.connections) == 1
    # Picked up from the middle.
    request = segment(CLIENT, 40000, VIP, 80, "A", 1001, 5001)
    assert send(engine, request) == (Verdict.FORWARD, Reason.REQUEST)
    assert flow(request) == (DIP, 40000, RS1, 8080)
    assert lines(engine)[0].split()[2:4] == ["300", "ESTABLISHED"]


def close_connection(engine):
    """The server closes first: IPVS's connection is in TIME_WAIT, and so is conntrack's."""
    open_connection(engine)
    for frame in (
        segment(RS1, 8080, DIP, 40000, "FA", 5001, 1001),
        segment(CLIENT, 40000, VIP, 80, "FA", 1001, 5002),
        segment(RS1, 8080, DIP, 40000, "A", 5002, 1002),
    ):
        assert send(engine, frame)[0] == Verdict.FORWARD
    assert engine.connections["tcp", f"{CLIENT}:40000", f"{VIP}:80"].state == "TIME_WAIT"


def test_a_connection_begins_anew():
    engine = director()
    close_connection(engine)
    assert lines(engine)[0].split()[3] == "TIME_WAIT"
    again = segment(CLIENT, 40000, VIP, 80, "S", 90000)
    assert send(engine, again) == (Verdict.FORWARD, Reason.CONNECTION_REUSED)
    assert flow(again) == (DIP, 40000, RS1, 8080)
    assert lines(engine)[0].split()[3] == "SYN_SENT"


def test_a_flow_that_conntrack_still_knows_delays_the_next():
    """IPVS takes the connection for closed, conntrack does not: the first SYN is dropped."""
    engine = director()
    open_connection(engine)
    # A segment without any flag closes for IPVS; for conntrack it is INVALID.
    assert send(engine, segment(CLIENT, 40000, VIP, 80, "", 1001))[0] == Verdict.FORWARD
    assert lines(engine)[0].split()[3] == "ESTABLISHED"
    again = segment(CLIENT, 40000, VIP, 80, "S", 90000)
    assert send(engine, bytearray(again)) == (Verdict.DROP, Reason.CONNTRACK_BUSY)
    assert len(engine.connections) == 0
    assert send(engine, again) == (Verdict.FORWARD, Reason.NEW_CONNECTION)


def test_a_reset_answer_leaves_nothing_in_conntrack():
    engine = director()
    assert send(engine, segment(CLIENT, 40000, VIP, 80, "S", 1000))[0] == Verdict.FORWARD
    reset = segment(RS1, 8080, DIP, 40000, "RA", 0, 1001)
    assert send(engine, reset) == (Verdict.FORWARD, Reason.REPLY)
    assert flow(reset) == (VIP, 80, CLIENT, 40000)
    assert lines(engine) == []
    assert len(engine.connections) == 1


def test_errors_of_the_servers_side_come_back_to_the_client():
    engine = director(protocol="udp")
    request = udp(CLIENT, 5000, VIP, 80)
    assert send(engine, request)[0] == Verdict.FORWARD
    error = bytearray(bytes(ip(RS1, DIP) / ICMP(type=3, code=3) / IP(bytes(request[14:]))))
    assert send(engine, error) == (Verdict.FORWARD, Reason.RELATED_ICMP)
    packet = IP(bytes(error[14:]))
    assert (packet.src, packet.dst) == (VIP, CLIENT)
    quoted = packet[ICMP].payload
    assert (quoted.src, quoted.dst) == (CLIENT, VIP)
    assert (quoted.sport, quoted.dport) == (5000, 80)


def test_direct_routing_is_known_too():
    engine = director("iptables -t nat -A POSTROUTING -d 192.0.2.1 -j MASQUERADE", method="route")
    request = segment(CLIENT, 40000, VIP, 80, "S", 1000)
    assert send(engine, request)[0] == Verdict.FORWARD
    assert flow(request) == (CLIENT, 40000, VIP, 80)
    assert lines(engine) == [
        f"tcp      6 120 SYN_SENT src={CLIENT} dst={VIP} sport=40000 dport=80 [UNREPLIED] "
        f"src={VIP} dst={CLIENT} sport=80 dport=40000 mark=0 use=1"
    ]


def test_rules_translate_what_is_routed_directly():
    """Its destination stays the virtual address, and the server answers this host."""
    engine = director(method="route")
    for flags, seq, ack in (("S", 1000, 0), ("A", 1001, 5001)):
        request = segment(CLIENT, 40000, VIP, 80, flags, seq, ack)
        assert send(engine, request)[0] == Verdict.FORWARD
        assert flow(request) == (DIP, 40000, VIP, 80)
        answer = segment(VIP, 80, DIP, 40000, "SA", 5000, 1001)
        assert send(engine, answer) == (Verdict.FORWARD, Reason.REPLY)
        assert flow(answer) == (VIP, 80, CLIENT, 40000)
    (line,) = lines(engine)
    assert f"src={CLIENT} dst={VIP} sport=40000 dport=80 src={VIP} dst={DIP} " in line
    (connection,) = engine.connections
    assert str(connection.server) == f"{RS1}:80"
    # INVALID is not translated.
    request = segment(CLIENT, 40000, VIP, 80, "A", 1001 + 10_000_000, 5001, b"x")
    assert send(engine, request) == (Verdict.FORWARD, Reason.REQUEST)
    assert flow(request) == (CLIENT, 40000, VIP, 80)


def test_masquerading_what_is_routed_directly():
    """Rules see the interface towards the server, and its address is taken."""
    engine = director("iptables -t nat -A POSTROUTING -o srv -j MASQUERADE", method="route")
    engine.routes.add_interface("cli", ["10.0.0.200/24"])
    engine.routes.add_interface("srv", [f"{DIP}/24"])
    request = segment(CLIENT, 40000, VIP, 80, "S", 1000)
    assert send(engine, request)[0] == Verdict.FORWARD
    assert flow(request) == (DIP, 40000, VIP, 80)


def test_what_goes_into_a_tunnel_passes_the_rules_by():
    engine = director(method="tunnel")
    request = segment(CLIENT, 40000, VIP, 80, "S", 1000)
    assert engine.process(request, 0) == Verdict.STOLEN
    (out,) = (bytes(frame) for frame in engine.emitted)
    assert flow(out[:14] + out[34:]) == (CLIENT, 40000, VIP, 80)
    assert f"dst={VIP} sport=40000 dport=80 [UNREPLIED] src={VIP} dst={CLIENT}" in lines(engine)[0]


@pytest.mark.parametrize("method", ["tunnel", "route"])
def test_what_a_server_behind_a_tunnel_begins_does_not_go_into_it(method):
    """Conntrack has forgotten the client's flow: the server's packet begins one, to the client."""
    rule = f"iptables -t nat -A POSTROUTING -s {VIP} -j SNAT --to-source {DIP}"
    engine = director(rule, protocol="udp", method=method)
    engine.process(bytearray(bytes(udp(CLIENT, 40000, VIP, 80))), 0)
    answer = bytearray(bytes(udp(VIP, 80, CLIENT, 40000)))
    assert send(engine, answer, 60 * SECOND) == (Verdict.FORWARD, Reason.REPLY)
    assert flow(answer) == (DIP, 80, CLIENT, 40000)


def one_packet(*rules, method="masquerade"):
    """A service that schedules each datagram anew, to two servers in turn."""
    engine = lvscore.Engine(seed=1)
    engine.sysctl["net.ipv4.vs.conntrack"] = 1
    for rule in rules or (OF_CLIENT,):
        engine.iptables(rule)
    service = engine.add_service("udp", f"{VIP}:80", scheduler="rr", one_packet=True)
    for server in (RS1, RS2):
        service.add_server(f"{server}:{8080 if method == 'masquerade' else 80}", method=method)
    return engine


def test_one_packet_scheduling_leaves_a_flow_in_conntrack():
    engine = one_packet()
    servers = []
    for number in range(4):
        request = udp(CLIENT, 5000, VIP, 80)
        assert send(engine, request, number * SECOND) == (Verdict.FORWARD, Reason.REQUEST)
        servers.append(flow(request)[2])
        assert flow(request) == (DIP, 5000, servers[-1], 8080)
        assert engine._selfcheck() == 0
    assert servers == [servers[0], servers[1]] * 2
    assert servers[0] != servers[1]
    # The flow is the first packet's; later ones only hold it, and no server answers in it.
    assert lines(engine) == [
        f"udp      17 30 src={CLIENT} dst={VIP} sport=5000 dport=80 [UNREPLIED] "
        f"src={VIP} dst={DIP} sport=80 dport=5000 mark=0 use=1"
    ]
    (rule,) = engine.rules
    assert engine.rule_counters(rule)[0] == 1
    assert [s.statistics.packets_in for s in engine.services[0].servers] == [2, 2]
    assert engine.services[0].servers[0].inactive == 0
    answer = udp(servers[0], 8080, DIP, 5000)
    assert send(engine, answer, 4 * SECOND)[1] != Reason.REPLY
    assert flow(answer) == (servers[0], 8080, DIP, 5000)
    engine.expire(200 * SECOND)
    assert lines(engine) == []
    assert len(engine.connections) == 0


def test_one_packet_scheduling_is_of_no_connection_to_rules():
    """Such connections are not hashed, so that -m ipvs does not find them (ip_vs_conn_hash)."""
    other = MATCH.replace(f"--vaddr {VIP}", f"! --vaddr {RS2}")
    engine = one_packet(MATCH, other)
    request = udp(CLIENT, 5000, VIP, 80)
    assert send(engine, request)[0] == Verdict.FORWARD
    assert flow(request)[:2] == (CLIENT, 5000)
    assert [engine.rule_counters(rule)[0] for rule in engine.rules] == [0, 0]
    assert f"[UNREPLIED] src={VIP} dst={CLIENT} " in lines(engine)[0]


def test_one_packet_scheduling_routed_directly_and_in_tunnels():
    engine = one_packet(method="route")
    request = udp(CLIENT, 5000, VIP, 80)
    assert send(engine, request)[0] == Verdict.FORWARD
    assert flow(request) == (DIP, 5000, VIP, 80)
    engine = one_packet(method="tunnel")
    assert engine.process(udp(CLIENT, 5000, VIP, 80), 0) == Verdict.STOLEN
    assert f"[UNREPLIED] src={VIP} dst={CLIENT} " in lines(engine)[0]
    assert engine._selfcheck() == 0


def test_one_packet_scheduling_of_an_invalid_datagram():
    engine = one_packet()
    bad = udp(CLIENT, 5000, VIP, 80)
    bad[-1] ^= 1
    for _ in range(2):
        request = bytearray(bad)
        assert engine.process(request, 0) == Verdict.FORWARD
        assert flow(request)[0] == CLIENT
        assert send(engine, udp(CLIENT, 5000, VIP, 80))[0] == Verdict.FORWARD
    assert len(lines(engine)) == 1


def test_one_packet_scheduling_without_the_setting():
    engine = one_packet()
    engine.sysctl["net.ipv4.vs.conntrack"] = 0
    request = udp(CLIENT, 5000, VIP, 80)
    assert send(engine, request)[0] == Verdict.FORWARD
    assert flow(request)[0] == CLIENT
    assert lines(engine) == []


def test_one_packet_scheduling_in_batches():
    frames = [udp(CLIENT, 5000 + n % 5, VIP, 80) for n in range(40)]
    single, batched = one_packet(), one_packet()
    alone = [bytearray(frame) for frame in frames]
    for frame in alone:
        single.process(frame, 0)
    batch = lvscore.FrameBatch.of(frames, [0] * len(frames))
    batched.process_batch(batch)
    assert [bytes(batch[i]) for i in range(len(batch))] == [bytes(frame) for frame in alone]
    assert sorted(lines(single)) == sorted(lines(batched))
    assert len(lines(single)) == 5


def test_a_server_begins_a_flow():
    """FTP's active data: to conntrack the server is who began."""
    engine = lvscore.Engine(seed=1)
    engine.sysctl["net.ipv4.vs.conntrack"] = 1
    engine.helpers.add("ftp")
    engine.iptables("iptables -t nat -A POSTROUTING -d 192.0.2.1 -j MASQUERADE")
    engine.add_service("tcp", f"{VIP}:21").add_server(f"{RS1}:21")
    port = f"PORT {CLIENT.replace('.', ',')},200,10\r\n".encode()
    for frame in (
        segment(CLIENT, 40000, VIP, 21, "S", 1000),
        segment(RS1, 21, CLIENT, 40000, "SA", 5000, 1001),
        segment(CLIENT, 40000, VIP, 21, "PA", 1001, 5001, port),
    ):
        assert send(engine, frame)[0] == Verdict.FORWARD
    data = segment(RS1, 20, CLIENT, 51210, "S", 7000)
    assert send(engine, data) == (Verdict.FORWARD, Reason.REPLY)
    assert flow(data) == (VIP, 20, CLIENT, 51210)
    only = "conntrack -L -p tcp --dport 51210"
    line = "src=172.16.1.7 dst=10.0.0.9 sport=20 dport=51210 {}src=10.0.0.9 dst=172.16.1.100 "
    assert f"SYN_SENT {line.format('[UNREPLIED] ')}" in conntrack.run(engine, only)
    answer = segment(CLIENT, 51210, VIP, 20, "SA", 9000, 7001)
    assert send(engine, answer) == (Verdict.FORWARD, Reason.REQUEST)
    assert flow(answer) == (CLIENT, 51210, RS1, 20)
    assert f"SYN_RECV {line.format('')}" in conntrack.run(engine, only)
    for n in range(3):
        data = segment(RS1, 20, CLIENT, 51210, "PA", 7001 + 4 * n, 9001, b"file")
        assert send(engine, data) == (Verdict.FORWARD, Reason.REPLY)
        answer = segment(CLIENT, 51210, VIP, 20, "A", 9001, 7005 + 4 * n)
        assert send(engine, answer) == (Verdict.FORWARD, Reason.REQUEST)
    engine.sysctl["net.netfilter.nf_conntrack_acct"] = 1
    (shown,) = conntrack.run(engine, only).splitlines()
    assert f"ESTABLISHED {line.format('packets=4 bytes=172 ')}" in shown
    assert shown.endswith("sport=51210 dport=20 packets=4 bytes=160 [ASSURED] mark=0 use=1")
    assert engine._selfcheck() == 0
    # Forgotten, it is whose packet comes next; here the client's.
    conntrack.run(engine, "conntrack -F")
    assert send(engine, segment(CLIENT, 51210, VIP, 20, "A", 9001, 7013))[0] == Verdict.FORWARD
    assert f"src={CLIENT} dst={VIP} sport=51210 dport=20" in lines(engine)[0]
    conntrack.run(engine, "conntrack -F")
    again = segment(RS1, 20, CLIENT, 51210, "A", 7013, 9001)
    assert send(engine, again) == (Verdict.FORWARD, Reason.REPLY)
    assert f"src={RS1} dst={CLIENT} sport=20 dport=51210" in lines(engine)[0]


def ftp_director(*rules):
    """One whose client has announced port 51210 for the data."""
    engine = lvscore.Engine(seed=1, max_connections=256)
    engine.sysctl["net.ipv4.vs.conntrack"] = 1
    engine.helpers.add("ftp")
    engine.add_service("tcp", f"{VIP}:21").add_server(f"{RS1}:21")
    engine.iptables("iptables -t nat -A POSTROUTING -d 192.0.2.1 -j MASQUERADE")
    port = f"PORT {CLIENT.replace('.', ',')},200,10\r\n".encode()
    for frame in (
        segment(CLIENT, 40000, VIP, 21, "S", 1000),
        segment(RS1, 21, CLIENT, 40000, "SA", 5000, 1001),
        segment(CLIENT, 40000, VIP, 21, "PA", 1001, 5001, port),
    ):
        assert send(engine, frame)[0] == Verdict.FORWARD
    for rule in rules:
        engine.iptables(rule)
    return engine


def test_rules_translate_a_flow_that_a_server_begins():
    """POSTROUTING sees it behind IPVS, from the virtual address; what answers goes to the server
    at once, since netfilter takes it back to what the flow began with. To -m ipvs only requests
    are of a connection (xt_ipvs.c)."""
    engine = ftp_director(
        f"iptables -t nat -A POSTROUTING -m ipvs --vaddr {VIP} -j ACCEPT",
        f"iptables -t nat -A POSTROUTING -s {VIP} -j SNAT --to-source {DIP}",
    )
    for flags, seq, ack in (("S", 7000, 0), ("A", 7001, 9001), ("PA", 7001, 9001)):
        data = segment(RS1, 20, CLIENT, 51210, flags, seq, ack, b"file" if flags == "PA" else b"")
        assert send(engine, data) == (Verdict.FORWARD, Reason.REPLY)
        source, sport, *rest = flow(data)
        assert (source, *rest) == (DIP, CLIENT, 51210)
        answer = segment(CLIENT, 51210, DIP, sport, "SA" if flags == "S" else "A", 9000 + (ack > 0),
                         7005 if flags == "PA" else 7001)  # fmt: skip
        assert send(engine, answer) == (Verdict.FORWARD, Reason.REPLY)
        assert flow(answer) == (CLIENT, 51210, RS1, 20)
        assert engine._selfcheck() == 0
    only = "conntrack -L -p tcp --dport 51210"
    (line,) = conntrack.run(engine, only).splitlines()
    assert " ESTABLISHED " in line
    assert f"src={RS1} dst={CLIENT} sport=20 dport=51210 src={CLIENT} dst={DIP} sport=51210" in line
    # IPVS counts what the server sends, and keeps its connection by that.
    (data,) = [c for c in engine.connections if c.kind == "service" and c.client[1] == 51210]
    assert (data.state, data.packets_in, data.packets_out) == ("ESTABLISHED", 0, 3)
    assert str(data.virtual) == f"{VIP}:20"
    # The port is the pool's again when conntrack's flow is over.
    engine.expire(2_000_000 * SECOND)
    assert len(engine.connections) == 0
    assert [pool.used for pool in engine.port_pools] == [0] * len(list(engine.port_pools))


def test_a_flow_that_a_server_begins_and_no_rule_matches():
    engine = ftp_director("iptables -t nat -A POSTROUTING -p udp -j SNAT --to-source 172.16.1.3")
    data = segment(RS1, 20, CLIENT, 51210, "S", 7000)
    assert send(engine, data) == (Verdict.FORWARD, Reason.REPLY)
    assert flow(data) == (VIP, 20, CLIENT, 51210)
    answer = segment(CLIENT, 51210, VIP, 20, "SA", 9000, 7001)
    assert send(engine, answer) == (Verdict.FORWARD, Reason.REQUEST)
    assert flow(answer) == (CLIENT, 51210, RS1, 20)
    assert engine._selfcheck() == 0


def test_a_flow_that_a_server_begins_while_a_range_is_used_up():
    engine = ftp_director(f"iptables -t nat -A POSTROUTING -s {VIP} -p tcp -j SNAT --to {DIP}:1000")
    taken = segment(RS2, 999, CLIENT, 51210, "S", 1)
    engine.iptables(f"iptables -t nat -A POSTROUTING -s {RS2} -p tcp -j SNAT --to {DIP}:1000")
    assert send(engine, taken)[0] == Verdict.FORWARD
    assert flow(taken) == (DIP, 1000, CLIENT, 51210)
    data = segment(RS1, 20, CLIENT, 51210, "S", 7000)
    assert send(engine, data) == (Verdict.DROP, Reason.NO_PORT)
    assert engine._selfcheck() == 0


def test_two_virtual_addresses_one_server_and_one_client_port():
    """A null binding finds another port for the second, as between flows of the rules."""
    engine = director("iptables -t nat -A POSTROUTING -s 192.0.2.1 -j ACCEPT")
    engine.add_service("tcp", "172.16.1.101:80", scheduler="rr").add_server(f"{RS1}:8080")
    for address in (VIP, "172.16.1.101"):
        request = segment(CLIENT, 40000, address, 80, "S", 1000)
        assert send(engine, request)[0] == Verdict.FORWARD
        source, port, *_ = flow(request)
        assert source == CLIENT
        answer = segment(RS1, 8080, CLIENT, port, "SA", 5000, 1001)
        assert send(engine, answer)[0] == Verdict.FORWARD
        assert flow(answer) == (address, 80, CLIENT, 40000)


def test_ipv6():
    engine = lvscore.Engine(seed=1)
    engine.sysctl["net.ipv4.vs.conntrack"] = 1
    engine.iptables(
        "ip6tables -t nat -A POSTROUTING -m ipvs --vaddr 2001:db8::1 "
        "-j SNAT --to-source 2001:db8:1::3"
    )
    engine.add_service("udp", "[2001:db8::1]:53", scheduler="rr").add_server("[2001:db8:1::7]:53")
    request = udp("2001:db8:a::1", 5000, "2001:db8::1", 53)
    assert send(engine, request)[0] == Verdict.FORWARD
    assert flow(request) == ("2001:db8:1::3", 5000, "2001:db8:1::7", 53)
    answer = udp("2001:db8:1::7", 53, "2001:db8:1::3", 5000)
    assert send(engine, answer)[0] == Verdict.FORWARD
    assert flow(answer) == ("2001:db8::1", 53, "2001:db8:a::1", 5000)


def test_a_batch_does_what_its_frames_do_one_by_one():
    frames = []
    for port in range(40000, 40020):
        frames += [
            segment(CLIENT, port, VIP, 80, "S", 1000),
            segment(RS1, 8080, DIP, port, "SA", 5000, 1001),
            segment(CLIENT, port, VIP, 80, "A", 1001, 5001),
            segment(CLIENT, port, VIP, 80, "PA", 1001, 5001, b"data"),
        ]
    single, batched = director(), director()
    alone = [bytearray(frame) for frame in frames]
    verdicts = [single.process(frame, 0) for frame in alone]
    batch = lvscore.FrameBatch.of(frames, [0] * len(frames))
    batched.process_batch(batch)
    assert [Verdict(v) for v in batch.verdict] == verdicts
    assert [bytes(batch[i]) for i in range(len(batch))] == [bytes(frame) for frame in alone]
    assert sorted(lines(single)) == sorted(lines(batched))


def test_a_reply_tuple_that_was_in_use_leaves_nothing_behind():
    """A flow of the server's own has it; the rules then choose another, and both end."""
    engine = director()
    own = segment(RS1, 8080, CLIENT, 40000, "A")
    assert send(engine, own)[0] == Verdict.FORWARD
    open_connection(engine)
    assert engine.expire(10**6 * SECOND) == 2
    assert engine._selfcheck() == 0
    assert send(engine, own, 10**6 * SECOND)[1] == Reason.UNTRANSLATED
    assert engine._selfcheck() == 0
