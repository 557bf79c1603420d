"""index.pxd against a dict, through growth, deletion, duplicates and flooding."""

import random
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvscore import _probe

MASK = 2**64 - 1


def test_a_bucket_is_one_cache_line():
    assert _probe.sizes()["Bucket"] == 64


@pytest.mark.parametrize("entries", [5000, 50_000])
def test_growth_and_churn_against_a_dict(entries):
    random_ = random.Random(entries)
    index = _probe.Index(4 * entries)
    model: dict[int, int] = {}
    for reference in range(entries):
        hash_ = random_.getrandbits(64)
        assert index.insert(hash_, reference)
        model[reference] = hash_
        if reference % 3 == 0:
            gone = random_.choice(list(model)) if reference < 300 else reference - 7
            if gone in model:
                assert index.remove(model.pop(gone), gone)
    assert index.buckets > 256
    assert len(index) == len(model)
    assert index.check() == 0
    assert all(reference in index.candidates(hash_) for reference, hash_ in model.items())
    candidates = sum(len(index.candidates(hash_)) for hash_ in model.values())
    # Tags of 15 bits: strangers are rare.
    assert candidates < 1.01 * len(model)
    for reference, hash_ in model.items():
        assert index.remove(hash_, reference)
        assert not index.remove(hash_, reference)
    assert len(index) == 0
    assert index.check() == 0


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["insert", "insert", "insert", "remove", "replace", "find"]),
            st.integers(0, 40),
            st.integers(0, 2),
        ),
        max_size=400,
    ),
    st.integers(0, MASK),
)
def test_operations_on_few_crowded_buckets(operations, salt):
    """Hashes that share their home: overflow, duplicates and equal tags all the time."""
    index = _probe.Index(10_000)
    model: dict[int, list[int]] = defaultdict(list)
    reference = 0
    for operation, key, tag in operations:
        hash_ = (tag << 48 | (salt + key // 30) & 0xFFFFFF) & MASK
        if operation == "insert":
            reference += 1
            assert index.insert(hash_, reference)
            model[hash_].append(reference)
        elif operation == "remove" and model[hash_]:
            assert index.remove(hash_, model[hash_].pop(0))
        elif operation == "replace" and model[hash_]:
            reference += 1
            assert index.replace(hash_, model[hash_].pop(), reference)
            model[hash_].append(reference)
        assert set(model[hash_]) <= set(index.candidates(hash_))
    assert index.check() == 0
    assert len(index) == sum(map(len, model.values()))
    assert not index.remove(salt, 2**31)


def test_flooding_fills_the_reach_of_one_bucket_and_no_more():
    index = _probe.Index(100_000)
    flood = 0xABCD << 48 | 17
    inserted = 0
    while index.insert(flood, inserted):
        inserted += 1
    # 64 buckets of seven slots.
    assert inserted == 64 * 7
    assert index.check() == 0
    assert sorted(index.candidates(flood)) == list(range(inserted))
    assert index.insert(0xABCD << 48 | 200, 1_000_000)
    for reference in range(inserted):
        assert index.remove(flood, reference)
    assert len(index) == 1
    assert index.check() == 0


def test_entries_keep_their_place_through_many_splits():
    """Every doubling from 256 buckets on uses one more of the kept hash bits."""
    random_ = random.Random(5)
    index = _probe.Index(400_000)
    hashes = [random_.getrandbits(64) for _ in range(300_000)]
    sizes = set()
    for reference, hash_ in enumerate(hashes):
        assert index.insert(hash_, reference)
        sizes.add(index.buckets)
        if reference in (2000, 20_000, 100_000):
            assert index.check() == 0
    assert index.check() == 0
    assert index.buckets >= 1 << 16
    assert len(sizes) > 1000  # grew a few buckets at a time
    assert all(ref in index.candidates(hash_) for ref, hash_ in enumerate(hashes))


def test_growth_stops_at_the_bound():
    index = _probe.Index(2000)
    assert index.limit == 512
    random_ = random.Random(1)
    for reference in range(3000):
        assert index.insert(random_.getrandbits(64), reference)
    assert index.buckets == 512
    assert index.check() == 0


def test_the_kept_hash_bits_bound_the_number_of_buckets():
    # Bits 8..23 are kept: with more than 2**24 buckets a split would lose entries.
    assert _probe.Index(2**26).limit == 1 << 24
    assert _probe.Index(2**27).limit == 1 << 24


def test_a_copy_is_equal_and_independent():
    index = _probe.Index(10_000)
    hashes = [random.Random(i).getrandbits(64) for i in range(5000)]
    for reference, hash_ in enumerate(hashes):
        index.insert(hash_, reference)
    copy = index.copy()
    assert copy.check() == 0
    assert copy.remove(hashes[0], 0)
    assert 0 in index.candidates(hashes[0])
    assert 0 not in copy.candidates(hashes[0])
    assert len(copy) == len(index) - 1
