"""rules.pxd: matching, the choice of an address, the search for a free port."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvscore import _probe

NO_PORT = 27
u32 = st.integers(0, 2**32 - 1)


def packed(text):
    return ip_address(text).packed


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


def test_a_single_address_is_taken():
    one = packed("10.0.0.1")
    t = (6, packed("1.2.3.4"), 1, packed("5.6.7.8"), 2)
    assert _probe.address_choose(one, one, t) == one


@given(u32, u32, st.integers(0, 2**32 - 257), st.integers(1, 255))
def test_ipv4_ranges(source, destination, low, size):
    t = (6, source.to_bytes(4, "big"), 1, destination.to_bytes(4, "big"), 2)
    chosen = _probe.address_choose(low.to_bytes(4, "big"), (low + size).to_bytes(4, "big"), t)

    # The kernel hashes the words as they lie in memory: source padded to four words.
    def word(x):
        return int.from_bytes(x.to_bytes(4, "big"), "little")

    j = _probe.jhash2([word(source), 0, 0, 0], word(destination))
    assert int.from_bytes(chosen, "big") == low + (j * (size + 1) >> 32)


def test_a_range_is_used_evenly():
    low, high = packed("10.0.0.0"), packed("10.0.0.3")
    counts = dict.fromkeys(range(4), 0)
    for n in range(4000):
        t = (6, (n * 7919).to_bytes(4, "big"), 1, packed("8.8.8.8"), 2)
        counts[_probe.address_choose(low, high, t)[3]] += 1
    assert min(counts.values()) > 850


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_ipv6_ranges_stay_inside(source, destination):
    low, high = packed("2001:db8::1:0"), packed("2001:db8::2:ff")
    t = (6, source, 1, destination, 2)
    chosen = _probe.address_choose(low, high, t)
    assert chosen[:12] == low[:12]
    assert low <= chosen <= high


T = (6, packed("10.0.0.9"), 40000, packed("172.16.1.100"), 80)


@pytest.mark.parametrize(
    ("match", "matches"),
    [
        ({}, True),
        ({"protocol": 6}, True),
        ({"protocol": 17}, False),
        ({"family": 6, "source": bytes(16), "destination": bytes(16)}, False),
        ({"source": packed("10.0.0.0"), "source_length": 24}, True),
        ({"source": packed("10.0.1.0"), "source_length": 24}, False),
        ({"source": packed("10.0.0.8"), "source_length": 31}, True),
        ({"destination": packed("172.16.1.100"), "destination_length": 32}, True),
        ({"destination": packed("172.16.1.101"), "destination_length": 32}, False),
        ({"source_ports": (40000, 40000), "destination_ports": (80, 81)}, True),
        ({"source_ports": (40001, 50000)}, False),
        ({"destination_ports": (81, 65535)}, False),
        ({"interface": 3, "leaves_by": 3}, True),
        ({"interface": 3, "leaves_by": 2}, False),
        ({"interface": 3, "leaves_by": -1}, False),
    ],
)
def test_matching(match, matches):
    assert _probe.rule_match(T, **match) is matches


def test_ports_do_not_matter_to_protocols_without():
    icmp = (1, packed("10.0.0.9"), 7, packed("10.0.0.1"), 0x800)
    assert _probe.rule_match(icmp, source_ports=(40000, 40000))


def table_with(tuples):
    table = _probe.Table(4, 70_000)
    for t in tuples:
        table.open(t, _probe.inverse(t))
    return table


def with_source_port(port):
    return (6, packed("10.0.0.200"), port, packed("8.8.8.8"), 53)


def test_a_free_port_is_kept():
    assert table_with([]).make_free(with_source_port(5000), True) == (0, with_source_port(5000))


@pytest.mark.parametrize(
    ("port", "low", "high"), [(80, 1, 511), (700, 600, 1023), (5000, 1024, 65535)]
)
def test_a_taken_port_is_replaced_from_its_class(port, low, high):
    for _ in range(20):
        reason, t = table_with([with_source_port(port)]).make_free(with_source_port(port), True)
        assert reason == 0
        assert low <= t[2] <= high
        assert t[2] != port


def test_a_range_is_used_up_to_its_last_port():
    table = table_with([])
    used = set()
    for _ in range(50):
        reason, t = table.make_free(with_source_port(5000), True, 7000, 7049)
        assert reason == 0
        assert 7000 <= t[2] <= 7049
        table.open(t, _probe.inverse(t))
        used.add(t[2])
    assert len(used) == 50
    assert table.make_free(with_source_port(5000), True, 7000, 7049)[0] == NO_PORT


def test_a_port_in_the_range_is_kept():
    table = table_with([with_source_port(7001)])
    assert table.make_free(with_source_port(7002), True, 7000, 7049)[1][2] == 7002
    assert table.make_free(with_source_port(7001), True, 7000, 7049)[1][2] != 7001


def test_destination_ports_are_tried_from_the_first():
    t = (6, packed("10.0.0.9"), 40000, packed("172.16.1.7"), 80)
    assert table_with([]).make_free(t, False, 8000, 8010)[1][4] == 8000
    taken = table_with([(*t[:4], 8000)])
    assert taken.make_free(t, False, 8000, 8010)[1][4] == 8001


def test_exhaustion():
    table = table_with([with_source_port(port) for port in range(1024, 65536)])
    reason, _ = table.make_free(with_source_port(5000), True)
    assert reason == NO_PORT
    # Another destination has all ports free.
    other = (6, packed("10.0.0.200"), 5000, packed("8.8.4.4"), 53)
    assert table.make_free(other, True) == (0, other)


def test_icmp_identifiers():
    t = (1, packed("10.0.0.200"), 7, packed("8.8.8.8"), 0x800)
    reason, chosen = table_with([t]).make_free(t, True)
    assert reason == 0
    assert chosen[2] != 7
    assert chosen[4] == 0x800
