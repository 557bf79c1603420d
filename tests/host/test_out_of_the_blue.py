"""SCTP for a Host's own stack, and a director of SCTP services."""

import pytest
from lab import CLIENT, SECOND, SERVER, VIP, director
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Raw
from test_forwarding import receive

import lvscore
from lvscore import Reason

T = 1
VIOLATION = b"\6\1\0\x34\0\x0d\0\x30The following chunk had invalid length:\0\0\0\0\x03"


def chunk(kind, data=b"", length=None):
    head = bytes((kind, 0)) + (4 + len(data) if length is None else length).to_bytes(2, "big")
    return head + data + bytes(-len(data) % 4)


def packet(*chunks, tag=0x01020304, version=IP, **fields):
    ends = (CLIENT, VIP) if version is IP else ("2001:db8:a::1", "2001:db8::1")
    sctp = SCTP(sport=40000, dport=9, tag=tag) / Raw(b"".join(chunks))
    return version(bytes(version(src=ends[0], dst=ends[1], **fields) / sctp))


def host_with_sctp():
    host = director()
    host.modules |= {"sctp"}
    return host


def answer(*chunks, **fields):
    """What the stack sends, and its tag; or None."""
    sent = receive(host_with_sctp(), packet(*chunks, **fields))
    if not sent:
        return None
    ((_, frame),) = sent
    assert (frame[SCTP].sport, frame[SCTP].dport) == (9, 40000)
    anew = frame.copy()
    del anew[SCTP].chksum
    if IP in anew:
        del anew[IP].chksum
    assert bytes(anew) == bytes(frame)
    return frame[SCTP].tag, bytes(frame[SCTP])[12:]


DATA = chunk(0, bytes(16))
INIT = chunk(1, b"\x0a\x0b\x0c\x0d" + bytes(12))
ABORTED = (0x01020304, b"\6\1\0\4")
COMPLETED = (0x01020304, b"\x0e\1\0\4")


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([DATA], ABORTED),
        ([chunk(3, bytes(12))], ABORTED),
        ([chunk(4)], ABORTED),
        ([chunk(2, bytes(16))], ABORTED),
        ([chunk(10, b"cook"), DATA], ABORTED),
        ([chunk(0xC0)], ABORTED),
        # An INIT has no tag yet: the answer has the one that it announces, and no T bit.
        ([INIT], (0x0A0B0C0D, b"\6\0\0\4")),
        ([INIT, DATA], None),
        ([DATA, INIT], None),
        ([chunk(1, bytes(12))], None),
        # RFC 9260, section 8.4
        ([chunk(6)], None),
        ([DATA, chunk(6)], None),
        ([chunk(14)], None),
        ([chunk(10, b"cook"), chunk(14)], None),
        ([chunk(8)], COMPLETED),
        ([chunk(8), DATA], COMPLETED),
        ([chunk(11)], None),
        ([chunk(11), DATA], ABORTED),
        ([chunk(11), chunk(12), DATA], ABORTED),
        ([DATA, chunk(11), DATA], None),
        ([chunk(9, b"\0\3\0\x08\0\0\0\0")], None),
        ([chunk(9, b"\0\1\0\x08\0\0\0\0")], ABORTED),
        ([chunk(9, b"\0\1\0\x08\0\0\0\0\0\3\0\x08\0\0\0\0")], None),
        # wrong lengths
        ([chunk(0, bytes(4), length=3)], (0x01020304, VIOLATION)),
        ([chunk(0, bytes(4), length=9)], (0x01020304, VIOLATION[:-2] + b"\0\x09")),
        ([chunk(1, bytes(16), length=40)], None),
    ],
)
def test_packets_out_of_the_blue(chunks, expected):
    assert answer(*chunks) == expected


def test_the_answer_is_not_fragmented_and_ecn_capable():
    ((_, frame),) = receive(host_with_sctp(), packet(DATA, tos=0xE0, ttl=3))
    ip = frame[IP]
    assert (ip.src, ip.dst, ip.id, ip.flags, ip.tos, ip.ttl) == (VIP, CLIENT, 0, "DF", 2, 64)


def test_ipv6():
    ((_, frame),) = receive(host_with_sctp(), packet(DATA, version=IPv6))
    assert (frame[IPv6].src, frame[IPv6].tc, frame[IPv6].hlim) == ("2001:db8::1", 2, 64)
    assert bytes(frame[SCTP])[12:] == b"\6\1\0\4"


@pytest.mark.parametrize("length", range(16))
def test_a_packet_without_chunk_gets_no_answer(length):
    whole = bytes(packet(DATA))[20:]
    assert receive(host_with_sctp(), IP(src=CLIENT, dst=VIP, proto=132) / whole[:length]) == []


def test_a_wrong_checksum_gets_no_answer():
    data = bytearray(bytes(packet(DATA)))
    data[28] ^= 1
    assert receive(host_with_sctp(), IP(bytes(data))) == []


def test_without_the_module_the_protocol_is_unreachable():
    ((_, error),) = receive(director(), packet(DATA))
    assert (error[ICMP].type, error[ICMP].code) == (3, 2)


def test_modules():
    host = director()
    host.modules |= {"sctp"}
    assert host.modules == {"sctp"}
    with pytest.raises(lvscore.ConfigError, match="'dccp'"):
        host.modules = ["dccp"]
    assert host.modules == {"sctp"}


def test_a_chunk_that_is_cut_never_reaches_the_stack():
    """IPVS drops it before it looks for a service; without any service it is not there."""
    host = director()
    sent = IP(bytes(packet(DATA))[: 20 + 15])
    del sent.len, sent.chksum
    assert receive(host, sent) == []
    host.engine.clear_services()
    ((_, error),) = receive(host, sent)
    assert (error[ICMP].type, error[ICMP].code) == (3, 2)


@pytest.mark.parametrize(
    ("chunks", "told"), [([DATA], True), ([chunk(6)], False), ([chunk(11), chunk(6)], True)]
)
def test_nat_icmp_send(chunks, told):
    host = director()
    host.engine.sysctl["net.ipv4.vs.nat_icmp_send"] = 1
    host.engine.add_service("sctp", f"{VIP}:9").add_server("172.16.1.7:1320")
    stray = IP(src="172.16.1.7", dst=CLIENT) / SCTP(sport=1320, dport=7) / Raw(b"".join(chunks))
    ((name, frame),) = receive(host, IP(bytes(stray)), "srv", SERVER)
    if told:
        assert (name, frame[ICMP].type, frame[ICMP].code) == ("srv", 3, 3)
        assert host.engine.last_reason == Reason.UNKNOWN_SERVER_PORT
    else:
        assert (name, frame[SCTP].sport) == ("cli", 1320)


def test_nat_icmp_send_knows_the_servers_of_marks():
    """Whatever the protocol is (ip_vs_has_real_service)."""
    host = director()
    host.engine.sysctl["net.ipv4.vs.nat_icmp_send"] = 1
    host.engine.add_fwmark_service(1).add_server("172.16.1.7:1320")
    stray = IP(src="172.16.1.7", dst=CLIENT) / UDP(sport=1320, dport=7) / Raw(b"data")
    ((name, frame),) = receive(host, IP(bytes(stray)), "srv", SERVER)
    assert (name, frame[ICMP].type, frame[ICMP].code) == ("srv", 3, 3)
    assert host.engine.last_reason == Reason.UNKNOWN_SERVER_PORT


def test_a_director_of_sctp():
    host = director()
    service = host.engine.add_service("sctp", f"{VIP}:9", scheduler="rr")
    service.add_server("172.16.1.7:1320")
    ((name, there),) = receive(host, packet(INIT, ttl=9), now=SECOND)
    assert (name, there[IP].dst, there[SCTP].dport, there[IP].ttl) == ("srv", "172.16.1.7", 1320, 8)
    anew = Ether(bytes(there))
    del anew[SCTP].chksum, anew[IP].chksum
    assert bytes(anew) == bytes(there)
    service.servers[0].edit(weight=0)
    other = IP(bytes(IP(src="10.0.0.2", dst=VIP) / SCTP(sport=1, dport=9) / Raw(INIT)))
    ((_, error),) = receive(host, other)
    assert (error[ICMP].type, error[ICMP].code, error[IP].src) == (3, 3, VIP)
