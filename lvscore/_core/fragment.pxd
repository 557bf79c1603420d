"""Reassembly of IPv4 and IPv6 fragments, within bounded memory, and cutting them again.

As the kernel does it (ip_fragment.c, inet_fragment.c, nf_conntrack_reasm.c): nothing goes on
before the last hole is filled; a fragment that brings nothing new is dropped alone, any other
overlap discards the whole datagram (RFC 5722); what is not complete after 30 s (IPv6: 60 s)
is discarded. A datagram is cut again to the size of the largest fragment that arrived.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from lvscore._core.bytes cimport htons, load32, load_be16, store16, store32
from lvscore._core.checksum cimport checksum_finish, sum_bytes
from lvscore._core.consts cimport (
    IPV4, NIL, REASON_BAD_FRAGMENT, REASON_FRAGMENT_DUPLICATE, REASON_FRAGMENT_HELD,
    REASON_FRAGMENT_MEMORY, REASON_FRAGMENT_OVERLAP, REASON_NONE, TICKS_PER_SECOND,
)
from lvscore._core.flow cimport Address, address_equal, address_load
from lvscore._core.machine cimport memory_release, memory_reserve
from lvscore._core.wire cimport HEADER_FRAGMENT, Packet, packet_l3

cdef enum:
    MAX_DATAGRAMS = 1024            # in reassembly at once
    MAX_FRAGMENT_BYTES = 4194304    # held at once: the kernel's ipfrag_high_thresh
    FRAGMENT_TIMEOUT_IPV4 = 30 * TICKS_PER_SECOND
    FRAGMENT_TIMEOUT_IPV6 = 60 * TICKS_PER_SECOND
    MAX_HEADERS = 256               # link and IP headers in front of the first fragment
    MAX_PAYLOAD = 65536
    FRAGMENT_HEADER = 8             # IPv6


cdef struct Datagram:
    # One in reassembly: headers of its first fragment, then its data in place.
    Address source
    Address destination
    uint64_t deadline               # tick
    uint64_t units[128]             # a bit for each 8 bytes of payload: which were received
    uint32_t identification
    uint32_t received               # bytes
    uint32_t total                  # bytes, known when the last fragment came
    uint32_t furthest               # end of the data received so far
    uint32_t largest                # IP length of the largest fragment
    uint32_t largest_uncut          # of the largest with DF
    uint32_t headers                # length of link and IP headers, 0 before the first fragment
    uint32_t l3                     # offset of the IP header in them
    uint32_t next_header_at         # IPv6: where the fragment header was announced
    uint32_t older, newer           # in order of their deadlines, by family
    uint8_t family
    uint8_t protocol                # IPv4: of the datagram; IPv6: behind the fragment header
    uint8_t ecn                     # bit n: a fragment had ECN codepoint n
    bint last_seen
    bint used
    uint8_t head[256]               # headers, at the end
    uint8_t data[65536]


cdef struct Fragments:
    Datagram* datagram
    uint32_t used                   # datagrams that were ever in use
    uint32_t count
    uint32_t bytes
    uint32_t oldest[2]              # IPv4, IPv6
    uint32_t newest[2]
    uint64_t deadline               # nothing is due before this tick
    uint64_t timed_out              # datagrams


cdef inline bint fragments_init(Fragments* f) noexcept nogil:
    memset(f, 0, sizeof(Fragments))
    f.datagram = <Datagram*>memory_reserve(<size_t>MAX_DATAGRAMS * sizeof(Datagram))
    f.oldest[0] = f.oldest[1] = f.newest[0] = f.newest[1] = NIL
    f.deadline = <uint64_t>-1
    return f.datagram != NULL


cdef inline void fragments_free(Fragments* f) noexcept nogil:
    memory_release(f.datagram, <size_t>MAX_DATAGRAMS * sizeof(Datagram))
    f.datagram = NULL


cdef inline bint fragments_copy(Fragments* f, const Fragments* other) noexcept nogil:
    cdef uint32_t i
    f[0] = other[0]
    f.datagram = <Datagram*>memory_reserve(<size_t>MAX_DATAGRAMS * sizeof(Datagram))
    if f.datagram == NULL:
        return False
    for i in range(other.used):
        if other.datagram[i].used:
            f.datagram[i] = other.datagram[i]
    return True


cdef inline uint32_t datagram_find(const Fragments* f, const Packet* packet,
                                   uint32_t identification) noexcept nogil:
    """The datagram that a fragment belongs to, or NIL."""
    cdef const uint8_t* ip = packet_l3(packet)
    cdef Address source = address_load(ip + (12 if packet.family == IPV4 else 8), packet.family)
    cdef Address destination = address_load(ip + (16 if packet.family == IPV4 else 24),
                                            packet.family)
    cdef uint32_t i
    cdef const Datagram* d
    for i in range(f.used):
        d = &f.datagram[i]
        # The IPv6 key has no protocol (RFC 8200, section 4.5).
        if (d.used and d.identification == identification and d.family == packet.family
                and (d.protocol == packet.protocol or d.family != IPV4)
                and address_equal(&d.source, &source)
                and address_equal(&d.destination, &destination)):
            return i
    return NIL


cdef inline void datagram_discard(Fragments* f, uint32_t i) noexcept nogil:
    """Forget a datagram."""
    cdef Datagram* d = &f.datagram[i]
    cdef uint32_t family = d.family != IPV4
    d.used = False
    f.count -= 1
    f.bytes -= d.received
    if d.older == NIL:
        f.oldest[family] = d.newer
    else:
        f.datagram[d.older].newer = d.newer
    if d.newer == NIL:
        f.newest[family] = d.older
    else:
        f.datagram[d.newer].older = d.older
    fragments_deadline(f)


cdef inline void fragments_deadline(Fragments* f) noexcept nogil:
    cdef uint32_t family
    f.deadline = <uint64_t>-1
    for family in range(2):
        if f.oldest[family] != NIL and f.datagram[f.oldest[family]].deadline < f.deadline:
            f.deadline = f.datagram[f.oldest[family]].deadline


cdef inline uint32_t fragments_due(const Fragments* f, uint64_t tick) noexcept nogil:
    """The next datagram whose time is over at ``tick``, or NIL."""
    cdef uint32_t family, i
    for family in range(2):
        i = f.oldest[family]
        if i != NIL and f.datagram[i].deadline <= tick:
            return i
    return NIL


cdef inline uint32_t datagram_begin(Fragments* f, const Packet* packet, uint32_t identification,
                                    uint64_t tick) noexcept nogil:
    """A new datagram for a fragment of it, or NIL at the bound."""
    cdef const uint8_t* ip = packet_l3(packet)
    cdef uint32_t i = 0
    cdef uint32_t family = packet.family != IPV4
    cdef Datagram* d
    if f.count == MAX_DATAGRAMS:
        return NIL
    while i < f.used and f.datagram[i].used:
        i += 1
    if i == f.used:
        f.used += 1
    f.count += 1
    d = &f.datagram[i]
    d.source = address_load(ip + (8 if family else 12), packet.family)
    d.destination = address_load(ip + (24 if family else 16), packet.family)
    d.identification = identification
    d.family = packet.family
    d.protocol = packet.protocol
    d.deadline = tick + (FRAGMENT_TIMEOUT_IPV6 if family else FRAGMENT_TIMEOUT_IPV4)
    memset(d.units, 0, sizeof(d.units))
    d.received = 0
    d.total = 0
    d.furthest = 0
    d.largest = 0
    d.largest_uncut = 0
    d.headers = 0
    d.ecn = 0
    d.last_seen = False
    d.used = True
    d.older = f.newest[family]
    d.newer = NIL
    if d.older == NIL:
        f.oldest[family] = i
    else:
        f.datagram[d.older].newer = i
    f.newest[family] = i
    fragments_deadline(f)
    return i


cdef inline uint32_t units_take(Datagram* d, uint32_t first, uint32_t end) noexcept nogil:
    """Mark eighths as received; how many had been."""
    cdef uint32_t already = 0
    cdef uint32_t unit
    for unit in range(first, end):
        already += (d.units[unit >> 6] >> (unit & 63)) & 1
    if already == 0:
        for unit in range(first, end):
            d.units[unit >> 6] |= <uint64_t>1 << (unit & 63)
    return already


cdef inline bint ecn_is_valid(uint8_t seen) noexcept nogil:
    """Fragments without ECN do not go with any that have it (ip_frag_ecn_table)."""
    return not (seen & 1 and seen & 0b1110)


cdef inline uint8_t fragment_add(Fragments* f, const Packet* packet, uint64_t tick,
                                 uint32_t* datagram) noexcept nogil:
    """Take a fragment; REASON_NONE if its datagram is now whole, else what became of it."""
    cdef const uint8_t* ip = packet_l3(packet)
    cdef uint32_t offset = packet.fragment_offset
    cdef uint32_t length = packet.l4_length
    cdef uint32_t header = packet.l4 - packet.l3
    cdef uint32_t identification, i, end, units, already
    cdef bint more
    cdef Datagram* d
    if packet.family == IPV4:
        identification = load_be16(ip + 4)
        more = load_be16(ip + 6) & 0x2000 != 0
    else:
        identification = load32(packet.frame + packet.fragment_header + 4)
        more = load_be16(packet.frame + packet.fragment_header + 2) & 1
        # What lies behind the fragment header is data, also of the first fragment.
        header = packet.fragment_header + FRAGMENT_HEADER - packet.l3
        length = packet.l3_length - header
    i = datagram_find(f, packet, identification)
    if i == NIL:
        if f.bytes >= MAX_FRAGMENT_BYTES:
            return REASON_FRAGMENT_MEMORY
        i = datagram_begin(f, packet, identification, tick)
        if i == NIL:
            return REASON_FRAGMENT_MEMORY
    datagram[0] = i
    d = &f.datagram[i]
    if more:
        if packet.family == IPV4:
            length &= ~<uint32_t>7
        elif length & 7:
            datagram_discard(f, i)
            return REASON_BAD_FRAGMENT
    end = offset + length
    if (length == 0 or end > 65535 - (header if packet.family == IPV4 else 0)
            or (d.last_seen and end > d.total) or (not more and d.last_seen and end != d.total)
            or (not more and end < d.furthest) or packet.l3 + header > MAX_HEADERS):
        datagram_discard(f, i)
        return REASON_BAD_FRAGMENT
    # Even a duplicate tells where the datagram ends (ip_frag_queue, nf_ct_frag6_queue).
    if not more:
        d.last_seen = True
        d.total = end
    units = (end + 7) // 8
    already = units_take(d, offset // 8, units)
    if already == units - offset // 8:
        return REASON_FRAGMENT_DUPLICATE
    if already:
        datagram_discard(f, i)
        return REASON_FRAGMENT_OVERLAP
    memcpy(d.data + offset, ip + header, length)
    d.received += length
    if end > d.furthest:
        d.furthest = end
    f.bytes += length
    if packet.l3_length > d.largest:
        d.largest = packet.l3_length
    if packet.family == IPV4 and ip[6] & 0x40 and packet.l3_length > d.largest_uncut:
        d.largest_uncut = packet.l3_length
    d.ecn |= <uint8_t>(1 << ((ip[1] & 3) if packet.family == IPV4 else (ip[1] >> 4) & 3))
    if offset == 0:
        d.l3 = packet.l3
        d.headers = packet.l3 + header
        if packet.family != IPV4:
            d.headers -= FRAGMENT_HEADER
            d.next_header_at = packet.fragment_announced
        memcpy(d.head + MAX_HEADERS - d.headers, packet.frame, d.headers)
        if packet.family != IPV4:
            d.head[MAX_HEADERS - d.headers + d.next_header_at] = \
                packet.frame[packet.fragment_header]
    if not (d.last_seen and d.headers and d.received == d.total):
        return REASON_FRAGMENT_HELD
    if not ecn_is_valid(d.ecn):
        datagram_discard(f, i)
        return REASON_BAD_FRAGMENT
    return REASON_NONE


cdef inline bint datagram_is_whole(const Datagram* d) noexcept nogil:
    """Whether it must not be cut: its largest fragment says so (ip_frag_reasm)."""
    return d.largest_uncut == d.largest


cdef inline uint8_t* datagram_frame(Datagram* d, uint32_t* length) noexcept nogil:
    """The whole datagram as one frame: lengths, flags, ECN and header checksum of a whole one."""
    cdef uint8_t* frame = d.head + MAX_HEADERS - d.headers
    cdef uint8_t* ip = frame + d.l3
    length[0] = d.headers + d.total
    if d.family == IPV4:
        store16(ip + 2, htons(<uint16_t>(length[0] - d.l3)))
        store16(ip + 6, htons(0x4000) if datagram_is_whole(d) else 0)
        if d.ecn & 8:
            ip[1] |= 3
        ipv4_checksum_set(ip)
    else:
        store16(ip + 4, htons(<uint16_t>(length[0] - d.l3 - 40)))
        if d.ecn & 8:
            ip[1] |= 0x30
    return frame


cdef inline void ipv4_checksum_set(uint8_t* ip) noexcept nogil:
    store16(ip + 10, 0)
    store16(ip + 10, checksum_finish(sum_bytes(ip, <uint32_t>(ip[0] & 15) * 4, 0)))


cdef inline void options_for_fragment(uint8_t* ip) noexcept nogil:
    """Turn the options that only the first fragment carries into NOPs (RFC 791, 3.1)."""
    cdef uint32_t end = <uint32_t>(ip[0] & 15) * 4
    cdef uint32_t i = 20
    cdef uint32_t size
    while i < end and ip[i] != 0:
        if ip[i] == 1:
            i += 1
            continue
        size = ip[i + 1] if i + 1 < end else 0
        if size < 2 or i + size > end:
            return
        if not ip[i] & 0x80:
            memset(ip + i, 1, size)
        i += size


cdef inline uint32_t fragment_data(const Datagram* d, uint32_t offset,
                                   uint32_t limit) noexcept nogil:
    """Bytes of payload of the fragment at ``offset``, for fragments of ``limit`` IP bytes.

    Only the last may have a length that is no multiple of eight (ip_frag_next).
    """
    cdef uint32_t header = d.headers - d.l3
    cdef uint32_t room = 8
    if d.family != IPV4:
        header += FRAGMENT_HEADER
    if limit >= header + 8:
        room = limit - header
    if d.total - offset <= room:
        return d.total - offset
    return room & ~<uint32_t>7


cdef inline uint32_t fragment_cut(const Datagram* d, const uint8_t* frame, uint32_t offset,
                                  uint32_t length, uint32_t identification,
                                  uint8_t* to) noexcept nogil:
    """Write the fragment of ``frame`` with ``length`` bytes from ``offset``; its frame length."""
    cdef bint more = offset + length < d.total
    cdef uint32_t header = d.headers
    cdef uint8_t* ip = to + d.l3
    memcpy(to, frame, header)
    if d.family == IPV4:
        if offset:
            options_for_fragment(ip)
        store16(ip + 2, htons(<uint16_t>(header - d.l3 + length)))
        store16(ip + 6, htons(<uint16_t>(offset // 8 | (0x2000 if more else 0))))
        ipv4_checksum_set(ip)
    else:
        to[header] = to[d.next_header_at]
        to[d.next_header_at] = HEADER_FRAGMENT
        to[header + 1] = 0
        store16(to + header + 2, htons(<uint16_t>(offset | (1 if more else 0))))
        store32(to + header + 4, identification)
        header += FRAGMENT_HEADER
        store16(ip + 4, htons(<uint16_t>(header - d.l3 - 40 + length)))
    memcpy(to + header, frame + d.headers + offset, length)
    return header + length


cdef inline uint32_t fragment_first(const Datagram* d, uint8_t* to) noexcept nogil:
    """Write the first fragment as it came, as far as it was taken in; its frame length."""
    cdef const uint8_t* frame = d.head + MAX_HEADERS - d.headers
    cdef const uint8_t* ip = frame + d.l3
    cdef uint32_t length
    if d.family == IPV4:
        length = d.l3 + load_be16(ip + 2)
        length -= (length - d.headers) & 7
        memcpy(to, frame, d.headers)
        memcpy(to + d.headers, d.data, length - d.headers)
        return length
    length = d.l3 + 40 + load_be16(ip + 4) - FRAGMENT_HEADER - d.headers
    length = fragment_cut(d, frame, 0, length, d.identification, to)
    store16(to + d.headers + 2, htons(1))       # more fragments, whether their end is known or not
    return length
