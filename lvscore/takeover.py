"""Hot restart: a new process goes on where a running or a killed director was.

A running one is asked through its control socket: between two batches it saves its engine to a
file, answers, and ends. One that was killed leaves the file that it wrote every few seconds.
"""

import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lvscore._fork import fork
from lvscore.control import call
from lvscore.engine import Engine
from lvscore.errors import ControlError, SnapshotError
from lvscore.model import Outcome
from lvscore.snapshot import is_snapshot

__all__ = ["HANDOVER", "StateFile", "hand_over", "take_over"]

HANDOVER = "lvscore-handover"
"""What the control socket is asked for, as if it were a program: its word is a file to write."""


def take_over(control: str, now: int) -> Engine | None:
    """Let the director that listens on ``control`` end, and return its engine; None: there is none.

    Args:
        control: its control socket.
        now: the time, in nanoseconds: the engine's is not later.

    Raises:
        ControlError: it could not hand over, and is still at work, or does not answer.
        SnapshotError: it has ended, but what it left cannot be read.
    """
    path = f"{os.path.abspath(control)}.handover"
    try:
        outcome = call(control, [HANDOVER, path])
    except ControlError as error:
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            return None
        raise
    if outcome.status:
        raise ControlError(errno.EIO, outcome.stderr.strip(), control)
    try:
        return _load(path, now)
    finally:
        Path(path).unlink(missing_ok=True)


def _load(path: str, now: int) -> Engine:
    """An engine whose time goes on: where the clock was set back meanwhile, its own goes with it,
    or its timers would wait for the clock."""
    engine = Engine.load(path)
    return engine if engine.now <= now else Engine.load(path, now=now)


def hand_over(engine: Engine, argv: Sequence[str], stop: Callable[[], None]) -> Outcome:
    """Answer a request of :func:`take_over`: save the engine, and stop."""
    if len(argv) != 2:
        return Outcome(2, "", f"{HANDOVER}: expected a file\n")
    try:
        engine.save(argv[1])
    except SnapshotError as error:
        return Outcome(1, "", f"{error}\n")
    stop()
    return Outcome(0)


class StateFile:
    """The file that an engine is saved to every few seconds, by a process of its own: it has the
    memory as it was when it began, so that packets do not wait.

    Args:
        path: the file; its folder is made if it is not there.

    Raises:
        SnapshotError: the folder cannot be made, or the file is another's, which would be lost.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._saving = 0
        if not path:
            raise SnapshotError("'' is no file for the state: expected a path")
        try:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            strange = os.path.exists(path) and not is_snapshot(path)
        except OSError as error:
            raise SnapshotError(f"{path}: {error.strerror or error}") from None
        if strange:
            raise SnapshotError(
                f"{path}: is there, and no saved engine of lvscore: it would be lost; "
                "expected another file"
            )

    def load(self, now: int) -> Engine | None:
        """The engine that was saved, its time not later than ``now``; None: there is no file yet.

        Raises:
            SnapshotError: the file cannot be read.
        """
        there = os.path.exists(self.path) and os.path.getsize(self.path) > 0
        return _load(self.path, now) if there else None

    def save_beside(self, engine: Engine) -> None:
        """Begin to save, unless that begun before is not done yet."""
        if not self._is_done(os.WNOHANG):
            return
        self._saving = fork(lambda: self._save(engine))

    def _save(self, engine: Engine) -> None:
        try:
            engine.save(self.path)
        except SnapshotError as error:
            print(f"lvscore: error: {error}", file=sys.stderr, flush=True)

    def save(self, engine: Engine) -> None:
        """Save now, after what was begun.

        Raises:
            SnapshotError: the file cannot be written.
        """
        self._is_done(0)
        engine.save(self.path)

    def _is_done(self, options: int) -> bool:
        if self._saving:
            pid, _ = os.waitpid(self._saving, options)
            if pid == 0:
                return False
            self._saving = 0
        return True
