"""FTP through NAT rules: what conntrack's helper expects, rewrites and follows."""

import re
import struct
from dataclasses import dataclass, field

import pytest
from ftp_segments import Segment, endpoint, plain, segment
from hypothesis import given, settings
from hypothesis import strategies as st
from packets import CLIENT, RS1, SECOND, VIP, tcp

from lvscore import Engine, FrameBatch, Reason, Verdict, conntrack
from lvscore.conntrack import expectations
from lvscore.errors import ConfigError

SERVER, SERVER6 = "198.51.100.21", "2001:db8:2::21"
CLIENT6, OUT6 = "2001:db8:a::9", "2001:db8::200"
HELPER = "-t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp"


def engine_with(*rules, six=False):
    engine = Engine(seed=1)
    program = "ip6tables" if six else "iptables"
    for rule in (HELPER, *rules):
        engine.iptables(f"{program} {rule}")
    return engine


@dataclass
class Talk:
    """A control connection, whose ends number their own streams; ``nat`` is whom the server sees,
    ``called`` whom the client calls."""

    engine: Engine
    client: str = CLIENT
    nat: str = CLIENT
    called: str = SERVER
    server: str = SERVER
    port: int = 40000
    now: int = SECOND
    next: list = field(default_factory=lambda: [1000, 5000])
    has: list = field(default_factory=lambda: [0, 0])
    """What each end acknowledges."""

    def __post_init__(self):
        self.has = [0, 0]
        self.send(0, "S")
        self.has[1] = self.next[0] = self.next[0] + 1
        self.send(1, "SA")
        self.has[0] = self.next[1] = self.next[1] + 1
        self.send(0, "A")
        self.say(1, b"220 ready\r\n")
        self.say(0, b"USER me\r\n")

    def frame(self, end, flags="A", text=b"", seq=None, options=()):
        seq = self.next[end] if seq is None else seq
        if end == 0:
            return segment(self.client, self.port, self.called, 21, flags, text, seq, self.has[0],
                           options)  # fmt: skip
        return segment(self.server, 21, self.nat, self.port, flags, text, seq, self.has[1], options)

    def process(self, frame):
        """Verdict, and what leaves as its receiver reads it."""
        self.now += SECOND // 1000
        verdict = self.engine.process(frame, self.now)
        assert self.engine._selfcheck() == 0
        if verdict == Verdict.STOLEN:
            (frame,) = (bytearray(one) for one in self.engine.emitted)
            verdict = Verdict(int(self.engine.emitted.verdict[0]))
        return verdict, None if verdict == Verdict.DROP else Segment.read(frame)

    def send(self, end, flags="A", text=b"", **more):
        verdict, out = self.process(self.frame(end, flags, text, **more))
        assert verdict == Verdict.FORWARD
        assert out.flow == (
            (self.nat, self.port, self.server, 21) if end == 0
            else (self.called, 21, self.client, self.port)
        )  # fmt: skip
        return out

    def say(self, end, text):
        """An end says a text, and what the other end hears, without a gap in its stream."""
        expected = self.has[1 - end]
        out = self.send(end, "PA", text)
        assert out.seq == expected
        self.next[end] += len(text)
        self.has[1 - end] += len(out.payload)
        return out.payload

    def answer(self, end, *edges):
        """An end acknowledges, and perhaps a later block: the other's own numbers come there."""
        options = [("NOP", None), ("SAck", edges)] if edges else []
        return self.send(end, options=options)

    def data(self, source, destination):
        """The first packet of a data connection: its flow behind translation, or the verdict."""
        verdict, out = self.process(tcp(*source, *destination))
        return out.flow if verdict == Verdict.FORWARD else verdict

    @property
    def expected(self):
        return expectations(self.engine)


SNAT = "-t nat -A POSTROUTING -d 198.51.100.0/24 -j SNAT --to "
DNAT = "-t nat -A PREROUTING -d {} -j DNAT --to {}"


@pytest.mark.parametrize("out", ["203.110.120.130", "1.1.1.1", "10.0.0.8"])
@pytest.mark.parametrize("form", ["PORT", "EPRT"])
def test_an_active_connection(form, out):
    talk = Talk(engine_with(SNAT + out), nat=out)

    def line(address):
        if form == "PORT":
            return b"PORT " + plain(address, 51210) + b"\r\n"
        return f"EPRT |1|{address}|51210|\r\n".encode()

    heard = talk.say(0, line(CLIENT))
    assert heard == line(out)
    (one,) = talk.expected
    assert (str(one.source), str(one.destination), one.destination_port) == (SERVER, out, 51210)
    # Acknowledgments come in the numbers of whoever sent, selective ones too.
    told = talk.has[1]
    back = talk.answer(1, told, told + 5)
    assert back.ack == talk.next[0]
    assert struct.unpack(">2I", back.options.lstrip(b"\1")[2:10]) == (
        talk.next[0],
        talk.next[0] + 5,
    )
    assert talk.say(0, b"NLST\r\n") == b"NLST\r\n"
    assert talk.answer(1).ack == talk.next[0]
    # The server connects to whom it was told, and the client sees whom it spoke to.
    assert talk.data((SERVER, 20), (out, 51210)) == (SERVER, 20, CLIENT, 51210)
    assert talk.expected == []
    verdict, reply = talk.process(tcp(CLIENT, 51210, SERVER, 20, "SA", seq=7, ack=1001))
    assert (verdict, reply.flow) == (Verdict.FORWARD, (out, 51210, SERVER, 20))
    line, *more = talk.engine.conntrack("-L -u EXPECTED").splitlines()
    assert not more
    assert f"src={SERVER} dst={out} sport=20 dport=51210 src={CLIENT}" in line
    control = "-L -p tcp --dport 21"
    assert "mark=0 helper=ftp use=1" in talk.engine.conntrack(control)
    assert "</meta><helper>ftp</helper></flow>" in talk.engine.conntrack(f"{control} -o xml")
    assert '"helper": "ftp"' in talk.engine.conntrack(f"{control} -o json")


@pytest.mark.parametrize("vip", ["203.110.120.130", "1.1.1.1", "172.16.1.8"])
@pytest.mark.parametrize("form", ["227", "229"])
def test_a_passive_connection(form, vip):
    talk = Talk(engine_with(DNAT.format(vip, RS1)), called=vip, server=RS1)

    def line(address):
        if form == "227":
            return b"227 Entering Passive Mode (" + plain(address, 51210) + b").\r\n"
        return b"229 Entering Extended Passive Mode (|||51210|)\r\n"

    assert talk.say(1, line(RS1)) == line(vip)
    assert talk.answer(0).ack == talk.next[1]
    assert talk.say(1, b"150 here\r\n") == b"150 here\r\n"
    assert talk.answer(0).ack == talk.next[1]
    assert talk.data((CLIENT, 41000), (vip, 51210)) == (CLIENT, 41000, RS1, 51210)


def test_eprt_and_229_over_ipv6():
    talk = Talk(engine_with(f"-t nat -A POSTROUTING -d {SERVER6} -j SNAT --to {OUT6}", six=True),
                client=CLIENT6, nat=OUT6, called=SERVER6, server=SERVER6)  # fmt: skip
    heard = talk.say(0, f"EPRT |2|{CLIENT6}|6275|\r\n".encode())
    # In full, as the kernel prints it.
    assert heard == b"EPRT |2|2001:0db8:0000:0000:0000:0000:0000:0200|6275|\r\n"
    assert talk.answer(1).ack == talk.next[0]
    assert talk.data((SERVER6, 20), (OUT6, 6275)) == (SERVER6, 20, CLIENT6, 6275)
    assert talk.say(1, b"229 Extended (|||6446|)\r\n") == b"229 Extended (|||6446|)\r\n"
    assert "mask-src=ffff:ffff:ffff" in talk.engine.conntrack("-L expect -f ipv6")
    assert talk.engine.conntrack("-L expect") == ""
    assert talk.data((CLIENT6, 41000), (SERVER6, 6446)) == (OUT6, 41000, SERVER6, 6446)
    # PORT is not for IPv6: its address is nobody's here.
    assert talk.say(0, b"PORT 1,2,3,4,5,6\r\n") == b"PORT 1,2,3,4,5,6\r\n"
    assert talk.expected == []


def test_what_goes_both_ways_through_translation():
    talk = Talk(
        engine_with(DNAT.format(VIP, RS1), "-t nat -A POSTROUTING -j SNAT --to 10.9.8.7"),
        nat="10.9.8.7", called=VIP, server=RS1,
    )  # fmt: skip
    assert talk.say(0, b"PORT " + plain(CLIENT, 3333) + b"\r\n").startswith(b"PORT 10,9,8,7,")
    assert talk.data((RS1, 20), ("10.9.8.7", 3333)) == (VIP, 20, CLIENT, 3333)
    assert plain(VIP, 3334) in talk.say(1, b"227 (" + plain(RS1, 3334) + b")\r\n")
    assert talk.data((CLIENT, 41000), (VIP, 3334)) == ("10.9.8.7", 41000, RS1, 3334)


def test_nothing_is_translated_and_still_expected():
    talk = Talk(engine_with())
    line = b"PORT " + plain(CLIENT, 3333) + b"\r\n"
    assert talk.say(0, line) == line
    assert talk.data((SERVER, 20), (CLIENT, 3333)) == (SERVER, 20, CLIENT, 3333)
    assert "dport=3333" in talk.engine.conntrack("-L -u EXPECTED")


def test_a_retransmission_is_rewritten_again():
    talk = Talk(engine_with(SNAT + "203.110.120.130"), nat="203.110.120.130")
    line = b"PORT " + plain(CLIENT, 3333) + b"\r\n"
    seq = talk.next[0]
    heard = talk.say(0, line)
    assert talk.data((SERVER, 20), (talk.nat, 3333)) == (SERVER, 20, CLIENT, 3333)
    out = talk.send(0, "PA", line, seq=seq)
    assert (out.seq, out.payload) == (seq, heard)
    assert len(talk.expected) == 1
    assert talk.say(0, b"NLST\r\n") == b"NLST\r\n"


@pytest.mark.parametrize(
    ("end", "text"),
    [
        (0, b"PO"), (0, b"PORT"), (0, b"PORT 10,0,0,9,13,5"), (0, b"PORT 10,0,0,9,13\r\n"),
        (0, b"EPRT |2|::1|5|\r\n"), (0, b"eprt 1111.1.1.1151"), (1, b"227 Entering"),
        (1, b"227 =0,10,0,0,2,156,65\r\n"), (1, b"229 (|||5"), (1, b"229 (||5|)\r\n"), (1, b"22"),
    ],
)  # fmt: skip
def test_what_is_cut_has_to_come_again(end, text):
    talk = Talk(engine_with(SNAT + "10.0.0.8"), nat="10.0.0.8")
    seq = talk.next[end]
    assert talk.process(talk.frame(end, "PA", text))[0] == Verdict.DROP
    assert talk.engine.last_reason == Reason.PARTIAL_COMMAND
    assert talk.next[end] == seq
    whole = [b"PORT " + plain(CLIENT, 3333) + b"\r\n", b"229 (|||3333|)\r\n"][end]
    talk.say(end, whole)
    assert len(talk.expected) == 1


def test_port_0_is_no_port_to_tell():
    """nf_nat_exp_find_port says 0 where it found none; what it expects stays expected."""
    talk = Talk(engine_with(SNAT + "10.0.0.8"), nat="10.0.0.8")
    line = b"PORT " + plain(CLIENT, 0) + b"\r\n"
    assert talk.process(talk.frame(0, "PA", line))[0] == Verdict.DROP
    assert talk.engine.last_reason == Reason.NO_PORT
    assert [one.destination_port for one in talk.expected] == [0]
    assert Talk(engine_with()).say(0, line) == line


@pytest.mark.parametrize(
    ("text", "expected"), [(b"PORT 10,0,0,300,1,1\r\n", 0), (b"PORT 10,0,0,9,13,256\r\n", 1)]
)
def test_numbers_of_any_size_are_put_together_by_their_bits(text, expected):
    """10,0,0,300 is 10.0.1.44, and 13,256 port 13 << 8 | 256 (try_rfc959)."""
    talk = Talk(engine_with(SNAT + "10.0.0.8"), nat="10.0.0.8")
    heard = talk.say(0, text)
    assert len(talk.expected) == expected
    assert heard == (b"PORT 10,0,0,8,13,0\r\n" if expected else text)


def test_only_the_beginning_of_a_line_is_read():
    talk = Talk(engine_with(SNAT + "10.0.0.8"), nat="10.0.0.8")
    line = b"PORT " + plain(CLIENT, 3333) + b"\r\n"
    assert talk.say(0, b"NOOP\r") == b"NOOP\r"
    assert talk.say(0, line) == line
    assert talk.expected == []
    assert talk.say(0, line) != line
    assert len(talk.expected) == 1
    # A line in the same segment behind another is not looked at.
    other = b"NOOP\r\nPORT " + plain(CLIENT, 4444) + b"\r\n"
    assert talk.say(0, other) == other
    assert [one.destination_port for one in talk.expected] == [3333]


def test_an_expectation_lasts_five_minutes():
    for seconds, flow in ((299.99, (SERVER, 20, CLIENT, 3333)), (300.01, None)):
        talk = Talk(engine_with(SNAT + "10.0.0.8"), nat="10.0.0.8")
        talk.say(0, b"PORT " + plain(CLIENT, 3333) + b"\r\n")
        assert talk.engine.conntrack("-L expect").startswith("300 proto=6 src=198.51.100.21 ")
        talk.now += round((seconds - 0.001) * SECOND)
        data = talk.data((SERVER, 20), ("10.0.0.8", 3333))
        assert data == (flow or (SERVER, 20, "10.0.0.8", 3333))
        assert talk.expected == []


def test_the_second_expectation_replaces_the_first():
    talk = Talk(engine_with(SNAT + "10.0.0.8"), nat="10.0.0.8")
    for port in (3333, 4444):
        talk.say(0, b"PORT " + plain(CLIENT, port) + b"\r\n")
    assert [one.destination_port for one in talk.expected] == [4444]
    assert talk.data((SERVER, 20), ("10.0.0.8", 3333)) == (SERVER, 20, "10.0.0.8", 3333)
    assert talk.data((SERVER, 20), ("10.0.0.8", 4444)) == (SERVER, 20, CLIENT, 4444)


def test_a_port_that_another_master_expects_is_passed_by():
    engine = engine_with(SNAT + "10.0.0.8")
    talks = [Talk(engine, f"10.0.0.{n}", nat="10.0.0.8", port=40000 + n) for n in range(9, 30)]
    told = {}
    for talk in talks:
        heard = talk.say(0, b"PORT " + plain(talk.client, 3333) + b"\r\n")
        numbers = [int(n) for n in re.findall(rb"\d+", heard)]
        told[numbers[4] << 8 | numbers[5]] = talk
    assert len(told) == len(talks)
    assert min(told) == 3333
    assert max(told) > 3333 + len(talks)
    for port, talk in told.items():
        assert talk.data((SERVER, 20), ("10.0.0.8", port)) == (SERVER, 20, talk.client, 3333)
    assert engine.conntrack("-C expect") == "0\n"


@pytest.mark.parametrize("end", [0, 1])
def test_a_foreign_address_is_not_expected(end):
    talk = Talk(engine_with(SNAT + "10.0.0.8"), nat="10.0.0.8")
    line = [b"PORT 10,0,0,77,1,2\r\n", b"227 (198,51,100,22,1,2)\r\n"][end]
    assert talk.say(end, line) == line
    assert talk.expected == []


def test_an_expectation_ends_with_its_master():
    talk = Talk(engine_with(SNAT + "10.0.0.8"), nat="10.0.0.8")
    talk.say(0, b"PORT " + plain(CLIENT, 3333) + b"\r\n")
    talk.engine.conntrack("-D -p tcp --dport 21")
    assert talk.expected == []
    assert talk.engine._selfcheck() == 0
    assert talk.data((SERVER, 20), ("10.0.0.8", 3333)) == (SERVER, 20, "10.0.0.8", 3333)


def test_listing_what_is_expected():
    talk = Talk(engine_with(SNAT + "10.0.0.8"), nat="10.0.0.8")
    talk.say(0, b"PORT " + plain(CLIENT, 3333) + b"\r\n")
    assert talk.engine.conntrack("-L expect -o xml").splitlines() == [
        '<?xml version="1.0" encoding="utf-8"?>',
        "<expect>",
        '<flow><layer3 protonum="2" protoname="ipv4"><expected><src>198.51.100.21</src>'
        "<dst>10.0.0.8</dst></expected><mask><src>255.255.255.255</src>"
        "<dst>255.255.255.255</dst></mask><master><src>10.0.0.9</src><dst>198.51.100.21</dst>"
        '</master></layer3><layer4 protonum="6" protoname="tcp"><expected><sport>0</sport>'
        "<dport>3333</dport></expected><mask><sport>0</sport><dport>65535</dport></mask><master>"
        "<sport>40000</sport><dport>21</dport></master></layer4><meta>"
        "<helper-name>ftp</helper-name><timeout>300</timeout><class>0</class></meta></flow>",
        "</expect>",
    ]
    title = "conntrack v1.4.7 (conntrack-tools): "
    outcome = conntrack.execute(talk.engine, ["-L", "expect"])
    assert outcome.stdout.startswith("300 proto=6 src=198.51.100.21 ")
    assert outcome.stderr == f"{title}1 expectations have been shown.\n"
    outcome = conntrack.execute(talk.engine, ["-F", "expect"])
    assert outcome.stderr == f"{title}expectation table has been emptied.\n"


def test_flushing_what_is_expected():
    talk = Talk(engine_with(SNAT + "10.0.0.8"), nat="10.0.0.8")
    talk.say(0, b"PORT " + plain(CLIENT, 3333) + b"\r\n")
    assert talk.engine.conntrack("-C expect") == "1\n"
    assert talk.engine.conntrack("-L") != ""
    talk.engine.conntrack("-F expect")
    assert talk.engine.conntrack("-L expect") == ""
    assert "helper=ftp" in talk.engine.conntrack("-L")


def test_an_invalid_packet_is_expected_no_more():
    talk = Talk(engine_with(SNAT + "10.0.0.8"), nat="10.0.0.8")
    talk.say(0, b"PORT " + plain(CLIENT, 3333) + b"\r\n")
    bad = tcp(SERVER, 20, "10.0.0.8", 3333)
    bad[-1] ^= 1
    assert talk.engine.process(bad, talk.now) == Verdict.PASS
    assert talk.expected == []


def test_explaining_changes_nothing():
    talk = Talk(engine_with(SNAT + "203.110.120.130"), nat="203.110.120.130")
    frame = talk.frame(0, "PA", b"PORT " + plain(CLIENT, 3333) + b"\r\n")
    talk.engine.explain(bytes(frame), talk.now)
    assert talk.expected == []
    assert talk.say(0, b"NOOP\r\n") == b"NOOP\r\n"


def test_only_flows_that_a_rule_gives_a_helper_have_one():
    engine = Engine(seed=1)
    engine.iptables(SNAT + "10.0.0.8")
    rule = engine.add_ct("ftp", protocol="tcp", destination_ports=2121)
    talk = Talk(engine, nat="10.0.0.8")
    line = b"PORT " + plain(CLIENT, 3333) + b"\r\n"
    assert talk.say(0, line) == line
    assert talk.expected == []
    assert "helper" not in engine.conntrack("-L")
    assert engine.rule_counters(rule) == (0, 0)
    # Without the rule the flows that have a helper keep it.
    engine = engine_with(SNAT + "10.0.0.8")
    talk = Talk(engine, nat="10.0.0.8")
    engine.iptables("-t raw -F")
    assert talk.say(0, line) != line


def test_rules_of_the_raw_table_count_every_packet():
    engine = Engine(seed=1)
    engine.iptables(SNAT + "10.0.0.8")
    engine.iptables("-t raw -A PREROUTING -s 10.0.0.77 -j ACCEPT")
    rule = engine.add_ct("ftp", protocol="tcp", destination_ports=(21, 80))
    frames = [
        tcp(CLIENT, 40000, SERVER, 80), tcp(SERVER, 80, "10.0.0.8", 40000, "SA", seq=1, ack=1001),
        *(tcp(CLIENT, 40000, SERVER, 80, "A", seq=1001, ack=2) for _ in range(20)),
        tcp("10.0.0.77", 40000, SERVER, 21),
    ]  # fmt: skip
    offsets = [sum(map(len, frames[:n])) for n in range(len(frames))]
    engine.process_batch(FrameBatch(bytearray(b"".join(frames)), offsets, list(map(len, frames)),
                                    [SECOND] * len(frames)))  # fmt: skip
    assert engine.rule_counters(rule) == (21, 21 * 40)
    assert engine.counters["connections"] == 2


@pytest.mark.parametrize(
    ("helper", "match", "words"),
    [
        ("sip", {"protocol": "tcp"}, "no helper 'sip'; there is 'ftp'"),
        ("ftp", {}, "needs protocol tcp"),
        ("ftp", {"protocol": "udp"}, "needs protocol tcp"),
        ("", {"protocol": "tcp"}, "target CT needs one"),
    ],
)
def test_helpers_that_cannot_be(helper, match, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        Engine(seed=0).add_ct(helper, **match)


def test_windows_follow_the_edits_of_ipvs_too():
    engine = Engine(seed=1)
    engine.sysctl["net.ipv4.vs.conntrack"] = 1
    engine.helpers.add("ftp")
    vip = "203.110.120.130"
    engine.add_service("tcp", endpoint(vip, 21)).add_server(endpoint(RS1, 21))
    engine.iptables("-t nat -A POSTROUTING -m ipvs --vaddr 203.110.120.130 -j SNAT --to 10.0.0.8")
    talk = Talk(engine, nat="10.0.0.8", called=vip, server=RS1)
    talk.say(0, b"PASV\r\n")
    assert plain(vip, 3333) in talk.say(1, b"227 (" + plain(RS1, 3333) + b")\r\n")
    # What the client acknowledges is beyond what the server sent, and not INVALID for that.
    assert talk.answer(0).ack == talk.next[1]


addresses = st.ip_addresses(v=4, network="10.0.0.0/8").map(str) | st.ip_addresses(v=4).map(str)
words = st.sampled_from([b"NOOP\r\n", b"STAT a\r\n", b"PORT", b"EPRT", b"cut", b"again"])
answers = st.sampled_from([b"200 ok\r\n", b"227", b"229", b"again"])


@settings(max_examples=30)
@given(
    st.ip_addresses(v=4, network="203.0.113.0/24").map(str),
    st.ip_addresses(v=4).map(str),
    st.lists(st.tuples(st.integers(0, 1), words, answers, st.integers(1, 65535)), max_size=12),
)
def test_streams_stay_without_gaps(out, client, turns):  # fmt: skip
    """Whatever is said, each end's stream goes on where it ended, and acknowledgments fit."""
    if client in (SERVER, out) or client.startswith("0."):
        client = CLIENT
    talk = Talk(engine_with(SNAT + out), client=client, nat=out)
    latest = [None, None]
    for end, word, answer, port in turns:
        text = word if end == 0 else answer
        speaker = (client, SERVER)[end]
        if text == b"again":
            if latest[end] is not None:
                seq, told, heard = latest[end]
                assert talk.send(end, "PA", told, seq=seq).payload == heard
            continue
        if text == b"cut":
            assert talk.process(talk.frame(0, "PA", b"PORT 1,2"))[0] == Verdict.DROP
            continue
        text = {
            b"PORT": b"PORT " + plain(speaker, port) + b"\r\n",
            b"EPRT": f"EPRT |1|{speaker}|{port}|\r\n".encode(),
            b"227": b"227 (" + plain(speaker, port) + b")\r\n",
            b"229": f"229 (|||{port}|)\r\n".encode(),
        }.get(text, text)
        seq = talk.next[end]
        heard = talk.say(end, text)
        latest[end] = seq, text, heard
        assert talk.answer(1 - end).ack == talk.next[end]
        assert heard == text.replace(plain(client, port), plain(out, port)).replace(
            f"|{client}|".encode(), f"|{out}|".encode()
        )
