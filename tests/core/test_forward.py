"""forward.pxd: a router's work on one header; how a Host uses it is in tests/host."""

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.utils import checksum

from lvscore import Reason
from lvscore._probe_frame import atomic_strip, compile_options, is_martian, ttl_decrease

OWN, OTHER = b"\n\0\0\x63", b"\n\0\0\x64"
NOON = 12 * 3600 * 10**9


def packet(options):
    """An IPv4 packet with these options, padded, its header checksum right."""
    options = options + bytes(-len(options) % 4)
    header = bytearray(struct.pack("!BBHHHBBH4s4s", 0x45 + len(options) // 4, 0,
                                   28 + len(options), 1, 0, 9, 17, 0, b"\xc0\0\2\1",
                                   b"\xc0\0\2\2") + options)  # fmt: skip
    header[10:12] = struct.pack("!H", checksum(bytes(header)))
    return bytes(header) + bytes(UDP())


@pytest.mark.parametrize(("address", "martian"), [
    (b"\0\0\0\1", True), (b"\x7f\0\0\1", True), (b"\xe0\0\0\1", True), (b"\xff" * 4, True),
    (b"\n\0\0\1", False), (b"\xdf\xff\xff\xff", False), (b"\x80\0\0\1", False),
    (bytes(16), True), (bytes(15) + b"\1", True), (bytes(15) + b"\2", False),
    (b"\xff\2" + bytes(14), True), (b"\xfe\x80" + bytes(14), False)])  # fmt: skip
def test_sources_that_nobody_may_have(address, martian):
    assert is_martian(address) == martian


@given(st.integers(1, 255), st.integers(0, 65535), st.integers(0, 255))
@example(1, 0, 0)
def test_ttl(ttl, identification, tos):
    """One less; the header checksum is right again, and stays wrong by what it was wrong."""
    frame = bytes(IP(ttl=ttl, id=identification, tos=tos) / UDP())
    seen = ttl_decrease(frame)
    assert (seen[8], checksum(seen[:20])) == (ttl - 1, 0)
    wrong = bytearray(frame)
    wrong[11] ^= 0x55
    moved = ttl_decrease(bytes(wrong))
    assert checksum(moved[:20]) != 0
    assert moved[:10] + moved[12:] == seen[:10] + seen[12:]


def test_hop_limit():
    frame = bytes(IPv6(hlim=9) / UDP())
    assert ttl_decrease(frame) == frame[:7] + b"\x08" + frame[8:]


def test_an_atomic_fragment_loses_its_header():
    """RFC 6946; a fragment among others keeps it."""
    inner = UDP(sport=1, dport=2, chksum=3) / b"data"
    plain = bytes(IPv6(src="fd00::1", dst="fd00::2", nh=17) / inner)
    assert (
        atomic_strip(bytes(IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrFragment() / inner))
        == plain
    )
    hop = IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrHopByHop()
    assert atomic_strip(bytes(hop / IPv6ExtHdrFragment() / inner)) == bytes(hop / inner)
    for frame in plain, bytes(IPv6() / IPv6ExtHdrFragment(m=1) / bytes(8)):
        assert atomic_strip(frame) == frame


def test_record_route():
    reason, _, frame = compile_options(packet(b"\x07\x0b\x04" + bytes(8)), OWN)
    assert (reason, frame[20:31]) == (Reason.NONE, b"\x07\x0b\x08" + OWN + bytes(4))


def test_record_route_that_is_full_stays():
    frame = packet(b"\x07\x07\x08" + OTHER)
    assert compile_options(frame, OWN) == (Reason.NONE, compile_options(frame, OWN)[1], frame)


@pytest.mark.parametrize(("flag", "before", "local", "pointer", "after"), [
    (0, bytes(4), (), 9, struct.pack("!I", NOON // 10**6)),
    (1, bytes(8), (), 13, OWN + struct.pack("!I", NOON // 10**6)),
    (3, OTHER + bytes(4), [OTHER], 13, OTHER + struct.pack("!I", NOON // 10**6)),
    (3, OTHER + bytes(4), (), 5, OTHER + bytes(4))])  # fmt: skip
def test_timestamp(flag, before, local, pointer, after):
    """RFC 791: time alone, with the address, or where it is asked for."""
    option = bytes([0x44, 4 + len(before), 5, flag]) + before
    reason, _, frame = compile_options(packet(option), OWN, NOON, local)
    assert reason == Reason.NONE
    assert frame[20 : 20 + len(option)] == bytes([0x44, len(option), pointer, flag]) + after


def test_a_full_timestamp_counts_whom_it_had_no_room_for():
    for flag, counted in [(0x00, 0x10), (0xE0, 0xF0)]:
        _, _, frame = compile_options(packet(bytes([0x44, 8, 9, flag]) + bytes(4)), OWN, NOON)
        assert frame[23] == counted
    reason, at, _ = compile_options(packet(b"\x44\x08\x09\xf0" + bytes(4)), OWN, NOON)
    assert (reason, at) == (Reason.BAD_IP_OPTION, 23)


@pytest.mark.parametrize(("options", "offset"), [
    (b"\x07\x02", 21), (b"\x07\x03\x03", 22), (b"\x44\x03\x05", 21),
    (b"\x44\x08\x04\0" + bytes(4), 22), (b"\x44\x08\x09\xf2" + bytes(4), 23),
    (b"\x07\x30\x04", 20), (b"\x01\x83\x00\x04", 21), (b"\x94\x03\0\0", 21),
    (b"\x07\x03\x04\x07\x03\x00", 23), (b"\x86\x06\0\0\0\1", 21),
    (b"\x86\x0a\0\0\0\1\1\2\0\0", 22)])  # fmt: skip
def test_the_byte_that_is_wrong(options, offset):
    """As the parameter problem's pointer tells it (RFC 792)."""
    reason, at, _ = compile_options(packet(options), OWN, NOON)
    assert (reason, at) == (Reason.BAD_IP_OPTION, offset)


def test_source_routes_only_where_they_are_accepted():
    frame = packet(b"\x83\x07\x04" + OTHER)
    assert compile_options(frame, OWN)[0] == Reason.SOURCE_ROUTE
    assert compile_options(frame, OWN, source_route=True)[0] == Reason.NONE


@given(st.binary(min_size=1, max_size=40))
@example(b"\x00\x01\x02\x03")
def test_any_options(options):
    """Nothing outside the options changes, and what follows their end becomes empty."""
    frame = packet(options)
    reason, at, seen = compile_options(frame, OWN, NOON, [OTHER], True)
    assert reason in (Reason.NONE, Reason.BAD_IP_OPTION)
    end = (frame[0] & 15) * 4
    assert seen[:20] + seen[end:] == frame[:20] + frame[end:]
    assert reason == Reason.NONE or 20 <= at < end + 4
