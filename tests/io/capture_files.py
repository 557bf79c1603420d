"""Captures put together by hand, and read back as plain tuples."""

import struct
from pathlib import Path

from lvscore.io import open_pcap

DATA = Path(__file__).parents[1] / "data" / "captures"
CAPTURES = sorted(path for path in DATA.rglob("*") if path.is_file() and path.suffix != ".md")

MICROSECOND, NANOSECOND, KUZNETZOV = 0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34
SHB, IDB, PB, SPB, EPB = 0x0A0D0D0A, 1, 2, 3, 6


def pcap(records, order="<", magic=MICROSECOND, link_type=1, snaplen=65535, version=(2, 4)):
    """``records`` are (seconds, fraction, data[, original length])."""
    out = struct.pack(order + "IHHiIII", magic, *version, 0, 0, snaplen, link_type)
    for seconds, fraction, data, *original in records:
        out += struct.pack(order + "4I", seconds, fraction, len(data), *(original or [len(data)]))
        out += bytes(8) * (magic == KUZNETZOV) + data
    return out


def block(kind, body, order="<"):
    body += bytes(-len(body) % 4)
    length = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + length + body + length


def option(code, value, order="<"):
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(order="<", version=(1, 0)):
    return block(SHB, struct.pack(order + "IHHq", 0x1A2B3C4D, *version, -1), order)


def interface(link_type=1, order="<", snaplen=0, resolution=None, offset=None):
    options = b""
    if resolution is not None:
        options += option(9, bytes([resolution]), order)
    if offset is not None:
        options += option(14, struct.pack(order + "q", offset), order)
    if options:
        options = option(2, b"eth0", order) + options + option(0, b"", order)
    return block(IDB, struct.pack(order + "HHI", link_type, 0, snaplen) + options, order)


def enhanced(data, ticks=0, number=0, order="<", original=None):
    original = len(data) if original is None else original
    return block(
        EPB,
        struct.pack(order + "5I", number, ticks >> 32, ticks & 0xFFFFFFFF, len(data), original)
        + data
        + bytes(-len(data) % 4),
        order,
    )


def obsolete(data, ticks=0, number=0, order="<"):
    return block(
        PB,
        struct.pack(
            order + "HH4I", number, 0, ticks >> 32, ticks & 0xFFFFFFFF, len(data), len(data)
        )
        + data,
        order,
    )


def simple(data, original=None, order="<"):
    original = len(data) if original is None else original
    return block(SPB, struct.pack(order + "I", original) + data, order)


def rows(batch):
    """(frame, nanoseconds, original length, link type) of each frame."""
    return [
        (bytes(batch[i]), int(batch.timestamp[i]), int(batch.original_length[i]), batch.link_type)
        for i in range(len(batch))
    ]


def read(source, **options):
    with open_pcap(source, **options) as reader:
        return [row for batch in reader for row in rows(batch)]


def read_until_error(source, **options):
    """What was delivered, and the exception that ended it, or None."""
    got = []
    try:
        with open_pcap(source, **options) as reader:
            for batch in reader:
                got += rows(batch)
    except Exception as error:
        return got, error
    return got, None
