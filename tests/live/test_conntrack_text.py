"""What the conntrack tool lists of the machine's own entries, and lvscore of the same."""

import re
import shutil
import subprocess
import time
from collections import Counter

import kernel
import pytest
from test_netfilter import ADDRESSES, PEERS, RULES, ethernet, host
from traffic import ACK, RST, SYN, icmp, tcp, udp

from lvscore.errors import CommandError

REASON = kernel.missing() or ("" if shutil.which("conntrack") else "conntrack is not installed")
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

PACKETS = [
    ("cli", tcp("10.0.0.1", 40000, "10.0.0.200", 80, SYN, 1)),
    ("srv", tcp("172.16.1.100", 80, "10.0.0.1", 40000, SYN | ACK, 7, 2)),
    ("cli", tcp("10.0.0.1", 40000, "10.0.0.200", 80, ACK, 2, 8)),
    ("cli", tcp("10.0.0.2", 40001, "10.0.0.200", 443, SYN, 1)),
    ("cli", udp("10.0.0.1", 5000, "10.0.0.200", 53, b"ask")),
    ("srv", udp("172.16.1.7", 5001, "10.0.0.2", 53, b"ask")),
    ("srv", udp("172.16.1.7", 5001, "10.0.0.3", 53, b"ask")),
    ("cli", icmp("10.0.0.1", "10.0.0.200", 8, 0, b"\0\7\0\1", b"ping")),
    ("cli", udp("10.0.0.1", 5002, "172.16.1.9", 53, b"ask")),
]
OPTIONS = [
    "",
    "-o extended",
    "-f ipv4",
    "-f ipv6",
    "-p tcp",
    "-p udp",
    "-p icmp",
    "-p 17",
    "-s 10.0.0.1",
    "-s 10.0.0.0/24",
    "-d 10.0.0.200",
    "-r 172.16.1.100",
    "-q 10.0.0.200",
    "-p tcp --dport 80",
    "-p udp --sport 5001",
    "-p tcp --reply-port-src 80",
    "-p udp --reply-port-dst 5001",
    "-p tcp --state ESTABLISHED",
    "-p tcp --state SYN_SENT",
    "-u ASSURED",
    "-u SEEN_REPLY",
    "-n",
    "-g",
    "-j",
    "-n 10.0.0.200",
    "-g 172.16.1.100",
    "-p udp -s 10.0.0.1 -o extended",
    "-n -g",
    "-n -f ipv4",
    "-g 172.16.1.100:80",
    "-j 10.0.0.200",
    "-u UNREPLIED",
    "-u UNREPLIED,ASSURED",
    "-u seen",
    "-u FIXED_TIMEOUT",
    "-p icmp --icmp-type 8",
    "-p icmp --icmp-id 7",
    "-p icmp --icmp-id 8",
    "-m 0",
    "-m 1",
    "-m 0/0xff",
    "-w 0",
    "-w 1",
    "--orig-zone 0",
    "-s 172.16.0.0 --mask-src 255.255.0.0",
    "-d 10.0.0.0/25",
    "conn",
    "dying",
    "-o ktimestamp,timestamp,labels",
    "-p tcp -o extended,ktimestamp",
    "--protonum=udp",
    "-o save",
    "-p udp -o save",
    "-p icmp -o save",
    "-o xml",
    "-p tcp -o xml,extended,ktimestamp",
    "-p icmp -o xml",
    "-p sctp -o xml",
]
# What goes wrong, and how it is told.
ERRORS = [
    "-X", "-L --bogus", "-L bogus", "-L -D", "-L -p", "-L -p nothing", "-L -s 10.0.0.300",
    "-L -s 10.0.0.0/99", "-L --dport 80", "-L -p icmp --dport 80", "-L -f inet",
    "-L -f ipv6 -s 1.1.1.1", "-L -p tcp --state established", "-L -u BLA", "-L -u UNSET",
    "-L -o bla,xml", "-L -n 10.0.0.0/24", "-L -n -j", "-L -t 5", "-L -i 5", "-F -p tcp",
    "-C -f ipv4",
    "-S -o xml", "-G", "-G -p tcp -s 1.1.1.1", "-G -p udp -s 1.1.1.1 -d 1.1.1.2 --sport 5",
    "-G -p udp -s 1.1.1.1 -d 1.1.1.2 --sport 5 --dport 6", "-G -p icmp -s 1.1.1.1 -d 1.1.1.2",
    "-L -d 10.0.0.0/255",
    "-G -p gre -s 1.1.1.1 -d 1.1.1.2", "-G -p udp -r 1.1.1.1 -q 1.1.1.2",
    "-G -p udp -r 1.1.1.1 -q 1.1.1.2 --reply-port-src 1 --reply-port-dst 2",
    "-L --mask-src 255.0.0.0",
    "-D -p 255", "-U -p 255 -t 5", "-L -o save,xml", "-U dying",
]  # fmt: skip


def lines(text):
    """Without the seconds that are left, the number of uses and when it began, which follow the
    moment, and identifiers."""
    kept = set()
    for line in text.splitlines():
        line = re.sub(r"<(timeout|use|id|start|deltatime)>\d+<", r"<\1><", line)
        line = re.sub(r" \[start=[^]]*\]|^-A -t \d+|delta-time=\d+", "", line)
        words = line.split()
        seconds = 99 if line[0] in " <" else 4 if words[0].startswith("ipv") else 2
        kept.add(" ".join(w for i, w in enumerate(words) if i != seconds and "use=" not in w))
    return kept


def failure(router, command):
    """What the tool says on standard error, and its status."""
    done = subprocess.run(
        ["ip", "netns", "exec", router.name, "conntrack", *command.split()],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr.strip(), done.returncode


@pytest.mark.parametrize("counted", [0, 1])
def test_the_same_lines(counted):
    router = kernel.Router(ADDRESSES, PEERS)
    try:
        machine = host(RULES["dnat and snat"])
        for rule in RULES["dnat and snat"]:
            router.run(f"iptables {rule}")
        router.set("net.netfilter.nf_conntrack_acct", counted)
        machine.engine.sysctl["net.netfilter.nf_conntrack_acct"] = counted
        router.set("net.netfilter.nf_conntrack_timestamp", counted)
        machine.engine.sysctl["net.netfilter.nf_conntrack_timestamp"] = counted
        for link, packet in PACKETS:
            sent = machine.receive(link, ethernet(link, packet), time.monotonic_ns())
            router.receive(link, ethernet(link, packet), len(sent))
        for options in OPTIONS:
            theirs = router.run(f"conntrack -L {options}")
            ours = machine.engine.conntrack(f"-L {options}")
            differ = lines(ours) ^ lines(theirs)
            assert not differ, options
        assert len(lines(machine.engine.conntrack("-L"))) >= 7
        whole = "-G -p udp -s 10.0.0.1 -d 172.16.1.9 --sport 5002 --dport 53"
        assert lines(machine.engine.conntrack(whole)) == lines(router.run(f"conntrack {whole}"))
        for command in ERRORS:
            with pytest.raises(CommandError) as caught:
                machine.engine.conntrack(command)
            told, status = failure(router, command)
            assert (str(caught.value), caught.value.status) == (told, status), command
        assert machine.engine.conntrack("-C") == router.run("conntrack -C")
        for command in ("-D -p tcp --dport 80", "-D -s 172.16.1.7", "-D -p icmp"):
            assert lines(machine.engine.conntrack(command)) == lines(
                router.run(f"conntrack {command}")
            ), command
            assert lines(machine.engine.conntrack("-L")) == lines(router.run("conntrack -L"))
        with pytest.raises(CommandError, match="0 flow entries have been deleted"):
            machine.engine.conntrack("-D -p icmp")
        with pytest.raises(RuntimeError, match="0 flow entries have been deleted"):
            router.run("conntrack -D -p icmp")
    finally:
        router.close()


# Segments that no flow has, an echo with a wrong checksum, an error about no flow; and what finds
# no free port.
LOST = [
    ("cli", tcp("10.0.0.1", 40000, "10.0.0.200", 80, RST, 1)),
    ("cli", tcp("10.0.0.1", 40001, "10.0.0.200", 80, SYN | RST, 1)),
    ("cli", icmp("10.0.0.1", "172.16.1.9", 8, 0, b"\0\7\0\1", b"ping")[:-1] + b"!"),
    ("cli", icmp("10.0.0.1", "172.16.1.7", 3, 3, bytes(4),
                 udp("172.16.1.7", 9, "10.0.0.1", 9, b"no flow"))),
    ("srv", udp("172.16.1.7", 5001, "10.0.0.2", 53, b"ask")),
    ("srv", udp("172.16.1.8", 5002, "10.0.0.2", 53, b"ask")),
]  # fmt: skip


def statistics(text):
    """The counters of all processors together."""
    counted = Counter()
    for line in text.splitlines():
        for word in line.split()[1:]:
            name, _, count = word.partition("=")
            counted[name] += int(count)
    return dict(counted)


def test_the_same_statistics():
    rules = ["-t nat -A POSTROUTING -p udp -o cli -j SNAT --to-source 10.0.0.200:7000-7000"]
    router = kernel.Router(ADDRESSES, PEERS)
    try:
        machine = host(rules)
        router.run(f"iptables {rules[0]}")
        for link, packet in LOST:
            sent = machine.receive(link, ethernet(link, packet), time.monotonic_ns())
            router.receive(link, ethernet(link, packet), len(sent))
        ours = statistics(machine.engine.conntrack("-S"))
        theirs = statistics(router.run("conntrack -S"))
        assert ours == {name: theirs[name] for name in ours}
        assert min(ours[name] for name in ("invalid", "insert_failed", "error")) > 0
    finally:
        router.close()
