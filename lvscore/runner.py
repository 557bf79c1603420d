"""Moves frames from a source through an engine to a sink.

The loop is per batch; nothing here is done for each packet.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from lvscore.constants import Reason, Verdict
from lvscore.errors import CaptureError
from lvscore.report import Report

if TYPE_CHECKING:
    from lvscore._frames import FrameBatch
    from lvscore.engine import Engine
    from lvscore.io import Sink

__all__ = ["run"]

_OPENING = (Reason.NEW_CONNECTION, Reason.CONNECTION_REUSED)


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
    tally = _Tally()
    try:
        for batch in _read(source, sink, tally):
            with _Uninterrupted():
                tally.bytes += int(batch.length.sum(dtype=np.uint64))
                engine.process_batch(batch)
                if sink is not None:
                    _write(engine, batch, sink)
                tally.count(batch)
            if progress is not None:
                progress(tally.frames)
    except KeyboardInterrupt:
        tally.interrupted = True
    _flush(sink)
    return tally.report()


def _read(
    source: "Iterable[FrameBatch]", sink: "Sink | None", tally: "_Tally"
) -> "Iterator[FrameBatch]":
    try:
        yield from source
    except CaptureError as error:
        _flush(sink)
        error.report = tally.report()
        raise


def _write(engine: "Engine", batch: "FrameBatch", sink: "Sink") -> None:
    sent = _sent(batch)
    causes = engine.emitted_cause
    if not causes:
        sink.write_batch(batch, select=sent)
        return
    # What was put out for a frame goes where that frame would have gone.
    emitted = engine.emitted
    cause = np.asarray(causes)
    index = np.arange(len(batch))
    start = 0
    for end in np.unique(cause):
        sink.write_batch(batch, select=sent & (index >= start) & (index < end))
        sink.write_batch(emitted, select=_sent(emitted) & (cause == end))
        start = end
    sink.write_batch(batch, select=sent & (index >= start))


def _sent(batch: "FrameBatch") -> "npt.NDArray[np.bool_]":
    return np.isin(batch.verdict, (Verdict.FORWARD, Verdict.PASS))


def _flush(sink: "Sink | None") -> None:
    flush = getattr(sink, "flush", None)
    if flush is not None:
        flush()


class _Tally:
    """Counts frames by verdict and reason."""

    def __init__(self) -> None:
        self.frames = 0
        self.bytes = 0
        self.interrupted = False
        self._started = time.perf_counter()
        self._outcomes: npt.NDArray[np.intp] = np.zeros(1 << 16, dtype=np.intp)

    def count(self, batch: "FrameBatch") -> None:
        counts = np.bincount((batch.verdict.astype(np.uint16) << 8) | batch.reason)
        self._outcomes[: len(counts)] += counts
        self.frames += len(batch)

    def report(self) -> Report:
        elapsed = time.perf_counter() - self._started
        by_outcome = self._outcomes.reshape(256, 256)
        by_verdict = by_outcome.sum(axis=1)
        dropped = by_outcome[Verdict.DROP]
        return Report(
            frames=self.frames,
            bytes=self.bytes,
            verdicts={v.name: int(by_verdict[v]) for v in Verdict if by_verdict[v]},
            drops={reason.name: int(dropped[reason]) for reason in Reason if dropped[reason]},
            connections=int(by_outcome[:, _OPENING].sum()),
            elapsed=elapsed,
            interrupted=self.interrupted,
        )


class _Uninterrupted:
    """Holds Ctrl-C back while a batch is in work, so that no half of it is written.

    A second Ctrl-C is not held back, in case the sink never gets on. Only the main thread gets
    the signal, and only Python's own handler is replaced.
    """

    def __enter__(self) -> Self:
        self._noted = False
        self._replaced = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if self._replaced:
            signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._noted:
            raise KeyboardInterrupt
        self._noted = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._replaced:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._noted and error is None:
            raise KeyboardInterrupt
