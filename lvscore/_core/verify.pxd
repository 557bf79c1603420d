"""Whether conntrack lets a packet near a connection: header lengths, checksums, flags.

What fails here is netfilter's INVALID: it belongs to no connection and is not translated
(nf_conntrack_proto_tcp.c, _udp.c, _icmp.c, _icmpv6.c).
"""

from libc.stdint cimport uint8_t, uint32_t

from lvscore._core.bytes cimport load16, load_be16
from lvscore._core.checksum cimport sum_bytes, sum_fold, transport_sum
from lvscore._core.consts cimport (
    IPV4, IPV6, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP,
)
from lvscore._core.crc32c cimport SCTP_HEADER, sctp_checksum
from lvscore._core.track cimport TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN
from lvscore._core.wire cimport Packet, packet_l3, packet_l4

cdef enum:
    TCP_URG = 0x20
    MAX_ICMP_TYPE = 18          # NR_ICMP_TYPES: above are mysteries


cdef inline bint transport_checksum_good(const Packet* packet) noexcept nogil:
    """Whether the checksum of TCP, UDP, ICMP or ICMPv6 is right, over all that the IP header
    says is there; a snapped packet gets the benefit of the doubt, and one that the sender's
    kernel left to the device was never on a wire."""
    if packet.partial or packet.l4_captured < packet.l4_length:
        return True
    if packet.protocol == PROTOCOL_ICMP:
        return sum_fold(sum_bytes(packet_l4(packet), packet.l4_length, 0)) == 0xFFFF
    return sum_fold(transport_sum(packet_l3(packet), packet_l4(packet), packet.family,
                                  packet.protocol, packet.l4_length)) == 0xFFFF


cdef inline bint icmp_error_good(const Packet* packet) noexcept nogil:
    """Whether IPVS translates an ICMP error. It sums the IPv4 header along (nf_ip_checksum, from
    skb->data), where options that this host filled in are not yet in the header's checksum."""
    cdef uint32_t header = packet.l4 - packet.l3
    if (packet.protocol == PROTOCOL_ICMP and header > 20
            and sum_fold(sum_bytes(packet_l3(packet), header, 0)) != 0xFFFF):
        return False
    return transport_checksum_good(packet)


cdef inline bint tcp_is_valid(const Packet* packet) noexcept nogil:
    """A whole header, and a combination of flags that means something."""
    cdef const uint8_t* tcp = packet_l4(packet)
    cdef uint32_t header, flags
    if packet.l4_captured < 20:
        return False
    header = (tcp[12] >> 4) * 4
    if header < 20 or header > packet.l4_length:
        return False
    flags = tcp[13] & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK | TCP_URG)
    return (flags == TCP_ACK or flags == TCP_SYN or flags == TCP_SYN | TCP_ACK
            or flags == TCP_FIN | TCP_ACK or flags == TCP_RST or flags == TCP_RST | TCP_ACK
            or flags == TCP_ACK | TCP_URG or flags == TCP_SYN | TCP_URG
            or flags == TCP_FIN | TCP_ACK | TCP_URG)


cdef inline bint udp_is_valid(const Packet* packet) noexcept nogil:
    cdef uint32_t length
    if packet.l4_captured < 8:
        return False
    length = load_be16(packet_l4(packet) + 4)
    return 8 <= length <= packet.l4_length


cdef inline bint sctp_is_valid(const Packet* packet, bint checksums) noexcept nogil:
    """A whole common header, and with ``checksums`` the right one, as far as that is there."""
    cdef const uint8_t* sctp = packet_l4(packet)
    cdef uint32_t crc, i
    if packet.l4_captured < SCTP_HEADER:
        return False
    if not checksums or packet.l4_captured < packet.l4_length:
        return True
    crc = sctp_checksum(sctp, packet.l4_length)
    for i in range(4):
        if sctp[8 + i] != (crc >> 8 * i & 0xFF):
            return False
    return True


cdef inline bint packet_is_valid(const Packet* packet, bint checksums) noexcept nogil:
    """Whether a packet may belong to a connection, or open one; with ``checksums``, only with
    the right one (nf_conntrack_checksum)."""
    if packet.protocol == PROTOCOL_TCP:
        return tcp_is_valid(packet) and (not checksums or transport_checksum_good(packet))
    if packet.protocol == PROTOCOL_UDP:
        return udp_is_valid(packet) and (
            not checksums or load16(packet_l4(packet) + 6) == 0
            or transport_checksum_good(packet))
    if packet.protocol == PROTOCOL_ICMP:
        return (packet.family == IPV4 and packet.l4_captured >= 8
                and packet_l4(packet)[0] <= MAX_ICMP_TYPE
                and (not checksums or transport_checksum_good(packet)))
    if packet.protocol == PROTOCOL_ICMPV6:
        return (packet.family == IPV6 and packet.l4_captured >= 8
                and (not checksums or transport_checksum_good(packet)))
    if packet.protocol == PROTOCOL_SCTP:
        return sctp_is_valid(packet, checksums)
    return packet.protocol != 0     # 0 marks records that are free
