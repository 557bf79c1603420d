"""Virtual services and their real servers, and how a packet finds its service.

Servers lie in one array, whose entry 0 is no server: connections that have none count there.
A server that was removed keeps its entry while connections use it and for two minutes more
(ip_vs_ctl.c, the trash): added again to the same service it has its counters back.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove, memset

from lvscore._core.bytes cimport htonl, htons, ntohs
from lvscore._core.consts cimport NIL, PROTOCOL_MARK, PROTOCOL_TCP, TICKS_PER_SECOND
from lvscore._core.estimator cimport (
    COUNTERS, Estimator, estimator_rebase, estimator_update, estimator_zero,
)
from lvscore._core.flow cimport Address, address_equal
from lvscore._core.machine cimport memory_release, memory_reserve, multiply_fold
from lvscore._core.scheduler cimport (
    scheduler_added, scheduler_advance, scheduler_changed, scheduler_copy, scheduler_forget,
    scheduler_free, scheduler_removed, scheduler_start,
)
from lvscore._core.scheduler_load cimport ranking_fill, ranking_reserve
from lvscore._core.scheduler_types cimport Scheduler
from lvscore._core.server cimport (
    METHOD_TUNNEL, SERVER_AVAILABLE, SERVER_MOVED, SERVER_RANKED, Server, Tunnel, server_set,
)

cdef enum:
    MAX_SERVERS = 1048576
    MAX_SERVICES = 131072
    TRASH_TICKS = 120 * TICKS_PER_SECOND
    FTP_PORT = 21
    FTP_DATA_PORT = 20
    FIRST_UNPRIVILEGED_PORT = 1024

cdef enum ServiceFlag:          # include/uapi/linux/ip_vs.h: IP_VS_SVC_F_*
    SERVICE_PERSISTENT = 1
    SERVICE_ONE_PACKET = 4


# How a service schedules, besides its scheduler.
cdef struct ServiceOptions:
    Address netmask         # of persistence: clients that are one client
    uint32_t flags
    uint32_t timeout        # ticks, of persistence
    uint32_t engine         # persistence engine

cdef enum PersistenceEngine:
    ENGINE_NONE = 0
    ENGINE_SIP = 1          # clients are told apart by the Call-ID of their dialogs


cdef struct Service:
    Scheduler scheduler
    ServiceOptions options
    Address address         # of protocol PROTOCOL_MARK: the mark, as an IPv4 address is written
    Estimator estimator
    uint64_t kept[5]        # counters of servers that left
    uint64_t serial         # order of adding
    uint16_t port           # as on the wire
    uint8_t protocol
    uint8_t family
    bint used


cdef struct Services:
    Service* service
    Server* server
    uint32_t* slots         # open addressing by (family, protocol, address, port)
    uint32_t slot_mask
    uint32_t slots_taken    # slots that are or were in use
    uint32_t count
    uint32_t marks          # services on a firewall mark
    uint32_t ftp            # services on port 21
    uint32_t any_port       # services on port 0
    uint32_t sip            # services with the persistence engine sip
    uint32_t service_used   # entries of service that were ever used
    uint32_t server_used
    uint32_t removed        # servers that were removed and still have their entry
    bint tunnels            # connections may go through a tunnel: one of the servers ever did
    uint64_t serial
    uint64_t kept[5]        # counters of services that left
    Estimator estimator     # of all together


cdef inline bint services_init(Services* s) noexcept nogil:
    memset(s, 0, sizeof(Services))
    s.service = <Service*>memory_reserve(<size_t>MAX_SERVICES * sizeof(Service))
    s.server = <Server*>memory_reserve(<size_t>MAX_SERVERS * sizeof(Server))
    s.slot_mask = 15
    s.slots = <uint32_t*>malloc(16 * sizeof(uint32_t))
    if not (s.service and s.server and s.slots):
        return False
    memset(s.slots, 0xFF, 16 * sizeof(uint32_t))
    s.server_used = 1
    s.server[0].flags = SERVER_AVAILABLE
    return True


cdef inline void services_free(Services* s) noexcept nogil:
    cdef uint32_t i
    if s.service != NULL:
        for i in range(s.service_used):
            scheduler_free(&s.service[i].scheduler)
    memory_release(s.service, <size_t>MAX_SERVICES * sizeof(Service))
    memory_release(s.server, <size_t>MAX_SERVERS * sizeof(Server))
    free(s.slots)
    memset(s, 0, sizeof(Services))


cdef inline bint services_copy(Services* s, const Services* other) noexcept nogil:
    """Make ``s`` a copy of ``other``; False if memory ends, then free it all the same."""
    cdef uint32_t i
    if not services_init(s):
        return False
    free(s.slots)
    s.slots = <uint32_t*>malloc((<size_t>other.slot_mask + 1) * sizeof(uint32_t))
    if s.slots == NULL:
        return False
    memcpy(s.slots, other.slots, (<size_t>other.slot_mask + 1) * sizeof(uint32_t))
    s.slot_mask = other.slot_mask
    s.slots_taken = other.slots_taken
    s.count = other.count
    s.marks = other.marks
    s.ftp = other.ftp
    s.any_port = other.any_port
    s.sip = other.sip
    s.server_used = other.server_used
    s.removed = other.removed
    s.serial = other.serial
    s.estimator = other.estimator
    memcpy(s.kept, other.kept, sizeof(s.kept))
    memcpy(s.server, other.server, <size_t>other.server_used * sizeof(Server))
    for i in range(other.service_used):
        s.service[i] = other.service[i]
        s.service_used = i + 1
        if not scheduler_copy(&s.service[i].scheduler, &other.service[i].scheduler):
            return False
    return True


cdef inline uint32_t service_slot(uint8_t family, uint8_t protocol, const Address* address,
                                  uint16_t port) noexcept nogil:
    """Where the search for a service begins: administrators choose the keys, no seed needed."""
    return <uint32_t>multiply_fold(
        address.word[0] ^ <uint64_t>0x9E3779B97F4A7C15ULL,
        address.word[1] ^ <uint64_t>0xD1B54A32D192ED03ULL
        ^ (<uint64_t>protocol << 40 | <uint64_t>family << 32 | port))


cdef inline uint32_t service_find(const Services* s, uint8_t family, uint8_t protocol,
                                  const Address* address, uint16_t port) noexcept nogil:
    """The service on exactly this protocol, address and port, or NIL."""
    cdef uint32_t slot = service_slot(family, protocol, address, port)
    cdef uint32_t i
    cdef const Service* service
    while True:
        i = s.slots[slot & s.slot_mask]
        if i == NIL:
            return NIL
        service = &s.service[i]
        if (service.used and service.port == port and service.protocol == protocol
                and service.family == family and address_equal(&service.address, address)):
            return i
        slot += 1


cdef inline Address mark_address(uint32_t mark) noexcept nogil:
    """A firewall mark where a service has its address."""
    cdef Address address
    cdef uint32_t wire = htonl(mark)
    address.word[0] = 0
    address.word[1] = 0
    memcpy(&address, &wire, 4)
    return address


cdef inline bint may_be_ftp_data(uint8_t protocol, uint16_t port) noexcept nogil:
    """Whether a port may be that of an FTP service's data connection."""
    return protocol == PROTOCOL_TCP and (
        ntohs(port) == FTP_DATA_PORT or ntohs(port) >= FIRST_UNPRIVILEGED_PORT)


cdef inline uint32_t service_lookup(const Services* s, uint8_t family, uint8_t protocol,
                                    uint32_t mark, const Address* address,
                                    uint16_t port) noexcept nogil:
    """The service that takes a packet, or NIL: that of its mark, that of its port, the FTP
    service if it may be a data connection, the service on port 0 (ip_vs_service_find)."""
    cdef uint32_t i = NIL
    cdef Address marked
    if mark and s.marks:
        marked = mark_address(mark)
        i = service_find(s, family, PROTOCOL_MARK, &marked, 0)
    if i == NIL:
        i = service_find(s, family, protocol, address, port)
    if i == NIL and s.ftp and may_be_ftp_data(protocol, port):
        i = service_find(s, family, protocol, address, htons(FTP_PORT))
    if i == NIL and s.any_port:
        i = service_find(s, family, protocol, address, 0)
    return i


cdef inline void services_note(Services* s, const Service* service, int32_t change) noexcept nogil:
    """Count a service that comes (1) or goes (-1) among those that look-ups try in vain."""
    if service.protocol == PROTOCOL_MARK:
        s.marks += change
    elif service.port == 0:
        s.any_port += change
    elif ntohs(service.port) == FTP_PORT:
        s.ftp += change
    if service.options.engine == ENGINE_SIP:
        s.sip += change


cdef inline bint services_rebuild_slots(Services* s) noexcept nogil:
    """Make room for twice as many services, and forget the slots of removed ones."""
    cdef uint32_t size = 16
    cdef uint32_t i, slot
    cdef uint32_t* slots
    cdef const Service* service
    while size < 4 * (s.count + 1):
        size *= 2
    slots = <uint32_t*>malloc(size * sizeof(uint32_t))
    if slots == NULL:
        return False
    memset(slots, 0xFF, size * sizeof(uint32_t))
    free(s.slots)
    s.slots = slots
    s.slot_mask = size - 1
    s.slots_taken = 0
    for i in range(s.service_used):
        service = &s.service[i]
        if service.used:
            slot = service_slot(service.family, service.protocol, &service.address, service.port)
            while slots[slot & s.slot_mask] != NIL:
                slot += 1
            slots[slot & s.slot_mask] = i
            s.slots_taken += 1
    return True


cdef inline bint scheduler_set(Services* s, uint32_t i, uint32_t kind, uint32_t flags,
                               uint64_t tick) noexcept nogil:
    """Give a service a scheduler; it starts afresh if the kind changes."""
    cdef Scheduler* scheduler = &s.service[i].scheduler
    if scheduler.kind != kind and not scheduler_start(scheduler, s.server, kind, tick):
        return False
    scheduler.flags = flags
    return True


cdef inline uint32_t service_add(Services* s, uint8_t family, uint8_t protocol,
                                 const Address* address, uint16_t port, uint32_t kind,
                                 uint32_t flags, const ServiceOptions* options,
                                 uint64_t tick) noexcept nogil:
    """Add a service that is not there; its index, or NIL at a bound."""
    cdef uint32_t i = 0
    cdef uint32_t slot
    cdef Service* service
    if s.count == MAX_SERVICES:
        return NIL
    if 2 * (s.slots_taken + 1) > s.slot_mask and not services_rebuild_slots(s):
        return NIL
    if s.service_used < MAX_SERVICES:
        i = s.service_used
    else:
        while s.service[i].used:
            i += 1
    service = &s.service[i]
    memset(service, 0, sizeof(Service))
    if not scheduler_set(s, i, kind, flags, tick):
        return NIL
    service.family = family
    service.protocol = protocol
    service.address = address[0]
    service.port = port
    service.used = True
    service.options = options[0]
    services_note(s, service, 1)
    s.serial += 1
    service.serial = s.serial
    if i == s.service_used:
        s.service_used += 1
    slot = service_slot(family, protocol, address, port)
    while s.slots[slot & s.slot_mask] != NIL:
        slot += 1
    s.slots[slot & s.slot_mask] = i
    s.slots_taken += 1
    s.count += 1
    return i


cdef inline void server_counters(const Server* server, uint64_t* counters) noexcept nogil:
    """Connections, packets in, packets out, bytes in, bytes out."""
    counters[0] = server.connections
    counters[1] = server.packets[0]
    counters[2] = server.packets[1]
    counters[3] = server.bytes[0]
    counters[4] = server.bytes[1]


cdef inline void server_joins(Server* server) noexcept nogil:
    server_counters(server, server.base)


cdef inline void server_leaves(const Server* server, uint64_t* kept) noexcept nogil:
    """Add what the server counted since it joined."""
    cdef uint64_t counters[5]
    cdef uint32_t i
    server_counters(server, counters)
    for i in range(5):
        kept[i] += counters[i] - server.base[i]


cdef inline void service_counters(const Services* s, uint32_t i,
                                  uint64_t* counters) noexcept nogil:
    cdef const Service* service = &s.service[i]
    cdef uint32_t k
    for k in range(5):
        counters[k] = service.kept[k]
    for k in range(service.scheduler.count):
        server_leaves(&s.server[service.scheduler.list[k]], counters)


cdef inline uint32_t server_find(const Services* s, uint32_t service, uint8_t family,
                                 const Address* address, uint16_t port) noexcept nogil:
    """The server of a service, or NIL."""
    cdef const Scheduler* scheduler = &s.service[service].scheduler
    cdef const Server* server
    cdef uint32_t i
    for i in range(scheduler.count):
        server = &s.server[scheduler.list[i]]
        if (server.port == port and server.family == family
                and address_equal(&server.address, address)):
            return scheduler.list[i]
    return NIL


cdef inline bint server_is_spent(const Server* server, uint64_t tick) noexcept nogil:
    """Whether a removed server's entry may be used for another."""
    return (not server.flags & SERVER_AVAILABLE and server.active == 0 and server.inactive == 0
            and server.persistent == 0 and server.held == 0
            and tick >= server.idle_since + TRASH_TICKS)


cdef inline uint32_t server_place(Services* s, uint32_t i, const Address* address,
                                  uint8_t family, uint16_t port, uint64_t tick) noexcept nogil:
    """The entry for a new server: its own from the trash, else a spent or a fresh one."""
    cdef const Service* service = &s.service[i]
    cdef uint64_t counters[5]
    cdef uint32_t spent = NIL
    cdef uint32_t k
    cdef Server* server
    for k in range(1, s.server_used if s.removed else 0):
        server = &s.server[k]
        if server.flags & SERVER_AVAILABLE:
            continue
        if server_is_spent(server, tick):
            spent = k
        elif (server.port == port and address_equal(&server.address, address)
                and server.family == family and server.virtual_family == service.family
                and server.virtual_protocol == service.protocol
                and server.virtual_port == service.port
                and address_equal(&server.virtual_address, &service.address)):
            if server.service_serial != service.serial:
                # The service itself is a new one: connections stay, statistics begin anew.
                server_counters(server, counters)
                estimator_zero(&server.estimator)
                estimator_rebase(&server.estimator, counters)
                memset(server.packets, 0, sizeof(server.packets))
                memset(server.bytes, 0, sizeof(server.bytes))
                server.connections = 0
            s.removed -= 1
            return k
    if spent != NIL:
        memset(&s.server[spent], 0, sizeof(Server))
        s.removed -= 1
    elif s.server_used < MAX_SERVERS:
        spent = s.server_used
        s.server_used += 1
    return spent


cdef inline void server_forward(Services* s, Server* server, uint8_t method,
                                Tunnel tunnel) noexcept nogil:
    """Give a server the forwarding method of the connections that it gets from now on."""
    server.method = method
    server.tunnel = tunnel
    s.tunnels |= method == METHOD_TUNNEL


cdef inline uint32_t server_add(Services* s, uint32_t i, const Address* address, uint8_t family,
                                uint16_t port, uint8_t method, int32_t weight, uint32_t upper,
                                uint32_t lower, Tunnel tunnel, uint64_t tick) noexcept nogil:
    """Put a server at the head of service ``i``'s list; its index, or NIL at a bound."""
    cdef const Service* service = &s.service[i]
    cdef Scheduler* scheduler = &s.service[i].scheduler
    cdef uint32_t k, capacity
    cdef uint32_t* grown
    cdef Server* server
    if scheduler.count == scheduler.capacity:
        capacity = 2 * scheduler.capacity if scheduler.capacity else 4
        grown = <uint32_t*>realloc(scheduler.list, capacity * sizeof(uint32_t))
        if grown == NULL:
            return NIL
        scheduler.list = grown
        if not ranking_reserve(&scheduler.ranking, scheduler.kind, capacity):
            return NIL
        ranking_fill(scheduler, s.server)
        scheduler.capacity = capacity
    scheduler_advance(scheduler, s.server, tick)
    k = server_place(s, i, address, family, port, tick)
    if k == NIL:
        return NIL
    server = &s.server[k]
    server.address = address[0]
    server.port = port
    server.family = family
    server_forward(s, server, method, tunnel)
    server.service = i
    server.service_serial = service.serial
    server.virtual_address = service.address
    server.virtual_port = service.port
    server.virtual_protocol = service.protocol
    server.virtual_family = service.family
    server.flags |= SERVER_AVAILABLE
    server.last_weight = 0
    server_set(server, weight, upper, lower)
    server_joins(server)
    memmove(scheduler.list + 1, scheduler.list, scheduler.count * sizeof(uint32_t))
    scheduler.list[0] = k
    scheduler.count += 1
    scheduler_added(scheduler, s.server)
    return k


cdef inline void server_edit(Services* s, uint32_t i, uint8_t method, int32_t weight,
                             uint32_t upper, uint32_t lower, Tunnel tunnel) noexcept nogil:
    """Change a server; its connections keep their forwarding method."""
    server_forward(s, &s.server[i], method, tunnel)
    server_set(&s.server[i], weight, upper, lower)
    scheduler_changed(&s.service[s.server[i].service].scheduler, s.server)


cdef inline void server_remove(Services* s, uint32_t i, uint64_t tick) noexcept nogil:
    cdef Server* server = &s.server[i]
    cdef Scheduler* scheduler = &s.service[server.service].scheduler
    cdef uint32_t place = 0
    server_leaves(server, s.service[server.service].kept)
    server.flags &= ~<uint32_t>(SERVER_AVAILABLE | SERVER_RANKED | SERVER_MOVED)
    server.idle_since = tick
    s.removed += 1
    while scheduler.list[place] != i:
        place += 1
    scheduler.count -= 1
    memmove(scheduler.list + place, scheduler.list + place + 1,
            (scheduler.count - place) * sizeof(uint32_t))
    scheduler_removed(scheduler, s.server, <int32_t>place)


cdef inline void service_remove(Services* s, uint32_t i, uint64_t tick) noexcept nogil:
    cdef Service* service = &s.service[i]
    cdef uint32_t k
    while service.scheduler.count:
        server_remove(s, service.scheduler.list[0], tick)
    for k in range(5):
        s.kept[k] += service.kept[k]
    scheduler_forget(&service.scheduler, s.server, tick)
    scheduler_free(&service.scheduler)
    services_note(s, service, -1)
    service.used = False
    s.count -= 1


cdef inline void services_counters(const Services* s, uint64_t* counters) noexcept nogil:
    """Totals, also of what was removed."""
    cdef uint64_t one[5]
    cdef uint32_t i, k
    for k in range(5):
        counters[k] = s.kept[k]
    for i in range(s.service_used):
        if s.service[i].used:
            service_counters(s, i, one)
            for k in range(5):
                counters[k] += one[k]


cdef inline void services_estimate(Services* s, uint64_t times) noexcept nogil:
    """Make ``times`` estimations of every server, every service, and all together."""
    cdef uint64_t total[5]
    cdef uint64_t counters[5]
    cdef Service* service
    cdef Server* server
    cdef uint32_t i, k
    memcpy(total, s.kept, sizeof(total))
    for i in range(s.service_used):
        service = &s.service[i]
        if not service.used:
            continue
        for k in range(service.scheduler.count):
            server = &s.server[service.scheduler.list[k]]
            server_counters(server, counters)
            estimator_update(&server.estimator, counters, times)
        service_counters(s, i, counters)
        estimator_update(&service.estimator, counters, times)
        for k in range(COUNTERS):
            total[k] += counters[k]
    estimator_update(&s.estimator, total, times)


cdef inline void service_zero(Services* s, uint32_t i) noexcept nogil:
    """Listings of a service and its servers count from the latest estimation on."""
    cdef Service* service = &s.service[i]
    cdef uint32_t k
    estimator_zero(&service.estimator)
    for k in range(service.scheduler.count):
        estimator_zero(&s.server[service.scheduler.list[k]].estimator)


cdef inline void services_zero(Services* s) noexcept nogil:
    """The same for all services, and for the totals."""
    cdef uint32_t i
    for i in range(s.service_used):
        if s.service[i].used:
            service_zero(s, i)
    estimator_zero(&s.estimator)
