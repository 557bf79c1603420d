"""The control socket: what another process may ask of a running director.

A Unix stream socket that only its owner may open. A request is one line of JSON,
``{"argv": ["ipvsadm", "-Ln"], "stdin": ""}``; so is its answer,
``{"status": 0, "stdout": "...", "stderr": ""}``. A connection may carry any number of them, one
after the other. What is not understood is answered with status 2 and a reason, and ends the
connection.
"""

import contextlib
import errno
import json
import os
import selectors
import signal
import socket
import stat
import struct
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Self

from lvscore._fork import fork
from lvscore.errors import ControlError
from lvscore.model import Outcome

__all__ = [
    "DEFAULT_PATH",
    "MAX_CLIENTS",
    "MAX_REQUEST",
    "Beside",
    "ControlServer",
    "call",
    "path_of",
]

DEFAULT_PATH = "/run/lvscore/director.sock"
MAX_REQUEST = 4 << 20
"""Bytes of a request's line; an ``ipvsadm-restore`` of 60,000 lines fits."""
MAX_CLIENTS = 16
"""Connections at once; one more takes the place of that which was silent longest."""
_PIECE = 1 << 16
_LONGEST_PATH = 107  # sockaddr_un.sun_path


class Beside:
    """A program that a process beside this one carries out, with its memory as it is now.

    Args:
        work: what it does; nothing that it changes is seen here.
    """

    def __init__(self, work: Callable[[], Outcome]) -> None:
        self.received = bytearray()
        self._reader, writer = os.pipe()

        def answer() -> None:
            with os.fdopen(writer, "wb") as stream:
                stream.write(_encoded(work()))

        try:
            self._child = fork(answer, keep=writer)
        finally:
            os.close(writer)

    def fileno(self) -> int:
        """Where its answer comes from."""
        return self._reader

    def receive(self) -> bool:
        """Take some of the answer; False: that was all."""
        piece = os.read(self._reader, _PIECE)
        self.received += piece
        return bool(piece)

    def close(self) -> None:
        """End it, if it has not ended."""
        os.close(self._reader)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._child, signal.SIGKILL)
        os.waitpid(self._child, 0)


class _Client:
    """A connection: what was received of its request, and what is still to be sent to it."""

    def __init__(self, connection: socket.socket, heard: int) -> None:
        self.connection = connection
        self.heard = heard
        self.received = bytearray()
        self.pending = memoryview(b"")
        self.beside: Beside | None = None  # what makes its answer
        self.last = False  # the connection ends when everything has been sent


class ControlServer:
    """Listens on a path and answers requests, a little at each :meth:`step`: it never waits.

    Args:
        path: where to listen. The folder is made if it is not there; the socket of a process
            that has ended is replaced.
        execute: carries out a program's words and standard input; or begins to (:class:`Beside`),
            and the answer is sent when it is there.
        replace: take the place of a running director's socket, too.

    Raises:
        ControlError: the path cannot be listened on, or a running director does.
    """

    def __init__(
        self,
        path: str,
        execute: Callable[[Sequence[str], str], Outcome | Beside],
        *,
        replace: bool = False,
    ) -> None:
        self.path = path
        self._execute = execute
        self._clients: dict[int, _Client] = {}
        self._heard = 0
        self._listener = _listen(path, replace)
        status = os.stat(path)
        self._identity = status.st_dev, status.st_ino
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)

    def fileno(self) -> int:
        """What a loop waits on (readable: call :meth:`step`)."""
        # The selector of Linux is an epoll, which can be waited on itself.
        return self._selector.fileno()

    def step(self, timeout: float | None = 0) -> None:
        """Do what can be done now: accept, receive, carry out, send."""
        for key, events in self._selector.select(timeout):
            if key.fileobj is self._listener:
                self._accept()
                continue
            client = key.data
            if client.connection.fileno() not in self._clients:
                continue  # ended in this very step, to make room
            try:
                if isinstance(key.fileobj, Beside):
                    self._continue(client, key.fileobj)
                else:
                    self._serve(client, events)
            except OSError:
                self._forget(client)  # the client has gone, in whatever way

    def close(self) -> None:
        """Stop listening; the socket is removed, if it is still this one's."""
        for client in list(self._clients.values()):
            self._forget(client)
        self._selector.close()
        self._listener.close()
        try:
            status = os.stat(self.path)
            if (status.st_dev, status.st_ino) == self._identity:
                os.unlink(self.path)
        except OSError:
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # it has given up, or there is no descriptor left
        if len(self._clients) == MAX_CLIENTS:
            self._forget(min(self._clients.values(), key=lambda client: client.heard))
        connection.setblocking(False)
        client = self._clients[connection.fileno()] = _Client(connection, self._next())
        self._selector.register(connection, selectors.EVENT_READ, client)

    def _next(self) -> int:
        self._heard += 1
        return self._heard

    def _forget(self, client: _Client) -> None:
        if client.beside is None:
            self._selector.unregister(client.connection)
        else:
            self._selector.unregister(client.beside)
            client.beside.close()
        del self._clients[client.connection.fileno()]
        client.connection.close()

    def _serve(self, client: _Client, events: int) -> None:
        """Receive, carry out one request, or send; then wait for what is next."""
        if events & selectors.EVENT_READ:
            data = client.connection.recv(_PIECE)
            if not data:
                self._forget(client)
                return
            client.heard = self._next()
            client.received += data
        if not client.pending and _is_complete(client.received):
            self._answer(client)
        if client.pending:
            with contextlib.suppress(BlockingIOError):
                client.pending = client.pending[client.connection.send(client.pending) :]
        if client.last and not client.pending:
            self._forget(client)
            return
        if client.beside is not None:
            self._selector.unregister(client.connection)
            self._selector.register(client.beside, selectors.EVENT_READ, client)
            return
        # Nothing more is read from one that does not take its answer, and one that has sent
        # many requests at once waits for its turn with the second.
        busy = client.pending or _is_complete(client.received)
        events = selectors.EVENT_WRITE if busy else selectors.EVENT_READ
        self._selector.modify(client.connection, events, client)

    def _continue(self, client: _Client, beside: Beside) -> None:
        """Take what a process beside this one has made of an answer; send it when it is whole."""
        if beside.receive():
            return
        self._selector.unregister(beside)
        client.beside = None
        beside.close()
        ended = Outcome(1, "", "lvscore: error: ended without an answer\n")
        client.pending = memoryview(bytes(beside.received) or _encoded(ended))
        self._selector.register(client.connection, selectors.EVENT_WRITE, client)

    def _answer(self, client: _Client) -> None:
        """Carry out the request that is there; its answer is pending then."""
        line, end, rest = client.received.partition(b"\n")
        client.received = rest
        try:
            if not end or len(line) > MAX_REQUEST:
                raise ValueError(f"longer than {MAX_REQUEST} bytes")
            argv, stdin = _read_request(line)
        except ValueError as error:
            client.last = True
            outcome = Outcome(2, "", f"lvscore: malformed request: {error}\n")
        else:
            result = self._carried_out(argv, stdin)
            if isinstance(result, Beside):
                client.beside = result
                return
            outcome = result
        client.pending = memoryview(_encoded(outcome))

    def _carried_out(self, argv: list[str], stdin: str) -> Outcome | Beside:
        try:
            return self._execute(argv, stdin)
        except Exception as error:  # whatever it is, packets go on
            traceback.print_exc(file=sys.stderr)
            return Outcome(1, "", f"lvscore: error: {type(error).__name__}: {error}\n")


def _encoded(outcome: Outcome) -> bytes:
    return json.dumps(outcome._asdict()).encode() + b"\n"


def _is_complete(received: bytearray) -> bool:
    """Whether a request can be answered, if only with a refusal."""
    return b"\n" in received or len(received) > MAX_REQUEST


def _read_request(line: bytes | bytearray) -> tuple[list[str], str]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(request, dict):
        raise ValueError("not an object")
    argv, stdin = request.get("argv"), request.get("stdin", "")
    if not isinstance(argv, list) or not argv or not all(isinstance(word, str) for word in argv):
        raise ValueError("argv is not a list of words")
    if not isinstance(stdin, str):
        raise ValueError("stdin is not text")
    return argv, stdin


def _listen(path: str, replace: bool) -> socket.socket:
    """A listening socket on a path; it takes the path's place as a whole, ready."""
    try:
        _check_path(path, replace)
        os.makedirs(os.path.dirname(path) or ".", mode=0o755, exist_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        temporary = f"{path}.{os.getpid()}"
        try:
            before = os.umask(0o177)
            try:
                listener.bind(temporary)
            finally:
                os.umask(before)
            listener.listen()
            os.rename(temporary, path)
        except BaseException:
            listener.close()
            if os.path.exists(temporary):
                os.unlink(temporary)
            raise
    except ControlError:
        raise
    except OSError as error:
        raise ControlError(error.errno, f"cannot listen: {error.strerror}", path) from None
    return listener


def _check_path(path: str, replace: bool) -> None:
    if not path:
        raise ControlError(errno.EINVAL, "expected the path of a socket", "''")
    if len(f"{path}.{os.getpid()}".encode()) > _LONGEST_PATH:
        raise ControlError(errno.ENAMETOOLONG, "the path of a socket has at most 100 bytes", path)
    try:
        kind = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise ControlError(errno.EEXIST, "is there, and no socket", path)
    if replace:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return  # left behind by a process that has ended
        except BlockingIOError:  # so many wait to be accepted
            raise ControlError(errno.EADDRINUSE, "a director is running here", path) from None
        pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        raise ControlError(errno.EADDRINUSE, f"a director is running here (pid {pid})", path)


def _connect(connection: socket.socket, path: str, timeout: float) -> None:
    """Connect; where so many wait that there is no room for another, wait, too."""
    until = time.monotonic() + timeout
    while True:
        try:
            connection.connect(path)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise TimeoutError from None
            time.sleep(0.01)


def path_of(given: str | None) -> str:
    """The path of the director that a program is to talk to: as given, else of the environment
    variable LVSCORE_CONTROL, else :data:`DEFAULT_PATH`."""
    return given or os.environ.get("LVSCORE_CONTROL") or DEFAULT_PATH


def call(path: str, argv: Sequence[str], stdin: str = "", *, timeout: float = 60) -> Outcome:
    """Let the director that listens on ``path`` carry out a program.

    Raises:
        ControlError: there is none, it may not be asked, or it does not answer in ``timeout``
            seconds.
    """
    request = json.dumps({"argv": list(argv), "stdin": stdin}).encode() + b"\n"
    if len(request) > MAX_REQUEST:
        raise ControlError(errno.EMSGSIZE, f"a request has at most {MAX_REQUEST} bytes", path)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            _connect(connection, path, timeout)
            connection.sendall(request)
            with connection.makefile("rb") as stream:
                line = stream.readline()
    except TimeoutError:
        raise ControlError(errno.ETIMEDOUT, "the director does not answer", path) from None
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise ControlError(error.errno, "no director is running here", path) from None
    except OSError as error:
        raise ControlError(error.errno, error.strerror, path) from None
    try:
        answer = json.loads(line)
        return Outcome(answer["status"], answer["stdout"], answer["stderr"])
    except (ValueError, KeyError, TypeError):
        raise ControlError(errno.EPROTO, "ended without an answer", path) from None
