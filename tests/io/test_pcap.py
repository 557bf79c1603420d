"""Reading pcap: every form of it, every cut, every corruption."""

import gzip
import io
import os
import struct
import subprocess
import sys
import threading

import pytest
from capture_files import KUZNETZOV, MICROSECOND, NANOSECOND, pcap, read, read_until_error, rows
from hypothesis import given
from hypothesis import strategies as st

from lvscore.constants import LinkType
from lvscore.errors import (
    CaptureError,
    CaptureFileError,
    ConcurrencyError,
    ConfigError,
    TruncatedCapture,
    UnsupportedLinkType,
)
from lvscore.io import Source, open_pcap

FRAMES = [b"", b"a", b"sixteen bytes ok", b"x" * 61]
RECORDS = [(1700000000 + i, 999 + i, frame) for i, frame in enumerate(FRAMES)]


def expected(unit, link_type=1):
    return [
        (frame, seconds * 10**9 + fraction * unit, len(frame), link_type)
        for seconds, fraction, frame in RECORDS
    ]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("magic", "unit"), [(MICROSECOND, 1000), (NANOSECOND, 1), (KUZNETZOV, 1000)]
)
def test_forms(order, magic, unit):
    data = pcap(RECORDS, order, magic)
    with open_pcap(io.BytesIO(data)) as reader:
        assert isinstance(reader, Source)
        assert (reader.format, reader.link_type, reader.snaplen) == ("pcap", 1, 65535)
        assert reader.nanosecond == (unit == 1)
        assert [row for batch in reader for row in rows(batch)] == expected(unit)
        assert reader.frames == len(RECORDS)
        assert reader.position == len(data)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("magic", [MICROSECOND, NANOSECOND, KUZNETZOV])
def test_every_truncation(order, magic):
    data = pcap(RECORDS, order, magic)
    header = 24 if magic == KUZNETZOV else 16
    whole = read(io.BytesIO(data))
    ends = [24]
    for frame in FRAMES:
        ends.append(ends[-1] + header + len(frame))
    for length in range(1, len(data) + 1):
        got, error = read_until_error(io.BytesIO(data[:length]))
        done = [end for end in ends if end <= length]
        assert got == whole[: max(0, len(done) - 1)]
        if length in ends:
            assert error is None
        else:
            assert type(error) is TruncatedCapture
            assert error.offset == (done[-1] if done else 0)
            assert ("inside the record at" in str(error)) == bool(done)


def test_the_error_comes_once():
    with open_pcap(io.BytesIO(pcap(RECORDS)[:-1])) as reader:
        assert len(next(reader)) == 3
        with pytest.raises(TruncatedCapture):
            next(reader)
        assert list(reader) == []


def test_gap_between_lengths():
    records = [(0, 0, b"snapped", 1500), (0, 0, b"lies", 2)]
    with open_pcap(io.BytesIO(pcap(records, snaplen=3))) as reader:
        (batch,) = reader
        assert batch.length.tolist() == [7, 4]
        assert batch.original_length.tolist() == [1500, 4]


def test_swapped_lengths_of_old_versions():
    data = bytearray(pcap([(0, 0, b"four", 60)], version=(2, 2)))
    data[32:40] = struct.pack("<II", 60, 4)
    assert read(io.BytesIO(data)) == [(b"four", 0, 60, 1)]


def test_latest_time_and_a_fraction_beyond_a_second():
    data = pcap([(0xFFFFFFFF, 0xFFFFFFFF, b"")], magic=MICROSECOND)
    assert read(io.BytesIO(data))[0][1] == 0xFFFFFFFF * 10**9 + 0xFFFFFFFF * 1000


@pytest.mark.parametrize("captured", [(1 << 28) + 1, 0xFFFFFFFF])
def test_corrupt_length_names_value_and_offset(captured):
    data = pcap(RECORDS) + struct.pack("<4I", 0, 0, captured, captured) + bytes(100)
    got, error = read_until_error(io.BytesIO(data))
    assert got == expected(1000)
    assert type(error) is CaptureError
    assert str(captured) in str(error)
    assert f"offset {len(pcap(RECORDS))}" in str(error)


def test_a_length_that_lies_takes_no_memory():
    data = pcap([]) + struct.pack("<4I", 0, 0, 1 << 28, 1 << 28)
    _, error = read_until_error(io.BytesIO(data))
    assert type(error) is TruncatedCapture


def test_frame_larger_than_the_arena():
    frames = [b"a" * 100, bytes(range(256)) * 12_000, b"b" * 100]
    data = pcap([(0, 0, frame) for frame in frames])
    with open_pcap(io.BytesIO(data)) as reader:
        first = next(reader)
        view = first[0]
        got = rows(first) + [row for batch in reader for row in rows(batch)]
        assert [row[0] for row in got] == frames
        assert len(bytes(view)) == 100  # of the first arena, which it keeps


def test_batches_are_bounded_and_aligned():
    data = pcap([(0, 0, bytes(n)) for n in range(100)])
    with open_pcap(io.BytesIO(data), batch_size=32) as reader:
        sizes = []
        for batch in reader:
            sizes.append(len(batch))
            assert not (batch.offset % 16).any()
            batch[1][:] = b"\xff" * len(batch[1])
            assert batch.verdict.tolist() == [0] * len(batch)
            batch.verdict[:] = 1
        assert sizes == [32, 32, 32, 4]
    data = pcap([(0, 0, bytes(60_000))] * 40)
    with open_pcap(io.BytesIO(data)) as reader:
        assert [len(batch) for batch in reader] == [17, 17, 6]


@pytest.mark.parametrize("declared", [*LinkType, 12, 14])
def test_link_types(declared):
    got = read(io.BytesIO(pcap([(0, 0, b"x")], link_type=declared)))
    assert got[0][3] == (101 if declared in (12, 14) else declared)


def test_check_sequence_length_in_the_link_type():
    assert read(io.BytesIO(pcap([(0, 0, b"x")], link_type=0x14000001)))[0][3] == 1


@given(st.integers(0, 0xFFFF))
def test_other_link_types_are_refused_by_number(declared):
    if declared in (*LinkType, 12, 14):
        return
    with pytest.raises(UnsupportedLinkType, match=rf"{declared} .* 1 ETHERNET"):
        open_pcap(io.BytesIO(pcap([], link_type=declared)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"\x7fELF\x02\x01\x01\x00" * 4, "7f 45 4c 46"),
        (pcap([], version=(2, 5)), r"version 2\.5"),
        (pcap([], version=(1, 0)), r"version 1\.0"),
    ],
)
def test_not_a_capture(data, message, tmp_path):
    path = tmp_path / "x.pcap"
    path.write_bytes(data)
    with pytest.raises(CaptureError, match=message) as caught:
        open_pcap(path)
    assert str(path) in str(caught.value)


def test_what_the_system_refuses(tmp_path):
    for path, kind in ((tmp_path / "missing", FileNotFoundError), (tmp_path, IsADirectoryError)):
        with pytest.raises(CaptureFileError, match=str(path)) as caught:
            open_pcap(path)
        assert isinstance(caught.value, (CaptureError, OSError))
        assert isinstance(caught.value.__cause__, kind)
        assert caught.value.filename == str(path)
    with pytest.raises(CaptureError):
        open_pcap("a\0b")


@pytest.mark.parametrize("size", [0, -1, 1 << 21, "many", 1.5])
def test_bad_batch_size(size):
    with pytest.raises(ConfigError, match="batch_size"):
        open_pcap(io.BytesIO(pcap([])), batch_size=size)


def test_bad_sources():
    for source in (3, None, object()):
        with pytest.raises(ConfigError, match=type(source).__name__):
            open_pcap(source)
    with pytest.raises(CaptureError, match="text"):
        open_pcap(io.StringIO("x"))


class ReadOnly:
    """The least that a file object must have."""

    def __init__(self, data, extra=0):
        self.rest = io.BytesIO(data)
        self.extra = extra

    def read(self, size):
        return self.rest.read(size) + bytes(self.extra)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("wrap", [io.BytesIO, ReadOnly])
def test_file_objects(wrap, pack):
    assert read(wrap(pack(pcap(RECORDS)))) == expected(1000)


def test_file_object_that_misbehaves():
    class Liar:
        def __init__(self, answer):
            self.answer = answer

        def readinto(self, buffer):
            return self.answer

    for answer in (-1, 1 << 40):
        with pytest.raises(CaptureError, match=f"returned {answer}"):
            open_pcap(Liar(answer))
    with pytest.raises(CaptureError, match="not ready"):
        open_pcap(Liar(None))
    with pytest.raises(ValueError, match=r"."):
        open_pcap(ReadOnly(pcap(RECORDS), extra=1))


def test_file_object_stays_open():
    file = io.BytesIO(b"junk" + pcap(RECORDS))
    file.seek(4)
    assert read(file) == expected(1000)
    assert not file.closed


def test_progress(tmp_path):
    path = tmp_path / "x.pcap"
    path.write_bytes(pcap([(0, 0, bytes(84))] * 10))
    with open_pcap(path, batch_size=1) as reader:
        assert (reader.position, reader.size) == (24, 1024)
        assert [reader.position for _ in reader] == list(range(124, 1025, 100))


def test_gzip_is_known_by_its_bytes(tmp_path):
    path = tmp_path / "x.pcap"
    packed = gzip.compress(pcap(RECORDS[:2])) + gzip.compress(pcap(RECORDS)[24 + 16 + 17 :])
    path.write_bytes(packed)
    with open_pcap(path) as reader:
        assert [row for batch in reader for row in rows(batch)] == expected(1000)
        assert reader.position == reader.size == len(packed)


def test_gzip_cut_and_corrupt():
    data = pcap([(i, 0, os.urandom(50)) for i in range(100)])
    whole = read(io.BytesIO(data))
    packed = gzip.compress(data)
    for length in range(2, len(packed), 97):
        got, error = read_until_error(io.BytesIO(packed[:length]))
        assert got == whole[: len(got)]
        assert type(error) is TruncatedCapture
    got, error = read_until_error(io.BytesIO(packed[:-1]))
    assert got == whole
    assert type(error) is TruncatedCapture
    for at in range(2, len(packed), 97):
        bad = bytearray(packed)
        bad[at] ^= 0xFF
        got, error = read_until_error(io.BytesIO(bad))
        assert error is None or isinstance(error, CaptureError)


def test_closed():
    reader = open_pcap(io.BytesIO(pcap(RECORDS)))
    reader.close()
    reader.close()
    with pytest.raises(CaptureError, match="closed"):
        next(reader)


def test_nonsense_construction():
    from lvscore.io import PcapReader

    reader = open_pcap(io.BytesIO(pcap(RECORDS)))
    with pytest.raises(ConfigError):
        reader.__init__(io.BytesIO(pcap(RECORDS)))
    bare = PcapReader.__new__(PcapReader)
    with pytest.raises(CaptureError, match="never opened"):
        next(bare)
    bare.close()


def test_entered_twice():
    class Entering:
        def readinto(self, buffer):
            if armed:
                with pytest.raises(ConcurrencyError):
                    next(reader)
                with pytest.raises(ConcurrencyError):
                    reader.close()
            return source.readinto(buffer)

    armed, source = False, io.BytesIO(pcap(RECORDS) + pcap([])[:5])
    reader = open_pcap(Entering())
    armed = True
    with pytest.raises(TruncatedCapture):
        list(reader)


def test_an_interrupt_loses_no_frame():
    class Interrupted:
        calls = 0

        def readinto(self, buffer):
            self.calls += 1
            if self.calls == 4:
                raise KeyboardInterrupt
            part = data.read(min(50, len(buffer)))
            buffer[: len(part)] = part
            return len(part)

    data = io.BytesIO(pcap(RECORDS))
    got = []
    with open_pcap(Interrupted()) as reader:
        while len(got) < len(RECORDS):
            try:
                for batch in reader:
                    got += rows(batch)
            except KeyboardInterrupt:
                pass
    assert got == expected(1000)


def test_pipe_delivers_what_has_come():
    out, into = os.pipe()
    data = pcap(RECORDS)
    with os.fdopen(out, "rb", buffering=0) as file:
        os.write(into, data[:24])
        with open_pcap(file) as reader:
            os.write(into, data[24 : 24 + 16 + 17])
            assert len(next(reader)) == 2
            timer = threading.Timer(0.05, lambda: (os.write(into, data[57:]), os.close(into)))
            timer.start()
            assert sum(len(batch) for batch in reader) == 2
            assert reader.size is None
            timer.join()


COPY = """
import sys
from lvscore.io import create_pcap, open_pcap
with open_pcap("-") as source, create_pcap("-", like=source) as sink:
    for batch in source:
        sink.write_batch(batch)
"""


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_standard_streams(pack):
    data = pcap(RECORDS * 500, magic=NANOSECOND)
    done = subprocess.run(
        [sys.executable, "-c", COPY], input=pack(data), capture_output=True, check=True, timeout=60
    )
    assert read(io.BytesIO(done.stdout)) == read(io.BytesIO(data))


@pytest.mark.parametrize("stream", ["stdin", "stdout"])
def test_closed_standard_stream(stream, monkeypatch):
    from lvscore.io import create_pcap

    monkeypatch.setattr(sys, stream, None)
    with pytest.raises(CaptureError, match="closed"):
        (open_pcap if stream == "stdin" else create_pcap)("-")
