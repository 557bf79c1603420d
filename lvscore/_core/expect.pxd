"""Flows that a helper of conntrack looks after, and the connections that it expects of them
(nf_conntrack_helper.c, nf_conntrack_expect.c).

A master expects one connection at most, for five minutes (nf_conntrack_ftp.c): from one address,
whatever its port, to one address and port. Masters that expect hang in chains by that tuple.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from lvscore._core.consts cimport NIL, TICKS_PER_SECOND
from lvscore._core.flow cimport (
    Tuple, address_equal, ports_destination, ports_make, tuple_hash,
)
from lvscore._core.hash cimport HashKey
from lvscore._core.machine cimport memory_release, memory_reserve
from lvscore._core.sequence cimport Sequence, is_after

cdef enum:
    EXPECT_TICKS = 300 * TICKS_PER_SECOND
    MASTERS_PER_HEAD = 4        # per chain when every flow is a master that expects
    MIN_MASTER_HEADS = 256
    LINES_REMEMBERED = 2        # NUM_SEQ_TO_REMEMBER


# A flow that a helper looks after, the master of what it expects.
cdef struct Master:
    Sequence sequence[2]        # by direction
    Tuple expected              # source port 0: any
    uint64_t deadline           # tick, of what is expected
    uint32_t line[2][2]         # sequence numbers behind the latest ends of lines, by direction
    uint8_t lines[2]            # how many of these there are
    uint8_t direction           # in which the expected connection was announced
    bint expects
    uint16_t port               # that was announced, as on the wire
    uint32_t record             # the flow's
    uint32_t next               # of the chain, or of the free list


cdef struct Masters:
    Master* master
    uint32_t* head              # of the chains: master plus one, 0: empty
    uint32_t heads              # a power of two
    uint32_t limit
    uint32_t used               # that were ever used
    uint32_t free
    uint32_t count
    uint32_t expecting


cdef inline bint masters_reserve(Masters* masters) noexcept nogil:
    masters.master = <Master*>memory_reserve(<size_t>masters.limit * sizeof(Master))
    masters.head = <uint32_t*>memory_reserve(masters.heads * sizeof(uint32_t))
    return masters.master != NULL and masters.head != NULL


cdef inline bint masters_init(Masters* masters, uint32_t limit) noexcept nogil:
    """Reserve address space for ``limit`` masters."""
    memset(masters, 0, sizeof(Masters))
    masters.limit = limit
    masters.free = NIL
    masters.heads = MIN_MASTER_HEADS
    while masters.heads * MASTERS_PER_HEAD < limit:
        masters.heads *= 2
    return masters_reserve(masters)


cdef inline void masters_free(Masters* masters) noexcept nogil:
    memory_release(masters.master, <size_t>masters.limit * sizeof(Master))
    memory_release(masters.head, masters.heads * sizeof(uint32_t))
    memset(masters, 0, sizeof(Masters))


cdef inline bint masters_copy(Masters* masters, const Masters* other) noexcept nogil:
    """Make ``masters`` a copy; False if memory ends, then free it all the same."""
    masters[0] = other[0]
    if not masters_reserve(masters):
        return False
    memcpy(masters.master, other.master, <size_t>other.used * sizeof(Master))
    if other.used:
        memcpy(masters.head, other.head, <size_t>other.heads * sizeof(uint32_t))
    return True


cdef inline uint32_t* expected_head(const Masters* masters, const HashKey* key,
                                    const Tuple* expected) noexcept nogil:
    return &masters.head[<uint32_t>tuple_hash(key, expected) & (masters.heads - 1)]


cdef inline uint32_t master_take(Masters* masters, uint32_t record) noexcept nogil:
    """Begin to look after a flow; there are as many masters as flows."""
    cdef uint32_t m = masters.free
    if m != NIL:
        masters.free = masters.master[m].next
    else:
        m = masters.used
        masters.used += 1
    masters.count += 1
    memset(&masters.master[m], 0, sizeof(Master))
    masters.master[m].record = record
    return m


cdef inline void expectation_end(Masters* masters, const HashKey* key, uint32_t m) noexcept nogil:
    """Expect nothing of a master any more."""
    cdef Master* master = &masters.master[m]
    cdef uint32_t* head
    cdef uint32_t other
    if not master.expects:
        return
    head = expected_head(masters, key, &master.expected)
    if head[0] == m + 1:
        head[0] = master.next + 1       # NIL becomes 0, empty
    else:
        other = head[0] - 1
        while masters.master[other].next != m:
            other = masters.master[other].next
        masters.master[other].next = master.next
    master.expects = False
    masters.expecting -= 1


cdef inline void master_give(Masters* masters, const HashKey* key, uint32_t m) noexcept nogil:
    """A master ends, and with it what it expects."""
    expectation_end(masters, key, m)
    masters.master[m].next = masters.free
    masters.free = m
    masters.count -= 1


cdef inline bint expects(const Master* master, uint64_t tick) noexcept nogil:
    """Whether a master expects a connection at a time."""
    return master.expects and tick < master.deadline


cdef inline uint32_t expectation_find(const Masters* masters, const HashKey* key, uint64_t tick,
                                      const Tuple* t) noexcept nogil:
    """The master that expects a packet of a tuple, from whatever port; or NIL."""
    cdef Tuple expected = t[0]
    cdef const Master* master
    cdef uint32_t m
    if masters.expecting == 0:
        return NIL
    expected.ports = ports_make(0, ports_destination(t.ports))
    m = expected_head(masters, key, &expected)[0] - 1
    while m != NIL:
        master = &masters.master[m]
        if (master.expected.ports == expected.ports
                and master.expected.protocol == t.protocol and master.expected.family == t.family
                and address_equal(&master.expected.source, &t.source)
                and address_equal(&master.expected.destination, &t.destination)
                and expects(master, tick)):
            return m
        m = master.next
    return NIL


cdef inline bint expectation_begin(Masters* masters, const HashKey* key, uint32_t m,
                                   uint64_t tick, const Tuple* expected) noexcept nogil:
    """Expect a connection of a master, and no other any more; False if another master expects
    the same (nf_ct_expect_related)."""
    cdef Master* master = &masters.master[m]
    cdef uint32_t other = expectation_find(masters, key, tick, expected)
    cdef uint32_t* head
    if other != NIL and other != m:
        return False
    expectation_end(masters, key, m)
    master.expected = expected[0]
    master.deadline = tick + EXPECT_TICKS + 1       # the tick has begun: none ends early
    head = expected_head(masters, key, expected)
    master.next = head[0] - 1           # 0, empty, becomes NIL
    head[0] = m + 1
    master.expects = True
    masters.expecting += 1
    return True


cdef inline bint line_begins(const Master* master, uint32_t direction,
                             uint32_t number) noexcept nogil:
    """Whether a segment begins where a line ended (find_nl_seq)."""
    cdef uint32_t i
    for i in range(master.lines[direction]):
        if master.line[direction][i] == number:
            return True
    return False


cdef inline void line_end(Master* master, uint32_t direction, uint32_t number) noexcept nogil:
    """Note the sequence number behind a line's end; the older of two is forgotten
    (update_nl_seq)."""
    cdef uint32_t* line = master.line[direction]
    cdef uint32_t oldest
    if line_begins(master, direction, number):
        return
    if master.lines[direction] < LINES_REMEMBERED:
        line[master.lines[direction]] = number
        master.lines[direction] += 1
        return
    oldest = 0 if is_after(line[1], line[0]) else 1
    if is_after(number, line[oldest]):
        line[oldest] = number
