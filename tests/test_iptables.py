"""iptables' language: rules in, rules out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packets import udp

from lvscore import iptables, programs
from lvscore.engine import Engine
from lvscore.errors import CommandError


def rules(engine):
    return [iptables.format_rule(rule) for rule in engine.rules]


def test_the_route_node_of_the_tutorial():
    engine = Engine(seed=0)
    for line in (
        "iptables -t nat -A PREROUTING -d 10.0.0.200 -j DNAT --to 172.16.1.100",
        "iptables -t nat -A POSTROUTING -s 172.16.1.0/24 -j SNAT --to 10.0.0.200",
    ):
        assert iptables.run(engine, line) == ""
    assert iptables.save(engine) == (
        "*nat\n"
        ":PREROUTING ACCEPT [0:0]\n"
        ":INPUT ACCEPT [0:0]\n"
        ":OUTPUT ACCEPT [0:0]\n"
        ":POSTROUTING ACCEPT [0:0]\n"
        "-A PREROUTING -d 10.0.0.200/32 -j DNAT --to-destination 172.16.1.100\n"
        "-A POSTROUTING -s 172.16.1.0/24 -j SNAT --to-source 10.0.0.200\n"
        "COMMIT\n"
    )


RECORDED = """\
-t nat -A PREROUTING -s 10.0.0.3 -d 10.0.0.200 -p udp --dport 53 -j DNAT --to 172.16.1.9
-t nat -A PREROUTING -d 10.0.0.200 -p tcp --dport 443 -j DNAT --to 172.16.1.8:443
-t nat -A PREROUTING -d 10.0.0.200 -p udp --dport 53 -j DNAT --to 172.16.1.7-172.16.1.8
-t nat -A POSTROUTING -s 172.16.1.0/24 -d 172.16.1.0/24 -j MASQUERADE
-t nat -A POSTROUTING -s 172.16.1.8 -j SNAT --to 10.0.0.202
"""

LISTED = """\
-P PREROUTING ACCEPT
-P INPUT ACCEPT
-P OUTPUT ACCEPT
-P POSTROUTING ACCEPT
-A PREROUTING -s 10.0.0.3/32 -d 10.0.0.200/32 -p udp -m udp --dport 53 -j DNAT --to-destination 172.16.1.9
-A PREROUTING -d 10.0.0.200/32 -p tcp -m tcp --dport 443 -j DNAT --to-destination 172.16.1.8:443
-A PREROUTING -d 10.0.0.200/32 -p udp -m udp --dport 53 -j DNAT --to-destination 172.16.1.7-172.16.1.8
-A POSTROUTING -s 172.16.1.0/24 -d 172.16.1.0/24 -j MASQUERADE
-A POSTROUTING -s 172.16.1.8/32 -j SNAT --to-source 10.0.0.202
"""  # noqa: E501


def test_rules_are_listed_as_recorded():
    engine = Engine(seed=0)
    for line in RECORDED.splitlines():
        iptables.run(engine, line)
    assert iptables.run(engine, "iptables -t nat -S") == LISTED
    assert iptables.run(engine, "-t nat -S POSTROUTING").splitlines()[0] == "-P POSTROUTING ACCEPT"
    assert "-A" not in iptables.run(engine, "ip6tables -t nat -S")


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (
            "-t nat -A PREROUTING --dst 1.2.3.4 --proto tcp --destination-port 80:90 --jump DNAT "
            "--to-dest=5.6.7.8:1000-2000",
            "-A PREROUTING -d 1.2.3.4/32 -p tcp -m tcp --dport 80:90 -j DNAT "
            "--to-destination 5.6.7.8:1000-2000",
        ),
        (
            "-tnat -APOSTROUTING -s10.1.2.3/8 -ptcp -m tcp --sport :1024 -jSNAT --to-s 1.1.1.1",
            "-A POSTROUTING -s 10.0.0.0/8 -p tcp -m tcp --sport 0:1024 -j SNAT --to-source 1.1.1.1",
        ),
        (
            "-j MASQUERADE --to 1024-2000 -p udp -t nat -A POSTROUTING",
            "-A POSTROUTING -p udp -j MASQUERADE --to-ports 1024-2000",
        ),
        (
            "ip6tables -t nat -A PREROUTING -d 2001:db8::1 -p tcp --dport 80: -j DNAT "
            "--to [2001:db8::2]:80",
            "-A PREROUTING -d 2001:db8::1/128 -p tcp -m tcp --dport 80:65535 -j DNAT "
            "--to-destination [2001:db8::2]:80",
        ),
        (
            "-t nat -A POSTROUTING -s 2001:db8::/64 -p ipv6-icmp -j SNAT --to 2001::1-2001::9",
            "-A POSTROUTING -s 2001:db8::/64 -p ipv6-icmp -j SNAT --to-source 2001::1-2001::9",
        ),
        (
            "-t nat -A PREROUTING -p tcp --dport http -j DNAT --to 1.1.1.1:https",
            "-A PREROUTING -p tcp -m tcp --dport 80 -j DNAT --to-destination 1.1.1.1:443",
        ),
        (
            "-t nat -A PREROUTING -p tcp --dport https -j DNAT --to [2001:db8::2]:http",
            "-A PREROUTING -p tcp -m tcp --dport 443 -j DNAT --to-destination [2001:db8::2]:80",
        ),
        (
            "-t nat -A PREROUTING -p udp --dport 5353 -j REDIRECT --to-ports domain",
            "-A PREROUTING -p udp -m udp --dport 5353 -j REDIRECT --to-ports 53",
        ),
        (
            "-t nat -A PREROUTING -s 0.0.0.0/0 -p all -j DNAT --to 1.1.1.1",
            "-A PREROUTING -j DNAT --to-destination 1.1.1.1",
        ),
    ],
)
def test_spellings(line, rule):
    engine = Engine(seed=0)
    iptables.run(engine, line)
    assert rules(engine) == [rule]


def targets(engine):
    return [str(rule.addresses) for rule in engine.rules]


def test_insert_and_delete():
    engine = Engine(seed=0)
    line = "-t nat {} -j DNAT --to {}"
    for action, to in (
        ("-A PREROUTING", "1.0.0.1"),
        ("-I PREROUTING", "1.0.0.2"),
        ("-I PREROUTING 2", "1.0.0.3"),
        ("-I PREROUTING 4", "1.0.0.4"),
    ):
        iptables.run(engine, line.format(action, to))
    assert targets(engine) == ["1.0.0.2", "1.0.0.3", "1.0.0.1", "1.0.0.4"]
    iptables.run(engine, "-t nat -D PREROUTING 2")
    iptables.run(engine, line.format("-D PREROUTING", "1.0.0.4"))
    assert targets(engine) == ["1.0.0.2", "1.0.0.1"]


def test_families_are_apart():
    engine = Engine(seed=0)
    iptables.run(engine, "-t nat -A POSTROUTING -s 10.0.0.0/8 -j MASQUERADE")
    iptables.run(engine, "ip6tables -t nat -A POSTROUTING -j MASQUERADE")
    assert [rule.family for rule in engine.rules] == [4, 6]
    iptables.run(engine, "iptables -t nat -F")
    assert [rule.family for rule in engine.rules] == [6]
    iptables.run(engine, "ip6tables -t nat -D POSTROUTING 1")
    assert engine.rules == []


def test_flush_one_chain():
    engine = Engine(seed=0)
    for line in RECORDED.splitlines():
        iptables.run(engine, line)
    iptables.run(engine, "-t nat -F PREROUTING")
    assert {rule.chain for rule in engine.rules} == {"POSTROUTING"}


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("", "table filter is not available"),
        ("-t nat", "no command"),
        ("-A PREROUTING -j DNAT --to 1.1.1.1", "table filter is not available"),
        ("-t raw -A PREROUTING -j NOTRACK", "target NOTRACK is not available"),
        ("-t raw -A PREROUTING -j CT --notrack", "option --notrack is not available"),
        ("-t raw -A PREROUTING -p tcp -j CT", "target CT needs --helper"),
        ("-t raw -A PREROUTING -j CT --helper ftp", "needs protocol tcp"),
        ("-t raw -A PREROUTING ! -p tcp -j CT --helper ftp", "needs protocol tcp"),
        ("-t raw -A PREROUTING -p tcp -j CT --helper sip", "no helper 'sip'"),
        ("-t raw -A OUTPUT -p tcp -j CT --helper ftp", "chain 'OUTPUT' is not available"),
        ("-t nat -A PREROUTING -p tcp -j CT --helper ftp", "not for table nat"),
        ("-t raw -A PREROUTING -j DNAT --to 1.1.1.1", "not for table raw"),
        ("-t mangle -A PREROUTING -j MARK", "needs one of --set-mark"),
        ("-t mangle -A PREROUTING -j MARK --set-mark 99999999999", "in 0..2**32-1"),
        ("-t mangle -A POSTROUTING -j MARK --set-mark 1", "chain 'POSTROUTING' is not available"),
        ("-t mangle -A PREROUTING -j DNAT --to 1.1.1.1", "not for table mangle"),
        ("-t nat -A PREROUTING -j MARK --set-mark 1", "not for table nat"),
        ("-t nat -A OUTPUT -j DNAT --to 1.1.1.1", "chain 'OUTPUT' is not available"),
        ("-t nat -A PREROUTING -j LOG", "target LOG is not available"),
        ("-t nat -N NEW", "option -N is not available"),
        ("-t nat -P PREROUTING DROP", "ACCEPT"),
        ("-t nat -A PREROUTING -j REDIRECT --to-ports 80", "needs protocol"),
        ("-t nat -A PREROUTING -j DNAT --to 1.1.1.1 --random-fully", "--random-fully"),
        ("-t nat -A POSTROUTING -i eth0 -j MASQUERADE", "behind routing"),
        ("-t nat -A PREROUTING ! -j DNAT --to 1.1.1.1", "cannot be negated"),
        ("-t nat -A PREROUTING ! ! -d 1.1.1.1 -j ACCEPT", "consecutive"),
        ("-t nat -A PREROUTING ! -m tcp -j ACCEPT", "-m cannot be negated"),
        ("-t nat -A PREROUTING -d ! 1.2.3.4 -j DNAT --to 1.1.1.1", "stands before"),
        ("-t nat -A PREROUTING -m multiport -p tcp -j DNAT --to 1.1.1.1", "match multiport"),
        ("-t nat -A PREROUTING -p tcp --dports 1,2 -j ACCEPT", "--dports needs -m multiport"),
        ("-t nat -A PREROUTING -m multiport --dports 1 -j ACCEPT", "needs -p"),
        (
            "-t nat -A PREROUTING -p tcp -m multiport --dports "
            "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16 -j ACCEPT",
            "at most 15",
        ),
        ("-t nat -A PREROUTING -m conntrack --ctstate NEW -j ACCEPT", "match conntrack"),
        ("-t nat -A PREROUTING -m mark --mark x -j ACCEPT", "'x' is not a mark"),
        ("-t nat -A PREROUTING -m ipvs --vport 80 -j ACCEPT", "--vport is not available"),
        ("-t nat -L -n -A PREROUTING", "together"),
        ("-t nat -A PREROUTING -n -j ACCEPT", "only for -L"),
        ("-t nat -A PREROUTING -m tcp -j DNAT --to 1.1.1.1", "match tcp"),
        ("-t nat -A PREROUTING --dport 80 -j DNAT --to 1.1.1.1", "--dport needs -p"),
        ("-t nat -A PREROUTING -p tcp -j DNAT --to 1.1.1.1:nosuch", "nosuch"),
        ("-t nat -A PREROUTING -p tcp -j DNAT --to http", "'http' is not an IPv4 or IPv6"),
        ("-t nat -A PREROUTING -p tcp --dport 80000 -j DNAT --to 1.1.1.1", "80000"),
        ("-t nat -A PREROUTING -p tcp --dport 9:8 -j DNAT --to 1.1.1.1", "first is above"),
        ("-t nat -A PREROUTING -j DNAT", "needs --to-destination"),
        ("-t nat -A PREROUTING -j DNAT --to-source 1.1.1.1", "--to-source is not available"),
        ("-t nat -A PREROUTING -j DNAT --to 1.1.1.300", "1.1.1.300"),
        ("-t nat -A PREROUTING -j DNAT --to 1.1.1.1:80", "needs protocol"),
        ("-t nat -A PREROUTING -j SNAT --to 1.1.1.1", "not for nat PREROUTING"),
        ("-t nat -A PREROUTING -o eth0 -j DNAT --to 1.1.1.1", "runs before routing"),
        ("-t nat -A PREROUTING -d 1.2.3.4 -d 1.2.3.5 -j DNAT --to 1.1.1.1", "multiple"),
        ("-t nat -A PREROUTING ! -d 1.2.3.4,1.2.3.5 -j DNAT --to 1.1.1.1", "list of addresses"),
        ("-t nat -A PREROUTING -d 2001::1 -j DNAT --to 1.1.1.1", "mixes"),
        ("ip6tables -t nat -A PREROUTING -j DNAT --to 1.1.1.1", "ip6tables cannot take IPv4"),
        ("-t nat -A PREROUTING -p gre -j DNAT --to 1.1.1.1:80", "needs protocol"),
        ("-t nat -A PREROUTING --p tcp -j DNAT --to 1.1.1.1", "ambiguous"),
        ("-t nat -A PREROUTING -j DNAT --to 1.1.1.1 extra", "'extra'"),
        ("-t nat -A PREROUTING -j DNAT --to", "needs a value"),
        ("-t nat -A PREROUTING -F", "together"),
        ("-t nat -D PREROUTING 3", "Index of deletion too big"),
        ("-t nat -D POSTROUTING 1", "No chain/target/match by that name"),
        ("-t nat -R PREROUTING -j DNAT --to 1.1.1.1", "-R needs the number"),
        ("-t nat -D PREROUTING 0", "rule number 0"),
        ("-t nat -I PREROUTING 3 -j DNAT --to 1.1.1.1", "Index of insertion too big"),
        ("-t nat -D PREROUTING -j DNAT --to 1.1.1.1", "Bad rule"),
        ("-t nat -F PREROUTING -j DNAT", "cannot be given"),
        ("-t nat -L -k", "-k is not available"),
        ("-t nat -A 'PREROUTING", "split"),
    ],
)
def test_refusals_name_what_is_wrong(line, named):
    engine = Engine(seed=0)
    iptables.run(engine, "-t nat -A PREROUTING -j DNAT --to 9.9.9.9")
    with pytest.raises(CommandError) as caught:
        iptables.run(engine, line)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert targets(engine) == ["9.9.9.9"]


def test_a_chain_that_is_empty_is_not_one_that_nobody_made():
    """As iptables 1.8.9 (nf_tables), which makes a chain for its first rule."""
    engine = Engine(seed=0)
    none, deletion, replacement = (
        "iptables: No chain/target/match by that name.",
        "iptables: Index of deletion too big.",
        "iptables: Index of replacement too big.",
    )
    for line, refused in [
        ("-D POSTROUTING 1", none),
        ("-R POSTROUTING 1 -j MASQUERADE", none),
        ("-A POSTROUTING -s 1.1.1.1 -j MASQUERADE", ""),
        ("-D POSTROUTING 3", deletion),
        ("-F", ""),
        ("-D POSTROUTING 1", deletion),
        ("-R POSTROUTING 1 -j MASQUERADE", replacement),
        ("-D PREROUTING 1", none),
        ("-X", ""),
        ("-D POSTROUTING 1", none),
        ("-P POSTROUTING ACCEPT", ""),
        ("-D POSTROUTING 1", deletion),
    ]:
        outcome = programs.execute(engine, ["iptables", "-t", "nat", *line.split()])
        assert outcome == (bool(refused), "", f"{refused}\n" if refused else ""), line
    outcome = programs.execute(engine, ["ip6tables", "-t", "nat", "-D", "POSTROUTING", "1"])
    assert outcome.stderr == f"ip6{none[2:]}\n"


def test_check_and_replace():
    engine = Engine(seed=0)
    for target in ("1.1.1.1", "2.2.2.2", "3.3.3.3"):
        engine.iptables(f"-t nat -A PREROUTING -j DNAT --to {target}")
    engine.iptables("-t nat -R PREROUTING 2 -j DNAT --to 4.4.4.4")
    assert targets(engine) == ["1.1.1.1", "4.4.4.4", "3.3.3.3"]
    assert engine.iptables("-t nat -C PREROUTING -j DNAT --to 4.4.4.4") == ""
    with pytest.raises(CommandError, match="Bad rule") as caught:
        engine.iptables("-t nat -C PREROUTING -j DNAT --to 2.2.2.2")
    assert caught.value.status == 1


def test_the_saved_text_of_a_table_with_counters():
    engine = Engine(seed=0)
    engine.iptables("-t nat -A PREROUTING -p udp -j DNAT --to 9.9.9.9")
    engine.iptables("-t mangle -A PREROUTING -j MARK --set-mark 1")
    engine.process(udp("10.0.0.1", 1000, "10.0.0.2", 53), 0)
    counted = programs.execute(engine, ["iptables-save", "-c", "-t", "mangle"])
    assert counted.stdout.splitlines() == [
        "*mangle",
        *(f":{name} ACCEPT [0:0]"
          for name in ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")),
        "[1:33] -A PREROUTING -j MARK --set-xmark 0x1/0xffffffff",
        "COMMIT",
    ]  # fmt: skip
    text = programs.execute(engine, ["iptables-save", "-t", "nat"]).stdout
    assert "\n-A PREROUTING -p udp -j DNAT --to-destination 9.9.9.9\n" in text
    assert programs.execute(engine, ["iptables-save", "-M", "x"]).status == 2


def test_rules_appended_one_by_one_are_where_they_would_be():
    """A chain that grows keeps what it counted, and its order, also where others are put in."""
    engine = Engine(seed=0)
    for n in range(40):
        engine.iptables(f"-t nat -A PREROUTING -d 10.0.0.{n} -j DNAT --to 172.16.1.{n}")
        if n % 7 == 0:
            engine.iptables(f"-t nat -I PREROUTING 2 -d 10.0.1.{n} -j DNAT --to 172.16.2.{n}")
        engine.process(udp("10.9.0.1", 1000, f"10.0.0.{n}", 53), 0)
    assert [engine.rule_counters(rule)[0] for rule in engine.rules] == [
        int(rule.destination.network_address.packed[2] == 0) for rule in engine.rules
    ]


V4 = st.ip_addresses(v=4)
V6 = st.ip_addresses(v=6)


@st.composite
def rule_lines(draw):
    addresses, plen = draw(st.sampled_from([(V4, 32), (V6, 128)]))
    words = []
    for option in ("-s", "-d"):
        if draw(st.booleans()):
            words += [option, f"{draw(addresses)}/{draw(st.integers(0, plen))}"]
    ports = ""
    if draw(st.booleans()):
        words += ["-p", draw(st.sampled_from(["tcp", "udp"]))]
        for option in ("--sport", "--dport"):
            if draw(st.booleans()):
                low, high = sorted(draw(st.tuples(*[st.integers(0, 65535)] * 2)))
                words += [option, f"{low}:{high}"]
        if draw(st.booleans()):
            low, high = sorted(draw(st.tuples(*[st.integers(1, 65535)] * 2)))
            ports = f"{low}-{high}"
    target = draw(st.sampled_from(["DNAT", "SNAT", "MASQUERADE"]))
    chain = "PREROUTING" if target == "DNAT" else "POSTROUTING"
    words += ["-j", target]
    if target == "MASQUERADE":
        words += ["--to-ports", ports] if ports else []
    else:
        low, high = sorted(draw(st.tuples(addresses, addresses)))
        text = f"{low}-{high}" if low != high else str(low)
        text = f"[{text}]" if ports and plen == 128 else text
        words += ["--to", f"{text}:{ports}" if ports else text]
    program = "iptables" if plen == 32 else "ip6tables"
    return [program, "-t", "nat", "-A", chain, *words]


@given(st.lists(rule_lines(), max_size=6))
def test_save_and_restore(lines):
    engine, copy = Engine(seed=0, max_connections=1), Engine(seed=0, max_connections=1)
    for words in lines:
        iptables.run(engine, words)
    assert len(engine.rules) == len(lines)
    for family in (4, 6):
        text = iptables.save(engine, family)
        iptables.restore(copy, text, family)
        assert iptables.save(copy, family) == text
    assert sorted(rules(copy)) == sorted(rules(engine))


def test_a_bad_line_restores_nothing():
    engine = Engine(seed=0)
    iptables.run(engine, "-t nat -A PREROUTING -j DNAT --to 9.9.9.9")
    text = iptables.save(engine)
    for bad in ("-A PREROUTING -j DNAT", "-A PREROUTING -j DNAT --to 1.1.1.1:80", "*filter"):
        with pytest.raises(CommandError, match=r"^line 8: "):
            iptables.restore(engine, text.replace("9.9.9.9", "1.1.1.1") + bad)
        assert iptables.save(engine) == text
