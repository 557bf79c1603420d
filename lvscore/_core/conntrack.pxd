"""The router: flows tracked for the NAT rules (nf_conntrack_core.c, nf_nat_core.c).

An engine with NAT rules tracks every flow. The rules are consulted for the first packet only;
a flow that no rule changes still keeps its tuples, which others may then not take.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from lvscore._core.connection cimport (
    FLAG_EXTENDED, FLAG_SEEN_REPLY, FLAG_SERVICE, FLAG_SLOW, FLAG_UNTRANSLATED, Meta, Table,
    connection_count, connection_extension, connection_open, connection_translated, table_find,
    table_meta,
)
from lvscore._core.consts cimport (
    IPV4, IPV6, NIL, ORIGINAL, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_MARK, PROTOCOL_SCTP,
    PROTOCOL_TCP,
    PROTOCOL_UDP, REASON_INVALID_STATE, REASON_LOCAL_ADDRESS, REASON_NEW_CONNECTION,
    REASON_NONE, REASON_NO_PORT, REASON_NO_PROTOCOL_HANDLER, REASON_REPLY, REASON_REQUEST,
    REASON_TABLE_FULL, REASON_TRUNCATED_TRANSPORT_HEADER, REASON_UNTRANSLATED, REPLY,
    VERDICT_DROP, VERDICT_FORWARD, VERDICT_LOCAL, VERDICT_PASS,
)
from lvscore._core.director cimport service_packet, service_schedule
from lvscore._core.event cimport header_is_whole, opening_is_whole, tcp_flags
from lvscore._core.flow cimport (
    Tuple, icmp_is_request, tuple_hash, tuple_inverse,
)
from lvscore._core.forward cimport forward_pass
from lvscore._core.lifetime cimport connection_end, connection_state_set
from lvscore._core.route cimport Route, address_is_local, route_find
from lvscore._core.rules cimport (
    ANY_INTERFACE, Chain, Rule, TARGET_DNAT, TARGET_SNAT, chain_find, reply_is_free, rule_apply,
    tuple_make_free,
)
from lvscore._core.schedule cimport service_of
from lvscore._core.state cimport (
    State, TRACE_FOUND, TRACE_LOCAL, TRACE_NO_RULE, TRACE_NO_SERVICE, TRACE_OPENED,
    TRACE_REUSED, TRACE_RULE, TRACE_STATE, TRACE_TIMEOUT, TRACE_TRANSLATED, connection_total,
    is_hooked, is_hosted, table_of, trace_step,
)
from lvscore._core.track cimport (
    ASSURED_AFTER, RULE_UDP_ASSURED, RULE_UDP_REPLIED, STATE_AGED, STATE_IGNORED,
    STATE_INVALID, STATE_REOPENED, TCP_RST, TRACKER_MASK, RULE_TCP, rule_state_initial,
)
from lvscore._core.translate cimport packet_translate
from lvscore._core.wire cimport Packet, packet_l4


cdef inline uint8_t untracked(State* s, Packet* packet, const Tuple* t, uint8_t why,
                              uint8_t* reason) noexcept nogil:
    """A packet that the rules leave alone: for a service, the local stack, or passed."""
    cdef uint32_t service
    cdef bint local = address_is_local(&s.routes, t.family, &t.destination)
    # A mark makes any address a virtual one, where no Host knows which are its own.
    if not local and (packet.mark == 0 or s.routes.hosted):
        reason[0] = why
        return VERDICT_PASS
    service = service_of(s, packet, t)
    if not local and (service == NIL
                      or s.services.service[service].protocol != PROTOCOL_MARK):
        reason[0] = why
        return VERDICT_PASS
    if (packet.protocol == PROTOCOL_SCTP and packet.l4_captured >= 4 and is_hooked(s, t.family)
            and not opening_is_whole(packet)):
        # Without its first chunk IPVS does not even look for a service (sctp_conn_schedule).
        reason[0] = REASON_TRUNCATED_TRANSPORT_HEADER
        return VERDICT_DROP
    if service != NIL and packet.l4_captured >= 4:
        return service_schedule(s, packet, t, service, NIL, reason)
    trace_step(s, TRACE_NO_SERVICE, 0, 0, t)
    reason[0] = REASON_LOCAL_ADDRESS
    return VERDICT_LOCAL


cdef inline bint may_be_tracked(const Packet* packet) noexcept nogil:
    """Whether a packet can begin or continue a flow that is translated."""
    if packet.protocol == PROTOCOL_TCP or packet.protocol == PROTOCOL_UDP:
        return header_is_whole(packet)
    if packet.protocol == PROTOCOL_ICMP:
        return packet.family == IPV4 and packet.l4_captured >= 8
    if packet.protocol == PROTOCOL_ICMPV6:
        return packet.family == IPV6 and packet.l4_captured >= 8
    # SCTP ports cannot be rewritten without its CRC; 0 marks records that are free.
    return packet.protocol != PROTOCOL_SCTP and packet.protocol != 0


cdef inline uint8_t rule_verdict(State* s, Table* table, uint32_t i, uint32_t direction,
                                 uint8_t reason_if_translated, const Tuple* translated,
                                 uint8_t* reason) noexcept nogil:
    reason[0] = reason_if_translated
    if address_is_local(&s.routes, translated.family, &translated.destination):
        trace_step(s, TRACE_LOCAL, 0, 0, translated)
        return VERDICT_LOCAL
    if table_meta(table, i).flags & FLAG_UNTRANSLATED:
        reason[0] = REASON_UNTRANSLATED
    return VERDICT_FORWARD


cdef inline uint8_t rule_schedule_local(State* s, Packet* packet, const Tuple* t,
                                        const Tuple* translated, uint8_t* reason) noexcept nogil:
    """A packet that a DNAT rule sent to a virtual service.

    With conntrack=0 IPVS takes it from netfilter, which forgets it: the next packet goes
    through the rules again (ip_vs_xmit.c, ip_vs_notrack).
    """
    cdef uint32_t reference = table_find(table_of(s, t.family), tuple_hash(&s.key, translated),
                                         translated)
    packet_translate(packet, t, translated, False)
    trace_step(s, TRACE_TRANSLATED, 0, 0, translated)
    if reference != NIL and table_meta(table_of(s, t.family), reference >> 1).flags & FLAG_SERVICE:
        trace_step(s, TRACE_FOUND, reference, 0, translated)
        return service_packet(s, packet, translated, reference, reason)
    return service_schedule(s, packet, translated, service_of(s, packet, translated), NIL,
                            reason)


cdef inline uint8_t rule_new(State* s, Packet* packet, const Tuple* t,
                             uint8_t* reason) noexcept nogil:
    """The first packet of a flow, in an engine with NAT rules."""
    cdef Table* table = table_of(s, packet.family)
    cdef uint8_t initial, state, failed
    cdef Tuple wanted = t[0]
    cdef Tuple reply
    cdef Rule* rule
    cdef const Route* route
    cdef uint32_t i
    cdef uint16_t flags = 0
    cdef bint local
    if not may_be_tracked(packet):
        return untracked(s, packet, t, REASON_NO_PROTOCOL_HANDLER, reason)
    initial = rule_state_initial(packet.protocol)
    state = s.tracker.next[ORIGINAL][tcp_flags(packet) & 31][initial]
    if state == STATE_INVALID or (
            (packet.protocol == PROTOCOL_ICMP or packet.protocol == PROTOCOL_ICMPV6)
            and not icmp_is_request(packet.protocol, packet_l4(packet)[0])):
        return untracked(s, packet, t, REASON_INVALID_STATE, reason)
    rule = chain_find(&s.prerouting, &wanted, ANY_INTERFACE)
    if rule != NULL:
        failed = rule_apply(rule, &s.routes, table, &s.key, &s.chance, &wanted)
        trace_step(s, TRACE_RULE, rule.number, TARGET_DNAT, &wanted)
        if failed:
            reason[0] = failed
            return VERDICT_DROP
        rule.packets += 1
    else:
        trace_step(s, TRACE_NO_RULE, 0, TARGET_DNAT, t)
    local = address_is_local(&s.routes, wanted.family, &wanted.destination)
    if local:
        if service_of(s, packet, &wanted) != NIL:
            return rule_schedule_local(s, packet, t, &wanted, reason)
        trace_step(s, TRACE_LOCAL, 0, 0, &wanted)
    else:
        route = route_find(&s.routes, wanted.family, &wanted.destination)
        rule = chain_find(&s.postrouting, &wanted,
                          <int>route.interface if route != NULL else ANY_INTERFACE)
    if is_hosted(s) and not local:
        failed = forward_pass(&s.routes, packet, t, &wanted.destination, &s.forward)
        if failed:
            reason[0] = failed
            return VERDICT_DROP
    if not local and rule != NULL:
        failed = rule_apply(rule, &s.routes, table, &s.key, &s.chance, &wanted)
        trace_step(s, TRACE_RULE, rule.number, TARGET_SNAT, &wanted)
        if failed == REASON_NONE:
            rule.packets += 1
    else:
        trace_step(s, TRACE_NO_RULE, 0, TARGET_SNAT, &wanted)
        # Nothing is to change, but the reply tuple must be free (a null binding).
        failed = tuple_make_free(table, &s.key, &s.chance, &wanted, True, 0, 0, False)
    if failed == REASON_NONE and not reply_is_free(table, &s.key, &wanted):
        failed = REASON_NO_PORT
    if failed == REASON_NONE and connection_total(s) >= s.max_connections:
        failed = REASON_TABLE_FULL
    if failed:
        reason[0] = failed
        return VERDICT_DROP
    reply = tuple_inverse(&wanted)
    # What is for this host in either direction gets its verdict behind the translation.
    if local or address_is_local(&s.routes, t.family, &t.source):
        flags = FLAG_SLOW
    i = connection_open(table, &s.key, t, &reply, 0, state, flags,
                        s.tick_up + s.tracker.timeout[state])
    if i == NIL:
        reason[0] = REASON_TABLE_FULL
        return VERDICT_DROP
    s.opened += 1
    if packet.protocol == PROTOCOL_UDP:
        connection_extension(table, i)  # remembers when the flow began
    trace_step(s, TRACE_OPENED, i << 1, 0, t)
    connection_count(table, i, ORIGINAL, packet.l3_length)
    packet_translate(packet, t, &wanted, False)
    trace_step(s, TRACE_TRANSLATED, 0, 0, &wanted)
    return rule_verdict(s, table, i, ORIGINAL, REASON_NEW_CONNECTION, &wanted, reason)


cdef inline uint8_t rule_packet(State* s, Packet* packet, const Tuple* t, uint32_t reference,
                                uint8_t* reason) noexcept nogil:
    """A packet of a flow that is tracked for the NAT rules."""
    cdef Table* table = table_of(s, packet.family)
    cdef uint32_t i = reference >> 1
    cdef uint32_t direction = reference & 1
    cdef Meta* meta = table_meta(table, i)
    cdef uint8_t old = meta.state
    cdef bint answered = meta.flags & FLAG_SEEN_REPLY
    cdef uint8_t new
    cdef Tuple translated
    cdef uint8_t verdict, failed
    if not may_be_tracked(packet):
        return untracked(s, packet, t, REASON_INVALID_STATE, reason)
    new = s.tracker.next[direction][tcp_flags(packet) & 31][old]
    if new == STATE_INVALID:
        return untracked(s, packet, t, REASON_INVALID_STATE, reason)
    if new == STATE_REOPENED:
        trace_step(s, TRACE_REUSED, reference, 0, t)
        connection_end(s, table, i, True)
        return rule_new(s, packet, t, reason)
    if new == STATE_AGED:
        new = RULE_UDP_REPLIED
        if (meta.flags & FLAG_EXTENDED
                and s.tick > connection_extension(table, i).created + ASSURED_AFTER):
            new = RULE_UDP_ASSURED
    connection_translated(table, i, direction, &translated)
    connection_count(table, i, direction, packet.l3_length)
    if direction == REPLY:
        meta.flags |= FLAG_SEEN_REPLY
    if is_hosted(s) and not address_is_local(&s.routes, t.family, &translated.destination):
        # The state was taken before routing, which may yet refuse the packet.
        failed = forward_pass(&s.routes, packet, t, &translated.destination, &s.forward)
        if failed:
            if new != STATE_IGNORED:
                connection_state_set(s, table, i, new)
            reason[0] = failed
            return VERDICT_DROP
    packet_translate(packet, t, &translated, False)
    trace_step(s, TRACE_TRANSLATED, 0, 0, &translated)
    verdict = rule_verdict(s, table, i, direction,
                           REASON_REQUEST if direction == ORIGINAL else REASON_REPLY,
                           &translated, reason)
    if new != STATE_IGNORED:
        trace_step(s, TRACE_STATE, old, new, t)
        trace_step(s, TRACE_TIMEOUT, s.tracker.timeout[new], 0, t)
        if (old & TRACKER_MASK == RULE_TCP and tcp_flags(packet) & TCP_RST
                and not answered):
            # Nothing but this RST came back: there is nothing to remember.
            connection_end(s, table, i, True)
        else:
            connection_state_set(s, table, i, new)
    return verdict
