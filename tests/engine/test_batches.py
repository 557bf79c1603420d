"""A batch is its frames one by one, also where the fast path might tell them apart."""

import features
import numpy
import pytest
from packets import CLIENT, RS1, SECOND, VIP, tcp, udp

import lvscore
from lvscore import Reason, Verdict


def one_by_one(engine, frames, times):
    out = []
    for frame, now in zip(frames, times, strict=True):
        copy = bytearray(frame)
        verdict = engine.process(copy, now)
        out.append((verdict, engine.last_reason, bytes(copy)))
    return out


def batched(engine, frames, times):
    batch = lvscore.FrameBatch.of(frames, times)
    engine.process_batch(batch)
    return [
        (Verdict(int(batch.verdict[i])), Reason(int(batch.reason[i])), bytes(batch[i]))
        for i in range(len(batch))
    ]


def generally(engine):
    """The engine, whose packets take the slow path: table mangle has to see them all."""
    engine.iptables("-t mangle -A PREROUTING -d 255.255.255.255 -j MARK --set-mark 1")
    return engine


def both(make, frames, times=None):
    """The frames' outcomes, which must be the same either way."""
    times = [0] * len(frames) if times is None else times
    single, whole = generally(make()), make()
    expected = one_by_one(single, frames, times)
    assert batched(whole, frames, times) == expected
    assert numpy.array_equal(
        numpy.sort(single.connections.snapshot()), numpy.sort(whole.connections.snapshot())
    )
    assert single.counters == whole.counters
    assert single.reasons == whole.reasons
    return expected


def shadowing_engine():
    """Two services with one server: two connections can have the same reply tuple."""
    engine = lvscore.Engine(seed=1)
    for port in (80, 81):
        engine.add_service("udp", f"{VIP}:{port}", scheduler="rr").add_server(f"{RS1}:8080")
    return engine


def rule_engine():
    engine = lvscore.Engine(seed=1)
    engine.add_dnat(to=RS1, destination=VIP)
    return engine


def test_a_reply_that_changes_no_state_is_a_reply():
    """Picked up from the middle and closed before the first answer is seen."""
    ask = [tcp(CLIENT, 5000, VIP, 80, flags) for flags in ("A", "FA", "FA")]
    answer = tcp(RS1, 80, CLIENT, 5000, "FA")
    reset = tcp(CLIENT, 5000, VIP, 80, "R")
    both(rule_engine, [*ask, answer, reset, tcp(CLIENT, 5000, VIP, 80, "A")])


@pytest.mark.parametrize("before", [True, False])
def test_replies_to_a_local_address_are_local(before):
    def make():
        engine = lvscore.Engine(seed=1)
        engine.add_snat(to="10.0.0.200", source=CLIENT)
        if before:
            engine.routes.add_interface("eth0", [f"{CLIENT}/24"])
        return engine

    opening = udp(CLIENT, 5000, "8.8.8.8", 53)
    replies = [udp("8.8.8.8", 53, "10.0.0.200", 5000)] * 3
    single, whole = make(), make()
    outcomes = []
    for engine, way in ((single, one_by_one), (whole, batched)):
        opened = way(engine, [opening, opening], [0, 0])
        if not before:
            engine.routes.add_interface("eth0", [f"{CLIENT}/24"])
        outcomes.append(opened + way(engine, replies, [SECOND * 3] * 3))
    assert outcomes[0] == outcomes[1]
    assert [verdict for verdict, _, _ in outcomes[0][2:]] == [Verdict.LOCAL] * 3


def service_engine():
    engine = lvscore.Engine(seed=1)
    for protocol in "tcp", "udp":
        service = engine.add_service(protocol, f"{VIP}:80", scheduler="rr")
        service.add_server(f"{RS1}:80")
    return engine


@pytest.mark.parametrize("make", [service_engine, rule_engine])
@pytest.mark.parametrize(
    "steps",
    [[1], [250_000], [999_999], [1_000_000], [0, 1, 300_000, 1_000_001], [700_000, -600_000]],
    ids=str,
)
def test_times_within_a_tick_and_beyond(make, steps):
    """Each frame has a time of its own; timers run from the tick that it falls into."""
    frames, times, now = [], [], 0
    for number in range(120):
        port = 4000 + number % 5
        kind, flags = (udp, {}) if port % 2 else (tcp, {"flags": "S" if number < 5 else "A"})
        ends = (RS1, 80, CLIENT, port) if number % 3 == 1 else (CLIENT, port, VIP, 80)
        frames.append(kind(*ends, **flags))
        times.append(now)
        now += steps[number % len(steps)]
    both(make, frames, times)


def test_a_batch_at_time_zero_starts_the_clock():
    """The first frame's time is the origin, also when it is the one an engine begins with."""
    engines = [shadowing_engine(), shadowing_engine()]
    for engine, way in zip(engines, (one_by_one, batched), strict=True):
        way(engine, [udp(CLIENT, 4000, VIP, 80)], [0])
        way(engine, [udp(CLIENT, 4001, VIP, 80)], [200 * SECOND])
        assert engine.expire(300 * SECOND) == 1
        assert engine.expire(500 * SECOND) == 1


@pytest.mark.parametrize("feature", features.FEATURES)
def test_a_batch_of_any_size_is_its_frames_one_by_one(feature):
    frames, times, marks = features.traffic(feature)
    single = features.make(feature)
    expected = features.one_by_one(single, frames, times, marks)
    outcomes = {Reason(reason) for _, reason, _, _ in expected}
    assert outcomes & {Reason.NEW_CONNECTION, Reason.REQUEST}
    for size in (1, 7, 16, 33, len(frames)):
        whole = features.make(feature)
        assert features.in_batches(whole, frames, times, marks, size) == expected
        assert features.state_of(whole) == features.state_of(single)


def test_servers_change_between_batches():
    """What a batch leaves behind is what its frames leave behind, also for a change of servers."""
    frames, times, marks = features.traffic(5)
    engines = [features.make("persistence"), features.make("persistence")]
    for half in (slice(0, 200), slice(200, 400)):
        part = frames[half], times[half], marks[half]
        outcomes = [
            features.one_by_one(engines[0], *part), features.in_batches(engines[1], *part, 50)
        ]  # fmt: skip
        assert outcomes[0] == outcomes[1]
        for engine in engines:
            service = engine.find_service("udp", f"{VIP}:53")
            service.remove_server(f"{RS1}:53")
            service.add_server(f"{RS1}:53", weight=2)
            service.edit(scheduler="wlc")
        assert features.state_of(engines[0]) == features.state_of(engines[1])


@pytest.mark.parametrize("served", [True, False])
def test_a_syn_with_rst_on_a_closed_connection(served):
    """Its state would be the same afterwards, but it ends, and a RST opens none."""

    def make():
        engine = lvscore.Engine(seed=1)
        engine.add_service("tcp", f"{VIP}:80", scheduler="rr").add_server(f"{RS1}:8080")
        for flags in ("S", "A", "R"):
            engine.process(tcp(CLIENT, 4000, VIP, 80, flags), 0)
        if not served:
            engine.find_service("tcp", f"{VIP}:80").remove()
        return engine

    [(_, reason, _)] = both(make, [tcp(CLIENT, 4000, VIP, 80, "SR")])
    assert reason == (Reason.TCP_NOT_SYN if served else Reason.LOCAL_ADDRESS)
