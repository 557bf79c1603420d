"""Loads and stores of unaligned fields; values named be stay in the order of the wire."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from "<arpa/inet.h>" nogil:
    uint16_t ntohs(uint16_t be) noexcept
    uint16_t htons(uint16_t value) noexcept
    uint32_t ntohl(uint32_t be) noexcept
    uint32_t htonl(uint32_t value) noexcept


cdef inline uint16_t load16(const uint8_t* p) noexcept nogil:
    cdef uint16_t value
    memcpy(&value, p, 2)
    return value


cdef inline uint32_t load32(const uint8_t* p) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, p, 4)
    return value


cdef inline uint64_t load64(const uint8_t* p) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, p, 8)
    return value


cdef inline void store16(uint8_t* p, uint16_t value) noexcept nogil:
    memcpy(p, &value, 2)


cdef inline void store32(uint8_t* p, uint32_t value) noexcept nogil:
    memcpy(p, &value, 4)


cdef inline void store64(uint8_t* p, uint64_t value) noexcept nogil:
    memcpy(p, &value, 8)


cdef inline uint16_t load_be16(const uint8_t* p) noexcept nogil:
    """The host-order value of a 16-bit field."""
    return ntohs(load16(p))


cdef inline uint32_t load_be32(const uint8_t* p) noexcept nogil:
    """The host-order value of a 32-bit field."""
    return ntohl(load32(p))


cdef inline uint32_t rotate32(uint32_t value, uint32_t bits) noexcept nogil:
    return (value << bits) | (value >> (32 - bits))


cdef inline uint64_t rotate64(uint64_t value, uint32_t bits) noexcept nogil:
    return (value << bits) | (value >> (64 - bits))
