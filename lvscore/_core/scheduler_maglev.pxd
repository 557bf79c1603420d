"""Consistent hashing by a Maglev table: mh (ip_vs_mh.c; Eisenbud and others, NSDI 2016).

The table is made from each server's last weight that was not 0, so that a server which is
quiesced keeps its slots: its clients are refused, or fall back, and no other client moves.
"""

from libc.stdint cimport uint32_t, uint64_t

from lvscore._core.bytes cimport ntohs
from lvscore._core.consts cimport NIL
from lvscore._core.flow cimport Address, Tuple, address_word, ports_source
from lvscore._core.scheduler_hash cimport bucket_server
from lvscore._core.scheduler_types cimport (
    SCHEDULER_FALLBACK, SCHEDULER_PORT, Scheduler, greatest_divisor,
)
from lvscore._core.server cimport Server

cdef enum:
    MAGLEV_SLOTS = 4093         # IP_VS_MH_TAB_SIZE, for CONFIG_IP_VS_MH_TAB_INDEX=12
    MAGLEV_BITS = 6             # IP_VS_MH_TAB_BITS: a weight takes at most 63 slots in a row
    MAGLEV_START = 2654435761U  # both halves of hash1's key
    MAGLEV_SKIP = 2654446892U   # both halves of hash2's key


cdef inline uint64_t rotate_left(uint64_t word, uint32_t bits) noexcept nogil:
    return word << bits | word >> (64 - bits)


cdef inline void sip_round(uint64_t* v) noexcept nogil:
    v[0] += v[1]
    v[1] = rotate_left(v[1], 13) ^ v[0]
    v[0] = rotate_left(v[0], 32)
    v[2] += v[3]
    v[3] = rotate_left(v[3], 16) ^ v[2]
    v[0] += v[3]
    v[3] = rotate_left(v[3], 21) ^ v[0]
    v[2] += v[1]
    v[1] = rotate_left(v[1], 17) ^ v[2]
    v[2] = rotate_left(v[2], 32)


cdef inline uint32_t sip_hash(uint32_t value, uint64_t key) noexcept nogil:
    """SipHash-1-3 of four bytes under the key (key, key), low half (hsiphash_1u32)."""
    cdef uint64_t v[4]
    cdef uint64_t last = <uint64_t>4 << 56 | value
    v[0] = <uint64_t>0x736F6D6570736575ULL ^ key
    v[1] = <uint64_t>0x646F72616E646F6DULL ^ key
    v[2] = <uint64_t>0x6C7967656E657261ULL ^ key
    v[3] = <uint64_t>0x7465646279746573ULL ^ key ^ last
    sip_round(v)
    v[0] ^= last
    v[2] ^= 0xFF
    sip_round(v)
    sip_round(v)
    sip_round(v)
    return <uint32_t>(v[0] ^ v[1] ^ v[2] ^ v[3])


cdef inline uint32_t bit_length(uint32_t number) noexcept nogil:
    cdef uint32_t bits = 0
    while number:
        number >>= 1
        bits += 1
    return bits


cdef inline uint32_t maglev_slot(const Address* address, uint32_t port,
                                 uint32_t offset) noexcept nogil:
    """The slot of an address and port, both in host order."""
    return sip_hash(offset + port + address_word(address), MAGLEV_START) % MAGLEV_SLOTS


cdef inline void maglev_measure(Scheduler* s, Server* servers) noexcept nogil:
    """Where each server starts, its step, and how many slots it takes in a row."""
    cdef Server* server
    cdef uint32_t i, shift, port
    cdef uint32_t divisor = 0
    cdef uint32_t greatest = 0
    for i in range(s.count):
        server = &servers[s.list[i]]
        divisor = greatest_divisor(<uint32_t>server.last_weight, divisor)
        if <uint32_t>server.last_weight > greatest:
            greatest = <uint32_t>server.last_weight
    shift = bit_length(greatest // divisor) if divisor else 0
    shift = shift - MAGLEV_BITS if shift > MAGLEV_BITS else 0
    for i in range(s.count):
        server = &servers[s.list[i]]
        port = ntohs(server.port)
        server.place = maglev_slot(&server.address, port, 0)
        server.skip = 1 + (sip_hash(port + address_word(&server.address), MAGLEV_SKIP)
                           % (MAGLEV_SLOTS - 1))
        server.turns = 0
        if server.last_weight:
            server.turns = (<uint32_t>server.last_weight // divisor) >> shift
            if server.turns == 0:
                server.turns = 1


cdef inline void maglev_fill(Scheduler* s, Server* servers) noexcept nogil:
    """Let the servers take slots in turn, each along its own permutation, until none is left."""
    cdef Server* server
    cdef uint32_t filled, i, _turn
    cdef bint any_turns = False
    for filled in range(MAGLEV_SLOTS):
        s.buckets[filled] = NIL
    maglev_measure(s, servers)
    for i in range(s.count):
        any_turns = any_turns or servers[s.list[i]].turns > 0
    filled = 0
    i = 0
    while any_turns and filled < MAGLEV_SLOTS:
        server = &servers[s.list[i]]
        for _turn in range(server.turns):
            while s.buckets[server.place] != NIL:
                server.place = (server.place + server.skip) % MAGLEV_SLOTS
            s.buckets[server.place] = s.list[i]
            filled += 1
            if filled == MAGLEV_SLOTS:
                break
        i = (i + 1) % s.count


cdef inline uint32_t mh_pick(const Scheduler* s, const Server* servers,
                             const Tuple* t) noexcept nogil:
    cdef uint32_t port = ntohs(ports_source(t.ports)) if s.flags & SCHEDULER_PORT else 0
    cdef uint32_t slot = maglev_slot(&t.source, port, 0)
    cdef uint32_t server = bucket_server(s, servers, slot)
    cdef uint32_t offset
    if server == NIL and s.flags & SCHEDULER_FALLBACK and s.buckets[slot] != NIL:
        # Not the slots that follow: each is hashed anew.
        for offset in range(MAGLEV_SLOTS):
            server = bucket_server(s, servers, maglev_slot(
                &t.source, port, (offset + slot) % MAGLEV_SLOTS))
            if server != NIL:
                break
    return server
