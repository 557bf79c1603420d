"""ICMP errors about connections, both ways and of both kinds."""

import pytest
from packets import CLIENT, RS1, SECOND, VIP, checksums_good, flow, tcp, udp
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoRequest, ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

import lvscore
from lvscore import LinkType, Reason, Verdict

RAW = LinkType.RAW


def lab():
    engine = lvscore.Engine(seed=1)
    engine.add_service("tcp", f"{VIP}:80", scheduler="rr").add_server(f"{RS1}:8080")
    assert engine.process(tcp(CLIENT, 40000, VIP, 80), 0) == Verdict.FORWARD
    return engine


# Computed from the kernel's rules; IPVS itself changes no TTL, so neither does the engine.
VECTORS = [
    pytest.param(
        "45000038222200004001a183ac1001070a00000903033d440000000045000028123440003e06737c0a000009ac10"
        "01079c401f90000003e8",
        "45000038222200004001a126ac1001640a00000903035c840000000045000028123440003e06731f0a000009ac10"
        "01649c400050000003e8",
        id="port-unreachable-from-the-server",
    ),
    pytest.param(
        "45000038333300003c01dc1cc0000201ac1001640304476a0000057845000028123440003c06751fac1001640a00"
        "000900509c4000001389",
        "45000038333300003c01dc79c0000201ac1001070304282a0000057845000028123440003c06757cac1001070a00"
        "00091f909c4000001389",
        id="fragmentation-needed-to-the-vip",
    ),
]


@pytest.mark.parametrize(("frame", "expected"), VECTORS)
def test_service_vectors(frame, expected):
    engine = lab()
    before = engine.connections["tcp", f"{CLIENT}:40000", f"{VIP}:80"]
    packet = bytearray.fromhex(frame)
    assert engine.process(packet, SECOND, RAW) == Verdict.FORWARD
    assert engine.last_reason == Reason.RELATED_ICMP
    assert packet.hex() == expected
    after = engine.connections["tcp", f"{CLIENT}:40000", f"{VIP}:80"]
    # Neither state nor timer, but the counters.
    assert after.state == before.state
    assert after.expires_ns == before.expires_ns - SECOND
    assert after.packets_in + after.packets_out == before.packets_in + before.packets_out + 1


@pytest.mark.parametrize(("frame", "expected"), VECTORS)
def test_a_wrong_icmp_checksum_is_dropped(frame, expected):
    engine = lab()
    packet = bytearray.fromhex(frame)
    packet[22] ^= 1
    before = bytes(packet)
    assert engine.process(packet, SECOND, RAW) == Verdict.DROP
    assert engine.last_reason == Reason.BAD_ICMP_CHECKSUM
    assert bytes(packet) == before


def test_about_no_connection():
    engine = lab()
    quote = IP(src="1.2.3.4", dst="5.6.7.8") / TCP(sport=1, dport=2)
    for destination, verdict in ((VIP, Verdict.LOCAL), ("10.9.9.9", Verdict.PASS)):
        frame = bytearray(bytes(Ether() / IP(src=RS1, dst=destination) / ICMP(type=3) / quote))
        before = bytes(frame)
        assert engine.process(frame, 0) == verdict
        assert engine.last_reason == Reason.ICMP_NOT_RELATED
        assert bytes(frame) == before


def quote_of(frame, size=None):
    """What a router quotes of an Ethernet frame."""
    packet = bytes(frame[14:])
    return Raw(packet if size is None else packet[:size])


def dnat_and_snat():
    engine = lvscore.Engine(seed=1)
    engine.add_dnat(to=f"{RS1}:8080", destination=VIP, protocol="udp", destination_ports=80)
    engine.add_snat(to="10.0.0.200", source="192.168.0.0/16")
    return engine


@pytest.mark.parametrize("kind", [3, 4, 11, 12])
@pytest.mark.parametrize("size", [28, None])
def test_rules_translate_the_quote_with_its_checksum(kind, size):
    engine = dnat_and_snat()
    opening = udp("192.168.1.5", 5000, VIP, 80)
    sent = bytearray(opening)
    assert engine.process(sent, 0) == Verdict.FORWARD
    assert flow(sent) == ("10.0.0.200", 5000, RS1, 8080)
    error = bytearray(bytes(
        Ether() / IP(src="192.0.2.1", dst="10.0.0.200") / ICMP(type=kind, code=0)
        / quote_of(sent, size)
    ))  # fmt: skip
    assert engine.process(error, 0) == Verdict.FORWARD
    assert engine.last_reason == Reason.RELATED_ICMP
    assert checksums_good(error)
    assert flow(error)[2] == "192.168.1.5"
    # The client finds its own packet in the quote, byte for byte.
    assert bytes(error[42:]) == bytes(opening[14:])[:size]


@pytest.mark.parametrize("related", [True, False])
def test_a_redirect_is_not_translated(related):
    """Netfilter drops one about a translated connection (nf_nat_icmp_reply_translation)."""
    engine = dnat_and_snat()
    sent = udp("192.168.1.5", 5000, VIP, 80)
    if related:
        engine.process(sent, 0)
    error = bytearray(bytes(
        Ether() / IP(src="192.0.2.1", dst="10.0.0.200") / ICMP(type=5, code=1) / quote_of(sent)
    ))  # fmt: skip
    before = bytes(error)
    assert engine.process(error, 0) == (Verdict.DROP if related else Verdict.PASS)
    assert engine.last_reason == (Reason.UNTRANSLATABLE if related else Reason.ICMP_NOT_RELATED)
    assert bytes(error) == before


def test_ipvs_does_not_know_parameter_problems():
    engine = lab()
    sent = tcp(CLIENT, 40000, RS1, 8080)
    error = bytearray(bytes(
        Ether() / IP(src=RS1, dst=CLIENT) / ICMP(type=12, code=0) / quote_of(sent)
    ))  # fmt: skip
    assert engine.process(error, 0) == Verdict.PASS
    assert engine.last_reason == Reason.ICMP_NOT_RELATED


@pytest.mark.parametrize("rule", [False, True], ids=["service", "rule"])
@pytest.mark.parametrize("message", [ICMPv6DestUnreach(code=4), ICMPv6PacketTooBig(mtu=1400)])
def test_icmpv6(rule, message):
    engine = lvscore.Engine(seed=1)
    client, vip, server = "2001:db8::9", "2001:db8:1::100", "2001:db8:1::7"
    if rule:
        engine.add_dnat(to=f"[{server}]:8080", destination=vip, protocol="tcp")
    else:
        engine.add_service("tcp", f"[{vip}]:80", scheduler="rr").add_server(f"[{server}]:8080")
    opening = tcp(client, 40000, vip, 80)
    sent = bytearray(opening)
    assert engine.process(sent, 0) == Verdict.FORWARD
    assert flow(sent) == (client, 40000, server, 8080)
    error = bytearray(bytes(
        Ether() / IPv6(src=server, dst=client) / message / quote_of(sent)
    ))  # fmt: skip
    assert checksums_good(error)
    assert engine.process(error, 0) == Verdict.FORWARD
    assert engine.last_reason == Reason.RELATED_ICMP
    assert checksums_good(error)
    assert flow(error)[0] == vip
    quoted = bytes(error[62:])
    expected = bytearray(opening[14:])
    if not rule:  # IPVS leaves the quoted transport checksum as it was
        expected[56:58] = sent[70:72]
    assert quoted == bytes(expected)


def test_an_echo_is_no_error():
    engine = lab()
    echo = bytearray(bytes(Ether() / IPv6(src="::1", dst="::2") / ICMPv6EchoRequest()))
    assert engine.process(echo, 0) == Verdict.PASS
    assert engine.last_reason == Reason.NO_SERVICE


@pytest.mark.parametrize("inner", [0, 8, 19, 20, 23])
def test_quotes_too_short_to_find_a_connection(inner):
    engine = lab()
    sent = tcp(CLIENT, 40000, RS1, 8080)
    error = bytearray(
        bytes(Ether() / IP(src=RS1, dst=CLIENT) / ICMP(type=3) / quote_of(sent, inner))
    )
    assert engine.process(error, 0) == Verdict.PASS


def test_an_error_about_an_error_is_not_followed():
    engine = lab()
    sent = tcp(CLIENT, 40000, RS1, 8080)
    nested = IP(src=CLIENT, dst=RS1) / ICMP(type=3) / quote_of(sent)
    error = bytearray(bytes(Ether() / IP(src=RS1, dst=CLIENT) / ICMP(type=3) / nested))
    assert engine.process(error, 0) == Verdict.PASS


def test_an_error_from_the_server_about_udp():
    engine = lvscore.Engine(seed=1)
    engine.add_service("udp", f"{VIP}:53", scheduler="rr").add_server(f"{RS1}:1053")
    sent = udp(CLIENT, 5353, VIP, 53)
    engine.process(sent, 0)
    inner = IP(bytes(sent[14:]))
    assert inner[UDP].dport == 1053
    error = bytearray(bytes(Ether() / IP(src=RS1, dst=CLIENT) / ICMP(type=3, code=3) / inner))
    assert engine.process(error, 0) == Verdict.FORWARD
    assert checksums_good(error)
    result = IP(bytes(error[14:]))
    assert result.src == VIP
    assert (result[ICMP].payload.dst, int.from_bytes(bytes(error[64:66]), "big")) == (VIP, 53)
