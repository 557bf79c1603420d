"""The keyed hash of tuples, and the engine's source of chance.

Two rounds of a keyed 64x64->128 bit multiply. No collisions can be prepared without the key,
which comes from the engine's seed and is never shown.
"""

from libc.stdint cimport uint32_t, uint64_t

from lvscore._core.machine cimport multiply_fold


cdef struct HashKey:
    uint64_t word[6]


cdef inline uint64_t random_next(uint64_t* state) noexcept nogil:
    """The next number of a SplitMix64 generator (Steele, Lea, Flood 2014)."""
    cdef uint64_t z
    state[0] += <uint64_t>0x9E3779B97F4A7C15ULL
    z = state[0]
    z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9ULL
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EBULL
    return z ^ (z >> 31)


cdef inline uint32_t hash_32(uint32_t value, uint32_t bits) noexcept nogil:
    """The kernel's multiplicative hash (include/linux/hash.h), which schedulers use."""
    return <uint32_t>(value * <uint32_t>0x61C88647) >> (32 - bits)


cdef inline void hash_key_init(HashKey* key, uint64_t low, uint64_t high) noexcept nogil:
    """Expand a 128-bit seed."""
    cdef uint64_t state = low
    cdef uint32_t i
    for i in range(6):
        if i == 3:
            state ^= high
        key.word[i] = random_next(&state)
    for i in range(3):
        state ^= high
        key.word[i] ^= random_next(&state)


cdef inline uint64_t hash_ipv4(const HashKey* key, uint64_t addresses,
                               uint64_t ports) noexcept nogil:
    """Hash the addresses (source, destination) and the protocol with the ports."""
    return multiply_fold(
        key.word[2] ^ 16,
        multiply_fold(addresses ^ key.word[0], ports ^ key.word[1]) ^ key.word[3])


cdef inline uint64_t hash_ipv6(const HashKey* key, const uint64_t* source,
                               const uint64_t* destination, uint64_t ports) noexcept nogil:
    """Hash two 128-bit addresses and the protocol with the ports."""
    cdef uint64_t first = multiply_fold(source[0] ^ key.word[0], source[1] ^ key.word[1])
    cdef uint64_t second = multiply_fold(destination[0] ^ key.word[2],
                                         destination[1] ^ key.word[3])
    return multiply_fold(first ^ ports ^ key.word[4], second ^ key.word[5] ^ 40)
