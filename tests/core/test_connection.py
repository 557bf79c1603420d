"""connection.pxd against a model that knows all connections and their ages."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvscore import _probe


def test_record_sizes():
    sizes = _probe.sizes()
    assert (sizes["Connection4"], sizes["Connection6"], sizes["Extension"]) == (64, 128, 48)


def address(family, n):
    return bytes([10, 0, 0, n]) if family == 4 else bytes(15) + bytes([n])


class Model:
    """Newest first; answers (replies) before requests, as the kernel's hooks run."""

    def __init__(self):
        self.live = []  # (record, original, reply), oldest first

    def find(self, t):
        for direction in (1, 0):
            for record, *tuples in reversed(self.live):
                if tuples[direction] == t:
                    return record, direction
        return None


def small_tuple(draw_int, family):
    """Few values, so that tuples clash all the time."""
    return (17, address(family, draw_int(1, 2)), draw_int(1, 2), address(family, draw_int(1, 2)),
            draw_int(1, 2))  # fmt: skip


@settings(deadline=None, max_examples=80)
@given(st.data(), st.sampled_from([4, 6]))
def test_clashing_tuples_against_a_model(data, family):
    table = _probe.Table(family, 64)
    model = Model()
    seen = set()
    for _ in range(data.draw(st.integers(1, 60))):

        def draw_int(low, high):
            return data.draw(st.integers(low, high))

        if model.live and draw_int(0, 2) == 0:
            record = model.live.pop(draw_int(0, len(model.live) - 1))[0]
            table.close(record)
        else:
            original = small_tuple(draw_int, family)
            reply = small_tuple(draw_int, family)
            seen |= {original, reply}
            record = table.open(original, reply)
            if record is None:
                assert len(model.live) == 64
                continue
            model.live.append((record, original, reply))
        assert table.check() == 0
        assert len(table) == len(model.live)
        for t in seen:
            assert table.find(t) == model.find(t)
    for record, *tuples in model.live:
        assert list(table.tuples(record)) == tuples


def test_bound_and_free_list():
    table = _probe.Table(4, 100)
    records = []
    for port in range(100):
        t = (6, address(4, 1), port, address(4, 2), 80)
        records.append(table.open(t, _probe.inverse(t)))
    assert sorted(records) == list(range(100))
    extra = (6, address(4, 9), 1, address(4, 2), 80)
    assert table.open(extra, _probe.inverse(extra)) is None
    assert table.check() == 0
    table.close(records[50])
    assert table.open(extra, _probe.inverse(extra)) == records[50]
    assert table.find(extra) == (records[50], 0)
    assert table.check() == 0


@pytest.mark.parametrize("family", [4, 6])
def test_growth_and_churn(family):
    random_ = random.Random(family)
    table = _probe.Table(family, 40_000)
    live = {}
    for step in range(60_000):
        if len(live) == 30_000 or (live and random_.random() < 0.3):
            record, _ = live.popitem()
            table.close(record)
        else:
            t = (6, random_.randbytes(4 if family == 4 else 16), step % 65536,
                 address(family, 1), 80)  # fmt: skip
            record = table.open(t, _probe.inverse(t))
            live[record] = t
    assert table.check() == 0
    assert len(table) == len(live)
    for record, t in live.items():
        assert table.find(t) == (record, 0)
        assert table.find(_probe.inverse(t)) == (record, 1)


def test_ipv4_and_protocol_are_part_of_the_key():
    table = _probe.Table(4, 10)
    tcp = (6, address(4, 1), 1000, address(4, 2), 80)
    table.open(tcp, _probe.inverse(tcp))
    assert table.find((17, *tcp[1:])) is None
    assert table.find(tcp) == (0, 0)
