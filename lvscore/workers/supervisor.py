"""The processes of a director with several engines, and the one that holds them together.

Each worker has an engine and a share of every interface's frames, and listens on a control socket
of its own beside the director's. The supervisor moves no packets: it begins the workers one after
the other, asks them all what it is asked, hands signals on, and ends with the first that ends.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

from lvscore._fork import fork
from lvscore.control import ControlServer, call
from lvscore.errors import ControlError, LvscoreError
from lvscore.model import Outcome
from lvscore.takeover import HANDOVER
from lvscore.workers.merge import ask, merged

__all__ = ["Worker", "Workers"]

_GO = b"go\n"


class Worker:
    """What a worker knows of its place.

    Attributes:
        number: from 0.
        control: the path of its control socket.
        groups: what the first worker said when it was ready; of the first, nothing.
    """

    def __init__(
        self, number: int, control: str, groups: dict[str, Any], line: socket.socket
    ) -> None:
        self.number = number
        self.control = control
        self.groups = groups
        self._line = line

    def ready(self, said: dict[str, Any]) -> None:
        """Tell that everything is open, and wait until all others are ready, too.

        Raises:
            ControlError: they will not be.
        """
        self._line.sendall(json.dumps(said).encode() + b"\n")
        if self._line.recv(len(_GO)) != _GO:
            raise ControlError(104, "the other workers could not begin", self.control)

    def fileno(self) -> int:
        """Readable when the supervisor has ended, or wants this worker to."""
        return self._line.fileno()


class Workers:
    """The processes; a context manager that ends them.

    Args:
        count: how many.
        control: the path of the director's control socket.
        work: what a worker does, in a process of its own; it calls :meth:`Worker.ready`.

    Raises:
        ControlError: one could not begin; it has told why on standard error.
    """

    def __init__(self, count: int, control: str, work: Callable[[Worker], None]) -> None:
        self.control = control
        self._children: dict[int, tuple[int, socket.socket]] = {}
        groups: dict[str, Any] = {}
        try:
            for number in range(count):
                said = self._begin(number, groups, work)
                groups = groups or said
            for _, line in self._children.values():
                line.sendall(_GO)
        except BaseException:
            self.close()
            raise

    def _begin(
        self, number: int, groups: dict[str, Any], work: Callable[[Worker], None]
    ) -> dict[str, Any]:
        """Fork a worker, and wait until it is ready."""
        here, there = socket.socketpair()
        worker = Worker(number, self.path(number), groups, there)

        def begin() -> None:
            os.setpgid(0, 0)  # Ctrl-C is for the supervisor
            try:
                work(worker)
            except (LvscoreError, OSError) as error:
                print(f"lvscore: error: {' '.join(str(error).split())}", file=sys.stderr)
                os._exit(1)

        child = fork(begin, keep=there.fileno())
        there.close()
        self._children[number] = child, here
        with here.makefile("rb") as stream:
            said = stream.readline()
        if not said:
            raise ControlError(10, f"worker {number} could not begin", self.control)
        told: dict[str, Any] = json.loads(said)
        return told

    def path(self, number: int) -> str:
        """The control socket of a worker."""
        return f"{self.control}.{number}"

    def execute(self, argv: Sequence[str], stdin: str = "") -> Outcome:
        """Let all workers carry out a program; what it prints of all of them."""
        if argv[0] == HANDOVER:
            return Outcome(1, "", "a director with workers cannot hand over\n")
        asked = ask(argv)
        outcomes = [call(self.path(number), asked, stdin) for number in self._children]
        return merged(argv, outcomes)

    def run(self, server: ControlServer) -> int:
        """Serve until SIGINT or SIGTERM, or until a worker ends; SIGHUP is for all of them.

        Returns:
            0, or 1 if a worker failed.
        """
        wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        arrived: set[int] = set()

        def note(number: int, _: object) -> None:
            arrived.add(number)
            os.eventfd_write(wake, 1)

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, note) for number in numbers}
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(wake, selectors.EVENT_READ)
                selector.register(server.fileno(), selectors.EVENT_READ)
                lines = {line.fileno(): n for n, (_, line) in self._children.items()}
                for line in lines:
                    selector.register(line, selectors.EVENT_READ)
                while not arrived & {signal.SIGINT, signal.SIGTERM}:
                    ready = {key.fd for key, _ in selector.select()}
                    if ready & set(lines):
                        return self._ended(min(lines[line] for line in ready & set(lines)))
                    if wake in ready:
                        os.eventfd_read(wake)
                    if signal.SIGHUP in arrived:
                        arrived.discard(signal.SIGHUP)
                        for child, _ in self._children.values():
                            os.kill(child, signal.SIGHUP)
                    server.step()
            return 0
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(wake)

    def _ended(self, number: int) -> int:
        """A worker has closed its line: how it ended."""
        child, line = self._children.pop(number)
        line.close()
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code:
            how = f"with status {code}" if code > 0 else f"by signal {-code}"
            print(f"lvscore: error: worker {number} ended {how}; all end", file=sys.stderr)
        return int(code != 0)

    def close(self) -> None:
        """Let all workers end, and wait for them."""
        for _, line in self._children.values():
            line.close()
        for child, _ in self._children.values():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)
        self._children = {}

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
