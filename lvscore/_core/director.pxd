"""The director: packets of virtual services, requests and replies (ip_vs_core.c)."""

from libc.stdint cimport uint8_t, uint32_t

from lvscore._core.connection cimport (
    FLAG_NOOUTPUT, FLAG_NO_CPORT, FLAG_SLOW, FLAG_TRACKED, Meta, Table, connection_control,
    connection_controls, connection_count, connection_method, connection_translated, table_meta,
)
from lvscore._core.consts cimport (
    INPUT_ONLY, NIL, ORIGINAL, PROTOCOL_MARK, PROTOCOL_UDP, REASON_CONNECTION_REUSED,
    REASON_CONNTRACK_BUSY, REASON_LOCAL_ADDRESS, REASON_NEW_CONNECTION, REASON_NONE,
    REASON_NO_CALL_ID, REASON_REPLY, REASON_REQUEST, REASON_SERVER_REMOVED, REASON_TABLE_FULL,
    REASON_TRUNCATED_TRANSPORT_HEADER, REPLY, VERDICT_DROP, VERDICT_FORWARD, VERDICT_LOCAL,
)
from lvscore._core.event cimport header_is_whole, is_opening, service_event
from lvscore._core.flow cimport (
    Tuple, ports_destination, ports_make, ports_source, tuple_inverse,
)
from lvscore._core.forward cimport REDIRECT_DROPPED, forward_pass
from lvscore._core.helper cimport client_port_take, helper_reply, helper_request
from lvscore._core.lifetime cimport (
    connection_end, connection_state_set, connection_timer_set, control_assure,
)
from lvscore._core.load cimport load_bind, load_unbind
from lvscore._core.nfct cimport (
    nfct_dropped, nfct_is_old, nfct_lets_redirect, nfct_translated,
)
from lvscore._core.nfct_postrouting cimport nfct_answer, nfct_local_out, nfct_once, nfct_open
from lvscore._core.persistence cimport template_touch
from lvscore._core.schedule cimport (
    Choice, choice_open, choice_reply, dialog_template, is_one_packet, server_at, service_admits,
    service_choose, service_leave, service_of,
)
from lvscore._core.server cimport (
    METHOD_MASQUERADE, SERVER_AVAILABLE, Server,
)
from lvscore._core.service cimport ENGINE_SIP, Service
from lvscore._core.state cimport (
    SYSCTL_CONNTRACK, SYSCTL_CONN_REUSE_MODE, SYSCTL_EXPIRE_NODEST_CONN, SYSCTL_SNAT_REROUTE, State,
    TRACE_REUSED, TRACE_SERVICE, TRACE_STATE, TRACE_TIMEOUT, TRACE_TRANSLATED, connection_total,
    is_hosted, table_of, trace_step,
)
from lvscore._core.track cimport (
    SERVICE_SCTP_CLOSED, SERVICE_TCP_CLOSE, SERVICE_TCP_FIN_WAIT, SERVICE_TCP_TIME_WAIT,
    service_state_initial,
)
from lvscore._core.translate cimport packet_translate, tuples_equal
from lvscore._core.transmit cimport request_transmit
from lvscore._core.wire cimport Packet


cdef inline void server_count(State* s, uint32_t k, const Packet* packet,
                              uint32_t direction) noexcept nogil:
    """Count at a server while it is available."""
    cdef Server* server = &s.services.server[k]
    if server.flags & SERVER_AVAILABLE:
        server.packets[direction] += 1
        server.bytes[direction] += packet.l3_length


cdef inline void service_count(State* s, Table* table, const Packet* packet, uint32_t i,
                               uint32_t direction) noexcept nogil:
    """Count at the connection and its server."""
    server_count(s, table_meta(table, i).server, packet, direction)
    connection_count(table, i, direction, packet.l3_length)


cdef inline void service_track(State* s, Table* table, const Packet* packet, uint32_t i,
                               uint32_t direction) noexcept nogil:
    """Take the packet into the connection's state."""
    cdef Meta* meta = table_meta(table, i)
    cdef uint8_t state = meta.state
    cdef uint32_t row = direction
    cdef uint8_t new
    cdef Tuple t
    if meta.flags & FLAG_NOOUTPUT:
        if direction == REPLY:
            meta.flags &= ~<uint32_t>FLAG_NOOUTPUT
        else:
            row = INPUT_ONLY
    new = s.tracker.next[row][service_event(packet)][state]
    connection_state_set(s, table, i, new)
    if direction == REPLY and meta.protocol == PROTOCOL_UDP and connection_control(
            table, i) != NIL:
        control_assure(s, table, i)
        if connection_method(meta) == METHOD_MASQUERADE and not meta.flags & FLAG_TRACKED:
            meta.flags &= ~<uint32_t>FLAG_SLOW
    if s.trace != NULL:
        connection_translated(table, i, direction, &t)
        trace_step(s, TRACE_STATE, state, new, &t)
        trace_step(s, TRACE_TIMEOUT, s.tracker.timeout[new], 0, &t)


cdef inline uint8_t packet_once(State* s, Packet* packet, const Tuple* t, const Choice* choice,
                                uint8_t* reason) noexcept nogil:
    """Send a packet of one-packet scheduling: its connection ends with it, and none is kept but
    conntrack's view of it."""
    cdef Server* server = &s.services.server[choice.server]
    cdef Tuple reply, translated
    cdef uint32_t opened = NIL
    cdef uint8_t verdict = VERDICT_DROP
    load_bind(&s.services, choice.server)
    server.connections += 1
    server_count(s, choice.server, packet, ORIGINAL)
    if choice.template != NIL:
        template_touch(s, t.family, choice.template)
    choice_reply(s, choice, t, &reply)
    translated = tuple_inverse(&reply)
    reason[0] = REASON_NONE
    if s.tracking and s.sysctl[SYSCTL_CONNTRACK]:
        reason[0] = nfct_once(s, packet, t, choice.server, choice.method, &translated, &opened)
    if reason[0] == REASON_NONE:
        reason[0] = REASON_REQUEST
        verdict = request_transmit(s, packet, t, &translated, choice.server, choice.method, reason)
    if verdict == VERDICT_DROP and opened != NIL:
        connection_end(s, table_of(s, t.family), opened)
    load_unbind(&s.services, choice.server, True, s.tick)
    return verdict


cdef inline uint8_t request_send(State* s, Packet* packet, const Tuple* t, uint32_t i,
                                 uint8_t* reason) noexcept nogil:
    """Send a request to the server of its connection."""
    cdef Table* table = table_of(s, packet.family)
    cdef const Meta* meta = table_meta(table, i)
    cdef Tuple translated
    cdef uint8_t verdict
    cdef uint8_t failed = REASON_NONE
    cdef uint32_t opened = NIL
    if meta.flags & FLAG_NO_CPORT and not client_port_take(s, table, i, t):
        reason[0] = REASON_TABLE_FULL
        return VERDICT_DROP
    if meta.flags & FLAG_TRACKED:
        failed = nfct_open(s, table, packet, i)
        if failed:
            reason[0] = failed
            return VERDICT_DROP
        nfct_translated(s, table, i, &translated)
        failed = nfct_local_out(s, packet, i, &translated, &opened)
        if failed:
            reason[0] = failed
            return VERDICT_DROP
    else:
        connection_translated(table, i, ORIGINAL, &translated)
    verdict = request_transmit(s, packet, t, &translated, meta.server, connection_method(meta),
                               reason)
    if verdict == VERDICT_DROP and meta.flags & FLAG_TRACKED:
        nfct_dropped(s, table, i)
        if opened != NIL:
            connection_end(s, table, opened)
    return helper_request(s, packet, i, verdict, reason)


cdef inline uint8_t service_schedule(State* s, Packet* packet, const Tuple* t, uint32_t service,
                                     uint32_t old, uint8_t* reason) noexcept nogil:
    """A packet for a service, of no connection or beginning ``old`` anew: open one, if it may."""
    cdef Table* table = table_of(s, packet.family)
    cdef Choice choice
    cdef Tuple reply
    cdef uint32_t i
    cdef uint8_t state, verdict
    cdef bint once = is_one_packet(s, service, packet.protocol)
    trace_step(s, TRACE_SERVICE, service, 0, t)
    verdict = service_admits(s, packet, t, reason)
    if verdict == VERDICT_FORWARD:
        if old == NIL and not once and connection_total(s) >= s.max_connections:
            reason[0] = REASON_TABLE_FULL
            return VERDICT_DROP
        reason[0] = service_choose(s, service, packet, t, &choice)
        if reason[0] == REASON_TABLE_FULL or reason[0] == REASON_NO_CALL_ID:
            return VERDICT_DROP
        if reason[0]:
            verdict = service_leave(s, t, service, &choice, reason)
    if verdict == VERDICT_FORWARD and not once:
        load_bind(&s.services, choice.server)
    if old != NIL and connection_controls(table, old) == 0:
        # Only now: the kernel leaves its end to its timer, so it counts while a server is chosen.
        connection_end(s, table, old)
    if verdict != VERDICT_FORWARD:
        return verdict
    if once:
        return packet_once(s, packet, t, &choice, reason)
    choice_reply(s, &choice, t, &reply)
    # The timer is linked where the state that the packet leads to wants it, as lane_open.pxd does.
    state = s.tracker.next[ORIGINAL][service_event(packet)][service_state_initial(packet.protocol)]
    i = choice_open(s, &choice, t, &reply, s.tick_up + s.tracker.timeout[state])
    if i == NIL:
        load_unbind(&s.services, choice.server, True, s.tick)
        reason[0] = REASON_TABLE_FULL
        return VERDICT_DROP
    service_count(s, table, packet, i, ORIGINAL)
    service_track(s, table, packet, i, ORIGINAL)
    reason[0] = REASON_NEW_CONNECTION if old == NIL else REASON_CONNECTION_REUSED
    return request_send(s, packet, t, i, reason)


cdef inline bint is_over(const State* s, const Table* table, uint32_t i) noexcept nogil:
    """Whether a connection is over, so that a SYN or INIT may begin another (ip_vs_core.c,
    is_new_conn_expected)."""
    cdef const Meta* meta = table_meta(table, i)
    cdef uint32_t mode = s.sysctl[SYSCTL_CONN_REUSE_MODE]
    if mode == 0 or connection_control(table, i) != NIL:
        return False
    if mode & 2 and meta.state == SERVICE_TCP_FIN_WAIT and meta.flags & FLAG_NOOUTPUT:
        return True
    return (meta.state == SERVICE_TCP_TIME_WAIT or meta.state == SERVICE_TCP_CLOSE
            or meta.state == SERVICE_SCTP_CLOSED)


cdef inline bint begins_anew(const State* s, const Packet* packet, const Table* table,
                             uint32_t i) noexcept nogil:
    """Whether a SYN or INIT replaces the connection that it belongs to, or leaves a server of
    weight 0 (expire_nodest_conn=1)."""
    cdef uint32_t k = table_meta(table, i).server
    if not is_opening(packet):
        return False
    if s.sysctl[SYSCTL_EXPIRE_NODEST_CONN] and k and s.services.server[k].weight == 0:
        return True
    return is_over(s, table, i)


cdef inline uint8_t service_again(State* s, Packet* packet, const Tuple* t, uint32_t reference,
                                  uint8_t* reason) noexcept nogil:
    """End a request's connection and look for a service as if there had been none."""
    cdef Table* table = table_of(s, t.family)
    cdef uint32_t service = service_of(s, packet, t)
    trace_step(s, TRACE_REUSED, reference, 0, t)
    if service != NIL:
        return service_schedule(s, packet, t, service, reference >> 1, reason)
    if connection_controls(table, reference >> 1) == 0:
        connection_end(s, table, reference >> 1)
    reason[0] = REASON_LOCAL_ADDRESS
    return VERDICT_LOCAL


cdef inline uint8_t conntrack_busy(State* s, Table* table, uint32_t i,
                                   uint8_t* reason) noexcept nogil:
    """The packet that would begin a connection anew is of a flow that conntrack still knows: the
    old connection ends, and only the packet sent once more begins the new one (ip_vs_in)."""
    if connection_controls(table, i) == 0:
        connection_end(s, table, i)
    reason[0] = REASON_CONNTRACK_BUSY
    return VERDICT_DROP


cdef inline uint8_t request_packet(State* s, Packet* packet, const Tuple* t, uint32_t reference,
                                   uint8_t* reason) noexcept nogil:
    """A packet of a client, of a service's connection."""
    cdef Table* table = table_of(s, packet.family)
    cdef uint32_t i = reference >> 1
    cdef Meta* meta = table_meta(table, i)
    cdef bint whole = header_is_whole(packet)
    if whole and begins_anew(s, packet, table, i):
        if not nfct_is_old(s, table, i):
            return service_again(s, packet, t, reference, reason)
        if connection_controls(table, i) == 0:
            return conntrack_busy(s, table, i, reason)
    if not s.services.server[meta.server].flags & SERVER_AVAILABLE:
        if s.sysctl[SYSCTL_EXPIRE_NODEST_CONN]:
            if nfct_is_old(s, table, i):
                return conntrack_busy(s, table, i, reason)
            return service_again(s, packet, t, reference, reason)
        reason[0] = REASON_SERVER_REMOVED
        return VERDICT_DROP
    service_count(s, table, packet, i, ORIGINAL)
    if whole:
        service_track(s, table, packet, i, ORIGINAL)
    else:
        # It counts and the timer runs anew, even if it is dropped then.
        connection_timer_set(table, i, s.tick_up + s.tracker.timeout[meta.state])
    reason[0] = REASON_REQUEST
    return request_send(s, packet, t, i, reason)


cdef inline uint8_t reply_packet(State* s, Packet* packet, const Tuple* t, uint32_t reference,
                                 const Tuple* behind, uint8_t* reason) noexcept nogil:
    """A packet of a server, of a service's connection. ``behind``: what conntrack makes of it
    behind IPVS, if its flow is none of this connection's but a redirected one; or NULL."""
    cdef Table* table = table_of(s, packet.family)
    cdef uint32_t i = reference >> 1
    cdef uint32_t method = connection_method(table_meta(table, i))
    cdef Tuple translated
    cdef uint8_t failed = REASON_NONE
    connection_translated(table, i, REPLY, &translated)
    if is_hosted(s):
        failed = forward_pass(&s.routes, packet, t, &translated.destination, &s.forward)
        if failed:
            reason[0] = failed
            return VERDICT_DROP
        if s.forward.redirect and (
                behind != NULL or not nfct_lets_redirect(s, table, packet, i)):
            s.forward.redirect = REDIRECT_DROPPED
    if method == METHOD_MASQUERADE:
        failed = (helper_reply(s, packet, i) if header_is_whole(packet)
                  else REASON_TRUNCATED_TRANSPORT_HEADER)
    if failed:
        # Dropped and not counted, yet the timer runs anew.
        connection_timer_set(table, i,
                             s.tick_up + s.tracker.timeout[table_meta(table, i).state])
        reason[0] = failed
        return VERDICT_DROP
    if behind != NULL:
        translated = behind[0]
    elif table_meta(table, i).flags & FLAG_TRACKED:
        failed = nfct_answer(s, table, packet, t, i, &translated)
    s.forward.rerouted = s.sysctl[SYSCTL_SNAT_REROUTE] != 0
    service_count(s, table, packet, i, REPLY)
    if header_is_whole(packet):
        service_track(s, table, packet, i, REPLY)
    if failed:
        reason[0] = failed
        return VERDICT_DROP
    if method == METHOD_MASQUERADE or not tuples_equal(t, &translated):
        packet_translate(packet, t, &translated, method == METHOD_MASQUERADE)
        trace_step(s, TRACE_TRANSLATED, 0, 0, &translated)
    reason[0] = REASON_REPLY
    return VERDICT_FORWARD


cdef inline uint8_t service_packet(State* s, Packet* packet, const Tuple* t, uint32_t reference,
                                   uint8_t* reason) noexcept nogil:
    """A packet of a service's connection."""
    if reference & 1 == ORIGINAL:
        return request_packet(s, packet, t, reference, reason)
    return reply_packet(s, packet, t, reference, NULL, reason)


cdef inline bint is_server_port(const State* s, const Tuple* t) noexcept nogil:
    """Whether a packet comes from the port of a masqueraded server (ip_vs_has_real_service)."""
    return server_at(s, t) != NIL


cdef inline uint32_t dialog_answer(State* s, const Packet* packet, const Tuple* t) noexcept nogil:
    """A SIP message of a masqueraded server, of no connection: open one, as if its other end had
    (ip_vs_pe_sip.c, ip_vs_sip_conn_out). Its reference, or NIL."""
    cdef uint32_t k = server_at(s, t)
    cdef const Service* service
    cdef Choice choice
    cdef Tuple original, reply
    cdef uint32_t i
    if k == NIL or not header_is_whole(packet):
        return NIL
    service = &s.services.service[s.services.server[k].service]
    if (service.options.engine != ENGINE_SIP or service.protocol == PROTOCOL_MARK
            or is_one_packet(s, s.services.server[k].service, packet.protocol)
            or connection_total(s) >= s.max_connections):
        return NIL
    original = tuple_inverse(t)
    original.destination = service.address
    original.ports = ports_make(ports_destination(t.ports), service.port)
    choice.server = k
    choice.method = METHOD_MASQUERADE
    choice.port = ports_source(t.ports)
    if not dialog_template(s, service, packet, &original, &choice):
        return NIL
    choice_reply(s, &choice, &original, &reply)
    load_bind(&s.services, k)
    i = choice_open(s, &choice, &original, &reply, s.tick_up)
    if i == NIL:
        load_unbind(&s.services, k, True, s.tick)
        return NIL
    return i << 1 | REPLY
