"""Sequence numbers of a TCP stream that an edit made longer or shorter (nf_conntrack_seqadj.c).

The sender goes on counting as if its text had arrived as it was. What it numbers is moved on
its way to the receiver, and what the receiver acknowledges is moved back.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t

from lvscore._core.bytes cimport htonl, load16, load_be32, store16, store32
from lvscore._core.checksum cimport (
    checksum_update, delta_add16, delta_finish, sum_bytes, sum_fold,
)
from lvscore._core.wire cimport Packet, packet_l4

cdef enum:
    TCP_HEADER = 20
    TCP_FLAG_ACK = 0x10
    TCP_OPTION_END = 0
    TCP_OPTION_NOP = 1
    TCP_OPTION_SACK = 5         # RFC 2018
    SACK_BLOCK = 8


# The edits of one direction, in the numbers of its sender.
cdef struct Sequence:
    uint32_t position           # of the latest edit
    int32_t before              # added to numbers up to it,
    int32_t after               # and to those behind it


cdef inline bint is_after(uint32_t a, uint32_t b) noexcept nogil:
    """Whether a sequence number comes after another (RFC 9293, section 3.4)."""
    return <int32_t>(a - b) > 0


cdef inline void sequence_edit(Sequence* sequence, uint32_t position,
                               int32_t difference) noexcept nogil:
    """Note that the segment at ``position`` grew by ``difference``; the same segment again, or
    one that lies before an edit, changes nothing."""
    if difference and (sequence.before == sequence.after
                       or is_after(position, sequence.position)):
        sequence.position = position
        sequence.before = sequence.after
        sequence.after += difference


cdef inline uint32_t sequence_forward(const Sequence* sequence, uint32_t number) noexcept nogil:
    """A number of the sender's as the receiver counts."""
    if is_after(number, sequence.position):
        return number + <uint32_t>sequence.after
    return number + <uint32_t>sequence.before


cdef inline uint32_t sequence_back(const Sequence* sequence, uint32_t number) noexcept nogil:
    """A number that the receiver acknowledges as the sender counts."""
    if is_after(number - <uint32_t>sequence.before, sequence.position):
        return number - <uint32_t>sequence.after
    return number - <uint32_t>sequence.before


cdef inline int32_t sequence_offset(const Sequence* sequence, uint32_t number) noexcept nogil:
    """How much longer edits made what a receiver acknowledges up to ``number``, as conntrack
    counts it (nf_ct_seq_offset)."""
    return sequence.after if is_after(number, sequence.position) else sequence.before


cdef inline void sack_adjust(uint8_t* tcp, uint32_t header,
                             const Sequence* other) noexcept nogil:
    """Move back the blocks of a selective acknowledgement in a header of ``header`` bytes."""
    cdef uint32_t at = TCP_HEADER
    cdef uint32_t size, edge
    while at < header and tcp[at] != TCP_OPTION_END:
        if tcp[at] == TCP_OPTION_NOP:
            at += 1
            continue
        if at + 2 > header:
            return
        size = tcp[at + 1]
        if size < 2 or at + size > header:
            return
        if tcp[at] == TCP_OPTION_SACK and (size - 2) % SACK_BLOCK == 0:
            for edge in range(at + 2, at + size, 4):
                store32(tcp + edge, htonl(sequence_back(other, load_be32(tcp + edge))))
        at += size


cdef inline void sequence_adjust(Packet* packet, const Sequence* own,
                                 const Sequence* other) noexcept nogil:
    """Move the numbers of a segment whose header is whole; ``own`` has the edits of its
    direction, ``other`` those of the opposite one. The checksum is updated, unless it is partial:
    that has no number in it."""
    cdef uint8_t* tcp = packet_l4(packet)
    cdef uint32_t header = (tcp[12] >> 4) * 4
    cdef uint16_t before
    if not (own.before or own.after or other.before or other.after):
        return
    if header < TCP_HEADER or header > packet.l4_captured:
        header = TCP_HEADER
    # An option may lie at any offset: the header is summed as a whole.
    before = sum_fold(sum_bytes(tcp, header, 0))
    store32(tcp + 4, htonl(sequence_forward(own, load_be32(tcp + 4))))
    if tcp[13] & TCP_FLAG_ACK:
        store32(tcp + 8, htonl(sequence_back(other, load_be32(tcp + 8))))
        sack_adjust(tcp, header, other)
    if packet.partial:
        return
    store16(tcp + 16, checksum_update(load16(tcp + 16), delta_finish(delta_add16(
        0, before, sum_fold(sum_bytes(tcp, header, 0))))))
