"""FrameBatch as other extensions see it: plain arrays over one writable buffer."""

from cpython.buffer cimport Py_buffer
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef int get_writable(object buffer, Py_buffer* view, str name) except -1


cdef class FrameBatch:
    cdef:
        uint8_t* data               # start of the buffer
        uint64_t data_length        # its size in bytes
        uint32_t capacity           # frames that the arrays have room for
        uint32_t count              # frames that they hold
        int link_type               # LINKTYPE_ number, one for the whole batch
        bint snapped                # some original_length[i] > length[i]
        uint64_t* offset            # of each frame from data
        uint32_t* length            # captured bytes; an engine writes it when a frame changes size
        uint32_t* original_length   # bytes on the wire, >= length
        int64_t* timestamp          # nanoseconds
        uint32_t* mark              # firewall marks; NULL until asked for: none has one
        uint32_t* egress            # interfaces that a Host sends them by; NULL until there is one
        bint vnet_header            # a virtio_net_hdr of 10 bytes lies before each frame
        uint8_t* verdict            # written by an engine
        uint8_t* reason             # written by an engine
        Py_buffer view              # keeps the buffer alive and bound
        bint bound                  # view is held
        object owner                # or what owns data instead

    cdef int reserve(self, uint32_t capacity) except -1
    cdef int reserve_egress(self) except -1

    @staticmethod
    cdef FrameBatch over(object owner, uint8_t* data, uint64_t data_length,
                         uint32_t capacity, int link_type)
