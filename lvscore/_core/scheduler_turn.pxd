"""Servers in turn: rr and wrr (ip_vs_rr.c, ip_vs_wrr.c)."""

from libc.stdint cimport int32_t, uint32_t

from lvscore._core.consts cimport NIL
from lvscore._core.scheduler_types cimport AT_LIST_HEAD, Scheduler, greatest_divisor
from lvscore._core.server cimport SERVER_OVERLOADED, Server, server_usable


cdef inline void wrr_measure(Scheduler* s, const Server* servers) noexcept nogil:
    """Greatest common divisor and maximum of the weights (ip_vs_wrr.c)."""
    cdef uint32_t i
    cdef int32_t weight
    cdef int32_t divisor = 0
    cdef int32_t maximum = 0
    for i in range(s.count):
        weight = servers[s.list[i]].weight
        if weight > 0:
            divisor = greatest_divisor(weight, divisor)
            if weight > maximum:
                maximum = weight
    s.step = divisor if divisor else 1
    s.max_weight = maximum - (s.step - 1)


cdef inline uint32_t rr_pick(Scheduler* s, const Server* servers) noexcept nogil:
    cdef int32_t i
    cdef uint32_t turn
    for turn in range(2):
        for i in range(s.position + 1 if turn == 0 else 0, <int32_t>s.count):
            if server_usable(&servers[s.list[i]]):
                s.position = i
                return s.list[i]
    return NIL


cdef inline int32_t greatest_usable(const Scheduler* s, const Server* servers) noexcept nogil:
    """The greatest weight of a server that is not overloaded, or 0."""
    cdef int32_t greatest = 0
    cdef uint32_t i
    for i in range(s.count):
        if server_usable(&servers[s.list[i]]) and servers[s.list[i]].weight > greatest:
            greatest = servers[s.list[i]].weight
    return greatest


cdef inline uint32_t wrr_pick(Scheduler* s, const Server* servers) noexcept nogil:
    cdef int32_t last = s.position
    cdef int32_t here = last
    cdef int32_t stop = <int32_t>s.count    # nowhere
    cdef bint restarted = False
    cdef bint last_pass = False
    cdef int32_t useful = 0                 # no pass above it finds a server, or is the last
    cdef const Server* server
    if s.max_weight <= 0:
        return NIL
    while True:
        here += 1
        while here < <int32_t>s.count:
            server = &servers[s.list[here]]
            if not server.flags & SERVER_OVERLOADED and server.weight >= s.current_weight:
                s.position = here
                return s.list[here]
            if here == stop:
                s.position = here
                return NIL
            here += 1
        here = AT_LIST_HEAD
        s.current_weight -= s.step
        if s.current_weight <= 0:
            s.current_weight = s.max_weight
            if last_pass or last == AT_LIST_HEAD:
                s.position = AT_LIST_HEAD
                return NIL
            restarted = True
        # The kernel makes each of these passes in vain, millions of them for great weights.
        if useful == 0:
            useful = greatest_usable(s, servers)
            if useful < s.step:
                useful = s.step
        if s.current_weight > useful:
            s.current_weight -= ((s.current_weight - useful - 1) // s.step + 1) * s.step
        last_pass = s.current_weight <= s.step
        if last_pass and restarted and last != AT_LIST_HEAD:
            stop = last
