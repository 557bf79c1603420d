"""ICMP errors about connections that conntrack knows (nf_conntrack_proto.c,
nf_conntrack_inet_error; nf_nat_proto.c, nf_nat_icmp_reply_translation).

Netfilter wants an error to go where the connection's own packets go, and puts the quote back
with its checksums.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from lvscore._core.bytes cimport load16, store16
from lvscore._core.checksum cimport checksum_update, delta_finish
from lvscore._core.connection cimport (
    FLAG_UNTRANSLATED, Table, connection_translated, connection_tuple, table_meta,
)
from lvscore._core.consts cimport (
    IPV6, PROTOCOL_GRE, REASON_BAD_ICMP_CHECKSUM, REASON_ICMP_NOT_RELATED, REASON_RELATED_ICMP,
    REASON_UNTRANSLATABLE, VERDICT_DROP, VERDICT_FORWARD, VERDICT_LOCAL, VERDICT_PASS,
)
from lvscore._core.flow cimport Tuple, address_equal, has_ports, ports_source
from lvscore._core.forward cimport forward_pass
from lvscore._core.quote cimport icmp_is_redirect, quote_translate
from lvscore._core.route cimport address_is_local
from lvscore._core.state cimport (
    CONNTRACK_CHECKSUM, State, TRACE_TRANSLATED, is_hosted, table_of, trace_step,
)
from lvscore._core.translate cimport addresses_delta, addresses_write
from lvscore._core.verify cimport transport_checksum_good
from lvscore._core.wire cimport Packet, packet_l3, packet_l4

cdef enum:
    QUOTED_LEAST = 8        # bytes of the quoted transport header that translation takes


cdef inline uint8_t unrelated(State* s, const Tuple* t, uint8_t* reason) noexcept nogil:
    """An error about no connection: for the local stack, or passed as it is."""
    reason[0] = REASON_ICMP_NOT_RELATED
    s.icmp_errors += s.tracking
    if address_is_local(&s.routes, t.family, &t.destination):
        return VERDICT_LOCAL
    return VERDICT_PASS


cdef inline uint8_t related_forward(State* s, Packet* packet, const Tuple* t,
                                    const Tuple* outer, bint received) noexcept nogil:
    """With a Host: find the way on of an error that came in; why there is none."""
    if not received or not is_hosted(s) or address_is_local(&s.routes, outer.family,
                                                            &outer.destination):
        return 0
    return forward_pass(&s.routes, packet, t, &outer.destination, &s.forward)


cdef inline uint8_t related_process(State* s, Packet* packet, const Tuple* t, Packet* quote,
                                    const Tuple* quoted, uint32_t reference, bint received,
                                    uint8_t* reason) noexcept nogil:
    """An ICMP error whose quote, turned round, is a tuple of connection ``reference``.

    ``received``: it came in, else it is this host's own, whose checksum is not looked at.
    """
    cdef Table* table = table_of(s, packet.family)
    cdef uint32_t direction = reference & 1
    cdef bint translated = not table_meta(table, reference >> 1).flags & FLAG_UNTRANSLATED
    cdef bint good = transport_checksum_good(packet)
    cdef Tuple about, sent, back, outer
    cdef uint8_t* icmp = packet_l4(packet)
    cdef uint8_t failed
    cdef uint64_t delta
    connection_tuple(table, reference >> 1, direction, &about)
    if (not address_equal(&about.destination, &t.destination)
            or (received and s.conntrack[CONNTRACK_CHECKSUM] and not good)):
        return unrelated(s, t, reason)
    reason[0] = REASON_UNTRANSLATABLE
    if translated and (icmp_is_redirect(packet) or (
            quote.l4_captured < QUOTED_LEAST
            and (has_ports(quote.protocol) or quote.protocol == PROTOCOL_GRE))):
        return VERDICT_DROP
    if not good:
        reason[0] = REASON_BAD_ICMP_CHECKSUM
        return VERDICT_DROP
    # What the quoted packet was before it was translated here; outside, whichever side this
    # direction translates is replaced, whoever sent the error.
    connection_tuple(table, reference >> 1, 1 - direction, &sent)
    connection_translated(table, reference >> 1, direction, &back)
    outer = t[0]
    if not address_equal(&about.source, &back.source) or (
            ports_source(about.ports) != ports_source(back.ports)):
        outer.source = back.source
    if not address_equal(&about.destination, &back.destination):
        outer.destination = back.destination
    failed = related_forward(s, packet, t, &outer, received)
    if failed:
        reason[0] = failed
        return VERDICT_DROP
    delta = quote_translate(quote, quoted, &sent, False)
    if packet.family == IPV6:
        delta += addresses_delta(t, &outer)
    store16(icmp + 2, checksum_update(load16(icmp + 2), delta_finish(delta)))
    addresses_write(packet_l3(packet), t, &outer)
    trace_step(s, TRACE_TRANSLATED, 0, 0, &outer)
    reason[0] = REASON_RELATED_ICMP
    if received and address_is_local(&s.routes, outer.family, &outer.destination):
        return VERDICT_LOCAL
    return VERDICT_FORWARD
