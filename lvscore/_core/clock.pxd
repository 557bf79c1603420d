"""The engine's clock: it takes the time from packets and calls, and ends what is due."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from lvscore._core.connection cimport Table, connection_hash, table_fetch, table_meta
from lvscore._core.consts cimport (
    IPV4, NIL, NS_PER_TICK, ORIGINAL, REASON_FRAGMENT_TIMEOUT, REPLY, VERDICT_DROP,
)
from lvscore._core.defence cimport defence_run
from lvscore._core.emit cimport emit_commit, emit_reserve
from lvscore._core.estimator cimport ESTIMATOR_TICKS
from lvscore._core.flow cimport Address, address_load
from lvscore._core.forward cimport ttl_decrease
from lvscore._core.fragment cimport (
    Datagram, FRAGMENT_HEADER, MAX_HEADERS, datagram_discard, fragment_first, fragments_due,
)
from lvscore._core.hash cimport HashKey
from lvscore._core.lifetime cimport connection_expire, connection_outlasts
from lvscore._core.machine cimport likely, prefetch_write
from lvscore._core.route cimport address_is_local
from lvscore._core.service cimport services_estimate
from lvscore._core.state cimport State, SYSCTL_RUN_ESTIMATION, TABLES
from lvscore._core.wheel cimport wheel_peek, wheel_pop, wheel_stand, wheel_timer


cdef enum:
    AHEAD = 4       # how many connections it takes to cover the wait for memory, and some


# The connections that come up next, while their buckets are fetched, with both hashes of each.
cdef struct Ahead:
    uint32_t following      # behind the last of them, or NIL
    uint32_t first
    uint32_t count
    uint32_t record[4]
    uint64_t hash[4][2]


cdef inline void ahead_take(Ahead* ahead, const Table* table, const HashKey* key, uint32_t i,
                            uint64_t* hash) noexcept nogil:
    """The hashes of the connection that came up. It need not be the one expected: that may have
    been linked anew, and the wheel may be at another slot."""
    cdef uint32_t first
    while ahead.count:
        first = ahead.first
        ahead.first = (first + 1) % AHEAD
        ahead.count -= 1
        if ahead.record[first] == i:
            hash[ORIGINAL] = ahead.hash[first][ORIGINAL]
            hash[REPLY] = ahead.hash[first][REPLY]
            return
    ahead.first = 0
    ahead.following = wheel_peek(&table.wheel)
    hash[ORIGINAL] = connection_hash(table, key, i << 1 | ORIGINAL)
    hash[REPLY] = connection_hash(table, key, i << 1 | REPLY)


cdef inline void ahead_fill(Ahead* ahead, const Table* table, const HashKey* key) noexcept nogil:
    """Fetch the buckets of those that follow, and the record behind them."""
    cdef uint32_t last, i, direction
    while ahead.count < AHEAD and ahead.following != NIL:
        i = ahead.following
        last = (ahead.first + ahead.count) % AHEAD
        ahead.record[last] = i
        for direction in range(2):
            ahead.hash[last][direction] = connection_hash(table, key, i << 1 | direction)
            table_fetch(table, ahead.hash[last][direction])
        ahead.count += 1
        ahead.following = wheel_timer(&table.wheel, i).next
        if ahead.following != NIL:
            prefetch_write(table_meta(table, ahead.following))


cdef inline uint64_t state_expire(State* s) noexcept nogil:
    """Remove what is due at the present tick, in order of time, since a template outlives the
    connections that depend on it; the number removed."""
    cdef uint64_t removed = 0
    cdef uint64_t until
    cdef uint64_t hash[2]
    cdef uint32_t f, i
    cdef Ahead ahead
    while True:
        until = s.tick
        for f in range(TABLES):
            if s.table[f].wheel.event < until:
                until = s.table[f].wheel.event
        for f in range(TABLES):
            ahead.count = 0
            ahead.following = NIL
            while True:
                i = wheel_pop(&s.table[f].wheel, until)
                if i == NIL:
                    break
                ahead_take(&ahead, &s.table[f], &s.key, i, hash)
                if s.jiffies.hz and connection_outlasts(s, &s.table[f], i):
                    continue
                ahead_fill(&ahead, &s.table[f], &s.key)
                removed += connection_expire(s, &s.table[f], i, hash)
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
    if d.headers == 0:
        return
    destination = address_load(head + d.l3 + (16 if d.family == IPV4 else 24), d.family)
    # What conntrack puts together for others it gives up silently (frag_expire_skip_icmp).
    if d.family == IPV4 and s.tracking and not address_is_local(&s.routes, IPV4, &destination):
        return
    room = emit_reserve(&s.emitted, d.headers + FRAGMENT_HEADER + d.received)
    if room == NULL:
        return
    length = fragment_first(d, room)
    if d.family == IPV4 and not address_is_local(&s.routes, IPV4, &destination):
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


cdef inline bint clock_passes(State* s, int64_t now) noexcept nogil:
    """Let time go on within the present tick, in which nothing falls due; False if it does not."""
    if likely(now < s.now or now >= s.tick_end, False):
        return False
    s.now = now
    return True


cdef inline uint64_t clock_set(State* s, int64_t now) noexcept nogil:
    """Take the time of a packet or call: forward only, a step back is counted."""
    if now > s.now or not s.started:
        if likely(now >= s.tick_end or not s.started, False):
            return time_advance(s, now)
        s.now = now
    elif now < s.now:
        s.clock_backwards += 1
    return 0
