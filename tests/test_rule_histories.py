"""Random commands of iptables, nft and conntrack, good and bad, in one engine: each is carried out
whole, or leaves everything as it was; and what is there can be said again in either language."""

import time

import nft_rules
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packets import udp

from lvscore import iptables
from lvscore.engine import Engine
from lvscore.errors import CommandError

MATCHES = ["-s 10.0.0.0/8", "! -d 10.0.0.9", "-p tcp --dport 80", "-i eth+", "-o eth0",
           "-p udp -m multiport --dports 1,5:9", "-m mark --mark 5/0xff", "-p sctp ! --sport 7",
           "-s 10.0.0.300", "--dport 80", "-m bogus", "-s 2001:db8::/32",
           "-s 10.0.0.1,10.0.0.2"]  # fmt: skip
TARGETS = ["DNAT --to 1.1.1.1", "DNAT --to 1.1.1.1-1.1.1.9:80-90", "SNAT --to 2.2.2.2",
           "MASQUERADE", "REDIRECT --to-ports 99", "ACCEPT", "RETURN", "MARK --set-mark 5",
           "NETMAP --to 3.0.0.0/8", "DROP", "DNAT", "DNAT --to [::1]:80",
           "CT --helper ftp"]  # fmt: skip
CHAINS = ["-t nat %s PREROUTING", "-t nat %s POSTROUTING", "-t mangle %s PREROUTING", "-t nat %s X"]
CONNTRACK_WORDS = ["-L", "-D", "-F", "-C", "-S", "-G", "-U", "-p", "udp", "-s", "10.0.0.1", "-t",
                   "5", "-o", "xml,id", "--sport", "1", "-u", "ASSURED", "-n", "-j", "--bogus",
                   "-f", "ipv6", "-m", "0", "expect", "--", "-", "-pudp", "-Lx", "--proto=udp",
                   "=", ""]  # fmt: skip
CONNTRACK = st.lists(st.sampled_from(CONNTRACK_WORDS), max_size=6).map(
    lambda words: ("conntrack", " ".join(words))
)


@st.composite
def iptables_lines(draw):
    verb = draw(st.sampled_from(["-A", "-A", "-A", "-I", "-D"]))
    words = [draw(st.sampled_from(CHAINS)) % verb]
    if verb != "-A" and draw(st.booleans()):
        words.append(str(draw(st.integers(0, 3))))
    words += draw(st.lists(st.sampled_from(MATCHES), max_size=2))
    words.append(f"-j {draw(st.sampled_from(TARGETS))}")
    return "iptables", " ".join(words)


@st.composite
def nft_lines(draw):
    chance = draw(st.randoms(use_true_random=False))
    (_, hook, _), actions = chance.choice(list(nft_rules.CHAINS.items()))
    rule = nft_rules.rule(chance, "ip", hook, actions)
    chain = chance.choice(["nat PREROUTING", "nat POSTROUTING", "mangle PREROUTING", "nat x"])
    lines = [f"add rule ip {chain} {rule}", f"insert rule ip {chain} {rule}",
             f"delete rule ip {chain} handle {chance.randrange(9)}", f"flush chain ip {chain}",
             f"add rule ip {chain} index {chance.randrange(3)} {rule}", "flush table ip nat",
             "table ip nat { chain PREROUTING { type nat hook prerouting priority -100; } }",
             "table ip nat { chain POSTROUTING { type nat hook postrouting priority 100; } }",
             "delete chain ip nat PREROUTING", "add rule ip nat PREROUTING drop"]  # fmt: skip
    return "nft", "\n".join(chance.choices(lines, k=chance.randrange(1, 4)))


def seen(engine):
    return (
        [(rule, engine.rule_counters(rule)) for rule in engine.rules],
        engine.nft("-a list ruleset"),
        engine.conntrack("-L -o id"),
    )


@settings(max_examples=60)
@given(st.lists(st.one_of(iptables_lines(), nft_lines(), CONNTRACK), max_size=10))
def test_no_command_leaves_half_an_effect(lines):
    engine = Engine(seed=0, max_connections=16)
    for number, (program, line) in enumerate(lines):
        engine.process(udp(f"10.0.0.{number + 1}", 1, "10.0.1.1", 53), number)
        before = seen(engine)
        try:
            getattr(engine, program)(line)
        except CommandError:
            assert seen(engine) == before, line
        assert engine._selfcheck() == 0
    copy = Engine(seed=0, max_connections=1)
    iptables.restore(copy, iptables.save(engine))
    assert copy.rules == [rule for rule in engine.rules if rule.family == 4]
    copy.nft("flush ruleset")
    copy.nft(engine.nft("list ruleset"))
    assert copy.rules == [rule for rule in engine.rules if rule.table != "raw"]


MADE = """table ip nat { chain POSTROUTING { type nat hook postrouting priority srcnat
oifname new9 masquerade; }; }
"""
RESTORED = "*nat\n-A PREROUTING -j DNAT --to-destination 1.1.1.1\nCOMMIT\n"


@pytest.mark.parametrize(
    ("program", "text", "message"),
    [
        ("iptables", RESTORED + RESTORED.replace("nat", "mangle"), "line 5: "),
        ("iptables", RESTORED.replace("PREROUTING", "POSTROUTING -o new9"), "line 2: "),
        ("iptables", "*nat\n" + "-A PREROUTING -j ACCEPT\n" * 4097 + "COMMIT\n", "at most 4096"),
        ("nft", "flush ruleset\nlist table ip nat", "No such file"),
        ("nft", "flush ruleset\n" + MADE + "delete table ip mangle", "No such file"),
    ],
)
def test_rules_put_back_keep_their_counters(program, text, message):
    engine = Engine(seed=0, max_connections=4)
    engine.add_snat("10.0.0.99", out_interface="new+")
    engine.add_dnat("10.0.1.9", destination="10.0.1.1")
    engine.process(udp("10.0.0.1", 1, "10.0.1.1", 53), 0)
    before = seen(engine)
    assert [counters for _, counters in before[0]] == [(1, 33), (0, 0)]
    with pytest.raises(CommandError, match=message):
        iptables.restore(engine, text) if program == "iptables" else engine.nft(text)
    assert seen(engine) == before
    engine.routes.add_interface("new9", ["10.0.1.7/24"])  # a name that was refused, too
    engine.process(udp("10.0.0.2", 1, "10.0.1.1", 53), 1)
    assert [engine.rule_counters(rule) for rule in engine.rules] == [(2, 66), (1, 33)]


def test_two_thousand_rules_are_restored_in_a_moment():
    """Each is not a reason to install all of them."""
    engine = Engine(seed=0, max_connections=1)
    lines = [f"-A PREROUTING -d 10.0.{n >> 8}.{n & 255} -j ACCEPT" for n in range(2000)]
    begin = time.process_time()
    iptables.restore(engine, "\n".join(["*nat", *lines, "COMMIT"]))
    assert len(engine.rules) == 2000
    assert time.process_time() - begin < 5


@settings(max_examples=60)
@given(st.text(max_size=30))
def test_any_words_of_conntrack_are_taken_or_refused(text):
    engine = Engine(seed=0, max_connections=4)
    status = 0
    try:
        engine.conntrack(f"-L {text}")
    except CommandError as error:
        status = error.status
    assert status in (0, 1, 2)
