"""Fragments: put together, translated, cut again (ip_fragment.c, nf_conntrack_reasm.c)."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP, IPOption, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, fragment6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

import lvscore
from lvscore import Reason, Verdict

PAYLOAD = bytes(range(256)) * 12
SECOND = 1_000_000_000


@pytest.fixture
def engine():
    engine = lvscore.Engine(seed=1)
    engine.add_service("udp", "172.16.1.100:53").add_server("172.16.1.7:5353")
    engine.add_service("tcp", "172.16.1.100:80").add_server("172.16.1.7:8080")
    engine.add_service("udp", "[2001:db8::1]:53").add_server("[2001:db8:1::7]:5353")
    return engine


def datagram(payload=PAYLOAD, **fields):
    return (
        IP(src="10.0.0.9", dst="172.16.1.100", id=77, **fields)
        / UDP(sport=4000, dport=53)
        / (Raw(payload))
    )


def frames(packets, link=None):
    link = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") if link is None else link
    return [bytes(link / packet) for packet in packets]


def process(engine, raws, now=1):
    """Process frames one by one; reasons, and what was put out in all."""
    reasons, out = [], []
    for raw in raws:
        engine.process(bytearray(raw), now)
        reasons.append(engine.last_reason)
        emitted = engine.emitted
        out += [bytes(emitted[i]) for i in range(len(emitted))]
    return reasons, out


def together(out):
    """Put IPv4 fragments together in plain Python; the datagram and the fragments' sizes."""
    packets = [Ether(raw)[IP] for raw in out]
    data = bytearray()
    for packet in packets:
        assert packet.frag * 8 == len(data)
        assert bool(packet.flags.MF) == (packet is not packets[-1])
        header = bytes(packet)[: packet.ihl * 4]
        total = sum(int.from_bytes(header[i : i + 2], "big") for i in range(0, len(header), 2))
        assert total % 0xFFFF == 0
        data += bytes(packet)[packet.ihl * 4 : packet.len]
    first = packets[0].copy()
    first.flags, first.frag = 0, 0
    first.remove_payload()
    del first.len
    del first.chksum
    return IP(bytes(first / Raw(bytes(data)))), [packet.len for packet in packets]


def check_udp(out, sizes, payload=PAYLOAD):
    whole, cut = together(out)
    assert (whole.dst, whole[UDP].dport, bytes(whole[UDP].payload)) == ("172.16.1.7", 5353, payload)
    checksum = whole[UDP].chksum
    del whole[UDP].chksum
    assert IP(bytes(whole))[UDP].chksum == checksum
    assert cut == sizes


def test_the_last_fragment_releases_the_datagram_cut_as_it_came(engine):
    raws = frames(fragment(datagram(), 1000))
    sizes = [Ether(raw)[IP].len for raw in raws]
    reasons, out = process(engine, raws)
    assert reasons == [Reason.FRAGMENT_HELD] * (len(raws) - 1) + [Reason.NEW_CONNECTION]
    check_udp(out, sizes)
    assert engine.counters["stolen"] == len(raws)
    assert engine.statistics.packets_in == 1
    assert engine.statistics.bytes_in == 20 + 8 + len(PAYLOAD)


@given(size=st.integers(8, 200), data=st.data())
def test_any_size_in_any_order(size, data):
    engine = lvscore.Engine(seed=1)
    engine.add_service("udp", "172.16.1.100:53").add_server("172.16.1.7:5353")
    raws = frames(fragment(datagram(PAYLOAD[:500]), size))
    sizes = [Ether(raw)[IP].len for raw in raws]
    shuffled = data.draw(st.permutations(raws))
    reasons, out = process(engine, shuffled)
    assert reasons[:-1] == [Reason.FRAGMENT_HELD] * (len(raws) - 1)
    check_udp(out, sizes, PAYLOAD[:500])
    assert engine._selfcheck() == 0


def test_a_duplicate_is_dropped_alone(engine):
    raws = frames(fragment(datagram(), 1000))
    reasons, out = process(engine, [raws[0], raws[0], *raws[1:]])
    assert reasons[1] is Reason.FRAGMENT_DUPLICATE
    assert reasons[-1] is Reason.NEW_CONNECTION
    assert len(out) == len(raws)


def test_a_duplicate_may_tell_where_the_datagram_ends(engine):
    """As ip_frag_queue, which notes the end before it sees that the bytes are there."""
    first, second, *rest = fragment(datagram(), 1000)
    again = second.copy()
    again.flags, again.len, again.chksum = 0, None, None
    reasons, out = process(engine, frames([first, second, again, *rest]))
    assert reasons[2:4] == [Reason.FRAGMENT_DUPLICATE, Reason.BAD_FRAGMENT]
    assert not out


def test_an_overlap_discards_the_datagram(engine):
    first, second, *rest = fragment(datagram(), 1000)
    second.frag -= 1
    reasons, out = process(engine, frames([first, second, *rest]))
    assert reasons[1] is Reason.FRAGMENT_OVERLAP
    assert not out
    assert len(engine.connections) == 0


@pytest.mark.parametrize("change", ["beyond the end", "empty", "two ends"])
def test_impossible_fragments_discard_the_datagram(engine, change):
    first, second, *rest = fragment(datagram(), 1000)
    if change == "beyond the end":
        second.frag = 8190
    elif change == "empty":
        second.remove_payload()
        second.proto = 17
    else:
        second.flags = 0
        first, rest = rest[-1], [first]
    second.len = None
    second.chksum = None
    reasons, out = process(engine, frames([first, second, *rest]))
    assert Reason.BAD_FRAGMENT in reasons
    assert not out


def test_what_is_not_whole_in_30_seconds_is_discarded(engine):
    first, *rest = frames(fragment(datagram(), 1000))
    process(engine, [first], now=SECOND)
    engine.expire(31 * SECOND - 1)
    assert engine.counters["fragments_timed_out"] == 0
    engine.expire(31 * SECOND)
    assert engine.counters["fragments_timed_out"] == 1
    _, out = process(engine, rest, now=31 * SECOND)
    assert not out


@pytest.mark.requirement("RFC 4787 REQ-14a")
def test_memory_is_bounded(engine):
    held = 0
    for identification in range(1100):
        packet = datagram()
        packet.id = identification
        reasons, _ = process(engine, frames(fragment(packet, 1000)[:1]))
        held += reasons[0] is Reason.FRAGMENT_HELD
    assert reasons[0] is Reason.FRAGMENT_MEMORY
    assert held == 1024
    engine.expire(60 * SECOND)
    assert process(engine, frames(fragment(datagram(), 1000)), now=60 * SECOND)[1]


def test_congestion_met_by_one_fragment_is_told(engine):
    first, second, *rest = fragment(datagram(tos=2), 1000)
    second.tos = 3
    _, out = process(engine, frames([first, second, *rest]))
    assert Ether(out[0])[IP].tos == 3


def test_fragments_without_ecn_do_not_go_with_congestion(engine):
    first, second, *rest = fragment(datagram(tos=0), 1000)
    second.tos = 3
    reasons, out = process(engine, frames([first, second, *rest]))
    assert reasons[-1] is Reason.BAD_FRAGMENT
    assert not out


def test_options_that_only_the_first_fragment_carries(engine):
    record_route = IPOption(b"\x07\x07\x04\x00\x00\x00\x00")
    experiment = IPOption(b"\x9e\x04\x01\x02")  # copied (RFC 4727)
    packet = datagram(options=[record_route, experiment])
    whole = IP(bytes(packet))
    pieces = []
    for piece in fragment(whole, 1000):
        piece.options = [record_route, experiment]
        piece.len = piece.ihl = piece.chksum = None
        pieces.append(piece)
    _, out = process(engine, frames(pieces))
    assert bytes(Ether(out[0])[IP])[20:31] == b"\x07\x07\x04\x00\x00\x00\x00\x9e\x04\x01\x02"
    assert bytes(Ether(out[1])[IP])[20:31] == b"\x01" * 7 + b"\x9e\x04\x01\x02"


def test_a_syn_in_fragments_of_16_bytes(engine):
    packet = IP(src="10.0.0.9", dst="172.16.1.100", id=6) / TCP(
        sport=4000, dport=80, flags="S", options=[("MSS", 1460), ("NOP", None), ("WScale", 7)]
    )
    reasons, out = process(engine, frames(fragment(packet, 16)))
    assert reasons == [Reason.FRAGMENT_HELD, Reason.NEW_CONNECTION]
    whole, sizes = together(out)
    assert (whole.dst, whole[TCP].dport, sizes) == ("172.16.1.7", 8080, [36, 32])


def test_behind_a_vlan_tag(engine):
    link = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / Dot1Q(vlan=7)
    _, out = process(engine, frames(fragment(datagram(), 1000), link))
    assert all(Ether(raw)[Dot1Q].vlan == 7 for raw in out)
    assert Ether(out[0])[IP].dst == "172.16.1.7"


def test_for_the_local_stack_it_stays_whole(engine):
    packet = datagram()
    packet[UDP].dport = 99
    raws = frames(fragment(packet, 1000))
    for raw in raws:
        verdict = engine.process(bytearray(raw), 1)
    assert verdict is Verdict.STOLEN
    assert list(engine.emitted.verdict) == [Verdict.LOCAL]
    assert Ether(bytes(engine.emitted[0]))[IP].len == 28 + len(PAYLOAD)


def test_passed_traffic_is_cut_again_unchanged(engine):
    packet = datagram()
    packet.dst = "192.0.2.1"
    raws = frames(fragment(packet, 1000))
    _, out = process(engine, raws)
    assert out == raws


def test_without_services_and_rules_fragments_pass():
    engine = lvscore.Engine(seed=1)
    reasons, out = process(engine, frames(fragment(datagram(), 1000)))
    assert set(reasons) == {Reason.FRAGMENT}
    assert not out


def test_nat_rules_put_together_every_protocol():
    engine = lvscore.Engine(seed=1)
    engine.add_snat("192.0.2.9", source="10.0.0.0/24")
    packet = IP(src="10.0.0.9", dst="198.51.100.1", id=3, proto=47) / Raw(PAYLOAD)
    _, out = process(engine, frames(fragment(packet, 1000)))
    assert {Ether(raw)[IP].src for raw in out} == {"192.0.2.9"}


def test_part_of_a_fragment_is_passed(engine):
    raws = frames(fragment(datagram(), 1000))
    batch = lvscore.FrameBatch(
        bytearray(raws[0][:100]), [0], [100], [1], original_lengths=[len(raws[0])]
    )
    engine.process_batch(batch)
    assert Reason(batch.reason[0]) is Reason.FRAGMENT


def v6_fragments(extension=None):
    packet = IPv6(src="2001:db8:a::9", dst="2001:db8::1")
    if extension is not None:
        packet = packet / extension
    packet = packet / IPv6ExtHdrFragment(id=5) / UDP(sport=4000, dport=53) / Raw(PAYLOAD)
    return fragment6(packet, 1000)


@pytest.mark.parametrize("extension", [None, IPv6ExtHdrHopByHop()])
def test_ipv6(engine, extension):
    raws = frames(v6_fragments(extension))
    shuffled = random.Random(1).sample(raws, len(raws))
    reasons, out = process(engine, shuffled)
    assert reasons[-1] is Reason.NEW_CONNECTION
    assert [len(raw) for raw in out] == [len(raw) for raw in raws]
    pieces = [Ether(raw)[IPv6] for raw in out]
    assert {piece.dst for piece in pieces} == {"2001:db8:1::7"}
    identifications = {piece[IPv6ExtHdrFragment].id for piece in pieces}
    assert len(identifications) == 1
    assert identifications != {5}
    data = b"".join(bytes(piece[IPv6ExtHdrFragment].payload) for piece in pieces)
    whole = IPv6(src="2001:db8:a::9", dst="2001:db8:1::7", nh=17) / Raw(data)
    checksum = UDP(data).chksum
    rebuilt = IPv6(bytes(whole))
    del rebuilt[UDP].chksum
    assert IPv6(bytes(rebuilt))[UDP].chksum == checksum
    assert data[8:] == PAYLOAD


def test_ipv6_fragments_have_60_seconds(engine):
    process(engine, frames(v6_fragments()[:1]), now=SECOND)
    engine.expire(61 * SECOND - 1)
    assert engine.counters["fragments_timed_out"] == 0
    engine.expire(61 * SECOND)
    assert engine.counters["fragments_timed_out"] == 1


def test_an_odd_ipv6_fragment_discards_the_datagram(engine):
    first, *_ = v6_fragments()
    raw = bytearray(frames([first])[0][:-1])
    raw[18:20] = (int.from_bytes(raw[18:20], "big") - 1).to_bytes(2, "big")
    reasons, _ = process(engine, [raw])
    assert reasons == [Reason.BAD_FRAGMENT]


def test_a_sink_gets_fragments_where_their_datagram_belongs(engine):
    pieces = frames(fragment(datagram(), 1000))
    other = bytes(Ether() / IP(src="10.0.0.8", dst="192.0.2.1") / UDP() / Raw(b"other"))
    raws = [other, pieces[0], other, *pieces[1:], other, other]
    source = lvscore.MemorySource(raws, list(range(len(raws))), 1)
    sink = lvscore.MemorySink()
    lvscore.run(engine, source, sink)
    written = [frame for frame, _ in sink.frames]
    assert [frame == other for frame in written] == [
        True, True, *[False] * len(pieces), True, True
    ]  # fmt: skip
