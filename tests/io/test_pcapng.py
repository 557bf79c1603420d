"""Reading pcapng: blocks, sections, interfaces, resolutions; every cut, every corruption."""

import io
import itertools
import struct

import pytest
from capture_files import (
    EPB,
    IDB,
    PB,
    SHB,
    SPB,
    block,
    enhanced,
    interface,
    obsolete,
    option,
    read,
    read_until_error,
    rows,
    section,
    simple,
)
from hypothesis import given
from hypothesis import strategies as st

from lvscore.errors import CaptureError, TruncatedCapture, UnsupportedLinkType
from lvscore.io import open_pcap


def blocks(order):
    """A little of everything, one block each, and the frame that each brings."""
    return [
        (section(order), None),
        (interface(1, order, snaplen=100), None),
        (block(5, bytes(8), order), None),
        (enhanced(b"", 1_000_000, order=order), (b"", 10**9, 0, 1)),
        (enhanced(b"enhanced", 1, order=order, original=99), (b"enhanced", 1000, 99, 1)),
        (simple(b"simple", order=order), (b"simple", 0, 6, 1)),
        (interface(113, order, resolution=9, offset=7), None),
        (enhanced(b"sll", 5, 1, order), (b"sll", 7 * 10**9 + 5, 3, 113)),
        (obsolete(b"old", 3, 0, order), (b"old", 3000, 3, 1)),
        (block(0x0BAD, b"a custom block", order), None),
        (section("<" if order == ">" else ">"), None),
        (interface(101, "<" if order == ">" else ">"), None),
        (
            enhanced(b"other order", 2, order="<" if order == ">" else ">"),
            (b"other order", 2000, 11, 101),
        ),
    ]


@pytest.mark.parametrize("order", ["<", ">"])
def test_everything(order):
    data = b"".join(part for part, _ in blocks(order))
    with open_pcap(io.BytesIO(data)) as reader:
        assert (reader.format, reader.link_type, reader.snaplen) == ("pcapng", 1, 100)
        assert not reader.nanosecond
        got = [rows(batch) for batch in reader]
    assert [row for batch in got for row in batch] == [row for _, row in blocks(order) if row]
    assert [batch[0][3] for batch in got] == [1, 113, 1, 101]  # ends where the link type changes


@pytest.mark.parametrize("order", ["<", ">"])
def test_every_truncation(order):
    parts = blocks(order)
    data = b"".join(part for part, _ in parts)
    ends = list(itertools.accumulate(len(part) for part, _ in parts))
    for length in range(1, len(data) + 1):
        got, error = read_until_error(io.BytesIO(data[:length]))
        whole = sum(end <= length for end in ends)
        assert got == [row for _, row in parts[:whole] if row]
        if length == ends[0]:
            assert type(error) is CaptureError
            assert "interface" in str(error)
        elif length in ends:
            assert error is None
        else:
            assert type(error) is TruncatedCapture
            assert error.offset == (ends[whole - 1] if whole else 0)


def exact(ticks, resolution):
    n = resolution & 0x7F
    return ticks * 10**9 // (2**n if resolution & 0x80 else 10**n)


@given(st.integers(0, 2**64 - 1), st.integers(0, 255), st.integers(-(2**33), 2**33))
def test_resolution_and_offset(ticks, resolution, offset):
    data = section() + interface(resolution=resolution, offset=offset) + enhanced(b"x", ticks)
    wanted = exact(ticks, resolution) + offset * 10**9
    got, error = read_until_error(io.BytesIO(data))
    if exact(ticks, resolution) < 2**63 and wanted < 2**63:
        assert error is None
        assert got[0][1] == wanted
    else:
        assert type(error) is CaptureError
        assert f"timestamp {ticks}" in str(error)


@pytest.mark.parametrize("resolution", range(256))
def test_nanosecond(resolution):
    with open_pcap(io.BytesIO(section() + interface(resolution=resolution))) as reader:
        n = resolution & 0x7F
        assert reader.nanosecond == (10**6 % (2**n if resolution & 0x80 else 10**n) != 0)


def test_simple_packet_is_cut_at_the_snapshot_length():
    data = section() + interface(snaplen=4) + simple(b"four", original=1500)
    assert read(io.BytesIO(data)) == [(b"four", 0, 1500, 1)]


def test_unread_interfaces_may_be_of_any_link_type():
    data = (
        section()
        + interface(105)
        + interface(1)
        + enhanced(b"x", number=1)
        + interface(147)
        + enhanced(b"y", number=1)
        + enhanced(b"z", number=2)
    )
    with open_pcap(io.BytesIO(data)) as reader:
        assert reader.link_type == 1
        assert [row[0] for row in rows(next(reader))] == [b"x", b"y"]
        with pytest.raises(UnsupportedLinkType, match="147"):
            next(reader)
    for tail in (b"", enhanced(b"x")):
        with pytest.raises(UnsupportedLinkType, match="105"):
            open_pcap(io.BytesIO(section() + interface(105) + tail))


def test_many_interfaces():
    data = section() + interface() * 1000 + enhanced(b"x", number=999)
    assert read(io.BytesIO(data)) == [(b"x", 0, 1, 1)]
    # A section describes its own: those before it are gone.
    _, error = read_until_error(io.BytesIO(data + section() + interface() + enhanced(b"y", 0, 1)))
    assert "interface 1" in str(error)
    _, error = read_until_error(io.BytesIO(section() + interface() * 65537))
    assert "65536" in str(error)


HEAD = section() + interface()


@pytest.mark.parametrize(
    ("tail", "value"),
    [
        (struct.pack("<III", 5, 8, 8), "block length 8"),
        (struct.pack("<IIII", 5, 15, 0, 0), "block length 15"),
        (struct.pack("<III", 5, 0xFFFFFFFC, 0), "block length 4294967292"),
        (struct.pack("<III", 5, 12, 16), "16 stands"),
        (block(EPB, bytes(16)), "block length 28"),
        (block(PB, bytes(16)), "block length 28"),
        (block(SPB, b""), "block length 12"),
        (block(IDB, b""), "block length 12"),
        (block(SHB, struct.pack("<IHH", 0x1A2B3C4D, 1, 0)), "block length 20"),
        (block(SHB, struct.pack("<IHHq", 0x11223344, 1, 0, -1)), "0x11223344"),
        (section(version=(2, 0)), "version 2.0"),
        (enhanced(b"x", number=1), "interface 1"),
        (obsolete(b"x", number=9), "interface 9"),
        (block(EPB, struct.pack("<5I", 0, 0, 0, 5, 5) + bytes(4)), "captured length 5"),
        (block(SPB, struct.pack("<I", 5) + bytes(4)), "captured length 5"),
        (enhanced(b"x", 2**64 - 1), "timestamp 18446744073709551615"),
        (block(IDB, bytes(8) + struct.pack("<HH", 2, 5)), "option 2"),
        (block(IDB, bytes(8) + option(9, b"12")), "option 9"),
        (block(IDB, bytes(8) + option(14, b"1234")), "option 14"),
        (block(IDB, bytes(8) + option(14, struct.pack("<q", 2**63 - 1))), "option 14"),
    ],
)
def test_corrupt_blocks_name_value_and_offset(tail, value):
    data = HEAD + enhanced(b"before")
    got, error = read_until_error(io.BytesIO(data + tail + enhanced(b"after")))
    assert got == [(b"before", 0, 6, 1)]
    assert type(error) is CaptureError
    assert value in str(error)
    assert f"offset {len(data)}:" in str(error)


def test_packet_before_any_interface():
    with pytest.raises(CaptureError, match="interface 0"):
        open_pcap(io.BytesIO(section() + enhanced(b"x")))


def test_unknown_block_larger_than_the_buffer():
    data = HEAD + block(0x0BAD, bytes(3 << 20)) + enhanced(b"x")
    assert read(io.BytesIO(data)) == [(b"x", 0, 1, 1)]
