"""A router with NAT rules: batches take the fast path, and leave as on the slow path."""

import contextlib

from fast_path import generally, known, leaving, offloaded
from hypothesis import given, settings
from hypothesis import strategies as st
from lab import CLI, CLIENT, OTHER, ROUTER, SERVER, SRV, frame
from scapy.layers.inet import IP, TCP, UDP

import lvscore
from lvscore import Reason

FRONT, BACK, SECOND = "172.16.0.3", "172.16.1.7", 10**9


def router(*, general=False):
    """Clients reach a server at the router's own address; what the server's network begins is
    masqueraded. No virtual service; ``general``: a rule that matches nothing sees every packet."""
    host = lvscore.Host(lvscore.Engine(seed=0))
    host.add_interface("cli", addresses=[f"{FRONT}/24"], mac=CLI)
    host.add_interface("srv", addresses=["172.16.1.254/24"], mac=SRV)
    host.add_route("default", via="172.16.0.1")
    host.add_neighbour("172.16.0.1", ROUTER, "cli")
    host.add_neighbour(BACK, SERVER, "srv")
    host.add_neighbour("172.16.1.8", OTHER, "srv")
    host.sysctl["net.ipv4.ip_forward"] = 1
    host.engine.iptables(
        f"-t nat -A PREROUTING -d {FRONT} -p tcp --dport 80 -j DNAT --to {BACK}:8080"
    )
    host.engine.iptables(f"-t nat -A PREROUTING -d {FRONT} -p udp --dport 53 -j DNAT --to {BACK}")
    host.engine.iptables("-t nat -A POSTROUTING -s 172.16.1.0/24 -o cli -j MASQUERADE")
    return generally(host) if general else host


def segment(reply, flags, ahead=0, acked=0, size=0, ttl=64, **fields):
    """(interface, frame) of the connection; counted from the handshake's end."""
    ends = (BACK, CLIENT, 8080, 40000) if reply else (CLIENT, FRONT, 40000, 80)
    numbers = (301 + ahead, 101 + acked) if reply else (101 + ahead, 301 + acked)
    packet = IP(src=ends[0], dst=ends[1], ttl=ttl, flags="DF", id=7) / TCP(
        sport=ends[2], dport=ends[3], flags=flags, seq=numbers[0], ack=numbers[1], window=5000,
        **fields,
    ) / (b"x" * size)  # fmt: skip
    return arrival(packet, reply)


def masqueraded(reply, flags, ahead=0, acked=0, size=0):
    """The same of one that the server began."""
    ends = (CLIENT, FRONT, 80, 50000) if reply else (BACK, CLIENT, 50000, 80)
    numbers = (301 + ahead, 101 + acked) if reply else (101 + ahead, 301 + acked)
    packet = IP(src=ends[0], dst=ends[1], flags="DF", id=7) / TCP(
        sport=ends[2], dport=ends[3], flags=flags, seq=numbers[0], ack=numbers[1], window=5000
    ) / (b"x" * size)  # fmt: skip
    return arrival(packet, not reply)


def datagram(reply, **fields):
    ends = (BACK, CLIENT, 53, 40000) if reply else (CLIENT, FRONT, 40000, 53)
    return arrival(
        IP(src=ends[0], dst=ends[1]) / UDP(sport=ends[2], dport=ends[3], **fields) / b"ask", reply
    )


def arrival(packet, from_server):
    if from_server:
        return "srv", frame(packet, "srv", SERVER)
    return "cli", frame(packet)


OPENING = [
    segment(False, "S", ahead=-1),
    segment(True, "SA", ahead=-1),
    segment(False, "A"),
    masqueraded(False, "S", ahead=-1),
    masqueraded(True, "SA", ahead=-1),
    masqueraded(False, "A"),
]


def played(steps, *, general):
    """What leaves step by step, and what is known at the end. A step is an arrival, its time in
    seconds, or something that is done to the host."""
    host = router(general=general)
    out, now = [], 0
    for step in [*OPENING, *steps]:
        if isinstance(step, int):
            now += step
        elif callable(step):
            with contextlib.suppress(lvscore.NotFoundError):
                step(host)
        else:
            batch = lvscore.FrameBatch.of([step[1]] * 2, [now * SECOND] * 2)
            out.append(leaving(host, batch, step[0], now * SECOND))
    engine = host.engine
    return out, *known(host), engine.conntrack("-L"), engine.next_deadline()


def compared(steps):
    short = played(steps, general=False)
    assert short == played(steps, general=True)
    return short


CHANGES = [
    lambda host: host.add_neighbour(BACK, OTHER, "srv"),
    lambda host: host.add_neighbour(BACK, SERVER, "srv"),
    lambda host: host.remove_neighbour(BACK, "srv"),
    lambda host: host.set_mtu("srv", 600),
    lambda host: host.set_mtu("srv", 1500),
    lambda host: host.sysctl.update({"net.ipv4.ip_forward": 0}),
    lambda host: host.sysctl.update({"net.ipv4.ip_forward": 1}),
    lambda host: host.sysctl.update({"net.ipv4.conf.all.rp_filter": 1}),
    lambda host: host.engine.sysctl.update({"net.netfilter.nf_conntrack_checksum": 0}),
    lambda host: host.engine.iptables("-t nat -F PREROUTING"),
    lambda host: host.engine.iptables("-t nat -F POSTROUTING"),
    lambda host: host.add_address("srv", f"{CLIENT}/32"),
    lambda host: host.engine.add_service("tcp", "172.16.0.9:80"),
]
steps = st.one_of(
    st.builds(
        segment,
        st.booleans(),
        st.sampled_from(["A", "PA", "A", "PA", "A", "FA", "R", "S", "UA", ""]),
        ahead=st.sampled_from([0, 0, 10, 400, 999, 6000, -1]),
        acked=st.sampled_from([0, 0, 10, 400, 70000]),
        size=st.sampled_from([0, 10, 700, 1600]),
        ttl=st.sampled_from([64, 64, 64, 2, 1]),
    ),
    st.builds(segment, st.booleans(), st.just("A"), chksum=st.just(0x1234)),
    st.builds(
        masqueraded,
        st.booleans(),
        st.sampled_from(["A", "PA", "FA"]),
        ahead=st.sampled_from([0, 10]),
        acked=st.sampled_from([0, 10]),
        size=st.sampled_from([0, 10]),
    ),
    st.builds(datagram, st.booleans()),
    st.builds(datagram, st.booleans(), chksum=st.sampled_from([0, 0x1234])),
    st.sampled_from([1, 40, 400]),
)


@settings(deadline=None)
@given(st.lists(steps, max_size=40))
def test_any_packets(taken):
    compared(taken)


def once(taken):
    """Adding the same address or service twice would be refused."""
    seen, out = set(), []
    for step in taken:
        if not (callable(step) and step in CHANGES[-2:] and step in seen):
            out.append(step)
        if callable(step):
            seen.add(step)
    return out


@settings(deadline=None)
@given(st.lists(st.one_of(st.sampled_from(CHANGES), steps, steps), max_size=40))
def test_changes_between_packets(taken):
    compared(once(taken))


def test_segments_leave_translated_by_the_other_interface():
    out, _, reasons, listing, _ = compared(
        [segment(False, "PA", size=10), segment(True, "PA", acked=10, size=5), 1,
         masqueraded(False, "PA", size=3), masqueraded(True, "A", acked=3)]
    )  # fmt: skip
    request, answer, own, back = (IP(sent[0][1][14:]) for sent in out[-4:])
    assert (out[-4][0][0], request.dst, request[TCP].dport, request.ttl) == ("srv", BACK, 8080, 63)
    assert (out[-3][0][0], answer.src, answer[TCP].sport, answer.ttl) == ("cli", FRONT, 80, 63)
    assert (own.src, back.dst) == (FRONT, BACK)
    for packet in request, answer, own, back:
        fresh = packet.copy()
        del fresh.chksum, fresh[TCP].chksum
        assert bytes(IP(bytes(fresh))) == bytes(packet)
    assert reasons[Reason.REPLY] >= 4
    assert "ASSURED" in listing


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3000), st.sampled_from([0, 500, 1448]),
                          st.booleans()), min_size=1, max_size=12))  # fmt: skip
def test_offloads(taken):
    """Partial checksums go on being such, and super-frames are measured by their segments."""
    results = []
    for general in False, True:
        host = router(general=general)
        for name, data in OPENING:
            leaving(host, lvscore.FrameBatch.of([data], [0]), name, 0)
        out = []
        for reply, size, cut, left in taken:
            name, data = segment(reply, "A", size=size)
            out.append(offloaded(host, name, IP(data[14:]), cut, left, 1))
        results.append((out, known(host)))
    assert results[0] == results[1]


def test_what_was_not_captured_whole():
    """Its checksum says nothing, and is not read beyond what is there."""
    results = []
    for general in False, True:
        host = router(general=general)
        for name, data in OPENING:
            leaving(host, lvscore.FrameBatch.of([data], [0]), name, 0)
        _, data = segment(False, "PA", size=900)
        frames = bytearray(data[:60])
        batch = lvscore.FrameBatch(frames, [0], [60], [1], original_lengths=[len(data)])
        results.append((leaving(host, batch, "cli", 1), bytes(batch[0]), host.engine.reasons))
    assert results[0] == results[1]
