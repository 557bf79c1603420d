"""A real server alone and a rate estimator alone, for tests: server and estimator."""

cimport cython
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memset

from lvscore._core cimport estimator as _estimator
from lvscore._core cimport server as _server

__all__ = ["Estimator", "Server"]


@cython.final
cdef class Server:
    """A real server that belongs to no service."""

    cdef _server.Server server

    def __cinit__(self, int32_t weight=1, uint32_t upper=0, uint32_t lower=0):
        memset(&self.server, 0, sizeof(self.server))
        _server.server_set(&self.server, weight, upper, lower)

    def set(self, int32_t weight, uint32_t upper=0, uint32_t lower=0):
        _server.server_set(&self.server, weight, upper, lower)

    def bind(self):
        _server.server_bind(&self.server)

    def activate(self):
        """A connection's state turns from inactive to active."""
        if not self.server.inactive:
            raise ValueError("no connection is inactive")
        self.server.inactive -= 1
        self.server.active += 1

    def unbind(self, bint inactive, uint64_t tick):
        if not (self.server.inactive if inactive else self.server.active):
            raise ValueError("no such connection")
        _server.server_unbind(&self.server, inactive, tick)

    def bind_template(self):
        _server.server_bind_template(&self.server)

    def unbind_template(self, uint64_t tick):
        if not self.server.persistent:
            raise ValueError("no template")
        _server.server_unbind_template(&self.server, tick)

    @property
    def carried(self):
        """(active, inactive, persistent)"""
        return self.server.active, self.server.inactive, self.server.persistent

    @property
    def idle_since(self):
        return self.server.idle_since

    @property
    def last_weight(self):
        return self.server.last_weight

    @property
    def overhead(self):
        return _server.server_overhead(&self.server)

    @property
    def overloaded(self):
        return bool(self.server.flags & _server.SERVER_OVERLOADED)

    @property
    def usable(self):
        return _server.server_usable(&self.server)


@cython.final
cdef class Estimator:
    """The averages of five counters: connections, packets in and out, bytes in and out."""

    cdef _estimator.Estimator estimator

    def __cinit__(self):
        memset(&self.estimator, 0, sizeof(self.estimator))

    cdef int counters_from(self, object given, uint64_t* counters) except -1:
        cdef size_t k
        for k in range(_estimator.COUNTERS):
            counters[k] = given[k]
        return 0

    def update(self, counters, uint64_t times=1):
        cdef uint64_t c[5]
        self.counters_from(counters, c)
        _estimator.estimator_update(&self.estimator, c, times)

    def zero(self):
        _estimator.estimator_zero(&self.estimator)

    def rebase(self, counters):
        cdef uint64_t c[5]
        self.counters_from(counters, c)
        _estimator.estimator_rebase(&self.estimator, c)

    @property
    def counts(self):
        return [_estimator.estimator_count(&self.estimator, k)
                for k in range(_estimator.COUNTERS)]

    @property
    def rates(self):
        return [_estimator.estimator_rate(&self.estimator, k)
                for k in range(_estimator.COUNTERS)]
