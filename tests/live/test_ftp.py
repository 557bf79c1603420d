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
from test_netfilter import ADDRESSES, PEERS, ethernet, host, lasting, shown
from traffic import ACK, FIN, PSH, RST, SYN, tcp

SECOND = 1_000_000_000
HELPER = "-t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp"
RULES = {
    "masquerade": ["-t nat -A POSTROUTING -s 172.16.1.0/24 -o cli -j MASQUERADE"],
    "snat to a longer address": [
        "-t nat -A POSTROUTING -s 172.16.1.0/24 -o cli -j SNAT --to 210.110.120.130"
    ],
    "snat to a shorter address": ["-t nat -A POSTROUTING -s 172.16.1.0/24 -j SNAT --to 1.1.1.1"],
    "dnat": ["-t nat -A PREROUTING -d 10.0.0.200 -p tcp --dport 21 -j DNAT --to 172.16.1.100"],
    "dnat to another port": [
        "-t nat -A PREROUTING -d 10.0.0.200 -p tcp --dport 21 -j DNAT --to 172.16.1.7:2121"
    ],
    "both": [
        "-t nat -A PREROUTING -d 10.0.0.200 -p tcp --dport 21 -j DNAT --to 172.16.1.100",
        "-t nat -A POSTROUTING -o srv -j MASQUERADE",
        "-t nat -A POSTROUTING -s 172.16.1.0/24 -o cli -j MASQUERADE",
    ],
    "untranslated": ["-t nat -A POSTROUTING -d 192.0.2.1 -j SNAT --to 1.1.1.1"],
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
    except RuntimeError as error:
        made.close()
        pytest.skip(f"this kernel's conntrack has no helper for FTP: {error}")
    yield made
    made.close()


class Both:
    """The kernel and lvscore, which get the same frames."""

    def __init__(self, router, rules):
        for rule in rules:
            router.run(f"iptables {rule}")
        self.router = router
        self.machine = host([HELPER, *rules])
        self.now = 0

    def send(self, link, packet):
        """What leaves for a packet: link and packet; None if nothing does."""
        self.now += SECOND // 1000
        ours = shown(self.machine.receive(link, ethernet(link, packet), self.now))
        theirs = shown(self.router.receive(link, ethernet(link, packet), len(ours)))
        assert theirs == ours, (
            f"{link} {packet[40:]}: kernel {texts(theirs)}, lvscore {texts(ours)}\n"
            f"{self.machine.engine.explain(ethernet(link, packet), self.now)}\n"
            f"{self.lists()}"
        )
        return (ours[0][0], bytes.fromhex(ours[0][2])) if ours else None

    def lists(self):
        engine = self.machine.engine
        return "\n".join(
            engine.conntrack(what) + self.router.run(f"conntrack {what}")
            for what in ("-L", "-L expect")
        )

    def compare_lists(self):
        if not shutil.which("conntrack"):
            return
        for what, same in (("-L", lasting), ("-L expect", lambda line: line.partition(" ")[2])):
            ours = sorted(map(same, self.machine.engine.conntrack(what).splitlines()))
            theirs = sorted(map(same, self.router.run(f"conntrack {what}").splitlines()))
            assert ours == theirs


def texts(sent):
    return [(link, bytes.fromhex(hexed)[20:]) for link, _, hexed in sent]


def ends(packet):
    """Source and destination of a TCP packet, each an address and a port."""
    source, destination = (str(ip_address(packet[at : at + 4])) for at in (12, 16))
    sport, dport = (int.from_bytes(packet[at : at + 2], "big") for at in (20, 22))
    return (source, sport), (destination, dport)


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
        _, out = self.both.send(self.side, tcp(*self.client, *self.called, SYN, self.seq[0]))
        self.caller, self.server = ends(out)
        self.seq[0] += 1
        self.seen[1] = self.seq[0]
        answer = tcp(*self.server, *self.caller, SYN | ACK, self.seq[1], self.seen[1])
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
        return tcp(*addresses, flags, self.seq[end] if seq is None else seq, self.seen[end], text,
                   options=options)  # fmt: skip

    def say(self, end, text, **more):
        """An end says something, and the other hears it; what it hears."""
        out = self.both.send(self.side if end == 0 else self.other, self.segment(end, text, **more))
        if out is None:
            return None
        heard = out[1][20 + (out[1][32] >> 4) * 4 :]
        if "seq" not in more:
            self.seq[end] += len(text)
            self.seen[1 - end] = int.from_bytes(out[1][24:28], "big") + len(heard)
        return heard

    def acknowledge(self, end, blocks=()):
        """An end acknowledges all that it has, and perhaps blocks of it selectively."""
        options = b""
        if blocks:
            edges = b"".join((edge & 0xFFFFFFFF).to_bytes(4, "big") for edge in blocks)
            options = b"\1\1\5" + bytes([2 + len(edges)]) + edges
        self.say(end, b"", options=options)


def data(both, link, source, target, back_first=False):
    """Open a data connection from an end to where it was told, as far as it comes."""
    out = both.send(link, tcp(*source, *target, SYN, 100))
    if out is None:
        return None
    there, packet = out
    caller, called = ends(packet)
    if there == link:
        return packet
    both.send(there, tcp(*called, *caller, SYN | ACK, 500, 101))
    both.send(link, tcp(*source, *target, ACK, 101, 501))
    both.send(link, tcp(*source, *target, ACK | PSH, 101, 501, b"file"))
    return packet


def announced(text):
    """Address and port in what an end was told."""
    numbers = re.search(rb"(\d+),(\d+),(\d+),(\d+),(\d+),(\d+)", text)
    if numbers:
        n = [int(number) for number in numbers.groups()]
        return ".".join(map(str, n[:4])), n[4] << 8 | n[5]
    address, port = re.search(rb"\|([\d.]*)\|(\d+)\|", text).groups()
    return address.decode(), int(port)


def plain(address, port):
    return ",".join([*address.split("."), str(port >> 8), str(port & 255)])


def port_line(kind, address, port):
    return {
        "PORT": f"PORT {plain(address, port)}\r\n",
        "EPRT": f"EPRT |1|{address}|{port}|\r\n",
        "227": f"227 Entering Passive Mode ({plain(address, port)}).\r\n",
        "229": f"229 Entering Extended Passive Mode (|||{port}|)\r\n",
    }[kind].encode()


BAD = {
    0: [b"PORT 172,16,1\r\n", b"PORT ", b"P", b"EPRT |2|::1|5|\r\n", b"PORT 1,2,3,4,5,6",
        b"EPRT |1|172.16.1.7|\r\n", b"PORTX\r\n", b"NOOP\r\n", b"STOR x", b"port 9,9,9,9,9,9\r\n"],
    1: [b"227 nothing here\r\n", b"229 (|||)\r\n", b"22", b"227 9,9,9,9,9,9\r\n",
        b"229 Extended ((|||1|)\r\n", b"226 done\r\n", b"150 cut", b"229 |||99|\r\n"],
}  # fmt: skip


def run(both, seed, side, client, called):
    chance = random.Random(f"{seed} {side} {client}")
    talk = Conversation(both, side, client, called, [chance.getrandbits(32) for _ in "ab"], [0, 0])
    talk.open()
    number = client[1] - 40000  # no two conversations have ports in common: no lots are drawn
    for turn in range(14):
        kind = chance.choice(["PORT", "EPRT", "227", "229", "bad", "ack", "again", "chat"])
        end = 0 if kind in ("PORT", "EPRT") else 1
        speaker = talk.client if end == 0 else talk.server
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
            if kind == "again":
                kind = chance.choice(["PORT", "227"])
                end = 0 if kind == "PORT" else 1
                speaker = talk.client if end == 0 else talk.server
            line = port_line(kind, speaker[0], port)
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
            data(both, talk.other if end == 0 else side, source,
                 (address or spoken_to[0], told))  # fmt: skip
        both.compare_lists()
    final = chance.choice([FIN | ACK, RST | ACK])
    talk.say(0, b"", flags=final)


@pytest.mark.parametrize("name", RULES)
def test_the_same_bytes_leave_of_ftp(router, name):
    both = Both(router, RULES[name])
    inwards = "dnat" in name or name == "both"
    for number in range(3):
        if inwards or (name == "untranslated" and number == 1):
            called = "172.16.1.7" if name == "untranslated" else "10.0.0.200"
            run(both, number, "cli", (f"10.0.0.{1 + number}", 40000 + number), (called, 21))
        else:
            here = f"172.16.1.{7 + number}"
            run(both, number, "srv", (here, 40000 + number), ("10.0.0.1", 21))
    both.compare_lists()
