"""The FTP helper of a director: answers that change their length, on their way out."""

import lab
import pytest
from lab import CLIENT, ROUTER, SECOND, SERVER, VIP, director
from scapy.layers.inet import ICMP, IP, TCP, fragment
from scapy.layers.l2 import Ether

import lvscore

ANSWER = b"227 Entering Passive Mode (172,16,1,7,200,10).\r\n"
WANTED = b"227 Entering Passive Mode (172,16,1,100,200,10).\r\n"


def control_connection(client=CLIENT, interface="cli"):
    """A director on which a client has asked for a passive data connection."""
    host = director()
    host.modules |= {"ip_vs_ftp"}
    host.engine.add_service("tcp", f"{VIP}:21").add_server("172.16.1.7:21")
    for seq, flags, text in ((1000, "S", b""), (1001, "A", b""), (1001, "PA", b"PASV\r\n")):
        segment = TCP(sport=40000, dport=21, flags=flags, seq=seq, ack=5001)
        packet = IP(src=client, dst=VIP) / segment / text
        host.receive(interface, lab.frame(packet, interface), SECOND)
    return host


def answer(flags="DF", more=b"", client=CLIENT):
    segment = TCP(sport=21, dport=40000, flags="PA", seq=5001, ack=1007)
    return IP(src="172.16.1.7", dst=client, flags=flags, id=7) / segment / (ANSWER + more)


def receive(host, *packets):
    sent = []
    for packet in packets:
        sent += host.receive("srv", lab.frame(packet, "srv", SERVER), 2 * SECOND)
    return [(name, Ether(bytes(data))) for name, data in sent]


def test_a_longer_answer_leaves_as_any_packet():
    ((name, packet),) = receive(control_connection(), answer())
    assert (name, packet.dst, packet.src) == ("cli", ROUTER, lab.CLI)
    wanted = IP(src=VIP, dst=CLIENT, flags="DF", id=7, ttl=63) / TCP(
        sport=21, dport=40000, flags="PA", seq=5001, ack=1007) / WANTED  # fmt: skip
    assert bytes(packet[IP]) == bytes(wanted)


def test_it_is_cut_at_the_mtu_that_it_outgrew():
    host = control_connection()
    host.set_mtu("cli", 100)
    more = b"." * (100 - 40 - len(ANSWER))
    assert len(answer(0, more)) == 100
    sent = receive(host, answer(0, more))
    assert [len(packet[IP]) for _, packet in sent] == [100, 22]
    data = bytes(sent[0][1][TCP].payload) + bytes(sent[1][1][IP].payload)
    assert data == WANTED + more


def test_on_one_wire_the_server_is_told_of_the_nearer_way():
    """As for any packet that leaves by the interface that it came in on."""
    client = "172.16.1.8"
    host = control_connection(client, "srv")
    (_, redirect), (_, packet) = receive(host, answer(client=client))
    assert (redirect[ICMP].type, redirect[ICMP].code, redirect[ICMP].gw) == (5, 1, client)
    assert bytes(packet[TCP].payload) == WANTED


def test_an_answer_in_fragments():
    host = control_connection()
    sent = receive(host, *fragment(answer(0), fragsize=40))
    assert [bytes(packet[TCP].payload) for _, packet in sent] == [WANTED]
    assert len(host.engine.connections) == 2


def test_its_module_and_the_helper_are_one():
    host = director()
    assert host.modules == frozenset()
    host.engine.helpers.add("ftp", ports=(21, 2121))
    assert host.modules == {"ip_vs_ftp"}
    host.modules |= {"sctp"}
    assert host.engine.helpers["ftp"] == (21, 2121)
    host.modules = ["sctp"]
    assert "ftp" not in host.engine.helpers
    with pytest.raises(lvscore.ConfigError, match="dccp"):
        host.modules = ["ip_vs_ftp", "dccp"]
    assert host.modules == {"sctp"}
