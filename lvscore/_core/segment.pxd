"""Super-frames cut into the packets that they stand for (Linux: tcp_gso_segment,
__udp_gso_segment): for what cannot be left to an interface."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from lvscore._core.bytes cimport htonl, htons, load_be16, load_be32, store16, store32
from lvscore._core.checksum cimport checksum_finish, sum_bytes, transport_sum
from lvscore._core.consts cimport IPV4, PROTOCOL_TCP, PROTOCOL_UDP
from lvscore._core.wire cimport Packet, packet_parse

cdef enum:
    TCP_FIN_PSH = 0x09          # of the last segment alone
    TCP_CWR = 0x80              # of the first alone (RFC 3168, section 6.1.2)


cdef struct Segments:
    uint32_t l3                 # offsets of the headers
    uint32_t l4
    uint32_t headers            # bytes up to the payload
    uint32_t payload            # bytes of it
    uint32_t size               # bytes of it in each segment but the last
    uint32_t count
    uint8_t family
    uint8_t protocol


cdef inline bint segments_plan(Segments* plan, uint8_t* frame, uint32_t length, int link_type,
                               uint32_t size) noexcept nogil:
    """How a super-frame is cut into segments with ``size`` bytes of payload; False: it is not
    whole, or neither TCP nor UDP."""
    cdef Packet packet
    cdef uint32_t header = 8
    if size == 0 or packet_parse(&packet, frame, length, length, link_type):
        return False
    if packet.fragment or packet.l4_captured < packet.l4_length:
        return False
    if packet.protocol == PROTOCOL_TCP:
        if packet.l4_length < 20:
            return False
        header = <uint32_t>(frame[packet.l4 + 12] >> 4) * 4
        if header < 20:
            return False
    elif packet.protocol != PROTOCOL_UDP:
        return False
    if packet.l4_length <= header:
        return False
    plan.l3 = packet.l3
    plan.l4 = packet.l4
    plan.headers = packet.l4 + header
    plan.payload = packet.l4_length - header
    plan.size = size
    plan.count = (plan.payload + size - 1) // size
    plan.family = packet.family
    plan.protocol = packet.protocol
    return True


cdef inline uint32_t segment_write(const Segments* plan, const uint8_t* frame, uint32_t number,
                                   uint8_t* out) noexcept nogil:
    """Write a segment, of ``headers`` and ``size`` bytes at most, whose checksums are whole; its
    length."""
    cdef uint32_t start = number * plan.size
    cdef uint32_t payload = plan.payload - start if number + 1 == plan.count else plan.size
    cdef uint32_t length = plan.headers + payload
    cdef uint32_t l4_length = length - plan.l4
    cdef uint8_t* ip = out + plan.l3
    cdef uint8_t* l4 = out + plan.l4
    cdef uint16_t checksum
    memcpy(out, frame, plan.headers)
    memcpy(out + plan.headers, frame + plan.headers + start, payload)
    if plan.family == IPV4:
        store16(ip + 2, htons(<uint16_t>(length - plan.l3)))
        store16(ip + 4, htons(<uint16_t>(load_be16(ip + 4) + number)))
        store16(ip + 10, 0)
        store16(ip + 10, checksum_finish(sum_bytes(ip, plan.l4 - plan.l3, 0)))
    else:
        store16(ip + 4, htons(<uint16_t>(length - plan.l3 - 40)))
    if plan.protocol == PROTOCOL_TCP:
        store32(l4 + 4, htonl(load_be32(l4 + 4) + start))
        if number + 1 < plan.count:
            l4[13] &= <uint8_t>~TCP_FIN_PSH
        if number:
            l4[13] &= <uint8_t>~TCP_CWR
        store16(l4 + 16, 0)
        store16(l4 + 16, checksum_finish(transport_sum(ip, l4, plan.family, PROTOCOL_TCP,
                                                       l4_length)))
    else:
        store16(l4 + 4, htons(<uint16_t>l4_length))
        store16(l4 + 6, 0)
        checksum = checksum_finish(transport_sum(ip, l4, plan.family, PROTOCOL_UDP, l4_length))
        store16(l4 + 6, checksum if checksum else 0xFFFF)
    return length
