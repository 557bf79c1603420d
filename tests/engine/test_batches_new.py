"""New connections in batches: an answer's direction waits for its bucket, and nobody sees it."""

from hypothesis import given
from hypothesis import strategies as st
from packets import CLIENT, RS1, RS2, SECOND, VIP, tcp, udp
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import Ether
from test_batches import both

import lvscore

PORTS = st.integers(4000, 4005)


def engine():
    """Servers that services share, so that answers of several connections look alike."""
    engine = lvscore.Engine(seed=1)
    for port in (80, 81):
        for protocol in ("tcp", "udp"):
            service = engine.add_service(protocol, f"{VIP}:{port}", scheduler="rr")
            service.add_server(f"{RS1}:8080")
            service.add_server(f"{RS2}:8080")
    return engine


@st.composite
def packets(draw):
    make = draw(st.sampled_from([tcp, udp]))
    client, port = draw(PORTS), draw(st.sampled_from([80, 81]))
    flags = {"flags": draw(st.sampled_from(["S", "SA", "A", "FA", "R"]))} if make is tcp else {}
    if draw(st.booleans()):
        return make(CLIENT, client, VIP, port, **flags)
    server = draw(st.sampled_from([RS1, RS2]))
    answer = make(server, 8080, CLIENT, client, **flags)
    if draw(st.integers(0, 9)):
        return answer
    quoted = bytes(answer)[14:]
    return bytes(Ether() / IP(src=CLIENT, dst=server) / ICMP(type=3, code=3) / quoted)


@given(
    st.lists(packets(), max_size=50),
    st.lists(st.sampled_from([0, 0, 0, 1, 70 * SECOND, 400 * SECOND]), min_size=50, max_size=50),
)
def test_answers_close_behind_what_they_answer(frames, steps):
    times, now = [], 0
    for _, step in zip(frames, steps, strict=False):
        now += step
        times.append(now)
    both(engine, frames, times)


def test_an_answer_in_the_same_vector():
    frames = []
    for port in range(4000, 4040):
        frames += [
            udp(CLIENT, port, VIP, 80),
            udp(RS2 if port % 2 == 0 else RS1, 8080, CLIENT, port),
        ]
    outcome = both(engine, frames)
    assert [reason for _, reason, _ in outcome[1::2]] == [lvscore.Reason.REPLY] * 40


def test_the_bound_is_met_on_the_same_packet():
    def small():
        small = lvscore.Engine(seed=1, max_connections=1024)
        small.add_service("udp", f"{VIP}:80", scheduler="rr").add_server(f"{RS1}:8080")
        return small

    frames = [udp(CLIENT, port, VIP, 80) for port in range(2000, 3100)]
    outcome = both(small, frames)
    assert [reason for _, reason, _ in outcome].count(lvscore.Reason.TABLE_FULL) == 1100 - 1024
