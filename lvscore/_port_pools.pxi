"""The occupancy of port pools, as Python sees it: a part of _engine.pyx."""


cdef tuple pool_row(const State* s, const Pool* pool):
    """(family, protocol, address, remote, remote port, low, high, used, capacity, growth)."""
    cdef Pool now = pool[0]
    size = 4 if pool.family == IPV4 else 16
    pool_look(&now, <uint32_t>s.tick)
    return (pool.family, pool.protocol, (<const char*>&now.address)[:size],
            (<const char*>&now.remote)[:size], ntohs(pool.remote_port), pool.low, pool.high,
            pool.used, pool.capacity, now.growth)


def pools_list(EngineCore engine not None, bint clients):
    """A row for every pool that is used, or for every client that uses one."""
    cdef State* s = engine.enter()
    cdef uint32_t p
    rows = []
    for p in range(s.pools.used):
        if s.pools.pool[p].used and (s.pools.pool[p].capacity == 0) == clients:
            rows.append(pool_row(s, &s.pools.pool[p]))
    return rows


def pools_events(EngineCore engine not None, uint64_t seen):
    """How many events there were ever, and the latest after ``seen`` of them: (time in ns, per
    cent, row)."""
    cdef State* s = engine.enter()
    cdef uint64_t k = seen
    cdef const PoolEvent* event
    if s.pools.events > MAX_POOL_EVENTS and k < s.pools.events - MAX_POOL_EVENTS:
        k = s.pools.events - MAX_POOL_EVENTS
    rows = []
    while k < s.pools.events:
        event = &s.pools.event[k % MAX_POOL_EVENTS]
        rows.append((event.now, event.percent, pool_row(s, &event.pool)))
        k += 1
    return s.pools.events, rows


def pools_quota(EngineCore engine not None):
    """Ports that a client may hold at once; 0: any number."""
    return engine.enter().pools.quota


def pools_quota_set(EngineCore engine not None, uint32_t quota):
    """Bound the ports of each client; those that hold more keep them."""
    engine.enter().pools.quota = quota
