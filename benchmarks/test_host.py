"""LVS-NAT on a Host: the same traffic as test_pipeline.py, with route, TTL, header check and MAC.

A batch comes in on one interface, as from a ring, through Host.receive_batch. Times are the
thread's CPU time; beside each stands what limit.c needs for the engine's part alone.
"""

import itertools
import time

import pytest
from test_pipeline import (
    CONNECTIONS,
    HANDSHAKES,
    PACKETS,
    add_service,
    establish,
    measure,
    measure_beside_limit,
    packets6_of,
    real_server,
)
from traffic import SERVERS

import lvscore

MAC = bytes([2] * 6)
# The arm to clients, the one to servers, the clients' network and its gateway.
NETWORKS = {
    4: ("10.0.0.1/24", "192.168.0.254/24", "11.0.0.0/8", "10.0.0.2"),
    6: ("2001:db8::1/64", "2001:db8:1::ffff/64", "2001:db8:f::/64", "2001:db8::2"),
}
FORWARDING = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}


def receiver(host):
    """What gives a batch to the host."""

    def receive(batch):
        for _ in host.receive_batch("eth0", batch, 1):
            pass

    return receive


def established(connections, family=4):
    """A director with an arm to clients and one to servers, and so many connections."""
    front, back, clients, gateway = NETWORKS[family]
    host = lvscore.Host(lvscore.Engine(seed=1, max_connections=max(connections, 1024)))
    host.add_interface("eth0", addresses=[front], mac=MAC)
    host.add_interface("eth1", addresses=[back], mac=MAC[:5] + b"\3")
    host.add_route(clients, via=gateway)
    host.add_neighbour(gateway, "02:00:00:00:00:10", "eth0")
    host.sysctl[FORWARDING[family]] = 1
    for name in "all", "eth0":
        host.sysctl[f"net.ipv4.conf.{name}.send_redirects"] = 0
    add_service(host.engine, family)
    for i in range(SERVERS):
        host.add_neighbour(real_server(family, i), f"02:00:00:00:01:{i:02x}", "eth1")
    establish(host.engine, connections, make=HANDSHAKES[family], process=receiver(host))
    return host


@pytest.mark.benchmark(group="host", timer=time.thread_time)
@pytest.mark.parametrize("connections", CONNECTIONS)
def test_host(benchmark, connections):
    host = established(connections)
    measure_beside_limit(benchmark, receiver(host), connections)
    assert host.engine.counters["forwarded"] == host.engine.counters["frames"]


@pytest.mark.benchmark(group="host, IPv6", timer=time.thread_time)
@pytest.mark.parametrize("connections", CONNECTIONS[:3])
def test_host6(benchmark, connections):
    host = established(connections, 6)
    rounds = itertools.repeat(packets6_of(connections, PACKETS))
    measure(benchmark, receiver(host), rounds, connections)
    assert host.engine.counters["forwarded"] == host.engine.counters["frames"]
