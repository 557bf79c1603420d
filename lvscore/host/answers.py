"""What the local stack answers to packets that are for this host, and its ICMP errors.

It has no sockets: every port is closed (icmp.c, tcp_ipv4.c, udp.c, ip_input.c and their IPv6
counterparts).
"""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from lvscore.host.packets import (
    ICMP,
    ICMPV6,
    TCP,
    UDP,
    Address,
    Packet,
    checksum,
    ipv4,
    ipv6,
    transport_checksum,
)

__all__ = ["answer", "datagram", "error_allowed", "icmp_echo", "icmp_error", "tcp_reset"]

_ICMP_NO_ERRORS = frozenset((0, 8, *range(13, 19)))
"""Types of ICMP that the kernel answers with errors: it takes what it does not know for one."""
_ERROR_BYTES = {4: 576, 6: 1280}  # RFC 1812, section 4.3.2.3; RFC 4443, section 2.4
_NOT_ECN = 0xFC  # a reset does not speak of congestion (ip_send_unicast_reply)
_INTERNET_CONTROL = 0xC0


def error_allowed(packet: Packet) -> bool:
    """Whether an ICMP error may be sent about a packet (RFC 1122, 3.2.2; RFC 4443, 2.4)."""
    if packet.fragment_offset or packet.source.is_multicast or packet.source.is_unspecified:
        return False
    if packet.protocol == ICMP and packet.version == 4:
        return len(packet.payload) > 0 and packet.payload[0] in _ICMP_NO_ERRORS
    if packet.protocol == ICMPV6 and packet.version == 6:
        return len(packet.payload) > 0 and packet.payload[0] >= 128
    return True


def icmp_error(
    packet: Packet, source: Address, kind: int, code: int, info: int, *, ttl: int,
    identification: int, options: bytes,
) -> bytes:  # fmt: skip
    """An ICMP error that quotes ``packet``; ``info`` is its second word."""
    head = bytes((kind, code, 0, 0)) + info.to_bytes(4, "big")
    if isinstance(source, IPv6Address):
        room = _ERROR_BYTES[6] - 48
        message = bytearray(head + packet.data[:room])
        message[2:4] = transport_checksum(
            source.packed, packet.source.packed, ICMPV6, bytes(message)
        ).to_bytes(2, "big")
        return ipv6(source.packed, packet.source.packed, ICMPV6, bytes(message), ttl=ttl)
    room = _ERROR_BYTES[4] - 20 - len(options) - 8
    message = bytearray(head + packet.data[:room])
    message[2:4] = checksum(message).to_bytes(2, "big")
    return ipv4(
        source.packed, packet.source.packed, ICMP, bytes(message),
        tos=packet.tos & 0x1E | _INTERNET_CONTROL, ttl=ttl, identification=identification,
        options=options,
    )  # fmt: skip


def tcp_reset(packet: Packet, *, ttl: int, options: bytes) -> bytes | None:
    """The answer to a segment for a closed port (RFC 9293, section 3.10.7.1)."""
    segment = packet.payload
    if len(segment) < 20 or not 20 <= (segment[12] >> 4) * 4 <= len(segment):
        return None
    source, destination = packet.destination.packed, packet.source.packed
    if transport_checksum(destination, source, TCP, segment):
        return None
    flags = segment[13]
    if flags & 4:
        return None
    reset = bytearray(20)
    reset[0:2], reset[2:4] = segment[2:4], segment[0:2]
    reset[12] = 0x50
    if flags & 16:
        reset[4:8] = segment[8:12]
        reset[13] = 4
    else:
        length = len(segment) - (segment[12] >> 4) * 4 + (flags >> 1 & 1) + (flags & 1)
        sequence = int.from_bytes(segment[4:8], "big") + length
        reset[8:12] = (sequence & 0xFFFFFFFF).to_bytes(4, "big")
        reset[13] = 0x14
    reset[16:18] = transport_checksum(source, destination, TCP, bytes(reset)).to_bytes(2, "big")
    if packet.version == 6:
        return ipv6(source, destination, TCP, bytes(reset), tos=packet.tos & _NOT_ECN, ttl=ttl)
    return ipv4(
        source, destination, TCP, bytes(reset), tos=packet.tos & _NOT_ECN, ttl=ttl,
        dont_fragment=True, options=options,
    )  # fmt: skip


def icmp_echo(
    packet: Packet, now: int, *, ttl: int, identification: int, options: bytes
) -> bytes | None:
    """The answer to an echo or timestamp request."""
    message = bytearray(packet.payload)
    source, destination = packet.destination.packed, packet.source.packed
    if packet.version == 6:
        if message[0] != 128:
            return None
        message[0] = 129
        message[2:4] = b"\0\0"
        message[2:4] = transport_checksum(source, destination, ICMPV6, bytes(message)).to_bytes(
            2, "big"
        )
        return ipv6(source, destination, ICMPV6, bytes(message), tos=packet.tos, ttl=ttl)
    if message[0] == 8:
        message[0] = 0
    elif message[0] == 13 and len(message) >= 12:
        clock = (now // 1_000_000 % 86_400_000).to_bytes(4, "big")
        message = message[:12] + clock + clock  # RFC 792: milliseconds since midnight
        message[0] = 14
    else:
        return None
    message[2:4] = b"\0\0"
    message[2:4] = checksum(message).to_bytes(2, "big")
    return ipv4(
        source, destination, ICMP, bytes(message), tos=packet.tos, ttl=ttl,
        identification=identification, options=options,
    )  # fmt: skip


def datagram(packet: Packet) -> Packet:
    """A UDP packet without what lies behind its datagram, which errors do not quote (udp_rcv)."""
    length = int.from_bytes(packet.payload[4:6], "big")
    if not 8 <= length < len(packet.payload):
        return packet
    return replace(packet, data=packet.data[: packet.header + length])


def answer(packet: Packet) -> str | tuple[int, int, int]:
    """What a packet for this host is due: ``"reset"``, ``"echo"``, ``""`` for nothing, or the
    type, code and second word of an ICMP error."""
    payload = packet.payload
    ends = packet.source.packed, packet.destination.packed
    match packet.protocol:
        case 6:
            return "reset"
        case 17:
            length = int.from_bytes(payload[4:6], "big") if len(payload) >= 8 else 0
            if not 8 <= length <= len(payload):
                return ""
            summed = payload[6:8] != b"\0\0"
            if not summed and packet.version == 6:
                return ""
            if summed and transport_checksum(*ends, UDP, payload[:length]):
                return ""
            return (3, 3, 0) if packet.version == 4 else (1, 4, 0)
        case 1 if packet.version == 4:
            return "echo" if len(payload) >= 8 and checksum(payload) == 0 else ""
        case 58 if packet.version == 6:
            good = len(payload) >= 8 and not transport_checksum(*ends, ICMPV6, payload)
            return "echo" if good else ""
        case 59 if packet.version == 6:  # no next header (RFC 8200, section 4.7)
            return ""
        case 2 if packet.version == 4:  # IGMP
            return ""
        case 103 | 136:  # PIM; UDP-Lite, whose checksum is not looked at here
            return ""
        case _:
            if isinstance(packet.source, IPv4Address):
                return (3, 2, 0)
            return (4, 1, _next_header_offset(packet))


def _next_header_offset(packet: Packet) -> int:
    """Where the header stands that names the transport protocol (RFC 4443, section 3.4)."""
    position, offset = 40, 6
    while position < packet.header:
        offset = position
        unit = packet.data[position + 1]
        position += 8 if packet.data[offset] == packet.protocol and unit == 0 else (unit + 1) * 8
    return offset
