"""tunnel.pxd: what stands in front of a packet to a server, as scapy reads it."""

import struct

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE
from scapy.utils import checksum

from lvscore._probe_frame import tunnel

IPIP, GUE, GRE_ = range(3)
CHECKSUM = 1
SERVERS = {4: (b"\n\0\0\2", b"\n\0\0\1"), 6: (bytes(15) + b"\2", bytes(15) + b"\1")}


@st.composite
def packets(draw):
    """(IP version, packet)"""
    payload = UDP(sport=draw(st.integers(0, 65535)), dport=53) / draw(st.binary(max_size=80))
    tos, ttl = draw(st.integers(0, 255)), draw(st.integers(1, 255))
    if draw(st.booleans()):
        return 4, bytes(IP(src="198.51.100.1", dst="192.0.2.1", tos=tos, ttl=ttl, id=5,
                           flags=draw(st.sampled_from(["", "DF"]))) / payload)  # fmt: skip
    return 6, bytes(IPv6(src="fd00::1", dst="fd00::2", tc=tos, hlim=ttl) / payload)


@given(packets(), st.sampled_from([4, 6]), st.sampled_from([IPIP, GUE, GRE_]), st.booleans(),
       st.booleans(), st.integers(0, 2**64 - 1))  # fmt: skip
def test_what_stands_in_front(packet, version, kind, summed, keep_df, hash):
    inner_version, inner = packet
    server, source = SERVERS[version]
    frame, overhead = tunnel(inner, server, source, kind, CHECKSUM if summed else 0, 6080,
                             keep_df, 77, hash)  # fmt: skip
    assert frame[overhead:] == inner
    outer = IP(frame) if version == 4 else IPv6(frame)
    four = inner_version == 4
    inside = IP(inner) if four else IPv6(inner)
    traffic_class, ttl = (inside.tos, inside.ttl) if four else (inside.tc, inside.hlim)
    # RFC 6040: congestion that was met before is not told twice.
    traffic_class = traffic_class - 1 if traffic_class & 3 == 3 else traffic_class
    protocol = {IPIP: 4 if four else 41, GUE: 17, GRE_: 47}[kind]
    if version == 4:
        df = keep_df and four and inside.flags.DF
        assert (outer.tos, outer.ttl, outer.proto, outer.len) == (
            traffic_class, ttl, protocol, len(frame),
        )  # fmt: skip
        assert (outer.flags.DF, outer.id) == (bool(df), 0 if df else 77)  # RFC 6864
        assert (outer.src, outer.dst) == ("10.0.0.1", "10.0.0.2")
        assert checksum(frame[:20]) == 0
    else:
        assert (outer.tc, outer.hlim, outer.nh, outer.plen) == (
            traffic_class, ttl, protocol, len(frame) - 40,
        )  # fmt: skip
        assert (outer.src, outer.dst) == ("::1", "::2")
    behind = frame[20 if version == 4 else 40 : overhead]
    if kind == IPIP:
        assert behind == b""
    elif kind == GUE:
        port, destination, length, total = struct.unpack("!4H", behind[:8])
        assert (destination, length) == (6080, len(inner) + 12)
        assert 32768 <= port <= 60999  # ip_local_port_range
        assert behind[8:] == bytes([0, 4 if four else 41, 0, 0])
        assert bool(total) == summed
        if summed:
            again = outer.copy()
            del again[UDP].chksum
            assert outer.__class__(bytes(again))[UDP].chksum == total
    else:
        gre = GRE(behind + inner)
        assert (gre.chksum_present, gre.proto) == (summed, 0x0800 if four else 0x86DD)
        assert len(behind) == (8 if summed else 4)
        assert not summed or checksum(behind + inner) == 0


def test_flows_leave_from_ports_of_their_own():
    inner = bytes(IP() / UDP())
    ports = {
        tunnel(inner, *SERVERS[4], kind=GUE, hash=n * 0x9E3779B97F4A7C15 % 2**64)[0][20:22]
        for n in range(100)
    }
    assert len(ports) > 95
