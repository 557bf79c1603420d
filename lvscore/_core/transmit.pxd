"""How a request goes to its server: the forwarding methods (ip_vs_xmit.c)."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from lvscore._core.consts cimport (
    IPV4, REASON_NONE, REASON_NO_ROUTE, REASON_TRUNCATED_TRANSPORT_HEADER, REASON_TUNNEL_MTU,
    VERDICT_DROP, VERDICT_FORWARD, VERDICT_LOCAL, VERDICT_STOLEN,
)
from lvscore._core.emit cimport emit_commit, emit_reserve
from lvscore._core.event cimport header_is_whole
from lvscore._core.flow cimport Address, Tuple, address_equal, tuple_hash
from lvscore._core.forward cimport forward_request
from lvscore._core.hash cimport random_next
from lvscore._core.route cimport NO_INTERFACE, source_towards
from lvscore._core.server cimport (
    METHOD_MASQUERADE, METHOD_ROUTE, METHOD_TUNNEL, SERVER_ROUTED, SERVER_ROUTED_BY, Server,
)
from lvscore._core.state cimport (
    State, SYSCTL_PMTU_DISC, TRACE_DIRECT, TRACE_TRANSLATED, TRACE_TUNNEL, is_hosted, trace_step,
)
from lvscore._core.translate cimport packet_translate, tuples_equal
from lvscore._core.tunnel cimport MAX_TUNNEL_HEADERS, tunnel_overhead, tunnel_write
from lvscore._core.wire cimport Packet


cdef inline uint8_t request_route(State* s, Packet* packet, const Tuple* translated, uint32_t k,
                                  uint32_t method) noexcept nogil:
    """With a Host: find the way to server ``k``; why there is none."""
    cdef Server* server = &s.services.server[k]
    cdef uint8_t failed
    if not is_hosted(s):
        return REASON_NONE
    if not server.flags & SERVER_ROUTED:
        server.flags &= ~<uint32_t>SERVER_ROUTED_BY
        server.flags |= SERVER_ROUTED | (SERVER_ROUTED_BY if method == METHOD_ROUTE else 0)
    if method == METHOD_ROUTE:
        failed = forward_request(&s.routes, packet, server.family, &server.address, 0, False,
                                 &s.forward)
        # A way that another method has cached looks for the neighbour that the packet names.
        if (not server.flags & SERVER_ROUTED_BY and s.forward.egress != NO_INTERFACE
                and address_equal(&s.forward.next_hop, &server.address)):
            s.forward.next_hop = translated.destination
        return failed
    if method == METHOD_TUNNEL:
        return forward_request(&s.routes, packet, server.family, &server.address,
                               tunnel_overhead(server),
                               packet.family == IPV4 and not s.sysctl[SYSCTL_PMTU_DISC],
                               &s.forward)
    return forward_request(&s.routes, packet, packet.family, &translated.destination, 0, False,
                           &s.forward)


cdef inline uint8_t request_verdict(const State* s) noexcept nogil:
    """A request leaves, unless its server is this host."""
    if is_hosted(s) and s.forward.egress == NO_INTERFACE:
        return VERDICT_LOCAL
    return VERDICT_FORWARD


cdef inline uint8_t request_transmit(State* s, Packet* packet, const Tuple* t,
                                     const Tuple* translated, uint32_t k, uint32_t method,
                                     uint8_t* reason) noexcept nogil:
    """Send a request to server ``k``; its verdict. ``reason`` is set if it is dropped."""
    cdef uint8_t failed = request_route(s, packet, translated, k, method)
    cdef uint8_t verdict
    # Only what rewrites ports needs the transport header.
    if failed == REASON_NONE and method == METHOD_MASQUERADE and not header_is_whole(packet):
        failed = REASON_TRUNCATED_TRANSPORT_HEADER
    if failed:
        reason[0] = failed
        return VERDICT_DROP
    verdict = request_verdict(s)
    if method == METHOD_MASQUERADE:
        packet_translate(packet, t, translated, True)
        trace_step(s, TRACE_TRANSLATED, 0, 0, translated)
    elif method == METHOD_TUNNEL and verdict == VERDICT_FORWARD:
        s.forward.tunnel = k        # wrapped when it leaves
        trace_step(s, TRACE_TUNNEL, k, 0, t)
    elif verdict == VERDICT_FORWARD:
        trace_step(s, TRACE_DIRECT, k, 0, t)
        if not tuples_equal(t, translated):     # its source is, by conntrack's rules
            packet_translate(packet, t, translated, False)
            trace_step(s, TRACE_TRANSLATED, 0, 0, translated)
    return verdict


cdef inline bint tunnel_source(const State* s, const Tuple* t, const Server* server,
                               Address* source) noexcept nogil:
    """The address that a tunnel begins at: towards its server, else the virtual one."""
    if source_towards(&s.routes, server.family, &server.address, source):
        return True
    source[0] = t.destination
    return server.family == t.family and not is_hosted(s)


cdef inline uint8_t tunnel_emit(State* s, const Packet* packet, const Tuple* t,
                                uint8_t* reason) noexcept nogil:
    """Put out a packet wrapped for the server that request_transmit found; its verdict."""
    cdef const Server* server = &s.services.server[s.forward.tunnel]
    cdef Address source
    cdef uint8_t* room
    cdef uint32_t length
    if not tunnel_source(s, t, server, &source):
        reason[0] = REASON_NO_ROUTE
        return VERDICT_DROP
    if tunnel_overhead(server) + packet.l3_length > 0xFFFF:
        reason[0] = REASON_TUNNEL_MTU
        return VERDICT_DROP
    room = emit_reserve(&s.emitted, packet.length + MAX_TUNNEL_HEADERS)
    if room != NULL:
        length = tunnel_write(room, packet, server, &source, s.emitted.link_type,
                              s.sysctl[SYSCTL_PMTU_DISC] != 0,
                              <uint16_t>random_next(&s.chance), tuple_hash(&s.key, t))
        emit_commit(&s.emitted, length, s.now, VERDICT_FORWARD, reason[0])
    return VERDICT_STOLEN
