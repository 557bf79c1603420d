"""nft's language on an engine: its text, its refusals, all or nothing, beside iptables'."""

import nft_rules
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packets import flow, tcp, udp

import lvscore
from lvscore import iptables, nft
from lvscore.errors import CommandError

LAB = """\
table ip nat {
	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		ip daddr 10.0.0.200 tcp dport 80 counter packets 0 bytes 0 dnat to 172.16.1.100:8080
		ip daddr 10.0.0.200 udp dport { 53, 5353-5355 } dnat to 172.16.1.7-172.16.1.9 persistent
	}

	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 172.16.1.0/24 snat to 10.0.0.200
	}
}
table ip mangle {
	chain prerouting {
		type filter hook prerouting priority mangle; policy accept;
		ip saddr 10.0.0.0/8 meta mark set 0x00000005
	}
}
"""
CHAIN = """
table ip nat {
    chain pre { type nat hook prerouting priority -100; }
    chain post { type nat hook postrouting priority 100; }
}
"""


@pytest.fixture
def engine():
    return lvscore.Engine(seed=1)


@pytest.fixture
def chains(engine):
    engine.nft(CHAIN)
    return engine


def send(engine, frame):
    engine.process(frame, 0)
    return flow(frame)


def test_a_file_in_and_out_again(engine):
    assert engine.nft(LAB) == ""
    assert engine.nft("list ruleset") == LAB
    other = lvscore.Engine(seed=1)
    other.nft(engine.nft("list ruleset"))
    assert other.nft("list ruleset") == LAB
    assert other.rules == engine.rules


def test_what_the_rules_do(engine):
    engine.nft(LAB)
    assert send(engine, tcp("10.0.0.1", 40000, "10.0.0.200", 80)) == (
        "10.0.0.1", 40000, "172.16.1.100", 8080,
    )  # fmt: skip
    assert send(engine, udp("10.0.0.1", 40000, "10.0.0.200", 5354))[2].startswith("172.16.1.")
    assert send(engine, udp("10.0.0.1", 40000, "10.0.0.200", 54))[2] == "10.0.0.200"
    assert send(engine, udp("172.16.1.5", 40000, "8.8.8.8", 53))[:2] == ("10.0.0.200", 40000)
    assert "counter packets 1 bytes 40 dnat" in engine.nft("list ruleset")


def test_the_same_rules_as_iptables(chains):
    chains.nft(
        "add rule ip nat pre ip daddr 10.0.0.200 tcp dport 80 dnat to 172.16.1.100:8080\n"
        'add rule nat post oifname "eth*" ip saddr != 10.0.0.0/8 masquerade fully-random\n'
        "insert rule ip nat pre meta mark & 0xff == 0x5 meta l4proto udp accept"
    )
    assert chains.iptables("iptables -t nat -S").splitlines()[4:] == [
        "-A PREROUTING -p udp -m mark --mark 0x5/0xff -j ACCEPT",
        "-A PREROUTING -d 10.0.0.200/32 -p tcp -m tcp --dport 80 -j DNAT "
        "--to-destination 172.16.1.100:8080",
        "-A POSTROUTING ! -s 10.0.0.0/8 -o eth+ -j MASQUERADE --random-fully",
    ]


def test_one_rule_of_many(chains):
    """What a set holds, or a range, becomes rules of its own; they go together."""
    chains.nft("add rule ip nat pre ip saddr { 10.0.0.1, 10.0.0.2 } iifname { a, b } accept")
    chains.nft(
        "add rule ip nat pre ip daddr 10.0.0.1-10.0.0.6 meta l4proto { tcp, udp } th dport 9 return"
    )
    assert len(chains.rules) == 4 + 4 * 2
    assert chains.nft("-a list chain ip nat pre").splitlines()[3:5] == [
        '\t\tip saddr { 10.0.0.1, 10.0.0.2 } iifname { "a", "b" } accept # handle 5',
        "\t\tip daddr 10.0.0.1-10.0.0.6 meta l4proto { tcp, udp } th dport 9 return # handle 7",
    ]
    chains.nft("delete rule ip nat pre handle 5")
    assert len(chains.rules) == 8


def test_ports_beyond_fifteen_are_shared_out(chains):
    ports = ", ".join(str(port) for port in range(100, 140, 2))
    chains.nft(f"add rule ip nat pre tcp dport {{ {ports} }} dnat to 1.1.1.1")
    assert [len(rule.multiport.ports) for rule in chains.rules] == [15, 5]
    assert send(chains, tcp("10.0.0.1", 1, "10.0.0.2", 138))[2] == "1.1.1.1"
    assert send(chains, tcp("10.0.0.1", 1, "10.0.0.2", 139))[2] == "10.0.0.2"


def test_places(chains):
    def order():
        return [rule.source.network_address.packed[3] for rule in chains.rules]

    for number in (1, 2, 3):
        chains.nft(f"add rule ip nat pre ip saddr 10.0.0.{number} accept")  # handles 3, 4, 5
    chains.nft("insert rule ip nat pre ip saddr 10.0.0.4 accept")
    chains.nft("add rule ip nat pre handle 3 ip saddr 10.0.0.5 accept")
    chains.nft("insert rule ip nat pre position 5 ip saddr 10.0.0.6 accept")
    chains.nft("add rule ip nat pre index 0 ip saddr 10.0.0.7 accept")
    chains.nft("replace rule ip nat pre handle 4 ip saddr { 10.0.0.8, 10.0.0.9 } accept")
    assert order() == [4, 7, 1, 5, 8, 9, 6, 3]
    chains.nft("delete rule ip nat pre handle 3; delete rule ip nat pre handle 5")
    assert order() == [4, 7, 5, 8, 9, 6]


def test_inet_is_for_both_families(engine):
    engine.nft(
        "table inet t { chain pre { type nat hook prerouting priority dstnat; policy accept;\n"
        " tcp dport 80 redirect to :8080\n ip daddr 1.1.1.1 dnat to 2.2.2.2\n"
        " ip6 daddr ::1 tcp dport 81 dnat to [::2]:81\n} }"
    )
    assert [rule.family for rule in engine.rules] == [4, 6, 4, 6]
    assert engine.nft("list ruleset").splitlines()[3:6] == [
        "\t\ttcp dport 80 redirect to :8080",
        "\t\tip daddr 1.1.1.1 dnat ip to 2.2.2.2",
        "\t\tip6 daddr ::1 tcp dport 81 dnat ip6 to [::2]:81",
    ]
    with pytest.raises(CommandError, match="a second one is not available"):
        engine.nft("table ip6 t { chain x { type nat hook prerouting priority 0; } }")


def test_rules_of_iptables_are_listed_as_iptables_nft_has_them(engine):
    engine.iptables("-t nat -A PREROUTING -d 10.0.0.200 -p tcp -m multiport --dports 80,443 "
                    "-j DNAT --to 172.16.1.100:8080")  # fmt: skip
    engine.iptables("-t nat -A PREROUTING -m ipvs --vaddr 1.1.1.1 -j ACCEPT")
    engine.iptables("-t nat -A POSTROUTING -s fd00::/16 -j NETMAP --to fd01::/16")
    assert engine.nft("list ruleset") == (
        "table ip nat {\n\tchain PREROUTING {\n"
        "\t\ttype nat hook prerouting priority dstnat; policy accept;\n"
        "\t\tip daddr 10.0.0.200 tcp dport { 80, 443 } counter packets 0 bytes 0 "
        "dnat to 172.16.1.100:8080\n"
        "\t\t# xt: -A PREROUTING -m ipvs --vaddr 1.1.1.1 -j ACCEPT\n\t}\n}\n"
        "table ip6 nat {\n\tchain POSTROUTING {\n"
        "\t\ttype nat hook postrouting priority srcnat; policy accept;\n"
        "\t\tip6 saddr fd00::/16 counter packets 0 bytes 0 snat prefix to fd01::/16\n\t}\n}\n"
    )


def test_iptables_and_nft_see_what_the_other_does(chains):
    chains.nft("add rule ip nat pre iifname { a, b } accept")
    chains.iptables("-t nat -I PREROUTING -s 9.9.9.9 -j ACCEPT")
    chains.iptables("-t nat -D PREROUTING 2")
    assert chains.nft("list chain ip nat pre").splitlines()[3:5] == [
        "\t\tip saddr 9.9.9.9 counter packets 0 bytes 0 accept",
        '\t\tiifname "b" counter packets 0 bytes 0 accept',
    ]
    chains.nft("flush ruleset")
    assert chains.rules == []


def test_tables_and_chains(chains):
    chains.nft("add table ip nat; add chain ip nat pre; create table ip6 x")
    assert chains.nft("list tables") == "table ip nat\ntable ip6 x\n"
    assert chains.nft("list chains ip6") == "table ip6 x {\n}\n"
    chains.nft("add rule ip nat pre accept; add rule ip nat post return; flush chain ip nat post")
    assert len(chains.rules) == 1
    chains.nft("delete chain ip nat pre")
    chains.nft("delete table ip6 x; flush table ip nat")
    assert chains.rules == []
    assert chains.nft("list ruleset").count("chain") == 1


MARKS = {
    "5": 5, "meta mark | 0x10": 0x1FF, "mark or 0x10": 0x1FF, "mark and 0xf": 0xF,
    "meta mark ^ 0xff": 0x110, "meta mark & 0xf0 | 0x3": 0xE3, "mark & 0xf0 ^ 0x13": 0xF3,
}  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), MARKS.items())
def test_marks(engine, change, expected):
    """Of a packet with mark 0x1ef the rule makes another, which a rule of nat sees."""
    engine.nft(
        "table ip m { chain pre { type filter hook prerouting priority mangle;\n"
        f"mark set 0x1ef\nmark set {change}\n}} }}{CHAIN}"
        f"add rule ip nat pre meta mark {expected} dnat to 1.1.1.1"
    )
    assert send(engine, udp("10.0.0.1", 1, "10.0.0.2", 2))[2] == "1.1.1.1"
    text = engine.nft("list ruleset")
    engine.nft("flush ruleset")
    engine.nft(text)
    assert engine.nft("list ruleset") == text


REFUSED = {
    "add rule ip nat pre ip saddr 1.1.1.1 drop": ("drop is not available", 38),
    "add rule ip nat pre tcp dport 80": ("a rule without verdict is not available", 21),
    "add rule ip nat pre counter tcp dport 80 accept": ("counter stands behind", 29),
    "add rule ip nat pre ct state new accept": ("'ct state' is not available", 21),
    "add rule ip nat pre tcp dport vmap { 80: accept }": ("vmap is not available", 31),
    "add rule ip nat pre ip saddr @known accept": ("@known is not available", 30),
    "add rule ip nat pre iifname $wan accept": ("$wan is not available", 29),
    "add rule ip nat pre tcp dport 99999 accept": ("Service out of range", 31),
    "add rule ip nat pre ip saddr 1.1.1.300 accept": ("'1.1.1.300' is not an address", 30),
    "add rule ip nat pre ip6 saddr ::1 accept": ("conflicting protocols", 21),
    "add rule ip nat pre tcp sport 1 udp dport 2 accept": ("conflicting protocols", 1),
    "add rule ip nat pre ip saddr != { 1.1.1.1, 2.2.2.2 } accept": ("!= with more than one", 1),
    "add rule ip nat pre snat to 1.1.1.1": ("Operation not supported", 1),
    "add rule ip nat pre masquerade": ("Operation not supported", 1),
    "add rule ip nat pre meta mark set 5": ("Operation not supported", 1),
    "add rule ip nat pre dnat to ::1": ("address of IPv6", 29),
    "add rule ip nat pre dnat to :80": ("without an address", 29),
    "add rule ip nat pre redirect to :80": ("only valid after transport protocol match", 1),
    "add rule ip nat pre dnat to 1.1.1.1 fully-random": ("fully-random is not available", 37),
    "add rule ip nat pre accept return": ("one action ends a rule", 28),
    "add rule ip nat nope accept": ("No such file or directory", 17),
    "add rule ip nope pre accept": ("No such file or directory", 13),
    "delete rule ip nat pre handle 99": ("No such file or directory", 31),
    "delete rule ip nat pre 99": ("expecting handle", 24),
    "add chain ip nat x": ("without type and hook", 18),
    "add chain ip nat x { type nat hook input priority 0; }": ("at hook input is not", 27),
    "add chain ip nat x { type filter hook prerouting priority 0; }": ("expected mangle", 59),
    "add chain ip nat x { type nat hook prerouting priority 0; policy drop; }": ("policy drop", 66),
    "create table ip nat": ("File exists", 17),
    "add set ip nat s { type ipv4_addr; }": ("add set is not available", 1),
    "add table arp x": ("family arp is not available", 11),
    "define x = 5": ("define is not available", 1),
    "rule ip nat": ("unexpected rule", 1),
    "list rules": ("list rules is not available", 1),
    'add rule ip nat pre iifname "': ("syntax error", 29),
    "add rule ip nat pre tcp dport { 80": ("unexpected end of file", 35),
    "add rule ip nat pre tcp dport 80 accept }": ("unexpected }", 41),
}


@pytest.mark.parametrize("line", REFUSED)
def test_refusals_name_what_and_where_and_change_nothing(chains, line):
    chains.nft("add rule ip nat pre ip saddr 10.0.0.1 accept")
    before = chains.nft("-a list ruleset")
    message, column = REFUSED[line]
    with pytest.raises(CommandError) as caught:
        chains.nft(f"add rule ip nat pre accept\n{line}")
    head, shown, carets = str(caught.value).split("\n")
    assert message in head
    assert head.startswith(f"/dev/stdin:2:{column}-")
    assert (shown, carets.index("^") + 1) == (line, column)
    assert caught.value.status == 1
    assert chains.nft("-a list ruleset") == before


def test_a_lone_command_is_told_without_a_file(chains):
    with pytest.raises(CommandError) as caught:
        chains.nft("add rule ip nat pre log")
    assert str(caught.value) == (
        "Error: log is not available\nadd rule ip nat pre log\n                    ^^^"
    )


def test_the_program():
    engine = lvscore.Engine(seed=1)
    assert nft.execute(engine, ["-f", "-"], LAB) == (0, "", "")
    assert nft.execute(engine, ["list", "ruleset"]) == (0, LAB, "")
    assert nft.execute(engine, ["-c", "flush", "ruleset"]) == (0, "", "")
    assert "# handle 1\n" in nft.execute(engine, ["-a", "-n", "list", "ruleset"]).stdout
    assert nft.execute(engine, ["--handle", "-nn", "list", "ruleset"]).status == 0
    assert nft.execute(engine, ["list", "ruleset"]).stdout == LAB
    for words, said in (
        ([], "no command specified"),
        (["-j", "list", "ruleset"], "option -j is not available"),
        (["-f"], "requires an argument"),
        (["-f", "x"], "expected -"),
        (["foo"], "Error: syntax error, unexpected foo\nfoo\n^^^\n"),
    ):
        outcome = nft.execute(engine, words)
        assert (outcome.status, outcome.stdout) == (1, "")
        assert said in outcome.stderr


@settings(max_examples=60)
@given(st.integers(0, 2**32))
def test_what_is_listed_is_read_again_as_the_same(seed):
    engine, other = lvscore.Engine(seed=1), lvscore.Engine(seed=1)
    engine.nft(nft_rules.ruleset(seed))
    text = engine.nft("list ruleset")
    other.nft(text)
    assert other.nft("list ruleset") == text
    assert other.rules == engine.rules
    for rule in engine.rules:
        program = "iptables" if rule.family == 4 else "ip6tables"
        words = iptables.split(f"{program} -t {rule.table} {iptables.format_rule(rule)}")
        assert iptables.parse(words).rules == (rule,)


VOCABULARY = """
    add insert delete list flush table chain rule ruleset ip ip6 inet nat pre { } ; , != = & ( |
    saddr daddr tcp udp th sport dport meta mark l4proto set iifname counter packets bytes type
    hook prerouting priority dstnat policy accept return dnat snat to prefix redirect masquerade
    random persistent handle index 1 80-90 10.0.0.0/8 10.0.0.1-10.0.0.9 ::1 [::1]:80 :80 1.1.1.1:
    "a" "x eth* # \\ comment 99999999999999999999 -1 0x10 + -
"""
WORDS = st.sampled_from([*VOCABULARY.split(), "\n"])


@settings(max_examples=200)
@given(st.lists(WORDS, max_size=25).map(" ".join) | st.text(max_size=40))
def test_any_text_is_carried_out_or_refused_as_a_whole(text):
    engine = lvscore.Engine(seed=1)
    engine.nft(LAB)
    before = engine.nft("-a list ruleset")
    try:
        engine.nft(text)
    except CommandError:
        assert engine.nft("-a list ruleset") == before
    assert engine._selfcheck() == 0
