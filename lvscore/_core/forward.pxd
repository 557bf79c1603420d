"""The host that the director is: what it takes in, where packets leave, and in which frame.

Only a Host uses this; an engine without one never comes here. It stands before the rewrite,
as in the kernel (ip_input.c, ip_forward.c, ip_options.c, ip6_output.c): what an ICMP error
quotes is the packet as it lies in the frame when it is dropped.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove

from lvscore._core.bytes cimport htonl, htons, load16, load_be32, store16, store32
from lvscore._core.checksum cimport checksum_finish, checksum_update, sum_bytes, sum_fold
from lvscore._core.consts cimport (
    IPV4, IPV6, PROTOCOL_ICMP, PROTOCOL_ICMPV6, REASON_BAD_IP_CHECKSUM, REASON_BAD_IP_OPTION,
    REASON_BAD_SOURCE, REASON_FORWARDING_DISABLED, REASON_FRAGMENTATION_NEEDED, REASON_NONE,
    REASON_NOT_ADDRESSED, REASON_NO_ROUTE, REASON_SOURCE_ROUTE, REASON_TTL_EXPIRED,
    REASON_TUNNEL_MTU,
)
from lvscore._core.flow cimport Address, Tuple, address_load
from lvscore._core.route cimport (
    Interface, NO_INTERFACE, Neighbour, ROUTE_BROADCAST, ROUTE_UNICAST, Route, Routes,
    address_is_local, neighbour_find, route_find,
)
from lvscore._core.wire cimport Packet, packet_l3

cdef enum Redirect:
    REDIRECT_NONE = 0
    REDIRECT_DUE = 1
    REDIRECT_DROPPED = 2    # due, but conntrack does not let it out

cdef enum:
    ETHERNET_HEADER = 14
    IPV4_MIN_MTU = 68       # RFC 791
    IPV6_MIN_MTU = 1280     # RFC 8200, section 5
    MS_PER_DAY = 86400000

    OPTION_END = 0          # RFC 791, section 3.1
    OPTION_NOOP = 1
    OPTION_RECORD_ROUTE = 7
    OPTION_TIMESTAMP = 68
    OPTION_LOOSE_ROUTE = 131
    OPTION_CIPSO = 134
    OPTION_STRICT_ROUTE = 137
    OPTION_ROUTER_ALERT = 148

    TIMESTAMP_ONLY = 0
    TIMESTAMP_AND_ADDRESS = 1
    TIMESTAMP_PRESPECIFIED = 3


# What the stage found out about the packet at hand.
cdef struct Forward:
    Address next_hop
    int64_t now             # ns
    uint32_t ingress        # interface, NO_INTERFACE: there is no Host
    uint32_t egress         # interface, NO_INTERFACE: it goes nowhere
    uint32_t mtu
    uint32_t tunnel         # server that the packet is to be wrapped for, 0: none
    uint32_t tunnel_error   # what its sender is told of a packet in a tunnel (tunnel_error.pxd)
    uint32_t largest        # fragment that the packet came in, 0: it came whole
    bint dont_fragment      # those fragments must not be cut, and IPVS put them together
    uint32_t option_error   # offset of the byte that is wrong
    uint8_t family          # of the next hop
    uint16_t segment_size   # payload of each segment of a super-frame that comes in, 0: none
    bint partial            # its checksum is partial (wire.pxd)
    bint options_changed
    bint record_pending     # record route: the address of the way out is still to be put in
    uint32_t record         # offset of that address in the IP header
    uint32_t address_stamped  # offset of the same address in a timestamp option, 0: none
    bint rerouted           # routed again after its source was translated (snat_reroute)
    bint request            # to a server: errors are those of ip_vs_xmit.c
    bint tracked            # conntrack knows its flow: what is told about it is not looked up
    bint translated         # rules gave it another destination: errors come from where it went
    uint8_t redirect        # a router on the same wire is nearer (RFC 1122, section 3.2.2.2)
    bint resolved           # the frame has the next hop's link address


cdef inline bint address_is_martian(uint8_t family, const Address* address) noexcept nogil:
    """A source that nobody may send from: multicast, loopback, broadcast, none."""
    cdef const uint8_t* a = <const uint8_t*>address
    if family == IPV4:
        return a[0] == 0 or a[0] == 127 or a[0] >= 224
    if a[0] == 0xFF:
        return True
    return address.word[0] == 0 and load_be32(a + 8) == 0 and load_be32(a + 12) <= 1


cdef inline bint address_is_broadcast(const Routes* routes, uint8_t family,
                                      const Address* address) noexcept nogil:
    """Whether a destination is a group or everybody on a wire."""
    cdef const uint8_t* a = <const uint8_t*>address
    cdef const Route* route
    if family == IPV6:
        return a[0] == 0xFF
    if a[0] >= 224:
        return True
    route = route_find(routes, family, address)
    return route != NULL and route.kind == ROUTE_BROADCAST


cdef inline uint8_t source_check(const Routes* routes, const Forward* forward,
                                 const Tuple* t) noexcept nogil:
    """fib_validate_source (fib_frontend.c); IPv6 refuses multicast and loopback only."""
    cdef const Interface* interface = &routes.interface[forward.ingress]
    cdef const Route* route
    if address_is_martian(t.family, &t.source):
        return REASON_BAD_SOURCE
    if t.family == IPV6:
        return REASON_NONE
    if address_is_local(routes, t.family, &t.source):
        return REASON_BAD_SOURCE
    if interface.rp_filter:
        route = route_find(routes, t.family, &t.source)
        # 1: the reverse path must be this interface; 2: there must be one (RFC 3704).
        if route == NULL or route.kind != ROUTE_UNICAST or (
                interface.rp_filter == 1 and route.interface != forward.ingress):
            return REASON_BAD_SOURCE
    return REASON_NONE


cdef inline bint address_is_unicast(const Routes* routes, const Address* address) noexcept nogil:
    """Of one IPv4 host, and not of this one (inet_addr_type)."""
    cdef const uint8_t* a = <const uint8_t*>address
    return not (address_is_local(routes, IPV4, address) or a[0] == 0 or a[0] == 127
                or 224 <= a[0] < 240 or a[0] & a[1] & a[2] & a[3] == 255)


cdef inline uint32_t timestamp_option(uint8_t* option, uint32_t length, const Address* own,
                                      const Routes* routes, Forward* forward) noexcept nogil:
    """Fill in a timestamp option; 0, or the offset in it of what is wrong."""
    cdef uint32_t pointer = option[2]
    cdef uint8_t flag = option[3] & 15
    cdef uint32_t stamp = <uint32_t>(<uint64_t>forward.now // 1000000 % MS_PER_DAY)
    cdef uint32_t size = 4 if flag == TIMESTAMP_ONLY else 8
    cdef Address wanted
    if pointer > length:
        if flag == TIMESTAMP_PRESPECIFIED:
            return 0
        if option[3] >> 4 == 15:
            return 3
        option[3] = <uint8_t>(flag | ((option[3] >> 4) + 1) << 4)
        forward.options_changed = True
        return 0
    if pointer + 3 > length:
        return 2
    if flag != TIMESTAMP_ONLY and flag != TIMESTAMP_AND_ADDRESS and flag != TIMESTAMP_PRESPECIFIED:
        return 0
    if pointer + size - 1 > length:
        return 2
    if flag == TIMESTAMP_PRESPECIFIED:
        wanted = address_load(option + pointer - 1, IPV4)
        if address_is_unicast(routes, &wanted):
            return 0
    elif flag == TIMESTAMP_AND_ADDRESS:
        memcpy(option + pointer - 1, own, 4)
        forward.address_stamped = pointer - 1
    store32(option + pointer - 1 + size - 4, htonl(stamp))
    option[2] = <uint8_t>(pointer + size)
    forward.options_changed = True
    return 0


cdef inline uint8_t options_compile(Packet* packet, const Routes* routes, const Address* own,
                                    Forward* forward) noexcept nogil:
    """Check IPv4 options, and fill in record route and timestamp (ip_options_compile).

    ``own`` is the address of this host as the sender would see it. The header checksum is
    left for forward_output: errors quote the filled options with the old sum.
    """
    cdef uint8_t* ip = packet_l3(packet)
    cdef uint32_t end = packet.l4 - packet.l3
    cdef uint32_t position = 20
    cdef uint32_t length, wrong
    cdef bint routed = False
    cdef bint recorded = False
    cdef bint stamped = False
    cdef uint8_t kind
    while position < end:
        kind = ip[position]
        if kind == OPTION_END:
            for position in range(position + 1, end):
                if ip[position] != OPTION_END:
                    ip[position] = OPTION_END
                    forward.options_changed = True
            break
        if kind == OPTION_NOOP:
            position += 1
            continue
        wrong = 0
        forward.option_error = position
        if end - position < 2:
            return REASON_BAD_IP_OPTION
        length = ip[position + 1]
        if length < 2 or length > end - position:
            return REASON_BAD_IP_OPTION
        if kind == OPTION_LOOSE_ROUTE or kind == OPTION_STRICT_ROUTE:
            wrong = 1 if length < 3 else 2 if ip[position + 2] < 4 else 0
            if wrong or routed:
                forward.option_error = position + wrong
                return REASON_BAD_IP_OPTION
            routed = True
        elif kind == OPTION_RECORD_ROUTE:
            if recorded:
                return REASON_BAD_IP_OPTION
            wrong = 1 if length < 3 else 2 if ip[position + 2] < 4 else 0
            if not wrong and ip[position + 2] <= length:
                if ip[position + 2] + 3 > length:
                    wrong = 2
                else:
                    forward.record = position + ip[position + 2] - 1
                    forward.record_pending = True
                    memcpy(ip + forward.record, own, 4)
                    ip[position + 2] += 4
                    forward.options_changed = True
            recorded = True
        elif kind == OPTION_TIMESTAMP:
            if stamped:
                return REASON_BAD_IP_OPTION
            wrong = 1 if length < 4 else 2 if ip[position + 2] < 5 else 0
            if not wrong:
                wrong = timestamp_option(ip + position, length, own, routes, forward)
                if forward.address_stamped:
                    forward.address_stamped += position
            stamped = True
        elif kind == OPTION_ROUTER_ALERT and length < 4:
            wrong = 1
        elif kind == OPTION_CIPSO:      # of no domain that is known here (cipso_v4_validate)
            wrong = 1 if length < 8 else 2
        if wrong:
            forward.option_error = position + wrong
            return REASON_BAD_IP_OPTION
        position += length
    if routed and not routes.interface[forward.ingress].accept_source_route:
        return REASON_SOURCE_ROUTE
    return REASON_NONE


cdef inline void own_address(const Routes* routes, const Tuple* t,
                             Address* own) noexcept nogil:
    """The address that the sender knows this host by (fib_compute_spec_dst)."""
    cdef const Route* route
    own[0] = t.destination
    if not address_is_local(routes, t.family, &t.destination):
        route = route_find(routes, t.family, &t.source)
        if route != NULL and route.has_source:
            own[0] = route.source


cdef inline uint8_t forward_receive(const Routes* routes, Packet* packet, const Tuple* t,
                                    Forward* forward) noexcept nogil:
    """What comes before routing: link address, header checksum, source, options."""
    cdef const uint8_t* ip = packet_l3(packet)
    cdef const uint8_t* mac = &routes.interface[forward.ingress].mac[0]
    cdef uint32_t header = packet.l4 - packet.l3
    cdef Address own
    cdef uint8_t failed
    forward.egress = NO_INTERFACE
    forward.options_changed = False
    forward.record_pending = False
    forward.address_stamped = 0
    forward.largest = 0
    forward.dont_fragment = False
    forward.rerouted = False
    forward.request = False
    forward.redirect = REDIRECT_NONE
    forward.resolved = False
    if packet.l3 != ETHERNET_HEADER:    # a VLAN is another interface
        return REASON_NOT_ADDRESSED
    if not packet.frame[0] & 1 and memcmp(packet.frame, mac, 6):
        return REASON_NOT_ADDRESSED
    if packet.family == IPV4 and sum_fold(sum_bytes(ip, header, 0)) != 0xFFFF:
        return REASON_BAD_IP_CHECKSUM
    failed = source_check(routes, forward, t)
    if failed == REASON_NONE and packet.family == IPV4 and header > 20:
        own_address(routes, t, &own)
        failed = options_compile(packet, routes, &own, forward)
    return failed


cdef inline void ttl_decrease(uint8_t* ip, uint8_t family) noexcept nogil:
    """One less, and the IPv4 header checksum with it (ip_decrease_ttl)."""
    if family == IPV6:
        ip[7] -= 1
        return
    ip[8] -= 1
    store16(ip + 10, checksum_update(load16(ip + 10), htons(0xFEFF)))


cdef inline const Route* forward_route(const Routes* routes, uint8_t family,
                                       const Address* destination,
                                       Forward* forward) noexcept nogil:
    """Find the way to a destination; NULL if there is none."""
    cdef const Route* route = route_find(routes, family, destination)
    if route == NULL:
        return NULL
    forward.family = family
    forward.next_hop = route.gateway if route.has_gateway else destination[0]
    forward.egress = route.interface
    forward.mtu = routes.interface[route.interface].mtu
    return route


cdef inline bint exceeds_mtu(const Packet* packet, const Forward* forward,
                             uint32_t mtu) noexcept nogil:
    """Whether a packet is too long and must not be cut; one put together is cut as it came, but
    for IPVS (ensure_mtu_is_adequate), and a super-frame into its segments."""
    cdef uint32_t length = packet.l3_length
    if forward.largest and not (forward.request and packet.family == IPV4):
        length = forward.largest
    if (packet.segment if packet.segment else length) <= mtu:
        return False
    return packet.family == IPV6 or packet_l3(packet)[6] & 0x40 != 0


cdef inline bint redirect_is_due(const Routes* routes, const Tuple* t, const Route* route,
                                 const Forward* forward) noexcept nogil:
    """Whether the sender, on the wire that the packet leaves by, should know a nearer way
    (__mkroute_input, ip6_forward)."""
    cdef const Route* back
    if (route.interface != forward.ingress
            or not routes.interface[forward.ingress].send_redirects):
        return False
    back = route_find(routes, t.family, &t.source)
    return (back != NULL and back.kind == ROUTE_UNICAST and not back.has_gateway
            and back.interface == forward.ingress)


cdef inline uint8_t forward_pass(const Routes* routes, Packet* packet, const Tuple* t,
                                 const Address* destination, Forward* forward) noexcept nogil:
    """The router's own way (ip_forward, ip6_forward): route, TTL, MTU, one hop less."""
    cdef uint8_t* ip = packet_l3(packet)
    cdef const Interface* ingress = &routes.interface[forward.ingress]
    cdef uint32_t mtu
    cdef const Route* route
    if not ingress.forwarding[packet.family == IPV6]:
        return REASON_FORWARDING_DISABLED
    if packet.frame[0] & 1:             # not by a link broadcast
        return REASON_NOT_ADDRESSED
    route = forward_route(routes, packet.family, destination, forward)
    if route == NULL or route.kind != ROUTE_UNICAST:
        forward.egress = NO_INTERFACE
        return REASON_NO_ROUTE
    if ip[8 if packet.family == IPV4 else 7] <= 1:
        return REASON_TTL_EXPIRED
    forward.redirect = (REDIRECT_DUE if redirect_is_due(routes, t, route, forward)
                        else REDIRECT_NONE)
    mtu = forward.mtu
    if packet.family == IPV6 and mtu < IPV6_MIN_MTU:
        mtu = IPV6_MIN_MTU
    if exceeds_mtu(packet, forward, mtu):
        return REASON_FRAGMENTATION_NEEDED
    ttl_decrease(ip, packet.family)
    if forward.dont_fragment:           # only conntrack lets it be cut (ip_fragment)
        return REASON_FRAGMENTATION_NEEDED
    return REASON_NONE


cdef inline uint8_t forward_request(const Routes* routes, Packet* packet, uint8_t family,
                                    const Address* server, uint32_t overhead, bint cut,
                                    Forward* forward) noexcept nogil:
    """A request's way to its server (__ip_vs_get_out_rt): route, TTL, one hop less, MTU.

    ``family``: of the server's address; ``overhead``: bytes that a tunnel puts in front;
    ``cut``: what is too long is cut whatever it says (pmtu_disc=0).
    """
    cdef uint8_t* ip = packet_l3(packet)
    cdef const Route* route
    cdef uint32_t mtu
    forward.request = True
    if address_is_local(routes, family, server):
        return REASON_NONE
    route = forward_route(routes, family, server, forward)
    if route == NULL or route.kind != ROUTE_UNICAST:
        forward.egress = NO_INTERFACE
        return REASON_NO_ROUTE
    if ip[8 if packet.family == IPV4 else 7] <= 1:
        return REASON_TTL_EXPIRED
    ttl_decrease(ip, packet.family)
    mtu = forward.mtu - overhead
    if overhead and forward.mtu < overhead + (IPV4_MIN_MTU if family == IPV4 else IPV6_MIN_MTU):
        return REASON_TUNNEL_MTU
    if (not cut and exceeds_mtu(packet, forward, mtu) and packet.protocol != PROTOCOL_ICMP
            and packet.protocol != PROTOCOL_ICMPV6):
        forward.mtu = mtu
        return REASON_FRAGMENTATION_NEEDED
    forward.record_pending = False      # ip_forward_options is not on this way
    forward.address_stamped = 0
    return REASON_NONE


cdef inline void forward_record(const Routes* routes, Packet* packet,
                                Forward* forward) noexcept nogil:
    """Fill in this host's address in record route and timestamp (ip_forward_options,
    ip_rt_get_source): what IPVS has translated by now has an address of this host as its source,
    netfilter's source NAT is yet to come."""
    cdef uint8_t* ip = packet_l3(packet)
    cdef const Route* route = route_find(routes, IPV4, &forward.next_hop)
    cdef Address source = address_load(ip + 12, IPV4)
    if (route != NULL and route.has_source
            and (not forward.rerouted or not address_is_local(routes, IPV4, &source))):
        source = route.source
    if forward.record_pending:
        memcpy(ip + forward.record, &source, 4)
    if forward.address_stamped:
        memcpy(ip + forward.address_stamped, &source, 4)
    forward.record_pending = False
    forward.address_stamped = 0


cdef inline void forward_output(const Routes* routes, Packet* packet,
                                Forward* forward) noexcept nogil:
    """Finish a packet that leaves: options, and the frame's link addresses."""
    cdef uint8_t* ip = packet_l3(packet)
    cdef const Neighbour* neighbour
    if packet.family == IPV4 and forward.options_changed:
        if forward.record_pending or forward.address_stamped:
            forward_record(routes, packet, forward)
        store16(ip + 10, 0)
        store16(ip + 10, checksum_finish(sum_bytes(ip, <uint32_t>(ip[0] & 15) * 4, 0)))
    neighbour = neighbour_find(routes, forward.family, forward.egress, &forward.next_hop)
    memcpy(packet.frame + 6, routes.interface[forward.egress].mac, 6)
    if neighbour != NULL:
        memcpy(packet.frame, neighbour.mac, 6)
        forward.resolved = True


cdef inline void atomic_strip(Packet* packet) noexcept nogil:
    """Take the fragment header out of an IPv6 packet that is whole nevertheless (RFC 6946), as
    putting it together does (nf_ct_frag6_gather)."""
    cdef uint8_t* ip = packet_l3(packet)
    cdef uint8_t* header
    if packet.family != IPV6 or packet.fragment or packet.fragment_header == 0:
        return
    header = packet.frame + packet.fragment_header
    packet.frame[packet.fragment_announced] = header[0]
    memmove(header, header + 8, packet.l3 + packet.l3_length - packet.fragment_header - 8)
    packet.l3_length -= 8
    packet.l4 -= 8
    store16(ip + 4, htons(<uint16_t>(packet.l3_length - 40)))
