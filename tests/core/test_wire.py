"""wire.pxd: every link type and length, IPv6 chains, lying lengths; and the parser vs scapy."""

from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import CookedLinux, Dot1Q, Ether
from scapy.packet import NoPayload, Raw

from lvscore import LinkType, Reason, _probe

SEGMENT = TCP(sport=1000, dport=80, flags="S")
V4 = IP(src="10.0.0.9", dst="172.16.1.100")
V6 = IPv6(src="2001:db8::9", dst="2001:db8::100")


def raw(packet):
    return bytes(packet)


LINKS = {
    "ethernet": (LinkType.ETHERNET, lambda ip: raw(Ether() / ip)),
    "vlan": (LinkType.ETHERNET, lambda ip: raw(Ether() / Dot1Q(vlan=5) / ip)),
    "qinq": (LinkType.ETHERNET, lambda ip: raw(Ether(type=0x88A8) / Dot1Q() / Dot1Q() / ip)),
    "9100": (LinkType.ETHERNET, lambda ip: raw(Ether(type=0x9100) / Dot1Q() / ip)),
    "four tags": (LinkType.ETHERNET,
                  lambda ip: raw(Ether() / Dot1Q() / Dot1Q() / Dot1Q() / Dot1Q() / ip)),
    "raw": (LinkType.RAW, raw),
    "sll": (LinkType.LINUX_SLL, lambda ip: raw(CookedLinux() / ip)),
    "sll2": (LinkType.LINUX_SLL2,
             lambda ip: raw(Ether() / ip)[12:14] + bytes(18) + raw(ip)),
    "null little": (LinkType.NULL,
                    lambda ip: bytes([2 if ip.version == 4 else 30, 0, 0, 0]) + raw(ip)),
    "null big": (LinkType.NULL,
                 lambda ip: bytes([0, 0, 0, 2 if ip.version == 4 else 10]) + raw(ip)),
    "loop": (LinkType.LOOP,
             lambda ip: bytes([0, 0, 0, 2 if ip.version == 4 else 24]) + raw(ip)),
}  # fmt: skip
PACKETS = {
    "tcp": V4 / SEGMENT,
    "udp": V4 / UDP(sport=53, dport=53) / Raw(b"question"),
    "icmp": V4 / ICMP(id=9),
    "options": IP(src="10.0.0.9", dst="172.16.1.100", options=[IPOption_NOP()] * 40) / SEGMENT,
    "tcp6": V6 / SEGMENT,
    "extensions": V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting(addresses=["::1"])
                  / IPv6ExtHdrDestOpt() / UDP(sport=1, dport=2),
    "atomic": V6 / IPv6ExtHdrFragment(offset=0, m=0, nh=6) / SEGMENT,
    "ah": V6 / AH(nh=6, payloadlen=4, icv=b"\0" * 12) / SEGMENT,
}  # fmt: skip
CUT = {Reason.TRUNCATED_LINK_HEADER, Reason.TRUNCATED_IP_HEADER, Reason.BAD_IP_LENGTH}


def last_layer(packet):
    while not isinstance(packet.payload, NoPayload):
        packet = packet.payload
    return packet


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("kind", PACKETS)
def test_every_length_of_every_kind(link, kind):
    link_type, build = LINKS[link]
    packet = PACKETS[kind]
    frame = build(packet)
    ip = raw(packet)
    l3 = len(frame) - len(ip)
    whole = _probe.parse(frame, link_type)
    assert isinstance(whole, dict), Reason(whole)
    assert whole["l3"] == l3
    assert whole["l3_length"] == len(ip)
    assert not whole["fragment"]
    l4 = whole["l4"]
    assert whole["l4_captured"] == whole["l4_length"] == len(frame) - l4
    transport = packet.getlayer(TCP) or packet.getlayer(UDP) or packet.getlayer(ICMP)
    assert frame[l4:] == raw(transport) or frame[l4 : l4 + 4] == raw(transport)[:4]
    for length in range(len(frame)):
        # The end is missing: the length field lies.
        cut = _probe.parse(frame[:length], link_type)
        if length < l3 and link_type in (LinkType.NULL, LinkType.LOOP) and length < 4:
            assert cut == Reason.TRUNCATED_LINK_HEADER
        assert cut in CUT
        # Snapped: the frame was whole on the wire.
        snapped = _probe.parse(frame[:length], link_type, len(frame))
        if length < l4:
            assert snapped in (Reason.TRUNCATED_LINK_HEADER, Reason.TRUNCATED_IP_HEADER)
        else:
            assert snapped["l4_captured"] == length - l4
            assert snapped["l4_length"] == whole["l4_length"]


def test_padding_does_not_belong_to_the_packet():
    frame = raw(Ether() / V4 / SEGMENT) + bytes(20)
    parsed = _probe.parse(frame)
    assert parsed["l3_length"] == 40
    assert parsed["l4_length"] == parsed["l4_captured"] == 20


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 30])
def test_chains_of_extension_headers(count):
    chain = b"".join(bytes([60 if n < count - 1 else 6, 0, 1, 4, 0, 0, 0, 0]) for n in range(count))
    payload = chain + raw(SEGMENT)
    frame = raw(V6)
    frame = frame[:4] + len(payload).to_bytes(2, "big") + bytes([60 if count else 6])
    frame += b"\x40" + raw(V6)[8:40] + payload
    parsed = _probe.parse(frame, LinkType.RAW)
    if count > 16:
        assert parsed == Reason.TOO_MANY_EXTENSIONS
    else:
        assert (parsed["protocol"], parsed["l4"]) == (6, 40 + 8 * count)


def edited(frame, at, value):
    return frame[:at] + value + frame[at + len(value) :]


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (0, b"\x55", Reason.NOT_IP),
        (0, b"\x44", Reason.BAD_IP_HEADER_LENGTH),
        (0, b"\x40", Reason.BAD_IP_HEADER_LENGTH),
        (2, b"\0\x13", Reason.BAD_IP_HEADER_LENGTH),
        (2, b"\0\0", Reason.BAD_IP_HEADER_LENGTH),
        (2, b"\0\x29", Reason.BAD_IP_LENGTH),
        (2, b"\xff\xff", Reason.BAD_IP_LENGTH),
    ],
)
def test_ipv4_fields_that_lie(at, value, reason):
    assert _probe.parse(edited(raw(V4 / SEGMENT), at, value), LinkType.RAW) == reason


def test_ipv6_payload_length():
    frame = raw(V6 / SEGMENT)
    assert _probe.parse(edited(frame, 4, b"\0\x15"), LinkType.RAW) == Reason.BAD_IP_LENGTH
    short = _probe.parse(edited(frame, 4, b"\0\x04"), LinkType.RAW)
    assert short["l4_length"] == short["l4_captured"] == 4


def test_the_version_must_be_the_announced_one():
    frame = raw(Ether() / V4 / SEGMENT)
    assert _probe.parse(edited(frame, 12, b"\x86\xdd")) == Reason.BAD_IP_VERSION
    assert _probe.parse(raw(V4 / SEGMENT), LinkType.IPV6) in (
        Reason.BAD_IP_VERSION, Reason.TRUNCATED_IP_HEADER,
    )  # fmt: skip
    assert _probe.parse(raw(V6 / SEGMENT), LinkType.IPV4) == Reason.BAD_IP_VERSION


def test_what_is_not_ip():
    assert _probe.parse(edited(raw(Ether() / V4), 12, b"\x08\x06")) == Reason.NOT_IP
    five = Ether() / Dot1Q() / Dot1Q() / Dot1Q() / Dot1Q() / Dot1Q() / V4
    assert _probe.parse(raw(five)) == Reason.NOT_IP
    assert _probe.parse(b"\x07\0\0\0" + raw(V4), LinkType.NULL) == Reason.NOT_IP
    assert _probe.parse(raw(V4), 9999) == Reason.NOT_IP


@pytest.mark.parametrize(
    ("flags", "offset", "fragment"), [(0, 0, False), (2, 0, False), (1, 0, True), (0, 5, True)]
)
def test_ipv4_fragments(flags, offset, fragment):
    packet = IP(src="1.1.1.1", dst="2.2.2.2", flags=flags, frag=offset) / SEGMENT
    parsed = _probe.parse(raw(packet), LinkType.RAW)
    assert parsed["fragment"] == fragment
    assert parsed["fragment_offset"] == offset * 8


@pytest.mark.parametrize(("more", "offset"), [(1, 0), (0, 5), (1, 5)])
def test_ipv6_fragments(more, offset):
    header = IPv6ExtHdrFragment(offset=offset, m=more, nh=60)
    parsed = _probe.parse(raw(V6 / header / IPv6ExtHdrDestOpt(nh=6) / SEGMENT), LinkType.RAW)
    assert parsed["fragment"]
    assert parsed["fragment_offset"] == offset * 8
    # Behind a later fragment there is no header to be walked.
    assert parsed["protocol"] == (60 if offset else 6)


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 65535),
    st.integers(0, 65535), st.sampled_from([TCP, UDP]), st.integers(0, 10), st.binary(max_size=50),
)  # fmt: skip
def test_against_scapy(source, destination, sport, dport, transport, options, payload):
    packet = IP(
        src=str(IPv4Address(source)), dst=str(IPv4Address(destination)),
        options=[IPOption_NOP()] * (4 * (options // 4)),
    ) / transport(sport=sport, dport=dport) / Raw(payload)  # fmt: skip
    frame = raw(Ether() / packet)
    again = Ether(frame)
    parsed = _probe.parse(frame)
    assert parsed["l4"] == 14 + again[IP].ihl * 4
    assert parsed["protocol"] == again[IP].proto
    assert parsed["tuple"] == (
        again[IP].proto, source.to_bytes(4, "big"), sport, destination.to_bytes(4, "big"), dport,
    )  # fmt: skip


@settings(deadline=None, max_examples=500)
@given(st.binary(max_size=120), st.sampled_from(list(LinkType)), st.integers(0, 200))
def test_any_bytes_stay_inside(data, link_type, more):
    parsed = _probe.parse(data, link_type, len(data) + more)
    if isinstance(parsed, dict):
        assert parsed["l4"] + parsed["l4_captured"] <= len(data)
        assert parsed["l4_captured"] <= parsed["l4_length"]
        assert parsed["l3"] + parsed["l3_length"] <= len(data) + more
        assert parsed["l3"] < parsed["l4"]
    else:
        assert Reason(parsed) not in (Reason.NONE,)
