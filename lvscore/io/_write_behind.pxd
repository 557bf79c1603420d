"""The writer's thread as the writer sees it."""

from libc.stdint cimport uint8_t, uint64_t


cdef class WriteBehind:
    cdef:
        int descriptor
        object full             # (buffer, used), or a queue to answer to, or None: the end
        object empty            # buffers
        object thread
        uint64_t committed      # bytes of whole buffers in the file
        int error               # errno, or 0

    cdef void put_out(self, const uint8_t* data, size_t size) noexcept
    cdef bytearray exchange(self, bytearray buffer, size_t used)
    cdef int settle(self) except -1
