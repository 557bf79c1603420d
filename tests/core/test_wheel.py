"""wheel.pxd against a sorted list: nothing early, nothing late, nothing lost."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvscore._probe_store import Wheel

DAY = 86_400_000
COUNT = 40
# What engine timeouts are: milliseconds to a month.
delays = st.one_of(
    st.integers(0, 600),
    st.integers(0, 70_000),
    st.integers(0, DAY),
    st.integers(0, 31 * DAY),
    st.sampled_from([0, 1, 255, 256, 257, 65535, 65536, 65537, 1 << 24, (1 << 24) - 1]),
)
operations = st.lists(
    st.tuples(
        st.sampled_from(["link", "link", "later", "earlier", "unlink", "advance", "advance"]),
        st.integers(0, COUNT - 1),
        delays,
    ),
    max_size=150,
)


def run(steps, start):
    wheel = Wheel(COUNT, start)
    due: dict[int, int] = {}
    for operation, i, delay in steps:
        now = wheel.tick
        if operation == "link" and i not in due:
            due[i] = now + delay
            wheel.link(i, due[i])
        elif operation == "later" and i in due:
            due[i] += delay
            if due[i] - now < 0xF0000000:
                wheel.postpone(i, due[i])
            else:
                due[i] -= delay
        elif operation == "earlier" and i in due:
            wheel.unlink(i)
            due[i] = min(due[i], now + delay)
            wheel.link(i, due[i])
        elif operation == "unlink" and i in due:
            wheel.unlink(i)
            del due[i]
        elif operation == "advance":
            until = now + delay
            event = wheel.next_event()
            assert (event is None) == (not due)
            if due:
                assert event <= min(due.values())
            last = now
            while (popped := wheel.pop(until)) is not None:
                assert wheel.tick == due[popped]  # exact to the tick, and in order
                assert last <= wheel.tick <= until
                last = wheel.tick
                del due[popped]
            assert wheel.tick == until
            assert all(deadline > until for deadline in due.values())
        fault, linked = wheel.check()
        assert fault == 0
        assert linked == len(due)
    return due


@settings(deadline=None, max_examples=300)
@given(operations, st.sampled_from([0, 1, 255, 65535, (1 << 24) - 1, 2**32 - 300, 2**32 - 70_000]))
def test_against_a_model(steps, start):
    run(steps, start)


@settings(deadline=None, max_examples=50)
@given(operations, st.integers(0, 2**40))
def test_from_any_start(steps, start):
    run(steps, start)


@pytest.mark.parametrize("start", [0, 2**32 - 5000, 2**33 - 1])
def test_long_random_runs(start):
    random_ = random.Random(start)
    steps = [
        (
            random_.choice(["link", "link", "link", "later", "earlier", "unlink", "advance"]),
            random_.randrange(COUNT),
            random_.choice([3, 300, 70_000, DAY, 20 * DAY]) * random_.randrange(2)
            + random_.randrange(300),
        )
        for _ in range(20_000)
    ]
    run(steps, start)


def test_the_wrap_of_32_bits():
    wheel = Wheel(3, 2**32 - 100)
    wheel.link(0, 2**32 + 50)
    wheel.link(1, 2**32 - 1)
    wheel.link(2, 2**32 + 20 * DAY)
    assert wheel.pop(2**32 - 2) is None
    assert wheel.pop(2**32 + 49) == 1
    assert wheel.pop(2**32 + 49) is None
    assert wheel.pop(2**32 + 50) == 0
    assert wheel.pop(2**32 + 20 * DAY - 1) is None
    assert wheel.pop(2**32 + 20 * DAY) == 2


def test_a_jump_of_years_takes_no_time_and_loses_nothing():
    wheel = Wheel(100)
    for i in range(100):
        wheel.link(i, (i * 7919) % 50 * DAY // 2)
    popped = []
    while (i := wheel.pop(5000 * DAY)) is not None:
        popped.append(i)
    assert sorted(popped) == list(range(100))
    assert wheel.tick == 5000 * DAY
    assert wheel.next_event() is None


def test_what_is_past_comes_up_at_once():
    wheel = Wheel(2, 1_000_000)
    wheel.link(0, 999_000)
    assert wheel.next_event() == 1_000_000
    assert wheel.pop(1_000_000) == 0
    assert wheel.tick == 1_000_000


def test_the_timers_of_a_slot_are_linked_anew_little_by_little():
    """All in one slot of a minute, whose turn comes: no millisecond takes more than its share."""
    count, minute = 50_000, 65_536
    wheel = Wheel(count, minute - 10)
    for i in range(count):
        wheel.link(i, 2 * minute + i)
    left = wheel.linked(2, 2 * minute)
    assert left == count
    for tick in range(minute - 9, 2 * minute):
        assert wheel.pop(tick) is None
        now = wheel.linked(2, 2 * minute)
        assert left - now <= 2
        left = now
    assert left == 0
    assert wheel.check() == (0, count)
    assert [wheel.pop(2 * minute + count) for _ in range(count)] == list(range(count))
