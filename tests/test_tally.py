"""What became of frames, counted without a step per frame."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lvscore._frames import FrameBatch
from lvscore._tally import Tally, sent
from lvscore.constants import Verdict

OUTCOMES = st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 90)))


@given(st.lists(OUTCOMES, max_size=3))
def test_counts_are_those_of_numpy(batches):
    tally = Tally()
    expected = np.zeros((256, 256), np.uint64)
    for rows in batches:
        batch = FrameBatch.of([bytes(size) for _, _, size in rows])
        tally.measure(batch)
        batch.verdict[:] = [verdict for verdict, _, _ in rows]
        batch.reason[:] = [reason for _, reason, _ in rows]
        np.add.at(expected, (batch.verdict, batch.reason), 1)
        tally.count(batch)
        chosen = sent(batch)
        assert chosen.dtype == np.bool_
        assert chosen.tolist() == np.isin(batch.verdict, [Verdict.FORWARD, Verdict.PASS]).tolist()
    assert (tally.outcomes == expected).all()
    assert tally.frames == sum(len(rows) for rows in batches)
    assert tally.bytes == sum(size for rows in batches for _, _, size in rows)
