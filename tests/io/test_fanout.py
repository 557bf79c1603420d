"""The programs that share frames out, run by an interpreter of classic BPF."""

import struct
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, TCPerror
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6PacketTooBig,
    IPv6,
)
from scapy.layers.l2 import ARP

from lvscore import ConfigError
from lvscore.io.fanout import neighbour_filter, peer_program

MASK = 0xFFFFFFFF


def run(program, packet, protocol):
    """What a program returns for a packet, of which it sees what follows the link header."""
    lines = [struct.unpack_from("HBBI", program, at) for at in range(0, len(program), 8)]
    a = x = at = 0
    memory = [0] * 16

    def load(offset, size):
        if offset == 0x100000000 - 0x1000:
            return protocol
        assert offset >= 0x100000000 - 0x100000, "not from the network header"
        offset = (offset + 0x100000) & MASK
        if offset + size > len(packet):
            raise IndexError  # the kernel ends the program with 0
        return int.from_bytes(packet[offset : offset + size], "big")

    while True:
        code, yes, no, k = lines[at]
        at += 1
        try:
            match code:
                case 0x20 | 0x28 | 0x30:
                    a = load(k, {0x20: 4, 0x28: 2, 0x30: 1}[code])
                case 0x40 | 0x50:
                    a = load((x + k) & MASK, 4 if code == 0x40 else 1)
                case 0xB1:
                    x = (load(k, 1) & 15) * 4
                case 0x01:
                    x = k
                case 0x60:
                    a = memory[k]
                case 0x61:
                    x = memory[k]
                case 0x02:
                    memory[k] = a
                case 0x54:
                    a &= k
                case 0x74:
                    a >>= k
                case 0x24:
                    a = a * k & MASK
                case 0xAC:
                    a ^= x
                case 0x07:
                    x = a
                case 0x05:
                    at += k
                case 0x15 | 0x45 | 0x1D:
                    holds = a & k if code == 0x45 else a == (x if code == 0x1D else k)
                    at += yes if holds else no
                case 0x06:
                    return k
                case 0x16:
                    return a
                case _:
                    raise AssertionError(f"no such code: {code:#x}")
        except IndexError:
            return 0


INSIDE = [ip_network(n) for n in ("172.16.1.0/24", "192.0.2.100/32", "2001:db8:1::/64")]
PROGRAM = peer_program(INSIDE)


def of(packet):
    return run(PROGRAM, bytes(packet), 0x86DD if IPv6 in packet else 0x0800)


v4, v6 = st.ip_addresses(v=4), st.ip_addresses(v=6)


@given(v4, st.sampled_from([ICMP(), TCP(), UDP()]))
def test_both_directions_are_one(client, transport):
    outside = not any(client in n for n in INSIDE if n.version == 4)
    request = of(IP(src=str(client), dst="192.0.2.100") / transport)
    for server in ("172.16.1.7", "172.16.1.8", "192.0.2.100"):
        reply = of(IP(src=server, dst=str(client)) / transport)
        if outside:
            assert request == reply


@given(v6, st.sampled_from([ICMPv6EchoRequest(), TCP(), UDP()]))
def test_both_directions_of_ipv6_are_one(client, transport):
    request = of(IPv6(src=str(client), dst="2001:db8:1::100") / transport)
    reply = of(IPv6(src="2001:db8:1::7", dst=str(client)) / transport)
    if client not in INSIDE[2]:
        assert request == reply


@given(v4, v4, st.sampled_from([3, 4, 5, 11, 12]), st.booleans())
def test_an_error_goes_where_its_packet_went(client, router, kind, options):
    if any(client in n for n in INSIDE if n.version == 4):
        return
    connection = of(IP(src=str(client), dst="192.0.2.100") / TCP())
    head = IP(src=str(router), dst="192.0.2.100", options=b"\1" * 8 if options else [])
    for inner in (
        IPerror(src="192.0.2.100", dst=str(client)), IPerror(src=str(client), dst="172.16.1.7"),
    ):  # fmt: skip
        assert of(head / ICMP(type=kind) / inner / TCPerror()) == connection


@given(v6, v6, st.sampled_from([ICMPv6DestUnreach(), ICMPv6PacketTooBig()]))
def test_an_error_of_ipv6_goes_where_its_packet_went(client, router, error):
    if client in INSIDE[2]:
        return
    connection = of(IPv6(src=str(client), dst="2001:db8:1::100") / TCP())
    inner = IPv6(src="2001:db8:1::100", dst=str(client)) / TCP()
    assert of(IPv6(src=str(router), dst="2001:db8:1::100") / error / inner) == connection


def test_clients_are_spread():
    for make in (lambda n: IP(src=f"10.0.{n >> 8}.{n & 255}") / TCP(),
                 lambda n: IPv6(src=f"2001:db8::{n:x}") / TCP()):  # fmt: skip
        for workers in (2, 3, 8):
            counts = [0] * workers
            for number in range(1, 1001):
                counts[of(make(number)) % workers] += 1
            assert min(counts) > 0.7 * 1000 / workers


def test_link_addresses_are_for_the_first():
    assert run(PROGRAM, bytes(ARP()), 0x0806) == 0
    for message in (ICMPv6ND_NS(), ICMPv6ND_NA()):
        assert of(IPv6(src="2001:db8::9") / message) == 0
    assert run(PROGRAM, bytes(IP(proto=1))[:20], 0x0800) == 0  # nothing there to tell by


def test_what_tells_of_link_addresses():
    program = neighbour_filter()
    for packet, let_in in (
        (ARP(op=2), True), (ARP(op=1, psrc="10.0.0.1", pdst="10.0.0.2"), False),
        (ARP(op=1, psrc="10.0.0.1", pdst="10.0.0.1"), True),
    ):  # fmt: skip
        assert bool(run(program, bytes(packet), 0x0806)) == let_in
    for message, let_in in ((ICMPv6ND_NA(), True), (ICMPv6ND_NS(), False), (TCP(), False)):
        assert bool(run(program, bytes(IPv6() / message), 0x86DD)) == let_in
    assert run(program, bytes(IP() / TCP()), 0x0800) == 0


def test_too_many_networks_are_refused():
    networks = [ip_network(f"10.{n >> 8}.{n & 255}.0/24") for n in range(2000)]
    with pytest.raises(ConfigError, match="fewer networks"):
        peer_program(networks)
    many = peer_program(networks[:600])
    inside = bytes(IP(src="10.2.87.1", dst="1.2.3.4") / TCP())
    outside = bytes(IP(src="1.2.3.4", dst="10.2.87.1") / TCP())
    assert run(many, inside, 0x0800) == run(many, outside, 0x0800)
    assert ip_address("10.2.87.1") in networks[599]
