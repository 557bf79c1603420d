"""conntrack=1 and what conntrack takes for INVALID, or for another flow than IPVS does."""

import pytest
from packets import CLIENT, RS1, RS2, SECOND, VIP, flow, ip, udp
from scapy.layers.inet import ICMP, IP
from test_full_nat import DIP, MATCH, director, lines, open_connection, segment, send

from lvscore import Reason, Verdict, conntrack


@pytest.mark.parametrize("rule", [MATCH, f"iptables -t nat -A POSTROUTING -s {RS2} -j MASQUERADE"])
def test_what_is_invalid_as_it_comes_in_is_a_flow_as_it_goes_out(rule):
    """LOCAL_OUT sees it by the server's address. Its answers would be those of the connection,
    were its source port not another."""
    engine = director(rule, protocol="udp")
    source = DIP if rule == MATCH else CLIENT
    assert send(engine, udp(CLIENT, 5000, VIP, 80))[0] == Verdict.FORWARD
    answer = udp(RS1, 8080, source, 5000)
    assert send(engine, answer) == (Verdict.FORWARD, Reason.REPLY)
    ports = set()
    for _ in range(2):
        bad = udp(CLIENT, 5000, VIP, 80)
        bad[-1] ^= 1
        assert engine.process(bad, 0) == Verdict.FORWARD
        assert (*flow(bad)[:1], *flow(bad)[2:]) == (source, RS1, 8080)
        ports.add(flow(bad)[1])
        assert engine._selfcheck() == 0
    (port,) = ports - {5000}
    shown = f"[UNREPLIED] src={RS1} dst={source} sport=8080 dport={port} mark=0"
    assert [line for line in lines(engine) if f"src={CLIENT} dst={RS1} " in line and shown in line]
    assert len(lines(engine)) == 2
    # The server's answer comes back through both translations.
    answer = udp(RS1, 8080, source, port)
    assert send(engine, answer) == (Verdict.FORWARD, Reason.REPLY)
    assert flow(answer) == (VIP, 80, CLIENT, 5000)
    # What is valid goes as before.
    request = udp(CLIENT, 5000, VIP, 80)
    assert send(engine, request) == (Verdict.FORWARD, Reason.REQUEST)
    assert flow(request) == (source, 5000, RS1, 8080)
    engine.expire(1000 * SECOND)
    assert lines(engine) == []
    assert len(engine.connections) == 0


def test_a_segment_out_of_window_is_a_flow_as_it_goes_out():
    engine = director()
    open_connection(engine)
    for flags in ("A", "PA"):
        request = segment(CLIENT, 40000, VIP, 80, flags, 1001 + 10_000_000, 5001, b"x")
        assert send(engine, request) == (Verdict.FORWARD, Reason.REQUEST)
        assert flow(request)[0] == DIP
        assert flow(request)[1] != 40000
        assert flow(request)[2:] == (RS1, 8080)
    # A FIN opens no flow; it is not of this one either once that is over.
    conntrack.run(engine, f"conntrack -D -d {RS1}")
    request = segment(CLIENT, 40000, VIP, 80, "R", 1001 + 10_000_000, 0)
    assert send(engine, request) == (Verdict.FORWARD, Reason.REQUEST)
    assert flow(request) == (CLIENT, 40000, RS1, 8080)
    assert engine._selfcheck() == 0


def test_an_answer_to_the_client_itself():
    """Rules translate the client, and conntrack expects answers there. IPVS knows its client."""
    engine = director(f"iptables -t nat -A POSTROUTING -s {CLIENT} -j SNAT --to-source {DIP}")
    open_connection(engine)
    known = lines(engine)
    invalid = segment(RS1, 8080, CLIENT, 40000, "SA", 9, 9)
    assert send(engine, invalid) == (Verdict.FORWARD, Reason.REPLY)
    assert flow(invalid) == (VIP, 80, CLIENT, 40000)
    assert lines(engine) == known
    # What may begin a flow does, and its answers would be the client's requests: another port.
    data = segment(RS1, 8080, CLIENT, 40000, "PA", 5001, 1001, b"data")
    assert send(engine, data) == (Verdict.FORWARD, Reason.REPLY)
    source, port, *client = flow(data)
    assert (source, client) == (VIP, [CLIENT, 40000])
    assert port != 80
    assert len(lines(engine)) == 2
    assert engine._selfcheck() == 0
    request = segment(CLIENT, 40000, VIP, 80, "A", 1001, 5001)
    assert send(engine, request) == (Verdict.FORWARD, Reason.REQUEST)
    assert flow(request) == (DIP, 40000, RS1, 8080)


def test_an_error_about_what_went_to_a_server_untranslated():
    """Conntrack knows nothing of what it quotes, IPVS does."""
    engine = director(protocol="udp")
    assert send(engine, udp(CLIENT, 5000, VIP, 80))[0] == Verdict.FORWARD
    quote = bytes(udp(CLIENT, 5000, RS1, 8080))[14:]
    error = bytearray(bytes(ip(RS1, CLIENT) / ICMP(type=3, code=3) / quote))
    assert send(engine, error) == (Verdict.FORWARD, Reason.RELATED_ICMP)
    assert IP(bytes(error[14:])).src == VIP
    told = IP(bytes(error[42:]))
    assert (told.src, told.sport, told.dst, told.dport) == (CLIENT, 5000, VIP, 80)


@pytest.mark.parametrize(("quoted", "verdict"), [(7, Verdict.DROP), (8, Verdict.FORWARD)])
def test_an_error_that_quotes_too_little_to_translate(quoted, verdict):
    """Conntrack takes the flow for related by its ports, and wants eight bytes to translate."""
    engine = director(protocol="udp")
    assert send(engine, udp(CLIENT, 5000, VIP, 80))[0] == Verdict.FORWARD
    quote = bytes(udp(VIP, 80, CLIENT, 5000))[14 : 34 + quoted]
    error = bytearray(bytes(ip(CLIENT, VIP) / ICMP(type=3, code=3) / quote))
    assert engine.process(error, 0) == verdict


def test_what_opens_a_connection_and_is_invalid():
    """Conntrack knows it from LOCAL_OUT on, by the server's address, and as IPVS's its answer."""
    engine = director(f"iptables -t nat -A POSTROUTING -s {RS2} -j MASQUERADE")
    bad = segment(CLIENT, 40000, VIP, 80, "S", 1000)
    bad[-1] ^= 1
    assert engine.process(bad, 0) == Verdict.FORWARD
    assert flow(bad) == (CLIENT, 40000, RS1, 8080)
    assert len(lines(engine)) == 1
    answer = segment(RS1, 8080, CLIENT, 40000, "SA", 5000, 1001)
    assert send(engine, answer) == (Verdict.FORWARD, Reason.REPLY)
    assert flow(answer) == (VIP, 80, CLIENT, 40000)
    assert f"SYN_RECV src={CLIENT} dst={RS1} " in lines(engine)[0]
    # What is valid begins another flow, whose answers must be others.
    request = segment(CLIENT, 40000, VIP, 80, "A", 1001, 5001)
    assert send(engine, request) == (Verdict.FORWARD, Reason.REQUEST)
    assert flow(request)[0] == CLIENT
    assert flow(request)[1] != 40000
    assert len(lines(engine)) == 2
    assert engine._selfcheck() == 0
    engine.expire(1_000_000 * SECOND)
    assert len(engine.connections) == 0


def test_a_bad_checksum_towards_a_server_that_is_routed_to():
    """LOCAL_OUT sees it by the tuple that it came in with, and looks at no checksum."""
    engine = director(f"iptables -t nat -A POSTROUTING -s {CLIENT} -j SNAT --to-source {DIP}",
                      method="route", protocol="udp")  # fmt: skip
    for _ in range(2):
        bad = udp(CLIENT, 5000, VIP, 80)
        bad[-1] ^= 1
        assert engine.process(bad, 0) == Verdict.FORWARD
        assert flow(bad) == (DIP, 5000, VIP, 80)
    (line,) = lines(engine)
    assert f"src={VIP} dst={DIP} " in line


def test_an_acknowledgment_of_data_beyond_the_window_when_that_is_taken():
    """tcp_be_liberal=1: what is sent beyond it is the sender's latest all the same."""
    engine = director()
    engine.sysctl["net.netfilter.nf_conntrack_tcp_be_liberal"] = 1
    for request in (
        segment(CLIENT, 40000, VIP, 80, "S", 1000),
        segment(RS1, 8080, DIP, 40000, "SA", 5000, 1001),
        segment(RS1, 8080, DIP, 40000, "PA", 5050, 1001, b"x"),
        segment(CLIENT, 40000, VIP, 80, "A", 1001, 5051),
    ):
        assert send(engine, request)[0] == Verdict.FORWARD
    (line,) = lines(engine)
    assert line.startswith("tcp      6 432000 ESTABLISHED ")
