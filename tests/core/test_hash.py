"""hash.pxd: the generator and lookup3 against what is published, and the hash's spread."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lvscore import _probe

ADDRESS = bytes([10, 0, 0, 1])
SERVER = bytes([172, 16, 1, 100])
u32 = st.integers(0, 2**32 - 1)


def test_splitmix64_reference():
    # Known answers of SplitMix64 for seed 1234567 (the test of the xoshiro project).
    assert _probe.random_numbers(1234567, 5) == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(st.integers(0, 2**128 - 1), st.integers(0, 2**128 - 1))
def test_the_key_decides(one, other):
    t = (6, ADDRESS, 1000, SERVER, 80)
    assert (_probe.hash_tuple(one, t) == _probe.hash_tuple(other, t)) == (one == other)


def test_every_bit_of_a_tuple_counts():
    base = (6, ADDRESS, 1000, SERVER, 80)
    hashes = {_probe.hash_tuple(7, base)}
    for bit in range(32):
        flipped = (int.from_bytes(ADDRESS, "big") ^ 1 << bit).to_bytes(4, "big")
        hashes.add(_probe.hash_tuple(7, (6, flipped, 1000, SERVER, 80)))
        hashes.add(_probe.hash_tuple(7, (6, ADDRESS, 1000, flipped, 80)))
    for bit in range(16):
        hashes.add(_probe.hash_tuple(7, (6, ADDRESS, 1000 ^ 1 << bit, SERVER, 80)))
        hashes.add(_probe.hash_tuple(7, (6, ADDRESS, 1000, SERVER, 80 ^ 1 << bit)))
    for bit in range(8):
        hashes.add(_probe.hash_tuple(7, (6 ^ 1 << bit, ADDRESS, 1000, SERVER, 80)))
    assert len(hashes) == 1 + 64 + 32 + 8


def test_every_bit_of_an_ipv6_tuple_counts():
    here, there = bytes(range(16)), bytes(range(16, 32))
    hashes = {_probe.hash_tuple(7, (6, here, 1000, there, 80))}
    for bit in range(128):
        flip = (1 << bit).to_bytes(16, "big")
        changed = bytes(a ^ b for a, b in zip(here, flip, strict=True))
        hashes.add(_probe.hash_tuple(7, (6, changed, 1000, there, 80)))
        changed = bytes(a ^ b for a, b in zip(there, flip, strict=True))
        hashes.add(_probe.hash_tuple(7, (6, here, 1000, changed, 80)))
    assert len(hashes) == 257


def test_neighbouring_clients_spread_evenly():
    counts = Counter(
        _probe.hash_tuple(99, (6, ADDRESS, port, SERVER, 80)) & 255 for port in range(65536)
    )
    # 256 in each on average; six standard deviations on either side.
    assert min(counts.values()) > 256 - 6 * 16
    assert max(counts.values()) < 256 + 6 * 16


def final_mix(a, b, c):
    """The last step of lookup3 (Bob Jenkins 2006, public domain)."""
    m = 0xFFFFFFFF

    def rot(x, k):
        return (x << k | x >> (32 - k)) & m

    c = ((c ^ b) - rot(b, 14)) & m
    a = ((a ^ c) - rot(c, 11)) & m
    b = ((b ^ a) - rot(a, 25)) & m
    c = ((c ^ b) - rot(b, 16)) & m
    a = ((a ^ c) - rot(c, 4)) & m
    b = ((b ^ a) - rot(a, 14)) & m
    return ((c ^ b) - rot(b, 24)) & m


@given(st.lists(u32, min_size=1, max_size=3), u32)
def test_jhash2_of_up_to_three_words(words, seed):
    start = (0xDEADBEEF + 4 * len(words) + seed) & 0xFFFFFFFF
    a, b, c = ((start + w) & 0xFFFFFFFF for w in words + [0] * (3 - len(words)))
    assert _probe.jhash2(words, seed) == final_mix(a, b, c)


@given(st.lists(u32, min_size=4, max_size=6), u32)
def test_jhash2_of_more_words(words, seed):
    m = 0xFFFFFFFF

    def rot(x, k):
        return (x << k | x >> (32 - k)) & m

    start = (0xDEADBEEF + 4 * len(words) + seed) & m
    a, b, c = ((start + w) & m for w in words[:3])
    a = (a - c & m) ^ rot(c, 4)
    c = c + b & m
    b = (b - a & m) ^ rot(a, 6)
    a = a + c & m
    c = (c - b & m) ^ rot(b, 8)
    b = b + a & m
    a = (a - c & m) ^ rot(c, 16)
    c = c + b & m
    b = (b - a & m) ^ rot(a, 19)
    a = a + c & m
    c = (c - b & m) ^ rot(b, 4)
    b = b + a & m
    rest = words[3:] + [0] * (6 - len(words))
    a, b, c = (x + w & m for x, w in zip((a, b, c), rest, strict=True))
    assert _probe.jhash2(words, seed) == final_mix(a, b, c)
