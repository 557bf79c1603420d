"""estimator.pxd: averages over two seconds, against whole numbers without bounds."""

from hypothesis import given
from hypothesis import strategies as st

from lvscore._probe_server import Estimator

# Connections and packets are averaged by 2^10, bytes by 2^5 (ip_vs_est.c).
SCALES = [10, 10, 10, 5, 5]
GAINS = st.lists(st.lists(st.integers(0, 2**32), min_size=5, max_size=5), max_size=12)


def shown(average, scale):
    return (average + (1 << scale - 1) - 1) >> scale


@given(GAINS, st.lists(st.integers(1, 300), min_size=12, max_size=12), st.booleans())
def test_averages_and_counts(gains, times, wraps):
    """Each step, a quarter of the way from the average to half of what came."""
    counters = [2**64 - 2**31 if wraps else 0] * 5
    estimator = Estimator()
    estimator.update(counters)
    estimator.zero()
    averages, totals = [0] * 5, [0] * 5
    for gain, n in zip(gains, times, strict=False):
        counters = [(c + g) % 2**64 for c, g in zip(counters, gain, strict=True)]
        estimator.update(counters, n)
        for k, scale in enumerate(SCALES):
            totals[k] += gain[k]
            averages[k] += ((gain[k] << scale - 1) - averages[k]) >> 2
            for _ in range(n - 1):
                averages[k] += -averages[k] >> 2
        assert estimator.counts == totals
        assert estimator.rates == [shown(a, s) for a, s in zip(averages, SCALES, strict=True)]


@given(GAINS, st.integers(1, 40))
def test_several_estimations_at_once_are_as_many_one_by_one(gains, n):
    together, apart = Estimator(), Estimator()
    for gain in gains:
        together.update(gain, n)
        for _ in range(n):
            apart.update(gain)
        assert together.rates == apart.rates


def test_an_idle_age_ends_at_nothing():
    """However many estimations were due, and however much had come."""
    estimator = Estimator()
    estimator.update([2**40] * 5)
    estimator.update([2**40] * 5, 2**63)
    assert estimator.rates == [0] * 5


@given(GAINS)
def test_set_to_0_between_estimations(gains):
    """Counters that begin anew lose nothing that is not yet noted, and show it once."""
    one, other = Estimator(), Estimator()
    plain, rebased = [0] * 5, [0] * 5
    for gain in gains:
        plain = [a + b for a, b in zip(plain, gain, strict=True)]
        rebased = [a + b for a, b in zip(rebased, gain, strict=True)]
        other.rebase(rebased)
        rebased = [0] * 5
        one.update(plain)
        other.update(rebased)
        assert (one.rates, one.counts) == (other.rates, other.counts)
