"""How long a batch may take: connections come and go, tables grow, memory is touched first."""

import gc
import resource
import time

import numpy as np
import pytest
from test_pipeline import aligned, director, establish
from traffic import frames

import lvscore

BATCH = 256
BATCHES = 390_625  # 100 million packets
CHUNK = 512  # of more, the kernel moves pages for the frames, and the engine waits for its own
ESTABLISHED = 500_000
OPENING, RECENT = 32, 100  # packets of a batch that open connections, or belong to those
LIVE = 1_000_000  # connections that open in 60 s, the time that IPVS gives a SYN
MEMORY, WALK = 256 << 20, 1024  # bytes that the machine is measured by, and steps of a walk in them
STEP = 60 * 10**9 * OPENING // LIVE  # ns from batch to batch


def chunk(first, random):
    """The frames of CHUNK batches: in each the same numbers of each kind, in any order."""
    opened = first * OPENING + np.arange(CHUNK * OPENING).reshape(CHUNK, OPENING)
    back = random.integers(1, 9 * LIVE // 10, (CHUNK, RECENT))
    recent = np.maximum(opened[:, :1] - back, 0)
    lasting = random.integers(0, ESTABLISHED, (CHUNK, BATCH - OPENING - RECENT))
    flows = np.concatenate([ESTABLISHED + opened, ESTABLISHED + recent, lasting], axis=1)
    flags = np.where(np.arange(BATCH) < OPENING + RECENT, 0x02, 0x10)
    order = random.permuted(np.tile(np.arange(BATCH), (CHUNK, 1)), axis=1)
    flags = np.take_along_axis(np.broadcast_to(flags, order.shape), order, 1)
    return frames(np.take_along_axis(flows, order, 1).reshape(-1), flags=flags.reshape(-1))


@pytest.mark.benchmark(group="pauses", timer=time.thread_time)
@pytest.mark.parametrize("prefault", [False, True], ids=["memory as it is needed", "prefault"])
def test_pauses(benchmark, prefault):
    """Times of 256-packet batches; the frames are made in between and not counted. What the machine
    itself adds is told by as long a walk, of the same thread, over as much memory that is there
    already; what the engine adds, by page faults."""
    engine = director(4 * LIVE)
    if prefault:
        engine.prefault(4 * LIVE)
    establish(engine, ESTABLISHED)
    random = np.random.default_rng(1)
    offsets = np.arange(BATCH, dtype=np.uint64) * 64
    lengths = np.full(BATCH, 64, np.uint32)
    array = aligned(np.zeros((CHUNK * BATCH, 64), np.uint8))
    taken = np.zeros((2, BATCHES), np.int64)
    faults = np.zeros(BATCHES, np.int64)
    memory = np.ones(MEMORY // 8, np.int64)
    walks = random.integers(0, len(memory), (CHUNK, WALK))

    def faulted():
        return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt

    def run():
        for number in range(BATCHES):
            place = number % CHUNK * BATCH
            if place == 0:
                array[:] = chunk(number, random)
            now = np.full(BATCH, (number + 1) * STEP, np.int64)
            batch = lvscore.FrameBatch(
                array[place : place + BATCH].reshape(-1), offsets, lengths, now
            )
            walk = walks[number % CHUNK]
            before = faulted()
            start = time.thread_time_ns()
            engine.process_batch(batch)
            taken[0, number] = time.thread_time_ns() - start
            faults[number] = faulted() - before
            start = time.thread_time_ns()
            memory[walk] += 1
            taken[1, number] = time.thread_time_ns() - start

    gc.collect()
    gc.disable()
    benchmark.pedantic(run, rounds=1)
    gc.enable()
    microseconds, machine = taken / 1000
    median, most = np.median(microseconds), microseconds.max()
    benchmark.extra_info.update(
        packets=BATCHES * BATCH,
        connections=len(engine.connections),
        opened=engine.counters["opened"],
        expired=engine.counters["expired"],
        median_us=round(float(median), 1),
        p99_us=round(float(np.percentile(microseconds, 99)), 1),
        p99_to_median=round(float(np.percentile(microseconds, 99) / median), 2),
        longest_us=round(float(most), 1),
        above_1_ms=int((microseconds > 1000).sum()),
        above_1_ms_with_page_faults=int(((microseconds > 1000) & (faults > 0)).sum()),
        page_faults=int(faults.sum()),
        median_of_the_machine_us=round(float(np.median(machine)), 1),
        longest_of_the_machine_us=round(float(machine.max()), 1),
        above_1_ms_of_the_machine=int((machine > 1000).sum()),
    )
