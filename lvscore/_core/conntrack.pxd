"""The router: flows tracked for the NAT rules (nf_conntrack_core.c, nf_nat_core.c).

An engine with NAT rules tracks every flow. The rules are consulted for the first packet only;
a flow that no rule changes still keeps its tuples, which others may then not take. A packet
that fits no flow and may open none is INVALID: it goes its way as if there were no rules.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from lvscore._core.connection cimport (
    FLAG_ONE_PACKET, FLAG_SERVICE, FLAG_TRACKED, FLAG_UNTRANSLATED, Table, connection_helper,
    connection_translated, table_find, table_meta,
)
from lvscore._core.consts cimport (
    NIL, ORIGINAL, PROTOCOL_GRE, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_MARK, PROTOCOL_SCTP,
    REASON_CONNECTION_REUSED, REASON_EGRESS_CHANGED, REASON_INVALID_STATE, REASON_LOCAL_ADDRESS,
    REASON_NEW_CONNECTION, REASON_NONE, REASON_NO_PORT, REASON_REPLY, REASON_REQUEST,
    REASON_TABLE_FULL, REASON_TRUNCATED_TRANSPORT_HEADER, REASON_UNTRANSLATABLE,
    REASON_UNTRANSLATED, REPLY, VERDICT_DROP, VERDICT_FORWARD, VERDICT_LOCAL, VERDICT_PASS,
)
from lvscore._core.entry cimport (
    ENTRY_INVALID, ENTRY_NEW, ENTRY_TAKEN, entries_of, entry_of,
)
from lvscore._core.director cimport reply_packet, service_packet, service_schedule
from lvscore._core.early_drop cimport has_room
from lvscore._core.event cimport opening_is_whole
from lvscore._core.flow cimport Tuple, address_equal, ports_destination, tuple_hash
from lvscore._core.forward cimport REDIRECT_DROPPED, REDIRECT_DUE, forward_pass, forward_record
from lvscore._core.lifetime cimport connection_end
from lvscore._core.nat cimport (
    flow_open, rule_evict, rule_postrouting, rule_prerouting, search_begin, seen_fill,
)
from lvscore._core.nfct cimport (
    BEHIND_TRANSLATION, answered_service, nfct_entry, nfct_follow, service_seen,
)
from lvscore._core.nfct_postrouting cimport nfct_redirect
from lvscore._core.progress cimport Opening, opening_begins, rule_track
from lvscore._core.route cimport Route, address_is_local, route_find
from lvscore._core.rule_ftp cimport (
    Follow, follow_find, follow_master, helper_attach, rule_help,
)
from lvscore._core.rules cimport Seen, chain_pass
from lvscore._core.schedule cimport service_of
from lvscore._core.state cimport (
    SYSCTL_CONNTRACK, State, TRACE_FOUND, TRACE_LOCAL, TRACE_NO_SERVICE, TRACE_OPENED, TRACE_REUSED,
    TRACE_TRANSLATED, is_hooked, is_hosted, table_of, trace_step,
)
from lvscore._core.tcp_window cimport FIT_INVALID, FIT_REOPENS
from lvscore._core.translate cimport packet_translate, tuples_equal
from lvscore._core.unique_tuple cimport Search, reply_is_free, tuple_keep
from lvscore._core.verify cimport transport_checksum_good
from lvscore._core.wire cimport Packet

cdef enum:
    GRE_LEAST = 8               # bytes of GRE that netfilter translates


cdef inline uint32_t service_here(const State* s, const Packet* packet,
                                  const Tuple* t) noexcept nogil:
    """The service that a packet of tuple ``t`` for this host is for, or NIL. A mark makes any
    address a virtual one, where no Host knows which are its own."""
    cdef uint32_t service
    cdef bint local = address_is_local(&s.routes, t.family, &t.destination)
    if not local and (packet.mark == 0 or s.routes.hosted):
        return NIL
    service = service_of(s, packet, t)
    if local or service == NIL or s.services.service[service].protocol == PROTOCOL_MARK:
        return service
    return NIL


cdef inline uint8_t untracked(State* s, Packet* packet, const Tuple* t, uint8_t why,
                              uint8_t* reason) noexcept nogil:
    """A packet that the rules leave alone: for a service, the local stack, or passed."""
    cdef uint32_t service = service_here(s, packet, t)
    if service == NIL and not address_is_local(&s.routes, t.family, &t.destination):
        reason[0] = why
        return VERDICT_PASS
    if (packet.protocol == PROTOCOL_SCTP and is_hooked(s, t.family)
            and not opening_is_whole(packet)):
        # Without its first chunk IPVS does not even look for a service (sctp_conn_schedule).
        reason[0] = REASON_TRUNCATED_TRANSPORT_HEADER
        return VERDICT_DROP
    if service != NIL and packet.l4_captured >= 4:
        return service_schedule(s, packet, t, service, NIL, reason)
    trace_step(s, TRACE_NO_SERVICE, 0, 0, t)
    reason[0] = REASON_LOCAL_ADDRESS
    return VERDICT_LOCAL


cdef inline uint8_t invalid(State* s, Packet* packet, const Tuple* t,
                            uint8_t* reason) noexcept nogil:
    """A packet that fits no flow and may open none: counted, and left alone."""
    if ((packet.protocol == PROTOCOL_ICMP or packet.protocol == PROTOCOL_ICMPV6)
            and not transport_checksum_good(packet)):
        s.icmp_errors += 1
    else:
        s.invalid += 1
    return untracked(s, packet, t, REASON_INVALID_STATE, reason)


cdef inline uint8_t rule_verdict(State* s, Table* table, uint32_t i, uint8_t reason_if_translated,
                                 const Tuple* translated, uint8_t* reason) noexcept nogil:
    """What becomes of a packet of a tracked flow."""
    reason[0] = reason_if_translated
    if address_is_local(&s.routes, translated.family, &translated.destination):
        trace_step(s, TRACE_LOCAL, 0, 0, translated)
        return VERDICT_LOCAL
    if table_meta(table, i).flags & FLAG_UNTRANSLATED:
        reason[0] = REASON_UNTRANSLATED
    return VERDICT_FORWARD


cdef inline bint went_to_server(uint8_t reason) noexcept nogil:
    """Whether IPVS took a packet, which may stay on this host all the same."""
    return (reason == REASON_REQUEST or reason == REASON_NEW_CONNECTION
            or reason == REASON_CONNECTION_REUSED)


cdef inline uint8_t rule_schedule_local(State* s, Packet* packet, const Tuple* t,
                                        const Tuple* translated, uint8_t* reason) noexcept nogil:
    """A packet for a virtual service, to which a DNAT rule may have sent it: IPVS's verdict, or
    PASS if that leaves it, translated so far, to the local stack.

    With conntrack=0 IPVS takes it from netfilter, which forgets it: the next packet goes
    through the rules again, and answers are the virtual service's (ip_vs_xmit.c,
    ip_vs_notrack). With conntrack=1 the flow is as the client began it, and later requests go
    to the server past IPVS.
    """
    cdef Table* table = table_of(s, t.family)
    cdef uint64_t hash = tuple_hash(&s.key, translated)
    cdef uint32_t reference = service_seen(table, table_find(table, hash, translated))
    cdef uint8_t verdict
    packet_translate(packet, t, translated, False)
    trace_step(s, TRACE_TRANSLATED, 0, 0, translated)
    if reference != NIL:
        trace_step(s, TRACE_FOUND, reference, 0, translated)
        if not table_meta(table, reference >> 1).flags & FLAG_TRACKED:
            return service_packet(s, packet, translated, reference, reason)
        verdict = nfct_packet(s, packet, translated, reference, True, reason)
    else:
        verdict = service_schedule(s, packet, translated, service_of(s, packet, translated), NIL,
                                   reason)
    if verdict == VERDICT_LOCAL and not went_to_server(reason[0]):
        return VERDICT_PASS
    if tuples_equal(t, translated):
        return verdict
    if verdict == VERDICT_DROP:         # what is told of it is about what came in
        packet_translate(packet, translated, t, False)
        flow_tell(s, t, translated)
    reference = service_seen(table, table_find(table, hash, translated))
    if (verdict != VERDICT_DROP and reference != NIL and reference & 1 == ORIGINAL
            and not nfct_redirect(s, table, packet, t, reference >> 1)):
        reason[0] = REASON_TABLE_FULL
        return VERDICT_DROP
    return verdict


cdef inline uint8_t answer_packet(State* s, Packet* packet, const Tuple* t, uint32_t reference,
                                  uint8_t* reason) noexcept nogil:
    """A server's answer to its client itself, though rules translate the client to another
    address: of a flow of its own to conntrack, and of the connection to IPVS."""
    nfct_entry(s, table_of(s, t.family), reference >> 1).packet = ENTRY_NEW
    return reply_packet(s, packet, t, reference, NULL, reason)


cdef inline uint8_t nfct_packet(State* s, Packet* packet, const Tuple* t, uint32_t reference,
                                bint received, uint8_t* reason) noexcept nogil:
    """A packet of a service's connection that conntrack may know, too."""
    cdef Table* table = table_of(s, t.family)
    if nfct_follow(s, table, packet, reference >> 1, reference & 1, received):
        return service_packet(s, packet, t, reference, reason)
    return invalid(s, packet, t, reason)


cdef inline uint32_t rule_open(State* s, Table* table, const Packet* packet, const Tuple* t,
                               const Tuple* wanted, const Opening* opening) noexcept nogil:
    """Make the connection of a flow, with a helper if a rule gives it one; NIL if there is no
    room."""
    cdef uint32_t i = flow_open(s, table, packet, t, wanted, opening, 0)
    if i == NIL:
        return NIL
    entry_of(entries_of(s.entries, t.family), i).expected = opening.expected
    if packet.helped and not opening.expected:
        helper_attach(s, table, i)
    trace_step(s, TRACE_OPENED, i << 1, 0, t)
    return i


cdef inline void packet_mark(State* s, Packet* packet, const Tuple* t) noexcept nogil:
    """Let the rules of table mangle, PREROUTING, mark a packet."""
    cdef Seen seen
    seen_fill(s, packet, &seen)
    chain_pass(&s.mangle, t, &seen)
    packet.mark = seen.mark


cdef inline void packet_raw(State* s, Packet* packet, const Tuple* t) noexcept nogil:
    """Let the rules of table raw, PREROUTING, see a packet before conntrack does."""
    cdef Seen seen
    seen_fill(s, packet, &seen)
    chain_pass(&s.raw, t, &seen)
    packet.helped = seen.helped


cdef inline bint is_translatable(const Packet* packet, const Tuple* t,
                                 const Tuple* translated) noexcept nogil:
    """Netfilter translates no GRE without the call ID of PPTP's (gre_manip_pkt), which it wants
    to see of all versions."""
    return (packet.protocol != PROTOCOL_GRE or packet.l4_captured >= GRE_LEAST
            or tuples_equal(t, translated))


cdef inline bint destination_is_translated(const Tuple* t, const Tuple* translated) noexcept nogil:
    return not (address_equal(&t.destination, &translated.destination)
                and ports_destination(t.ports) == ports_destination(translated.ports))


cdef inline void flow_tell(State* s, const Tuple* t, const Tuple* translated) noexcept nogil:
    """Remember what conntrack makes of a packet's destination, for errors about it."""
    s.forward.tracked = True
    s.forward.translated = destination_is_translated(t, translated)


cdef inline uint8_t flow_forward(State* s, Packet* packet, const Tuple* t,
                                 const Tuple* translated, bint is_new) noexcept nogil:
    """Find the way on; why there is none. Options are filled in before source NAT.

    A redirect does not go out for a flow that rules translate, nor for one that may yet be
    translated (nf_nat_icmp_reply_translation).
    """
    cdef uint8_t failed = forward_pass(&s.routes, packet, t, &translated.destination, &s.forward)
    flow_tell(s, t, translated)
    if s.forward.redirect and (is_new or not tuples_equal(t, translated)):
        s.forward.redirect = REDIRECT_DROPPED
    if failed == REASON_NONE and (
            s.forward.record_pending or s.forward.address_stamped):
        forward_record(&s.routes, packet, &s.forward)
    return failed


cdef inline uint8_t flow_prerouting(State* s, Table* table, Search* search, const Seen* seen,
                                    const Follow* follow, Tuple* wanted) noexcept nogil:
    """Translate a new flow before routing, as its master is or as a rule says; why the packet is
    dropped."""
    if follow.translated:
        follow_master(s, table, search, follow, wanted)
        return REASON_NONE
    return rule_prerouting(s, table, search, seen, wanted)


cdef inline uint8_t rule_new(State* s, Packet* packet, const Tuple* t,
                             uint8_t* reason) noexcept nogil:
    """The first packet of a flow, in an engine with NAT rules."""
    cdef Table* table = table_of(s, packet.family)
    cdef Opening opening
    cdef Search search
    cdef Seen seen
    cdef Follow follow
    cdef Tuple wanted = t[0]
    cdef Tuple came = t[0]
    cdef const Route* route
    cdef uint8_t failed, verdict
    cdef uint8_t left = REASON_NONE         # why IPVS leaves it to the local stack
    cdef uint32_t i
    if not has_room(s, table, t):
        reason[0] = REASON_TABLE_FULL
        return VERDICT_DROP
    follow_find(s, table, t, &follow)       # whatever becomes of it, it is expected no more
    if not opening_begins(s, packet, True, &opening):
        return invalid(s, packet, t, reason)
    seen_fill(s, packet, &seen)
    search_begin(s, table, &opening, &search)
    opening.expected = follow.expected
    failed = flow_prerouting(s, table, &search, &seen, &follow, &wanted)
    if failed == REASON_NONE and service_here(s, packet, &wanted) != NIL:
        verdict = rule_schedule_local(s, packet, t, &wanted, reason)
        if verdict != VERDICT_PASS:
            return verdict
        came = wanted
        left = reason[0]
    if failed == REASON_NONE and (left or address_is_local(
            &s.routes, wanted.family, &wanted.destination)):
        trace_step(s, TRACE_LOCAL, 0, 0, &wanted)
        if not follow.translated:
            tuple_keep(&search, &wanted, True)
            rule_evict(s, table, &search)
    elif failed == REASON_NONE:
        if is_hosted(s):
            failed = flow_forward(s, packet, t, &wanted, True)
        route = route_find(&s.routes, wanted.family, &wanted.destination)
        if route != NULL:
            seen.egress = <int>route.interface
        if failed == REASON_NONE and not follow.translated:
            failed = rule_postrouting(s, table, &search, &seen, &wanted, &wanted, &opening)
    if failed == REASON_NONE and not reply_is_free(&search, &wanted):
        failed = REASON_NO_PORT
    if failed == REASON_NONE and not is_translatable(packet, t, &wanted):
        failed = REASON_UNTRANSLATABLE
    if failed:
        reason[0] = failed
        return VERDICT_DROP
    i = rule_open(s, table, packet, t, &wanted, &opening)
    if i == NIL:
        reason[0] = REASON_TABLE_FULL
        return VERDICT_DROP
    packet_translate(packet, &came, &wanted, False)
    trace_step(s, TRACE_TRANSLATED, 0, 0, &wanted)
    if left:
        reason[0] = left
        return VERDICT_LOCAL
    return rule_verdict(s, table, i, REASON_NEW_CONNECTION, &wanted, reason)


cdef inline uint8_t rule_forward(State* s, Packet* packet, const Tuple* t, const Tuple* translated,
                                 uint32_t reference) noexcept nogil:
    """With a Host: find the way on; why there is none. What leaves by another interface than
    it was masqueraded for would carry the wrong address (nf_nat_oif_changed)."""
    cdef uint32_t i = reference >> 1
    cdef uint16_t masquerade
    cdef uint8_t failed
    if address_is_local(&s.routes, t.family, &translated.destination):
        return REASON_NONE
    failed = flow_forward(s, packet, t, translated, False)
    masquerade = entry_of(entries_of(s.entries, t.family), i).masquerade
    if (failed == REASON_NONE and masquerade and reference & 1 == ORIGINAL
            and s.forward.egress + 1 != masquerade):
        return REASON_EGRESS_CHANGED
    return failed


cdef inline void rule_pass(State* s, const Packet* packet, const Tuple* t) noexcept nogil:
    """Conntrack sees a packet that the Host refuses before routing, for its options or its
    source: it was in PREROUTING by then. What it opens is not confirmed."""
    cdef Table* table = table_of(s, packet.family)
    cdef uint32_t reference = table_find(table, tuple_hash(&s.key, t), t)
    cdef uint32_t i = reference >> 1
    cdef uint32_t direction = reference & 1
    cdef Tuple translated = t[0]
    cdef Opening opening
    cdef Search search
    cdef Seen seen
    cdef Follow follow
    cdef bint ends
    cdef uint8_t fit
    if reference != NIL and table_meta(table, i).flags & FLAG_SERVICE:
        if table_meta(table, i).flags & FLAG_TRACKED:
            nfct_follow(s, table, packet, i, direction, True)
        return
    if reference != NIL:
        fit = rule_track(s, table, packet, t, reference, True, &ends)
        if fit != FIT_INVALID and fit != FIT_REOPENS:
            connection_translated(table, i, direction, &translated)
            flow_tell(s, t, &translated)
        if fit == FIT_REOPENS or ends:
            connection_end(s, table, i)
        if fit != FIT_REOPENS:
            return
    if not has_room(s, table, t):
        return
    follow_find(s, table, t, &follow)
    if opening_begins(s, packet, True, &opening):
        seen_fill(s, packet, &seen)
        search_begin(s, table, &opening, &search)
        flow_prerouting(s, table, &search, &seen, &follow, &translated)
        flow_tell(s, t, &translated)


cdef inline uint8_t flow_schedule(State* s, Packet* packet, const Tuple* t,
                                  const Tuple* translated, uint32_t i, bint ends,
                                  uint8_t* reason) noexcept nogil:
    """A packet of a flow to an address that has become a service's: IPVS sees all that is for
    this host. With conntrack=1 what it takes has a flow of its own, so that its answers have the
    service's port; the kernel keeps the old one, and they do not."""
    cdef Table* table = table_of(s, t.family)
    cdef uint8_t verdict = rule_schedule_local(s, packet, t, translated, reason)
    if ends or (s.sysctl[SYSCTL_CONNTRACK] and went_to_server(reason[0])):
        connection_end(s, table, i)
    if verdict == VERDICT_PASS:
        trace_step(s, TRACE_LOCAL, 0, 0, translated)
        return VERDICT_LOCAL
    return verdict


cdef inline uint8_t redirected_answer(State* s, Table* table, Packet* packet, const Tuple* t,
                                      Tuple* translated, uint8_t redirected, bint is_invalid,
                                      uint8_t* reason) noexcept nogil:
    """An answer in a flow that a DNAT rule led to a service: IPVS sees it between conntrack's
    two translations; or in one that began on the way to a server: IPVS's translation is the last.
    Its verdict; PASS if IPVS does not know its connection any more."""
    cdef uint32_t reference = answered_service(s, table, t, translated)
    cdef bint as_it_is = tuples_equal(t, translated)
    cdef uint8_t verdict
    if reference == NIL:
        return VERDICT_PASS
    trace_step(s, TRACE_FOUND, reference, 0, t)
    if redirected == BEHIND_TRANSLATION:
        connection_translated(table, reference >> 1, REPLY, translated)
    if not is_invalid:
        verdict = reply_packet(s, packet, t, reference, translated, reason)
        if s.forward.redirect and as_it_is:
            s.forward.redirect = REDIRECT_DUE       # conntrack has nothing to translate
        return verdict
    s.invalid += 1
    if table_meta(table, reference >> 1).flags & FLAG_TRACKED:
        nfct_entry(s, table, reference >> 1).packet = ENTRY_INVALID
    return reply_packet(s, packet, t, reference, NULL, reason)


cdef inline uint8_t rule_packet(State* s, Packet* packet, const Tuple* t, uint32_t reference,
                                bint received, uint8_t* reason) noexcept nogil:
    """A packet of a flow that is tracked for the NAT rules; ``received`` as for rule_track."""
    cdef Table* table = table_of(s, packet.family)
    cdef uint32_t i = reference >> 1
    cdef uint32_t direction = reference & 1
    cdef Tuple translated
    cdef bint ends
    cdef uint8_t fit = rule_track(s, table, packet, t, reference, received, &ends)
    cdef uint8_t verdict = VERDICT_DROP
    cdef uint8_t failed = REASON_NONE
    cdef uint8_t redirected = entry_of(entries_of(s.entries, t.family), i).redirected
    if direction == REPLY and fit != FIT_REOPENS and redirected:
        connection_translated(table, i, REPLY, &translated)
        if fit == FIT_INVALID:
            translated = t[0]
        verdict = redirected_answer(s, table, packet, t, &translated, redirected,
                                    fit == FIT_INVALID, reason)
        if verdict != VERDICT_PASS:
            if ends:
                connection_end(s, table, i)
            return verdict
        verdict = VERDICT_DROP
    if table_meta(table, i).flags & FLAG_ONE_PACKET and direction == ORIGINAL:
        entry_of(entries_of(s.entries, t.family), i).packet = <uint8_t>(
            ENTRY_INVALID if fit == FIT_INVALID else ENTRY_TAKEN)
        if fit != FIT_INVALID:
            return untracked(s, packet, t, REASON_REQUEST, reason)
    if fit == FIT_INVALID:
        return invalid(s, packet, t, reason)
    if fit == FIT_REOPENS:
        trace_step(s, TRACE_REUSED, reference, 0, t)
        connection_end(s, table, i)
        return rule_new(s, packet, t, reason)
    connection_translated(table, i, direction, &translated)
    if received and direction == ORIGINAL and service_here(s, packet, &translated) != NIL:
        return flow_schedule(s, packet, t, &translated, i, ends, reason)
    # The state was taken before routing, which may yet refuse the packet.
    if received and is_hosted(s):
        failed = rule_forward(s, packet, t, &translated, reference)
    if failed == REASON_NONE and not is_translatable(packet, t, &translated):
        failed = REASON_UNTRANSLATABLE
    if failed == REASON_NONE:
        packet_translate(packet, t, &translated, False)
        trace_step(s, TRACE_TRANSLATED, 0, 0, &translated)
        verdict = rule_verdict(s, table, i,
                               REASON_REQUEST if direction == ORIGINAL else REASON_REPLY,
                               &translated, reason)
        if connection_helper(table, i) != NIL:
            failed = rule_help(s, table, packet, i, direction, received)
    if failed:
        reason[0] = failed
        verdict = VERDICT_DROP
    if ends or failed == REASON_EGRESS_CHANGED:
        connection_end(s, table, i)
    return verdict
