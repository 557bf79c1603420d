"""TCP and UDP packets in Ethernet frames, built with `struct` alone, checksums in full."""

import struct
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

TCP, UDP = 6, 17
FLAGS = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16}
ETHERNET = b"\x02\0\0\0\0\2\x02\0\0\0\0\1"
ADDRESS = {4: IPv4Address, 6: IPv6Address}


@dataclass(frozen=True)
class Packet:
    """A TCP segment or UDP datagram; addresses are integers, `flags` letters as in ``"SA"``."""

    family: int
    protocol: int
    source: int
    sport: int
    destination: int
    dport: int
    flags: str = ""
    size: int = 0
    mark: int = 0

    @property
    def length(self):
        """Of the IP packet."""
        return (20 if self.family == 4 else 40) + (20 if self.protocol == TCP else 8) + self.size

    def with_source(self, address, port):
        return replace(self, source=address, sport=port)

    def with_destination(self, address, port):
        return replace(self, destination=address, dport=port)


def complement(data):
    """The Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def frame(packet):
    """The packet on Ethernet."""
    wide = 4 if packet.family == 4 else 16
    addresses = packet.source.to_bytes(wide, "big") + packet.destination.to_bytes(wide, "big")
    ports = struct.pack(">HH", packet.sport, packet.dport)
    payload = bytes(range(packet.size))
    if packet.protocol == TCP:
        bits = sum(FLAGS[letter] for letter in packet.flags)
        head, tail = ports + struct.pack(">IIBBH", 1000, 2000, 0x50, bits, 8192), b"\0\0"
    else:
        head, tail = ports + struct.pack(">H", 8 + packet.size), b""
    size = len(head) + 2 + len(tail) + packet.size
    pseudo = addresses + struct.pack(">II", size, packet.protocol)
    checksum = complement(pseudo + head + b"\0\0" + tail + payload)
    if packet.protocol == UDP:
        checksum = checksum or 0xFFFF
    segment = head + struct.pack(">H", checksum) + tail + payload
    if packet.family == 6:
        header = struct.pack(">IHBB", 6 << 28, size, packet.protocol, 64) + addresses
        return ETHERNET + b"\x86\xdd" + header + segment
    header = struct.pack(">BBHHHBB", 0x45, 0, 20 + size, 0x1234, 0x4000, 64, packet.protocol)
    sum_ = struct.pack(">H", complement(header + b"\0\0" + addresses))
    return ETHERNET + b"\x08\0" + header + sum_ + addresses + segment
