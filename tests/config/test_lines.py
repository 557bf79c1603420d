"""Configuration files: ipvsadm and iptables lines, all of them or none."""

import pytest

from lvscore import config
from lvscore.engine import Engine
from lvscore.errors import CommandError, ConfigError

TEXT = """\
# the director of the lab, and the router before it
ipvsadm -A -t 172.16.1.100:80 -s rr
-a -t 172.16.1.100:80 -r 172.16.1.7:80 -m

  # rules
iptables -t nat -A PREROUTING -d 10.0.0.200 -j DNAT --to 172.16.1.100
-t nat -A POSTROUTING -s 172.16.1.0/24 -j SNAT --to 10.0.0.200
ip6tables -t nat -A POSTROUTING -j MASQUERADE
--set 100 0 0
"""

SAVED = """\
--set 100 120 300
-A -t 172.16.1.100:80 -s rr
-a -t 172.16.1.100:80 -r 172.16.1.7:80 -m -w 1
iptables -t nat -A PREROUTING -d 10.0.0.200/32 -j DNAT --to-destination 172.16.1.100
iptables -t nat -A POSTROUTING -s 172.16.1.0/24 -j SNAT --to-source 10.0.0.200
ip6tables -t nat -A POSTROUTING -j MASQUERADE
"""


def test_a_file(tmp_path):
    path = tmp_path / "lvs.rules"
    path.write_text(TEXT)
    engine = Engine(seed=0)
    config.load(path).apply(engine)
    assert config.save(engine) == SAVED


def test_save_and_parse():
    engine = Engine(seed=0)
    config.parse(SAVED).apply(engine)
    assert config.save(engine) == SAVED


def test_a_block_of_iptables_save():
    engine = Engine(seed=0)
    config.parse(
        "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j DNAT --to 1.2.3.4\nCOMMIT\n"
        "-A -t 1.2.3.4:80 -s rr\n"
    ).apply(engine)
    assert len(engine.rules) == len(engine.services) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-A -t 1.2.3.4:80 -w 1", "Illegal 'weight' option with the 'add-service' command"),
        ("-a -t 1.2.3.4:80 -r 1.2.3.5 -m", "Service not defined"),
        ("-A -t 172.16.1.100:80", "Service already exists"),
        ("-L -n", "the 'list' command has no place in saved rules"),
        ("iptables -A INPUT -j DROP", "table filter is not available: expected -t nat"),
        ("-t nat -A PREROUTING -j DNAT --to x", "'x' is not an IPv4 or IPv6 address"),
        ("-t nat -A PREROUTING 'x", "cannot split"),
        ("-Q", "'-Q' begins no line of ipvsadm -S, iptables or nft"),
    ],
)
def test_a_bad_line_applies_nothing(line, message):
    engine = Engine(seed=0)
    before = config.save(engine)
    with pytest.raises(CommandError) as caught:
        config.parse(f"{TEXT}{line}\n", "lvs.rules").apply(engine)
    assert str(caught.value).startswith(f"lvs.rules:10: {message}")
    assert config.save(engine) == before


def test_an_engine_that_has_services_is_refused():
    engine = Engine(seed=0)
    engine.add_service("tcp", "1.2.3.4:80")
    with pytest.raises(ConfigError, match="has services or rules already"):
        config.parse(TEXT).apply(engine)
    assert len(engine.services) == 1


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        config.load(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"-A\xff")
    with pytest.raises(ConfigError, match="byte 2 is not UTF-8"):
        config.load(tmp_path / "binary")


NFT = """\
#!/usr/sbin/nft -f
flush ruleset

table ip nat {
    chain prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        ip daddr 10.0.0.200 tcp dport {
            80, 443
        } dnat to 172.16.1.100
    }
}
nft add rule ip nat prerouting ip daddr 10.0.0.201 accept
"""


def test_nft_text_beside_other_lines(tmp_path):
    path = tmp_path / "lvs.rules"
    path.write_text(NFT + TEXT)
    engine = Engine(seed=0)
    config.load(path).apply(engine)
    assert [rule.target for rule in engine.rules] == [
        "DNAT",
        "ACCEPT",
        "DNAT",
        "SNAT",
        "MASQUERADE",
    ]
    assert len(engine.services) == 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "policy accept",
            "policy drop",
            r"lvs.rules:6:\d+-\d+: Error: policy drop is not available",
        ),
        ("accept\n", "jump x\n", r"lvs.rules:12:52-55: Error: jump is not available\nadd|"),
        ("nat prerouting ip", "x prerouting ip", r"lvs.rules:12:17-17: Error: Could not process"),
        ("    }\n}\n", "", r"lvs.rules:10:1-3: Error: 'nft add' is not available"),
    ],
)
def test_where_nft_text_is_wrong(tmp_path, old, new, said):
    path = tmp_path / "lvs.rules"
    path.write_text(NFT.replace(old, new))
    engine = Engine(seed=0)
    with pytest.raises(CommandError, match=said):
        config.load(path).apply(engine)
    assert engine.rules == []
