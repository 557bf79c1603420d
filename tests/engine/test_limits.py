"""Time, bounds, errors and threads."""

import re
import resource
import threading
from pathlib import Path

import numpy
import pytest
from packets import CLIENT, RS1, RS2, SECOND, VIP, flow, tcp, udp

import lvscore
from lvscore import Reason, Verdict

DAY = 86_400 * SECOND


def dns(**options):
    engine = lvscore.Engine(seed=1, **options)
    engine.add_service("udp", f"{VIP}:53", scheduler="rr").add_server(f"{RS1}:53")
    return engine


def flood(count, first=0):
    """A batch of datagrams from so many clients, their addresses counted up."""
    frame = udp("10.0.0.0", 5353, VIP, 53)
    frame[24:26] = frame[40:42] = b"\0\0"
    buffer = numpy.tile(numpy.frombuffer(bytes(frame), numpy.uint8), (count, 1))
    clients = numpy.arange(first, first + count, dtype=">u4").view(numpy.uint8).reshape(-1, 4)
    buffer[:, 27:30] = clients[:, 1:]
    size = buffer.shape[1]
    offsets = numpy.arange(count) * size
    return buffer.reshape(-1), offsets, numpy.full(count, size)


def test_growth_from_empty_to_many_connections_and_back():
    engine = dns()
    count = 150_000
    buffer, offsets, lengths = flood(count)
    batch = lvscore.FrameBatch(buffer, offsets, lengths, numpy.zeros(count, int))
    engine.process_batch(batch)
    assert (batch.reason == Reason.NEW_CONNECTION).all()
    assert len(engine.connections) == count
    assert engine._selfcheck() == 0
    buffer, offsets, lengths = flood(count)
    batch = lvscore.FrameBatch(buffer, offsets, lengths, numpy.full(count, SECOND))
    engine.process_batch(batch)
    assert (batch.reason == Reason.REQUEST).all()
    snapshot = engine.connections.snapshot()
    assert (snapshot["packets_in"] == 2).all()
    assert len({row.tobytes() for row in snapshot["client"]}) == count
    assert engine.expire(301 * SECOND) == count
    assert engine._selfcheck() == 0


def test_the_bound_of_the_table():
    engine = dns(max_connections=100)
    buffer, offsets, lengths = flood(150)
    batch = lvscore.FrameBatch(buffer, offsets, lengths, numpy.zeros(150, int))
    engine.process_batch(batch)
    assert (batch.reason[:100] == Reason.NEW_CONNECTION).all()
    assert (batch.reason[100:] == Reason.TABLE_FULL).all()
    assert (batch.verdict[100:] == Verdict.DROP).all()
    assert engine.reasons[Reason.TABLE_FULL] == 50
    # What is there goes on, and what expires makes room.
    assert engine.process(udp(CLIENT, 1, VIP, 53), SECOND) == Verdict.DROP
    assert engine.process(udp(CLIENT, 1, VIP, 53), 301 * SECOND) == Verdict.FORWARD


def test_the_bound_is_of_both_families_together():
    engine = dns(max_connections=1)
    engine.add_service("udp", "[2001:db8::1]:53", scheduler="rr").add_server("[fd00::7]:53")
    assert engine.process(udp(CLIENT, 1, VIP, 53), 0) == Verdict.FORWARD
    assert engine.process(udp("2001:db8::9", 1, "2001:db8::1", 53), 0) == Verdict.DROP
    assert engine.last_reason == Reason.TABLE_FULL


def test_a_clock_that_runs_backwards_is_held_and_counted():
    engine = dns()
    engine.process(udp(CLIENT, 1, VIP, 53), 1000 * SECOND)
    engine.process(udp(CLIENT, 1, VIP, 53), 500 * SECOND)
    assert engine.now == 1000 * SECOND
    assert engine.counters["clock_backwards"] == 1
    assert next(iter(engine.connections)).expires_ns == 300 * SECOND


@pytest.mark.parametrize("start", [0, 1, -(2**63), 2**62, 12345678901234567])
def test_any_origin_of_time(start):
    engine = dns()
    engine.process(udp(CLIENT, 1, VIP, 53), start)
    assert engine.next_deadline() <= start + 300 * SECOND
    assert engine.expire(start + 300 * SECOND - 1) == 0
    assert engine.expire(start + 300 * SECOND) == 1
    assert engine.next_deadline() is None


def test_the_end_of_time():
    engine = dns()
    last = 2**63 - 1
    engine.process(udp(CLIENT, 1, VIP, 53), last)
    engine.process(udp(CLIENT, 1, VIP, 53), last)
    assert engine.expire(last) == 0
    with pytest.raises(OverflowError):
        engine.process(udp(CLIENT, 1, VIP, 53), last + 1)


def test_jumps_of_days_and_years():
    engine = dns()
    now = 0
    for jump in (DAY, 40 * DAY, 60 * DAY, 1000 * DAY, 1):
        now += jump
        assert engine.process(udp(CLIENT, 1, VIP, 53), now) == Verdict.FORWARD
        assert len(engine.connections) == 1
        assert engine._selfcheck() == 0
    assert engine.counters["opened"] == 4
    assert engine.last_reason == Reason.REQUEST


def test_packets_keep_a_connection_by_moving_its_deadline_only():
    engine = dns()
    for second in range(0, 3000, 299):
        engine.process(udp(CLIENT, 1, VIP, 53), second * SECOND)
        assert len(engine.connections) == 1
    assert engine.counters["opened"] == 1
    assert engine.expire((second + 300) * SECOND - 1) == 0
    assert engine.expire((second + 300) * SECOND) == 1


@pytest.mark.parametrize("vip", [VIP, "2001:db8::1"])
@pytest.mark.parametrize("options", [{}, {"persistence": 360}])
def test_many_end_in_one_millisecond_and_some_of_them_later(vip, options):
    engine = lvscore.Engine(seed=1)
    service = engine.add_service("udp", (vip, 53), scheduler="rr", **options)
    client, server = (CLIENT, RS1) if vip == VIP else ("2001:db8::9", "2001:db8::2")
    service.add_server((server, 53))
    frames = [udp(client, 1000 + i, vip, 53) for i in range(200)]
    later = frames[:7] + frames[50:150:3] + frames[-2:]
    # The latest is at the head of its slot; when they are used again they lie in their last one.
    for batch, now in ((frames, 0), (later, 299_990_000_000)):
        copies = [bytes(frame) for frame in batch]
        engine.process_batch(lvscore.FrameBatch.of(copies, [now] * len(copies)))
    ports = {flow(frame)[1] for frame in later}
    assert engine.expire(300 * SECOND) == len(frames) - len(later)
    assert {c.client.port for c in engine.connections} == ports
    assert engine._selfcheck() == 0
    for frame in frames:
        engine.process(bytearray(frame), 301 * SECOND)
        known = flow(frame)[1] in ports
        assert engine.last_reason == (Reason.REQUEST if known else Reason.NEW_CONNECTION)
    engine.expire(3000 * SECOND)
    assert len(engine.connections) == 0


def test_a_deadline_within_a_millisecond_is_not_early():
    engine = dns()
    engine.process(udp(CLIENT, 1, VIP, 53), 0)
    engine.process(udp(CLIENT, 2, VIP, 53), 999_999)  # in the same tick
    assert engine.expire(300 * SECOND) == 1
    assert engine.expire(300 * SECOND + 999_998) == 0
    assert engine.expire(300 * SECOND + 1_000_000) == 1


def test_shorter_timeouts_hold_from_the_next_packet_on():
    engine = dns()
    for port in (1, 2):
        engine.process(udp(CLIENT, port, VIP, 53), 0)
    engine.set_timeouts(udp=10)
    assert engine.timeouts.udp == 10
    engine.process(udp(CLIENT, 1, VIP, 53), SECOND)
    assert engine.expire(11 * SECOND - 1) == 0
    assert engine.expire(11 * SECOND) == 1
    assert engine.expire(300 * SECOND - 1) == 0  # the other had no packet
    assert engine.expire(300 * SECOND) == 1


def test_timeouts_of_a_batch():
    engine = dns()
    engine.process(udp(CLIENT, 1, VIP, 53), 0)
    engine.set_timeouts(udp=10)
    engine.process_batch(lvscore.FrameBatch.of([udp(CLIENT, 1, VIP, 53)] * 3, [SECOND] * 3))
    assert engine.expire(11 * SECOND) == 1


@pytest.mark.parametrize("saved", [False, True])
def test_shorter_timeouts_hold_however_late_the_next_packet_is(tmp_path, saved):
    """Timers that came up early, since the timeout got shorter, may do so again."""
    engine = dns()
    engine.process(udp(CLIENT, 1, VIP, 53), 0)
    engine.set_timeouts(udp=60)
    assert engine.expire(119 * SECOND) == 0
    if saved:
        engine.save(tmp_path / "saved")
        engine = lvscore.Engine.load(tmp_path / "saved")
    engine.process_batch(lvscore.FrameBatch.of([udp(CLIENT, 1, VIP, 53)], [119 * SECOND]))
    assert engine._selfcheck() == 0
    assert engine.expire(179 * SECOND - 1) == 0
    assert engine.expire(179 * SECOND) == 1


def test_next_deadline_is_never_late():
    engine = dns()
    engine.process(udp(CLIENT, 1, VIP, 53), 0)
    rounds = 0
    while (deadline := engine.next_deadline()) is not None:
        assert deadline <= 300 * SECOND + 1_000_000
        engine.expire(deadline)
        rounds += 1
    assert engine.now == 300 * SECOND
    assert rounds < 10


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda e: lvscore.Engine(max_connections=0), lvscore.ConfigError, "0"),
        (lambda e: lvscore.Engine(max_connections=2**25 + 1), lvscore.ConfigError, "33554433"),
        (lambda e: lvscore.Engine(seed=-1), lvscore.ConfigError, "-1"),
        (lambda e: lvscore.Engine(seed=b"x" * 17), lvscore.ConfigError, "17"),
        (lambda e: e.add_service("tcp", f"{VIP}:0"), lvscore.ConfigError, "port 0"),
        (lambda e: e.add_service("icmp", f"{VIP}:80"), lvscore.ConfigError, "icmp"),
        (lambda e: e.add_service("tcp", "300.1.1.1:80"), lvscore.AddressError, "300.1.1.1"),
        (lambda e: e.add_service("tcp", f"{VIP}:70000"), lvscore.AddressError, "70000"),
        (lambda e: e.add_service("tcp", f"{VIP}:80", scheduler="no"), lvscore.ConfigError, "'no'"),
        (lambda e: e.add_service("tcp", f"{VIP}:80", scheduler="rr", scheduler_flags=("sh-port",)),
         lvscore.ConfigError, "sh-port"),
        (lambda e: e.add_service("udp", f"{VIP}:53"), lvscore.DuplicateError, VIP),
        (lambda e: e.find_service("udp", f"{VIP}:54"), lvscore.NotFoundError, f"{VIP}:54"),
        (lambda e: e.remove_service("tcp", f"{VIP}:53"), lvscore.NotFoundError, VIP),
        (lambda e: e.services[0].add_server(f"{RS1}:53"), lvscore.DuplicateError, RS1),
        (lambda e: e.services[0].add_server(f"{RS2}:53", weight=-1), lvscore.ConfigError, "-1"),
        (
            lambda e: e.services[0].add_server(f"{RS2}:53", weight=2**31),
            lvscore.ConfigError,
            "2147483648",
        ),
        (lambda e: e.services[0].add_server(f"{RS2}:53", method="x"), lvscore.ConfigError, "'x'"),
        (lambda e: e.services[0].add_server("[fd00::1]:53"), lvscore.ConfigError, "fd00::1"),
        (lambda e: e.services[0].add_server("224.0.0.1:53"), lvscore.ConfigError, "224.0.0.1"),
        (lambda e: e.services[0].remove_server(f"{RS2}:53"), lvscore.NotFoundError, RS2),
        (lambda e: e.add_dnat(to=f"{RS1}:80"), lvscore.ConfigError, "protocol"),
        (lambda e: e.add_dnat(to=RS1, destination="fd00::1"), lvscore.ConfigError, "IPv6"),
        (lambda e: e.add_snat(to="nowhere"), lvscore.AddressError, "nowhere"),
        (lambda e: e.set_timeouts(tcp=0), lvscore.ConfigError, "0"),
        (lambda e: e.set_timeouts(udp=2678401), lvscore.ConfigError, "2678401"),
    ],
)  # fmt: skip
def test_errors_name_the_value_and_change_nothing(call, error, named):
    engine = dns()
    before = [(str(s), s.scheduler, [str(r.endpoint) for r in s]) for s in engine], engine.rules
    with pytest.raises(error) as caught:
        call(engine)
    assert isinstance(caught.value, lvscore.LvscoreError)
    assert named in str(caught.value)
    after = [(str(s), s.scheduler, [str(r.endpoint) for r in s]) for s in engine], engine.rules
    assert after == before


def test_a_second_thread_is_refused():
    """While a batch runs without the GIL, nobody else may enter."""
    engine = dns(max_connections=1_000_000)
    count = 400_000
    refused, done = [], threading.Event()

    def work():
        for round_ in range(20):
            buffer, offsets, lengths = flood(count, round_)
            batch = lvscore.FrameBatch(buffer, offsets, lengths, numpy.zeros(count, int))
            engine.process_batch(batch)
            if refused:
                break
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not done.is_set():
        try:
            engine.process(udp(CLIENT, 1, VIP, 53), 0)
        except lvscore.ConcurrencyError as error:
            refused.append(error)
            break
    thread.join()
    assert refused
    assert isinstance(refused[0], RuntimeError)
    assert engine.process(udp(CLIENT, 1, VIP, 53), 0) == Verdict.FORWARD


def test_buffers_of_any_kind():
    engine = dns()
    frame = udp(CLIENT, 1, VIP, 53)
    outcomes = []
    for wrap in (bytearray, lambda f: memoryview(bytearray(f)),
                 lambda f: numpy.frombuffer(bytearray(f), numpy.uint8)):  # fmt: skip
        buffer = wrap(frame)
        engine.process(buffer, 0)
        outcomes.append(bytes(buffer))
    assert outcomes[0] == outcomes[1] == outcomes[2] != bytes(frame)
    for wrong in (bytes(frame), "text", None, numpy.frombuffer(frame, numpy.uint8)[::2]):
        with pytest.raises(lvscore.ConfigError, match=f"not {type(wrong).__name__}: "):
            engine.process(wrong, 0)


def test_snapshot_iteration_and_find_agree():
    engine = dns()
    engine.add_service("tcp", f"{VIP}:80", scheduler="rr").add_server(f"{RS2}:8080")
    for port in range(50):
        engine.process(udp(CLIENT, 1000 + port, VIP, 53), 0)
        engine.process(tcp(CLIENT, 2000 + port, VIP, 80), 0)
    snapshot = engine.connections.snapshot()
    connections = list(engine.connections)
    assert len(snapshot) == len(connections) == len(engine.connections) == 100
    for connection in connections:
        assert engine.connections.find(
            connection.protocol, connection.client, connection.virtual
        ) == engine.connections.find(connection.protocol, connection.server, connection.local)
        assert connection in connections
    assert engine.connections.find("udp", f"{CLIENT}:9", f"{VIP}:53") is None
    with pytest.raises(KeyError):
        engine.connections["udp", f"{CLIENT}:9", f"{VIP}:53"]
    kept = snapshot.copy()
    engine.expire(DAY)
    assert (snapshot == kept).all()  # a copy, not a view


def resident():
    """Memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize(("family", "size"), [(4, 98), (6, 162)])
def test_prefault_takes_the_memory_of_connections_at_once(family, size):
    engine = lvscore.Engine(seed=1, max_connections=300_000)
    before = resident()
    engine.prefault(300_000, family)
    assert resident() - before > 0.9 * 300_000 * size
    assert engine._selfcheck() == 0
    assert len(engine.connections) == 0


def records_resident(limit):
    """Of the memory reserved for the records of IPv4 connections, so many bytes are there."""
    size = (limit + 1) * 64
    end = start = None
    total = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            start, end = (int(x, 16) for x in found.groups())
        elif line.startswith("Rss:") and end - start == -(-size // 4096) * 4096 - (2 << 20):
            total += int(line.split()[1]) << 10  # behind the first 2 MiB, which are no large pages
    return total


def opened(engine, connections):
    """Let so many clients open a connection, and the thread that takes memory ahead be done."""
    first = len(engine.connections)
    buffer, offsets, lengths = flood(connections, first)
    engine.process_batch(
        lvscore.FrameBatch(buffer, offsets, lengths, numpy.zeros(connections, int))
    )
    assert len(engine.connections) == first + connections
    for thread in threading.enumerate():
        if thread.name == "lvscore-populate":
            thread.join()


def test_a_growing_table_has_memory_ahead_of_its_connections():
    limit = 345_678  # no other mapping is as long
    engine = dns(max_connections=limit)
    opened(engine, 16_000)
    assert records_resident(limit) == 0
    opened(engine, 30_000)
    assert records_resident(limit) >= (46_000 * 5 // 4 + 32_768) * 64 - (4 << 20)
    opened(engine, 54_000)
    assert records_resident(limit) >= (100_000 * 5 // 4 + 32_768) * 64 - (4 << 20)
    assert engine._selfcheck() == 0


def test_a_table_whose_memory_is_there_takes_no_more():
    limit = 345_679
    engine = dns(max_connections=limit)
    engine.prefault(100_000)
    before = records_resident(limit)
    opened(engine, 80_000)
    assert records_resident(limit) == before > 80_000 * 64 - (2 << 20)


def test_memory_is_taken_ahead_up_to_the_limit():
    limit = 54_321
    engine = dns(max_connections=limit)
    opened(engine, 50_000)
    assert records_resident(limit) == -(-(limit + 1) * 64 // 4096) * 4096 - (2 << 20)
    opened(engine, limit - 50_000)
    assert engine._selfcheck() == 0


def test_packets_take_memory_where_no_thread_can_be_had(monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    engine = dns()
    opened(engine, 30_000)
    opened(engine, 30_000)
    assert engine._selfcheck() == 0


def test_prefault_refuses_what_there_cannot_be():
    engine = lvscore.Engine(seed=1, max_connections=10)
    with pytest.raises(lvscore.LimitError, match="11 connections; max_connections is 10"):
        engine.prefault(11)
    with pytest.raises(ValueError, match="-1 connections: expected 0 or more"):
        engine.prefault(-1)
    with pytest.raises(ValueError, match="family 5: expected 4 or 6"):
        engine.prefault(1, 5)
    engine.prefault(0)
