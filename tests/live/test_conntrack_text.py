"""What the conntrack tool lists of the machine's own entries, and lvscore of the same."""

import shutil
import time

import kernel
import pytest
from test_netfilter import ADDRESSES, PEERS, RULES, ethernet, host
from traffic import ACK, SYN, icmp, tcp, udp

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
    "", "-o extended", "-f ipv4", "-f ipv6", "-p tcp", "-p udp", "-p icmp", "-p 17",
    "-s 10.0.0.1", "-s 10.0.0.0/24", "-d 10.0.0.200", "-r 172.16.1.100", "-q 10.0.0.200",
    "-p tcp --dport 80", "-p udp --sport 5001", "-p tcp --reply-port-src 80",
    "-p udp --reply-port-dst 5001", "-p tcp --state ESTABLISHED", "-p tcp --state SYN_SENT",
    "-u ASSURED", "-u SEEN_REPLY", "-n", "-g", "-j", "-n 10.0.0.200", "-g 172.16.1.100",
    "-p udp -s 10.0.0.1 -o extended",
]  # fmt: skip


# The tool takes an echo's identifier, type and code for ports, and so finds all echoes translated
# where no address is asked for; lvscore lists those whose address is. A difference, not settled.
ECHOES_DIFFER = ("-n", "-g", "-j")


def lines(text):
    """Without the seconds that are left and the number of uses, which follow the moment."""
    kept = set()
    for line in text.splitlines():
        words = line.split()
        seconds = 4 if words[0].startswith("ipv") else 2
        kept.add(" ".join(w for i, w in enumerate(words) if i != seconds and "use=" not in w))
    return kept


@pytest.mark.parametrize("counted", [0, 1])
def test_the_same_lines(counted):
    router = kernel.Router(ADDRESSES, PEERS)
    try:
        machine = host(RULES["dnat and snat"])
        for rule in RULES["dnat and snat"]:
            router.run(f"iptables {rule}")
        router.set("net.netfilter.nf_conntrack_acct", counted)
        machine.engine.sysctl["net.netfilter.nf_conntrack_acct"] = counted
        for link, packet in PACKETS:
            sent = machine.receive(link, ethernet(link, packet), time.monotonic_ns())
            router.receive(link, ethernet(link, packet), len(sent))
        for options in OPTIONS:
            theirs = router.run(f"conntrack -L {options}")
            ours = machine.engine.conntrack(f"-L {options}")
            differ = lines(ours) ^ lines(theirs)
            if options in ECHOES_DIFFER:
                differ = {line for line in differ if not line.startswith("icmp")}
            assert not differ, options
        assert len(lines(machine.engine.conntrack("-L"))) >= 7
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
