"""IPv4 and IPv6 in batches: a batch leaves as where no packet takes the fast path."""

import functools
import struct

import features
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packets import SECOND, checksums_good, flow, ones_sum, tcp, udp
from test_batches import generally

import lvscore
from lvscore import Reason, Verdict

CLIENT = {4: "10.0.0.9", 6: "2001:db8:f::9"}
VIP = {4: "172.16.1.100", 6: "2001:db8::100"}
SERVERS = {4: ("172.16.1.7", "172.16.1.8"), 6: ("2001:db8:1::7", "2001:db8:1::8")}
FAMILIES = (4, 6)
HEADER = {4: 20, 6: 40}
HOPS = {4: 22, 6: 21}  # where TTL and hop limit lie in a frame
LENGTH_AT = {4: 16, 6: 18}

of_each_family = pytest.mark.parametrize("family", FAMILIES)


def endpoint(address, port):
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def made(**settings):
    """Servers that services share, so that answers of several connections look alike."""
    engine = lvscore.Engine(seed=1)
    for name, value in settings.items():
        engine.sysctl[f"net.ipv4.vs.{name}"] = value
    for family in FAMILIES:
        for port in (80, 81):
            for protocol in ("tcp", "udp"):
                service = engine.add_service(protocol, endpoint(VIP[family], port), scheduler="rr")
                for server in SERVERS[family]:
                    service.add_server(endpoint(server, 8080))
    return engine


def outcomes(engine, frames, times, size=64, link_type=1, wire=None):
    """(verdict, reason, frame) of each frame, in batches of so many."""
    out = []
    for first in range(0, len(frames), size):
        part = frames[first : first + size]
        offsets = [sum(map(len, part[:n])) for n in range(len(part))]
        batch = lvscore.FrameBatch(
            bytearray(b"".join(part)), offsets, [len(frame) for frame in part],
            times[first : first + size], link_type=link_type,
            original_lengths=wire and wire[first : first + size],
        )  # fmt: skip
        engine.process_batch(batch)
        out += [
            (Verdict(int(batch.verdict[i])), Reason(int(batch.reason[i])), bytes(batch[i]))
            for i in range(len(batch))
        ]
    return out


def both(frames, times=None, make=made, change=None, **kind):
    """The outcomes, which are the same frame by frame on the slow path, and in batches of any size
    on the fast path; and the engine of the largest batches. ``change``: what is done to the engine
    before the second half."""
    times = [0] * len(frames) if times is None else times
    half = len(frames) // 2 if change else len(frames)
    wire = kind.pop("wire", None)

    def run(engine, size):
        out = []
        for number, part in enumerate((slice(0, half), slice(half, None))):
            if number and change:
                change(engine)
            out += outcomes(
                engine, frames[part], times[part], size, wire=wire and wire[part], **kind
            )
        return out, features.state_of(engine)

    expected = run(generally(make()), 1)
    for size in (1, 64):
        whole = make()
        assert run(whole, size) == expected
    return expected[0], whole


@functools.cache
def packet(family, kind, there, client, port, server):
    """A frame; ``kind`` is of TCP its flags, or "udp"."""
    ends = CLIENT[family], client, VIP[family], port
    if not there:
        ends = SERVERS[family][server], 8080, CLIENT[family], client
    return bytes(udp(*ends, b"12345") if kind == "udp" else tcp(*ends, kind, b"odd"))


def with_header(frame, number, header):
    """The frame of IPv6 with an extension header."""
    length = struct.unpack_from(">H", frame, 18)[0] + len(header)
    return b"".join([
        frame[:18], struct.pack(">HB", length, number), frame[21:54], frame[20:21], header[1:],
        frame[54:],
    ])  # fmt: skip


def with_bytes(frame, at, value):
    return frame[:at] + value + frame[at + len(value) :]


def checksum_at(frame):
    """Where the checksum of the segment or datagram lies."""
    protocol, header = (frame[23], 20) if frame[14] >> 4 == 4 else (frame[20], 40)
    return 14 + header + (16 if protocol == 6 else 6)


HEADERS = {  # number of an extension header, and its bytes
    "hop-by-hop": (0, bytes([0, 0, 1, 4, 0, 0, 0, 0])),
    "destination options": (60, bytes([0, 0, 1, 4, 0, 0, 0, 0])),
    "atomic fragment": (44, bytes(8)),
    "fragment": (44, bytes([0, 0, 0, 1, 0, 0, 0, 7])),
}
CHECKSUMS = {"no checksum": b"\0\0", "checksum of all ones": b"\xff\xff"}
BYTES = {  # where they lie in the frame
    "too long": (18, b"\1\0"),
    "jumbogram": (18, b"\0\0"),
    "header cut by its length": (18, b"\0\7"),
    "version 4": (14, b"\x45"),
    "traffic class and flow label": (14, b"\x6a\xbc\xde\xf1"),
    "announced as IPv4": (12, b"\x08\x00"),
    "hop limit 0": (21, b"\0"),
    "data offset 0": (66, b"\0"),
}
ODD = ["padded", "VLAN", *HEADERS, *CHECKSUMS, *BYTES]


def odd(frame, kind):
    """A frame of IPv6 that is not quite as the others."""
    if kind == "padded":
        return frame + bytes(6)
    if kind == "VLAN":
        return frame[:12] + b"\x81\0\0\3" + frame[12:]
    if kind in HEADERS:
        return with_header(frame, *HEADERS[kind])
    if kind in CHECKSUMS:
        return with_bytes(frame, checksum_at(frame), CHECKSUMS[kind])
    return with_bytes(frame, *BYTES[kind])


OPENING = [("S", True), ("SA", False), ("A", True)]


def conversation(family, client=4000, port=80, server=1):
    """What begins a connection of TCP and one of UDP; rr takes the last server first."""
    frames = [packet(family, flags, there, client, port, server) for flags, there in OPENING]
    return frames + [packet(family, "udp", there, client, port, server) for there in (True, False)]


@of_each_family
def test_established_packets_are_translated(family):
    frames = conversation(family)
    frames += [packet(family, "A", n % 3 > 0, 4000, 80, 1) for n in range(40)]
    frames += [packet(family, "udp", n % 3 > 0, 4000, 80, 1) for n in range(40)]
    out, engine = both(frames)
    client, vip, server = CLIENT[family], VIP[family], SERVERS[family][1]
    for n, (verdict, _, frame) in enumerate(out):
        there = flow(frames[n])[0] == client
        expected = (client, 4000, server, 8080) if there else (vip, 80, client, 4000)
        assert (verdict, flow(frame)) == (Verdict.FORWARD, expected)
        assert checksums_good(frame)
        assert frame[HOPS[family]] == frames[n][HOPS[family]]
    assert engine.reasons[Reason.NEW_CONNECTION] == 2
    assert engine.reasons[Reason.REPLY] == 2 + 28


@pytest.mark.parametrize("kind", ODD)
def test_odd_packets_of_a_connection(kind):
    plain = [packet(6, "A", there, 4000, 80, 1) for there in (True, False)]
    plain += [packet(6, "udp", there, 4000, 80, 1) for there in (True, False)]
    frames = conversation(6)
    for frame in plain:
        frames += [*plain, odd(frame, kind), *plain]
    both(frames)


@of_each_family
@pytest.mark.parametrize("cut", ["snapped", "short"])
def test_packets_cut_anywhere(family, cut):
    """The last byte that is there is the last of the buffer."""
    begin = conversation(family)
    frames, wire = list(begin), [len(frame) for frame in begin]
    for there in (True, False):
        for kind in "A", "udp":
            whole = packet(family, kind, there, 4000, 80, 1)
            for length in range(len(whole) + 1):
                frames += [whole[:length], whole]
                wire += [len(whole) if cut == "snapped" else length, len(whole)]
    out, _ = both(frames, wire=wire)
    translated = sum(reason in (Reason.REQUEST, Reason.REPLY) for _, reason, _ in out)
    assert translated >= len(frames) // 2  # those that are whole
    for length in range(len(whole)):
        single = made()
        outcomes(single, begin, [0] * 5)
        outcomes(single, [whole[:length]], [0])


LINK_HEADERS = {
    4: [(101, b""), (113, bytes(14) + b"\x08\0"), (276, b"\x08\0" + bytes(18)),
        (0, b"\2\0\0\0"), (228, b""), (229, b"")],
    6: [(101, b""), (113, bytes(14) + b"\x86\xdd"), (276, b"\x86\xdd" + bytes(18)),
        (0, b"\x1e\0\0\0"), (229, b""), (228, b"")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "link_type", "header"),
    [(family, *header) for family in FAMILIES for header in LINK_HEADERS[family]],
)
def test_other_link_headers(family, link_type, header):
    frames = conversation(family)
    frames += [packet(family, "A", n % 3 > 0, 4000, 80, 1) for n in range(20)]
    frames = [header + frame[14:] for frame in frames]
    frames += [frame[: len(header) + n] for n in range(70) for frame in frames[5:7]]
    out, _ = both(frames, link_type=link_type)
    if link_type != {4: 229, 6: 228}[family]:  # whose packets are of the other version
        assert [verdict for verdict, _, _ in out[:25]] == [Verdict.FORWARD] * 25


@of_each_family
def test_a_reply_behind_a_newer_connection_in_the_same_vector(family):
    """The newest connection answers: port 81 behind its first packet, port 80 before it."""

    def one_server():
        engine = lvscore.Engine(seed=1)
        for port in (80, 81):
            service = engine.add_service("udp", endpoint(VIP[family], port), scheduler="rr")
            service.add_server(endpoint(SERVERS[family][0], 8080))
        return engine

    first, second = (packet(family, "udp", True, 4000, port, 0) for port in (80, 81))
    reply = packet(family, "udp", False, 4000, 80, 0)
    out, _ = both([first] * 20 + [reply, second, reply, reply], make=one_server)
    assert [flow(frame)[1] for _, _, frame in out[20:]] == [80, 4000, 81, 81]


@of_each_family
def test_a_syn_that_leaves_its_server(family):
    """With expire_nodest_conn a server of weight 0 loses its connections to the next SYN."""

    def drained(engine):
        service = engine.find_service("tcp", endpoint(VIP[family], 80))
        service.edit_server(endpoint(SERVERS[family][1], 8080), weight=0)

    syn = packet(family, "S", True, 4000, 80, 1)
    out, _ = both([syn] * 8, make=lambda: made(expire_nodest_conn=1), change=drained)
    assert {flow(frame)[2] for _, _, frame in out[:4]} == {SERVERS[family][1]}
    assert {flow(frame)[2] for _, _, frame in out[4:]} == {SERVERS[family][0]}


@of_each_family
def test_checksums_that_become_zero(family):
    """Of UDP all ones are sent, of TCP zero is: every checksum that a last word can lead to."""
    frames, wanted = conversation(family), []
    for kind in "A", "udp":
        whole = bytearray(packet(family, kind, True, 4000, 80, 1))
        at = checksum_at(whole)
        out = bytes(outcomes(made(), [*frames, bytes(whole)], [0] * (len(frames) + 1))[-1][2])
        delta = ones_sum(struct.pack(">HH", 0xFFFF - int.from_bytes(out[at : at + 2]),
                                     int.from_bytes(whole[at : at + 2])))  # fmt: skip
        # The checksum that the translation makes 0, and its neighbours.
        for value in (delta - 1, delta, delta + 1):
            wanted.append(with_bytes(bytes(whole), at, struct.pack(">H", value % 0x10000)))
    out, _ = both(frames + wanted)
    sums = [int.from_bytes(frame[checksum_at(frame) :][:2]) for _, _, frame in out[len(frames) :]]
    assert 0 in sums[:3]
    assert 0xFFFF in sums[3:]
    assert 0 not in sums[3:]


@of_each_family
def test_bytes_beyond_32_bits(family):
    """A datagram of which only the headers were captured counts as it was."""
    size = 14 + HEADER[family] + 8
    length = 65_040 if family == 4 else 65_000  # that of IPv6 is the payload's
    datagram = packet(family, "udp", True, 4000, 80, 1)
    whole = with_bytes(datagram, LENGTH_AT[family], struct.pack(">H", length))[:size]
    count = 70_000
    engine = made()
    for _ in range(2):
        batch = lvscore.FrameBatch(
            bytearray(whole * (count // 2)), [size * n for n in range(count // 2)],
            [size] * (count // 2), [0] * (count // 2), original_lengths=[65_054] * (count // 2),
        )  # fmt: skip
        engine.process_batch(batch)
    [connection] = engine.connections
    assert connection.bytes_in == count * 65_040 > 2**32


FRAMES = st.tuples(
    st.sampled_from([4, 6, 6]),
    st.sampled_from(["S", "SA", "A", "A", "A", "FA", "R", "udp", "udp"]),
    st.sampled_from([True, True, False]),
    st.sampled_from([4000, 4001, 4002]),
    st.sampled_from([80, 81]),
    st.sampled_from([0, 1]),
)


@given(
    st.lists(st.tuples(FRAMES, st.sampled_from([None] * 3 * len(ODD) + ODD)), max_size=60),
    st.lists(st.sampled_from([0] * 12 + [1, 70 * SECOND, 400 * SECOND]), min_size=60, max_size=60),
    st.sampled_from(["nothing", "weight 0", "removed", "service removed"]),
    st.booleans(),
)
def test_mixed_batches(drawn, steps, change, expire_nodest):
    frames, times, now = [], [], 0
    for (kind, oddity), step in zip(drawn, steps, strict=False):
        frame = packet(*kind)
        frames.append(odd(frame, oddity) if oddity and kind[0] == 6 else frame)
        now += step
        times.append(now)

    def changed(engine):
        for protocol in "tcp", "udp":
            service = engine.find_service(protocol, endpoint(VIP[6], 80))
            if change == "weight 0":
                service.edit_server(endpoint(SERVERS[6][0], 8080), weight=0)
            elif change == "removed":
                service.remove_server(endpoint(SERVERS[6][0], 8080))
            elif change == "service removed":
                service.remove()

    both(frames, times, make=lambda: made(expire_nodest_conn=expire_nodest), change=changed)


def test_templates_and_helpers_take_the_general_way():
    """Persistent services of IPv6, beside those of IPv4: what a template needs to know is told."""

    def persistent():
        engine = lvscore.Engine(seed=1)
        for family in FAMILIES:
            for protocol in "tcp", "udp":
                service = engine.add_service(
                    protocol, endpoint(VIP[family], 80), scheduler="rr", persistence=30
                )
                for server in SERVERS[family]:
                    service.add_server(endpoint(server, 8080))
        return engine

    frames = []
    for client in range(4000, 4010):
        for family in FAMILIES:
            for server in (0, 1):
                frames += [packet(family, f, t, client, 80, server) for f, t in OPENING]
                frames += [packet(family, "udp", t, client, 80, server) for t in (True, False)] * 2
    both(frames, [n * SECOND // 7 for n in range(len(frames))], make=persistent)
