"""An engine with much of something: connections, threads, servers, services, attackers.

Times are the thread's CPU time, but of two threads side by side.
"""

import itertools
import os
import statistics
import threading
import time

import limit
import numpy as np
import pytest
from test_pipeline import (
    aligned,
    batches,
    director,
    establish,
    established,
    established6,
    measure,
    packets_of,
)
from traffic import frames, handshake

import lvscore
from lvscore import _probe

PACKETS = 500_000


def traffic(connections, seed=1):
    """Packets of established connections, both directions, and what restores them."""
    array = aligned(packets_of(connections, PACKETS, seed))
    original = array.copy()

    def restore():
        array[:] = original

    return batches(array), restore


def run(engine, work):
    for batch in work:
        engine.process_batch(batch)


@pytest.mark.benchmark(group="memory", timer=time.thread_time)
@pytest.mark.parametrize("make", [established, established6], ids=["IPv4", "IPv6"])
def test_memory(benchmark, make):
    """Bytes per connection, both directions, timers and counters included."""
    engine = benchmark.pedantic(make, args=(1_000_000,), rounds=1)
    used = sum(engine.memory_usage().values())
    benchmark.extra_info.update(
        connections=1_000_000, bytes_per_connection=round(used / 1_000_000, 1)
    )


@pytest.mark.benchmark(group="two threads")
@pytest.mark.parametrize("connections", [1_000, 65_536])
def test_threads(benchmark, connections):
    """An engine in each of two threads and one alone, in turn; beside them limit.c as two processes
    and as one. Factors are of wall time, and of CPU time: that leaves out what the threads wait for
    each other, and what other programs take."""
    engines = [established(connections) for _ in range(2)]
    work = [traffic(connections, seed) for seed in range(2)]
    alone, both, limits = [], [], []
    cores = sorted(os.sched_getaffinity(0))

    def side_by_side(count):
        """The CPU time of each thread, and the wall time of all."""
        spent = []

        def one(k):
            # A few ms are too short for the scheduler to part two threads that share a core.
            os.sched_setaffinity(threading.get_native_id(), {cores[k % len(cores)]})
            start = time.thread_time()
            run(engines[k], work[k][0])
            spent.append(time.thread_time() - start)

        running = [threading.Thread(target=one, args=(k,)) for k in range(count)]
        start = time.perf_counter()
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        return spent, time.perf_counter() - start

    def restore():
        for _, one in work:
            one()

    def one_alone():
        limits.append(limit.factors(connections))
        restore()
        alone.append(side_by_side(1))
        restore()

    benchmark.pedantic(lambda: both.append(side_by_side(2)), setup=one_alone, rounds=9)
    pairs = list(zip(alone, both, strict=True))
    factors = [2 * one / two for (_, one), (_, two) in pairs]
    of_cpu_time = [sum(one / each for each in two) for ([one], _), (two, _) in pairs]
    benchmark.extra_info.update(
        connections=connections,
        mpps_of_one=round(PACKETS / statistics.median(one for _, one in alone) / 1e6, 2),
        mpps_of_two=round(2 * PACKETS / statistics.median(two for _, two in both) / 1e6, 2),
        factor=round(statistics.median(factors), 2),
        cpu_factor=round(statistics.median(of_cpu_time), 2),
    )
    if limits[0]:
        cpu, wall = (round(statistics.median(each), 2) for each in zip(*limits, strict=True))
        benchmark.extra_info.update(limit_factor=wall, limit_cpu_factor=cpu)


@pytest.mark.benchmark(group="servers", timer=time.thread_time)
@pytest.mark.parametrize("servers", [10, 1000])
@pytest.mark.parametrize("scheduler", ["rr", "wrr", "lc", "wlc", "sed", "nq", "sh", "dh", "mh"])
def test_servers(benchmark, scheduler, servers):
    """A new connection with few and with many servers."""
    array = aligned(frames(np.arange(20_000), flags=0x02))
    original = array.copy()
    work = batches(array)

    def fresh():
        array[:] = original
        engine = lvscore.Engine(seed=1, max_connections=20_000)
        service = engine.add_service("tcp", "10.0.0.1:80", scheduler=scheduler)
        for i in range(servers):
            service.add_server(f"192.168.{i >> 8}.{i & 255}:8080", weight=1 + i % 3)
        return (engine, work), {}

    benchmark.pedantic(run, setup=fresh, rounds=5)
    nanoseconds = benchmark.stats.stats.median * 1e9 / 20_000
    benchmark.extra_info.update(servers=servers, ns_per_connection=round(nanoseconds, 1))


@pytest.mark.benchmark(group="services", timer=time.thread_time)
def test_services(benchmark):
    """Configuring 10,000 services of five servers each."""

    def configure():
        engine = lvscore.Engine(seed=1)
        for i in range(10_000):
            service = engine.add_service("tcp", f"10.{i >> 8}.{i & 255}.1:80", scheduler="rr")
            for j in range(5):
                service.add_server(f"192.168.0.{j + 1}:8080")
        return engine

    benchmark.pedantic(configure, rounds=3)
    benchmark.extra_info.update(services=10_000, servers=50_000)


@pytest.mark.benchmark(group="service look-up", timer=time.thread_time)
@pytest.mark.parametrize(("services", "used"), [(1, 1), (10_000, 1), (10_000, 10_000)])
def test_service_lookup(benchmark, services, used):
    """A new connection where there is one service, and where there are many: if all of them are
    used, what they and their 50,000 servers need is in no cache."""
    random = np.random.default_rng(1)
    place = random.integers(0, used, 20_000)
    array = aligned(frames(np.arange(20_000), flags=0x02, service=place))
    original = array.copy()
    work = batches(array)

    def fresh():
        array[:] = original
        engine = lvscore.Engine(seed=1, max_connections=20_000)
        for i in range(services):
            service = engine.add_service(
                "tcp", f"10.0.{(i + 1) >> 8}.{(i + 1) & 255}:80", scheduler="rr"
            )
            for j in range(5):
                service.add_server(f"192.168.0.{j + 1}:8080")
        return (engine, work), {}

    benchmark.pedantic(run, setup=fresh, rounds=3)
    nanoseconds = benchmark.stats.stats.median * 1e9 / 20_000
    benchmark.extra_info.update(
        services=services, used=used, ns_per_connection=round(nanoseconds, 1)
    )


@pytest.mark.benchmark(group="flood", timer=time.thread_time)
@pytest.mark.parametrize("attacked", [False, True])
def test_flood(benchmark, attacked):
    """Established connections while SYNs from sources that there are not meet a full table, as
    many as there are packets; only the packets of the connections are counted."""
    engine = established(65_536)
    work, restore = traffic(65_536)
    random = np.random.default_rng(7)
    flood = frames(random.integers(1 << 20, 1 << 23, PACKETS), flags=0x02)
    spoofed = batches(aligned(flood)) if attacked else []

    def once():
        spent = 0.0
        for k, batch in enumerate(work):
            start = time.thread_time()
            engine.process_batch(batch)
            spent += time.thread_time() - start
            if attacked:
                engine.process_batch(spoofed[k])
        rates.append(PACKETS / spent)

    rates = []
    benchmark.pedantic(once, setup=restore, rounds=7, warmup_rounds=1)
    benchmark.extra_info.update(attacked=attacked, mpps=round(float(np.median(rates)) / 1e6, 2))


def colliding(count, seed):
    """Clients whose requests share one bucket in sixteen with this seed."""
    chosen = []
    for flow in range(1 << 26):
        client, port = 0x0B000000 + flow // 50_000, 1024 + flow % 50_000
        request = (6, client.to_bytes(4), port, bytes([10, 0, 0, 1]), 80)
        if _probe.hash_tuple(seed, request) & 15 == 0:
            chosen.append(flow)
            if len(chosen) == count:
                return np.array(chosen)
    raise LookupError(count)


@pytest.mark.benchmark(group="hash flooding", timer=time.thread_time)
@pytest.mark.parametrize("keys", ["any", "chosen for another seed"])
def test_hash_flooding(benchmark, keys):
    """Established packets of connections whose keys collide with another seed than the engine's."""
    count = 65_536
    clients = np.arange(count) if keys == "any" else colliding(count, seed=2)
    engine = director(count)
    establish(engine, count, make=lambda flows: handshake(clients[flows]))
    random = np.random.default_rng(1)
    rounds = itertools.repeat(frames(clients[random.integers(0, count, PACKETS)]))
    measure(benchmark, engine.process_batch, rounds, count)
    benchmark.extra_info.update(keys=keys)
