"""TCP, UDP and SCTP packets and ICMP errors in Ethernet frames, built with `struct` alone,
checksums in full."""

import struct
from dataclasses import dataclass, replace
from functools import cache
from ipaddress import IPv4Address, IPv6Address

ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132
FLAGS = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16}
CHUNKS = {
    "DATA": 0, "INIT": 1, "INIT_ACK": 2, "SACK": 3, "HEARTBEAT": 4, "ABORT": 6, "SHUTDOWN": 7,
    "SHUTDOWN_ACK": 8, "ERROR": 9, "COOKIE_ECHO": 10, "COOKIE_ACK": 11, "SHUTDOWN_COMPLETE": 14,
}  # fmt: skip
HEADERS = {TCP: 20, UDP: 8, SCTP: 16}  # of SCTP with that of its only chunk
ETHERNET = b"\x02\0\0\0\0\2\x02\0\0\0\0\1"
ADDRESS = {4: IPv4Address, 6: IPv6Address}


@dataclass(frozen=True)
class Packet:
    """A TCP segment, UDP datagram or SCTP packet; addresses are integers, `flags` letters as in
    ``"SA"``, or the name of the only chunk."""

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
    def padding(self):
        return -self.size % 4 if self.protocol == SCTP else 0

    @property
    def length(self):
        """Of the IP packet."""
        header = 20 if self.family == 4 else 40
        return header + HEADERS[self.protocol] + self.size + self.padding

    def with_source(self, address, port):
        return replace(self, source=address, sport=port)

    def with_destination(self, address, port):
        return replace(self, destination=address, dport=port)


@dataclass(frozen=True)
class IcmpError:
    """An ICMP or ICMPv6 error, `quoted` bytes of transport header and payload behind the IP
    header of the packet that it is about. A `broken` one has a wrong checksum.

    ``transport`` is what is quoted behind the IP header of a packet whose header was translated
    since; its checksum is what it was.
    """

    family: int
    kind: int
    code: int
    source: int
    destination: int
    about: Packet
    quoted: int = 8
    broken: bool = False
    mark: int = 0
    transport: Packet | None = None

    @property
    def length(self):
        return (20 if self.family == 4 else 40) + 8 + len(quote(self))


def complement(data):
    """The Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@cache
def crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


def crc32c(data):
    table, crc = crc_table(), 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def addresses(packet):
    wide = 4 if packet.family == 4 else 16
    return packet.source.to_bytes(wide, "big") + packet.destination.to_bytes(wide, "big")


def ip_header(packet, protocol, size):
    ends = addresses(packet)
    if packet.family == 6:
        return struct.pack(">IHBB", 6 << 28, size, protocol, 64) + ends
    header = struct.pack(">BBHHHBB", 0x45, 0, 20 + size, 0x1234, 0x4000, 64, protocol)
    return header + struct.pack(">H", complement(header + b"\0\0" + ends)) + ends


def segment(packet):
    """What follows the IP header."""
    ports = struct.pack(">HH", packet.sport, packet.dport)
    payload = bytes(range(packet.size))
    if packet.protocol == SCTP:
        chunk = struct.pack(">BBH", CHUNKS[packet.flags], 3, 4 + packet.size)
        chunk += payload + bytes(packet.padding)
        tag = struct.pack(">I", 77)
        return ports + tag + struct.pack("<I", crc32c(ports + tag + bytes(4) + chunk)) + chunk
    if packet.protocol == TCP:
        bits = sum(FLAGS[letter] for letter in packet.flags)
        head, tail = ports + struct.pack(">IIBBH", 1000, 2000, 0x50, bits, 8192), b"\0\0"
    else:
        head, tail = ports + struct.pack(">H", 8 + packet.size), b""
    size = len(head) + 2 + len(tail) + packet.size
    pseudo = addresses(packet) + struct.pack(">II", size, packet.protocol)
    checksum = complement(pseudo + head + b"\0\0" + tail + payload)
    if packet.protocol == UDP:
        checksum = checksum or 0xFFFF
    return head + struct.pack(">H", checksum) + tail + payload


def quote(error):
    """What an error quotes: the packet's own IP header, and a part of what follows it."""
    about = error.about
    whole = segment(error.transport or about)
    ports = struct.pack(">HH", about.sport, about.dport)
    return ip_header(about, about.protocol, len(whole)) + (ports + whole[4:])[: error.quoted]


def message(error):
    """An ICMP message."""
    head, tail = struct.pack(">BB", error.kind, error.code), bytes(4) + quote(error)
    pseudo = b""
    if error.family == 6:
        pseudo = addresses(error) + struct.pack(">II", 4 + len(tail), ICMPV6)
    checksum = complement(pseudo + head + b"\0\0" + tail) ^ (0x0100 if error.broken else 0)
    return head + struct.pack(">H", checksum) + tail


def ip_packet(packet):
    if isinstance(packet, IcmpError):
        protocol, behind = (ICMP if packet.family == 4 else ICMPV6), message(packet)
    else:
        protocol, behind = packet.protocol, segment(packet)
    return ip_header(packet, protocol, len(behind)) + behind


def frame(packet):
    """The packet on Ethernet."""
    return ETHERNET + (b"\x08\0" if packet.family == 4 else b"\x86\xdd") + ip_packet(packet)


def wrapped(packet, server, tunnel, port):
    """The frame of a packet in a tunnel, from the virtual address to a server of the same family;
    `port` is GUE's source."""
    inner = ip_packet(packet)
    ends = replace(packet, source=packet.destination, destination=server)
    number = 4 if packet.family == 4 else 41
    if tunnel.type == "gue":
        behind = struct.pack(">HHHHBBH", port, tunnel.port, 12 + len(inner), 0, 0, number, 0)
        if tunnel.checksum in ("csum", "remcsum"):
            pseudo = addresses(ends) + struct.pack(">II", len(behind + inner), UDP)
            checksum = complement(pseudo + behind + inner) or 0xFFFF
            behind = behind[:6] + struct.pack(">H", checksum) + behind[8:]
        number = UDP
    elif tunnel.type == "gre":
        kind = 0x0800 if packet.family == 4 else 0x86DD
        behind = struct.pack(">HH", 0x8000 if tunnel.checksum == "csum" else 0, kind)
        if tunnel.checksum == "csum":
            behind += struct.pack(">HH", complement(behind + bytes(4) + inner), 0)
        number = 47
    else:
        behind = b""
    behind += inner
    header = bytearray(ip_header(ends, number, len(behind)))
    if packet.family == 4:  # DF: it needs no identification (RFC 6864)
        header[4:6] = header[10:12] = b"\0\0"
        header[10:12] = struct.pack(">H", complement(bytes(header)))
    return ETHERNET + (b"\x08\0" if packet.family == 4 else b"\x86\xdd") + bytes(header) + behind
