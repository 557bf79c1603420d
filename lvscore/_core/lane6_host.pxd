"""The fast path of IPv6 on a Host: lane6.pxd with what lane_host.pxd adds.

As IPv6 has no reverse path filter and no header checksum, less is asked of a packet. Where a
connection's packets leave is found out by routes and neighbours themselves, once.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from lvscore._core.bytes cimport load16, load64, store16
from lvscore._core.checksum cimport delta_add_bytes, sum_fold
from lvscore._core.clock cimport clock_passes
from lvscore._core.connection cimport Connection6
from lvscore._core.consts cimport IPV6, ORIGINAL, PROTOCOL_TCP, REPLY
from lvscore._core.flow cimport Address
from lvscore._core.forward cimport address_is_broadcast, address_is_martian
from lvscore._core.lane cimport Frames, Lane, Vector, lanes_told
from lvscore._core.lane6 cimport lane6_connection, lane6_rewrite, lane6_serve, lanes6_renew
from lvscore._core.lane_host cimport ETHERNET_HEADER, Ingress, lane_fits
from lvscore._core.machine cimport likely
from lvscore._core.next_hop cimport NextHop, next_hop_number
from lvscore._core.offload cimport VNET_HEADER, VNET_NEEDS_CSUM
from lvscore._core.route cimport (
    Neighbour, ROUTE_UNICAST, Route, address_is_local, neighbour_find, route_find,
)
from lvscore._core.state cimport State, is_hooked


cdef inline bint lane6_arrives(const Ingress* ingress, const Lane* lane) noexcept nogil:
    """Whether a frame is addressed to this host, and its packet has a hop left to go."""
    return ((load64(lane.ip - ETHERNET_HEADER) ^ ingress.mac) & ingress.mac_mask == 0
            and lane.ip[7] > 1)


cdef inline void lane6_send(const Lane* lane, const Connection6* c, const uint8_t* link,
                            bint partial) noexcept nogil:
    """Rewrite a packet, which has one hop less to go, and its frame; a partial checksum goes on
    being one (partial_write)."""
    cdef uint8_t* field = lane.ip + (56 if lane.key >> 32 == PROTOCOL_TCP else 46)
    cdef uint32_t direction = lane.reference & 1
    cdef uint64_t sum = load16(field)
    if likely(partial, False):
        sum = delta_add_bytes(sum, lane.ip + 8, <const uint8_t*>c.source[direction], 16)
        sum = delta_add_bytes(sum, lane.ip + 24, <const uint8_t*>c.destination[direction], 16)
    lane6_rewrite(lane, c)
    if likely(partial, False):
        store16(field, sum_fold(sum))
    lane.ip[7] -= 1
    memcpy(lane.ip - ETHERNET_HEADER, link, 12)


cdef inline bint lane6_leads(const State* s, const Ingress* ingress, const Lane* lane,
                             const Connection6* c, NextHop* to, Address* next_hop) noexcept nogil:
    """Find where a packet of a connection leaves; False if it may not come in, or if that takes the
    slow path to say (forward_receive, forward_request, forward_pass)."""
    cdef uint32_t direction = lane.reference & 1
    cdef const Route* route
    cdef const Neighbour* neighbour
    cdef Address source, destination
    memcpy(&source, lane.ip + 8, 16)
    memcpy(&destination, lane.ip + 24, 16)
    memcpy(next_hop, c.destination[direction], 16)
    if (address_is_martian(IPV6, &source)
            or address_is_broadcast(&s.routes, IPV6, &destination)
            or address_is_local(&s.routes, IPV6, next_hop)):
        return False
    if direction == ORIGINAL and not address_is_local(&s.routes, IPV6, &destination):
        return False
    if direction == REPLY and not s.routes.interface[ingress.number].forwarding[1]:
        return False
    route = route_find(&s.routes, IPV6, next_hop)
    if route == NULL or route.kind != ROUTE_UNICAST:
        return False
    if direction == REPLY and ingress.redirects and route.interface == ingress.number:
        return False
    if route.has_gateway:
        next_hop[0] = route.gateway
    neighbour = neighbour_find(&s.routes, IPV6, route.interface, next_hop)
    if neighbour == NULL:
        return False
    memset(to, 0, sizeof(NextHop))
    memcpy(to.link, neighbour.mac, 6)
    memcpy(&to.link[6], s.routes.interface[route.interface].mac, 6)
    to.mtu = s.routes.interface[route.interface].mtu
    to.family = IPV6
    to.ingress = <uint16_t>ingress.hop
    to.egress = <uint16_t>route.interface
    return True


cdef inline const NextHop* lane6_learn(State* s, const Ingress* ingress, const Lane* lane,
                                       Connection6* c) noexcept nogil:
    """Let a packet's connection keep where it leaves, and say so; NULL if it takes the slow path
    to say (lane_learn)."""
    cdef uint32_t number
    cdef NextHop to
    cdef Address next_hop
    if not lane6_leads(s, ingress, lane, c, &to, &next_hop):
        return NULL
    number = next_hop_number(&s.next_hops, &to, &next_hop)
    if number == 0:
        return NULL
    c.next_hop[lane.reference & 1] = <uint16_t>number
    return &s.next_hops.hop[number]


cdef inline uint32_t lanes6_forward_hosted(State* s, const Frames* frames, const Ingress* ingress,
                                           Vector* vector, uint32_t j) noexcept nogil:
    """Take a vector's packets of IPv6 that came in on an interface from ``j`` on the fast path, up
    to the first that needs another or is not of the present tick; its index."""
    cdef const Lane* lane = vector.lane6
    cdef const int64_t* timestamp = frames.timestamp + vector.first
    cdef uint32_t replies = 0
    cdef uint64_t i = j
    cdef uint32_t segment_size = 0
    cdef bint partial = False
    cdef const uint8_t* header
    cdef Connection6* c
    cdef const NextHop* to
    if not is_hooked(s, IPV6):
        return j
    lanes6_renew(&s.table[1], vector, j)
    while i < vector.count:
        if timestamp[i] != s.now and not clock_passes(s, timestamp[i]):
            break
        c = lane6_connection(s, &lane[i], ingress.server[lane[i].reference & 1])
        if likely(c == NULL or not lane6_arrives(ingress, &lane[i]), False):
            break
        if frames.vnet_header:
            header = lane[i].ip - ETHERNET_HEADER - VNET_HEADER
            partial = header[0] & VNET_NEEDS_CSUM
            segment_size = load16(header + 4) if header[1] else 0
        to = &s.next_hops.hop[c.next_hop[lane[i].reference & 1]]
        if likely(to.ingress != ingress.hop, False):
            to = lane6_learn(s, ingress, &lane[i], c)
        if likely(to == NULL or not lane_fits(&lane[i], 40, to.mtu, segment_size), False):
            break
        lane6_serve(s, &lane[i], &c.meta)
        lane6_send(&lane[i], c, to.link, partial)
        frames.length[vector.first + i] = lane[i].l3_length + ETHERNET_HEADER
        frames.egress[vector.first + i] = to.egress
        replies += lane[i].reference & 1
        i += 1
    lanes_told(s, frames, vector.first, j, <uint32_t>i, lane, replies)
    return <uint32_t>i
