"""The core's pieces by themselves, each repeated inside one call of the probe."""

import time

import numpy as np
import pytest
from traffic import frames

from lvscore import _probe

COUNT = 1_000_000


def measure(benchmark, work, **details):
    benchmark.pedantic(work, rounds=7, warmup_rounds=1)
    nanoseconds = benchmark.stats.stats.median * 1e9 / COUNT
    benchmark.extra_info.update(
        details, ns=round(nanoseconds, 2), millions_per_second=round(1e3 / nanoseconds, 1)
    )


@pytest.mark.benchmark(group="checksum", timer=time.thread_time)
@pytest.mark.parametrize("size", [20, 60, 1460])
def test_checksum(benchmark, size):
    data = bytes(range(256)) * 6
    measure(benchmark, lambda: _probe.repeat_checksum(data[:size], COUNT), bytes=size)


@pytest.mark.benchmark(group="checksum", timer=time.thread_time)
@pytest.mark.parametrize("size", [60, 1460])
def test_crc32c(benchmark, size):
    data = bytes(range(256)) * 6
    measure(benchmark, lambda: _probe.repeat_crc32c(data[:size], COUNT), bytes=size)


@pytest.mark.benchmark(group="checksum", timer=time.thread_time)
def test_update(benchmark):
    measure(benchmark, lambda: _probe.repeat_update(COUNT))


@pytest.mark.benchmark(group="parse", timer=time.thread_time)
def test_parse(benchmark):
    frame = frames(np.arange(1))[0].tobytes()
    assert _probe.repeat_parse(frame, COUNT) == COUNT
    measure(benchmark, lambda: _probe.repeat_parse(frame, COUNT))


@pytest.mark.benchmark(group="table", timer=time.thread_time)
@pytest.mark.parametrize("connections", [1_000, 65_536, 1_000_000])
def test_find(benchmark, connections):
    """One look-up after the other, without the vector that hides the waits."""
    table = _probe.Table(4, connections)
    table.fill(connections)
    assert table.repeat_find(COUNT) == COUNT
    measure(benchmark, lambda: table.repeat_find(COUNT), connections=connections)
