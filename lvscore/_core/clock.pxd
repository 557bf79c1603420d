"""The engine's clock: it takes the time from packets and calls, and ends what is due."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from lvscore._core.bytes cimport load_be16
from lvscore._core.connection cimport connection_fetch, table_meta
from lvscore._core.consts cimport (
    IPV4, IPV6, NIL, NS_PER_TICK, REASON_FRAGMENT_TIMEOUT, VERDICT_DROP,
)
from lvscore._core.defence cimport defence_run
from lvscore._core.emit cimport emit_commit, emit_reserve
from lvscore._core.estimator cimport ESTIMATOR_TICKS
from lvscore._core.flow cimport Address, address_load
from lvscore._core.forward cimport ttl_decrease
from lvscore._core.fragment cimport Datagram, MAX_HEADERS, datagram_discard, fragments_due
from lvscore._core.lifetime cimport connection_expire, connection_outlasts
from lvscore._core.machine cimport likely, prefetch_write
from lvscore._core.route cimport address_is_local
from lvscore._core.service cimport services_estimate
from lvscore._core.state cimport State, SYSCTL_RUN_ESTIMATION, TABLES
from lvscore._core.wheel cimport wheel_peek, wheel_pop, wheel_stand, wheel_timer


cdef inline uint64_t state_expire(State* s) noexcept nogil:
    """Remove what is due at the present tick, in order of time, since a template outlives the
    connections that depend on it; the number removed."""
    cdef uint64_t removed = 0
    cdef uint64_t until
    cdef uint32_t f, i, following
    while True:
        until = s.tick
        for f in range(TABLES):
            if s.table[f].wheel.event < until:
                until = s.table[f].wheel.event
        for f in range(TABLES):
            while True:
                i = wheel_pop(&s.table[f].wheel, until)
                if i == NIL:
                    break
                if s.jiffies.hz and connection_outlasts(s, &s.table[f], i):
                    continue
                # The next one's buckets, and the record behind it, come while this one goes.
                following = wheel_peek(&s.table[f].wheel)
                if following != NIL:
                    connection_fetch(&s.table[f], &s.key, following)
                    following = wheel_timer(&s.table[f].wheel, following).next
                if following != NIL:
                    prefetch_write(table_meta(&s.table[f], following))
                removed += connection_expire(s, &s.table[f], i)
        if until == s.tick:
            break
    s.expired += removed
    return removed


cdef inline int64_t now_after(int64_t now) noexcept nogil:
    """The next nanosecond; the last of all has none."""
    return now + 1 if now < 0x7FFFFFFFFFFFFFFFLL else now


cdef inline void fragment_report(State* s, const Datagram* d) noexcept nogil:
    """Put out the first fragment of a datagram that was given up: a Host tells its sender
    (ip_expire), who hears nothing if that fragment did not come."""
    cdef const uint8_t* head = d.head + MAX_HEADERS - d.headers
    cdef Address destination
    cdef uint32_t length
    cdef uint8_t* room
    if d.headers == 0 or d.family == IPV6:
        return
    length = d.l3 + load_be16(head + d.l3 + 2)
    length -= (length - d.headers) & 7      # as it was taken in
    room = emit_reserve(&s.emitted, length)
    if room == NULL:
        return
    memcpy(room, head, d.headers)
    memcpy(room + d.headers, d.data, length - d.headers)
    destination = address_load(head + d.l3 + 16, IPV4)
    if not s.tracking and not address_is_local(&s.routes, IPV4, &destination):
        ttl_decrease(room + d.l3, IPV4)     # it was on its way out (ip_forward)
    emit_commit(&s.emitted, length, s.now, VERDICT_DROP, REASON_FRAGMENT_TIMEOUT)


cdef inline void fragments_expire(State* s) noexcept nogil:
    """Discard the datagrams whose fragments did not all come in time."""
    cdef uint32_t i = fragments_due(&s.fragments, s.tick)
    while i != NIL:
        if s.routes.hosted:
            fragment_report(s, &s.fragments.datagram[i])
        datagram_discard(&s.fragments, i)
        s.fragments.timed_out += 1
        i = fragments_due(&s.fragments, s.tick)


cdef inline void estimation_run(State* s) noexcept nogil:
    """Make the estimations that are due: nothing was counted since the first of them."""
    cdef uint64_t times = (s.tick - s.estimation) // ESTIMATOR_TICKS + 1
    s.estimation += times * ESTIMATOR_TICKS
    if s.sysctl[SYSCTL_RUN_ESTIMATION]:
        services_estimate(&s.services, times)


cdef inline uint64_t time_advance(State* s, int64_t now) noexcept nogil:
    """Move the clock forward to ``now`` > s.now, and expire what is due."""
    cdef uint64_t elapsed
    cdef uint32_t f
    if not s.started:
        s.started = True
        s.origin = now
        s.now = now
        s.tick_end = now_after(now)
        return 0
    s.now = now
    elapsed = <uint64_t>now - <uint64_t>s.origin
    s.tick = elapsed // NS_PER_TICK
    s.tick_up = <uint32_t>s.tick
    if elapsed != s.tick * NS_PER_TICK:
        s.tick_up += 1
    # Only whole ticks have both roundings equal, so a tick's first nanosecond is a step too.
    if elapsed == s.tick * NS_PER_TICK:
        s.tick_end = now_after(now)
    elif <uint64_t>0x7FFFFFFFFFFFFFFFULL - <uint64_t>now < NS_PER_TICK and now > 0:
        s.tick_end = 0x7FFFFFFFFFFFFFFFULL
    else:
        s.tick_end = <int64_t>(<uint64_t>s.origin + (s.tick + 1) * NS_PER_TICK)
    if s.tick >= s.estimation:
        estimation_run(s)
    if s.tick >= s.defence:
        defence_run(s)
    if s.tick >= s.fragments.deadline:
        fragments_expire(s)
    for f in range(TABLES):
        if s.tick >= s.table[f].wheel.event:
            return state_expire(s)
    for f in range(TABLES):
        wheel_stand(&s.table[f].wheel, s.tick)
    return 0


cdef inline uint64_t clock_set(State* s, int64_t now) noexcept nogil:
    """Take the time of a packet or call: forward only, a step back is counted."""
    if now > s.now or not s.started:
        if likely(now >= s.tick_end or not s.started, False):
            return time_advance(s, now)
        s.now = now
    elif now < s.now:
        s.clock_backwards += 1
    return 0
