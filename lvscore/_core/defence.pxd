"""The defence against floods: when drop_entry, drop_packet and secure_tcp act, and which
connections drop_entry takes (ip_vs_ctl.c, update_defense_level; ip_vs_conn.c,
ip_vs_random_dropentry)."""

from libc.stdint cimport uint32_t, uint64_t

from lvscore._core.connection cimport (
    FLAG_ASSURED, FLAG_SERVICE, FLAG_TEMPLATE, Meta, Table, connection_control,
    connection_controls, connection_extension, table_meta,
)
from lvscore._core.consts cimport ALL_PAGES, NIL, ORIGINAL, TICKS_PER_SECOND
from lvscore._core.early_drop cimport early_drop_collect
from lvscore._core.hash cimport random_next
from lvscore._core.lifetime cimport connection_drop, control_index, control_table
from lvscore._core.server cimport SERVER_AVAILABLE
from lvscore._core.service cimport SERVICE_ONE_PACKET
from lvscore._core.state cimport (
    State, SYSCTL_AMEMTHRESH, SYSCTL_AM_DROPRATE, SYSCTL_DROP_ENTRY, SYSCTL_DROP_PACKET,
    SYSCTL_SECURE_TCP, TABLES,
)
from lvscore._core.track cimport (
    SERVICE_SCTP_ESTABLISHED, SERVICE_SCTP_INIT, SERVICE_SCTP_INIT1, SERVICE_TCP_ESTABLISHED,
    SERVICE_TCP_SYNACK, SERVICE_TCP_SYN_RECV, SERVICE_UDP, tracker_secure,
)

cdef enum:
    DEFENCE_TICKS = TICKS_PER_SECOND    # DEFENSE_TIMER_PERIOD
    DEFENCE_SHARE = 32                  # of the table, looked at each time
    DEFENCE_GRACE = 60 * TICKS_PER_SECOND
    DEFENCE_CATCH_UP = 1024             # periods made up for after a leap of time


cdef inline bint is_ripe(State* s, Table* table, uint32_t i) noexcept nogil:
    """Whether a connection is due to go: idle for a minute after few packets, and of those with
    n packets every n-th (todrop_entry)."""
    cdef Meta* meta = table_meta(table, i)
    cdef uint32_t timeout = s.tracker.timeout[meta.state]
    cdef uint32_t n = meta.packets[ORIGINAL]
    if meta.flags & FLAG_TEMPLATE:
        timeout = connection_extension(table, i).timeout
    if timeout - (meta.timer.deadline - <uint32_t>s.tick) < DEFENCE_GRACE:
        return False
    if n < 1 or n > 8:
        return False
    if s.ripe_counter[n] > 1:
        s.ripe_counter[n] -= 1
        return False
    s.ripe_counter[n] = n
    return True


cdef inline bint is_expendable(State* s, Table* table, uint32_t i) noexcept nogil:
    """Whether drop_entry takes a connection that it looks at."""
    cdef Meta* meta = table_meta(table, i)
    cdef uint32_t service
    if not meta.protocol or not meta.flags & FLAG_SERVICE or connection_controls(table, i):
        return False
    if meta.flags & FLAG_TEMPLATE:
        service = s.services.server[meta.server].service
        if (s.services.server[meta.server].flags & SERVER_AVAILABLE
                and s.services.service[service].options.flags & SERVICE_ONE_PACKET):
            return is_ripe(s, table, i)
        return not meta.flags & FLAG_ASSURED
    if (meta.state == SERVICE_TCP_SYN_RECV or meta.state == SERVICE_TCP_SYNACK
            or meta.state == SERVICE_SCTP_INIT1 or meta.state == SERVICE_SCTP_INIT):
        return True
    if (meta.state == SERVICE_TCP_ESTABLISHED or meta.state == SERVICE_SCTP_ESTABLISHED
            or meta.state == SERVICE_UDP):
        return is_ripe(s, table, i)
    return False


cdef inline void entries_drop(State* s, Table* table) noexcept nogil:
    """Look at a thirty-second of a table, drawn by chance, and drop what is expendable."""
    cdef uint64_t chance = random_next(&s.chance)
    cdef uint32_t draws = (table.used + <uint32_t>(chance & (DEFENCE_SHARE - 1))) // DEFENCE_SHARE
    cdef uint32_t _draw, i, control
    cdef Table* other
    for _draw in range(draws):
        i = <uint32_t>((random_next(&s.chance) >> 32) * table.used >> 32)
        if not is_expendable(s, table, i):
            continue
        control = connection_control(table, i)
        connection_drop(s, table, i)
        if control != NIL:
            other = control_table(s, table.family, control)
            i = control_index(control)
            if table_meta(other, i).protocol and connection_controls(other, i) == 0:
                connection_drop(s, other, i)


cdef inline bint mode_acts(uint32_t* mode, bint memory_is_low) noexcept nogil:
    """Whether a defence of a mode acts now: 0 never, 3 always, 1 and 2 while memory is low; 2
    says that it does."""
    if mode[0] == 1 or mode[0] == 2:
        mode[0] = 2 if memory_is_low else 1
    return mode[0] >= 2


cdef inline void defence_update(State* s) noexcept nogil:
    """Switch each defence on or off, as its mode and the memory that is left say."""
    cdef uint32_t threshold = s.sysctl[SYSCTL_AMEMTHRESH]
    cdef bint low = s.available_pages < threshold
    s.dropping_entries = mode_acts(&s.sysctl[SYSCTL_DROP_ENTRY], low)
    if not mode_acts(&s.sysctl[SYSCTL_DROP_PACKET], low):
        s.drop_rate = 0
    elif s.sysctl[SYSCTL_DROP_PACKET] == 3:
        s.drop_rate = s.sysctl[SYSCTL_AM_DROPRATE]
    else:
        s.drop_rate = <uint32_t>(threshold // (threshold - s.available_pages))
        s.drop_counter = s.drop_rate
    tracker_secure(&s.tracker, mode_acts(&s.sysctl[SYSCTL_SECURE_TCP], low))


cdef inline void defence_run(State* s) noexcept nogil:
    """What is due each second; after a leap of time, for each second of it."""
    cdef uint64_t missed = (s.tick - s.defence) // DEFENCE_TICKS + 1
    cdef uint32_t f
    s.defence += missed * DEFENCE_TICKS
    if s.collecting:
        early_drop_collect(s)
    if s.available_pages != ALL_PAGES:
        defence_update(s)
    if not s.dropping_entries:
        return
    if missed > DEFENCE_CATCH_UP:
        missed = DEFENCE_CATCH_UP
    while missed:
        missed -= 1
        for f in range(TABLES):
            if s.table[f].count:
                entries_drop(s, &s.table[f])
