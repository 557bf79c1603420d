"""The kernel's timer wheel as a setting: how long connections and templates outlive their time."""

import random
from fractions import Fraction
from math import ceil, floor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packets import CLIENT, RS1, RS2, SECOND, VIP, flow, tcp, udp

import lvscore
from lvscore import TimerWheel

MILLISECOND = SECOND // 1000
LEVEL_ENDS = [63 * 8**level for level in range(8)]  # jiffies, LVL_START of the next level


def kernel_expiry(wheel, armed, timeout):
    """When a timer ends that is armed at ``armed`` ns for ``timeout`` s, in ms rounded up."""
    jiffies = floor(Fraction(armed * wheel.hz, SECOND)) + wheel.jiffies
    delta = timeout * wheel.hz
    coarse = 8 ** sum(delta >= end for end in LEVEL_ENDS)
    ends = ((jiffies + delta) // coarse + 1) * coarse
    return ceil(Fraction((ends - wheel.jiffies) * 1000, wheel.hz))


def director(wheel, timeout=300, protocol="udp", **service):
    engine = lvscore.Engine(seed=1, max_connections=64)
    engine.timer_wheel = wheel
    engine.set_timeouts(udp=timeout)
    engine.add_service(protocol, f"{VIP}:80", scheduler="rr", **service).add_server(f"{RS1}:80")
    return engine


@given(
    hz=st.sampled_from([24, 100, 250, 300, 1000, 1024]),
    jiffies=st.integers(0, 2**64 - 1),
    start=st.integers(-(10**6), 10**9),
    timeout=st.integers(1, 2678400),
    origin=st.integers(0, 10**9),
)
def test_connections_end_when_the_kernel_would_end_them(hz, jiffies, start, timeout, origin):
    wheel = TimerWheel(hz, jiffies)
    if timeout * hz >= 63 * 8**8:
        timeout //= 4  # the kernel's wheel has no level beyond
    engine = director(wheel, timeout)
    engine.expire((start - origin) * MILLISECOND)
    engine.process(udp(CLIENT, 1000, VIP, 80), start * MILLISECOND)
    ends = kernel_expiry(wheel, start * MILLISECOND, timeout)
    assert timeout * 1000 < ends - start <= timeout * 1000 * 9 / 8 + 2000 / hz + 1
    engine.expire((start + timeout * 1000 - 1) * MILLISECOND)
    assert [c.expires_ns for c in engine.connections] == [MILLISECOND]
    engine.expire((start + timeout * 1000) * MILLISECOND)
    assert [c.expires_ns for c in engine.connections] == [0]
    engine.expire(ends * MILLISECOND - 1)
    assert [c.expires_ns for c in engine.connections] == [0]
    assert engine._selfcheck() == 0
    assert engine.next_deadline() <= ends * MILLISECOND
    assert engine.expire(ends * MILLISECOND) == 1


def test_it_is_found_and_listed_until_it_goes():
    """Armed at 0 for 300 s, 75000 jiffies, it goes at the multiple of 4096 behind them: 77824."""
    engine = director(TimerWheel(250))
    engine.process(udp(CLIENT, 1000, VIP, 80), 0)
    engine.expire(311 * SECOND)
    assert "UDP 00:00  UDP " in engine.ipvsadm("-L -n -c")
    engine.process(udp(RS1, 80, CLIENT, 1000), 311 * SECOND)  # which arms it for 152750
    assert engine.expire(622 * SECOND) == 0
    assert engine.expire(155648 * 4 * MILLISECOND) == 1


@pytest.mark.parametrize("timeout", [20, 300])
def test_many_end_each_in_its_time(timeout):
    """Whatever the steps of the clock are, and whether packets or calls move it."""
    wheel, chance = TimerWheel(250, 77), random.Random(5)
    engine = director(wheel, timeout)
    ends = {}
    for n in range(64):
        start = 37 * n
        engine.process(udp(CLIENT, 1000 + n, VIP, 80), start * MILLISECOND)
        ends[1000 + n] = kernel_expiry(wheel, start * MILLISECOND, timeout)
    now = timeout * 1000 - 500
    while now < max(ends.values()):
        now += chance.choice([1, 3, 40, 250, 257, 900])
        if chance.random() < 0.5:
            engine.expire(now * MILLISECOND)
        else:  # of no connection
            engine.process(udp(RS2, 9, CLIENT, 9), now * MILLISECOND)
        assert sorted(c.client[1] for c in engine.connections) == sorted(
            port for port, end in ends.items() if end > now
        )
        assert engine._selfcheck() == 0


def test_packets_of_a_batch_find_what_is_over_as_single_ones_do():
    engines = [director(TimerWheel(100, 7), protocol="tcp") for _ in range(2)]
    for engine in engines:
        for port in range(16):
            engine.process(tcp(CLIENT, 1000 + port, VIP, 80), 0)
            engine.process(tcp(CLIENT, 1000 + port, VIP, 80, "A"), 0)
        assert engine.expire(901 * SECOND) == 0
        assert {c.expires_ns for c in engine.connections} == {0}
    frames = [tcp(CLIENT, 1000 + port, VIP, 80, "A") for port in range(8)]
    batch = lvscore.FrameBatch.of(frames, [902 * SECOND] * 8)
    engines[0].process_batch(batch)
    for frame in frames:
        engines[1].process(frame, 902 * SECOND)
    for now in (905, 939, 940, 1801, 1802, 1850, 1851, 1852, 1860, 1900):
        a, b = ([engine.expire(now * SECOND), len(engine.connections)] for engine in engines)
        assert a == b
        assert all(engine._selfcheck() == 0 for engine in engines)
    assert a[1] == 0


def test_templates_are_late_as_well():
    wheel = TimerWheel(250, 1)
    engine = director(wheel, timeout=1, persistence=60)
    engine.process(udp(CLIENT, 1000, VIP, 80), 0)
    ends = kernel_expiry(wheel, 0, 60)
    engine.expire(ends * MILLISECOND - 1)
    assert (len(engine.connections), len(engine.templates)) == (0, 1)
    engine.expire(ends * MILLISECOND)
    assert len(engine.templates) == 0


def test_flows_of_the_rules_end_on_time():
    engine = lvscore.Engine(seed=1, max_connections=64)
    engine.timer_wheel = TimerWheel(250)
    engine.iptables(f"-t nat -A PREROUTING -d {VIP} -j DNAT --to {RS2}")
    frame = udp(CLIENT, 1000, VIP, 80)
    engine.process(frame, 0)
    assert flow(frame)[2] == RS2
    assert engine.expire(30 * SECOND) == 1


def test_it_may_be_set_and_taken_back_while_connections_are_there():
    engine = director(None)
    engine.process(udp(CLIENT, 1000, VIP, 80), 0)
    engine.timer_wheel = TimerWheel(250)
    assert engine.expire(300 * SECOND) == 0
    engine.timer_wheel = None
    assert engine.expire(320 * SECOND) == 1


def test_a_saved_engine_keeps_it(tmp_path):
    engine = director(TimerWheel(250, 2**64 - 1))
    engine.process(udp(CLIENT, 1000, VIP, 80), 0)
    engine.expire(301 * SECOND)
    engine.save(tmp_path / "engine")
    loaded = lvscore.Engine.load(tmp_path / "engine")
    assert loaded.timer_wheel == TimerWheel(250, 2**64 - 1)
    ends = kernel_expiry(loaded.timer_wheel, 0, 300)
    for each in (engine, loaded):
        assert each.expire(ends * MILLISECOND - 1) == 0
        assert each.expire(ends * MILLISECOND) == 1


@pytest.mark.parametrize(
    "wheel", [TimerWheel(0), TimerWheel(10_001), TimerWheel(250, -1), TimerWheel(250, 2**64)]
)
def test_what_no_kernel_has_is_refused(wheel):
    engine = lvscore.Engine(seed=1, max_connections=64)
    with pytest.raises(lvscore.ConfigError, match="timer_wheel"):
        engine.timer_wheel = wheel
    assert engine.timer_wheel is None
