"""An engine with much of something: connections, threads, servers, services, attackers.

Times are the thread's CPU time, but of two threads side by side.
"""

import threading
import time

import numpy as np
import pytest
from test_pipeline import aligned, batches, established
from traffic import frames

import lvscore

PACKETS = 500_000


def traffic(connections, seed=1):
    """Packets of established connections, both directions, and what restores them."""
    random = np.random.default_rng(seed)
    flows = random.integers(0, connections, PACKETS)
    array = aligned(frames(flows, reply=random.integers(0, 2, PACKETS).astype(bool)))
    original = array.copy()

    def restore():
        array[:] = original

    return batches(array), restore


def run(engine, work):
    for batch in work:
        engine.process_batch(batch)


@pytest.mark.benchmark(group="memory", timer=time.thread_time)
def test_memory(benchmark):
    """Bytes per IPv4 connection, both directions, timers and counters included."""
    engine = benchmark.pedantic(established, args=(1_000_000,), rounds=1)
    used = sum(engine.memory_usage().values())
    benchmark.extra_info.update(
        connections=1_000_000, bytes_per_connection=round(used / 1_000_000, 1)
    )


@pytest.mark.benchmark(group="two threads")
@pytest.mark.parametrize("threads", [1, 2])
def test_threads(benchmark, threads):
    """An engine for each thread; wall time."""
    engines = [established(65_536) for _ in range(threads)]
    work = [traffic(65_536, seed) for seed in range(threads)]

    def restore():
        for _, one in work:
            one()

    def both():
        running = [
            threading.Thread(target=run, args=(engine, frames_of))
            for engine, (frames_of, _) in zip(engines, work, strict=True)
        ]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()

    benchmark.pedantic(both, setup=restore, rounds=7, warmup_rounds=1)
    rate = threads * PACKETS / benchmark.stats.stats.median
    benchmark.extra_info.update(threads=threads, mpps=round(rate / 1e6, 2))


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
