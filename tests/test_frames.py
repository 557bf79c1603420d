"""FrameBatch: what it takes, what it refuses, and that it outlives nobody's memory."""

import array
import gc
import mmap
import re
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvscore._frames import FrameBatch
from lvscore.errors import ConfigError


@given(st.lists(st.binary(max_size=50), max_size=20), st.data())
def test_of(frames, data):
    stamps = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=len(frames), max_size=len(frames))
    timestamps = data.draw(st.none() | stamps)
    batch = FrameBatch.of(frames, timestamps, link_type=101)
    assert len(batch) == len(frames)
    assert batch.link_type == 101
    assert [bytes(frame) for frame in batch] == frames
    assert batch.timestamp.tolist() == (timestamps or [0] * len(frames))
    assert batch.length.tolist() == batch.original_length.tolist() == [len(f) for f in frames]
    assert batch.verdict.tolist() == batch.reason.tolist() == [0] * len(frames)


BUFFERS = [
    lambda: bytearray(100),
    lambda: memoryview(bytearray(120))[10:110],
    lambda: np.zeros(100, np.uint8),
    lambda: np.zeros((10, 10), np.int8),
    lambda: np.zeros(5, [("O", "u4"), ("frame", "u1", 16)]),
    lambda: np.zeros(25, np.float32),
    lambda: array.array("B", bytes(100)),
    lambda: mmap.mmap(-1, 100),
]


@pytest.mark.parametrize("make", BUFFERS)
@pytest.mark.parametrize(
    "kind",
    [
        list,
        tuple,
        np.array,
        lambda v: np.array(v, np.int16),
        lambda v: np.array(v, ">u8"),
        lambda v: np.repeat(v, 2)[::2],
    ],
)
def test_buffers_and_arrays(make, kind):
    buffer = make()
    batch = FrameBatch(
        buffer,
        kind([40, 0, 100]),
        kind([60, 10, 0]),
        kind([1, 2, 3]),
        original_lengths=kind([60, 1500, 0]),
    )
    assert batch.offset.tolist() == [40, 0, 100]
    assert batch.original_length.tolist() == [60, 1500, 0]
    batch[1][:] = b"0123456789"
    assert memoryview(buffer).tobytes()[:10] == b"0123456789"
    assert batch[-1].nbytes == 0
    assert batch[-3].nbytes == 60


def test_columns():
    batch = FrameBatch.of([b"a", b"bc"])
    for name, kind in (
        ("offset", "u8"),
        ("length", "u4"),
        ("original_length", "u4"),
        ("timestamp", "i8"),
        ("verdict", "u1"),
        ("reason", "u1"),
    ):
        values = getattr(batch, name)
        assert values.dtype == kind
        assert values.shape == (2,)
        assert values.flags.writeable == (kind == "u1")
        with pytest.raises(AttributeError):
            setattr(batch, name, values)
    batch.verdict[1] = 3
    assert batch.verdict.tolist() == [0, 3]


@pytest.mark.parametrize(
    ("offset", "length"),
    [(10, 1), (0, 11), (11, 0), (2**64 - 1, 1), (2**63, 0), (5, 2**31), (0, 2**32 - 1)],
)
def test_frames_outside_the_buffer(offset, length):
    with pytest.raises(ConfigError, match="frame 1: bytes"):
        FrameBatch(bytearray(10), np.array([0, offset], np.uint64), [1, length], [0, 0])


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 8)), max_size=8))
def test_frames_that_overlap_are_refused(frames):
    """Against the definition: two frames share bytes if their ranges do."""
    owners = {}
    for i, (offset, length) in enumerate(frames):
        for byte in range(offset, offset + length):
            owners.setdefault(byte, []).append(i)
    pairs = {(i, j) for same in owners.values() for i in same for j in same if i < j}
    offsets, lengths = [o for o, _ in frames], [n for _, n in frames]
    arguments = bytearray(48), offsets, lengths, [0] * len(frames)
    if not pairs:
        assert len(FrameBatch(*arguments)) == len(frames)
        return
    with pytest.raises(ConfigError) as refused:
        FrameBatch(*arguments)
    numbers = [int(number) for number in re.findall(r"\d+", str(refused.value))]
    i, begin, end, j, other_begin, other_end = numbers
    assert (i, j) in pairs
    assert (begin, end) == (offsets[i], offsets[i] + lengths[i])
    assert (other_begin, other_end) == (offsets[j], offsets[j] + lengths[j])


@pytest.mark.parametrize(
    ("offsets", "lengths", "message"),
    [
        ([0, 10, 10], [10, 5, 5], r"frame 1: bytes 10\.\.15 overlap frame 2: bytes 10\.\.15$"),
        ([0, 60, 3], [4, 10, 20], r"frame 0: bytes 0\.\.4 overlap frame 2: bytes 3\.\.23$"),
        ([30, 0, 10], [10, 31, 1], r"frame 1: bytes 0\.\.31 overlap frame 2: bytes 10\.\.11$"),
    ],
)
def test_the_frames_that_overlap_are_named(offsets, lengths, message):
    with pytest.raises(ConfigError, match=message):
        FrameBatch(bytearray(100), offsets, lengths, [0, 0, 0])


def test_an_empty_frame_overlaps_nothing():
    assert len(FrameBatch(bytearray(10), [0, 5, 0, 5], [10, 0, 0, 0], [0] * 4)) == 4


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((b"read-only", [0], [1], [0]), {}, "writable"),
        ((memoryview(bytearray(10))[::2], [0], [1], [0]), {}, "contiguous"),
        ((np.zeros(20, np.uint8)[::2], [0], [1], [0]), {}, "contiguous"),
        ((np.zeros(20, np.uint8)[::-1], [0], [1], [0]), {}, "contiguous"),
        ((np.asfortranarray(np.zeros((4, 5), np.uint8)), [0], [1], [0]), {}, "contiguous"),
        ((np.frombuffer(b"read-only", np.uint8), [0], [1], [0]), {}, "read-only"),
        ((np.array([None] * 4), [0], [1], [0]), {}, "Python objects"),
        ((np.zeros(4, [("B", "u1"), ("x", "O")]), [0], [1], [0]), {}, "Python objects"),
        (("text", [0], [1], [0]), {}, "str"),
        ((None, [], [], []), {}, "NoneType"),
        ((bytearray(9), [0], [1, 2], [0]), {}, "equally long"),
        ((bytearray(9), [0], [1], []), {}, "equally long"),
        ((bytearray(9), [0.5], [1], [0]), {}, "offsets must be integers"),
        ((bytearray(9), [0], ["1"], [0]), {}, "lengths must be integers"),
        ((bytearray(9), [0], [True], [0]), {}, "lengths must be integers"),
        ((bytearray(9), [0], [None], [0]), {}, "lengths must be integers"),
        ((bytearray(9), [0], [-1], [0]), {}, "lengths must lie in"),
        ((bytearray(9), [0], [2**32], [0]), {}, "lengths must lie in"),
        ((bytearray(9), [0], [1], [2**63]), {}, "timestamps must lie in"),
        ((bytearray(9), [0], [1], [2**70]), {}, "timestamps must be integers"),
        ((bytearray(9), [[0]], [1], [0]), {}, "offsets must have one dimension"),
        ((bytearray(9), [[0], [1, 2]], [1], [0]), {}, "offsets must be integers"),
        ((bytearray(9), 0, [1], [0]), {}, "offsets must have one dimension"),
        ((bytearray(9), [0], [2], [0]), {"original_lengths": [1]}, "original length 1"),
        ((bytearray(9), [0], [2], [0]), {"link_type": -1}, "link_type"),
        ((bytearray(9), [0], [2], [0]), {"link_type": 65536}, "link_type"),
        ((bytearray(9), [0], [2], [0]), {"link_type": "EN10MB"}, "EN10MB"),
    ],
)
def test_refused(arguments, options, message):
    with pytest.raises(ConfigError, match=message):
        FrameBatch(*arguments, **options)


def test_numbers_of_numpy_and_how_it_is_shown():
    batch = FrameBatch(bytearray(9), [np.int8(0)], [np.uint64(9)], [0], link_type=np.uint16(101))
    assert batch.link_type == 101
    assert repr(batch) == "<FrameBatch of 1 frames, link type 101>"


def test_of_refused():
    for frames in ([b"x", "text"], [3], 3):
        with pytest.raises(ConfigError, match="bytes-like"):
            FrameBatch.of(frames)
    with pytest.raises(ConfigError, match="equally long"):
        FrameBatch.of([b"x"], [1, 2])


def test_index():
    batch = FrameBatch.of([b"a", b"b"])
    for index in (2, -3, 1 << 40):
        with pytest.raises(IndexError, match=rf"frame {index} of a batch of 2"):
            batch[index]
    with pytest.raises(IndexError):
        batch[1 << 70]
    with pytest.raises(TypeError):
        batch["a"]


def test_a_batch_is_bound_once():
    batch = FrameBatch.of([b"abc"])
    with pytest.raises(ConfigError, match="bound once"):
        batch.__init__(bytearray(1), [0], [1], [0])
    assert bytes(batch[0]) == b"abc"


def test_a_batch_never_bound_is_empty():
    batch = FrameBatch.__new__(FrameBatch)
    assert len(batch) == 0
    assert batch.timestamp.tolist() == []
    with pytest.raises(IndexError):
        batch[0]


def test_buffer_is_held_and_let_go():
    buffer = bytearray(10)
    batch = FrameBatch(buffer, [0], [10], [0])
    frame, times = batch[0], batch.timestamp
    with pytest.raises(BufferError):
        buffer.append(1)
    del batch
    gc.collect()
    frame[:] = b"still held"
    assert buffer == b"still held"
    assert times.tolist() == [0]
    del frame, times
    gc.collect()
    buffer.append(1)


def test_a_refused_buffer_is_let_go():
    buffer = bytearray(10)
    with pytest.raises(ConfigError):
        FrameBatch(buffer, [0], [11], [0])
    gc.collect()
    buffer.append(1)


def test_documented():
    for name in (
        "of",
        "link_type",
        "offset",
        "length",
        "original_length",
        "timestamp",
        "verdict",
        "reason",
        "__getitem__",
    ):
        assert getattr(FrameBatch, name).__doc__, name
    assert "Raises" in FrameBatch.__doc__


def test_a_batch_that_is_garbage_in_a_cycle(monkeypatch):
    """The collector must not take the buffer's owner from under it."""
    seen = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: seen.append(error))
    gc.disable()
    try:
        batch = FrameBatch.of([b"frame"])
        cycle = [batch]
        cycle.append(cycle)
        del batch, cycle
        gc.collect()
    finally:
        gc.enable()
    assert seen == []
