"""Persistence: the connections of a client go where its first one went (ip_vs_core.c,
ip_vs_sched_persist).

A template remembers it: from the client's network and port 0 to the service. It has a timer of
its own and outlives the connections that depend on it.
"""

from libc.stdint cimport uint32_t, uint64_t

from lvscore._core.bytes cimport ntohs
from lvscore._core.connection cimport (
    FLAG_SERVICE, FLAG_TEMPLATE, Meta, Table, connection_extension, connection_open,
    connection_tuple, table_find, table_meta,
)
from lvscore._core.consts cimport NIL, ORIGINAL, PROTOCOL_MARK, PROTOCOL_UDP, REPLY
from lvscore._core.flow cimport (
    Tuple, address_and, address_equal, ports_destination, ports_make, tuple_hash,
)
from lvscore._core.lifetime cimport connection_timer_set
from lvscore._core.rename cimport template_rename
from lvscore._core.server cimport SERVER_AVAILABLE, Server, server_bind_template
from lvscore._core.service cimport ENGINE_SIP, FTP_PORT, Service
from lvscore._core.sip cimport (
    CallId, UDP_HEADER_LENGTH, call_id_find, call_id_hash, dialog_add, dialog_next,
)
from lvscore._core.state cimport (
    State, SYSCTL_EXPIRE_QUIESCENT_TEMPLATE, TRACE_TEMPLATE, templates_of, trace_step,
)
from lvscore._core.track cimport STATE_NONE
from lvscore._core.wire cimport Packet, packet_l4

cdef enum:
    INVALID_PORT = 0xFFFF       # both ports of a template that leads nowhere any more


cdef inline bint has_own_port(const Service* service, const Tuple* t) noexcept nogil:
    """Whether a packet is for the service's very port, which its template then keeps."""
    return ports_destination(t.ports) == service.port and ntohs(service.port) != FTP_PORT


cdef inline void template_tuple(const Service* service, const Tuple* t,
                                Tuple* key) noexcept nogil:
    """The tuple of the template for a packet that opens a connection.

    Of FTP and of a service on port 0 it stands for all ports, of a mark for all that has it.
    """
    key.family = t.family
    key.protocol = t.protocol
    key.source = address_and(&t.source, &service.options.netmask)
    key.destination = t.destination
    key.ports = ports_make(0, service.port if has_own_port(service, t) else 0)
    if ports_destination(t.ports) != service.port and service.protocol == PROTOCOL_MARK:
        key.protocol = PROTOCOL_MARK
        key.destination = service.address


cdef inline bint template_is_valid(const State* s, const Meta* meta) noexcept nogil:
    """Whether a template's server is there still (ip_vs_check_template)."""
    cdef const Server* server = &s.services.server[meta.server]
    if not server.flags & SERVER_AVAILABLE:
        return False
    return server.weight != 0 or not s.sysctl[SYSCTL_EXPIRE_QUIESCENT_TEMPLATE]


cdef inline void template_invalidate(State* s, Table* templates, uint32_t i) noexcept nogil:
    """Let no look-up find a template; it stays until its timer ends it."""
    cdef Tuple original, reply
    connection_tuple(templates, i, ORIGINAL, &original)
    connection_tuple(templates, i, REPLY, &reply)
    original.ports = ports_make(0, INVALID_PORT)
    reply.ports = ports_make(INVALID_PORT, 0)
    template_rename(templates, &s.key, i, &original, &reply)


cdef inline bint packet_call_id(const Packet* packet, CallId* id) noexcept nogil:
    """The Call-ID of a SIP message over UDP, as far as it was captured (ip_vs_sip_fill_param)."""
    return (packet.protocol == PROTOCOL_UDP and packet.l4_captured > UDP_HEADER_LENGTH
            and call_id_find(packet_l4(packet) + UDP_HEADER_LENGTH,
                             packet.l4_captured - UDP_HEADER_LENGTH, id))


cdef inline uint32_t template_of_dialog(State* s, Table* templates, const Tuple* key,
                                        const CallId* id) noexcept nogil:
    """The template of a SIP dialog with a service, whoever its client is; or NIL."""
    cdef uint64_t hash = call_id_hash(&s.key, id)
    cdef uint32_t dialog = dialog_next(&s.dialogs, hash, key.family, id, 0)
    cdef uint32_t i
    cdef Tuple t
    while dialog:
        i = s.dialogs.dialog[dialog - 1].template
        connection_tuple(templates, i, ORIGINAL, &t)
        if (t.protocol == key.protocol and t.ports == key.ports
                and address_equal(&t.destination, &key.destination)):
            return i
        dialog = dialog_next(&s.dialogs, hash, key.family, id, dialog)
    return NIL


cdef inline uint32_t template_find(State* s, const Service* service, const Tuple* t,
                                   const CallId* id) noexcept nogil:
    """The valid template for a packet that opens a connection, or NIL; ``id``: of a service that
    goes by Call-IDs."""
    cdef Table* templates = templates_of(s, t.family)
    cdef Tuple key
    cdef uint32_t i
    template_tuple(service, t, &key)
    if service.options.engine == ENGINE_SIP:
        i = template_of_dialog(s, templates, &key, id)
    else:
        i = table_find(templates, tuple_hash(&s.key, &key), &key)
        i = NIL if i == NIL else i >> 1
    if i == NIL:
        return NIL
    if not template_is_valid(s, table_meta(templates, i)):
        template_invalidate(s, templates, i)
        return NIL
    trace_step(s, TRACE_TEMPLATE, table_meta(templates, i).server, 0, &key)
    return i


cdef inline uint32_t template_open(State* s, const Service* service, const Tuple* t,
                                   uint32_t k, const CallId* id) noexcept nogil:
    """Remember that a client, or a dialog, went to server ``k``; NIL at the bound."""
    cdef Table* templates = templates_of(s, t.family)
    cdef Server* server = &s.services.server[k]
    cdef Tuple key, reply
    cdef uint32_t i
    template_tuple(service, t, &key)
    reply.family = key.family
    reply.protocol = key.protocol
    reply.source = server.address
    reply.destination = key.source
    reply.ports = ports_make(server.port if has_own_port(service, t) else 0, 0)
    i = connection_open(templates, &s.key, &key, &reply, k, STATE_NONE,
                        FLAG_SERVICE | FLAG_TEMPLATE, s.tick_up + service.options.timeout)
    if i == NIL:
        return NIL
    connection_extension(templates, i).timeout = service.options.timeout
    server_bind_template(server)
    if service.options.engine == ENGINE_SIP:
        connection_extension(templates, i).next = dialog_add(
            &s.dialogs, call_id_hash(&s.key, id), key.family, id, i)
    return i


cdef inline void template_touch(State* s, uint32_t family, uint32_t i) noexcept nogil:
    """A connection was opened under a template: its time begins anew (ip_vs_conn_put)."""
    cdef Table* templates = templates_of(s, family)
    connection_timer_set(templates, i, s.tick_up + connection_extension(templates, i).timeout)
