"""Others at the work of test_pipeline.py, measured from outside in the same minutes."""

import statistics
import time

import numpy as np
import pytest
from peers import click, open_vswitch
from test_pipeline import aligned, at_random, batches, director, establish, established, packets_of
from traffic import frames, handshake

PACKETS = 200_000


class Run:
    """An engine and packets of its connections, which it is given again and again."""

    def __init__(self, engine, packets):
        self.engine = engine
        self.packets = packets
        self.array = aligned(packets)
        self.work = batches(self.array)

    def nanoseconds(self):
        """CPU time per packet; what has become of them is in ``array``."""
        self.array[:] = self.packets
        start = time.thread_time()
        for batch in self.work:
            self.engine.process_batch(batch)
        return (time.thread_time() - start) * 1e9 / len(self.packets)


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
    run = Run(established(connections), packets_of(connections, PACKETS))
    own = statistics.median(run.nanoseconds() for _ in range(7))
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


@pytest.mark.skipif(click.missing() is not None, reason=str(click.missing()))
@pytest.mark.benchmark(group="Click")
@pytest.mark.parametrize("connections", [1_000, 65_536, 1_000_000])
@pytest.mark.parametrize("clients", ["counted up", "at random"])
def test_click(benchmark, clients, connections):
    """IPRewriter, the same router with a copy in its place, and an engine, in turn: of the same
    frames both make the same. Ratios are of the same round, medians of all. Clients counted up, as
    in test_pipeline.py, share more chains of Click's hash table than clients at random."""
    numbers = np.arange(connections)
    if clients == "at random":
        numbers = click.random_clients(connections)
    engine = director(connections)
    establish(engine, connections, make=lambda flows: handshake(numbers[flows]))
    flows, reply = at_random(connections, 1_000_000)
    run = Run(engine, frames(numbers[flows], reply=reply))
    rounds = []

    def measure():
        rounds.append([*map(router.nanoseconds, click.WAYS), run.nanoseconds()])

    with click.Click(handshake(numbers), run.packets) as router:
        run.nanoseconds()
        assert np.array_equal(router.translated(), run.array)
        benchmark.pedantic(measure, rounds=7)
        assert router.connections == connections
    whole, copying, plain, own = np.array(rounds).T
    benchmark.extra_info.update(
        clients=clients,
        connections=connections,
        click_ns=round(np.median(whole), 1),
        click_without_rewriter_ns=round(np.median(copying), 1),
        click_without_copy_ns=round(np.median(plain), 1),
        rewriter_ns=round(np.median(whole - copying), 1),
        engine_ns=round(np.median(own), 1),
        ratio=round(np.median((whole - copying) / own), 1),
        ratio_of_whole=round(np.median(whole / own), 1),
    )
