"""When the kernel's timer wheel ends a timer (kernel/time/timer.c): late, never early.

A timer lies in one of nine levels by how far away it is when it is armed; each level has 64
buckets and is eight times as coarse as the one below it. A bucket ends as a whole, at the
first multiple of its level's granularity that is behind all its timers, so that a timer
outlives its timeout by up to an eighth.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from lvscore._core.consts cimport NS_PER_TICK, TICKS_PER_SECOND

cdef enum:
    WHEEL_DELTA = 63        # jiffies, below which the lowest level serves (LVL_START)
    WHEEL_CLOCK_SHIFT = 3   # LVL_CLK_SHIFT
    WHEEL_TOP_SHIFT = 24    # of the highest level's granularity

cdef enum:
    NS_PER_SECOND = 1000000000
    BEGINNING = 9223372037  # s; no time in ns is so far before 0


cdef struct Jiffies:
    uint64_t at_zero        # the kernel's jiffies when the engine's time is 0
    uint32_t hz             # jiffies per second; 0: timers end at their nominal time


cdef inline uint64_t since_beginning(int64_t origin, uint64_t tick) noexcept nogil:
    """Nanoseconds from the beginning to a tick."""
    return <uint64_t>origin + <uint64_t>BEGINNING * NS_PER_SECOND + tick * NS_PER_TICK


cdef inline uint64_t jiffies_at(const Jiffies* jiffies, int64_t origin,
                                uint64_t tick) noexcept nogil:
    """The kernel's jiffies at a tick of an engine whose tick 0 is at ``origin`` ns."""
    cdef uint64_t ns = since_beginning(origin, tick)
    return (jiffies.at_zero - <uint64_t>BEGINNING * jiffies.hz
            + ns // NS_PER_SECOND * jiffies.hz + ns % NS_PER_SECOND * jiffies.hz // NS_PER_SECOND)


cdef inline uint64_t jiffies_tick(const Jiffies* jiffies, int64_t origin,
                                  uint64_t value) noexcept nogil:
    """The first tick at which the kernel's jiffies are at ``value``, not before tick 0."""
    cdef uint64_t count = value - jiffies.at_zero + <uint64_t>BEGINNING * jiffies.hz
    cdef uint64_t ns = count // jiffies.hz * NS_PER_SECOND + (
        count % jiffies.hz * NS_PER_SECOND + jiffies.hz - 1) // jiffies.hz
    return (ns - since_beginning(origin, 0) + NS_PER_TICK - 1) // NS_PER_TICK


cdef inline uint64_t jiffies_expiry(const Jiffies* jiffies, int64_t origin, uint64_t deadline,
                                    uint32_t timeout) noexcept nogil:
    """The tick at which a timer ends that was armed for tick ``deadline``, ``timeout`` ticks
    ahead (calc_wheel_index). The kernel cuts timeouts of more than the whole wheel, twelve days
    at 1000 Hz; here they are kept.
    """
    cdef uint64_t delta = <uint64_t>timeout * jiffies.hz // TICKS_PER_SECOND
    cdef uint64_t expires = jiffies_at(jiffies, origin, deadline)
    cdef uint32_t shift = 0
    while shift < WHEEL_TOP_SHIFT and delta >= <uint64_t>WHEEL_DELTA << shift:
        shift += WHEEL_CLOCK_SHIFT
    return jiffies_tick(jiffies, origin, ((expires >> shift) + 1) << shift)
