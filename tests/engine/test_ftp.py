"""The FTP helper: conversations against a model of both streams, data connections, captures."""

import struct
from dataclasses import dataclass, field
from ipaddress import ip_address

import captures
import mapper
import pytest
from ftp_segments import Segment, endpoint, plain, segment
from hypothesis import given, settings
from hypothesis import strategies as st
from packets import CLIENT, RS1, SECOND, VIP, flow

import lvscore
from lvscore import Engine, FrameBatch, Reason, Verdict

VIP6, CLIENT6, RS6 = "2001:db8::1", "2001:db8:a::9", "2001:db8:1::7"


@dataclass
class Conversation:
    """A control connection: both ends number their streams, and the director stands between."""

    client: str = CLIENT
    vip: str = VIP
    server: str = RS1
    start: int = 5000
    port: int = 40000
    now: int = SECOND
    engine: Engine = field(init=False)
    sent: list = field(default_factory=list)  # frames in, and what came of each

    def __post_init__(self):
        self.engine = lab(self.vip, self.server)
        self.client_next = 1000
        self.server_next = self.start
        self.told = [(self.start + 1, b"", self.start + 1, b"")]  # server's seq and text, client's
        self.process(self.request("S", seq=1000, ack=0))
        self.process(self.reply("SA", seq=self.start, ack=1001))
        self.client_next += 1
        self.server_next += 1
        self.acked = self.start + 1  # by the client, as it counts
        self.process(self.request("A"))

    def request(self, flags="A", payload=b"", seq=None, ack=None, options=()):
        return segment(self.client, self.port, self.vip, 21, flags, payload,
                       self.client_next if seq is None else seq,
                       self.acked if ack is None else ack, options)  # fmt: skip

    def reply(self, flags="A", payload=b"", seq=None, ack=None, options=()):
        return segment(self.server, 21, self.client, self.port, flags, payload,
                       self.server_next if seq is None else seq,
                       self.client_next if ack is None else ack, options)  # fmt: skip

    def process(self, frame):
        """The one frame that leaves for a frame, in place or put out."""
        given = bytes(frame)
        verdict = self.engine.process(frame, self.now)
        if verdict == Verdict.STOLEN:
            assert frame == given
            (frame,) = (bytearray(one) for one in self.engine.emitted)
            assert self.engine.emitted.verdict.tolist() == [Verdict.FORWARD]
            assert self.engine.emitted_cause == [0]
        else:
            assert verdict == Verdict.FORWARD
            assert not len(self.engine.emitted)
        assert self.engine._selfcheck() == 0
        self.sent.append((given, self.now, verdict, bytes(frame)))
        self.now += SECOND // 1000
        return Segment.read(frame)

    def say(self, text):
        """The client's words reach the server as they are."""
        out = self.process(self.request("PA", text))
        assert (out.seq, out.payload) == (self.client_next % 2**32, text)
        assert out.flow == (self.client, self.port, self.server, 21)
        assert out.ack == self.to_server(self.acked)
        self.client_next += len(text)

    def tell(self, text, wanted=None):
        """The server's words reach the client as ``wanted``, where its stream goes on."""
        wanted = text if wanted is None else wanted
        seq, client_seq = self.server_next, self.client_end
        self.told.append((seq, text, client_seq, wanted))
        self.server_next += len(text)
        self.arrives(self.told[-1])

    def arrives(self, told):
        seq, text, client_seq, wanted = told
        out = self.process(self.reply("PA", text, seq=seq))
        assert out.flow == (self.vip, 21, self.client, self.port)
        assert (out.seq, out.payload) == (client_seq % 2**32, wanted)
        assert out.ack == self.client_next % 2**32

    @property
    def client_end(self):
        _, _, client_seq, wanted = self.told[-1]
        return client_seq + len(wanted)

    def to_server(self, number):
        """A boundary of the client's stream as the server counts."""
        for seq, text, client_seq, wanted in reversed(self.told):
            if number == client_seq + len(wanted):
                return (seq + len(text)) % 2**32
            if number == client_seq:
                return seq % 2**32
        raise AssertionError(number)

    def acknowledge(self, number, *sack):
        """The client acknowledges up to a boundary, and selectively between others."""
        edges = tuple(edge % 2**32 for edge in sack)
        options = [("NOP", None), ("SAck", edges)] if sack else []
        out = self.process(self.request(ack=number, options=options))
        assert out.ack == self.to_server(number)
        self.acked = number
        if sack:
            edges = [self.to_server(edge) for edge in sack]
            assert out.options.lstrip(b"\1")[2 : 2 + 4 * len(edges)] == struct.pack(
                f">{len(edges)}I", *edges
            )

    def connection(self, port, client_port=0):
        return self.engine.connections[
            "tcp", endpoint(self.client, client_port), endpoint(self.vip, port)
        ]


def lab(vip=VIP, server=RS1, **helper):
    engine = Engine(seed=1)
    engine.helpers.add("ftp", **helper)
    engine.add_service("tcp", endpoint(vip, 21)).add_server(endpoint(server, 21))
    return engine


def passive(c, port, words=(b"227 Entering Passive Mode (", b").\r\n")):
    c.say(b"PASV\r\n")
    c.tell(plain(c.server, port).join(words), plain(c.vip, port).join(words))


@pytest.mark.parametrize(
    ("vip", "server"),
    [(VIP, RS1), ("1.2.3.4", "172.16.1.107"), ("10.0.0.100", "10.0.0.107")],
    ids=["longer", "shorter", "as long"],
)
def test_a_passive_connection(vip, server):
    c = Conversation(vip=vip, server=server)
    counted = c.engine.services[0].servers[0]
    c.tell(b"220 hello\r\n")
    passive(c, 51210)
    assert c.connection(51210).state == "LISTEN"
    assert (counted.active, counted.inactive, counted.statistics.connections) == (1, 1, 1)
    assert c.connection(51210).expires_ns == pytest.approx(120 * SECOND, abs=0.1 * SECOND)
    c.acknowledge(c.client_end)
    c.tell(b"150 here it comes\r\n")
    # The data connection comes from a port that was not known.
    out = c.process(segment(CLIENT, 41000, vip, 51210, "S"))
    assert out.flow == (CLIENT, 41000, server, 51210)
    assert c.connection(51210, 41000).state == "SYN_RECV"
    assert len(c.engine.connections) == 2
    out = c.process(segment(server, 51210, CLIENT, 41000, "SA"))
    assert out.flow == (vip, 51210, CLIENT, 41000)
    c.process(segment(CLIENT, 41000, vip, 51210, "A"))
    out = c.process(segment(server, 51210, CLIENT, 41000, "PA", b"listing"))
    assert (out.flow, out.payload) == ((vip, 51210, CLIENT, 41000), b"listing")
    assert (counted.active, counted.inactive) == (2, 0)
    # Another client port finds nothing any more.
    assert c.engine.process(segment(CLIENT, 41001, vip, 51210, "S"), c.now) == Verdict.LOCAL
    c.tell(b"226 done\r\n")
    c.acknowledge(c.client_end)


@pytest.mark.parametrize(
    ("client", "vip", "server", "command"),
    [
        (CLIENT, VIP, RS1, b"PORT 10,0,0,9,200,20\r\n"),
        (CLIENT, VIP, RS1, b"EPRT |1|10.0.0.9|51220|\r\n"),
        (CLIENT6, VIP6, RS6, b"EPRT |2|2001:db8:a::9|51220|\r\n"),
    ],
)
def test_an_active_connection(client, vip, server, command):
    c = Conversation(client, vip, server)
    c.say(command)
    assert c.connection(20, 51220).state == "LISTEN"
    out = c.process(segment(server, 20, client, 51220, "S"))
    assert out.flow == (vip, 20, client, 51220)
    out = c.process(segment(client, 51220, vip, 20, "SA"))
    assert out.flow == (client, 51220, server, 20)
    c.process(segment(server, 20, client, 51220, "A"))
    assert c.connection(20, 51220).state == "ESTABLISHED"
    c.tell(b"200 ok\r\n")
    # Said again, it waits for the next use.
    c.say(command)
    assert c.connection(20, 51220).state == "LISTEN"
    assert len(c.engine.connections) == 2


@pytest.mark.parametrize(
    ("vip", "server", "client", "number"), [(VIP, RS1, CLIENT, 1), (VIP6, RS6, CLIENT6, 2)]
)
@pytest.mark.parametrize("ask", [b"EPSV\r\n", b"epsv %d\r\n"])
def test_extended_passive_mode(vip, server, client, number, ask):
    c = Conversation(client, vip, server)
    c.say(ask.replace(b"%d", str(number).encode()))
    c.tell(b"229 Entering Extended Passive Mode (|||51210|)\r\n")
    out = c.process(segment(client, 41000, vip, 51210, "S"))
    assert out.flow == (client, 41000, server, 51210)
    # An address in the answer is left out: the client is to take the one it knows.
    c.say(b"EPSV\r\n")
    c.tell(f"229 (|{number}|{server}|51211|)\r\n".encode(), b"229 (|||51211|)\r\n")
    c.acknowledge(c.client_end)
    assert c.connection(51211).state == "LISTEN"


def test_another_address_in_the_answer_is_where_the_data_connection_goes():
    c = Conversation()
    c.say(b"PASV\r\n")
    c.tell(b"227 (172,16,1,9,200,10)\r\n", b"227 (172,16,1,100,200,10)\r\n")
    out = c.process(segment(CLIENT, 41000, VIP, 51210, "S"))
    assert out.flow == (CLIENT, 41000, "172.16.1.9", 51210)


def test_what_is_not_answered_is_not_touched():
    c = Conversation()
    c.tell(b"227 (172,16,1,7,200,10)\r\n")  # nobody asked
    c.say(b"PASV\r\n")
    c.tell(b"229 (|||51210|)\r\n")  # not the answer
    c.tell(b"227 Entering Passive Mode (172,16,1,")  # cut
    c.tell(b"7,200,11).\r\n")
    c.say(b"EPSV 2\r\n")
    c.tell(b"229 (|||51210|)\r\n")
    assert len(c.engine.connections) == 1
    c.tell(b"227 (172,16,1,7,200,10)\r\n", b"227 (172,16,1,100,200,10)\r\n")
    assert len(c.engine.connections) == 2


def test_a_connection_that_is_not_established_is_not_looked_at():
    engine = lab()
    engine.process(segment(CLIENT, 40000, VIP, 21, "S"), SECOND)
    frame = segment(CLIENT, 40000, VIP, 21, "S", b"PORT 10,0,0,9,200,20\r\n")
    assert engine.process(frame, SECOND) == Verdict.FORWARD
    assert len(engine.connections) == 1


class TestChecksums:
    def frames(self):
        c = Conversation()
        return c, [c.request("PA", b"PORT 10,0,0,9,200,20\r\n"), c.reply("PA", b"200 ok\r\n")]

    @pytest.mark.parametrize("number", [0, 1])
    def test_a_wrong_one_drops_the_segment(self, number):
        c, frames = self.frames()
        frame = frames[number]
        frame[50] ^= 1
        assert c.engine.process(frame, c.now) == Verdict.DROP
        assert c.engine.last_reason == Reason.BAD_TCP_CHECKSUM
        assert len(c.engine.connections) == 1
        # As in the kernel, a request counts and a reply does not; the timer runs anew.
        record = c.connection(21, 40000)
        assert (record.packets_in, record.packets_out) == ((3, 1) if number == 0 else (2, 1))
        assert record.expires_ns == pytest.approx(900 * SECOND, abs=0.01 * SECOND)

    def test_of_other_connections_it_is_not_looked_at(self):
        engine = Engine(seed=1)
        engine.add_service("tcp", f"{VIP}:21").add_server(f"{RS1}:21")
        frame = segment(CLIENT, 40000, VIP, 21, "S")
        frame[50] ^= 1
        assert engine.process(frame, SECOND) == Verdict.FORWARD


def test_the_listening_connection_ends_and_the_control_connection_waits_for_it():
    c = Conversation()
    passive(c, 51210)
    c.process(c.request("R"))  # the control connection closes, and has ten seconds
    c.engine.expire(c.now + 30 * SECOND)
    assert len(c.engine.connections) == 2
    assert c.connection(21, 40000).expires_ns == pytest.approx(40 * SECOND, abs=0.1 * SECOND)
    c.engine.expire(c.now + 121 * SECOND)
    assert [k.client.port for k in c.engine.connections] == [40000]
    c.engine.expire(c.now + 200 * SECOND)
    assert not len(c.engine.connections)
    assert c.engine._selfcheck() == 0
    server = c.engine.services[0].servers[0]
    assert (server.active, server.inactive) == (0, 0)


def test_data_connections_count_against_the_bound():
    engine = Engine(seed=1, max_connections=1)
    engine.helpers.add("ftp")
    engine.add_service("tcp", f"{VIP}:21").add_server(f"{RS1}:21")
    engine.process(segment(CLIENT, 40000, VIP, 21, "S"), SECOND)
    engine.process(segment(CLIENT, 40000, VIP, 21, "A"), SECOND)
    frame = segment(CLIENT, 40000, VIP, 21, "PA", b"PORT 10,0,0,9,200,20\r\n")
    assert engine.process(frame, SECOND) == Verdict.DROP
    assert engine.last_reason == Reason.TABLE_FULL


def test_a_snapped_answer_is_not_read():
    c = Conversation()
    c.say(b"PASV\r\n")
    frame = c.reply("PA", b"227 (172,16,1,7,200,10)\r\n")
    batch = FrameBatch(frame[:-2], [0], [len(frame) - 2], [c.now], original_lengths=[len(frame)])
    c.engine.process_batch(batch)
    assert batch.verdict.tolist() == [Verdict.FORWARD]
    assert bytes(batch[0])[54:] == frame[54:-2]
    assert len(c.engine.connections) == 1


def test_a_segment_that_cannot_grow_is_dropped():
    c = Conversation()
    c.say(b"PASV\r\n")
    text = b"227 (172,16,1,7,200,10)\r\n"
    frame = c.reply("PA", text + bytes(65535 - 40 - len(text)))
    assert c.engine.process(frame, c.now) == Verdict.DROP


class TestHelpers:
    def test_they_are_switched_on_and_off(self):
        engine = Engine(seed=1)
        helpers = engine.helpers
        assert (list(helpers), "ftp" in helpers, len(helpers)) == ([], False, 0)
        helpers.add("ftp", ports=(21, 2121, 21))
        assert (list(engine.helpers), "ftp" in helpers, len(helpers)) == (["ftp"], True, 1)
        assert helpers["ftp"] == (21, 2121)
        assert repr(helpers) == "Helpers(ftp=(21, 2121))"
        with pytest.raises(lvscore.DuplicateError, match="2121"):
            helpers.add("ftp")
        helpers.remove("ftp")
        assert list(helpers) == []
        with pytest.raises(lvscore.NotFoundError):
            helpers.remove("ftp")
        with pytest.raises(lvscore.NotFoundError):
            helpers["ftp"]

    @pytest.mark.parametrize(
        ("name", "ports"),
        [("sip", (21,)), ("ftp", ()), ("ftp", range(1, 10)), ("ftp", (0,)), ("ftp", (65536,)),
         ("ftp", ("21",))],
    )  # fmt: skip
    def test_what_is_wrong_leaves_them_off(self, name, ports):
        engine = Engine(seed=1)
        with pytest.raises(lvscore.ConfigError):
            engine.helpers.add(name, ports=ports)
        assert list(engine.helpers) == []

    def test_only_its_ports_and_masqueraded_connections_are_looked_after(self):
        for port, method in ((2121, "masquerade"), (21, "route")):
            engine = Engine(seed=1)
            engine.helpers.add("ftp")
            service = engine.add_service("tcp", f"{VIP}:{port}")
            service.add_server(f"{RS1}:{port}", method=method)
            engine.process(segment(CLIENT, 40000, VIP, port, "S"), SECOND)
            engine.process(segment(CLIENT, 40000, VIP, port, "A"), SECOND)
            engine.process(segment(CLIENT, 40000, VIP, port, "A", b"PORT 10,0,0,9,9,9\r\n"), SECOND)
            assert len(engine.connections) == 1

    def test_a_connection_keeps_its_helper_and_gets_none_later(self):
        c = Conversation()
        c.engine.helpers.remove("ftp")
        passive(c, 51210)
        c.tell(b"150 ok\r\n")
        for flags in "SA":
            c.engine.process(segment(CLIENT, 40001, VIP, 21, flags), c.now)
        c.engine.helpers.add("ftp")
        c.engine.process(segment(CLIENT, 40001, VIP, 21, "A", b"PORT 10,0,0,9,9,9\r\n"), c.now)
        assert len(c.engine.connections) == 3

    def test_an_active_connection_of_a_mapped_port(self):
        """The data ports are one below those of the control connection."""
        engine = Engine(seed=1)
        engine.helpers.add("ftp", ports=[2121])
        engine.add_service("tcp", f"{VIP}:2121").add_server(f"{RS1}:8021")
        for flags, text in (("S", b""), ("A", b""), ("A", b"PORT 10,0,0,9,200,20\r\n")):
            engine.process(segment(CLIENT, 40000, VIP, 2121, flags, text), SECOND)
        frame = segment(RS1, 8020, CLIENT, 51220, "S")
        assert engine.process(frame, SECOND) == Verdict.FORWARD
        assert flow(frame) == (VIP, 2120, CLIENT, 51220)


FAMILIES = [(CLIENT, VIP, RS1), (CLIENT, "1.2.3.4", "172.16.1.107"),
            (CLIENT, "10.0.0.100", "10.0.0.107"), (CLIENT6, VIP6, RS6)]  # fmt: skip
steps = st.one_of(
    st.tuples(st.just("say"), st.binary(max_size=20)),
    st.tuples(st.just("tell"), st.binary(max_size=20)),
    st.tuples(st.just("passive"), st.integers(1024, 65535)),
    st.tuples(st.just("extended"), st.integers(1024, 65535)),
    st.tuples(st.just("again"), st.integers(0, 5)),
    st.tuples(st.just("ack"), st.integers(0, 5)),
)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(FAMILIES), st.sampled_from([5000, 2**32 - 60]),
       st.lists(steps, min_size=5, max_size=25))  # fmt: skip
def test_both_streams_arrive_whatever_is_said(ends, start, plan):
    """Each end reassembles what the other sent, with the answers' text replaced, also from
    retransmissions; acknowledgements of any boundary arrive as the server counts.

    Only segments since the latest answer are sent again, and the client asks anew when it has
    all: two offsets are kept, as in the kernel.
    """
    c = Conversation(*ends, start=start)
    four = ip_address(c.vip).version == 4
    since = 1
    for kind, value in plan:
        if kind == "say":
            c.say(b"x" + value)
        elif kind == "tell":
            c.tell(b"x" + value)
        elif kind == "passive" and four:
            since = len(c.told)
            c.acknowledge(c.client_end)
            passive(c, value)
        elif kind in ("passive", "extended"):
            since = len(c.told)
            c.acknowledge(c.client_end)
            c.say(b"EPSV\r\n")
            number = 1 if four else 2
            c.tell(f"229 (|{number}|{c.server}|{value}|)\r\n".encode(), b"229 (|||%d|)\r\n" % value)
        elif kind == "again" and since + value < len(c.told):
            c.arrives(c.told[since + value])
        elif kind == "ack" and since + value < len(c.told):
            _, _, left, text = c.told[since + value]
            if left >= c.acked:
                c.acknowledge(left, left + len(text), c.client_end)
    server = b"".join(text for _, text, _, _ in c.told)
    client = b"".join(wanted for _, _, _, wanted in c.told)
    assert c.server_next - start - 1 == len(server)
    assert c.client_end - start - 1 == len(client)
    # All frames in one batch do what they do one by one.
    engine = lab(c.vip, c.server)
    frames = [captures.Frame(given, now, len(given)) for given, now, _, _ in c.sent]
    batch = captures.batch_of(frames, 1)
    engine.process_batch(batch)
    put_out = dict(zip(engine.emitted_cause, map(bytes, engine.emitted), strict=True))
    assert batch.verdict.tolist() == [verdict for _, _, verdict, _ in c.sent]
    for i, (_, _, _, out) in enumerate(c.sent):
        assert put_out.get(i, bytes(batch[i])) == out


def test_a_retransmission_in_a_segment_that_begins_before_the_answer():
    c = Conversation()
    c.tell(b"200 ok\r\n")
    passive(c, 51210)
    (seq, first, client_seq, _), (_, text, _, wanted) = c.told[-2:]
    c.arrives((seq, first + text, client_seq, first + wanted))


def test_an_explanation_shows_the_data_connection():
    c = Conversation()
    frame = c.request("PA", b"PORT 10,0,0,9,200,20\r\n")
    steps = c.engine.explain(frame, c.now).steps
    assert f"connection opened: tcp {CLIENT}:51220 -> {VIP}:20" in steps
    assert len(c.engine.connections) == 1


CAPTURE = captures.DATA / "suricata-verify" / "output-eve-ftp-data--input.pcap"


def test_a_capture_of_ftp():
    """A real conversation in active mode: the client's side is what was captured, so what a
    server behind the director would have sent is made of it, and the reverse."""
    engine = Engine(seed=1)
    engine.helpers.add("ftp")
    server = ip_address("10.77.0.1").packed
    virtual = ip_address("192.168.0.10")
    engine.add_service("tcp", f"{virtual}:21").add_server("10.77.0.1:21")
    data = checked = 0
    for run in captures.load(CAPTURE):
        for frame in run.frames:
            place = mapper.locate(frame.data, run.link_type)
            if place is None or place[2] != 6:
                continue
            l3, l4 = place[:2]
            sport, dport = struct.unpack_from(">HH", frame.data, l4)
            if 21 not in (sport, dport) and 20 not in (sport, dport):
                continue
            from_server = frame.data[l3 + 12 : l3 + 16] == virtual.packed
            behind = mapper.readdress(
                frame.data, run.link_type,
                **({"source": server} if from_server else {"destination": server}),
            )  # fmt: skip
            sent, wanted = (behind, frame.data) if from_server else (frame.data, behind)
            out = bytearray(sent)
            verdict = engine.process(out, frame.time, run.link_type)
            assert verdict == Verdict.FORWARD, (engine.last_reason, frame.time)
            total = struct.unpack_from(">H", frame.data, l3 + 2)[0]
            assert out[: l3 + total] == wanted[: l3 + total]
            checked += 1
            data += 20 in (sport, dport)
    assert (checked, data) == (56, 16)
    assert engine._selfcheck() == 0
