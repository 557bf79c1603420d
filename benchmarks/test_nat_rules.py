"""DNAT and SNAT rules through Engine.process_batch: what conntrack and a port pick cost.

Times are the thread's CPU time.
"""

import time

import numpy as np
import pytest
import test_host
from test_pipeline import at_random, batches, establish, measure
from traffic import conversation, handshake

import lvscore

PACKETS = 500_000
PORTS = 65535 - 1024 + 1
PICKS = 512
UDP = np.frombuffer(
    bytes.fromhex(
        "020000000002020000000001080045000032000040004011000000000000c6336401"
        "00000035001e0000"
    ).ljust(64, b"\0"), np.uint8)  # fmt: skip


def datagrams(client, ports):
    """UDP from one client and these ports to 198.51.100.1:53, without checksum."""
    array = np.tile(UDP, (len(ports), 1))
    array[:, 26:30] = [10, 0, client >> 8, client & 255]
    array[:, 34] = np.asarray(ports) >> 8
    array[:, 35] = np.asarray(ports) & 255
    header = array[:, 14:34].astype(np.uint32)
    total = (header[:, 0::2] << 8 | header[:, 1::2]).sum(axis=1)
    total = (total & 0xFFFF) + (total >> 16)
    total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    array[:, 24] = total >> 8
    array[:, 25] = total & 255
    return array


def router(percent):
    """An engine whose only translated address has so many of its ports in use; the ports, and
    those that are left."""
    engine = lvscore.Engine(seed=1, max_connections=2 * PORTS)
    engine.add_snat(to="203.0.113.1", source="10.0.0.0/8")
    ports = np.random.default_rng(2).permutation(PORTS) + 1024
    used, free = np.split(ports, [PORTS * percent // 100])
    for batch in batches(datagrams(1, used)):
        engine.process_batch(batch)
    (pool,) = engine.port_pools
    assert pool.used == len(used)
    return engine, used, free


@pytest.mark.benchmark(group="a port of a pool", timer=time.thread_time)
@pytest.mark.parametrize("kind", ["kept", "picked"])
@pytest.mark.parametrize("percent", [5, 50, 95])
def test_port(benchmark, percent, kind):
    """A new flow whose port is free and kept, or taken, so that another is searched."""
    last = []

    def fresh():
        engine, used, free = router(percent)
        last[:] = [engine]
        return (engine, batches(datagrams(2, (free if kind == "kept" else used)[:PICKS]))), {}

    def run(engine, work):
        for batch in work:
            engine.process_batch(batch)

    benchmark.pedantic(run, setup=fresh, rounds=15)
    assert last[0].reasons[lvscore.Reason.NEW_CONNECTION] == PORTS * percent // 100 + PICKS
    benchmark.extra_info.update(
        used_percent=percent, ns_per_flow=round(benchmark.stats.stats.median * 1e9 / PICKS, 1)
    )


def established(connections):
    """An engine whose only rule leads to one server, and so many connections to that."""
    engine = lvscore.Engine(seed=1, max_connections=max(connections, 1024))
    engine.add_dnat(to="192.168.0.1:8080", destination="10.0.0.1", protocol="tcp")
    establish(engine, connections, lambda flows: handshake(flows, servers=1))
    return engine


def established_on_host(connections):
    """The same on a router with an arm to clients and one to the server."""
    host = lvscore.Host(lvscore.Engine(seed=1, max_connections=max(connections, 1024)))
    host.add_interface("eth0", addresses=["10.0.0.1/24"], mac=test_host.MAC)
    host.add_interface("eth1", addresses=["192.168.0.254/24"], mac=test_host.MAC[:5] + b"\3")
    host.add_route("11.0.0.0/8", via="10.0.0.2")
    host.add_neighbour("10.0.0.2", "02:00:00:00:00:10", "eth0")
    host.add_neighbour("192.168.0.1", "02:00:00:00:01:01", "eth1")
    host.sysctl["net.ipv4.ip_forward"] = 1
    for name in "all", "eth0":
        host.sysctl[f"net.ipv4.conf.{name}.send_redirects"] = 0
    host.engine.add_dnat(to="192.168.0.1:8080", destination="10.0.0.1", protocol="tcp")
    for part in handshake(np.arange(connections), servers=1):
        for batch in batches(part):
            test_host.receiver(host)(batch)
    assert len(host.engine.connections) == connections
    return host


def packets_of(connections, count):
    """Segments that follow each other, of flows and ways at random; round by round."""
    flows, reply = at_random(connections, count)
    return conversation(flows, reply=reply, servers=1)


@pytest.mark.benchmark(group="established, DNAT rule", timer=time.thread_time)
@pytest.mark.parametrize("connections", [1_000, 65_536])
def test_established_dnat(benchmark, connections):
    engine = established(connections)
    measure(benchmark, engine.process_batch, packets_of(connections, PACKETS), connections)
    assert engine.counters["forwarded"] == engine.counters["frames"]
    # None was INVALID: every packet was of a flow, or opened one.
    assert set(engine.reasons) == {
        lvscore.Reason.NEW_CONNECTION, lvscore.Reason.REQUEST, lvscore.Reason.REPLY,
    }  # fmt: skip


@pytest.mark.benchmark(group="established, DNAT rule, on a Host", timer=time.thread_time)
@pytest.mark.parametrize("connections", [1_000, 65_536])
def test_established_dnat_on_a_host(benchmark, connections):
    host = established_on_host(connections)
    process = test_host.receiver(host)
    measure(benchmark, process, packets_of(connections, PACKETS), connections)
    assert host.engine.counters["forwarded"] == host.engine.counters["frames"]
