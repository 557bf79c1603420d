"""LVS-NAT on a Host: the same traffic as test_pipeline.py, with route, TTL, header check and MAC.

A batch comes in on one interface, as from a ring, through Host.receive_batch. Times are the
thread's CPU time; beside each stands what limit.c needs for the engine's part alone.
"""

import time

import limit
import numpy as np
import pytest
from test_pipeline import CONNECTIONS, PACKETS, aligned, batches
from traffic import SERVERS, frames

import lvscore

MAC = bytes([2] * 6)


def receive(host, batch):
    for _ in host.receive_batch("eth0", batch, 1):
        pass


def established(connections):
    """A director with an arm to clients and one to servers, and so many connections."""
    host = lvscore.Host(lvscore.Engine(seed=1, max_connections=max(connections, 1024)))
    host.add_interface("eth0", addresses=["10.0.0.1/24"], mac=MAC)
    host.add_interface("eth1", addresses=["192.168.0.254/24"], mac=MAC[:5] + b"\3")
    host.add_route("11.0.0.0/8", via="10.0.0.2")
    host.add_neighbour("10.0.0.2", "02:00:00:00:00:10", "eth0")
    host.sysctl["net.ipv4.ip_forward"] = 1
    for name in "all", "eth0":
        host.sysctl[f"net.ipv4.conf.{name}.send_redirects"] = 0
    service = host.engine.add_service("tcp", "10.0.0.1:80", scheduler="rr")
    for i in reversed(range(SERVERS)):
        service.add_server(f"192.168.0.{i + 1}:8080")
        host.add_neighbour(f"192.168.0.{i + 1}", f"02:00:00:00:01:{i:02x}", "eth1")
    flows = np.arange(connections)
    for flags, reply in ((0x02, False), (0x12, True), (0x10, False)):
        for batch in batches(frames(flows, flags=flags, reply=reply)):
            receive(host, batch)
    assert len(host.engine.connections) == connections
    return host


@pytest.mark.benchmark(group="host", timer=time.thread_time)
@pytest.mark.parametrize("connections", CONNECTIONS)
def test_host(benchmark, connections):
    host = established(connections)
    random = np.random.default_rng(1)
    flows = random.integers(0, connections, PACKETS)
    array = aligned(frames(flows, reply=random.integers(0, 2, PACKETS).astype(bool)))
    original = array.copy()
    work = batches(array)

    def restore():
        array[:] = original

    def run():
        for batch in work:
            receive(host, batch)

    least = [limit.nanoseconds(connections)]
    benchmark.pedantic(run, setup=restore, rounds=7, warmup_rounds=1)
    least.append(limit.nanoseconds(connections))
    assert host.engine.counters["forwarded"] == host.engine.counters["frames"]
    nanoseconds = benchmark.stats.stats.median * 1e9 / PACKETS
    benchmark.extra_info.update(
        connections=connections,
        packets=PACKETS,
        ns_per_packet=round(nanoseconds, 1),
        mpps=round(1e3 / nanoseconds, 2),
        limit_ns=least,
        ratio_to_limit=least[0] and round(nanoseconds / (sum(least) / len(least)), 2),
    )
