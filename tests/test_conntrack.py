"""conntrack's language on an engine: lines, filters, deleting."""

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

import lvscore
from lvscore import conntrack
from lvscore.errors import CommandError

OUTSIDE = "10.0.0.200"


def send(engine, layers, seconds=0.0):
    frame = bytearray(bytes(Ether() / layers))
    engine.process(frame, int(seconds * 1e9))
    return frame


@pytest.fixture
def engine():
    """Flows of a router: TCP through DNAT, UDP through SNAT, ICMP and ICMPv6 as they are."""
    engine = lvscore.Engine(seed=1)
    engine.add_dnat("172.16.1.100:8080", destination=OUTSIDE, protocol="tcp", destination_ports=80)
    engine.add_snat(OUTSIDE, source="172.16.1.0/24")
    send(engine, IP(src="10.0.0.1", dst=OUTSIDE) / TCP(sport=40000, dport=80, flags="S", seq=1))
    send(
        engine,
        IP(src="172.16.1.100", dst="10.0.0.1")
        / TCP(sport=8080, dport=40000, flags="SA", seq=9, ack=2),
    )
    send(engine, IP(src="172.16.1.7", dst="8.8.8.8") / UDP(sport=5000, dport=53) / Raw(b"?"))
    send(engine, IP(src="10.0.0.1", dst="10.0.0.9") / ICMP(type=8, id=7))
    send(engine, IPv6(src="2001:db8::1", dst="2001:db8::2") / ICMPv6EchoRequest(id=9))
    return engine


TCP_LINE = (
    "tcp      6 59 SYN_RECV src=10.0.0.1 dst=10.0.0.200 sport=40000 dport=80 "
    "src=172.16.1.100 dst=10.0.0.1 sport=8080 dport=40000 mark=0 use=1"
)
UDP_LINE = (
    "udp      17 29 src=172.16.1.7 dst=8.8.8.8 sport=5000 dport=53 [UNREPLIED] "
    "src=8.8.8.8 dst=10.0.0.200 sport=53 dport=5000 mark=0 use=1"
)
ICMP_LINE = (
    "icmp     1 29 src=10.0.0.1 dst=10.0.0.9 type=8 code=0 id=7 [UNREPLIED] "
    "src=10.0.0.9 dst=10.0.0.1 type=0 code=0 id=7 mark=0 use=1"
)
ICMPV6_LINE = (
    "icmpv6   58 29 src=2001:db8::1 dst=2001:db8::2 type=128 code=0 id=9 [UNREPLIED] "
    "src=2001:db8::2 dst=2001:db8::1 type=129 code=0 id=9 mark=0 use=1"
)
ALL = {TCP_LINE, UDP_LINE, ICMP_LINE, ICMPV6_LINE}


def listed(engine, options=""):
    engine.expire(1_000_000)
    return set(engine.conntrack(f"-L {options}").splitlines())


def test_the_list(engine):
    assert listed(engine) == ALL
    assert engine.conntrack("-C") == "4\n"
    assert engine.conntrack("conntrack -L conntrack -p udp").startswith("udp ")


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ("-p tcp", {TCP_LINE}),
        ("-p 17", {UDP_LINE}),
        ("--proto=icmpv6", {ICMPV6_LINE}),
        ("-f ipv6", {ICMPV6_LINE}),
        ("-f ipv4 -s 10.0.0.1", {TCP_LINE, ICMP_LINE}),
        ("-s 10.0.0.0/24 -d 10.0.0.200", {TCP_LINE}),
        ("--orig-src 172.16.1.7", {UDP_LINE}),
        ("-r 172.16.1.100", {TCP_LINE}),
        ("-q 10.0.0.200", {UDP_LINE}),
        ("-p tcp --dport 80", {TCP_LINE}),
        ("-p tcp --sport 80", set()),
        ("-p tcp --reply-port-src 8080 --orig-port-src 40000", {TCP_LINE}),
        ("-n", {UDP_LINE}),
        ("--src-nat 10.0.0.200", {UDP_LINE}),
        ("--src-nat 10.0.0.201", set()),
        ("-g", {TCP_LINE}),
        ("-j", {TCP_LINE, UDP_LINE}),
        ("--any-nat 172.16.1.100", {TCP_LINE}),
        ("-u UNREPLIED", ALL - {TCP_LINE}),
        ("-u SEEN_REPLY,DST_NAT", {TCP_LINE}),
        ("-p tcp --state SYN_RECV", {TCP_LINE}),
        ("-p tcp --state ESTABLISHED", set()),
    ],
)
def test_filters(engine, options, found):
    assert listed(engine, options) == found


def test_formats(engine):
    assert listed(engine, "-p tcp -o extended") == {f"ipv4     2 {TCP_LINE}"}
    assert listed(engine, "-f ipv6 -o extended") == {f"ipv6     10 {ICMPV6_LINE}"}
    (line,) = listed(engine, "-p udp -o id,extended")
    assert line.startswith(f"ipv4     2 {UDP_LINE} id=")
    ids = {line.rpartition("id=")[2] for line in listed(engine, "-o id")}
    assert len(ids) == 4
    engine.sysctl["net.netfilter.nf_conntrack_acct"] = 1
    (line,) = listed(engine, "-p tcp")
    assert "dport=80 packets=1 bytes=40 src=" in line
    assert "dport=40000 packets=1 bytes=40 mark" in line


def test_other_protocols():
    engine = lvscore.Engine(seed=1)
    engine.add_snat(OUTSIDE, source="172.16.1.0/24")
    send(engine, IP(src="172.16.1.7", dst="8.8.8.8", proto=47) / Raw(b"\0\0\x08\0"))
    send(engine, IP(src="172.16.1.7", dst="8.8.8.8", proto=89) / Raw(b"ospf"))
    assert listed(engine) == {
        "gre      47 29 src=172.16.1.7 dst=8.8.8.8 srckey=0x0 dstkey=0x0 [UNREPLIED] "
        "src=8.8.8.8 dst=10.0.0.200 srckey=0x0 dstkey=0x0 mark=0 use=1",
        "unknown  89 599 src=172.16.1.7 dst=8.8.8.8 [UNREPLIED] "
        "src=8.8.8.8 dst=10.0.0.200 mark=0 use=1",
    }


def test_delete_and_flush(engine):
    engine.expire(1_000_000)
    assert engine.conntrack("-D -p tcp -d 10.0.0.200") == TCP_LINE + "\n"
    assert listed(engine) == ALL - {TCP_LINE}
    with pytest.raises(CommandError, match="0 flow entries have been deleted") as caught:
        engine.conntrack("-D -p tcp")
    assert caught.value.status == 1
    assert engine.conntrack("-F") == ""
    assert listed(engine) == set()
    assert engine._selfcheck() == 0


def test_services_are_not_in_it():
    engine = lvscore.Engine(seed=1)
    engine.add_service("tcp", "172.16.1.100:80").add_server("172.16.1.7:80")
    send(engine, IP(src="10.0.0.1", dst="172.16.1.100") / TCP(sport=40000, dport=80, flags="S"))
    assert len(engine.connections) == 1
    assert engine.conntrack("-C") == "0\n"


def test_entries_as_values(engine):
    entry = next(e for e in conntrack.entries(engine) if e.protocol == 17)
    assert str(entry.source_nat) == OUTSIDE
    assert entry.destination_nat is None
    assert entry.original.destination_port == entry.reply.source_port == 53


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("", "no command"),
        ("-E", "-E is not available"),
        ("-L expect", "no table but conntrack"),
        ("-L -D", "besides another"),
        ("-L --zone 1", "--zone is not available"),
        ("-L -o json", "'json' is not available"),
        ("-L -o xml", "'xml' is not available"),
        ("-L -p", "needs a value"),
        ("-L -p nothing", "unknown protocol 'nothing'"),
        ("-L -s 10.0.0.300", "10.0.0.300"),
        ("-L --dport 80", "--orig-port-dst needs -p"),
        ("-L -p tcp --dport http", "http"),
        ("-L -f inet", "unknown family 'inet'"),
        ("-L -p udp --state NONE", "--state needs -p tcp"),
        ("-L -u FIXED_TIMEOUT", "'FIXED_TIMEOUT' is not available"),
        ("-L -s 1.1.1.1 --orig-src 1.1.1.2", "twice"),
        ("-F -p tcp", "--proto is not available with --flush"),
        ("-L 'x", "quotation"),
    ],
)
def test_refusals_name_what_is_wrong(engine, line, named):
    with pytest.raises(CommandError, match=r"^conntrack: ") as caught:
        engine.conntrack(line)
    assert named in str(caught.value)
    assert caught.value.status == 2
