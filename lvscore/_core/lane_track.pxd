"""The short way of flows that the NAT rules track: conntrack.pxd for packets that are in step.

As in lane.pxd, a packet that does not fit is left untouched and takes the general way.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from lvscore._core.bytes cimport htons, load16, load_be16
from lvscore._core.checksum cimport sum_bytes, sum_fold
from lvscore._core.connection cimport (
    Connection4, FLAG_ASSURED, FLAG_EXTENDED, FLAG_ONE_PACKET, FLAG_SEEN_REPLY, FLAG_SERVICE,
    FLAG_TRACKED, FLAG_UNTRANSLATED, Meta, Table, connection4_has,
)
from lvscore._core.consts cimport IPV4, NIL, PROTOCOL_TCP
from lvscore._core.entry cimport Entries
from lvscore._core.flow cimport Address
from lvscore._core.lane cimport Frames, Lane, lane_count, lane_rewrite, lanes_told
from lvscore._core.lifetime cimport connection_timer_set
from lvscore._core.machine cimport likely, prefetch_write
from lvscore._core.progress cimport Progress, datagram_progress, tcp_timeout
from lvscore._core.route cimport Routes, address_is_local
from lvscore._core.state cimport CONNTRACK_CHECKSUM, State
from lvscore._core.tcp_window cimport (
    SEGMENT_ACK, Segment, TcpSide, TcpWindow, segment_highest, segment_read, window_fits,
    window_update,
)
from lvscore._core.track cimport RULE_TCP_ESTABLISHED, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN


cdef inline void lanes_fetch_windows(const Entries* entries, const Lane* lane,
                                     uint32_t count) noexcept nogil:
    """Have the cache fetch what conntrack knows of the candidates' sequence numbers."""
    cdef uint64_t j
    for j in range(count):
        if lane[j].reference != NIL:
            prefetch_write(&entries.window[lane[j].reference >> 1])


cdef inline bint lane_is_local(const Routes* routes, uint32_t address) noexcept nogil:
    cdef Address a
    memset(&a, 0, sizeof(Address))
    a.word[0] = address
    return address_is_local(routes, IPV4, &a)


cdef inline bint lane_sum_good(const Lane* lane) noexcept nogil:
    """Whether the transport checksum is right. Without options, the addresses of the
    pseudo-header lie just before what it covers."""
    cdef uint64_t pseudo = <uint64_t>htons(<uint16_t>(lane.key >> 32)) + htons(
        <uint16_t>(lane.l3_length - 20))
    return sum_fold(sum_bytes(lane.ip + 12, lane.l3_length - 12, pseudo)) == 0xFFFF


cdef inline uint32_t segment_take(const State* s, const Lane* lane, const Meta* meta,
                                  TcpWindow* w) noexcept nogil:
    """Take a plain acknowledgment, with or without data, into the windows of an established
    connection: for how long (ticks) it holds it; or NIL, and nothing is changed, if it is another
    segment or does not fit."""
    cdef const uint8_t* tcp = lane.ip + 20
    cdef uint32_t direction = lane.reference & 1
    cdef uint32_t header = tcp[12] >> 4 << 2
    cdef TcpSide* sender = &w.side[direction]
    cdef TcpSide* receiver = &w.side[1 - direction]
    cdef Segment g
    cdef uint32_t sack
    if likely(meta.state != RULE_TCP_ESTABLISHED or sender.max_window == 0
              or tcp[13] & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK) != TCP_ACK
              or header < 20 or header + 20 > lane.l3_length, False):
        return NIL
    segment_read(tcp, header, lane.l3_length - 20, &g)
    g.kind = SEGMENT_ACK
    sack = segment_highest(&g, receiver)
    if likely(not window_fits(sender, receiver, g.sequence, g.end, sack), False):
        return NIL
    window_update(w, &g, direction, g.sequence, g.end, g.ack, sack)
    w.last_kind = SEGMENT_ACK
    w.last_direction = <uint8_t>direction
    return tcp_timeout(s, w, &g, meta.state, meta.flags & FLAG_SEEN_REPLY != 0)


cdef inline uint32_t datagram_take(State* s, Table* table, const Lane* lane,
                                   Meta* meta) noexcept nogil:
    """The same of a datagram."""
    cdef uint32_t length = load_be16(lane.ip + 24)
    cdef Progress progress
    if length < 8 or length > lane.l3_length - 20:
        return NIL
    datagram_progress(s, table, lane.reference >> 1, meta.state, &progress)
    meta.state = progress.state
    return progress.timeout


cdef inline bint lane_track(State* s, Table* table, const Lane* lane, bint checked,
                            bint local) noexcept nogil:
    """Forward a packet of a flow that the NAT rules track: rule_packet's short way. False if it
    needs the general way, and then nothing was touched. ``checked``: checksums are; ``local``:
    some addresses are this host's."""
    cdef uint32_t direction = lane.reference & 1
    cdef Connection4* c = lane.connection
    cdef Meta* meta
    cdef uint32_t timeout
    if likely(lane.reference == NIL, False):
        return False
    meta = &c.meta
    if likely(not connection4_has(c, direction, lane.addresses, lane.key)
              or meta.flags & (FLAG_TRACKED | FLAG_SERVICE | FLAG_UNTRANSLATED | FLAG_EXTENDED
                               | FLAG_ONE_PACKET) != FLAG_TRACKED, False):
        return False
    if local and lane_is_local(&s.routes, <uint32_t>(c.addresses[direction] >> 32)):
        return False
    if likely(lane.key >> 32 == PROTOCOL_TCP, True):
        if checked and not lane_sum_good(lane):
            return False
        timeout = segment_take(s, lane, meta, &s.entries[0].window[lane.reference >> 1])
        if likely(timeout == NIL, False):
            return False
        if meta.flags & FLAG_SEEN_REPLY:
            meta.flags |= FLAG_ASSURED
    else:
        if checked and load16(lane.ip + 26) and not lane_sum_good(lane):
            return False
        timeout = datagram_take(s, table, lane, meta)
        if likely(timeout == NIL, False):
            return False
    lane_count(s, lane, c)
    connection_timer_set(table, lane.reference >> 1, s.tick_up + timeout)
    lane_rewrite(lane, c, 0)
    return True


cdef inline uint32_t lanes_track(State* s, const Frames* frames, uint32_t first, uint32_t j,
                                 uint32_t count, const Lane* lane) noexcept nogil:
    """Take a vector's packets of flows that the NAT rules track from ``j`` on the short way, up to
    the first that needs another or has a time of its own; its index."""
    cdef const int64_t* timestamp = frames.timestamp + first
    cdef const uint64_t* offset = frames.offset + first
    cdef const uint32_t* length = frames.length + first
    cdef bint checked = s.conntrack[CONNTRACK_CHECKSUM] != 0
    cdef bint local = s.routes.hosted or s.routes.local_taken
    cdef int64_t now = s.now
    cdef uint32_t replies = 0
    cdef uint64_t i = j
    while i < count:
        # What was not captured cannot be verified.
        if (timestamp[i] != now or lane[i].ip + lane[i].l3_length
                > frames.data + offset[i] + length[i]
                or not lane_track(s, &s.table[0], &lane[i], checked, local)):
            break
        replies += lane[i].reference & 1
        i += 1
    lanes_told(s, frames, first, j, <uint32_t>i, lane, replies)
    return <uint32_t>i
