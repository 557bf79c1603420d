"""The tuple that a new connection gets (nf_nat_core.c, get_unique_tuple): the reply tuple that
results must be free, since netfilter's tuples are unique."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from lvscore._core.bytes cimport htonl, htons, ntohl, ntohs
from lvscore._core.connection cimport Table, connection_tuple, table_find, table_meta
from lvscore._core.consts cimport (
    IPV4, NIL, ORIGINAL, PROTOCOL_ICMP, PROTOCOL_ICMPV6, REPLY,
)
from lvscore._core.entry cimport (
    Entries, source_head, source_is_translated, source_next, window_of,
)
from lvscore._core.flow cimport (
    Address, Tuple, address_equal, has_ports, ports_destination, ports_make, ports_source,
    tuple_hash, tuple_inverse,
)
from lvscore._core.hash cimport HashKey, jhash2, random_next
from lvscore._core.index cimport Cursor, index_home, index_next, index_seek
from lvscore._core.machine cimport prefetch
from lvscore._core.rules cimport (
    RANGE_ADDRESSES, RANGE_OFFSET, RANGE_PERSISTENT, RANGE_PORTS, RANGE_RANDOM, Range, port_in,
)
from lvscore._core.tcp_window cimport TcpWindow, sequence_after
from lvscore._core.track cimport RULE_TCP_TIME_WAIT

cdef enum:
    PORT_ATTEMPTS = 128         # in a row, before another start is drawn (nf_nat_core.c)
    PORTS_AHEAD = 16
    HARD_ATTEMPTS = 32          # of these the last, which may evict a connection in TIME_WAIT


# A search for a tuple whose answers no other connection gets.
cdef struct Search:
    const Table* table
    const Entries* entries
    const HashKey* key
    uint64_t* chance
    const TcpWindow* window     # of the new connection, whose first segment is a SYN; or NULL
    const Address* towards      # where its packets go, if not to their destination; or NULL
    uint32_t evicted            # the connection that has to go first, or NIL


cdef inline bint reply_is_free(const Search* search, const Tuple* t) noexcept nogil:
    """Whether no connection uses the tuple that answers to ``t`` would have."""
    cdef Tuple reply = tuple_inverse(t)
    return table_find(search.table, tuple_hash(search.key, &reply), &reply) == NIL


cdef inline bint address_within(const Address* low, const Address* high, const Address* address,
                                uint8_t family) noexcept nogil:
    cdef uint32_t size = 4 if family == IPV4 else 16
    return memcmp(address, low, size) >= 0 and memcmp(address, high, size) <= 0


cdef inline bint port_within(const Range* to, const Tuple* t, bint source) noexcept nogil:
    """Whether the port is within the range's, or the ICMP identifier."""
    cdef uint32_t port
    if t.protocol == PROTOCOL_ICMP or t.protocol == PROTOCOL_ICMPV6:
        source = True
    elif not has_ports(t.protocol):
        return True
    port = ntohs(ports_source(t.ports) if source else ports_destination(t.ports))
    return port_in(port, to.port_low, to.port_high)


cdef inline bint source_within(const Range* to, const Tuple* t) noexcept nogil:
    """Whether a source is one that the range may translate to (in_range)."""
    if to.flags & RANGE_ADDRESSES and not address_within(&to.low, &to.high, &t.source, t.family):
        return False
    return not to.flags & RANGE_PORTS or port_within(to, t, True)


cdef inline Address address_choose(const Range* to, const Tuple* t, bint source) noexcept nogil:
    """One address of the range, by a hash of source and destination: the same pair always gets the
    same, with RANGE_PERSISTENT the same source (nf_nat_core.c, find_best_ips_proto). Behind a word
    that is below the range's last, the following words may take any value."""
    cdef uint32_t from_[4]
    cdef uint32_t destination[4]
    cdef uint32_t low[4]
    cdef uint32_t high[4]
    cdef uint32_t words = 1 if t.family == IPV4 else 4
    cdef uint32_t i, j, first, distance
    cdef bint free = False
    cdef bint persistent = to.flags & RANGE_PERSISTENT != 0
    cdef Address chosen = to.low
    if not to.flags & RANGE_ADDRESSES:
        return t.source if source else t.destination
    if address_equal(&to.low, &to.high):
        return chosen
    memcpy(from_, &t.source, 16)
    memcpy(destination, &t.destination, 16)
    memcpy(low, &to.low, 16)
    memcpy(high, &to.high, 16)
    j = jhash2(from_, 4, 0 if persistent else destination[words - 1])
    for i in range(words):
        first = 0 if free else ntohl(low[i])
        distance = 0xFFFFFFFFU if free else ntohl(high[i]) - first + 1
        low[i] = htonl(first + <uint32_t>((<uint64_t>j * distance) >> 32))
        if low[i] != high[i]:
            free = True
        if not persistent:
            # The kernel has written a destination's word by now, and hashes what it wrote.
            j ^= destination[i] if source else low[i]
    memcpy(&chosen, low, 16)
    return chosen


cdef inline bint mapping_find(const Search* search, const Range* to, const Tuple* t,
                              Tuple* mapped) noexcept nogil:
    """What another connection of this source is translated to, if the range has it."""
    cdef uint32_t e = source_head(search.entries, search.key, t)[0] - 1
    cdef uint32_t i = source_next(search.entries, search.table, e, t)
    cdef Tuple reply
    while i != NIL:
        connection_tuple(search.table, i, REPLY, &reply)
        mapped[0] = t[0]
        mapped.source = reply.destination
        mapped.ports = ports_make(ports_destination(reply.ports), ports_destination(t.ports))
        if source_within(to, mapped):
            return True
        e = search.entries.entry[search.entries.entry_of[i]].next
        i = source_next(search.entries, search.table, e, t)
    return False


cdef inline bint may_evict(Search* search, const Tuple* t) noexcept nogil:
    """Whether the connection that has the reply tuple is over and translated, and the new one
    is of a later sequence (nf_nat_used_tuple_harder)."""
    cdef Tuple reply = tuple_inverse(t)
    cdef uint32_t reference = table_find(search.table, tuple_hash(search.key, &reply), &reply)
    cdef uint32_t i = reference >> 1
    cdef const TcpWindow* window
    if reference & 1 == ORIGINAL or table_meta(search.table, i).state < RULE_TCP_TIME_WAIT:
        return False
    window = window_of(search.entries, i)
    if window == NULL or not source_is_translated(search.table, i) or not sequence_after(
            search.window.side[ORIGINAL].end, window.side[ORIGINAL].end):
        return False
    search.evicted = i
    return True


cdef inline void port_set(Tuple* t, bint source, uint16_t port) noexcept nogil:
    """Set the source's or the destination's port, given in host order."""
    if source:
        t.ports = ports_make(htons(port), ports_destination(t.ports))
    else:
        t.ports = ports_make(ports_source(t.ports), htons(port))


cdef inline uint16_t port_at(uint32_t low, uint32_t size, uint32_t offset) noexcept nogil:
    return <uint16_t>(low + (offset & 0xFFFF) % size)


cdef inline bint port_scan(const Search* search, Tuple* t, bint source, uint32_t low,
                           uint32_t size, uint32_t offset, uint32_t attempts) noexcept nogil:
    """Find a port whose reply tuple is free for sure, since no tag in the index is like its own.

    One of some ten thousand free ports is passed by, for another tuple's tag. Buckets are
    fetched ahead, more and more of them, for most searches end soon.
    """
    cdef uint64_t hash[16]
    cdef Tuple candidate = t[0]
    cdef Tuple reply
    cdef Cursor cursor
    cdef uint32_t ahead = 1
    cdef uint32_t i = 0
    cdef uint32_t k, count
    while i < attempts:
        count = ahead if ahead < attempts - i else attempts - i
        for k in range(count):
            port_set(&candidate, source, port_at(low, size, offset + i + k))
            reply = tuple_inverse(&candidate)
            hash[k] = tuple_hash(search.key, &reply)
            prefetch(&search.table.index.bucket[index_home(&search.table.index, hash[k])])
        for k in range(count):
            cursor = index_seek(&search.table.index, hash[k])
            if index_next(&search.table.index, &cursor) == NIL:
                port_set(t, source, port_at(low, size, offset + i + k))
                return True
        i += count
        if ahead < PORTS_AHEAD:
            ahead *= 2
    return False


cdef inline void port_search(Search* search, Tuple* t, bint source, uint32_t low, uint32_t high,
                             uint32_t offset, bint drawn) noexcept nogil:
    """Try ports of a range until the reply tuple is free; if none is, the last one stays.

    As the kernel does it (nf_nat_l4proto_unique_tuple): 128 attempts in a row, then from
    another start, drawn by lot, 64, and so on down to 8; a range with fewer ports is tried out.
    ``drawn``: so was the start, and any free port of those is as good as the first.
    """
    cdef uint32_t size = high - low + 1
    cdef uint32_t attempts = size if size < PORT_ATTEMPTS else PORT_ATTEMPTS
    cdef uint32_t i, plain
    while True:
        # Of the last attempts each may take over a connection that is in TIME_WAIT.
        plain = attempts if search.window == NULL else (
            attempts - HARD_ATTEMPTS if attempts > HARD_ATTEMPTS else 0)
        if drawn and port_scan(search, t, source, low, size, offset, plain):
            return
        for i in range(attempts):
            port_set(t, source, port_at(low, size, offset + i))
            if reply_is_free(search, t):
                return
            if attempts - i <= HARD_ATTEMPTS and search.window != NULL and may_evict(search, t):
                return
        if attempts >= size or attempts < 16:
            return
        attempts //= 2
        offset = <uint32_t>random_next(search.chance) & 0xFFFF
        drawn = True


cdef inline void port_range(const Range* to, const Tuple* t, bint source, uint32_t* low,
                            uint32_t* high) noexcept nogil:
    """The ports (ICMP: identifiers) that a mapping may choose from: the rule's range, or a source
    port's own class, 1-511, 600-1023 or 1024-65535 (nf_nat_l4proto_unique_tuple)."""
    cdef uint32_t port = ntohs(ports_source(t.ports) if source else ports_destination(t.ports))
    if to.flags & RANGE_PORTS:
        low[0] = to.port_low
        high[0] = to.port_high
    elif not has_ports(t.protocol):
        low[0] = 0
        high[0] = 0xFFFF
    elif port < 512:
        low[0] = 1
        high[0] = 511
    elif port < 1024:
        low[0] = 600
        high[0] = 1023
    else:
        low[0] = 1024
        high[0] = 65535
    if high[0] < low[0]:
        low[0], high[0] = high[0], low[0]


cdef inline void port_choose(Search* search, const Range* to, Tuple* t,
                             bint source) noexcept nogil:
    """Choose the port (ICMP: the identifier) of one side, so that the reply tuple is free.

    Without a range a destination port stays; from one it is drawn by lot as a source port is.
    """
    cdef uint32_t port, low, high, offset
    cdef bint drawn = False
    cdef bint icmp = t.protocol == PROTOCOL_ICMP or t.protocol == PROTOCOL_ICMPV6
    if not icmp and not has_ports(t.protocol):
        return
    if icmp:
        source = True
    if not source and not to.flags & RANGE_PORTS:
        return
    port = ntohs(ports_source(t.ports) if source else ports_destination(t.ports))
    port_range(to, t, source, &low, &high)
    offset = 0
    if to.flags & RANGE_OFFSET:
        offset = (port - to.port_base) & 0xFFFF
    else:
        offset = <uint32_t>random_next(search.chance) & 0xFFFF
        drawn = True
    port_search(search, t, source, low, high, offset, drawn)


cdef inline void tuple_choose(Search* search, const Range* to, Tuple* t,
                              bint source) noexcept nogil:
    """Translate one side of a new connection's tuple into a range (get_unique_tuple).

    Where nothing is free the last candidate stays: another translation may yet free it, else
    the packet is dropped in the end.
    """
    cdef Tuple given = t[0]
    if source and not to.flags & RANGE_RANDOM:
        if source_within(to, t):
            if reply_is_free(search, t):
                return
        elif mapping_find(search, to, &given, t) and reply_is_free(search, t):
            return
        t[0] = given
    if source:
        t.source = address_choose(to, &given, True)
    else:
        t.destination = address_choose(to, &given, False)
    if not to.flags & RANGE_RANDOM:
        if to.flags & RANGE_PORTS:
            if (not to.flags & RANGE_OFFSET and port_within(to, t, source)
                    and (to.port_low == to.port_high or reply_is_free(search, t))):
                return
        elif reply_is_free(search, t):
            return
    port_choose(search, to, t, source)


cdef inline void tuple_keep(Search* search, Tuple* t, bint source) noexcept nogil:
    """Translate nothing, but for a port where the reply tuple is taken (a null binding)."""
    cdef Range to
    to.low = t.source if source else t.destination
    to.high = to.low
    to.port_low = to.port_high = to.port_base = 0
    to.flags = RANGE_ADDRESSES
    tuple_choose(search, &to, t, source)
