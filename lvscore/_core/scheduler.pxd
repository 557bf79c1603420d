"""Schedulers: which real server takes a new connection. Each family has its own file.

``scheduler_pick`` chooses; the other functions tell a scheduler what changed in its service.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from lvscore._core.consts cimport NIL
from lvscore._core.flow cimport Tuple
from lvscore._core.locality cimport (
    Cache, cache_advance, cache_clear, cache_copy, cache_free, cache_new,
)
from lvscore._core.scheduler_hash cimport HASH_BUCKETS, dh_pick, hash_fill, sh_pick
from lvscore._core.scheduler_load cimport (
    is_ranked, ranking_copy, ranking_fill, ranking_free, ranking_pick, ranking_reserve, twos_pick,
)
from lvscore._core.scheduler_locality cimport lblc_pick, lblcr_pick
from lvscore._core.scheduler_maglev cimport MAGLEV_SLOTS, maglev_fill, mh_pick
from lvscore._core.scheduler_turn cimport rr_pick, wrr_measure, wrr_pick
from lvscore._core.scheduler_types cimport (
    AT_LIST_HEAD, SCHEDULER_DH, SCHEDULER_LBLC, SCHEDULER_LBLCR, SCHEDULER_MH, SCHEDULER_RR,
    SCHEDULER_SH, SCHEDULER_TWOS, SCHEDULER_WRR, Scheduler,
)
from lvscore._core.server cimport Server


cdef inline uint32_t bucket_count(uint32_t kind) noexcept nogil:
    if kind == SCHEDULER_MH:
        return MAGLEV_SLOTS
    return HASH_BUCKETS if kind == SCHEDULER_SH or kind == SCHEDULER_DH else 0


cdef inline bint has_cache(uint32_t kind) noexcept nogil:
    return kind == SCHEDULER_LBLC or kind == SCHEDULER_LBLCR


cdef inline void scheduler_fill(Scheduler* s, Server* servers) noexcept nogil:
    """Make anew what follows from the list: the table of sh, dh or mh, the others' ranking."""
    ranking_fill(s, servers)
    if s.kind == SCHEDULER_MH:
        maglev_fill(s, servers)
    elif s.kind == SCHEDULER_SH or s.kind == SCHEDULER_DH:
        hash_fill(s, servers, s.kind == SCHEDULER_SH)


cdef inline void scheduler_forget(Scheduler* s, Server* servers, uint64_t tick) noexcept nogil:
    """Free what was remembered."""
    if s.cache != NULL:
        cache_clear(s.cache, servers, tick)
    cache_free(s.cache)
    free(s.buckets)
    s.cache = NULL
    s.buckets = NULL


cdef inline bint scheduler_start(Scheduler* s, Server* servers, uint32_t kind,
                                 uint64_t tick) noexcept nogil:
    """Begin afresh as ``kind``; False, and nothing has changed, if memory ends."""
    cdef uint32_t* buckets = NULL
    cdef Cache* cache = NULL
    if bucket_count(kind):
        buckets = <uint32_t*>malloc(bucket_count(kind) * sizeof(uint32_t))
        if buckets == NULL:
            return False
    if has_cache(kind):
        cache = cache_new(tick)
        if cache == NULL:
            return False
    if not ranking_reserve(&s.ranking, kind, s.capacity):
        free(buckets)
        cache_free(cache)
        return False
    scheduler_forget(s, servers, tick)
    s.buckets = buckets
    s.cache = cache
    s.kind = kind
    s.position = AT_LIST_HEAD
    s.current_weight = 0
    s.max_weight = 0
    s.step = 1
    if kind == SCHEDULER_WRR:
        wrr_measure(s, servers)
        s.current_weight = s.max_weight
    scheduler_fill(s, servers)
    return True


cdef inline void scheduler_free(Scheduler* s) noexcept nogil:
    """Free all memory; of the servers nothing is needed any more."""
    cache_free(s.cache)
    free(s.buckets)
    free(s.list)
    ranking_free(&s.ranking)
    s.cache = NULL
    s.buckets = NULL
    s.list = NULL


cdef inline bint scheduler_copy(Scheduler* s, const Scheduler* other) noexcept nogil:
    """Make ``s`` a copy of ``other``; False if memory ends, then free it all the same."""
    cdef size_t size = bucket_count(other.kind) * sizeof(uint32_t)
    s[0] = other[0]
    s.list = NULL
    s.buckets = NULL
    s.cache = NULL
    if not ranking_copy(&s.ranking, &other.ranking, other.kind):
        return False
    if other.list != NULL:
        s.list = <uint32_t*>malloc(other.capacity * sizeof(uint32_t))
        if s.list == NULL:
            return False
        memcpy(s.list, other.list, other.count * sizeof(uint32_t))
    if other.buckets != NULL:
        s.buckets = <uint32_t*>malloc(size)
        if s.buckets == NULL:
            return False
        memcpy(s.buckets, other.buckets, size)
    if other.cache != NULL:
        s.cache = cache_copy(other.cache)
        return s.cache != NULL
    return True


cdef inline void scheduler_changed(Scheduler* s, Server* servers) noexcept nogil:
    """A server was added, removed or edited."""
    if s.kind == SCHEDULER_WRR:
        s.position = AT_LIST_HEAD
        wrr_measure(s, servers)
        if s.current_weight > s.max_weight or s.current_weight == 0:
            s.current_weight = s.max_weight
        elif s.step > 1:
            s.current_weight = s.current_weight // s.step * s.step + 1
    scheduler_fill(s, servers)


cdef inline void scheduler_added(Scheduler* s, Server* servers) noexcept nogil:
    """list[0] is new; the other servers moved back by one."""
    if s.position != AT_LIST_HEAD:
        s.position += 1
    scheduler_changed(s, servers)


cdef inline void scheduler_removed(Scheduler* s, Server* servers,
                                   int32_t place) noexcept nogil:
    """What was list[place] is gone; a pointer to it moves to its predecessor."""
    if s.position >= place:
        s.position -= 1
    scheduler_changed(s, servers)


cdef inline void scheduler_advance(Scheduler* s, Server* servers, uint64_t tick) noexcept nogil:
    """Let what is remembered expire."""
    if s.cache != NULL:
        cache_advance(s.cache, servers, tick)


cdef inline uint32_t scheduler_pick(Scheduler* s, Server* servers, const Tuple* t, uint64_t tick,
                                    uint64_t* chance) noexcept nogil:
    """The server for a connection opened by ``t`` at ``tick``, or NIL."""
    if s.kind == SCHEDULER_RR:
        return rr_pick(s, servers)
    if s.kind == SCHEDULER_WRR:
        return wrr_pick(s, servers)
    if s.kind == SCHEDULER_TWOS:
        return twos_pick(s, servers, chance)
    if s.kind == SCHEDULER_SH:
        return sh_pick(s, servers, t)
    if s.kind == SCHEDULER_DH:
        return dh_pick(s, servers, t)
    if s.kind == SCHEDULER_MH:
        return mh_pick(s, servers, t)
    if has_cache(s.kind):
        scheduler_advance(s, servers, tick)
        if s.kind == SCHEDULER_LBLC:
            return lblc_pick(s, servers, &t.destination, tick)
        return lblcr_pick(s, servers, &t.destination, tick)
    return ranking_pick(s, servers) if is_ranked(s.kind) else NIL
