"""What the route stage knows: local addresses, interfaces, routes and neighbours.

A Host fills these tables, and then only its own addresses are local. An engine without a Host
has only what it was given: its service addresses count as local, and masquerading needs
interfaces and routes.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from lvscore._core.flow cimport Address, address_equal
from lvscore._core.machine cimport multiply_fold

cdef enum:
    MAX_ROUTES = 1024
    MAX_INTERFACES = 256
    NO_INTERFACE = 0xFFFFFFFF

cdef enum RouteKind:
    ROUTE_UNICAST = 0
    ROUTE_LOCAL = 1         # ip route add local
    ROUTE_BROADCAST = 2


cdef struct LocalAddress:
    Address address
    uint32_t uses           # 0: the entry is free or was removed
    uint32_t own            # of these, by a Host
    uint8_t family          # 0: never used


cdef struct Route:
    Address network
    Address source          # address of the interface, for masquerading
    Address gateway
    uint32_t interface
    uint8_t length          # of the prefix, in bits
    uint8_t family
    uint8_t kind
    bint has_source
    bint has_gateway


# An interface of a Host, and the sysctls (conf.*) that hold for it.
cdef struct Interface:
    uint32_t mtu
    uint8_t mac[6]
    uint8_t rp_filter
    bint present
    bint point_to_point     # one neighbour, that of the address 0, stands for all
    bint send_redirects
    bint accept_source_route
    bint forwarding[2]      # IPv4, IPv6
    bint has_primary[2]
    Address primary[2]      # the first address, of IPv4 and IPv6


cdef struct Neighbour:
    Address address
    uint32_t interface
    uint8_t mac[6]
    uint8_t family          # 0: the entry is free


cdef struct Routes:
    LocalAddress* local
    Neighbour* neighbour
    uint32_t local_mask
    uint32_t local_taken
    uint32_t neighbour_mask
    uint32_t neighbour_count
    uint32_t count
    bint hosted             # a Host has filled the tables
    Interface interface[256]
    Route route[1024]       # local and broadcast ones, then longest prefix first


cdef inline bint routes_init(Routes* routes) noexcept nogil:
    memset(routes, 0, sizeof(Routes))
    routes.local_mask = 15
    routes.local = <LocalAddress*>calloc(16, sizeof(LocalAddress))
    routes.neighbour = <Neighbour*>calloc(1, sizeof(Neighbour))
    return routes.local != NULL and routes.neighbour != NULL


cdef inline void routes_free(Routes* routes) noexcept nogil:
    free(routes.local)
    free(routes.neighbour)
    routes.local = NULL
    routes.neighbour = NULL


cdef inline bint routes_copy(Routes* routes, const Routes* other) noexcept nogil:
    routes[0] = other[0]
    routes.neighbour = NULL
    routes.local = <LocalAddress*>malloc(
        (<size_t>other.local_mask + 1) * sizeof(LocalAddress))
    if routes.local == NULL:
        return False
    memcpy(routes.local, other.local, (<size_t>other.local_mask + 1) * sizeof(LocalAddress))
    routes.neighbour = <Neighbour*>malloc(
        (<size_t>other.neighbour_mask + 1) * sizeof(Neighbour))
    if routes.neighbour == NULL:
        return False
    memcpy(routes.neighbour, other.neighbour,
           (<size_t>other.neighbour_mask + 1) * sizeof(Neighbour))
    return True


cdef inline uint32_t local_slot(const Routes* routes, uint8_t family,
                                const Address* address) noexcept nogil:
    """The entry of an address, or the one where it would be put."""
    cdef uint32_t slot = <uint32_t>multiply_fold(
        address.word[0] ^ <uint64_t>0x9E3779B97F4A7C15ULL,
        address.word[1] ^ <uint64_t>0xD1B54A32D192ED03ULL)
    cdef const LocalAddress* entry
    while True:
        slot &= routes.local_mask
        entry = &routes.local[slot]
        if entry.family == 0 or (entry.family == family
                                 and address_equal(&entry.address, address)):
            return slot
        slot += 1


cdef inline bint prefix_matches(const Address* network, uint32_t length,
                                const Address* address) noexcept nogil:
    """Whether the first ``length`` bits are the same."""
    cdef const uint8_t* a = <const uint8_t*>network
    cdef const uint8_t* b = <const uint8_t*>address
    cdef uint32_t i
    for i in range(length >> 3):
        if a[i] != b[i]:
            return False
    if length & 7:
        return (a[length >> 3] ^ b[length >> 3]) >> (8 - (length & 7)) == 0
    return True


cdef inline bint address_is_local(const Routes* routes, uint8_t family,
                                  const Address* address) noexcept nogil:
    cdef const LocalAddress* entry = &routes.local[local_slot(routes, family, address)]
    cdef uint32_t i
    cdef const Route* route
    if not routes.hosted:
        return entry.uses != 0
    if entry.own:
        return True
    for i in range(routes.count):
        route = &routes.route[i]
        if route.kind == ROUTE_UNICAST:
            break
        if (route.kind == ROUTE_LOCAL and route.family == family
                and prefix_matches(&route.network, route.length, address)):
            return True
    return False


cdef inline bint local_grow(Routes* routes) noexcept nogil:
    cdef LocalAddress* old = routes.local
    cdef uint32_t size = routes.local_mask + 1
    cdef uint32_t i, slot
    cdef LocalAddress* new = <LocalAddress*>calloc(2 * <size_t>size, sizeof(LocalAddress))
    if new == NULL:
        return False
    routes.local = new
    routes.local_mask = 2 * size - 1
    routes.local_taken = 0
    for i in range(size):
        if old[i].uses:
            slot = local_slot(routes, old[i].family, &old[i].address)
            new[slot] = old[i]
            routes.local_taken += 1
    free(old)
    return True


cdef inline bint local_add(Routes* routes, uint8_t family, const Address* address) noexcept nogil:
    """Count one more use of an address as local; False if memory ends."""
    cdef uint32_t slot
    if 2 * (routes.local_taken + 1) > routes.local_mask and not local_grow(routes):
        return False
    slot = local_slot(routes, family, address)
    if routes.local[slot].family == 0:
        routes.local[slot].family = family
        routes.local[slot].address = address[0]
        routes.local_taken += 1
    routes.local[slot].uses += 1
    return True


cdef inline void local_remove(Routes* routes, uint8_t family,
                              const Address* address) noexcept nogil:
    cdef uint32_t slot = local_slot(routes, family, address)
    if routes.local[slot].uses:
        routes.local[slot].uses -= 1


cdef inline const Route* route_find(const Routes* routes, uint8_t family,
                                    const Address* destination) noexcept nogil:
    """The route that a destination takes: local and broadcast ones first, then the longest
    matching prefix; or NULL."""
    cdef uint32_t i
    cdef const Route* route
    for i in range(routes.count):
        route = &routes.route[i]
        if route.family == family and prefix_matches(&route.network, route.length, destination):
            return route
    return NULL


cdef inline bint source_towards(const Routes* routes, uint8_t family,
                                const Address* destination, Address* source) noexcept nogil:
    """The address of this host that a packet to ``destination`` would have; False: none."""
    cdef const Route* route = route_find(routes, family, destination)
    if route == NULL or not route.has_source:
        return False
    source[0] = route.source
    return True


cdef inline uint32_t neighbour_slot(const Routes* routes, uint8_t family, uint32_t interface,
                                    const Address* address) noexcept nogil:
    """The entry of a neighbour, or the free one where it would be put."""
    cdef uint32_t slot = <uint32_t>multiply_fold(
        address.word[0] ^ <uint64_t>0x9E3779B97F4A7C15ULL,
        address.word[1] ^ <uint64_t>0xD1B54A32D192ED03ULL ^ interface)
    cdef const Neighbour* entry
    while True:
        slot &= routes.neighbour_mask
        entry = &routes.neighbour[slot]
        if entry.family == 0 or (entry.family == family and entry.interface == interface
                                 and address_equal(&entry.address, address)):
            return slot
        slot += 1


cdef inline const Neighbour* neighbour_find(const Routes* routes, uint8_t family,
                                            uint32_t interface,
                                            const Address* address) noexcept nogil:
    """The neighbour of an address on an interface, or NULL."""
    cdef const Neighbour* entry
    cdef Address any_address
    if routes.interface[interface].point_to_point:
        memset(&any_address, 0, sizeof(Address))
        address = &any_address
    entry = &routes.neighbour[neighbour_slot(routes, family, interface, address)]
    return entry if entry.family else NULL


cdef inline bint neighbour_grow(Routes* routes) noexcept nogil:
    cdef Neighbour* old = routes.neighbour
    cdef uint32_t size = routes.neighbour_mask + 1
    cdef uint32_t i
    cdef Neighbour* new = <Neighbour*>calloc(2 * <size_t>size, sizeof(Neighbour))
    if new == NULL:
        return False
    routes.neighbour = new
    routes.neighbour_mask = 2 * size - 1
    for i in range(size):
        if old[i].family:
            new[neighbour_slot(routes, old[i].family, old[i].interface, &old[i].address)] = old[i]
    free(old)
    return True


cdef inline bint neighbour_put(Routes* routes, const Neighbour* given) noexcept nogil:
    """Add a neighbour, or replace it; False if memory ends."""
    cdef Neighbour* entry
    if 2 * (routes.neighbour_count + 1) > routes.neighbour_mask and not neighbour_grow(routes):
        return False
    entry = &routes.neighbour[
        neighbour_slot(routes, given.family, given.interface, &given.address)]
    if entry.family == 0:
        routes.neighbour_count += 1
    entry[0] = given[0]
    return True


cdef inline void neighbour_remove(Routes* routes, uint8_t family, uint32_t interface,
                                  const Address* address) noexcept nogil:
    """Remove a neighbour, if it is there; those behind it are put where they are looked for."""
    cdef uint32_t slot = neighbour_slot(routes, family, interface, address)
    cdef Neighbour moved
    if routes.neighbour[slot].family == 0:
        return
    routes.neighbour[slot].family = 0
    routes.neighbour_count -= 1
    while True:
        slot = (slot + 1) & routes.neighbour_mask
        moved = routes.neighbour[slot]
        if moved.family == 0:
            return
        routes.neighbour[slot].family = 0
        routes.neighbour[
            neighbour_slot(routes, moved.family, moved.interface, &moved.address)] = moved
