"""What several engines print together is what one engine prints that has all the packets."""

import re

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

import lvscore
from lvscore.model import Outcome
from lvscore.programs import execute
from lvscore.workers import ask, merged

SECOND = 10**9
SETUP = """
ipvsadm -A -t 172.16.1.100:80 -s rr
ipvsadm -a -t 172.16.1.100:80 -r 172.16.1.7:80 -m -w 3
ipvsadm -A -t [2001:db8::100]:80 -s rr -p 300
ipvsadm -a -t [2001:db8::100]:80 -r [2001:db8:1:2:3:4:5:7]:80 -m -x 9 -y 3
ipvsadm -A -f 7 -s wlc
ipvsadm -a -f 7 -r 172.16.1.8:0 -g
iptables -t mangle -A PREROUTING -d 172.16.1.200 -j MARK --set-mark 7
iptables -t nat -A PREROUTING -d 172.16.1.50 -p tcp --dport 80 -j DNAT --to-destination 172.16.1.9
"""


def frames(client, count):
    """A connection to the service, one by the mark, and one of a rule, and packets of it."""
    for port in range(count):
        for target in ("172.16.1.100", "172.16.1.200", "172.16.1.50"):
            ends = {"sport": 1000 + port, "dport": 80}
            yield IP(src=client, dst=target) / TCP(**ends, flags="S")
        yield IP(src=client, dst="172.16.1.100") / TCP(**ends, flags="A") / bytes(1000)


@pytest.fixture(scope="module")
def engines():
    """Two engines with a share of the clients each, and one that has all."""
    made = [lvscore.Engine(seed=0) for _ in range(3)]
    for engine in made:
        for line in SETUP.split("\n"):
            if line:
                assert execute(engine, line.split()).status == 0
    for number, (client, count) in enumerate((("10.0.0.1", 5), ("10.0.0.2", 7))):
        for packet in frames(client, count):
            for engine in made[number], made[2]:
                frame = bytearray(bytes(Ether(dst="02:00:00:00:00:01") / packet))
                engine.process(frame, now=SECOND)
    for engine in made:
        engine.expire(5 * SECOND)
    return made


def together(engines, argv):
    return merged(argv, [execute(engine, ask(argv)) for engine in engines[:2]])


@pytest.mark.parametrize(
    "line",
    [
        "ipvsadm -Ln", "ipvsadm -Ln --stats", "ipvsadm -Ln --rate", "ipvsadm -Ln --stats --exact",
        "ipvsadm -Ln --thresholds", "ipvsadm -Ln --persistent-conn", "ipvsadm -Ln --tun-info",
        "ipvsadm -Ln -t 172.16.1.100:80", "ipvsadm -L --timeout", "ipvsadm -Sn", "ipvsadm-save -n",
        "iptables -t nat -L -n -v", "iptables -t nat -L -n -v -x", "iptables -t mangle -S -v",
        "iptables -t nat -L -n -v --line-numbers", "iptables -t nat -L -n", "iptables-save",
        "nft list ruleset", "conntrack -C", "conntrack -V", "ipvsadm -Z", "conntrack -L expect",
    ],
)  # fmt: skip
def test_what_is_counted_is_added_up(engines, line):
    argv = line.split()
    outcome = together(engines, argv)
    assert outcome == execute(engines[2], argv)
    assert outcome.status == 0


def test_large_counts_are_cut_after_they_are_added_up():
    def outcomes(*numbers):
        return [Outcome(0, f"TCP  172.16.1.100:80              {n:>9}" + 4 * f"{1:>9}" + "\n")
                for n in numbers]  # fmt: skip

    argv = ["ipvsadm", "-Ln", "--stats"]
    assert ask(argv)[-1] == "--exact"
    text = merged(argv, outcomes(60_000_000, 60_000_000)).stdout
    assert text == "TCP  172.16.1.100:80               120000K" + 4 * f"{2:>9}" + "\n"
    rule = "    {}  {} DNAT       6    --  *      *       0.0.0.0/0            0.0.0.0/0\n"
    argv = ["iptables", "-t", "nat", "-L", "-n", "-v"]
    both = [Outcome(0, rule.format(f"{n:>8}", f"{n:>8}")) for n in (60_000, 60_000)]
    assert "120K  120K DNAT" in merged(argv, both).stdout


@pytest.mark.parametrize("line", ["ipvsadm -Lnc", "conntrack -L", "conntrack -L -o extended"])
def test_connections_are_listed_one_engine_after_the_other(engines, line):
    argv = line.split()
    outcome, one = together(engines, argv), execute(engines[2], argv)
    assert outcome.stderr == one.stderr
    lines, expected = outcome.stdout.splitlines(), one.stdout.splitlines()
    assert sorted(lines) == sorted(expected)
    if argv[0] == "ipvsadm":
        assert lines[:2] == expected[:2]


@pytest.mark.parametrize("kind", ["xml", "json"])
def test_documents_are_one(engines, kind):
    argv = ["conntrack", "-L", "-o", kind]
    outcome, one = together(engines, argv), execute(engines[2], argv)
    identifier = re.compile(r'(<id>|"id": )\d+')
    texts = [sorted(identifier.sub("", o.stdout)) for o in (outcome, one)]
    assert texts[0] == texts[1]
    assert outcome.stdout.count("<?xml") == (kind == "xml")


def test_conntrack_fails_only_if_it_finds_nothing_anywhere(engines):
    for client, found in ("10.0.0.1", 5), ("10.0.0.9", 0):
        argv = ["conntrack", "-L", "-s", client, "-d", "172.16.1.50"]
        assert f"{found} flow entries" in together(engines, argv).stderr
    argv = ["conntrack", "-D", "-s", "10.0.0.9"]
    assert together(engines, argv) == execute(engines[2], argv)
    argv = ["conntrack", "-D", "-s", "10.0.0.2", "-d", "172.16.1.50", "-p", "tcp"]
    outcome = together(engines, argv)
    assert (outcome.status, outcome.stderr) == (
        0, "conntrack v1.4.7 (conntrack-tools): 7 flow entries have been deleted.\n"
    )  # fmt: skip
    assert together(engines, ["conntrack", "-S"]).stdout.count("cpu=") == 2


def test_a_refusal_is_one(engines):
    argv = ["ipvsadm", "-A", "-t", "172.16.1.100:80", "-s", "rr"]
    outcome = together(engines, argv)
    assert outcome == execute(engines[2], argv)
    assert outcome.status
    assert together(engines, ["nosuch"]).status == 127


def test_engines_that_have_drifted_apart_are_shown_as_they_are():
    texts = ["a\nb\n", "a\n"]
    outcome = merged(["nft", "list", "ruleset"], [Outcome(0, text) for text in texts])
    assert outcome.stdout == "a\nb\na\n"
