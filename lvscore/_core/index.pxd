"""The hash index: from a hash to references, by linear hashing over one-line buckets.

A bucket is one cache line of seven slots. A slot holds a tag (the
highest 15 bits of the hash and a one, so that 0 is an empty slot), 16 more bits of the hash, its
displacement (how many buckets it lies behind its own), and a reference, which means nothing here.
Full buckets overflow into the next; a bucket counts the entries that went past it, which tells a
search when to stop.

The index grows by splitting one bucket after the other (Litwin 1980), a few at each
insertion, so that no packet waits for a copy of the whole. The hash bits kept in the slot
decide where an entry goes: no connection is touched.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from lvscore._core.consts cimport MAX_DISPLACEMENT, NIL
from lvscore._core.machine cimport (
    lowest_bit, match_tags, memory_populate, memory_release, memory_reserve,
)

cdef enum:
    SLOTS = 7
    MIN_BUCKETS = 256       # the 16 kept bits begin at bit 8 of the hash
    MAX_BUCKETS = 16777216  # and end at bit 23: a split beyond would lose entries
    SPARE_BUCKETS = 64      # behind the last, for its overflow
    FULL_PER_BUCKET = 4     # entries per bucket at which splitting begins: load 0.57
    SPLITS_PER_INSERT = 4   # measured: fewer let overflow chains grow long


cdef struct Bucket:
    uint16_t tag[7]             # 0 is an empty slot
    uint16_t overflow           # entries that lie beyond this bucket; sticks at its maximum
    uint16_t bits[7]            # bits 8..23 of the hash
    uint16_t displacement_high  # two bits for each slot
    uint32_t reference[7]
    uint32_t displacement_low   # four bits for each slot


cdef struct Index:
    Bucket* bucket
    uint64_t entries
    uint32_t base           # power of two; buckets 0..split-1 are split
    uint32_t split
    uint32_t limit          # bound of base
    bint growing


# Where a search is: candidates come one by one, nearest bucket first.
cdef struct Cursor:
    uint32_t home
    uint32_t displacement
    uint32_t mask
    uint16_t tag


cdef inline bint index_init(Index* index, uint32_t max_entries) noexcept nogil:
    """Reserve address space for ``max_entries``; False if the system refuses."""
    cdef uint64_t limit = MIN_BUCKETS
    while limit * FULL_PER_BUCKET < max_entries and limit < MAX_BUCKETS:
        limit *= 2
    index.limit = <uint32_t>limit
    index.base = MIN_BUCKETS
    index.split = 0
    index.entries = 0
    index.growing = False
    index.bucket = <Bucket*>memory_reserve(index_reserved(index))
    return index.bucket != NULL


cdef inline size_t index_reserved(const Index* index) noexcept nogil:
    return (<size_t>index.limit + SPARE_BUCKETS) * sizeof(Bucket)


cdef inline size_t index_used(const Index* index) noexcept nogil:
    """Bytes from the start that may hold entries."""
    return (<size_t>index.base + index.split + SPARE_BUCKETS) * sizeof(Bucket)


cdef inline bint index_populate(const Index* index, uint64_t entries) noexcept nogil:
    """Take the memory now that so many entries will need; False if it ends."""
    cdef size_t buckets = index.base
    while buckets < index.limit and buckets * FULL_PER_BUCKET < entries:
        buckets *= 2
    return memory_populate(index.bucket, (buckets + SPARE_BUCKETS) * sizeof(Bucket))


cdef inline void index_free(Index* index) noexcept nogil:
    memory_release(index.bucket, index_reserved(index))
    index.bucket = NULL


cdef inline bint index_copy(Index* index, const Index* other) noexcept nogil:
    """Make ``index`` a copy of ``other``."""
    index[0] = other[0]
    index.bucket = <Bucket*>memory_reserve(index_reserved(index))
    if index.bucket == NULL:
        return False
    memcpy(index.bucket, other.bucket, index_used(other) if index_used(other) <
           index_reserved(other) else index_reserved(other))
    return True


cdef inline uint16_t hash_tag(uint64_t hash) noexcept nogil:
    return <uint16_t>(hash >> 48) | 1


cdef inline uint32_t index_home(const Index* index, uint64_t hash) noexcept nogil:
    """The bucket that an entry belongs to."""
    cdef uint32_t home = <uint32_t>hash & (2 * index.base - 1)
    cdef uint32_t before = home - index.base    # by a conditional move: either may be at random
    return before if home >= index.base + index.split else home


cdef inline Cursor index_seek(const Index* index, uint64_t hash) noexcept nogil:
    """Begin a search for ``hash``."""
    cdef Cursor cursor
    cursor.home = index_home(index, hash)
    cursor.displacement = 0
    cursor.tag = hash_tag(hash)
    cursor.mask = match_tags(index.bucket[cursor.home].tag, cursor.tag)
    return cursor


cdef inline uint32_t index_next(const Index* index, Cursor* cursor) noexcept nogil:
    """The next candidate's reference, or NIL. A candidate is to be verified by its tuple."""
    cdef const Bucket* bucket
    cdef uint32_t slot
    while True:
        bucket = &index.bucket[cursor.home + cursor.displacement]
        if cursor.mask:
            slot = lowest_bit(cursor.mask)
            cursor.mask &= cursor.mask - 1
            return bucket.reference[slot]
        if bucket.overflow == 0 or cursor.displacement == MAX_DISPLACEMENT:
            return NIL
        cursor.displacement += 1
        cursor.mask = match_tags(index.bucket[cursor.home + cursor.displacement].tag, cursor.tag)


cdef inline uint32_t slot_displacement(const Bucket* bucket, uint32_t slot) noexcept nogil:
    return ((bucket.displacement_low >> (4 * slot)) & 15) | (
        <uint32_t>((bucket.displacement_high >> (2 * slot)) & 3) << 4)


cdef inline bint index_place(Index* index, uint32_t home, uint16_t tag, uint16_t bits,
                             uint32_t reference) noexcept nogil:
    """Put an entry into its bucket or the nearest behind it; False if all are full."""
    cdef uint32_t displacement = 0
    cdef uint32_t i, slot, mask
    cdef Bucket* bucket
    while True:
        bucket = &index.bucket[home + displacement]
        mask = match_tags(bucket.tag, 0)
        if mask:
            break
        displacement += 1
        if displacement > MAX_DISPLACEMENT:
            return False
    for i in range(displacement):
        if index.bucket[home + i].overflow != 0xFFFF:
            index.bucket[home + i].overflow += 1
    slot = lowest_bit(mask)
    bucket.tag[slot] = tag
    bucket.bits[slot] = bits
    bucket.reference[slot] = reference
    if displacement:                    # an empty slot has none
        bucket.displacement_low |= (displacement & 15) << (4 * slot)
        bucket.displacement_high |= <uint16_t>((displacement >> 4) << (2 * slot))
    return True


cdef inline void index_vacate(Index* index, uint32_t home, uint32_t displacement,
                              uint32_t slot) noexcept nogil:
    """Empty a slot and tell the buckets before it."""
    cdef uint32_t i
    cdef Bucket* bucket = &index.bucket[home + displacement]
    bucket.tag[slot] = 0
    if displacement == 0:
        return
    bucket.displacement_low &= ~(<uint32_t>15 << (4 * slot))
    bucket.displacement_high &= <uint16_t>~(<uint32_t>3 << (2 * slot))
    for i in range(displacement):
        if index.bucket[home + i].overflow != 0xFFFF:
            index.bucket[home + i].overflow -= 1


cdef inline void index_split(Index* index) noexcept nogil:
    """Split the next bucket: entries with the next hash bit move up by ``base``."""
    cdef uint32_t home = index.split
    cdef uint32_t shift = lowest_bit(index.base) - 8
    cdef uint32_t displacement = 0
    cdef uint32_t slot
    cdef bint more
    cdef Bucket* bucket
    index.split += 1
    while True:
        bucket = &index.bucket[home + displacement]
        more = bucket.overflow != 0 and displacement < MAX_DISPLACEMENT
        for slot in range(SLOTS):
            if (bucket.tag[slot] and slot_displacement(bucket, slot) == displacement
                    and (bucket.bits[slot] >> shift) & 1):
                # An entry that finds no room (hash flooding) is lost, its connection expires.
                if not index_place(index, home + index.base, bucket.tag[slot],
                                   bucket.bits[slot], bucket.reference[slot]):
                    index.entries -= 1
                index_vacate(index, home, displacement, slot)
        if not more:
            break
        displacement += 1
    if index.split == index.base:
        index.base *= 2
        index.split = 0
        index.growing = False


cdef inline void index_grow(Index* index) noexcept nogil:
    """Split a few buckets, if the index is filling."""
    cdef uint32_t _
    if not index.growing:
        if index.entries <= <uint64_t>FULL_PER_BUCKET * index.base or index.base == index.limit:
            return
        index.growing = True
    for _ in range(SPLITS_PER_INSERT):
        index_split(index)
        if not index.growing:
            return


cdef inline bint index_insert(Index* index, uint64_t hash, uint32_t reference) noexcept nogil:
    """Add a reference; False if the buckets near its own are full (hash flooding)."""
    index_grow(index)
    if not index_place(index, index_home(index, hash), hash_tag(hash), <uint16_t>(hash >> 8),
                       reference):
        return False
    index.entries += 1
    return True


cdef inline bint index_remove(Index* index, uint64_t hash, uint32_t reference) noexcept nogil:
    """Remove the entry with this reference; False if it is not there."""
    cdef uint32_t home = index_home(index, hash)
    cdef uint32_t displacement = 0
    cdef uint32_t mask, slot
    cdef uint16_t tag = hash_tag(hash)
    cdef Bucket* bucket
    while True:
        bucket = &index.bucket[home + displacement]
        mask = match_tags(bucket.tag, tag)
        while mask:
            slot = lowest_bit(mask)
            if bucket.reference[slot] == reference:
                index_vacate(index, home, displacement, slot)
                index.entries -= 1
                return True
            mask &= mask - 1
        if bucket.overflow == 0 or displacement == MAX_DISPLACEMENT:
            return False
        displacement += 1


cdef inline bint index_replace(Index* index, uint64_t hash, uint32_t reference,
                               uint32_t by) noexcept nogil:
    """Let the entry of one reference carry another."""
    cdef uint32_t home = index_home(index, hash)
    cdef uint32_t displacement = 0
    cdef uint32_t mask, slot
    cdef uint16_t tag = hash_tag(hash)
    cdef Bucket* bucket
    while True:
        bucket = &index.bucket[home + displacement]
        mask = match_tags(bucket.tag, tag)
        while mask:
            slot = lowest_bit(mask)
            if bucket.reference[slot] == reference:
                bucket.reference[slot] = by
                return True
            mask &= mask - 1
        if bucket.overflow == 0 or displacement == MAX_DISPLACEMENT:
            return False
        displacement += 1
