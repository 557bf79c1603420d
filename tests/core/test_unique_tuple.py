"""unique_tuple.pxd: the choice of an address, the search for a free port."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvscore import _probe

RANDOM, OFFSET = 4, 32  # nf_nat.h
u32 = st.integers(0, 2**32 - 1)


def packed(text):
    return ip_address(text).packed


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


@given(
    *[st.lists(u32, min_size=4, max_size=4) for _ in range(4)],
    st.integers(0, 4),
    st.booleans(),
    st.booleans(),
)
def test_ipv6_ranges(source, destination, low, high, same, of_source, persistent):
    """Word by word; the kernel hashes a destination's words as it has chosen them by then."""
    low, high = sorted((low, high))
    high[:same] = low[:same]

    def packed_words(words):
        return b"".join(word.to_bytes(4, "big") for word in words)

    def in_memory(word):
        return int.from_bytes(word.to_bytes(4, "big"), "little")

    t = (6, packed_words(source), 1, packed_words(destination), 2)
    j = _probe.jhash2(
        [in_memory(word) for word in source], 0 if persistent else in_memory(destination[3])
    )
    wanted = []
    if low == high:
        wanted = low
    else:
        for i in range(4):
            below = wanted != high[:i]
            size = 2**32 - 1 if below else (high[i] - low[i] + 1) % 2**32
            wanted.append(((0 if below else low[i]) + (j * size >> 32)) % 2**32)
            if not persistent:
                j ^= in_memory(destination[i] if of_source else wanted[i])
    chosen = _probe.address_choose(packed_words(low), packed_words(high), t, persistent, of_source)
    assert chosen == packed_words(wanted)


def table_with(tuples):
    table = _probe.Table(4, 70_000)
    for t in tuples:
        table.open(t, _probe.inverse(t))
    return table


def with_source_port(port):
    return (6, packed("10.0.0.200"), port, packed("8.8.8.8"), 53)


def test_a_free_port_is_kept():
    assert table_with([]).choose(with_source_port(5000), True) == (True, with_source_port(5000))


@pytest.mark.parametrize(
    ("port", "low", "high"), [(80, 1, 511), (700, 600, 1023), (5000, 1024, 65535)]
)
def test_a_taken_port_is_replaced_from_its_class(port, low, high):
    for _ in range(20):
        free, t = table_with([with_source_port(port)]).choose(with_source_port(port), True)
        assert free
        assert low <= t[2] <= high
        assert t[2] != port


def test_a_range_is_used_up_to_its_last_port():
    table = table_with([])
    used = set()
    for _ in range(50):
        free, t = table.choose(with_source_port(5000), True, ports=(7000, 7049))
        assert free
        assert 7000 <= t[2] <= 7049
        table.open(t, _probe.inverse(t))
        used.add(t[2])
    assert len(used) == 50
    assert not table.choose(with_source_port(5000), True, ports=(7000, 7049))[0]


def test_a_port_in_the_range_is_kept():
    table = table_with([with_source_port(7001)])
    assert table.choose(with_source_port(7002), True, ports=(7000, 7049))[1][2] == 7002
    assert table.choose(with_source_port(7001), True, ports=(7000, 7049))[1][2] != 7001


def test_destination_ports_are_drawn_from_a_range():
    """As recorded of Linux 6.1: REDIRECT and DNAT begin anywhere in the range, too."""
    t = (6, packed("10.0.0.9"), 40000, packed("172.16.1.7"), 80)
    table = table_with([])
    drawn = {table.choose(t, False, ports=(8000, 8003))[1][4] for _ in range(60)}
    assert drawn == {8000, 8001, 8002, 8003}
    taken = table_with([(*t[:4], port) for port in (8000, 8001, 8003)])
    assert {taken.choose(t, False, ports=(8000, 8003))[1][4] for _ in range(20)} == {8002}


def test_a_single_port_is_taken_though_it_is_not_free():
    """Source NAT behind it may yet free the tuple (nf_nat_core.c, get_unique_tuple)."""
    t = (6, packed("10.0.0.9"), 40000, packed("172.16.1.7"), 8000)
    assert table_with([t]).choose(t, False, ports=(8000, 8000)) == (False, t)


def test_shifted_ports():
    """--to-destination a:7000-7010/6000: port 6000 becomes 7000, 6003 becomes 7003."""
    t = (6, packed("10.0.0.9"), 40000, packed("172.16.1.7"), 6003)
    shifted = table_with([]).choose(t, False, ports=(7000, 7010), flags=OFFSET, base=6000)
    assert shifted == (True, (*t[:4], 7003))
    taken = table_with([(*t[:4], 7003)])
    assert taken.choose(t, False, ports=(7000, 7010), flags=OFFSET, base=6000)[1][4] == 7004


def test_random_ports_are_drawn_though_the_own_one_is_free():
    t = (6, packed("10.0.0.9"), 40000, packed("172.16.1.7"), 80)
    table = table_with([])
    drawn = {table.choose(t, True, (t[1], t[1]), flags=RANDOM)[1][2] for _ in range(50)}
    assert len(drawn) > 40
    assert min(drawn) >= 1024
    drawn = {table.choose(t, False, ports=(80, 179), flags=RANDOM)[1][4] for _ in range(50)}
    assert len(drawn) > 20


def test_a_mapping_is_used_again_for_another_destination():
    """nf_nat_core.c, find_appropriate_src: the source keeps what it was once translated to."""
    inside, outside = packed("192.168.0.1"), packed("10.0.0.200")
    table = table_with([])
    original = (17, inside, 5000, packed("8.8.8.8"), 53)
    i = table.open(original, (17, packed("8.8.8.8"), 53, outside, 9999))
    other = (17, inside, 5000, packed("8.8.4.4"), 53)
    assert table.choose(other, True, (outside, outside))[1][2] == 5000
    table.track(i)
    assert table.choose(other, True, (outside, outside)) == (
        True,
        (17, outside, 9999, packed("8.8.4.4"), 53),
    )
    # Not if the range has it not, nor for another source, nor with a random port.
    assert table.choose(other, True, (outside, outside), (1, 9998))[1][2] == 5000
    third = (17, inside, 5001, packed("8.8.4.4"), 53)
    assert table.choose(third, True, (outside, outside))[1][2] == 5001
    table.close(i)
    assert table.choose(other, True, (outside, outside))[1][2] == 5000


def test_exhaustion():
    table = table_with([with_source_port(port) for port in range(1024, 65536)])
    assert not table.choose(with_source_port(5000), True)[0]
    # Another destination has all ports free.
    other = (6, packed("10.0.0.200"), 5000, packed("8.8.4.4"), 53)
    assert table.choose(other, True) == (True, other)


@pytest.mark.parametrize("source", [True, False])
def test_icmp_identifiers(source):
    t = (1, packed("10.0.0.200"), 7, packed("8.8.8.8"), 0x800)
    free, chosen = table_with([t]).choose(t, source)
    assert free
    assert chosen[2] != 7
    assert chosen[4] == 0x800


def test_other_protocols_have_nothing_to_choose():
    t = (47, packed("10.0.0.200"), 0, packed("8.8.8.8"), 0)
    assert table_with([]).choose(t, True) == (True, t)
    assert table_with([t]).choose(t, True) == (False, t)


def test_persistent_addresses_do_not_depend_on_the_destination():
    low, high = packed("10.0.0.0"), packed("10.0.0.255")

    def chosen(persistent):
        return {
            _probe.address_choose(
                low, high, (6, packed("1.2.3.4"), 1, packed(f"8.8.8.{n}"), 2), persistent
            )
            for n in range(50)
        }

    assert len(chosen(True)) == 1
    assert len(chosen(False)) > 20
