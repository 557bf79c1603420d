"""Frames that the engine puts out itself: fragments cut again.

They lie in a buffer of their own until the next call. Each knows which frame of the batch it
was put out for, so that a sink can keep the order.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

cdef enum:
    EMITTED_FRAMES = 64         # room at first; doubled as it fills
    EMITTED_BYTES = 131072


cdef struct EmittedFrame:
    uint64_t offset
    int64_t timestamp           # ns
    uint32_t length
    uint32_t cause              # index of the frame in the batch
    uint8_t verdict
    uint8_t reason


cdef struct Emitted:
    uint8_t* data
    EmittedFrame* frame
    uint64_t used               # bytes
    uint64_t room
    uint32_t count
    uint32_t capacity
    uint32_t cause              # of what is put out now
    int link_type               # of all
    uint64_t lost               # frames for which there was no memory


cdef inline void emitted_clear(Emitted* e) noexcept nogil:
    e.used = 0
    e.count = 0
    e.cause = 0


cdef inline void emitted_free(Emitted* e) noexcept nogil:
    free(e.data)
    free(e.frame)
    memset(e, 0, sizeof(Emitted))


cdef inline uint8_t* emit_reserve(Emitted* e, uint32_t length) noexcept nogil:
    """Room for a frame of at most ``length`` bytes, or NULL (counted)."""
    cdef uint64_t room = e.room if e.room else EMITTED_BYTES
    cdef uint32_t capacity = 2 * e.capacity if e.capacity else EMITTED_FRAMES
    cdef void* grown
    if e.used + length > e.room:
        while e.used + length > room:
            room *= 2
        grown = realloc(e.data, room)
        if grown == NULL:
            e.lost += 1
            return NULL
        e.data = <uint8_t*>grown
        e.room = room
    if e.count == e.capacity:
        grown = realloc(e.frame, capacity * sizeof(EmittedFrame))
        if grown == NULL:
            e.lost += 1
            return NULL
        e.frame = <EmittedFrame*>grown
        e.capacity = capacity
    return e.data + e.used


cdef inline void emit_commit(Emitted* e, uint32_t length, int64_t timestamp, uint8_t verdict,
                             uint8_t reason) noexcept nogil:
    """Put out the frame that was written to the room reserved last."""
    cdef EmittedFrame* frame = &e.frame[e.count]
    frame.offset = e.used
    frame.length = length
    frame.timestamp = timestamp
    frame.cause = e.cause
    frame.verdict = verdict
    frame.reason = reason
    e.used += length
    e.count += 1
