"""A batch leaves as its frames do one by one, also where the short way might tell them apart."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab import CLI, CLIENT, OTHER, ROUTER, SERVER, SRV, VIP, director, frame, reply, request
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Dot1Q, Ether

import lvscore
from lvscore import Verdict
from lvscore._probe_frame import vnet_header_before

OPENING = [("cli", request()), ("srv", reply()), ("cli", request(flags="A"))]


def made(settings=None):
    """The lab's director, with a service of UDP besides."""
    host = director()
    for name, value in (settings or {}).items():
        (host if name.startswith("net.") else host.engine).sysctl[name] = value
    host.engine.add_service("udp", f"{VIP}:53", scheduler="rr").add_server("172.16.1.8:5353")
    return host


def one_by_one(host, arrivals):
    out = []
    for number, (interface, data) in enumerate(arrivals):
        out += host.receive(interface, data, number // 7)
    return out


def leaving(host, batch, interface, now):
    """What a batch leads to, as Host.receive tells it."""
    out = []
    names = {host.number(name): name for name in host.interfaces}
    for start, end, others in host.receive_batch(interface, batch, now):
        for k in range(start, end):
            if batch.verdict[k] == Verdict.FORWARD:
                out.append((names[int(batch.egress[k])], bytes(batch[k])))
        out += others
    return out


def forwarding(host, batch, interface, now):
    """The same where the Host itself lets frames be sent on."""
    out = []
    names = {host.number(name): name for name in host.interfaces}

    def send(part, start, end, number):
        assert part is batch
        assert any(part.egress[start:end] == number)
        out.extend(
            (k, names[number], bytes(part[k]))
            for k in range(start, end)
            if part.verdict[k] == Verdict.FORWARD and part.egress[k] == number
        )

    left = []
    for others in host.forward_batch(
        host.number(interface), batch, now, dict.fromkeys(names, send)
    ):
        left += [(name, data) for _, name, data in sorted(out)] + others
        out.clear()
    return left + [(name, data) for _, name, data in sorted(out)]


def batched(host, arrivals, leaving):
    """Frames of one interface that follow each other are a batch."""
    out, start = [], 0
    for end in range(1, len(arrivals) + 1):
        if end == len(arrivals) or arrivals[end][0] != arrivals[start][0]:
            batch = lvscore.FrameBatch.of(
                [data for _, data in arrivals[start:end]], [n // 7 for n in range(start, end)]
            )
            # Host.receive_batch takes the latest time first: these are all before a second.
            out += leaving(host, batch, arrivals[start][0], start // 7)
            start = end
    return out


def both(arrivals, settings=None):
    """What leaves, which must be the same either way; and the host of the batches."""
    single, whole = made(settings), made(settings)
    expected = one_by_one(single, arrivals)
    assert batched(made(settings), arrivals, forwarding) == expected
    assert batched(whole, arrivals, leaving) == expected
    assert single.engine.counters == whole.engine.counters
    assert single.engine.reasons == whole.engine.reasons
    assert np.array_equal(
        np.sort(single.engine.connections.snapshot()), np.sort(whole.engine.connections.snapshot())
    )
    servers = [[s.statistics for s in v.servers] for v in single.engine.services]
    assert servers == [[s.statistics for s in v.servers] for v in whole.engine.services]
    return expected, whole


def framed(arrivals):
    senders = {"cli": ROUTER, "srv": SERVER}
    return [(name, frame(packet, name, senders[name])) for name, packet in arrivals]


def test_an_established_connection():
    packets = OPENING + [("cli", request(flags="A", size=n)) for n in range(40)]
    packets += [("srv", reply(flags="A", size=n)) for n in range(40)]
    out, host = both(framed(packets))
    assert len(out) == len(packets)
    first, last = Ether(out[3][1]), Ether(out[-1][1])
    assert (out[3][0], first.dst, first.src, first[IP].ttl) == ("srv", SERVER, SRV, 63)
    assert (out[-1][0], last.dst, last.src, last[IP].src) == ("cli", ROUTER, CLI, VIP)
    assert host.engine.reasons[lvscore.Reason.REPLY] == 41
    for _, data in out:
        packet = IP(data[14:])
        del packet.chksum, packet[TCP].chksum
        assert bytes(IP(bytes(packet))) == data[14:]


def test_padding_behind_the_packet_does_not_leave():
    arrivals = framed([*OPENING, ("cli", request(flags="A"))])
    name, data = arrivals[-1]
    out, _ = both([*arrivals[:-1], (name, data + bytes(6))])
    assert len(out[-1][1]) == len(data)


def odd(kind):
    """(interface, frame) of a packet of the connection that is not quite as the others."""
    ask, answer = request(flags="A"), reply(flags="A")
    if kind == "wrong header checksum":
        ask.chksum = 0x1234
        return "cli", frame(ask)
    if kind == "for another station":
        return "cli", bytes(Ether(dst=OTHER, src=ROUTER) / ask)
    if kind == "broadcast frame":
        return "cli", bytes(Ether(dst="ff:ff:ff:ff:ff:ff", src=ROUTER) / ask)
    if kind == "in a VLAN":
        return "cli", bytes(Ether(dst=CLI, src=ROUTER) / Dot1Q(vlan=3) / ask)
    if kind == "at the other arm":
        return "srv", frame(ask, "srv", ROUTER)
    if kind == "reply at the other arm":
        return "cli", frame(answer, "cli", SERVER)
    if kind == "martian":
        return "cli", frame(IP(src="127.0.0.1", dst=VIP) / TCP(sport=1, dport=80))
    if kind == "own source":
        return "cli", frame(IP(src=VIP, dst=VIP) / TCP(sport=1, dport=80, flags="S"))
    if kind == "too long, DF":
        return "srv", frame(reply(flags="A", size=1600), "srv", SERVER)
    if kind == "too long, to be cut":
        packet = reply(flags="A", size=1600)
        packet.flags = 0
        return "srv", frame(packet, "srv", SERVER)
    if kind == "options":
        return "cli", frame(IP(src=CLIENT, dst=VIP, options=b"\x07\x07\x04\0\0\0\0\0") / ask[TCP])
    if kind.startswith("ttl"):
        ttl = int(kind[-1])
        if kind.startswith("ttl of reply"):
            return "srv", frame(reply(ttl=ttl, flags="A"), "srv", SERVER)
        return "cli", frame(request(ttl=ttl, flags="A"))
    if kind == "new connection":
        return "cli", frame(request(port=41000))
    if kind == "udp":
        return "cli", frame(IP(src=CLIENT, dst=VIP) / UDP(sport=7, dport=53) / b"question")
    if kind == "udp without checksum":
        return "cli", frame(IP(src=CLIENT, dst=VIP) / UDP(sport=7, dport=53, chksum=0) / b"q")
    if kind == "fin":
        return "cli", frame(request(flags="FA"))
    if kind == "rst":
        return "srv", frame(reply(flags="R"), "srv", SERVER)
    raise AssertionError(kind)


ODD = [
    "wrong header checksum", "for another station", "broadcast frame", "in a VLAN",
    "at the other arm", "reply at the other arm", "martian", "own source", "too long, DF",
    "too long, to be cut", "options", "ttl 1", "ttl 2", "ttl of reply 1", "ttl of reply 2",
    "new connection", "udp", "udp without checksum", "fin", "rst",
]  # fmt: skip
SETTINGS = [
    {},
    {"net.ipv4.conf.all.rp_filter": 1},
    {"net.ipv4.conf.all.rp_filter": 2},
    {"net.ipv4.ip_forward": 0},
    {"net.ipv4.conf.all.send_redirects": 0},
    {"expire_nodest_conn": 1},
]


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: next(iter(s), "defaults"))
def test_one_that_is_odd_among_others(kind, settings):
    usual = framed([("cli", request(flags="A")), ("cli", request(flags="PA", size=9))])
    both(framed(OPENING) + usual + [odd(kind)] + usual, settings)


@given(st.lists(st.sampled_from([*ODD, "request", "reply"]), max_size=40))
def test_any_order(kinds):
    usual = {"request": ("cli", request(flags="A")), "reply": ("srv", reply(flags="A"))}
    arrivals = framed(OPENING)
    for kind in kinds:
        arrivals += framed([usual[kind]]) if kind in usual else [odd(kind)]
    both(arrivals)


openings = st.tuples(
    st.sampled_from(["S", "S", "S", "S", "SE", "SA", "SF", "SR", "A"]),
    st.integers(41000, 41008),
    st.sampled_from([64, 64, 64, 64, 2, 1]),
    st.sampled_from(["", "", "", "", "header", "mac", "long", "reply", "udp"]),
)


def opening(flags, port, ttl, how):
    """(interface, frame) of a packet that may open a connection."""
    if how == "reply":
        return "srv", frame(reply(port=port, flags="SA"), "srv", SERVER)
    if how == "udp":
        return "cli", frame(IP(src=CLIENT, dst=VIP, ttl=ttl) / UDP(sport=port, dport=53) / b"q")
    packet = request(port=port, flags=flags, ttl=ttl, size=1600 if how == "long" else 0)
    if how == "header":
        packet.chksum = 0x1234
    if how == "mac":
        return "cli", bytes(Ether(dst=OTHER, src=ROUTER) / packet)
    return "cli", frame(packet)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: next(iter(s), "defaults"))
@given(kinds=st.lists(openings, min_size=1, max_size=40))
def test_connections_that_open(settings, kinds):
    arrivals = framed(OPENING)
    both([*arrivals, *(opening(*kind) for kind in kinds)], settings)


def test_a_burst_of_connections():
    """Request and answer in one vector: the answer's direction is findable when it comes."""
    arrivals = framed([*OPENING, ("cli", request(port=50000))])
    for port in range(50001, 50041):
        arrivals.append(("cli", frame(request(port=port))))
    for port in range(50001, 50041):
        arrivals.append(("srv", frame(reply(port=port, flags="SA"), "srv", SERVER)))
    out, host = both(arrivals)
    assert len(out) == len(arrivals)
    assert host.engine.reasons[lvscore.Reason.NEW_CONNECTION] == 42


def test_what_is_told_anew_counts_from_then_on():
    """Neighbour, route, address, MTU: nothing that was known before is used."""
    host = made()
    one_by_one(host, framed(OPENING))
    batch_of = lambda: lvscore.FrameBatch.of([frame(request(flags="A", size=700))], [1])  # noqa: E731

    def sent():
        return leaving(host, batch_of(), "cli", 1)

    assert Ether(sent()[0][1]).dst == SERVER
    host.add_neighbour("172.16.1.7", OTHER, "srv")
    assert Ether(sent()[0][1]).dst == OTHER
    host.set_mtu("srv", 600)
    ((name, error),) = sent()
    assert (name, error[34], error[35]) == ("cli", 3, 4)  # fragmentation needed
    host.set_mtu("srv", 1500)
    host.add_route("172.16.1.7/32", via="172.16.0.1")
    assert Ether(sent()[0][1]).dst == ROUTER
    host.remove_route("172.16.1.7/32")
    host.remove_address("srv", f"{VIP}/32")
    before = host.engine.reasons.get(lvscore.Reason.REQUEST, 0)
    sent()
    assert host.engine.reasons.get(lvscore.Reason.REQUEST, 0) == before


CHANGES = {
    "neighbour": lambda host: host.add_neighbour("172.16.1.7", OTHER, "srv"),
    "neighbour back": lambda host: host.add_neighbour("172.16.1.7", SERVER, "srv"),
    "no neighbour": lambda host: host.remove_neighbour("172.16.1.7", "srv"),
    "other neighbour": lambda host: host.add_neighbour("172.16.1.99", OTHER, "srv"),
    "mtu": lambda host: host.set_mtu("srv", 600),
    "mtu back": lambda host: host.set_mtu("srv", 1500),
    "route": lambda host: host.add_route("172.16.1.7/32", via="172.16.0.1"),
    "client's route": lambda host: host.add_route(f"{CLIENT}/32", via="172.16.1.8"),
    "address": lambda host: host.add_address("cli", f"{CLIENT}/32"),
    "no forwarding": lambda host: host.sysctl.update({"net.ipv4.ip_forward": 0}),
    "forwarding": lambda host: host.sysctl.update({"net.ipv4.ip_forward": 1}),
    "rp_filter": lambda host: host.sysctl.update({"net.ipv4.conf.all.rp_filter": 1}),
    "no server": lambda host: host.engine.services[0].servers[0].remove(),
}
ONCE = {"route", "client's route", "address", "no server"}


@settings(deadline=None)
@given(st.lists(st.sampled_from([*CHANGES, "request", "reply"] + ["request", "reply"] * 6),
                max_size=40))  # fmt: skip
def test_changes_between_packets(steps):
    """The short way, which keeps where packets go, against the general one, which does not."""
    results = []
    for general in False, True:
        host = made()
        if general:
            host.engine.iptables("-t mangle -A PREROUTING -s 1.2.3.4 -j MARK --set-mark 1")
        one_by_one(host, framed(OPENING))
        out, done = [], set()
        for step in steps:
            if step in ("request", "reply"):
                packet = request(flags="A", size=700) if step == "request" else reply(flags="A")
                name, data = framed([("cli" if step == "request" else "srv", packet)])[0]
                out.append(leaving(host, lvscore.FrameBatch.of([data] * 3, [1] * 3), name, 1))
            elif step not in done:
                done.update([step] if step in ONCE else [])
                with contextlib.suppress(lvscore.NotFoundError):
                    CHANGES[step](host)
        results.append((out, host.engine.counters, host.engine.reasons))
    assert results[0] == results[1]


def test_rules_of_the_mangle_table_count_every_packet():
    for send in one_by_one, lambda host, arrivals: batched(host, arrivals, leaving):
        host = made()
        host.engine.iptables("-t mangle -A PREROUTING -p tcp --dport 80 -j MARK --set-mark 1")
        send(host, framed(OPENING + [("cli", request(flags="A"))] * 5))
        assert "    7      280 MARK" in host.engine.iptables("-t mangle -L PREROUTING -n -v -x")


@st.composite
def offloaded(draw):
    """(interface, virtio_net_hdr, frame): partial checksums, and super-frames of segments."""
    name = draw(st.sampled_from(["cli", "srv"]))
    size, segment = draw(st.integers(0, 9000)), draw(st.sampled_from([0, 500, 1448, 1461, 2000]))
    packet = request(flags="A", size=size) if name == "cli" else reply(flags="A", size=size)
    packet = IP(bytes(packet))
    partial = draw(st.booleans())
    if partial:
        whole = packet.copy()
        whole[TCP].chksum = 0
        pseudo = whole[IP]
        total = sum(
            int.from_bytes(bytes(part), "big")
            for part in zip(*[iter(bytes(pseudo)[12:20])] * 2, strict=True)
        )
        total += 6 + pseudo.len - 20
        packet[TCP].chksum = (total & 0xFFFF) + (total >> 16)
    kind = 1 if segment and partial else 0
    header = bytes([partial, kind]) + b"".join(
        value.to_bytes(2, "little") for value in (54, segment if kind else 0, 34, 16)
    )
    return name, header, frame(packet, name, ROUTER if name == "cli" else SERVER)


@given(st.lists(offloaded(), min_size=1, max_size=20))
def test_offloads(arrivals):
    """The short way against the general one, which a rule that matches nothing enforces."""
    results = []
    for general in False, True:
        host = made()
        one_by_one(host, framed(OPENING))
        if general:
            host.engine.iptables("-t mangle -A PREROUTING -s 1.2.3.4 -j MARK --set-mark 1")
        out = []
        for name, header, data in arrivals:
            batch = lvscore.FrameBatch(bytearray(header + data), [10], [len(data)], [10])
            vnet_header_before(batch)
            out.append((leaving(host, batch, name, 10), bytes(batch[0])))
        results.append((out, host.engine.counters, host.engine.reasons))
    assert results[0] == results[1]
