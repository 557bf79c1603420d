"""SCTP flows of the NAT rules: netfilter's states, verification tags, timeouts, checksums."""

import struct

import pytest
from packets import CLIENT, RS1, SECOND, VIP, flow, ip
from scapy.layers.inet import ICMP, IP
from scapy.layers.sctp import crc32c
from scapy.packet import Raw

import lvscore
from lvscore import Reason, Verdict, conntrack

DATA, INIT, INIT_ACK, HEARTBEAT, HEARTBEAT_ACK, ABORT, SHUTDOWN, SHUTDOWN_ACK = (
    *range(3),
    *range(4, 9),
)
ERROR, COOKIE_ECHO, COOKIE_ACK, SHUTDOWN_COMPLETE = 9, 10, 11, 14
OUT = "10.0.0.200"
HERE, THERE = 0x1111, 0x2222  # the tags that either end asks for


def sctp(source, sport, destination, dport, tag, *chunks, asks=0, flags=0, wrong=0):
    body = b""
    for kind in chunks:
        value = struct.pack(">IIHHI", asks, 65535, 2, 2, 1) if kind in (INIT, INIT_ACK) else b"1234"
        body += struct.pack(">BBH", kind, flags, 4 + len(value)) + value
    head = struct.pack(">HHI", sport, dport, tag)
    crc = (crc32c(head + bytes(4) + body) + wrong) & 0xFFFFFFFF
    segment = head + crc.to_bytes(4, "big") + body
    return bytearray(bytes(ip(source, destination, proto=132) / Raw(segment)))


def checksum_good(frame):
    l4 = bytes(frame[34 : 14 + int.from_bytes(frame[16:18], "big")])
    return crc32c(l4[:8] + bytes(4) + l4[12:]).to_bytes(4, "big") == l4[8:12]


def request(tag, *chunks, **fields):
    return sctp(CLIENT, 40000, OUT, 80, tag, *chunks, **fields)


def answer(tag, *chunks, **fields):
    return sctp(RS1, 8080, CLIENT, 40000, tag, *chunks, **fields)


@pytest.fixture
def engine():
    made = lvscore.Engine(seed=1)
    made.iptables(
        f"-t nat -A PREROUTING -d {OUT} -p sctp --dport 80 -j DNAT --to-destination {RS1}:8080"
    )
    return made


def send(engine, frame, now=0):
    verdict = engine.process(frame, now)
    return verdict, engine.last_reason


def listed(engine):
    (line,) = conntrack.run(engine, "conntrack -L").splitlines()
    words = line.split()
    return int(words[2]), words[3], "[UNREPLIED]" in words, "[ASSURED]" in words


def play(engine, *frames):
    for frame in frames:
        assert send(engine, frame)[0] == Verdict.FORWARD
        assert checksum_good(frame)


def establish(engine):
    play(
        engine,
        request(0, INIT, asks=HERE),
        answer(HERE, INIT_ACK, asks=THERE),
        request(THERE, COOKIE_ECHO, DATA),
        answer(HERE, COOKIE_ACK, DATA),
    )


def test_the_life_of_an_association(engine):
    first = request(0, INIT, asks=HERE)
    assert send(engine, first) == (Verdict.FORWARD, Reason.NEW_CONNECTION)
    assert flow(first) == (CLIENT, 40000, RS1, 8080)
    assert checksum_good(first)
    assert listed(engine) == (10, "CLOSED", True, False)
    back = answer(HERE, INIT_ACK, asks=THERE)
    assert send(engine, back) == (Verdict.FORWARD, Reason.REPLY)
    assert flow(back) == (OUT, 80, CLIENT, 40000)
    assert checksum_good(back)
    assert listed(engine) == (3, "COOKIE_WAIT", False, False)
    for frame, *state in (
        (request(THERE, COOKIE_ECHO), 3, "COOKIE_ECHOED", False),
        (answer(HERE, COOKIE_ACK), 210, "ESTABLISHED", True),
        (request(THERE, DATA), 210, "ESTABLISHED", True),
        (answer(HERE, DATA, DATA), 210, "ESTABLISHED", True),
        (request(THERE, SHUTDOWN), 3, "SHUTDOWN_SENT", True),
        (answer(HERE, SHUTDOWN_ACK), 3, "SHUTDOWN_ACK_SENT", True),
        (request(THERE, SHUTDOWN_COMPLETE), 10, "CLOSED", True),
    ):
        play(engine, frame)
        seconds, name, replied, assured = state[0], state[1], False, state[2]
        assert listed(engine) == (seconds, name, replied, assured)
    engine.expire(11 * SECOND)
    assert len(engine.connections) == 0


def test_the_server_shuts_down(engine):
    establish(engine)
    play(engine, answer(HERE, SHUTDOWN))
    assert listed(engine)[1] == "SHUTDOWN_RECD"
    play(engine, request(THERE, SHUTDOWN_ACK), answer(HERE, SHUTDOWN_COMPLETE))
    assert listed(engine)[1] == "CLOSED"


@pytest.mark.parametrize(
    ("chunks", "fields"),
    [
        ((DATA,), {"tag": HERE}),
        ((DATA,), {"tag": 0}),
        ((COOKIE_ECHO,), {"tag": 7}),
        ((ABORT,), {"tag": 7}),
        ((ABORT,), {"tag": THERE, "flags": 1}),  # T: the tag would be the client's own
        ((SHUTDOWN_COMPLETE,), {"tag": 7}),
        ((INIT,), {"tag": THERE, "asks": HERE}),  # an INIT has none
        ((HEARTBEAT, DATA), {"tag": 7}),
        ((DATA, COOKIE_ACK), {"tag": THERE}),  # not the first
        ((INIT, DATA), {"tag": 0}),  # not the only one
        ((), {"tag": THERE}),
        ((DATA,), {"tag": THERE, "wrong": 1}),
    ],
)
def test_what_is_invalid(engine, chunks, fields):
    establish(engine)
    tag = fields.pop("tag")
    frame = request(tag, *chunks, **fields)
    before = bytes(frame)
    assert send(engine, frame)[1] == Reason.INVALID_STATE
    assert bytes(frame) == before
    assert listed(engine)[1] == "ESTABLISHED"


@pytest.mark.parametrize(("tag", "flags"), [(THERE, 0), (HERE, 1)])
def test_an_abort_closes(engine, tag, flags):
    establish(engine)
    play(engine, request(tag, ABORT, flags=flags))
    assert listed(engine)[:2] == (10, "CLOSED")


@pytest.mark.parametrize("kind", [DATA, ABORT, SHUTDOWN_COMPLETE, COOKIE_ACK, COOKIE_ECHO, ERROR])
def test_what_opens_nothing(engine, kind):
    assert send(engine, request(THERE, kind))[1] == Reason.INVALID_STATE
    assert len(engine.connections) == 0


def test_an_init_must_not_have_a_tag(engine):
    assert send(engine, request(1, INIT, asks=HERE))[1] == Reason.INVALID_STATE


def test_a_heartbeat_opens_another_path(engine):
    play(engine, request(THERE, HEARTBEAT))
    assert listed(engine) == (30, "HEARTBEAT_SENT", True, False)
    play(engine, answer(HERE, HEARTBEAT_ACK))
    assert listed(engine) == (210, "ESTABLISHED", False, True)
    play(engine, request(THERE, DATA), answer(HERE, DATA))


def test_an_answered_heartbeat_changes_the_tags(engine):
    """An end that begun anew: a HEARTBEAT with another tag passes, its answer confirms it."""
    establish(engine)
    play(engine, request(99, HEARTBEAT))
    assert send(engine, request(99, DATA))[1] == Reason.INVALID_STATE
    play(engine, answer(88, HEARTBEAT_ACK), answer(88, DATA), request(99, HEARTBEAT))
    play(engine, request(99, DATA))


def test_an_init_again_does_not_hold_the_entry(engine):
    play(engine, request(0, INIT, asks=HERE))
    assert send(engine, request(0, INIT, asks=HERE), 6 * SECOND)[0] == Verdict.FORWARD
    assert listed(engine)[0] == 4


def test_timeouts_are_settings(engine):
    engine.sysctl["net.netfilter.nf_conntrack_sctp_timeout_established"] = 432000
    establish(engine)
    assert listed(engine)[0] == 432000


def test_source_nat_changes_the_port_on_a_clash():
    engine = lvscore.Engine(seed=1)
    engine.iptables(f"-t nat -A POSTROUTING -p sctp -j SNAT --to-source {OUT}")
    used = set()
    for source in ("192.168.0.1", "192.168.0.2"):
        frame = sctp(source, 5000, CLIENT, 80, 0, INIT, asks=HERE)
        play(engine, frame)
        used.add(flow(frame)[:2])
    assert {address for address, _ in used} == {OUT}
    assert len(used) == 2


def test_unchecked_checksums_are_made_good():
    """nf_nat makes the checksum anew, also where only an address changes."""
    engine = lvscore.Engine(seed=1)
    engine.sysctl["net.netfilter.nf_conntrack_checksum"] = 0
    engine.add_dnat(to=VIP, destination=OUT)
    play(engine, request(0, INIT, asks=HERE, wrong=1))


def test_errors_about_associations(engine):
    first = request(0, INIT, asks=HERE)
    play(engine, first)
    error = bytearray(bytes(ip(RS1, CLIENT) / ICMP(type=3, code=2) / IP(bytes(first[14:]))))
    assert send(engine, error) == (Verdict.FORWARD, Reason.RELATED_ICMP)
    quoted = bytes(error[14 + 20 + 8 :])
    assert struct.unpack_from(">HH", quoted, 20) == (40000, 80)
    assert checksum_good(bytes(14) + quoted)
