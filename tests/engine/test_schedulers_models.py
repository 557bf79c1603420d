"""Every scheduler against its model in plain Python, over random histories of a service."""

from ipaddress import ip_address

import pytest
import scheduler_models as models
from hypothesis import given, settings
from hypothesis import strategies as st

from lvscore import SCHEDULERS, _probe_scheduler

SECOND, MINUTE, HOUR = 1000, 60_000, 3_600_000
PORT = 8080

numbers = st.integers(0, 5)
weights = st.one_of(st.integers(0, 6), st.sampled_from([10, 20, 100, 1000, 2**31 - 1]))
thresholds = st.one_of(st.just((0, 0)), st.tuples(st.integers(0, 4), st.integers(0, 4)).map(
    lambda pair: (max(pair), min(pair))))  # fmt: skip
pauses = st.sampled_from([0, 1, SECOND, MINUTE, 7 * MINUTE, 2 * HOUR, 25 * HOUR])
adds = st.tuples(st.just("add"), numbers, weights, thresholds)
picks = st.tuples(
    st.just("pick"), st.integers(1, 9), st.integers(0, 2**32 - 10), st.integers(0, 2**16 - 1),
    st.integers(0, 3),
)  # fmt: skip
kinds = st.sampled_from(sorted(SCHEDULERS.keys() - {"wrr"}))
steps = st.one_of(
    adds,
    st.tuples(st.just("edit"), numbers, weights, thresholds),
    st.tuples(st.just("remove"), numbers),
    st.tuples(st.just("load"), numbers, st.integers(0, 9), st.integers(0, 600)),
    st.tuples(st.just("unbind"), numbers),
    st.tuples(st.just("pass"), pauses),
    picks,
    picks,
    picks,
)


def histories(most):
    """Some servers, then anything."""
    return st.builds(
        list.__add__,
        st.lists(adds, min_size=1, max_size=6),
        st.lists(steps, min_size=most // 3, max_size=most),
    )


class Pair:
    """The compiled scheduler and the model, through the same history."""

    def __init__(self, kind, flags=0, family=4, seed=0):
        self.family = family
        self.compiled = _probe_scheduler.Scheduler(SCHEDULERS[kind], flags, family, seed)
        self.seed = seed
        self.model = models.Service(
            kind, fallback=bool(flags & 8), with_port=bool(flags & 16), chance=self.chance
        )
        self.indices = {}
        self.now = 0

    def chance(self):
        """SplitMix64, the engine's generator."""
        self.seed = (self.seed + 0x9E3779B97F4A7C15) % 2**64
        word = self.seed
        word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        word = (word ^ word >> 27) * 0x94D049BB133111EB % 2**64
        return word ^ word >> 31

    def address(self, number):
        base = "172.16.1.0" if self.family == 4 else "2001:db8:1::"
        return ip_address(base) + number

    def server(self, number):
        address = int(self.address(number))
        return next((s for s in self.model.servers if s.address == address), None)

    def bounded(self, weight):
        """The model of wrr makes a pass for each unit of weight."""
        return min(weight, 1000) if self.model.kind == "wrr" else weight

    def add(self, number, weight, upper, lower):
        if self.server(number):
            return
        weight = self.bounded(weight)
        address = self.address(number)
        server = self.model.add(int(address), PORT, weight, upper, lower, self.now)
        self.indices[server] = self.compiled.add(
            address.packed, weight, upper, lower, self.now, PORT
        )

    def step(self, name, *arguments):
        if name == "add":
            number, weight, limits = arguments
            self.add(number, weight, *limits)
        elif name == "pass":
            self.now += arguments[0]
        elif name == "pick":
            times, client, port, destination = arguments
            for extra in range(times):
                self.pick(client + extra, port, destination)
        elif server := self.server(arguments[0]):
            self.change(name, server, *arguments[1:])
        self.compare()

    def change(self, name, server, *arguments):
        index = self.indices[server]
        if name == "edit":
            weight, limits = self.bounded(arguments[0]), arguments[1]
            self.model.edit(server, weight, *limits)
            self.compiled.edit(index, weight, *limits)
        elif name == "remove":
            self.model.remove(server, self.now)
            self.compiled.remove(index, self.now)
        elif name == "load":
            server.active, server.inactive = arguments
            self.compiled.load(index, *arguments, server.overloaded)
        elif server.inactive:
            server.inactive -= 1
            server.idle_since = self.now
            server.judge()
            self.compiled.unbind(index, True, self.now)

    def pick(self, client, port, destination):
        source = ip_address("2001:db8:a:b:c::" if self.family == 6 else "0.0.0.0") + client
        target = self.address(100 + destination)
        expected = self.model.pick(models.Packet(int(source), port, int(target)), self.now)
        got = self.compiled.pick((6, source.packed, port, target.packed, 80), self.now)
        assert got == (None if expected is None else self.indices[expected])
        if expected:
            expected.inactive += 1
            expected.judge()
            self.compiled.bind(got)

    def compare(self):
        for server in self.model.servers:
            record = self.compiled.server(self.indices[server])
            assert (record["active"], record["inactive"]) == (server.active, server.inactive)
            assert bool(record["flags"] & 2) == server.overloaded
            assert record["last_weight"] == server.last_weight


def run(pair, history):
    for step in history:
        pair.step(*step)


@pytest.mark.parametrize("kind", sorted(SCHEDULERS.keys() - {"sh", "mh"}))
@given(history=histories(50), seed=st.integers(0, 2**64 - 1))
@settings(max_examples=60, deadline=None)
def test_a_history(kind, history, seed):
    run(Pair(kind, seed=seed), history)


@pytest.mark.parametrize("kind", ["sh", "mh"])
@given(
    history=histories(30),
    flags=st.sampled_from([0, 8, 16, 24]),
    family=st.sampled_from([4, 6]),
)
@settings(max_examples=30, deadline=None)
def test_a_history_of_a_hash(kind, history, flags, family):
    run(Pair(kind, flags, family), history)


@pytest.mark.parametrize("kind", ["lblc", "lblcr", "dh"])
@given(history=histories(40))
@settings(max_examples=40, deadline=None)
def test_a_history_on_ipv6(kind, history):
    run(Pair(kind, family=6), history)


@given(
    before=histories(20), after=st.lists(steps, max_size=20),
    first=kinds, second=kinds,
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_another_scheduler_starts_afresh(before, after, first, second):
    pair = Pair(first)
    run(pair, before)
    for entry in pair.model.cache.values():
        for server in entry.servers:
            server.idle_since = pair.now
    pair.model.kind = second
    pair.model.start(pair.now)
    pair.compiled.set(SCHEDULERS[second], 0, pair.now)
    run(pair, after)


@given(
    kind=st.sampled_from(["lblc", "lblcr", "sh", "mh", "wrr"]),
    before=histories(20), after=st.lists(steps, max_size=20),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_a_copy_goes_its_own_way(kind, before, after):
    pair = Pair(kind)
    run(pair, before)
    copy = pair.compiled.copy()
    for client in range(1, 9):
        target = ip_address("172.16.1.200").packed
        copy.pick((6, bytes([10, 0, 0, client]), 1, target, 80), pair.now)
    run(pair, after)


@pytest.mark.parametrize("kind", ["lblc", "lblcr"])
def test_many_destinations(kind):
    """Past 16384 destinations those of six minutes ago go early, some buckets at a time."""
    pair = Pair(kind)
    for number in range(4):
        pair.add(number, 1, 0, 0)
    for first in range(0, 20_000, 5_000):
        for destination in range(first, first + 5_000):
            pair.pick(1, 0, destination)
        pair.now += MINUTE
    for _ in range(40):
        pair.now += MINUTE
        pair.pick(1, 0, 7)
        assert pair.compiled.cache_size() == len(pair.model.cache)
    assert 15_000 < len(pair.model.cache) < 16_385


def test_the_table_of_destinations_is_bounded():
    pair = Pair("lblc")
    pair.add(1, 1, 0, 0)
    target = int(ip_address("10.0.0.0"))
    for number in range(66_000):
        packed = (target + number).to_bytes(4)
        assert pair.compiled.pick((6, bytes(4), 1, packed, 80), 0) is not None
    assert pair.compiled.cache_size() == 65_536
