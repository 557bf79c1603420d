"""The pcap and pcapng formats: what a record says, every bound checked before it is used.

Functions over (data, length) without Python, allocation or exceptions, so that a native fuzzer
can call them. pcap is draft-ietf-opsawg-pcap, pcapng draft-ietf-opsawg-pcapng; the sections named
below are theirs. Numbers are loaded in host order, after a swap where the file says so.
"""

from libc.stdint cimport INT64_MAX, UINT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    uint16_t __builtin_bswap16(uint16_t) noexcept nogil
    uint32_t __builtin_bswap32(uint32_t) noexcept nogil
    uint64_t __builtin_bswap64(uint64_t) noexcept nogil
    ctypedef unsigned long long uint128_t "unsigned __int128"

cdef enum:
    MAX_CAPTURED_LENGTH = 1 << 28                       # of a frame; more is a corrupt file
    MAX_BLOCK_LENGTH = (1 << 28) + (1 << 20)            # such a frame and a mebibyte of options
    MAX_INTERFACES = 1 << 16                            # of one section
    PCAP_HEADER_LENGTH = 24
    SECTION_HEADER_BLOCK = 0x0A0D0D0A
    INTERFACE_DESCRIPTION_BLOCK = 1
    PACKET_BLOCK = 2                                    # obsolete, section 4.7
    SIMPLE_PACKET_BLOCK = 3
    ENHANCED_PACKET_BLOCK = 6
    BYTE_ORDER_MAGIC = 0x1A2B3C4D
    FRAME_ALIGNMENT = 16

cdef enum Status:
    FRAME                       # record describes a frame
    SKIP                        # a block without a frame
    SECTION                     # a section header: record.swapped is its byte order
    INTERFACE                   # an interface description
    NEED_MORE                   # record.size bytes are needed
    BATCH_FULL                  # the next frame belongs to another batch
    ARENA_SMALL                 # the next frame is larger than the whole arena
    BAD_MAGIC                   # from here on record.value is what was wrong
    BAD_VERSION
    BAD_LINK_TYPE
    BAD_CAPTURED_LENGTH
    BAD_BLOCK_LENGTH
    BAD_TRAILING_LENGTH
    BAD_BYTE_ORDER
    BAD_INTERFACE
    BAD_TIMESTAMP
    BAD_OPTION

cdef struct Interface:
    uint64_t multiplier         # nanoseconds in a tick, when there are whole ones
    uint64_t divisor            # ticks in a nanosecond
    uint64_t limit              # most ticks that INT64_MAX nanoseconds have room for
    int64_t offset              # nanoseconds to add: if_tsoffset
    uint32_t shift              # ticks are 2**-shift seconds, when not 0
    uint32_t snaplen            # 0: no limit
    uint32_t declared           # link type as the file has it
    int link_type               # the same as lvscore knows it, -1 when it does not

cdef struct Capture:
    Interface* interfaces       # of a pcap, one
    uint32_t interface_count
    uint32_t record_header      # length of a pcap record's header
    bint pcapng
    bint swapped                # numbers are not in this machine's byte order
    bint lengths_mixed          # pcap 2.3 and older had them in either order

cdef struct Record:
    const uint8_t* frame
    uint64_t size               # bytes of the whole record or block
    uint64_t value              # that a bad status is about
    int64_t timestamp           # nanoseconds
    uint32_t captured
    uint32_t original
    uint32_t interface
    bint swapped

cdef struct Arena:
    uint8_t* data
    uint64_t size
    uint64_t used
    uint64_t* offset
    uint32_t* length
    uint32_t* original_length
    int64_t* timestamp
    uint32_t capacity
    uint32_t count
    int link_type
    bint snapped


cdef inline uint16_t load16(const uint8_t* data, bint swapped) noexcept nogil:
    cdef uint16_t value
    memcpy(&value, data, 2)
    return __builtin_bswap16(value) if swapped else value


cdef inline uint32_t load32(const uint8_t* data, bint swapped) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, data, 4)
    return __builtin_bswap32(value) if swapped else value


cdef inline uint64_t load64(const uint8_t* data, bint swapped) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, data, 8)
    return __builtin_bswap64(value) if swapped else value


cdef inline void store32(uint8_t* data, uint32_t value) noexcept nogil:
    memcpy(data, &value, 4)


cdef inline int link_type_of(uint32_t declared) noexcept nogil:
    """The link type that ``declared`` stands for, or -1; the same set as constants.LinkType."""
    if declared == 12 or declared == 14:        # DLT_RAW, as BSD and OpenBSD number it
        return 101
    if declared in (0, 1, 101, 108, 113, 228, 229, 276):
        return <int>declared
    return -1


# Time stamps ------------------------------------------------------------------------------------

cdef inline void interface_resolution(Interface* interface, uint8_t resolution) noexcept nogil:
    """Ticks of 10**-n seconds, or 2**-n with the high bit set (pcapng 4.2, if_tsresol)."""
    cdef uint32_t exponent = resolution & 0x7F
    cdef uint32_t _i
    interface.multiplier = 1
    interface.divisor = 1
    interface.shift = 0
    if resolution & 0x80 and exponent:
        interface.shift = exponent
    elif resolution & 0x80 or exponent <= 9:
        for _i in range(9 if resolution & 0x80 else 9 - exponent):
            interface.multiplier *= 10
    elif exponent <= 28:
        for _i in range(exponent - 9):
            interface.divisor *= 10
    else:                                       # 2**64 ticks are less than a nanosecond
        interface.multiplier = 0
    interface.limit = (<uint64_t>INT64_MAX // interface.multiplier if interface.multiplier > 1
                       else UINT64_MAX)


cdef inline bint interface_timestamp(const Interface* interface, uint64_t ticks,
                                     int64_t* timestamp) noexcept nogil:
    """Nanoseconds for ``ticks``; False when they do not fit."""
    cdef uint64_t nanoseconds
    cdef uint128_t wide
    if interface.shift:
        wide = (<uint128_t>ticks * 1000000000) >> interface.shift
        if wide > <uint128_t>INT64_MAX:
            return False
        nanoseconds = <uint64_t>wide
    elif ticks > interface.limit:
        return False
    elif interface.divisor > 1:
        nanoseconds = ticks // interface.divisor
    else:
        nanoseconds = ticks * interface.multiplier
    if nanoseconds > <uint64_t>INT64_MAX:
        return False
    if interface.offset > 0 and nanoseconds > <uint64_t>(INT64_MAX - interface.offset):
        return False
    timestamp[0] = <int64_t>nanoseconds + interface.offset
    return True


# pcap -------------------------------------------------------------------------------------------

cdef inline Status pcap_header(const uint8_t* data, size_t length, Capture* capture,
                               Interface* interface, Record* record) noexcept nogil:
    """Read the file header (pcap section 4) into ``capture`` and its only ``interface``."""
    cdef uint32_t magic, version
    cdef uint8_t resolution = 6
    record.size = PCAP_HEADER_LENGTH
    if length < 4:
        return NEED_MORE
    magic = load32(data, False)
    capture.pcapng = False
    capture.record_header = 16
    capture.swapped = magic in (0xD4C3B2A1U, 0x4D3CB2A1U, 0x34CDB2A1U)
    if capture.swapped:
        magic = __builtin_bswap32(magic)
    if magic == 0xA1B23C4DU:
        resolution = 9
    elif magic == 0xA1B2CD34U:                  # Kuznetzov's: 8 bytes more in each record
        capture.record_header = 24
    elif magic != 0xA1B2C3D4U:
        return BAD_MAGIC
    if length < PCAP_HEADER_LENGTH:
        return NEED_MORE
    version = load16(data + 6, capture.swapped)
    if load16(data + 4, capture.swapped) != 2 or version > 4:
        record.value = (<uint32_t>load16(data + 4, capture.swapped) << 16) | version
        return BAD_VERSION
    capture.lengths_mixed = version < 4
    interface.offset = 0
    interface_resolution(interface, resolution)
    interface.snaplen = load32(data + 16, capture.swapped)
    # The upper half holds the length of a frame check sequence and reserved bits.
    interface.declared = load32(data + 20, capture.swapped) & 0xFFFF
    interface.link_type = link_type_of(interface.declared)
    capture.interfaces = interface
    capture.interface_count = 1
    return SKIP


cdef inline Status pcap_record(const uint8_t* data, size_t length, const Capture* capture,
                               Record* record) noexcept nogil:
    """Read one record (pcap section 5)."""
    cdef bint swapped = capture.swapped
    cdef uint32_t captured, original
    record.size = capture.record_header
    if length < record.size:
        return NEED_MORE
    captured = load32(data + 8, swapped)
    original = load32(data + 12, swapped)
    if captured > original:
        if capture.lengths_mixed:
            captured, original = original, captured
        else:
            original = captured
    if captured > MAX_CAPTURED_LENGTH:
        record.value = captured
        return BAD_CAPTURED_LENGTH
    record.frame = data + record.size
    record.size += captured
    if length < record.size:
        return NEED_MORE
    record.captured = captured
    record.original = original
    record.interface = 0
    # At most (2**32 - 1) * (10**9 + 1000): no overflow, a fraction beyond a second included.
    record.timestamp = (<int64_t>load32(data, swapped) * 1000000000
                        + <int64_t>load32(data + 4, swapped)
                        * <int64_t>capture.interfaces.multiplier)
    return FRAME


# pcapng -----------------------------------------------------------------------------------------

cdef inline Status pcapng_frame(const uint8_t* data, uint32_t kind, const Capture* capture,
                                Record* record) noexcept nogil:
    """Read a packet block that lies whole in ``data`` (pcapng 4.3, 4.4, 4.7)."""
    cdef bint swapped = capture.swapped
    cdef uint64_t ticks = 0
    cdef uint64_t room
    cdef const Interface* interface
    cdef uint32_t header = 12 if kind == SIMPLE_PACKET_BLOCK else 28
    if record.size < header + 4:
        record.value = record.size
        return BAD_BLOCK_LENGTH
    room = record.size - header - 4
    record.interface = 0
    if kind == PACKET_BLOCK:
        record.interface = load16(data + 8, swapped)
    elif kind == ENHANCED_PACKET_BLOCK:
        record.interface = load32(data + 8, swapped)
    if record.interface >= capture.interface_count:
        record.value = record.interface
        return BAD_INTERFACE
    interface = &capture.interfaces[record.interface]
    if kind == SIMPLE_PACKET_BLOCK:             # neither time nor captured length of its own
        record.original = load32(data + 8, swapped)
        record.captured = record.original
        if interface.snaplen and record.captured > interface.snaplen:
            record.captured = interface.snaplen
    else:
        ticks = (<uint64_t>load32(data + 12, swapped) << 32) | load32(data + 16, swapped)
        record.captured = load32(data + 20, swapped)
        record.original = load32(data + 24, swapped)
    if record.captured > room or record.captured > MAX_CAPTURED_LENGTH:
        record.value = record.captured
        return BAD_CAPTURED_LENGTH
    if record.original < record.captured:
        record.original = record.captured
    record.frame = data + header
    if not interface_timestamp(interface, ticks, &record.timestamp):
        record.value = ticks
        return BAD_TIMESTAMP
    return FRAME


cdef inline Status pcapng_block(const uint8_t* data, size_t length, const Capture* capture,
                                Record* record) noexcept nogil:
    """Read one block (pcapng section 3.1), whatever its type."""
    cdef uint32_t kind, size, magic
    record.size = 12
    if length < 12:
        return NEED_MORE
    record.swapped = capture.swapped
    kind = load32(data, record.swapped)
    if kind == SECTION_HEADER_BLOCK:            # the same in both byte orders
        magic = load32(data + 8, False)
        record.swapped = magic != BYTE_ORDER_MAGIC
        if record.swapped and __builtin_bswap32(magic) != BYTE_ORDER_MAGIC:
            record.value = magic
            return BAD_BYTE_ORDER
    size = load32(data + 4, record.swapped)
    if size < 12 or size & 3 or size > MAX_BLOCK_LENGTH:
        record.value = size
        return BAD_BLOCK_LENGTH
    record.size = size
    if length < size:
        return NEED_MORE
    if load32(data + size - 4, record.swapped) != size:
        record.value = load32(data + size - 4, record.swapped)
        return BAD_TRAILING_LENGTH
    if kind in (ENHANCED_PACKET_BLOCK, PACKET_BLOCK, SIMPLE_PACKET_BLOCK):
        return pcapng_frame(data, kind, capture, record)
    if kind == SECTION_HEADER_BLOCK:
        if size < 28:
            record.value = size
            return BAD_BLOCK_LENGTH
        if load16(data + 12, record.swapped) != 1:
            record.value = ((<uint32_t>load16(data + 12, record.swapped) << 16)
                            | load16(data + 14, record.swapped))
            return BAD_VERSION
        return SECTION
    if kind == INTERFACE_DESCRIPTION_BLOCK:
        return INTERFACE
    return SKIP


cdef inline Status pcapng_interface(const uint8_t* data, size_t size, bint swapped,
                                    Interface* interface, Record* record) noexcept nogil:
    """Read an interface description block (pcapng 4.2) that lies whole in ``data``."""
    cdef size_t position = 16
    cdef size_t end
    cdef uint16_t code, length
    cdef int64_t seconds
    if size < 20:
        record.value = size
        return BAD_BLOCK_LENGTH
    end = size - 4
    interface.declared = load16(data + 8, swapped)
    interface.link_type = link_type_of(interface.declared)
    interface.snaplen = load32(data + 12, swapped)
    interface.offset = 0
    interface_resolution(interface, 6)
    while end - position >= 4:
        code = load16(data + position, swapped)
        length = load16(data + position + 2, swapped)
        position += 4
        if code == 0:                           # opt_endofopt
            break
        record.value = code
        if length > end - position or (code == 9 and length != 1) or (code == 14 and length != 8):
            return BAD_OPTION
        if code == 9:                           # if_tsresol
            interface_resolution(interface, data[position])
        elif code == 14:                        # if_tsoffset
            seconds = <int64_t>load64(data + position, swapped)
            if not -9000000000LL <= seconds <= 9000000000LL:
                return BAD_OPTION
            interface.offset = seconds * 1000000000
        position += (length + 3) & ~3
        if position > end:
            break
    return INTERFACE


# Both -------------------------------------------------------------------------------------------

cdef inline Status scan(const uint8_t* data, size_t length, const Capture* capture, Arena* arena,
                        Record* record, size_t* consumed) noexcept nogil:
    """Copy frames into ``arena`` until something other than a frame of the same batch comes.

    The bytes of what was done with are counted in ``consumed``; the status is about what follows.
    """
    cdef const Interface* interface
    cdef Status status = BATCH_FULL
    cdef uint64_t start
    cdef size_t position = 0
    cdef uint32_t i
    while arena.count < arena.capacity:
        status = (pcapng_block(data + position, length - position, capture, record)
                  if capture.pcapng
                  else pcap_record(data + position, length - position, capture, record))
        if status == SKIP:
            position += record.size
            status = BATCH_FULL
            continue
        if status != FRAME:
            break
        interface = &capture.interfaces[record.interface]
        if interface.link_type < 0:
            record.value = interface.declared
            status = BAD_LINK_TYPE
            break
        if interface.link_type != arena.link_type:
            if arena.count:
                status = BATCH_FULL
                break
            arena.link_type = interface.link_type
        start = (arena.used + FRAME_ALIGNMENT - 1) & ~<uint64_t>(FRAME_ALIGNMENT - 1)
        if start > arena.size or record.captured > arena.size - start:
            status = BATCH_FULL if arena.count else ARENA_SMALL
            break
        memcpy(arena.data + start, record.frame, record.captured)
        i = arena.count
        arena.offset[i] = start
        arena.length[i] = record.captured
        arena.original_length[i] = record.original
        arena.timestamp[i] = record.timestamp
        if record.original > record.captured:
            arena.snapped = True
        arena.count = i + 1
        arena.used = start + record.captured
        position += record.size
        status = BATCH_FULL
    consumed[0] = position
    return status


# Writing ----------------------------------------------------------------------------------------

cdef inline size_t record_size(bint pcapng, uint32_t captured) noexcept nogil:
    """Bytes that ``write_record`` will write."""
    return 32 + ((<size_t>captured + 3) & ~<size_t>3) if pcapng else 16 + <size_t>captured


cdef inline Status write_record(uint8_t* out, bint pcapng, bint nanosecond, uint32_t interface,
                                const uint8_t* frame, uint32_t captured, uint32_t original,
                                int64_t timestamp) noexcept nogil:
    """Write one record or enhanced packet block, of ``record_size`` bytes, in host order."""
    cdef uint64_t ticks, seconds, fraction
    cdef size_t size
    if timestamp < 0:
        return BAD_TIMESTAMP
    if pcapng:
        ticks = <uint64_t>timestamp if nanosecond else <uint64_t>timestamp // 1000
        size = record_size(True, captured)
        store32(out + size - 8, 0)              # padding, where there is any
        store32(out, ENHANCED_PACKET_BLOCK)
        store32(out + 4, <uint32_t>size)
        store32(out + 8, interface)
        store32(out + 12, <uint32_t>(ticks >> 32))
        store32(out + 16, <uint32_t>ticks)
        store32(out + 20, captured)
        store32(out + 24, original)
        memcpy(out + 28, frame, captured)
        store32(out + size - 4, <uint32_t>size)
        return FRAME
    seconds = <uint64_t>timestamp // 1000000000
    fraction = <uint64_t>timestamp % 1000000000
    if seconds > 0xFFFFFFFFU:
        return BAD_TIMESTAMP
    store32(out, <uint32_t>seconds)
    store32(out + 4, <uint32_t>(fraction if nanosecond else fraction // 1000))
    store32(out + 8, captured)
    store32(out + 12, original)
    memcpy(out + 16, frame, captured)
    return FRAME
