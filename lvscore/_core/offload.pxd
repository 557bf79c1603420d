"""What an interface leaves undone of a frame, as a virtio_net_hdr before it says."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memset

from lvscore._core.bytes cimport load16, store16
from lvscore._core.checksum cimport checksum_finish, pseudo_sum, sum_bytes, sum_fold
from lvscore._core.consts cimport LINK_ETHERNET, PROTOCOL_TCP, PROTOCOL_UDP
from lvscore._core.wire cimport Packet, packet_l3, packet_l4, packet_parse

cdef enum:
    VNET_HEADER = 10            # struct virtio_net_hdr (linux/virtio_net.h)
    VNET_NEEDS_CSUM = 1


cdef inline void checksum_complete(uint8_t* frame, uint32_t length) noexcept nogil:
    """Finish a partial checksum, where the frame's virtio_net_hdr says, and say so there."""
    cdef uint8_t* header = frame - VNET_HEADER
    cdef uint32_t start = load16(header + 6)
    cdef uint32_t field = start + load16(header + 8)
    cdef uint16_t checksum
    if header[0] & VNET_NEEDS_CSUM and field + 2 <= length and start < length:
        checksum = checksum_finish(sum_bytes(frame + start, length - start, 0))
        store16(frame + field, checksum if checksum else 0xFFFF)
        memset(header, 0, VNET_HEADER)


cdef inline void offloads_guess(uint8_t* frame, uint32_t length) noexcept nogil:
    """Write a frame's virtio_net_hdr where nobody tells what is left undone.

    A checksum that is the pseudo-header's sum is taken for a partial one. One of 65536 that are
    right is so, too: it is then made anew, which changes nothing if the packet is whole.
    """
    cdef Packet packet
    cdef uint8_t* header = frame - VNET_HEADER
    cdef uint32_t field
    cdef uint16_t checksum
    memset(header, 0, VNET_HEADER)
    if packet_parse(&packet, frame, length, length, LINK_ETHERNET) or packet.fragment:
        return
    if packet.protocol == PROTOCOL_TCP:
        field = 16
    elif packet.protocol == PROTOCOL_UDP:
        field = 6
    else:
        return
    if packet.l4_captured < field + 2:
        return
    checksum = load16(packet_l4(&packet) + field)
    if checksum == 0 or checksum != sum_fold(
            pseudo_sum(packet_l3(&packet), packet.family, packet.protocol, packet.l4_length)):
        return
    header[0] = VNET_NEEDS_CSUM
    store16(header + 6, <uint16_t>packet.l4)
    store16(header + 8, <uint16_t>field)
