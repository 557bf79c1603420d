"""ICMP errors that come back from tunnels, and what the client hears of them."""

import pytest
from lab import CLIENT, DIP, SERVER, VIP, director, frame
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import GRE, Ether

import lvscore
from lvscore import Reason, Tunnel


def tunnelling(tunnel):
    host = director()
    service = host.engine.add_service("tcp", f"{VIP}:81", scheduler="rr")
    service.add_server("172.16.1.7:81", method="tunnel", tunnel=tunnel)
    return host


def request(host, flags="DF", size=100, now=0):
    """A client's segment; the packet that leaves for the server."""
    segment = IP(src=CLIENT, dst=VIP, flags=flags) / TCP(sport=40000, dport=81) / (b"x" * size)
    ((name, sent),) = host.receive("cli", frame(segment), now)
    assert (name, Ether(sent).dst) == ("srv", SERVER)
    return Ether(sent)[IP]


def answer(host, wrapped, kind, code, mtu=0, spoil=False):
    """What leaves when a router in the tunnel sends an ICMP error about a packet."""
    error = IP(src="172.16.1.7", dst=DIP) / ICMP(type=kind, code=code, nexthopmtu=mtu)
    packet = bytearray(bytes(error / bytes(wrapped)[:200]))
    if spoil:
        packet[22] ^= 1
    sent = host.receive("srv", frame(IP(bytes(packet)), "srv", SERVER), 1)
    return [Ether(data) for name, data in sent if name == "cli"]


TUNNELS = [
    (Tunnel(), 20),
    (Tunnel("gue", 6080, "csum"), 32),
    (Tunnel("gre"), 24),
    (Tunnel("gre", 0, "csum"), 28),
]


@pytest.mark.parametrize(("tunnel", "overhead"), TUNNELS)
def test_a_path_mtu_is_told_less_what_the_tunnel_takes(tunnel, overhead):
    host = tunnelling(tunnel)
    wrapped = request(host)
    (told,) = answer(host, wrapped, 3, 4, 1400)
    assert (told[IP].src, told[IP].dst) == (VIP, CLIENT)
    assert (told[ICMP].type, told[ICMP].code) == (3, 4)
    assert told[ICMP].nexthopmtu == 1400 - overhead
    quoted = bytes(told[ICMP].payload)
    assert quoted == bytes(wrapped)[overhead : overhead + len(quoted)]
    assert host.engine.last_reason == Reason.TUNNEL_ERROR


@pytest.mark.parametrize(("kind", "code"), [(3, 1), (11, 0)])
def test_other_errors_are_told_as_they_are(kind, code):
    host = tunnelling(Tunnel())
    (told,) = answer(host, request(host), kind, code)
    assert (told[ICMP].type, told[ICMP].code) == (kind, code)


def test_who_does_not_look_for_the_mtu_is_not_told():
    host = tunnelling(Tunnel())
    assert answer(host, request(host, flags=0), 3, 4, 1400) == []
    assert host.engine.last_reason == Reason.TUNNEL_ERROR


def test_a_wrong_checksum_is_dropped():
    host = tunnelling(Tunnel())
    assert answer(host, request(host), 3, 1, spoil=True) == []
    assert host.engine.last_reason == Reason.BAD_ICMP_CHECKSUM


@pytest.mark.parametrize(
    "quoted",
    [
        IP(src=DIP, dst="172.16.1.9", proto=4) / IP(src=CLIENT, dst=VIP) / TCP(sport=1, dport=81),
        IP(src=DIP, dst="172.16.1.7", proto=4) / IP(src=CLIENT, dst=VIP) / TCP(sport=1, dport=81),
        IP(src=DIP, dst="172.16.1.7", proto=4) / b"short",
        IP(src=DIP, dst="172.16.1.7") / UDP(sport=1, dport=6080) / b"\0\4\0\0",
        IP(src=DIP, dst="172.16.1.7") / GRE(proto=0x86DD) / b"",
    ],
)
def test_what_is_about_no_connection_is_for_the_local_stack(quoted):
    host = tunnelling(Tunnel())
    request(host)
    assert answer(host, quoted, 3, 1) == []
    assert host.engine.last_reason == Reason.ICMP_NOT_RELATED


def test_it_counts_as_packets_of_the_server():
    """The error that came, and the one that leaves for the client (LOCAL_OUT)."""
    host = tunnelling(Tunnel())
    answer(host, request(host), 3, 1)
    service = host.engine.find_service("tcp", f"{VIP}:81")
    assert service.statistics.packets_out == 2


def test_an_engine_alone_leaves_it_to_the_local_stack():
    engine = lvscore.Engine(seed=0)
    service = engine.add_service("tcp", f"{VIP}:80")
    service.add_server("172.16.1.7:80", method="tunnel")
    segment = Ether() / IP(src=CLIENT, dst=VIP) / TCP(sport=1, dport=80)
    engine.process(bytearray(bytes(segment)), 0)
    wrapped = Ether(bytes(engine.emitted[0]))[IP]
    error = Ether() / IP(src="172.16.1.7", dst=VIP) / ICMP(type=3, code=1) / bytes(wrapped)
    assert engine.process(bytearray(bytes(error)), 0) == lvscore.Verdict.LOCAL
