"""How long a batch may take: connections come and go, tables grow, memory is touched first."""

import gc
import resource
import time

import numpy as np
import pytest
from test_pipeline import aligned, batches, director, establish, established, packets_of
from traffic import frames

import lvscore
from lvscore.takeover import StateFile

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


class Passage:
    """100 million packets through an engine: how long each batch took, the faults of its pages, and
    how long a walk of the same thread through as much memory that was there already."""

    def __init__(self, prefault):
        self.engine = director(4 * LIVE)
        if prefault:
            self.engine.prefault(4 * LIVE)
        establish(self.engine, ESTABLISHED)
        self.taken = np.zeros(BATCHES, np.int64)
        self.walked = np.zeros(BATCHES, np.int64)
        self.faults = np.zeros(BATCHES, np.int64)

    def run(self):
        random = np.random.default_rng(1)
        offsets = np.arange(BATCH, dtype=np.uint64) * 64
        lengths = np.full(BATCH, 64, np.uint32)
        array = aligned(np.zeros((CHUNK * BATCH, 64), np.uint8))
        memory = np.ones(MEMORY // 8, np.int64)
        walks = random.integers(0, len(memory), (CHUNK, WALK))
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
            self.engine.process_batch(batch)
            self.taken[number] = time.thread_time_ns() - start
            self.faults[number] = faulted() - before
            start = time.thread_time_ns()
            memory[walk] += 1
            self.walked[number] = time.thread_time_ns() - start


def faulted():
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt


@pytest.mark.benchmark(group="pauses", timer=time.thread_time)
@pytest.mark.parametrize("prefault", [False, True], ids=["memory as it is needed", "prefault"])
def test_pauses(benchmark, prefault):
    """Times of 256-packet batches; the frames are made in between and not counted. The machine adds
    pauses of its own, as the walks tell. So the same packets go through two engines one behind the
    other: what a batch took in both is the engine's."""
    passages = []

    def setup():
        passages.append(Passage(prefault))
        gc.collect()

    gc.disable()
    benchmark.pedantic(lambda: passages[-1].run(), setup=setup, rounds=2)
    gc.enable()
    both = np.array([passage.taken for passage in passages]) / 1000
    walked = np.array([passage.walked for passage in passages]) / 1000
    faults = np.array([passage.faults for passage in passages])
    engine = passages[-1].engine
    median = np.median(both)
    p99 = np.percentile(both, 99)
    benchmark.extra_info.update(
        packets=BATCHES * BATCH,
        connections=len(engine.connections),
        opened=engine.counters["opened"],
        expired=engine.counters["expired"],
        median_us=round(float(median), 1),
        p99_us=round(float(p99), 1),
        p99_to_median=round(float(p99 / median), 2),
        longest_in_both_us=round(float(both.min(axis=0).max()), 1),
        longest_us=both.max(axis=1).round(1).tolist(),
        above_1_ms=(both > 1000).sum(axis=1).tolist(),
        page_faults=faults.sum(axis=1).tolist(),
        longest_of_the_machine_us=walked.max(axis=1).round(1).tolist(),
        above_1_ms_of_the_machine=(walked > 1000).sum(axis=1).tolist(),
    )


@pytest.mark.benchmark(group="pauses", timer=time.thread_time)
def test_pauses_behind_a_snapshot(benchmark, tmp_path):
    """256-packet batches while a copy of the process saves a million connections, as `lvscore run
    --state` does: each first write to a page copies it."""
    engine = established(LIVE)
    file = StateFile(str(tmp_path / "state"))
    array = aligned(packets_of(LIVE, 100 * BATCH))
    original = array.copy()
    work = batches(array, most=BATCH)
    begun, taken, faults = [], [], []

    def setup():
        file.save(engine)
        array[:] = original
        start = time.perf_counter()
        file.save_beside(engine)
        begun.append((time.perf_counter() - start) * 1e3)
        array[:] = original  # the frames' own pages

    def run():
        for batch in work:
            before = faulted()
            start = time.thread_time_ns()
            engine.process_batch(batch)
            taken.append(time.thread_time_ns() - start)
            faults.append(faulted() - before)

    benchmark.pedantic(run, setup=setup, rounds=7)
    file.save(engine)
    microseconds = np.array(taken).reshape(7, -1) / 1000
    benchmark.extra_info.update(
        connections=LIVE,
        page_faults_of_a_batch=max(faults),
        longest_in_all_us=round(float(microseconds.min(axis=0).max()), 1),
        longest_us=microseconds.max(axis=1).round(1).tolist(),
        above_1_ms=int((microseconds > 1000).sum()),
        begun_in_ms=np.round(begun, 1).tolist(),
    )
