"""What connections make of their servers' load, and that schedulers hear of it."""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from lvscore._core.scheduler_load cimport ranking_note
from lvscore._core.server cimport (
    SERVER_RANKED, Server, server_activate, server_bind, server_unbind,
)
from lvscore._core.service cimport Services


cdef inline void load_moved(Services* s, uint32_t k) noexcept nogil:
    """Tell the scheduler, if it looks at loads."""
    cdef Server* server = &s.server[k]
    if server.flags & SERVER_RANKED:
        ranking_note(&s.service[server.service].scheduler, server, k)


cdef inline void load_bind(Services* s, uint32_t k) noexcept nogil:
    """A connection of server ``k`` begins."""
    server_bind(&s.server[k])
    load_moved(s, k)


cdef inline void load_open(Services* s, uint32_t k, bint active) noexcept nogil:
    """A connection of server ``k`` begins, which its first packet makes active or not."""
    cdef Server* server = &s.server[k]
    server_bind(server)
    server_activate(server, active)
    server.connections += 1
    load_moved(s, k)


cdef inline void load_unbind(Services* s, uint32_t k, bint inactive,
                             uint64_t tick) noexcept nogil:
    """A connection of server ``k`` ends."""
    server_unbind(&s.server[k], inactive, tick)
    load_moved(s, k)


cdef inline void load_activate(Services* s, uint32_t k, int32_t change) noexcept nogil:
    """A connection of server ``k`` becomes active (1), or inactive (-1)."""
    server_activate(&s.server[k], change)
    load_moved(s, k)
