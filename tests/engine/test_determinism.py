"""The engine is a function: the same frames and times give the same bytes, however they come."""

import random

import captures
import features
import pytest
from test_sweep import mixed_engine

import lvscore
from lvscore import Reason, Verdict

FILES = captures.files()
MAX_FRAMES = 8000  # of one capture: the longest say nothing new


def cases():
    for name, path in FILES.items():
        yield pytest.param(path, id=name)


def in_batches(engine, frames, link_type, sizes):
    """Outcome of each frame, sent in batches of these sizes."""
    out, first = [], 0
    while first < len(frames):
        part = frames[first : first + next(sizes)]
        batch = captures.batch_of(part, link_type)
        engine.process_batch(batch)
        out += [
            (int(batch.verdict[i]), int(batch.reason[i]), bytes(batch[i]))
            for i in range(len(batch))
        ]
        first += len(part)
    return out


def one_by_one(engine, frames, link_type):
    out = []
    for frame in frames:
        data = bytearray(frame.data)
        verdict = engine.process(data, frame.time, link_type)
        out.append((int(verdict), int(engine.last_reason), bytes(data)))
    return out


def always(size):
    while True:
        yield size


def randomly(seed):
    random_ = random.Random(seed)
    while True:
        yield random_.choice((1, 2, 15, 16, 17, 40, 300))


def state_of(engine):
    snapshot = sorted(row.tobytes() for row in engine.connections.snapshot())
    statistics = [s.statistics for s in engine] + [engine.statistics]
    return engine.counters, engine.reasons, snapshot, statistics


@pytest.mark.parametrize("path", list(cases()))
def test_replays_batches_and_splits_agree(path):
    for capture in captures.load(path):
        frames, link_type = capture.frames[:MAX_FRAMES], capture.link_type
        engines = [mixed_engine(capture) for _ in range(4)]
        whole = in_batches(engines[0], frames, link_type, always(len(frames)))
        assert in_batches(engines[1], frames, link_type, always(len(frames))) == whole
        assert in_batches(engines[2], frames, link_type, randomly(len(frames))) == whole
        if all(frame.wire_length == len(frame.data) for frame in frames):
            assert one_by_one(engines[3], frames, link_type) == whole
        else:
            assert in_batches(engines[3], frames, link_type, always(1)) == whole
        expected = state_of(engines[0])
        assert all(state_of(engine) == expected for engine in engines[1:])


def test_another_seed_gives_other_ports_only_where_chance_is_asked():
    """A hash key must not be seen from outside."""
    path = FILES["zeek/echo-connections.pcap.gz"]
    capture = captures.load(path)[0]
    frames = capture.frames[:3000]
    outcomes = []
    for seed in (1, 2):
        engine = lvscore.Engine(seed=seed)
        service = engine.add_service("tcp", "127.0.0.1:8080", scheduler="wrr")
        service.add_server("10.0.0.1:80")
        service.add_server("10.0.0.2:80", weight=2)
        outcomes.append(in_batches(engine, frames, capture.link_type, always(512)))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("path", list(cases()))
def test_explain_says_what_process_does_and_does_nothing(path):
    for capture in captures.load(path):
        engine = mixed_engine(capture)
        step = max(1, len(capture.frames) // 60)
        for n, frame in enumerate(capture.frames[:MAX_FRAMES]):
            data = bytearray(frame.data)
            if n % step:
                engine.process(data, frame.time, capture.link_type)
                continue
            before = state_of(engine)
            explanation = engine.explain(frame.data, frame.time, link_type=capture.link_type)
            assert state_of(engine) == before
            verdict = engine.process(data, frame.time, capture.link_type)
            assert explanation.verdict == verdict
            assert explanation.reason == engine.last_reason
            assert explanation.frame == bytes(data)
            assert explanation.steps
            assert isinstance(Verdict(explanation.verdict), Verdict)
            assert explanation.reason != Reason.NONE


@pytest.mark.parametrize("feature", features.FEATURES)
def test_the_same_seed_gives_the_same_bytes(feature):
    frames, times, marks = features.traffic(feature)
    engines = [features.make(feature, seed) for seed in (3, 3, 4)]
    outcomes = [features.one_by_one(engine, frames, times, marks) for engine in engines]
    assert outcomes[0] == outcomes[1]
    assert features.state_of(engines[0]) == features.state_of(engines[1])
    # Another seed changes what is drawn, the identification of a tunnel's packets, and no more.
    assert [one[:3] for one in outcomes[0]] == [one[:3] for one in outcomes[2]]
    assert features.state_of(engines[0]) == features.state_of(engines[2])


@pytest.mark.parametrize("feature", features.FEATURES)
def test_explain_has_no_effect_on_any_feature(feature):
    """Neither on what is there, nor on what is drawn and decided afterwards."""
    frames, times, marks = features.traffic(feature, 300)
    plain, asked = features.make(feature), features.make(feature)
    expected = features.one_by_one(plain, frames, times, marks)
    for n, (frame, now, mark) in enumerate(zip(frames, times, marks, strict=True)):
        before = features.state_of(asked) if n % 10 == 0 else None
        explanation = asked.explain(frame, now, mark=mark)
        if before:
            assert features.state_of(asked) == before
        assert (explanation.verdict, explanation.reason) == expected[n][:2]
        if explanation.verdict != Verdict.STOLEN:
            assert explanation.frame == expected[n][2]
        assert features.one_by_one(asked, [frame], [now], [mark]) == [expected[n]]
    assert features.state_of(asked) == features.state_of(plain)
