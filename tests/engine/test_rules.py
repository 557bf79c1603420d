"""DNAT, SNAT, masquerading: what the rules make of flows, and netfilter's states."""

import pytest
from packets import CLIENT, RS1, RS2, SECOND, VIP, checksums_good, flow, ip, tcp, udp
from scapy.layers.inet import ICMP, TCP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest

import lvscore
from lvscore import Reason, Verdict

OUT, WEB = "10.0.0.200", "93.184.216.34"


def send(engine, frame, now=0):
    verdict = engine.process(frame, now)
    assert verdict != Verdict.FORWARD or checksums_good(frame)
    return verdict, engine.last_reason


def test_dnat_and_back():
    engine = lvscore.Engine(seed=1)
    rule = engine.add_dnat(to=VIP, destination=OUT)
    request = tcp(CLIENT, 40000, OUT, 80)
    assert send(engine, request) == (Verdict.FORWARD, Reason.NEW_CONNECTION)
    assert flow(request) == (CLIENT, 40000, VIP, 80)
    reply = tcp(VIP, 80, CLIENT, 40000, "SA")
    assert send(engine, reply) == (Verdict.FORWARD, Reason.REPLY)
    assert flow(reply) == (OUT, 80, CLIENT, 40000)
    assert engine.rule_counters(rule) == (1, 40)


def test_snat_keeps_the_port_or_takes_another():
    engine = lvscore.Engine(seed=1)
    engine.add_snat(to=OUT, source="192.168.0.0/16")
    first, second = udp("192.168.0.1", 5000, WEB, 53), udp("192.168.0.2", 5000, WEB, 53)
    assert send(engine, first)[0] == send(engine, second)[0] == Verdict.FORWARD
    assert flow(first) == (OUT, 5000, WEB, 53)
    source, port, *_ = flow(second)
    assert source == OUT
    assert port != 5000
    assert 1024 <= port <= 65535
    reply = udp(WEB, 53, OUT, port)
    assert send(engine, reply)[1] == Reason.REPLY
    assert flow(reply) == (WEB, 53, "192.168.0.2", 5000)


def test_an_address_pool_is_stable_for_a_pair():
    engine = lvscore.Engine(seed=1)
    engine.add_snat(to="10.0.0.200-10.0.0.203", source="192.168.0.0/16")
    chosen = {}
    for client in range(60):
        for port in (1000, 2000):
            frame = udp(f"192.168.0.{client + 1}", port, WEB, 53)
            assert send(engine, frame)[0] == Verdict.FORWARD
            chosen.setdefault(client, set()).add(flow(frame)[0])
    assert all(len(addresses) == 1 for addresses in chosen.values())
    assert len(set.union(*chosen.values())) == 4


def test_port_ranges_and_their_exhaustion():
    engine = lvscore.Engine(seed=1)
    engine.add_snat(to=f"{OUT}:7000-7009", source="192.168.0.0/16", protocol="udp")
    used = set()
    for client in range(10):
        frame = udp("192.168.0.1", 100 + client, WEB, 53)
        assert send(engine, frame)[0] == Verdict.FORWARD
        used.add(flow(frame)[1])
    assert used == set(range(7000, 7010))
    late = udp("192.168.0.2", 5000, WEB, 53)
    assert send(engine, bytearray(late)) == (Verdict.DROP, Reason.NO_PORT)
    assert engine.reasons[Reason.NO_PORT] == 1
    assert send(engine, udp("192.168.0.2", 5000, WEB, 54))[0] == Verdict.FORWARD
    # The first ten expire after 30 s unanswered; their ports are free again.
    assert send(engine, bytearray(late), 31 * SECOND)[0] == Verdict.FORWARD


def test_the_whole_port_space():
    engine = lvscore.Engine(seed=1)
    engine.add_snat(to=f"{OUT}:1024-65535", source="192.168.0.0/16", protocol="udp")
    frame = udp("192.168.0.1", 1, WEB, 53, chksum=0)
    for n in range(64512):
        # Ports are kept as long as they lie in the range: no search, no luck.
        frame[26:30] = bytes([192, 168, 0, 1])
        frame[30:34] = bytes([93, 184, 216, 34])
        frame[34:36] = (1024 + n).to_bytes(2, "big")
        assert engine.process(frame, 0) == Verdict.FORWARD
    assert len(engine.connections) == 64512
    assert send(engine, udp("192.168.0.2", 5000, WEB, 53)) == (Verdict.DROP, Reason.NO_PORT)


def test_a_clash_behind_dnat_is_resolved_by_the_source_port():
    """Two virtual addresses, one server, one client port: the null binding finds another."""
    engine = lvscore.Engine(seed=1)
    engine.add_dnat(to=RS1, destination=OUT)
    engine.add_dnat(to=RS1, destination="10.0.0.201")
    first, second = udp(CLIENT, 5000, OUT, 80), udp(CLIENT, 5000, "10.0.0.201", 80)
    assert send(engine, first)[0] == Verdict.FORWARD
    assert send(engine, second)[0] == Verdict.FORWARD
    assert flow(first) == (CLIENT, 5000, RS1, 80)
    source, port, *there = flow(second)
    assert (source, there) == (CLIENT, [RS1, 80])
    assert port != 5000
    reply = udp(RS1, 80, CLIENT, port)
    assert send(engine, reply)[1] == Reason.REPLY
    assert flow(reply) == ("10.0.0.201", 80, CLIENT, 5000)


def test_masquerading():
    engine = lvscore.Engine(seed=1)
    engine.routes.add_interface("eth0", ["203.0.113.5/24"])
    engine.routes.add_interface("eth1", ["192.168.0.254/24"])
    engine.routes.add("default", "eth0")
    engine.add_masquerade(out_interface="eth0", to_ports=(6000, 6001), protocol="udp")
    frame = udp("192.168.0.1", 5000, WEB, 53)
    assert send(engine, frame)[0] == Verdict.FORWARD
    assert flow(frame)[0] == "203.0.113.5"
    assert flow(frame)[1] in (6000, 6001)
    inside = udp("192.168.0.1", 5000, "192.168.0.2", 53)
    assert send(engine, inside) == (Verdict.FORWARD, Reason.UNTRANSLATED)


def test_masquerading_of_one_that_has_no_address_yet():
    """0.0.0.0 stays as it is (nf_nat_masquerade_ipv4): a client of DHCP."""
    engine = lvscore.Engine()
    engine.routes.add_interface("eth0", ["10.0.0.200/24"])
    engine.routes.add("default", "eth0")
    engine.add_masquerade()
    frame = udp("0.0.0.0", 68, "10.9.9.9", 67)
    assert send(engine, frame) == (Verdict.FORWARD, Reason.UNTRANSLATED)
    assert flow(frame) == ("0.0.0.0", 68, "10.9.9.9", 67)
    (rule,) = engine.rules
    assert engine.rule_counters(rule)[0] == 1
    assert list(engine.port_pools) == []


def test_masquerading_without_route():
    engine = lvscore.Engine(seed=1)
    engine.add_masquerade()
    assert send(engine, udp("192.168.0.1", 5000, WEB, 53)) == (Verdict.DROP, Reason.NO_ROUTE)


def test_an_answer_that_is_only_a_reset_leaves_nothing():
    engine = lvscore.Engine(seed=1)
    engine.add_dnat(to=VIP, destination=OUT)
    send(engine, tcp(CLIENT, 40000, OUT, 80))
    reset = tcp(VIP, 80, CLIENT, 40000, "RA")
    assert send(engine, reset) == (Verdict.FORWARD, Reason.REPLY)
    assert flow(reset) == (OUT, 80, CLIENT, 40000)
    assert len(engine.connections) == 0


def test_a_reset_of_an_answered_connection_closes_it():
    engine = lvscore.Engine(seed=1)
    engine.add_dnat(to=VIP, destination=OUT)
    send(engine, tcp(CLIENT, 40000, OUT, 80))
    send(engine, tcp(VIP, 80, CLIENT, 40000, "SA"))
    send(engine, tcp(CLIENT, 40000, OUT, 80, "R"))
    assert engine.connections["tcp", f"{CLIENT}:40000", f"{OUT}:80"].state == "CLOSE"


def test_retransmitted_syns_do_not_keep_an_entry():
    engine = lvscore.Engine(seed=1)
    engine.add_dnat(to=VIP, destination=OUT)
    for second in range(0, 120, 30):
        assert send(engine, tcp(CLIENT, 40000, OUT, 80), second * SECOND)[0] == Verdict.FORWARD
    assert engine.expire(120 * SECOND) == 1


TCP_LIFE = [
    ("out", "S", "SYN_SENT", 120),
    ("in", "SA", "SYN_RECV", 60),
    ("out", "A", "ESTABLISHED", 432000),
    ("in", "PA", "ESTABLISHED", 432000),
    ("in", "FA", "FIN_WAIT", 120),
    ("out", "A", "CLOSE_WAIT", 60),
    ("out", "FA", "LAST_ACK", 30),
    ("in", "A", "TIME_WAIT", 120),
]


def test_the_life_of_a_tcp_connection():
    engine = lvscore.Engine(seed=1)
    engine.add_dnat(to=VIP, destination=OUT)
    key = ("tcp", f"{CLIENT}:40000", f"{OUT}:80")
    for second, (way, flags, state, timeout) in enumerate(TCP_LIFE):
        frame = (
            tcp(CLIENT, 40000, OUT, 80, flags)
            if way == "out"
            else tcp(VIP, 80, CLIENT, 40000, flags)
        )
        assert send(engine, frame, second * SECOND)[0] == Verdict.FORWARD
        connection = engine.connections[key]
        assert (connection.state, connection.expires_ns) == (state, timeout * SECOND)
    again = tcp(CLIENT, 40000, OUT, 80)
    assert send(engine, again, 10 * SECOND) == (Verdict.FORWARD, Reason.NEW_CONNECTION)
    assert engine.connections[key].state == "SYN_SENT"
    assert len(engine.connections) == 1


def test_segments_that_no_state_allows():
    engine = lvscore.Engine(seed=1)
    engine.add_dnat(to=VIP, destination=OUT)
    for flags in ("SA", "FA", "R", "", "F", "SF"):
        frame = tcp(CLIENT, 40000, OUT, 80, flags)
        before = bytes(frame)
        assert send(engine, frame) == (Verdict.PASS, Reason.INVALID_STATE)
        assert bytes(frame) == before
    assert len(engine.connections) == 0
    assert send(engine, tcp(CLIENT, 40000, OUT, 80, "A"))[1] == Reason.NEW_CONNECTION
    assert engine.connections["tcp", f"{CLIENT}:40000", f"{OUT}:80"].state == "ESTABLISHED"


def test_udp_is_assured_after_two_seconds():
    engine = lvscore.Engine(seed=1)
    engine.add_snat(to=OUT, source=CLIENT)
    key = ("udp", f"{CLIENT}:5000", f"{WEB}:53")
    expected = [
        (0, "out", "UNREPLIED", 30), (1, "in", "REPLIED", 30), (2, "out", "REPLIED", 30),
        (3, "out", "ASSURED", 120), (4, "in", "ASSURED", 120),
    ]  # fmt: skip
    for second, way, state, timeout in expected:
        frame = udp(CLIENT, 5000, WEB, 53) if way == "out" else udp(WEB, 53, OUT, 5000)
        assert send(engine, frame, second * SECOND)[0] == Verdict.FORWARD
        connection = engine.connections[key]
        assert (connection.state, connection.expires_ns) == (state, timeout * SECOND)


def test_udp_without_checksum_stays_without():
    engine = lvscore.Engine(seed=1)
    engine.add_snat(to=OUT, source=CLIENT)
    frame = udp(CLIENT, 5000, WEB, 53, chksum=0)
    assert engine.process(frame, 0) == Verdict.FORWARD
    assert frame[40:42] == b"\0\0"


def test_echo_identifiers_are_ports():
    engine = lvscore.Engine(seed=1)
    engine.add_snat(to=OUT, source="192.168.0.0/16")
    frames = [bytearray(bytes(ip(f"192.168.0.{n}", WEB) / ICMP(id=7))) for n in (1, 2)]
    for frame in frames:
        assert send(engine, frame)[0] == Verdict.FORWARD
    one, other = (int.from_bytes(frame[38:40], "big") for frame in frames)
    assert one == 7
    assert other != 7
    reply = bytearray(bytes(ip(WEB, OUT) / ICMP(type=0, id=other)))
    assert send(engine, reply)[1] == Reason.REPLY
    assert flow(reply)[2] == "192.168.0.2"
    assert int.from_bytes(reply[38:40], "big") == 7


def test_icmpv6_echo_has_a_pseudo_header():
    engine = lvscore.Engine(seed=1)
    engine.add_snat(to="2001:db8::200", source="fd00::/8")
    frame = bytearray(bytes(ip("fd00::1", "2001:db8::53") / ICMPv6EchoRequest(id=9)))
    assert send(engine, frame)[0] == Verdict.FORWARD
    assert flow(frame)[0] == "2001:db8::200"
    reply = bytearray(bytes(ip("2001:db8::53", "2001:db8::200") / ICMPv6EchoReply(id=9)))
    assert send(engine, reply)[1] == Reason.REPLY
    assert flow(reply)[2] == "fd00::1"


def test_untranslated_flows_are_tracked():
    engine = lvscore.Engine(seed=1)
    engine.add_dnat(to=VIP, destination=OUT)
    frame = udp(CLIENT, 5000, WEB, 53)
    before = bytes(frame)
    assert send(engine, frame) == (Verdict.FORWARD, Reason.UNTRANSLATED)
    assert bytes(frame) == before
    assert engine.connections["udp", f"{WEB}:53", f"{CLIENT}:5000"].kind == "rule"


def test_dnat_to_a_service_of_the_same_engine():
    engine = lvscore.Engine(seed=1)
    engine.add_dnat(to=VIP, destination=OUT)
    service = engine.add_service("tcp", f"{VIP}:80", scheduler="rr")
    service.add_server(f"{RS1}:8080")
    service.add_server(f"{RS2}:8080")
    for port, server in ((1000, RS2), (1001, RS1)):
        frame = tcp(CLIENT, port, OUT, 80)
        assert send(engine, frame) == (Verdict.FORWARD, Reason.NEW_CONNECTION)
        assert flow(frame) == (CLIENT, port, server, 8080)
        again = tcp(CLIENT, port, OUT, 80, "A")
        assert send(engine, again) == (Verdict.FORWARD, Reason.REQUEST)
        assert flow(again) == (CLIENT, port, server, 8080)
    assert {connection.kind for connection in engine.connections} == {"service"}


def test_removing_a_rule_keeps_its_connections():
    engine = lvscore.Engine(seed=1)
    rule = engine.add_dnat(to=VIP, destination=OUT)
    send(engine, udp(CLIENT, 5000, OUT, 80))
    another = engine.add_dnat(to=VIP, destination="192.0.2.77")
    engine.remove_rule(rule)
    again, other = udp(CLIENT, 5000, OUT, 80), udp(CLIENT, 5001, OUT, 80)
    assert send(engine, again)[0] == Verdict.FORWARD
    assert flow(again)[2] == VIP
    assert send(engine, other) == (Verdict.FORWARD, Reason.UNTRANSLATED)
    # Without a rule that translates there is no conntrack; what it knew is there when it is again.
    engine.remove_rule(another)
    engine.iptables("-t nat -A PREROUTING -j ACCEPT")
    again = udp(CLIENT, 5000, OUT, 80)
    assert send(engine, again) == (Verdict.PASS, Reason.NO_SERVICE)
    assert flow(again)[2] == OUT
    assert len(engine.conntrack("-L").splitlines()) == 2
    engine.add_rule(another)
    send(engine, again)
    assert flow(again)[2] == VIP


@pytest.mark.parametrize("protocol", [47, 50, 4])
def test_other_protocols_change_addresses_only(protocol):
    engine = lvscore.Engine(seed=1)
    engine.add_dnat(to=VIP, destination=OUT)
    frame = bytearray(bytes(ip(CLIENT, OUT, proto=protocol)) + b"payloads")
    frame[16:18] = (28).to_bytes(2, "big")
    frame[24:26] = b"\0\0"
    assert engine.process(frame, 0) == Verdict.FORWARD
    assert bytes(frame[30:34]) == bytes([172, 16, 1, 100])
    assert bytes(frame[34:]) == b"payloads"


def test_gre_too_short_for_a_call_id_is_not_translated():
    """Netfilter wants to see eight bytes of any GRE that it translates (gre_manip_pkt)."""
    engine = lvscore.Engine(seed=1)
    engine.add_snat(to=OUT, source="192.168.0.0/16")
    short = ip("192.168.0.1", WEB, proto=47) / b"\0\0\x08\0abc"
    frame = bytearray(bytes(short))
    assert engine.process(frame, 0) == Verdict.DROP
    assert engine.last_reason == Reason.UNTRANSLATABLE
    assert len(engine.connections) == 0
    frame = bytearray(bytes(ip(WEB, "192.168.0.1", proto=47) / b"\0\0\x08\0"))
    assert engine.process(frame, 0) == Verdict.FORWARD  # nothing to translate


def test_a_full_table_drops_what_is_not_assured():
    engine = lvscore.Engine(seed=1)
    engine.add_snat(to=OUT, source="192.168.0.0/16")
    engine.sysctl["net.netfilter.nf_conntrack_max"] = 100
    opened = 0
    for port in range(1000, 1100):
        opened += send(engine, udp("192.168.0.1", port, WEB, 53))[0] == Verdict.FORWARD
    assert opened == 100
    verdicts = {send(engine, udp("192.168.0.1", port, WEB, 53))[0] for port in range(1100, 1130)}
    assert Verdict.FORWARD in verdicts  # some found others in their buckets
    assert len(engine.connections) <= 100


def test_a_full_table_of_assured_flows_drops_those_that_close():
    engine = lvscore.Engine(seed=1)
    engine.add_snat(to=OUT, source="192.168.0.0/16")
    engine.sysctl["net.netfilter.nf_conntrack_max"] = 100

    def one(port, flags, seq, ack, back=False):
        ends = (WEB, 80, OUT, port) if back else ("192.168.0.1", port, WEB, 80)
        fields = {"sport": ends[1], "dport": ends[3], "flags": flags, "seq": seq, "ack": ack}
        frame = bytearray(bytes(ip(ends[0], ends[2]) / TCP(window=1000, **fields)))
        assert send(engine, frame)[0] == Verdict.FORWARD

    for port in range(2000, 2100):
        one(port, "S", 100, 0)
        one(port, "SA", 900, 101, back=True)
        one(port, "A", 101, 901)
        if port < 2020:
            one(port, "FA", 101, 901)
    late = udp("192.168.0.1", 5000, WEB, 53)
    assert send(engine, bytearray(late)) == (Verdict.DROP, Reason.TABLE_FULL)
    assert len(engine.connections) == 100
    engine.expire(2 * SECOND)
    # A second later as many are gone as bring the table below 95 %.
    assert len(engine.connections) == 94
    assert sum("FIN_WAIT" in line for line in engine.conntrack("-L").splitlines()) == 14
    assert send(engine, late, 2 * SECOND)[0] == Verdict.FORWARD


def echo(source, destination, kind, code, identifier=7):
    return bytearray(bytes(ip(source, destination) / ICMP(type=kind, code=code, id=identifier)))


def test_an_answer_has_the_code_of_its_question():
    engine = lvscore.Engine(seed=1)
    engine.add_snat(to=OUT, source="192.168.0.0/16")
    assert send(engine, echo("192.168.0.1", WEB, 8, 3))[0] == Verdict.FORWARD
    assert "type=8 code=3 id=7 [UNREPLIED]" in engine.conntrack("-L")
    assert send(engine, echo(WEB, OUT, 0, 0))[1] == Reason.INVALID_STATE
    answer = echo(WEB, OUT, 0, 3)
    assert send(engine, answer) == (Verdict.FORWARD, Reason.REPLY)
    assert flow(answer)[2] == "192.168.0.1"
    # Another code is another flow.
    assert send(engine, echo("192.168.0.1", WEB, 8, 0))[1] == Reason.NEW_CONNECTION
    assert send(engine, echo("192.168.0.1", WEB, 8, 3))[1] == Reason.REQUEST


def test_names_of_interfaces_that_begin_alike():
    engine = lvscore.Engine(seed=1)
    engine.iptables(f"-t nat -A POSTROUTING -o ppp+ -j SNAT --to-source {OUT}")
    engine.iptables("-t nat -A POSTROUTING ! -o ppp+ -j SNAT --to-source 10.0.0.201")
    engine.routes.add_interface("eth0", ["192.168.0.254/24"])
    engine.routes.add_interface("ppp7", ["203.0.113.5/24"])  # later than the rule
    for destination, source in (("203.0.113.9", OUT), ("192.168.0.9", "10.0.0.201")):
        frame = udp("192.168.1.1", 5000, destination, 53)
        assert send(engine, frame)[0] == Verdict.FORWARD
        assert flow(frame)[0] == source
    assert "-A POSTROUTING -o ppp+ -j SNAT" in engine.iptables("-t nat -S")


def test_a_run_counts_flows_that_no_rule_translates():
    engine = lvscore.Engine(seed=1)
    engine.add_dnat("172.16.1.7", destination="10.0.0.200")
    frames = [udp(CLIENT, 1000 + n // 2, "192.0.2.1", 53) for n in range(6)]
    report = lvscore.run(engine, lvscore.MemorySource(frames))
    assert (report.connections, len(engine.connections)) == (3, 3)


@pytest.mark.parametrize("rules", [False, True])
def test_a_mark_makes_any_address_a_virtual_one(rules):
    """Where no Host knows which addresses are its own, with NAT rules as without."""
    engine = lvscore.Engine()
    if rules:
        engine.add_snat(source="198.18.0.0/15", to="203.0.113.1")
    engine.iptables(f"-t mangle -A PREROUTING -d {WEB} -p tcp --dport 80 -j MARK --set-mark 5")
    engine.ipvsadm("-A -f 5")
    engine.ipvsadm(f"-a -f 5 -r {RS1} -m")
    stray = tcp(CLIENT, 40000, WEB, 80, flags="A")
    assert send(engine, stray) == (Verdict.LOCAL, Reason.TCP_NOT_SYN)
    request = tcp(CLIENT, 40000, WEB, 80)
    assert send(engine, request) == (Verdict.FORWARD, Reason.NEW_CONNECTION)
    assert flow(request) == (CLIENT, 40000, RS1, 80)
    answer = tcp(RS1, 80, CLIENT, 40000, flags="SA")
    assert send(engine, answer) == (Verdict.FORWARD, Reason.REPLY)
    assert flow(answer) == (WEB, 80, CLIENT, 40000)
