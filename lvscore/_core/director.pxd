"""The LVS-NAT director: packets of virtual services (ip_vs_core.c, ip_vs_xmit.c)."""

from libc.stdint cimport uint8_t, uint32_t

from lvscore._core.bytes cimport htons
from lvscore._core.connection cimport (
    FLAG_INACTIVE, FLAG_SERVICE, Meta, Table, connection_count, connection_open,
    connection_translated, table_meta,
)
from lvscore._core.consts cimport (
    NIL, ORIGINAL, PROTOCOL_TCP, PROTOCOL_UDP, REASON_CONNECTION_REUSED,
    REASON_NEW_CONNECTION, REASON_NO_REAL_SERVER, REASON_REPLY, REASON_REQUEST,
    REASON_SERVER_REMOVED, REASON_SOURCE_PORT_20, REASON_TABLE_FULL, REASON_TCP_NOT_SYN,
    REASON_TRUNCATED_TRANSPORT_HEADER, VERDICT_DROP, VERDICT_FORWARD, VERDICT_LOCAL,
)
from lvscore._core.flow cimport (
    Tuple, ports_destination, ports_make, ports_source,
)
from lvscore._core.scheduler cimport scheduler_pick
from lvscore._core.server cimport SERVER_AVAILABLE, Server, server_bind, server_unbind
from lvscore._core.service cimport service_find
from lvscore._core.state cimport (
    State, TRACE_FOUND, TRACE_NO_SERVER, TRACE_OPENED, TRACE_REUSED, TRACE_SCHEDULED,
    TRACE_SERVICE, TRACE_STATE, TRACE_TIMEOUT, TRACE_TRANSLATED, connection_end,
    connection_state_set, connection_timer_set, connection_total, table_of, trace_step,
)
from lvscore._core.track cimport (
    SERVICE_TCP_CLOSE, SERVICE_TCP_TIME_WAIT, TCP_RST, TCP_SYN, service_state_initial,
)
from lvscore._core.translate cimport packet_translate
from lvscore._core.wire cimport Packet, packet_l4


cdef inline bint header_is_whole(const Packet* packet) noexcept nogil:
    """Whether the TCP or UDP header is all there; a TCP data offset is not looked at."""
    return packet.l4_captured >= (20 if packet.protocol == PROTOCOL_TCP else 8)


cdef inline uint32_t tcp_flags(const Packet* packet) noexcept nogil:
    """The TCP flags, 0 for other protocols; the header must be whole."""
    return packet_l4(packet)[13] if packet.protocol == PROTOCOL_TCP else 0


cdef inline void service_count(State* s, Table* table, const Packet* packet, uint32_t i,
                               uint32_t direction) noexcept nogil:
    """Count at the connection, and at its server while that is available."""
    cdef Server* server = &s.services.server[table_meta(table, i).server]
    if server.flags & SERVER_AVAILABLE:
        server.packets[direction] += 1
        server.bytes[direction] += packet.l3_length
    connection_count(table, i, direction, packet.l3_length)


cdef inline void service_track(State* s, Table* table, const Packet* packet, uint32_t i,
                               uint32_t direction) noexcept nogil:
    """Take the packet into the connection's state."""
    cdef uint8_t state = table_meta(table, i).state
    cdef uint8_t new = s.tracker.next[direction][tcp_flags(packet) & 31][state]
    cdef Tuple t
    connection_state_set(s, table, i, new)
    if s.trace != NULL:
        connection_translated(table, i, direction, &t)
        trace_step(s, TRACE_STATE, state, new, &t)
        trace_step(s, TRACE_TIMEOUT, s.tracker.timeout[new], 0, &t)


cdef inline void service_send(State* s, Table* table, Packet* packet, const Tuple* t, uint32_t i,
                              uint32_t direction) noexcept nogil:
    """Rewrite the packet for the other side."""
    cdef Tuple translated
    connection_translated(table, i, direction, &translated)
    packet_translate(packet, t, &translated, True)
    trace_step(s, TRACE_TRANSLATED, 0, 0, &translated)


cdef inline uint8_t service_admits(const Packet* packet, const Tuple* t,
                                   uint8_t* reason) noexcept nogil:
    """FORWARD if the packet may open a connection, else its verdict."""
    cdef uint32_t flags
    if not header_is_whole(packet):
        reason[0] = REASON_TRUNCATED_TRANSPORT_HEADER
        return VERDICT_DROP
    flags = tcp_flags(packet)
    if packet.protocol == PROTOCOL_TCP and (flags & TCP_RST or not flags & TCP_SYN):
        reason[0] = REASON_TCP_NOT_SYN
        return VERDICT_LOCAL
    if ports_source(t.ports) == htons(20):
        reason[0] = REASON_SOURCE_PORT_20
        return VERDICT_LOCAL
    return VERDICT_FORWARD


cdef inline uint8_t service_schedule(State* s, Packet* packet, const Tuple* t, uint32_t service,
                                     uint32_t old, uint8_t* reason) noexcept nogil:
    """A packet for a service, of no connection or beginning ``old`` anew: open one, if it may."""
    cdef Table* table = table_of(s, packet.family)
    cdef Server* server
    cdef Tuple reply
    cdef uint32_t k = NIL
    cdef uint32_t i
    cdef uint8_t verdict
    trace_step(s, TRACE_SERVICE, service, 0, t)
    verdict = service_admits(packet, t, reason)
    if verdict == VERDICT_FORWARD:
        if old == NIL and connection_total(s) >= s.max_connections:
            reason[0] = REASON_TABLE_FULL
            return VERDICT_DROP
        k = scheduler_pick(&s.services.service[service].scheduler, s.services.server, t, s.tick,
                           &s.chance)
    server = &s.services.server[0 if k == NIL else k]
    if k != NIL:
        server_bind(server)
    if old != NIL:
        # Only now: the kernel lets its timer end it, so it counts while a server is chosen.
        connection_end(s, table, old, True)
    if verdict != VERDICT_FORWARD:
        return verdict
    if k == NIL:
        trace_step(s, TRACE_NO_SERVER, service, 0, t)
        reason[0] = REASON_NO_REAL_SERVER
        return VERDICT_DROP
    trace_step(s, TRACE_SCHEDULED, k, 0, t)
    reply.source = server.address
    reply.destination = t.source
    reply.ports = ports_make(server.port if server.port else ports_destination(t.ports),
                             ports_source(t.ports))
    reply.protocol = t.protocol
    reply.family = t.family
    i = connection_open(table, &s.key, t, &reply, k, service_state_initial(t.protocol),
                        FLAG_SERVICE | FLAG_INACTIVE, s.tick_up)
    if i == NIL:
        server_unbind(server, True, s.tick)
        reason[0] = REASON_TABLE_FULL
        return VERDICT_DROP
    s.opened += 1
    server.connections += 1
    trace_step(s, TRACE_OPENED, i << 1, 0, t)
    service_count(s, table, packet, i, ORIGINAL)
    service_track(s, table, packet, i, ORIGINAL)
    service_send(s, table, packet, t, i, ORIGINAL)
    reason[0] = REASON_NEW_CONNECTION if old == NIL else REASON_CONNECTION_REUSED
    return VERDICT_FORWARD


cdef inline uint8_t service_packet(State* s, Packet* packet, const Tuple* t, uint32_t reference,
                                   uint8_t* reason) noexcept nogil:
    """A packet of a service's connection."""
    cdef Table* table = table_of(s, packet.family)
    cdef uint32_t i = reference >> 1
    cdef uint32_t direction = reference & 1
    cdef Meta* meta = table_meta(table, i)
    cdef bint whole = header_is_whole(packet)
    cdef uint32_t service
    if direction == ORIGINAL:
        # conn_reuse_mode=1: a SYN begins anew what is closed (is_new_conn_expected).
        if (whole and tcp_flags(packet) & TCP_SYN
                and (meta.state == SERVICE_TCP_TIME_WAIT or meta.state == SERVICE_TCP_CLOSE)):
            service = service_find(&s.services, t.family, t.protocol, &t.destination,
                                   ports_destination(t.ports))
            trace_step(s, TRACE_REUSED, reference, 0, t)
            if service != NIL:
                return service_schedule(s, packet, t, service, i, reason)
            connection_end(s, table, i, True)
            reason[0] = REASON_TCP_NOT_SYN
            return VERDICT_LOCAL
        if not s.services.server[meta.server].flags & SERVER_AVAILABLE:
            reason[0] = REASON_SERVER_REMOVED
            return VERDICT_DROP
    if not whole:
        # Dropped, yet the timer runs anew, and a request counts.
        if direction == ORIGINAL:
            service_count(s, table, packet, i, direction)
        connection_timer_set(table, i, s.tick_up + s.tracker.timeout[meta.state])
        reason[0] = REASON_TRUNCATED_TRANSPORT_HEADER
        return VERDICT_DROP
    service_count(s, table, packet, i, direction)
    service_track(s, table, packet, i, direction)
    service_send(s, table, packet, t, i, direction)
    reason[0] = REASON_REQUEST if direction == ORIGINAL else REASON_REPLY
    return VERDICT_FORWARD
