"""What a Host knows of an IPv4 address, in a small cache: whose it is, and where it leads.

It says what route.pxd and forward.pxd would, and is emptied when routes, addresses, interfaces or
neighbours are told anew. An address has two places to be at, one cache line: the newest of those
that want them are there. Of a server's address it is known together with a service's, since
requests to the one come for the other.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from lvscore._core.consts cimport IPV4
from lvscore._core.flow cimport Address
from lvscore._core.forward cimport address_is_martian
from lvscore._core.machine cimport likely
from lvscore._core.route cimport (
    Neighbour, ROUTE_UNICAST, Route, Routes, address_is_local, neighbour_find, route_find,
)

cdef enum:
    PATH_BITS = 11              # of the number of a line
    PAIR_BITS = 9
    PATH_USED = 0x100000000     # in a key: not even that of 0.0.0.0 is 0


cdef enum PathFlag:
    PATH_LOCAL = 1
    PATH_MARTIAN = 2
    PATH_UNICAST = 4            # there is a way, which leaves by ``egress``
    PATH_RESOLVED = 8           # the next hop's link address is known
    PATH_SERVED = 16            # of a pair: the service's address is local
    PATH_SOURCE = 32            # neither local nor martian: packets may come from there
    PATH_LEADS = 64             # unicast, resolved, not local: packets for it can leave


cdef struct Path:
    uint64_t key                # address and PATH_USED; of a pair, both addresses; 0: empty
    uint8_t link[12]            # addresses of an Ethernet frame towards it
    uint32_t mtu
    uint16_t egress
    uint8_t flags
    uint32_t next_hop           # address, as it lies in memory


cdef struct Paths:
    Path path[4096]
    Path pair[1024]


cdef inline void paths_clear(Paths* paths) noexcept nogil:
    memset(paths, 0, sizeof(Paths))


cdef inline void path_fill(Path* path, const Routes* routes, uint32_t address) noexcept nogil:
    """Find out about an address."""
    cdef Address a
    cdef const Address* next_hop = &a
    cdef const Route* route
    cdef const Neighbour* neighbour
    memset(path, 0, sizeof(Path))
    memset(&a, 0, sizeof(Address))
    memcpy(&a, &address, 4)
    path.key = PATH_USED | address
    if address_is_martian(IPV4, &a):
        path.flags |= PATH_MARTIAN
    if address_is_local(routes, IPV4, &a):
        path.flags |= PATH_LOCAL
    if not path.flags:
        path.flags |= PATH_SOURCE
    route = route_find(routes, IPV4, &a)
    if route == NULL or route.kind != ROUTE_UNICAST:
        return
    path.flags |= PATH_UNICAST
    path.egress = <uint16_t>route.interface
    path.mtu = routes.interface[route.interface].mtu
    memcpy(&path.link[6], routes.interface[route.interface].mac, 6)
    if route.has_gateway:
        next_hop = &route.gateway
    memcpy(&path.next_hop, next_hop, 4)
    neighbour = neighbour_find(routes, IPV4, route.interface, next_hop)
    if neighbour != NULL:
        memcpy(path.link, neighbour.mac, 6)
        path.flags |= PATH_RESOLVED
        if not path.flags & PATH_LOCAL:
            path.flags |= PATH_LEADS


cdef inline const Path* path_of(Paths* paths, const Routes* routes,
                                uint32_t address) noexcept nogil:
    """What is known of an address, given as it lies in memory; good until the next call."""
    cdef uint64_t key = PATH_USED | address
    cdef Path* path = &paths.path[2 * ((address * <uint32_t>0x9E3779B1) >> (32 - PATH_BITS))]
    path += path[1].key == key          # no branch: packets have their addresses in any order
    if likely(path.key != key, False):
        path[1] = path[0]
        path_fill(path, routes, address)
    return path


cdef inline const Path* path_of_pair(Paths* paths, const Routes* routes, uint32_t server,
                                     uint32_t service) noexcept nogil:
    """What is known of a server's address, and whether a service's is local; neither is 0."""
    cdef uint64_t key = <uint64_t>server << 32 | service
    cdef Address a
    cdef Path* path = &paths.pair[
        2 * (((server ^ service) * <uint32_t>0x9E3779B1) >> (32 - PAIR_BITS))]
    path += path[1].key == key
    if likely(path.key != key, False):
        path[1] = path[0]
        path_fill(path, routes, server)
        path.key = key
        memset(&a, 0, sizeof(Address))
        memcpy(&a, &service, 4)
        if address_is_local(routes, IPV4, &a):
            path.flags |= PATH_SERVED
    return path
