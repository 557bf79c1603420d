"""Link addresses of neighbours: those given, those asked for, and what waits for an answer.

ARP (RFC 826) and Neighbor Discovery (RFC 4861) with the kernel's times: three questions, a
second apart, then the packets that waited are given up (neighbour.c).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address

from lvscore.host.packets import ICMPV6, Address, ipv6, transport_checksum

__all__ = [
    "ETHERTYPE_ARP",
    "QUESTIONS",
    "Neighbours",
    "Waiting",
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
SECOND = 1_000_000_000
QUESTIONS = 3
MAX_WAITING = 101  # packets for one neighbour: unres_qlen


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


def solicit(mac: bytes, source: IPv6Address, target: IPv6Address) -> bytes:
    """A frame with a neighbor solicitation for ``target`` (RFC 4861, section 4.3)."""
    group = ip_address(b"\xff\x02" + bytes(9) + b"\1\xff" + target.packed[13:])
    message = bytearray(bytes((135, 0, 0, 0)) + bytes(4) + target.packed + b"\1\1" + mac)
    message[2:4] = transport_checksum(source.packed, group.packed, ICMPV6, bytes(message)).to_bytes(
        2, "big"
    )
    packet = ipv6(source.packed, group.packed, ICMPV6, bytes(message), ttl=255)
    return ethernet(b"\x33\x33" + group.packed[12:], mac, packet)


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


@dataclass
class Waiting:
    """Packets for a neighbour whose link address is being asked for."""

    source: Address
    due: int
    questions: int = 1
    packets: list[bytes] = field(default_factory=list)


class Neighbours:
    """Link addresses by interface number and address."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, Address], bytes] = {}
        self.waiting: dict[tuple[int, Address], Waiting] = {}

    def wait(self, interface: int, address: Address, source: Address, packet: bytes,
             now: int) -> bool:  # fmt: skip
        """Keep a packet until its neighbour is known; whether the first question is due."""
        key = interface, address
        first = key not in self.waiting
        if first:
            self.waiting[key] = Waiting(source, now + SECOND)
        packets = self.waiting[key].packets
        packets.append(packet)
        if len(packets) > MAX_WAITING:
            del packets[0]
        return first

    def due(self, now: int) -> Iterator[tuple[int, int, Address, Waiting]]:
        """Questions to ask again and waits to give up until ``now``, in order of time.

        Yields time, interface, address and what waits; its ``questions`` is
        above :data:`QUESTIONS` when it has been given up.
        """
        while self.waiting:
            key = min(self.waiting, key=lambda k: self.waiting[k].due)
            waiting = self.waiting[key]
            if waiting.due > now:
                return
            time = waiting.due
            waiting.questions += 1
            waiting.due += SECOND
            if waiting.questions > QUESTIONS:
                del self.waiting[key]
            yield time, *key, waiting

    def learn(self, interface: int, address: Address, mac: bytes) -> list[bytes]:
        """Take a neighbour's link address; the packets that waited for it."""
        self.known[interface, address] = mac
        waiting = self.waiting.pop((interface, address), None)
        return [] if waiting is None else waiting.packets


def question(mac: bytes, source: Address, target: Address) -> bytes:
    """The frame that asks for a neighbour's link address."""
    if isinstance(target, IPv4Address):
        return arp(1, (mac, source.packed), (bytes(6), target.packed))
    assert isinstance(source, IPv6Address)
    return solicit(mac, source, target)
