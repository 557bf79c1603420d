"""fragment.pxd: put together and cut again, in any order, within bounds."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP, IPOption
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment

from lvscore import Reason
from lvscore._probe_frame import Fragments

HELD, DUPLICATE, OVERLAP = (
    Reason.FRAGMENT_HELD, Reason.FRAGMENT_DUPLICATE, Reason.FRAGMENT_OVERLAP,
)  # fmt: skip
V4 = IP(src="10.0.0.1", dst="10.0.0.2", id=7, ttl=9, proto=17)
V6 = IPv6(src="fd00::1", dst="fd00::2", hlim=9)


def piece(six, data, offset, end, more, number=7):
    """The fragment with bytes offset to end of the payload."""
    if six:
        header = IPv6ExtHdrFragment(offset=offset // 8, m=more, id=number, nh=17)
        return bytes(V6 / header / data[offset:end])
    header = V4.copy()
    header.id, header.frag, header.flags = number, offset // 8, "MF" if more else 0
    return bytes(header / data[offset:end])


def whole(six, data):
    if six:
        return bytes(IPv6(src="fd00::1", dst="fd00::2", hlim=9, nh=17) / data)
    header = V4.copy()
    header.id = 7
    return bytes(header / data)


@st.composite
def cuttings(draw):
    """(IPv6?, data, fragments in the order in which they come, with some that come twice)"""
    six = draw(st.booleans())
    data = draw(st.binary(min_size=17, max_size=400))
    units = (len(data) + 7) // 8
    cuts = sorted(draw(st.sets(st.integers(1, units - 1), min_size=1, max_size=6)))
    edges = [0, *(cut * 8 for cut in cuts), len(data)]
    pairs = list(pairwise(edges))
    again = draw(st.lists(st.sampled_from(pairs), max_size=3))
    order = draw(st.permutations(pairs + again))
    return six, data, [piece(six, data, a, b, b < len(data)) for a, b in order]


@given(cuttings())
def test_any_order_gives_the_datagram(given_):
    six, data, pieces = given_
    fragments, seen = Fragments(), set()
    for frame in pieces:
        reason, number = fragments.add(frame)
        if reason == Reason.NONE:
            break
        assert reason == (DUPLICATE if frame in seen else HELD)
        seen.add(frame)
    assert (reason, fragments.held) == (Reason.NONE, (1, len(data)))
    assert fragments.whole(number) == whole(six, data)
    fragments.discard(number)
    assert fragments.held == (0, 0)


@given(cuttings(), st.integers(0, 200))
def test_cut_again_and_put_together_again(given_, limit):
    six, data, pieces = given_
    fragments, other = Fragments(), Fragments()
    for frame in pieces:
        reason, number = fragments.add(frame)
        if reason == Reason.NONE:
            break
    header = 48 if six else 20
    cut = fragments.cut(number, limit, 99)
    for frame in cut[:-1]:
        assert len(frame) <= max(limit, header + 8)
        assert (len(frame) - header) % 8 == 0
        assert IPv6 in IPv6(frame) if six else IP(frame).flags.MF
    if len(cut) == 1:
        return
    for frame in cut:
        reason, number = other.add(frame)
    assert reason == Reason.NONE
    assert other.whole(number) == whole(six, data)


@given(st.booleans(), st.integers(0, 8), st.integers(1, 8), st.integers(0, 8), st.integers(1, 8))
def test_overlap(six, first, size, second, other_size):
    """Nothing new is a duplicate; a part that is new beside one that is not ends it all."""
    data, fragments = bytes(range(256)), Fragments()
    one, other = set(range(first, first + size)), set(range(second, second + other_size))
    reason, _ = fragments.add(piece(six, data, first * 8, (first + size) * 8, True))
    assert reason == HELD
    reason, _ = fragments.add(piece(six, data, second * 8, (second + other_size) * 8, True))
    assert reason == (DUPLICATE if other <= one else OVERLAP if one & other else HELD)
    assert fragments.held[0] == (0 if reason == OVERLAP else 1)


def test_times_are_30_and_60_seconds():
    fragments, data = Fragments(), bytes(64)
    _, six = fragments.add(piece(True, data, 0, 8, True), 0)
    _, four = fragments.add(piece(False, data, 0, 8, True), 1000)
    assert fragments.due(30_999) is None
    assert fragments.due(31_000) == four
    fragments.discard(four)
    assert fragments.due(59_999) is None
    assert fragments.due(60_000) == six


def test_identification_and_addresses_tell_datagrams_apart():
    fragments, data = Fragments(), bytes(64)
    for number in range(5):
        assert fragments.add(piece(False, data, 0, 8, True, number))[0] == HELD
    assert fragments.held == (5, 40)
    copy = fragments.copy()
    fragments.discard(0)
    assert (fragments.held, copy.held) == ((4, 32), (5, 40))


def test_1024_datagrams_and_4_megabytes():
    fragments = Fragments()
    for number in range(1024):
        assert fragments.add(piece(False, bytes(8), 0, 8, True, number))[0] == HELD
    assert fragments.add(piece(False, bytes(8), 0, 8, True, 2000))[0] == Reason.FRAGMENT_MEMORY
    fragments, data = Fragments(), bytes(60000)
    full = 0
    for number in range(75):
        reason, _ = fragments.add(piece(False, data, 0, 60000, True, number))
        full += reason == Reason.FRAGMENT_MEMORY
    assert fragments.held == (70, 70 * 60000)
    assert full == 5


def test_what_is_no_fragment_of_anything_ends_the_datagram():
    data = bytes(range(200))
    for bad in [
        (8, 8, True),  # no data
        (184, 200, True),  # beyond the end that is known
        (160, 170, False),  # another end
    ]:
        fragments = Fragments()
        fragments.add(piece(False, data, 168, 180, False))
        assert fragments.add(piece(False, data, *bad))[0] == Reason.BAD_FRAGMENT, bad
        assert fragments.held == (0, 0)
    odd = piece(True, data, 0, 12, True)  # RFC 8200, section 4.5
    assert Fragments().add(odd)[0] == Reason.BAD_FRAGMENT


def test_congestion_is_kept_and_not_ect_refuses_it():
    """RFC 3168, section 5.3."""
    data = bytes(range(64))
    for first, second, result in [(2, 3, 3), (1, 1, 1), (0, 3, None)]:
        fragments = Fragments()
        frames = [IP(piece(False, data, 0, 32, True)), IP(piece(False, data, 32, 64, False))]
        for frame, codepoint in zip(frames, (first, second), strict=True):
            frame.tos = codepoint
            del frame.chksum
            reason, number = fragments.add(bytes(frame))
        if result is None:
            assert reason == Reason.BAD_FRAGMENT
        else:
            assert IP(fragments.whole(number)).tos == result


@settings(max_examples=30)
@given(st.lists(st.sampled_from([b"\x01", b"\x44\x08\x05\x00\0\0\0\0", b"\x83\x07\x04\0\0\0\0"]),
                min_size=1, max_size=3))  # fmt: skip
def test_options_that_only_the_first_fragment_carries(options):
    """RFC 791, section 3.1: the copied flag; others become NOPs behind the first."""
    raw = b"".join(options)
    raw += bytes(-len(raw) % 4)
    data = bytes(UDP() / bytes(64))
    header = IP(src="10.0.0.1", dst="10.0.0.2", proto=17, options=[IPOption(raw)])
    first, last = header.copy(), header.copy()
    first.flags = "MF"
    last.frag = 4
    fragments = Fragments()
    fragments.add(bytes(first / data[:32]))
    _, number = fragments.add(bytes(last / data[32:]))
    cut = fragments.cut(number, 20 + len(raw) + 32)
    assert cut[0][20 : 20 + len(raw)] == raw
    kept = b"".join(o if o[0] & 0x80 or o == b"\1" else b"\1" * len(o) for o in options)
    for frame in cut[1:]:
        assert frame[20 : 20 + len(raw)] == kept.ljust(len(raw), b"\0")
        assert bytes(IP(frame)) == frame
        assert IP(frame).chksum == IP(bytes(IP(frame, _internal=0))).chksum
