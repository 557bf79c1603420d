"""What the compiler and the operating system give, and Cython cannot say.

Verbatim C is kept to this file: a 64x64->128 bit product, a compare of seven tags, the last bytes
of some as a word, prefetch, bit scans, and address space that is taken from the system only as it
is touched.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    #include <errno.h>
    #include <stdint.h>
    #include <string.h>
    #include <sys/mman.h>
    #if defined(__SSE2__)
    #include <emmintrin.h>
    #endif

    /* Product of two 64-bit numbers, high half xor low half. */
    static inline uint64_t lvs_multiply_fold(uint64_t a, uint64_t b)
    {
    #if defined(__SIZEOF_INT128__)
        unsigned __int128 product = (unsigned __int128)a * b;
        product ^= product >> 64;
        return (uint64_t)product;
    #else
        uint64_t ah = a >> 32, al = (uint32_t)a, bh = b >> 32, bl = (uint32_t)b;
        uint64_t middle = ah * bl + (al * bl >> 32), other = al * bh + (uint32_t)middle;
        uint64_t high = ah * bh + (middle >> 32) + (other >> 32);
        return high ^ (a * b);
    #endif
    }

    /* One bit for each of tags[0..6] that equals tag; tags[7] is not a tag. */
    static inline uint32_t lvs_match_tags(const uint16_t *tags, uint16_t tag)
    {
    #if defined(__SSE2__)
        __m128i equal = _mm_cmpeq_epi16(_mm_load_si128((const __m128i *)tags),
                                        _mm_set1_epi16((short)tag));
        return (uint32_t)_mm_movemask_epi8(_mm_packs_epi16(equal, equal)) & 0x7f;
    #else
        uint32_t mask = 0;
        for (int i = 0; i < 7; i++) mask |= (uint32_t)(tags[i] == tag) << i;
        return mask;
    #endif
    }

    /* The last 1 to 7 bytes before end as they would be loaded from where they begin, with zeros
       behind; 8 bytes before it are read. */
    static inline uint64_t lvs_load_last(const uint8_t *end, uint32_t bytes)
    {
        uint64_t word;
        memcpy(&word, end - 8, 8);
    #if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        return word >> (64 - 8 * bytes);
    #else
        return word << (64 - 8 * bytes);
    #endif
    }

    static inline uint32_t lvs_lowest_bit(uint32_t mask) { return (uint32_t)__builtin_ctz(mask); }
    static inline uint32_t lvs_lowest_bit64(uint64_t mask)
    { return (uint32_t)__builtin_ctzll(mask); }
    /* Without the asm gcc takes a function that only prefetches for one without effect, and
       drops it. */
    static inline void lvs_prefetch(const void *p)
    { __builtin_prefetch(p, 0, 3); __asm__ volatile (""); }
    /* Into the second cache level only, which leaves the first one's few places for what is on
       its way to what is needed sooner. */
    static inline void lvs_prefetch_later(const void *p)
    { __builtin_prefetch(p, 0, 2); __asm__ volatile (""); }
    static inline void lvs_prefetch_write(const void *p)
    { __builtin_prefetch(p, 1, 3); __asm__ volatile (""); }

    #define LVS_HUGE_PAGE ((size_t)2 << 20)

    /* Zeroed address space, aligned to 2 MiB; pages are taken when they are first touched.
       Huge pages are asked for behind the first 2 MiB, so that a small table stays small. */
    static inline void *lvs_reserve(size_t size)
    {
        uint8_t *raw, *start;
        size_t total = size + LVS_HUGE_PAGE;
        raw = (uint8_t *)mmap(0, total, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (raw == (uint8_t *)MAP_FAILED) return 0;
        start = (uint8_t *)(((uintptr_t)raw + LVS_HUGE_PAGE - 1) & ~(uintptr_t)(LVS_HUGE_PAGE - 1));
        if (start > raw) munmap(raw, (size_t)(start - raw));
        if (raw + total > start + size) {
            uint8_t *end = (uint8_t *)(((uintptr_t)start + size + 4095) & ~(uintptr_t)4095);
            if (raw + total > end) munmap(end, (size_t)(raw + total - end));
        }
        if (size > LVS_HUGE_PAGE)
            madvise(start + LVS_HUGE_PAGE, size - LVS_HUGE_PAGE, MADV_HUGEPAGE);
        return start;
    }
    /* Take pages now that would be taken when first touched; 0 if memory ends. Another thread may
       write to them meanwhile, and map memory: the kernel holds that off during a call, so there
       is one for each large page. */
    static inline int lvs_populate(void *start, size_t size)
    {
        uint8_t *page = (uint8_t *)start, *end = page + size;
    #if defined(MADV_POPULATE_WRITE)
        for (; page < end; page += LVS_HUGE_PAGE) {
            size_t rest = (size_t)(end - page);
            if (madvise(page, rest < LVS_HUGE_PAGE ? rest : LVS_HUGE_PAGE, MADV_POPULATE_WRITE)) {
                if (errno == ENOMEM || errno == EHWPOISON) return 0;
                break;          /* a kernel before 5.14 */
            }
        }
    #endif
        for (; page < end; page += 4096) __atomic_fetch_add(page, 0, __ATOMIC_RELAXED);
        return 1;
    }
    static inline void lvs_release(void *start, size_t size)
    { if (start) munmap(start, (size + 4095) & ~(size_t)4095); }
    """
    uint64_t multiply_fold "lvs_multiply_fold"(uint64_t a, uint64_t b) noexcept nogil
    uint32_t match_tags "lvs_match_tags"(const uint16_t* tags, uint16_t tag) noexcept nogil
    uint64_t load_last "lvs_load_last"(const uint8_t* end, uint32_t bytes) noexcept nogil
    uint32_t lowest_bit "lvs_lowest_bit"(uint32_t mask) noexcept nogil
    uint32_t lowest_bit64 "lvs_lowest_bit64"(uint64_t mask) noexcept nogil
    void prefetch "lvs_prefetch"(const void* p) noexcept nogil
    void prefetch_later "lvs_prefetch_later"(const void* p) noexcept nogil
    void prefetch_write "lvs_prefetch_write"(const void* p) noexcept nogil
    void* memory_reserve "lvs_reserve"(size_t size) noexcept nogil
    bint memory_populate "lvs_populate"(void* start, size_t size) noexcept nogil
    void memory_release "lvs_release"(void* start, size_t size) noexcept nogil
    bint likely "__builtin_expect"(bint condition, bint expected) noexcept nogil
