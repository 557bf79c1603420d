"""Where the packets of a connection go next: a Host's next hops, by number.

A connection keeps for each direction the number of the next hop that its latest packet had, so
that the next one needs no look-up; flow tables keep a route so (nf_flow_table_core.c). A number
says more than where: that packets which come in by that interface may come in, and be sent on.

When routes or addresses are told anew, all next hops are forgotten, and no other gets their
numbers: a connection that still has one looks again.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from lvscore._core.connection cimport Connection4, Table, connection4
from lvscore._core.consts cimport IPV4
from lvscore._core.flow cimport Address
from lvscore._core.machine cimport memory_release, memory_reserve
from lvscore._core.path cimport Path
from lvscore._core.route cimport Neighbour, Routes, neighbour_find

cdef enum:
    MAX_NEXT_HOPS = 65536
    NEXT_HOP_BITS = 12          # of the number of a chain


cdef struct NextHop:
    uint8_t link[12]            # addresses of an Ethernet frame to it
    uint32_t mtu
    uint32_t address
    uint16_t ingress            # interface that the packets come in by, plus one; 0: forgotten
    uint16_t egress
    uint16_t next               # of its chain, older; 0: none
    uint16_t reserved[3]


cdef struct NextHops:
    NextHop* hop                # 0 is none
    uint16_t head[4096]         # of chains by address and interfaces
    uint32_t first              # of those that are not forgotten
    uint32_t used


cdef inline bint next_hops_init(NextHops* hops) noexcept nogil:
    """Reserve address space; False if the system refuses."""
    memset(hops, 0, sizeof(NextHops))
    hops.first = 1
    hops.used = 1
    hops.hop = <NextHop*>memory_reserve(MAX_NEXT_HOPS * sizeof(NextHop))
    return hops.hop != NULL


cdef inline void next_hops_free(NextHops* hops) noexcept nogil:
    memory_release(hops.hop, MAX_NEXT_HOPS * sizeof(NextHop))
    hops.hop = NULL


cdef inline bint next_hops_copy(NextHops* hops, const NextHops* other) noexcept nogil:
    """Make ``hops`` a copy of ``other``; False if memory ends."""
    hops[0] = other[0]
    hops.hop = <NextHop*>memory_reserve(MAX_NEXT_HOPS * sizeof(NextHop))
    if hops.hop == NULL:
        return False
    memcpy(hops.hop, other.hop, other.used * sizeof(NextHop))
    return True


cdef inline void next_hops_forget(NextHops* hops, Table* table) noexcept nogil:
    """Forget all; when numbers become few, connections too, and numbers begin anew."""
    cdef uint32_t i
    for i in range(hops.first, hops.used):
        hops.hop[i].ingress = 0
    memset(hops.head, 0, sizeof(hops.head))
    hops.first = hops.used
    if hops.used <= MAX_NEXT_HOPS / 2:
        return
    for i in range(table.used):
        memset(connection4(table, i).next_hop, 0, 4)
    hops.first = 1
    hops.used = 1


cdef inline void next_hops_resolve(NextHops* hops, const Routes* routes,
                                   uint32_t interface) noexcept nogil:
    """Neighbours on an interface have other link addresses now."""
    cdef uint32_t i
    cdef Address a
    cdef const Neighbour* neighbour
    memset(&a, 0, sizeof(Address))
    for i in range(hops.first, hops.used):
        if hops.hop[i].egress != interface:
            continue
        memcpy(&a, &hops.hop[i].address, 4)
        neighbour = neighbour_find(routes, IPV4, interface, &a)
        if neighbour == NULL:
            hops.hop[i].ingress = 0
        else:
            memcpy(hops.hop[i].link, neighbour.mac, 6)


cdef inline bint next_hop_set(NextHops* hops, Connection4* c, uint32_t direction,
                              uint32_t ingress, const Path* to) noexcept nogil:
    """Let a connection keep where its packets of a direction leave that come in by an interface;
    False if there are too many next hops."""
    cdef uint32_t address = to.next_hop
    cdef uint16_t* head = &hops.head[
        ((address ^ ingress << 16 ^ to.egress) * <uint32_t>0x9E3779B1) >> (32 - NEXT_HOP_BITS)]
    cdef uint32_t i = head[0]
    cdef NextHop* hop
    while i and (hops.hop[i].address != address or hops.hop[i].ingress != ingress + 1
                 or hops.hop[i].egress != to.egress):
        i = hops.hop[i].next
    if i == 0:
        if hops.used == MAX_NEXT_HOPS:
            return False
        i = hops.used
        hops.used += 1
        hop = &hops.hop[i]
        memcpy(hop.link, to.link, 12)
        hop.mtu = to.mtu
        hop.address = address
        hop.ingress = <uint16_t>(ingress + 1)
        hop.egress = to.egress
        hop.next = head[0]
        head[0] = <uint16_t>i
    c.next_hop[direction] = <uint16_t>i
    return True
