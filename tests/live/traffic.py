"""Seeded random traffic across a router: flows, odd segments, ICMP errors, what is out of place."""

import random
import struct
from dataclasses import dataclass, field
from ipaddress import ip_address

from scapy.layers.sctp import crc32c

from lvscore.host.packets import checksum, ipv4, transport_checksum

ICMP, TCP, UDP, SCTP = 1, 6, 17, 132
IDENTIFICATION = 0x7007  # no host counts its own packets so far here
FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32


def packed(address: str) -> bytes:
    return ip_address(address).packed


def tcp(a, sport, b, dport, flags, seq, ack=0, payload=b"", window=64240, options=b"", bad=0):
    """A TCP packet; ``bad`` is added to its checksum."""
    head = struct.pack(
        ">HHIIBBHHH", sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF,
        (20 + len(options)) // 4 << 4, flags, window, 0, 0,
    )  # fmt: skip
    return _sealed(a, b, TCP, bytearray(head + options + payload), 16, bad)


def udp(a, sport, b, dport, payload=b"", bad=0, summed=True):
    segment = bytearray(struct.pack(">HHHH", sport, dport, 8 + len(payload), 0) + payload)
    if not summed:
        return ipv4(packed(a), packed(b), UDP, bytes(segment), identification=IDENTIFICATION)
    return _sealed(a, b, UDP, segment, 6, bad)


def _sealed(a, b, protocol, segment, at, bad):
    value = transport_checksum(packed(a), packed(b), protocol, bytes(segment)) or 0xFFFF
    segment[at : at + 2] = ((value + bad) & 0xFFFF).to_bytes(2, "big")
    return ipv4(packed(a), packed(b), protocol, bytes(segment), identification=IDENTIFICATION)


def sctp(a, sport, b, dport, tag, chunks, bad=0):
    """An SCTP packet of chunks (type, flags, value)."""
    body = b"".join(
        struct.pack(">BBH", kind, flags, 4 + len(value)) + value + bytes(-len(value) % 4)
        for kind, flags, value in chunks
    )
    head = struct.pack(">HHI", sport, dport, tag)
    sum_ = (crc32c(head + bytes(4) + body) + bad) & 0xFFFFFFFF
    packet = head + sum_.to_bytes(4, "big") + body
    return ipv4(packed(a), packed(b), SCTP, packet, identification=IDENTIFICATION)


def icmp(a, b, kind, code, rest, payload=b"", bad=0):
    message = bytearray(struct.pack(">BBH", kind, code, 0) + rest + payload)
    message[2:4] = ((checksum(message) + bad) & 0xFFFF).to_bytes(2, "big")
    return ipv4(packed(a), packed(b), ICMP, bytes(message), identification=IDENTIFICATION)


@dataclass
class Flow:
    """One flow as its two ends see it; ports are of the ends' own packets."""

    protocol: int
    here: tuple[str, int]
    """The end that began, and its side's port."""
    there: tuple[str, int]
    """Whom it believes to talk to."""
    side: str
    seq: list[int] = field(default_factory=lambda: [0, 0])
    steps: list[int] = field(default_factory=lambda: [0, 0])
    """How far either end of an SCTP association is."""
    opened: bool = False
    seen: bytes = b""
    """The latest packet of it that came out at the other end."""


class Traffic:
    """Makes packets one by one; :meth:`saw` tells it what came out."""

    def __init__(self, seed: int, protocols=(TCP, TCP, TCP, UDP, UDP, ICMP)) -> None:
        self.protocols = protocols
        self.latest: tuple[str, bytes] = ("cli", b"")
        self.chance = random.Random(seed)
        self.flows: list[Flow] = []
        self.port = 20000

    def next(self) -> tuple[str, bytes, Flow | None]:
        """The interface, the packet, and the flow that it begins or continues from its start; of
        a packet that something is odd about there is none."""
        chance = self.chance
        if self.latest[1] and chance.random() < 0.04:
            return *self.latest, None
        side, packet, flow = self._next()
        if chance.random() < 0.1:
            packet, flow = self._odd(packet), None
        self.latest = side, packet
        return side, packet, flow

    def _next(self) -> tuple[str, bytes, Flow | None]:
        chance = self.chance
        if not self.flows or chance.random() < 0.12:
            return self._begin()
        flow = chance.choice(self.flows[-12:])
        roll = chance.random()
        if roll < 0.03 and flow.seen and flow.protocol == TCP:
            return self._other_end(flow)
        if roll < 0.08 and flow.seen:
            return self._error(flow)
        if roll < 0.12:
            return self._stray()
        if roll < 0.52 and flow.seen:
            return self._answer(flow)
        return flow.side, self._packet(flow, 0, flow.here, flow.there), flow

    def saw(self, flow: Flow, packet: bytes) -> None:
        """A packet of the beginning end came out on the other side."""
        flow.seen = packet

    def _begin(self):
        chance = self.chance
        self.port += 1
        protocol = chance.choice(self.protocols)
        if chance.random() < 0.5:
            side, here = "cli", f"10.0.0.{chance.randint(1, 5)}"
            there = chance.choice(["10.0.0.200"] * 4 + ["172.16.1.7"])
        else:
            side, here = "srv", f"172.16.1.{chance.choice([7, 8, 9, 100])}"
            there = chance.choice([f"10.0.0.{chance.randint(1, 5)}"] * 4 + ["10.0.0.200"])
        port = chance.choice([22, 53, 80, 443, 8080, 5000])
        flow = Flow(protocol, (here, self.port), (there, port), side)
        flow.seq = [chance.getrandbits(32), chance.getrandbits(32)]
        self.flows.append(flow)
        return side, self._packet(flow, 0, flow.here, flow.there), flow

    def _packet(self, flow: Flow, end: int, source, target) -> bytes:
        chance = self.chance
        bad = chance.choice([0] * 19 + [1])
        payload = chance.randbytes(chance.choice([0, 0, 1, 5, 40, 500]))
        if flow.protocol == UDP:
            return udp(*source, *target, payload, bad, chance.random() > 0.1)
        if flow.protocol == SCTP:
            return self._association(flow, end, source, target, bad)
        if flow.protocol == ICMP:
            kind = chance.choice([8 if end == 0 else 0] * 15 + [15, 30, 17])
            identifier = struct.pack(">HH", flow.here[1] if end == 0 else target[1], 1)
            code = 3 if flow.here[1] % 4 == 0 else 0
            if payload[:1] == b"\1":
                code = 1  # of another flow
            return icmp(source[0], target[0], kind, code, identifier, payload, bad)
        if not flow.opened or chance.random() < 0.08:
            flow.opened = flow.opened or end == 1 or chance.random() < 0.3
            flags = SYN if end == 0 else SYN | ACK
            options = chance.choice(
                [b"", b"", b"\x02\x04\x05\xb4\x04\x02\x01\x03\x03\x07\x01\x01",
                 b"\x01\x03\x03\x02"]
            )  # fmt: skip
            payload = b""
        else:
            flags = chance.choice(
                [ACK] * 8 + [ACK | PSH] * 4 + [FIN | ACK] * 2
                + [RST, RST | ACK, SYN | FIN, 0, ACK | URG, SYN | ACK | URG, FIN]
            )  # fmt: skip
            options = b""
        seq, ack = flow.seq[end], flow.seq[1 - end]
        jump = chance.choice([0] * 12 + [1, -1, 1000, -1000, 70000, -70000, 1 << 30])
        lag = chance.choice([0] * 12 + [1, -1, 1000, -1000, 70000, -80000])
        if flags & RST and chance.random() < 0.2:
            seq, jump = 0, 0
        if not flags & ACK:
            ack, lag = chance.choice([0, ack]), 0
        window = chance.choice([64240] * 6 + [0, 1, 500, 65535])
        packet = tcp(*source, *target, flags, seq + jump, ack + lag, payload, window, options, bad)
        if not jump and not bad:
            length = len(payload) + (flags & 1) + (flags >> 1 & 1)
            flow.seq[end] = (seq + length) & 0xFFFFFFFF
        return packet

    def _association(self, flow: Flow, end: int, source, target, bad: int) -> bytes:
        """Mostly the next packet of an association's life; ``seq`` has the ends' own tags."""
        chance = self.chance
        steps = ([1, 10, 0, 7, 14], [2, 11, 3, 8])[end]
        step = chance.choice([flow.steps[end]] * 4 + [0, 1, 2, 3])
        flow.steps[end] = min(flow.steps[end] + chance.choice([0, 1, 1]), len(steps) - 1)
        kinds = [steps[min(step, len(steps) - 1)]]
        if chance.random() < 0.25:
            kinds = chance.choice(
                [[0], [0, 0], [3], [4], [5], [4, 4], [4, 0], [6], [9], [10, 0], [0, 10], [11, 0],
                 [1, 0], [0, 1], [11], [14], [8], [7], [2], [130], [4, 6], [9, 5]]
            )  # fmt: skip
        own, peer = flow.seq[end], flow.seq[1 - end]
        tag = 0 if kinds[0] == 1 else peer
        tag = chance.choice([tag] * 12 + [own, 0, 77])
        chunks = []
        for kind in kinds:
            value = chance.randbytes(chance.choice([0, 1, 4, 12, 33]))
            if kind in (1, 2):
                asked = chance.choice([own] * 8 + [99, 0])
                value = struct.pack(">IIHHI", asked, 65535, 2, 2, 1) + value
                value = value[: chance.choice([len(value)] * 12 + [8])]
            chunks.append((kind, chance.choice([0] * 5 + [1]), value))
        return sctp(*source, *target, tag, chunks, bad)

    def _answer(self, flow: Flow):
        """A packet of the other end, which answers what it saw."""
        seen = flow.seen
        source = str(ip_address(seen[12:16])), int.from_bytes(seen[20:22], "big")
        target = str(ip_address(seen[16:20])), int.from_bytes(seen[22:24], "big")
        if flow.protocol == ICMP:
            source = source[0], int.from_bytes(seen[24:26], "big")
        other = "srv" if flow.side == "cli" else "cli"
        side = self._side_of(target[0], other)
        return side, self._packet(flow, 1, target, source), None

    def _other_end(self, flow: Flow):
        """A segment of the other end that answers nothing: both begin, or one is gone."""
        seen = flow.seen
        source = str(ip_address(seen[12:16])), int.from_bytes(seen[20:22], "big")
        target = str(ip_address(seen[16:20])), int.from_bytes(seen[22:24], "big")
        flags = self.chance.choice([SYN, SYN, RST, RST | ACK, FIN | ACK, SYN | ACK])
        packet = tcp(*target, *source, flags, flow.seq[1] - (flags >> 1 & 1), flow.seq[0])
        return self._side_of(target[0], "srv"), packet, None

    def _odd(self, packet: bytes) -> bytes:
        """The packet with something of its headers changed, or cut."""
        chance = self.chance
        head, body = bytearray(packet[:20]), packet[20:]
        place = {TCP: 16, UDP: 6, ICMP: 2}.get(head[9], 0)
        match chance.choice(["tos", "flags", "ttl", "ttl", "sum", "cut", "checksum", "offset"]):
            case "tos":
                head[1] = chance.randrange(256)
            case "flags":  # that which is reserved, and DF
                head[6] = chance.choice([0x40, 0x80, 0xC0])
            case "ttl":
                head[8] = chance.choice([0, 1, 1, 2, 255])
            case "cut":
                body = body[: chance.choice([0, 2, 4, 7, 8, 12, 16, 19, 20])]
            case "checksum" if place and len(body) >= place + 2:
                body = body[:place] + chance.choice([b"\0\0", b"\1\2"]) + body[place + 2 :]
            case "offset" if head[9] == TCP and len(body) > 12:
                body = body[:12] + bytes([chance.choice([0x30, 0x40, 0x60, 0xF0])]) + body[13:]
            case "sum":
                head[10] ^= 1
                return bytes(head) + body
        head[2:4] = (20 + len(body)).to_bytes(2, "big")
        head[10:12] = b"\0\0"
        head[10:12] = checksum(head).to_bytes(2, "big")
        return bytes(head) + body

    def _side_of(self, address: str, default: str) -> str:
        if address.startswith("10.0.0."):
            return "cli"
        return "srv" if address.startswith("172.16.1.") else default

    def _error(self, flow: Flow):
        chance = self.chance
        seen = bytearray(flow.seen)
        seen[8] -= 2
        seen[10:12] = b"\0\0"
        seen[10:12] = checksum(bytes(seen[:20])).to_bytes(2, "big")
        size = chance.choice([20, 22, 24, 28, 28, 28, 36, 40, 48, 100])
        reporter = str(ip_address(bytes(seen[16:20])))
        side = self._side_of(reporter, "srv")
        if chance.random() < 0.3:
            reporter = "172.16.1.9" if side == "srv" else "10.0.0.9"
        kind, code = chance.choice(
            [
                (3, 0),
                (3, 1),
                (3, 3),
                (3, 13),
                (3, 200),
                (11, 0),
                (11, 1),
                (12, 0),
                (12, 2),
                (4, 0),
                (5, 0),
                (5, 1),
                (1, 0),
                (6, 0),
                (40, 0),
            ]
        )
        target = str(ip_address(bytes(seen[12:16])))
        if chance.random() < 0.1:
            target = "10.0.0.3" if side == "srv" else "172.16.1.9"
        bad = chance.choice([0] * 9 + [1])
        return side, icmp(reporter, target, kind, code, bytes(4), bytes(seen[:size]), bad), None

    def _stray(self):
        """A packet of no flow."""
        chance = self.chance
        side = chance.choice(["cli", "srv"])
        here = "10.0.0.4" if side == "cli" else "172.16.1.8"
        there = chance.choice(["10.0.0.200", "172.16.1.200", "172.16.1.9", "10.0.0.2"])
        self.port += 1
        flags = chance.choice([RST, RST | ACK, FIN | ACK, SYN | ACK, 0, SYN | RST])
        packet = tcp(here, self.port, there, 80, flags, 1000, 2000)
        if chance.random() < 0.2:
            packet = icmp(here, there, 0, 0, struct.pack(">HH", self.port, 1), b"stray")
        return side, packet, None
