"""Others at the work of test_pipeline.py, measured from outside in the same minutes."""

import statistics
import time

import pytest
from peers import open_vswitch
from test_pipeline import aligned, batches, established, packets_of

PACKETS = 200_000


def engine_nanoseconds(connections):
    """What an engine needs for one of the same packets."""
    engine = established(connections)
    array = aligned(packets_of(connections, PACKETS))
    original = array.copy()
    work = batches(array)
    times = []
    for _ in range(7):
        array[:] = original
        start = time.thread_time()
        for batch in work:
            engine.process_batch(batch)
        times.append(time.thread_time() - start)
    return statistics.median(times) * 1e9 / PACKETS


@pytest.mark.skipif(open_vswitch.missing() is not None, reason=str(open_vswitch.missing()))
@pytest.mark.benchmark(group="Open vSwitch")
@pytest.mark.parametrize("connections", [1_000, 65_536, 1_000_000])
def test_open_vswitch(benchmark, connections):
    """Conntrack with NAT; beside it the same switch without conntrack, and an engine. Where there
    are a million connections, 180,000 of them have the packets."""
    figures = []
    with open_vswitch.OpenVSwitch(connections) as switch:
        before = switch.sent_and_received()
        benchmark.pedantic(lambda: figures.append(switch.nanoseconds()), rounds=5)
        after = switch.sent_and_received()
        assert after[0] - before[0] == pytest.approx(after[1] - before[1], rel=0.01)
        switch.without_conntrack()
        plain = statistics.median(switch.nanoseconds() for _ in range(5))
    own = engine_nanoseconds(connections)
    whole = statistics.median(figures)
    benchmark.extra_info.update(
        connections=connections,
        ovs_ns=round(whole, 1),
        ovs_without_conntrack_ns=round(plain, 1),
        ovs_conntrack_ns=round(whole - plain, 1),
        engine_ns=round(own, 1),
        ratio=round((whole - plain) / own, 1),
        ratio_of_whole=round(whole / own, 1),
    )
