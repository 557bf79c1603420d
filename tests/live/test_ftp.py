"""The machine's own nf_conntrack_ftp and nf_nat_ftp as a witness.

Conversations of FTP's control connection, seeded and random, go through a network namespace and
through a Host with the same rules, and the data connections that they announce: what leaves must
be the same, byte for byte, and so must the lists of flows and of what is expected.
"""

import random
import re
import shutil
from dataclasses import dataclass, field
from ipaddress import ip_address

import kernel
import pytest
from test_netfilter import ADDRESSES, PEERS, ethernet, host, lasting
from traffic import ACK, FIN, PSH, RST, SYN, packed, tcp

from lvscore.host.packets import transport_checksum

SECOND = 1_000_000_000
HELPER = "-t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp"
SIX = {"cli": "fd00:a::200/64", "srv": "fd00:b::200/64"}
PEERS6 = {
    "cli": {f"fd00:a::{n}": f"02:00:00:00:20:{n:02x}" for n in (1, 2)},
    "srv": {f"fd00:b::{n}": f"02:00:00:00:21:{n:02x}" for n in (7, 8)},
}
# Rules, and conversations: who calls, by which interface, whom.
OUT, IN = ("srv", "10.0.0.1"), ("cli", "10.0.0.200")
CASES = {
    "source": (
        [
            "-t nat -A POSTROUTING -s 172.16.1.7 -o cli -j SNAT --to 210.110.120.130",
            "-t nat -A POSTROUTING -s 172.16.1.8 -o cli -j SNAT --to 1.1.1.1",
            "-t nat -A POSTROUTING -s 172.16.1.0/24 -o cli -j MASQUERADE",
        ],
        [("172.16.1.7", *OUT), ("172.16.1.8", *OUT), ("172.16.1.9", *OUT)],
    ),
    "destination": (
        [
            "-t nat -A PREROUTING -s 10.0.0.1 -p tcp --dport 21 -j DNAT --to 172.16.1.100",
            "-t nat -A PREROUTING -d 10.0.0.200 -p tcp --dport 21 -j DNAT --to 172.16.1.7:2121",
            "-t nat -A POSTROUTING -s 10.0.0.3 -o srv -j MASQUERADE",
        ],
        [("10.0.0.1", *IN), ("10.0.0.2", *IN), ("10.0.0.3", *IN)],
    ),
    "untranslated": (
        ["-t nat -A POSTROUTING -d 192.0.2.1 -j SNAT --to 1.1.1.1"],
        [("172.16.1.7", *OUT), ("10.0.0.1", "cli", "172.16.1.8")],
    ),
    "ipv6": (
        [
            "-t nat -A PREROUTING -d fd00:a::200 -p tcp --dport 21 -j DNAT --to fd00:b::7",
            "-t nat -A POSTROUTING -s fd00:b::8 -o cli -j SNAT --to fd00:a::100:200",
        ],
        [("fd00:a::1", "cli", "fd00:a::200"), ("fd00:b::8", "srv", "fd00:a::2")],
    ),
}
REASON = kernel.missing() or ("" if shutil.which("ethtool") else "ethtool is not installed")
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)


@pytest.fixture
def router():
    made = kernel.Router(ADDRESSES, PEERS)
    try:
        for link in ADDRESSES:  # the kernel leaves the checksum of what it edits to the device
            made.run(f"ethtool -K {link} tx off")
        made.run(f"iptables {HELPER}")
        made.run("iptables -t raw -F")
    except RuntimeError as error:
        made.close()
        pytest.skip(f"this kernel's conntrack has no helper for FTP: {error}")
    yield made
    made.close()


def with_ipv6(router, machine):
    """Give both IPv6 addresses and neighbours."""
    for name in ("all", *SIX):
        router.set(f"net.ipv6.conf.{name}.disable_ipv6", 0)
    router.set("net.ipv6.conf.all.forwarding", 1)
    machine.sysctl["net.ipv6.conf.all.forwarding"] = 1
    for link, address in SIX.items():
        router.run(f"ip addr add {address} dev {link} nodad")
        machine.add_address(link, address)
        for neighbour, mac in PEERS6[link].items():
            router.run(f"ip neigh replace {neighbour} lladdr {mac} dev {link} nud permanent")
            machine.add_neighbour(neighbour, mac, link)
    while router.take(0.2):
        pass


def segment(source, sport, target, dport, flags, seq, ack=0, text=b"", options=b""):
    """A TCP packet of IPv4 or IPv6."""
    if ":" not in source:
        return tcp(source, sport, target, dport, flags, seq, ack, text, options=options)
    four = tcp("10.0.0.1", sport, "10.0.0.2", dport, flags, seq, ack, text, options=options)
    head = bytearray(four[20:])
    head[16:18] = bytes(2)
    ends = packed(source), packed(target)
    head[16:18] = transport_checksum(*ends, 6, bytes(head)).to_bytes(2, "big")
    return b"\x60\0\0\0" + len(head).to_bytes(2, "big") + b"\x06\x40" + b"".join(ends) + head


def came_out(sent):
    """What came out of TCP: interface, packet."""
    out = []
    for link, frame in sent:
        if frame[12:14] == b"\x08\0":
            out.append((link, frame[14 : 14 + int.from_bytes(frame[16:18], "big")]))
        elif frame[12:14] == b"\x86\xdd" and frame[20] == 6:
            out.append((link, frame[14 : 54 + int.from_bytes(frame[18:20], "big")]))
    return out


def layer4(packet):
    """The TCP header and what follows it."""
    return packet[20:] if packet[0] >> 4 == 4 else packet[40:]


def payload(packet):
    tcp_ = layer4(packet)
    return tcp_[(tcp_[12] >> 4) * 4 :]


def expected(line):
    """A line about an expectation without the time that is left."""
    return line.partition(" ")[2]


class Both:
    """The kernel and lvscore, which get the same frames."""

    def __init__(self, router, rules, program="iptables"):
        self.router = router
        self.machine = host([])
        self.now = 0
        for rule in (HELPER, *rules):
            router.run(f"{program} {rule}")
            self.machine.engine.iptables(f"{program} {rule}")

    def send(self, link, packet):
        """What leaves for a packet: link and packet; None if nothing does."""
        self.now += SECOND // 1000
        frame = ethernet(link, packet)
        if packet[0] >> 4 == 6:
            frame = frame[:12] + b"\x86\xdd" + packet
        ours = came_out(self.machine.receive(link, frame, self.now))
        theirs = came_out(self.router.receive(link, frame, len(ours)))
        assert theirs == ours, (
            f"{link} {packet}\n{self.machine.engine.explain(frame, self.now)}\n{self.lists()}"
        )
        return ours[0] if ours else None

    def lists(self):
        engine = self.machine.engine
        return "\n".join(
            engine.conntrack(what) + self.router.run(f"conntrack {what}")
            for what in ("-L", "-L expect", "-L expect -f ipv6")
        )

    def compare_lists(self):
        if not shutil.which("conntrack"):
            return
        lists = {
            "-L": lasting, "-L expect": expected, "-L expect -f ipv6": expected, "-C expect": str,
        }  # fmt: skip
        for what, same in lists.items():
            ours = sorted(map(same, self.machine.engine.conntrack(what).splitlines()))
            theirs = sorted(map(same, self.router.run(f"conntrack {what}").splitlines()))
            assert ours == theirs


def ends(packet):
    """Source and destination of a TCP packet, each an address and a port."""
    at, size = (12, 4) if packet[0] >> 4 == 4 else (8, 16)
    source, destination = (str(ip_address(packet[n : n + size])) for n in (at, at + size))
    ports = layer4(packet)
    return (source, int.from_bytes(ports[:2], "big")), (
        destination, int.from_bytes(ports[2:4], "big")
    )  # fmt: skip


@dataclass
class Conversation:
    """A control connection: both ends as they see it."""

    both: Both
    side: str
    client: tuple[str, int]
    called: tuple[str, int]
    seq: list[int] = field(default_factory=list)
    """What each end sends next."""
    seen: list[int] = field(default_factory=list)
    """What each end has of the other."""
    server: tuple[str, int] = ("", 0)
    caller: tuple[str, int] = ("", 0)

    def open(self):
        """SYN, SYN and ACK, ACK, and a first line of each end."""
        _, out = self.both.send(self.side, segment(*self.client, *self.called, SYN, self.seq[0]))
        self.caller, self.server = ends(out)
        self.seq[0] += 1
        self.seen[1] = self.seq[0]
        answer = segment(*self.server, *self.caller, SYN | ACK, self.seq[1], self.seen[1])
        self.both.send(self.other, answer)
        self.seq[1] += 1
        self.seen[0] = self.seq[1]
        self.say(0, b"")
        self.say(1, b"220 ready\r\n")
        self.say(0, b"USER me\r\n")

    @property
    def other(self):
        return "cli" if self.side == "srv" else "srv"

    def segment(self, end, text, seq=None, flags=None, options=b""):
        addresses = (*self.client, *self.called) if end == 0 else (*self.server, *self.caller)
        flags = (ACK | PSH if text else ACK) if flags is None else flags
        seq = self.seq[end] if seq is None else seq
        return segment(*addresses, flags, seq, self.seen[end], text, options)

    def say(self, end, text, **more):
        """An end says something, and the other hears it; what it hears."""
        out = self.both.send(self.side if end == 0 else self.other, self.segment(end, text, **more))
        if out is None:
            return None
        heard = payload(out[1])
        if "seq" not in more:
            self.seq[end] += len(text)
            self.seen[1 - end] = int.from_bytes(layer4(out[1])[4:8], "big") + len(heard)
        return heard

    def acknowledge(self, end, blocks=()):
        """An end acknowledges all that it has, and perhaps blocks of it selectively."""
        options = b""
        if blocks:
            edges = b"".join((edge & 0xFFFFFFFF).to_bytes(4, "big") for edge in blocks)
            options = b"\1\1\5" + bytes([2 + len(edges)]) + edges
        self.say(end, b"", options=options)


def data(both, link, source, target):
    """Open a data connection from an end to where it was told, as far as it comes."""
    out = both.send(link, segment(*source, *target, SYN, 100))
    if out is None:
        return None
    there, packet = out
    caller, called = ends(packet)
    if there == link:
        return packet
    both.send(there, segment(*called, *caller, SYN | ACK, 500, 101))
    both.send(link, segment(*source, *target, ACK, 101, 501))
    both.send(link, segment(*source, *target, ACK | PSH, 101, 501, b"file"))
    return packet


def announced(text):
    """Address and port in what an end was told."""
    numbers = re.search(rb"(\d+),(\d+),(\d+),(\d+),(\d+),(\d+)", text)
    if numbers:
        n = [int(number) for number in numbers.groups()]
        return ".".join(map(str, n[:4])), n[4] << 8 | n[5]
    address, port = re.search(rb"\|([\d.a-f:]*)\|(\d+)\|", text).groups()
    return str(ip_address(address.decode())) if address else "", int(port)


def plain(address, port):
    return ",".join([*address.split("."), str(port >> 8), str(port & 255)])


def port_line(kind, address, port):
    return {
        "PORT": f"PORT {plain(address, port)}\r\n",
        "EPRT": f"EPRT |{2 if ':' in address else 1}|{address}|{port}|\r\n",
        "227": f"227 Entering Passive Mode ({plain(address, port)}).\r\n",
        "229": f"229 Entering Extended Passive Mode (|||{port}|)\r\n",
    }[kind].encode()


BAD = {
    0: [b"PORT 172,16,1\r\n", b"PORT ", b"P", b"EPRT |2|::1|5|\r\n", b"PORT 1,2,3,4,5,6",
        b"EPRT |1|172.16.1.7|\r\n", b"PORTX\r\n", b"NOOP\r\n", b"STOR x", b"port 9,9,9,9,9,9\r\n"],
    1: [b"227 nothing here\r\n", b"229 (|||)\r\n", b"22", b"227 9,9,9,9,9,9\r\n",
        b"229 Extended ((|||1|)\r\n", b"226 done\r\n", b"150 cut", b"229 |||99|\r\n"],
}  # fmt: skip


def run(both, number, client, side, called):
    chance = random.Random(f"{number} {client}")
    talk = Conversation(both, side, (client, 40000 + number), (called, 21),
                        [chance.getrandbits(32) for _ in "ab"], [0, 0])  # fmt: skip
    talk.open()
    kinds = ["PORT", "EPRT", "227", "229"] if "." in client else ["EPRT", "229"]
    for turn in range(14):
        kind = chance.choice([*kinds, *kinds, "bad", "ack", "chat"])
        end = 0 if kind in ("PORT", "EPRT") else 1
        # No two conversations have ports in common: no lots are drawn.
        port = chance.choice([1024 + chance.randrange(60000), 2222 + number, 40 + number])
        if kind == "bad":
            end = chance.randrange(2)
            text = chance.choice(BAD[end])
            if talk.say(end, text) is not None and not text.endswith(b"\n"):
                talk.say(end, b"\r\n")
        elif kind == "ack":
            end = chance.randrange(2)
            talk.acknowledge(end)
            talk.acknowledge(end, [talk.seen[end] + 5, talk.seen[end] + 9])
        elif kind == "chat":
            talk.say(0, b"NOOP\r\n")
            talk.say(1, b"200 yes\r\n")
        else:
            line = port_line(kind, (talk.client, talk.server)[end][0], port)
            before = talk.seq[end]
            heard = talk.say(end, line)
            talk.acknowledge(1 - end)
            if chance.random() < 0.3:
                talk.say(end, line, seq=before)
            if heard is None or chance.random() < 0.3:
                continue
            address, told = announced(heard)
            caller = talk.server if end == 0 else talk.client
            spoken_to = talk.caller if end == 0 else talk.called
            source = caller[0], 20 if end == 0 else 30000 + 100 * number + turn
            data(both, talk.other if end == 0 else side, source, (address or spoken_to[0], told))
    both.compare_lists()
    talk.say(0, b"", flags=chance.choice([FIN | ACK, RST | ACK]))


@pytest.mark.parametrize("name", CASES)
def test_the_same_bytes_leave_of_ftp(router, name):
    rules, conversations = CASES[name]
    both = Both(router, rules, "ip6tables" if name == "ipv6" else "iptables")
    if name == "ipv6":
        with_ipv6(router, both.machine)
    for number, conversation in enumerate(conversations):
        run(both, number, *conversation)
    both.compare_lists()
