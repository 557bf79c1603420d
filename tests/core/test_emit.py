"""emit.pxd: frames of the engine's own, in the order in which they are put out."""

from hypothesis import given
from hypothesis import strategies as st

from lvscore._probe_store import Emitted

FRAMES = st.lists(
    st.tuples(
        st.binary(min_size=1, max_size=80),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**63 - 1),
        st.integers(0, 255),
        st.integers(0, 255),
    ),
    max_size=80,
)


@given(FRAMES, FRAMES)
def test_what_is_put_out_is_there(first, second):
    """Also after the buffer was emptied and used again."""
    emitted = Emitted()
    for frames in first, second:
        for frame in frames:
            emitted.emit(*frame)
        assert emitted.frames() == frames
        emitted.clear()
        assert emitted.frames() == []


def test_it_grows_in_frames_and_in_bytes():
    emitted, frames = Emitted(), [bytes([n % 251]) * (1 + n * 7 % 9000) for n in range(500)]
    for frame in frames:
        emitted.emit(frame)
    assert [frame for frame, *_ in emitted.frames()] == frames


def test_one_frame_above_all_room():
    emitted, frame = Emitted(), bytes(range(256)) * 4000
    emitted.emit(b"before")
    emitted.emit(frame)
    assert [f for f, *_ in emitted.frames()] == [b"before", frame]


def test_room_that_was_not_needed_is_used_by_the_next():
    emitted = Emitted()
    for n in range(300):
        emitted.emit(bytes([n % 256]), spare=65000)
    assert b"".join(f for f, *_ in emitted.frames()) == bytes(n % 256 for n in range(300))
