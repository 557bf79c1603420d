"""What the machine's own nft makes of the same rulesets, in a namespace of its own."""

import shutil
import subprocess

import kernel
import nft_rules
import pytest

import lvscore

REASON = kernel.missing() or ("" if shutil.which("nft") else "nft is not installed")
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

FIXED = """\
table inet t { # both families
    chain pre {
        type nat hook prerouting priority dstnat - 5; policy accept;
        ip daddr 1.1.1.1 tcp dport 80 dnat to 2.2.2.2:8080
        ip6 daddr ::1 tcp dport { 80, 443, 8000-8080 } counter dnat to [::2]:80
        meta l4proto { tcp, udp } th dport 53 redirect to :5353
        meta mark 5 iifname "eth*" meta l4proto udp udp dport 53 accept
    }
    chain post {
        type nat hook postrouting priority 110
        ip saddr 10.0.0.0/24 snat ip prefix to 10.1.0.0/24
        ip6 saddr { 2001:db8::/32, fd00::/8 } oifname "wan0" masquerade fully-random
        ip saddr 10.0.0.0/25 snat to 10.0.0.200-10.0.0.201 persistent
    }
}
add table ip m
add chain ip m x { type filter hook prerouting priority -145; }
add rule m x ip daddr != 10.0.0.0/9 sctp dport 5 mark set mark or 0x11
insert rule m x meta mark set meta mark & 0xf0 | 0x3 comment "first"
add rule m x ip saddr 10.0.0.1 return; delete rule m x handle 2
"""
REFUSED = [
    "add rule ip nope pre accept",
    "list table ip nope",
    "create table ip t; create table ip t",
    "add rule inet t pre ip6 saddr ::1 ip daddr 1.1.1.1 accept",
    "add rule inet t pre tcp dport 99999 accept",
    "add rule inet t pre masquerade",
    "add rule inet t post dnat ip to 1.1.1.1",
    "add rule inet t pre tcp dport { 80 accept",
    "delete rule inet t pre handle 999",
    "add rule inet t pre redirect to :80",
]


@pytest.fixture(scope="module")
def namespace():
    name = "lvsnft" + str(id(FIXED) % 99991)
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield name
    subprocess.run(["ip", "netns", "del", name], check=True)


def run(namespace, text, *options):
    """Load a text into an empty ruleset: what nft complains of, and its status."""
    done = nft(namespace, *options, "-f", "-", stdin=f"flush ruleset\n{text}")
    return done.stderr, done.returncode


def listing(namespace, *options):
    return nft(namespace, *options, "list", "ruleset").stdout


def nft(namespace, *words, stdin=""):
    return subprocess.run(
        ["ip", "netns", "exec", namespace, "nft", *words],
        input=stdin, capture_output=True, text=True, check=False,
    )  # fmt: skip


RULESETS = [FIXED, *(nft_rules.ruleset(seed) for seed in range(30))]


@pytest.mark.parametrize("text", RULESETS, ids=range(len(RULESETS)))
def test_the_same_listing_and_it_is_taken_back(namespace, text):
    engine = lvscore.Engine(seed=1)
    engine.nft(text)
    ours = engine.nft("-a list ruleset" if text is FIXED else "list ruleset")
    assert run(namespace, text) == ("", 0)
    theirs = listing(namespace, *(["-a"] if text is FIXED else []))
    assert without_table_handles(ours) == without_table_handles(theirs)
    plain = engine.nft("list ruleset")
    assert run(namespace, plain, "-c") == ("", 0)
    assert run(namespace, plain) == ("", 0)
    assert listing(namespace) == plain


def without_table_handles(text):
    """Tables are counted from the machine's start."""
    return [
        line.partition(" # handle")[0] if line.startswith("table") else line
        for line in text.splitlines()
    ]


def test_both_refuse(namespace):
    for line in REFUSED:
        engine = lvscore.Engine(seed=1)
        engine.nft(FIXED)
        with pytest.raises(lvscore.errors.CommandError) as caught:
            engine.nft(line)
        errors, status = run(namespace, f"{FIXED}{line}\n")
        assert (caught.value.status, status) == (1, 1), line
        assert errors
