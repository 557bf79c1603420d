"""The short way on a Host: what lane.pxd does, with route, TTL, header checksum and link addresses.

As there, a packet that does not fit is left untouched and takes the general way (forward.pxd).
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from lvscore._core.bytes cimport htons, load16, load32, store16
from lvscore._core.checksum cimport delta_finish, sum_fold
from lvscore._core.connection cimport Connection4, Table, connection4
from lvscore._core.consts cimport (
    IPV4, ORIGINAL, PROTOCOL_TCP, REASON_NEW_CONNECTION, REASON_REQUEST, REPLY, VERDICT_FORWARD,
)
from lvscore._core.lane cimport (
    Frames, Lane, lane_connection, lane_delta, lane_serve, lane_translate, lanes_told, lanes_wait,
)
from lvscore._core.lane_open cimport (
    Opening, are_plain, lane_choose, opening_open, opening_undo,
)
from lvscore._core.machine cimport likely
from lvscore._core.next_hop cimport NextHop, next_hop_set
from lvscore._core.path cimport (
    PATH_LEADS, PATH_SERVED, PATH_SOURCE, PATH_UNICAST, Path, path_of, path_of_pair,
)
from lvscore._core.route cimport Interface, NO_INTERFACE
from lvscore._core.server cimport SERVER_AVAILABLE, SERVER_ROUTED
from lvscore._core.state cimport State, is_hooked

cdef enum:
    ETHERNET_HEADER = 14
    VNET_HEADER = 10            # struct virtio_net_hdr (linux/virtio_net.h)
    VNET_NEEDS_CSUM = 1


# What holds for all packets that come in on an interface.
cdef struct Ingress:
    uint32_t number
    uint32_t mac_begin          # as it lies in memory
    uint16_t mac_end
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
    ingress.mac_begin = load32(interface.mac)
    ingress.mac_end = load16(interface.mac + 4)
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
    cdef uint64_t total = <uint64_t>load32(ip) + load32(ip + 4) + load32(ip + 8)
    total += <uint64_t>load32(ip + 12) + load32(ip + 16)
    return total * <uint64_t>0xFFFEFFFEFFFEFFFFULL <= <uint64_t>0x0001000100010001ULL


cdef inline bint lane_arrives(const Ingress* ingress, const Lane* lane,
                              const uint8_t* frame) noexcept nogil:
    """Whether a packet is addressed to this host, and its header checksum right."""
    return likely(load32(frame) == ingress.mac_begin and load16(frame + 4) == ingress.mac_end
                  and header_is_right(lane.ip), True)


cdef inline bint path_reverses(const Ingress* ingress, const Path* source) noexcept nogil:
    """Whether the reverse path filter lets packets of a source in (RFC 3704)."""
    return source.flags & PATH_UNICAST != 0 and (
        ingress.rp_filter == 2 or source.egress == ingress.number)


cdef inline const Path* lane_path(State* s, const Ingress* ingress, const Lane* lane,
                                  const Connection4* c) noexcept nogil:
    """Where a packet of a connection leaves; NULL if it may not come in, or if that takes the
    general way to say."""
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


cdef inline const NextHop* lane_next_hop(State* s, const Ingress* ingress, const Lane* lane,
                                         Connection4* c) noexcept nogil:
    """The same, as the connection keeps it."""
    cdef const NextHop* hop = &s.next_hops.hop[c.next_hop[lane.reference & 1]]
    cdef const Path* to
    if likely(hop.ingress == ingress.number + 1, True):
        return hop
    to = lane_path(s, ingress, lane, c)
    if to == NULL:
        return NULL
    return next_hop_set(&s.next_hops, c, lane.reference & 1, ingress.number, to)


cdef inline bint lane_fits(const Lane* lane, uint32_t mtu, uint32_t segment_size) noexcept nogil:
    """Whether a packet, or each segment of a super-frame, is no longer than the MTU."""
    cdef uint32_t header = 28
    if likely(not segment_size, True):
        return lane.l3_length <= mtu
    if lane.key >> 32 == PROTOCOL_TCP:
        header = 20 + <uint32_t>(lane.ip[32] >> 4) * 4
    return header + segment_size <= mtu


cdef inline void lane_send(const Lane* lane, uint8_t* frame, const Connection4* c,
                           const uint8_t* link, bint partial) noexcept nogil:
    """Rewrite a packet, which has one hop less to go, and its frame; a partial checksum goes on
    being one (partial_write)."""
    cdef bint tcp = lane.key >> 32 == PROTOCOL_TCP
    cdef uint8_t* field = lane.ip + (36 if tcp else 26)
    cdef uint16_t sum = load16(field)
    lane_translate(lane, c, tcp, htons(0xFEFF))
    if likely(partial, False):
        store16(field, sum_fold(sum + delta_finish(lane_delta(lane, c))))
    lane.ip[8] -= 1
    memcpy(frame, link, 12)


cdef inline uint32_t lanes_forward_hosted(State* s, const Frames* frames, uint32_t number,
                                          uint32_t first, uint32_t j, uint32_t count,
                                          Lane* lane) noexcept nogil:
    """Take a vector's packets that came in on an interface from ``j`` on the short way, up to the
    first that needs another or has a time of its own; its index."""
    cdef Ingress ingress = ingress_of(s, number)
    cdef uint32_t* length = frames.length + first
    cdef const int64_t* timestamp = frames.timestamp + first
    cdef uint32_t* egress = frames.egress + first
    cdef uint8_t* verdict = frames.verdict + first
    cdef uint8_t* reason = frames.reason + first
    cdef bint vnet_header = frames.vnet_header
    cdef int64_t now = s.now
    cdef uint64_t total = 0
    cdef uint64_t i = j
    cdef uint32_t replies = 0
    cdef uint32_t direction
    cdef uint32_t segment_size = 0
    cdef bint partial = False
    cdef uint8_t* frame
    cdef Connection4* c
    cdef const NextHop* to
    if not is_hooked(s, IPV4):
        return j
    lanes_wait(&s.table[0], lane, j, count)
    while i < count:
        direction = lane[i].reference & 1
        if likely(timestamp[i] != now, False):
            break
        c = lane_connection(s, &lane[i], ingress.server[direction])
        if likely(c == NULL, False):
            break
        frame = lane[i].ip - ETHERNET_HEADER
        if likely(not lane_arrives(&ingress, &lane[i], frame) or lane[i].ip[8] <= 1, False):
            break
        if likely(vnet_header, False):
            partial = frame[-VNET_HEADER] & VNET_NEEDS_CSUM
            segment_size = load16(frame - VNET_HEADER + 4) if frame[-VNET_HEADER + 1] else 0
        to = lane_next_hop(s, &ingress, &lane[i], c)
        if likely(to == NULL or not lane_fits(&lane[i], to.mtu, segment_size), False):
            break
        lane_serve(s, &lane[i], c, direction)
        lane_send(&lane[i], frame, c, to.link, partial)
        total += length[i]
        length[i] = lane[i].l3_length + ETHERNET_HEADER     # without what follows
        egress[i] = to.egress
        verdict[i] = VERDICT_FORWARD
        reason[i] = <uint8_t>(REASON_REQUEST + direction)
        replies += direction
        i += 1
    s.frames += i - j
    s.bytes += total
    s.forward.ingress = number
    lanes_told(s, frames, first, j, <uint32_t>i, lane, replies)
    s.forward.ingress = NO_INTERFACE
    return <uint32_t>i


cdef inline const Path* opening_path(State* s, const Ingress* ingress, const Lane* lane,
                                     const uint8_t* frame, const Opening* opening,
                                     uint32_t segment_size) noexcept nogil:
    """Where a packet leaves that opens a connection; NULL if it may not come in, or if that takes
    the general way to say."""
    cdef const Path* client = path_of(&s.paths, &s.routes, <uint32_t>lane.addresses)
    cdef const Path* server = path_of_pair(&s.paths, &s.routes, opening.address,
                                           <uint32_t>(lane.addresses >> 32))
    cdef uint32_t ends = server.flags | <uint32_t>client.flags << CLIENT
    if (~ends & ingress.needs[ORIGINAL] or lane.ip[8] <= 1
            or ~s.services.server[opening.server].flags & ingress.server[ORIGINAL]
            or not lane_arrives(ingress, lane, frame)
            or (ingress.rp_filter and not path_reverses(ingress, client))
            or not lane_fits(lane, server.mtu, segment_size)):
        return NULL
    return server


cdef inline uint32_t lanes_open_hosted(State* s, const Frames* frames, uint32_t number,
                                       uint32_t first, uint32_t j, uint32_t count,
                                       Lane* lane) noexcept nogil:
    """Send on a vector's packets from ``j`` on that open connections, up to the first that does
    not or has a time of its own; its index."""
    cdef Table* table = &s.table[0]
    cdef Ingress ingress = ingress_of(s, number)
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
        if frames.timestamp[i] != s.now or not lane_choose(s, table, &lane[j], &opening):
            break
        if frames.vnet_header:
            partial = frame[-VNET_HEADER] & VNET_NEEDS_CSUM
            segment_size = load16(frame - VNET_HEADER + 4) if frame[-VNET_HEADER + 1] else 0
        to = opening_path(s, &ingress, &lane[j], frame, &opening, segment_size)
        if to == NULL or not opening_open(s, table, &lane[j], &opening):
            opening_undo(s, &opening)
            break
        lane_serve(s, &lane[j], connection4(table, lane[j].reference >> 1), ORIGINAL)
        lane_send(&lane[j], frame, connection4(table, lane[j].reference >> 1), to.link,
                  partial)
        s.bytes += frames.length[i]
        frames.length[i] = lane[j].l3_length + ETHERNET_HEADER      # without what follows
        frames.egress[i] = to.egress
        frames.verdict[i] = VERDICT_FORWARD
        frames.reason[i] = REASON_NEW_CONNECTION
        j += 1
    s.frames += j - begin
    s.verdicts[VERDICT_FORWARD] += j - begin
    s.reasons[REASON_NEW_CONNECTION] += j - begin
    return j
