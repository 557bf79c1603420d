"""verify.pxd: what may belong to a connection, and what is INVALID (nf_conntrack_proto_*.c)."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.sctp import SCTP, SCTPChunkInit
from scapy.packet import Raw

from lvscore._probe_packet import facts

FOUR, SIX = IP(src="10.0.0.1", dst="10.0.0.2"), IPv6(src="2001:db8::1", dst="2001:db8::2")
HEADERS = {
    "tcp": (TCP(sport=1, dport=2, flags="A"), 20),
    "udp": (UDP(sport=1, dport=2), 8),
    "icmp": (ICMP(), 8),
    "icmpv6": (ICMPv6EchoRequest(), 8),
    "sctp": (SCTP(sport=1, dport=2) / SCTPChunkInit(), 12),
}


def packet(name, payload=b"payload", network=None):
    network = network or (SIX if name == "icmpv6" else FOUR)
    return bytes(network / HEADERS[name][0] / (b"" if name == "sctp" else Raw(payload)))


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["tcp", "udp", "icmp", "icmpv6", "sctp"]), st.booleans(),
       st.binary(max_size=41), st.data())  # fmt: skip
def test_one_wrong_byte_makes_a_checksum_wrong(name, six, payload, data):
    six = name == "icmpv6" or (six and name != "icmp")
    frame = bytearray(packet(name, payload, SIX if six else FOUR))
    assert facts(frame)["valid"]
    start = (40 if six else 20) + HEADERS[name][1]
    if len(frame) == start:
        return
    at = data.draw(st.integers(start, len(frame) - 1))
    frame[at] ^= data.draw(st.integers(1, 255))
    assert not facts(frame)["valid"]
    assert facts(frame)["well_formed"]


@pytest.mark.parametrize("name", HEADERS)
def test_every_truncation(name):
    """Cut within the transport header it is INVALID; cut behind it nobody can tell."""
    frame = packet(name)
    header = (40 if name == "icmpv6" else 20) + HEADERS[name][1]
    for length in range(header - HEADERS[name][1], len(frame)):
        said = facts(frame[:length], len(frame))
        assert said["valid"] == (length >= header), length


def test_a_wrong_checksum_that_was_snapped_has_the_benefit_of_the_doubt():
    frame = bytearray(packet("tcp"))
    frame[36] ^= 1
    assert not facts(frame)["valid"]
    assert facts(frame[:-1], len(frame))["valid"]


def test_udp_without_checksum_and_with_a_wrong_length():
    frame = bytearray(packet("udp"))
    frame[26:28] = b"\0\0"
    assert facts(frame)["valid"]
    for length, valid in ((7, False), (8, True), (len(frame) - 20, True), (len(frame) - 19, False)):
        frame[24:26] = struct.pack(">H", length)
        assert facts(frame)["valid"] == valid


FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
SENSIBLE = {SYN, SYN | URG, SYN | ACK, RST, RST | ACK, FIN | ACK, FIN | ACK | URG, ACK, ACK | URG}


def test_flags_of_tcp():
    """tcp_valid_flags; PSH, ECE and CWR may stand with any."""
    for flags in range(256):
        frame = bytes(FOUR / TCP(flags=flags))
        sensible = flags & (FIN | SYN | RST | ACK | URG) in SENSIBLE
        assert facts(frame)["valid"] == sensible, flags


@pytest.mark.parametrize(("offset", "valid"), [(4, False), (5, True), (6, True), (7, False)])
def test_the_data_offset_of_tcp(offset, valid):
    frame = bytearray(bytes(FOUR / TCP(flags="A") / b"1234"))
    frame[32] = offset << 4
    assert facts(frame)["well_formed"] == valid


@pytest.mark.parametrize(("kind", "valid"), [(0, True), (18, True), (19, False), (255, False)])
def test_types_of_icmp(kind, valid):
    assert facts(bytes(FOUR / ICMP(type=kind)))["valid"] == valid


def test_icmp_of_the_other_family():
    assert not facts(bytes(IP(proto=58) / ICMPv6EchoRequest()))["well_formed"]
    assert not facts(bytes(IPv6(nh=1) / ICMP()))["well_formed"]
