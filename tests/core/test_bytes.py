"""bytes.pxd and machine.pxd: loads, and what the compiler gives."""

from hypothesis import given
from hypothesis import strategies as st

from lvscore import _probe

u64 = st.integers(0, 2**64 - 1)


@given(st.binary(min_size=2, max_size=2))
def test_load_be16(data):
    assert _probe.load_be(data) == int.from_bytes(data, "big")


@given(st.binary(min_size=4, max_size=4))
def test_load_be32(data):
    assert _probe.load_be(data) == int.from_bytes(data, "big")


@given(u64, u64)
def test_multiply_fold_is_the_128_bit_product_folded(a, b):
    product = a * b
    assert _probe.multiply(a, b) == (product ^ product >> 64) & (2**64 - 1)


@given(st.lists(st.integers(0, 3), min_size=8, max_size=8), st.integers(0, 3))
def test_match_tags_looks_at_seven(tags, tag):
    expected = sum(1 << i for i, given_tag in enumerate(tags[:7]) if given_tag == tag)
    assert _probe.match(tags, tag) == expected


@given(st.lists(st.integers(0, 0xFFFF), min_size=8, max_size=8), st.integers(0, 0xFFFF))
def test_match_tags_compares_all_bits(tags, tag):
    assert _probe.match(tags, tag) == sum(1 << i for i in range(7) if tags[i] == tag)


@given(st.integers(0, 31), st.integers(0, 63), st.integers(0, 2**32 - 1), u64)
def test_lowest_bits(a, b, noise32, noise64):
    x = (noise32 << a | 1 << a) & 0xFFFFFFFF
    y = (noise64 << b | 1 << b) & (2**64 - 1)
    assert _probe.lowest_bits(x, y) == (a, b)
