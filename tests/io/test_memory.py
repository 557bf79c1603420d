"""Frames in memory as source and sink."""

import numpy as np
import pytest

from lvscore.errors import ConfigError
from lvscore.io import MemorySink, MemorySource, Sink, Source

FRAMES = [bytes([n]) * n for n in range(10)]


@pytest.mark.parametrize("size", [1, 3, 10, 1024])
def test_round_trip(size):
    source = MemorySource(FRAMES, range(10), 101, batch_size=size)
    assert isinstance(source, Source)
    assert (source.link_type, len(source)) == (101, 10)
    for _ in range(2):
        sink = MemorySink()
        assert isinstance(sink, Sink)
        for batch in source:
            assert batch.link_type == 101
            assert len(batch) <= size
            sink.write_batch(batch)
            for i in range(len(batch)):
                batch[i][:] = bytes(len(batch[i]))  # reaches neither
        sink.close()
        assert sink.frames == list(zip(FRAMES, range(10), strict=True))


def test_select():
    sink = MemorySink()
    (batch,) = MemorySource(FRAMES)
    sink.write_batch(batch, np.arange(10) % 2 == 1)
    sink.write_batch(batch, np.array([1] + [0] * 9, np.uint8))
    assert [frame for frame, _ in sink.frames] == [*FRAMES[1::2], b""]
    for bad in (np.ones(9, bool), np.ones((10, 1), bool), np.ones(10), [1] * 10):
        with pytest.raises(ConfigError, match="select"):
            sink.write_batch(batch, bad)


def test_nothing():
    assert list(MemorySource([])) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((FRAMES, [1]), "1 timestamps for 10"),
        (([1],), "bytes-like"),
        ((3,), "bytes-like"),
        ((FRAMES, ["now"] * 10), "timestamps"),
        ((FRAMES, [2**63] * 10), "timestamps"),
        ((FRAMES, 5), "timestamps"),
        ((FRAMES, None, 70000), "link_type"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        list(MemorySource(*arguments))


def test_bad_batch_size():
    for size in (0, "x", None):
        with pytest.raises(ConfigError, match="batch_size"):
            MemorySource([], batch_size=size)
