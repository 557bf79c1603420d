"""LVS-NAT through Engine.process_batch: established connections, new ones, single frames.

64-byte TCP frames, 64 real servers, both directions mixed, connections drawn at random: the
worst case for caches. Times are the thread's CPU time, so that other processes count less;
beside each stands what limit.c needs in the same minute.
"""

import itertools
import time

import limit
import numpy as np
import peers
import pytest
from traffic import SERVERS, frames, frames6, handshake, handshake6

import lvscore

PACKETS = 1_000_000
BATCH = 1024
CONNECTIONS = [1_000, 65_536, 1_000_000, 10_000_000]
HANDSHAKES = {4: handshake, 6: handshake6}


def real_server(family, i):
    """The address of real server ``i``, as traffic.py has it."""
    return f"192.168.0.{i + 1}" if family == 4 else f"2001:db8:1::{i + 1:x}"


def add_service(engine, family=4):
    """The virtual service that traffic.py asks for, with its servers."""
    virtual = {4: "10.0.0.1", 6: "2001:db8::1"}[family]
    service = engine.add_service("tcp", (virtual, 80), scheduler="rr")
    # The server added last comes first: so connection i is scheduled to server i % SERVERS.
    for i in reversed(range(SERVERS)):
        service.add_server((real_server(family, i), 8080))


def director(connections, family=4):
    engine = lvscore.Engine(seed=1, max_connections=max(connections, 1024))
    add_service(engine, family)
    return engine


def aligned(array):
    """A copy that begins at a cache line, as the frames of limit.c and of a ring do."""
    buffer = np.empty(array.size + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    copy = buffer[start : start + array.size].reshape(array.shape)
    copy[:] = array
    return copy


def batches(array, now=1, step=0, most=BATCH):
    """Batches of ``most`` frames from a time on, ``step`` nanoseconds from one to the next."""
    count, size = array.shape
    buffer = array.reshape(-1)
    return [
        lvscore.FrameBatch(
            buffer,
            np.arange(start, end, dtype=np.uint64) * size,
            np.full(end - start, size, np.uint32),
            now + step * np.arange(start, end, dtype=np.int64),
        )
        for start in range(0, count, most)
        for end in [min(start + most, count)]
    ]


def establish(engine, connections, make=handshake, process=None):
    """Let so many handshakes, of frames that ``make`` yields, go through an engine."""
    for array in make(np.arange(connections)):
        for batch in batches(array):
            (process or engine.process_batch)(batch)
    assert len(engine.connections) == connections


def established(connections, family=4):
    """A director with so many established connections."""
    engine = director(connections, family)
    establish(engine, connections, make=HANDSHAKES[family])
    return engine


def established6(connections):
    """The same over IPv6."""
    return established(connections, 6)


def at_random(connections, packets, seed=1):
    """Clients and directions of packets: which connection, and whether it is a reply."""
    random = np.random.default_rng(seed)
    flows = random.integers(0, connections, packets)
    return flows, random.integers(0, 2, packets).astype(bool)


def packets_of(connections, packets, seed=1):
    """Packets of established connections, at random."""
    flows, reply = at_random(connections, packets, seed)
    return frames(flows, reply=reply)


def packets6_of(connections, packets, seed=1):
    """The same over IPv6."""
    flows, reply = at_random(connections, packets, seed)
    return frames6(flows, reply=reply)


def measure(benchmark, process, rounds, connections, step=0):
    """Have the frames of each round processed, batch by batch; the ns that one took. ``step``: ns
    from one frame's time to the next one's."""
    first = next(rounds)
    rounds = itertools.chain([first], rounds)
    array = aligned(first)
    starts = itertools.count(1, step * len(array))
    work = batches(array)

    def restore():
        array[:] = next(rounds)
        if step:
            work[:] = batches(array, next(starts), step)

    def run():
        for batch in work:
            process(batch)

    benchmark.pedantic(run, setup=restore, rounds=7, warmup_rounds=1)
    nanoseconds = benchmark.stats.stats.median * 1e9 / len(array)
    benchmark.extra_info.update(
        connections=connections,
        packets=len(array),
        ns_per_packet=round(nanoseconds, 1),
        mpps=round(1e3 / nanoseconds, 2),
    )
    return nanoseconds


def median(process, frames):
    """The ns that a frame takes, of frames that all have one time: what stands beside."""
    taken = []
    for _ in range(7):
        work = batches(aligned(frames))
        start = time.thread_time()
        for batch in work:
            process(batch)
        taken.append((time.thread_time() - start) * 1e9 / len(frames))
    return float(np.median(taken))


def measure_beside_limit(benchmark, process, connections):
    """Have packets of established connections processed, and limit.c do its part of the work."""
    rounds = itertools.repeat(packets_of(connections, PACKETS))
    # Other programs disturb by the minute: the limit is taken before and behind.
    least = [limit.nanoseconds(connections)]
    nanoseconds = measure(benchmark, process, rounds, connections)
    least.append(limit.nanoseconds(connections))
    benchmark.extra_info.update(
        limit_ns=least,
        ratio_to_limit=least[0] and round(nanoseconds / (sum(least) / len(least)), 2),
    )
    return nanoseconds


@pytest.mark.benchmark(group="established", timer=time.thread_time)
@pytest.mark.parametrize("connections", CONNECTIONS)
def test_established(benchmark, connections):
    engine = established(connections)
    nanoseconds = measure_beside_limit(benchmark, engine.process_batch, connections)
    table = peers.rte_hash(connections)
    assert engine.counters["forwarded"] == engine.counters["frames"]
    benchmark.extra_info.update(
        rte_hash_ns=table, ratio_to_rte_hash=table and round(nanoseconds / table, 2)
    )


@pytest.mark.benchmark(group="established, times of their own", timer=time.thread_time)
@pytest.mark.parametrize("connections", CONNECTIONS[::2])
def test_established_times(benchmark, connections):
    """Each packet has a time of its own, 100 ns behind the one before, as in a capture."""
    engine, other = established(connections), established(connections)
    rounds = itertools.repeat(packets_of(connections, PACKETS))
    nanoseconds = measure(benchmark, engine.process_batch, rounds, connections, step=100)
    same = median(other.process_batch, packets_of(connections, PACKETS))
    assert engine.counters["forwarded"] == engine.counters["frames"]
    benchmark.extra_info.update(
        same_time_ns=round(same, 1), ratio_to_same_time=round(nanoseconds / same, 2)
    )


@pytest.mark.benchmark(group="established, IPv6", timer=time.thread_time)
@pytest.mark.parametrize("connections", CONNECTIONS[:3])
def test_established6(benchmark, connections):
    """The same over IPv6, frames of 84 bytes; beside it IPv4 in the same minute."""
    rounds = itertools.repeat(packets6_of(connections, PACKETS))
    engine, other = established6(connections), established(connections)
    nanoseconds = measure(benchmark, engine.process_batch, rounds, connections)
    assert engine.counters["forwarded"] == engine.counters["frames"]
    of_ipv4 = median(other.process_batch, packets_of(connections, PACKETS))
    benchmark.extra_info.update(
        ipv4_ns=round(of_ipv4, 1), ratio_to_ipv4=round(nanoseconds / of_ipv4, 2)
    )


@pytest.mark.benchmark(group="new connections", timer=time.thread_time)
@pytest.mark.parametrize("connections", CONNECTIONS)
@pytest.mark.parametrize("presized", [False, True], ids=["from empty", "pre-sized"])
def test_new(benchmark, presized, connections):
    """SYNs to a service with wlc over 16 servers; pre-sized: as many connections have been."""
    array = aligned(frames(np.arange(connections), flags=0x02))
    original = array.copy()
    work = batches(array, now=1 + 100 * 10**9)

    def fresh():
        array[:] = original
        engine = lvscore.Engine(seed=1, max_connections=max(connections, 1024))
        service = engine.add_service("tcp", "10.0.0.1:80", scheduler="wlc")
        for i in range(16):
            service.add_server(f"192.168.0.{i + 1}:8080")
        if presized:
            for batch in batches(array):
                engine.process_batch(batch)
            assert engine.expire(99 * 10**9) == connections
            array[:] = original
        return (engine,), {}

    def run(engine):
        for batch in work:
            engine.process_batch(batch)

    benchmark.pedantic(run, setup=fresh, rounds=5)
    nanoseconds = benchmark.stats.stats.median * 1e9 / connections
    benchmark.extra_info.update(
        presized=presized, connections=connections, ns_per_connection=round(nanoseconds, 1),
        millions_per_second=round(1e3 / nanoseconds, 2),
    )  # fmt: skip


@pytest.mark.benchmark(group="expiry", timer=time.thread_time)
@pytest.mark.parametrize("connections", [65_536, 1_000_000])
def test_expiry(benchmark, connections):
    """Connections of which only a SYN came, all due in the same millisecond."""
    work = frames(np.arange(connections), flags=0x02)

    def full():
        engine = director(connections)
        for batch in batches(work.copy()):
            engine.process_batch(batch)
        return (engine,), {}

    benchmark.pedantic(lambda engine: engine.expire(99 * 10**9), setup=full, rounds=5)
    nanoseconds = benchmark.stats.stats.median * 1e9 / connections
    benchmark.extra_info.update(
        connections=connections, ns_per_connection=round(nanoseconds, 1),
        millions_per_second=round(1e3 / nanoseconds, 2),
    )  # fmt: skip


@pytest.mark.benchmark(group="one frame a call", timer=time.thread_time)
@pytest.mark.parametrize("connections", [1_000, 1_000_000])
def test_process(benchmark, connections):
    engine = established(connections)
    flows = np.random.default_rng(1).integers(0, connections, 20_000)
    original = [bytes(frame) for frame in frames(flows)]
    work = [bytearray(frame) for frame in original]

    def restore():
        for frame, first in zip(work, original, strict=True):
            frame[:] = first

    def run():
        process = engine.process
        for frame in work:
            process(frame, 1)

    benchmark.pedantic(run, setup=restore, rounds=9, warmup_rounds=1)
    nanoseconds = benchmark.stats.stats.median * 1e9 / len(work)
    benchmark.extra_info.update(connections=connections, ns_per_call=round(nanoseconds, 1))
