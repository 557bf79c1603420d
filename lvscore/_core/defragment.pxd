"""The defragment stage: fragments in, datagrams through the engine, fragments out."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from lvscore._core.consts cimport (
    IPV4, IPV6, PROTOCOL_ICMP, REASON_FRAGMENT, REASON_FRAGMENT_HELD, REASON_TTL_EXPIRED,
    VERDICT_DROP, VERDICT_FORWARD, VERDICT_PASS, VERDICT_STOLEN,
)
from lvscore._core.emit cimport emit_commit, emit_reserve
from lvscore._core.flow cimport Address, address_load, has_ports
from lvscore._core.fragment cimport (
    Datagram, FRAGMENT_HEADER, MAX_HEADERS, datagram_discard, datagram_frame, fragment_add,
    fragment_cut, fragment_data,
)
from lvscore._core.hash cimport random_next
from lvscore._core.route cimport NO_INTERFACE, address_is_local
from lvscore._core.state cimport State, is_hosted
from lvscore._core.wire cimport Packet, packet_l3, packet_parse


cdef inline bint fragment_is_local(const State* s, const Packet* packet) noexcept nogil:
    """Whether a fragment is for the local stack of a Host."""
    cdef Address destination
    if not is_hosted(s):
        return False
    destination = address_load(packet_l3(packet) + (16 if packet.family == IPV4 else 24),
                               packet.family)
    return address_is_local(&s.routes, packet.family, &destination)


cdef inline bint fragment_is_dying(const State* s, const Packet* packet) noexcept nogil:
    """Whether an IPv4 fragment is at the end of its way before it would be put together: on a
    Host, what is for others is put together on its way out only (ip_vs_out)."""
    return (is_hosted(s) and not s.tracking and packet.family == IPV4
            and packet_l3(packet)[8] <= 1 and not fragment_is_local(s, packet))


cdef inline bint fragment_is_wanted(const State* s, const Packet* packet) noexcept nogil:
    """Whether a fragment is put together.

    IPv4: of the protocols that services translate, or of all when the NAT rules track; IPv6:
    of all (nf_defrag_ipv6). Part of a fragment, from a snapped capture, is of no use.
    """
    if packet.l3 + packet.l3_length > packet.length:
        return False
    if s.tracking or fragment_is_local(s, packet):
        return True
    if s.services.count == 0:
        return False
    return (packet.family == IPV6 or has_ports(packet.protocol)
            or packet.protocol == PROTOCOL_ICMP)


cdef inline uint8_t fragment_take(State* s, const Packet* fragment, int link_type,
                                  Packet* whole, uint32_t* datagram,
                                  uint8_t* reason) noexcept nogil:
    """Take a fragment. VERDICT_FORWARD: ``whole`` is its datagram; else its own verdict."""
    cdef uint8_t* frame
    cdef uint32_t length
    if not fragment_is_wanted(s, fragment):
        reason[0] = REASON_FRAGMENT
        return VERDICT_PASS
    if fragment_is_dying(s, fragment):
        reason[0] = REASON_TTL_EXPIRED
        return VERDICT_DROP
    reason[0] = fragment_add(&s.fragments, fragment, s.tick, datagram)
    if reason[0]:
        return VERDICT_STOLEN if reason[0] == REASON_FRAGMENT_HELD else VERDICT_DROP
    frame = datagram_frame(&s.fragments.datagram[datagram[0]], &length)
    reason[0] = packet_parse(whole, frame, length, length, link_type)
    if reason[0]:
        datagram_discard(&s.fragments, datagram[0])
        return VERDICT_DROP
    return VERDICT_FORWARD


cdef inline void datagram_emit(State* s, const Datagram* d, const Packet* whole, uint8_t verdict,
                               uint8_t reason) noexcept nogil:
    """Put out a datagram: cut again if it is sent on, whole for the local stack; also if it is
    no longer than its largest fragment was with its fragment header (ip6_finish_output)."""
    cdef uint32_t size
    cdef uint32_t offset = 0
    cdef uint32_t identification = 0
    cdef uint32_t limit = d.largest
    cdef uint8_t* room
    if is_hosted(s) and s.forward.egress != NO_INTERFACE and s.forward.mtu < limit:
        limit = s.forward.mtu
    if (verdict == VERDICT_FORWARD or verdict == VERDICT_PASS) and (
            whole.length - whole.l3 > limit):
        if d.family == IPV6:
            identification = <uint32_t>random_next(&s.chance)
        while offset < d.total:
            size = fragment_data(d, offset, limit)
            room = emit_reserve(&s.emitted, MAX_HEADERS + FRAGMENT_HEADER + size)
            if room == NULL:
                return
            emit_commit(&s.emitted, fragment_cut(d, whole.frame, offset, size, identification,
                                                 room), s.now, verdict, reason)
            offset += size
        return
    room = emit_reserve(&s.emitted, whole.length)
    if room != NULL:
        memcpy(room, whole.frame, whole.length)
        emit_commit(&s.emitted, whole.length, s.now, verdict, reason)
