"""The keyed hash of tuples, and the engine's source of chance.

Two rounds of a keyed 64x64->128 bit multiply. No collisions can be prepared without the key,
which comes from the engine's seed and is never shown.
"""

from libc.stdint cimport uint32_t, uint64_t

from lvscore._core.bytes cimport rotate32
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


cdef inline uint32_t jhash2(const uint32_t* word, uint32_t count, uint32_t seed) noexcept nogil:
    """Jenkins' lookup3 over 32-bit words (include/linux/jhash.h)."""
    cdef uint32_t a, b, c
    a = b = c = <uint32_t>0xDEADBEEFU + (count << 2) + seed
    while count > 3:
        a += word[0]
        b += word[1]
        c += word[2]
        a -= c
        a ^= rotate32(c, 4)
        c += b
        b -= a
        b ^= rotate32(a, 6)
        a += c
        c -= b
        c ^= rotate32(b, 8)
        b += a
        a -= c
        a ^= rotate32(c, 16)
        c += b
        b -= a
        b ^= rotate32(a, 19)
        a += c
        c -= b
        c ^= rotate32(b, 4)
        b += a
        word += 3
        count -= 3
    if count == 0:
        return c
    if count == 3:
        c += word[2]
    if count >= 2:
        b += word[1]
    a += word[0]
    c ^= b
    c -= rotate32(b, 14)
    a ^= c
    a -= rotate32(c, 11)
    b ^= a
    b -= rotate32(a, 25)
    c ^= b
    c -= rotate32(b, 16)
    a ^= c
    a -= rotate32(c, 4)
    b ^= a
    b -= rotate32(a, 14)
    c ^= b
    c -= rotate32(b, 24)
    return c


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
