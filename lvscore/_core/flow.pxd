"""Tuples: who sends to whom, of which protocol.

Ports are kept as they lie in the packet. An ICMP query has its identifier where the asker's
port would be, and its request type and its code where the answerer's would be, so that the tuple
of the answer is the tuple of the request turned round (as nf_conntrack_proto_icmp.c pairs them).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from lvscore._core.bytes cimport htons, load16, load32, load64, ntohl, rotate32
from lvscore._core.checksum cimport delta_add_bytes, delta_finish
from lvscore._core.consts cimport (
    IPV4, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP,
)
from lvscore._core.hash cimport HashKey, hash_ipv4, hash_ipv6
from lvscore._core.wire cimport Packet, packet_l3, packet_l4


cdef struct Address:
    uint64_t word[2]        # as on the wire; IPv4 in the first four bytes, the rest zero


cdef struct Tuple:
    Address source
    Address destination
    uint32_t ports          # source, destination: as on the wire
    uint8_t protocol
    uint8_t family


cdef inline Address address_load(const uint8_t* p, uint8_t family) noexcept nogil:
    cdef Address address
    address.word[0] = 0
    address.word[1] = 0
    memcpy(&address, p, 4 if family == IPV4 else 16)
    return address


cdef inline bint address_equal(const Address* a, const Address* b) noexcept nogil:
    return ((a.word[0] ^ b.word[0]) | (a.word[1] ^ b.word[1])) == 0


cdef inline Address address_and(const Address* a, const Address* mask) noexcept nogil:
    cdef Address masked
    masked.word[0] = a.word[0] & mask.word[0]
    masked.word[1] = a.word[1] & mask.word[1]
    return masked


cdef inline uint32_t address_word(const Address* address) noexcept nogil:
    """The address as IPVS hashes it: in host order, IPv6 folded by exclusive or."""
    cdef uint64_t folded = address.word[0] ^ address.word[1]
    return ntohl(<uint32_t>(folded ^ (folded >> 32)))


cdef inline uint32_t ports_make(uint16_t source, uint16_t destination) noexcept nogil:
    """Two ports in wire order, as one word in wire order."""
    cdef uint16_t pair[2]
    cdef uint32_t ports
    pair[0] = source
    pair[1] = destination
    memcpy(&ports, pair, 4)
    return ports


cdef inline uint16_t ports_source(uint32_t ports) noexcept nogil:
    return load16(<uint8_t*>&ports)


cdef inline uint16_t ports_destination(uint32_t ports) noexcept nogil:
    return load16(<uint8_t*>&ports + 2)


cdef inline uint64_t addresses_pack(const Tuple* t) noexcept nogil:
    """The addresses of an IPv4 tuple as they lie in the header."""
    cdef uint64_t packed
    memcpy(&packed, &t.source, 4)
    memcpy(<uint8_t*>&packed + 4, &t.destination, 4)
    return packed


cdef inline void addresses_unpack(Tuple* t, uint64_t packed) noexcept nogil:
    t.source.word[0] = t.source.word[1] = 0
    t.destination.word[0] = t.destination.word[1] = 0
    memcpy(&t.source, &packed, 4)
    memcpy(&t.destination, <uint8_t*>&packed + 4, 4)


cdef inline uint64_t ports_key(uint8_t protocol, uint32_t ports) noexcept nogil:
    """Protocol and ports as the hash takes them."""
    return <uint64_t>protocol << 32 | ports


cdef inline Tuple tuple_inverse(const Tuple* t) noexcept nogil:
    """The tuple of an answer."""
    cdef Tuple inverse
    inverse.source = t.destination
    inverse.destination = t.source
    inverse.ports = rotate32(t.ports, 16)
    inverse.protocol = t.protocol
    inverse.family = t.family
    return inverse


cdef inline bint tuples_answer(const Tuple* original, const Tuple* reply) noexcept nogil:
    """Whether one tuple is the other turned round."""
    cdef Tuple forward = tuple_inverse(reply)
    return (forward.ports == original.ports
            and forward.source.word[0] == original.source.word[0]
            and forward.source.word[1] == original.source.word[1]
            and forward.destination.word[0] == original.destination.word[0]
            and forward.destination.word[1] == original.destination.word[1])


cdef inline uint16_t tuple_delta(const Tuple* old, const Tuple* new) noexcept nogil:
    """The delta (checksum.pxd) of a tuple's addresses and ports, which lie side by side."""
    return delta_finish(delta_add_bytes(
        0, <const uint8_t*>&old.source, <const uint8_t*>&new.source, 2 * sizeof(Address) + 4))


cdef inline uint64_t tuple_hash(const HashKey* key, const Tuple* t) noexcept nogil:
    if t.family == IPV4:
        return hash_ipv4(key, addresses_pack(t), ports_key(t.protocol, t.ports))
    return hash_ipv6(key, t.source.word, t.destination.word, ports_key(t.protocol, t.ports))


cdef inline bint has_ports(uint8_t protocol) noexcept nogil:
    return (protocol == PROTOCOL_TCP or protocol == PROTOCOL_UDP or protocol == PROTOCOL_SCTP)


cdef inline uint8_t icmp_request_of(uint8_t protocol, uint8_t kind) noexcept nogil:
    """The request type that an ICMP answer belongs to, or 0 (never a request type)."""
    if protocol == PROTOCOL_ICMPV6:
        return 128 if kind == 129 else 0
    if kind == 0:
        return 8
    if kind == 14 or kind == 16 or kind == 18:
        return kind - 1
    return 0


cdef inline bint icmp_is_request(uint8_t protocol, uint8_t kind) noexcept nogil:
    """Echo, timestamp, information, address mask (RFC 792, RFC 950); ICMPv6 echo."""
    if protocol == PROTOCOL_ICMPV6:
        return kind == 128
    return kind == 8 or kind == 13 or kind == 15 or kind == 17


cdef inline uint32_t icmp_ports(uint8_t protocol, const uint8_t* icmp) noexcept nogil:
    """The ports of an ICMP query or answer, 0 for other types; 6 bytes are read."""
    cdef uint16_t marker
    if icmp_is_request(protocol, icmp[0]):
        return ports_make(load16(icmp + 4), load16(icmp))
    if icmp_request_of(protocol, icmp[0]):
        marker = htons(<uint16_t>(<uint16_t>icmp_request_of(protocol, icmp[0]) << 8 | icmp[1]))
        return ports_make(marker, load16(icmp + 4))
    return 0


cdef inline uint32_t transport_ports(uint8_t protocol, const uint8_t* l4,
                                     uint32_t captured) noexcept nogil:
    """The ports of a transport header of which ``captured`` bytes are there."""
    if has_ports(protocol):
        return load32(l4) if captured >= 4 else 0
    if (protocol == PROTOCOL_ICMP or protocol == PROTOCOL_ICMPV6) and captured >= 6:
        return icmp_ports(protocol, l4)
    return 0


cdef inline void tuple_load(Tuple* t, uint8_t family, uint8_t protocol, const uint8_t* ip,
                            uint32_t ports) noexcept nogil:
    """The tuple of an IP header and the ports behind it."""
    t.family = family
    t.protocol = protocol
    if family == IPV4:
        addresses_unpack(t, load64(ip + 12))
    else:
        memcpy(&t.source, ip + 8, 16)
        memcpy(&t.destination, ip + 24, 16)
    t.ports = ports


cdef inline void packet_tuple(const Packet* packet, Tuple* t) noexcept nogil:
    tuple_load(t, packet.family, packet.protocol, packet_l3(packet), transport_ports(
        packet.protocol, packet_l4(packet), packet.l4_captured))
