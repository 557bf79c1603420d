"""A hierarchical timer wheel over the timers inside an array of records.

Four levels of 256 slots (Varghese and Lauck 1987): milliseconds, quarter seconds, minutes,
hours; 2**32 ms in all. Deadlines are exact to the tick. A timer whose deadline moves *later*
is left where it is and linked anew when its slot comes up, so that a packet only writes the
deadline; one that moves *earlier* is relinked at once.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from lvscore._core.consts cimport NIL
from lvscore._core.machine cimport lowest_bit64

cdef enum:
    LEVELS = 4
    WHEEL_SLOTS = 256
    AT_HEAD = 0x80000000U    # in Timer.previous: first of slot (level << 8 | slot)

cdef enum:
    NO_EVENT = -1


cdef struct Timer:
    uint32_t deadline       # low 32 bits of the tick at which it is due
    uint32_t next
    uint32_t previous


cdef struct Wheel:
    uint8_t* timers         # the first record's timer
    uint64_t tick           # where the wheel stands
    uint64_t event          # no slot comes up before this tick
    uint64_t occupied[4][4]
    uint32_t head[4][256]
    uint32_t stride         # from one record's timer to the next one's


cdef inline void wheel_init(Wheel* wheel, uint8_t* timers, uint32_t stride) noexcept nogil:
    cdef uint32_t level, slot
    wheel.timers = timers
    wheel.stride = stride
    wheel.tick = 0
    wheel.event = <uint64_t>NO_EVENT
    for level in range(LEVELS):
        for slot in range(4):
            wheel.occupied[level][slot] = 0
        for slot in range(WHEEL_SLOTS):
            wheel.head[level][slot] = NIL


cdef inline Timer* wheel_timer(const Wheel* wheel, uint32_t i) noexcept nogil:
    return <Timer*>(wheel.timers + <uint64_t>i * wheel.stride)


cdef inline void wheel_link(Wheel* wheel, uint32_t i) noexcept nogil:
    """Link record ``i`` by its deadline; one that is past comes up at the present tick."""
    cdef Timer* timer = wheel_timer(wheel, i)
    cdef uint32_t ahead = timer.deadline - <uint32_t>wheel.tick
    cdef uint32_t level = 0
    cdef uint32_t slot
    cdef uint64_t due
    if ahead >= 0xF0000000U:  # past
        ahead = 0
    due = wheel.tick + ahead
    if ahead >= 1 << 24:
        level = 3
    elif ahead >= 1 << 16:
        level = 2
    elif ahead >= 1 << 8:
        level = 1
    slot = <uint32_t>(due >> (8 * level)) & 255
    timer.next = wheel.head[level][slot]
    timer.previous = AT_HEAD | level << 8 | slot
    if timer.next != NIL:
        wheel_timer(wheel, timer.next).previous = i
    wheel.head[level][slot] = i
    wheel.occupied[level][slot >> 6] |= <uint64_t>1 << (slot & 63)
    due = due >> (8 * level) << (8 * level)
    if due < wheel.event:
        wheel.event = due


cdef inline void wheel_unlink(Wheel* wheel, uint32_t i) noexcept nogil:
    cdef Timer* timer = wheel_timer(wheel, i)
    cdef uint32_t level, slot
    if timer.previous & AT_HEAD:
        level = (timer.previous >> 8) & 3
        slot = timer.previous & 255
        wheel.head[level][slot] = timer.next
        if timer.next == NIL:
            wheel.occupied[level][slot >> 6] &= ~(<uint64_t>1 << (slot & 63))
    else:
        wheel_timer(wheel, timer.previous).next = timer.next
    if timer.next != NIL:
        wheel_timer(wheel, timer.next).previous = timer.previous


cdef inline uint64_t wheel_level_event(const Wheel* wheel, uint32_t level) noexcept nogil:
    """The tick at which the next occupied slot of a level comes up, or NO_EVENT."""
    cdef uint64_t position = wheel.tick >> (8 * level)
    cdef uint32_t here = <uint32_t>position & 255
    cdef uint32_t start = (here + 1) & 255
    cdef uint32_t i, word, slot
    cdef uint64_t bits
    for i in range(5):
        word = ((start >> 6) + i) & 3
        bits = wheel.occupied[level][word]
        if i == 0:
            bits &= ~<uint64_t>0 << (start & 63)
        elif i == 4:
            bits &= ~(~<uint64_t>0 << (start & 63))
        if bits:
            slot = word << 6 | lowest_bit64(bits)
            # 1..256 slots ahead: the slot of the present position is a whole turn away.
            return (position + 1 + ((slot - start) & 255)) << (8 * level)
    return <uint64_t>NO_EVENT


cdef inline uint64_t wheel_next_event(const Wheel* wheel) noexcept nogil:
    cdef uint64_t event = <uint64_t>NO_EVENT
    cdef uint64_t candidate
    cdef uint32_t level
    if wheel.head[0][<uint32_t>wheel.tick & 255] != NIL:
        return wheel.tick
    for level in range(LEVELS):
        candidate = wheel_level_event(wheel, level)
        if candidate < event:
            event = candidate
    return event


cdef inline void wheel_cascade(Wheel* wheel, uint32_t level) noexcept nogil:
    """Link the timers of the slot that comes up anew, by their deadlines as they are now."""
    cdef uint32_t slot = <uint32_t>(wheel.tick >> (8 * level)) & 255
    cdef uint32_t i = wheel.head[level][slot]
    cdef uint32_t following
    wheel.head[level][slot] = NIL
    wheel.occupied[level][slot >> 6] &= ~(<uint64_t>1 << (slot & 63))
    while i != NIL:
        following = wheel_timer(wheel, i).next
        wheel_link(wheel, i)
        i = following


cdef inline uint32_t wheel_pop(Wheel* wheel, uint64_t until) noexcept nogil:
    """Unlink and return the next record due at or before tick ``until``, or NIL.

    The wheel then stands at that record's tick, at the end at ``until``.
    """
    cdef uint32_t i, ahead, level
    while True:
        while True:
            i = wheel.head[0][<uint32_t>wheel.tick & 255]
            if i == NIL:
                break
            wheel_unlink(wheel, i)
            ahead = wheel_timer(wheel, i).deadline - <uint32_t>wheel.tick
            if ahead == 0 or ahead >= 0xF0000000U:
                return i
            wheel_link(wheel, i)
        wheel.event = wheel_next_event(wheel)
        if wheel.event > until:
            if until > wheel.tick:
                wheel.tick = until
            return NIL
        wheel.tick = wheel.event
        for level in range(LEVELS - 1, 0, -1):
            if wheel.tick & ((<uint64_t>1 << (8 * level)) - 1) == 0:
                wheel_cascade(wheel, level)


cdef inline uint32_t wheel_peek(const Wheel* wheel) noexcept nogil:
    """A record that may be the next to be due at the present tick, or NIL."""
    return wheel.head[0][<uint32_t>wheel.tick & 255]


cdef inline void wheel_rebase(Wheel* wheel, uint8_t* timers) noexcept nogil:
    """Let a copied wheel serve a copied array."""
    wheel.timers = timers
