"""A DNAT rule that leads to a virtual service: whose the answers are (ip_vs_xmit.c, ip_vs_notrack;
ip_vs_nfct.c; nf_nat_core.c, nf_nat_packet)."""

from ipaddress import ip_address

import pytest
from packets import CLIENT, RS1, RS2, SECOND, VIP, checksums_good, flow, ip, tcp, udp
from scapy.layers.inet import ICMP, IP

import lvscore
from lvscore import Reason, Verdict

ASKED = "192.0.2.9"
DIP = "172.16.1.3"


def director(on, *rules, protocol="tcp"):
    engine = lvscore.Engine(seed=1, max_connections=256)
    engine.routes.add_interface("eth0", [f"{VIP}/24"])
    engine.sysctl["conntrack"] = on
    engine.add_service(protocol, f"{VIP}:80", scheduler="rr").add_server(f"{RS1}:8080")
    engine.iptables(f"-t nat -A PREROUTING -d {ASKED} -p {protocol} -j DNAT --to {VIP}:80")
    for rule in rules:
        engine.iptables(rule)
    return engine


def send(engine, frame, now=0):
    verdict = engine.process(frame, now)
    assert checksums_good(frame)
    return verdict, engine.last_reason


def known(engine):
    """IPVS's connections."""
    return engine.ipvsadm("-Lnc").splitlines()[2:]


def lines(engine):
    return engine.conntrack("-L").splitlines()


@pytest.mark.parametrize(("on", "source"), [(0, (VIP, 80)), (1, (ASKED, 8000))])
def test_who_answers(on, source):
    """IPVS takes a flow from conntrack, unless conntrack=1: then DNAT is taken back."""
    engine = director(on)
    for flags, seq, ack in (("S", 1000, 0), ("A", 1001, 5001), ("PA", 1001, 5001)):
        request = tcp(CLIENT, 1000, ASKED, 8000, flags, seq=seq, ack=ack)
        assert send(engine, request)[0] == Verdict.FORWARD
        assert flow(request) == (CLIENT, 1000, RS1, 8080)
        answer = tcp(RS1, 8080, CLIENT, 1000, "SA" if ack == 0 else "A", seq=5000, ack=1001)
        assert send(engine, answer) == (Verdict.FORWARD, Reason.REPLY)
        assert flow(answer) == (*source, CLIENT, 1000)
    (connection,) = known(engine)
    assert connection.split()[2:5] == ["ESTABLISHED", f"{CLIENT}:1000", f"{VIP}:80"]
    # With conntrack=1 its DNAT takes later requests to the server, and IPVS sees answers only.
    (server,) = engine.services[0].servers
    counts = server.statistics
    assert (counts.packets_in, counts.packets_out) == ((1, 3) if on else (3, 3))


@pytest.mark.parametrize("on", [0, 1])
def test_the_rules_go(on):
    """With conntrack=0 netfilter forgets the flow at each packet, and asks the rules anew."""
    engine = director(on, protocol="udp")
    send(engine, udp(CLIENT, 1000, ASKED, 8000))
    engine.iptables("-t nat -F")
    engine.iptables("-t nat -A POSTROUTING -s 192.0.2.1 -j MASQUERADE")  # conntrack still runs
    request = udp(CLIENT, 1000, ASKED, 8000)
    send(engine, request)
    assert flow(request)[2:] == ((RS1, 8080) if on else (ASKED, 8000))


def test_the_flow_outlives_the_services_connection():
    """IPVS has no packets of the client's: its connection ends, and conntrack translates alone."""
    engine = director(1, protocol="udp")
    engine.ipvsadm("--set 0 0 20")
    send(engine, udp(CLIENT, 1000, ASKED, 8000))
    for second in (15, 30, 45):
        send(engine, udp(CLIENT, 1000, ASKED, 8000), second * SECOND)
    assert known(engine) == []
    answer = udp(RS1, 8080, CLIENT, 1000)
    send(engine, answer, 46 * SECOND)
    assert flow(answer) == (ASKED, 8000, CLIENT, 1000)
    assert engine.services[0].statistics.packets_out == 0


def test_the_services_connection_outlives_the_flow():
    """Behind conntrack's end the next request asks the rules, and finds IPVS's connection."""
    engine = director(1, protocol="udp")
    engine.services[0].add_server(f"{RS2}:8080")
    for second in (0, 100, 200):
        request = udp(CLIENT, 1000, ASKED, 8000)
        send(engine, request, second * SECOND)
        assert flow(request) == (CLIENT, 1000, RS2, 8080)
        assert len(lines(engine)) == 1
    assert len(known(engine)) == 1
    assert engine.services[0].statistics.packets_in == 3


def test_an_invalid_answer_is_the_services():
    engine = director(1)
    for flags, seq, ack in (("S", 1000, 0), ("A", 1001, 5001)):
        send(engine, tcp(CLIENT, 1000, ASKED, 8000, flags, seq=seq, ack=ack))
        send(engine, tcp(RS1, 8080, CLIENT, 1000, "SA" if ack == 0 else "A", seq=5000, ack=1001))
    answer = tcp(RS1, 8080, CLIENT, 1000, "A", seq=5000 + 10_000_000, ack=1001)
    assert send(engine, answer) == (Verdict.FORWARD, Reason.REPLY)
    assert flow(answer) == (VIP, 80, CLIENT, 1000)
    request = tcp(CLIENT, 1000, ASKED, 8000, "A", seq=1000 + 10_000_000, ack=5001)
    assert send(engine, request)[1] == Reason.INVALID_STATE
    assert flow(request) == (CLIENT, 1000, ASKED, 8000)


def test_conntrack_knows_where_the_flow_began():
    engine = director(1)
    send(engine, tcp(CLIENT, 1000, ASKED, 8000, "S", seq=1000))
    (line,) = lines(engine)
    assert f"src={CLIENT} dst={ASKED} sport=1000 dport=8000 [UNREPLIED] " in line
    assert f"src={RS1} dst={CLIENT} sport=8080 dport=1000" in line
    assert len(engine.conntrack(f"-L --orig-dst {ASKED}").splitlines()) == 1


def test_both_ends_are_translated():
    engine = director(
        1, f"-t nat -A POSTROUTING -m ipvs --vaddr {VIP} -j SNAT --to-source {DIP}", protocol="udp"
    )
    request = udp(CLIENT, 1000, ASKED, 8000)
    assert send(engine, request)[0] == Verdict.FORWARD
    assert flow(request) == (DIP, 1000, RS1, 8080)
    answer = udp(RS1, 8080, DIP, 1000)
    assert send(engine, answer)[0] == Verdict.FORWARD
    assert flow(answer) == (ASKED, 8000, CLIENT, 1000)


def test_a_direct_flow_answers_as_the_service_does():
    engine = director(1, protocol="udp")
    for port in (1000, 1001):
        send(engine, udp(CLIENT, port, ASKED if port == 1000 else VIP, 80))
    for port, source in ((1000, ASKED), (1001, VIP)):
        answer = udp(RS1, 8080, CLIENT, port)
        send(engine, answer)
        assert flow(answer) == (source, 80, CLIENT, port)


def test_a_flow_that_conntrack_forgot_is_the_services():
    engine = director(1, protocol="udp")
    send(engine, udp(CLIENT, 1000, ASKED, 8000))
    engine.conntrack("-F")
    answer = udp(RS1, 8080, CLIENT, 1000)
    send(engine, answer)
    assert flow(answer) == (VIP, 80, CLIENT, 1000)


def test_errors_from_the_servers_side_quote_what_was_asked():
    engine = director(1, protocol="udp")
    request = udp(CLIENT, 1000, ASKED, 8000)
    asked = bytes(request[14:])
    send(engine, request)
    error = bytearray(bytes(ip(RS2, CLIENT) / ICMP(type=3, code=3) / IP(bytes(request[14:]))))
    assert send(engine, error) == (Verdict.FORWARD, Reason.RELATED_ICMP)
    packet = IP(bytes(error[14:]))
    assert (packet.src, packet.dst) == (ASKED, CLIENT)
    quoted = bytes(packet[ICMP].payload)
    # IPVS leaves the quoted checksum as it was at the server, netfilter only adds its own part.
    assert quoted[:26] == asked[:26]
    assert quoted[28:] == asked[28:]


@pytest.mark.parametrize("source", [CLIENT, DIP])
def test_errors_from_the_clients_side_pass_ipvs_by(source):
    """Netfilter translates them whole, the quoted checksum, too (nf_nat_icmp_reply_translation)."""
    rules = [] if source == CLIENT else [f"-t nat -A POSTROUTING -j SNAT --to-source {DIP}"]
    engine = director(1, *rules, protocol="udp")
    send(engine, udp(CLIENT, 1000, ASKED, 8000))
    answer = udp(RS1, 8080, source, 1000)
    sent = bytes(answer[14:])
    send(engine, answer)
    counted = engine.services[0].statistics
    error = bytearray(bytes(ip("10.0.0.77", ASKED) / ICMP(type=3, code=3) / IP(bytes(answer[14:]))))
    assert send(engine, error) == (Verdict.FORWARD, Reason.RELATED_ICMP)
    packet = IP(bytes(error[14:]))
    assert (packet.src, packet.dst) == ("10.0.0.77" if source == CLIENT else DIP, RS1)
    assert bytes(packet[ICMP].payload) == sent
    assert engine.services[0].statistics == counted


def test_errors_from_the_servers_side_with_both_ends_translated():
    """Netfilter's parts of the quoted checksum are taken back, IPVS's is not."""
    engine = director(1, f"-t nat -A POSTROUTING -j SNAT --to-source {DIP}", protocol="udp")
    request = udp(CLIENT, 1000, ASKED, 8000)
    asked = bytes(request[14:])
    send(engine, request)
    error = bytearray(bytes(ip(RS2, DIP) / ICMP(type=3, code=3) / IP(bytes(request[14:]))))
    assert send(engine, error) == (Verdict.FORWARD, Reason.RELATED_ICMP)
    packet = IP(bytes(error[14:]))
    assert (packet.src, packet.dst) == (ASKED, CLIENT)
    quoted = bytes(packet[ICMP].payload)
    assert (quoted[:26], quoted[28:]) == (asked[:26], asked[28:])
    # What the service's own translation adds, in ones' complement.
    words = [int.from_bytes(data[26:28], "big") for data in (quoted, asked)]
    vip, server = (IP(src=address).src for address in (VIP, RS1))
    halves = [
        sum(int.from_bytes(ip_address(a).packed[n : n + 2], "big") for n in (0, 2)) + port
        for a, port in ((vip, 80), (server, 8080))
    ]
    assert (words[0] - words[1] - halves[0] + halves[1]) % 0xFFFF == 0
    assert engine.services[0].statistics.packets_out == 1


def test_ipv6():
    engine = lvscore.Engine(seed=1, max_connections=256)
    engine.routes.add_interface("eth0", ["2001:db8::1/128"])
    engine.sysctl["conntrack"] = 1
    engine.add_service("udp", "[2001:db8::1]:53", scheduler="rr").add_server("[2001:db8:1::7]:53")
    engine.iptables("ip6tables -t nat -A PREROUTING -d 2001:db8::9 -j DNAT --to 2001:db8::1")
    request = udp("2001:db8:a::1", 5000, "2001:db8::9", 53)
    send(engine, request)
    assert flow(request)[2:] == ("2001:db8:1::7", 53)
    answer = udp("2001:db8:1::7", 53, "2001:db8:a::1", 5000)
    send(engine, answer)
    assert flow(answer) == ("2001:db8::9", 53, "2001:db8:a::1", 5000)


def test_a_saved_engine_knows_it(tmp_path):
    engine = director(1, protocol="udp")
    send(engine, udp(CLIENT, 1000, ASKED, 8000))
    engine.save(tmp_path / "engine")
    loaded = lvscore.Engine.load(tmp_path / "engine")
    answers = [udp(RS1, 8080, CLIENT, 1000) for _ in range(2)]
    for each, answer in zip((engine, loaded), answers, strict=True):
        send(each, answer, SECOND)
        assert flow(answer) == (ASKED, 8000, CLIENT, 1000)
