"""The loop that moves frames: what is written, counted and told, also when it ends early."""

import os
import signal

import numpy as np
import pytest

from lvscore.constants import Reason, Verdict
from lvscore.errors import CaptureError, TruncatedCapture
from lvscore.io import MemorySink, MemorySource
from lvscore.runner import run

OUTCOMES = {
    b"f": (Verdict.FORWARD, Reason.REQUEST),
    b"n": (Verdict.FORWARD, Reason.NEW_CONNECTION),
    b"d": (Verdict.DROP, Reason.NO_REAL_SERVER),
    b"p": (Verdict.PASS, Reason.NO_SERVICE),
    b"l": (Verdict.LOCAL, Reason.LOCAL_ADDRESS),
}


class StubEngine:
    """Decides a frame by its first letter; calls ``before`` ahead of each batch."""

    def __init__(self, before=lambda: None):
        self.before = before
        self.emitted_cause = []
        self.counters = {"opened": 7}

    def process_batch(self, batch):
        self.before()
        for i in range(len(batch)):
            batch.verdict[i], batch.reason[i] = OUTCOMES[bytes(batch[i][:1])]
            self.counters["opened"] += batch.reason[i] == Reason.NEW_CONNECTION


class Sink(MemorySink):
    flushed = 0

    def flush(self):
        self.flushed += 1


def frames(letters, batch_size=3):
    return MemorySource([letter.encode() * 10 for letter in letters], batch_size=batch_size)


def letters(sink):
    return "".join(frame[:1].decode() for frame, _ in sink.frames)


def test_forwarded_and_passed_frames_are_written_in_order():
    sink = Sink()
    progress = []
    report = run(StubEngine(), frames("nfdplfnp"), sink, progress=progress.append)
    assert letters(sink) == "nfpfnp"
    assert (report.frames, report.bytes, report.connections) == (8, 80, 2)
    assert report.verdicts == {"FORWARD": 4, "DROP": 1, "PASS": 2, "LOCAL": 1}
    assert report.drops == {"NO_REAL_SERVER": 1}
    assert report.elapsed > 0
    assert not report.interrupted
    assert progress == [3, 6, 8]
    assert sink.flushed == 1


def test_a_sink_is_not_needed():
    assert run(StubEngine(), frames("nfd")).frames == 3


def test_what_the_engine_puts_out_is_written_where_its_cause_stood():
    engine = StubEngine()
    engine.emitted = next(iter(MemorySource([b"e", b"E"])))
    engine.emitted.verdict[:] = Verdict.FORWARD, Verdict.LOCAL
    engine.emitted_cause = [1, 1]
    sink = Sink()
    run(engine, frames("ffff", batch_size=2), sink)
    assert letters(sink) == "feffef"


class BrokenSource:
    def __init__(self, error):
        self.error = error

    def __iter__(self):
        yield from frames("nfd")
        raise self.error


@pytest.mark.parametrize("error", [TruncatedCapture("cut", 7), CaptureError("corrupt")])
def test_a_broken_source_tells_of_what_came_before(error):
    sink = Sink()
    with pytest.raises(type(error)) as caught:
        run(StubEngine(), BrokenSource(error), sink)
    assert caught.value.report.frames == 3
    assert letters(sink) == "nf"
    assert sink.flushed == 1


def test_ctrl_c_ends_between_batches():
    sink = Sink()
    engine = StubEngine(before=lambda: os.kill(os.getpid(), signal.SIGINT))
    report = run(engine, frames("nfdpl"), sink)
    assert report.interrupted
    assert report.frames == 3
    assert letters(sink) == "nf"
    assert sink.flushed == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_is_not_held_back():
    def twice():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    sink = Sink()
    report = run(StubEngine(before=twice), frames("nfdpl"), sink)
    assert report.interrupted
    assert report.frames == 0
    assert sink.frames == []


def test_ctrl_c_while_waiting_for_frames():
    sink = Sink()
    report = run(StubEngine(), BrokenSource(KeyboardInterrupt()), sink)
    assert report.interrupted
    assert report.frames == 3


def test_an_error_of_the_sink_is_not_a_broken_source():
    class FullSink(Sink):
        def write_batch(self, batch, select=None):
            raise CaptureError("disk full")

    sink = FullSink()
    with pytest.raises(CaptureError, match="disk full") as caught:
        run(StubEngine(), frames("nfd"), sink)
    assert caught.value.report is None
    assert sink.flushed == 0


def test_every_reason_is_counted():
    class AllReasons(StubEngine):
        def process_batch(self, batch):
            batch.verdict[:] = Verdict.DROP
            batch.reason[:] = np.arange(len(batch))

    report = run(AllReasons(), frames("d" * len(Reason), batch_size=100))
    assert report.drops == {reason.name: 1 for reason in Reason}
