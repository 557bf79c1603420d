"""What a packet makes of the flow that it belongs to, or opens, as conntrack sees it
(nf_conntrack_core.c, nf_conntrack_proto_*.c).

State and deadline are kept in the record of a flow of the rules (rule_track), and in the Entry of
a service's connection (nfct.pxd), since its record has IPVS's.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from lvscore._core.connection cimport (
    FLAG_ASSURED, FLAG_SEEN_REPLY, FLAG_SERVICE, Meta, Table, connection_count,
    connection_helper, table_meta,
)
from lvscore._core.consts cimport (
    NIL, ORIGINAL, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_SCTP, PROTOCOL_TCP, REPLY,
)
from lvscore._core.entry cimport Entries, Entry, entries_of, entry_of, entry_window, window_of
from lvscore._core.flow cimport Tuple, icmp_is_request
from lvscore._core.lifetime cimport connection_timer_set
from lvscore._core.port_pool cimport Pool
from lvscore._core.rule_sctp cimport Association, association_open, association_take
from lvscore._core.sequence cimport Sequence, sequence_offset
from lvscore._core.state cimport (
    CONNTRACK_CHECKSUM, CONNTRACK_TCP_BE_LIBERAL, CONNTRACK_TCP_IGNORE_INVALID_RST,
    CONNTRACK_TCP_LOOSE, CONNTRACK_TCP_MAX_RETRANS, State, TRACE_STATE, TRACE_TIMEOUT,
    trace_step,
)
from lvscore._core.tcp_window cimport (
    FIT_INVALID, FIT_REOPENS, FIT_TAKEN, SEGMENT_FIN, SEGMENT_RST, SEGMENT_SYN, Segment, TcpWindow,
    segment_load, segment_timeout, segment_track, window_open,
)
from lvscore._core.track cimport (
    ASSURED_AFTER, RULE_GRE_REPLIED, RULE_TCP, RULE_TCP_ESTABLISHED, RULE_TCP_SYN_RECV,
    RULE_TCP_SYN_SENT, RULE_UDP_ASSURED, TIMEOUT_TCP_UNACKNOWLEDGED, rule_flow_state,
    rule_state_initial,
)
from lvscore._core.verify cimport packet_is_valid
from lvscore._core.wire cimport Packet, packet_l4

cdef enum:
    # A lost connection is not shortened below this (nf_tcp_handle_invalid), in ticks.
    INVALID_CLOSE_LEAST = 120000


# A flow that is about to be tracked.
cdef struct Opening:
    TcpWindow window            # of TCP
    Association association     # of SCTP
    Segment segment
    uint32_t timeout
    Pool pool                   # that the source's port is of; capacity 0: none
    Pool client                 # who takes the port
    uint16_t masquerade         # interface that it is masqueraded to, plus one
    uint8_t state
    bint expected


cdef inline uint32_t tcp_timeout(const State* s, const TcpWindow* w, const Segment* g,
                                 uint8_t state, bint seen_reply) noexcept nogil:
    cdef uint32_t timeout = segment_timeout(w, &s.tracker, g, state,
                                            s.conntrack[CONNTRACK_TCP_MAX_RETRANS])
    cdef uint32_t unacknowledged = s.tracker.timeout[TIMEOUT_TCP_UNACKNOWLEDGED]
    if not seen_reply and state == RULE_TCP_ESTABLISHED and timeout > unacknowledged:
        return unacknowledged       # picked up from the middle
    return timeout


cdef inline bint opening_begins(const State* s, const Packet* packet, bint received,
                                Opening* opening) noexcept nogil:
    """Whether a packet may open a flow. ``received``: it came in, else it is this host's own,
    whose checksum is not looked at."""
    cdef bint renews, established
    if not packet_is_valid(packet, received and s.conntrack[CONNTRACK_CHECKSUM] != 0):
        return False
    opening.masquerade = 0
    opening.expected = False
    opening.pool.capacity = 0
    opening.state = rule_state_initial(packet.protocol)
    if packet.protocol == PROTOCOL_ICMP or packet.protocol == PROTOCOL_ICMPV6:
        if not icmp_is_request(packet.protocol, packet_l4(packet)[0]):
            return False
    if packet.protocol == PROTOCOL_SCTP and not (
            association_open(&opening.association, packet)
            and association_take(&opening.association, packet, ORIGINAL, False, &opening.state,
                                 &renews, &established)):
        return False
    opening.timeout = s.tracker.timeout[opening.state]
    if packet.protocol != PROTOCOL_TCP:
        return True
    segment_load(packet, &opening.segment)
    if opening.segment.kind != SEGMENT_SYN and not s.conntrack[CONNTRACK_TCP_LOOSE]:
        return False
    window_open(&opening.window, &opening.segment)
    if segment_track(&opening.window, &s.tracker, &opening.segment, ORIGINAL, RULE_TCP, False,
                     False, s.conntrack[CONNTRACK_TCP_BE_LIBERAL] != 0, False,
                     &opening.state) != FIT_TAKEN:
        return False
    opening.timeout = tcp_timeout(s, &opening.window, &opening.segment, opening.state, False)
    return True


cdef inline void opening_store(const Opening* opening, Entries* entries, Entry* entry,
                               uint8_t protocol) noexcept nogil:
    """Let a flow's entry remember what its first packet said."""
    if protocol == PROTOCOL_TCP:
        entry_window(entries, entry)[0] = opening.window
    elif protocol == PROTOCOL_SCTP:
        (<Association*>entry_window(entries, entry))[0] = opening.association


cdef inline bint invalid_close(const State* s, const Meta* meta, uint32_t left, TcpWindow* w,
                               const Segment* g, uint32_t direction) noexcept nogil:
    """Both sides sent FIN or RST that did not fit: the connection is out of step, and shall
    not stay for days (nf_tcp_handle_invalid). Whether it is shortened; ``left`` as it is."""
    if not meta.flags & FLAG_ASSURED or (g.kind != SEGMENT_FIN and g.kind != SEGMENT_RST):
        return False
    if w.last_direction == direction or (w.last_kind != SEGMENT_FIN
                                         and w.last_kind != SEGMENT_RST):
        w.last_kind = g.kind
        w.last_direction = <uint8_t>direction
        return False
    return (left >= INVALID_CLOSE_LEAST
            and left > s.tracker.timeout[TIMEOUT_TCP_UNACKNOWLEDGED])


# What a packet makes of its flow.
cdef struct Progress:
    uint8_t fit                 # FIT_*
    uint8_t state               # of SCTP also of what is INVALID
    uint32_t timeout
    bint renews                 # the flow's timer, to ``timeout``; also of what is INVALID
    bint ends                   # the flow


cdef inline const Sequence* connection_edits(const State* s, const Table* table,
                                             uint32_t i) noexcept nogil:
    """The edits of both directions of a connection that a helper looks after, or NULL."""
    cdef uint32_t helper = connection_helper(table, i)
    if helper == NIL:
        return NULL
    if table_meta(table, i).flags & FLAG_SERVICE:
        return s.ftp.control[helper].sequence
    return s.masters.master[helper].sequence


cdef inline void tcp_progress(State* s, Table* table, const Packet* packet, uint32_t i,
                              uint32_t direction, uint8_t old, uint32_t deadline,
                              Progress* progress) noexcept nogil:
    """Take a segment into its connection's state and windows (nf_conntrack_tcp_packet)."""
    cdef Meta* meta = table_meta(table, i)
    cdef TcpWindow* w = window_of(entries_of(s.entries, table.family), i)
    cdef Segment g
    cdef bint seen_reply = meta.flags & FLAG_SEEN_REPLY != 0
    cdef bint assured = meta.flags & FLAG_ASSURED != 0
    cdef const Sequence* edits = connection_edits(s, table, i)
    cdef uint32_t edited
    segment_load(packet, &g)
    if edits != NULL:
        edited = 1 - direction ^ entry_of(entries_of(s.entries, table.family), i).reversed
        g.offset = sequence_offset(&edits[edited], g.ack - 1)
    progress.fit = segment_track(
        w, &s.tracker, &g, direction, old, seen_reply, assured,
        s.conntrack[CONNTRACK_TCP_BE_LIBERAL] != 0,
        s.conntrack[CONNTRACK_TCP_IGNORE_INVALID_RST] != 0, &progress.state)
    if progress.fit == FIT_INVALID:
        progress.renews = invalid_close(s, meta, deadline - s.tick_up, w, &g, direction)
        progress.timeout = s.tracker.timeout[TIMEOUT_TCP_UNACKNOWLEDGED]
    if progress.fit != FIT_TAKEN:
        return
    # Nothing but this RST came back: there is nothing to remember.
    progress.ends = not seen_reply and g.kind == SEGMENT_RST
    # A SYN sent again and again does not hold its entry.
    progress.renews = seen_reply or g.kind != SEGMENT_SYN or old != RULE_TCP_SYN_SENT
    progress.timeout = tcp_timeout(s, w, &g, progress.state, seen_reply)
    if (seen_reply and progress.state == RULE_TCP_ESTABLISHED
            and (old == RULE_TCP_SYN_RECV or old == RULE_TCP_ESTABLISHED)):
        meta.flags |= FLAG_ASSURED


cdef inline void datagram_progress(State* s, Table* table, uint32_t i, uint8_t old,
                                   Progress* progress) noexcept nogil:
    """Take a packet of a protocol without states of its own into its flow's."""
    cdef Meta* meta = table_meta(table, i)
    cdef uint64_t created = entry_of(entries_of(s.entries, table.family), i).created
    progress.fit = FIT_TAKEN
    progress.state = rule_flow_state(old, meta.flags & FLAG_SEEN_REPLY != 0,
                                     s.tick > created + ASSURED_AFTER)
    progress.timeout = s.tracker.timeout[progress.state]
    progress.renews = True
    progress.ends = False
    if progress.state == RULE_UDP_ASSURED or progress.state == RULE_GRE_REPLIED:
        meta.flags |= FLAG_ASSURED


cdef inline void sctp_progress(State* s, Table* table, const Packet* packet, uint32_t i,
                               uint32_t direction, Progress* progress) noexcept nogil:
    """Take an SCTP packet into its association (nf_conntrack_sctp_packet)."""
    cdef Association* a = <Association*>window_of(entries_of(s.entries, table.family), i)
    cdef bint established
    if not association_take(a, packet, direction, True, &progress.state, &progress.renews,
                            &established):
        progress.renews = False
        return
    progress.fit = FIT_TAKEN
    progress.timeout = s.tracker.timeout[progress.state]
    if established:
        table_meta(table, i).flags |= FLAG_ASSURED


cdef inline void flow_progress(State* s, Table* table, const Packet* packet, uint32_t i,
                               uint32_t direction, bint received, uint8_t old,
                               uint32_t deadline, Progress* progress) noexcept nogil:
    """Take a packet into the state ``old`` of its flow, which lasts until ``deadline``.

    ``received``: it came in, else it is this host's own, whose checksum is not looked at.
    """
    progress.fit = FIT_INVALID
    progress.state = old
    progress.renews = False
    progress.ends = False
    if not packet_is_valid(packet, received and s.conntrack[CONNTRACK_CHECKSUM] != 0):
        return
    if packet.protocol == PROTOCOL_TCP:
        tcp_progress(s, table, packet, i, direction, old, deadline, progress)
    elif packet.protocol == PROTOCOL_SCTP:
        sctp_progress(s, table, packet, i, direction, progress)
    else:
        datagram_progress(s, table, i, old, progress)


cdef inline uint8_t rule_track(State* s, Table* table, const Packet* packet, const Tuple* t,
                               uint32_t reference, bint received, bint* ends) noexcept nogil:
    """Take a packet into its flow's state; how it fits.

    ``received``: it came in, else it is this host's own, whose checksum is not looked at.
    ``ends``: the flow is over with this packet.
    """
    cdef uint32_t i = reference >> 1
    cdef uint32_t direction = reference & 1
    cdef Meta* meta = table_meta(table, i)
    cdef uint8_t old = meta.state
    cdef Progress progress
    ends[0] = False
    flow_progress(s, table, packet, i, direction, received, old, meta.timer.deadline, &progress)
    if packet.protocol == PROTOCOL_SCTP:
        meta.state = progress.state
    if progress.fit == FIT_INVALID and progress.renews:
        connection_timer_set(table, i, s.tick_up + progress.timeout)
    if progress.fit == FIT_INVALID or progress.fit == FIT_REOPENS:
        return progress.fit
    if direction == REPLY:
        meta.flags |= FLAG_SEEN_REPLY
    if progress.fit == FIT_TAKEN:
        if progress.renews or progress.ends:
            connection_count(table, i, direction, packet.l3_length)
        ends[0] = progress.ends
        trace_step(s, TRACE_STATE, old, progress.state, t)
        meta.state = progress.state
        if progress.renews:
            trace_step(s, TRACE_TIMEOUT, progress.timeout, 0, t)
            connection_timer_set(table, i, s.tick_up + progress.timeout)
    return progress.fit
