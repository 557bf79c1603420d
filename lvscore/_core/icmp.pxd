"""ICMP errors about connections: translated outside and inside.

An error quotes the packet that caused it, as that packet left here: translated. It goes the
other way, so the quote turned round is the tuple that a packet of the error's direction has
before translation. The quote is put back to what its sender sent; outside, whichever address
this direction translates is replaced, whoever sent the error (ip_vs_core.c,
ip_vs_nat_icmp; nf_nat_core.c, nf_nat_icmp_reply_translation).
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from lvscore._core.bytes cimport htons, load16, store16
from lvscore._core.checksum cimport checksum_update, delta_finish
from lvscore._core.connection cimport (
    FLAG_SERVICE, Meta, Table, connection_count, connection_method, connection_translated,
    connection_tuple, table_find, table_meta,
)
from lvscore._core.consts cimport (
    IPV4, IPV6, NIL, ORIGINAL, REASON_BAD_ICMP_CHECKSUM, REASON_NONE, REASON_RELATED_ICMP,
    REASON_TABLE_FULL, REASON_TRUNCATED_TRANSPORT_HEADER, REASON_UNTRANSLATABLE, REPLY,
    TICKS_PER_SECOND, VERDICT_DROP, VERDICT_FORWARD, VERDICT_LOCAL, VERDICT_PASS,
)
from lvscore._core.flow cimport (
    Address, Tuple, address_equal, has_ports, ports_destination, ports_make, ports_source,
    transport_ports, tuple_hash, tuple_inverse, tuple_load,
)
from lvscore._core.forward cimport forward_pass, forward_request
from lvscore._core.load cimport load_bind, load_unbind
from lvscore._core.nfct cimport (
    answer_service, flow_service, redirected_flow, rules_translate, service_seen,
)
from lvscore._core.quote cimport (
    ICMP_PARAMETER_PROBLEM, ICMP_REDIRECT, quote_lacks_ports, quote_parse, quote_translate,
)
from lvscore._core.related cimport QUOTED_LEAST, related_process, unrelated
from lvscore._core.route cimport NO_INTERFACE, address_is_local
from lvscore._core.schedule cimport (
    Choice, choice_open, choice_reply, service_choose, service_of,
)
from lvscore._core.server cimport (
    METHOD_MASQUERADE, SERVER_AVAILABLE, Server,
)
from lvscore._core.service cimport FTP_DATA_PORT
from lvscore._core.state cimport (
    SYSCTL_SCHEDULE_ICMP, SYSCTL_SNAT_REROUTE, State, TRACE_FOUND, TRACE_ICMP_ERROR,
    TRACE_NOT_FOUND, TRACE_TRANSLATED, connection_total, is_hooked, is_hosted, table_of,
    trace_step,
)
from lvscore._core.translate cimport addresses_delta, addresses_write, tuples_equal
from lvscore._core.transmit cimport request_transmit
from lvscore._core.tunnel_error cimport tunnel_error_process
from lvscore._core.verify cimport icmp_error_good
from lvscore._core.wire cimport Packet, packet_l3, packet_l4

cdef enum:
    ICMP_LEAST = 8                      # bytes of a quoted ICMP header that has an identifier
    NEW_TICKS = 3 * TICKS_PER_SECOND    # of a connection before its first packet (ip_vs_conn_new)


cdef inline uint8_t error_forward(State* s, Packet* packet, const Tuple* outer,
                                  uint32_t direction) noexcept nogil:
    """With a Host: find an error's way to the server; why there is none."""
    if is_hosted(s) and direction == ORIGINAL:
        return forward_request(&s.routes, packet, packet.family, &outer.destination, 0, False,
                               &s.forward)
    return REASON_NONE


cdef inline uint8_t icmp_schedule(State* s, const Packet* packet, const Tuple* about,
                                  uint32_t* reference, uint8_t* reason) noexcept nogil:
    """An error about no connection, with schedule_icmp=1: open that connection, if there is a
    service for it; PASS if there is none, else FORWARD or DROP."""
    cdef uint32_t service = service_of(s, packet, about)
    cdef Choice choice
    cdef Tuple reply
    cdef uint32_t i
    if service == NIL or ports_source(about.ports) == htons(FTP_DATA_PORT):
        return VERDICT_PASS
    reason[0] = service_choose(s, service, packet, about, &choice)
    if reason[0] == REASON_NONE and connection_total(s) >= s.max_connections:
        reason[0] = REASON_TABLE_FULL
    if reason[0]:
        return VERDICT_DROP
    load_bind(&s.services, choice.server)
    choice_reply(s, &choice, about, &reply)
    i = choice_open(s, &choice, about, &reply, s.tick_up + NEW_TICKS)
    if i == NIL:
        load_unbind(&s.services, choice.server, True, s.tick)
        reason[0] = REASON_TABLE_FULL
        return VERDICT_DROP
    reference[0] = i << 1 | ORIGINAL
    return VERDICT_FORWARD


cdef inline uint8_t icmp_error_untranslated(State* s, Packet* packet, const Tuple* t,
                                            uint32_t reference,
                                            uint8_t* reason) noexcept nogil:
    """An error about a connection that is not masqueraded: to its server in the connection's
    own way, from its server as it is (ip_vs_icmp_xmit, handle_response_icmp)."""
    cdef const Meta* meta = table_meta(table_of(s, packet.family), reference >> 1)
    reason[0] = REASON_RELATED_ICMP
    if reference & 1 == ORIGINAL:
        return request_transmit(s, packet, t, t, meta.server, connection_method(meta), reason)
    return VERDICT_FORWARD


cdef inline uint64_t service_quote(Packet* quote, const Tuple* quoted, const Tuple* sent,
                                   uint32_t direction, const Tuple* begun) noexcept nogil:
    """Put back what an error about a service's connection quotes: IPVS where the packet was for,
    netfilter, before it or behind it, who sent it, and behind both what a redirected flow began
    with, ``begun``, or NULL. What that adds to the ICMP checksum."""
    cdef Tuple between = quoted[0]
    cdef uint64_t delta
    between.source = sent.source
    between.ports = ports_make(ports_source(sent.ports), ports_destination(quoted.ports))
    if direction == REPLY:
        delta = 0 if tuples_equal(quoted, &between) else quote_translate(
            quote, quoted, &between, False)
        delta += quote_translate(quote, &between, sent, True)
        if begun != NULL:
            delta += quote_translate(quote, sent, begun, False)
        return delta
    delta = quote_translate(quote, quoted, &between, True)
    return delta if tuples_equal(&between, sent) else delta + quote_translate(
        quote, &between, sent, False)


cdef inline uint8_t icmp_error_process(State* s, Packet* packet, const Tuple* t,
                                       bint received, uint8_t* reason) noexcept nogil:
    """An ICMP error: translate it if it is about a connection.

    ``received``: it came in, else it is this host's own.
    """
    cdef Table* table = table_of(s, packet.family)
    cdef Packet quote
    cdef Tuple quoted, about, sent, back, outer, begun
    cdef Address towards
    cdef uint32_t reference = NIL
    cdef uint32_t direction
    cdef Meta* meta
    cdef Server* server
    cdef uint64_t delta
    cdef uint8_t* icmp = packet_l4(packet)
    cdef uint32_t flow = NIL            # a redirected one, of which IPVS sees the answers
    cdef uint32_t other
    cdef bint quoting, local, schedules
    cdef uint8_t failed, verdict
    quoting = quote_parse(packet, &quote)
    if quoting:
        tuple_load(&quoted, quote.family, quote.protocol, packet_l3(&quote), transport_ports(
            quote.protocol, packet_l4(&quote), quote.l4_captured))
        about = tuple_inverse(&quoted)
        trace_step(s, TRACE_ICMP_ERROR, 0, 0, &quoted)
        reference = table_find(table, tuple_hash(&s.key, &about), &about)
        if reference != NIL and not s.tracking:
            reference = service_seen(table, reference)
        if quote.protocol == packet.protocol and quote.l4_captured < ICMP_LEAST:
            reference = NIL                     # without an identifier (icmp_pkt_to_tuple)
        elif reference == NIL:
            reference = answer_service(s, table, &about)
        if (s.tracking and reference != NIL and reference & 1 == REPLY
                and redirected_flow(s, table, reference) != NIL):
            reference = redirected_flow(s, table, reference)
        # netfilter knows parameter problems and redirects, IPVS does not.
        if (reference != NIL and packet.family == IPV4
                and (icmp[0] == ICMP_PARAMETER_PROBLEM or icmp[0] == ICMP_REDIRECT)
                and table_meta(table, reference >> 1).flags & FLAG_SERVICE):
            reference = NIL
    if reference != NIL and not is_hooked(s, packet.family) and table_meta(
            table, reference >> 1).flags & FLAG_SERVICE:
        reference = NIL
    local = address_is_local(&s.routes, t.family, &t.destination)
    if reference == NIL and local and is_hosted(s) and is_hooked(s, packet.family):
        verdict = tunnel_error_process(s, packet, reason)
        if verdict != VERDICT_PASS:
            return verdict
    schedules = (s.sysctl[SYSCTL_SCHEDULE_ICMP] and is_hooked(s, packet.family)
                 and not (packet.family == IPV4 and (icmp[0] == ICMP_PARAMETER_PROBLEM
                                                     or icmp[0] == ICMP_REDIRECT)))
    if reference == NIL and local and quoting and schedules:
        if icmp_schedule(s, packet, &about, &reference, reason) == VERDICT_DROP:
            return VERDICT_DROP
    if reference == NIL and schedules and quote_lacks_ports(packet):
        reason[0] = REASON_TRUNCATED_TRANSPORT_HEADER
        return VERDICT_DROP
    if reference == NIL:
        trace_step(s, TRACE_NOT_FOUND, 0, 0, t)
        return unrelated(s, t, reason)
    trace_step(s, TRACE_FOUND, reference, 0, &about)
    direction = reference & 1
    if not table_meta(table, reference >> 1).flags & FLAG_SERVICE:
        other = flow_service(s, table, reference, &about)
        if other == NIL or not address_equal(&about.destination, &t.destination):
            return related_process(s, packet, t, &quote, &quoted, reference, received, reason)
        flow = reference >> 1
        reference = other
        connection_tuple(table, flow, ORIGINAL, &begun)
    meta = table_meta(table, reference >> 1)
    if (quote.l4_captured < QUOTED_LEAST and has_ports(quote.protocol)
            and rules_translate(s, table, reference >> 1)):
        reason[0] = REASON_UNTRANSLATABLE
        return VERDICT_DROP
    connection_translated(table, reference >> 1, direction, &back)
    towards = t.destination
    if direction == REPLY and rules_translate(s, table, reference >> 1):
        towards = back.destination      # netfilter takes it from this host to the client
    if is_hosted(s) and not address_is_local(&s.routes, t.family, &towards):
        failed = forward_pass(&s.routes, packet, t, &towards, &s.forward)
        if failed:
            reason[0] = failed
            return VERDICT_DROP
    if connection_method(meta) == METHOD_MASQUERADE and not icmp_error_good(packet):
        reason[0] = REASON_BAD_ICMP_CHECKSUM
        return VERDICT_DROP
    # What the quoted packet was before it was translated here.
    connection_tuple(table, reference >> 1, 1 - direction, &sent)
    outer = t[0]
    if not address_equal(&about.source, &back.source):
        outer.source = back.source
    if not address_equal(&about.destination, &back.destination):
        outer.destination = back.destination
    server = &s.services.server[meta.server]
    if server.flags & SERVER_AVAILABLE:
        server.packets[direction] += 1
        server.bytes[direction] += packet.l3_length
    connection_count(table, reference >> 1, direction, packet.l3_length)
    if connection_method(meta) != METHOD_MASQUERADE:
        return icmp_error_untranslated(s, packet, t, reference, reason)
    failed = error_forward(s, packet, &outer, direction)
    if failed:
        reason[0] = failed
        return VERDICT_DROP
    if direction == REPLY:
        s.forward.rerouted = s.sysctl[SYSCTL_SNAT_REROUTE] != 0
    if flow != NIL:
        outer.source = begun.destination
    delta = service_quote(&quote, &quoted, &sent, direction, NULL if flow == NIL else &begun)
    if packet.family == IPV6:
        delta += addresses_delta(t, &outer)
    store16(icmp + 2, checksum_update(load16(icmp + 2), delta_finish(delta)))
    addresses_write(packet_l3(packet), t, &outer)
    trace_step(s, TRACE_TRANSLATED, 0, 0, &outer)
    reason[0] = REASON_RELATED_ICMP
    if is_hosted(s) and s.forward.egress == NO_INTERFACE:
        return VERDICT_LOCAL
    return VERDICT_FORWARD
