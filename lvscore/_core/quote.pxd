"""What an ICMP error quotes: the packet that caused it, read and put back."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from lvscore._core.bytes cimport load16, store16
from lvscore._core.checksum cimport checksum_finish, delta_add16, sum_bytes
from lvscore._core.consts cimport (
    IPV4, IPV6, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_SCTP, PROTOCOL_TCP,
)
from lvscore._core.crc32c cimport SCTP_HEADER, sctp_checksum_write
from lvscore._core.flow cimport Tuple, has_ports
from lvscore._core.translate cimport addresses_write, transport_write, tuples_equal
from lvscore._core.wire cimport Packet, ipv4_parse, ipv6_parse, packet_l3, packet_l4

cdef enum:
    ICMP_REDIRECT = 5
    ICMP_PARAMETER_PROBLEM = 12


cdef inline bint icmp_is_error(const Packet* packet) noexcept nogil:
    """Unreachable, source quench, time exceeded, parameter problem; of ICMPv6 all that is
    not informational. A redirect is about a route, not about a connection."""
    cdef uint8_t kind
    if packet.l4_captured < 8:
        return False
    kind = packet_l4(packet)[0]
    if packet.protocol == PROTOCOL_ICMP and packet.family == IPV4:
        return kind == 3 or kind == 4 or kind == 11 or kind == ICMP_PARAMETER_PROBLEM
    return packet.protocol == PROTOCOL_ICMPV6 and packet.family == IPV6 and kind < 128


cdef inline bint icmp_is_cut(const Packet* packet) noexcept nogil:
    """Less than an ICMP header, which IPVS drops as it is forwarded (ip_vs_out_icmp)."""
    return packet.l4_length < 8 and packet.protocol == (
        PROTOCOL_ICMP if packet.family == IPV4 else PROTOCOL_ICMPV6)


cdef inline bint icmp_is_redirect(const Packet* packet) noexcept nogil:
    return (packet.protocol == PROTOCOL_ICMP and packet.family == IPV4
            and packet.l4_captured >= 8 and packet_l4(packet)[0] == ICMP_REDIRECT)


cdef inline bint quote_parse(const Packet* packet, Packet* quote) noexcept nogil:
    """Parse the quoted packet; False if it is of no use. Its lengths are not what is quoted."""
    cdef uint8_t reason
    quote.protocol = 0
    if packet.l4_captured < 8:
        return False
    quote.frame = packet.frame
    quote.l3 = packet.l4 + 8
    quote.length = packet.l4 + packet.l4_captured
    quote.wire_length = quote.l3 + 0x10000  # a quote is cut: its length says what was sent
    if packet.family == IPV4:
        reason = ipv4_parse(quote)
    else:
        reason = ipv6_parse(quote)
    if reason or quote.fragment_offset:
        return False
    if quote.protocol == packet.protocol:
        return quote.l4_captured >= 6
    return quote.l4_captured >= 4 or not has_ports(quote.protocol)


cdef inline bint quote_lacks_ports(const Packet* packet) noexcept nogil:
    """Whether the quoted packet is of a protocol with ports, and cut before them."""
    cdef Packet quote
    return (not quote_parse(packet, &quote) and has_ports(quote.protocol)
            and quote.fragment_offset == 0 and quote.l4_captured < 4)


cdef inline uint64_t quote_translate(Packet* quote, const Tuple* old, const Tuple* new,
                                     bint service) noexcept nogil:
    """Rewrite the quoted headers; what that adds to the ICMP checksum.

    IPVS makes the quoted IP checksum anew and leaves the transport checksum as it is;
    netfilter updates both.
    """
    cdef uint8_t* ip = packet_l3(quote)
    cdef uint8_t* l4 = packet_l4(quote)
    cdef uint32_t header = quote.l4 - quote.l3
    cdef uint32_t captured = quote.l4_captured if quote.l4_captured < 20 else 20
    cdef uint16_t before[10]
    cdef uint16_t ip_sum = load16(ip + 10)
    cdef uint64_t delta
    cdef uint32_t i
    captured &= ~<uint32_t>1
    if quote.protocol == PROTOCOL_TCP and 16 < captured < 20:
        captured = 16           # no checksum is updated in a header that is cut
    memcpy(before, l4, captured)
    delta = addresses_write(ip, old, new)
    if quote.family == IPV4:
        if service:
            store16(ip + 10, 0)
            store16(ip + 10, checksum_finish(sum_bytes(ip, header, 0)))
    if service:
        if has_ports(new.protocol):
            memcpy(l4, &new.ports, 4)
    else:
        transport_write(l4, captured, old, new, delta)
        if (quote.protocol == PROTOCOL_SCTP and quote.l4_captured >= SCTP_HEADER
                and not tuples_equal(old, new)):
            sctp_checksum_write(l4, quote.l4_captured)      # of what is quoted
    if quote.family == IPV4:
        delta = delta_add16(delta, ip_sum, load16(ip + 10))
    for i in range(captured // 2):
        delta = delta_add16(delta, before[i], load16(l4 + 2 * i))
    return delta
