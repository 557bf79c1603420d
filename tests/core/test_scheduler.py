"""scheduler.pxd against computed sequences and plain re-implementations."""

from ipaddress import IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvscore import _probe
from lvscore._probe_scheduler import Scheduler, hash_32

RR, WRR, LC, WLC, SH = 1, 2, 3, 4, 5
FALLBACK, PORT = 8, 16


def address(n):
    return bytes([172, 16, 1, n])


def build(kind, weights, flags=0):
    """A scheduler with servers added in this order; their indices."""
    scheduler = Scheduler(kind, flags)
    return scheduler, [scheduler.add(address(i), w) for i, w in enumerate(weights)]


def picks(scheduler, servers, count):
    names = dict(zip(servers, "ABCDEFGH", strict=False))
    return "".join(names[scheduler.pick()] for _ in range(count))


def test_a_server_is_five_cache_lines():
    assert _probe.sizes()["Server"] == 320


def test_rr_goes_round_from_the_last_added():
    scheduler, servers = build(RR, [1, 1, 1])
    assert picks(scheduler, servers, 7) == "CBACBAC"


def test_rr_skips_weight_zero_and_overload():
    scheduler, servers = build(RR, [1, 0, 1])
    assert picks(scheduler, servers, 4) == "CACA"
    scheduler.load(servers[0], 0, 0, overloaded=True)
    assert picks(scheduler, servers, 2) == "CC"
    scheduler.edit(servers[2], 0)
    assert scheduler.pick() is None


def test_rr_keeps_its_place_when_servers_come_and_go():
    scheduler, servers = build(RR, [1, 1, 1, 1])
    assert picks(scheduler, servers, 2) == "DC"
    servers.append(scheduler.add(address(9), 1))  # at the head: E D C B A
    assert picks(scheduler, servers, 1) == "B"
    scheduler.remove(servers[1])  # the pointer moves to its predecessor: C
    assert picks(scheduler, servers, 3) == "AED"


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([1, 1], "BABABABABABABABABA"),
        ([3, 1], "BAAABAAABAAABAAABA"),
        ([1, 3], "BABBBABBBABBBABBBA"),
        ([4, 3, 2], "CBAABACBACBAABACBA"),
        ([2, 4], "BABBABBABBABBABBAB"),
        ([5, 0, 10], "CACCACCACCACCACCAC"),
    ],
)
def test_wrr_sequences(weights, expected):
    scheduler, servers = build(WRR, weights)
    assert picks(scheduler, servers, len(expected)) == expected


def test_wrr_started_when_all_servers_are_there():
    scheduler, servers = build(WRR, [4, 3, 2])
    scheduler.reset()
    assert picks(scheduler, servers, 18) == "ABACBACBAABACBACBA"


def test_wrr_without_weights_or_with_all_overloaded():
    scheduler, servers = build(WRR, [0, 0])
    assert scheduler.pick() is None
    scheduler, servers = build(WRR, [2, 3])
    for server in servers:
        scheduler.load(server, 0, 0, overloaded=True)
    assert scheduler.pick() is None
    assert scheduler.pick() is None
    scheduler.load(servers[0], 0, 0)
    assert picks(scheduler, servers, 3) == "AAA"


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6).filter(any))
def test_wrr_is_fair_over_a_period(weights):
    scheduler, servers = build(WRR, weights)
    scheduler.reset()
    period = sum(weights)
    sequence = [scheduler.pick() for _ in range(2 * period)]
    for server, weight in zip(servers, weights, strict=True):
        assert sequence.count(server) == 2 * weight


loads = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 600), st.integers(0, 3), st.booleans()),
    min_size=1, max_size=6,
)  # fmt: skip


def loaded(kind, given_loads):
    scheduler, servers = build(kind, [weight for _, _, weight, _ in given_loads])
    for server, (active, inactive, _, overloaded) in zip(servers, given_loads, strict=True):
        scheduler.load(server, active, inactive, overloaded)
    usable = [
        (server, active * 256 + inactive, weight)
        for server, (active, inactive, weight, overloaded) in zip(servers, given_loads, strict=True)
        if weight > 0 and not overloaded
    ]
    return scheduler, usable[::-1]  # the last added comes first


@given(loads)
def test_lc_takes_the_least_loaded_and_the_first_of_equals(given_loads):
    scheduler, usable = loaded(LC, given_loads)
    expected = min(usable, key=lambda entry: entry[1])[0] if usable else None
    assert scheduler.pick() == expected


@given(loads)
def test_wlc_weighs_by_cross_multiplication(given_loads):
    scheduler, usable = loaded(WLC, given_loads)
    best = None
    for entry in usable:
        if best is None or best[1] * entry[2] > entry[1] * best[2]:
            best = entry
    assert scheduler.pick() == (best[0] if best else None)


def test_wlc_does_not_overflow():
    scheduler, servers = build(WLC, [2**31 - 1, 1])
    scheduler.load(servers[0], 2**22, 0)
    scheduler.load(servers[1], 2**22, 0)
    assert scheduler.pick() == servers[0]


@pytest.mark.parametrize(
    ("text", "eight", "ten"),
    [
        ("172.16.1.7", 141, 565),
        ("172.16.1.8", 239, 956),
        ("172.16.1.100", 19, 77),
        ("10.0.0.1", 39, 159),
        ("192.168.1.10", 248, 995),
        ("8.8.8.8", 188, 754),
    ],
)
def test_hash_32(text, eight, ten):
    assert hash_32(int(ip_address(text)), 8) == eight
    assert hash_32(int(ip_address(text)), 10) == ten


def source(text, port=40000):
    return (6, ip_address(text).packed, port, address(100), 80)


SH_CLIENTS = [("10.0.0.1", 39, 203), ("10.0.0.2", 137, 45), ("10.0.0.3", 235, 143),
              ("192.168.1.10", 248, 156)]  # fmt: skip


def test_sh_buckets_and_clients():
    scheduler, (seven, eight) = build(SH, [1, 1])  # list: .8 (added last), .7
    assert scheduler.buckets() == [eight, seven] * 128
    for text, bucket, _ in SH_CLIENTS:
        assert scheduler.pick(source(text)) == scheduler.buckets()[bucket]


def test_sh_with_ports():
    scheduler, _ = build(SH, [1, 1], PORT)
    for text, _, bucket in SH_CLIENTS:
        assert scheduler.pick(source(text)) == scheduler.buckets()[bucket]


def test_sh_weights_fill_buckets_in_a_row():
    scheduler, (seven, eight) = build(SH, [3, 1])
    assert scheduler.buckets() == [eight, seven, seven, seven] * 64
    scheduler.edit(eight, 0)  # one bucket at least, but nothing is sent there
    assert scheduler.buckets() == [eight, seven, seven, seven] * 64
    assert scheduler.pick(source("192.168.1.10")) is None


def test_sh_fallback_goes_on_from_the_first_bucket():
    scheduler, (seven, eight) = build(SH, [1, 1], FALLBACK)
    scheduler.edit(eight, 0)
    for text, _, _ in SH_CLIENTS:
        assert scheduler.pick(source(text)) == seven
    scheduler.edit(seven, 0)
    assert scheduler.pick(source("10.0.0.1")) is None


def test_sh_folds_ipv6_addresses():
    scheduler = Scheduler(SH, 0, 6)
    servers = [scheduler.add(IPv6Address(f"2001:db8::{i}").packed, 1) for i in (1, 2)]
    client = IPv6Address("2001:db8:1:2:3:4:5:6")
    folded = 0
    for shift in range(0, 128, 32):
        folded ^= int(client) >> shift & 0xFFFFFFFF
    bucket = hash_32(folded, 8)
    t = (6, client.packed, 40000, IPv6Address("2001:db8::100").packed, 80)
    assert scheduler.pick(t) == servers[::-1][bucket % 2]


@pytest.mark.parametrize("kind", [RR, WRR, LC, WLC, SH])
def test_no_servers(kind):
    scheduler, servers = build(kind, [1])
    assert scheduler.pick() == servers[0]
    scheduler.remove(servers[0])
    assert scheduler.pick() is None
