"""What lblc and lblcr remember: which servers a destination went to (ip_vs_lblc.c, _lblcr.c).

A bounded table keyed by destination address; where it is full, or a set of servers is, nothing
is remembered, as in the kernel when memory ends. An entry holds its servers: a server that was
removed can be given back its place only as long as its entry is not another's.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

from lvscore._core.consts cimport NIL, TICKS_PER_SECOND
from lvscore._core.flow cimport Address, address_equal, address_word
from lvscore._core.hash cimport hash_32
from lvscore._core.machine cimport memory_release, memory_reserve
from lvscore._core.server cimport Server

cdef enum:
    CACHE_BITS = 10                             # IP_VS_LBLC_TAB_BITS
    CACHE_BUCKETS = 1024
    CACHE_ENTRIES = 65536                       # bound
    CACHE_MEMBERS = 131072                      # bound on the servers of all entries
    CACHE_ENOUGH = 16 * CACHE_BUCKETS           # beyond it entries go early (max_size)
    CHECK_TICKS = 60 * TICKS_PER_SECOND         # CHECK_EXPIRE_INTERVAL
    CHECKS_TO_FULL = 30                         # COUNT_FOR_FULL_EXPIRATION
    EARLY_TICKS = 6 * 60 * TICKS_PER_SECOND     # ENTRY_TIMEOUT
    EXPIRY_TICKS = 24 * 3600 * TICKS_PER_SECOND


cdef struct Member:
    uint32_t server
    uint32_t next           # of the set or of the free list


cdef struct Entry:
    Address address
    uint64_t used           # tick of the latest look-up
    uint64_t changed        # tick at which a server joined or left
    uint32_t next           # of the bucket or of the free list
    uint32_t members        # the one that joined last comes first
    uint32_t size
    uint32_t reserved


cdef struct Cache:
    uint64_t check_at       # tick of the next check
    uint64_t expiry         # ticks after which what was not used goes
    uint32_t checks         # since the last full one, this included
    uint32_t rover          # bucket at which the last early check ended
    uint32_t count
    uint32_t entries_used   # entries that were ever used
    uint32_t entries_free
    uint32_t members_used
    uint32_t members_free
    uint32_t bucket[1024]
    Entry entry[65536]
    Member member[131072]


cdef inline Cache* cache_new(uint64_t tick) noexcept nogil:
    """An empty cache, or NULL; entries take memory as they come."""
    cdef Cache* c = <Cache*>memory_reserve(sizeof(Cache))
    if c != NULL:
        c.check_at = tick + CHECK_TICKS
        c.expiry = EXPIRY_TICKS
        c.checks = 1
        c.entries_free = NIL
        c.members_free = NIL
        memset(c.bucket, 0xFF, sizeof(c.bucket))
    return c


cdef inline void cache_free(Cache* c) noexcept nogil:
    memory_release(c, sizeof(Cache))


cdef inline Cache* cache_copy(const Cache* other) noexcept nogil:
    """A copy of a cache, or NULL."""
    cdef Cache* c = <Cache*>memory_reserve(sizeof(Cache))
    if c != NULL:
        memcpy(c, other, sizeof(Cache) - sizeof(c.entry) - sizeof(c.member))
        memcpy(c.entry, other.entry, <size_t>other.entries_used * sizeof(Entry))
        memcpy(c.member, other.member, <size_t>other.members_used * sizeof(Member))
    return c


cdef inline Entry* cache_find(Cache* c, const Address* address) noexcept nogil:
    """The entry of a destination, or NULL."""
    cdef uint32_t i = c.bucket[hash_32(address_word(address), CACHE_BITS)]
    while i != NIL:
        if address_equal(&c.entry[i].address, address):
            return &c.entry[i]
        i = c.entry[i].next
    return NULL


cdef inline Entry* cache_add(Cache* c, const Address* address, uint64_t tick) noexcept nogil:
    """An entry, without servers, for a destination that has none; NULL at the bound."""
    cdef uint32_t* bucket = &c.bucket[hash_32(address_word(address), CACHE_BITS)]
    cdef uint32_t i = c.entries_free
    cdef Entry* entry
    if i != NIL:
        c.entries_free = c.entry[i].next
    elif c.entries_used < CACHE_ENTRIES:
        i = c.entries_used
        c.entries_used += 1
    else:
        return NULL
    entry = &c.entry[i]
    entry.address = address[0]
    entry.used = tick
    entry.changed = tick
    entry.next = bucket[0]
    entry.members = NIL
    entry.size = 0
    bucket[0] = i
    c.count += 1
    return entry


cdef inline void entry_join(Cache* c, Entry* entry, Server* servers, uint32_t server,
                            uint64_t tick) noexcept nogil:
    """Put a server that is not there at the head of the entry's set, if there is room."""
    cdef uint32_t m = c.members_free
    if m != NIL:
        c.members_free = c.member[m].next
    elif c.members_used < CACHE_MEMBERS:
        m = c.members_used
        c.members_used += 1
    else:
        return
    c.member[m].server = server
    c.member[m].next = entry.members
    entry.members = m
    entry.size += 1
    entry.changed = tick
    servers[server].held += 1


cdef inline void entry_leave(Cache* c, Entry* entry, Server* servers, uint32_t server,
                             uint64_t tick) noexcept nogil:
    """Take a server out of the entry's set, if it is there."""
    cdef uint32_t* link = &entry.members
    cdef uint32_t m = link[0]
    while m != NIL and c.member[m].server != server:
        link = &c.member[m].next
        m = link[0]
    if m == NIL:
        return
    link[0] = c.member[m].next
    c.member[m].next = c.members_free
    c.members_free = m
    entry.size -= 1
    entry.changed = tick
    servers[server].held -= 1
    servers[server].idle_since = tick


cdef inline bint entry_has(const Cache* c, const Entry* entry, uint32_t server) noexcept nogil:
    cdef uint32_t m = entry.members
    while m != NIL:
        if c.member[m].server == server:
            return True
        m = c.member[m].next
    return False


cdef inline uint32_t bucket_expire(Cache* c, uint32_t bucket, Server* servers, uint64_t age,
                                   uint64_t tick) noexcept nogil:
    """Drop a bucket's entries that were not used for ``age`` ticks; how many were dropped."""
    cdef uint32_t* link = &c.bucket[bucket]
    cdef uint32_t dropped = 0
    cdef uint32_t i = link[0]
    cdef Entry* entry
    while i != NIL:
        entry = &c.entry[i]
        if tick < entry.used + age:
            link = &entry.next
        else:
            while entry.members != NIL:
                entry_leave(c, entry, servers, c.member[entry.members].server, tick)
            link[0] = entry.next
            entry.next = c.entries_free
            c.entries_free = i
            c.count -= 1
            dropped += 1
        i = link[0]
    return dropped


cdef inline void cache_clear(Cache* c, Server* servers, uint64_t tick) noexcept nogil:
    """Drop all entries: the service takes another scheduler, or goes."""
    cdef uint32_t bucket
    for bucket in range(CACHE_BUCKETS):
        bucket_expire(c, bucket, servers, 0, tick)


cdef inline void cache_check(Cache* c, Server* servers, uint64_t tick) noexcept nogil:
    """One check of the kernel's, due at ``tick``: full each half hour, else early if need be."""
    cdef uint32_t bucket, goal, _step, dropped
    if c.checks % CHECKS_TO_FULL == 0:
        for bucket in range(CACHE_BUCKETS):
            bucket_expire(c, bucket, servers, c.expiry, tick)
        c.checks = 1
        return
    if c.count <= CACHE_ENOUGH:
        c.checks += 1
        return
    goal = (c.count - CACHE_ENOUGH) * 4 // 3
    if goal > CACHE_ENOUGH // 2:
        goal = CACHE_ENOUGH // 2
    for _step in range(CACHE_BUCKETS):
        c.rover = (c.rover + 1) & (CACHE_BUCKETS - 1)
        dropped = bucket_expire(c, c.rover, servers, EARLY_TICKS, tick)
        if dropped >= goal:
            return
        goal -= dropped


cdef inline void cache_advance(Cache* c, Server* servers, uint64_t tick) noexcept nogil:
    """Make the checks that were due until ``tick``, each as of its own time.

    Between two look-ups nothing else changes the cache, so late is as good as in time.
    """
    cdef uint64_t missed
    while c.check_at <= tick:
        if c.count == 0:
            # Nothing can expire: only count.
            missed = (tick - c.check_at) // CHECK_TICKS + 1
            c.checks = <uint32_t>((c.checks - 1 + missed) % CHECKS_TO_FULL + 1)
            c.check_at += missed * CHECK_TICKS
            return
        cache_check(c, servers, c.check_at)
        c.check_at += CHECK_TICKS
