"""Connections that go by other tuples from now on."""

from libc.stdint cimport uint16_t, uint32_t

from lvscore._core.connection cimport (
    FLAG_NO_CPORT, FLAG_UNTRANSLATED, Meta, Table, connection_fill, connection_tuple,
    table_insert_direction, table_meta, table_remove_direction,
)
from lvscore._core.consts cimport ORIGINAL, REPLY
from lvscore._core.flow cimport (
    Tuple, ports_destination, ports_make, ports_source, tuples_answer,
)
from lvscore._core.hash cimport HashKey


cdef inline bint connection_client_port(Table* table, const HashKey* key, uint32_t i,
                                        uint16_t port) noexcept nogil:
    """Tell a record its client's port (as on the wire); False if the index is too crowded, and
    then it cannot be found (ip_vs_conn_fill_cport)."""
    cdef Tuple original, reply
    connection_tuple(table, i, ORIGINAL, &original)
    connection_tuple(table, i, REPLY, &reply)
    table_remove_direction(table, key, i << 1 | ORIGINAL)
    table_remove_direction(table, key, i << 1 | REPLY)
    original.ports = ports_make(port, ports_destination(original.ports))
    reply.ports = ports_make(ports_source(reply.ports), port)
    connection_fill(table, i, &original, &reply)
    table_meta(table, i).flags &= ~<uint32_t>FLAG_NO_CPORT
    table.portless -= 1
    return (table_insert_direction(table, key, &original, i << 1 | ORIGINAL)
            and table_insert_direction(table, key, &reply, i << 1 | REPLY))


cdef inline bint connection_reply_set(Table* table, const HashKey* key, uint32_t i,
                                      const Tuple* reply) noexcept nogil:
    """Give a record whose reply tuple was removed another; False if the index is too crowded,
    and then answers do not find it."""
    cdef Meta* meta = table_meta(table, i)
    cdef Tuple original
    connection_tuple(table, i, ORIGINAL, &original)
    connection_fill(table, i, &original, reply)
    meta.flags &= ~<uint32_t>FLAG_UNTRANSLATED
    if tuples_answer(&original, reply):
        meta.flags |= FLAG_UNTRANSLATED
    return table_insert_direction(table, key, reply, i << 1 | REPLY)


cdef inline void template_rename(Table* table, const HashKey* key, uint32_t i,
                                 const Tuple* original, const Tuple* reply) noexcept nogil:
    """Give a template other tuples."""
    table_remove_direction(table, key, i << 1 | ORIGINAL)
    connection_fill(table, i, original, reply)
    table_insert_direction(table, key, original, i << 1 | ORIGINAL)
