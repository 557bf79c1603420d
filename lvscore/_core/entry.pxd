"""What conntrack knows of a connection besides its tuples, and who maps which source.

Every connection that the NAT rules track has an Entry; a TCP connection among them also has
windows (tcp_window.pxd). Entries of one source (address, port, protocol) hang together, so
that a mapping made once is used again (nf_nat_core.c, find_appropriate_src).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from lvscore._core.connection cimport FLAG_TRACKED, Table, connection_tuple, table_meta
from lvscore._core.consts cimport IPV6, NIL, ORIGINAL, REPLY
from lvscore._core.flow cimport (
    Tuple, address_equal, ports_destination, ports_make, ports_source, tuple_hash,
)
from lvscore._core.hash cimport HashKey
from lvscore._core.machine cimport memory_populate, memory_release, memory_reserve
from lvscore._core.tcp_window cimport TcpWindow

cdef enum:
    SOURCES_PER_HEAD = 4        # connections per chain when the table is full
    MIN_HEADS = 256


cdef enum EntryPacket:          # how the packet at hand of a service's connection fits
    ENTRY_NEW = 0               # conntrack does not know its flow, which it may open
    ENTRY_TAKEN = 1
    ENTRY_INVALID = 2


cdef struct Entry:
    uint64_t created            # tick
    uint32_t next               # of the source's chain, older; or of the free list
    uint32_t previous
    uint32_t window             # the record's own number, or NIL: none
    uint32_t deadline           # of a service's connection: until when conntrack knows it,
    uint32_t pool               # that its source port is of, plus one; 0: none
    uint32_t client             # that it counts for, in the same way
    uint16_t masquerade         # interface that it is masqueraded to, plus one
    uint8_t state               # and as what; 0: it does not
    uint8_t packet              # ENTRY_*
    uint8_t expected            # a master expected it: its first packet was RELATED
    uint8_t reversed            # of a service's connection: the server's packet opened it
    uint8_t redirected          # of a flow that a DNAT rule led to a service: IPVS sees its answers


cdef struct Entries:
    Entry* entry
    TcpWindow* window           # by record; valid if its entry says so
    uint32_t* entry_of          # by record; valid with FLAG_TRACKED
    uint32_t* record_of         # by entry
    uint32_t* head              # of the chains by source: entry plus one, 0: empty
    uint32_t heads              # a power of two
    uint32_t limit
    uint32_t count
    uint32_t used
    uint32_t free
    uint32_t windows            # how many are valid


cdef inline bint entries_init(Entries* entries, uint32_t limit) noexcept nogil:
    """Reserve address space for the entries of ``limit`` connections."""
    memset(entries, 0, sizeof(Entries))
    entries.limit = limit
    entries.free = NIL
    entries.heads = MIN_HEADS
    while entries.heads * SOURCES_PER_HEAD < limit:
        entries.heads *= 2
    return entries_reserve(entries)


cdef inline bint entries_reserve(Entries* entries) noexcept nogil:
    cdef size_t records = <size_t>entries.limit + 1
    entries.entry = <Entry*>memory_reserve(records * sizeof(Entry))
    entries.window = <TcpWindow*>memory_reserve(records * sizeof(TcpWindow))
    entries.entry_of = <uint32_t*>memory_reserve(records * sizeof(uint32_t))
    entries.record_of = <uint32_t*>memory_reserve(records * sizeof(uint32_t))
    entries.head = <uint32_t*>memory_reserve(entries.heads * sizeof(uint32_t))
    return (entries.entry and entries.window and entries.entry_of and entries.record_of
            and entries.head)


cdef inline bint entries_populate(const Entries* entries, uint32_t records) noexcept nogil:
    """Take the memory of the entries of so many connections; False if it ends."""
    return (memory_populate(entries.entry, <size_t>records * sizeof(Entry))
            and memory_populate(entries.window, <size_t>records * sizeof(TcpWindow))
            and memory_populate(entries.entry_of, <size_t>records * sizeof(uint32_t))
            and memory_populate(entries.record_of, <size_t>records * sizeof(uint32_t)))


cdef inline void entries_free(Entries* entries) noexcept nogil:
    cdef size_t records = <size_t>entries.limit + 1
    memory_release(entries.entry, records * sizeof(Entry))
    memory_release(entries.window, records * sizeof(TcpWindow))
    memory_release(entries.entry_of, records * sizeof(uint32_t))
    memory_release(entries.record_of, records * sizeof(uint32_t))
    memory_release(entries.head, entries.heads * sizeof(uint32_t))
    memset(entries, 0, sizeof(Entries))


cdef inline bint entries_copy(Entries* entries, const Entries* other,
                              uint32_t records) noexcept nogil:
    """Make ``entries`` a copy of ``other``, whose table has used ``records`` records; False if
    memory ends, then free it all the same."""
    cdef uint32_t e
    entries[0] = other[0]
    if not entries_reserve(entries):
        return False
    if other.used:
        memcpy(entries.entry, other.entry, <size_t>other.used * sizeof(Entry))
        memcpy(entries.record_of, other.record_of, <size_t>other.used * sizeof(uint32_t))
        memcpy(entries.entry_of, other.entry_of, <size_t>records * sizeof(uint32_t))
        memcpy(entries.head, other.head, <size_t>other.heads * sizeof(uint32_t))
    for e in range(other.used):
        if other.entry[e].window != NIL:
            entries.window[other.record_of[e]] = other.window[other.record_of[e]]
    return True


cdef inline size_t entries_memory(const Entries* entries) noexcept nogil:
    """Bytes in use."""
    return (<size_t>entries.used * (sizeof(Entry) + 2 * sizeof(uint32_t))
            + <size_t>entries.windows * sizeof(TcpWindow))


cdef inline Entries* entries_of(Entries* entries, uint8_t family) noexcept nogil:
    """Of the two, those of a family."""
    return &entries[family == IPV6]


cdef inline Entry* entry_of(const Entries* entries, uint32_t i) noexcept nogil:
    """The entry of a record that is tracked."""
    return &entries.entry[entries.entry_of[i]]


cdef inline TcpWindow* window_of(const Entries* entries, uint32_t i) noexcept nogil:
    """The windows of a record, or NULL."""
    cdef uint32_t window = entry_of(entries, i).window
    return NULL if window == NIL else &entries.window[window]


cdef inline uint32_t* source_head(const Entries* entries, const HashKey* key,
                                  const Tuple* t) noexcept nogil:
    """The head of the chain of a source."""
    cdef Tuple source
    memset(&source, 0, sizeof(source))
    source.source = t.source
    source.ports = ports_make(ports_source(t.ports), 0)
    source.protocol = t.protocol
    source.family = t.family
    return &entries.head[<uint32_t>tuple_hash(key, &source) & (entries.heads - 1)]


cdef inline Entry* entry_open(Entries* entries, Table* table, const HashKey* key,
                              uint32_t i) noexcept nogil:
    """Begin to track a record that has just been opened."""
    cdef uint32_t e = entries.free
    cdef uint32_t* head
    cdef Entry* entry
    cdef Tuple original
    if e == NIL:
        e = entries.used
        entries.used += 1
    else:
        entries.free = entries.entry[e].next
    entries.count += 1
    entries.entry_of[i] = e
    entries.record_of[e] = i
    entry = &entries.entry[e]
    memset(entry, 0, sizeof(Entry))
    entry.created = table.wheel.tick
    entry.window = NIL
    connection_tuple(table, i, ORIGINAL, &original)
    head = source_head(entries, key, &original)
    entry.previous = NIL
    entry.next = head[0] - 1            # 0, empty, becomes NIL
    if entry.next != NIL:
        entries.entry[entry.next].previous = e
    head[0] = e + 1
    table_meta(table, i).flags |= FLAG_TRACKED
    return entry


cdef inline TcpWindow* entry_window(Entries* entries, Entry* entry) noexcept nogil:
    """The windows of an entry, which it has from now on."""
    if entry.window == NIL:
        entry.window = entries.record_of[entry - entries.entry]
        entries.windows += 1
    return &entries.window[entry.window]


cdef inline void entry_close(Entries* entries, Table* table, const HashKey* key,
                             uint32_t i) noexcept nogil:
    """Forget a record that is tracked; its tuples must still be there."""
    cdef uint32_t e = entries.entry_of[i]
    cdef Entry* entry = &entries.entry[e]
    cdef Tuple original
    entries.windows -= entry.window != NIL
    entry.window = NIL
    if entry.next != NIL:
        entries.entry[entry.next].previous = entry.previous
    if entry.previous != NIL:
        entries.entry[entry.previous].next = entry.next
    else:
        connection_tuple(table, i, ORIGINAL, &original)
        source_head(entries, key, &original)[0] = entry.next + 1
    entry.next = entries.free
    entries.free = e
    entries.count -= 1
    table_meta(table, i).flags &= ~<uint32_t>FLAG_TRACKED


cdef inline uint32_t source_next(const Entries* entries, const Table* table, uint32_t e,
                                 const Tuple* t) noexcept nogil:
    """The newest record from entry ``e`` on whose source is that of ``t``, or NIL."""
    cdef Tuple original
    cdef uint32_t i
    while e != NIL:
        i = entries.record_of[e]
        connection_tuple(table, i, ORIGINAL, &original)
        if (original.protocol == t.protocol
                and ports_source(original.ports) == ports_source(t.ports)
                and address_equal(&original.source, &t.source)):
            return i
        e = entries.entry[e].next
    return NIL


cdef inline bint source_is_translated(const Table* table, uint32_t i) noexcept nogil:
    """Whether answers of a record go to another address or port than its requests came from."""
    cdef Tuple original, reply
    connection_tuple(table, i, ORIGINAL, &original)
    connection_tuple(table, i, REPLY, &reply)
    return not (address_equal(&original.source, &reply.destination)
                and ports_source(original.ports) == ports_destination(reply.ports))
