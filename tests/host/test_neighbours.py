"""Neighbours age, are asked again, move, fail and are forgotten (neighbour.c, RFC 4861)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import CLI, SECOND, SERVER, SRV, director
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether

from lvscore import _engine
from lvscore.host.neighbour_table import NeighbourState

MOVED = "02:00:00:00:00:99"
FOUR, SIX = "172.16.1.9", "2001:db8:1::9"


class Wire:
    """A director that forwards to one neighbour, which answers when told to."""

    def __init__(self, address):
        self.host, self.address = director(), address
        self.now = SECOND

    def packet(self, seconds=0.0):
        """What leaves when a packet for the neighbour comes in, so much later."""
        self.now += int(seconds * SECOND)
        network = (
            IP(src="10.0.0.1", dst=self.address) if "." in self.address
            else IPv6(src="2001:db8:a::1", dst=self.address)
        )  # fmt: skip
        frame = Ether(dst=CLI, src=SERVER) / network / UDP()
        return self.seen(self.host.receive("cli", bytes(frame), self.now))

    def wait(self, seconds):
        """What leaves because of time."""
        self.now += int(seconds * SECOND)
        return self.seen(self.host.advance(self.now))

    def says(self, mac=SERVER, answer=True, override=True):
        """The neighbour tells its address."""
        if "." in self.address:
            message = ARP(op=2 if answer else 1, hwsrc=mac, psrc=self.address, pdst="172.16.1.3")
        else:
            message = (
                IPv6(src=self.address, dst="2001:db8:1::3", hlim=255)
                / ICMPv6ND_NA(tgt=self.address, S=int(answer), O=int(override), R=0)
                / ICMPv6NDOptDstLLAddr(lladdr=mac)
            )
        frame = bytes(Ether(dst=SRV, src=mac) / message)
        return self.seen(self.host.receive("srv", frame, self.now))

    @property
    def state(self):
        key = self.host.number("srv"), _address(self.address)
        table = self.host._machine.neighbours
        return table[key].state.value if key in table else None

    def seen(self, sent):
        """Frames in words: who asks whom, what is forwarded to which link address."""
        words = []
        for _, data in sent:
            frame = Ether(data)
            if ARP in frame:
                assert (frame[ARP].pdst, frame[ARP].psrc) == (self.address, "172.16.1.3")
                words.append("all?" if frame.dst == "ff:ff:ff:ff:ff:ff" else f"{frame.dst}?")
            elif ICMPv6ND_NS in frame:
                assert frame[ICMPv6ND_NS].tgt == self.address
                assert frame[ICMPv6NDOptSrcLLAddr].lladdr == SRV
                alone = frame[IPv6].dst == self.address
                assert alone == (not frame.dst.startswith("33:33:ff:"))
                words.append(f"{frame.dst}?" if alone else "all?")
            elif ICMP in frame or frame[1].nh == 58 if IPv6 in frame else ICMP in frame:
                words.append("unreachable")
            else:
                words.append(frame.dst)
        return words


def _address(text):
    from ipaddress import ip_address

    return ip_address(text)


both = pytest.mark.parametrize("wire", [FOUR, SIX], indirect=True)


@pytest.fixture
def wire(request):
    return Wire(request.param)


@both
def test_it_is_asked_again_when_it_was_silent_for_long(wire):
    assert wire.packet() == ["all?"]
    assert wire.says() == [SERVER]
    assert wire.state == "reachable"
    assert wire.packet(29) == [SERVER]
    assert wire.wait(2) == []
    assert wire.state == "stale"
    assert wire.wait(3600) == []  # nobody uses it
    assert wire.packet() == [SERVER]
    assert wire.state == "delay"
    assert wire.packet(4) == [SERVER]
    assert wire.wait(1) == [f"{SERVER}?"]
    assert wire.state == "probe"
    assert wire.packet() == [SERVER]
    assert wire.says() == []
    assert wire.state == "reachable"
    assert wire.wait(29) == []


@both
def test_one_that_does_not_answer_is_forgotten(wire):
    wire.packet()
    wire.says()
    wire.wait(31)
    wire.packet()
    assert wire.wait(5) == [f"{SERVER}?"]
    assert wire.wait(1) == [f"{SERVER}?"]
    assert wire.packet(1) == [f"{SERVER}?", SERVER]
    assert wire.wait(1) == []
    assert wire.state is None
    assert wire.packet() == ["all?"]
    assert wire.wait(1) == ["all?"]
    assert wire.wait(1) == ["all?"]
    assert wire.packet() == []
    assert wire.state == "incomplete"
    assert wire.says() == [SERVER, SERVER]  # both that waited


@both
def test_what_waits_in_vain_is_told(wire):
    assert wire.packet() == ["all?"]
    assert wire.packet() == []
    wire.wait(1)
    wire.wait(1)
    told = wire.host.advance(wire.now + SECOND)
    assert [name for name, _ in told] == ["cli"] * 2
    assert wire.state is None


@both
def test_one_that_asks_is_taken_on_trust(wire):
    if wire.address == SIX:
        frame = Ether(dst=SRV, src=SERVER) / IPv6(src=SIX, dst="2001:db8:1::3", hlim=255)
        frame = frame / ICMPv6ND_NS(tgt="2001:db8:1::3") / ICMPv6NDOptSrcLLAddr(lladdr=SERVER)
        wire.host.receive("srv", bytes(frame), wire.now)
    else:
        wire.host.receive("srv", bytes(
            Ether(dst=SRV, src=SERVER) / ARP(op=1, hwsrc=SERVER, psrc=FOUR, pdst="172.16.1.3")
        ), wire.now)  # fmt: skip
    assert wire.state == "stale"
    assert wire.packet() == [SERVER]
    assert wire.wait(5) == [f"{SERVER}?"]


@both
def test_it_moves(wire):
    wire.packet()
    wire.says()
    wire.wait(2)
    wire.says(MOVED, answer=False)
    assert wire.state == "stale"
    assert wire.packet() == [MOVED]
    wire.says(SERVER, answer=True)
    assert wire.state == "reachable" or wire.address == FOUR
    wire.wait(2)
    wire.says(SERVER, answer=True)
    assert wire.packet() == [SERVER]


def test_arp_moves_nobody_twice_a_second_unless_he_announces_it():
    wire = Wire(FOUR)
    wire.packet()
    wire.says()
    wire.says(MOVED)
    assert wire.packet() == [SERVER]
    announcement = ARP(op=1, hwsrc=MOVED, psrc=FOUR, pdst=FOUR)
    frame = bytes(Ether(dst="ff:ff:ff:ff:ff:ff", src=MOVED) / announcement)
    wire.host.receive("srv", frame, wire.now)
    assert wire.packet() == [MOVED]


def test_an_advertisement_that_does_not_override_only_raises_doubts():
    wire = Wire(SIX)
    wire.packet()
    wire.says()
    wire.says(MOVED, answer=False, override=False)
    assert wire.state == "stale"
    assert wire.packet() == [SERVER]


@both
def test_what_nobody_asked_for_is_not_learned(wire):
    wire.says()
    assert wire.state is None


@both
def test_a_given_address_stays(wire):
    wire.host.add_neighbour(wire.address, SERVER, "srv")
    wire.says(MOVED)
    wire.wait(3600)
    assert wire.packet() == [SERVER]
    assert wire.state == "permanent"


def test_times_can_be_set():
    wire = Wire(FOUR)
    sysctl = wire.host.sysctl
    sysctl["net.ipv4.neigh.default.base_reachable_time_ms"] = 2000
    sysctl["net.ipv4.neigh.default.delay_first_probe_time"] = 1
    sysctl["net.ipv4.neigh.default.retrans_time_ms"] = 500
    sysctl["net.ipv4.neigh.default.ucast_solicit"] = 1
    sysctl["net.ipv4.neigh.default.mcast_solicit"] = 2
    assert wire.packet() == ["all?"]
    assert wire.wait(0.5) == ["all?"]
    assert wire.says() == [SERVER]
    assert wire.wait(2) == []
    assert wire.packet(1) == [SERVER]
    assert wire.wait(1) == [f"{SERVER}?"]
    assert wire.wait(0.5) == []
    assert wire.state is None
    sysctl["net.ipv4.neigh.default.unres_qlen"] = 2
    wire.packet(), wire.packet(), wire.packet()
    assert wire.says() == [SERVER] * 2


def scan(host, count, now):
    """Packets for as many neighbours that are not there."""
    sent = []
    for number in range(count):
        target = f"172.16.{64 + (number >> 8)}.{number & 255}"
        frame = Ether(dst=CLI, src=SERVER) / IP(src="10.0.0.1", dst=target) / UDP()
        sent += host.receive("cli", bytes(frame), now)
    return sent


def learned(host):
    """States of what was not given."""
    states = [entry.state for entry in host._machine.neighbours._entries.values()]
    return [state for state in states if state is not NeighbourState.PERMANENT]


def test_a_scan_of_a_network_has_a_bound():
    host = director()
    host.add_address("srv", "172.16.64.3/19")
    host.sysctl["net.ipv4.neigh.default.gc_thresh3"] = 100
    scan(host, 200, SECOND)
    assert learned(host) == [NeighbourState.INCOMPLETE] * 100
    host.advance(10 * SECOND)
    assert learned(host) == []
    scan(host, 200, 10 * SECOND)
    assert learned(host) == [NeighbourState.INCOMPLETE] * 100


def test_stale_ones_make_room():
    host = director()
    host.add_address("srv", "172.16.64.3/19")
    host.sysctl["net.ipv4.neigh.default.gc_thresh2"] = 50
    host.sysctl["net.ipv4.neigh.default.gc_thresh3"] = 60
    for number in range(40):
        ask = ARP(op=1, hwsrc=SERVER, psrc=f"172.16.64.{100 + number}", pdst="172.16.1.3")
        host.receive("srv", bytes(Ether(dst=SRV, src=SERVER) / ask), SECOND + number)
    assert learned(host) == [NeighbourState.STALE] * 40
    scan(host, 20, 10 * SECOND)
    assert learned(host).count(NeighbourState.STALE) == 39  # one flush in five seconds
    scan(host, 60, 20 * SECOND)
    assert learned(host).count(NeighbourState.INCOMPLETE) > 50
    assert len(learned(host)) <= 60


def test_stale_ones_go_after_a_while_where_there_are_many():
    host = director()
    host.add_address("srv", "172.16.64.3/19")
    for number in range(200):
        ask = ARP(op=1, hwsrc=SERVER, psrc=f"172.16.64.{number}", pdst="172.16.1.3")
        host.receive("srv", bytes(Ether(dst=SRV, src=SERVER) / ask), SECOND)
    assert len(learned(host)) == 200
    host.advance(60 * SECOND)
    assert len(learned(host)) == 200
    host.advance(92 * SECOND)
    assert learned(host) == []


def test_answers_that_never_end_leave_nothing():
    wire = Wire(FOUR)
    wire.packet()
    told = []
    table = wire.host._machine.neighbours
    compiled = table._compiled
    table._compiled = lambda key, mac: (told.append(mac), compiled(key, mac))
    for _ in range(100):
        wire.says()
        wire.now += SECOND // 10
    assert len(table._timers) < 5
    assert len(told) == 1
    assert wire.wait(29) == []
    assert wire.state == "reachable"
    wire.wait(2)
    assert wire.state == "stale"
    assert told[1:] == [None]


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=80))
def test_the_compiled_table_is_the_same(changes):
    """Entries are put and removed one by one; others stay where they are found."""
    host = director()
    known = {}
    for number, there in changes:
        address = f"172.16.1.{50 + number}"
        if there:
            mac = f"02:00:00:00:01:{len(known) % 7:02x}"
            host.add_neighbour(address, mac, "srv")
            known[address] = mac
        elif address in known:
            host.remove_neighbour(address, "srv")
            del known[address]
    for number in range(31):
        address = f"172.16.1.{50 + number}"
        frame = bytearray(bytes(Ether(dst=CLI) / IP(src="10.0.0.1", dst=address) / UDP()))
        outcome = _engine.host_receive(host.engine, frame, host.number("cli"), SECOND)
        assert outcome[4] == (address in known)
        if address in known:
            assert Ether(bytes(frame)).dst == known[address]


def test_all_are_told_of_the_own_addresses():
    """Gratuitous ARP and unsolicited advertisements, to everybody on each wire."""
    told = {"cli": {"172.16.0.3", "2001:db8:c::3"},
            "srv": {"172.16.1.3", "172.16.1.100", "2001:db8:1::3", "2001:db8::1"}}  # fmt: skip
    for name, data in director().announce():
        frame = Ether(data)
        mac = CLI if name == "cli" else SRV
        assert frame.src == mac
        if ARP in frame:
            assert frame.dst == "ff:ff:ff:ff:ff:ff"
            assert (frame[ARP].hwsrc, frame[ARP].psrc) == (mac, frame[ARP].pdst)
            told[name].remove(frame[ARP].psrc)
        else:
            assert (frame.dst, frame[IPv6].dst, frame[IPv6].hlim) == (
                "33:33:00:00:00:01", "ff02::1", 255)  # fmt: skip
            assert (frame[ICMPv6ND_NA].S, frame[ICMPv6ND_NA].O) == (0, 1)
            assert frame[ICMPv6NDOptDstLLAddr].lladdr == mac
            told[name].remove(frame[ICMPv6ND_NA].tgt)
    assert told == {"cli": set(), "srv": set()}
