"""The rate estimator: every two seconds it notes counters and moves averages (ip_vs_est.c).

What ipvsadm lists is as of the latest estimation. Five counters, in this order: connections,
packets in, packets out, bytes in, bytes out. They may wrap; their differences hold.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from lvscore._core.consts cimport TICKS_PER_SECOND

cdef enum:
    ESTIMATOR_TICKS = 2 * TICKS_PER_SECOND
    COUNTERS = 5
    BYTE_COUNTERS = 3           # from here on they are bytes
    MAX_IDLE_ESTIMATIONS = 256  # without traffic the greatest average there is comes to 0


cdef struct Estimator:
    uint64_t noted[5]           # counters at the latest estimation
    uint64_t zero[5]            # what counts as nothing in a listing, since -Z
    int64_t average[5]          # per second: connections and packets by 2^10, bytes by 2^5


cdef inline void estimator_update(Estimator* e, const uint64_t* counters,
                                  uint64_t times) noexcept nogil:
    """Make ``times`` estimations, with nothing counted between them."""
    cdef uint64_t rate
    cdef uint64_t k, left
    for k in range(COUNTERS):
        # Half of the difference is that of a second.
        rate = (counters[k] - e.noted[k]) << (4 if k >= BYTE_COUNTERS else 9)
        e.noted[k] = counters[k]
        e.average[k] += (<int64_t>rate - e.average[k]) >> 2
        left = times - 1 if times <= MAX_IDLE_ESTIMATIONS else MAX_IDLE_ESTIMATIONS
        while left and e.average[k]:
            e.average[k] += -e.average[k] >> 2
            left -= 1


cdef inline void estimator_zero(Estimator* e) noexcept nogil:
    """Count from the latest estimation on, and forget the averages (ip_vs_zero_stats)."""
    cdef uint32_t k
    for k in range(COUNTERS):
        e.zero[k] = e.noted[k]
        e.average[k] = 0


cdef inline void estimator_rebase(Estimator* e, const uint64_t* counters) noexcept nogil:
    """The counters are set to 0: what they counted since the latest estimation is still to be
    noted by the next."""
    cdef uint32_t k
    for k in range(COUNTERS):
        e.noted[k] -= counters[k]
        e.zero[k] -= counters[k]


cdef inline uint64_t estimator_count(const Estimator* e, uint32_t k) noexcept nogil:
    """A counter as it is listed."""
    return e.noted[k] - e.zero[k]


cdef inline uint64_t estimator_rate(const Estimator* e, uint32_t k) noexcept nogil:
    """An average as it is listed: per second, rounded, halves down (ip_vs_read_estimator)."""
    if k >= BYTE_COUNTERS:
        return <uint64_t>(e.average[k] + 0xF) >> 5
    return <uint64_t>(e.average[k] + 0x1FF) >> 10
