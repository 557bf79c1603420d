"""Where the packets of a connection go next: a Host's next hops, by number.

A connection keeps for each direction the number of the next hop that its latest packet had, so
that the next one needs no look-up; flow tables keep a route so (nf_flow_table_core.c). A number
says more than where: that packets which come in by that interface may come in, and be sent on.

When routes or addresses are told anew, all next hops are forgotten, and no other gets their
numbers: a connection that still has one looks again.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from lvscore._core.connection cimport Connection4, Table, connection4, connection6
from lvscore._core.consts cimport IPV4, IPV6
from lvscore._core.flow cimport Address, address_equal, address_word
from lvscore._core.machine cimport memory_release, memory_reserve
from lvscore._core.path cimport Path
from lvscore._core.route cimport Neighbour, Routes, neighbour_find

cdef enum:
    MAX_NEXT_HOPS = 65536
    NEXT_HOP_BITS = 12          # of the number of a chain


cdef struct NextHop:
    uint8_t link[12]            # addresses of an Ethernet frame to it
    uint32_t mtu
    uint32_t address            # of IPv6, its halves and theirs folded
    uint16_t ingress            # interface that the packets come in by, plus one; 0: forgotten
    uint16_t egress
    uint16_t next               # of its chain, older; 0: none
    uint8_t family
    uint8_t reserved[5]


cdef struct NextHops:
    NextHop* hop                # 0 is none
    Address* address6           # of those of IPv6
    uint16_t head[4096]         # of chains by address and interfaces
    uint32_t first              # of those that are not forgotten
    uint32_t used


cdef inline bint next_hops_init(NextHops* hops) noexcept nogil:
    """Reserve address space; False if the system refuses."""
    memset(hops, 0, sizeof(NextHops))
    hops.first = 1
    hops.used = 1
    return next_hops_reserve(hops)


cdef inline bint next_hops_reserve(NextHops* hops) noexcept nogil:
    hops.hop = <NextHop*>memory_reserve(MAX_NEXT_HOPS * sizeof(NextHop))
    hops.address6 = <Address*>memory_reserve(MAX_NEXT_HOPS * sizeof(Address))
    return hops.hop != NULL and hops.address6 != NULL


cdef inline void next_hops_free(NextHops* hops) noexcept nogil:
    memory_release(hops.hop, MAX_NEXT_HOPS * sizeof(NextHop))
    memory_release(hops.address6, MAX_NEXT_HOPS * sizeof(Address))
    hops.hop = NULL
    hops.address6 = NULL


cdef inline bint next_hops_copy(NextHops* hops, const NextHops* other) noexcept nogil:
    """Make ``hops`` a copy of ``other``; False if memory ends."""
    hops[0] = other[0]
    hops.hop = NULL
    hops.address6 = NULL
    if not next_hops_reserve(hops):
        return False
    memcpy(hops.hop, other.hop, other.used * sizeof(NextHop))
    memcpy(hops.address6, other.address6, other.used * sizeof(Address))
    return True


cdef inline void next_hops_forget(NextHops* hops, const Table* four,
                                  const Table* six) noexcept nogil:
    """Forget all; when numbers become few, connections too, and numbers begin anew."""
    cdef uint32_t i
    for i in range(hops.first, hops.used):
        hops.hop[i].ingress = 0
    memset(hops.head, 0, sizeof(hops.head))
    hops.first = hops.used
    if hops.used <= MAX_NEXT_HOPS / 2:
        return
    for i in range(four.used):
        memset(connection4(four, i).next_hop, 0, 4)
    for i in range(six.used):
        memset(connection6(six, i).next_hop, 0, 4)
    hops.first = 1
    hops.used = 1


cdef inline void next_hops_resolve(NextHops* hops, const Routes* routes, uint8_t family,
                                   uint32_t interface) noexcept nogil:
    """Neighbours on an interface have other link addresses now."""
    cdef uint32_t i
    cdef Address a
    cdef const Neighbour* neighbour
    memset(&a, 0, sizeof(Address))
    for i in range(hops.first, hops.used):
        if hops.hop[i].egress != interface or hops.hop[i].family != family:
            continue
        if family == IPV6:
            a = hops.address6[i]
        else:
            memcpy(&a, &hops.hop[i].address, 4)
        neighbour = neighbour_find(routes, family, interface, &a)
        if neighbour == NULL:
            hops.hop[i].ingress = 0
        else:
            memcpy(hops.hop[i].link, neighbour.mac, 6)


cdef inline bint next_hop_is(const NextHops* hops, uint32_t i, const NextHop* to,
                             const Address* address) noexcept nogil:
    cdef const NextHop* hop = &hops.hop[i]
    return (hop.address == to.address and hop.ingress == to.ingress and hop.egress == to.egress
            and hop.family == to.family
            and (to.family == IPV4 or address_equal(&hops.address6[i], address)))


cdef inline uint32_t next_hop_number(NextHops* hops, NextHop* to,
                                     const Address* address) noexcept nogil:
    """The number of a next hop, which is new or not; 0 if there are too many. ``address``: of
    IPv6, else not looked at."""
    cdef uint16_t* head
    cdef uint32_t i
    if to.family == IPV6:
        to.address = address_word(address)
    head = &hops.head[
        ((to.address ^ <uint32_t>(to.ingress - 1) << 16 ^ to.egress) * <uint32_t>0x9E3779B1)
        >> (32 - NEXT_HOP_BITS)]
    i = head[0]
    while i and not next_hop_is(hops, i, to, address):
        i = hops.hop[i].next
    if i == 0:
        if hops.used == MAX_NEXT_HOPS:
            return 0
        i = hops.used
        hops.used += 1
        to.next = head[0]
        hops.hop[i] = to[0]
        if to.family == IPV6:
            hops.address6[i] = address[0]
        head[0] = <uint16_t>i
    return i


cdef inline bint next_hop_set(NextHops* hops, Connection4* c, uint32_t direction,
                              uint32_t ingress, const Path* path) noexcept nogil:
    """Let a connection keep where its packets of a direction leave that come in by an interface;
    False if there are too many next hops."""
    cdef NextHop to
    cdef uint32_t number
    memset(&to, 0, sizeof(NextHop))
    memcpy(to.link, path.link, 12)
    to.mtu = path.mtu
    to.address = path.next_hop
    to.family = IPV4
    to.ingress = <uint16_t>(ingress + 1)
    to.egress = path.egress
    number = next_hop_number(hops, &to, NULL)
    if number == 0:
        return False
    c.next_hop[direction] = <uint16_t>number
    return True
