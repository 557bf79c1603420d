"""Moves frames from a source through an engine to a sink.

The loop is per batch; nothing here is done for each packet.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Self

import numpy as np

from lvscore._tally import Tally, sent
from lvscore.constants import Reason, Verdict
from lvscore.errors import CaptureError
from lvscore.report import Report

if TYPE_CHECKING:
    from lvscore._frames import FrameBatch
    from lvscore.engine import Engine
    from lvscore.io import Sink

__all__ = ["run"]


def run(
    engine: "Engine",
    source: "Iterable[FrameBatch]",
    sink: "Sink | None" = None,
    *,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Process all frames of a source, and write what is sent on to a sink.

    Written are the frames with verdict FORWARD or PASS, in their order, then what the engine
    has put out itself for the batch. The time that the engine sees is the frames' own.

    Args:
        engine: the engine.
        source: batches of frames, for example from :func:`lvscore.open_pcap`.
        sink: where frames go; it is flushed at the end and not closed.
        progress: called after each batch with the number of frames so far.

    Returns:
        What became of the frames. ``KeyboardInterrupt`` ends a run between two batches, and
        the report says so; a second one is raised at once.

    Raises:
        CaptureError: the source ends inside a record or is corrupt. All that came before is
            processed and written; the error's ``report`` tells of it.
    """
    tally = Tally()
    started = time.perf_counter()
    before = engine.counters["opened"]
    interrupted = False

    def report() -> Report:
        return _report(tally, started, engine.counters["opened"] - before, interrupted)

    try:
        with _Interrupts() as interrupts:
            for batch in _read(source, sink, report):
                interrupts.hold()
                tally.measure(batch)
                engine.process_batch(batch)
                if sink is not None:
                    _write(engine, batch, sink)
                tally.count(batch)
                interrupts.release()
                if progress is not None:
                    progress(tally.frames)
    except KeyboardInterrupt:
        interrupted = True
    _flush(sink)
    return report()


def _read(
    source: "Iterable[FrameBatch]", sink: "Sink | None", report: Callable[[], Report]
) -> "Iterator[FrameBatch]":
    try:
        yield from source
    except CaptureError as error:
        _flush(sink)
        error.report = report()
        raise


def _write(engine: "Engine", batch: "FrameBatch", sink: "Sink") -> None:
    chosen = sent(batch)
    causes = engine.emitted_cause
    if not causes:
        sink.write_batch(batch, select=chosen)
        return
    # What was put out for a frame goes where that frame would have gone.
    emitted = engine.emitted
    cause = np.asarray(causes)
    index = np.arange(len(batch))
    start = 0
    for end in np.unique(cause):
        sink.write_batch(batch, select=chosen & (index >= start) & (index < end))
        sink.write_batch(emitted, select=sent(emitted) & (cause == end))
        start = end
    sink.write_batch(batch, select=chosen & (index >= start))


def _flush(sink: "Sink | None") -> None:
    flush = getattr(sink, "flush", None)
    if flush is not None:
        flush()


def _report(tally: Tally, started: float, opened: int, interrupted: bool) -> Report:
    by_verdict = tally.outcomes.sum(axis=1)
    dropped = tally.outcomes[Verdict.DROP]
    return Report(
        frames=tally.frames,
        bytes=tally.bytes,
        verdicts={v.name: int(by_verdict[v]) for v in Verdict if by_verdict[v]},
        drops={reason.name: int(dropped[reason]) for reason in Reason if dropped[reason]},
        connections=opened,
        elapsed=time.perf_counter() - started,
        interrupted=interrupted,
    )


class _Interrupts:
    """Holds Ctrl-C back while a batch is in work, so that no half of it is written.

    A second Ctrl-C is not held back, in case the sink never gets on. Only the main thread gets
    the signal, and only Python's own handler is replaced.
    """

    def __enter__(self) -> Self:
        self._held = self._noted = False
        self._replaced = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if self._replaced:
            signal.signal(signal.SIGINT, self._take)
        return self

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._noted or not self._held:
            raise KeyboardInterrupt
        self._noted = True

    def hold(self) -> None:
        self._held = True

    def release(self) -> None:
        self._held = False
        if self._noted:
            raise KeyboardInterrupt

    def __exit__(self, *_: object) -> None:
        if self._replaced:
            signal.signal(signal.SIGINT, signal.default_int_handler)
