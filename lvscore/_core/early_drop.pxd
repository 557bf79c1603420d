"""What conntrack does when its table is full (nf_conntrack_core.c): flows that are not assured
make room for a new one, and where none of the nearest can, a pass over all of them follows."""

from libc.stdint cimport uint32_t

from lvscore._core.connection cimport (
    FLAG_ASSURED, FLAG_SERVICE, FLAG_TRACKED, Meta, Table, table_meta,
)
from lvscore._core.flow cimport Tuple, tuple_hash
from lvscore._core.index cimport Bucket, SLOTS, index_home
from lvscore._core.lifetime cimport connection_end
from lvscore._core.state cimport CONNTRACK_MAX, State, connection_total
from lvscore._core.track cimport RULE_SCTP, RULE_TCP_CLOSE, RULE_TCP_FIN_WAIT

cdef enum:
    EVICTION_RANGE = 8          # buckets that early drop looks at (NF_CT_EVICTION_RANGE)
    SCTP_SHUTDOWN_SENT = 5      # behind RULE_SCTP
    SCTP_SHUTDOWN_ACK_SENT = 7


cdef inline bint early_drop(State* s, Table* table, const Tuple* t) noexcept nogil:
    """Make room by ending flows that are not assured: those of the first of eight buckets,
    from the new flow's own on, that has any (nf_conntrack_core.c)."""
    cdef uint32_t home = index_home(&table.index, tuple_hash(&s.key, t))
    cdef uint32_t b, slot, i
    cdef const Bucket* bucket
    cdef bint dropped = False
    for b in range(EVICTION_RANGE):
        bucket = &table.index.bucket[home + b]
        for slot in range(SLOTS):
            if bucket.tag[slot] == 0:
                continue
            i = bucket.reference[slot] >> 1
            if not table_meta(table, i).flags & (FLAG_SERVICE | FLAG_ASSURED):
                connection_end(s, table, i)
                s.early_drops += 1
                dropped = True
        if dropped:
            return True
    return False


cdef inline bint has_room(State* s, Table* table, const Tuple* t) noexcept nogil:
    """Whether another flow may be tracked."""
    cdef uint32_t limit = s.conntrack[CONNTRACK_MAX]
    if ((limit == 0 or s.entries[0].count + s.entries[1].count < limit)
            and connection_total(s) < s.max_connections):
        return True
    if early_drop(s, table, t):
        return True
    s.collecting = True
    return False


cdef inline bint is_droppable(const Meta* meta) noexcept nogil:
    """Whether a flow may go while the table is full: it is not assured, or it is closing."""
    if not meta.flags & FLAG_ASSURED:
        return True
    return (RULE_TCP_FIN_WAIT <= meta.state <= RULE_TCP_CLOSE
            or (RULE_SCTP | SCTP_SHUTDOWN_SENT) <= meta.state
            <= (RULE_SCTP | SCTP_SHUTDOWN_ACK_SENT))


cdef inline void early_drop_collect(State* s) noexcept nogil:
    """End what is droppable while the table is 95 % full: once, behind a flow that found no room
    (gc_worker, whose interval of 1 to 60 s is a second here)."""
    cdef uint32_t limit = s.conntrack[CONNTRACK_MAX]
    cdef uint32_t f, i
    cdef const Meta* meta
    s.collecting = False
    if limit == 0 or limit > s.max_connections:
        limit = s.max_connections
    limit = limit // 100 * 95
    for f in range(2):
        for i in range(s.table[f].used):
            if s.entries[0].count + s.entries[1].count < limit or limit == 0:
                return
            meta = table_meta(&s.table[f], i)
            if (meta.flags & (FLAG_TRACKED | FLAG_SERVICE) == FLAG_TRACKED
                    and is_droppable(meta)):
                connection_end(s, &s.table[f], i)
                s.early_drops += 1
