"""Schedulers: which real server takes a new connection (ip_vs_<name>.c).

Servers stand in the order of the kernel's list: the one added last comes first, and the first
wins a tie. A server of weight 0, or overloaded, takes nothing.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from lvscore._core.bytes cimport ntohl, ntohs
from lvscore._core.consts cimport IPV4, NIL
from lvscore._core.flow cimport Address, Tuple, ports_source

cdef enum SchedulerKind:
    SCHEDULER_RR = 1
    SCHEDULER_WRR = 2
    SCHEDULER_LC = 3
    SCHEDULER_WLC = 4
    SCHEDULER_SH = 5

cdef enum SchedulerFlag:
    SCHEDULER_FALLBACK = 0x08   # IP_VS_SVC_F_SCHED1: sh-fallback
    SCHEDULER_PORT = 0x10       # IP_VS_SVC_F_SCHED2: sh-port

cdef enum ServerFlag:
    SERVER_AVAILABLE = 1        # belongs to its service; cleared when it is removed
    SERVER_OVERLOADED = 2

cdef enum:
    HASH_BUCKETS = 256          # of sh (IP_VS_SH_TAB_SIZE)
    AT_LIST_HEAD = -1


# A real server: its first cache line is what every packet touches.
cdef struct Server:
    uint64_t packets[2]
    uint64_t bytes[2]
    uint64_t connections
    uint32_t active
    uint32_t inactive
    int32_t weight
    uint32_t flags
    uint32_t service
    uint16_t port               # as on the wire
    uint8_t family
    uint8_t method
    # second line
    Address address
    uint64_t base[5]            # counters when it joined its service; see service.pxd
    uint64_t idle_since         # tick
    # third line: the service that it belongs or belonged to
    Address virtual_address
    uint64_t service_serial
    uint16_t virtual_port
    uint8_t virtual_protocol
    uint8_t reserved[37]


# A service's scheduler: kind, flags and what it remembers between picks.
cdef struct Scheduler:
    uint32_t* list              # server indices, the last added first
    uint32_t* buckets           # sh: HASH_BUCKETS server indices, else NULL
    uint32_t count
    uint32_t capacity
    uint32_t kind
    uint32_t flags
    int32_t position            # rr, wrr: place in the list; AT_LIST_HEAD before the first
    int32_t current_weight      # wrr
    int32_t max_weight
    int32_t step


cdef inline bint server_usable(const Server* server) noexcept nogil:
    return server.weight > 0 and not server.flags & SERVER_OVERLOADED


cdef inline int64_t server_overhead(const Server* server) noexcept nogil:
    """An active connection weighs as much as 256 inactive ones (ip_vs.h)."""
    return <int64_t>server.active * 256 + server.inactive


cdef inline int32_t greatest_divisor(int32_t a, int32_t b) noexcept nogil:
    cdef int32_t rest
    while b:
        rest = a % b
        a = b
        b = rest
    return a


cdef inline uint32_t hash_32(uint32_t value, uint32_t bits) noexcept nogil:
    """The kernel's multiplicative hash (include/linux/hash.h)."""
    return <uint32_t>(value * <uint32_t>0x61C88647) >> (32 - bits)


cdef inline uint32_t address_word(const Address* address, uint8_t family) noexcept nogil:
    """The address as schedulers hash it: in host order, IPv6 folded by exclusive or."""
    cdef uint64_t folded = address.word[0]
    if family == IPV4:
        return ntohl(<uint32_t>folded)
    folded ^= address.word[1]
    return ntohl(<uint32_t>folded ^ <uint32_t>(folded >> 32))


cdef inline void wrr_measure(Scheduler* s, const Server* servers) noexcept nogil:
    """Greatest common divisor and maximum of the weights (ip_vs_wrr.c)."""
    cdef uint32_t i
    cdef int32_t weight
    cdef int32_t divisor = 0
    cdef int32_t maximum = 0
    for i in range(s.count):
        weight = servers[s.list[i]].weight
        if weight > 0:
            divisor = greatest_divisor(weight, divisor) if divisor else weight
            if weight > maximum:
                maximum = weight
    s.step = divisor if divisor else 1
    s.max_weight = maximum - (s.step - 1)


cdef inline void sh_fill(Scheduler* s, const Server* servers) noexcept nogil:
    """Give each server as many buckets in a row as its weight, one at least."""
    cdef uint32_t bucket
    cdef uint32_t i = 0
    cdef int32_t taken = 0
    if s.buckets == NULL:
        return
    for bucket in range(HASH_BUCKETS):
        if s.count == 0:
            s.buckets[bucket] = NIL
            continue
        s.buckets[bucket] = s.list[i]
        taken += 1
        if taken >= servers[s.list[i]].weight:
            i = (i + 1) % s.count
            taken = 0


cdef inline void scheduler_start(Scheduler* s, const Server* servers) noexcept nogil:
    """Forget everything: the service is new or took another scheduler."""
    s.position = AT_LIST_HEAD
    s.current_weight = 0
    s.max_weight = 0
    s.step = 1
    if s.kind == SCHEDULER_WRR:
        wrr_measure(s, servers)
        s.current_weight = s.max_weight
    elif s.kind == SCHEDULER_SH:
        sh_fill(s, servers)


cdef inline void scheduler_changed(Scheduler* s, const Server* servers) noexcept nogil:
    """A server was added, removed or edited."""
    if s.kind == SCHEDULER_WRR:
        s.position = AT_LIST_HEAD
        wrr_measure(s, servers)
        if s.current_weight > s.max_weight or s.current_weight == 0:
            s.current_weight = s.max_weight
        elif s.step > 1:
            s.current_weight = s.current_weight // s.step * s.step + 1
    elif s.kind == SCHEDULER_SH:
        sh_fill(s, servers)


cdef inline void scheduler_added(Scheduler* s, const Server* servers) noexcept nogil:
    """list[0] is new; the other servers moved back by one."""
    if s.position != AT_LIST_HEAD:
        s.position += 1
    scheduler_changed(s, servers)


cdef inline void scheduler_removed(Scheduler* s, const Server* servers,
                                   int32_t place) noexcept nogil:
    """What was list[place] is gone; a pointer to it moves to its predecessor."""
    if s.position >= place:
        s.position -= 1
    scheduler_changed(s, servers)


cdef inline uint32_t rr_pick(Scheduler* s, const Server* servers) noexcept nogil:
    cdef int32_t i
    cdef uint32_t turn
    for turn in range(2):
        for i in range(s.position + 1 if turn == 0 else 0, <int32_t>s.count):
            if server_usable(&servers[s.list[i]]):
                s.position = i
                return s.list[i]
    return NIL


cdef inline uint32_t wrr_pick(Scheduler* s, const Server* servers) noexcept nogil:
    cdef int32_t last = s.position
    cdef int32_t here = last
    cdef int32_t stop = <int32_t>s.count    # nowhere
    cdef bint restarted = False
    cdef bint last_pass = False
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
        last_pass = s.current_weight <= s.step
        if last_pass and restarted and last != AT_LIST_HEAD:
            stop = last


cdef inline uint32_t lc_pick(const Scheduler* s, const Server* servers) noexcept nogil:
    cdef uint32_t best = NIL
    cdef int64_t best_overhead = 0
    cdef int64_t overhead
    cdef uint32_t i
    for i in range(s.count):
        if server_usable(&servers[s.list[i]]):
            overhead = server_overhead(&servers[s.list[i]])
            if best == NIL or overhead < best_overhead:
                best = s.list[i]
                best_overhead = overhead
    return best


cdef inline uint32_t wlc_pick(const Scheduler* s, const Server* servers) noexcept nogil:
    cdef uint32_t best = NIL
    cdef int64_t best_overhead = 0
    cdef int64_t overhead
    cdef uint32_t i
    for i in range(s.count):
        if server_usable(&servers[s.list[i]]):
            overhead = server_overhead(&servers[s.list[i]])
            if best == NIL or (best_overhead * servers[s.list[i]].weight
                               > overhead * servers[best].weight):
                best = s.list[i]
                best_overhead = overhead
    return best


cdef inline uint32_t sh_bucket(const Scheduler* s, const Tuple* t, uint32_t offset) noexcept nogil:
    cdef uint32_t port = ntohs(ports_source(t.ports)) if s.flags & SCHEDULER_PORT else 0
    return (offset + hash_32(port + address_word(&t.source, t.family), 8)) & (HASH_BUCKETS - 1)


cdef inline uint32_t sh_pick(const Scheduler* s, const Server* servers,
                             const Tuple* t) noexcept nogil:
    cdef uint32_t first = sh_bucket(s, t, 0)
    cdef uint32_t offset, server
    server = s.buckets[first]
    if server != NIL and server_usable(&servers[server]):
        return server
    if s.flags & SCHEDULER_FALLBACK:
        for offset in range(HASH_BUCKETS):
            server = s.buckets[sh_bucket(s, t, (offset + first) & (HASH_BUCKETS - 1))]
            if server != NIL and server_usable(&servers[server]):
                return server
    return NIL


cdef inline uint32_t scheduler_pick(Scheduler* s, const Server* servers,
                                    const Tuple* t) noexcept nogil:
    """The server for a connection opened by ``t``, or NIL."""
    if s.kind == SCHEDULER_RR:
        return rr_pick(s, servers)
    if s.kind == SCHEDULER_WRR:
        return wrr_pick(s, servers)
    if s.kind == SCHEDULER_LC:
        return lc_pick(s, servers)
    if s.kind == SCHEDULER_SH:
        return sh_pick(s, servers, t)
    return wlc_pick(s, servers)
