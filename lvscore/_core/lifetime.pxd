"""How long a connection lives: its timer, the state that sets it, what it depends on, its end.

A connection may depend on another, or on a persistence template, its *control*: that one
outlives it (ip_vs_conn.c).
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from lvscore._core.connection cimport (
    FLAG_ASSURED, FLAG_INACTIVE, FLAG_SERVICE, FLAG_TEMPLATE, FLAG_TRACKED, Meta, Table,
    connection_close, connection_control, connection_controls, connection_extension,
    connection_hash, connection_helper, table_meta,
)
from lvscore._core.consts cimport IPV6, NIL, ORIGINAL, REPLY, TICKS_PER_SECOND
from lvscore._core.entry cimport Entry, entry_close, entry_of
from lvscore._core.expect cimport master_give
from lvscore._core.ftp cimport ftp_give
from lvscore._core.jiffies cimport jiffies_expiry
from lvscore._core.load cimport load_activate, load_unbind
from lvscore._core.port_pool cimport pool_give
from lvscore._core.server cimport SERVER_AVAILABLE, server_unbind_template
from lvscore._core.sip cimport dialog_forget
from lvscore._core.state cimport (
    SYSCTL_EXPIRE_NODEST_CONN, State, TABLES, table_of, templates_of,
)
from lvscore._core.track cimport (
    RULE_TCP_ESTABLISHED, SERVICE_SCTP_ESTABLISHED, SERVICE_TCP_ESTABLISHED, TIMEOUT_TCP_RETRANS,
    TIMEOUT_TCP_UNACKNOWLEDGED, state_is_active,
)
from lvscore._core.wheel cimport Timer, wheel_link, wheel_unlink

cdef enum:
    CONTROL_TEMPLATE = 0x80000000U      # in a control: the index is one of a template
    CONTROL_TICKS = 60 * TICKS_PER_SECOND


cdef inline void table_horizon(Table* table, uint32_t ticks) noexcept nogil:
    """Link all timers anew, none further ahead than so many ticks from now on: packets may set
    deadlines that are earlier than those before."""
    cdef uint32_t i
    if ticks < table.wheel.horizon:
        table.wheel.horizon = ticks
    for i in range(table.used):
        if table_meta(table, i).protocol:
            wheel_unlink(&table.wheel, i)
            wheel_link(&table.wheel, i)


cdef inline void tracking_horizon(State* s) noexcept nogil:
    """Let data that waits for its acknowledgment, which shortens days to minutes and back, leave
    timers where they are linked."""
    cdef uint32_t ticks = s.tracker.timeout[TIMEOUT_TCP_UNACKNOWLEDGED]
    cdef uint32_t f
    if ticks > s.tracker.timeout[TIMEOUT_TCP_RETRANS]:
        ticks = s.tracker.timeout[TIMEOUT_TCP_RETRANS]
    if ticks > s.tracker.timeout[RULE_TCP_ESTABLISHED]:
        ticks = s.tracker.timeout[RULE_TCP_ESTABLISHED]
    if ticks < TICKS_PER_SECOND:
        ticks = TICKS_PER_SECOND
    for f in range(2):
        if s.tracking and ticks < s.table[f].wheel.horizon:
            table_horizon(&s.table[f], ticks)


cdef inline void connection_timer_set(Table* table, uint32_t i, uint32_t deadline) noexcept nogil:
    """Restart a timer; the wheel hears only of one that may be due before its slot comes up,
    which is never further ahead than the horizon."""
    cdef Timer* timer = &table_meta(table, i).timer
    cdef uint32_t tick = <uint32_t>table.wheel.tick
    if deadline - tick < timer.deadline - tick and deadline - tick < table.wheel.horizon:
        wheel_unlink(&table.wheel, i)
        timer.deadline = deadline
        wheel_link(&table.wheel, i)
    else:
        timer.deadline = deadline


cdef inline Table* control_table(State* s, uint8_t family, uint32_t control) noexcept nogil:
    """The table that a control lies in."""
    return templates_of(s, family) if control & CONTROL_TEMPLATE else table_of(s, family)


cdef inline uint32_t control_index(uint32_t control) noexcept nogil:
    return control & ~<uint32_t>CONTROL_TEMPLATE


cdef inline void control_add(State* s, Table* table, uint32_t i, uint32_t control) noexcept nogil:
    """Let a connection depend on ``control`` (ip_vs_control_add)."""
    cdef Table* other = control_table(s, table.family, control)
    connection_extension(table, i).control = control
    connection_extension(other, control_index(control)).controls += 1


cdef inline void control_release(State* s, Table* table, uint32_t i) noexcept nogil:
    cdef uint32_t control = connection_control(table, i)
    if control != NIL:
        connection_extension(table, i).control = NIL
        connection_extension(control_table(s, table.family, control),
                             control_index(control)).controls -= 1


cdef inline void control_assure(State* s, Table* table, uint32_t i) noexcept nogil:
    """Note at a connection's template that the client is no spoofed one
    (ip_vs_control_assure_ct)."""
    cdef uint32_t control = connection_control(table, i)
    if control != NIL and control & CONTROL_TEMPLATE:
        table_meta(templates_of(s, table.family),
                   control_index(control)).flags |= FLAG_ASSURED


cdef inline void connection_state_set(State* s, Table* table, uint32_t i,
                                      uint8_t state) noexcept nogil:
    """Enter a state: restart the timer, and count active and inactive at the server."""
    cdef Meta* meta = table_meta(table, i)
    if meta.flags & FLAG_SERVICE:
        if state_is_active(state):
            if meta.flags & FLAG_INACTIVE:
                load_activate(&s.services, meta.server, 1)
                meta.flags &= ~<uint32_t>FLAG_INACTIVE
        elif not meta.flags & FLAG_INACTIVE:
            load_activate(&s.services, meta.server, -1)
            meta.flags |= FLAG_INACTIVE
        if meta.state != state and (state == SERVICE_TCP_ESTABLISHED
                                    or state == SERVICE_SCTP_ESTABLISHED):
            control_assure(s, table, i)
    meta.state = state
    connection_timer_set(table, i, s.tick_up + s.tracker.timeout[state])


cdef inline void ports_give(State* s, Entry* entry) noexcept nogil:
    """Give back the port that a mapping took from its pool."""
    if entry.pool:
        pool_give(&s.pools, &s.key, entry.pool - 1, <uint32_t>s.tick)
        pool_give(&s.pools, &s.key, entry.client - 1, <uint32_t>s.tick)
        entry.pool = 0
        entry.client = 0


cdef inline void connection_end_hashed(State* s, Table* table, uint32_t i,
                                       const uint64_t* hash) noexcept nogil:
    """Remove a connection whose timer is not in the wheel, and take it from its server's counts
    and its control's; ``hash``: connection_hash, of both directions."""
    cdef Meta* meta = table_meta(table, i)
    cdef uint32_t dialog
    if meta.flags & FLAG_TEMPLATE:
        dialog = connection_extension(table, i).next
        if dialog:
            dialog_forget(&s.dialogs, dialog)
        server_unbind_template(&s.services.server[meta.server], table.wheel.tick)
    elif meta.flags & FLAG_SERVICE:
        load_unbind(&s.services, meta.server, meta.flags & FLAG_INACTIVE != 0, table.wheel.tick)
    control_release(s, table, i)
    if connection_helper(table, i) != NIL:
        if meta.flags & FLAG_SERVICE:
            ftp_give(&s.ftp, connection_helper(table, i))
        else:
            master_give(&s.masters, &s.key, connection_helper(table, i))
    if meta.flags & FLAG_TRACKED:
        ports_give(s, entry_of(&s.entries[table.family == IPV6], i))
        entry_close(&s.entries[table.family == IPV6], table, &s.key, i)
    connection_close(table, i, hash)


cdef inline void connection_end(State* s, Table* table, uint32_t i) noexcept nogil:
    """Remove a connection before its timer comes up."""
    cdef uint64_t hash[2]
    hash[ORIGINAL] = connection_hash(table, &s.key, i << 1 | ORIGINAL)
    hash[REPLY] = connection_hash(table, &s.key, i << 1 | REPLY)
    wheel_unlink(&table.wheel, i)
    connection_end_hashed(s, table, i, hash)


cdef inline bint connection_outlasts(State* s, Table* table, uint32_t i) noexcept nogil:
    """Whether the kernel's timer wheel would not have ended a connection yet whose time is over.
    Its timer, which came up, is then in the wheel again, with the deadline that it had.

    The level is that of the timeout which its state has now.
    """
    cdef Meta* meta = table_meta(table, i)
    cdef uint32_t nominal = meta.timer.deadline
    cdef uint32_t timeout = s.tracker.timeout[meta.state]
    cdef uint64_t expiry
    if not meta.flags & FLAG_SERVICE:
        return False        # conntrack has no timers: it compares times (nf_ct_is_expired)
    if meta.flags & FLAG_TEMPLATE:
        timeout = connection_extension(table, i).timeout
    expiry = jiffies_expiry(&s.jiffies, s.origin,
                            table.wheel.tick - (<uint32_t>table.wheel.tick - nominal), timeout)
    if expiry <= table.wheel.tick:
        return False
    meta.timer.deadline = <uint32_t>expiry
    wheel_link(&table.wheel, i)
    meta.timer.deadline = nominal
    return True


cdef inline bint connection_expire(State* s, Table* table, uint32_t i,
                                   const uint64_t* hash) noexcept nogil:
    """Remove a connection whose timer came up, unless others depend on it: then it is given
    another minute (ip_vs_conn_expire). Whether it was removed."""
    cdef Meta* meta = table_meta(table, i)
    if connection_controls(table, i):
        connection_extension(table, i).timeout = CONTROL_TICKS
        meta.timer.deadline = <uint32_t>table.wheel.tick + CONTROL_TICKS
        wheel_link(&table.wheel, i)
        return False
    connection_end_hashed(s, table, i, hash)
    return True


cdef inline void connection_drop(State* s, Table* table, uint32_t i) noexcept nogil:
    """Remove a connection before its time; with it what it depends on, if nothing else does
    and it is no assured template (ip_vs_conn_del)."""
    cdef uint32_t control
    cdef Meta* meta
    while connection_controls(table, i) == 0:
        control = connection_control(table, i)
        connection_end(s, table, i)
        s.expired += 1
        if control == NIL:
            return
        table = control_table(s, table.family, control)
        i = control_index(control)
        meta = table_meta(table, i)
        if meta.flags & FLAG_TEMPLATE and meta.flags & FLAG_ASSURED:
            return


cdef inline void nodest_expire(State* s) noexcept nogil:
    """expire_nodest_conn=1: connections and templates of servers that were removed go at once,
    and so does what they depended on (ip_vs_expire_nodest_conn_flush)."""
    cdef uint32_t f, i, j, control
    cdef Meta* meta
    cdef Table* table
    cdef Table* other
    if not s.sysctl[SYSCTL_EXPIRE_NODEST_CONN]:
        return
    for f in range(TABLES):
        table = &s.table[f]
        for i in range(table.used):
            meta = table_meta(table, i)
            if (not meta.protocol or not meta.flags & FLAG_SERVICE
                    or s.services.server[meta.server].flags & SERVER_AVAILABLE
                    or connection_controls(table, i)):
                continue
            control = connection_control(table, i)
            connection_drop(s, table, i)
            if control != NIL:
                other = control_table(s, table.family, control)
                j = control_index(control)
                if table_meta(other, j).protocol and connection_controls(other, j) == 0:
                    connection_drop(s, other, j)
