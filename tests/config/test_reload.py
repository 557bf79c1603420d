"""Changing a director to another configuration: connections stay, what is wrong changes nothing."""

import pytest
from packets import CLIENT, SECOND, VIP, flow, tcp

from lvscore import config
from lvscore.config import adopt, reload, toml
from lvscore.engine import Engine
from lvscore.errors import ConfigError, InterfaceError
from lvscore.model import TimerWheel

TEXT = """
[interface.eth1]
address = ["172.16.1.3/24", "172.16.1.100/32"]

[[route]]
to = "default"
via = "172.16.1.200"

[[neighbour]]
to = "172.16.1.7"
lladdr = "02:00:00:00:00:07"
dev = "eth1"

[[service]]
tcp-service = "172.16.1.100:80"
scheduler = "rr"

[[service.server]]
real-server = "172.16.1.7:80"

[[service.server]]
real-server = "172.16.1.8:80"

[[service]]
udp-service = "172.16.1.100:53"

[iptables]
lines = "-t nat -A POSTROUTING -s 172.16.1.0/24 -j SNAT --to-source 172.16.1.3"
"""
EDITED = (
    TEXT.replace('real-server = "172.16.1.7:80"', 'real-server = "172.16.1.9:80"')
    .replace('real-server = "172.16.1.8:80"', 'real-server = "172.16.1.8:80"\nweight = 3')
    .replace('udp-service = "172.16.1.100:53"', 'tcp-service = "172.16.1.100:443"')
    .replace('to = "default"', 'to = "10.0.0.0/8"')
    .replace('"172.16.1.100/32"', '"172.16.1.100/32", "172.16.1.101/32"')
    .replace('lines = "', 'lines = """\n-t nat -A POSTROUTING -p tcp -j ACCEPT\n')
    .replace('to-source 172.16.1.3"', 'to-source 172.16.1.3\n"""')
    + "[sysctl]\nnet.ipv4.vs.sloppy_tcp = 1\n[timeout]\nudp = 60\n"
)


SAVED = """\
--set 900 120 60
-A -t 172.16.1.100:80 -s rr
-a -t 172.16.1.100:80 -r 172.16.1.8:80 -m -w 3
-a -t 172.16.1.100:80 -r 172.16.1.9:80 -m -w 1
-A -t 172.16.1.100:443 -s wlc
iptables -t nat -A POSTROUTING -p tcp -j ACCEPT
iptables -t nat -A POSTROUTING -s 172.16.1.0/24 -j SNAT --to-source 172.16.1.3
"""


@pytest.fixture
def before():
    return toml.parse(TEXT)


@pytest.fixture
def host(before):
    return before.host(Engine(seed=0, max_connections=64), forwarding=True)


def send(host, port, flags="S", now=SECOND):
    """Where a client's segment goes."""
    frame = tcp(CLIENT, port, VIP, 80, flags)
    frame[:6] = bytes.fromhex("020000000001")
    sent = host.receive("eth1", frame, now)
    return [flow(frame)[2] for _, frame in sent if frame[12:14] == b"\x08\0"]


def test_what_is_the_same_is_not_touched(host, before):
    web = host.engine.services[0]
    assert send(host, 1) == []  # 172.16.1.8, which has to be asked for first
    assert send(host, 2) == ["172.16.1.7"]
    reload(host, before, toml.parse(TEXT), forwarding=True)
    assert send(host, 4) == []  # round robin goes on where it was
    assert [server.statistics.connections for server in web.servers] == [2, 1]
    assert host.routes[0].network.prefixlen == 0


def test_what_differs_is_changed_and_connections_stay(host, before):
    engine = host.engine
    snat = engine.rules[0]
    assert send(host, 1) == []
    assert send(host, 2) == ["172.16.1.7"]
    after = toml.parse(EDITED)
    reload(host, before, after, forwarding=True)
    assert config.save(engine) == SAVED
    assert engine.rules[1].number == snat.number != engine.rules[0].number
    assert engine.sysctl["net.ipv4.vs.sloppy_tcp"] == 1
    assert "172.16.1.101/32" in map(str, host.addresses("eth1"))
    assert [str(route.network) for route in host.routes] == ["10.0.0.0/8"]
    assert len(engine.connections) == 2
    gone = engine.connections["tcp", f"{CLIENT}:2", f"{VIP}:80"]
    assert str(gone.server) == "172.16.1.7:80"
    reload(host, after, before, forwarding=True)  # and back: the old server has its connections
    assert [s.active + s.inactive for s in engine.services[0].servers] == [1, 1]
    assert engine.sysctl["net.ipv4.vs.sloppy_tcp"] == 0


def test_the_timer_wheel_changes_and_goes(host, before):
    wheel = toml.parse("[director]\ntimer-wheel = { hz = 100, jiffies = 7 }\n" + TEXT)
    reload(host, before, wheel)
    assert host.engine.timer_wheel == TimerWheel(100, 7)
    reload(host, wheel, before)
    assert host.engine.timer_wheel is None


def test_what_was_changed_by_hand_is_as_the_file_has_it(host, before):
    host.engine.ipvsadm("-C")
    host.engine.iptables("-t nat -F")
    reload(host, before, before)
    assert len(host.engine.services) == 2
    assert len(host.engine.rules) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TEXT.replace("wlc", "x") + "x = 1", "no such key"),
        (TEXT.replace('"172.16.1.8:80"', '"172.16.1.7:80"'), "Destination already exists"),
        (TEXT.replace("via", "dev"), "no interface 172.16.1.200"),
        (TEXT.replace("eth1", "eth2"), "the interfaces change from eth1 to eth2"),
        (TEXT + "[director]\nbackend = 'copy'", "backend changes from None to copy"),
        (TEXT + "[director]\nmax-connections = 9", "max-connections changes from 1048576 to 9"),
    ],
)
def test_a_wrong_file_keeps_the_old(host, before, text, said):
    host.engine.ipvsadm("-e -t 172.16.1.100:80 -r 172.16.1.7:80 -m -w 9")
    saved = config.save(host.engine)
    with pytest.raises(ConfigError, match=said):
        reload(host, before, toml.parse(text))
    assert config.save(host.engine) == saved


def test_it_may_be_refused(host, before):
    def refuse(target):
        raise InterfaceError(98, f"not {target.addresses('eth1')[2]}", "eth1")

    saved = config.save(host.engine)
    with pytest.raises(InterfaceError, match=r"not 172.16.1.101/32"):
        reload(host, before, toml.parse(EDITED), check=refuse)
    assert config.save(host.engine) == saved


def test_the_primary_address_is_the_first_one(host, before):
    after = toml.parse(TEXT.replace('"172.16.1.3/24",', '"172.16.1.2/24", "172.16.1.3/24",'))
    reload(host, before, after)
    assert [str(a) for a in host.addresses("eth1")] == [
        "172.16.1.2/24", "172.16.1.3/24", "172.16.1.100/32",
    ]  # fmt: skip


def test_neighbours_come_and_go(host, before):
    after = toml.parse(TEXT.replace("172.16.1.7", "172.16.1.8").replace("8:80", "7:80", 1))
    reload(host, before, after)
    assert [*send(host, 1), *send(host, 2)] == ["172.16.1.8"]


def test_an_engine_that_another_process_had(host, before, tmp_path):
    assert send(host, 2) == []
    assert send(host, 3) == ["172.16.1.7"]
    host.engine.save(tmp_path / "state")
    loaded = Engine.load(tmp_path / "state")
    second = adopt(loaded, before, forwarding=True)
    assert send(second, 3, "A") == ["172.16.1.7"]
    assert [s.statistics.connections for s in loaded.services[0].servers] == [1, 1]
    third = adopt(Engine.load(tmp_path / "state"), toml.parse(EDITED), forwarding=True)
    assert config.save(third.engine) == SAVED
    assert len(third.engine.connections) == 2
    bare = toml.parse(TEXT[: TEXT.index("[[service]]")])
    fourth = adopt(Engine.load(tmp_path / "state"), bare)  # says nothing of services
    assert config.save(fourth.engine) == config.save(host.engine)
