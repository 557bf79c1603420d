"""Port pools: their occupancy is exact, levels are announced, clients have their quota."""

from ipaddress import ip_address
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packets import SECOND, tcp, udp

import lvscore
from lvscore import Reason, Verdict

OUT, WEB, OTHER = "10.0.0.200", "93.184.216.34", "93.184.216.35"


def masked(ports="7000-7099", **options):
    engine = lvscore.Engine(seed=1, **options)
    engine.add_snat(to=f"{OUT}:{ports}", source="192.168.0.0/16", protocol="udp")
    return engine


def open_flows(engine, clients, *, to=WEB, port=53, now=None):
    now = engine.now if now is None else now
    return [engine.process(udp(f"192.168.{n >> 8}.{n & 255}", 9000, to, port), now)
            for n in clients]  # fmt: skip


def test_each_endpoint_has_a_pool_of_its_own():
    engine = masked()
    open_flows(engine, range(30))
    open_flows(engine, range(10), to=OTHER)
    open_flows(engine, range(5), port=54)
    assert len(engine.port_pools) == 3
    fullest, second, third = engine.port_pools
    assert fullest == lvscore.PortPool(
        "udp", ip_address(OUT), ip_address(WEB), 53, lvscore.PortRange(7000, 7099), 30, 100, 0.0
    )
    assert (fullest.usage, fullest.forecast) == (0.3, inf)
    assert (str(second.remote), second.used) == (OTHER, 10)
    assert (third.remote_port, third.used) == (54, 5)
    assert engine.port_pools.clients()[ip_address("192.168.0.0")] == 3


def test_without_a_range_a_pool_is_the_class_of_the_port():
    engine = lvscore.Engine(seed=1)
    engine.add_snat(to=OUT, source="192.168.0.0/16")
    for port in (400, 700, 5000):
        engine.process(udp("192.168.0.1", port, WEB, 53), 0)
    assert sorted((p.ports, p.capacity) for p in engine.port_pools) == [
        ((1, 511), 511), ((600, 1023), 424), ((1024, 65535), 64512)]  # fmt: skip


def test_what_is_not_translated_at_the_source_takes_no_port():
    engine = lvscore.Engine(seed=1)
    engine.add_dnat(to=WEB, destination=OUT)
    assert engine.process(tcp("10.0.0.1", 1000, OUT, 80), 0) == Verdict.FORWARD
    assert len(engine.port_pools) == 0
    assert engine.port_pools.clients() == {}


def test_ports_come_back_when_connections_end():
    engine = masked()
    open_flows(engine, range(40))
    engine.expire(31 * SECOND)
    assert len(engine.connections) == len(engine.port_pools) == 0
    open_flows(engine, range(7))
    engine.conntrack("-D -s 192.168.0.3")
    assert [p.used for p in engine.port_pools] == [6]
    engine.conntrack("-F")
    assert len(engine.port_pools) == 0
    assert engine.port_pools.clients() == {}


def test_levels_are_announced_once_until_five_per_cent_are_free_again():
    engine = masked()
    open_flows(engine, range(79), now=1 * SECOND)
    assert engine.port_pools.events() == []
    open_flows(engine, range(79, 100), now=2 * SECOND)
    events = engine.port_pools.events()
    assert [(e.percent, e.pool.used, e.now) for e in events] == [
        (percent, percent, 2 * SECOND) for percent in (80, 95, 100)]  # fmt: skip
    assert open_flows(engine, [200]) == [Verdict.DROP]
    assert engine.last_reason == Reason.NO_PORT
    assert engine.port_pools.events() == []
    for n in range(4):
        engine.conntrack(f"-D -s 192.168.0.{n}")
    open_flows(engine, range(4))
    assert engine.port_pools.events() == []
    for n in range(6):
        engine.conntrack(f"-D -s 192.168.0.{n}")
    open_flows(engine, range(6))
    assert [e.percent for e in engine.port_pools.events()] == [100]


def test_at_most_256_events_wait():
    engine = masked("7000-7000")
    for n in range(100):
        open_flows(engine, [n], port=1000 + n)  # each reaches three levels at once
    events = engine.port_pools.events()
    assert len(events) == 256
    assert events[-1].pool.remote_port == 1099


def test_growth_and_forecast():
    engine = masked("10000-10999")
    for second in range(40):
        open_flows(engine, range(10 * second, 10 * second + 10), now=second * SECOND // 2)
    (pool,) = engine.port_pools
    assert pool.used == 400
    assert pool.growth == pytest.approx(20, rel=0.1)
    assert pool.forecast == pytest.approx(600 / pool.growth)


def test_the_forecast_of_a_full_pool_is_now():
    engine = masked()
    open_flows(engine, range(100))
    (pool,) = engine.port_pools
    assert (pool.usage, pool.forecast) == (1.0, 0.0)


def test_growth_ends_when_nothing_comes():
    engine = lvscore.Engine(seed=1)
    engine.add_snat(to=OUT, source="192.168.0.0/16")
    engine.sysctl["net.netfilter.nf_conntrack_udp_timeout"] = 600
    open_flows(engine, range(50), now=0)
    open_flows(engine, range(50, 100), now=3 * SECOND)
    (pool,) = engine.port_pools
    assert pool.growth > 0
    engine.expire(120 * SECOND)
    (pool,) = engine.port_pools
    assert pool.growth == pytest.approx(50 / 117, rel=0.1)
    assert pool.forecast > 60_000


def test_quota():
    engine = masked()
    engine.port_pools.quota = 3
    greedy = [udp("192.168.0.1", 9000 + n, WEB, 53) for n in range(5)]
    verdicts = [engine.process(bytearray(frame), 0) for frame in greedy]
    assert verdicts == [Verdict.FORWARD] * 3 + [Verdict.DROP] * 2
    assert engine.last_reason == Reason.PORT_QUOTA
    assert engine.reasons[Reason.PORT_QUOTA] == 2
    assert open_flows(engine, [7]) == [Verdict.FORWARD]
    assert engine.process(bytearray(greedy[0]), 0) == Verdict.FORWARD  # it has its port
    engine.expire(31 * SECOND)
    assert engine.process(bytearray(greedy[4]), 31 * SECOND) == Verdict.FORWARD
    engine.port_pools.quota = None
    assert engine.port_pools.quota is None


@pytest.mark.parametrize("value", [0, -1, 2**32, 1.5, "3"])
def test_quota_is_a_number_of_ports(value):
    engine = masked()
    with pytest.raises(lvscore.ConfigError, match="quota="):
        engine.port_pools.quota = value
    assert engine.port_pools.quota is None


def test_an_explanation_takes_no_port():
    engine = masked()
    open_flows(engine, range(3))
    engine.explain(bytes(udp("192.168.0.9", 9000, WEB, 53)))
    assert [p.used for p in engine.port_pools] == [3]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2), st.integers(0, 9)), max_size=120))
def test_the_counts_are_those_of_the_connections(steps):
    engine = masked("7000-7019")
    now = 0
    for client, endpoint, seconds in steps:
        now += seconds * SECOND
        open_flows(engine, [client], port=50 + endpoint, now=now)
        assert engine._selfcheck() == 0
        rows = list(engine.connections)
        assert sum(p.used for p in engine.port_pools) == len(rows)
        assert sum(engine.port_pools.clients().values()) == len(rows)
