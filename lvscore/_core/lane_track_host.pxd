"""The fast path on a Host of flows that the NAT rules track: lane_track.pxd with what lane_host.pxd
adds. Where there are virtual services, IPVS looks at such packets, too, and they take the general
way.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from lvscore._core.bytes cimport load16
from lvscore._core.clock cimport clock_passes
from lvscore._core.connection cimport Connection4
from lvscore._core.consts cimport IPV4, ORIGINAL, PROTOCOL_UDP
from lvscore._core.entry cimport entry_of
from lvscore._core.flow cimport Tuple, addresses_unpack
from lvscore._core.forward cimport address_is_broadcast
from lvscore._core.lane cimport Frames, Lane, lanes_told
from lvscore._core.lane_host cimport (
    ETHERNET_HEADER, Ingress, lane_arrives, lane_fits, lane_send, path_reverses,
)
from lvscore._core.lane_track cimport (
    datagram_take, lane_count, lane_is_tracked, segments_find, segments_take, timers_stay,
)
from lvscore._core.machine cimport likely
from lvscore._core.next_hop cimport next_hop_set
from lvscore._core.offload cimport VNET_HEADER, VNET_NEEDS_CSUM
from lvscore._core.path cimport PATH_LEADS, PATH_MARTIAN, PATH_SOURCE, Path, path_of
from lvscore._core.route cimport NO_INTERFACE
from lvscore._core.state cimport State, is_hooked


cdef inline bint flow_learn(State* s, const Ingress* ingress, const Lane* lane) noexcept nogil:
    """Let a packet's flow keep where it leaves; False if it does already, if there is no flow, or
    if it takes the slow path to say."""
    cdef uint32_t direction = lane.reference & 1
    cdef Connection4* c = lane.connection
    cdef uint16_t masquerade
    cdef const Path* path
    cdef Tuple t
    if (not lane_is_tracked(lane) or not s.routes.interface[ingress.number].forwarding[0]
            or s.next_hops.hop[c.next_hop[direction]].ingress == ingress.hop):
        return False
    path = path_of(&s.paths, &s.routes, <uint32_t>lane.addresses)
    if not path.flags & PATH_SOURCE or (ingress.rp_filter and not path_reverses(ingress, path)):
        return False
    addresses_unpack(&t, lane.addresses)
    path = path_of(&s.paths, &s.routes, <uint32_t>(lane.addresses >> 32))
    if path.flags & PATH_MARTIAN or address_is_broadcast(&s.routes, IPV4, &t.destination):
        return False
    path = path_of(&s.paths, &s.routes, <uint32_t>(c.addresses[direction] >> 32))
    if not path.flags & PATH_LEADS or (ingress.redirects and path.egress == ingress.number):
        return False
    masquerade = entry_of(&s.entries[0], lane.reference >> 1).masquerade
    if masquerade and direction == ORIGINAL and path.egress + 1 != masquerade:
        return False
    return next_hop_set(&s.next_hops, c, direction, ingress.number, path)


cdef inline uint32_t segment_size_of(const Frames* frames, const Lane* lane) noexcept nogil:
    """The payload of a super-frame's segments, or 0."""
    cdef const uint8_t* header = lane.ip - ETHERNET_HEADER - VNET_HEADER
    return load16(header + 4) if frames.vnet_header and header[1] else 0


cdef inline bint lane_leaves(const State* s, const Frames* frames, const Ingress* ingress,
                             const Lane* lane) noexcept nogil:
    """Whether a packet of a tracked flow may come in, and leaves by a next hop that is known."""
    cdef uint32_t number = lane.connection.next_hop[lane.reference & 1]
    return (lane_arrives(ingress, lane.ip - ETHERNET_HEADER)
            and s.next_hops.hop[number].ingress == ingress.hop
            and lane_fits(lane, 20, s.next_hops.hop[number].mtu,
                          segment_size_of(frames, lane)))


cdef inline uint64_t lanes_leave(const State* s, const Frames* frames, const Ingress* ingress,
                                 uint64_t i, uint64_t end, const Lane* lane) noexcept nogil:
    """The index of the first of some packets of tracked flows that does not leave so."""
    while i < end and likely(lane_leaves(s, frames, ingress, &lane[i]), True):
        i += 1
    return i


cdef inline void lane_hand_on(State* s, const Frames* frames, uint32_t first, uint64_t i,
                              const Lane* lane, uint32_t* replies) noexcept nogil:
    """Translate a packet of a tracked flow and send it on."""
    cdef Connection4* c = lane[i].connection
    cdef uint8_t* frame = lane[i].ip - ETHERNET_HEADER
    cdef uint32_t number = c.next_hop[lane[i].reference & 1]
    lane_count(s, &lane[i])
    lane_send(&lane[i], frame, c, s.next_hops.hop[number].link,
              frames.vnet_header and frame[-VNET_HEADER] & VNET_NEEDS_CSUM)
    frames.length[first + i] = lane[i].l3_length + ETHERNET_HEADER      # without what follows
    frames.egress[first + i] = s.next_hops.hop[number].egress
    replies[0] += lane[i].reference & 1


cdef inline uint32_t lanes_track_hosted(State* s, const Frames* frames, const Ingress* ingress,
                                        uint32_t first, uint32_t j, uint32_t count,
                                        const Lane* lane) noexcept nogil:
    """Take a vector's packets that came in on an interface from ``j`` on the fast path, up to the
    first that needs another or is not of the present tick; its index."""
    cdef const int64_t* timestamp = frames.timestamp + first
    cdef uint32_t replies = 0
    cdef uint64_t i = j
    cdef uint64_t end
    if (is_hooked(s, IPV4) or not timers_stay(s)
            or frames.original_length != frames.length):    # not captured whole: not verified
        return j
    while True:
        end = segments_find(s, timestamp, i, count, lane)
        end = segments_take(s, timestamp, i, lanes_leave(s, frames, ingress, i, end, lane), lane)
        while i < end:
            lane_hand_on(s, frames, first, i, lane, &replies)
            i += 1
        if likely(i == count, True) or not clock_passes(s, timestamp[i]):
            break
        if (lane_is_tracked(&lane[i]) and lane[i].key >> 32 == PROTOCOL_UDP
                and lane_leaves(s, frames, ingress, &lane[i]) and datagram_take(s, &lane[i])):
            lane_hand_on(s, frames, first, i, lane, &replies)
            i += 1
        elif not flow_learn(s, ingress, &lane[i]):
            break
    s.forward.ingress = ingress.number
    lanes_told(s, frames, first, j, <uint32_t>i, lane, replies)
    s.forward.ingress = NO_INTERFACE
    return <uint32_t>i
