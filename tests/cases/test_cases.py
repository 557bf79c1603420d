"""Situations that other projects' tests describe, told anew: what goes in, what comes out, why.

Every case in the TOML files here names where the situation comes from; the expectation is IPVS's,
and so often another than theirs. `steps` is a text of lines:

    > PACKET : VERDICT REASON     a packet goes in (case_packets.py has the language)
    < PACKET                      what comes out for it, byte for byte; none: it is not changed
    & N PACKET                    N fragments come out, which together are the packet
    * N PACKET : OUTCOME=N ...    N packets go in, {n} counts them (and {8n}, {8m} the bytes 8n to
                                  8n+8): how many have each verdict and reason, joined by "/"
    + SECONDS                     time passes
    . PACKET : VERDICT REASON     a packet goes in, and what comes out is not looked at
    ! COMMAND                     an ipvsadm, iptables or conntrack command; or NAME=VALUE
    x COMMAND : WORDS             a command that is refused, with these words
    = OPTIONS : WORD -WORD ...    the one line of `conntrack -L OPTIONS` has the words, and not
                                  those behind a `-`; or `none`: no line
    d N PACKET : LEAST-MOST       how many source addresses N packets leave with
    ~ N PACKET : SERVER=N ...     N packets, {n} counts them: how many each server gets, and with
                                  moved=N how many another than in the `~` line before
    # PORT LEAST-MOST             all flows with this source port are translated to ports of these
    ? NAME=N                      a counter of the engine's

`<NAME>` in an outgoing packet is a port, or the identifier of an echo, that was drawn, and
`(NAME)` an address; from there on it stands for that.

On a Host (`host = true`) packets go in and come out with their interface: `> cli PACKET`,
`< cli PACKET`, and `! mtu IF N` sets an MTU.

A file's table `words` has abbreviations: $NAME in a line. `config` may name an entry of its table
`configs`.
"""

import re
import tomllib
from collections import Counter
from pathlib import Path
from string import Template

import origins
import pytest
from case_packets import frame, identification_place
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

import lvscore
from lvscore import conntrack

SECOND = 1_000_000_000
FILES = sorted(Path(__file__).parent.glob("*.toml"))


def cases(path):
    """The cases of a file, written out."""
    content = tomllib.loads(path.read_text())
    configs, names = content.get("configs", {}), content.get("words", {})
    for case in content["case"]:
        config = case.get("config", [])
        case["config"] = configs[config] if isinstance(config, str) else config
        case["steps"] = Template(case["steps"]).substitute(names)
        yield pytest.param(case, id=f"{path.stem}/{case['name']}")


CASES = [case for path in FILES for case in cases(path)]
LINKS = {"cli": "02:00:00:00:10:01", "srv": "02:00:00:00:11:01"}
NEIGHBOURS = {"cli": "02:00:00:00:00:01", "srv": "02:00:00:00:00:07"}
VIPS = ("172.16.1.100/32", "2001:db8::100/128")


class EngineRunner:
    """Runs a case's lines on an engine alone."""

    def __init__(self, case):
        self.engine = lvscore.Engine(seed=1, max_connections=case.get("max_connections", 65536))
        self.engine.routes.add_interface("eth0", VIPS)
        self.now = 0
        self.out = []
        self.servers = {}
        self.drawn = {}

    def known(self, text):
        """The text with the numbers that were drawn before."""
        return re.sub(r"<\w+>|\(\w+\)", lambda found: self.drawn[found[0]], text)

    def send(self, text):
        data = bytearray(frame(text))
        before = bytes(data)
        verdict = self.engine.process(data, self.now)
        reason = self.engine.last_reason
        emitted = self.engine.emitted
        if verdict.name == "STOLEN":
            self.out = [bytes(emitted[i]) for i in range(len(emitted))]
        elif bytes(data) != before or verdict.name == "FORWARD":
            self.out = [bytes(data)]
        return f"{verdict.name} {reason.name}"

    def packet_in(self, rest):
        assert self.out == [], "came out, and no line tells"
        text, _, outcome = rest.rpartition(" : ")
        assert self.send(self.known(text)) == outcome

    def packet_through(self, rest):
        self.packet_in(rest)
        self.out = []

    def packet_out(self, text):
        assert self.out, "nothing came out"
        found = bytearray(self.out.pop(0))
        self.draw(text, Ether(bytes(found)))
        text = self.known(text)
        expected = bytearray(frame(text))
        place = identification_place(text)
        if place is not None:  # drawn by lot
            found[place : place + 4] = expected[place : place + 4]
        assert Ether(found).show2(dump=True) == Ether(expected).show2(dump=True)
        assert found == expected

    def draw(self, text, packet):
        """Learn what the names in an outgoing packet stand for that are new."""
        for name in re.findall(r"<\w+>|\(\w+\)", text):
            source = text.index(name) < text.index("->")
            network, upper = packet.payload, packet.payload.payload
            if name[0] == "(":
                drawn = network.src if source else network.dst
            elif ICMP in packet:
                drawn = packet[ICMP].id
            else:
                drawn = upper.sport if source else upper.dport
            self.drawn.setdefault(name, str(drawn))

    def sources(self, rest):
        packets, _, expected = rest.rpartition(" : ")
        number, text = packets.split(" ", 1)
        found = set()
        for n in range(int(number)):
            self.out = []
            self.send(text.replace("{n}", str(n)))
            found.add(Ether(self.out[0])[IP].src)
        self.out = []
        least, most = map(int, expected.split("-"))
        assert least <= len(found) <= most, found

    def ports(self, rest):
        port, _, bounds = rest.partition(" ")
        least, most = map(int, bounds.split("-"))
        given = [
            entry.reply.destination_port
            for entry in conntrack.entries(self.engine)
            if entry.original.source_port == int(port)
        ]
        assert given
        assert all(least <= number <= most for number in given), given

    def time(self, rest):
        self.now += round(float(rest) * SECOND)
        self.engine.expire(self.now)

    def command(self, rest):
        if rest.startswith(("-t nat", "-t mangle", "-t raw", "iptables", "ip6tables")):
            self.engine.iptables(rest)
        elif rest.startswith("conntrack"):
            self.engine.conntrack(self.known(rest))
        elif rest.startswith("-"):
            self.engine.ipvsadm(rest)
        else:
            name, value = rest.split("=")
            space = "net.netfilter" if name.startswith("nf_") else "net.ipv4.vs"
            self.engine.sysctl[f"{space}.{name}"] = int(value)

    def refused(self, rest):
        command, _, words = rest.rpartition(" : ")
        before = [str(rule) for rule in self.engine.rules]
        with pytest.raises(lvscore.errors.CommandError) as caught:
            self.command(command)
        assert words in str(caught.value)
        assert [str(rule) for rule in self.engine.rules] == before

    def entry(self, rest):
        options, _, expected = self.known(rest).rpartition(": ")
        lines = self.engine.conntrack(f"-L {options}").splitlines()
        if expected == "none":
            assert lines == []
            return
        (line,) = lines
        for word in expected.split():
            assert (word.lstrip("-") in line) != word.startswith("-"), line

    def many(self, rest):
        packets, _, expected = self.known(rest).rpartition(" : ")
        number, text = packets.split(" ", 1)
        chosen = {}
        for n in range(int(number)):
            self.out = []
            self.send(text.replace("{n}", str(n)).replace("{h}", f"{n:x}"))
            packet = Ether(self.out[0])
            chosen[n] = packet[IPv6 if IPv6 in packet else IP].dst
        self.out = []
        counted = Counter(chosen.values())
        counted["moved"] = sum(chosen[n] != before for n, before in self.servers.items())
        for word in expected.split():
            name, _, count = word.rpartition("=")
            assert counted.pop(name) == int(count), f"{name}: {counted}"
        assert not set(counted) - {"moved"}
        self.servers = chosen

    def repeated(self, rest):
        packets, _, expected = rest.rpartition(" : ")
        number, text = packets.split(" ", 1)
        counted = Counter()
        for n in range(int(number)):
            self.out = []
            one = text.replace("{n}", str(n)).replace("{8n}", str(8 * n))
            counted[self.send(one.replace("{8m}", str(8 * n + 8))).replace(" ", "/")] += 1
        self.out = []
        assert counted == {
            name: int(count) for name, count in (word.split("=") for word in expected.split())
        }

    def fragments_out(self, rest):
        number, text = rest.split(" ", 1)
        assert len(self.out) == int(number)
        pieces = [Ether(raw)[IP] for raw in self.out]
        assert [piece.flags.MF for piece in pieces] == [1] * (len(pieces) - 1) + [0]
        data = b""
        for piece in pieces:
            assert piece.frag * 8 == len(data)
            data += bytes(piece)[piece.ihl * 4 : piece.len]
        self.out = []
        expected = Ether(frame(text))[IP]
        assert (pieces[0].src, pieces[0].dst) == (expected.src, expected.dst)
        assert data == bytes(expected.payload)

    def counter(self, rest):
        name, value = rest.split("=")
        found = (
            len(self.engine.connections) if name == "connections" else self.engine.counters[name]
        )
        assert found == int(value)

    def end(self):
        assert self.out == [], "came out, and no line tells"
        assert self.engine._selfcheck() == 0


class HostRunner(EngineRunner):
    """Runs a case's lines on a Host with two arms."""

    def __init__(self, case):
        super().__init__(case)
        self.engine = lvscore.Engine(seed=1)
        self.host = host = lvscore.Host(self.engine)
        addresses = {
            "cli": ["172.16.0.3/24", "2001:db8:c::3/64"],
            "srv": ["172.16.1.3/24", "2001:db8:1::3/64", *VIPS],
        }
        for name, link in LINKS.items():
            host.add_interface(name, addresses=addresses[name], mac=link)
        for address in ("172.16.0.1", "2001:db8:c::1"):
            host.add_route("default" if "." in address else "2001:db8:a::/64", via=address)
            host.add_neighbour(address, NEIGHBOURS["cli"], "cli")
        for address in ("172.16.1.7", "2001:db8:1::7"):
            host.add_neighbour(address, NEIGHBOURS["srv"], "srv")
        host.sysctl["net.ipv4.ip_forward"] = 1
        host.sysctl["net.ipv6.conf.all.forwarding"] = 1

    def packet_in(self, rest):
        assert self.out == [], "came out, and no line tells"
        side, text = self.known(rest).split(" ", 1)
        link = {"src": NEIGHBOURS[side], "dst": LINKS[side]}
        self.out = self.host.receive(side, frame(text, link), self.now)

    def packet_out(self, rest):
        assert self.out, "nothing came out"
        side, text = rest.split(" ", 1)
        name, found = self.out.pop(0)
        assert name == side
        link = {"dst": NEIGHBOURS[side], "src": LINKS[side]}
        self.draw(text, Ether(found))
        expected = frame(self.known(text), link)
        found, expected = Ether(found), Ether(expected)
        if IP in found and found[IP].proto == 1 and IP in expected:
            # The identification of a Host's own messages is drawn by lot.
            expected[IP].id = found[IP].id
            del expected[IP].chksum
        if IPv6 in found and found[IPv6].nh == 58 and IPv6 in expected:
            expected[IPv6].fl = found[IPv6].fl
        expected = bytes(expected)
        assert found.show2(dump=True) == Ether(expected).show2(dump=True)
        assert bytes(found) == expected

    def time(self, rest):
        self.now += round(float(rest) * SECOND)
        self.out = self.host.advance(self.now)

    def command(self, rest):
        if rest.startswith("mtu "):
            _, name, value = rest.split()
            self.host.set_mtu(name, int(value))
        else:
            super().command(rest)


LINES = {">": "packet_in", "<": "packet_out", "+": "time", "!": "command", "~": "many",
         "?": "counter", "*": "repeated", "&": "fragments_out", ".": "packet_through",
         "x": "refused", "=": "entry", "d": "sources", "#": "ports"}  # fmt: skip


def test_there_are_enough_cases_and_each_says_where_from_and_why():
    told = [parameter.values[0] for parameter in CASES]
    assert sum(not case["origin"].startswith("lvscore") for case in told) >= 220
    assert sum(origins.is_nat(*case) for case in origins.cases()) >= 130
    assert len({case["origin"] for case in told}) >= 160
    for case in told:
        assert case["origin"].split(":")[0] in (
            "katran", "VPP", "OpenBSD", "Click", "Linux", "OVS", "lvscore",
        )  # fmt: skip
        assert case["why"].endswith(".")


def test_the_page_tells_where_the_cases_come_from():
    assert origins.DOCUMENT.read_text() == origins.text()


def run(case, config):
    runner = HostRunner(case) if case.get("host") else EngineRunner(case)
    for command in config:
        runner.command(command)
    for number, line in enumerate(case["steps"].strip().splitlines(), 1):
        kind, _, rest = line.strip().partition(" ")
        try:
            getattr(runner, LINES[kind])(rest.strip())
        except AssertionError as error:
            raise AssertionError(f"line {number}: {line.strip()}\n{error}") from None
    runner.end()


@pytest.mark.parametrize("case", CASES)
def test_case(case):
    run(case, case["config"])


def test_cases_of_nat_fail_without_their_rules():
    """A case that passes with nothing configured says nothing."""
    stems = {
        path.stem
        for path in FILES
        if path.stem.startswith(("click", "netfilter", "ovs", "rfc", "vpp_nat"))
    }
    for parameter in CASES:
        case = parameter.values[0]
        if parameter.id.split("/")[0] in stems and case["config"]:
            with pytest.raises((AssertionError, lvscore.errors.LvscoreError, IndexError)):
                run(case, [])
