"""Hot restart: the running director hands over, a killed one has left a file."""

import os
import threading
from pathlib import Path

import pytest
from packets import CLIENT, SECOND, VIP, udp

from lvscore.control import ControlServer
from lvscore.engine import Engine
from lvscore.errors import ControlError, SnapshotError
from lvscore.model import Outcome
from lvscore.takeover import HANDOVER, StateFile, hand_over, take_over


@pytest.fixture
def engine():
    engine = Engine(seed=0, max_connections=64)
    engine.add_service("udp", f"{VIP}:53").add_server("172.16.1.7:53")
    engine.process(udp(CLIENT, 1, VIP, 53), 1)
    return engine


def serve(path, execute):
    """A control server that answers one request in a thread of its own."""
    server = ControlServer(str(path), execute)
    ended = threading.Event()

    def work():
        while not ended.is_set():
            server.step(0.01)
        server.close()

    threading.Thread(target=work).start()
    return ended.set


def test_the_running_one_hands_over_and_stops(engine, tmp_path):
    stopped = []
    path = tmp_path / "d.sock"
    end = serve(path, lambda argv, stdin: hand_over(engine, argv, lambda: stopped.append(argv[0])))
    found = take_over(str(path), 1)
    end()
    assert stopped == [HANDOVER]
    assert found is not None
    assert found.ipvsadm("-Lnc") == engine.ipvsadm("-Lnc")
    assert "d.sock.handover" not in os.listdir(tmp_path)


def test_nobody_to_take_over_from(tmp_path):
    assert take_over(str(tmp_path / "none"), 1) is None


def test_one_that_cannot_is_still_at_work(engine, tmp_path):
    stopped = []
    path = tmp_path / "d.sock"
    end = serve(path, lambda argv, stdin: hand_over(
        engine, [argv[0], str(tmp_path / "none" / "file")], lambda: stopped.append(1)))  # fmt: skip
    with pytest.raises(ControlError, match="No such file"):
        take_over(str(path), 1)
    end()
    assert not stopped
    assert hand_over(engine, [HANDOVER], lambda: None).status == 2


def test_one_whose_file_cannot_be_read(tmp_path):
    def write(argv, stdin):
        with open(argv[1], "w") as file:
            file.write("nothing")
        return Outcome(0)

    end = serve(tmp_path / "d.sock", write)
    with pytest.raises(SnapshotError, match="not a saved engine"):
        take_over(str(tmp_path / "d.sock"), 1)
    end()


def test_a_state_file(engine, tmp_path):
    path = tmp_path / "folder" / "state"
    state = StateFile(str(path))
    assert state.load(10) is None
    state.save_beside(engine)  # another process does it
    state.save(engine)  # waits for it
    saved = path.stat().st_ino
    loaded = state.load(10)
    assert loaded is not None
    assert len(loaded.connections) == 1
    state.save_beside(engine)
    for _ in range(1000):
        if path.stat().st_ino != saved:
            break
        threading.Event().wait(0.01)
    engine.clear_services()
    state.save(engine)
    assert "172.16.1.7" not in state.load(10).ipvsadm("-Ln")
    assert os.listdir(path.parent) == ["state"]
    path.write_text("x")
    with pytest.raises(SnapshotError, match="not a saved engine"):
        state.load(10)


@pytest.mark.parametrize("what", ["text", "folder", "device"])
def test_a_state_file_that_is_something_else(engine, tmp_path, what):
    path = tmp_path / what
    if what == "text":
        path.write_text("-A -t 172.16.1.100:80")
    elif what == "folder":
        path.mkdir()
    else:
        path = Path("/dev/null")
    with pytest.raises(SnapshotError, match=f"{path}: is there, and no saved engine"):
        StateFile(str(path))
    with pytest.raises(SnapshotError, match="'' is no file"):
        StateFile("")


def test_an_empty_state_file_is_as_good_as_none(engine, tmp_path):
    path = tmp_path / "state"
    path.touch()
    state = StateFile(str(path))
    assert state.load(10) is None
    state.save(engine)
    assert StateFile(str(path)).load(10) is not None


def test_the_clock_was_set_back_meanwhile(engine, tmp_path):
    state = StateFile(str(tmp_path / "state"))
    engine.expire(100 * SECOND)
    state.save(engine)
    later = state.load(200 * SECOND)
    assert later is not None
    assert later.now == 100 * SECOND
    earlier = state.load(7 * SECOND)
    assert earlier is not None
    assert earlier.now == 7 * SECOND
    assert earlier.expire(206 * SECOND) == 0
    assert earlier.expire(208 * SECOND) == 1  # 300 s after its packet


def test_a_state_file_that_cannot_be_written(engine, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SnapshotError, match="file/state: "):
        StateFile(str(tmp_path / "file" / "state"))
    state = StateFile(str(tmp_path / "folder" / "state"))
    (tmp_path / "folder").rmdir()
    state.save_beside(engine)
    with pytest.raises(SnapshotError, match="state: No such file"):
        state.save(engine)
