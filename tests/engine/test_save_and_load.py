"""An engine in a file: what is loaded does with every packet what the saved one does."""

import contextlib
import os
import random
import stat

import features
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packets import CLIENT, SECOND, VIP, ip, tcp, udp
from scapy.layers.inet import ICMP, IP

import lvscore
from lvscore import Engine, snapshot

SERVERS = features.SERVERS
SIP = [b"INVITE a SIP/2.0\r\nCall-ID: %d@x\r\n\r\n" % n for n in range(4)]
FTP = [b"PASV\r\n", b"227 Entering Passive Mode (172,16,1,7,200,1)\r\n", b"EPSV\r\n",
       b"PORT 10,0,0,9,100,1\r\n", b"229 Extended Passive Mode (|||51000|)\r\n", b""]  # fmt: skip
PLACES = (21, 443, 1000, 1001, 1002, 1003, 1004, 1005, 1006)


def everything(seed=1, **options):
    """An engine that has all that can be saved, and little room."""
    engine = Engine(**{"seed": seed, "max_connections": 48, **options})
    engine.routes.add_interface("eth0", ["203.0.113.5/24", f"{VIP}/24"])
    engine.routes.add_interface("eth1", ["198.51.100.5/24"])
    engine.routes.add("default", "eth0")
    for name, value in (("conntrack", 1), ("secure_tcp", 3), ("drop_entry", seed % 2 * 3)):
        engine.sysctl[f"net.ipv4.vs.{name}"] = value
    engine.sysctl["net.netfilter.nf_conntrack_tcp_be_liberal"] = 1
    engine.helpers.add("ftp", ports=(21, 2121))
    for place, scheduler in zip(PLACES, lvscore.SCHEDULERS, strict=False):
        service = engine.add_service("tcp", f"{VIP}:{place}", scheduler=scheduler)
        for weight, server in enumerate(SERVERS, 1):
            service.add_server(f"{server}:{place}", weight=weight, upper_threshold=9)
    for scheduler, protocol in zip(list(lvscore.SCHEDULERS)[len(PLACES) :], range(9), strict=False):
        mark = engine.add_fwmark_service(protocol + 1, scheduler=scheduler, persistence=40)
        mark.add_server("172.16.1.7:0", method="route")
    sip = engine.add_service("udp", f"{VIP}:5060", persistence=30, persistence_engine="sip")
    sip.add_server("172.16.1.7:5060")
    sip.add_server("172.16.1.8:5060", method="tunnel", tunnel=lvscore.Tunnel("gue", 6080, "csum"))
    dns = engine.add_service("udp", f"{VIP}:53", one_packet=True, scheduler="rr")
    dns.add_server("172.16.1.8:53")
    engine.add_dnat("172.16.1.7", destination="203.0.113.9")
    engine.add_masquerade(
        to_ports=(2000, 2002), random="random", source="10.0.0.0/16", protocol="tcp"
    )
    engine.add_snat("203.0.113.5", out_interface="eth+", negated=frozenset(["out_interface"]))
    engine.add_mark(3, source="10.0.1.0/24")
    engine.iptables("-t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp")
    engine.port_pools.quota = 6
    return engine


def expected_connection():
    """A client of the rules tells where it listens, for FTP's data."""
    there, back = ("192.168.0.1", 3000, "192.0.2.1", 21), ("192.0.2.1", 21, "192.168.0.1", 3000)
    yield tcp(*there, "S", seq=1000)
    yield tcp(*back, "SA", seq=5000, ack=1001)
    yield tcp(*there, "A", seq=1001, ack=5001)
    yield tcp(*there, "PA", b"USER me\r\n", seq=1001, ack=5001)
    yield tcp(*there, "PA", b"PORT 192,168,0,1,100,1\r\n", seq=1010, ack=5001)


def traffic(seed, count):
    """Frames of all kinds, their times and marks."""
    chance = random.Random(seed)
    frames = [bytes(frame) for frame in expected_connection()]
    times, marks = [0] * len(frames), [0] * len(frames)
    now = 0
    for _ in range(count):
        client, port = chance.choice(features.CLIENTS), 1000 + chance.randrange(6)
        server, place = chance.choice(SERVERS), chance.choice(PLACES)
        flags = chance.choice(["S", "S", "S", "A", "PA", "FA", "R", "SA"])
        kind = chance.randrange(6)
        if kind == 0:
            place = chance.choice([5060, 5060, 53])
            frame = udp(client, port, VIP, place, chance.choice(SIP))
        elif kind == 1:
            ends = (client, port, VIP, 21) if chance.random() < 0.5 else (server, 21, client, port)
            frame = tcp(*ends, flags, chance.choice(FTP), ack=1)
        elif kind == 2:
            other = chance.choice(["203.0.113.9", "192.0.2.1", "192.0.2.2"])
            if chance.random() < 0.5:
                frame = udp(client, port, other, 80)
            elif chance.random() < 0.5:
                frame = tcp(client, port, other, 21, flags, chance.choice(FTP))
            else:
                frame = tcp("172.16.1.7", 21, client, port, flags, chance.choice(FTP), ack=1)
        elif kind == 3:
            quoted = bytes(ip(VIP, client) / tcp(VIP, place, client, port)[34:])[14:42]
            frame = bytearray(bytes(ip(server, VIP) / ICMP(type=3, code=3) / quoted))
        else:
            ends = (client, port, VIP, place)
            if chance.random() < 0.3:
                ends = (server, place, client, port)
            frame = tcp(*ends, flags)
        frames.append(bytes(frame))
        now += chance.choice([0, 0, 1, 1000, SECOND // 7, SECOND, 9 * SECOND])
        times.append(now)
        marks.append(chance.choice([0, 0, 1, 2, 5, 6]))
    return frames, times, marks


def again(engine, now=None):
    """The engine, saved and loaded."""
    loaded = snapshot.parse(Engine, b"".join(snapshot.dump(engine)), now)
    assert loaded._selfcheck() == 0
    return loaded


def seen(engine):
    """All that an administrator can see of an engine, in its order."""
    commands = ("-Ln", "-Ln --stats", "-Ln --rate", "-Lnc", "-Ln --thresholds",
                "-Ln --persistent-conn", "-L --timeout", "-Sn")  # fmt: skip
    texts = [engine.ipvsadm(command) for command in commands]
    texts += [
        engine.conntrack("-L -o id,extended"),
        engine.conntrack("-L expect"),
        engine.iptables("-t nat -L -v -n"),
    ]
    pools = list(engine.port_pools), engine.port_pools.clients(), engine.port_pools.events()
    rows = []
    for table in (engine.connections, engine.templates):
        rows.append(table.snapshot())
        rows[-1]["dialog"] = 0  # a number that means nothing; -Ln --persistent-conn has the Call-ID
    counters = engine.counters, engine.reasons, engine.statistics, engine.conntrack("-S")
    helpers = [(name, engine.helpers[name]) for name in engine.helpers]
    return (texts, pools, [row.tobytes() for row in rows], dict(engine.sysctl), helpers,
            engine.routes.interfaces, engine.routes.routes, engine.rules, counters, engine.now,
            engine.next_deadline(), engine.last_reason)  # fmt: skip


def compare(engine, frames, times, marks, cuts):
    """Save and load at each cut; both engines must answer alike from there on. The files."""
    loaded = None
    files = []
    start = 0
    for end in [*sorted(cuts), len(frames)]:
        part = frames[start:end], times[start:end], marks[start:end]
        expected = features.one_by_one(engine, *part)
        if loaded is not None:
            assert features.one_by_one(loaded, *part) == expected
            assert seen(loaded) == seen(engine)
        loaded = again(engine if loaded is None else loaded)
        assert seen(loaded) == seen(engine)
        files.append(b"".join(snapshot.dump(loaded)))
        start = end
    return files


@pytest.mark.parametrize("feature", features.FEATURES)
def test_every_feature(feature):
    compare(features.make(feature), *features.traffic(feature, 200), cuts=[60, 150])


def test_everything_at_once():
    engine = everything()
    frames, times, marks = traffic(0, 450)
    files = compare(engine, frames, times, marks, cuts=[0, 40, 165, 300])
    assert engine.counters["opened"] > 100
    assert engine.counters["expired"] > 50
    for part in (b'"controls": [[0, ', b'"dialogs": [[4, ', b'"event": [{', b'"expects": true'):
        assert any(part in file for file in files), part  # there was something of each kind


commands = st.sampled_from([
    "ipvsadm -d -t 172.16.1.100:21 -r 172.16.1.8:21",
    "ipvsadm -a -t 172.16.1.100:21 -r 172.16.1.8:21 -m -w 3",
    "ipvsadm -e -t 172.16.1.100:1001 -r 172.16.1.7:1001 -m -w 0",
    "ipvsadm -E -t 172.16.1.100:1000 -s lblcr", "ipvsadm -E -t 172.16.1.100:443 -s sh -b sh-port",
    "ipvsadm -D -t 172.16.1.100:1004", "ipvsadm -A -t 172.16.1.100:1004 -s twos",
    "ipvsadm -Z", "ipvsadm --set 5 3 2", "iptables -t nat -I POSTROUTING -p udp -j MASQUERADE",
    "iptables -t nat -D POSTROUTING 1", "conntrack -F", "ipvsadm -C",
])  # fmt: skip
steps = st.lists(st.one_of(st.integers(1, 60), commands), max_size=10)


@settings(max_examples=5)
@given(st.integers(0, 2**32), steps)
def test_whatever_happens(seed, steps):
    """Between packets there are commands; after each step the engine is saved and loaded."""
    engine, other = everything(seed), everything(seed)
    stream = list(zip(*traffic(seed, 400), strict=True))
    for step in steps:
        for one in (engine, other):
            if isinstance(step, str):
                program, _, command = step.partition(" ")
                with contextlib.suppress(lvscore.CommandError):
                    getattr(one, program)(command)
        if not isinstance(step, str):
            part, stream = stream[:step], stream[step:]
            columns = list(zip(*part, strict=True)) or [(), (), ()]
            assert features.one_by_one(engine, *columns) == features.one_by_one(other, *columns)
        other = again(other)
        assert seen(other) == seen(engine)


def test_a_file(tmp_path):
    engine = everything()
    features.one_by_one(engine, *traffic(1, 100))
    path = tmp_path / "state"
    engine.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    engine.save(path)
    assert (path.read_bytes(), os.listdir(tmp_path)) == (before, ["state"])

    class Own(Engine):
        pass

    loaded = Own.load(path)
    assert type(loaded) is Own
    assert seen(loaded) == seen(engine)


def test_time_goes_on_from_another_origin():
    engine = Engine(seed=1)
    engine.add_service("udp", f"{VIP}:53").add_server("172.16.1.7:53")
    start = 10**18
    engine.process(udp(CLIENT, 1, VIP, 53), start)
    loaded = again(engine, now=5)
    assert loaded.now == 5
    assert loaded.expire(5 + 299 * SECOND) == 0
    assert loaded.expire(5 + 300 * SECOND) == 1
    assert again(Engine(seed=1), now=7).now == 0  # has no time yet


def test_a_host_goes_around_it_again():
    def host(engine):
        host = lvscore.Host(engine)
        host.add_interface("eth0", addresses=["10.0.0.3/24", f"{VIP}/32"])
        host.add_neighbour(CLIENT, "02:00:00:00:00:09", "eth0")
        host.add_neighbour("10.0.0.7", "02:00:00:00:00:07", "eth0")
        host.sysctl["net.ipv4.ip_forward"] = 1
        return host

    engine = Engine(seed=1)
    first = host(engine)
    engine.add_service("tcp", f"{VIP}:80", scheduler="rr").add_server("10.0.0.7:80")
    engine.add_masquerade(out_interface="eth0", protocol="udp")
    frame = tcp(CLIENT, 1, VIP, 80)
    frame[:6] = bytes.fromhex("020000000001")
    sent = first.receive("eth0", frame, SECOND)
    second = host(again(engine))
    frame = tcp(CLIENT, 1, VIP, 80, "A")
    frame[:6] = bytes.fromhex("020000000001")
    assert second.receive("eth0", frame, SECOND) == first.receive("eth0", frame, SECOND)
    assert IP(sent[0][1][14:]).dst == "10.0.0.7"
    assert len(second.engine.connections) == 1
