"""The control socket: what another process asks of a running director."""

import contextlib
import json
import os
import socket
import stat
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lvscore
from lvscore import control
from lvscore.control import MAX_CLIENTS, MAX_REQUEST, Beside, ControlServer, call
from lvscore.errors import ControlError
from lvscore.model import Outcome
from lvscore.programs import execute


class Director:
    """A server of its own thread, stepped as a director's loop does."""

    def __init__(self, path, execute):
        self.server = ControlServer(str(path), execute)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while not self._ended.is_set():
            self.server.step(0.01)

    def close(self):
        self._ended.set()
        self._thread.join()
        self.server.close()


@contextlib.contextmanager
def running(path, execute):
    director = Director(path, execute)
    try:
        yield str(path)
    finally:
        director.close()


@pytest.fixture
def engine():
    return lvscore.Engine(seed=0, max_connections=64)


@pytest.fixture
def path(engine, tmp_path):
    with running(tmp_path / "folder" / "d.sock", lambda *words: execute(engine, *words)) as path:
        yield path


def ask(path, text):
    """Send bytes as they are; what comes back until the end."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(path)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(65536):
                received += data
        return received


def test_programs_change_and_list_the_engine(path, engine):
    assert call(path, ["ipvsadm", "-A", "-t", "1.2.3.4:80", "-s", "rr"]) == Outcome(0)
    assert [str(service) for service in engine.services] == ["tcp 1.2.3.4:80"]
    assert call(path, ["ipvsadm", "-D", "-t", "1.1.1.1:1"]) == (255, "", "No such service\n")
    assert call(path, ["ipvsadm-save", "-n"]).stdout == "-A -t 1.2.3.4:80 -s rr\n"
    assert call(path, ["ipvsadm-restore"], "-A -u 1.1.1.1:1 -s wlc\n").status == 0
    assert call(path, ["ipvsadm", "-S", "-n"]).stdout == "-A -u 1.1.1.1:1 -s wlc\n"
    rule = ["-t", "nat", "-A", "POSTROUTING", "-j", "SNAT", "--to-source", "1.2.3.4"]
    assert call(path, ["iptables", *rule]) == Outcome(0)
    saved = call(path, ["iptables-save"]).stdout
    assert "-A POSTROUTING -j SNAT --to-source 1.2.3.4\n" in saved
    assert call(path, ["iptables", "-t", "nat", "-F"]).status == 0
    assert not engine.rules
    assert call(path, ["iptables-restore"], saved).status == 0
    assert len(engine.rules) == 1
    assert call(path, ["conntrack", "-C"]) == Outcome(0, "0\n")
    title = "conntrack v1.4.7 (conntrack-tools): "
    assert call(path, ["conntrack", "-L"]).stderr == f"{title}0 flow entries have been shown.\n"
    assert call(path, ["conntrack", "-D"]) == (
        1, "", f"{title}0 flow entries have been deleted.\n"
    )  # fmt: skip
    assert call(path, ["reboot"]) == (127, "", "reboot: command not found\n")


def test_only_the_owner_may_open_it(path):
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (b"{\n", "not JSON"),
        (b"[" * 100_000 + b"\n", "not JSON"),
        (b"\xff\n", "not JSON"),
        (b"[]\n", "not an object"),
        (b"{}\n", "argv is not a list of words"),
        (b'{"argv": []}\n', "argv is not a list of words"),
        (b'{"argv": ["ipvsadm", 1]}\n', "argv is not a list of words"),
        (b'{"argv": ["ipvsadm"], "stdin": 1}\n', "stdin is not text"),
        (b"x" * (MAX_REQUEST + 65536), f"longer than {MAX_REQUEST} bytes"),
    ],
)
def test_what_is_malformed_is_told_and_hurts_nobody(path, request_, said):
    answer = json.loads(ask(path, request_))
    assert answer["status"] == 2
    assert said in answer["stderr"]
    assert call(path, ["ipvsadm", "-L"]).status == 0


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["argv", "stdin", "x"]), inner)
    ),
    max_leaves=6,
)


@given(st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
def test_a_request_is_words_and_text_or_refused(line):
    try:
        argv, stdin = control._read_request(line)
    except ValueError:
        return
    assert argv
    assert all(isinstance(word, str) for word in argv)
    assert isinstance(stdin, str)


def test_many_requests_on_one_connection(path):
    requests = b"".join(
        json.dumps({"argv": ["ipvsadm", "-A", "-t", f"1.2.3.4:{n + 1}"]}).encode() + b"\n"
        for n in range(200)
    )
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rb") as stream:
        connection.settimeout(10)
        connection.connect(path)
        connection.sendall(requests)
        assert [json.loads(stream.readline())["status"] for _ in range(200)] == [0] * 200


def test_slow_and_dead_clients_stall_nobody(tmp_path):
    text = "x" * (4 << 20)
    with running(tmp_path / "d.sock", lambda argv, stdin: Outcome(0, text)) as path:
        idle = [socket.socket(socket.AF_UNIX) for _ in range(MAX_CLIENTS + 4)]
        for number, connection in enumerate(idle):  # more than there may be
            connection.connect(path)
            if number % 2:
                connection.send(b'{"argv": ["a"]}\n')  # and never read the answer
        assert call(path, ["a"]).stdout == text
        idle.pop().close()  # in the middle of its answer
        assert call(path, ["a"]).stdout == text
        for connection in idle:
            connection.close()


def test_a_fault_is_told_and_the_director_goes_on(tmp_path, capfd):
    def fail(argv, stdin):
        if argv == ["fail"]:
            raise KeyError("lost")
        return Outcome(0)

    with running(tmp_path / "d.sock", fail) as path:
        assert call(path, ["fail"]) == (1, "", "lvscore: error: KeyError: 'lost'\n")
        assert call(path, ["again"]) == Outcome(0)
    assert "Traceback" in capfd.readouterr().err


def test_a_process_beside_answers_while_others_are_answered(tmp_path):
    def execute(argv, stdin):
        text = " ".join(argv)
        return Beside(lambda: long(text)) if argv[0] == "long" else Outcome(0, text)

    def long(text):
        if text == "long fail":
            raise KeyError(text)
        while not (tmp_path / "go on").exists():
            time.sleep(0.01)
        return Outcome(3, text * 100_000)

    with running(tmp_path / "d.sock", execute) as path:
        with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rb") as stream:
            connection.settimeout(10)
            connection.connect(path)
            connection.sendall(b'{"argv": ["long"]}\n{"argv": ["short"]}\n')
            assert call(path, ["short"]) == Outcome(0, "short")
            (tmp_path / "go on").touch()
            answers = [json.loads(stream.readline())["stdout"] for _ in range(2)]
            assert answers == ["long" * 100_000, "short"]
        assert call(path, ["long", "fail"]) == (1, "", "lvscore: error: ended without an answer\n")
        (tmp_path / "go on").unlink()
        with socket.socket(socket.AF_UNIX) as connection:  # one that does not wait
            connection.connect(path)
            connection.sendall(b'{"argv": ["long"]}\n')
        assert call(path, ["short"]).status == 0
    with pytest.raises(ChildProcessError):  # all have ended
        os.waitpid(-1, os.WNOHANG)


def test_a_living_director_is_not_replaced(path):
    with pytest.raises(ControlError, match=rf"a director is running here \(pid {os.getpid()}\)"):
        ControlServer(path, lambda *words: Outcome(0))
    assert call(path, ["ipvsadm", "-L"]).status == 0


def test_what_a_dead_process_left_is_replaced(tmp_path):
    path = str(tmp_path / "d.sock")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    with pytest.raises(ControlError, match="no director is running here"):
        call(path, ["ipvsadm"])
    with running(path, lambda *words: Outcome(7)):
        assert call(path, ["ipvsadm"]).status == 7
    assert not os.listdir(tmp_path)


def test_one_that_was_taken_over_leaves_the_new_socket_alone(tmp_path):
    path = str(tmp_path / "d.sock")
    with ControlServer(path, lambda *words: Outcome(0)) as old:
        with ControlServer(path, lambda *words: Outcome(0), replace=True) as new:
            assert old.fileno() != new.fileno()
            old.close()
            assert os.path.exists(path)
        assert not os.path.exists(path)


def test_a_path_that_cannot_be(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for path, said in [
        (file, "is there, and no socket"),
        (file / "d.sock", "Not a directory"),
        (tmp_path / ("x" * 120), "at most 100 bytes"),
    ]:
        with pytest.raises(ControlError, match=said):
            ControlServer(str(path), lambda *words: Outcome(0))
    assert file.read_text() == ""


def test_which_director_is_asked(monkeypatch):
    monkeypatch.delenv("LVSCORE_CONTROL", raising=False)
    assert control.path_of(None) == "/run/lvscore/director.sock"
    monkeypatch.setenv("LVSCORE_CONTROL", "/tmp/other")
    assert control.path_of(None) == "/tmp/other"
    assert control.path_of("/tmp/given") == "/tmp/given"


def test_a_director_that_ends_without_an_answer(tmp_path):
    path = str(tmp_path / "d.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with pytest.raises(ControlError, match="does not answer"):
            call(path, ["ipvsadm"], timeout=0.05)
