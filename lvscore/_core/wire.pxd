"""From a frame to a Packet: link header, IPv4 or IPv6 with its extensions, where L4 begins.

Nothing is read beyond the captured bytes. A frame may be snapped: its lengths are then
checked against the length on the wire.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from lvscore._core.bytes cimport htons, load16, load_be16
from lvscore._core.consts cimport (
    IPV4, IPV6, LINK_ETHERNET, LINK_IPV4, LINK_IPV6, LINK_LINUX_SLL, LINK_LINUX_SLL2, LINK_LOOP,
    LINK_NULL, LINK_RAW, MAX_IPV6_EXTENSIONS, MAX_VLAN_TAGS, REASON_BAD_IP_HEADER_LENGTH,
    REASON_BAD_IP_LENGTH, REASON_BAD_IP_VERSION, REASON_NONE, REASON_NOT_IP,
    REASON_TOO_MANY_EXTENSIONS, REASON_TRUNCATED_IP_HEADER, REASON_TRUNCATED_LINK_HEADER,
)

cdef enum:
    ETHERTYPE_IPV4 = 0x0800
    ETHERTYPE_VLAN = 0x8100     # IEEE 802.1Q
    ETHERTYPE_IPV6 = 0x86DD
    ETHERTYPE_QINQ = 0x88A8     # IEEE 802.1ad
    ETHERTYPE_OLD_QINQ = 0x9100

    HEADER_HOP_BY_HOP = 0
    HEADER_ROUTING = 43
    HEADER_FRAGMENT = 44
    HEADER_AUTHENTICATION = 51
    HEADER_DESTINATION = 60


cdef struct Packet:
    uint8_t* frame
    uint32_t length         # captured bytes of the frame
    uint32_t wire_length    # bytes that it had on the wire
    uint32_t l3             # offset of the IP header
    uint32_t l4             # offset of the transport header
    uint32_t l3_length      # IP header and payload, as the header says
    uint32_t l4_length      # transport header and payload
    uint32_t l4_captured    # of these, bytes that were captured
    uint32_t fragment_header    # IPv6: offset of the fragment header, 0: none
    uint32_t fragment_announced  # IPv6: offset of the field that announces it
    uint32_t mark           # firewall mark, 0: none
    uint32_t segment        # of a super-frame: bytes of each IP packet in it; 0: it is one packet
    uint16_t fragment_offset
    uint8_t family
    uint8_t protocol
    bint fragment           # the first or a later one
    bint partial            # the transport checksum is as yet the pseudo-header's sum
    bint helped             # if it opens a flow, a helper of conntrack looks after that


cdef inline uint8_t* packet_l3(const Packet* packet) noexcept nogil:
    return packet.frame + packet.l3


cdef inline uint8_t* packet_l4(const Packet* packet) noexcept nogil:
    return packet.frame + packet.l4


cdef inline uint8_t link_parse(const uint8_t* frame, uint32_t length, int link_type,
                               uint32_t* l3, uint8_t* family) noexcept nogil:
    """Find the IP header and the version that the link header announces (0: none)."""
    cdef uint32_t offset, value
    cdef uint16_t kind
    cdef uint32_t tags = 0
    family[0] = 0
    l3[0] = 0
    if link_type == LINK_ETHERNET:
        offset = 12
    elif link_type == LINK_LINUX_SLL:
        offset = 14
    elif link_type == LINK_LINUX_SLL2:
        offset = 0
    elif link_type == LINK_NULL or link_type == LINK_LOOP:
        if length < 4:
            return REASON_TRUNCATED_LINK_HEADER
        # The family of the capturing system: 2 everywhere for IPv4; 10, 24, 28 or 30 for IPv6.
        # LINK_NULL has it in that system's byte order, which the frame does not tell.
        value = <uint32_t>load_be16(frame) | load_be16(frame + 2)
        if value > 0xFF:
            value >>= 8
        l3[0] = 4
        if value == 2:
            family[0] = IPV4
        elif value == 10 or value == 24 or value == 28 or value == 30:
            family[0] = IPV6
        else:
            return REASON_NOT_IP
        return REASON_NONE
    elif link_type == LINK_RAW or link_type == LINK_IPV4 or link_type == LINK_IPV6:
        family[0] = IPV4 if link_type == LINK_IPV4 else IPV6 if link_type == LINK_IPV6 else 0
        return REASON_NONE
    else:
        return REASON_NOT_IP
    l3[0] = 20 if link_type == LINK_LINUX_SLL2 else offset + 2
    if length < l3[0]:
        return REASON_TRUNCATED_LINK_HEADER
    kind = load16(frame + offset)
    while kind == htons(ETHERTYPE_VLAN) or kind == htons(ETHERTYPE_QINQ) \
            or kind == htons(ETHERTYPE_OLD_QINQ):
        if tags == MAX_VLAN_TAGS:
            return REASON_NOT_IP
        tags += 1
        if length < l3[0] + 4:
            return REASON_TRUNCATED_LINK_HEADER
        kind = load16(frame + l3[0] + 2)
        l3[0] += 4
    if kind == htons(ETHERTYPE_IPV4):
        family[0] = IPV4
    elif kind == htons(ETHERTYPE_IPV6):
        family[0] = IPV6
    else:
        return REASON_NOT_IP
    return REASON_NONE


cdef inline uint8_t ipv4_parse(Packet* packet) noexcept nogil:
    cdef const uint8_t* ip = packet.frame + packet.l3
    cdef uint32_t captured = packet.length - packet.l3
    cdef uint32_t header, total
    cdef uint16_t fragment
    if captured < 20:
        return REASON_TRUNCATED_IP_HEADER
    if ip[0] >> 4 != 4:
        return REASON_BAD_IP_VERSION
    header = <uint32_t>(ip[0] & 15) * 4
    total = load_be16(ip + 2)
    if header < 20 or total < header:
        return REASON_BAD_IP_HEADER_LENGTH
    if total > packet.wire_length - packet.l3:
        return REASON_BAD_IP_LENGTH
    if captured < header:
        return REASON_TRUNCATED_IP_HEADER
    fragment = load_be16(ip + 6)
    packet.family = IPV4
    packet.protocol = ip[9]
    packet.fragment = fragment & 0x3FFF != 0
    packet.fragment_offset = <uint16_t>((fragment & 0x1FFF) * 8)
    packet.l3_length = total
    packet.l4 = packet.l3 + header
    packet.l4_length = total - header
    packet.l4_captured = captured - header
    if packet.l4_captured > packet.l4_length:
        packet.l4_captured = packet.l4_length
    return REASON_NONE


cdef inline uint8_t ipv6_parse(Packet* packet) noexcept nogil:
    """RFC 8200; extension headers are walked as ipv6_find_hdr (exthdrs_core.c) does."""
    cdef const uint8_t* ip = packet.frame + packet.l3
    cdef uint32_t captured = packet.length - packet.l3
    cdef uint32_t position = 40
    cdef uint32_t announced = 6
    cdef uint32_t size, end
    cdef uint32_t extensions = 0
    cdef uint8_t header
    cdef uint16_t fragment
    if captured < 40:
        return REASON_TRUNCATED_IP_HEADER
    if ip[0] >> 4 != 6:
        return REASON_BAD_IP_VERSION
    packet.l3_length = 40 + <uint32_t>load_be16(ip + 4)
    if packet.l3_length > packet.wire_length - packet.l3:
        return REASON_BAD_IP_LENGTH
    end = captured if captured < packet.l3_length else packet.l3_length
    packet.family = IPV6
    packet.fragment = False
    packet.fragment_offset = 0
    packet.fragment_header = 0
    header = ip[6]
    while (header == HEADER_HOP_BY_HOP or header == HEADER_ROUTING or header == HEADER_FRAGMENT
           or header == HEADER_AUTHENTICATION or header == HEADER_DESTINATION):
        if extensions == MAX_IPV6_EXTENSIONS:
            return REASON_TOO_MANY_EXTENSIONS
        extensions += 1
        if position + 8 > end:
            return REASON_TRUNCATED_IP_HEADER
        if header == HEADER_FRAGMENT:
            size = 8
            packet.fragment_header = packet.l3 + position
            packet.fragment_announced = packet.l3 + announced
            fragment = load_be16(ip + position + 2)
            # An atomic fragment (RFC 6946) is a whole packet.
            if fragment & 0xFFF9:
                packet.fragment = True
                packet.fragment_offset = fragment & 0xFFF8
        elif header == HEADER_AUTHENTICATION:
            size = (<uint32_t>ip[position + 1] + 2) * 4  # RFC 4302, section 2.2
        else:
            size = (<uint32_t>ip[position + 1] + 1) * 8
        if position + size > end:
            return REASON_TRUNCATED_IP_HEADER
        header = ip[position]
        announced = position
        position += size
        if packet.fragment_offset:
            break
    packet.protocol = header
    packet.l4 = packet.l3 + position
    packet.l4_length = packet.l3_length - position
    packet.l4_captured = end - position
    return REASON_NONE


cdef inline uint8_t packet_parse(Packet* packet, uint8_t* frame, uint32_t length,
                                 uint32_t wire_length, int link_type) noexcept nogil:
    """Parse a frame; REASON_NONE, or why it is not an IP packet that can be used."""
    cdef uint8_t family
    cdef uint8_t reason
    packet.frame = frame
    packet.length = length
    packet.wire_length = wire_length
    packet.mark = 0
    packet.segment = 0
    packet.partial = False
    packet.helped = False
    reason = link_parse(frame, length, link_type, &packet.l3, &family)
    if reason != REASON_NONE:
        return reason
    if family == 0:
        if packet.l3 >= length:
            return REASON_TRUNCATED_IP_HEADER
        family = frame[packet.l3] >> 4
        if family != IPV4 and family != IPV6:
            return REASON_NOT_IP
    if family == IPV4:
        return ipv4_parse(packet)
    return ipv6_parse(packet)
