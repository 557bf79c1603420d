"""Masters and what they expect, against a dictionary."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from lvscore import _probe_ftp

ADDRESSES = [bytes((10, 0, 0, n)) for n in range(3)]
TICKS = 300_000
addresses = st.sampled_from(ADDRESSES)
ports = st.integers(1, 3)


class MastersMachine(RuleBasedStateMachine):
    masters = Bundle("masters")

    def __init__(self):
        super().__init__()
        self.real = _probe_ftp.Masters(64)
        self.live = set()
        self.expected = {}  # by master: tuple, last tick
        self.tick = 0

    @rule(target=masters)
    def take(self):
        m = self.real.take(len(self.live))
        assert m not in self.live
        self.live.add(m)
        return m

    @rule(m=consumes(masters))
    def give(self, m):
        self.real.give(m)
        self.live.discard(m)
        self.expected.pop(m, None)

    @rule(m=masters, source=addresses, destination=addresses, port=ports)
    def expect(self, m, source, destination, port):
        wanted = source, destination, port
        others = [
            other for other, (tuple_, last) in self.expected.items()
            if tuple_ == wanted and self.tick <= last and other != m
        ]  # fmt: skip
        assert self.real.expect(m, self.tick, *wanted) == (not others)
        if not others:
            self.expected[m] = wanted, self.tick + TICKS

    @rule(m=masters)
    def end(self, m):
        self.real.end(m)
        self.expected.pop(m, None)

    @rule(ticks=st.integers(0, TICKS))
    def wait(self, ticks):
        self.tick += ticks

    @rule()
    def copy(self):
        self.real = self.real.copied()

    @rule(source=addresses, destination=addresses, sport=st.integers(0, 65535), port=ports)
    def find(self, source, destination, sport, port):
        wanted = source, destination, port
        alive = [m for m, (tuple_, last) in self.expected.items()
                 if tuple_ == wanted and self.tick <= last]  # fmt: skip
        assert self.real.find(self.tick, source, destination, sport, port) == (
            alive[0] if alive else None
        )

    @invariant()
    def counted(self):
        assert self.real.counts == (len(self.live), len(self.expected))


TestMasters = MastersMachine.TestCase
TestMasters.settings = settings(max_examples=40, stateful_step_count=30)


def test_two_ends_of_lines_are_remembered():
    masters = _probe_ftp.Masters(4)
    m = masters.take(0)
    assert not masters.line_begins(m, 0, 100)
    for number in (100, 200, 100, 0xFFFFFFF0):  # the last is behind, by the circle of numbers
        masters.line_end(m, 0, number)
    assert [n for n in (100, 200, 0xFFFFFFF0) if masters.line_begins(m, 0, n)] == [100, 200]
    assert not masters.line_begins(m, 1, 200)
    masters.line_end(m, 0, 300)
    assert [n for n in (100, 200, 300) if masters.line_begins(m, 0, n)] == [200, 300]
    # Across the wrap, too.
    m = masters.take(1)
    for number in (0xFFFFFFF0, 0xFFFFFFFF, 7):
        masters.line_end(m, 1, number)
    assert [n for n in (0xFFFFFFF0, 0xFFFFFFFF, 7) if masters.line_begins(m, 1, n)] == [
        0xFFFFFFFF, 7,
    ]  # fmt: skip
