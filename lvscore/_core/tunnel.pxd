"""Tunnelling: a request wrapped for its server, in IPIP, GUE or GRE (ip_vs_xmit.c,
ip_vs_tunnel_xmit; RFC 2003, RFC 2473, RFC 2784, draft-ietf-intarea-gue).

A frame has no room for another header, so what leaves is put out as a frame of its own.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from lvscore._core.bytes cimport htonl, htons, store16, store32
from lvscore._core.checksum cimport checksum_finish, sum_bytes
from lvscore._core.consts cimport (
    IPV4, LINK_ETHERNET, LINK_LINUX_SLL, LINK_LINUX_SLL2, LINK_LOOP, LINK_NULL, PROTOCOL_UDP,
)
from lvscore._core.flow cimport Address
from lvscore._core.server cimport (
    Server, TUNNEL_CHECKSUM, TUNNEL_GRE, TUNNEL_GUE, TUNNEL_REMOTE_CHECKSUM,
)
from lvscore._core.translate cimport udp_checksum
from lvscore._core.wire cimport ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet, packet_l3

cdef enum:
    PROTOCOL_IPIP = 4
    PROTOCOL_IPV6 = 41
    PROTOCOL_GRE = 47
    MAX_TUNNEL_HEADERS = 52     # IPv6, UDP, GUE
    UDP_HEADER = 8
    GUE_HEADER = 4
    GRE_HEADER = 4
    GRE_CHECKSUM = 0x8000       # a flag, and four bytes more
    FIRST_LOCAL_PORT = 32768    # net.ipv4.ip_local_port_range
    LOCAL_PORTS = 28232


cdef inline uint32_t tunnel_overhead(const Server* server) noexcept nogil:
    """Bytes that stand in front of a packet to a server."""
    cdef uint32_t outer = 20 if server.family == IPV4 else 40
    if server.tunnel.type == TUNNEL_GUE:
        return outer + UDP_HEADER + GUE_HEADER
    if server.tunnel.type == TUNNEL_GRE:
        return outer + GRE_HEADER + (4 if server.tunnel.flags & TUNNEL_CHECKSUM else 0)
    return outer


cdef inline uint8_t tunnel_class(uint8_t inner) noexcept nogil:
    """The outer traffic class; congestion met before is told by the inner one alone
    (RFC 6040, INET_ECN_encapsulate)."""
    return (inner & 0xFC) | 2 if inner & 3 == 3 else inner


cdef inline void link_set_family(uint8_t* frame, uint32_t l3, int link_type,
                                 uint8_t family) noexcept nogil:
    """Announce another IP version in a link header."""
    cdef uint16_t kind = htons(ETHERTYPE_IPV4 if family == IPV4 else ETHERTYPE_IPV6)
    if link_type == LINK_ETHERNET or link_type == LINK_LINUX_SLL:
        store16(frame + l3 - 2, kind)
    elif link_type == LINK_LINUX_SLL2:
        store16(frame, kind)
    elif link_type == LINK_NULL:
        store32(frame, 2 if family == IPV4 else 10)
    elif link_type == LINK_LOOP:
        store32(frame, htonl(2 if family == IPV4 else 10))


cdef inline void tunnel_ip_header(uint8_t* ip, const Packet* packet, const Server* server,
                                  const Address* source, uint32_t length, uint8_t protocol,
                                  bint keep_df, uint16_t identification) noexcept nogil:
    """Write the outer IP header of a packet of ``length`` bytes."""
    cdef const uint8_t* inner = packet_l3(packet)
    cdef bint four = packet.family == IPV4
    cdef uint8_t traffic_class = tunnel_class(
        inner[1] if four else <uint8_t>(inner[0] << 4 | inner[1] >> 4))
    cdef uint8_t ttl = inner[8] if four else inner[7]
    cdef bint whole = keep_df and four and inner[6] & 0x40
    if server.family == IPV4:
        memset(ip, 0, 20)
        ip[0] = 0x45
        ip[1] = traffic_class
        store16(ip + 2, htons(<uint16_t>length))
        # RFC 6864: an atomic datagram needs no identification.
        store16(ip + 4, 0 if whole else identification)
        ip[6] = 0x40 if whole else 0
        ip[8] = ttl
        ip[9] = protocol
        memcpy(ip + 12, source, 4)
        memcpy(ip + 16, &server.address, 4)
        store16(ip + 10, checksum_finish(sum_bytes(ip, 20, 0)))
    else:
        memset(ip, 0, 8)
        ip[0] = 0x60 | traffic_class >> 4
        ip[1] = <uint8_t>(traffic_class << 4)
        store16(ip + 4, htons(<uint16_t>(length - 40)))
        ip[6] = protocol
        ip[7] = ttl
        memcpy(ip + 8, source, 16)
        memcpy(ip + 24, &server.address, 16)


cdef inline void gue_header(uint8_t* udp, const uint8_t* ip, const Server* server,
                            uint32_t length, uint8_t inner, uint64_t hash) noexcept nogil:
    """UDP from a port that tells flows apart, and GUE's four bytes; ``length`` counts both."""
    store16(udp, htons(<uint16_t>(FIRST_LOCAL_PORT + ((hash >> 32) * LOCAL_PORTS >> 32))))
    store16(udp + 2, server.tunnel.port)
    store16(udp + 4, htons(<uint16_t>length))
    store16(udp + 6, 0)
    udp[8] = 0
    udp[9] = inner
    store16(udp + 10, 0)
    if server.tunnel.flags & (TUNNEL_CHECKSUM | TUNNEL_REMOTE_CHECKSUM):
        store16(udp + 6, udp_checksum(ip, udp, server.family, length))


cdef inline void gre_header(uint8_t* gre, const Server* server, uint32_t length,
                            uint8_t family) noexcept nogil:
    cdef bint summed = server.tunnel.flags & TUNNEL_CHECKSUM
    store16(gre, htons(GRE_CHECKSUM) if summed else 0)
    store16(gre + 2, htons(ETHERTYPE_IPV4 if family == IPV4 else ETHERTYPE_IPV6))
    if summed:
        store32(gre + 4, 0)
        store16(gre + 4, checksum_finish(sum_bytes(gre, length, 0)))


cdef inline uint32_t tunnel_write(uint8_t* room, const Packet* packet, const Server* server,
                                  const Address* source, int link_type, bint keep_df,
                                  uint16_t identification, uint64_t hash) noexcept nogil:
    """Write the frame of a packet wrapped for a server; its length.

    ``room`` takes the frame and MAX_TUNNEL_HEADERS more. Of a snapped packet only what was
    captured follows the headers, and checksums over it are those of what is there.
    """
    cdef uint32_t overhead = tunnel_overhead(server)
    cdef uint32_t outer = 20 if server.family == IPV4 else 40
    cdef uint32_t captured = packet.length - packet.l3
    cdef uint8_t inner = PROTOCOL_IPIP if packet.family == IPV4 else PROTOCOL_IPV6
    cdef uint8_t protocol = inner
    cdef uint8_t* ip = room + packet.l3
    if captured > packet.l3_length:
        captured = packet.l3_length
    if server.tunnel.type == TUNNEL_GUE:
        protocol = PROTOCOL_UDP
    elif server.tunnel.type == TUNNEL_GRE:
        protocol = PROTOCOL_GRE
    memcpy(room, packet.frame, packet.l3)
    memcpy(ip + overhead, packet_l3(packet), captured)
    if server.family != packet.family:
        link_set_family(room, packet.l3, link_type, server.family)
    tunnel_ip_header(ip, packet, server, source, overhead + packet.l3_length, protocol, keep_df,
                     identification)
    if server.tunnel.type == TUNNEL_GUE:
        gue_header(ip + outer, ip, server, overhead - outer + captured, inner, hash)
    elif server.tunnel.type == TUNNEL_GRE:
        gre_header(ip + outer, server, overhead - outer + captured, packet.family)
    return packet.l3 + overhead + captured
