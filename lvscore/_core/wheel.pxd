"""A hierarchical timer wheel over the timers inside an array of records.

Four levels (Varghese and Lauck 1987): slots of a millisecond, a quarter second, a minute, four
hours; 256 of them are a turn, the next level's slot, and each level holds two turns. 2**32 ms in
all. Deadlines are exact to the tick. A timer whose deadline moves *later* is left where it is and
linked anew when its slot comes up, so that a packet only writes the deadline; one that moves
*earlier* is relinked at once.

A slot of an upper level may hold a million timers. So that no packet waits until all of them are
linked anew, that is done little by little in the turn before: this is what the second turn of the
level below is for.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from lvscore._core.consts cimport NIL
from lvscore._core.machine cimport lowest_bit64

cdef enum:
    LEVELS = 4
    LEVEL_SLOTS = 512
    WHEEL_SLOTS = LEVELS * LEVEL_SLOTS
    PAST = 0xF0000000U       # so far ahead is a deadline that has gone by
    AT_HEAD = 0x80000000U    # in Timer.previous: first of slot (its number over all levels)

cdef enum:
    NO_EVENT = -1


cdef struct Timer:
    uint32_t deadline       # low 32 bits of the tick at which it is due
    uint32_t next
    uint32_t previous


cdef struct Slot:
    uint32_t head
    uint32_t linked         # at least as many as there are, to share out the work


cdef struct Wheel:
    uint8_t* timers         # the first record's timer
    uint64_t tick           # where the wheel stands
    uint64_t event          # no slot comes up before this tick
    uint64_t occupied[32]   # a bit for each slot
    Slot slot[2048]         # level by level
    uint32_t stride         # from one record's timer to the next one's
    uint32_t horizon        # ticks ahead that a timer is linked at most, whatever its deadline


cdef inline void wheel_init(Wheel* wheel, uint8_t* timers, uint32_t stride) noexcept nogil:
    cdef uint32_t slot
    memset(wheel, 0, sizeof(Wheel))
    wheel.timers = timers
    wheel.stride = stride
    wheel.event = <uint64_t>NO_EVENT
    wheel.horizon = PAST
    for slot in range(WHEEL_SLOTS):
        wheel.slot[slot].head = NIL


cdef inline Timer* wheel_timer(const Wheel* wheel, uint32_t i) noexcept nogil:
    return <Timer*>(wheel.timers + <uint64_t>i * wheel.stride)


cdef inline uint32_t slot_at(uint32_t level, uint64_t tick) noexcept nogil:
    """The number of the slot of a level that comes up next at or before ``tick``."""
    return level * LEVEL_SLOTS + (<uint32_t>(tick >> (8 * level)) & (LEVEL_SLOTS - 1))


cdef inline void wheel_put(Wheel* wheel, uint32_t slot, uint32_t i) noexcept nogil:
    """Put a timer at the head of a slot."""
    cdef Timer* timer = wheel_timer(wheel, i)
    timer.next = wheel.slot[slot].head
    timer.previous = AT_HEAD | slot
    if timer.next != NIL:
        wheel_timer(wheel, timer.next).previous = i
    wheel.slot[slot].head = i
    wheel.slot[slot].linked += 1
    wheel.occupied[slot >> 6] |= <uint64_t>1 << (slot & 63)


cdef inline void wheel_head_set(Wheel* wheel, uint32_t slot, uint32_t i) noexcept nogil:
    """Let another timer, or none, be a slot's first instead of the one that was."""
    wheel.slot[slot].head = i
    wheel.slot[slot].linked -= 1
    if i == NIL:
        wheel.slot[slot].linked = 0
        wheel.occupied[slot >> 6] &= ~(<uint64_t>1 << (slot & 63))
    else:
        wheel_timer(wheel, i).previous = AT_HEAD | slot


cdef inline void wheel_link(Wheel* wheel, uint32_t i) noexcept nogil:
    """Link record ``i`` by its deadline; one that is past comes up at the present tick."""
    cdef uint32_t ahead = wheel_timer(wheel, i).deadline - <uint32_t>wheel.tick
    cdef uint32_t level = 0
    cdef uint64_t due
    if ahead >= PAST:
        ahead = 0
    due = wheel.tick + (ahead if ahead < wheel.horizon else wheel.horizon)
    # The lowest level whose present turn or the one after it is due then.
    while level < LEVELS - 1 and (due >> (8 * level + 8)) - (wheel.tick >> (8 * level + 8)) > 1:
        level += 1
    wheel_put(wheel, slot_at(level, due), i)
    due = due >> (8 * level) << (8 * level)
    if due < wheel.event:
        wheel.event = due


cdef inline void wheel_unlink(Wheel* wheel, uint32_t i) noexcept nogil:
    cdef Timer* timer = wheel_timer(wheel, i)
    if timer.previous & AT_HEAD:
        wheel_head_set(wheel, timer.previous & ~<uint32_t>AT_HEAD, timer.next)
        return
    wheel_timer(wheel, timer.previous).next = timer.next
    if timer.next != NIL:
        wheel_timer(wheel, timer.next).previous = timer.previous


cdef inline uint64_t wheel_level_event(const Wheel* wheel, uint32_t level) noexcept nogil:
    """The tick at which the next occupied slot of a level comes up, or NO_EVENT."""
    cdef uint64_t position = wheel.tick >> (8 * level)
    cdef uint32_t start = <uint32_t>(position + 1) & (LEVEL_SLOTS - 1)
    cdef uint32_t i, word, slot
    cdef uint64_t bits
    for i in range(9):
        word = ((start >> 6) + i) & 7
        bits = wheel.occupied[8 * level + word]
        if i == 0:
            bits &= ~<uint64_t>0 << (start & 63)
        elif i == 8:
            bits &= ~(~<uint64_t>0 << (start & 63))
        if bits:
            slot = word << 6 | lowest_bit64(bits)
            # 1..512 slots ahead: the slot of the present position is two turns away.
            return (position + 1 + ((slot - start) & (LEVEL_SLOTS - 1))) << (8 * level)
    return <uint64_t>NO_EVENT


cdef inline uint64_t wheel_next_event(const Wheel* wheel) noexcept nogil:
    cdef uint64_t event = <uint64_t>NO_EVENT
    cdef uint64_t candidate
    cdef uint32_t level
    if wheel.slot[slot_at(0, wheel.tick)].head != NIL:
        return wheel.tick
    for level in range(LEVELS):
        candidate = wheel_level_event(wheel, level)
        if candidate < event:
            event = candidate
    return event


cdef inline void wheel_cascade(Wheel* wheel, uint32_t slot, uint64_t count) noexcept nogil:
    """Link up to ``count`` timers of a slot anew, by their deadlines as they are now."""
    cdef uint32_t i
    while count and wheel.slot[slot].head != NIL:
        i = wheel.slot[slot].head
        wheel_head_set(wheel, slot, wheel_timer(wheel, i).next)
        wheel_link(wheel, i)
        count -= 1


cdef inline void wheel_stand(Wheel* wheel, uint64_t until) noexcept nogil:
    """Let the wheel stand at ``until``, before which no slot comes up; of the slots that come up
    with the next turns, that much is linked anew as of their present turns goes by."""
    cdef uint64_t before = wheel.tick
    cdef uint64_t turn, left
    cdef uint32_t level, slot
    wheel.tick = until      # what is past comes up from here on
    for level in range(1, LEVELS):
        turn = <uint64_t>1 << (8 * level)
        slot = slot_at(level, before + turn)
        if wheel.slot[slot].head != NIL:
            left = turn - (before & (turn - 1))
            wheel_cascade(wheel, slot,
                          (wheel.slot[slot].linked * (until - before) + left - 1) // left)


cdef inline uint32_t wheel_pop(Wheel* wheel, uint64_t until) noexcept nogil:
    """Unlink and return the next record due at or before tick ``until``, or NIL.

    The wheel then stands at that record's tick, at the end at ``until``.
    """
    cdef uint32_t i, ahead, level
    while True:
        while True:
            i = wheel.slot[slot_at(0, wheel.tick)].head
            if i == NIL:
                break
            wheel_unlink(wheel, i)
            ahead = wheel_timer(wheel, i).deadline - <uint32_t>wheel.tick
            if ahead == 0 or ahead >= PAST:
                return i
            wheel_link(wheel, i)
        wheel.event = wheel_next_event(wheel)
        if wheel.event > until:
            if until > wheel.tick:
                wheel_stand(wheel, until)
            return NIL
        wheel_stand(wheel, wheel.event)
        for level in range(LEVELS - 1, 0, -1):
            if wheel.tick & ((<uint64_t>1 << (8 * level)) - 1) == 0:
                wheel_cascade(wheel, slot_at(level, wheel.tick), <uint64_t>NO_EVENT)


cdef inline uint32_t wheel_peek(const Wheel* wheel) noexcept nogil:
    """A record that may be the next to be due at the present tick, or NIL."""
    return wheel.slot[slot_at(0, wheel.tick)].head


cdef inline void wheel_rebase(Wheel* wheel, uint8_t* timers) noexcept nogil:
    """Let a copied wheel serve a copied array."""
    wheel.timers = timers
