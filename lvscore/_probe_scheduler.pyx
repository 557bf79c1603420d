"""Schedulers with servers that can be given any load, for tests and micro-benchmarks.

Tuples are (protocol, source, source port, destination, destination port) with packed
addresses and ports in host order; indices of servers stand for them.
"""

cimport cython
from libc.stdint cimport int32_t, uint32_t, uint64_t, uint8_t

from lvscore._core cimport load as _load
from lvscore._core cimport locality as _locality
from lvscore._core cimport scheduler as _scheduler
from lvscore._core cimport scheduler_types as _types
from lvscore._core cimport server as _server
from lvscore._core.bytes cimport htons
from lvscore._core.consts cimport IPV4, IPV6, NIL
from lvscore._core.flow cimport Address, Tuple, address_load, ports_make
from lvscore._core.hash cimport hash_32 as _hash_32
from lvscore._core.scheduler_maglev cimport sip_hash as _sip_hash
from lvscore._core.service cimport (
    ServiceOptions, Services, scheduler_set, server_add, server_edit, server_remove, service_add,
    services_copy, services_free, services_init,
)

__all__ = ["Scheduler", "hash_32", "sip_hash"]


cdef Address address_from(bytes packed):
    return address_load(<const uint8_t*><const char*>packed, IPV4 if len(packed) == 4 else IPV6)


cdef Tuple tuple_from(object given) except *:
    cdef Tuple t
    protocol, source, sport, destination, dport = given
    t.family = IPV4 if len(source) == 4 else IPV6
    t.protocol = protocol
    t.source = address_from(source)
    t.destination = address_from(destination)
    t.ports = ports_make(htons(sport), htons(dport))
    return t


def hash_32(uint32_t value, uint32_t bits):
    return _hash_32(value, bits)


def sip_hash(uint32_t value, uint64_t key):
    return _sip_hash(value, key)


@cython.final
cdef class Scheduler:
    """One service with servers that can be given any load."""

    cdef Services services
    cdef uint64_t chance

    def __cinit__(self, int kind, int flags=0, int family=4, uint64_t seed=0):
        cdef Address address = address_from(bytes(4 if family == 4 else 16))
        cdef ServiceOptions options
        options.flags = 0
        self.chance = seed
        if not services_init(&self.services) or service_add(
                &self.services, family, 6, &address, htons(80), kind, flags, &options, 0) == NIL:
            raise MemoryError()

    def __dealloc__(self):
        services_free(&self.services)

    def add(self, bytes address, int32_t weight=1, uint32_t upper=0, uint32_t lower=0,
            uint64_t tick=0, port=80):
        cdef Address a = address_from(address)
        cdef uint8_t family = IPV4 if len(address) == 4 else IPV6
        cdef _server.Tunnel tunnel
        tunnel.type = tunnel.flags = tunnel.port = 0
        return server_add(&self.services, 0, &a, family, htons(port), 0, weight, upper, lower,
                          tunnel, tick)

    def edit(self, uint32_t server, int32_t weight, uint32_t upper=0, uint32_t lower=0):
        cdef _server.Tunnel tunnel = self.services.server[server].tunnel
        server_edit(&self.services, server, 0, weight, upper, lower, tunnel)

    def remove(self, uint32_t server, uint64_t tick=0):
        server_remove(&self.services, server, tick)

    def bind(self, uint32_t server):
        _load.load_bind(&self.services, server)

    def unbind(self, uint32_t server, bint inactive=True, uint64_t tick=0):
        _load.load_unbind(&self.services, server, inactive, tick)

    def load(self, uint32_t server, uint32_t active, uint32_t inactive, bint overloaded=False):
        cdef _server.Server* entry = &self.services.server[server]
        entry.active = active
        entry.inactive = inactive
        entry.flags &= ~<uint32_t>_server.SERVER_OVERLOADED
        if overloaded:
            entry.flags |= _server.SERVER_OVERLOADED
        _load.load_moved(&self.services, server)

    def server(self, uint32_t server):
        """The entry of a server, field by field."""
        return self.services.server[server]

    def set(self, int kind, int flags=0, uint64_t tick=0):
        """Take another scheduler, or the same one afresh by way of none."""
        if not (scheduler_set(&self.services, 0, _types.SCHEDULER_NONE, 0, tick)
                and scheduler_set(&self.services, 0, kind, flags, tick)):
            raise MemoryError()

    def reset(self):
        """Start the scheduler afresh, as another kind would."""
        cdef _types.Scheduler* scheduler = &self.services.service[0].scheduler
        self.set(scheduler.kind, scheduler.flags)

    def copy(self):
        """A copy that shares nothing."""
        cdef Scheduler other = Scheduler(0)
        services_free(&other.services)
        if not services_copy(&other.services, &self.services):
            raise MemoryError()
        other.chance = self.chance
        return other

    def pick(self, t=(6, bytes(4), 1000, bytes(4), 80), uint64_t tick=0):
        cdef Tuple u = tuple_from(t)
        cdef uint32_t server = _scheduler.scheduler_pick(
            &self.services.service[0].scheduler, self.services.server, &u, tick, &self.chance)
        return None if server == NIL else server

    def buckets(self):
        cdef _types.Scheduler* scheduler = &self.services.service[0].scheduler
        return [scheduler.buckets[i] for i in range(_scheduler.bucket_count(scheduler.kind))]

    def cache(self, bytes address):
        """What lblc and lblcr remember of a destination: (used, changed, servers), or None."""
        cdef _locality.Cache* cache = self.services.service[0].scheduler.cache
        cdef Address a = address_from(address)
        cdef _locality.Entry* entry = _locality.cache_find(cache, &a)
        if entry == NULL:
            return None
        servers = []
        cdef uint32_t m = entry.members
        while m != NIL:
            servers.append(cache.member[m].server)
            m = cache.member[m].next
        return entry.used, entry.changed, servers

    def cache_size(self):
        return self.services.service[0].scheduler.cache.count
