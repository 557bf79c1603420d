"""Servers by a hash of an address: sh and dh (ip_vs_sh.c, ip_vs_dh.c).

A client that hashes to a server that takes nothing is refused, unless sh may fall back.
"""

from libc.stdint cimport int32_t, uint32_t

from lvscore._core.bytes cimport ntohs
from lvscore._core.consts cimport NIL
from lvscore._core.flow cimport Tuple, address_word, ports_source
from lvscore._core.hash cimport hash_32
from lvscore._core.scheduler_types cimport SCHEDULER_FALLBACK, SCHEDULER_PORT, Scheduler
from lvscore._core.server cimport Server, server_usable

cdef enum:
    HASH_BUCKETS = 256          # IP_VS_SH_TAB_SIZE, IP_VS_DH_TAB_SIZE
    HASH_BITS = 8


cdef inline void hash_fill(Scheduler* s, const Server* servers, bint weighted) noexcept nogil:
    """Give the servers buckets in turn: each one, or as many in a row as its weight (sh).

    A server of weight 0 has a bucket, too.
    """
    cdef uint32_t bucket
    cdef uint32_t i = 0
    cdef int32_t taken = 0
    for bucket in range(HASH_BUCKETS):
        if s.count == 0:
            s.buckets[bucket] = NIL
            continue
        s.buckets[bucket] = s.list[i]
        taken += 1
        if not weighted or taken >= servers[s.list[i]].weight:
            i = (i + 1) % s.count
            taken = 0


cdef inline uint32_t bucket_server(const Scheduler* s, const Server* servers,
                                   uint32_t bucket) noexcept nogil:
    cdef uint32_t server = s.buckets[bucket]
    return server if server != NIL and server_usable(&servers[server]) else NIL


cdef inline uint32_t dh_pick(const Scheduler* s, const Server* servers,
                             const Tuple* t) noexcept nogil:
    return bucket_server(s, servers, hash_32(address_word(&t.destination), HASH_BITS))


cdef inline uint32_t sh_pick(const Scheduler* s, const Server* servers,
                             const Tuple* t) noexcept nogil:
    cdef uint32_t port = ntohs(ports_source(t.ports)) if s.flags & SCHEDULER_PORT else 0
    cdef uint32_t hash = hash_32(port + address_word(&t.source), HASH_BITS)
    cdef uint32_t server = bucket_server(s, servers, hash)
    cdef uint32_t offset
    if server == NIL and s.flags & SCHEDULER_FALLBACK:
        # The kernel adds the first bucket to the hash again: 2 * hash, 2 * hash + 1 ...
        for offset in range(HASH_BUCKETS):
            server = bucket_server(s, servers, (offset + 2 * hash) & (HASH_BUCKETS - 1))
            if server != NIL:
                break
    return server
