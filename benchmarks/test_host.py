"""LVS-NAT on a Host: the same traffic as test_pipeline.py, with route, TTL, header check and MAC.

A batch comes in on one interface, as from a ring, through Host.receive_batch. Times are the
thread's CPU time; beside each stands what limit.c needs for the engine's part alone.
"""

import itertools
import time

import pytest
from test_pipeline import (
    CONNECTIONS,
    PACKETS,
    establish,
    measure,
    measure_beside_limit,
    packets6_of,
)
from traffic import SERVERS, handshake6

import lvscore

MAC = bytes([2] * 6)


def receiver(host):
    """What gives a batch to the host."""

    def receive(batch):
        for _ in host.receive_batch("eth0", batch, 1):
            pass

    return receive


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
    establish(host.engine, connections, process=receiver(host))
    return host


def established6(connections):
    """The same over IPv6."""
    host = lvscore.Host(lvscore.Engine(seed=1, max_connections=max(connections, 1024)))
    host.add_interface("eth0", addresses=["2001:db8::1/64"], mac=MAC)
    host.add_interface("eth1", addresses=["2001:db8:1::ffff/64"], mac=MAC[:5] + b"\3")
    host.add_route("2001:db8:f::/64", via="2001:db8::2")
    host.add_neighbour("2001:db8::2", "02:00:00:00:00:10", "eth0")
    host.sysctl["net.ipv6.conf.all.forwarding"] = 1
    for name in "all", "eth0":
        host.sysctl[f"net.ipv4.conf.{name}.send_redirects"] = 0
    service = host.engine.add_service("tcp", "[2001:db8::1]:80", scheduler="rr")
    for i in reversed(range(SERVERS)):
        service.add_server(f"[2001:db8:1::{i + 1:x}]:8080")
        host.add_neighbour(f"2001:db8:1::{i + 1:x}", f"02:00:00:00:01:{i:02x}", "eth1")
    establish(host.engine, connections, make=handshake6, process=receiver(host))
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
    host = established6(connections)
    rounds = itertools.repeat(packets6_of(connections, PACKETS))
    measure(benchmark, receiver(host), rounds, connections)
    assert host.engine.counters["forwarded"] == host.engine.counters["frames"]
