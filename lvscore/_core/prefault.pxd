"""Memory of connections, taken from the system before packets touch it.

Who touches memory first waits until the kernel has a page for it; where large pages are asked for,
up to some milliseconds, since it moves other pages to make one. So a growing table's memory is
taken ahead of its connections, from outside of the pipeline.
"""

from libc.stdint cimport uint32_t

from lvscore._core.connection cimport Table, table_populate
from lvscore._core.entry cimport entries_populate
from lvscore._core.state cimport State

cdef enum:
    AHEAD = 32768           # connections at least that the memory is taken for ahead


cdef inline bint connections_populate(const State* s, uint32_t family,
                                      uint32_t connections) noexcept nogil:
    """Take the memory of so many connections of table ``family``; False if it ends. Nothing else
    is changed, so that it may be done beside the pipeline."""
    if not table_populate(&s.table[family], connections):
        return False
    return not s.tracking or entries_populate(&s.entries[family], connections)


cdef inline bint table_needs_memory(const Table* table) noexcept nogil:
    """Whether so many records are in use that more memory is to be taken."""
    return table.used >= table.populate_at


cdef inline void table_populated(Table* table, uint32_t connections) noexcept nogil:
    """The memory of so many connections is there, or on its way: an eighth before they are in use,
    more is to be taken."""
    cdef uint32_t mark = connections - connections // 8
    if connections == table.limit:
        mark = <uint32_t>-1
    if mark > table.populate_at:
        table.populate_at = mark


cdef inline uint32_t connections_ahead(const Table* table) noexcept nogil:
    """How many connections the memory is to be taken for."""
    cdef uint32_t room = table.limit - table.used
    cdef uint32_t more = table.used // 4 + AHEAD
    return table.used + (more if more < room else room)
