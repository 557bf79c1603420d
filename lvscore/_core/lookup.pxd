"""Look-ups by something else than the tuple of a packet that came."""

from libc.stdint cimport uint32_t

from lvscore._core.connection cimport (
    FLAG_NO_CPORT, Table, connection_shadowed, table_find, table_meta,
)
from lvscore._core.consts cimport NIL, ORIGINAL
from lvscore._core.flow cimport Tuple, ports_destination, ports_make, tuple_hash
from lvscore._core.hash cimport HashKey


cdef inline uint32_t table_find_direction(const Table* table, const HashKey* key, const Tuple* t,
                                          uint32_t direction) noexcept nogil:
    """The newest record of which a tuple is that of ``direction``, or NIL."""
    cdef uint32_t reference = table_find(table, tuple_hash(key, t), t)
    while reference != NIL and reference & 1 != direction:
        reference = connection_shadowed(table, reference)
    return NIL if reference == NIL else reference >> 1


cdef inline uint32_t table_find_portless(const Table* table, const HashKey* key,
                                         const Tuple* t) noexcept nogil:
    """The reference of the record that waits for a packet of this tuple from any port, or NIL
    (__ip_vs_conn_in_get with IP_VS_CONN_F_NO_CPORT)."""
    cdef Tuple portless = t[0]
    cdef uint32_t i
    portless.ports = ports_make(0, ports_destination(t.ports))
    i = table_find_direction(table, key, &portless, ORIGINAL)
    if i == NIL or not table_meta(table, i).flags & FLAG_NO_CPORT:
        return NIL
    return i << 1 | ORIGINAL
