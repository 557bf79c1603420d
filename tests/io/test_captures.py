"""Real captures: read like scapy reads them, copied without loss, and mutated without a crash."""

import gzip
import io
from pathlib import Path

import pytest
from capture_files import CAPTURES, DATA, read, read_until_error, rows
from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import RawPcapNgReader, RawPcapReader

from lvscore.errors import CaptureError
from lvscore.io import create_pcap, open_pcap

# More of them, under licences that keep them out of the repository.
SHARED = Path(__file__).parents[3] / "shared" / "captures"
OTHERS = sorted(
    path
    for path in SHARED.rglob("*")
    if path.is_file() and path.suffix != ".md" and not (DATA / path.relative_to(SHARED)).exists()
)
SMALL = [path.read_bytes() for path in CAPTURES if path.stat().st_size < 4000]


def by_scapy(path):
    """(frame, nanoseconds, original length) of each frame."""
    data = path.read_bytes()
    file = io.BytesIO(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    if data[:4] == b"\n\r\r\n":
        with RawPcapNgReader(file) as reader:
            return [
                (frame, (meta.tshigh << 32 | meta.tslow) * 10**9 // int(meta.tsresol), meta.wirelen)
                for frame, meta in reader
            ]
    with RawPcapReader(file) as reader:
        unit = 1 if reader.nano else 1000
        return [
            (frame, meta.sec * 10**9 + meta.usec * unit, meta.wirelen) for frame, meta in reader
        ]


def check(path, tmp_path):
    wanted = by_scapy(path)
    got = read(path)
    assert [(frame, at, max(wire, len(frame))) for frame, at, wire in wanted] == [
        row[:3] for row in got
    ]
    for format in ("pcap", "pcapng"):
        with (
            open_pcap(path) as source,
            create_pcap(tmp_path / "x", like=source, format=format) as sink,
        ):
            for batch in source:
                sink.write_batch(batch)
            assert sink.frames == source.frames == len(wanted)
        assert read(tmp_path / "x") == got


def test_they_are_there():
    assert len(CAPTURES) == 58


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.name)
def test_same_frames_as_scapy(path, tmp_path):
    check(path, tmp_path)


@pytest.mark.skipif(not OTHERS, reason=f"no further captures in {SHARED.name}/")
@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.name)
def test_same_frames_as_scapy_elsewhere(path, tmp_path):
    check(path, tmp_path)


@given(st.data())
def test_mutated_captures_never_crash(data):
    capture = bytearray(data.draw(st.sampled_from(SMALL)))
    if data.draw(st.booleans()):
        with open_pcap(io.BytesIO(capture)) as source:
            file = io.BytesIO()
            with create_pcap(file, like=source, format="pcapng") as sink:
                for batch in source:
                    sink.write_batch(batch)
        capture = bytearray(file.getvalue())
    places = st.one_of(st.integers(0, min(80, len(capture) - 1)), st.integers(0, len(capture) - 1))
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=10)):
        capture[place] = value
    cut = data.draw(st.integers(0, len(capture)))
    got, error = read_until_error(io.BytesIO(capture[:cut] if cut % 3 == 0 else capture))
    assert error is None or isinstance(error, CaptureError), error
    assert sum(len(row[0]) for row in got) <= len(capture)


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\n\r\r\n", b"\xd4\xc3\xb2\xa1\x02\0\4\0", b"\x1f\x8b\x08"]),
)
def test_any_bytes(tail, head):
    _, error = read_until_error(io.BytesIO(head + tail))
    assert error is None or isinstance(error, CaptureError)


def test_arrays_of_a_real_capture():
    (path,) = [path for path in CAPTURES if path.name == "icmp6.pcap"]
    with open_pcap(path) as source:
        for batch in source:
            assert len(rows(batch)) == len(batch.timestamp) == len(batch.length)
            assert (batch.original_length >= batch.length).all()
