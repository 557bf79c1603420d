"""IPv6 on a Host: a batch leaves as its frames do one by one, the short way or not."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import CLI, OTHER, ROUTER, SERVER, SRV, director, frame, reply, request
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import Dot1Q, Ether
from test_short_way import batched, forwarding, leaving, one_by_one

import lvscore
from lvscore._probe_frame import vnet_header_before

CLIENT, VIP, REAL = "2001:db8:a::9", "2001:db8::1", "2001:db8:1::7"


def made(settings=None):
    """The lab's director, with services of IPv6 besides."""
    host = director()
    for name, value in (settings or {}).items():
        (host if name.startswith("net.") else host.engine).sysctl[name] = value
    host.engine.add_service("tcp", f"[{VIP}]:80", scheduler="rr").add_server(f"[{REAL}]:8080")
    service = host.engine.add_service("udp", f"[{VIP}]:53", scheduler="rr")
    service.add_server("[2001:db8:1::8]:5353")
    return host


def generally(host):
    """The host, which takes no packet the short way."""
    host.engine.iptables("-t mangle -A PREROUTING -s 1.2.3.4 -j MARK --set-mark 1")
    return host


def ask(flags="A", size=0, port=40000, **fields):
    segment = TCP(sport=port, dport=80, flags=flags, seq=1000)
    return IPv6(src=CLIENT, dst=VIP, **fields) / segment / (b"x" * size)


def answer(flags="A", size=0, port=40000, **fields):
    segment = TCP(sport=8080, dport=port, flags=flags, seq=5000, ack=1001)
    return IPv6(src=REAL, dst=CLIENT, **fields) / segment / (b"x" * size)


def question(**fields):
    return IPv6(src=CLIENT, dst=VIP) / UDP(sport=7, dport=53, **fields) / b"question"


def told():
    return IPv6(src="2001:db8:1::8", dst=CLIENT) / UDP(sport=5353, dport=7) / b"told"


def framed(arrivals):
    senders = {"cli": ROUTER, "srv": SERVER}
    return [(name, frame(packet, name, senders[name])) for name, packet in arrivals]


OPENING = [
    ("cli", ask("S")), ("srv", answer("SA")), ("cli", ask("A")),
    ("cli", question()), ("srv", told()),
    ("cli", request()), ("srv", reply()), ("cli", request(flags="A")),
]  # fmt: skip
USUAL = {
    "request": ("cli", ask()),
    "reply": ("srv", answer()),
    "question": ("cli", question()),
    "told": ("srv", told()),
    "IPv4 request": ("cli", request(flags="A")),
    "IPv4 reply": ("srv", reply(flags="A")),
}


def both(arrivals, settings=None):
    """What leaves, which must be the same in all ways; and the host of the batches."""
    single, whole = generally(made(settings)), made(settings)
    expected = one_by_one(single, arrivals)
    assert one_by_one(made(settings), arrivals) == expected
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


def test_established_connections():
    packets = [*OPENING]
    for n in range(40):
        packets += [("cli", ask(size=n)), ("cli", question())]
    for n in range(40):
        packets += [("srv", answer(size=n)), ("srv", told())]
    out, host = both(framed(packets))
    assert len(out) == len(packets)
    first, last = Ether(out[10][1]), Ether(out[-2][1])
    assert (out[10][0], first.dst, first.src, first[IPv6].hlim) == ("srv", SERVER, SRV, 63)
    assert (out[-2][0], last.dst, last.src, last[IPv6].src) == ("cli", ROUTER, CLI, VIP)
    assert host.engine.reasons[lvscore.Reason.REPLY] == 83
    for _, data in out[8:]:
        packet = IPv6(data[14:])
        del packet[TCP if TCP in packet else UDP].chksum
        assert bytes(IPv6(bytes(packet))) == data[14:]


def test_padding_behind_the_packet_does_not_leave():
    arrivals = framed([*OPENING, ("cli", question())])
    name, data = arrivals[-1]
    out, _ = both([*arrivals[:-1], (name, data + bytes(6))])
    assert len(out[-1][1]) == len(data)


def odd(kind):
    """(interface, frame) of a packet of a connection that is not quite as the others."""
    if kind == "for another station":
        return "cli", bytes(Ether(dst=OTHER, src=ROUTER) / ask())
    if kind == "broadcast frame":
        return "cli", bytes(Ether(dst="ff:ff:ff:ff:ff:ff", src=ROUTER) / ask())
    if kind == "in a VLAN":
        return "cli", bytes(Ether(dst=CLI, src=ROUTER) / Dot1Q(vlan=3) / ask())
    if kind == "at the other arm":
        return "srv", frame(ask(), "srv", ROUTER)
    if kind == "reply at the other arm":
        return "cli", frame(answer(), "cli", SERVER)
    if kind == "loopback":
        return "cli", frame(IPv6(src="::1", dst=VIP) / TCP(sport=40000, dport=80))
    if kind == "own source":
        return "cli", frame(IPv6(src=VIP, dst=VIP) / TCP(sport=1, dport=80, flags="S"))
    if kind == "too long":
        return "srv", frame(answer(size=1600), "srv", SERVER)
    if kind == "request too long":
        return "cli", frame(ask(size=1600))
    if kind == "as long as may be":
        return "cli", frame(ask(size=1440))
    if kind == "options":
        return "cli", frame(IPv6(src=CLIENT, dst=VIP) / IPv6ExtHdrDestOpt() / ask()[TCP])
    if kind == "atomic fragment":
        return "cli", frame(IPv6(src=CLIENT, dst=VIP) / IPv6ExtHdrFragment() / ask()[TCP])
    if kind.startswith("hop limit"):
        hop = int(kind[-1])
        if kind.startswith("hop limit of reply"):
            return "srv", frame(answer(hlim=hop), "srv", SERVER)
        return "cli", frame(ask(hlim=hop))
    if kind == "new connection":
        return "cli", frame(ask("S", port=41000))
    if kind == "udp without checksum":
        return "cli", frame(question(chksum=0))
    if kind == "fin":
        return "cli", frame(ask("FA"))
    if kind == "rst":
        return "srv", frame(answer("R"), "srv", SERVER)
    assert kind == "cut"
    return "cli", frame(ask())[:70]


ODD = [
    "for another station", "broadcast frame", "in a VLAN", "at the other arm",
    "reply at the other arm", "loopback", "own source", "too long", "request too long",
    "as long as may be", "options", "atomic fragment", "hop limit 1", "hop limit 2",
    "hop limit of reply 1", "hop limit of reply 2", "new connection", "udp without checksum",
    "fin", "rst", "cut",
]  # fmt: skip
SETTINGS = [
    {},
    {"net.ipv6.conf.all.forwarding": 0},
    {"net.ipv4.conf.all.send_redirects": 0},
    {"expire_nodest_conn": 1},
]


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: next(iter(s), "defaults"))
def test_one_that_is_odd_among_others(kind, settings):
    usual = framed([("cli", ask()), ("cli", ask("PA", size=9)), ("srv", answer())])
    both(framed(OPENING) + usual + [odd(kind)] + usual, settings)


ODD_FRAMES = {kind: odd(kind) for kind in ODD}
USUAL_FRAMES = dict(zip(USUAL, framed(USUAL.values()), strict=True))


@given(st.lists(st.sampled_from([*ODD, *list(USUAL) * 4]), max_size=40))
def test_any_order(kinds):
    frames = ODD_FRAMES | USUAL_FRAMES
    both(framed(OPENING) + [frames[kind] for kind in kinds])


CHANGES = {
    "neighbour": lambda host: host.add_neighbour(REAL, OTHER, "srv"),
    "neighbour back": lambda host: host.add_neighbour(REAL, SERVER, "srv"),
    "no neighbour": lambda host: host.remove_neighbour(REAL, "srv"),
    "IPv4 neighbour": lambda host: host.add_neighbour("172.16.1.7", OTHER, "srv"),
    "router": lambda host: host.add_neighbour("2001:db8:c::1", OTHER, "cli"),
    "no router": lambda host: host.remove_neighbour("2001:db8:c::1", "cli"),
    "mtu": lambda host: host.set_mtu("srv", 1280),
    "small mtu": lambda host: host.set_mtu("cli", 1000),
    "mtu back": lambda host: host.set_mtu("srv", 1500),
    "route": lambda host: host.add_route(f"{REAL}/128", via="2001:db8:1::8"),
    "client's route": lambda host: host.add_route(f"{CLIENT}/128", via="2001:db8:1::8"),
    "address": lambda host: host.add_address("cli", f"{CLIENT}/128"),
    "no forwarding": lambda host: host.sysctl.update({"net.ipv6.conf.all.forwarding": 0}),
    "forwarding": lambda host: host.sysctl.update({"net.ipv6.conf.all.forwarding": 1}),
    "no address": lambda host: host.remove_address("srv", f"{VIP}/128"),
    "no server": lambda host: host.engine.find_service("tcp", f"[{VIP}]:80").servers[0].remove(),
}
ONCE = {"route", "client's route", "address", "no address", "no server"}
LONG = {
    "request": framed([("cli", ask(size=1300))])[0],
    "reply": framed([("srv", answer(size=1100))])[0],
}


def changed(changes):
    """Let packets of both directions come before and after each change, the short way, which keeps
    where packets go, and the general one, which does not."""
    results = []
    for general in False, True:
        host = generally(made()) if general else made()
        one_by_one(host, framed(OPENING))
        out, done = [], set()
        for change in ["", *changes]:
            if change and change not in done:
                done.update([change] if change in ONCE else [])
                with contextlib.suppress(lvscore.NotFoundError):
                    CHANGES[change](host)
            for name, data in LONG.values():
                out.append(leaving(host, lvscore.FrameBatch.of([data] * 3, [1] * 3), name, 1))
        results.append((out, host.engine.counters, host.engine.reasons))
    assert results[0] == results[1]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_counts_from_the_next_packet_on(change):
    changed([change])


@given(st.lists(st.sampled_from([*CHANGES]), max_size=12))
def test_changes_between_packets(changes):
    changed(changes)


@st.composite
def offloaded(draw):
    """(interface, virtio_net_hdr, frame): partial checksums, and super-frames of segments."""
    name = draw(st.sampled_from(["cli", "srv"]))
    size, segment = draw(st.integers(0, 9000)), draw(st.sampled_from([0, 500, 1440, 1441, 2000]))
    packet = IPv6(bytes(ask(size=size) if name == "cli" else answer(size=size)))
    partial = draw(st.booleans())
    if partial:
        addresses = bytes(packet)[8:40]
        total = sum(int.from_bytes(addresses[n : n + 2], "big") for n in range(0, 32, 2))
        total += 6 + packet.plen
        while total > 0xFFFF:
            total = (total & 0xFFFF) + (total >> 16)
        packet[TCP].chksum = total
    kind = 4 if segment and partial else 0
    header = bytes([partial, kind]) + b"".join(
        value.to_bytes(2, "little") for value in (74, segment if kind else 0, 54, 16)
    )
    return name, header, frame(packet, name, ROUTER if name == "cli" else SERVER)


@given(st.lists(offloaded(), min_size=1, max_size=20))
def test_offloads(arrivals):
    results = []
    for general in False, True:
        host = made()
        one_by_one(host, framed(OPENING))
        if general:
            generally(host)
        out = []
        for name, header, data in arrivals:
            batch = lvscore.FrameBatch(bytearray(header + data), [10], [len(data)], [10])
            vnet_header_before(batch)
            out.append((leaving(host, batch, name, 10), bytes(batch[0])))
        results.append((out, host.engine.counters, host.engine.reasons))
    assert results[0] == results[1]
