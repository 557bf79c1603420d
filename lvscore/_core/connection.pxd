"""Connections: two tuples, state, timer and counters in one record, and the table of them.

An IPv4 record is one cache line, an IPv6 record two. A record holds what a packet of each
direction carries *after* translation; turned round, that is the tuple of the other direction
before it. So the tuples are stored once, and matching and rewriting need no branch.

Tuples need not be unique: of connections with the same tuple the newest is found until it
goes (as entries at the head of IPVS's hash chains are), and replies are found before
requests, as ip_vs_out runs before ip_vs_in.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from lvscore._core.bytes cimport rotate32, rotate64
from lvscore._core.consts cimport IPV4, NIL, ORIGINAL, REPLY
from lvscore._core.flow cimport (
    Tuple, addresses_pack, addresses_unpack, ports_key, tuple_delta, tuple_hash, tuple_inverse,
    tuples_answer,
)
from lvscore._core.hash cimport HashKey, hash_ipv4
from lvscore._core.index cimport (
    Cursor, Index, index_copy, index_free, index_home, index_init, index_insert,
    index_next, index_populate, index_remove, index_replace, index_seek,
)
from lvscore._core.machine cimport (
    likely, memory_populate, memory_release, memory_reserve, prefetch_write,
)
from lvscore._core.wheel cimport Timer, Wheel, wheel_init, wheel_link, wheel_rebase

cdef enum ConnectionFlag:
    FLAG_SERVICE = 1        # made by a virtual service, else by the NAT rules
    FLAG_INACTIVE = 2       # counted as inactive at its server
    FLAG_EXTENDED = 4       # has an Extension
    FLAG_SEEN_REPLY = 8
    FLAG_ASSURED = 16
    FLAG_UNTRANSLATED = 32  # both tuples say the same
    FLAG_SLOW = 64          # never takes the fast path through the pipeline
    FLAG_NOOUTPUT = 128     # the server's packets do not come by here
    FLAG_TEMPLATE = 256     # of persistence: found by its original tuple only
    FLAG_ONE_PACKET = 512   # conntrack's, of a service that schedules each datagram anew
    FLAG_TRACKED = 1024     # has an Entry: conntrack knows it
    FLAG_NO_CPORT = 2048    # the client's port is not known yet, and 0

cdef enum:
    PENDING = 16
    POPULATE_FROM = 16384   # records; a smaller table takes its memory as it is touched
    METHOD_SHIFT = 12       # the forwarding method, in the highest bits of the flags


cdef struct Meta:
    Timer timer
    uint32_t server         # 0: none
    uint32_t packets[2]
    uint32_t bytes[2]       # low words; carries go to the Extension
    uint8_t protocol        # 0 in a record that is free
    uint8_t state           # tracker and state, see track.pxd
    uint16_t flags


cdef struct Connection4:
    uint64_t addresses[2]   # source and destination after translation, by direction
    uint32_t ports[2]
    uint16_t next_hop[2]    # of packets of a direction on a Host; see next_hop.pxd
    Meta meta


cdef struct Connection6:
    uint64_t source[2][2]
    uint64_t destination[2][2]
    uint32_t ports[2]
    uint16_t next_hop[2]
    uint16_t delta[2]       # what translation adds to the complement of TCP's and UDP's checksum
    Meta meta
    uint32_t reserved[3]


# What few connections need.
cdef struct Extension:
    uint64_t created        # tick
    uint32_t shadowed[2]    # next older reference with the same tuple, by direction
    uint32_t bytes_high[2]
    uint32_t next           # of the free list; of a template its SIP dialog, see sip.pxd
    uint32_t control        # the connection or template that this one depends on, or NIL
    uint32_t controls       # how many depend on this one
    uint32_t timeout        # ticks; of a template
    uint32_t helper         # of a control connection: its record in ftp.pxd or expect.pxd, or NIL


# The answer's direction of a connection that is to be made findable.
cdef struct Pending:
    uint64_t hash
    uint32_t reference


cdef struct Table:
    Index index
    Wheel wheel
    uint8_t* records
    uint32_t* extension_of  # by record; valid with FLAG_EXTENDED
    Extension* extensions
    uint32_t record_size
    uint32_t meta_offset
    uint32_t limit          # records
    uint32_t used           # records that were ever used
    uint32_t populate_at    # of them, when more memory is to be taken; see prefault.pxd
    uint32_t free           # list of records, through their timers
    uint32_t freed[4]       # the first of them, as a ring; see table_free_put
    uint32_t freed_count
    uint32_t count
    uint32_t extensions_used
    uint32_t extensions_free
    uint32_t shadowings     # how often a tuple that was in use was taken by another record
    uint32_t portless       # records whose client's port is not known
    uint8_t family
    bint deferring          # answers' directions wait for their bucket to be fetched
    uint32_t pending_count
    uint64_t pending_bits[4]    # bit n: one waits whose hash has n in its bits 49 to 56
    Pending pending[16]


cdef inline uint32_t table_memory(const Table* table) noexcept nogil:
    return table.limit + 1


cdef inline bint table_init(Table* table, uint8_t family, uint32_t limit) noexcept nogil:
    """Reserve address space for ``limit`` connections; False if the system refuses."""
    cdef Connection4 four
    cdef Connection6 six
    memset(table, 0, sizeof(Table))
    table.family = family
    table.limit = limit
    table.populate_at = POPULATE_FROM
    table.free = NIL
    memset(table.freed, 0xFF, sizeof(table.freed))
    table.extensions_free = NIL
    if family == IPV4:
        table.record_size = sizeof(Connection4)
        table.meta_offset = <uint32_t>(<uint8_t*>&four.meta - <uint8_t*>&four)
    else:
        table.record_size = sizeof(Connection6)
        table.meta_offset = <uint32_t>(<uint8_t*>&six.meta - <uint8_t*>&six)
    if not index_init(&table.index, 2 * limit):
        return False
    return table_reserve(table)


cdef inline bint table_reserve(Table* table) noexcept nogil:
    cdef size_t records = table_memory(table)
    table.records = <uint8_t*>memory_reserve(records * table.record_size)
    table.extension_of = <uint32_t*>memory_reserve(records * sizeof(uint32_t))
    table.extensions = <Extension*>memory_reserve(records * sizeof(Extension))
    if not (table.records and table.extension_of and table.extensions):
        return False
    wheel_init(&table.wheel, table.records + table.meta_offset, table.record_size)
    return True


cdef inline bint table_populate(const Table* table, uint32_t connections) noexcept nogil:
    """Take the memory of so many connections now; False if it ends."""
    return (memory_populate(table.records, <size_t>connections * table.record_size)
            and index_populate(&table.index, 2 * connections))


cdef inline void table_free(Table* table) noexcept nogil:
    cdef size_t records = table_memory(table)
    index_free(&table.index)
    memory_release(table.records, records * table.record_size)
    memory_release(table.extension_of, records * sizeof(uint32_t))
    memory_release(table.extensions, records * sizeof(Extension))
    table.records = NULL
    table.extension_of = NULL
    table.extensions = NULL


cdef inline bint table_copy(Table* table, const Table* other) noexcept nogil:
    """Make ``table`` a copy of ``other``; False if memory ends, then free it all the same."""
    table[0] = other[0]
    table.records = NULL
    table.extension_of = NULL
    table.extensions = NULL
    if not index_copy(&table.index, &other.index):
        return False
    if not table_reserve(table):
        return False
    memcpy(table.records, other.records, <size_t>other.used * other.record_size)
    memcpy(table.extension_of, other.extension_of, <size_t>other.used * sizeof(uint32_t))
    memcpy(table.extensions, other.extensions,
           <size_t>other.extensions_used * sizeof(Extension))
    table.wheel = other.wheel
    wheel_rebase(&table.wheel, table.records + table.meta_offset)
    return True


cdef inline Meta* table_meta(const Table* table, uint32_t i) noexcept nogil:
    return <Meta*>(table.records + <size_t>i * table.record_size + table.meta_offset)


cdef inline Connection4* connection4(const Table* table, uint32_t i) noexcept nogil:
    return <Connection4*>table.records + i


cdef inline Connection6* connection6(const Table* table, uint32_t i) noexcept nogil:
    return <Connection6*>table.records + i


cdef inline void connection_translated(const Table* table, uint32_t i, uint32_t direction,
                                       Tuple* t) noexcept nogil:
    """The tuple of a packet of ``direction`` after translation."""
    cdef Connection4* four
    cdef Connection6* six
    t.family = table.family
    t.protocol = table_meta(table, i).protocol
    if table.family == IPV4:
        four = connection4(table, i)
        addresses_unpack(t, four.addresses[direction])
        t.ports = four.ports[direction]
    else:
        six = connection6(table, i)
        memcpy(&t.source, six.source[direction], 16)
        memcpy(&t.destination, six.destination[direction], 16)
        t.ports = six.ports[direction]


cdef inline void connection_tuple(const Table* table, uint32_t i, uint32_t direction,
                                  Tuple* t) noexcept nogil:
    """The tuple of a packet of ``direction`` before translation."""
    cdef Tuple answer
    connection_translated(table, i, 1 - direction, &answer)
    t[0] = tuple_inverse(&answer)


cdef inline uint64_t connection4_addresses(const Connection4* c,
                                           uint32_t direction) noexcept nogil:
    """Source and destination of a packet of ``direction`` before translation."""
    return rotate64(c.addresses[1 - direction], 32)


cdef inline uint64_t connection4_key(const Connection4* c, uint32_t direction) noexcept nogil:
    """Its ports, with the protocol."""
    return ports_key(c.meta.protocol, rotate32(c.ports[1 - direction], 16))


cdef inline bint connection4_has(const Connection4* c, uint32_t direction, uint64_t addresses,
                                 uint64_t key) noexcept nogil:
    """Whether a packet with these addresses, ports and protocol is of this direction."""
    return ((connection4_addresses(c, direction) == addresses)
            & (connection4_key(c, direction) == key))


cdef inline bint connection6_has(const Connection6* c, uint32_t direction, const uint64_t* source,
                                 const uint64_t* destination, uint64_t key) noexcept nogil:
    """The same of IPv6."""
    cdef uint32_t other = 1 - direction
    return ((source[0] ^ c.destination[other][0])
            | (source[1] ^ c.destination[other][1])
            | (destination[0] ^ c.source[other][0])
            | (destination[1] ^ c.source[other][1])
            | (ports_key(c.meta.protocol, rotate32(c.ports[other], 16)) ^ key)) == 0


cdef inline uint32_t table_find4(const Table* table, uint64_t hash, uint64_t addresses,
                                 uint64_t key) noexcept nogil:
    cdef Cursor cursor = index_seek(&table.index, hash)
    cdef uint32_t reference
    while True:
        reference = index_next(&table.index, &cursor)
        if reference == NIL or connection4_has(connection4(table, reference >> 1), reference & 1,
                                               addresses, key):
            return reference


cdef inline uint32_t table_find(const Table* table, uint64_t hash, const Tuple* t) noexcept nogil:
    """The reference (record << 1 | direction) of a tuple, or NIL. A direction that waits is not
    found: see table_settle_hash."""
    cdef Cursor cursor
    cdef uint32_t reference
    if table.family == IPV4:
        return table_find4(table, hash, addresses_pack(t), ports_key(t.protocol, t.ports))
    cursor = index_seek(&table.index, hash)
    while True:
        reference = index_next(&table.index, &cursor)
        if reference == NIL or connection6_has(
                connection6(table, reference >> 1), reference & 1, t.source.word,
                t.destination.word, ports_key(t.protocol, t.ports)):
            return reference


cdef inline uint32_t table_find_same(const Table* table, uint64_t hash,
                                     uint32_t reference) noexcept nogil:
    """The reference that is found by a direction's tuple, which has this hash; or NIL."""
    cdef const Connection4* c
    cdef Tuple t
    if table.family == IPV4:
        c = connection4(table, reference >> 1)
        return table_find4(table, hash, connection4_addresses(c, reference & 1),
                           connection4_key(c, reference & 1))
    connection_tuple(table, reference >> 1, reference & 1, &t)
    return table_find(table, hash, &t)


cdef inline Extension* connection_extension(Table* table, uint32_t i) noexcept nogil:
    """The extension of a record; made now if it has none."""
    cdef Meta* meta = table_meta(table, i)
    cdef uint32_t e
    cdef Extension* extension
    if meta.flags & FLAG_EXTENDED:
        return &table.extensions[table.extension_of[i]]
    if table.extensions_free != NIL:
        e = table.extensions_free
        table.extensions_free = table.extensions[e].next
    else:
        e = table.extensions_used
        table.extensions_used += 1
    extension = &table.extensions[e]
    memset(extension, 0, sizeof(Extension))
    extension.shadowed[ORIGINAL] = NIL
    extension.shadowed[REPLY] = NIL
    extension.control = NIL
    extension.helper = NIL
    extension.created = table.wheel.tick
    table.extension_of[i] = e
    meta.flags |= FLAG_EXTENDED
    return extension


cdef inline uint32_t connection_shadowed(const Table* table, uint32_t reference) noexcept nogil:
    if table_meta(table, reference >> 1).flags & FLAG_EXTENDED:
        return table.extensions[table.extension_of[reference >> 1]].shadowed[reference & 1]
    return NIL


cdef inline void table_fetch(const Table* table, uint64_t hash) noexcept nogil:
    """Have the cache fetch where a tuple of this hash is, or is to be put."""
    prefetch_write(&table.index.bucket[index_home(&table.index, hash)])


cdef inline bint table_insert_hashed(Table* table, uint64_t hash,
                                     uint32_t reference) noexcept nogil:
    """Make a direction findable by its tuple's hash; False if the index is too crowded."""
    cdef uint32_t present = table_find_same(table, hash, reference)
    cdef uint32_t behind
    if present == NIL:
        return index_insert(&table.index, hash, reference)
    table.shadowings += 1
    if (reference & 1) == ORIGINAL and (present & 1) == REPLY:
        behind = present
        while (connection_shadowed(table, behind) != NIL
               and connection_shadowed(table, behind) & 1 == REPLY):
            behind = connection_shadowed(table, behind)
        connection_extension(table, reference >> 1).shadowed[ORIGINAL] = connection_shadowed(
            table, behind)
        connection_extension(table, behind >> 1).shadowed[behind & 1] = reference
        return True
    connection_extension(table, reference >> 1).shadowed[reference & 1] = present
    index_replace(&table.index, hash, present, reference)
    return True


cdef inline bint may_wait(const Table* table, uint64_t hash) noexcept nogil:
    """Whether a direction with a tuple of this hash may be waiting."""
    return likely(table.pending_bits[hash >> 55 & 3] >> (hash >> 49 & 63) & 1, False)


cdef inline void table_settle(Table* table) noexcept nogil:
    """Make the directions that wait findable, in their order. One that finds no room (hash
    flooding) is lost, and its connection expires."""
    cdef uint32_t i, count = table.pending_count
    if likely(count == 0, True):
        return
    table.pending_count = 0
    memset(table.pending_bits, 0, sizeof(table.pending_bits))
    for i in range(count):
        table_insert_hashed(table, table.pending[i].hash, table.pending[i].reference)


cdef inline void table_settle_hash(Table* table, uint64_t hash) noexcept nogil:
    """Make those findable that could have a tuple of this hash."""
    if may_wait(table, hash):
        table_settle(table)


cdef inline void table_defer(Table* table, uint64_t hash, uint32_t reference) noexcept nogil:
    """Let an answer's direction wait while its bucket is fetched."""
    if table.pending_count == PENDING:
        table_settle(table)
    table.pending[table.pending_count].hash = hash
    table.pending[table.pending_count].reference = reference
    table.pending_count += 1
    table.pending_bits[hash >> 55 & 3] |= <uint64_t>1 << (hash >> 49 & 63)


cdef inline bint table_insert_direction(Table* table, const HashKey* key, const Tuple* t,
                                        uint32_t reference) noexcept nogil:
    """Make a direction findable; False if the index is too crowded."""
    cdef uint64_t hash = tuple_hash(key, t)
    table_settle_hash(table, hash)
    return table_insert_hashed(table, hash, reference)


cdef inline uint64_t connection_hash(const Table* table, const HashKey* key,
                                     uint32_t reference) noexcept nogil:
    """The hash of a direction's tuple."""
    cdef const Connection4* c
    cdef Tuple t
    if table.family == IPV4:
        c = connection4(table, reference >> 1)
        return hash_ipv4(key, connection4_addresses(c, reference & 1),
                         connection4_key(c, reference & 1))
    connection_tuple(table, reference >> 1, reference & 1, &t)
    return tuple_hash(key, &t)


cdef inline void table_remove_hashed(Table* table, uint64_t hash,
                                     uint32_t reference) noexcept nogil:
    """Let a direction, whose tuple has this hash, be found no more."""
    cdef uint32_t here, following
    table_settle_hash(table, hash)
    following = connection_shadowed(table, reference)
    if following != NIL:    # the record may live on, with another tuple
        table.extensions[table.extension_of[reference >> 1]].shadowed[reference & 1] = NIL
    if following == NIL and index_remove(&table.index, hash, reference):
        return
    if following != NIL and index_replace(&table.index, hash, reference, following):
        return
    here = table_find_same(table, hash, reference)
    while here != NIL:
        if connection_shadowed(table, here) == reference:
            table.extensions[table.extension_of[here >> 1]].shadowed[here & 1] = following
            return
        here = connection_shadowed(table, here)


cdef inline void table_remove_direction(Table* table, const HashKey* key,
                                        uint32_t reference) noexcept nogil:
    table_remove_hashed(table, connection_hash(table, key, reference), reference)


cdef inline void connection_fill(Table* table, uint32_t i, const Tuple* original,
                                 const Tuple* reply) noexcept nogil:
    """Write both tuples."""
    cdef Tuple forward = tuple_inverse(reply)
    cdef Tuple back = tuple_inverse(original)
    cdef Connection4* four
    cdef Connection6* six
    if table.family == IPV4:
        four = connection4(table, i)
        four.addresses[ORIGINAL] = addresses_pack(&forward)
        four.addresses[REPLY] = addresses_pack(&back)
        four.ports[ORIGINAL] = forward.ports
        four.ports[REPLY] = back.ports
        memset(four.next_hop, 0, sizeof(four.next_hop))
        four.meta.protocol = original.protocol
    else:
        six = connection6(table, i)
        memcpy(six.source[ORIGINAL], &forward.source, 16)
        memcpy(six.destination[ORIGINAL], &forward.destination, 16)
        memcpy(six.source[REPLY], &back.source, 16)
        memcpy(six.destination[REPLY], &back.destination, 16)
        six.ports[ORIGINAL] = forward.ports
        six.ports[REPLY] = back.ports
        six.delta[ORIGINAL] = tuple_delta(original, &forward)
        six.delta[REPLY] = tuple_delta(reply, &back)
        memset(six.next_hop, 0, sizeof(six.next_hop))
        six.meta.protocol = original.protocol


cdef inline uint32_t table_take(Table* table) noexcept nogil:
    """A free record, or NIL at the bound."""
    cdef uint32_t i
    cdef Timer* timer
    if table.free != NIL:
        i = table.free
        timer = &table_meta(table, i).timer
        table.free = timer.next
        table.freed_count -= 1
        table.freed[table.freed_count % 4] = timer.previous
        if timer.previous != NIL:
            prefetch_write(table_meta(table, timer.previous))
    elif table.used < table.limit:
        i = table.used
        table.used += 1
    else:
        return NIL
    table.count += 1
    return i


cdef inline void table_free_put(Table* table, uint32_t i) noexcept nogil:
    """Put a record at the head of the free list.

    It remembers the fourth behind it, to be fetched when it is taken: a list's next record is
    known too late for that. ``freed`` is as before when the record is taken again.
    """
    cdef Timer* timer = &table_meta(table, i).timer
    timer.next = table.free
    timer.previous = table.freed[table.freed_count % 4]
    table.freed[table.freed_count % 4] = i
    table.freed_count += 1
    table.free = i


cdef inline void table_give(Table* table, uint32_t i) noexcept nogil:
    """Put a record back on the free list."""
    cdef Meta* meta = table_meta(table, i)
    cdef uint32_t e
    if meta.flags & FLAG_EXTENDED:
        e = table.extension_of[i]
        table.extensions[e].next = table.extensions_free
        table.extensions_free = e
    table.portless -= meta.flags & FLAG_NO_CPORT != 0
    meta.protocol = 0
    meta.state = 0                      # in which no packet of a candidate stays
    meta.flags = 0
    table_free_put(table, i)
    table.count -= 1


cdef inline uint32_t connection_open(Table* table, const HashKey* key, const Tuple* original,
                                     const Tuple* reply, uint32_t server, uint8_t state,
                                     uint16_t flags, uint32_t deadline) noexcept nogil:
    """Make a connection and link its timer; the record, or NIL at a bound."""
    cdef uint32_t i = table_take(table)
    cdef uint64_t reply_hash = tuple_hash(key, reply)
    cdef Meta* meta
    if i == NIL:
        return NIL
    table_fetch(table, reply_hash)      # while the rest is done
    meta = table_meta(table, i)
    memset(meta, 0, sizeof(Meta))
    connection_fill(table, i, original, reply)
    meta.server = server
    meta.state = state
    meta.flags = flags
    table.portless += flags & FLAG_NO_CPORT != 0
    meta.timer.deadline = deadline
    if tuples_answer(original, reply):
        meta.flags |= FLAG_UNTRANSLATED
    if not table_insert_direction(table, key, original, i << 1 | ORIGINAL):
        table_give(table, i)
        return NIL
    if table.deferring:
        table_defer(table, reply_hash, i << 1 | REPLY)
    elif not flags & FLAG_TEMPLATE and not table_insert_hashed(table, reply_hash,
                                                               i << 1 | REPLY):
        table_remove_direction(table, key, i << 1 | ORIGINAL)
        table_give(table, i)
        return NIL
    wheel_link(&table.wheel, i)
    return i


cdef inline void connection_close(Table* table, uint32_t i, const uint64_t* hash) noexcept nogil:
    """Remove a connection whose timer is not in the wheel; ``hash``: connection_hash, of both."""
    table_remove_hashed(table, hash[ORIGINAL], i << 1 | ORIGINAL)
    if not table_meta(table, i).flags & FLAG_TEMPLATE:
        table_remove_hashed(table, hash[REPLY], i << 1 | REPLY)
    table_give(table, i)


cdef inline uint32_t connection_method(const Meta* meta) noexcept nogil:
    """The forwarding method, METHOD_* of server.pxd."""
    return meta.flags >> METHOD_SHIFT


cdef inline uint32_t connection_control(const Table* table, uint32_t i) noexcept nogil:
    """What a connection depends on, or NIL."""
    if table_meta(table, i).flags & FLAG_EXTENDED:
        return table.extensions[table.extension_of[i]].control
    return NIL


cdef inline uint32_t connection_helper(const Table* table, uint32_t i) noexcept nogil:
    """The record of a control connection's helper, or NIL."""
    if table_meta(table, i).flags & FLAG_EXTENDED:
        return table.extensions[table.extension_of[i]].helper
    return NIL


cdef inline uint32_t connection_controls(const Table* table, uint32_t i) noexcept nogil:
    """How many connections depend on one."""
    if table_meta(table, i).flags & FLAG_EXTENDED:
        return table.extensions[table.extension_of[i]].controls
    return 0


cdef inline void meta_count(Table* table, Meta* meta, uint32_t i, uint32_t direction,
                            uint32_t length) noexcept nogil:
    """Count a packet of ``length`` bytes at a record."""
    meta.packets[direction] += 1
    meta.bytes[direction] += length
    if likely(meta.bytes[direction] < length, False):
        connection_extension(table, i).bytes_high[direction] += 1


cdef inline void connection_count(Table* table, uint32_t i, uint32_t direction,
                                  uint32_t length) noexcept nogil:
    """Count a packet of ``length`` bytes."""
    meta_count(table, table_meta(table, i), i, direction, length)
