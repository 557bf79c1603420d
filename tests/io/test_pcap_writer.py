"""Writing captures: round trips, other programs as readers, and disks that are full."""

import errno
import gzip
import io
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from capture_files import pcap, read, rows, section
from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import RawPcapNgReader, RawPcapReader, RawPcapWriter

from lvscore._frames import FrameBatch
from lvscore.constants import LinkType
from lvscore.errors import (
    CaptureError,
    CaptureFileError,
    ConcurrencyError,
    ConfigError,
    UnsupportedLinkType,
)
from lvscore.io import MemorySource, Sink, create_pcap, open_pcap

FORMATS = pytest.mark.parametrize("format", ["pcap", "pcapng"])
TOP = {"pcap": (2**32 - 1) * 10**9 + 999_999_999, "pcapng": 2**63 - 1}


def frames(limit):
    return st.lists(
        st.tuples(st.binary(max_size=200), st.integers(0, limit), st.integers(0, 5000)), max_size=20
    )


def written(records, **options):
    """A capture of (frame, timestamp, bytes that are missing), by way of a FrameBatch."""
    file = io.BytesIO()
    with create_pcap(file, **options) as sink:
        assert isinstance(sink, Sink)
        data = bytearray(b"".join(frame for frame, _, _ in records))
        lengths = [len(frame) for frame, _, _ in records]
        batch = FrameBatch(
            data,
            np.cumsum([0, *lengths])[:-1],
            lengths,
            [at for _, at, _ in records],
            original_lengths=[len(frame) + gap for frame, _, gap in records],
            link_type=options.get("link_type", 1),
        )
        sink.write_batch(batch)
        assert sink.frames == len(records)
    return file.getvalue()


@FORMATS
@given(data=st.data(), nanosecond=st.booleans(), link_type=st.sampled_from(list(LinkType)))
def test_round_trip(format, data, nanosecond, link_type):
    records = data.draw(frames(TOP[format]))
    capture = written(records, format=format, nanosecond=nanosecond, link_type=link_type)
    unit = 1 if nanosecond else 1000
    wanted = [(frame, at // unit * unit, len(frame) + gap, link_type) for frame, at, gap in records]
    assert read(io.BytesIO(capture)) == wanted
    with open_pcap(io.BytesIO(capture)) as reader:
        assert (reader.format, reader.nanosecond, reader.link_type, reader.snaplen) == (
            format,
            nanosecond,
            link_type,
            262144,
        )
    one_by_one = io.BytesIO()
    with create_pcap(one_by_one, format=format, nanosecond=nanosecond, link_type=link_type) as sink:
        for frame, at, gap in records:
            sink.write(frame, at, len(frame) + gap)
    assert one_by_one.getvalue() == capture


@given(frames(TOP["pcap"]), st.booleans())
def test_scapy_reads_what_we_write(records, nanosecond):
    with RawPcapReader(io.BytesIO(written(records, nanosecond=nanosecond))) as reader:
        assert reader.nano == nanosecond
        got = [
            (
                frame,
                meta.sec * 10**9 + meta.usec * (1 if nanosecond else 1000),
                meta.wirelen - meta.caplen,
            )
            for frame, meta in reader
        ]
    unit = 1 if nanosecond else 1000
    assert got == [(frame, at // unit * unit, gap) for frame, at, gap in records]


@given(frames(TOP["pcapng"]))
def test_scapy_reads_our_pcapng(records):
    with RawPcapNgReader(io.BytesIO(written(records, format="pcapng"))) as reader:
        got = [
            (frame, meta.tshigh << 32 | meta.tslow, meta.wirelen - len(frame))
            for frame, meta in reader
        ]
    assert got == records


@given(frames(TOP["pcap"]), st.booleans(), st.sampled_from("<>"))
def test_we_read_what_scapy_writes(records, nanosecond, order):
    file = io.BytesIO()
    unit = 1 if nanosecond else 1000
    writer = RawPcapWriter(file, linktype=1, nano=nanosecond, endianness=order)
    writer.write_header(None)
    for frame, at, gap in records:
        writer._write_packet(
            frame,
            sec=at // 10**9,
            usec=at % 10**9 // unit,
            caplen=len(frame),
            wirelen=len(frame) + gap,
            linktype=1,
        )
    writer.flush()
    assert read(io.BytesIO(file.getvalue())) == [
        (frame, at // unit * unit, len(frame) + gap, 1) for frame, at, gap in records
    ]


@FORMATS
@pytest.mark.parametrize(
    ("tool", "arguments"), [("tcpdump", ["-tt", "-nn", "-r"]), ("tshark", ["-n", "-r"])]
)
def test_other_programs_read_what_we_write(tool, arguments, format, tmp_path):
    if not shutil.which(tool):
        pytest.skip(f"{tool} is not installed")
    path = tmp_path / "x"
    path.write_bytes(written([(bytes(60), 10**9 * i + 5, i) for i in range(10)], format=format))
    done = subprocess.run([tool, *arguments, path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 10
    if tool == "tcpdump":
        assert done.stdout.splitlines()[3].startswith("3.000000")


@FORMATS
def test_select(format):
    file = io.BytesIO()
    batch = FrameBatch.of([b"a", b"b", b"c"], [1, 2, 3])
    batch.verdict[:] = [0, 1, 1]
    with create_pcap(file, format=format) as sink:
        sink.write_batch(batch, batch.verdict == 1)
        sink.write_batch(batch, np.array([7, 0, 0], np.uint8))
        sink.write_batch(batch, np.zeros(6, bool)[::2])
        sink.write_batch(FrameBatch.of([]), np.zeros(0, bool))
        for bad in ([1, 0, 1], np.ones(2, bool), np.ones((3, 1), bool), np.ones(3), "abc", 1):
            with pytest.raises(ConfigError, match="select"):
                sink.write_batch(batch, bad)
        with pytest.raises(ConfigError, match="FrameBatch, not bytes"):
            sink.write_batch(b"frame")
    assert [row[0] for row in read(io.BytesIO(file.getvalue()))] == [b"b", b"c", b"a"]


@FORMATS
def test_snaplen(format):
    file = io.BytesIO()
    with create_pcap(file, format=format, snaplen=4) as sink:
        sink.write_batch(FrameBatch.of([b"abcdef", b"abc"]))
        sink.write(b"123456", 0)
    assert [(row[0], row[2]) for row in read(io.BytesIO(file.getvalue()))] == [
        (b"abcd", 6),
        (b"abc", 3),
        (b"1234", 6),
    ]


@FORMATS
def test_frames_larger_than_the_buffer(format):
    large = [bytes(1_000_000), b"x", bytes(range(256)) * 2000]
    file = io.BytesIO()
    with create_pcap(file, format=format, snaplen=1 << 20) as sink:
        sink.write_batch(FrameBatch.of(large))
        sink.write(large[0], 0)
    assert [row[0] for row in read(io.BytesIO(file.getvalue()))] == [*large, large[0]]


@pytest.mark.parametrize(
    ("format", "timestamp"),
    [("pcap", -1), ("pcap", 2**32 * 10**9), ("pcapng", -1), ("pcap", -(2**63))],
)
def test_timestamps_without_room(format, timestamp):
    file = io.BytesIO()
    with create_pcap(file, format=format) as sink:
        with pytest.raises(CaptureError, match=rf"frame 1: timestamp {timestamp} ns"):
            sink.write_batch(FrameBatch.of([b"a", b"b", b"c"], [5, timestamp, 6]))
        with pytest.raises(CaptureError, match=f"timestamp {timestamp} ns"):
            sink.write(b"d", timestamp)
        sink.write(b"e", 7)
    assert [row[:2] for row in read(io.BytesIO(file.getvalue()))] == [(b"a", 5), (b"e", 7)]


def test_bad_frames():
    with create_pcap(io.BytesIO()) as sink:
        for arguments, message in (
            (("text", 0), "not str"),
            ((b"x", 1.5), r"1\.5"),
            ((b"x", 2**63), str(2**63)),
            ((b"xy", 0, 1), "2.."),
            ((b"x", 0, 2**32), str(2**32)),
            ((b"x", 0, "1"), "'1'"),
        ):
            with pytest.raises(ConfigError, match=message):
                sink.write(*arguments)
        sink.write(memoryview(b"fine"), 0)
        assert sink.frames == 1


def test_bad_arguments_leave_a_file_alone(tmp_path):
    path = tmp_path / "precious.pcap"
    path.write_bytes(b"precious")
    for options in ({"format": "cap"}, {"snaplen": 0}, {"snaplen": 1 << 29}, {"snaplen": "x"}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            create_pcap(path, **options)
    for link_type in (2, 12, -1, "EN10MB", 1 << 40):
        with pytest.raises(UnsupportedLinkType, match=str(link_type)):
            create_pcap(path, link_type=link_type)
    assert path.read_bytes() == b"precious"
    path.write_bytes(pcap([(0, 0, b"x")]))
    with open_pcap(path) as source, pytest.raises(ConfigError, match="while it is read"):
        create_pcap(path, like=source)
    assert len(read(path)) == 1
    for target in (3, None, object()):
        with pytest.raises(ConfigError):
            create_pcap(target)
    with pytest.raises(CaptureError, match="text"):
        create_pcap(io.StringIO())


def test_like(tmp_path):
    source = open_pcap(io.BytesIO(pcap([], link_type=113)))
    with create_pcap(tmp_path / "x", like=source) as sink:
        assert (sink.link_type, sink.format, sink.nanosecond) == (113, "pcap", False)
    with create_pcap(
        tmp_path / "x", like=source, link_type=1, format="pcapng", nanosecond=True
    ) as sink:
        assert (sink.link_type, sink.format, sink.nanosecond) == (1, "pcapng", True)
    with create_pcap(tmp_path / "x", like=MemorySource([], link_type=101)) as sink:
        assert (sink.link_type, sink.format, sink.nanosecond) == (101, "pcap", True)
        assert sink.name == str(tmp_path / "x")


def test_second_link_type():
    other = FrameBatch.of([b"raw"], link_type=101)
    with create_pcap(io.BytesIO()) as sink, pytest.raises(CaptureError, match="101"):
        sink.write_batch(other)
    file = io.BytesIO()
    with create_pcap(file, format="pcapng", nanosecond=False) as sink:
        for _ in range(2):
            sink.write_batch(FrameBatch.of([b"ethernet"]))
            sink.write_batch(other)
        sink.write(b"first", 0)
        with pytest.raises(UnsupportedLinkType, match="105"):
            sink.write_batch(FrameBatch.of([b"radio"], link_type=105))
    assert [(row[0], row[3]) for row in read(io.BytesIO(file.getvalue()))] == [
        (b"ethernet", 1),
        (b"raw", 101),
        (b"ethernet", 1),
        (b"raw", 101),
        (b"first", 1),
    ]


@FORMATS
def test_empty_capture(format):
    assert read(io.BytesIO(written([], format=format))) == []


@FORMATS
def test_gzip(format, tmp_path):
    path = tmp_path / "x.pcap.gz"
    for _ in range(2):
        with create_pcap(path, format=format) as sink:
            for i in range(5000):
                sink.write(os.urandom(100) if i % 2 else b"frame", i)
        packed = path.read_bytes()
        assert packed[:2] == b"\x1f\x8b"
        assert len(gzip.decompress(packed)) > len(packed) // 2
        assert [row[1] for row in read(path)] == list(range(5000))


@pytest.mark.parametrize("name", ["x.pcap", "x.pcap.gz"])
def test_flush(name, tmp_path):
    sink = create_pcap(tmp_path / name)
    sink.write(b"frame", 1)
    sink.flush()
    sink.flush()
    with open_pcap(tmp_path / name) as reader:
        assert rows(next(reader))[0][0] == b"frame"
    sink.close()
    sink.close()
    assert len(read(tmp_path / name)) == 1
    batch = FrameBatch.of([])
    for use in (sink.flush, lambda: sink.write(b"", 0), lambda: sink.write_batch(batch)):
        with pytest.raises(CaptureError, match="closed"):
            use()


def test_forgotten_writer_still_writes(tmp_path):
    create_pcap(tmp_path / "x").write(b"frame", 0)
    assert len(read(tmp_path / "x")) == 1


def test_nonsense_construction(tmp_path):
    from lvscore.io import PcapWriter

    sink = create_pcap(tmp_path / "x")
    with pytest.raises(ConfigError):
        sink.__init__(tmp_path / "y")
    bare = PcapWriter.__new__(PcapWriter)
    for use in (bare.flush, lambda: bare.write(b"", 0)):
        with pytest.raises(CaptureError, match="never created"):
            use()
    bare.close()


class Disk(io.RawIOBase):
    """Takes ``step`` bytes a time, and raises what stands in ``trouble`` for a call's number."""

    def __init__(self, step=1 << 30, trouble=None):
        self.data, self.step, self.trouble, self.calls = bytearray(), step, trouble or {}, 0

    def writable(self):
        return True

    def write(self, data):
        self.calls += 1
        if self.calls in self.trouble:
            raise self.trouble[self.calls]
        self.data += data[: self.step]
        return min(len(data), self.step)


@FORMATS
def test_short_writes_and_interrupts(format):
    disk = Disk(7)
    sink = create_pcap(disk, format=format)
    disk.trouble = {disk.calls + n: KeyboardInterrupt() for n in (2, 3)}
    sink.write(b"before", 1)
    with pytest.raises(KeyboardInterrupt):
        sink.flush()
    with pytest.raises(KeyboardInterrupt):
        sink.write(b"never", 2)
    sink.write(b"after", 3)
    disk.trouble = {disk.calls + n: KeyboardInterrupt() for n in (1, 3)}
    while True:
        try:
            sink.close()
            break
        except KeyboardInterrupt:
            continue
    assert [row[0] for row in read(io.BytesIO(disk.data))] == [b"before", b"after"]


def test_broken_pipe():
    out, into = os.pipe()
    os.close(out)
    with pytest.raises(CaptureFileError) as caught, os.fdopen(into, "wb", 0) as file:
        create_pcap(file)
    assert caught.value.errno == errno.EPIPE
    assert isinstance(caught.value.__cause__, BrokenPipeError)


def test_disk_full():
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    with pytest.raises(CaptureFileError, match="/dev/full") as caught:
        create_pcap("/dev/full")
    assert caught.value.errno == errno.ENOSPC


FILE_SIZE_LIMIT = """
import resource, signal, sys
from lvscore._frames import FrameBatch
from lvscore.errors import CaptureError, CaptureFileError
from lvscore.io import create_pcap
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_001, 300_001))
batch = FrameBatch.of([bytes(1000)] * 100)
sink = create_pcap(sys.argv[1])
try:
    for _ in range(100):
        sink.write_batch(batch)
except CaptureFileError as error:
    print(error.errno)
try:
    sink.write_batch(batch)
except CaptureError as error:
    print(error)
sink.close()
"""


def test_a_write_that_fails_leaves_whole_records(tmp_path):
    path = tmp_path / "x.pcap"
    done = subprocess.run(
        [sys.executable, "-c", FILE_SIZE_LIMIT, path],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == f"{errno.EFBIG}\n{path}: an earlier write failed\n"
    assert len(read(path)) == 258  # what one buffer holds


WRITE_FOREVER = """
import sys
from lvscore._frames import FrameBatch
from lvscore.io import create_pcap
batch = FrameBatch.of([bytes(n) for n in range(1000)])
with create_pcap(sys.argv[1]) as sink:
    print("ready", flush=True)
    for _ in range(8000):  # 4 GB, if nobody interrupts
        sink.write_batch(batch)
"""


@pytest.mark.parametrize("name", ["x.pcap", "x.pcap.gz"])
def test_interrupted_program_leaves_a_valid_file(name, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", WRITE_FOREVER, tmp_path / name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as program:
        program.stdout.readline()
        time.sleep(0.1)
        program.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in program.communicate(timeout=60)[1]
    with open_pcap(tmp_path / name) as reader:
        assert sum(len(batch) for batch in reader) > 0


def test_entered_twice():
    class Entering(Disk):
        def write(self, data):
            if armed:
                for use in (sink.flush, sink.close, lambda: sink.write(b"", 0)):
                    with pytest.raises(ConcurrencyError):
                        use()
            return super().write(data)

    armed = False
    sink = create_pcap(Entering())
    sink.write(b"x", 0)
    armed = True
    sink.flush()


def test_closed_file_object():
    file = io.BytesIO()
    sink = create_pcap(file)
    sink.write(b"x", 0)
    file.close()
    with pytest.raises(CaptureError, match="closed file"):
        sink.close()
    with pytest.raises(CaptureError, match="closed file"):
        create_pcap(file)
    with pytest.raises(CaptureError, match="closed file"):
        open_pcap(file)


def test_file_object_that_misbehaves():
    class Liar:
        def write(self, data):
            return answer

    for answer in (None, -1, 1 << 40):
        with pytest.raises(CaptureError, match=f"returned {answer}"):
            create_pcap(Liar())


def test_several_link_types_from_one_capture_to_another():
    from capture_files import enhanced, interface

    data = (
        section()
        + interface(1)
        + interface(113, resolution=9)
        + enhanced(b"a", 1)
        + enhanced(b"b", 2, 1)
        + enhanced(b"c", 3)
    )
    file = io.BytesIO()
    with (
        open_pcap(io.BytesIO(data)) as source,
        create_pcap(file, like=source, nanosecond=True) as sink,
    ):
        for batch in source:
            sink.write_batch(batch)
    assert read(io.BytesIO(file.getvalue())) == read(io.BytesIO(data))
