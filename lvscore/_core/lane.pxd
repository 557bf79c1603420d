"""The fast path through the pipeline: packets that change nothing of their connection's state.

A packet is looked at here without being taken apart, its connection is found by what lies in the
frame, and addresses and checksums are changed by what the connection keeps ready. What does not
fit takes the slow path, as if it had not been here.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from lvscore._core.bytes cimport (
    htons, load16, load32, load64, load_be16, rotate32, rotate64, store16, store32, store64,
)
from lvscore._core.checksum cimport checksum_change, sum_change, udp_checksum_change
from lvscore._core.clock cimport clock_passes
from lvscore._core.connection cimport (
    Connection4, FLAG_SLOW, FLAG_UNTRANSLATED, Table, connection4,
    may_wait, meta_count, table_settle,
)
from lvscore._core.consts cimport (
    IPV4, LINK_ETHERNET, MAX_DISPLACEMENT, NIL, PROTOCOL_TCP, PROTOCOL_UDP, REASON_REPLY,
    REASON_REQUEST, VECTOR, VERDICT_FORWARD,
)
from lvscore._core.flow cimport Tuple, addresses_unpack, ports_key
from lvscore._core.hash cimport HashKey, hash_ipv4
from lvscore._core.index cimport Bucket, Index, hash_tag, index_home
from lvscore._core.machine cimport (
    likely, lowest_bit, match_tags, prefetch_later, prefetch_write,
)
from lvscore._core.rules cimport ANY_INTERFACE, Seen, chain_pass
from lvscore._core.server cimport SERVER_AVAILABLE, Server
from lvscore._core.state cimport SYSCTL_EXPIRE_NODEST_CONN, State, is_hosted
from lvscore._core.track cimport DATAGRAM, TCP_SYN
from lvscore._core.wire cimport ETHERTYPE_IPV4

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
    uint8_t* ip             # NULL: not for the fast path
    uint64_t addresses      # of IPv4
    Connection4* connection     # candidate, to be verified (of IPv6 a Connection6),
    uint64_t key            # protocol and ports
    uint32_t reference      # of the candidate; NIL: there is none
    uint32_t l3_length
    uint64_t hash
    const Bucket* bucket    # where its search begins
    bint verified           # conntrack need not look at its checksum any more


# Packets that go through the pipeline side by side.
cdef struct Vector:
    uint64_t bytes          # of their frames
    uint32_t first          # of their frames
    uint32_t count
    uint32_t others         # frames that are not of IPv4 behind plain Ethernet
    uint32_t sixes          # and of these, packets of IPv6 for the fast path
    uint32_t shadowings6    # that its table had when they were matched
    Lane lane[16]           # VECTOR
    Lane lane6[16]          # of IPv6, if there are any


cdef inline bint lane_fill(Lane* lane, const HashKey* key, const Index* index, uint8_t* frame,
                           uint32_t l3, uint32_t length,
                           const uint32_t* wire_length) noexcept nogil:
    """Fill a lane if a packet is plain IPv4 TCP or UDP: no options, no fragment, whole. 20 bytes
    of it at least were captured, ``l3`` bytes behind the frame's beginning."""
    cdef uint8_t* ip = frame + l3
    cdef uint32_t total = load_be16(ip + 2)
    cdef uint8_t protocol = ip[9]
    if likely(protocol == PROTOCOL_TCP, True):
        if likely(total < 40, False):
            return False
    elif protocol != PROTOCOL_UDP or total < 28:
        return False
    if likely(ip[0] != 0x45 or load16(ip + 6) & htons(0x3FFF), False):
        return False
    if likely(l3 + total > length, False) and (
            l3 + total > wire_length[0]
            or l3 + (40 if protocol == PROTOCOL_TCP else 28) > length):
        return False
    lane.ip = ip
    lane.l3_length = total
    lane.addresses = load64(ip + 12)
    lane.key = ports_key(protocol, load32(ip + 20))
    lane.hash = hash_ipv4(key, lane.addresses, lane.key)
    lane.bucket = &index.bucket[index_home(index, lane.hash)]
    prefetch_later(lane.bucket)
    return True


cdef inline uint64_t lanes_parse(const State* s, const Frames* frames, uint32_t first,
                                 uint32_t count, Lane* lane, uint32_t* others) noexcept nogil:
    """Parse packets, have the cache fetch their buckets and the headers of as many behind them;
    the bytes of their frames. ``others``: how many are left to lanes_parse_others."""
    # Frames are bytes, which may alias anything: what does not change is kept in locals.
    cdef HashKey key = s.key
    cdef Index index = s.table[0].index
    cdef uint8_t* data = frames.data
    cdef const uint64_t* offset = frames.offset + first
    cdef const uint32_t* length = frames.length + first
    cdef const uint32_t* wire_length = frames.original_length + first
    # What is asked of each is as little as can be: no frame behind another link header is so long,
    # and those before the batch's last ones are fetched once more, which costs nothing.
    cdef uint32_t least = 34 if frames.link_type == LINK_ETHERNET else NIL
    cdef const uint64_t* following = offset
    cdef uint64_t total = 0
    cdef uint64_t j
    cdef uint8_t* frame
    if frames.count - first >= 2 * VECTOR:
        following += VECTOR
    for j in range(count):
        frame = data + offset[j]
        total += length[j]
        prefetch_write(data + following[j])
        if likely(length[j] < least or load16(frame + 12) != htons(ETHERTYPE_IPV4), False):
            others[0] += 1
            lane[j].ip = NULL
        elif not lane_fill(&lane[j], &key, &index, frame, 14, length[j], wire_length + j):
            lane[j].ip = NULL
    return total


cdef inline void vector_empty(Vector* vector, uint32_t first) noexcept nogil:
    """A vector of no frames, before the first."""
    vector.first = first
    vector.count = 0


cdef inline void vector_parse(const State* s, const Frames* frames, uint32_t first,
                              Vector* vector) noexcept nogil:
    """Parse the frames of a vector that begins at a frame, or at the batch's end."""
    cdef uint32_t count = frames.count - first
    vector.first = first
    vector.count = VECTOR if count > VECTOR else count
    vector.others = 0
    vector.bytes = lanes_parse(s, frames, first, vector.count, vector.lane, &vector.others)


cdef inline uint32_t lane_search(const Lane* lane) noexcept nogil:
    """The first reference with the right tag beyond a packet's own bucket, or NIL."""
    cdef const Bucket* bucket = lane.bucket
    cdef const Bucket* last = bucket + MAX_DISPLACEMENT
    cdef uint32_t mask = 0
    while mask == 0 and bucket.overflow != 0 and bucket != last:
        bucket += 1
        mask = match_tags(bucket.tag, hash_tag(lane.hash))
    return bucket.reference[lowest_bit(mask)] if mask else NIL


cdef inline bint lane_match(Lane* lane) noexcept nogil:
    """Take the first reference with the right tag as candidate; False if there is none."""
    cdef uint32_t mask = match_tags(lane.bucket.tag, hash_tag(lane.hash))
    if likely(mask == 0, False):
        lane.reference = lane_search(lane)
        return lane.reference != NIL
    lane.reference = lane.bucket.reference[lowest_bit(mask)]
    return True


cdef inline void lanes_match(const Table* table, const Frames* frames, uint32_t first,
                             uint32_t count, Lane* lane) noexcept nogil:
    """Find a vector's candidates, and fetch their connections. What is told of a packet is what
    holds on the fast path; the slow path says otherwise."""
    cdef uint8_t* verdict = frames.verdict + first
    cdef uint8_t* reason = frames.reason + first
    cdef uint64_t j
    for j in range(count):
        if likely(lane[j].ip == NULL, False):
            lane[j].reference = NIL
        elif likely(lane_match(&lane[j]), True):
            reason[j] = <uint8_t>(REASON_REQUEST + (lane[j].reference & 1))
            verdict[j] = VERDICT_FORWARD
            lane[j].connection = connection4(table, lane[j].reference >> 1)
            prefetch_write(lane[j].connection)


cdef inline void lanes_forget(Lane* lane, uint32_t first, uint32_t count) noexcept nogil:
    """Take the candidates from packets: a newer connection may have their tuples now."""
    cdef uint64_t j
    for j in range(first, count):
        lane[j].reference = NIL


cdef inline void lanes_wait(const Table* table, Lane* lane, uint32_t first,
                            uint32_t count) noexcept nogil:
    """Take the candidates from packets whose tuple a direction that waits may have."""
    cdef uint64_t j
    if likely(table.pending_count == 0, True):
        return
    for j in range(first, count):
        if lane[j].ip != NULL and may_wait(table, lane[j].hash):
            lane[j].reference = NIL


cdef inline void lanes_restrict(const State* s, Lane* lane, uint32_t count) noexcept nogil:
    """Keep from the fast path what its connection does not tell enough of."""
    cdef uint32_t j
    if likely(not s.mangle.count and not s.sysctl[SYSCTL_EXPIRE_NODEST_CONN], True):
        return
    for j in range(count):
        # Rules of the mangle table count every packet, and a SYN may leave its server.
        if s.mangle.count or (lane[j].ip != NULL and lane[j].ip[9] == PROTOCOL_TCP
                              and lane[j].ip[33] & TCP_SYN):
            lane[j].ip = NULL
            lane[j].reference = NIL


cdef inline void vector_match(State* s, const Frames* frames, Vector* vector) noexcept nogil:
    """Find the candidates of a vector, after all that the one before has changed; from now on its
    frames are counted. An entry that a split has moved since its bucket was fetched is missed, and
    its packet takes the slow path."""
    cdef Table* table = &s.table[0]
    s.frames += vector.count
    s.bytes += vector.bytes
    table_settle(table)         # of the vector before: its buckets have come
    lanes_restrict(s, vector.lane, vector.count)
    lanes_match(table, frames, vector.first, vector.count, vector.lane)


cdef inline uint64_t lane_delta(const Lane* lane, const Connection4* c) noexcept nogil:
    """What other addresses add to the complement of a checksum, not folded."""
    return sum_change(lane.addresses, c.addresses[lane.reference & 1])


cdef inline void lane_translate(const Lane* lane, const Connection4* c, bint tcp,
                                uint32_t hop) noexcept nogil:
    """Put in the other addresses and ports, and what they change in the checksums. ``hop``: the
    delta of a TTL that the caller decreases, or 0."""
    cdef uint8_t* ip = lane.ip
    cdef uint8_t* field = ip + 36 if tcp else ip + 26
    cdef uint32_t ports = c.ports[lane.reference & 1]
    cdef uint64_t delta = lane_delta(lane, c)
    cdef uint64_t ports_delta
    cdef uint16_t sum3 = load16(ip + 10)
    cdef uint16_t sum4 = load16(field)
    store64(ip + 12, c.addresses[lane.reference & 1])
    store32(ip + 20, ports)
    store16(ip + 10, checksum_change(sum3, delta, hop))
    ports_delta = <uint64_t>(~<uint32_t>lane.key) + ports
    if tcp:
        store16(field, checksum_change(sum4, delta, ports_delta))
    elif sum4:                          # none stays none
        store16(field, udp_checksum_change(sum4, delta, ports_delta))


cdef inline void lane_rewrite(const Lane* lane, const Connection4* c,
                              uint32_t hop) noexcept nogil:
    """lane_translate, compiled for either protocol."""
    if likely(lane.ip[9] == PROTOCOL_TCP, True):
        lane_translate(lane, c, True, hop)
    else:
        lane_translate(lane, c, False, hop)


cdef inline Connection4* lane_connection(State* s, const Lane* lane,
                                         uint32_t needs) noexcept nogil:
    """The connection of a packet that changes nothing of its connection's state; NULL if the
    packet needs the slow path. ``needs``: flags of its server."""
    cdef Connection4* c = lane.connection
    cdef uint32_t direction = lane.reference & 1
    cdef uint32_t event = DATAGRAM
    if likely(lane.reference == NIL, False):
        return NULL
    # A state that stays tells that the protocols are the same; that of a free record does not.
    if likely(rotate64(lane.addresses, 32) != c.addresses[direction ^ 1]
              or rotate32(<uint32_t>lane.key, 16) != c.ports[direction ^ 1], False):
        return NULL
    if likely(lane.ip[9] == PROTOCOL_TCP, True):
        event = lane.ip[33] & 31
    elif load16(lane.ip + 26) == 0:     # UDP without checksum is for packet_translate
        return NULL
    if likely(not s.tracker.stays[event][c.meta.state] >> direction & 1
              or c.meta.flags & (FLAG_SLOW | FLAG_UNTRANSLATED) != 0
              or ~s.services.server[c.meta.server].flags & needs != 0, False):
        return NULL
    return c


cdef inline void lane_serve(State* s, const Lane* lane, Connection4* c) noexcept nogil:
    """Count a packet at its connection and server, and let the timer run anew."""
    # Read before anything is written, which for all that the compiler knows may be these.
    cdef uint32_t reference = lane.reference
    cdef uint32_t length = lane.l3_length
    cdef uint32_t direction = reference & 1
    cdef Server* server = &s.services.server[c.meta.server]
    c.meta.timer.deadline = s.tick_up + s.tracker.timeout[c.meta.state]
    server.packets[direction] += 1
    server.bytes[direction] += length
    meta_count(&s.table[0], &c.meta, reference >> 1, direction, length)


cdef inline void lane_raw(State* s, const Lane* lane, uint32_t mark) noexcept nogil:
    """Let the rules of table raw see a packet that took the fast path; it opens no flow."""
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
    """Let the rules of table raw see the packets of a vector that took the fast path."""
    cdef uint32_t j
    if likely(s.raw.count == 0, True):
        return
    for j in range(begin, end):
        lane_raw(s, &lane[j], 0 if frames.mark == NULL else frames.mark[first + j])


cdef inline void lanes_told(State* s, const Frames* frames, uint32_t first, uint32_t begin,
                            uint32_t end, const Lane* lane, uint32_t replies) noexcept nogil:
    """Let table raw and the counters know of packets that took the fast path."""
    lanes_raw(s, frames, first, begin, end, lane)
    s.verdicts[VERDICT_FORWARD] += end - begin
    s.reasons[REASON_REPLY] += replies
    s.reasons[REASON_REQUEST] += end - begin - replies


cdef inline uint32_t lanes_forward(State* s, const Frames* frames, uint32_t first, uint32_t j,
                                   uint32_t count, Lane* lane) noexcept nogil:
    """Take a vector's packets from ``j`` on the fast path, up to the first that needs another
    or is not of the present tick; its index."""
    cdef const int64_t* timestamp = frames.timestamp + first
    cdef uint32_t replies = 0
    cdef Connection4* c
    cdef uint64_t i = j
    lanes_wait(&s.table[0], lane, j, count)
    while i < count:
        if timestamp[i] != s.now and not clock_passes(s, timestamp[i]):
            break
        c = lane_connection(s, &lane[i], SERVER_AVAILABLE)
        if likely(c == NULL, False):
            break
        replies += lane[i].reference & 1
        lane_serve(s, &lane[i], c)
        lane_rewrite(&lane[i], c, 0)
        i += 1
    lanes_told(s, frames, first, j, <uint32_t>i, lane, replies)
    return <uint32_t>i
