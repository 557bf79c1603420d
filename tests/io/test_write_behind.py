"""Writing in a thread: the same bytes, the same errors, and nothing left behind at any end."""

import errno
import io
import os
import resource
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from capture_files import read

from lvscore._frames import FrameBatch
from lvscore.errors import CaptureFileError
from lvscore.io import create_pcap

SIZES = np.random.default_rng(1).integers(0, 3000, 4000).tolist()


def batches():
    """6 MB of frames, one of them longer than any buffer."""
    frames = [bytes([i & 255]) * size for i, size in enumerate(SIZES)]
    frames[700] = bytes(1_500_000)
    for start in range(0, len(frames), 500):
        part = frames[start : start + 500]
        yield FrameBatch.of(part, range(start, start + len(part)))


def write(target, format="pcap"):
    with create_pcap(target, format=format, snaplen=1 << 21) as sink:
        for batch in batches():
            sink.write_batch(batch)


def expected(format="pcap"):
    """The same by way of a file object, which has no thread."""
    memory = io.BytesIO()
    write(memory, format)
    return memory.getvalue()


def writing():
    return [t for t in threading.enumerate() if t.name == "lvscore writer"]


@pytest.fixture(autouse=True)
def _no_thread_stays():
    yield
    assert writing() == []


@pytest.mark.parametrize("format", ["pcap", "pcapng"])
def test_the_bytes_are_those_of_a_file_object(tmp_path, format):
    write(tmp_path / "x", format)
    assert (tmp_path / "x").read_bytes() == expected(format)


def test_a_thread_is_begun_by_the_first_full_buffer(tmp_path):
    with create_pcap(tmp_path / "x") as sink:
        sink.write(bytes(200_000), 0)
        sink.flush()
        assert writing() == []
        for _ in range(2):
            sink.write(bytes(200_000), 0)
        assert len(writing()) == 1
        sink.flush()
        assert (tmp_path / "x").stat().st_size == 24 + 3 * 200_016


def test_without_threads(tmp_path, monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    write(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == expected()


@pytest.mark.parametrize("end", ["flush", "close"])
def test_an_error_is_told_at_the_end(tmp_path, end):
    sink = create_pcap(tmp_path / "x")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
    try:
        # Two buffers: in the second one's middle the file is full.
        for _ in range(3):
            sink.write(bytes(200_000), 0)
        with pytest.raises(CaptureFileError) as caught:
            getattr(sink, end)()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(tmp_path / "x")
    sink.close()
    assert len(read(tmp_path / "x")) == 1


FORGOTTEN = """
import os, sys
from lvscore.io import create_pcap
sink = create_pcap(sys.argv[1])
for at in range(3000):
    sink.write(bytes(1000), at)
if len(sys.argv) > 2:
    sink.flush()
    if os.fork():
        os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
    sink.write(b"the child's", 3000)
"""


@pytest.mark.parametrize("forks", [False, True])
def test_forgotten_at_the_end_of_a_program(tmp_path, forks):
    command = [sys.executable, "-W", "ignore", "-c", FORGOTTEN, tmp_path / "x"]
    done = subprocess.run(
        [*command, "fork"] if forks else command,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert len(read(tmp_path / "x")) == 3000 + forks


def test_forgotten_in_a_program(tmp_path):
    create_pcap(tmp_path / "x").write(bytes(100), 0)
    sink = create_pcap(tmp_path / "y")
    for at in range(3000):
        sink.write(bytes(1000), at)
    del sink
    assert len(read(tmp_path / "y")) == 3000
    assert os.path.exists(tmp_path / "x")
