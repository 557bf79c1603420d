"""Servers by destination and load: lblc and lblcr (ip_vs_lblc.c, ip_vs_lblcr.c).

A destination stays at its server, or set of servers, until that is overloaded, to make use of
what the servers have cached. A threshold does not drive a destination away from lblc's server.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from lvscore._core.consts cimport NIL
from lvscore._core.flow cimport Address
from lvscore._core.locality cimport (
    Cache, Entry, cache_add, cache_find, entry_has, entry_join, entry_leave,
)
from lvscore._core.scheduler_load cimport is_lighter, ranking_pick
from lvscore._core.scheduler_types cimport Scheduler
from lvscore._core.server cimport (
    SERVER_AVAILABLE, Server, server_overhead, server_usable,
)


cdef inline bint is_overloaded(const Scheduler* s, const Server* servers,
                               uint32_t i) noexcept nogil:
    """More active connections than weight, while some server has not half of its own."""
    cdef const Server* other
    cdef uint32_t k
    if <int64_t>servers[i].active > servers[i].weight:
        for k in range(s.count):
            other = &servers[s.list[k]]
            if 2 * <int64_t>other.active < other.weight:
                return True
    return False


cdef inline uint32_t lblc_pick(Scheduler* s, Server* servers, const Address* destination,
                               uint64_t tick) noexcept nogil:
    cdef Entry* entry = cache_find(s.cache, destination)
    cdef uint32_t server = NIL
    if entry != NULL:
        entry.used = tick
        if entry.size:
            server = s.cache.member[entry.members].server
            if (servers[server].flags & SERVER_AVAILABLE and servers[server].weight > 0
                    and not is_overloaded(s, servers, server)):
                return server
    server = ranking_pick(s, servers)
    if server == NIL:
        return NIL
    if entry == NULL:
        entry = cache_add(s.cache, destination, tick)
    elif entry.size and s.cache.member[entry.members].server != server:
        entry_leave(s.cache, entry, servers, s.cache.member[entry.members].server, tick)
    if entry != NULL and entry.size == 0:
        entry_join(s.cache, entry, servers, server, tick)
    return server


cdef inline uint32_t set_least(const Cache* c, const Entry* entry,
                               const Server* servers) noexcept nogil:
    """The least loaded server of a set that may be used, or NIL."""
    cdef uint32_t best = NIL
    cdef int64_t best_load = 0
    cdef int64_t load
    cdef const Server* server
    cdef uint32_t m = entry.members
    while m != NIL:
        server = &servers[c.member[m].server]
        if server_usable(server) and server.flags & SERVER_AVAILABLE:
            load = server_overhead(server)
            if best == NIL or is_lighter(load, server, best_load, &servers[best]):
                best = c.member[m].server
                best_load = load
        m = c.member[m].next
    return best


cdef inline uint32_t set_most(const Cache* c, const Entry* entry,
                              const Server* servers) noexcept nogil:
    """The most loaded server of a set, whether it may be used or not, or NIL."""
    cdef uint32_t best = NIL
    cdef int64_t best_load = 0
    cdef int64_t load
    cdef const Server* server
    cdef uint32_t m = entry.members
    while m != NIL:
        server = &servers[c.member[m].server]
        if server.weight > 0:
            load = server_overhead(server)
            if best == NIL or is_lighter(best_load, &servers[best], load, server):
                best = c.member[m].server
                best_load = load
        m = c.member[m].next
    return best


cdef inline uint32_t lblcr_pick(Scheduler* s, Server* servers, const Address* destination,
                                uint64_t tick) noexcept nogil:
    cdef Entry* entry = cache_find(s.cache, destination)
    cdef uint32_t server = NIL
    cdef uint32_t most
    if entry != NULL:
        entry.used = tick
        server = set_least(s.cache, entry, servers)
        if entry.size > 1 and tick > entry.changed + s.cache.expiry:
            # What was chosen is used once more even if it leaves.
            most = set_most(s.cache, entry, servers)
            if most != NIL:
                entry_leave(s.cache, entry, servers, most, tick)
        if server != NIL and not is_overloaded(s, servers, server):
            return server
    server = ranking_pick(s, servers)
    if server == NIL:
        return NIL
    if entry == NULL:
        entry = cache_add(s.cache, destination, tick)
    if entry != NULL and not entry_has(s.cache, entry, server):
        entry_join(s.cache, entry, servers, server, tick)
    return server
