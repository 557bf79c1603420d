"""The fast path of flows that the NAT rules track: conntrack.pxd for packets that are in step.

As in lane.pxd, a packet that does not fit is left untouched and takes the slow path.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from lvscore._core.bytes cimport htonl, htons, load16, load32, load_be16
from lvscore._core.checksum cimport sum_bytes, sum_fold
from lvscore._core.clock cimport clock_passes
from lvscore._core.connection cimport (
    FLAG_ASSURED, FLAG_EXTENDED, FLAG_ONE_PACKET, FLAG_SEEN_REPLY, FLAG_SERVICE,
    FLAG_TRACKED, FLAG_UNTRANSLATED, Meta, connection4_has, meta_count,
)
from lvscore._core.consts cimport IPV4, NIL, PROTOCOL_TCP, PROTOCOL_UDP
from lvscore._core.entry cimport Entries
from lvscore._core.flow cimport Address
from lvscore._core.lane cimport Frames, Lane, lane_translate, lanes_told
from lvscore._core.lifetime cimport connection_timer_set
from lvscore._core.machine cimport likely, prefetch_write
from lvscore._core.offload cimport VNET_HEADER, VNET_NEEDS_CSUM
from lvscore._core.progress cimport Progress, datagram_progress, tcp_timeout
from lvscore._core.route cimport address_is_local
from lvscore._core.state cimport CONNTRACK_CHECKSUM, State
from lvscore._core.tcp_window cimport (
    SEGMENT_ACK, SIDE_SACKS, Segment, TcpSide, TcpWindow, segment_read, window_fits, window_update,
)
from lvscore._core.track cimport (
    RULE_TCP_ESTABLISHED, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, TIMEOUT_TCP_RETRANS,
    TIMEOUT_TCP_UNACKNOWLEDGED,
)


cdef inline void lanes_fetch_windows(const Entries* entries, const Lane* lane,
                                     uint32_t count) noexcept nogil:
    """Have the cache fetch what conntrack knows of the candidates' sequence numbers."""
    cdef uint64_t j
    for j in range(count):
        if lane[j].reference != NIL:
            prefetch_write(&entries.window[lane[j].reference >> 1])


cdef inline bint lane_is_local(const State* s, const Lane* lane) noexcept nogil:
    """Whether a packet of a candidate that tracks it is for this host when it is translated."""
    cdef Address a
    memset(&a, 0, sizeof(Address))
    a.word[0] = lane.connection.addresses[lane.reference & 1] >> 32
    return address_is_local(&s.routes, IPV4, &a)


cdef inline bint lane_sum_good(const Lane* lane) noexcept nogil:
    """Whether the transport checksum is right. Without options, the addresses of the
    pseudo-header lie just before what it covers."""
    cdef uint64_t pseudo = <uint64_t>htons(<uint16_t>(lane.key >> 32)) + htons(
        <uint16_t>(lane.l3_length - 20))
    return sum_fold(sum_bytes(lane.ip + 12, lane.l3_length - 12, pseudo)) == 0xFFFF


cdef inline bint is_partial(const Frames* frames, uint32_t i) noexcept nogil:
    """Whether an interface left a frame's transport checksum undone."""
    return (frames.vnet_header
            and frames.data[frames.offset[i] - VNET_HEADER] & VNET_NEEDS_CSUM != 0)


cdef inline void lanes_verify(const State* s, const Frames* frames, uint32_t first, Lane* lane,
                              uint32_t count, bint hosted) noexcept nogil:
    """Look at the checksums of a vector, while its connections and their windows are fetched.
    ``hosted``: interfaces may have left them undone."""
    cdef bint checked = s.conntrack[CONNTRACK_CHECKSUM] != 0
    cdef uint64_t j
    for j in range(count):
        if lane[j].reference != NIL:
            lane[j].verified = (not checked or (hosted and is_partial(frames, first + j))
                                or lane_sum_good(&lane[j])
                                or (lane[j].key >> 32 == PROTOCOL_UDP
                                    and load16(lane[j].ip + 26) == 0))


cdef inline bint lane_is_tracked(const Lane* lane) noexcept nogil:
    """Whether a packet is of a flow that only conntrack knows, and that is translated."""
    return (lane.reference != NIL and lane.verified
            and connection4_has(lane.connection, lane.reference & 1, lane.addresses, lane.key)
            and lane.connection.meta.flags & (
                FLAG_TRACKED | FLAG_SERVICE | FLAG_UNTRANSLATED | FLAG_EXTENDED
                | FLAG_ONE_PACKET) == FLAG_TRACKED)


cdef inline bint options_are_plain(const uint8_t* options, uint32_t length) noexcept nogil:
    """Whether the options of a segment are none, or a timestamp as most systems send it
    (RFC 7323, appendix A)."""
    return length == 0 or (length == 12 and load32(options) == htonl(0x0101080A))


cdef inline bint segment_is_plain(const Lane* lane) noexcept nogil:
    """Whether a packet is an acknowledgment, with or without data, of an established connection."""
    cdef const uint8_t* tcp = lane.ip + 20
    cdef uint32_t header
    if likely(lane.key >> 32 != PROTOCOL_TCP, False):
        return False
    header = (tcp[12] & 0xF0) >> 2
    return (lane.connection.meta.state == RULE_TCP_ESTABLISHED
            and tcp[13] & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK) == TCP_ACK
            and header >= 20 and header + 20 <= lane.l3_length)


cdef inline uint32_t segment_take(const State* s, const Lane* lane, TcpWindow* w) noexcept nogil:
    """Take a plain acknowledgment into its connection's windows: for how long (ticks) it holds the
    connection; or NIL, and nothing is changed, if it does not fit."""
    cdef const uint8_t* tcp = lane.ip + 20
    cdef uint32_t direction = lane.reference & 1
    cdef TcpSide* sender = &w.side[direction]
    cdef TcpSide* receiver = &w.side[direction ^ 1]
    cdef Segment g
    segment_read(tcp, (tcp[12] & 0xF0) >> 2, lane.l3_length - 20, &g)
    g.kind = SEGMENT_ACK
    g.flags = TCP_ACK           # what else there may be is not looked at
    if likely(sender.max_window == 0, False) or (
            receiver.flags & SIDE_SACKS and not options_are_plain(g.options, g.options_length)):
        return NIL
    if likely(not window_fits(sender, receiver, g.sequence, g.end, g.ack), False):
        return NIL
    window_update(w, &g, direction, g.sequence, g.end, g.ack, g.ack)
    w.last_kind = SEGMENT_ACK
    w.last_direction = <uint8_t>direction
    return tcp_timeout(s, w, &g, RULE_TCP_ESTABLISHED,
                       lane.connection.meta.flags & FLAG_SEEN_REPLY != 0)


cdef inline void lane_count(State* s, const Lane* lane) noexcept nogil:
    """Count a packet at its connection."""
    meta_count(&s.table[0], &lane.connection.meta, lane.reference >> 1, lane.reference & 1,
               lane.l3_length)


cdef inline bint timers_stay(const State* s) noexcept nogil:
    """Whether no timer of an established connection need be linked anew (connection_timer_set)."""
    cdef uint32_t horizon = s.table[0].wheel.horizon
    return (s.tracker.timeout[RULE_TCP_ESTABLISHED] >= horizon
            and s.tracker.timeout[TIMEOUT_TCP_RETRANS] >= horizon
            and s.tracker.timeout[TIMEOUT_TCP_UNACKNOWLEDGED] >= horizon)


cdef inline uint64_t segments_find(const State* s, const int64_t* timestamp, uint64_t i,
                                   uint32_t count, const Lane* lane) noexcept nogil:
    """The index of the first packet from ``i`` on that is no plain segment of a tracked flow, or
    is not of the present tick."""
    cdef int64_t now = s.now
    while i < count:
        if likely(timestamp[i] < now or timestamp[i] >= s.tick_end
                  or not lane_is_tracked(&lane[i]) or not segment_is_plain(&lane[i]), False):
            break
        now = timestamp[i]
        i += 1
    return i


cdef inline uint64_t segments_take(State* s, const int64_t* timestamp, uint64_t i, uint64_t end,
                                   const Lane* lane) noexcept nogil:
    """Take plain segments of the present tick into their connections' windows; the index of the
    first that does not fit."""
    cdef TcpWindow* window = s.entries[0].window
    cdef uint32_t timeout
    cdef Meta* meta
    while i < end:
        timeout = segment_take(s, &lane[i], &window[lane[i].reference >> 1])
        if likely(timeout == NIL, False):
            break
        meta = &lane[i].connection.meta
        meta.flags |= FLAG_ASSURED if meta.flags & FLAG_SEEN_REPLY else 0
        meta.flags |= <uint16_t>((lane[i].reference & 1) * FLAG_SEEN_REPLY)
        meta.timer.deadline = s.tick_up + timeout
        s.now = timestamp[i]
        i += 1
    return i


cdef inline uint64_t segments_track(State* s, const int64_t* timestamp, uint64_t i, uint32_t count,
                                    const Lane* lane, uint32_t* replies) noexcept nogil:
    """Forward a vector's segments from ``i`` on, as rule_packet does, up to the first packet that
    needs more; its index. What a plain segment changes is of no account to whether the next is
    one."""
    cdef uint64_t end
    if not timers_stay(s):
        return i
    end = segments_find(s, timestamp, i, count, lane)
    end = segments_take(s, timestamp, i, end, lane)
    while i < end:
        lane_count(s, &lane[i])
        lane_translate(&lane[i], lane[i].connection, True, 0)
        replies[0] += lane[i].reference & 1
        i += 1
    return i


cdef inline bint datagram_take(State* s, const Lane* lane) noexcept nogil:
    """Take a datagram of a tracked flow into its state; False, and nothing is changed, if it is
    INVALID."""
    cdef uint32_t length = load_be16(lane.ip + 24)
    cdef Meta* meta
    cdef Progress progress
    if length < 8 or length > lane.l3_length - 20:
        return False
    meta = &lane.connection.meta
    datagram_progress(s, &s.table[0], lane.reference >> 1, meta.state, &progress)
    meta.state = progress.state
    meta.flags |= <uint16_t>((lane.reference & 1) * FLAG_SEEN_REPLY)
    connection_timer_set(&s.table[0], lane.reference >> 1, s.tick_up + progress.timeout)
    return True


cdef inline bint datagram_track(State* s, const Lane* lane) noexcept nogil:
    """Forward a datagram, as rule_packet does; False, and nothing is changed, if it needs the
    slow path."""
    if (not lane_is_tracked(lane) or lane.key >> 32 != PROTOCOL_UDP
            or not datagram_take(s, lane)):
        return False
    lane_count(s, lane)
    lane_translate(lane, lane.connection, False, 0)
    return True


cdef inline void lanes_keep(const State* s, const Frames* frames, uint32_t first, uint32_t count,
                            Lane* lane) noexcept nogil:
    """Keep from the fast path what was not captured whole, and so cannot be verified, and what is
    for this host when it is translated."""
    cdef uint64_t j
    if frames.original_length == frames.length and not (s.routes.hosted or s.routes.local_taken):
        return
    for j in range(count):
        if lane[j].reference != NIL and (
                lane[j].ip + lane[j].l3_length > frames.data + frames.offset[first + j]
                + frames.length[first + j] or lane_is_local(s, &lane[j])):
            lane[j].reference = NIL


cdef inline uint32_t lanes_track(State* s, const Frames* frames, uint32_t first, uint32_t j,
                                 uint32_t count, const Lane* lane) noexcept nogil:
    """Take a vector's packets of flows that the NAT rules track from ``j`` on the fast path, up to
    the first that needs another or is not of the present tick; its index."""
    cdef const int64_t* timestamp = frames.timestamp + first
    cdef uint32_t replies = 0
    cdef uint64_t i = j
    while True:
        i = segments_track(s, timestamp, i, count, lane, &replies)
        if (likely(i == count, True) or not clock_passes(s, timestamp[i])
                or not datagram_track(s, &lane[i])):
            break
        replies += lane[i].reference & 1
        i += 1
    lanes_told(s, frames, first, j, <uint32_t>i, lane, replies)
    return <uint32_t>i
