"""A director's configuration in TOML."""

import contextlib
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvscore import config
from lvscore.config import toml
from lvscore.engine import Engine
from lvscore.errors import ConfigError
from lvscore.host import Host
from lvscore.model import TimerWheel

EXAMPLE = Path(__file__).parents[2] / "examples" / "director.toml"

SAVED = """\
-A -t 172.16.1.100:80 -s rr
-a -t 172.16.1.100:80 -r 172.16.1.7:80 -m -w 1
-a -t 172.16.1.100:80 -r 172.16.1.8:8080 -m -w 2 -x 10000 -y 8000
-A -t [2001:db8:1::100]:443 -s sh -p 300 -M 64 -b sh-fallback,sh-port
-a -t [2001:db8:1::100]:443 -r [2001:db8:1::7]:443 -m -w 1
-A -u 172.16.1.100:5060 -s wrr -p 60 --pe sip
-a -u 172.16.1.100:5060 -r 172.16.1.9:5060 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum
-A -f 7 -s lc
-a -f 7 -r 172.16.1.7:0 -g -w 1
-A -t 172.16.1.100:8080 -s wlc
-a -t 172.16.1.100:8080 -r 172.16.1.7:8080 -m -w 1
iptables -t mangle -A PREROUTING -d 172.16.1.100/32 -p tcp -m tcp --dport 8443 -j MARK \
--set-xmark 0x7/0xffffffff
iptables -t nat -A POSTROUTING -s 172.16.1.0/24 -d 10.0.0.0/24 -j SNAT --to-source 172.16.1.3
ip6tables -t nat -A POSTROUTING -s 2001:db8:1::/64 -d 2001:db8::/64 -j MASQUERADE
"""


def engine():
    return Engine(seed=0, max_connections=64)


def test_the_example_makes_a_director():
    host = config.load(EXAMPLE).host(engine(), forwarding=True)
    assert config.save(host.engine) == SAVED
    assert [str(address) for address in host.addresses("eth1")][:2] == [
        "172.16.1.3/24", "172.16.1.100/32",
    ]  # fmt: skip
    assert [str(route.gateway) for route in host.routes] == ["172.16.1.200", "2001:db8:1::200"]
    assert host.engine.sysctl["net.ipv4.vs.expire_nodest_conn"] == 1
    assert host.sysctl["net.ipv4.conf.eth1.send_redirects"] == 0
    assert host.engine.helpers["ftp"] == (21,)


def test_what_stands_in_its_comments_is_right_too():
    """Every commented key, uncommented."""
    lines = []
    for line in EXAMPLE.read_text().splitlines():
        words = line.removeprefix("# ")
        key = words.split("=")[0].strip()
        lines.append(words if line.startswith("# ") and _is_code(words, key) else line)
    assert sum(a != b for a, b in zip(lines, EXAMPLE.read_text().splitlines(), strict=True)) == 18
    found = toml.parse("\n".join(lines))
    assert (found.seed, found.port_quota, found.modules) == (1, 1000, ("sctp",))
    assert found.timer_wheel == TimerWheel(250)
    assert (found.interfaces[0].backend, found.interfaces[0].persistent) == ("tap", True)
    host = found.host(engine())
    assert host.routes[2].local
    assert host.engine.timer_wheel == TimerWheel(250)
    assert host.engine.find_service("udp", "172.16.1.100:53").one_packet


def _is_code(words, key):
    return words.startswith("[[") or (" = " in words and key.replace("-", "").isalpha())


def test_an_engine_without_a_host_takes_what_concerns_it():
    alone = engine()
    config.load(EXAMPLE).apply(alone)
    assert config.save(alone) == SAVED
    assert [interface.name for interface in alone.routes.interfaces] == ["eth1"]
    assert [route.interface for route in alone.routes.routes] == ["eth1", "eth1"]
    assert alone.sysctl["net.ipv4.vs.expire_nodest_conn"] == 1


SERVICE = '[[service]]\ntcp-service = "1.2.3.4:80"\n'
SERVER = SERVICE + '[[service.server]]\nreal-server = "1.2.3.5:80"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = ", "d.toml: Invalid value (at end of document)"),
        ("[direktor]", "d.toml: direktor = {}: no such key; there are director, sysctl, timeout"),
        ("service = 3", "d.toml: service = 3: expected [[service]], an array of tables"),
        ("director = 3", "d.toml: director = 3: expected tables"),
        ('[director]\nbackend = "tape"',
         'd.toml: director.backend = "tape": expected one of auto, ring, copy'),
        ("[director]\nmax-connections = 0",
         "d.toml: director.max-connections = 0: expected a number in 1..33554432"),
        ("[director]\nmax-connections = true", "expected a number in 1..33554432"),
        ("[director]\ncontrol = 3", "d.toml: director.control = 3: expected text"),
        ("[director]\ntimer-wheel = 250",
         "d.toml: director.timer-wheel = 250: expected a table"),
        ("[director]\ntimer-wheel = { jiffies = 1 }", "expected hz"),
        ("[director]\ntimer-wheel = { hz = 0 }",
         "d.toml: director.timer-wheel.hz = 0: expected a number in 1..10000"),
        ("[director]\ntimer-wheel = { hz = 250, tick = 1 }",
         "director.timer-wheel.tick = 1: no such key; there are hz, jiffies"),
        ("[director]\nmodules = ['x']", "d.toml: modules: no module 'x' here"),
        ("[interface]\neth1 = 3", "d.toml: interface eth1 = 3: expected a table"),
        ('[interface.eth1]\naddress = ["10.0.0.1"]',
         'd.toml: interface eth1: address = "10.0.0.1": expected "address/length"'),
        ("[interface.eth1]\nmtu = 9", "d.toml: interface eth1: mtu = 9: expected a number in 68.."),
        ("[[route]]\nvia = '10.0.0.1'", "d.toml: route 1: expected to"),
        ("[[route]]\nto = 'default'\nvia = 'x'",
         'd.toml: route default: via = "x": expected an address'),
        ("[[route]]\nto = 'default'\nvia = '10.0.0.1'",
         "d.toml: route default: gateway 10.0.0.1 cannot be reached"),
        ("[[neighbour]]\nto = '10.0.0.1'\ndev = 'eth1'",
         "d.toml: neighbour 10.0.0.1: expected lladdr"),
        ("[sysctl]\nnet.ipv4.vs.x = 1", "d.toml: sysctl.net.ipv4.vs.x = 1: no setting"),
        ("[sysctl]\nnet.ipv4.ip_forward = 2",
         "d.toml: sysctl.net.ipv4.ip_forward = 2: net.ipv4.ip_forward=2 is not in 0..1"),
        ("[sysctl]\n'net.ipv4.ip_forward' = 'yes'",
         'd.toml: sysctl.net.ipv4.ip_forward = "yes": expected a number'),
        ("[timeout]\ntcp = 0", "d.toml: timeout.tcp = 0: expected a number in 1..2678400"),
        ("[helper.tftp]\n", "d.toml: helper tftp: no helper 'tftp'"),
        ("[[service]]\nscheduler = 'rr'", "d.toml: service 1: expected one of tcp-service, udp-"),
        (SERVICE + "scheduler = 'rrr'",
         'd.toml: service 1.2.3.4:80: scheduler = "rrr": expected one of rr, wrr, lc'),
        (SERVICE + "ipv6 = true", "d.toml: service 1.2.3.4:80: ipv6 = true: expected it with a fw"),
        (SERVICE + "ops = true", "d.toml: service 1.2.3.4:80: One-Packet Scheduling is only for"),
        (SERVICE + SERVICE, "d.toml: service 1.2.3.4:80: Service already exists"),
        (SERVICE + "[[service.server]]", "d.toml: service 1.2.3.4:80, server 1: expected real-"),
        (SERVER + "weight = -1", "d.toml: service 1.2.3.4:80, server 1.2.3.5:80: weight = -1: exp"),
        (SERVER + "forward = 'nat'", 'server 1.2.3.5:80: forward = "nat": expected one of masq'),
        (SERVER + "l-threshold = 1", "server 1.2.3.5:80: l-threshold = 1: expected no more than"),
        ("[ipvsadm]\nlines = '''\n-A -t 1.2.3.4\n'''", "d.toml: ipvsadm.lines:1: Zero port"),
        ("[iptables]\nlines = '-t nat -A X'", "d.toml: iptables.lines:1: "),
        ("[nft]\nlines = 'list ruleset'", "d.toml: nft.lines:1: 'list ruleset' begins no line of"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_and_nothing_is_left(tmp_path, text, said):
    path = tmp_path / "d.toml"
    path.write_text(text)
    empty = engine()
    before = config.save(empty), dict(empty.sysctl)
    with pytest.raises(ConfigError) as caught:
        config.load(path).host(empty)
    message = str(caught.value).replace(str(tmp_path) + "/", "")
    assert said in message
    assert "\n" not in message
    assert (config.save(empty), dict(empty.sysctl)) == before
    Host(empty)  # has no interfaces


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)


def paths(value, so_far=()):
    """The way to everything in a nested table."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*so_far, key)
        if isinstance(inner, dict | list):
            yield from paths(inner, (*so_far, key))


@settings(max_examples=60)
@given(st.data())
def test_whatever_stands_anywhere_is_taken_or_refused(data):
    content = tomllib.loads(EXAMPLE.read_text())
    *way, last = data.draw(st.sampled_from(list(paths(content))))
    place = content
    for key in way:
        place = place[key]
    place[last] = data.draw(VALUES)
    with contextlib.suppress(ConfigError):
        assert toml.read(content).name == "director.toml"
