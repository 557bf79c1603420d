"""The short way through the pipeline: packets that change nothing of their connection's state.

A packet is looked at here without being taken apart, its connection is found by what lies in the
frame, and addresses and checksums are changed by what the connection keeps ready. What does not
fit takes the general way, as if it had not been here.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from lvscore._core.bytes cimport (
    htons, load16, load32, load64, load_be16, store16, store32, store64,
)
from lvscore._core.checksum cimport checksum_update, udp_checksum_update
from lvscore._core.connection cimport (
    Connection4, FLAG_ASSURED, FLAG_EXTENDED, FLAG_SEEN_REPLY, FLAG_SERVICE, FLAG_SLOW,
    FLAG_TRACKED, FLAG_UNTRANSLATED, Meta, Table, connection4, connection4_matches,
)
from lvscore._core.consts cimport (
    IPV4, IPV6, LINK_ETHERNET, MAX_DISPLACEMENT, NIL, PROTOCOL_TCP, PROTOCOL_UDP, REASON_NONE,
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
from lvscore._core.state cimport CONNTRACK_CHECKSUM, State, is_hosted
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


# One packet of a vector.
cdef struct Lane:
    uint64_t addresses
    uint64_t key            # protocol and ports
    uint8_t* ip             # NULL: not for the short way
    const Bucket* bucket    # where its search begins
    uint32_t reference      # candidate, to be verified
    uint32_t l3_length
    uint16_t tag


cdef inline uint32_t lane_link(const uint8_t* frame, uint32_t length, int link_type) noexcept nogil:
    """Where IPv4 begins behind another link header than plain Ethernet's, or 0."""
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
    cdef uint64_t hash
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
    hash = hash_ipv4(&s.key, lane.addresses, lane.key)
    lane.tag = hash_tag(hash)
    lane.bucket = &s.table[0].index.bucket[index_home(&s.table[0].index, hash)]
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


cdef inline void lane_translate(uint8_t* ip, const Connection4* c, uint32_t direction,
                                bint tcp) noexcept nogil:
    """Put in the other addresses and ports, and what they change in the checksums."""
    cdef uint8_t* l4 = ip + 20
    cdef uint16_t sum3 = load16(ip + 10)
    cdef uint16_t sum4 = load16(l4 + 16) if tcp else load16(l4 + 6)
    # The other direction's delta is the complement; 0xffff is not canonical and means 0.
    cdef uint32_t delta3 = (c.delta3 ^ (0 - direction)) & 0xFFFF
    cdef uint32_t delta4 = (c.delta4 ^ (0 - direction)) & 0xFFFF
    delta3 = 0 if delta3 == 0xFFFF else delta3
    delta4 = 0 if delta4 == 0xFFFF else delta4
    store64(ip + 12, c.addresses[direction])
    store32(l4, c.ports[direction])
    store16(ip + 10, checksum_update(sum3, <uint16_t>delta3))
    if tcp:
        store16(l4 + 16, checksum_update(sum4, <uint16_t>delta4))
    elif sum4:                          # none stays none
        store16(l4 + 6, udp_checksum_update(sum4, <uint16_t>delta4))


cdef inline uint32_t lane_forward(State* s, Table* table, const Lane* lane) noexcept nogil:
    """Forward a packet that changes nothing of its connection's state.

    Its direction; or NIL if the packet needs the general way, and then nothing was touched.
    """
    cdef uint8_t* ip = lane.ip
    cdef uint32_t reference = lane.reference
    cdef uint32_t length = lane.l3_length
    cdef uint32_t direction = reference & 1
    cdef uint32_t event = 0             # any does for UDP
    cdef Connection4* c
    cdef Server* server
    cdef bint tcp
    cdef uint8_t state
    if likely(ip == NULL or reference == NIL, False):
        return NIL
    if likely(not connection4_matches(table, reference, lane.addresses, lane.key), False):
        return NIL
    tcp = lane.key >> 32 == PROTOCOL_TCP
    if likely(tcp, True):
        event = ip[33]
        # A RST with SYN leaves a closed connection closed, but also ends it.
        if likely(event & (TCP_SYN | TCP_RST) == (TCP_SYN | TCP_RST), False):
            return NIL
        event &= 31
    elif load16(ip + 26) == 0:          # UDP without checksum is for packet_translate
        return NIL
    c = connection4(table, reference >> 1)
    server = &s.services.server[c.meta.server]
    state = c.meta.state
    if likely(s.tracker.next[direction][event][state] != state
              or c.meta.flags & (FLAG_SLOW | FLAG_UNTRANSLATED) != 0
              or server.flags & SERVER_AVAILABLE == 0
              or c.meta.bytes[direction] > 0xFFFFFFFFU - length, False):
        return NIL
    c.meta.flags |= <uint16_t>(direction * FLAG_SEEN_REPLY)
    c.meta.timer.deadline = s.tick_up + s.tracker.timeout[state]
    c.meta.packets[direction] += 1
    c.meta.bytes[direction] += length
    server.packets[direction] += 1
    server.bytes[direction] += length
    lane_translate(ip, c, direction, tcp)
    return direction


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


cdef inline uint32_t lane_track(State* s, Table* table, const Lane* lane,
                                bint is_whole) noexcept nogil:
    """Forward a packet of a flow that the NAT rules track: rule_packet's short way.
    ``is_whole``: all of it was captured.

    Its direction; or NIL if the packet needs the general way, and then nothing was touched.
    """
    cdef uint32_t reference = lane.reference
    cdef uint32_t direction = reference & 1
    cdef Packet packet
    cdef Progress progress
    cdef Address destination
    cdef Connection4* c
    cdef Meta* meta
    if lane.ip == NULL or reference == NIL or not is_whole or s.mangle.count:
        return NIL
    if not connection4_matches(table, reference, lane.addresses, lane.key):
        return NIL
    c = connection4(table, reference >> 1)
    meta = &c.meta
    memset(&destination, 0, sizeof(Address))
    destination.word[0] = c.addresses[direction] >> 32
    if (meta.flags & (FLAG_TRACKED | FLAG_SERVICE | FLAG_UNTRANSLATED | FLAG_EXTENDED)
            != FLAG_TRACKED or meta.bytes[direction] > 0xFFFFFFFFU - lane.l3_length
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
    lane_translate(lane.ip, c, direction, meta.protocol == PROTOCOL_TCP)
    return direction


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
