"""Header rewrite: addresses, ports, checksums."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from lvscore._core.bytes cimport load16, store16
from lvscore._core.checksum cimport (
    checksum_finish, checksum_update, delta_add16, delta_add_bytes, delta_finish, sum_fold,
    transport_sum, udp_checksum_update,
)
from lvscore._core.consts cimport (
    IPV4, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP,
)
from lvscore._core.crc32c cimport SCTP_HEADER, sctp_checksum_write
from lvscore._core.flow cimport (
    Tuple, address_equal, icmp_is_request, icmp_request_of, ports_destination, ports_source,
)
from lvscore._core.wire cimport Packet, packet_l3, packet_l4


cdef inline uint64_t addresses_delta(const Tuple* old, const Tuple* new) noexcept nogil:
    cdef uint64_t delta = delta_add_bytes(0, <const uint8_t*>&old.source,
                                          <const uint8_t*>&new.source, 16)
    return delta_add_bytes(delta, <const uint8_t*>&old.destination,
                           <const uint8_t*>&new.destination, 16)


cdef inline bint tuples_equal(const Tuple* a, const Tuple* b) noexcept nogil:
    """Whether two tuples of a protocol are the same."""
    return (a.ports == b.ports and address_equal(&a.source, &b.source)
            and address_equal(&a.destination, &b.destination))


cdef inline uint64_t addresses_write(uint8_t* ip, const Tuple* old,
                                     const Tuple* new) noexcept nogil:
    """Write both addresses and update the header checksum; the addresses' delta."""
    cdef uint64_t delta = addresses_delta(old, new)
    if new.family == IPV4:
        memcpy(ip + 12, &new.source, 4)
        memcpy(ip + 16, &new.destination, 4)
        store16(ip + 10, checksum_update(load16(ip + 10), delta_finish(delta)))
    else:
        memcpy(ip + 8, &new.source, 16)
        memcpy(ip + 24, &new.destination, 16)
    return delta


cdef inline uint16_t udp_checksum(const uint8_t* ip, const uint8_t* udp, uint8_t family,
                                  uint32_t length) noexcept nogil:
    """The checksum of a whole datagram whose own field is zero (RFC 768)."""
    cdef uint16_t checksum = checksum_finish(transport_sum(ip, udp, family, PROTOCOL_UDP, length))
    return checksum if checksum else 0xFFFF


cdef inline void tcp_checksum_write(Packet* packet) noexcept nogil:
    """Give a whole segment a new checksum."""
    cdef uint8_t* tcp = packet_l4(packet)
    store16(tcp + 16, 0)
    store16(tcp + 16, checksum_finish(transport_sum(
        packet_l3(packet), tcp, packet.family, PROTOCOL_TCP, packet.l4_length)))


cdef inline void transport_write(uint8_t* l4, uint32_t captured, const Tuple* old,
                                 const Tuple* new, uint64_t delta) noexcept nogil:
    """Write ports or identifier and update the checksum, as far as they were captured.

    ``delta`` is that of the pseudo-header. A UDP checksum of 0 stays, and that of SCTP: it
    cannot be updated, but has to be made anew from the whole packet.
    """
    cdef uint16_t identifier, checksum
    if new.protocol == PROTOCOL_TCP or new.protocol == PROTOCOL_UDP:
        if captured < 4:
            return
        memcpy(l4, &new.ports, 4)
        delta = delta_add_bytes(delta, <const uint8_t*>&old.ports, <const uint8_t*>&new.ports, 4)
        if new.protocol == PROTOCOL_TCP:
            if captured >= 18:
                store16(l4 + 16, checksum_update(load16(l4 + 16), delta_finish(delta)))
        elif captured >= 8 and load16(l4 + 6):
            store16(l4 + 6, udp_checksum_update(load16(l4 + 6), delta_finish(delta)))
    elif new.protocol == PROTOCOL_SCTP:
        if captured >= 4:
            memcpy(l4, &new.ports, 4)
    elif new.protocol == PROTOCOL_ICMP or new.protocol == PROTOCOL_ICMPV6:
        if new.protocol == PROTOCOL_ICMP:
            delta = 0   # no pseudo-header
        if captured < 6:
            return
        if icmp_is_request(new.protocol, l4[0]):
            identifier = ports_source(new.ports)
        elif icmp_request_of(new.protocol, l4[0]):
            identifier = ports_destination(new.ports)
        else:
            identifier = load16(l4 + 4)
        delta = delta_add16(delta, load16(l4 + 4), identifier)
        store16(l4 + 4, identifier)
        checksum = checksum_update(load16(l4 + 2), delta_finish(delta))
        if checksum == 0xFFFF and not tuples_equal(old, new):
            checksum = 0        # even if it does not change (csum16_add)
        store16(l4 + 2, checksum)


cdef inline void partial_write(Packet* packet, const Tuple* new, uint64_t delta) noexcept nogil:
    """Write ports of a packet whose checksum is the un-complemented sum of the pseudo-header:
    addresses change it, ports do not (CHECKSUM_PARTIAL, skbuff.h)."""
    cdef uint8_t* l4 = packet_l4(packet)
    cdef uint8_t* field = l4 + (16 if new.protocol == PROTOCOL_TCP else 6)
    if packet.l4_captured < (18 if new.protocol == PROTOCOL_TCP else 8):
        return
    memcpy(l4, &new.ports, 4)
    store16(field, sum_fold(load16(field) + delta))


cdef inline void packet_translate(Packet* packet, const Tuple* old, const Tuple* new,
                                  bint fill_udp) noexcept nogil:
    """Rewrite a packet of tuple ``old`` to tuple ``new``.

    ``fill_udp``: give a UDP datagram without checksum one, as IPVS does and netfilter does
    not; a snapped datagram stays without, since its data is not there to be summed. SCTP gets
    a new checksum when a port changes, even if it had a wrong one; when addresses only do, which
    it does not cover, IPVS lets it keep its own (ip_vs_proto_sctp.c) and netfilter does not. A
    snapped packet keeps it.
    """
    cdef uint8_t* l4 = packet_l4(packet)
    cdef uint64_t delta = addresses_write(packet_l3(packet), old, new)
    if packet.partial and (new.protocol == PROTOCOL_TCP or new.protocol == PROTOCOL_UDP):
        partial_write(packet, new, delta)
        return
    transport_write(l4, packet.l4_captured, old, new, delta)
    if (new.protocol == PROTOCOL_SCTP
            and (old.ports != new.ports or (not fill_udp and not tuples_equal(old, new)))
            and packet.l4_captured >= SCTP_HEADER and packet.l4_captured == packet.l4_length):
        sctp_checksum_write(l4, packet.l4_length)
    if (fill_udp and new.protocol == PROTOCOL_UDP and packet.l4_captured >= 8
            and packet.l4_captured == packet.l4_length and load16(l4 + 6) == 0):
        store16(l4 + 6, udp_checksum(packet_l3(packet), l4, packet.family, packet.l4_length))
