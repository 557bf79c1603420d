"""translate.pxd against full recomputation in plain Python."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.packet import Raw

from lvscore import LinkType, _probe

RAW = LinkType.RAW
ports = st.integers(0, 65535)


def ones_sum(data):
    data = bytes(data) + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def sums(frame, l4, protocol):
    """One's complement sums of the IP header and of the transport with its pseudo-header."""
    four = frame[0] >> 4 == 4
    addresses = frame[12:20] if four else frame[8:40]
    pseudo = b"" if protocol == 1 else addresses + struct.pack(">IHH", len(frame) - l4, 0, protocol)
    return (ones_sum(frame[:20]) if four else 0xFFFF), ones_sum(pseudo + frame[l4:])


@settings(deadline=None)
@given(
    st.sampled_from([4, 6]), st.sampled_from([TCP, UDP]), st.binary(min_size=32, max_size=32),
    ports, ports, st.binary(max_size=40),
)  # fmt: skip
def test_ports_and_addresses(family, transport, addresses, sport, dport, payload):
    packet = IP(src="1.2.3.4", dst="5.6.7.8") if family == 4 else IPv6(src="fd::1", dst="fd::2")
    frame = bytes(packet / transport(sport=1000, dport=80) / Raw(payload))
    size = 4 if family == 4 else 16
    protocol = 6 if transport is TCP else 17
    to = (protocol, addresses[:size], sport, addresses[16 : 16 + size], dport)
    out = _probe.translate(frame, to, link_type=RAW)
    l4 = 20 if family == 4 else 40
    assert sums(out, l4, protocol) == (0xFFFF, 0xFFFF)
    assert _probe.parse(out, RAW)["tuple"] == to
    # Nothing else moved.
    field = l4 + (16 if protocol == 6 else 6)
    same = bytearray(out)
    for start, stop in ((12 if family == 4 else 8, l4), (l4, l4 + 4), (field, field + 2)):
        same[start:stop] = frame[start:stop]
    if family == 4:
        same[10:12] = frame[10:12]
    assert bytes(same) == frame


@settings(deadline=None)
@given(ports, st.integers(1, 0xFFFE), st.integers(1, 0xFFFE))
def test_wrong_checksums_are_not_repaired(sport, ip_error, transport_error):
    frame = bytearray(bytes(IP(src="1.2.3.4", dst="5.6.7.8") / TCP(sport=1, dport=2)))
    for at, error in ((10, ip_error), (36, transport_error)):
        value = (int.from_bytes(frame[at : at + 2], "big") + error) % 0xFFFF
        frame[at : at + 2] = value.to_bytes(2, "big")
    before = sums(bytes(frame), 20, 6)
    out = _probe.translate(
        bytes(frame), (6, b"\x0a\0\0\1", sport, b"\x0a\0\0\2", 80), link_type=RAW
    )
    after = sums(out, 20, 6)
    assert [s % 0xFFFF for s in after] == [s % 0xFFFF for s in before]


@pytest.mark.parametrize("kind", [0, 8, 13, 14, 15, 16, 17, 18])
def test_icmp_identifiers(kind):
    frame = bytes(IP(src="1.2.3.4", dst="5.6.7.8") / ICMP(type=kind, id=7) / Raw(b"abc"))
    request = kind in (8, 13, 15, 17)
    _, source, sport, destination, dport = _probe.parse(frame, RAW)["tuple"]
    to = (1, source, 99 if request else sport, destination, dport if request else 99)
    out = _probe.translate(frame, to, link_type=RAW)
    assert int.from_bytes(out[24:26], "big") == 99
    assert sums(out, 20, 1) == (0xFFFF, 0xFFFF)


def test_other_icmp_types_keep_their_bytes():
    frame = bytes(IP(src="1.2.3.4", dst="5.6.7.8") / ICMP(type=9) / Raw(b"abc"))
    out = _probe.translate(frame, (1, b"\x0a\0\0\1", 0, b"\x0a\0\0\2", 0), link_type=RAW)
    assert out[20:] == frame[20:]
    assert ones_sum(out[:20]) == 0xFFFF


def test_icmpv6_identifiers():
    frame = bytes(IPv6(src="fd::1", dst="fd::2") / ICMPv6EchoRequest(id=7))
    source, destination = bytes([0xFD] + [9] * 15), bytes([0xFD] + [8] * 15)
    out = _probe.translate(frame, (58, source, 99, destination, 128 << 8), link_type=RAW)
    assert int.from_bytes(out[44:46], "big") == 99
    assert sums(out, 40, 58) == (0xFFFF, 0xFFFF)


def test_udp_over_ipv6_is_filled():
    frame = bytes(IPv6(src="fd::1", dst="fd::2") / UDP(sport=1, dport=2, chksum=0) / Raw(b"x"))
    to = (17, bytes([0xFD] + [9] * 15), 1, bytes([0xFD] + [8] * 15), 2)
    out = _probe.translate(frame, to, fill_udp=True, link_type=RAW)
    assert sums(out, 40, 17)[1] == 0xFFFF
