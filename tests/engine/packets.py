"""Packets for engine tests: made by scapy, read back with checksums verified by hand."""

import struct
from ipaddress import ip_address

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

SECOND = 1_000_000_000
CLIENT, VIP, RS1, RS2 = "10.0.0.9", "172.16.1.100", "172.16.1.7", "172.16.1.8"


def ip(source, destination, **fields):
    version = IP if ip_address(source).version == 4 else IPv6
    return Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / version(
        src=source, dst=destination, **fields
    )


def tcp(source, sport, destination, dport, flags="S", payload=b"", **fields):
    segment = TCP(sport=sport, dport=dport, flags=flags, **{"seq": 1000, "ack": 0, **fields})
    return bytearray(bytes(ip(source, destination) / segment / Raw(payload)))


def udp(source, sport, destination, dport, payload=b"hello", **fields):
    return bytearray(
        bytes(ip(source, destination) / UDP(sport=sport, dport=dport, **fields) / Raw(payload))
    )


def flow(frame):
    """(source, source port, destination, destination port) of a plain Ethernet frame."""
    version = frame[14] >> 4
    size, start, l4 = (4, 26, 34) if version == 4 else (16, 22, 54)
    source = ip_address(bytes(frame[start : start + size]))
    destination = ip_address(bytes(frame[start + size : start + 2 * size]))
    sport, dport = struct.unpack_from(">HH", frame, l4)
    return str(source), sport, str(destination), dport


def ones_sum(data):
    data = bytes(data) + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def checksums_good(frame):
    """Whether the IPv4 header's and the transport's checksums are right."""
    if frame[14] >> 4 == 4:
        header = (frame[14] & 15) * 4
        if ones_sum(frame[14 : 14 + header]) != 0xFFFF:
            return False
        total = struct.unpack_from(">H", frame, 16)[0]
        protocol, addresses = frame[23], bytes(frame[26:34])
        l4 = bytes(frame[14 + header : 14 + total])
    else:
        protocol, addresses = frame[20], bytes(frame[22:54])
        l4 = bytes(frame[54 : 54 + struct.unpack_from(">H", frame, 18)[0]])
    pseudo = b"" if protocol == 1 else addresses + struct.pack(">IHH", len(l4), 0, protocol)
    return ones_sum(pseudo + l4) == 0xFFFF
