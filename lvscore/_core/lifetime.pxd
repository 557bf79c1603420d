"""How long a connection lives: its timer, the state that sets it, and its end."""

from libc.stdint cimport uint8_t, uint32_t

from lvscore._core.connection cimport (
    FLAG_INACTIVE, FLAG_SERVICE, Meta, Table, connection_close, table_meta,
)
from lvscore._core.server cimport Server, server_unbind
from lvscore._core.state cimport State
from lvscore._core.track cimport state_is_active
from lvscore._core.wheel cimport Timer, wheel_link, wheel_unlink


cdef inline void connection_timer_set(Table* table, uint32_t i, uint32_t deadline) noexcept nogil:
    """Restart a timer; the wheel hears only of one that will be due earlier."""
    cdef Timer* timer = &table_meta(table, i).timer
    cdef uint32_t tick = <uint32_t>table.wheel.tick
    if deadline - tick < timer.deadline - tick:
        wheel_unlink(&table.wheel, i)
        timer.deadline = deadline
        wheel_link(&table.wheel, i)
    else:
        timer.deadline = deadline


cdef inline void connection_state_set(State* s, Table* table, uint32_t i,
                                      uint8_t state) noexcept nogil:
    """Enter a state: restart the timer, and count active and inactive at the server."""
    cdef Meta* meta = table_meta(table, i)
    cdef Server* server
    if meta.flags & FLAG_SERVICE:
        server = &s.services.server[meta.server]
        if state_is_active(state):
            if meta.flags & FLAG_INACTIVE:
                server.active += 1
                server.inactive -= 1
                meta.flags &= ~<uint32_t>FLAG_INACTIVE
        elif not meta.flags & FLAG_INACTIVE:
            server.active -= 1
            server.inactive += 1
            meta.flags |= FLAG_INACTIVE
    meta.state = state
    connection_timer_set(table, i, s.tick_up + s.tracker.timeout[state])


cdef inline void connection_end(State* s, Table* table, uint32_t i, bint linked) noexcept nogil:
    """Remove a connection and take it from its server's counts."""
    cdef Meta* meta = table_meta(table, i)
    if meta.flags & FLAG_SERVICE:
        server_unbind(&s.services.server[meta.server], meta.flags & FLAG_INACTIVE != 0, s.tick)
    connection_close(table, &s.key, i, linked)
