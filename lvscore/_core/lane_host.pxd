"""The fast path on a Host: what lane.pxd does, with route, TTL, header checksum and link addresses.

As there, a packet that does not fit is left untouched and takes the slow path (forward.pxd).
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from lvscore._core.bytes cimport htons, load16, load32, load64, store16
from lvscore._core.checksum cimport delta_finish, sum_add, sum_fold
from lvscore._core.clock cimport clock_passes
from lvscore._core.connection cimport Connection4, Table, connection4
from lvscore._core.consts cimport (
    IPV4, ORIGINAL, PROTOCOL_TCP, REASON_NEW_CONNECTION, REPLY, VERDICT_FORWARD,
)
from lvscore._core.lane cimport (
    Frames, Lane, lane_connection, lane_delta, lane_rewrite, lane_serve, lanes_told, lanes_wait,
)
from lvscore._core.lane_open cimport (
    Opening, are_plain, lane_choose, opening_open, opening_undo,
)
from lvscore._core.machine cimport likely
from lvscore._core.next_hop cimport NextHop, next_hop_set
from lvscore._core.offload cimport VNET_HEADER, VNET_NEEDS_CSUM
from lvscore._core.path cimport (
    PATH_LEADS, PATH_SERVED, PATH_SOURCE, PATH_UNICAST, Path, path_of, path_of_pair,
)
from lvscore._core.route cimport Interface, NO_INTERFACE
from lvscore._core.server cimport SERVER_AVAILABLE, SERVER_ROUTED
from lvscore._core.state cimport State, is_hooked

cdef enum:
    ETHERNET_HEADER = 14


# What holds for all packets that come in on an interface.
cdef struct Ingress:
    uint32_t number
    uint32_t hop                # as next hops have it
    uint64_t mac                # as it lies in memory, and where it does in eight bytes
    uint64_t mac_mask
    uint8_t rp_filter
    bint redirects              # who could have sent straight on is told so
    uint32_t needs[2]           # by direction: flags of both ends, as lane_path joins them,
    uint32_t server[2]          # and of the server


cdef enum:
    # Where the flags of the client's path lie among those of both ends.
    CLIENT = 8
    NEVER = 0x80000000U


cdef inline Ingress ingress_of(const State* s, uint32_t number) noexcept nogil:
    cdef const Interface* interface = &s.routes.interface[number]
    cdef Ingress ingress
    ingress.number = number
    ingress.hop = number + 1
    ingress.mac = 0
    memcpy(&ingress.mac, interface.mac, 6)
    ingress.mac_mask = 0
    memset(&ingress.mac_mask, 0xFF, 6)
    ingress.rp_filter = interface.rp_filter
    ingress.redirects = interface.send_redirects
    # Requests are for this host, and what is asked of replies (forward_pass) is not of them.
    ingress.needs[ORIGINAL] = PATH_SOURCE << CLIENT | PATH_LEADS | PATH_SERVED
    ingress.needs[REPLY] = PATH_SOURCE | PATH_LEADS << CLIENT
    if not interface.forwarding[0]:     # this host is no router
        ingress.needs[REPLY] = NEVER
    ingress.server[ORIGINAL] = SERVER_AVAILABLE | SERVER_ROUTED
    ingress.server[REPLY] = SERVER_AVAILABLE
    return ingress


cdef inline bint header_is_right(const uint8_t* ip) noexcept nogil:
    """Whether the checksum of an IPv4 header without options is right: whether 65,535 divides the
    sum of its words, and a multiple of an odd number times its inverse is small (Granlund and
    Montgomery 1994)."""
    cdef uint64_t total = sum_add(sum_add(load64(ip), load64(ip + 8)), load32(ip + 16))
    return total * <uint64_t>0xFFFEFFFEFFFEFFFFULL <= <uint64_t>0x0001000100010001ULL


cdef inline bint lane_arrives(const Ingress* ingress, const uint8_t* frame) noexcept nogil:
    """Whether a frame is addressed to this host, its packet's header checksum right, and a hop
    left to go."""
    return ((load64(frame) ^ ingress.mac) & ingress.mac_mask == 0
            and header_is_right(frame + ETHERNET_HEADER) and frame[ETHERNET_HEADER + 8] > 1)


cdef inline bint path_reverses(const Ingress* ingress, const Path* source) noexcept nogil:
    """Whether the reverse path filter lets packets of a source in (RFC 3704)."""
    return source.flags & PATH_UNICAST != 0 and (
        ingress.rp_filter == 2 or source.egress == ingress.number)


cdef inline const Path* lane_path(State* s, const Ingress* ingress, const Lane* lane,
                                  const Connection4* c) noexcept nogil:
    """Where a packet of a connection leaves; NULL if it may not come in, or if that takes the
    slow path to say."""
    cdef uint32_t reply = lane.reference & 1
    cdef const Path* client = path_of(&s.paths, &s.routes, <uint32_t>(c.addresses[REPLY] >> 32))
    cdef const Path* server = path_of_pair(
        &s.paths, &s.routes, <uint32_t>(c.addresses[ORIGINAL] >> 32),
        <uint32_t>c.addresses[REPLY])
    cdef uint32_t ends = server.flags | <uint32_t>client.flags << CLIENT
    cdef const Path* to = client if reply else server
    if ~ends & ingress.needs[reply]:
        return NULL
    if ingress.rp_filter and not path_reverses(ingress, server if reply else client):
        return NULL
    if ingress.redirects and reply and to.egress == ingress.number:
        return NULL
    return to


cdef inline bint lane_learn(State* s, const Ingress* ingress, const Lane* lane) noexcept nogil:
    """Let a packet's connection keep where it leaves; False if it does already, if there is no
    connection, or if it takes the slow path to say."""
    cdef uint32_t direction = lane.reference & 1
    cdef Connection4* c = lane_connection(s, lane, ingress.server[direction])
    cdef const Path* to
    if c == NULL or s.next_hops.hop[c.next_hop[direction]].ingress == ingress.hop:
        return False
    to = lane_path(s, ingress, lane, c)
    return to != NULL and next_hop_set(&s.next_hops, c, direction, ingress.number, to)


cdef inline bint lane_fits(const Lane* lane, uint32_t ip_header, uint32_t mtu,
                           uint32_t segment_size) noexcept nogil:
    """Whether a packet, or each segment of a super-frame, is no longer than the MTU."""
    cdef uint32_t header = 8
    if not segment_size:
        return lane.l3_length <= mtu
    if lane.key >> 32 == PROTOCOL_TCP:
        header = <uint32_t>(lane.ip[ip_header + 12] >> 4) * 4
    return ip_header + header + segment_size <= mtu


cdef inline void lane_send(const Lane* lane, uint8_t* frame, const Connection4* c,
                           const uint8_t* link, bint partial) noexcept nogil:
    """Rewrite a packet, which has one hop less to go, and its frame; a partial checksum goes on
    being one (partial_write)."""
    cdef uint8_t* field = lane.ip + (36 if lane.key >> 32 == PROTOCOL_TCP else 26)
    cdef uint16_t sum = load16(field)
    lane_rewrite(lane, c, htons(0xFEFF))
    if likely(partial, False):
        store16(field, sum_fold(sum + delta_finish(lane_delta(lane, c))))
    frame[ETHERNET_HEADER + 8] -= 1
    memcpy(frame, link, 12)


cdef inline uint64_t lanes_send(State* s, const Frames* frames, const Ingress* ingress,
                                uint32_t first, uint64_t i, uint32_t count, const Lane* lane,
                                uint32_t* replies, bint vnet_header) noexcept nogil:
    """Send on a vector's packets from ``i`` on whose connections know where they leave, up to the
    first that needs more or is not of the present tick; its index."""
    cdef uint32_t* length = frames.length + first
    cdef const int64_t* timestamp = frames.timestamp + first
    cdef uint32_t* egress = frames.egress + first
    cdef uint32_t segment_size = 0
    cdef bint partial = False
    cdef uint8_t* frame
    cdef Connection4* c
    cdef const NextHop* to
    while i < count:
        if timestamp[i] != s.now and not clock_passes(s, timestamp[i]):
            break
        c = lane_connection(s, &lane[i], ingress.server[lane[i].reference & 1])
        if likely(c == NULL, False):
            break
        frame = lane[i].ip - ETHERNET_HEADER
        if likely(not lane_arrives(ingress, frame), False):
            break
        if vnet_header:
            partial = frame[-VNET_HEADER] & VNET_NEEDS_CSUM
            segment_size = load16(frame - VNET_HEADER + 4) if frame[-VNET_HEADER + 1] else 0
        to = &s.next_hops.hop[c.next_hop[lane[i].reference & 1]]
        if likely(to.ingress != ingress.hop, False):
            break
        if likely(not lane_fits(&lane[i], 20, to.mtu, segment_size), False):
            break
        replies[0] += lane[i].reference & 1
        lane_serve(s, &lane[i], c)
        lane_send(&lane[i], frame, c, to.link, partial)
        length[i] = lane[i].l3_length + ETHERNET_HEADER     # without what follows
        egress[i] = to.egress
        i += 1
    return i


cdef inline uint32_t lanes_forward_hosted(State* s, const Frames* frames,
                                          const Ingress* ingress, uint32_t first, uint32_t j,
                                          uint32_t count, Lane* lane) noexcept nogil:
    """Take a vector's packets that came in on an interface from ``j`` on the fast path, up to the
    first that needs another or is not of the present tick; its index."""
    cdef uint32_t replies = 0
    cdef uint64_t i = j
    if not is_hooked(s, IPV4):
        return j
    lanes_wait(&s.table[0], lane, j, count)
    while True:
        if frames.vnet_header:
            i = lanes_send(s, frames, ingress, first, i, count, lane, &replies, True)
        else:
            i = lanes_send(s, frames, ingress, first, i, count, lane, &replies, False)
        if likely(i == count, True) or not lane_learn(s, ingress, &lane[i]):
            break
    s.forward.ingress = ingress.number
    lanes_told(s, frames, first, j, <uint32_t>i, lane, replies)
    s.forward.ingress = NO_INTERFACE
    return <uint32_t>i


cdef inline const Path* opening_path(State* s, const Ingress* ingress, const Lane* lane,
                                     const uint8_t* frame, const Opening* opening,
                                     uint32_t segment_size) noexcept nogil:
    """Where a packet leaves that opens a connection; NULL if it may not come in, or if that takes
    the slow path to say."""
    cdef const Path* client = path_of(&s.paths, &s.routes, <uint32_t>lane.addresses)
    cdef const Path* server = path_of_pair(&s.paths, &s.routes, opening.address,
                                           <uint32_t>(lane.addresses >> 32))
    cdef uint32_t ends = server.flags | <uint32_t>client.flags << CLIENT
    if (~ends & ingress.needs[ORIGINAL] or not lane_arrives(ingress, frame)
            or ~s.services.server[opening.server].flags & ingress.server[ORIGINAL]
            or (ingress.rp_filter and not path_reverses(ingress, client))
            or not lane_fits(lane, 20, server.mtu, segment_size)):
        return NULL
    return server


cdef inline uint32_t lanes_open_hosted(State* s, const Frames* frames, const Ingress* ingress,
                                       uint32_t first, uint32_t j, uint32_t count,
                                       Lane* lane) noexcept nogil:
    """Send on a vector's packets from ``j`` on that open connections, up to the first that does
    not or is not of the present tick; its index."""
    cdef Table* table = &s.table[0]
    cdef uint32_t begin = j
    cdef uint32_t segment_size = 0
    cdef bint partial = False
    cdef uint32_t i
    cdef uint8_t* frame
    cdef const Path* to
    cdef Opening opening
    opening.service = NULL
    opening.to = 0
    if not are_plain(s, table) or not is_hooked(s, IPV4):
        return j
    while j < count:
        i = first + j
        frame = frames.data + frames.offset[i]
        if not clock_passes(s, frames.timestamp[i]) or not lane_choose(
                s, table, &lane[j], &opening):
            break
        if frames.vnet_header:
            partial = frame[-VNET_HEADER] & VNET_NEEDS_CSUM
            segment_size = load16(frame - VNET_HEADER + 4) if frame[-VNET_HEADER + 1] else 0
        to = opening_path(s, ingress, &lane[j], frame, &opening, segment_size)
        if to == NULL or not opening_open(s, table, &lane[j], &opening):
            opening_undo(s, &opening)
            break
        lane_serve(s, &lane[j], connection4(table, lane[j].reference >> 1))
        lane_send(&lane[j], frame, connection4(table, lane[j].reference >> 1), to.link,
                  partial)
        frames.length[i] = lane[j].l3_length + ETHERNET_HEADER      # without what follows
        frames.egress[i] = to.egress
        frames.verdict[i] = VERDICT_FORWARD
        frames.reason[i] = REASON_NEW_CONNECTION
        j += 1
    s.verdicts[VERDICT_FORWARD] += j - begin
    s.reasons[REASON_NEW_CONNECTION] += j - begin
    return j
