"""Every capture through engines of all kinds: nothing crashes, everything adds up."""

import random
from collections import Counter

import captures
import numpy
import pytest
from test_round_trip import conversations, endpoint, server_for

import lvscore
from lvscore import Reason, Verdict

FILES = captures.files()
LONGEST = 432_000 * 1_000_000_000  # netfilter's ESTABLISHED
SCHEDULERS = tuple(lvscore.SCHEDULERS)


def mixed_engine(capture):
    """Services of every scheduler, rules of every kind, and plain tracking, in one engine."""
    _, servers = conversations(capture.frames, capture.link_type)
    engine = lvscore.Engine(seed=7, max_connections=5000)
    engine.routes.add_interface("eth0", ["203.0.113.5/24", "2001:db8:9::5/64"])
    engine.routes.add("default", "eth0")
    engine.routes.add("::/0", "eth0")
    for n, ((protocol, virtual), server) in enumerate(list(servers.items())[:200]):
        if n % 3 == 2:
            engine.add_dnat(
                to=endpoint(server),
                destination=endpoint(virtual).address,
                protocol=protocol,
                destination_ports=endpoint(virtual).port,
            )
            continue
        service = engine.add_service(
            protocol, endpoint(virtual), scheduler=SCHEDULERS[n % len(SCHEDULERS)]
        )
        for k in range(n % 4):
            service.add_server(endpoint(server_for(4 * n + k, len(virtual[0]))), weight=k)
    engine.add_snat(to="203.0.113.6-203.0.113.7", source="192.168.0.0/16")
    engine.add_masquerade(source="172.16.0.0/12", protocol="tcp", to_ports=(2000, 2100))
    engine.add_masquerade(source="fe80::/10")
    return engine


def plain_engine(capture):
    return lvscore.Engine(seed=7)


@pytest.mark.parametrize("make", [mixed_engine, plain_engine])
@pytest.mark.parametrize("name", FILES, ids=str)
def test_sweep(name, make):
    runs = captures.load(FILES[name])
    assert runs, "nothing could be read"
    for capture in runs:
        engine = make(capture)
        outcomes = Counter()
        for first in range(0, len(capture.frames), 1000):
            batch = captures.batch_of(capture.frames[first : first + 1000], capture.link_type)
            engine.process_batch(batch)
            outcomes.update(numpy.asarray(batch.verdict).tolist())
            assert not (numpy.asarray(batch.reason) == Reason.NONE).any()
            for i in range(len(batch)):
                if batch.verdict[i] == Verdict.PASS:
                    assert bytes(batch[i]) == capture.frames[first + i].data
        counters = engine.counters
        assert counters["frames"] == len(capture.frames) == sum(outcomes.values())
        assert counters["bytes"] == sum(len(frame.data) for frame in capture.frames)
        assert counters["dropped"] == outcomes[Verdict.DROP]
        assert counters["forwarded"] == outcomes[Verdict.FORWARD]
        assert counters["local"] == outcomes[Verdict.LOCAL]
        assert counters["passed"] == outcomes[Verdict.PASS]
        assert sum(engine.reasons.values()) == len(capture.frames)
        assert counters["opened"] >= counters["connections"] == len(engine.connections)
        assert engine._selfcheck() == 0
        gone = engine.expire(engine.now + LONGEST + 1_000_000)
        assert gone == counters["connections"]
        assert len(engine.connections) == 0
        assert engine.next_deadline() is None
        assert all(server.active == server.inactive == 0 for s in engine for server in s)


def frames_of_kinds():
    """The first few frames of every capture, which have every shape there is."""
    for name, path in FILES.items():
        for capture in captures.load(path):
            for frame in capture.frames[:4]:
                if len(frame.data) < 400:
                    yield name, capture, frame


def test_frames_cut_at_every_byte():
    """Truncated and snapped: never a crash, and no byte of a frame that is not forwarded."""
    engines, seen = {}, 0
    for _, capture, frame in frames_of_kinds():
        if capture.link_type not in engines:
            engines[capture.link_type] = mixed_engine(capture)
        engine = engines[capture.link_type]
        cut = [frame._replace(data=frame.data[:n], wire_length=wire)
               for n in range(len(frame.data)) for wire in (n, frame.wire_length)]  # fmt: skip
        batch = captures.batch_of(cut, capture.link_type)
        engine.process_batch(batch)
        for i, piece in enumerate(cut):
            if batch.verdict[i] not in (Verdict.FORWARD, Verdict.LOCAL):
                changed = bytes(batch[i]) != piece.data
                assert not changed or batch.reason[i] in (
                    Reason.NO_REAL_SERVER, Reason.TABLE_FULL,
                )  # fmt: skip
        seen += len(cut)
    assert seen > 10_000
    assert all(engine._selfcheck() == 0 for engine in engines.values())


def test_frames_with_flipped_bits():
    random_ = random.Random(11)
    for _, capture, frame in frames_of_kinds():
        engine = mixed_engine(capture)
        flipped = []
        for _ in range(100):
            data = bytearray(frame.data)
            for _ in range(random_.randrange(1, 4)):
                data[random_.randrange(len(data))] ^= 1 << random_.randrange(8)
            flipped.append(frame._replace(data=bytes(data)))
        engine.process_batch(captures.batch_of(flipped, capture.link_type))
        assert engine.counters["frames"] == 100
        assert engine._selfcheck() == 0
