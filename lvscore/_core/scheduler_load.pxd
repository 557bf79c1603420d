"""Servers by their load or weight: lc, wlc, sed, nq, fo, ovf, twos (ip_vs_<name>.c)."""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from lvscore._core.consts cimport NIL
from lvscore._core.hash cimport random_next
from lvscore._core.scheduler_types cimport Scheduler
from lvscore._core.server cimport Server, server_overhead, server_usable


cdef inline bint is_lighter(int64_t load, const Server* server, int64_t other_load,
                            const Server* other) noexcept nogil:
    """Whether load by weight is less than the other's; both weights are positive."""
    return other_load * server.weight > load * other.weight


cdef inline uint32_t lc_pick(const Scheduler* s, const Server* servers) noexcept nogil:
    cdef uint32_t best = NIL
    cdef int64_t best_load = 0
    cdef int64_t load
    cdef uint32_t i
    for i in range(s.count):
        if server_usable(&servers[s.list[i]]):
            load = server_overhead(&servers[s.list[i]])
            if best == NIL or load < best_load:
                best = s.list[i]
                best_load = load
    return best


cdef inline uint32_t wlc_pick(const Scheduler* s, const Server* servers) noexcept nogil:
    cdef uint32_t best = NIL
    cdef int64_t best_load = 0
    cdef int64_t load
    cdef const Server* server
    cdef uint32_t i
    for i in range(s.count):
        server = &servers[s.list[i]]
        if server_usable(server):
            load = server_overhead(server)
            if best == NIL or is_lighter(load, server, best_load, &servers[best]):
                best = s.list[i]
                best_load = load
    return best


cdef inline uint32_t sed_pick(const Scheduler* s, const Server* servers,
                              bint never_queue) noexcept nogil:
    """The shortest expected delay, counted as if the connection were there already.

    With ``never_queue`` (nq) the first server without active connections is taken at once.
    """
    cdef uint32_t best = NIL
    cdef int64_t best_load = 0
    cdef int64_t load
    cdef const Server* server
    cdef uint32_t i
    for i in range(s.count):
        server = &servers[s.list[i]]
        if server_usable(server):
            if never_queue and server.active == 0:
                return s.list[i]
            load = <int64_t>server.active + 1
            if best == NIL or is_lighter(load, server, best_load, &servers[best]):
                best = s.list[i]
                best_load = load
    return best


cdef inline uint32_t fo_pick(const Scheduler* s, const Server* servers,
                             bint overflow) noexcept nogil:
    """The greatest weight.

    With ``overflow`` (ovf) weight is also a capacity, which one more than it exceeds.
    """
    cdef uint32_t best = NIL
    cdef int32_t best_weight = 0
    cdef const Server* server
    cdef uint32_t i
    for i in range(s.count):
        server = &servers[s.list[i]]
        if (server_usable(server) and server.weight > best_weight
                and not (overflow and <int64_t>server.active > server.weight)):
            best = s.list[i]
            best_weight = server.weight
    return best


cdef inline uint32_t lot_pick(const Scheduler* s, const Server* servers,
                              uint64_t lot) noexcept nogil:
    """The server where the weights passed add up to the lot drawn; it is in 0..their sum."""
    cdef uint32_t i
    for i in range(s.count):
        if server_usable(&servers[s.list[i]]):
            if lot <= <uint64_t>servers[s.list[i]].weight:
                return s.list[i]
            lot -= <uint64_t>servers[s.list[i]].weight
    return NIL


cdef inline uint32_t twos_pick(const Scheduler* s, const Server* servers,
                               uint64_t* chance) noexcept nogil:
    """The less loaded of two that are drawn, each with a chance by its weight."""
    cdef uint64_t total = 0
    cdef uint32_t first, second, i
    for i in range(s.count):
        if server_usable(&servers[s.list[i]]):
            total += <uint64_t>servers[s.list[i]].weight
    if total == 0:
        return NIL
    # Both ends are drawn, so the first server has one lot more than its weight (ip_vs_twos.c).
    first = lot_pick(s, servers, random_next(chance) % (total + 1))
    second = lot_pick(s, servers, random_next(chance) % (total + 1))
    if is_lighter(server_overhead(&servers[second]), &servers[second],
                  server_overhead(&servers[first]), &servers[first]):
        return second
    return first
