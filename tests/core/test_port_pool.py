"""port_pool.pxd: exact occupancy of pools and clients, events, growth."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvscore._probe_store import Pools

INSIDE, OUTSIDE, REMOTE = b"\n\0\0\1", b"\xc6\x33\x64\1", b"\xcb\0\x71\7"
POOL = (6, OUTSIDE, REMOTE, 80, 1000, 1099)  # a hundred ports

ADDRESSES = st.sampled_from([OUTSIDE, REMOTE, bytes(15) + b"\1", bytes(15) + b"\2"])


@st.composite
def pools(draw):
    address = draw(ADDRESSES)
    remote = draw(ADDRESSES.filter(lambda a: len(a) == len(address)))
    low = draw(st.sampled_from([1, 1024]))
    return (
        draw(st.sampled_from([6, 17])),
        address,
        remote,
        draw(st.sampled_from([53, 80])),
        low,
        65535,
    )


@given(st.lists(st.tuples(st.one_of(ADDRESSES, pools()), st.booleans()), max_size=100),
       st.integers(0, 2**64 - 1))  # fmt: skip
def test_occupancy_is_counted(steps, seed):
    """As a Counter counts; what nobody uses is forgotten, and its room used again."""
    said, model, numbers, most = Pools(100, seed=seed), Counter(), {}, 0
    for wanted, comes in steps:
        if comes:
            numbers[wanted] = said.take(wanted)
            model[wanted] += 1
        elif model[wanted]:
            said.give(numbers[wanted])
            model[wanted] -= 1
        model = +model
        most = max(most, len(model))
        found = said.find(wanted)
        assert (found[0] if found else 0) == model[wanted]
    for wanted, used in model.items():
        found, capacity, _ = said.find(wanted)
        assert (found, capacity) == (used, 0 if isinstance(wanted, bytes) else 65536 - wanted[4])
    assert said.memory == most * (said.memory // most if most else 0)
    if most:
        one = Pools()
        one.take(POOL)
        assert said.memory == most * one.memory


def test_no_ports_no_remote_port():
    """The identifiers of ICMP are of a pool whatever port the packet would have had."""
    said = Pools()
    assert said.take((1, OUTSIDE, REMOTE, 7, 0, 65535)) == said.take(
        (1, OUTSIDE, REMOTE, 0, 0, 65535)
    )


def test_a_copy_is_of_its_own():
    said = Pools(seed=5)
    number = said.take(POOL)
    copy = said.copy()
    said.give(number)
    assert (said.find(POOL), copy.find(POOL)[0]) == (None, 1)
    copy.take(POOL)
    assert copy.find(POOL)[0] == 2


def test_events_at_80_95_and_100_percent():
    said = Pools(200)
    for k in range(100):
        number = said.take(POOL, now=k)
    assert said.events() == [(79, 80, 80), (94, 95, 95), (99, 100, 100)]
    for _ in range(6):  # to 94: 100 % is announced anew, 95 % is not, for it is above 90
        said.give(number)
    for _ in range(6):
        said.take(POOL, now=200)
    assert said.events() == [(200, 100, 100)]
    for _ in range(30):
        said.give(number)
    for _ in range(10):
        said.take(POOL, now=300)
    assert said.events() == [(300, 80, 80)]


def test_clients_announce_nothing():
    said = Pools()
    for _ in range(50):
        said.take(INSIDE)
    assert said.events() == []


def test_quota():
    said = Pools(quota=3)
    for _ in range(3):
        assert not said.quota_is_reached(INSIDE)
        number = said.take(INSIDE)
    assert said.quota_is_reached(INSIDE)
    assert not said.quota_is_reached(OUTSIDE)
    said.give(number)
    assert not said.quota_is_reached(INSIDE)


def test_growth_moves_by_a_quarter_every_two_seconds():
    """Ticks are milliseconds: forty ports in two seconds are twenty a second."""
    said, ticks = Pools(2000), 2000
    pool = (17, OUTSIDE, REMOTE, 53, 1, 65535)
    said.take(pool, tick=0)
    expected, used, marked = 0.0, 1, 0
    for step in range(1, 8):
        expected += ((used - marked) * 1000 / ticks - expected) / 4
        marked = used
        for _ in range(40):
            said.take(pool, tick=step * ticks)
        used += 40
        assert said.find(pool)[2] == pytest.approx(expected)
    said.take(pool, tick=100 * ticks)  # long after: only what came since counts
    assert said.find(pool)[2] == pytest.approx((used - marked) * 1000 / (93 * ticks))
