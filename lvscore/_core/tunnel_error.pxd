"""ICMP errors that come back from a tunnel: about a request that was wrapped for its server.

The client is told what the tunnel's router told the director, as of its own packet
(ip_vs_core.c, ip_vs_in_icmp); a path MTU is less by what the tunnel puts in front. Over IPv6 the
kernel does not do it.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from lvscore._core.bytes cimport htons, load16, load_be16
from lvscore._core.checksum cimport sum_bytes, sum_fold
from lvscore._core.connection cimport FLAG_SERVICE, connection_count, table_find, table_meta
from lvscore._core.consts cimport (
    IPV4, NIL, PROTOCOL_UDP, REASON_BAD_ICMP_CHECKSUM, REASON_TUNNEL_ERROR, REPLY, VERDICT_DROP,
    VERDICT_PASS, VERDICT_STOLEN,
)
from lvscore._core.emit cimport emit_commit, emit_reserve
from lvscore._core.flow cimport (
    Address, Tuple, address_equal, address_load, packet_tuple, tuple_hash,
)
from lvscore._core.server cimport (
    METHOD_TUNNEL, SERVER_AVAILABLE, Server, TUNNEL_GRE, TUNNEL_GUE, TUNNEL_IPIP,
)
from lvscore._core.state cimport State, table_of
from lvscore._core.tunnel cimport (
    GRE_CHECKSUM, GRE_HEADER, GUE_HEADER, PROTOCOL_GRE, PROTOCOL_IPIP, UDP_HEADER,
    tunnel_overhead,
)
from lvscore._core.wire cimport ETHERTYPE_IPV4, Packet, ipv4_parse, packet_l3, packet_l4

cdef enum:
    ICMP_HEADER = 8
    FRAGMENTATION_NEEDED = 4    # code of ICMP_UNREACHABLE
    ICMP_UNREACHABLE = 3
    LEAST_MTU = 68              # RFC 791


cdef inline uint32_t tunnel_to(const State* s, const Packet* quote, uint32_t type) noexcept nogil:
    """The server that a quoted packet of a tunnel was for, or 0 (ip_vs_find_tunnel)."""
    cdef const Server* server
    cdef Address destination = address_load(packet_l3(quote) + 16, IPV4)
    cdef uint32_t k
    for k in range(1, s.services.server_used):
        server = &s.services.server[k]
        if (server.flags & SERVER_AVAILABLE and server.method == METHOD_TUNNEL
                and server.family == IPV4 and server.tunnel.type == type
                and address_equal(&server.address, &destination)
                and (type != TUNNEL_GUE or server.tunnel.port == load16(packet_l4(quote) + 2))):
            return k
    return 0


cdef inline uint32_t tunnel_quoted(const State* s, const Packet* quote,
                                   uint32_t* inner) noexcept nogil:
    """The server that a quoted packet was wrapped for, or 0; where the wrapped one begins."""
    cdef const uint8_t* l4 = packet_l4(quote)
    cdef uint32_t captured = quote.l4_captured
    inner[0] = quote.l4
    if quote.protocol == PROTOCOL_IPIP:
        return tunnel_to(s, quote, TUNNEL_IPIP)
    if quote.protocol == PROTOCOL_UDP and captured >= UDP_HEADER + GUE_HEADER:
        inner[0] += UDP_HEADER + GUE_HEADER
        if l4[UDP_HEADER] or l4[UDP_HEADER + 1] != PROTOCOL_IPIP:
            return 0
        return tunnel_to(s, quote, TUNNEL_GUE)
    if quote.protocol == PROTOCOL_GRE and captured >= GRE_HEADER:
        inner[0] += GRE_HEADER + (4 if load_be16(l4) & GRE_CHECKSUM else 0)
        if load16(l4 + 2) != htons(ETHERTYPE_IPV4):
            return 0
        return tunnel_to(s, quote, TUNNEL_GRE)
    return 0


cdef inline bint quoted_parse(const Packet* packet, uint32_t l3, Packet* quote) noexcept nogil:
    """Parse an IPv4 packet that lies in an ICMP message, cut; False if it is of no use."""
    quote.frame = packet.frame
    quote.l3 = l3
    quote.length = packet.l4 + packet.l4_captured
    quote.wire_length = l3 + 0x10000
    return l3 < quote.length and not ipv4_parse(quote) and not quote.fragment_offset


cdef inline uint32_t tunnel_error(const uint8_t* icmp, const Packet* inner,
                                  uint32_t overhead) noexcept nogil:
    """What the client is told: type, code and MTU, 8, 8 and 16 bits; 0: nothing, since it does not
    look for the path's MTU."""
    cdef uint32_t mtu = load_be16(icmp + 6)
    cdef uint32_t error = <uint32_t>icmp[0] << 24 | <uint32_t>icmp[1] << 16
    if icmp[0] != ICMP_UNREACHABLE or icmp[1] != FRAGMENTATION_NEEDED:
        return error
    if not packet_l3(inner)[6] & 0x40:
        return 0
    if mtu > LEAST_MTU + overhead:
        mtu -= overhead
    return error | mtu


cdef inline uint8_t tunnel_error_process(State* s, const Packet* packet,
                                         uint8_t* reason) noexcept nogil:
    """An ICMP error for this Host: if it is about a packet in a tunnel, put that packet out, to be
    quoted to its sender. VERDICT_PASS: it is about none."""
    cdef const uint8_t* icmp = packet_l4(packet)
    cdef Packet quote, inner
    cdef Server* server
    cdef Tuple t
    cdef uint8_t* room
    cdef uint32_t begin, k, reference, length
    if packet.family != IPV4 or not quoted_parse(packet, packet.l4 + ICMP_HEADER, &quote):
        return VERDICT_PASS
    k = tunnel_quoted(s, &quote, &begin)
    if k == 0 or not quoted_parse(packet, begin, &inner):
        return VERDICT_PASS
    packet_tuple(&inner, &t)
    reference = table_find(table_of(s, IPV4), tuple_hash(&s.key, &t), &t)
    if (reference == NIL or reference & 1 == REPLY
            or not table_meta(table_of(s, IPV4), reference >> 1).flags & FLAG_SERVICE):
        return VERDICT_PASS
    if packet.l4_captured < packet.l4_length or sum_fold(
            sum_bytes(icmp, packet.l4_length, 0)) != 0xFFFF:
        reason[0] = REASON_BAD_ICMP_CHECKSUM
        return VERDICT_DROP
    reason[0] = REASON_TUNNEL_ERROR
    server = &s.services.server[k]
    s.forward.tunnel_error = tunnel_error(icmp, &inner, tunnel_overhead(server))
    if s.forward.tunnel_error == 0:
        return VERDICT_STOLEN
    length = inner.length - inner.l3
    server.packets[REPLY] += 1
    server.bytes[REPLY] += length
    connection_count(table_of(s, IPV4), reference >> 1, REPLY, length)
    room = emit_reserve(&s.emitted, packet.l3 + length)
    if room != NULL:
        memcpy(room, packet.frame, packet.l3)
        memcpy(room + packet.l3, packet.frame + inner.l3, length)
        emit_commit(&s.emitted, packet.l3 + length, s.now, VERDICT_DROP, REASON_TUNNEL_ERROR)
    return VERDICT_STOLEN
