"""The captures that tests run over: the project's own, and more where they are shared."""

from functools import cache
from pathlib import Path
from typing import NamedTuple

from lvscore import FrameBatch, LvscoreError
from lvscore.io import open_pcap

DATA = Path(__file__).parents[1] / "data" / "captures"
SHARED = Path(__file__).parents[3] / "shared" / "captures"


class Frame(NamedTuple):
    """One frame of a capture."""

    data: bytes
    time: int
    wire_length: int


class Capture(NamedTuple):
    """Frames of one link type."""

    link_type: int
    frames: list[Frame]


def files():
    """All capture files by name; one that is in both places is taken once."""
    found = {}
    for root in (SHARED, DATA):
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.suffix != ".md":
                found[str(path.relative_to(root))] = path
    return found


@cache
def load(path):
    """The capture in runs of one link type, as far as it can be read."""
    runs = []
    try:
        with open_pcap(path) as source:
            for batch in source:
                if not runs or runs[-1].link_type != batch.link_type:
                    runs.append(Capture(batch.link_type, []))
                times, lengths = batch.timestamp.tolist(), batch.original_length.tolist()
                runs[-1].frames.extend(
                    Frame(bytes(batch[i]), times[i], lengths[i]) for i in range(len(batch))
                )
    except LvscoreError:
        # What stands before a broken record counts; test_sweep looks that something does.
        return runs
    return runs


def batch_of(frames, link_type):
    """A FrameBatch of frames, snapped ones with their length on the wire."""
    offsets, position = [], 0
    for frame in frames:
        offsets.append(position)
        position += len(frame.data)
    return FrameBatch(
        bytearray(b"".join(frame.data for frame in frames)), offsets,
        [len(frame.data) for frame in frames], [frame.time for frame in frames],
        link_type=link_type, original_lengths=[frame.wire_length for frame in frames],
    )  # fmt: skip
