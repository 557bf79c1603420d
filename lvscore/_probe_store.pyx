"""What the engine keeps beside its connections, for tests: port pools, emitted frames, where
addresses and connections lead, and the timer wheel."""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from lvscore._core cimport emit as _emit
from lvscore._core cimport next_hop as _next_hop
from lvscore._core cimport path as _path
from lvscore._core cimport port_pool as _pool
from lvscore._core.bytes cimport htons
from lvscore._core.connection cimport Connection4, Table, connection4
from lvscore._core.consts cimport IPV4, IPV6, NIL
from lvscore._core.flow cimport Address, Tuple, address_load, ports_make
from lvscore._core.hash cimport HashKey, hash_key_init
from lvscore._core.route cimport (
    Neighbour, Routes, local_add, local_slot, neighbour_put, neighbour_remove, neighbour_slot,
    routes_free, routes_init,
)
from lvscore._core.selfcheck cimport wheel_check
from lvscore._core.wheel cimport (
    NO_EVENT, Timer, slot_at, wheel_init, wheel_link, wheel_next_event, wheel_pop, wheel_unlink,
)
from lvscore._core.wheel cimport Wheel as Wheel_t

__all__ = ["Emitted", "NextHops", "Paths", "Pools", "Wheel"]


cdef _pool.Pool pool_from(object given) except *:
    """(protocol, translated address, remote address, remote port, low, high) or a client's
    packed address."""
    cdef _pool.Pool pool
    cdef Tuple t
    memset(&t, 0, sizeof(t))
    if isinstance(given, bytes):
        t.source = address_load(<const uint8_t*><const char*>given,
                                IPV4 if len(given) == 4 else IPV6)
        _pool.pool_of_client(&pool, &t.source, IPV4 if len(given) == 4 else IPV6)
        return pool
    protocol, address, remote, port, low, high = given
    t.family = IPV4 if len(address) == 4 else IPV6
    t.protocol = protocol
    t.source = address_load(<const uint8_t*><const char*>address, t.family)
    t.destination = address_load(<const uint8_t*><const char*>remote, t.family)
    t.ports = ports_make(htons(low), htons(port))
    _pool.pool_of_mapping(&pool, &t, low, high)
    return pool


@cython.final
cdef class Pools:
    """Pools are named as pool_from reads them; their numbers stand for them once taken."""

    cdef _pool.Pools pools
    cdef HashKey key
    cdef uint64_t announced

    def __cinit__(self, uint32_t connections=64, uint64_t seed=0, uint32_t quota=0):
        hash_key_init(&self.key, seed, 0)
        if not _pool.pools_init(&self.pools, connections):
            raise MemoryError()
        self.pools.quota = quota

    def __dealloc__(self):
        _pool.pools_free(&self.pools)

    def copy(self):
        cdef Pools other = Pools()
        _pool.pools_free(&other.pools)
        other.key = self.key
        if not _pool.pools_copy(&other.pools, &self.pools):
            raise MemoryError()
        return other

    def take(self, wanted, uint32_t tick=0, int64_t now=0):
        cdef _pool.Pool pool = pool_from(wanted)
        if self.pools.free == NIL and self.pools.used >= self.pools.limit:
            raise MemoryError("more pools than connections could have")
        return _pool.pool_take(&self.pools, &self.key, &pool, tick, now)

    def give(self, uint32_t pool, uint32_t tick=0):
        if pool >= self.pools.used or not self.pools.pool[pool].used:
            raise ValueError(f"pool {pool} is not in use")
        _pool.pool_give(&self.pools, &self.key, pool, tick)

    def find(self, wanted):
        """(used, capacity, growth in ports a second), or None."""
        cdef _pool.Pool pool = pool_from(wanted)
        cdef uint32_t p = _pool.pool_find(&self.pools, &self.key, &pool)
        if p == NIL:
            return None
        return (self.pools.pool[p].used, self.pools.pool[p].capacity,
                self.pools.pool[p].growth)

    def quota_is_reached(self, bytes client):
        cdef _pool.Pool pool = pool_from(client)
        return _pool.quota_is_reached(&self.pools, &self.key, &pool)

    def events(self):
        """(now, used, percent) of the events since the latest call."""
        said = []
        if self.pools.events - self.announced > _pool.MAX_POOL_EVENTS:
            raise OverflowError("events were overwritten")
        while self.announced < self.pools.events:
            event = self.pools.event[self.announced % _pool.MAX_POOL_EVENTS]
            said.append((event.now, event.pool.used, event.percent))
            self.announced += 1
        return said

    @property
    def memory(self):
        return _pool.pools_memory(&self.pools)


@cython.final
cdef class Emitted:
    """Frames put out, each reserved, written and committed."""

    cdef _emit.Emitted emitted

    def __cinit__(self):
        memset(&self.emitted, 0, sizeof(self.emitted))

    def __dealloc__(self):
        _emit.emitted_free(&self.emitted)

    def emit(self, bytes frame, uint32_t cause=0, int64_t timestamp=0, uint8_t verdict=0,
             uint8_t reason=0, uint32_t spare=0):
        """Reserve ``spare`` bytes more than are written and committed."""
        cdef uint8_t* room = _emit.emit_reserve(&self.emitted, <uint32_t>len(frame) + spare)
        if room == NULL:
            raise MemoryError()
        memcpy(room, <const char*>frame, len(frame))
        self.emitted.cause = cause
        _emit.emit_commit(&self.emitted, <uint32_t>len(frame), timestamp, verdict, reason)

    def clear(self):
        _emit.emitted_clear(&self.emitted)

    def frames(self):
        """(frame, cause, timestamp, verdict, reason) in order."""
        cdef uint32_t k
        said = []
        for k in range(self.emitted.count):
            f = self.emitted.frame[k]
            said.append(((<char*>self.emitted.data)[f.offset:f.offset + f.length], f.cause,
                         f.timestamp, f.verdict, f.reason))
        return said


@cython.final
cdef class Paths:
    """Where addresses lead, over routes with one interface: 10.0.0.0/8 on it, and neighbours."""

    cdef _path.Paths* paths
    cdef Routes* routes

    def __cinit__(self, neighbours, local=()):
        cdef Address a
        cdef Neighbour entry
        self.paths = <_path.Paths*>calloc(1, sizeof(_path.Paths))
        self.routes = <Routes*>calloc(1, sizeof(Routes))
        if self.paths == NULL or self.routes == NULL or not routes_init(self.routes):
            raise MemoryError()
        free(self.routes.neighbour)
        self.routes.neighbour = <Neighbour*>calloc(1024, sizeof(Neighbour))
        if self.routes.neighbour == NULL:
            raise MemoryError()
        self.routes.neighbour_mask = 1023
        self.routes.hosted = True
        self.routes.interface[0].mtu = 1400
        self.routes.route[0].family = IPV4
        self.routes.route[0].length = 8
        self.routes.route[0].network = address_load(<const uint8_t*>b"\n\0\0\0", IPV4)
        self.routes.count = 1
        for address in local:
            a = address_load(<const uint8_t*><const char*>address, IPV4)
            if not local_add(self.routes, IPV4, &a):
                raise MemoryError()
            self.routes.local[local_slot(self.routes, IPV4, &a)].own = 1
        for address, mac in neighbours:
            a = address_load(<const uint8_t*><const char*>address, IPV4)
            memset(&entry, 0, sizeof(entry))
            entry.family = IPV4
            entry.address = a
            memcpy(entry.mac, <const char*>mac, 6)
            self.routes.neighbour[neighbour_slot(self.routes, IPV4, 0, &a)] = entry
            self.routes.neighbour_count += 1

    def __dealloc__(self):
        if self.routes != NULL:
            routes_free(self.routes)
        free(self.routes)
        free(self.paths)

    def clear(self):
        _path.paths_clear(self.paths)

    def of(self, bytes address):
        """(local, martian, unicast, link address or None, MTU)"""
        cdef uint32_t word
        memcpy(&word, <const char*>address, 4)
        return self.told(_path.path_of(self.paths, self.routes, word))

    def of_pair(self, bytes server, bytes service):
        """The same of a server's address, and whether a service's is local."""
        cdef uint32_t words[2]
        memcpy(&words[0], <const char*>server, 4)
        memcpy(&words[1], <const char*>service, 4)
        path = _path.path_of_pair(self.paths, self.routes, words[0], words[1])
        return self.told(path), bool(path.flags & _path.PATH_SERVED)

    cdef tuple told(self, const _path.Path* path):
        foreign = not path.flags & (_path.PATH_LOCAL | _path.PATH_MARTIAN)
        resolved = path.flags & _path.PATH_UNICAST and path.flags & _path.PATH_RESOLVED
        if (bool(path.flags & _path.PATH_SOURCE) != foreign or bool(path.flags & _path.PATH_LEADS)
                != bool(resolved and not path.flags & _path.PATH_LOCAL)):
            raise AssertionError(f"flags {path.flags}")
        return (bool(path.flags & _path.PATH_LOCAL), bool(path.flags & _path.PATH_MARTIAN),
                bool(path.flags & _path.PATH_UNICAST),
                (<const char*>path.link)[:6] if path.flags & _path.PATH_RESOLVED else None,
                path.mtu)


@cython.final
cdef class NextHops:
    """Where packets of so many connections go that come in by an interface, over ``paths``."""

    cdef _next_hop.NextHops hops
    cdef Table table, none
    cdef Paths paths

    def __cinit__(self, Paths paths not None, uint32_t connections):
        self.paths = paths
        memset(&self.table, 0, sizeof(Table))
        memset(&self.none, 0, sizeof(Table))
        self.table.records = <uint8_t*>calloc(connections, sizeof(Connection4))
        if not _next_hop.next_hops_init(&self.hops) or self.table.records == NULL:
            raise MemoryError()
        self.table.used = connections

    def __dealloc__(self):
        _next_hop.next_hops_free(&self.hops)
        free(self.table.records)

    cdef Connection4* connection(self, uint32_t i) except NULL:
        if i >= self.table.used:
            raise IndexError(i)
        return connection4(&self.table, i)

    def set(self, uint32_t i, uint32_t direction, uint32_t ingress, bytes address):
        cdef uint32_t word
        memcpy(&word, <const char*>address, 4)
        return bool(_next_hop.next_hop_set(
            &self.hops, self.connection(i), direction & 1, ingress,
            _path.path_of(self.paths.paths, self.paths.routes, word)))

    def of(self, uint32_t i, uint32_t direction):
        """(interface that packets come in by, link address, MTU), or None."""
        hop = &self.hops.hop[self.connection(i).next_hop[direction & 1]]
        if hop.ingress == 0:
            return None
        return hop.ingress - 1, (<const char*>hop.link)[:6], hop.mtu

    def forget(self):
        self.paths.clear()
        _next_hop.next_hops_forget(&self.hops, &self.table, &self.none)

    def tell(self, bytes address, mac):
        """Let a neighbour have this link address, or none."""
        cdef Neighbour entry
        memset(&entry, 0, sizeof(entry))
        entry.family = IPV4
        entry.address = address_load(<const uint8_t*><const char*>address, IPV4)
        if mac is None:
            neighbour_remove(self.paths.routes, IPV4, 0, &entry.address)
        else:
            memcpy(entry.mac, <const char*>mac, 6)
            if not neighbour_put(self.paths.routes, &entry):
                raise MemoryError()
        self.paths.clear()
        _next_hop.next_hops_resolve(&self.hops, self.paths.routes, IPV4, 0)


@cython.final
cdef class Wheel:
    """``count`` timers; a popped or unlinked one may be linked again."""

    cdef Wheel_t wheel
    cdef Timer* timers

    def __cinit__(self, count, start=0):
        self.timers = <Timer*>calloc(count, sizeof(Timer))
        if self.timers == NULL:
            raise MemoryError()
        wheel_init(&self.wheel, <uint8_t*>self.timers, sizeof(Timer))
        self.wheel.tick = start

    def __dealloc__(self):
        free(self.timers)

    @property
    def tick(self):
        return self.wheel.tick

    def link(self, uint32_t i, deadline):
        self.timers[i].deadline = deadline & 0xFFFFFFFF
        wheel_link(&self.wheel, i)

    def postpone(self, uint32_t i, deadline):
        """Only write the deadline, which must not be earlier than the present one."""
        self.timers[i].deadline = deadline & 0xFFFFFFFF

    def unlink(self, uint32_t i):
        wheel_unlink(&self.wheel, i)

    def pop(self, uint64_t until):
        cdef uint32_t i = wheel_pop(&self.wheel, until)
        return None if i == NIL else i

    def linked(self, uint32_t level, uint64_t tick):
        """How many timers the slot of a level holds that comes up next at or before a tick."""
        return self.wheel.slot[slot_at(level, tick)].linked

    def next_event(self):
        cdef uint64_t event = wheel_next_event(&self.wheel)
        return None if event == <uint64_t>NO_EVENT else event

    def check(self):
        cdef uint64_t linked
        return wheel_check(&self.wheel, &linked), linked
