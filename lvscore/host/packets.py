"""Headers of the packets that a host makes itself: IPv4, IPv6, ICMP, TCP resets."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Self

__all__ = [
    "ICMP",
    "ICMPV6",
    "SCTP",
    "TCP",
    "UDP",
    "Packet",
    "checksum",
    "fragments",
    "ipv4",
    "ipv6",
    "put_together",
    "transport_checksum",
]

Address = IPv4Address | IPv6Address

ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132
IPV6_FRAGMENT = 44
# Header: unit of its length field. Without IPsec an authentication header is none.
_IPV6_EXTENSIONS = {0: 8, 43: 8, 44: 0, 60: 8}


def checksum(data: bytes | bytearray) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = bytes(data) + b"\0" * (len(data) & 1)
    total = sum(memoryview(padded).cast("H"))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int.from_bytes((~total & 0xFFFF).to_bytes(2, "little"), "big")


def transport_checksum(source: bytes, destination: bytes, protocol: int, segment: bytes) -> int:
    """The checksum of a segment with its pseudo-header; 0 if the segment has the right one."""
    length = len(segment).to_bytes(4, "big")
    return checksum(source + destination + length + bytes((0, 0, 0, protocol)) + segment)


@dataclass(frozen=True)
class Packet:
    """A whole IP packet, without what lay behind it in its frame."""

    data: bytes
    source: Address
    destination: Address
    protocol: int
    header: int
    """Bytes before the transport header."""
    fragment_offset: int = 0
    more_fragments: bool = False

    @property
    def version(self) -> int:
        return self.source.version

    @property
    def payload(self) -> bytes:
        """The transport header and what follows."""
        return self.data[self.header :]

    @property
    def tos(self) -> int:
        """TOS or traffic class."""
        if self.version == 4:
            return self.data[1]
        return (self.data[0] & 15) << 4 | self.data[1] >> 4

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> Self:
        """Read a packet that the core has found to be whole."""
        if data[0] >> 4 == 4:
            length = int.from_bytes(data[2:4], "big")
            fragment = int.from_bytes(data[6:8], "big")
            return cls(
                bytes(data[:length]),
                ip_address(bytes(data[12:16])),
                ip_address(bytes(data[16:20])),
                data[9],
                (data[0] & 15) * 4,
                (fragment & 0x1FFF) * 8,
                bool(fragment & 0x2000),
            )
        whole = bytes(data[: 40 + int.from_bytes(data[4:6], "big")])
        protocol, position, offset, more = whole[6], 40, 0, False
        while protocol in _IPV6_EXTENSIONS and position + 8 <= len(whole) and not offset:
            unit = _IPV6_EXTENSIONS[protocol]
            if protocol == IPV6_FRAGMENT:
                fragment = int.from_bytes(whole[position + 2 : position + 4], "big")
                offset, more = fragment & 0xFFF8, bool(fragment & 1)
            size = 8 if unit == 0 else (whole[position + 1] + 1) * unit
            protocol = whole[position]
            position += size
        return cls(
            whole, ip_address(whole[8:24]), ip_address(whole[24:40]), protocol, position, offset,
            more,
        )  # fmt: skip


def ipv4(
    source: bytes,
    destination: bytes,
    protocol: int,
    payload: bytes,
    *,
    tos: int = 0,
    ttl: int = 64,
    identification: int = 0,
    dont_fragment: bool = False,
    options: bytes = b"",
) -> bytes:
    """An IPv4 packet; ``options`` fill whole words."""
    header = bytearray(20)
    header[0] = 0x45 + len(options) // 4
    header[1] = tos
    header[2:4] = (20 + len(options) + len(payload)).to_bytes(2, "big")
    header[4:6] = identification.to_bytes(2, "big")
    header[6] = 0x40 if dont_fragment else 0
    header[8] = ttl
    header[9] = protocol
    header[12:16] = source
    header[16:20] = destination
    header += options
    header[10:12] = checksum(header).to_bytes(2, "big")
    return bytes(header) + payload


def ipv6(
    source: bytes, destination: bytes, protocol: int, payload: bytes, *, tos: int = 0, ttl: int = 64
) -> bytes:
    """An IPv6 packet."""
    return (
        (6 << 28 | tos << 20).to_bytes(4, "big")
        + len(payload).to_bytes(2, "big")
        + bytes((protocol, ttl))
        + source
        + destination
        + payload
    )


def fragments(packet: bytes, mtu: int) -> list[bytes]:
    """An IPv4 packet cut to ``mtu`` (ip_do_fragment): itself, if it fits."""
    if len(packet) <= mtu or packet[0] >> 4 == 6:
        return [packet]
    header = (packet[0] & 15) * 4
    size = (mtu - header) & ~7
    field = int.from_bytes(packet[6:8], "big")
    pieces = []
    for start in range(0, len(packet) - header, size):
        data = packet[header + start : header + start + size]
        head = bytearray(packet[:header])
        if start:
            _keep_copied_options(head)
        more = 0x2000 if header + start + size < len(packet) else field & 0x2000
        offset = (field & 0x1FFF) + start // 8
        head[2:4] = (header + len(data)).to_bytes(2, "big")
        head[6:8] = (field & 0xC000 | more | offset).to_bytes(2, "big")
        head[10:12] = b"\0\0"
        head[10:12] = checksum(head).to_bytes(2, "big")
        pieces.append(bytes(head) + data)
    return pieces


def _keep_copied_options(head: bytearray) -> None:
    """Make no-operations of the options that only the first fragment has (RFC 791)."""
    position = 20
    while position < len(head) and head[position]:
        length = 1 if head[position] == 1 else head[position + 1]
        if not head[position] & 0x80:
            head[position : position + length] = b"\1" * length
        position += max(length, 1)


def put_together(pieces: list[Packet]) -> Packet:
    """The IPv4 datagram of which a router sends these fragments, with the hop that they lost."""
    first = pieces[0]
    payload = b"".join(piece.payload for piece in pieces)
    whole = bytearray(first.data[: first.header] + payload)
    whole[2:4] = len(whole).to_bytes(2, "big")
    whole[6:8] = bytes([whole[6] & 0x40, 0])
    whole[8] += 1
    whole[10:12] = bytes(2)
    whole[10:12] = checksum(whole[: first.header]).to_bytes(2, "big")
    return Packet.parse(whole)
