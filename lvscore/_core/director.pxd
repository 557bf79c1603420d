"""The LVS-NAT director: packets of virtual services (ip_vs_core.c, ip_vs_xmit.c)."""

from libc.stdint cimport uint8_t, uint32_t

from lvscore._core.bytes cimport htons
from lvscore._core.connection cimport (
    FLAG_INACTIVE, FLAG_SERVICE, Meta, Table, connection_count, connection_open,
    connection_translated, table_meta,
)
from lvscore._core.consts cimport (
    NIL, ORIGINAL, PROTOCOL_SCTP, PROTOCOL_TCP, REASON_CONNECTION_REUSED,
    REASON_DROP_RATE, REASON_LOCAL_ADDRESS, REASON_NEW_CONNECTION, REASON_NONE,
    REASON_NO_REAL_SERVER, REASON_REPLY, REASON_REQUEST, REASON_SERVER_REMOVED,
    REASON_SCTP_NOT_INIT, REASON_SOURCE_PORT_20, REASON_TABLE_FULL, REASON_TCP_NOT_SYN,
    REASON_TRUNCATED_TRANSPORT_HEADER, REPLY, VERDICT_DROP, VERDICT_FORWARD, VERDICT_LOCAL,
)
from lvscore._core.event cimport (
    header_is_whole, is_opening, is_reset, opening_is_whole, service_event,
)
from lvscore._core.flow cimport (
    Tuple, address_equal, ports_destination, ports_make, ports_source,
)
from lvscore._core.forward cimport forward_pass, forward_request
from lvscore._core.lifetime cimport (
    connection_end, connection_state_set, connection_timer_set,
)
from lvscore._core.route cimport NO_INTERFACE
from lvscore._core.scheduler cimport scheduler_pick
from lvscore._core.server cimport SERVER_AVAILABLE, Server, server_bind, server_unbind
from lvscore._core.service cimport service_find
from lvscore._core.state cimport (
    SYSCTL_AM_DROPRATE, SYSCTL_CONN_REUSE_MODE, SYSCTL_DROP_PACKET, SYSCTL_EXPIRE_NODEST_CONN,
    SYSCTL_SLOPPY_SCTP, SYSCTL_SLOPPY_TCP, State, TRACE_NO_SERVER, TRACE_OPENED, TRACE_REUSED,
    TRACE_SCHEDULED, TRACE_SERVICE, TRACE_STATE, TRACE_TIMEOUT, TRACE_TRANSLATED,
    connection_total, is_hosted, table_of, trace_step,
)
from lvscore._core.track cimport (
    SERVICE_SCTP_CLOSED, SERVICE_TCP_CLOSE, SERVICE_TCP_TIME_WAIT, service_state_initial,
)
from lvscore._core.translate cimport packet_translate
from lvscore._core.wire cimport Packet


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
    cdef uint8_t new = s.tracker.next[direction][service_event(packet)][state]
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


cdef inline uint8_t request_forward(State* s, Table* table, Packet* packet,
                                    uint32_t i) noexcept nogil:
    """With a Host: find the way to the server; why there is none."""
    cdef Tuple translated
    if not is_hosted(s):
        return REASON_NONE
    connection_translated(table, i, ORIGINAL, &translated)
    return forward_request(&s.routes, packet, &translated.destination, &s.forward)


cdef inline uint8_t request_verdict(const State* s) noexcept nogil:
    """A request leaves, unless its server is this host."""
    if is_hosted(s) and s.forward.egress == NO_INTERFACE:
        return VERDICT_LOCAL
    return VERDICT_FORWARD


cdef inline bint drops_by_rate(State* s) noexcept nogil:
    """drop_packet=3: every am_droprate-th packet that would open a connection, beginning
    with the first (ip_vs_todrop). Modes 1 and 2 wait for memory to be short, which the
    bound on connections prevents."""
    if s.sysctl[SYSCTL_DROP_PACKET] != 3:
        return False
    if s.drop_counter > 1:
        s.drop_counter -= 1
        return False
    s.drop_counter = s.sysctl[SYSCTL_AM_DROPRATE]
    return True


cdef inline uint8_t service_admits(State* s, const Packet* packet, const Tuple* t,
                                   uint8_t* reason) noexcept nogil:
    """FORWARD if the packet may open a connection, else its verdict."""
    if not opening_is_whole(packet):
        reason[0] = REASON_TRUNCATED_TRANSPORT_HEADER
        return VERDICT_DROP
    if packet.protocol == PROTOCOL_TCP and (is_reset(packet) or not (
            is_opening(packet) or s.sysctl[SYSCTL_SLOPPY_TCP])):
        reason[0] = REASON_TCP_NOT_SYN
        return VERDICT_LOCAL
    if packet.protocol == PROTOCOL_SCTP and (is_reset(packet) or not (
            is_opening(packet) or s.sysctl[SYSCTL_SLOPPY_SCTP])):
        reason[0] = REASON_SCTP_NOT_INIT
        return VERDICT_LOCAL
    if drops_by_rate(s):
        reason[0] = REASON_DROP_RATE
        return VERDICT_DROP
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
    cdef uint8_t verdict, failed
    trace_step(s, TRACE_SERVICE, service, 0, t)
    verdict = service_admits(s, packet, t, reason)
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
        # Only now: the kernel leaves its end to its timer, so it counts while a server is chosen.
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
    failed = request_forward(s, table, packet, i)
    if failed:
        reason[0] = failed
        return VERDICT_DROP
    service_send(s, table, packet, t, i, ORIGINAL)
    reason[0] = REASON_NEW_CONNECTION if old == NIL else REASON_CONNECTION_REUSED
    return request_verdict(s)


cdef inline bint begins_anew(const State* s, const Packet* packet,
                             const Meta* meta) noexcept nogil:
    """Whether a SYN or INIT replaces the connection that it belongs to (ip_vs_core.c,
    is_new_conn_expected), or leaves a server of weight 0 (expire_nodest_conn=1)."""
    cdef const Server* server = &s.services.server[meta.server]
    if not is_opening(packet):
        return False
    if (s.sysctl[SYSCTL_EXPIRE_NODEST_CONN] and server.flags & SERVER_AVAILABLE
            and server.weight == 0):
        return True
    return s.sysctl[SYSCTL_CONN_REUSE_MODE] != 0 and (
        meta.state == SERVICE_TCP_TIME_WAIT or meta.state == SERVICE_TCP_CLOSE
        or meta.state == SERVICE_SCTP_CLOSED)


cdef inline uint8_t service_again(State* s, Packet* packet, const Tuple* t, uint32_t reference,
                                  uint8_t* reason) noexcept nogil:
    """End a request's connection and look for a service as if there had been none."""
    cdef uint32_t service = service_find(&s.services, t.family, t.protocol, &t.destination,
                                         ports_destination(t.ports))
    trace_step(s, TRACE_REUSED, reference, 0, t)
    if service != NIL:
        return service_schedule(s, packet, t, service, reference >> 1, reason)
    connection_end(s, table_of(s, t.family), reference >> 1, True)
    reason[0] = REASON_TCP_NOT_SYN if t.protocol == PROTOCOL_TCP else REASON_LOCAL_ADDRESS
    return VERDICT_LOCAL


cdef inline uint8_t request_packet(State* s, Packet* packet, const Tuple* t, uint32_t reference,
                                   uint8_t* reason) noexcept nogil:
    """A packet of a client, of a service's connection."""
    cdef Table* table = table_of(s, packet.family)
    cdef uint32_t i = reference >> 1
    cdef Meta* meta = table_meta(table, i)
    cdef bint whole = header_is_whole(packet)
    cdef uint8_t failed
    if whole and begins_anew(s, packet, meta):
        return service_again(s, packet, t, reference, reason)
    if not s.services.server[meta.server].flags & SERVER_AVAILABLE:
        if s.sysctl[SYSCTL_EXPIRE_NODEST_CONN]:
            return service_again(s, packet, t, reference, reason)
        reason[0] = REASON_SERVER_REMOVED
        return VERDICT_DROP
    service_count(s, table, packet, i, ORIGINAL)
    if whole:
        service_track(s, table, packet, i, ORIGINAL)
    else:
        # Dropped, yet it counted, and the timer runs anew.
        connection_timer_set(table, i, s.tick_up + s.tracker.timeout[meta.state])
    failed = request_forward(s, table, packet, i)
    if failed == REASON_NONE and not whole:
        failed = REASON_TRUNCATED_TRANSPORT_HEADER
    if failed:
        reason[0] = failed
        return VERDICT_DROP
    service_send(s, table, packet, t, i, ORIGINAL)
    reason[0] = REASON_REQUEST
    return request_verdict(s)


cdef inline uint8_t reply_packet(State* s, Packet* packet, const Tuple* t, uint32_t reference,
                                 uint8_t* reason) noexcept nogil:
    """A packet of a server, of a service's connection."""
    cdef Table* table = table_of(s, packet.family)
    cdef uint32_t i = reference >> 1
    cdef uint8_t failed
    if is_hosted(s):
        failed = forward_pass(&s.routes, packet, t, &t.destination, &s.forward)
        if failed:
            reason[0] = failed
            return VERDICT_DROP
    if not header_is_whole(packet):
        # Dropped and not counted, yet the timer runs anew.
        connection_timer_set(table, i,
                             s.tick_up + s.tracker.timeout[table_meta(table, i).state])
        reason[0] = REASON_TRUNCATED_TRANSPORT_HEADER
        return VERDICT_DROP
    service_count(s, table, packet, i, REPLY)
    service_track(s, table, packet, i, REPLY)
    service_send(s, table, packet, t, i, REPLY)
    reason[0] = REASON_REPLY
    return VERDICT_FORWARD


cdef inline uint8_t service_packet(State* s, Packet* packet, const Tuple* t, uint32_t reference,
                                   uint8_t* reason) noexcept nogil:
    """A packet of a service's connection."""
    if reference & 1 == ORIGINAL:
        return request_packet(s, packet, t, reference, reason)
    return reply_packet(s, packet, t, reference, reason)


cdef inline bint is_server_port(const State* s, const Tuple* t) noexcept nogil:
    """Whether a packet's source is the port of a real server (ip_vs_has_real_service).

    Only with nat_icmp_send=1, for packets that no connection knows: a search through all
    servers will do.
    """
    cdef const Server* server
    cdef uint32_t k
    for k in range(1, s.services.server_used):
        server = &s.services.server[k]
        if (server.flags & SERVER_AVAILABLE and server.port == ports_source(t.ports)
                and server.family == t.family and server.virtual_protocol == t.protocol
                and address_equal(&server.address, &t.source)):
            return True
    return False
