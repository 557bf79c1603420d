"""Words that a ring shares with the kernel: read before, and written after, what they tell of."""

from libc.stdint cimport uint32_t

cdef extern from *:
    """
    #include <stdint.h>
    static inline uint32_t lvs_load_acquire(const uint32_t* word) {
        return __atomic_load_n(word, __ATOMIC_ACQUIRE);
    }
    static inline void lvs_store_release(uint32_t* word, uint32_t value) {
        __atomic_store_n(word, value, __ATOMIC_RELEASE);
    }
    """
    uint32_t lvs_load_acquire(const uint32_t* word) nogil
    void lvs_store_release(uint32_t* word, uint32_t value) nogil
