"""The short way through the pipeline: packets that change nothing of their connection's state.

A packet is looked at here without being taken apart, its connection is found by what lies in the
frame, and addresses and checksums are changed by what the connection keeps ready. What does not
fit takes the general way, as if it had not been here.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from lvscore._core.bytes cimport (
    htons, load16, load32, load64, load_be16, store16, store32, store64,
)
from lvscore._core.checksum cimport checksum_update, udp_checksum_update
from lvscore._core.connection cimport (
    Connection4, FLAG_ASSURED, FLAG_EXTENDED, FLAG_ONE_PACKET, FLAG_SEEN_REPLY, FLAG_SERVICE,
    FLAG_SLOW, FLAG_TRACKED, FLAG_UNTRANSLATED, Meta, Table, connection4, connection4_matches,
    may_wait,
)
from lvscore._core.consts cimport (
    IPV4, IPV6, LINK_ETHERNET, MAX_DISPLACEMENT, NIL, PROTOCOL_TCP, PROTOCOL_UDP, REASON_NONE,
    REASON_REPLY, REASON_REQUEST, VECTOR, VERDICT_FORWARD,
)
from lvscore._core.entry cimport Entries, window_of
from lvscore._core.flow cimport Address, Tuple, addresses_unpack, ports_key
from lvscore._core.hash cimport hash_ipv4
from lvscore._core.index cimport Bucket, hash_tag, index_home
from lvscore._core.lifetime cimport connection_timer_set
from lvscore._core.machine cimport likely, lowest_bit, match_tags, prefetch, prefetch_write
from lvscore._core.progress cimport Progress, datagram_progress, tcp_timeout
from lvscore._core.route cimport address_is_local
from lvscore._core.rules cimport ANY_INTERFACE, Seen, chain_pass
from lvscore._core.server cimport SERVER_AVAILABLE, Server
from lvscore._core.state cimport (
    CONNTRACK_CHECKSUM, SYSCTL_EXPIRE_NODEST_CONN, State, is_hosted,
)
from lvscore._core.tcp_window cimport (
    SEGMENT_ACK, Segment, TcpSide, TcpWindow, segment_highest, segment_load, window_fits,
    window_update,
)
from lvscore._core.track cimport RULE_TCP_ESTABLISHED, TCP_RST, TCP_SYN
from lvscore._core.verify cimport packet_is_valid
from lvscore._core.wire cimport ETHERTYPE_IPV4, Packet, link_parse

cdef enum:
    CACHE_LINE = 64
    NO_IPV4 = 0xFFFFFFFF


# What the pipeline works on: the arrays of a FrameBatch.
cdef struct Frames:
    uint8_t* data
    const uint64_t* offset
    uint32_t* length
    const uint32_t* original_length
    const int64_t* timestamp
    const uint32_t* mark        # NULL: none has a mark
    uint8_t* verdict
    uint8_t* reason
    uint32_t* egress            # interfaces that a Host sends them by
    uint32_t count
    int link_type
    bint vnet_header            # a virtio_net_hdr lies before each frame


# One packet of a vector.
cdef struct Lane:
    uint64_t addresses
    uint64_t key            # protocol and ports
    uint64_t hash
    uint8_t* ip             # NULL: not for the short way
    const Bucket* bucket    # where its search begins
    uint32_t reference      # candidate, to be verified
    uint32_t l3_length
    uint16_t tag


cdef inline uint32_t lane_link(const uint8_t* frame, uint32_t length, int link_type) noexcept nogil:
    """Where IPv4 begins behind another link header than plain Ethernet's, or NO_IPV4."""
    cdef uint32_t l3
    cdef uint8_t family
    if (link_parse(frame, length, link_type, &l3, &family) != REASON_NONE or family == IPV6
            or length < l3 + 20):
        return NO_IPV4
    return l3


cdef inline void lane_parse(const State* s, Lane* lane, uint8_t* frame, uint32_t length,
                            uint32_t wire_length, int link_type) noexcept nogil:
    """Fill a lane if the frame is plain IPv4 TCP or UDP: no options, no fragment, whole."""
    cdef uint32_t l3 = 14
    cdef uint32_t total
    cdef uint32_t least = 40
    cdef uint8_t* ip
    cdef uint8_t protocol
    lane.ip = NULL
    if likely(link_type != LINK_ETHERNET or length < 34
              or load16(frame + 12) != htons(ETHERTYPE_IPV4), False):
        l3 = lane_link(frame, length, link_type)
        if l3 == NO_IPV4:
            return
    ip = frame + l3
    total = load_be16(ip + 2)
    protocol = ip[9]
    if protocol != PROTOCOL_TCP:
        if protocol != PROTOCOL_UDP:
            return
        least = 28
    if likely(ip[0] != 0x45 or load16(ip + 6) & htons(0x3FFF) or total > wire_length - l3
              or total < least or length < l3 + least, False):
        return
    lane.ip = ip
    lane.l3_length = total
    lane.addresses = load64(ip + 12)
    lane.key = ports_key(protocol, load32(ip + 20))
    lane.hash = hash_ipv4(&s.key, lane.addresses, lane.key)
    lane.tag = hash_tag(lane.hash)
    lane.bucket = &s.table[0].index.bucket[index_home(&s.table[0].index, lane.hash)]
    prefetch(lane.bucket)


cdef inline void lane_match(const Table* table, Lane* lane) noexcept nogil:
    """Take the first slot with the right tag as candidate, and fetch its connection."""
    cdef const Bucket* bucket = lane.bucket
    cdef const Bucket* last = bucket + MAX_DISPLACEMENT
    cdef uint32_t mask = match_tags(bucket.tag, lane.tag)
    lane.reference = NIL
    while likely(mask == 0 and bucket.overflow != 0 and bucket != last, False):
        bucket += 1
        mask = match_tags(bucket.tag, lane.tag)
    if likely(mask != 0, True):
        lane.reference = bucket.reference[lowest_bit(mask)]
        prefetch_write(connection4(table, lane.reference >> 1))


cdef inline uint64_t lanes_parse(const State* s, const Frames* frames, uint32_t first,
                                 uint32_t count, Lane* lane) noexcept nogil:
    """Parse a vector and have the cache fetch the next one's headers; the bytes of its frames."""
    # Frames are bytes, which may alias anything: what does not change is kept in locals.
    cdef uint8_t* data = frames.data
    cdef const uint64_t* offset = frames.offset + first
    cdef const uint32_t* length = frames.length + first
    cdef const uint32_t* wire_length = frames.original_length + first
    cdef uint32_t ahead = frames.count - first
    cdef int link_type = frames.link_type
    cdef uint64_t total = 0
    cdef uint32_t j
    for j in range(count):
        lane_parse(s, &lane[j], data + offset[j], length[j], wire_length[j], link_type)
        total += length[j]
        if likely(j + VECTOR < ahead, True):
            prefetch_write(data + offset[j + VECTOR])
    return total


cdef inline void lanes_match(const Table* table, Lane* lane, uint32_t count) noexcept nogil:
    cdef uint32_t j
    for j in range(count):
        if likely(lane[j].ip != NULL, True):
            lane_match(table, &lane[j])


cdef inline void lanes_restrict(const State* s, Lane* lane, uint32_t count) noexcept nogil:
    """Keep from the short way what its connection does not tell enough of."""
    cdef uint32_t j
    if likely(not s.mangle.count and not s.sysctl[SYSCTL_EXPIRE_NODEST_CONN], True):
        return
    for j in range(count):
        # Rules of the mangle table count every packet, and a SYN may leave its server.
        if s.mangle.count or (lane[j].ip != NULL and lane[j].ip[9] == PROTOCOL_TCP
                              and lane[j].ip[33] & TCP_SYN):
            lane[j].ip = NULL


cdef inline void lanes_fetch_windows(const Entries* entries, const Lane* lane,
                                     uint32_t count) noexcept nogil:
    """Have the cache fetch what conntrack knows of the candidates: number, entry and windows, each
    for the whole vector, since each says where the next one is."""
    cdef uint32_t j, w
    cdef uint32_t e[16]
    for j in range(count):
        if lane[j].ip != NULL and lane[j].reference != NIL:
            prefetch(&entries.entry_of[lane[j].reference >> 1])
    for j in range(count):
        e[j] = NIL
        if lane[j].ip != NULL and lane[j].reference != NIL:
            e[j] = entries.entry_of[lane[j].reference >> 1]     # stale if it is not tracked
            prefetch(&entries.entry[e[j]])
    for j in range(count):
        w = NIL if e[j] == NIL else entries.entry[e[j]].window
        if w != NIL:
            prefetch_write(&entries.window[w])
            prefetch_write(<const uint8_t*>&entries.window[w] + CACHE_LINE)


cdef inline uint32_t lane_delta(uint16_t delta, uint32_t direction) noexcept nogil:
    """A connection's delta in a direction: the other one's is the complement, and 0xffff is not
    canonical and means 0."""
    cdef uint32_t turned = (delta ^ (0 - direction)) & 0xFFFF
    return 0 if turned == 0xFFFF else turned


cdef inline void lane_translate(uint8_t* ip, const Connection4* c, uint32_t direction, bint tcp,
                                uint32_t hop) noexcept nogil:
    """Put in the other addresses and ports, and what they change in the checksums. ``hop``: the
    delta of a TTL that the caller decreases, or 0."""
    cdef uint8_t* l4 = ip + 20
    cdef uint16_t sum3 = load16(ip + 10)
    cdef uint16_t sum4 = load16(l4 + 16) if tcp else load16(l4 + 6)
    cdef uint32_t delta3 = lane_delta(c.delta3, direction)
    cdef uint16_t delta4 = <uint16_t>lane_delta(c.delta4, direction)
    if hop:
        delta3 += hop
        delta3 = (delta3 & 0xFFFF) + (delta3 >> 16)
    store64(ip + 12, c.addresses[direction])
    store32(l4, c.ports[direction])
    store16(ip + 10, checksum_update(sum3, <uint16_t>delta3))
    if tcp:
        store16(l4 + 16, checksum_update(sum4, delta4))
    elif sum4:                          # none stays none
        store16(l4 + 6, udp_checksum_update(sum4, delta4))


cdef inline Connection4* lane_connection(State* s, const Table* table,
                                         const Lane* lane) noexcept nogil:
    """The connection of a packet that changes nothing of its connection's state; NULL if the
    packet needs the general way."""
    cdef uint8_t* ip = lane.ip
    cdef uint32_t reference = lane.reference
    cdef uint32_t direction = reference & 1
    cdef uint32_t event = 0             # any does for UDP
    cdef Connection4* c
    if likely(ip == NULL or reference == NIL, False):
        return NULL
    if likely(not connection4_matches(table, reference, lane.addresses, lane.key), False):
        return NULL
    if likely(lane.key >> 32 == PROTOCOL_TCP, True):
        event = ip[33]
        # A RST with SYN leaves a closed connection closed, but also ends it.
        if likely(event & (TCP_SYN | TCP_RST) == (TCP_SYN | TCP_RST), False):
            return NULL
        event &= 31
    elif load16(ip + 26) == 0:          # UDP without checksum is for packet_translate
        return NULL
    c = connection4(table, reference >> 1)
    if likely(s.tracker.next[direction][event][c.meta.state] != c.meta.state
              or c.meta.flags & (FLAG_SLOW | FLAG_UNTRANSLATED) != 0
              or s.services.server[c.meta.server].flags & SERVER_AVAILABLE == 0
              or c.meta.bytes[direction] > 0xFFFFFFFFU - lane.l3_length, False):
        return NULL
    return c


cdef inline void lane_count(State* s, const Lane* lane, Connection4* c,
                            uint32_t direction) noexcept nogil:
    """Count a packet at its connection and server, and let the timer run anew."""
    cdef Server* server = &s.services.server[c.meta.server]
    c.meta.flags |= <uint16_t>(direction * FLAG_SEEN_REPLY)
    c.meta.timer.deadline = s.tick_up + s.tracker.timeout[c.meta.state]
    c.meta.packets[direction] += 1
    c.meta.bytes[direction] += lane.l3_length
    server.packets[direction] += 1
    server.bytes[direction] += lane.l3_length


cdef inline void lane_raw(State* s, const Lane* lane, uint32_t mark) noexcept nogil:
    """Let the rules of table raw see a packet that took the short way; it opens no flow."""
    cdef Seen seen
    cdef Tuple t
    memset(&seen, 0, sizeof(Seen))
    seen.ingress = <int>s.forward.ingress if is_hosted(s) else ANY_INTERFACE
    seen.egress = ANY_INTERFACE
    seen.mark = mark
    seen.length = lane.l3_length
    t.family = IPV4
    t.protocol = <uint8_t>(lane.key >> 32)
    t.ports = <uint32_t>lane.key
    addresses_unpack(&t, lane.addresses)
    chain_pass(&s.raw, &t, &seen)


cdef inline void lanes_raw(State* s, const Frames* frames, uint32_t first, uint32_t begin,
                           uint32_t end, const Lane* lane) noexcept nogil:
    """Let the rules of table raw see the packets of a vector that took the short way."""
    cdef uint32_t j
    if likely(s.raw.count == 0, True):
        return
    for j in range(begin, end):
        lane_raw(s, &lane[j], 0 if frames.mark == NULL else frames.mark[first + j])


cdef inline uint32_t lanes_forward(State* s, const Frames* frames, uint32_t first, uint32_t j,
                                   uint32_t count, const Lane* lane) noexcept nogil:
    """Take a vector's packets from ``j`` on the short way, up to the first that needs another
    or has a time of its own; its index."""
    cdef Table* table = &s.table[0]
    cdef const int64_t* timestamp = frames.timestamp + first
    cdef uint8_t* verdict = frames.verdict + first
    cdef uint8_t* reason = frames.reason + first
    cdef int64_t now = s.now
    cdef uint32_t begin = j
    cdef uint32_t replies = 0
    cdef uint32_t direction
    cdef Connection4* c
    cdef bint pending = table.pending_count != 0
    while j < count:
        if likely(timestamp[j] != now, False):
            break
        if likely(pending, False) and (lane[j].ip == NULL or may_wait(table, lane[j].tag)):
            break
        c = lane_connection(s, table, &lane[j])
        if likely(c == NULL, False):
            break
        direction = lane[j].reference & 1
        lane_count(s, &lane[j], c, direction)
        lane_translate(lane[j].ip, c, direction, lane[j].key >> 32 == PROTOCOL_TCP, 0)
        verdict[j] = VERDICT_FORWARD
        reason[j] = <uint8_t>(REASON_REQUEST + direction)
        replies += direction
        j += 1
    lanes_raw(s, frames, first, begin, j, lane)
    s.verdicts[VERDICT_FORWARD] += j - begin
    s.reasons[REASON_REPLY] += replies
    s.reasons[REASON_REQUEST] += j - begin - replies
    return j


cdef inline bint segment_fits(State* s, const Packet* packet, const Meta* meta, TcpWindow* w,
                              uint32_t direction, uint32_t* timeout) noexcept nogil:
    """Take a plain acknowledgment, with or without data, into the windows of an established
    connection; False, and nothing is changed, if it is another segment or does not fit."""
    cdef TcpSide* sender = &w.side[direction]
    cdef TcpSide* receiver = &w.side[1 - direction]
    cdef Segment g
    cdef uint32_t sack
    if meta.state != RULE_TCP_ESTABLISHED or sender.max_window == 0:
        return False
    segment_load(packet, &g)
    sack = segment_highest(&g, receiver)
    if g.kind != SEGMENT_ACK or not window_fits(sender, receiver, g.sequence, g.end, sack):
        return False
    window_update(w, &g, direction, g.sequence, g.end, g.ack, sack)
    w.last_kind = SEGMENT_ACK
    w.last_direction = <uint8_t>direction
    timeout[0] = tcp_timeout(s, w, &g, meta.state, meta.flags & FLAG_SEEN_REPLY != 0)
    return True


cdef inline uint32_t lane_track(State* s, Table* table, const Lane* lane, const uint8_t* frame,
                                uint32_t captured) noexcept nogil:
    """Forward a packet of a flow that the NAT rules track: rule_packet's short way.

    Its direction; or NIL if the packet needs the general way, and then nothing was touched.
    """
    cdef uint32_t reference = lane.reference
    cdef uint32_t direction = reference & 1
    cdef Packet packet
    cdef Progress progress
    cdef Address destination
    cdef Connection4* c
    cdef Meta* meta
    if lane.ip == NULL or reference == NIL or lane.ip + lane.l3_length > frame + captured:
        return NIL
    if not connection4_matches(table, reference, lane.addresses, lane.key):
        return NIL
    c = connection4(table, reference >> 1)
    meta = &c.meta
    memset(&destination, 0, sizeof(Address))
    destination.word[0] = c.addresses[direction] >> 32
    if (meta.flags & (FLAG_TRACKED | FLAG_SERVICE | FLAG_UNTRANSLATED | FLAG_EXTENDED
                      | FLAG_ONE_PACKET) != FLAG_TRACKED
            or meta.bytes[direction] > 0xFFFFFFFFU - lane.l3_length
            or address_is_local(&s.routes, IPV4, &destination)):
        return NIL
    packet.frame = lane.ip
    packet.l3 = 0
    packet.l4 = 20
    packet.l3_length = lane.l3_length
    packet.l4_length = lane.l3_length - 20
    packet.l4_captured = packet.l4_length
    packet.family = IPV4
    packet.protocol = meta.protocol
    packet.partial = False
    if not packet_is_valid(&packet, s.conntrack[CONNTRACK_CHECKSUM] != 0):
        return NIL
    if meta.protocol == PROTOCOL_TCP:
        if not segment_fits(s, &packet, meta, window_of(&s.entries[0], reference >> 1), direction,
                            &progress.timeout):
            return NIL
        if meta.flags & FLAG_SEEN_REPLY:
            meta.flags |= FLAG_ASSURED
    else:
        datagram_progress(s, table, reference >> 1, meta.state, &progress)
        meta.state = progress.state
    meta.flags |= <uint16_t>(direction * FLAG_SEEN_REPLY)
    meta.packets[direction] += 1
    meta.bytes[direction] += lane.l3_length
    connection_timer_set(table, reference >> 1, s.tick_up + progress.timeout)
    lane_translate(lane.ip, c, direction, meta.protocol == PROTOCOL_TCP, 0)
    return direction


cdef inline uint32_t lanes_track(State* s, const Frames* frames, uint32_t first, uint32_t j,
                                 uint32_t count, const Lane* lane) noexcept nogil:
    """Take a vector's packets of flows that the NAT rules track from ``j`` on the short way, up to
    the first that needs another or has a time of its own; its index."""
    cdef const int64_t* timestamp = frames.timestamp + first
    cdef uint32_t begin = j
    cdef uint32_t replies = 0
    cdef uint32_t direction
    while j < count and timestamp[j] == s.now:
        direction = lane_track(s, &s.table[0], &lane[j], frames.data + frames.offset[first + j],
                               frames.length[first + j])
        if direction == NIL:
            break
        frames.verdict[first + j] = VERDICT_FORWARD
        frames.reason[first + j] = <uint8_t>(REASON_REQUEST + direction)
        replies += direction
        j += 1
    lanes_raw(s, frames, first, begin, j, lane)
    s.verdicts[VERDICT_FORWARD] += j - begin
    s.reasons[REASON_REPLY] += replies
    s.reasons[REASON_REQUEST] += j - begin - replies
    return j
