"""How full the port pools of source NAT are.

A pool is what a new mapping may choose from: the ports of a range, at one translated address,
towards one remote endpoint, for the same ports serve every endpoint anew (the mapping is not
endpoint-independent, in the terms of RFC 4787, section 4.1). Its occupancy is counted, never
guessed: a connection takes its place when it is opened and gives it back when it ends. A client
is counted in the same way, over all pools, so that none takes them for itself.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from lvscore._core.consts cimport NIL, PROTOCOL_ICMP, PROTOCOL_ICMPV6, TICKS_PER_SECOND
from lvscore._core.flow cimport (
    Address, Tuple, address_equal, has_ports, ports_destination, ports_make,
    tuple_hash,
)
from lvscore._core.hash cimport HashKey
from lvscore._core.machine cimport memory_release, memory_reserve

cdef enum:
    POOLS_PER_HEAD = 4          # per chain when every connection has pools of its own
    MIN_POOL_HEADS = 256
    GROWTH_TICKS = 2 * TICKS_PER_SECOND     # between two looks at the growth
    GROWTH_FORGOTTEN = 8        # of such intervals without a look
    POOL_LEVELS = 3
    MAX_POOL_EVENTS = 256


cdef struct Pool:
    Address address             # translated; of a client: its own
    Address remote
    uint32_t used
    uint32_t capacity           # 0: of a client
    uint32_t next               # of the chain, or of the free list
    uint32_t marked             # used at the latest look at the growth
    uint32_t marked_tick
    float growth                # ports a second
    uint16_t remote_port        # as on the wire
    uint16_t low                # of the range, host order
    uint16_t high
    uint8_t protocol            # 0: of a client
    uint8_t family
    uint8_t level               # levels that were reached and announced


cdef struct PoolEvent:
    int64_t now                 # ns
    Pool pool
    uint32_t percent


cdef struct Pools:
    Pool* pool
    uint32_t* head              # of the chains: pool plus one, 0: empty
    uint32_t heads              # a power of two
    uint32_t limit
    uint32_t used
    uint32_t free
    uint32_t quota              # ports that a client may hold at once; 0: any number
    uint64_t events             # ever announced
    PoolEvent event[256]        # the latest


cdef inline bint pools_reserve(Pools* pools) noexcept nogil:
    pools.pool = <Pool*>memory_reserve((<size_t>pools.limit + 1) * sizeof(Pool))
    pools.head = <uint32_t*>memory_reserve(pools.heads * sizeof(uint32_t))
    return pools.pool != NULL and pools.head != NULL


cdef inline bint pools_init(Pools* pools, uint32_t connections) noexcept nogil:
    """Reserve address space for the pools and clients of so many connections."""
    memset(pools, 0, sizeof(Pools))
    pools.limit = 2 * connections
    pools.free = NIL
    pools.heads = MIN_POOL_HEADS
    while pools.heads * POOLS_PER_HEAD < pools.limit:
        pools.heads *= 2
    return pools_reserve(pools)


cdef inline void pools_free(Pools* pools) noexcept nogil:
    memory_release(pools.pool, (<size_t>pools.limit + 1) * sizeof(Pool))
    memory_release(pools.head, pools.heads * sizeof(uint32_t))
    memset(pools, 0, sizeof(Pools))


cdef inline bint pools_copy(Pools* pools, const Pools* other) noexcept nogil:
    """Make ``pools`` a copy; False if memory ends, then free it all the same."""
    pools[0] = other[0]
    if not pools_reserve(pools):
        return False
    memcpy(pools.pool, other.pool, <size_t>other.used * sizeof(Pool))
    memcpy(pools.head, other.head, <size_t>other.heads * sizeof(uint32_t))
    return True


cdef inline size_t pools_memory(const Pools* pools) noexcept nogil:
    """Bytes in use."""
    return <size_t>pools.used * sizeof(Pool)


cdef inline bint is_pooled(uint8_t protocol) noexcept nogil:
    """Whether mappings of a protocol choose a port or, of ICMP, an identifier."""
    return has_ports(protocol) or protocol == PROTOCOL_ICMP or protocol == PROTOCOL_ICMPV6


cdef inline void pool_of_mapping(Pool* pool, const Tuple* mapped, uint32_t low,
                                 uint32_t high) noexcept nogil:
    """The key of the pool that a mapping is from: ``mapped`` is its flow after translation."""
    memset(pool, 0, sizeof(Pool))
    pool.address = mapped.source
    pool.remote = mapped.destination
    if has_ports(mapped.protocol):
        pool.remote_port = ports_destination(mapped.ports)
    pool.low = <uint16_t>low
    pool.high = <uint16_t>high
    pool.capacity = high - low + 1
    pool.protocol = mapped.protocol
    pool.family = mapped.family


cdef inline void pool_of_client(Pool* pool, const Address* client, uint8_t family) noexcept nogil:
    """The key of a client's own count."""
    memset(pool, 0, sizeof(Pool))
    pool.address = client[0]
    pool.family = family


cdef inline uint32_t* pool_head(const Pools* pools, const HashKey* key,
                                const Pool* pool) noexcept nogil:
    cdef Tuple t
    memset(&t, 0, sizeof(t))
    t.source = pool.address
    t.destination = pool.remote
    t.ports = ports_make(pool.low, pool.remote_port)
    t.protocol = pool.protocol
    t.family = pool.family
    return &pools.head[<uint32_t>tuple_hash(key, &t) & (pools.heads - 1)]


cdef inline uint32_t pool_find(const Pools* pools, const HashKey* key,
                               const Pool* wanted) noexcept nogil:
    """The pool of a key, or NIL."""
    cdef uint32_t p = pool_head(pools, key, wanted)[0] - 1
    cdef const Pool* pool
    while p != NIL:
        pool = &pools.pool[p]
        if (pool.protocol == wanted.protocol and pool.family == wanted.family
                and pool.low == wanted.low and pool.high == wanted.high
                and pool.remote_port == wanted.remote_port
                and address_equal(&pool.address, &wanted.address)
                and address_equal(&pool.remote, &wanted.remote)):
            return p
        p = pool.next
    return NIL


cdef inline uint32_t level_percent(uint32_t level) noexcept nogil:
    """What is announced: 80, 95 and 100 per cent."""
    return 80 if level == 0 else 95 if level == 1 else 100


cdef inline void pool_look(Pool* pool, uint32_t tick) noexcept nogil:
    """Follow the growth, by a quarter of its change every two seconds, as IPVS's estimator."""
    cdef uint32_t passed = tick - pool.marked_tick
    cdef float rate
    if pool.capacity == 0 or passed < GROWTH_TICKS:
        return
    rate = (<float>pool.used - <float>pool.marked) * TICKS_PER_SECOND / <float>passed
    if passed >= GROWTH_FORGOTTEN * GROWTH_TICKS:
        pool.growth = rate
    else:
        pool.growth += (rate - pool.growth) / 4
    pool.marked = pool.used
    pool.marked_tick = tick


cdef inline void pool_announce(Pools* pools, Pool* pool, int64_t now) noexcept nogil:
    """Note an event for every level that is reached."""
    cdef PoolEvent* event
    cdef uint32_t percent
    while pool.level < POOL_LEVELS:
        percent = level_percent(pool.level)
        if <uint64_t>pool.used * 100 < <uint64_t>pool.capacity * percent:
            return
        pool.level += 1
        event = &pools.event[pools.events % MAX_POOL_EVENTS]
        event.now = now
        event.pool = pool[0]
        event.percent = percent
        pools.events += 1


cdef inline uint32_t pool_take(Pools* pools, const HashKey* key, const Pool* wanted,
                               uint32_t tick, int64_t now) noexcept nogil:
    """Take a place in a pool, or for a client; the pool's number."""
    cdef uint32_t p = pool_find(pools, key, wanted)
    cdef uint32_t* head
    cdef Pool* pool
    if p == NIL:
        p = pools.free
        if p == NIL:
            p = pools.used
            pools.used += 1
        else:
            pools.free = pools.pool[p].next
        pool = &pools.pool[p]
        head = pool_head(pools, key, wanted)
        pool[0] = wanted[0]
        pool.next = head[0] - 1         # 0, empty, becomes NIL
        pool.marked_tick = tick
        head[0] = p + 1
    pool = &pools.pool[p]
    pool_look(pool, tick)
    pool.used += 1
    if pool.capacity:
        pool_announce(pools, pool, now)
    return p


cdef inline void pool_give(Pools* pools, const HashKey* key, uint32_t p,
                           uint32_t tick) noexcept nogil:
    """Give a place back. A level is announced anew after five per cent have become free below
    it; a pool that nobody uses is forgotten."""
    cdef Pool* pool = &pools.pool[p]
    cdef uint32_t* head
    cdef uint32_t q
    pool_look(pool, tick)
    pool.used -= 1
    while pool.level and <uint64_t>pool.used * 100 < <uint64_t>pool.capacity * (
            level_percent(pool.level - 1) - 5):
        pool.level -= 1
    if pool.used:
        return
    head = pool_head(pools, key, pool)
    if head[0] == p + 1:
        head[0] = pool.next + 1
    else:
        q = head[0] - 1
        while pools.pool[q].next != p:
            q = pools.pool[q].next
        pools.pool[q].next = pool.next
    pool.next = pools.free
    pools.free = p


cdef inline bint quota_is_reached(const Pools* pools, const HashKey* key,
                                  const Pool* client) noexcept nogil:
    """Whether a client holds as many ports as it may."""
    cdef uint32_t p
    if pools.quota == 0:
        return False
    p = pool_find(pools, key, client)
    return p != NIL and pools.pool[p].used >= pools.quota
