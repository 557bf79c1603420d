"""conntrack's language on an engine: lines, filters, deleting."""

import json
import time
from xml.etree import ElementTree

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

import lvscore
from lvscore import conntrack
from lvscore.errors import CommandError

OUTSIDE = "10.0.0.200"
MAC = "02:00:00:00:00:01"


def send(engine, layers, seconds=0.0):
    frame = bytearray(bytes(Ether(src=MAC, dst=MAC) / layers))
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
        ("-n", ALL - {TCP_LINE}),  # of an echo the tool compares identifier and type
        ("--src-nat 10.0.0.200", {UDP_LINE}),
        ("--src-nat 10.0.0.201", set()),
        ("-g", ALL - {UDP_LINE}),
        ("-j", ALL),
        ("-n -g", {ICMP_LINE, ICMPV6_LINE}),
        ("-n 10.0.0.200:5000", set()),  # its port is as it was
        ("-g 172.16.1.100:8080", {TCP_LINE}),
        ("-g 172.16.1.100:80", set()),
        ("--dst-nat=172.16.1.100", {TCP_LINE}),
        ("-m 0/0xff", ALL),
        ("--mark 1", set()),
        ("-w 0 --orig-zone 0", ALL),
        ("--reply-zone 1", set()),
        ("-u UNREPLIED,SEEN_REPLY", set()),
        ("-u OFFLOAD", set()),
        ("-p icmp --icmp-type 8 --icmp-code 0 --icmp-id 7", {ICMP_LINE}),
        ("-p icmpv6 --icmpv6-id 8", set()),
        ("--protonu udp", {UDP_LINE}),
        ("--mask-src 255.255.0.0 -s 172.16.9.9", {UDP_LINE}),
        ("dying", set()),
        ("--any-nat 172.16.1.100", {TCP_LINE}),
        ("-u UNREPLIED", ALL - {TCP_LINE}),
        ("-u seen", {TCP_LINE}),
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
    send(engine, IP(src="172.16.1.7", dst="8.8.8.8", proto=47) / Raw(b"\0\0\x08\0data"))
    send(engine, IP(src="172.16.1.7", dst="8.8.8.8", proto=89) / Raw(b"ospf"))
    assert listed(engine) == {
        "gre      47 29 src=172.16.1.7 dst=8.8.8.8 srckey=0x0 dstkey=0x0 [UNREPLIED] "
        "src=8.8.8.8 dst=10.0.0.200 srckey=0x0 dstkey=0x0 mark=0 use=1",
        "unknown  89 599 src=172.16.1.7 dst=8.8.8.8 [UNREPLIED] "
        "src=8.8.8.8 dst=10.0.0.200 mark=0 use=1",
    }


def test_segments_that_change_nothing_are_not_counted():
    """A SYN sent again, and what is let through without a look at windows
    (nf_conntrack_tcp_packet)."""
    engine = lvscore.Engine(seed=1)
    engine.add_snat(OUTSIDE, source="172.16.1.0/24")
    engine.sysctl["net.netfilter.nf_conntrack_acct"] = 1
    there = IP(src="172.16.1.7", dst="8.8.8.8") / TCP(sport=4000, dport=80, flags="S", seq=1)
    for _ in range(3):
        send(engine, there)
    back = IP(src="8.8.8.8", dst=OUTSIDE) / TCP(sport=80, dport=4000, flags="A", seq=9, ack=9)
    send(engine, back)
    (line,) = listed(engine)
    assert line.count("packets=1 bytes=40") == 1
    assert line.count("packets=0 bytes=0") == 1
    back[TCP].flags, back[TCP].ack = "SA", 2
    send(engine, back)
    (line,) = listed(engine)
    assert line.count("packets=1 bytes=40") == 2


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


def test_xml_and_json_say_the_same(engine):
    engine.expire(1_000_000)
    engine.sysctl["net.netfilter.nf_conntrack_acct"] = 1
    text = engine.conntrack("-L -p udp -o xml,extended,id")
    assert text.splitlines()[:2] == ['<?xml version="1.0" encoding="utf-8"?>', "<conntrack>"]
    (flow,) = ElementTree.fromstring(text.encode())
    assert [meta.get("direction") for meta in flow] == ["original", "reply", "independent"]
    (entry,) = json.loads(engine.conntrack("-L -p udp -o json"))["conntrack"]
    for meta in flow:
        assert leaves(meta) == flat(entry[meta.get("direction")])
    assert entry["reply"]["layer3"]["dst"] == OUTSIDE
    assert entry["independent"]["unreplied"] is True
    assert engine.conntrack("-L -p sctp -o xml") == ""
    assert json.loads(engine.conntrack("-L -p sctp -o json")) == {"conntrack": []}


def leaves(element):
    """The texts of an element's children, by path; protocol numbers are attributes."""
    found = {f"{element.tag}@{name}": value for name, value in element.attrib.items()}
    if element.tag == "meta":
        found = {}
    for child in element:
        found |= {f"{child.tag}@{name}": value for name, value in child.attrib.items()}
        if len(child) == 0 and not child.attrib:
            found[child.tag] = child.text or "True"
        for inner in child:
            found[f"{child.tag}/{inner.tag}"] = inner.text
    return found


def flat(fields):
    found = {}
    for name, value in fields.items():
        if not isinstance(value, dict):
            found[name] = str(value)
            continue
        for key, inner in value.items():
            found[f"{name}{'@' if 'proto' in key else '/'}{key}"] = str(inner)
    return found


def test_save(engine):
    engine.expire(1_000_000)
    assert set(engine.conntrack("-L -o save").splitlines()) == {
        "-A -t 59 -u SEEN_REPLY -s 10.0.0.1 -d 10.0.0.200 -g 172.16.1.100 -q 10.0.0.1 -p tcp "
        "--sport 40000 --dport 80 --reply-port-src 8080 --reply-port-dst 40000 --state SYN_RECV",
        "-A -t 29 -u UNSET -s 172.16.1.7 -d 8.8.8.8 -r 8.8.8.8 -n 10.0.0.200 -p udp "
        "--sport 5000 --dport 53 --reply-port-src 53 --reply-port-dst 5000",
        "-A -t 29 -u UNSET -s 10.0.0.1 -d 10.0.0.9 -r 10.0.0.9 -q 10.0.0.1 -p icmp "
        "--icmp-type 8 --icmp-code 0 --icmp-id 7",
        "-A -t 29 -u UNSET -s 2001:db8::1 -d 2001:db8::2 -r 2001:db8::2 -q 2001:db8::1 "
        "-p icmpv6 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id 9",
    }


def test_timestamps(engine):
    engine.sysctl["net.netfilter.nf_conntrack_timestamp"] = 1
    engine.expire(7_200_000_000)
    (line,) = listed(engine, "-p udp -o ktimestamp,timestamp,labels")
    start = time.ctime(0)
    assert f"mark=0 delta-time=7 [start={start}] use=1" in line
    (line,) = listed(engine, "-p udp")
    assert "mark=0 delta-time=7 use=1" in line
    text = engine.conntrack("-L -p udp -o xml,ktimestamp")
    assert "<timestamp><start>0</start></timestamp><deltatime>7</deltatime></meta>" in text


def test_get(engine):
    engine.expire(1_000_000)
    whole = "-G -p tcp -s 10.0.0.1 -d 10.0.0.200 --sport 40000 --dport 80"
    assert engine.conntrack(whole) == TCP_LINE + "\n"
    assert engine.conntrack("-G -p icmp -s 10.0.0.1 -d 10.0.0.9 --icmp-type 8 --icmp-code 0 "
                            "--icmp-id 7") == ICMP_LINE + "\n"  # fmt: skip
    for line, message in (
        (whole.replace("80", "81"), "Operation failed: such conntrack doesn't exist"),
        ("-G -p tcp -s 172.16.1.100 -d 10.0.0.1 --sport 8080 --dport 40000",
         "0 flow entries have been shown."),
        ("-G -p tcp -r 1.1.1.1 -q 1.1.1.2 --reply-port-src 1 --reply-port-dst 2",
         "Operation failed: invalid parameters"),
    ):  # fmt: skip
        with pytest.raises(CommandError) as caught:
            engine.conntrack(line)
        assert str(caught.value) == f"conntrack v1.4.7 (conntrack-tools): {message}"
        assert caught.value.status == 1


def test_update(engine):
    engine.expire(1_000_000)
    text = engine.conntrack("-U -p udp -t 500 -u ASSURED")
    assert text == UDP_LINE.replace(" 29 ", " 500 ").replace("mark", "[ASSURED] mark") + "\n"
    engine.expire(499_000_000_000)
    assert listed_at_rest(engine) == {17}
    engine.expire(502_000_000_000)
    assert listed_at_rest(engine) == set()
    with pytest.raises(CommandError, match="0 flow entries have been updated") as caught:
        engine.conntrack("-U -p tcp -t 1")
    assert caught.value.status == 1
    assert engine._selfcheck() == 0


def listed_at_rest(engine):
    return {entry.protocol for entry in conntrack.entries(engine)}


def test_update_shortens(engine):
    engine.expire(1_000_000)
    engine.conntrack("-U -f ipv4 -t 5")
    engine.expire(6_000_000_000)
    assert listed_at_rest(engine) == {58}


@pytest.mark.parametrize("seconds", ["4294967295", "0xffffffff", "3000000"])
def test_update_to_more_than_a_deadline_holds(engine, seconds):
    """As in the kernel, which bounds it: it does not wrap."""
    engine.expire(1_000_000)
    text = engine.conntrack(f"-U -p udp -t {seconds}")
    assert text.split()[2] == "2147483"
    engine.expire(2_000_000 * 1_000_000_000)
    assert "udp" in engine.conntrack("-L")
    assert engine._selfcheck() == 0


def test_numbers_are_read_as_c_does(engine):
    engine.expire(1_000_000)
    assert " 15 " in engine.conntrack("-U -p udp -t 017")
    assert " 31 " in engine.conntrack("-U -p udp -t 0x1F")
    for wrong in ("1_0", "+1", "-1", "0b1", "08", "''", "1.0", "\u00b2", "4294967296"):
        with pytest.raises(CommandError, match="is not a number"):
            engine.conntrack(f"-U -p udp -t {wrong}")
    with pytest.raises(CommandError, match="Invalid netmask"):
        engine.conntrack("-L -s 10.0.0.0/\u00b2")


def test_statistics():
    engine = lvscore.Engine(seed=1)
    engine.add_snat(f"{OUTSIDE}:7000-7000", source="172.16.1.0/24", protocol="udp")
    for sport in (5000, 5001):
        send(engine, IP(src="172.16.1.7", dst="8.8.8.8") / UDP(sport=sport, dport=53))
    send(engine, IP(src="10.0.0.1", dst="10.0.0.9") / TCP(sport=1, dport=2, flags="R"))
    assert engine.conntrack("-S") == (
        "cpu=0   \tinvalid=1 insert=0 insert_failed=1 drop=1 early_drop=0 error=0 "
        "search_restart=0 clash_resolve=0 chaintoolong=0 \n"
    )


TITLE = "conntrack v1.4.7 (conntrack-tools): "
TRY = "\nTry `conntrack -h' or 'conntrack --help' for more information."


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-X", "unknown option `-X'"),
        ("-L --bogus", "unknown option `--bogus'"),
        ("-L -Z", "unknown option `-Z'"),
        ("-L bogus", "unknown type `bogus'"),
        ("-L -D", "Invalid commands combination"),
        ("-L -p", "option `-p' requires an argument"),
        ("-L -p nothing", "`nothing' unsupported protocol"),
        ("-L -s 10.0.0.300", "Invalid IP address `10.0.0.300'"),
        ("-L -s 10.0.0.0/99", "Invalid netmask"),
        ("-L --dport 80", "unknown option `--dport'"),
        ("-L --dport 80 -p tcp", "unknown option `--dport'"),
        ("-L -p icmp --dport 80", "unknown option `--dport'"),
        ("-L -f inet", "`inet' unsupported protocol"),
        ("-L -f ipv6 -s 1.1.1.1", "mismatched address family"),
        ("-L -p udp --state NONE", "unknown option `--state'"),
        ("-L -p tcp --state established", "unknown TCP state `established'"),
        ("-L -u BLA", "Bad parameter `BLA'"),
        ("-L -o xml,bla,id", "Bad parameter `bla,id'"),
        ("-L -n 10.0.0.0/24", "CIDR notation unavailable for `--src-nat'"),
        ("-L -n 10.0.0.1:x", "Invalid port `x'"),
        ("-L -n -j", "cannot specify `--src-nat' or `--dst-nat' with `--any-nat'"),
        ("-L -t 5", "Illegal option `--timeout' with this command"),
        ("-F -p tcp", "Illegal option `--protonum' with this command"),
        ("-S -o xml", "Illegal option `--output' with this command"),
        ("-G", "You need to supply the `--protonum' option for this command"),
        ("-G -p tcp -s 1.1.1.1", "you have to specify `--src' and `--dst'"),
        ("-G -p udp -s 1.1.1.1 -d 1.1.1.2", "you have to specify `--sport' and `--dport'"),
        ("-G -p icmp -s 1.1.1.1 -d 1.1.1.2",
         "You need to supply the `--icmp-type' option for this command"),
        ("-L --mask-dst 255.0.0.0", "Can't use --mask-dst without --dst"),
        ("-L -l x", "unknown label 'x'"),
    ],
)  # fmt: skip
def test_refusals_are_the_tools_own(engine, line, message):
    with pytest.raises(CommandError) as caught:
        engine.conntrack(line)
    assert str(caught.value) == TITLE + message + TRY
    assert caught.value.status == 2


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("", "no command"),
        ("-E", "-E is not available"),
        ("-D expect", "--delete is not available with table expect"),
        ("-L expect -p tcp", "Illegal option `--protonum' with this command"),
        ("-L expect -o json", "only xml is available"),
        ("-L -z", "-z is not available"),
        ("-L --secmark 1", "--secmark is not available"),
        ("-L -o xml,json", "xml and json"),
        ("-L -p tcp --dport http", "'http' behind --dport"),
        ("-L -p tcp --sport 65536", "'65536' behind --sport"),
        ("-L -m x", "'x' behind -m"),
        ("-L foo bar", "foo"),
        ("-L conntrack foo", "unexpected word 'foo'"),
        ("-U -p tcp -m 7", "mark 7 cannot be set"),
        ("-L 'x", "quotation"),
    ],
)
def test_what_is_missing_here_is_refused_by_name(engine, line, named):
    with pytest.raises(CommandError, match=r"^conntrack") as caught:
        engine.conntrack(line)
    assert named in str(caught.value)
    assert caught.value.status == 2


def test_save_stands_alone(engine):
    with pytest.raises(CommandError, match="use -o save only") as caught:
        engine.conntrack("-L -o save,id")
    assert caught.value.status == 1
