"""What a packet says to the trackers: which event it is, and whether all of that is there."""

from libc.stdint cimport uint32_t

from lvscore._core.consts cimport PROTOCOL_SCTP, PROTOCOL_TCP
from lvscore._core.crc32c cimport SCTP_HEADER
from lvscore._core.track cimport TCP_RST, TCP_SYN
from lvscore._core.track_sctp cimport (
    SCTP_ABORT, SCTP_INIT, SCTP_NO_CHUNK, sctp_chunk, sctp_event,
)
from lvscore._core.wire cimport Packet, packet_l4


cdef inline bint header_is_whole(const Packet* packet) noexcept nogil:
    """Whether the transport header is all there; a TCP data offset is not looked at."""
    if packet.protocol == PROTOCOL_TCP:
        return packet.l4_captured >= 20
    return packet.l4_captured >= (SCTP_HEADER if packet.protocol == PROTOCOL_SCTP else 8)


cdef inline uint32_t tcp_flags(const Packet* packet) noexcept nogil:
    """The TCP flags, 0 for other protocols; the header must be whole."""
    return packet_l4(packet)[13] if packet.protocol == PROTOCOL_TCP else 0


cdef inline uint32_t first_chunk(const Packet* packet) noexcept nogil:
    """The type of an SCTP packet's first chunk; SCTP_NO_CHUNK for other protocols too."""
    if packet.protocol != PROTOCOL_SCTP:
        return SCTP_NO_CHUNK
    return sctp_chunk(packet_l4(packet), packet.l4_captured)


cdef inline uint32_t service_event(const Packet* packet) noexcept nogil:
    """What IPVS's tracker makes of a packet whose header is whole."""
    if packet.protocol == PROTOCOL_SCTP:
        return sctp_event(packet_l4(packet), packet.l4_captured)
    return tcp_flags(packet) & 31


cdef inline bint opening_is_whole(const Packet* packet) noexcept nogil:
    """Whether there is as much of a packet as is read to schedule it: of SCTP the chunk too."""
    return header_is_whole(packet) and (
        packet.protocol != PROTOCOL_SCTP or first_chunk(packet) != SCTP_NO_CHUNK)


cdef inline bint is_opening(const Packet* packet) noexcept nogil:
    """Whether a packet whose header is whole is a TCP SYN or SCTP INIT."""
    return tcp_flags(packet) & TCP_SYN or first_chunk(packet) == SCTP_INIT


cdef inline bint is_reset(const Packet* packet) noexcept nogil:
    """Whether a packet is a TCP RST or SCTP ABORT; one that is cut is not."""
    return ((header_is_whole(packet) and tcp_flags(packet) & TCP_RST)
            or first_chunk(packet) == SCTP_ABORT)
