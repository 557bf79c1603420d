"""Servers by their load or weight: lc, wlc, sed, nq, fo, ovf, twos (ip_vs_<name>.c).

The kernel walks the whole list for each pick. Here the servers play a tournament: each has a
standing, load over weight, and of two neighbours the lower one goes on, the first in the list if
they are equal; so who is left is whom the walk would find. A pick plays again only the matches of
servers whose load has changed since the latest one.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from lvscore._core.consts cimport NIL
from lvscore._core.hash cimport random_next
from lvscore._core.scheduler_types cimport (
    Ranking, SCHEDULER_FO, SCHEDULER_LBLC, SCHEDULER_LBLCR, SCHEDULER_LC, SCHEDULER_NQ,
    SCHEDULER_OVF, SCHEDULER_SED, SCHEDULER_WLC, Scheduler, Standing,
)
from lvscore._core.server cimport (
    SERVER_MOVED, SERVER_RANKED, Server, server_overhead, server_usable,
)

cdef enum:
    MIN_WIDTH = 4


cdef inline bint is_lighter(int64_t load, const Server* server, int64_t other_load,
                            const Server* other) noexcept nogil:
    """Whether load by weight is less than the other's; both weights are positive."""
    return other_load * server.weight > load * other.weight


cdef inline bint is_ranked(uint32_t kind) noexcept nogil:
    """Whether a scheduler ranks its servers."""
    return (kind == SCHEDULER_LC or kind == SCHEDULER_WLC or kind == SCHEDULER_SED
            or kind == SCHEDULER_NQ or kind == SCHEDULER_FO or kind == SCHEDULER_OVF
            or kind == SCHEDULER_LBLC or kind == SCHEDULER_LBLCR)


cdef inline Standing standing_of(uint32_t kind, const Server* server, uint32_t k) noexcept nogil:
    """How a server stands with a scheduler."""
    cdef Standing standing
    standing.server = k
    standing.load = 1
    standing.weight = server.weight
    if not server_usable(server) or (kind == SCHEDULER_OVF
                                     and <int64_t>server.active > server.weight):
        standing.weight = 0
    elif kind == SCHEDULER_LC:
        standing.load = server_overhead(server)
        standing.weight = 1
    elif kind == SCHEDULER_NQ and server.active == 0:
        standing.load = 0               # never queue: the first that is idle, whatever its weight
    elif kind == SCHEDULER_SED or kind == SCHEDULER_NQ:
        standing.load = <int64_t>server.active + 1      # as if the connection were there already
    elif kind != SCHEDULER_FO and kind != SCHEDULER_OVF:
        standing.load = server_overhead(server)
    return standing


cdef inline void match_play(Standing* standing, uint32_t i) noexcept nogil:
    """Let the first of two go on, unless the second stands lower."""
    cdef const Standing* first = &standing[2 * i]
    standing[i] = first[first[1].load * first[0].weight < first[0].load * first[1].weight]


cdef inline void standing_play(Standing* standing, uint32_t i, Standing own) noexcept nogil:
    """Let a server stand anew at leaf ``i``, and play its matches again."""
    cdef const Standing* other
    cdef bint first, stays
    standing[i] = own
    while i > 1:
        other = &standing[i ^ 1]
        first = not i & 1
        # No branch: who wins goes either way. What has won is carried on in registers.
        stays = own.load * other.weight < other.load * own.weight + first
        own.load = own.load if stays else other.load
        own.weight = own.weight if stays else other.weight
        own.server = own.server if stays else other.server
        i //= 2
        standing[i] = own


cdef inline void ranking_play(Scheduler* s, const Server* servers) noexcept nogil:
    """Play the whole tournament."""
    cdef Ranking* ranking = &s.ranking
    cdef uint32_t i
    for i in range(s.count):
        ranking.standing[ranking.width + i] = standing_of(s.kind, &servers[s.list[i]], s.list[i])
    for i in range(ranking.width - 1, 0, -1):
        match_play(ranking.standing, i)


cdef inline void ranking_fill(Scheduler* s, Server* servers) noexcept nogil:
    """Rank the servers of the list, which or whose order may have changed."""
    cdef Ranking* ranking = &s.ranking
    cdef bint ranked = is_ranked(s.kind)
    cdef uint32_t i, k
    cdef Server* server
    ranking.moved_count = 0
    for i in range(s.count):
        server = &servers[s.list[i]]
        server.position = i
        server.flags &= ~<uint32_t>(SERVER_RANKED | SERVER_MOVED)
        server.flags |= ranked * SERVER_RANKED
    if not ranked or ranking.standing == NULL:
        return
    for k in range(s.count, ranking.width):
        memset(&ranking.standing[ranking.width + k], 0, sizeof(Standing))
        ranking.standing[ranking.width + k].load = 1
    ranking_play(s, servers)


cdef inline bint ranking_reserve(Ranking* ranking, uint32_t kind,
                                 uint32_t capacity) noexcept nogil:
    """Have room for ``capacity`` servers, if the scheduler ranks them; it is to be filled anew.
    False, and nothing has changed, if memory ends."""
    cdef uint32_t width = MIN_WIDTH
    cdef Standing* standing
    cdef uint32_t* moved
    if not is_ranked(kind) or capacity <= ranking.width:
        return True
    while width < capacity:
        width *= 2
    moved = <uint32_t*>realloc(ranking.moved, width * sizeof(uint32_t))
    if moved == NULL:
        return False
    ranking.moved = moved
    standing = <Standing*>realloc(ranking.standing, 2 * width * sizeof(Standing))
    if standing == NULL:
        return False
    ranking.standing = standing
    ranking.width = width
    return True


cdef inline void ranking_free(Ranking* ranking) noexcept nogil:
    free(ranking.standing)
    free(ranking.moved)
    memset(ranking, 0, sizeof(Ranking))


cdef inline bint ranking_copy(Ranking* ranking, const Ranking* other,
                              uint32_t kind) noexcept nogil:
    """Make ``ranking`` a copy of ``other``; False if memory ends, then free it all the same."""
    memset(ranking, 0, sizeof(Ranking))
    if other.standing == NULL or not is_ranked(kind):
        return True
    if not ranking_reserve(ranking, kind, other.width):
        return False
    memcpy(ranking.standing, other.standing, 2 * other.width * sizeof(Standing))
    memcpy(ranking.moved, other.moved, other.moved_count * sizeof(uint32_t))
    ranking.moved_count = other.moved_count
    return True


cdef inline void ranking_note(Scheduler* s, Server* server, uint32_t k) noexcept nogil:
    """The load of a ranked server has changed: the next pick is to know."""
    if server.flags & (SERVER_RANKED | SERVER_MOVED) == SERVER_RANKED:
        server.flags |= SERVER_MOVED
        s.ranking.moved[s.ranking.moved_count] = k
        s.ranking.moved_count += 1


cdef inline uint32_t ranking_pick(Scheduler* s, Server* servers) noexcept nogil:
    """The server that stands lowest, or NIL."""
    cdef Ranking* ranking = &s.ranking
    cdef bint all = 4 * ranking.moved_count > s.count
    cdef uint32_t k, n
    if s.count == 0:
        return NIL
    for n in range(ranking.moved_count):
        k = ranking.moved[n]
        servers[k].flags &= ~<uint32_t>SERVER_MOVED
        if not all:
            standing_play(ranking.standing, ranking.width + servers[k].position,
                          standing_of(s.kind, &servers[k], k))
    ranking.moved_count = 0
    if all:
        ranking_play(s, servers)
    return ranking.standing[1].server if ranking.standing[1].weight else NIL


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
