"""ICMP errors about connections: translated outside and inside.

An error quotes the packet that caused it, as that packet left here: translated. It goes the
other way, so the quote turned round is the tuple that a packet of the error's direction has
before translation. The quote is put back to what its sender sent; outside, whichever address
this direction translates is replaced, whoever sent the error (ip_vs_core.c,
ip_vs_nat_icmp; nf_nat_core.c, nf_nat_icmp_reply_translation).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from lvscore._core.bytes cimport htons, load16, load_be16, store16
from lvscore._core.checksum cimport (
    checksum_finish, checksum_update, delta_add16, delta_add_bytes, delta_finish, sum_bytes,
    sum_fold,
)
from lvscore._core.connection cimport (
    FLAG_SERVICE, Meta, Table, connection_count, connection_method, connection_translated,
    connection_tuple, table_find, table_meta,
)
from lvscore._core.consts cimport (
    IPV4, IPV6, NIL, ORIGINAL, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_UDP,
    REASON_BAD_ICMP_CHECKSUM, REASON_ICMP_NOT_RELATED, REASON_NONE, REASON_RELATED_ICMP,
    REASON_TABLE_FULL, REPLY, TICKS_PER_SECOND, VERDICT_DROP, VERDICT_FORWARD, VERDICT_LOCAL,
    VERDICT_PASS,
)
from lvscore._core.flow cimport (
    Tuple, address_equal, has_ports, ports_source, transport_ports, tuple_hash, tuple_inverse,
    tuple_load,
)
from lvscore._core.forward cimport forward_pass, forward_request
from lvscore._core.route cimport NO_INTERFACE, address_is_local
from lvscore._core.schedule cimport (
    Choice, choice_open, choice_reply, service_choose, service_of,
)
from lvscore._core.server cimport (
    METHOD_MASQUERADE, SERVER_AVAILABLE, Server, server_bind, server_unbind,
)
from lvscore._core.service cimport FTP_DATA_PORT
from lvscore._core.state cimport (
    SYSCTL_SCHEDULE_ICMP, SYSCTL_SNAT_REROUTE, State, TRACE_FOUND, TRACE_ICMP_ERROR,
    TRACE_NOT_FOUND, TRACE_TRANSLATED, connection_total, is_hooked, is_hosted, table_of,
    trace_step,
)
from lvscore._core.translate cimport addresses_delta, addresses_write, transport_write
from lvscore._core.transmit cimport request_transmit
from lvscore._core.tunnel_error cimport tunnel_error_process
from lvscore._core.wire cimport Packet, ipv4_parse, ipv6_parse, packet_l3, packet_l4

cdef enum:
    ICMP_PARAMETER_PROBLEM = 12
    NEW_TICKS = 3 * TICKS_PER_SECOND    # of a connection before its first packet (ip_vs_conn_new)


cdef inline bint icmp_is_error(const Packet* packet) noexcept nogil:
    """Unreachable, source quench, time exceeded, parameter problem; of ICMPv6 all that is
    not informational. A redirect is about a route, not about a connection."""
    cdef uint8_t kind
    if packet.l4_captured < 8:
        return False
    kind = packet_l4(packet)[0]
    if packet.protocol == PROTOCOL_ICMP and packet.family == IPV4:
        return kind == 3 or kind == 4 or kind == 11 or kind == ICMP_PARAMETER_PROBLEM
    return packet.protocol == PROTOCOL_ICMPV6 and packet.family == IPV6 and kind < 128


cdef inline bint quote_parse(const Packet* packet, Packet* quote) noexcept nogil:
    """Parse the quoted packet; False if it is of no use. Its lengths are not what is quoted."""
    cdef uint8_t reason
    if packet.l4_captured < 8:
        return False
    quote.frame = packet.frame
    quote.l3 = packet.l4 + 8
    quote.length = packet.l4 + packet.l4_captured
    quote.wire_length = quote.l3 + 0x10000  # a quote is cut: its length says what was sent
    if packet.family == IPV4:
        reason = ipv4_parse(quote)
    else:
        reason = ipv6_parse(quote)
    if reason or quote.fragment_offset:
        return False
    if has_ports(quote.protocol):
        return quote.l4_captured >= 4
    return quote.l4_captured >= 6


cdef inline bint icmp_checksum_good(const Packet* packet) noexcept nogil:
    """Whether the ICMP checksum is right; a snapped message gets the benefit of the doubt."""
    cdef uint64_t total = 0
    if packet.l4_captured < packet.l4_length:
        return True
    if packet.family == IPV6:
        total = sum_bytes(packet_l3(packet) + 8, 32, 0)
        total += htons(PROTOCOL_ICMPV6)
        total += htons(<uint16_t>packet.l4_length)
    return sum_fold(sum_bytes(packet_l4(packet), packet.l4_length, total)) == 0xFFFF


cdef inline uint64_t quote_translate(Packet* quote, const Tuple* old, const Tuple* new,
                                     bint service) noexcept nogil:
    """Rewrite the quoted headers; what that adds to the ICMP checksum.

    IPVS makes the quoted IP checksum anew and leaves the transport checksum as it is;
    netfilter updates both.
    """
    cdef uint8_t* ip = packet_l3(quote)
    cdef uint8_t* l4 = packet_l4(quote)
    cdef uint32_t header = quote.l4 - quote.l3
    cdef uint32_t captured = quote.l4_captured if quote.l4_captured < 20 else 20
    cdef uint16_t before[10]
    cdef uint16_t ip_sum = load16(ip + 10)
    cdef uint64_t delta
    cdef uint32_t i
    captured &= ~<uint32_t>1
    memcpy(before, l4, captured)
    delta = addresses_write(ip, old, new)
    if quote.family == IPV4:
        if service:
            store16(ip + 10, 0)
            store16(ip + 10, checksum_finish(sum_bytes(ip, header, 0)))
    if service:
        if has_ports(new.protocol):
            memcpy(l4, &new.ports, 4)
    else:
        transport_write(l4, captured, old, new, delta)
    if quote.family == IPV4:
        delta = delta_add16(delta, ip_sum, load16(ip + 10))
    for i in range(captured // 2):
        delta = delta_add16(delta, before[i], load16(l4 + 2 * i))
    return delta


cdef inline uint8_t error_forward(State* s, Packet* packet, const Tuple* t, const Tuple* outer,
                                  bint service, uint32_t direction) noexcept nogil:
    """With a Host: find an error's way on; why there is none."""
    if service and direction == ORIGINAL:
        return forward_request(&s.routes, packet, packet.family, &outer.destination, 0, False,
                               &s.forward)
    if service or address_is_local(&s.routes, outer.family, &outer.destination):
        return REASON_NONE
    return forward_pass(&s.routes, packet, t, &outer.destination, &s.forward)


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
    server_bind(&s.services.server[choice.server])
    choice_reply(s, &choice, about, &reply)
    i = choice_open(s, &choice, about, &reply, s.tick_up + NEW_TICKS)
    if i == NIL:
        server_unbind(&s.services.server[choice.server], True, s.tick)
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


cdef inline uint8_t icmp_error_process(State* s, Packet* packet, const Tuple* t,
                                       uint8_t* reason) noexcept nogil:
    """An ICMP error: translate it if it is about a connection."""
    cdef Table* table = table_of(s, packet.family)
    cdef Packet quote
    cdef Tuple quoted, about, sent, back, outer
    cdef uint32_t reference = NIL
    cdef uint32_t direction
    cdef Meta* meta
    cdef Server* server
    cdef uint64_t delta
    cdef uint8_t* icmp = packet_l4(packet)
    cdef bint service, quoting, local
    cdef uint8_t failed, verdict
    reason[0] = REASON_ICMP_NOT_RELATED
    quoting = quote_parse(packet, &quote)
    if quoting:
        tuple_load(&quoted, quote.family, quote.protocol, packet_l3(&quote), transport_ports(
            quote.protocol, packet_l4(&quote), quote.l4_captured))
        about = tuple_inverse(&quoted)
        trace_step(s, TRACE_ICMP_ERROR, 0, 0, &quoted)
        reference = table_find(table, tuple_hash(&s.key, &about), &about)
        # netfilter translates a parameter problem, IPVS does not know it.
        if (reference != NIL and packet.family == IPV4 and icmp[0] == ICMP_PARAMETER_PROBLEM
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
    if (reference == NIL and local and quoting and s.sysctl[SYSCTL_SCHEDULE_ICMP]
            and is_hooked(s, packet.family)):
        if icmp_schedule(s, packet, &about, &reference, reason) == VERDICT_DROP:
            return VERDICT_DROP
    if reference == NIL:
        trace_step(s, TRACE_NOT_FOUND, 0, 0, t)
        reason[0] = REASON_ICMP_NOT_RELATED
        return VERDICT_LOCAL if local else VERDICT_PASS
    trace_step(s, TRACE_FOUND, reference, 0, &about)
    direction = reference & 1
    meta = table_meta(table, reference >> 1)
    service = meta.flags & FLAG_SERVICE
    if is_hosted(s) and service and not local:
        failed = forward_pass(&s.routes, packet, t, &t.destination, &s.forward)
        if failed:
            reason[0] = failed
            return VERDICT_DROP
    if not icmp_checksum_good(packet):
        reason[0] = REASON_BAD_ICMP_CHECKSUM
        return VERDICT_DROP
    # What the quoted packet was before it was translated here.
    connection_tuple(table, reference >> 1, 1 - direction, &sent)
    connection_translated(table, reference >> 1, direction, &back)
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
    if service and connection_method(meta) != METHOD_MASQUERADE:
        return icmp_error_untranslated(s, packet, t, reference, reason)
    if is_hosted(s):
        failed = error_forward(s, packet, t, &outer, service, direction)
        if failed:
            reason[0] = failed
            return VERDICT_DROP
    if service and direction == REPLY:
        s.forward.rerouted = s.sysctl[SYSCTL_SNAT_REROUTE] != 0
    delta = quote_translate(&quote, &quoted, &sent, service)
    if packet.family == IPV6:
        delta += addresses_delta(t, &outer)
    store16(icmp + 2, checksum_update(load16(icmp + 2), delta_finish(delta)))
    addresses_write(packet_l3(packet), t, &outer)
    trace_step(s, TRACE_TRANSLATED, 0, 0, &outer)
    reason[0] = REASON_RELATED_ICMP
    if is_hosted(s) and s.forward.egress == NO_INTERFACE:
        return VERDICT_LOCAL
    return VERDICT_FORWARD
