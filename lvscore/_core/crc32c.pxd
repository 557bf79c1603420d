"""CRC32c, the checksum of SCTP (RFC 9260, section 6.8 and appendix A).

Eight bytes a step, by eight tables of 256 (slicing-by-8). CRCs are linear, so that an entry is
the sum of those of its bits; eight numbers make a table. The checksum covers the SCTP packet
alone, with its own field taken as zero, and no pseudo-header.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memset

cdef extern from *:
    """
    #define LVS_CRC_BIT(i, k, value) ((i) >> (k) & 1 ? value##u : 0u)
    #define LVS_CRC_1(i, a, b, c, d, e, f, g, h) \\
        (LVS_CRC_BIT(i, 0, a) ^ LVS_CRC_BIT(i, 1, b) ^ LVS_CRC_BIT(i, 2, c) \\
         ^ LVS_CRC_BIT(i, 3, d) ^ LVS_CRC_BIT(i, 4, e) ^ LVS_CRC_BIT(i, 5, f) \\
         ^ LVS_CRC_BIT(i, 6, g) ^ LVS_CRC_BIT(i, 7, h))
    #define LVS_CRC_4(i, ...) LVS_CRC_1(i, __VA_ARGS__), LVS_CRC_1((i) + 1, __VA_ARGS__), \\
        LVS_CRC_1((i) + 2, __VA_ARGS__), LVS_CRC_1((i) + 3, __VA_ARGS__)
    #define LVS_CRC_16(i, ...) LVS_CRC_4(i, __VA_ARGS__), LVS_CRC_4((i) + 4, __VA_ARGS__), \\
        LVS_CRC_4((i) + 8, __VA_ARGS__), LVS_CRC_4((i) + 12, __VA_ARGS__)
    #define LVS_CRC_64(i, ...) LVS_CRC_16(i, __VA_ARGS__), LVS_CRC_16((i) + 16, __VA_ARGS__), \\
        LVS_CRC_16((i) + 32, __VA_ARGS__), LVS_CRC_16((i) + 48, __VA_ARGS__)
    #define LVS_CRC_256(...) {LVS_CRC_64(0, __VA_ARGS__), LVS_CRC_64(64, __VA_ARGS__), \\
        LVS_CRC_64(128, __VA_ARGS__), LVS_CRC_64(192, __VA_ARGS__)}

    /* Table k: a byte with k zero bytes behind it. Each line: that of bits 0 to 7. */
    static const uint32_t lvs_crc32c[8][256] = {
        LVS_CRC_256(0xf26b8303, 0xe13b70f7, 0xc79a971f, 0x8ad958cf,
                    0x105ec76f, 0x20bd8ede, 0x417b1dbc, 0x82f63b78),
        LVS_CRC_256(0x13a29877, 0x274530ee, 0x4e8a61dc, 0x9d14c3b8,
                    0x3fc5f181, 0x7f8be302, 0xff17c604, 0xfbc3faf9),
        LVS_CRC_256(0xa541927e, 0x4f6f520d, 0x9edea41a, 0x38513ec5,
                    0x70a27d8a, 0xe144fb14, 0xc76580d9, 0x8b277743),
        LVS_CRC_256(0xdd45aab8, 0xbf672381, 0x7b2231f3, 0xf64463e6,
                    0xe964b13d, 0xd725148b, 0xaba65fe7, 0x52a0c93f),
        LVS_CRC_256(0x38116fac, 0x7022df58, 0xe045beb0, 0xc5670b91,
                    0x8f2261d3, 0x1ba8b557, 0x37516aae, 0x6ea2d55c),
        LVS_CRC_256(0xef306b19, 0xdb8ca0c3, 0xb2f53777, 0x6006181f,
                    0xc00c303e, 0x85f4168d, 0x0e045beb, 0x1c08b7d6),
        LVS_CRC_256(0x68032cc8, 0xd0065990, 0xa5e0c5d1, 0x4e2dfd53,
                    0x9c5bfaa6, 0x3d5b83bd, 0x7ab7077a, 0xf56e0ef4),
        LVS_CRC_256(0x493c7d27, 0x9278fa4e, 0x211d826d, 0x423b04da,
                    0x847609b4, 0x0d006599, 0x1a00cb32, 0x34019664),
    };
    """
    const uint32_t TABLE "lvs_crc32c"[8][256]

cdef enum:
    CRC32C_START = 0xFFFFFFFFU
    SCTP_HEADER = 12            # ports, verification tag, checksum


cdef inline uint32_t crc32c_update(uint32_t crc, const uint8_t* data,
                                   uint32_t length) noexcept nogil:
    """Take more bytes into a CRC that began as CRC32C_START."""
    while length >= 8:
        crc = (TABLE[7][(crc ^ data[0]) & 0xFF] ^ TABLE[6][(crc >> 8 ^ data[1]) & 0xFF]
               ^ TABLE[5][(crc >> 16 ^ data[2]) & 0xFF] ^ TABLE[4][crc >> 24 ^ data[3]]
               ^ TABLE[3][data[4]] ^ TABLE[2][data[5]] ^ TABLE[1][data[6]] ^ TABLE[0][data[7]])
        data += 8
        length -= 8
    while length:
        crc = crc >> 8 ^ TABLE[0][(crc ^ data[0]) & 0xFF]
        data += 1
        length -= 1
    return crc


cdef inline uint32_t sctp_checksum(const uint8_t* sctp, uint32_t length) noexcept nogil:
    """The CRC32c of a whole SCTP packet of SCTP_HEADER bytes at least."""
    cdef uint8_t zero[4]
    cdef uint32_t crc
    memset(zero, 0, 4)
    crc = crc32c_update(CRC32C_START, sctp, 8)
    crc = crc32c_update(crc, zero, 4)
    return ~crc32c_update(crc, sctp + SCTP_HEADER, length - SCTP_HEADER)


cdef inline void sctp_checksum_write(uint8_t* sctp, uint32_t length) noexcept nogil:
    """Put the checksum into its field: its lowest byte first (RFC 9260, appendix A)."""
    cdef uint32_t crc = sctp_checksum(sctp, length)
    cdef uint32_t i
    for i in range(4):
        sctp[8 + i] = <uint8_t>(crc >> 8 * i)
