"""A connection of a virtual service begins: who takes it (ip_vs_core.c, ip_vs_schedule)."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from lvscore._core.bytes cimport htons, ntohs
from lvscore._core.connection cimport (
    FLAG_INACTIVE, FLAG_NOOUTPUT, FLAG_SERVICE, FLAG_SLOW, METHOD_SHIFT, Table,
    connection_open, table_meta,
)
from lvscore._core.consts cimport (
    NIL, PROTOCOL_MARK, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP, REASON_DROP_RATE,
    REASON_LOCAL_ADDRESS, REASON_NONE, REASON_NO_CALL_ID, REASON_NO_REAL_SERVER,
    REASON_SCTP_NOT_INIT, REASON_SOURCE_PORT_20, REASON_TABLE_FULL, REASON_TCP_NOT_SYN,
    REASON_TRUNCATED_TRANSPORT_HEADER, TICKS_PER_SECOND, VERDICT_DROP, VERDICT_FORWARD,
    VERDICT_LOCAL,
)
from lvscore._core.event cimport is_opening, is_reset, opening_is_whole
from lvscore._core.flow cimport (
    Tuple, address_equal, ports_destination, ports_make, ports_source, tuple_inverse,
)
from lvscore._core.helper cimport helper_bind
from lvscore._core.lifetime cimport CONTROL_TEMPLATE, control_add
from lvscore._core.nfct cimport nfct_begin
from lvscore._core.persistence cimport (
    packet_call_id, template_find, template_invalidate, template_open, template_touch,
)
from lvscore._core.route cimport address_is_local
from lvscore._core.scheduler cimport scheduler_pick
from lvscore._core.scheduler_types cimport SCHEDULER_LBLC
from lvscore._core.server cimport (
    METHOD_BYPASS, METHOD_MASQUERADE, SERVER_AVAILABLE, Server,
)
from lvscore._core.service cimport (
    ENGINE_SIP, FTP_DATA_PORT, FTP_PORT, SERVICE_ONE_PACKET, SERVICE_PERSISTENT, Service,
    service_lookup,
)
from lvscore._core.sip cimport CallId
from lvscore._core.state cimport (
    SYSCTL_CACHE_BYPASS, SYSCTL_LBLCR_EXPIRATION,
    SYSCTL_LBLC_EXPIRATION, SYSCTL_SLOPPY_SCTP, SYSCTL_SLOPPY_TCP, State, TRACE_NO_SERVER,
    TRACE_OPENED, TRACE_SCHEDULED, table_of, templates_of, trace_step,
)
from lvscore._core.track cimport service_state_initial
from lvscore._core.wire cimport Packet


# Who takes a connection, and how.
cdef struct Choice:
    uint32_t server
    uint32_t method
    uint32_t template           # that it depends on, or NIL
    uint16_t port               # of the server, as on the wire


cdef inline bint drops_by_rate(State* s) noexcept nogil:
    """drop_packet: every so many packets that would open a connection, one goes
    (ip_vs_todrop)."""
    if not s.drop_rate:
        return False
    if s.drop_counter > 1:
        s.drop_counter -= 1
        return False
    s.drop_counter = s.drop_rate
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
    if ports_source(t.ports) == htons(FTP_DATA_PORT):
        reason[0] = REASON_SOURCE_PORT_20
        return VERDICT_LOCAL
    return VERDICT_FORWARD


cdef inline uint32_t service_of(const State* s, const Packet* packet,
                                const Tuple* t) noexcept nogil:
    """The service that a packet is for, or NIL."""
    if (t.protocol != PROTOCOL_TCP and t.protocol != PROTOCOL_UDP
            and t.protocol != PROTOCOL_SCTP):
        return NIL
    return service_lookup(&s.services, t.family, t.protocol, packet.mark, &t.destination,
                          ports_destination(t.ports))


cdef inline bint takes_port(const Service* service, const Tuple* t) noexcept nogil:
    """Whether a service without persistence takes a packet: only for its very port."""
    return service.protocol == PROTOCOL_MARK or ports_destination(t.ports) == service.port


cdef inline uint8_t service_choose(State* s, uint32_t i, const Packet* packet, const Tuple* t,
                                   Choice* choice) noexcept nogil:
    """Choose a server for a connection that a packet opens; REASON_NONE, or why there is none."""
    cdef Service* service = &s.services.service[i]
    cdef const Server* server
    cdef uint32_t k = NIL
    cdef uint16_t port = ports_destination(t.ports)
    cdef bint persistent = service.options.flags & SERVICE_PERSISTENT
    cdef CallId id
    choice.template = NIL
    choice.server = 0
    if (persistent and service.options.engine == ENGINE_SIP
            and not packet_call_id(packet, &id)):
        return REASON_NO_CALL_ID
    if persistent:
        choice.template = template_find(s, service, t, &id)
    if choice.template != NIL:
        k = table_meta(templates_of(s, t.family), choice.template).server
    elif persistent or takes_port(service, t):
        if service.scheduler.cache != NULL:
            service.scheduler.cache.expiry = <uint64_t>s.sysctl[
                SYSCTL_LBLC_EXPIRATION if service.scheduler.kind == SCHEDULER_LBLC
                else SYSCTL_LBLCR_EXPIRATION] * TICKS_PER_SECOND
        k = scheduler_pick(&service.scheduler, s.services.server, t, s.tick, &s.chance)
    if k == NIL:
        return REASON_NO_REAL_SERVER
    if persistent and choice.template == NIL:
        choice.template = template_open(s, service, t, k, &id)
        if choice.template == NIL:
            return REASON_TABLE_FULL
    server = &s.services.server[k]
    choice.server = k
    choice.method = server.method
    choice.port = port
    if server.port and (not persistent or port == service.port):
        choice.port = server.port
    trace_step(s, TRACE_SCHEDULED, k, 0, t)
    return REASON_NONE


cdef inline uint32_t server_at(const State* s, const Tuple* t) noexcept nogil:
    """The masqueraded server that a packet comes from, or NIL (ip_vs_find_real_service).

    Only with nat_icmp_send=1 or for SIP, for packets that no connection knows: a search through
    all servers will do.
    """
    cdef const Server* server
    cdef uint32_t k
    for k in range(1, s.services.server_used):
        server = &s.services.server[k]
        if (server.flags & SERVER_AVAILABLE and server.port == ports_source(t.ports)
                and server.family == t.family
                and (server.virtual_protocol == t.protocol
                     or server.virtual_protocol == PROTOCOL_MARK)
                and server.method == METHOD_MASQUERADE
                and address_equal(&server.address, &t.source)):
            return k
    return NIL


cdef inline bint dialog_template(State* s, const Service* service, const Packet* packet,
                                 const Tuple* t, Choice* choice) noexcept nogil:
    """Find or make the template of a dialog that a server takes part in; False if there can be
    none. One that leads to another server is void (ip_vs_new_conn_out)."""
    cdef Table* templates = templates_of(s, t.family)
    cdef CallId id
    choice.template = NIL
    if not service.options.flags & SERVICE_PERSISTENT:
        return True
    if not packet_call_id(packet, &id):
        return False
    choice.template = template_find(s, service, t, &id)
    if (choice.template != NIL
            and table_meta(templates, choice.template).server != choice.server):
        template_invalidate(s, templates, choice.template)
        choice.template = NIL
    if choice.template == NIL:
        choice.template = template_open(s, service, t, choice.server, &id)
    return choice.template != NIL


cdef inline void choice_reply(const State* s, const Choice* choice, const Tuple* t,
                              Tuple* reply) noexcept nogil:
    """What an answer will say."""
    reply[0] = tuple_inverse(t)
    if choice.method == METHOD_MASQUERADE:
        reply.source = s.services.server[choice.server].address
        reply.ports = ports_make(choice.port, ports_source(t.ports))


cdef inline bint is_one_packet(const State* s, uint32_t service, uint8_t protocol) noexcept nogil:
    """Whether a service schedules each packet of a protocol anew."""
    return (s.services.service[service].options.flags & SERVICE_ONE_PACKET
            and protocol == PROTOCOL_UDP)


cdef inline uint32_t choice_open(State* s, const Choice* choice, const Tuple* t,
                                 const Tuple* reply, uint32_t deadline) noexcept nogil:
    """Open the connection; its record, or NIL at the bound."""
    cdef Server* server = &s.services.server[choice.server]
    cdef uint32_t flags = FLAG_SERVICE | FLAG_INACTIVE | choice.method << METHOD_SHIFT
    cdef uint32_t i
    if choice.method != METHOD_MASQUERADE:
        flags |= FLAG_SLOW
        if choice.method != METHOD_BYPASS:
            flags |= FLAG_NOOUTPUT
    if choice.template != NIL and t.protocol == PROTOCOL_UDP:
        flags |= FLAG_SLOW      # until an answer has assured the template
    i = connection_open(table_of(s, t.family), &s.key, t, reply, choice.server,
                        service_state_initial(t.protocol), flags, deadline)
    if i == NIL:
        return NIL
    s.opened += 1
    helper_bind(s, table_of(s, t.family), i)
    nfct_begin(s, table_of(s, t.family), i)
    if choice.method != METHOD_BYPASS:
        server.connections += 1
    if choice.template != NIL:
        control_add(s, table_of(s, t.family), i, CONTROL_TEMPLATE | choice.template)
        template_touch(s, t.family, choice.template)
    trace_step(s, TRACE_OPENED, i << 1, 0, t)
    return i


cdef inline uint8_t service_leave(State* s, const Tuple* t, uint32_t i, Choice* choice,
                                  uint8_t* reason) noexcept nogil:
    """No server took a packet: FORWARD past all of them if it may, else its verdict
    (ip_vs_leave)."""
    cdef const Service* service = &s.services.service[i]
    trace_step(s, TRACE_NO_SERVER, i, 0, t)
    if (s.sysctl[SYSCTL_CACHE_BYPASS] and service.protocol == PROTOCOL_MARK
            and not address_is_local(&s.routes, t.family, &t.destination)):
        choice.server = 0
        choice.method = METHOD_BYPASS
        choice.template = NIL
        choice.port = ports_destination(t.ports)
        return VERDICT_FORWARD
    if ntohs(service.port) == FTP_PORT and ntohs(ports_destination(t.ports)) != FTP_PORT:
        reason[0] = REASON_LOCAL_ADDRESS
        return VERDICT_LOCAL
    reason[0] = REASON_NO_REAL_SERVER
    return VERDICT_DROP
