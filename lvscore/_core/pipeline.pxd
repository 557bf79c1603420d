"""The packet's way through the engine, one by one and for a vector.

A vector of packets goes through in three steps, so that the waits for memory overlap: parse,
hash and prefetch the bucket; match tags and prefetch the connection; then act, in the order
of the frames, so that a batch does exactly what its frames do one by one. Established IPv4
TCP and UDP takes the fast path in the last step; all else goes through packet_process.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from lvscore._core.clock cimport clock_set
from lvscore._core.conntrack cimport (
    answer_packet, nfct_packet, packet_mark, packet_raw, rule_new, rule_packet, rule_pass,
    untracked,
)
from lvscore._core.connection cimport (
    FLAG_SERVICE, FLAG_TRACKED, Table, may_wait, table_find, table_meta, table_settle,
)
from lvscore._core.consts cimport (
    LINK_RAW, NIL, ORIGINAL, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP,
    REASON_BAD_IP_OPTION, REASON_BAD_SOURCE, REASON_NONE,
    REASON_NOT_IP, REASON_NOT_UNICAST, REASON_NO_PROTOCOL_HANDLER, REASON_NO_SERVICE,
    REASON_ROUTED, REASON_SOURCE_ROUTE,
    REASON_TRUNCATED_TRANSPORT_HEADER, REASON_UNKNOWN_SERVER_PORT, REASON_UNTRANSLATABLE, REPLY,
    VERDICT_DROP, VERDICT_FORWARD, VERDICT_LOCAL, VERDICT_PASS, VERDICT_STOLEN,
)
from lvscore._core.defragment cimport datagram_emit, fragment_take
from lvscore._core.director cimport dialog_answer, is_server_port, service_packet
from lvscore._core.emit cimport emit_commit
from lvscore._core.event cimport is_reset
from lvscore._core.flow cimport Tuple, has_ports, packet_tuple, tuple_hash
from lvscore._core.forward cimport (
    Forward, address_is_broadcast, atomic_strip, forward_output, forward_pass, forward_receive,
)
from lvscore._core.fragment cimport datagram_discard, datagram_is_whole
from lvscore._core.icmp cimport icmp_error_process
from lvscore._core.lane cimport (
    Frames, Lane, Vector, lanes_forget, lanes_forward, vector_empty, vector_match,
)
from lvscore._core.lane6 cimport lanes6_forward, lanes6_match, vector_begin
from lvscore._core.lane_open cimport lanes_open
from lvscore._core.lane_track cimport (
    lanes_fetch_windows, lanes_keep, lanes_track, lanes_verify,
)
from lvscore._core.lookup cimport table_find_portless
from lvscore._core.machine cimport likely
from lvscore._core.nfct cimport answer_service, redirected_flow, service_seen
from lvscore._core.quote cimport icmp_is_cut, icmp_is_error, icmp_is_redirect
from lvscore._core.route cimport address_is_local
from lvscore._core.state cimport (
    SYSCTL_NAT_ICMP_SEND, State, TRACE_FOUND, TRACE_NOT_FOUND,
    TRACE_PARSED, is_hooked, is_hosted, table_of, trace_step,
)
from lvscore._core.transmit cimport tunnel_emit
from lvscore._core.wire cimport Packet, packet_l4, packet_parse


cdef inline uint8_t packet_known(State* s, Packet* packet, const Tuple* t, uint32_t reference,
                                 uint8_t* reason) noexcept nogil:
    """A packet of a connection."""
    cdef uint32_t flags = table_meta(table_of(s, t.family), reference >> 1).flags
    trace_step(s, TRACE_FOUND, reference, 0, t)
    if flags & (FLAG_SERVICE | FLAG_TRACKED) == FLAG_SERVICE:
        return service_packet(s, packet, t, reference, reason)
    if flags & FLAG_SERVICE:
        return nfct_packet(s, packet, t, reference, True, reason)
    return rule_packet(s, packet, t, reference, True, reason)


cdef inline uint8_t packet_unknown(State* s, Packet* packet, const Tuple* t,
                                   uint8_t* reason) noexcept nogil:
    """A packet of no connection."""
    cdef uint8_t why = REASON_NO_SERVICE
    trace_step(s, TRACE_NOT_FOUND, 0, 0, t)
    if s.tracking:
        return rule_new(s, packet, t, reason)
    if not (has_ports(t.protocol) or t.protocol == PROTOCOL_ICMP
            or t.protocol == PROTOCOL_ICMPV6):
        why = REASON_NO_PROTOCOL_HANDLER
    return untracked(s, packet, t, why, reason)


cdef inline uint32_t connection_seen(State* s, const Tuple* t) noexcept nogil:
    """The connection that a packet belongs to, as far as IPVS sees the packet; or NIL.

    On a Host its hooks are gone when there is no service (ip_vs_unregister_hooks), and what is
    forwarded is for ip_vs_out alone.
    """
    cdef const Table* table = table_of(s, t.family)
    cdef uint32_t reference = table_find(table, tuple_hash(&s.key, t), t)
    cdef uint32_t flow
    if reference != NIL and not s.tracking:
        reference = service_seen(table, reference)
    if reference == NIL and table.portless:
        reference = table_find_portless(table, &s.key, t)
    if reference == NIL or not table_meta(table, reference >> 1).flags & FLAG_SERVICE:
        return reference
    if s.tracking and reference & 1 == REPLY:
        flow = redirected_flow(s, table, reference)
        if flow != NIL:
            return flow
    if not is_hooked(s, t.family):
        return NIL
    if (is_hosted(s) and reference & 1 == ORIGINAL
            and not address_is_local(&s.routes, t.family, &t.destination)):
        return NIL
    return reference


cdef inline void packet_prerouting(State* s, Packet* packet, const Tuple* t) noexcept nogil:
    """Let the rules of the tables raw and mangle see a packet as it comes in."""
    if likely(s.raw.count != 0, False):
        packet_raw(s, packet, t)
    if likely(s.mangle.count != 0, False):
        packet_mark(s, packet, t)


cdef inline uint8_t packet_dispatch(State* s, Packet* packet, const Tuple* t,
                                    uint8_t* reason) noexcept nogil:
    """Take a parsed packet to whom it concerns."""
    cdef uint32_t reference
    cdef uint8_t verdict
    packet_prerouting(s, packet, t)
    if icmp_is_error(packet) or (s.tracking and icmp_is_redirect(packet)):
        return icmp_error_process(s, packet, t, True, reason)
    if has_ports(t.protocol) and packet.l4_captured < 4:
        verdict = untracked(s, packet, t, REASON_NONE, reason)
        reason[0] = REASON_TRUNCATED_TRANSPORT_HEADER
        return verdict
    reference = connection_seen(s, t)
    if (reference == NIL and s.services.sip and t.protocol == PROTOCOL_UDP
            and not (is_hosted(s) and address_is_local(&s.routes, t.family, &t.destination))):
        reference = dialog_answer(s, packet, t)
    if reference == NIL:
        reference = answer_service(s, table_of(s, t.family), t)
        if reference != NIL:
            return answer_packet(s, packet, t, reference, reason)
        return packet_unknown(s, packet, t, reason)
    return packet_known(s, packet, t, reference, reason)


cdef inline uint8_t packet_route(State* s, Packet* packet, const Tuple* t,
                                 uint8_t* reason) noexcept nogil:
    """A packet that concerns nobody, on a Host: route it."""
    cdef uint8_t failed
    if address_is_local(&s.routes, t.family, &t.destination):
        return VERDICT_LOCAL
    failed = forward_pass(&s.routes, packet, t, &t.destination, &s.forward)
    reason[0] = failed if failed else REASON_ROUTED
    if failed:
        return VERDICT_DROP
    if is_hooked(s, t.family) and not packet.fragment and icmp_is_cut(packet):
        reason[0] = REASON_TRUNCATED_TRANSPORT_HEADER
        return VERDICT_DROP
    # ip_vs_out: a server answers what no connection knows.
    if (s.sysctl[SYSCTL_NAT_ICMP_SEND] and is_hooked(s, t.family) and not packet.fragment
            and has_ports(t.protocol) and packet.l4_captured >= 4 and not is_reset(packet)
            and is_server_port(s, t)):
        reason[0] = REASON_UNKNOWN_SERVER_PORT
        return VERDICT_DROP
    return VERDICT_FORWARD


cdef inline uint8_t packet_host(State* s, Packet* packet, const Tuple* t,
                                uint8_t* reason) noexcept nogil:
    """Take a packet in and out of the Host that the engine is on."""
    cdef uint8_t verdict
    if address_is_broadcast(&s.routes, t.family, &t.destination):
        reason[0] = REASON_NOT_UNICAST
        return VERDICT_LOCAL
    verdict = VERDICT_PASS
    if not packet.fragment:
        verdict = packet_dispatch(s, packet, t, reason)
    if verdict == VERDICT_PASS:
        verdict = packet_route(s, packet, t, reason)
    if verdict == VERDICT_FORWARD:
        forward_output(&s.routes, packet, &s.forward)
    return verdict


cdef inline uint8_t packet_whole(State* s, Packet* packet, uint8_t* reason) noexcept nogil:
    """Take a whole packet through look-up, tracking and translation; its verdict."""
    cdef Tuple t
    cdef uint8_t verdict
    cdef const uint8_t* frame = packet.frame
    packet_tuple(packet, &t)
    trace_step(s, TRACE_PARSED, packet.l3_length, packet.l4_length, &t)
    verdict = packet_host(s, packet, &t, reason) if is_hosted(s) else packet_dispatch(
        s, packet, &t, reason)
    if verdict == VERDICT_FORWARD and s.forward.tunnel:
        return tunnel_emit(s, packet, &t, reason)
    if packet.frame != frame:           # a helper made a longer or shorter one of it
        emit_commit(&s.emitted, packet.length, s.now, verdict, reason[0])
        return VERDICT_STOLEN
    return verdict


cdef inline uint8_t fragment_process(State* s, Packet* fragment, int link_type,
                                     uint8_t* reason) noexcept nogil:
    """Take a fragment, and when it was the last one missing its datagram."""
    cdef Packet whole
    cdef Tuple t
    cdef uint32_t datagram
    cdef uint8_t verdict = fragment_take(s, fragment, link_type, &whole, &datagram, reason)
    if verdict == VERDICT_PASS and is_hosted(s):
        packet_tuple(fragment, &t)
        return packet_host(s, fragment, &t, reason)
    if verdict != VERDICT_FORWARD:
        return verdict
    s.forward.largest = s.fragments.datagram[datagram].largest
    s.forward.dont_fragment = not s.tracking and datagram_is_whole(
        &s.fragments.datagram[datagram])
    whole.mark = fragment.mark
    verdict = packet_whole(s, &whole, reason)
    # A Host quotes a datagram that was dropped; one in a tunnel has been put out already.
    if verdict != VERDICT_STOLEN and (verdict != VERDICT_DROP or is_hosted(s)):
        datagram_emit(s, &s.fragments.datagram[datagram], &whole, verdict, reason[0])
        verdict = VERDICT_STOLEN if verdict != VERDICT_DROP else VERDICT_DROP
    datagram_discard(&s.fragments, datagram)
    return verdict


cdef inline bint reason_is_late(uint8_t reason) noexcept nogil:
    """Whether a packet is refused for what is looked at behind PREROUTING."""
    return (reason == REASON_BAD_SOURCE or reason == REASON_BAD_IP_OPTION
            or reason == REASON_SOURCE_ROUTE)


cdef inline void packet_offloads(Packet* packet, const Forward* forward) noexcept nogil:
    """Take over what the interface left undone of a packet."""
    cdef uint32_t header = 8
    if packet.protocol == PROTOCOL_TCP and packet.l4_captured >= 20:
        header = <uint32_t>(packet_l4(packet)[12] >> 4) * 4
    packet.partial = forward.partial
    if forward.segment_size:
        packet.segment = packet.l4 - packet.l3 + header + forward.segment_size


cdef inline uint8_t packet_process(State* s, uint8_t* frame, uint32_t length,
                                   uint32_t wire_length, int link_type, uint32_t mark,
                                   uint8_t* reason) noexcept nogil:
    """Take one frame through all stages; its verdict."""
    cdef Packet packet
    cdef Tuple t
    s.forward.tunnel = 0
    s.forward.tracked = False
    s.forward.translated = False
    reason[0] = packet_parse(&packet, frame, length, wire_length, link_type)
    packet.mark = mark
    if reason[0]:
        return VERDICT_PASS if reason[0] == REASON_NOT_IP else VERDICT_DROP
    if is_hosted(s):
        packet_tuple(&packet, &t)
        reason[0] = forward_receive(&s.routes, &packet, &t, &s.forward)
        if reason[0]:
            if not packet.fragment and reason_is_late(reason[0]):
                packet_prerouting(s, &packet, &t)
                if s.tracking:
                    rule_pass(s, &packet, &t)
            return VERDICT_DROP
        atomic_strip(&packet)
        packet_offloads(&packet, &s.forward)
    if packet.fragment:
        return fragment_process(s, &packet, link_type, reason)
    return packet_whole(s, &packet, reason)


cdef inline bint packet_output(State* s, uint8_t* data, uint32_t length) noexcept nogil:
    """Let a packet of this host's own leave: it may be of a connection, and is then
    translated (the hooks LOCAL_OUT and POST_ROUTING). False if it must not leave: an error
    that conntrack cannot translate."""
    cdef Packet packet
    cdef Tuple t
    cdef uint32_t reference, flags
    cdef uint8_t reason = packet_parse(&packet, data, length, length, LINK_RAW)
    if reason or packet.fragment:
        return True
    s.forward.tunnel = 0
    packet_tuple(&packet, &t)
    if icmp_is_error(&packet) or icmp_is_redirect(&packet):
        icmp_error_process(s, &packet, &t, False, &reason)
        return reason != REASON_UNTRANSLATABLE
    if has_ports(t.protocol) and packet.l4_captured < 4:
        return True
    reference = connection_seen(s, &t)
    if reference == NIL:
        return True
    flags = table_meta(table_of(s, t.family), reference >> 1).flags
    if flags & (FLAG_SERVICE | FLAG_TRACKED) == FLAG_SERVICE:
        service_packet(s, &packet, &t, reference, &reason)
    elif flags & FLAG_SERVICE:
        nfct_packet(s, &packet, &t, reference, False, &reason)
    else:
        rule_packet(s, &packet, &t, reference, False, &reason)
    return True


cdef inline void frame_count(State* s, uint32_t length, uint8_t verdict,
                             uint8_t reason) noexcept nogil:
    s.frames += 1
    s.bytes += length
    s.verdicts[verdict] += 1
    s.reasons[reason] += 1


cdef inline void vector_process(State* s, const Frames* frames,
                                Vector* vector) noexcept nogil:
    """Have what a vector's packets ask done, in the order of the frames."""
    cdef Lane* lane = vector.lane
    cdef Table* table = &s.table[0]
    cdef uint32_t shadowings = table.shadowings
    cdef uint32_t first = vector.first
    cdef uint32_t count = vector.count
    cdef uint32_t j, k, i, begin
    cdef uint32_t length
    cdef uint8_t* frame
    if s.tracking:
        lanes_keep(s, frames, first, count, lane)
        lanes_verify(s, frames, first, lane, count, False)
    # What looks for more than the packet's own tuple finds all; see table_settle_hash.
    table.deferring = not (s.tracking or s.ftp.ports or s.services.sip or table.portless)
    j = 0
    while True:
        # A candidate matches still, but a newer connection may have its tuple now.
        if likely(table.shadowings != shadowings, False):
            shadowings = table.shadowings
            lanes_forget(lane, j, count)
        begin = j
        if s.tracking:
            j = lanes_track(s, frames, first, j, count, lane)
        j = lanes_forward(s, frames, first, j, count, lane)
        if likely(j == count, True):
            break
        if s.tracking and j > begin:
            continue            # lanes_track may go on here
        if likely(vector.sixes != 0, False):
            k = lanes6_forward(s, frames, vector, j)
            if k > j:
                j = k
                if likely(j == count, True):
                    break
                continue
        i = first + j
        if frames.timestamp[i] != s.now:
            clock_set(s, frames.timestamp[i])
            if frames.timestamp[i] == s.now:
                continue        # it may take the fast path
        k = lanes_open(s, table, frames, first, j, count, lane)
        if k > j:
            j = k
            continue
        frame = frames.data + frames.offset[i]
        length = frames.length[i]
        if lane[j].ip == NULL or may_wait(table, lane[j].hash):
            table_settle(table)
        s.emitted.cause = i
        frames.verdict[i] = packet_process(
            s, frame, length, frames.original_length[i], frames.link_type,
            0 if frames.mark == NULL else frames.mark[i], &frames.reason[i])
        s.verdicts[frames.verdict[i]] += 1
        s.reasons[frames.reason[i]] += 1
        j += 1


cdef inline void batch_process(State* s, const Frames* frames) noexcept nogil:
    """Take all frames of a batch through the pipeline: while connections of one vector are fetched,
    the next one is parsed, and while that one's buckets are fetched, the first is acted upon."""
    cdef Vector vector[2]
    cdef Vector* here = &vector[0]
    cdef Vector* ahead = &vector[1]
    if frames.count and not s.started:
        clock_set(s, frames.timestamp[0])   # 0 is the time of an engine that has none yet
    vector_empty(here, 0)
    while True:
        vector_begin(s, frames, here.first + here.count, ahead, False)
        vector_process(s, frames, here)
        if not ahead.count:
            break
        here, ahead = ahead, here
        vector_match(s, frames, here)
        if likely(here.sixes != 0, False):
            lanes6_match(s, frames, here)
        if s.tracking:
            lanes_fetch_windows(&s.entries[0], here.lane, here.count)
    s.table[0].deferring = False
    table_settle(&s.table[0])


cdef inline uint8_t frame_process(State* s, uint8_t* frame, uint32_t length, int64_t now,
                                  int link_type, uint32_t mark, uint8_t* reason) noexcept nogil:
    """Take one frame through the pipeline, as a vector of its own; its verdict."""
    cdef uint64_t offset = 0
    cdef uint8_t verdict = 0
    cdef Frames frames
    frames.data = frame
    frames.offset = &offset
    frames.length = &length
    frames.original_length = &length
    frames.timestamp = &now
    frames.mark = &mark
    frames.verdict = &verdict
    frames.reason = reason
    frames.egress = NULL
    frames.count = 1
    frames.link_type = link_type
    frames.vnet_header = False
    batch_process(s, &frames)
    return verdict
