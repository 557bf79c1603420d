"""The invariants of an engine's memory, for tests and fuzzing: nothing here runs otherwise.

Each function returns 0, or the number of the invariant that does not hold.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from lvscore._core.connection cimport (
    FLAG_EXTENDED, FLAG_INACTIVE, FLAG_NO_CPORT, FLAG_SERVICE, FLAG_TEMPLATE, FLAG_TRACKED, Meta,
    Table, connection_control, connection_controls, connection_helper, connection_shadowed,
    connection_tuple, table_find, table_meta,
)
from lvscore._core.consts cimport IPV4, MAX_DISPLACEMENT, NIL
from lvscore._core.entry cimport Entries, Entry, entry_of
from lvscore._core.expect cimport Master
from lvscore._core.flow cimport Tuple, tuple_hash
from lvscore._core.fragment cimport MAX_PAYLOAD, Datagram, Fragments
from lvscore._core.hash cimport HashKey
from lvscore._core.index cimport SLOTS, SPARE_BUCKETS, Bucket, Index, slot_displacement
from lvscore._core.lifetime cimport CONTROL_TEMPLATE, control_index
from lvscore._core.port_pool cimport Pool, pool_find
from lvscore._core.scheduler_load cimport is_ranked, match_play, standing_of
from lvscore._core.scheduler_types cimport Ranking, Scheduler, Standing
from lvscore._core.server cimport SERVER_MOVED, SERVER_RANKED, Server
from lvscore._core.state cimport State, TABLES, TEMPLATES
from lvscore._core.wheel cimport AT_HEAD, LEVELS, LEVEL_SLOTS, Timer, Wheel, wheel_timer

cdef enum Fault:
    FAULT_NONE = 0
    FAULT_MEMORY = 1            # no memory to check with
    FAULT_INDEX_BITS = 2        # an entry lies where a search does not look
    FAULT_INDEX_OVERFLOW = 3    # a bucket miscounts what went past it
    FAULT_INDEX_ENTRIES = 4     # the index miscounts its entries
    FAULT_TUPLE_NOT_FOUND = 5   # a live connection cannot be found
    FAULT_TABLE_ENTRIES = 6     # entries of no live connection
    FAULT_TABLE_COUNT = 7       # live and free records are not all
    FAULT_EXTENSIONS = 8        # used and free extensions are not all
    FAULT_WHEEL_LINKS = 9       # a timer's neighbours do not know it
    FAULT_WHEEL_LATE = 10       # a timer lies in a slot that comes up after its deadline
    FAULT_WHEEL_COUNT = 11      # a live connection without timer, or the reverse
    FAULT_SERVER_COUNT = 12     # active and inactive are not those of the connections
    FAULT_FRAGMENTS = 13        # datagrams in reassembly, their bytes or their order miscounted
    FAULT_CONTROLS = 14         # a connection miscounts those that depend on it
    FAULT_PORTLESS = 15         # connections without client port are miscounted
    FAULT_HELPERS = 16          # used and free records of control connections are not all
    FAULT_ENTRIES = 17          # connections that conntrack knows, miscounted or not found
    FAULT_POOLS = 18            # a port pool, or a client, is miscounted or not found
    FAULT_MASTERS = 19          # a flow with a helper, or what it expects, is miscounted
    FAULT_RANKING = 20          # a server stands otherwise than its load says, or a match too
    FAULT_FREE = 21             # a free record has a state or flags


cdef inline int entries_check(const Entries* entries, const Table* table) noexcept nogil:
    """Tracked records have an entry each, and every entry hangs in the chain of its source."""
    cdef uint32_t i, e, h
    cdef uint32_t tracked = 0
    cdef uint32_t chained = 0
    for i in range(table.used):
        if not table_meta(table, i).flags & FLAG_TRACKED:
            continue
        tracked += 1
        if entries.record_of[entries.entry_of[i]] != i:
            return FAULT_ENTRIES
    for h in range(entries.heads if entries.used else 0):
        e = entries.head[h] - 1
        while e != NIL:
            chained += 1
            if chained > tracked or not table_meta(
                    table, entries.record_of[e]).flags & FLAG_TRACKED:
                return FAULT_ENTRIES
            e = entries.entry[e].next
    return FAULT_NONE if tracked == chained == entries.count else FAULT_ENTRIES


cdef inline int pools_check(const State* s) noexcept nogil:
    """Every pool, and every client, is used by as many connections as it says, and is found."""
    cdef uint32_t* counted = <uint32_t*>calloc(s.pools.used + 1, sizeof(uint32_t))
    cdef int fault = FAULT_NONE
    cdef const Entry* entry
    cdef const Pool* pool
    cdef uint32_t f, i
    if counted == NULL:
        return FAULT_MEMORY
    for f in range(2):
        for i in range(s.table[f].used):
            if not table_meta(&s.table[f], i).flags & FLAG_TRACKED:
                continue
            entry = entry_of(&s.entries[f], i)
            if entry.pool:
                counted[entry.pool - 1] += 1
                counted[entry.client - 1] += 1
    for i in range(s.pools.used):
        pool = &s.pools.pool[i]
        if pool.used != counted[i] or (
                pool.used and pool_find(&s.pools, &s.key, pool) != i):
            fault = FAULT_POOLS
    free(counted)
    return fault


cdef inline int index_check(const Index* index) noexcept nogil:
    cdef uint32_t buckets = index.base + index.split + SPARE_BUCKETS
    cdef uint32_t* passed = <uint32_t*>calloc(buckets, sizeof(uint32_t))
    cdef uint64_t entries = 0
    cdef uint32_t b, slot, displacement, home, i, mask
    cdef const Bucket* bucket
    cdef int fault = FAULT_NONE
    if passed == NULL:
        return FAULT_MEMORY
    for b in range(buckets):
        bucket = &index.bucket[b]
        for slot in range(SLOTS):
            if bucket.tag[slot] == 0:
                continue
            entries += 1
            displacement = slot_displacement(bucket, slot)
            if displacement > MAX_DISPLACEMENT or displacement > b:
                fault = FAULT_INDEX_BITS
                continue
            home = b - displacement
            # A bucket that was split, and the one split off it, go by one hash bit more.
            mask = 2 * index.base - 1 if (home < index.split or home >= index.base) \
                else index.base - 1
            if home >= index.base + index.split or (
                    (bucket.bits[slot] & (mask >> 8)) != (home >> 8)):
                fault = FAULT_INDEX_BITS
            for i in range(home, b):
                passed[i] += 1
    for b in range(buckets):
        if fault == FAULT_NONE and index.bucket[b].overflow != 0xFFFF \
                and index.bucket[b].overflow != passed[b]:
            fault = FAULT_INDEX_OVERFLOW
    if fault == FAULT_NONE and entries != index.entries:
        fault = FAULT_INDEX_ENTRIES
    free(passed)
    return fault


cdef inline int wheel_check(const Wheel* wheel, uint64_t* linked) noexcept nogil:
    """Also count the timers in the wheel."""
    cdef uint32_t level, slot, i, previous, turn
    cdef uint64_t due
    cdef const Timer* timer
    linked[0] = 0
    for level in range(LEVELS):
        for slot in range(level * LEVEL_SLOTS, (level + 1) * LEVEL_SLOTS):
            i = wheel.slot[slot].head
            if (i != NIL) != ((wheel.occupied[slot >> 6] >> (slot & 63)) & 1):
                return FAULT_WHEEL_LINKS
            previous = AT_HEAD | slot
            turn = (slot - <uint32_t>(wheel.tick >> (8 * level))) & (LEVEL_SLOTS - 1)
            if level > 0 and turn == 0:
                turn = LEVEL_SLOTS
            due = ((wheel.tick >> (8 * level)) + turn) << (8 * level)
            while i != NIL:
                timer = wheel_timer(wheel, i)
                if timer.previous != previous:
                    return FAULT_WHEEL_LINKS
                # What is over may lie behind: the kernel's timer wheel is late (lifetime.pxd).
                if timer.deadline != <uint32_t>wheel.tick and (
                        timer.deadline - <uint32_t>wheel.tick < due - wheel.tick):
                    return FAULT_WHEEL_LATE
                if due < wheel.event:
                    return FAULT_WHEEL_LATE
                linked[0] += 1
                previous = i
                i = timer.next
    return FAULT_NONE


cdef inline int table_check(const Table* table, const HashKey* key) noexcept nogil:
    cdef uint32_t i, direction, reference, found, chain
    cdef uint64_t heads = 0
    cdef uint64_t live = 0
    cdef uint64_t extended = 0
    cdef uint64_t linked
    cdef uint64_t portless = 0
    cdef const Meta* meta
    cdef Tuple t
    cdef int fault = index_check(&table.index)
    if fault:
        return fault
    for i in range(table.used):
        meta = table_meta(table, i)
        if meta.protocol == 0:
            if meta.state or meta.flags:
                return FAULT_FREE
            continue
        live += 1
        extended += meta.flags & FLAG_EXTENDED != 0
        portless += meta.flags & FLAG_NO_CPORT != 0
        for direction in range(1 if meta.flags & FLAG_TEMPLATE else 2):
            reference = i << 1 | direction
            connection_tuple(table, i, direction, &t)
            found = table_find(table, tuple_hash(key, &t), &t)
            heads += found == reference
            chain = 0
            while found != NIL and found != reference and chain <= 2 * table.used:
                found = connection_shadowed(table, found)
                chain += 1
            if found != reference:
                return FAULT_TUPLE_NOT_FOUND
    if heads != table.index.entries:
        return FAULT_TABLE_ENTRIES
    if live != table.count:
        return FAULT_TABLE_COUNT
    if portless != table.portless:
        return FAULT_PORTLESS
    i = table.free
    while i != NIL and live <= table.used:
        live += 1
        i = table_meta(table, i).timer.next
    if live != table.used:
        return FAULT_TABLE_COUNT
    i = table.extensions_free
    while i != NIL and extended <= table.extensions_used:
        extended += 1
        i = table.extensions[i].next
    if extended != table.extensions_used:
        return FAULT_EXTENSIONS
    fault = wheel_check(&table.wheel, &linked)
    if fault == FAULT_NONE and linked != table.count:
        fault = FAULT_WHEEL_COUNT
    return fault


cdef inline int fragments_check(const Fragments* f) noexcept nogil:
    cdef uint32_t i, family, previous
    cdef uint32_t count = 0
    cdef uint32_t chained = 0
    cdef uint64_t total = 0
    cdef const Datagram* d
    for i in range(f.used):
        if f.datagram[i].used:
            count += 1
            total += f.datagram[i].received
    for family in range(2):
        previous = NIL
        i = f.oldest[family]
        while i != NIL:
            d = &f.datagram[i]
            chained += 1
            if (not d.used or d.older != previous or chained > count
                    or d.deadline < f.deadline or (d.family != IPV4) != family
                    or d.received > d.furthest or d.furthest > MAX_PAYLOAD):
                return FAULT_FRAGMENTS
            previous = i
            i = d.newer
        if f.newest[family] != previous:
            return FAULT_FRAGMENTS
    if count != f.count or chained != count or total != f.bytes:
        return FAULT_FRAGMENTS
    return FAULT_NONE


cdef inline int helpers_check(const State* s) noexcept nogil:
    """Whether every record of a control connection is free or one connection's."""
    cdef uint32_t f, i
    cdef uint64_t count = 0
    for f in range(TABLES):
        for i in range(s.table[f].used):
            count += (table_meta(&s.table[f], i).protocol != 0
                      and table_meta(&s.table[f], i).flags & FLAG_SERVICE != 0
                      and connection_helper(&s.table[f], i) != NIL)
    i = s.ftp.free
    while i != NIL and count <= s.ftp.used:
        count += 1
        i = s.ftp.control[i].next
    return FAULT_NONE if count == s.ftp.used else FAULT_HELPERS


cdef inline int masters_check(const State* s) noexcept nogil:
    """Whether every master is free or one flow's, and whether those that expect hang in chains."""
    cdef uint32_t f, i, m, h
    cdef uint64_t count = 0
    cdef uint64_t expecting = 0
    cdef uint64_t chained = 0
    cdef const Master* master
    for f in range(TABLES):
        for i in range(s.table[f].used):
            if (table_meta(&s.table[f], i).protocol == 0
                    or table_meta(&s.table[f], i).flags & FLAG_SERVICE):
                continue
            m = connection_helper(&s.table[f], i)
            if m != NIL:
                count += 1
                expecting += s.masters.master[m].expects
                if s.masters.master[m].record != i:
                    return FAULT_MASTERS
    if count != s.masters.count or expecting != s.masters.expecting:
        return FAULT_MASTERS
    for h in range(s.masters.heads if s.masters.used else 0):
        m = s.masters.head[h] - 1
        while m != NIL:
            master = &s.masters.master[m]
            chained += 1
            if not master.expects or chained > expecting or h != (
                    <uint32_t>tuple_hash(&s.key, &master.expected) & (s.masters.heads - 1)):
                return FAULT_MASTERS
            m = master.next
    m = s.masters.free
    while m != NIL and count <= s.masters.used:
        count += 1
        m = s.masters.master[m].next
    return FAULT_NONE if count == s.masters.used and chained == expecting else FAULT_MASTERS


cdef inline int controls_check(const State* s, uint32_t f) noexcept nogil:
    """Whether each record of a table counts those that depend on it."""
    cdef const Table* table = &s.table[f]
    cdef const Table* other
    cdef uint32_t* counted = <uint32_t*>calloc(<size_t>table.used + 1, sizeof(uint32_t))
    cdef uint32_t i, k, control
    cdef int fault = FAULT_NONE
    if counted == NULL:
        return FAULT_MEMORY
    for k in range(TABLES):
        other = &s.table[k]
        if other.family != table.family:
            continue
        for i in range(other.used):
            control = NIL if table_meta(other, i).protocol == 0 \
                else connection_control(other, i)
            if control != NIL and (control & CONTROL_TEMPLATE != 0) == (f >= TEMPLATES):
                counted[control_index(control)] += 1
    for i in range(table.used):
        if table_meta(table, i).protocol and counted[i] != connection_controls(table, i):
            fault = FAULT_CONTROLS
    free(counted)
    return fault


cdef inline int ranking_check(const Scheduler* s, const Server* servers) noexcept nogil:
    """Standings are of the servers' loads, but of those that have moved; every match was played."""
    cdef const Ranking* ranking = &s.ranking
    cdef const Server* server
    cdef Standing* standing
    cdef Standing own
    cdef uint32_t moved = 0
    cdef uint32_t i
    if not is_ranked(s.kind) or s.count == 0:
        return FAULT_NONE
    for i in range(s.count):
        server = &servers[s.list[i]]
        own = standing_of(s.kind, server, s.list[i])
        standing = &ranking.standing[ranking.width + i]
        moved += server.flags & SERVER_MOVED != 0
        if not server.flags & SERVER_RANKED or server.position != i or not (
                server.flags & SERVER_MOVED or (standing.load == own.load and standing.server
                                                == own.server and standing.weight == own.weight)):
            return FAULT_RANKING
    for i in range(1, ranking.width):
        own = ranking.standing[i]
        match_play(ranking.standing, i)
        if own.server != ranking.standing[i].server or own.load != ranking.standing[i].load:
            return FAULT_RANKING
    return FAULT_NONE if moved == ranking.moved_count else FAULT_RANKING


cdef inline int state_check(const State* s) noexcept nogil:
    cdef uint32_t f, i
    cdef const Meta* meta
    cdef const Server* server
    cdef uint32_t* counted
    cdef int fault = fragments_check(&s.fragments)
    if fault == FAULT_NONE:
        fault = helpers_check(s)
    if fault == FAULT_NONE:
        fault = masters_check(s)
    if fault == FAULT_NONE:
        fault = pools_check(s)
    for i in range(s.services.service_used):
        if fault == FAULT_NONE and s.services.service[i].used:
            fault = ranking_check(&s.services.service[i].scheduler, s.services.server)
    if fault:
        return fault
    for f in range(TABLES):
        fault = table_check(&s.table[f], &s.key)
        if fault == FAULT_NONE:
            fault = controls_check(s, f)
        if fault == FAULT_NONE and f < 2:
            fault = entries_check(&s.entries[f], &s.table[f])
        if fault:
            return fault
    counted = <uint32_t*>calloc(3 * <size_t>s.services.server_used, sizeof(uint32_t))
    if counted == NULL:
        return FAULT_MEMORY
    for f in range(TABLES):
        for i in range(s.table[f].used):
            meta = table_meta(&s.table[f], i)
            if meta.protocol and meta.flags & FLAG_TEMPLATE:
                counted[3 * meta.server + 2] += 1
            elif meta.protocol and meta.flags & FLAG_SERVICE:
                counted[3 * meta.server + (meta.flags & FLAG_INACTIVE != 0)] += 1
    for i in range(s.services.server_used):
        server = &s.services.server[i]
        if (server.active != counted[3 * i] or server.inactive != counted[3 * i + 1]
                or server.persistent != counted[3 * i + 2]):
            fault = FAULT_SERVER_COUNT
    free(counted)
    return fault
