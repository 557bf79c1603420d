"""Flows of the NAT rules: a batch, which knows a fast path for them, is its frames one by one."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from packets import CLIENT, RS1, SECOND, VIP, checksums_good, tcp, udp
from test_batches import both

import lvscore
from lvscore import Reason

OUT = "10.0.0.200"


def router():
    engine = lvscore.Engine(seed=1)
    engine.add_dnat(to=f"{RS1}:8080", destination=VIP, protocol="tcp")
    engine.add_dnat(to=RS1, destination=VIP)
    engine.add_snat(to=OUT, source="192.168.0.0/16")
    return engine


def handshake(port=5000, **options):
    """Up to ESTABLISHED: sequence numbers 101 and 301, windows as in the SYNs."""
    return [
        tcp(CLIENT, port, VIP, 80, "S", seq=100, window=1000, **options),
        tcp(RS1, 8080, CLIENT, port, "SA", seq=300, ack=101, window=1000, **options),
        tcp(CLIENT, port, VIP, 80, "A", seq=101, ack=301, window=1000),
    ]


SACK = [("SAckOK", b""), ("WScale", 2)]

segments = st.tuples(
    st.sampled_from(["A", "PA", "A", "PA", "A", "FA", "R", "RA", "S", "SA", "UA", "EA", ""]),
    st.booleans(),
    st.sampled_from([0, 0, 1, 50, 400, 999, 1000, 1001, 5000, 70000, -1, -60, -2000]),
    st.sampled_from([0, 0, 1, 50, 400, 1001, 70000, -1, -60, -70000]),
    st.sampled_from([1000, 0, 65535]),
    st.sampled_from([0, 0, 1, 10, 400]),
    st.sampled_from(["", "", "", "checksum", "sack", "cut"]),
)


def segment(flags, reply, ahead, acked, window, size, odd, port=5000):
    """One of the connection; ``ahead`` and ``acked`` are counted from the handshake's end."""
    ends = (RS1, 8080, CLIENT, port) if reply else (CLIENT, port, VIP, 80)
    sequence, ack = (301 + ahead, 101 + acked) if reply else (101 + ahead, 301 + acked)
    sacked = ((ack + 50) % 2**32, (ack + 60) % 2**32)
    options = {"options": [("SAck", sacked)]} if odd == "sack" else {}
    if odd == "checksum":
        options["chksum"] = 0x1234
    frame = tcp(*ends, flags, b"x" * size, seq=sequence % 2**32, ack=ack % 2**32, window=window,
                **options)  # fmt: skip
    return frame[:-1] if odd == "cut" else frame


def outcome(frames, times):
    engines = []

    def make():
        engines.append(router())
        return engines[-1]

    result = both(make, frames, times)
    single, whole = engines
    assert whole.conntrack("-L") == single.conntrack("-L")
    assert whole._selfcheck() == 0
    assert whole.next_deadline() == single.next_deadline()
    return result


@settings(max_examples=60, deadline=None)
@example(SACK, [("A", False, 0, 0, 1000, 10, "")] * 5 + [("R", True, 0, 0, 0, 0, "")], [0])
@given(st.sampled_from([[], SACK]), st.lists(segments, max_size=25),
       st.lists(st.integers(0, 400), min_size=1, max_size=5))  # fmt: skip
def test_segments(options, steps, pauses):
    """Whatever a segment says, also behind it: windows, states, timers and counters are the
    same."""
    frames = [*handshake(options=options), *(segment(*step) for step in steps)]
    times, now = [], 0
    for n in range(len(frames)):
        times.append(now * SECOND)
        now += pauses[n % len(pauses)] if n % 7 == 6 else 0
    outcome(frames, times)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([None, 0, 0x1234]), st.integers(0, 130)),
                max_size=30))  # fmt: skip
def test_datagrams(steps):
    """Unanswered, answered, assured; without checksum, and with a wrong one."""
    frames, times, now = [], [], 0
    for reply, checksum, pause in steps:
        ends = (RS1, 53, CLIENT, 6000) if reply else (CLIENT, 6000, VIP, 53)
        frames.append(udp(*ends, **({} if checksum is None else {"chksum": checksum})))
        times.append(now * SECOND)
        now += pause
    outcome(frames, times)


def test_established_segments_are_forwarded_with_good_checksums():
    frames = handshake()
    for n in range(40):
        frames.append(segment("PA", False, 10 * n, 7 * n, 1000, 10, ""))
        frames.append(segment("PA", True, 7 * n, 10 * n + 10, 1000, 7, ""))
    result = outcome(frames, [0] * len(frames))
    assert {reason for _, reason, _ in result[1:]} == {Reason.REQUEST, Reason.REPLY}
    assert all(checksums_good(bytearray(frame)) for _, _, frame in result)


def test_segments_behind_the_end_are_none_of_the_connection():
    """In one vector: the fast path must not take what an RST before it has ended."""
    frames = [
        *handshake(),
        segment("PA", False, 0, 0, 1000, 10, ""),
        segment("R", False, 10, 0, 0, 0, ""),
        segment("PA", True, 0, 10, 1000, 10, ""),
        tcp(CLIENT, 5000, VIP, 80, "S", seq=9000),
        segment("PA", False, 10, 0, 1000, 10, ""),
    ]
    outcome(frames, [0] * len(frames))


@pytest.mark.parametrize("timeout", [None, 100, 400])
def test_data_that_waits_for_its_acknowledgment_shortens_days_to_minutes(timeout):
    """And the acknowledgment makes days of them; whatever the timers were linked for."""
    engine = router()
    if timeout:
        engine.sysctl["net.netfilter.nf_conntrack_tcp_timeout_unacknowledged"] = timeout
    steps = [
        *((0, frame) for frame in handshake()),
        (10, segment("PA", False, 0, 0, 1000, 10, "")),
        (20, segment("A", True, 0, 10, 1000, 0, "")),
        (1000, segment("PA", True, 0, 10, 1000, 5, "")),
        (1100, segment("A", False, 10, 5, 1000, 0, "")),
        (9000, segment("PA", False, 10, 5, 1000, 5, "")),
    ]
    for now, frame in steps:
        engine.process_batch(lvscore.FrameBatch.of([frame], [now * SECOND]))
        assert len(engine.connections) == 1
    end = 9000 + (timeout or 300)
    engine.expire(end * SECOND - 1)
    assert len(engine.connections) == 1
    engine.expire(end * SECOND + SECOND // 1000)
    assert len(engine.connections) == 0
    assert engine._selfcheck() == 0


def test_a_shorter_timeout_holds_for_flows_that_are_there():
    """Their next packet may be due before the slot that their timer is linked in."""
    engine = router()
    for frame in handshake():
        engine.process_batch(lvscore.FrameBatch.of([frame], [0]))
    engine.sysctl["net.netfilter.nf_conntrack_tcp_timeout_established"] = 20
    engine.sysctl["net.netfilter.nf_conntrack_tcp_timeout_unacknowledged"] = 5
    engine.process_batch(
        lvscore.FrameBatch.of([segment("A", False, 0, 0, 1000, 0, "")], [10 * SECOND])
    )
    engine.expire(30 * SECOND - 1)
    assert len(engine.connections) == 1
    engine.process_batch(
        lvscore.FrameBatch.of([segment("PA", False, 0, 0, 1000, 10, "")], [30 * SECOND - 1])
    )
    engine.expire(35 * SECOND + SECOND // 1000)
    assert len(engine.connections) == 0
