"""The fast path of IPv6: what lane.pxd does, for TCP and UDP of virtual services.

Its lanes lie beside those of IPv4, which a frame of IPv6 leaves empty, and what is asked of either
stands in the order of the frames. While rules of any table see packets there are none.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from lvscore._core.bytes cimport htons, load16, load32, load_be16, store16, store32
from lvscore._core.checksum cimport checksum_update, udp_checksum_update
from lvscore._core.clock cimport clock_passes
from lvscore._core.connection cimport (
    Connection4, Connection6, FLAG_SLOW, FLAG_UNTRANSLATED, Meta, Table, connection6,
    connection6_has, meta_count,
)
from lvscore._core.consts cimport (
    IPV4, IPV6, LINK_ETHERNET, NIL, PROTOCOL_TCP, PROTOCOL_UDP, REASON_NONE, REASON_REQUEST, VECTOR,
    VERDICT_FORWARD,
)
from lvscore._core.flow cimport ports_key
from lvscore._core.hash cimport HashKey, hash_ipv6
from lvscore._core.index cimport Index, index_home
from lvscore._core.lane cimport (
    Frames, Lane, Vector, lane_fill, lane_match, lanes_forget, lanes_told, vector_parse,
)
from lvscore._core.machine cimport likely, prefetch_later, prefetch_write
from lvscore._core.server cimport SERVER_AVAILABLE, Server
from lvscore._core.state cimport SYSCTL_EXPIRE_NODEST_CONN, State
from lvscore._core.track cimport DATAGRAM, TCP_SYN
from lvscore._core.wire cimport ETHERTYPE_IPV6, link_parse


cdef inline void lane6_fill(Lane* lane, const HashKey* key, const Index* index, uint8_t* ip,
                            uint32_t captured, uint32_t wire_length) noexcept nogil:
    """Fill a lane if a packet is plain IPv6 TCP or UDP: no extension header, whole. 40 bytes of it
    at least were captured; lengths are from its IP header on."""
    cdef uint32_t total = 40 + <uint32_t>load_be16(ip + 4)
    cdef uint8_t protocol = ip[6]
    cdef uint32_t least = 60
    cdef uint64_t address[4]
    if protocol != PROTOCOL_TCP:
        if protocol != PROTOCOL_UDP:
            return
        least = 48
    if likely(ip[0] >> 4 != 6 or total > wire_length or total < least or captured < least, False):
        return
    memcpy(address, ip + 8, 32)
    lane.ip = ip
    lane.l3_length = total
    lane.key = ports_key(protocol, load32(ip + 40))
    lane.hash = hash_ipv6(key, address, &address[2], lane.key)
    lane.bucket = &index.bucket[index_home(index, lane.hash)]
    prefetch_later(lane.bucket)


cdef inline bint lanes6_may(const State* s) noexcept nogil:
    """Whether no rules see packets: those of IPv6 then take the slow path."""
    return not (s.tracking or s.raw.count or s.mangle.count)


cdef inline uint8_t family_of(const uint8_t* frame, uint32_t length, int link_type,
                              uint32_t* l3) noexcept nogil:
    """The version of an IP header of which 20 bytes are there, or 0, and where it begins."""
    cdef uint8_t family
    if (link_parse(frame, length, link_type, l3, &family) != REASON_NONE
            or length < l3[0] + 20):
        return 0
    return family if family else frame[l3[0]] >> 4


cdef inline void lanes_parse_others(const State* s, const Frames* frames, Vector* vector,
                                    bint plain) noexcept nogil:
    """Parse what lanes_parse left of a vector, in the same way: IPv6, and IPv4 behind another link
    header than plain Ethernet's. ``plain``: behind another header is nothing for the fast path."""
    cdef HashKey key = s.key
    cdef const Index* four = &s.table[0].index
    cdef Index six = s.table[1].index
    cdef bint may = lanes6_may(s)
    cdef uint8_t* data = frames.data
    cdef const uint64_t* offset = frames.offset + vector.first
    cdef const uint32_t* length = frames.length + vector.first
    cdef const uint32_t* wire_length = frames.original_length + vector.first
    cdef uint64_t ahead = frames.count - vector.first
    cdef int link_type = frames.link_type
    cdef uint32_t sixes = 0
    cdef uint32_t l3
    cdef uint64_t j
    cdef uint8_t family
    cdef uint8_t* frame
    cdef Lane* lane
    for j in range(vector.count):
        lane = &vector.lane6[j]
        lane.ip = NULL
        lane.reference = NIL
        if vector.lane[j].ip != NULL:
            continue
        frame = data + offset[j]
        l3 = 14
        family = IPV6
        if likely(link_type != LINK_ETHERNET or length[j] < 54
                  or load16(frame + 12) != htons(ETHERTYPE_IPV6), False):
            family = 0 if plain else family_of(frame, length[j], link_type, &l3)
        if likely(family == IPV6, True):
            if may and length[j] >= l3 + 40:
                lane6_fill(lane, &key, &six, frame + l3, length[j] - l3, wire_length[j] - l3)
                sixes += lane.ip != NULL
                if likely(j + VECTOR < ahead, True):
                    prefetch_write(data + offset[j + VECTOR] + 64)
        elif family == IPV4:
            lane_fill(&vector.lane[j], &key, four, frame, l3, length[j], wire_length + j)
    vector.sixes = sixes


cdef inline void vector_begin(const State* s, const Frames* frames, uint32_t first,
                              Vector* vector, bint plain) noexcept nogil:
    """vector_parse, of all frames."""
    vector_parse(s, frames, first, vector)
    vector.sixes = 0
    if likely(vector.others != 0, False):
        lanes_parse_others(s, frames, vector, plain)


cdef inline void lanes6_restrict(const State* s, Lane* lane, uint32_t count) noexcept nogil:
    """Keep from the fast path a SYN that may leave its server (lanes_restrict)."""
    cdef uint32_t j
    if likely(not s.sysctl[SYSCTL_EXPIRE_NODEST_CONN], True):
        return
    for j in range(count):
        if (lane[j].ip != NULL and lane[j].ip[6] == PROTOCOL_TCP
                and lane[j].ip[53] & TCP_SYN):
            lane[j].ip = NULL


cdef inline void lanes6_match(const State* s, const Frames* frames, Vector* vector) noexcept nogil:
    """Find the candidates of a vector's packets of IPv6."""
    cdef const Table* table = &s.table[1]
    cdef uint8_t* verdict = frames.verdict + vector.first
    cdef uint8_t* reason = frames.reason + vector.first
    cdef Lane* lane = vector.lane6
    cdef Connection6* c
    cdef uint64_t j
    vector.shadowings6 = table.shadowings
    lanes6_restrict(s, lane, vector.count)
    for j in range(vector.count):
        if likely(lane[j].ip != NULL, True):
            if likely(lane_match(&lane[j]), True):
                c = connection6(table, lane[j].reference >> 1)
                lane[j].connection = <Connection4*>c
                prefetch_write(c)
                prefetch_write(&c.ports)        # its second line
            verdict[j] = VERDICT_FORWARD
            reason[j] = <uint8_t>(REASON_REQUEST + (lane[j].reference & 1))


cdef inline Connection6* lane6_connection(State* s, const Lane* lane,
                                          uint32_t needs) noexcept nogil:
    """The connection of a packet that changes nothing of its connection's state; NULL if the
    packet needs the slow path (lane_connection)."""
    cdef Connection6* c = <Connection6*>lane.connection
    cdef uint32_t direction = lane.reference & 1
    cdef uint32_t event = DATAGRAM
    cdef uint64_t address[4]
    if likely(lane.reference == NIL, False):
        return NULL
    memcpy(address, lane.ip + 8, 32)
    if likely(not connection6_has(c, direction, address, &address[2], lane.key), False):
        return NULL
    if likely(lane.key >> 32 == PROTOCOL_TCP, True):
        event = lane.ip[53] & 31
    elif load16(lane.ip + 46) == 0:     # UDP without checksum is for packet_translate
        return NULL
    if likely(not s.tracker.stays[event][c.meta.state] >> direction & 1
              or c.meta.flags & (FLAG_SLOW | FLAG_UNTRANSLATED) != 0
              or ~s.services.server[c.meta.server].flags & needs != 0, False):
        return NULL
    return c


cdef inline void lane6_serve(State* s, const Lane* lane, Meta* meta) noexcept nogil:
    """Count a packet at its connection and server, and let the timer run anew (lane_serve)."""
    cdef uint32_t direction = lane.reference & 1
    cdef Server* server = &s.services.server[meta.server]
    meta.timer.deadline = s.tick_up + s.tracker.timeout[meta.state]
    server.packets[direction] += 1
    server.bytes[direction] += lane.l3_length
    meta_count(&s.table[1], meta, lane.reference >> 1, direction, lane.l3_length)


cdef inline void lane6_translate(const Lane* lane, const Connection6* c, bint tcp) noexcept nogil:
    """Put in the other addresses and ports, and what they change in the checksum, which is
    none that is left out."""
    cdef uint8_t* ip = lane.ip
    cdef uint8_t* field = ip + 56 if tcp else ip + 46
    cdef uint32_t direction = lane.reference & 1
    cdef uint16_t checksum = load16(field)
    memcpy(ip + 8, c.source[direction], 16)
    memcpy(ip + 24, c.destination[direction], 16)
    store32(ip + 40, c.ports[direction])
    if tcp:
        store16(field, checksum_update(checksum, c.delta[direction]))
    else:
        store16(field, udp_checksum_update(checksum, c.delta[direction]))


cdef inline void lane6_rewrite(const Lane* lane, const Connection6* c) noexcept nogil:
    """lane6_translate, compiled for either protocol."""
    if likely(lane.key >> 32 == PROTOCOL_TCP, True):
        lane6_translate(lane, c, True)
    else:
        lane6_translate(lane, c, False)


cdef inline void lanes6_renew(const Table* table, Vector* vector, uint32_t j) noexcept nogil:
    """Take the candidates from packets if a newer connection may have their tuples now."""
    if likely(table.shadowings != vector.shadowings6, False):
        vector.shadowings6 = table.shadowings
        lanes_forget(vector.lane6, j, vector.count)


cdef inline uint32_t lanes6_forward(State* s, const Frames* frames, Vector* vector,
                                    uint32_t j) noexcept nogil:
    """Take a vector's packets of IPv6 from ``j`` on the fast path, up to the first that needs
    another or is not of the present tick; its index."""
    cdef const int64_t* timestamp = frames.timestamp + vector.first
    cdef Table* table = &s.table[1]
    cdef Lane* lane = vector.lane6
    cdef uint64_t count = vector.count
    cdef uint32_t replies = 0
    cdef Connection6* c
    cdef uint64_t i = j
    lanes6_renew(table, vector, j)
    while i < count:
        if timestamp[i] != s.now and not clock_passes(s, timestamp[i]):
            break
        c = lane6_connection(s, &lane[i], SERVER_AVAILABLE)
        if likely(c == NULL, False):
            break
        lane6_serve(s, &lane[i], &c.meta)
        lane6_rewrite(&lane[i], c)
        replies += lane[i].reference & 1
        i += 1
    lanes_told(s, frames, vector.first, j, <uint32_t>i, lane, replies)
    return <uint32_t>i
