"""A batch leaves as its frames do one by one, also where the fast path might tell them apart."""

import contextlib
import functools

import lab
import pytest
from fast_path import (
    batched,
    both,
    framed,
    generally,
    known,
    leaving,
    offloaded,
    one_by_one,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from lab import CLI, OTHER, ROUTER, SERVER, SRV, director, frame, reply, request
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import Dot1Q, Ether

import lvscore

FAMILIES = (4, 6)
CLIENT = {4: lab.CLIENT, 6: "2001:db8:a::9"}
VIP = {4: lab.VIP, 6: "2001:db8::1"}
REAL = {4: "172.16.1.7", 6: "2001:db8:1::7"}
SECOND_REAL = {4: "172.16.1.8", 6: "2001:db8:1::8"}
GATEWAY = {4: "172.16.0.1", 6: "2001:db8:c::1"}
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
LENGTH = {4: 32, 6: 128}
MTU = {4: 600, 6: 1280}

of_each_family = pytest.mark.parametrize("family", FAMILIES)


def made(family, settings=None):
    """The lab's director, with services of UDP and of IPv6 besides."""
    host = director()
    for name, value in (settings or {}).items():
        (host if name.startswith("net.") else host.engine).sysctl[name] = value
    if family == 6:
        service = host.engine.add_service("tcp", (VIP[6], 80), scheduler="rr")
        service.add_server((REAL[6], 8080))
    service = host.engine.add_service("udp", (VIP[family], 53), scheduler="rr")
    service.add_server((SECOND_REAL[family], 5353))
    return host


def making(family, settings=None):
    return functools.partial(made, family, settings)


def ip(family, source, destination, ttl=64):
    if family == 4:
        return IP(src=source, dst=destination, ttl=ttl, flags="DF", id=7)
    return IPv6(src=source, dst=destination, hlim=ttl)


def ask(family, flags="A", size=0, port=40000, ttl=64):
    segment = TCP(sport=port, dport=80, flags=flags, seq=1000)
    return ip(family, CLIENT[family], VIP[family], ttl) / segment / (b"x" * size)


def answer(family, flags="A", size=0, port=40000, ttl=64):
    segment = TCP(sport=8080, dport=port, flags=flags, seq=5000, ack=1001)
    return ip(family, REAL[family], CLIENT[family], ttl) / segment / (b"x" * size)


def question(family, port=7, ttl=64, **fields):
    datagram = UDP(sport=port, dport=53, **fields)
    return ip(family, CLIENT[family], VIP[family], ttl) / datagram / b"question"


def told(family):
    return ip(family, SECOND_REAL[family], CLIENT[family]) / UDP(sport=5353, dport=7) / b"told"


def opening(family):
    """What begins the connections of the tests; beside those of IPv6 there is one of IPv4."""
    arrivals = [("cli", ask(family, "S")), ("srv", answer(family, "SA")), ("cli", ask(family))]
    arrivals += [("cli", question(family)), ("srv", told(family))]
    if family == 6:
        arrivals += [("cli", request()), ("srv", reply()), ("cli", request(flags="A"))]
    return framed(arrivals)


OPENING = {family: opening(family) for family in FAMILIES}
USUAL = {
    family: {
        "request": ("cli", ask(family)),
        "reply": ("srv", answer(family)),
        "question": ("cli", question(family)),
        "told": ("srv", told(family)),
        **({"IPv4 request": ("cli", request(flags="A")), "IPv4 reply": ("srv", reply(flags="A"))}
           if family == 6 else {}),
    }
    for family in FAMILIES
}  # fmt: skip


@of_each_family
def test_established_connections(family):
    packets = []
    for n in range(40):
        packets += [("cli", ask(family, size=n)), ("cli", question(family))]
    for n in range(40):
        packets += [("srv", answer(family, size=n)), ("srv", told(family))]
    begin = OPENING[family]
    out, host = both(making(family), begin + framed(packets))
    assert len(out) == len(begin) + len(packets)
    answers = sum(name == "srv" for name, _ in begin)
    assert host.engine.reasons[lvscore.Reason.REPLY] == answers + 80
    layer = IP if family == 4 else IPv6
    hops = "ttl" if family == 4 else "hlim"
    first, last = Ether(out[len(begin)][1]), Ether(out[-2][1])
    assert (out[len(begin)][0], first.dst, first.src) == ("srv", SERVER, SRV)
    assert (first[layer].dst, getattr(first[layer], hops)) == (REAL[family], 63)
    assert (out[-2][0], last.dst, last.src) == ("cli", ROUTER, CLI)
    assert (last[layer].src, getattr(last[layer], hops)) == (VIP[family], 63)
    for _, data in out[len(begin) :]:
        packet = layer(data[14:])
        del packet[TCP if TCP in packet else UDP].chksum
        if family == 4:
            del packet.chksum
        assert bytes(layer(bytes(packet))) == data[14:]


@of_each_family
@pytest.mark.parametrize("step", [1, 300_000, 1_000_000, 1_000_001])
def test_times_within_a_tick_and_beyond(family, step):
    """Each frame has a time of its own; timers run from the tick that it falls into."""
    packets = [("cli", ask(family, size=n)) for n in range(40)]
    packets += [("cli", ask(family, "S", port=50_000 + n)) for n in range(40)]
    both(making(family), OPENING[family] + framed(packets), when=lambda number: number * step)


@of_each_family
@pytest.mark.parametrize("make", [ask, question])
def test_padding_behind_the_packet_does_not_leave(family, make):
    [(name, data)] = framed([("cli", make(family))])
    out, _ = both(making(family), [*OPENING[family], (name, data + bytes(6))])
    assert len(out[-1][1]) == len(data)


def odd(family, kind):
    """(interface, frame) of a packet of a connection that is not quite as the others."""
    client, vip, plain = CLIENT[family], VIP[family], ask(family)
    if kind == "wrong header checksum":
        plain.chksum = 0x1234
        return "cli", frame(plain)
    if kind == "for another station":
        return "cli", bytes(Ether(dst=OTHER, src=ROUTER) / plain)
    if kind == "broadcast frame":
        return "cli", bytes(Ether(dst="ff:ff:ff:ff:ff:ff", src=ROUTER) / plain)
    if kind == "in a VLAN":
        return "cli", bytes(Ether(dst=CLI, src=ROUTER) / Dot1Q(vlan=3) / plain)
    if kind == "at the other arm":
        return "srv", frame(plain, "srv", ROUTER)
    if kind == "reply at the other arm":
        return "cli", frame(answer(family), "cli", SERVER)
    if kind.startswith("loopback"):
        port = 1 if kind.endswith("new") else 40000
        return "cli", frame(ip(family, LOOPBACK[family], vip) / TCP(sport=port, dport=80))
    if kind == "own source":
        return "cli", frame(ip(family, vip, vip) / TCP(sport=1, dport=80, flags="S"))
    if kind == "too long":
        return "srv", frame(answer(family, size=1600), "srv", SERVER)
    if kind == "too long, to be cut":
        packet = answer(family, size=1600)
        packet.flags = 0
        return "srv", frame(packet, "srv", SERVER)
    if kind == "request too long":
        return "cli", frame(ask(family, size=1600))
    if kind in ("as long as may be", "a byte too long"):
        return "cli", frame(ask(family, size=1500 - len(plain) + (kind != "as long as may be")))
    if kind == "options" and family == 4:
        return "cli", frame(IP(src=client, dst=vip, options=b"\x07\x07\x04\0\0\0\0\0") / plain[TCP])
    if kind == "options":
        return "cli", frame(ip(6, client, vip) / IPv6ExtHdrDestOpt() / plain[TCP])
    if kind == "atomic fragment":
        return "cli", frame(ip(6, client, vip) / IPv6ExtHdrFragment() / plain[TCP])
    if kind.startswith("hop limit of reply"):
        return "srv", frame(answer(family, ttl=int(kind[-1])), "srv", SERVER)
    if kind.startswith("hop limit"):
        return "cli", frame(ask(family, ttl=int(kind[-1])))
    if kind == "new connection":
        return "cli", frame(ask(family, "S", port=41000))
    if kind == "new datagram":
        return "cli", frame(question(family, port=8))
    if kind == "new datagram without checksum":
        return "cli", frame(question(family, port=8, chksum=0))
    if kind == "datagram without checksum":
        return "cli", frame(question(family, chksum=0))
    if kind == "fin":
        return "cli", frame(ask(family, "FA"))
    if kind == "rst":
        return "srv", frame(answer(family, "R"), "srv", SERVER)
    assert kind == "cut"
    return "cli", frame(plain)[:-4]


ODD = [
    "for another station", "broadcast frame", "in a VLAN", "at the other arm",
    "reply at the other arm", "loopback", "loopback, new", "own source", "too long",
    "request too long", "as long as may be", "a byte too long", "options", "hop limit 1",
    "hop limit 2", "hop limit of reply 1", "hop limit of reply 2", "new connection", "new datagram",
    "new datagram without checksum", "datagram without checksum", "fin", "rst", "cut",
]  # fmt: skip
ODD_OF = {
    4: [*ODD, "wrong header checksum", "too long, to be cut"],
    6: [*ODD, "atomic fragment"],
}
FRAMES = {
    family: {kind: odd(family, kind) for kind in ODD_OF[family]}
    | dict(zip(USUAL[family], framed(USUAL[family].values()), strict=True))
    for family in FAMILIES
}
SETTINGS = {
    4: [
        {},
        {"net.ipv4.conf.all.rp_filter": 1},
        {"net.ipv4.conf.all.rp_filter": 2},
        {"net.ipv4.ip_forward": 0},
        {"net.ipv4.conf.all.send_redirects": 0},
        {"expire_nodest_conn": 1},
    ],
    6: [
        {},
        {"net.ipv6.conf.all.forwarding": 0},
        {"net.ipv4.conf.all.send_redirects": 0},
        {"expire_nodest_conn": 1},
    ],
}
with_settings = pytest.mark.parametrize(
    ("family", "settings"),
    [
        pytest.param(family, each, id=f"{family}-{next(iter(each), 'defaults')}")
        for family in FAMILIES
        for each in SETTINGS[family]
    ],
)


@pytest.mark.parametrize(
    ("family", "settings", "kind"),
    [
        pytest.param(family, each, kind, id=f"{family}-{next(iter(each), 'defaults')}-{kind}")
        for family in FAMILIES
        for each in SETTINGS[family]
        for kind in ODD_OF[family]
    ],
)
def test_one_that_is_odd_among_others(family, settings, kind):
    usual = framed(
        [("cli", ask(family)), ("cli", ask(family, "PA", size=9)), ("srv", answer(family))]
    )
    both(making(family, settings), [*OPENING[family], *usual, FRAMES[family][kind], *usual])


@of_each_family
@given(data=st.data())
def test_any_order(family, data):
    kinds = [*ODD_OF[family], *list(USUAL[family]) * 4]
    drawn = data.draw(st.lists(st.sampled_from(kinds), max_size=40))
    both(making(family), OPENING[family] + [FRAMES[family][kind] for kind in drawn])


openings = st.tuples(
    st.sampled_from(["S", "S", "S", "S", "SE", "SA", "SF", "SR", "A"]),
    st.integers(41000, 41008),
    st.sampled_from([64, 64, 64, 64, 2, 1]),
    st.sampled_from(["", "", "", "", "header", "mac", "long", "reply", "udp"]),
)


@functools.cache
def opens(family, flags, port, ttl, how):
    """(interface, frame) of a packet that may open a connection."""
    if how == "reply":
        return "srv", frame(answer(family, "SA", port=port), "srv", SERVER)
    if how == "udp":
        return "cli", frame(question(family, port=port, ttl=ttl))
    packet = ask(family, flags, port=port, ttl=ttl, size=1600 if how == "long" else 0)
    if how == "header" and family == 4:
        packet.chksum = 0x1234
    if how == "mac":
        return "cli", bytes(Ether(dst=OTHER, src=ROUTER) / packet)
    return "cli", frame(packet)


@with_settings
@given(kinds=st.lists(openings, min_size=1, max_size=40))
def test_connections_that_open(family, settings, kinds):
    arrivals = [opens(family, *kind) for kind in kinds]
    both(making(family, settings), [*OPENING[family], *arrivals])


@of_each_family
def test_a_burst_of_connections(family):
    """Request and answer in one vector: the answer's direction is findable when it comes."""
    arrivals = framed([("cli", ask(family, "S", port=port)) for port in range(50000, 50041)])
    arrivals += framed([("srv", answer(family, "SA", port=port)) for port in range(50001, 50041)])
    out, host = both(making(family), OPENING[family] + arrivals)
    assert len(out) == len(OPENING[family]) + len(arrivals)
    before = 2 if family == 4 else 3
    assert host.engine.reasons[lvscore.Reason.NEW_CONNECTION] == before + 41


@of_each_family
def test_what_is_told_anew_counts_from_then_on(family):
    """Neighbour, route, address, MTU: nothing that was known before is used."""
    host = made(family)
    one_by_one(host, OPENING[family])
    [(_, data)] = framed([("cli", ask(family, size=MTU[family]))])

    def sent():
        return leaving(host, lvscore.FrameBatch.of([data], [1]), "cli", 1)

    assert Ether(sent()[0][1]).dst == SERVER
    host.add_neighbour(REAL[family], OTHER, "srv")
    assert Ether(sent()[0][1]).dst == OTHER
    host.set_mtu("srv", MTU[family])
    ((name, error),) = sent()
    kind = {4: (34, [3, 4]), 6: (54, [2, 0])}  # fragmentation needed, packet too big
    at, expected = kind[family]
    assert (name, list(error[at : at + 2])) == ("cli", expected)
    host.set_mtu("srv", 1500)
    route = f"{REAL[family]}/{LENGTH[family]}"
    host.add_route(route, via=GATEWAY[family])
    assert Ether(sent()[0][1]).dst == ROUTER
    host.remove_route(route)
    host.remove_address("srv", f"{VIP[family]}/{LENGTH[family]}")
    before = host.engine.reasons.get(lvscore.Reason.REQUEST, 0)
    sent()
    assert host.engine.reasons.get(lvscore.Reason.REQUEST, 0) == before


def changes(family):
    real, client = REAL[family], CLIENT[family]
    forward = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}[family]
    aside = SECOND_REAL[family]
    return {
        "neighbour": lambda host: host.add_neighbour(real, OTHER, "srv"),
        "neighbour back": lambda host: host.add_neighbour(real, SERVER, "srv"),
        "no neighbour": lambda host: host.remove_neighbour(real, "srv"),
        "other neighbour": lambda host: host.add_neighbour("172.16.1.99", OTHER, "srv"),
        "IPv4 neighbour": lambda host: host.add_neighbour("172.16.1.7", OTHER, "srv"),
        "router": lambda host: host.add_neighbour(GATEWAY[family], OTHER, "cli"),
        "no router": lambda host: host.remove_neighbour(GATEWAY[family], "cli"),
        "mtu": lambda host: host.set_mtu("srv", MTU[family]),
        "small mtu": lambda host: host.set_mtu("cli", MTU[family] - 280),
        "mtu back": lambda host: host.set_mtu("srv", 1500),
        "route": lambda host: host.add_route(f"{real}/{LENGTH[family]}", via=aside),
        "route by the client's wire": lambda host: host.add_route(
            f"{real}/{LENGTH[family]}", via=GATEWAY[family]
        ),
        "client's route": lambda host: host.add_route(f"{client}/{LENGTH[family]}", via=aside),
        "address": lambda host: host.add_address("cli", f"{client}/{LENGTH[family]}"),
        "no forwarding": lambda host: host.sysctl.update({forward: 0}),
        "forwarding": lambda host: host.sysctl.update({forward: 1}),
        "rp_filter": lambda host: host.sysctl.update({"net.ipv4.conf.all.rp_filter": 1}),
        "no address": lambda host: host.remove_address("srv", f"{VIP[family]}/{LENGTH[family]}"),
        "no server": lambda host: host.engine.find_service("tcp", (VIP[family], 80))
        .servers[0].remove(),
    }  # fmt: skip


CHANGES = {family: changes(family) for family in FAMILIES}
ROUTES = {"route", "route by the client's wire"}
ONCE = {*ROUTES, "client's route", "address", "no address", "no server"}
LONG = {
    family: {
        "request": framed([("cli", ask(family, size=MTU[family] + 20))])[0],
        "reply": framed([("srv", answer(family, size=MTU[family] - 180))])[0],
    }
    for family in FAMILIES
}


def changed(family, steps):
    """Packets and changes, on the fast path, which keeps where packets go, and the slow one, which
    does not."""
    results = []
    for general in False, True:
        host = generally(made(family)) if general else made(family)
        one_by_one(host, OPENING[family])
        out, done = [], set()
        for step in steps:
            if step in LONG[family]:
                name, data = LONG[family][step]
                out.append(leaving(host, lvscore.FrameBatch.of([data] * 3, [1] * 3), name, 1))
            elif step not in done:
                done |= ROUTES if step in ROUTES else {step} & ONCE
                with contextlib.suppress(lvscore.NotFoundError):
                    CHANGES[family][step](host)
        results.append((out, known(host)))
    assert results[0] == results[1]


@of_each_family
@pytest.mark.parametrize("change", CHANGES[4])
def test_a_change_counts_from_the_next_packet_on(family, change):
    changed(family, ["request", "reply", change, "request", "reply"])


@settings(deadline=None)
@given(st.sampled_from(FAMILIES), st.lists(
    st.sampled_from([*CHANGES[4], *["request", "reply"] * 7]), max_size=40
))  # fmt: skip
def test_changes_between_packets(family, steps):
    changed(family, steps)


@of_each_family
def test_rules_of_the_mangle_table_count_every_packet(family):
    program, size = {4: ("iptables", 40), 6: ("ip6tables", 60)}[family]
    for send in one_by_one, lambda host, arrivals: batched(host, arrivals, leaving):
        host = made(family)
        rule = f"{program} -t mangle -A PREROUTING -p tcp --dport 80 -j MARK --set-mark 1"
        host.engine.iptables(rule)
        send(host, OPENING[family] + framed([("cli", ask(family))] * 5))
        listing = host.engine.iptables(f"{program} -t mangle -L PREROUTING -n -v -x")
        assert f"    7 {7 * size:8} MARK" in listing


offloads = st.lists(
    st.tuples(
        st.sampled_from(["cli", "srv"]),
        st.integers(0, 9000),
        st.sampled_from([0, 500, 1440, 1441, 1448, 1461, 2000]),
        st.booleans(),
    ),
    min_size=1,
    max_size=20,
)


@of_each_family
@given(drawn=offloads)
def test_offloads(family, drawn):
    """Partial checksums, and super-frames of segments."""
    results = []
    for general in False, True:
        host = made(family)
        one_by_one(host, OPENING[family])
        if general:
            generally(host)
        out = []
        for name, size, segment, left in drawn:
            packet = ask(family, size=size) if name == "cli" else answer(family, size=size)
            out.append(offloaded(host, name, packet, segment, left, 10))
        results.append((out, known(host)))
    assert results[0] == results[1]
