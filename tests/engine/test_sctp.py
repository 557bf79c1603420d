"""SCTP associations of services: states, scheduling, checksums, truncation, ICMP errors."""

from ipaddress import ip_address

import captures
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packets import CLIENT, RS1, RS2, SECOND, VIP, flow, ip
from scapy.layers.inet import ICMP, IP, fragment
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Raw

import lvscore
from lvscore import Engine, FrameBatch, Reason, Verdict, _probe

DATA, INIT, INIT_ACK, ABORT, SHUTDOWN, SHUTDOWN_ACK = 0, 1, 2, 6, 7, 8
COOKIE_ECHO, COOKIE_ACK, SHUTDOWN_COMPLETE = 10, 11, 14
VIP6, CLIENT6, RS6 = "2001:db8::1", "2001:db8:a::9", "2001:db8:1::7"
LOWEST = {DATA: 16, INIT: 20, INIT_ACK: 20, SHUTDOWN: 8}


def chunk(kind, data=None):
    data = bytes(LOWEST.get(kind, 4) - 4) if data is None else data
    return bytes((kind, 0)) + (4 + len(data)).to_bytes(2, "big") + data


def sctp(source, sport, destination, dport, *chunks, **fields):
    body = b"".join(chunk(c) if isinstance(c, int) else c for c in chunks)
    packet = ip(source, destination, **fields) / SCTP(sport=sport, dport=dport, tag=77) / Raw(body)
    return bytearray(bytes(packet))


def request(*chunks, port=40000):
    return sctp(CLIENT, port, VIP, 132, *chunks)


def reply(*chunks, server=RS1, port=40000):
    return sctp(server, 1320, CLIENT, port, *chunks)


def checksum_good(frame):
    """Whether scapy makes the same packet, with checksums of its own."""
    packet = Ether(bytes(frame))
    anew = packet.copy()
    if IP in anew:
        del anew[IP].chksum
    del anew[SCTP].chksum
    return bytes(anew) == bytes(packet)


def lab(*servers, server_port=1320, **sysctl):
    engine = Engine(seed=1)
    for name, value in sysctl.items():
        engine.sysctl[f"net.ipv4.vs.{name}"] = value
    service = engine.add_service("sctp", f"{VIP}:132", scheduler="rr")
    for server in servers or (RS1,):
        service.add_server(f"{server}:{server_port}")
    return engine


def state(engine, port=40000):
    return engine.connections["sctp", f"{CLIENT}:{port}", f"{VIP}:132"].state


def test_an_association_from_init_to_shutdown_complete():
    engine = lab()
    server = engine.services[0].servers[0]
    steps = [
        (request(INIT), "INIT1", 4, 0),
        (request(INIT), "INIT", 61, 0),
        (reply(INIT_ACK), "COOKIE_SENT", 61, 0),
        (request(COOKIE_ECHO), "COOKIE_REPLIED", 61, 0),
        (reply(COOKIE_ACK), "ESTABLISHED", 900, 1),
        (request(DATA), "ESTABLISHED", 900, 1),
        (reply(DATA), "ESTABLISHED", 900, 1),
        (request(SHUTDOWN), "SHUTDOWN_RECEIVED", 61, 0),
        (reply(SHUTDOWN_ACK), "SHUTDOWN_ACK_SENT", 61, 0),
        (request(SHUTDOWN_COMPLETE), "CLOSED", 61, 0),
        (request(DATA), "CLOSED", 61, 0),
    ]
    for frame, name, seconds, active in steps:
        source = flow(frame)[0]
        assert engine.process(frame, SECOND) == Verdict.FORWARD
        wanted = (CLIENT, 40000, RS1, 1320) if source == CLIENT else (VIP, 132, CLIENT, 40000)
        assert flow(frame) == wanted
        assert checksum_good(frame)
        assert state(engine) == name
        (connection,) = engine.connections
        assert connection.expires_ns == seconds * SECOND
        assert (server.active, server.inactive) == (active, 1 - active)
    assert engine.expire(62 * SECOND) == 1


def test_a_retransmitted_association_of_the_servers():
    """The server opens: COOKIE_WAIT, COOKIE, COOKIE_ECHOED."""
    engine = lab()
    engine.process(request(INIT), 0)
    for frame, name in (
        (reply(INIT), "COOKIE_WAIT"),
        (request(INIT_ACK), "COOKIE"),
        (reply(COOKIE_ECHO), "COOKIE_ECHOED"),
        (request(COOKIE_ACK), "ESTABLISHED"),
    ):
        assert engine.process(frame, 0) == Verdict.FORWARD
        assert state(engine) == name


def test_every_public_state_has_a_name():
    engine = lab()
    engine.process(request(INIT), 0)
    engine.process(reply(ABORT), 0)
    assert state(engine) == "REJECTED"
    assert engine.explain(request(INIT)).verdict == Verdict.FORWARD
    assert "state REJECTED -> INIT" in str(engine.explain(request(INIT)))


@pytest.mark.parametrize("sloppy", [0, 1])
@pytest.mark.parametrize("kind", range(16))
def test_only_an_init_opens_an_association(kind, sloppy):
    engine = lab(sloppy_sctp=sloppy)
    frame = request(kind)
    before = bytes(frame)
    if kind == INIT or (sloppy and kind != ABORT):
        assert engine.process(frame, 0) == Verdict.FORWARD
        assert engine.last_reason == Reason.NEW_CONNECTION
        assert len(engine.connections) == 1
        return
    assert engine.process(frame, 0) == Verdict.LOCAL
    assert engine.last_reason == Reason.SCTP_NOT_INIT
    assert bytes(frame) == before
    assert len(engine.connections) == 0


def test_port_20_is_not_scheduled():
    engine = lab()
    assert engine.process(request(INIT, port=20), 0) == Verdict.LOCAL
    assert engine.last_reason == Reason.SOURCE_PORT_20


def test_no_server():
    engine = lab()
    engine.services[0].servers[0].edit(weight=0)
    assert engine.process(request(INIT), 0) == Verdict.DROP
    assert engine.last_reason == Reason.NO_REAL_SERVER


@pytest.mark.parametrize("mode", [0, 1])
def test_an_init_begins_a_closed_association_anew(mode):
    engine = lab(RS1, RS2, conn_reuse_mode=mode)
    engine.process(request(INIT), 0)
    first = next(iter(engine.connections)).server
    engine.process(request(ABORT), 0)
    assert state(engine) == "CLOSED"
    engine.process(request(DATA), 0)
    assert state(engine) == "CLOSED"
    assert engine.process(request(INIT), 0) == Verdict.FORWARD
    (connection,) = engine.connections
    if mode:
        assert engine.last_reason == Reason.CONNECTION_REUSED
        assert (connection.state, connection.server == first) == ("INIT1", False)
    else:
        assert engine.last_reason == Reason.REQUEST
        assert (connection.state, connection.server) == ("INIT", first)


def test_an_init_leaves_a_server_of_weight_0():
    engine = lab(RS1, RS2, expire_nodest_conn=1)
    frame = request(INIT)
    engine.process(frame, 0)
    first = flow(frame)[2]
    for server in engine.services[0].servers:
        if str(server.endpoint.address) == first:
            server.edit(weight=0)
    frame = request(DATA)
    engine.process(frame, 0)
    assert flow(frame)[2] == first
    frame = request(INIT)
    engine.process(frame, 0)
    assert flow(frame)[2] == ({RS1, RS2} - {first}).pop()


def test_a_wrong_checksum_becomes_right_when_the_port_changes():
    engine = lab()
    frame = request(INIT)
    frame[34 + 8] ^= 0xFF
    assert engine.process(frame, 0) == Verdict.FORWARD
    assert checksum_good(frame)


@pytest.mark.parametrize("wrong", [0, 0xFF])
def test_the_checksum_stays_when_only_addresses_change(wrong):
    engine = lab(server_port=132)
    frame = request(INIT)
    frame[34 + 8] ^= wrong
    sctp_packet = bytes(frame[34:])
    assert engine.process(frame, 0) == Verdict.FORWARD
    assert flow(frame) == (CLIENT, 40000, RS1, 132)
    assert bytes(frame[34:]) == sctp_packet


def test_ipv6():
    engine = Engine(seed=1)
    engine.add_service("sctp", f"[{VIP6}]:132").add_server(f"[{RS6}]:1320")
    frame = sctp(CLIENT6, 40000, VIP6, 132, INIT)
    assert engine.process(frame, 0) == Verdict.FORWARD
    assert flow(frame) == (CLIENT6, 40000, RS6, 1320)
    assert checksum_good(frame)
    frame = sctp(RS6, 1320, CLIENT6, 40000, INIT_ACK)
    assert engine.process(frame, 0) == Verdict.FORWARD
    assert flow(frame) == (VIP6, 132, CLIENT6, 40000)
    assert checksum_good(frame)
    assert [c.state for c in engine.connections] == ["COOKIE_SENT"]


def cut(frame, length):
    """The frame with an IP packet of ``length`` bytes of SCTP."""
    packet = Ether(bytes(frame[: 34 + length]))
    del packet[IP].len, packet[IP].chksum
    return bytearray(bytes(packet))


@pytest.mark.parametrize("length", range(33))
def test_an_init_cut_at_every_byte(length):
    engine = lab()
    frame = cut(request(INIT), length)
    before = bytes(frame)
    verdict = engine.process(frame, 0)
    if length >= 16:
        assert verdict == Verdict.FORWARD
        assert checksum_good(frame)
        return
    assert verdict == Verdict.DROP
    assert engine.last_reason == Reason.TRUNCATED_TRANSPORT_HEADER
    assert bytes(frame) == before
    assert len(engine.connections) == 0


@pytest.mark.parametrize("length", range(17))
@pytest.mark.parametrize("from_server", [False, True])
def test_a_packet_of_an_association_cut_at_every_byte(length, from_server):
    engine = lab()
    engine.process(request(INIT), 0)
    whole = reply(SHUTDOWN) if from_server else request(SHUTDOWN_ACK)
    frame = cut(whole, length)
    verdict = engine.process(frame, SECOND)
    (connection,) = engine.connections
    counted = connection.packets_out if from_server else connection.packets_in - 1
    if length < 4:
        # Not of the association, as far as anyone can tell.
        assert verdict == (Verdict.PASS if from_server else Verdict.DROP)
        assert connection.expires_ns == 3 * SECOND
        return
    if length < 12:
        assert verdict == Verdict.DROP
        assert engine.last_reason == Reason.TRUNCATED_TRANSPORT_HEADER
        assert counted == (0 if from_server else 1)
    else:
        assert verdict == Verdict.FORWARD
        assert checksum_good(frame)
        assert counted == 1
    if length < 16:  # its chunk is not there: the timer runs anew, the state stays
        assert (connection.state, connection.expires_ns) == ("INIT1", 4 * SECOND)
    else:
        assert connection.state == ("SHUTDOWN_SENT" if from_server else "INIT")


def test_a_snapped_packet_keeps_its_checksum():
    """It cannot be made anew from a part of the packet."""
    engine = lab()
    frame = request(INIT)
    snapped = frame[:52]
    batch = FrameBatch(snapped, [0], [52], [0], original_lengths=[len(frame)])
    engine.process_batch(batch)
    assert list(batch.verdict) == [Verdict.FORWARD]
    assert flow(snapped) == (CLIENT, 40000, RS1, 1320)
    assert snapped[42:46] == frame[42:46]


def test_padding_of_the_frame_is_not_summed():
    engine = lab()
    frame = request(INIT)
    plain = bytearray(frame)
    frame += b"padding"
    engine.process(frame, 0)
    lab().process(plain, 0)
    assert bytes(frame) == bytes(plain) + b"padding"


def test_errors_that_quote_sctp():
    engine = lab()
    sent = request(INIT)
    engine.process(sent, 0)
    error = bytearray(bytes(ip(RS1, CLIENT) / ICMP(type=3, code=3) / Raw(bytes(sent[14 : 34 + 8]))))
    assert engine.process(error, 0) == Verdict.FORWARD
    packet = Ether(bytes(error))
    assert packet[IP].src == VIP
    quoted = IP(bytes(packet[ICMP].payload))
    assert (quoted.dst, bytes(quoted.payload)[:4]) == (VIP, bytes(request(INIT)[34:38]))
    anew = packet.copy()
    del anew[IP].chksum, anew[ICMP].chksum
    assert bytes(anew) == bytes(packet)
    assert state(engine) == "INIT1"


def test_errors_that_quote_sctp_over_ipv6():
    engine = Engine(seed=1)
    engine.add_service("sctp", f"[{VIP6}]:132").add_server(f"[{RS6}]:1320")
    sent = sctp(CLIENT6, 40000, VIP6, 132, INIT)
    engine.process(sent, 0)
    error = bytearray(bytes(ip(RS6, CLIENT6) / ICMPv6DestUnreach(code=4) / Raw(bytes(sent[14:]))))
    assert engine.process(error, 0) == Verdict.FORWARD
    packet = Ether(bytes(error))
    quoted = IPv6(bytes(packet[ICMPv6DestUnreach].payload))
    assert (packet[IPv6].src, quoted.dst) == (VIP6, VIP6)
    assert bytes(quoted.payload)[:4] == bytes(sctp(CLIENT6, 40000, VIP6, 132, INIT)[54:58])


def test_a_service_is_listed_as_ipvsadm_does():
    engine = Engine(seed=1)
    engine.ipvsadm(f"-A --sctp-service {VIP}:132 -s rr")
    engine.ipvsadm(f"-a --sctp-service {VIP}:132 -r {RS1}:1320 -m")
    engine.process(request(INIT), 0)
    assert f"SCTP {VIP}:132 rr\n" in engine.ipvsadm("-L -n")
    rows = {}
    for frame in (request(INIT), reply(INIT_ACK), request(COOKIE_ECHO), reply(COOKIE_ACK)):
        engine.process(frame, 0)
        row = engine.ipvsadm("-L -n -c").splitlines()[2]
        rows[state(engine)] = row
    assert rows == {
        name: f"SCTP {time}  {printed:<11} {CLIENT}:40000     {VIP}:132   {RS1}:1320"
        for name, time, printed in (
            ("INIT", "01:01", "INIT"),
            ("COOKIE_SENT", "01:01", "C-SENT"),
            ("COOKIE_REPLIED", "01:01", "C-REPLIED"),
            ("ESTABLISHED", "15:00", "ESTABLISHED"),
        )
    }


def test_what_no_service_may_be_on():
    with pytest.raises(lvscore.ConfigError, match="tcp, udp or sctp"):
        Engine(seed=1).add_service("icmp", f"{VIP}:132")


PACKETS = st.tuples(
    st.booleans(),
    st.integers(40000, 40002),
    st.lists(st.integers(0, 16), max_size=3),
    st.integers(0, 60),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(PACKETS, max_size=40))
def test_what_is_translated_has_a_right_checksum(given_packets):
    """Whatever comes, in a batch as one by one; a reply leaves as from the virtual address."""
    frames = []
    for from_server, port, chunks, length in given_packets:
        make = reply if from_server else request
        frames.append(cut(make(*chunks, port=port), length))
    one, batched = lab(), lab()
    results = []
    for frame in frames:
        copy = bytearray(frame)
        verdict = one.process(copy, 0)
        if verdict == Verdict.FORWARD:
            assert checksum_good(copy)
            assert flow(copy)[0] in (CLIENT, VIP)
        else:
            assert copy == frame
        results.append((verdict, one.last_reason, bytes(copy)))
    buffer, offsets = bytearray(), []
    for frame in frames:
        offsets.append(len(buffer))
        buffer += frame
    if not frames:
        return
    lengths = [len(frame) for frame in frames]
    batch = FrameBatch(buffer, offsets, lengths, [0] * len(frames))
    batched.process_batch(batch)
    for n, (verdict, reason, data) in enumerate(results):
        assert (batch.verdict[n], batch.reason[n]) == (verdict, reason)
        assert bytes(buffer[offsets[n] : offsets[n] + lengths[n]]) == data


def test_fragments_are_summed_as_a_whole():
    engine = lab(sloppy_sctp=1)
    whole = Ether(bytes(request(chunk(DATA, bytes(range(250)) * 8))))
    pieces = fragment(whole[IP], fragsize=600)
    assert len(pieces) > 2
    for piece in pieces:
        verdict = engine.process(bytearray(bytes(Ether() / piece)), 0)
        assert verdict == Verdict.STOLEN
    emitted = engine.emitted
    data = b"".join(bytes(Ether(bytes(emitted[n]))[IP].payload) for n in range(len(emitted)))
    assert _probe.sctp_checksummed(data) == data
    assert data[2:4] == (1320).to_bytes(2, "big")
    assert data[12:] == bytes(whole[SCTP])[12:]


def sctp_packets(path):
    """Whole SCTP packets of a capture: link type, frame, and where SCTP stands in it."""
    for capture in captures.load(path):
        for frame in capture.frames:
            found = _probe.parse(frame.data, capture.link_type, frame.wire_length)
            if isinstance(found, dict) and found["protocol"] == 132 and not found["fragment"]:
                end = found["l4"] + found["l4_length"]
                if 16 <= found["l4_length"] == found["l4_captured"]:
                    yield capture.link_type, frame, found["l4"], end, found["tuple"]


SCTP_CAPTURES = [path for path in captures.files().values() if any(sctp_packets(path))]


def test_there_are_captures_of_sctp():
    assert len(SCTP_CAPTURES) >= 2


@pytest.mark.parametrize("path", SCTP_CAPTURES, ids=lambda path: path.name)
def test_captures(path):
    """Real packets, in whatever direction, as those of clients of a service."""
    engine = Engine(seed=1)
    engine.sysctl["net.ipv4.vs.sloppy_sctp"] = 1
    for link_type, frame, start, end, flow_of in sctp_packets(path):
        packet = frame.data[start:end]
        assert _probe.sctp_checksummed(packet) == packet
        _, _, sport, destination, dport = flow_of
        virtual = lvscore.Endpoint(ip_address(destination), dport)
        try:
            engine.find_service("sctp", virtual)
        except lvscore.NotFoundError:
            server = f"10.77.0.1:{dport % 60000 + 1}" if len(destination) == 4 else "[fd77::1]:9"
            engine.add_service("sctp", virtual).add_server(server)
        out = bytearray(frame.data)
        verdict = engine.process(out, frame.time, link_type)
        if packet[12] == ABORT and engine.last_reason == Reason.SCTP_NOT_INIT:
            assert out == frame.data
            continue
        assert verdict == Verdict.FORWARD
        translated = bytes(out[start:end])
        assert int.from_bytes(translated[:2], "big") == sport
        assert translated[2:4] != packet[2:4]
        assert translated[4:8] + translated[12:] == packet[4:8] + packet[12:]
        assert _probe.sctp_checksummed(translated) == translated


@pytest.mark.parametrize(("method", "verdict"), [("-g", "FORWARD"), ("-i", "STOLEN")])
def test_requests_whose_answers_do_not_come_by(method, verdict):
    """Direct routing and tunnels: the INPUT_ONLY rows, and a checksum that stays."""
    engine = Engine(seed=1)
    engine.ipvsadm(f"-A --sctp-service {VIP}:132 -s rr")
    engine.ipvsadm(f"-a --sctp-service {VIP}:132 -r {RS1}:132 {method}")
    for kind, name in (
        (INIT, "INIT1"),
        (INIT, "INIT"),
        (COOKIE_ECHO, "ESTABLISHED"),
        (DATA, "ESTABLISHED"),
        (SHUTDOWN, "SHUTDOWN_RECEIVED"),
        (SHUTDOWN_COMPLETE, "CLOSED"),
    ):
        frame = request(kind)
        before = bytes(frame[14:])
        assert engine.process(frame, 0).name == verdict
        assert state(engine) == name
        out = bytes(frame) if method == "-g" else bytes(engine.emitted[0])
        assert out.endswith(before)
