"""Internet checksums: RFC 1071 sums and RFC 1624 updates.

Sums are taken over 16-bit words as they lie in memory; one's complement sums come out right
in either byte order (RFC 1071, section 2 B). A *delta* is what a change adds to the
complement of a checksum: the sum of ~old + new over the words that change (RFC 1624,
equation 3). It is kept canonical: 0, never 0xffff, when nothing changes, so that applying it
leaves every checksum as it was, also the two forms of zero.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from lvscore._core.bytes cimport htons, load16, load32, load64, rotate32, rotate64
from lvscore._core.consts cimport IPV4
from lvscore._core.machine cimport likely, load_last


cdef inline uint16_t sum_fold(uint64_t total) noexcept nogil:
    """Fold a sum of words to 16 bits with end-around carry: added to itself turned by half, a
    number has in its upper half the sum of both halves and of their carry."""
    cdef uint32_t half
    total += rotate64(total, 32)
    half = <uint32_t>(total >> 32)
    half += rotate32(half, 16)
    return <uint16_t>(half >> 16)


cdef inline uint64_t sum_add(uint64_t total, uint64_t words) noexcept nogil:
    """Add four words, or a sum of words, with end-around carry."""
    total += words
    return total + <uint64_t>(total < words)


cdef inline uint64_t sum_change(uint64_t old, uint64_t new) noexcept nogil:
    """The delta of four words that change, not folded: their difference with end-around borrow."""
    return new - old - <uint64_t>(new < old)


cdef inline uint64_t sum_bytes(const uint8_t* data, uint32_t length,
                               uint64_t total) noexcept nogil:
    """Add the words of ``data`` to ``total``; an odd last byte is padded with zero."""
    cdef const uint8_t* end = data + (length & ~<uint32_t>15)
    cdef uint64_t other = 0
    cdef uint16_t last = 0
    if length >= 8:
        while data != end:      # in two sums, which need not wait for each other
            total = sum_add(total, load64(data))
            other = sum_add(other, load64(data + 8))
            data += 16
        if length & 8:
            total = sum_add(total, load64(data))
            data += 8
        length &= 7
        if length:
            total = sum_add(total, load_last(data + length, length))
        return sum_add(total, other)
    if length >= 4:
        total = sum_add(total, load32(data))
        data += 4
        length -= 4
    if length >= 2:
        total = sum_add(total, load16(data))
        data += 2
        length -= 2
    if length:
        (<uint8_t*>&last)[0] = data[0]
        total = sum_add(total, last)
    return total


cdef inline uint16_t checksum_finish(uint64_t total) noexcept nogil:
    """The checksum field for a sum of words."""
    return <uint16_t>~sum_fold(total)


cdef inline uint64_t delta_add16(uint64_t delta, uint16_t old, uint16_t new) noexcept nogil:
    return delta + <uint16_t>~old + new


cdef inline uint64_t delta_add32(uint64_t delta, uint32_t old, uint32_t new) noexcept nogil:
    return delta + <uint32_t>~old + new


cdef inline uint64_t delta_add_bytes(uint64_t delta, const uint8_t* old, const uint8_t* new,
                                     uint32_t length) noexcept nogil:
    """Add the change of ``length`` bytes, a multiple of four."""
    cdef uint32_t i
    for i in range(0, length, 4):
        delta = delta_add32(delta, load32(old + i), load32(new + i))
    return delta


cdef inline uint16_t delta_finish(uint64_t delta) noexcept nogil:
    """The canonical 16-bit delta."""
    cdef uint16_t folded = sum_fold(delta)
    return 0 if folded == 0xFFFF else folded


cdef inline uint16_t checksum_update(uint16_t checksum, uint16_t delta) noexcept nogil:
    """RFC 1624 equation 3: HC' = ~(~HC + delta)."""
    cdef uint32_t total = <uint32_t><uint16_t>~checksum + delta
    total = (total & 0xFFFF) + (total >> 16)
    return <uint16_t>~total


cdef inline uint16_t udp_checksum_update(uint16_t checksum, uint16_t delta) noexcept nogil:
    """As checksum_update; a result of zero is sent as all ones (RFC 768)."""
    cdef uint16_t updated = checksum_update(checksum, delta)
    return updated if updated else 0xFFFF


cdef inline uint16_t checksum_change(uint16_t checksum, uint64_t delta,
                                     uint64_t more) noexcept nogil:
    """checksum_update by a delta that is neither folded nor canonical, and by that of some words
    more."""
    cdef uint32_t complement = <uint32_t>checksum ^ 0xFFFF
    cdef uint64_t total = sum_add(delta, complement + more)
    if likely(complement == 0, False):
        total = delta_finish(total)     # a delta of zero changes neither form of zero
    return checksum_finish(total)


cdef inline uint16_t udp_checksum_change(uint16_t checksum, uint64_t delta,
                                         uint64_t more) noexcept nogil:
    """udp_checksum_update in the same way."""
    cdef uint16_t changed = checksum_change(checksum, delta, more)
    return changed if changed else 0xFFFF


cdef inline uint64_t pseudo_sum(const uint8_t* ip, uint8_t family, uint8_t protocol,
                                uint32_t length) noexcept nogil:
    """The sum of a pseudo-header before ``length`` bytes (RFC 9293, RFC 8200)."""
    cdef uint64_t total
    if family == IPV4:
        total = sum_bytes(ip + 12, 8, 0)
    else:
        total = sum_bytes(ip + 8, 32, 0)
    total = sum_add(total, htons(protocol))
    total = sum_add(total, htons(<uint16_t>length))
    return sum_add(total, htons(<uint16_t>(length >> 16)))


cdef inline uint64_t transport_sum(const uint8_t* ip, const uint8_t* l4, uint8_t family,
                                   uint8_t protocol, uint32_t length) noexcept nogil:
    """The sum of a pseudo-header and of the ``length`` bytes behind it."""
    return sum_bytes(l4, length, pseudo_sum(ip, family, protocol, length))
