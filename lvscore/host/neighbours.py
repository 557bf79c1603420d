"""Frames of ARP (RFC 826) and Neighbor Discovery (RFC 4861)."""

from ipaddress import IPv4Address, IPv6Address, ip_address

from lvscore.host.packets import ICMPV6, Address, ipv6, transport_checksum

__all__ = [
    "ETHERTYPE_ARP",
    "advertise",
    "announcement",
    "arp",
    "arp_target",
    "ethernet",
    "question",
]

ETHERTYPE_IPV4 = b"\x08\x00"
ETHERTYPE_ARP = b"\x08\x06"
ETHERTYPE_IPV6 = b"\x86\xdd"
BROADCAST = b"\xff" * 6


def ethernet(destination: bytes, source: bytes, packet: bytes) -> bytes:
    """A frame around an IP packet."""
    kind = ETHERTYPE_IPV6 if packet[0] >> 4 == 6 else ETHERTYPE_IPV4
    return destination + source + kind + packet


def arp(operation: int, sender: tuple[bytes, bytes], target: tuple[bytes, bytes]) -> bytes:
    """A frame with an ARP request (1) or reply (2); each end a link address and an IPv4 one."""
    destination = BROADCAST if operation == 1 else target[0]
    head = b"\0\1\x08\0\6\4" + operation.to_bytes(2, "big")
    return destination + sender[0] + ETHERTYPE_ARP + head + b"".join(sender + target)


def arp_target(frame: bytes) -> tuple[int, bytes, bytes, bytes] | None:
    """Operation, sender's link address, sender's and target's IPv4 address; None if it is none."""
    if len(frame) < 42 or frame[14:20] != b"\0\1\x08\0\6\4":
        return None
    return int.from_bytes(frame[20:22], "big"), frame[22:28], frame[28:32], frame[38:42]


def solicit(mac: bytes, source: IPv6Address, target: IPv6Address, neighbour: bytes | None) -> bytes:
    """A frame with a neighbor solicitation for ``target`` (RFC 4861, section 4.3); with a link
    address it is for that neighbour alone (section 7.3.3)."""
    group = ip_address(b"\xff\x02" + bytes(9) + b"\1\xff" + target.packed[13:])
    to = group if neighbour is None else target
    message = bytearray(bytes((135, 0, 0, 0)) + bytes(4) + target.packed + b"\1\1" + mac)
    message[2:4] = transport_checksum(source.packed, to.packed, ICMPV6, bytes(message)).to_bytes(
        2, "big"
    )
    packet = ipv6(source.packed, to.packed, ICMPV6, bytes(message), ttl=255)
    return ethernet(neighbour or b"\x33\x33" + group.packed[12:], mac, packet)


def advertise(mac: bytes, target: Address, asker_mac: bytes, asker: Address) -> bytes:
    """A frame with a solicited neighbor advertisement (RFC 4861, section 4.4)."""
    message = bytearray(bytes((136, 0, 0, 0, 0xE0, 0, 0, 0)) + target.packed + b"\2\1" + mac)
    message[2:4] = transport_checksum(target.packed, asker.packed, ICMPV6, bytes(message)).to_bytes(
        2, "big"
    )
    packet = ipv6(target.packed, asker.packed, ICMPV6, bytes(message), ttl=255)
    return ethernet(asker_mac, mac, packet)


def announcement(mac: bytes, address: Address) -> bytes:
    """The frame that tells everybody of an address: gratuitous ARP (RFC 5227, section 3) or an
    unsolicited neighbor advertisement (RFC 4861, section 7.2.6)."""
    if isinstance(address, IPv4Address):
        return arp(1, (mac, address.packed), (bytes(6), address.packed))
    group = ip_address("ff02::1")
    message = bytearray(bytes((136, 0, 0, 0, 0x20, 0, 0, 0)) + address.packed + b"\2\1" + mac)
    message[2:4] = transport_checksum(
        address.packed, group.packed, ICMPV6, bytes(message)
    ).to_bytes(2, "big")
    packet = ipv6(address.packed, group.packed, ICMPV6, bytes(message), ttl=255)
    return ethernet(b"\x33\x33\0\0\0\1", mac, packet)


def question(mac: bytes, source: Address, target: Address, neighbour: bytes | None = None) -> bytes:
    """The frame that asks for a neighbour's link address: all, or the one that had it last."""
    if isinstance(target, IPv4Address):
        frame = arp(1, (mac, source.packed), (bytes(6), target.packed))
        return frame if neighbour is None else neighbour + frame[6:]
    assert isinstance(source, IPv6Address)
    return solicit(mac, source, target, neighbour)
