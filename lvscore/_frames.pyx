"""Frames for an engine: many frames in one buffer, described by dense arrays."""

cimport cython
from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.string cimport strchr

import re

from lvscore._arguments import whole_number
from lvscore.errors import ConfigError

__all__ = ["FrameBatch"]

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX

cdef enum:
    MAX_FRAME_LENGTH = 0x7FFFFFFF
    MAX_FRAMES = 0x7FFFFFFF
    MAX_LINK_TYPE = 0xFFFF


cdef class _Column:
    """One array of a batch, shown through the buffer protocol; keeps the batch alive."""
    cdef:
        FrameBatch batch
        void* pointer
        Py_ssize_t shape[1]
        Py_ssize_t strides[1]
        bytes format
        bint writable

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        if flags & PyBUF_WRITABLE == PyBUF_WRITABLE and not self.writable:
            raise BufferError("this array of a FrameBatch is read-only")
        buffer.buf = self.pointer
        buffer.obj = self
        buffer.itemsize = self.strides[0]
        buffer.len = self.shape[0] * self.strides[0]
        buffer.readonly = not self.writable
        buffer.format = <char*>self.format if flags & PyBUF_FORMAT == PyBUF_FORMAT else NULL
        buffer.ndim = 1
        buffer.shape = self.shape if flags & PyBUF_ND == PyBUF_ND else NULL
        buffer.strides = self.strides if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
        buffer.suboffsets = NULL
        buffer.internal = NULL


cdef object column(FrameBatch batch, void* pointer, Py_ssize_t size, bytes format,
                   bint writable):
    import numpy

    cdef _Column view = _Column()
    view.batch = batch
    view.pointer = pointer
    view.shape[0] = batch.count
    view.strides[0] = size
    view.format = format
    view.writable = writable
    return numpy.asarray(view)


cdef int refuse_overlap(object offsets, object lengths) except -1:
    """Raise ConfigError if two frames share bytes; an empty frame has none to share."""
    import numpy

    filled = numpy.flatnonzero(lengths)
    if filled.size < 2:
        return 0
    order = filled[numpy.argsort(offsets[filled])]
    ends = offsets[order] + lengths[order]
    shared = numpy.flatnonzero(offsets[order[1:]] < ends[:order.size - 1])
    if shared.size:
        i, j = sorted(order[shared[0]:shared[0] + 2].tolist())
        raise ConfigError(
            f"frame {i}: bytes {offsets[i]}..{offsets[i] + lengths[i]} overlap frame {j}: bytes "
            f"{offsets[j]}..{offsets[j] + lengths[j]}")
    return 0


cdef int get_writable(object buffer, Py_buffer* view, str name) except -1:
    """Fill ``view`` with the bytes of ``buffer``, which frames are rewritten in.

    Raises:
        ConfigError: it is no writable, contiguous memory, or has Python's objects in it.
    """
    try:
        PyObject_GetBuffer(buffer, view, PyBUF_ND | PyBUF_FORMAT | PyBUF_WRITABLE)
    except (TypeError, BufferError, ValueError) as error:   # NumPy raises ValueError
        raise ConfigError(f"{name} must be writable, contiguous memory, as a bytearray, not "
                          f"{type(buffer).__name__}: {error}") from error
    # PEP 3118; names of fields, which may have any letters, are between colons.
    if (view.format != NULL and strchr(view.format, c"O") != NULL
            and b"O" in re.sub(b":[^:]*:", b"", view.format)):
        PyBuffer_Release(view)
        raise ConfigError(f"{name} must be bytes, not an array of Python objects")
    return 0


# A batch that is garbage in a cycle must let go of its buffer by PyBuffer_Release alone: what
# Cython would clear there is the buffer's owner, which then goes while it is exported.
@cython.no_gc_clear
cdef class FrameBatch:
    """Frames in one writable buffer, described by arrays: what an engine works on, in place.

    Nothing is copied but the arrays: frame ``i`` is ``buffer[offset[i]:offset[i] + length[i]]``,
    and an engine rewrites it there. The batch holds the buffer until it is collected, so a
    bytearray cannot be resized meanwhile. Frames may lie in any order and with room between them,
    but may not share bytes: engines read many frames before they rewrite the first.

    Args:
        buffer: a writable, contiguous buffer (bytearray, memoryview, mmap, NumPy array).
        offsets: where each frame begins in it, bytes.
        lengths: captured bytes of each frame.
        timestamps: nanoseconds, of any origin.
        link_type: LINKTYPE_ number of all frames, a LinkType.
        original_lengths: bytes that each frame had on the wire, at least its length; the lengths
            by default.

    The arrays are sequences or one-dimensional NumPy arrays of integers of any width, equally
    long, and are copied.

    Raises:
        ConfigError: the buffer is not as above, a frame lies outside it or overlaps another, the
            arrays differ in length, or a number is out of range.
    """

    def __init__(self, buffer, offsets, lengths, timestamps, *, link_type=1,
                 original_lengths=None):
        import numpy

        if self.bound or self.offset != NULL:
            raise ConfigError("a FrameBatch is bound once; make another for another buffer")
        link_type = whole_number(link_type, "link_type", 0, MAX_LINK_TYPE)
        arrays = []
        for name, values, kind in (("offsets", offsets, numpy.uint64),
                                   ("lengths", lengths, numpy.uint32),
                                   ("timestamps", timestamps, numpy.int64),
                                   ("original_lengths",
                                    lengths if original_lengths is None else original_lengths,
                                    numpy.uint32)):
            try:
                given = numpy.asarray(values)
            except (TypeError, ValueError, OverflowError) as error:
                raise ConfigError(f"{name} must be integers: {error}") from error
            if given.ndim != 1:
                raise ConfigError(f"{name} must have one dimension, not {given.ndim}")
            if given.size and given.dtype.kind not in "iu":
                raise ConfigError(f"{name} must be integers, not {given.dtype}")
            limits = numpy.iinfo(kind)
            if given.size and (int(given.min()) < limits.min or int(given.max()) > limits.max):
                raise ConfigError(f"{name} must lie in {limits.min}..{limits.max}")
            arrays.append(numpy.ascontiguousarray(given, dtype=kind))
        sizes = {a.size for a in arrays}
        if len(sizes) != 1:
            raise ConfigError(
                "offsets, lengths, timestamps and original_lengths must be equally long, not "
                + ", ".join(str(a.size) for a in arrays))
        if arrays[0].size > MAX_FRAMES:
            raise ConfigError(f"{arrays[0].size} frames are more than a batch's {MAX_FRAMES}")
        get_writable(buffer, &self.view, "buffer")
        self.bound = True
        self.data = <uint8_t*>self.view.buf
        self.data_length = self.view.len
        self.reserve(<uint32_t>arrays[0].size)
        self.link_type = link_type
        cdef const uint64_t[::1] offset = arrays[0]
        cdef const uint32_t[::1] length = arrays[1]
        cdef const int64_t[::1] timestamp = arrays[2]
        cdef const uint32_t[::1] original = arrays[3]
        cdef uint64_t end = 0
        cdef bint ascending = True
        cdef uint32_t i
        for i in range(<uint32_t>offset.shape[0]):
            if (length[i] > MAX_FRAME_LENGTH or offset[i] > self.data_length
                    or length[i] > self.data_length - offset[i]):
                raise ConfigError(
                    f"frame {i}: bytes {offset[i]}..{offset[i] + length[i]} lie outside the "
                    f"buffer of {self.data_length} bytes")
            if original[i] < length[i]:
                raise ConfigError(
                    f"frame {i}: original length {original[i]} is less than its {length[i]} "
                    "captured bytes")
            self.offset[i] = offset[i]
            self.length[i] = length[i]
            self.timestamp[i] = timestamp[i]
            self.original_length[i] = original[i]
            if original[i] != length[i]:
                self.snapped = True
            if length[i]:
                ascending = ascending and offset[i] >= end
                end = offset[i] + length[i]
        if not ascending:
            refuse_overlap(arrays[0], arrays[1])
        self.count = <uint32_t>offset.shape[0]

    def __cinit__(self, *args, **kwargs):
        self.data = NULL
        self.bound = False
        self.link_type = 1

    def __dealloc__(self):
        if self.bound:
            PyBuffer_Release(&self.view)
        PyMem_Free(self.offset)
        PyMem_Free(self.length)
        PyMem_Free(self.original_length)
        PyMem_Free(self.timestamp)
        PyMem_Free(self.mark)
        PyMem_Free(self.egress)
        PyMem_Free(self.verdict)
        PyMem_Free(self.reason)

    cdef int reserve(self, uint32_t capacity) except -1:
        """Allocate the arrays for ``capacity`` frames; once per batch."""
        cdef uint32_t n = capacity if capacity else 1
        self.offset = <uint64_t*>PyMem_Calloc(n, sizeof(uint64_t))
        self.length = <uint32_t*>PyMem_Calloc(n, sizeof(uint32_t))
        self.original_length = <uint32_t*>PyMem_Calloc(n, sizeof(uint32_t))
        self.timestamp = <int64_t*>PyMem_Calloc(n, sizeof(int64_t))
        self.verdict = <uint8_t*>PyMem_Calloc(n, 1)
        self.reason = <uint8_t*>PyMem_Calloc(n, 1)
        if not (self.offset and self.length and self.original_length and self.timestamp
                and self.verdict and self.reason):
            raise MemoryError()
        self.capacity = capacity
        return 0

    cdef int reserve_egress(self) except -1:
        if self.egress == NULL:
            self.egress = <uint32_t*>PyMem_Calloc(self.capacity if self.capacity else 1,
                                                  sizeof(uint32_t))
            if self.egress == NULL:
                raise MemoryError()
        return 0

    @staticmethod
    cdef FrameBatch over(object owner, uint8_t* data, uint64_t data_length, uint32_t capacity,
                         int link_type):
        """A batch over memory that ``owner`` keeps alive, with room for ``capacity`` frames."""
        cdef FrameBatch batch = FrameBatch.__new__(FrameBatch)
        batch.owner = owner
        batch.data = data
        batch.data_length = data_length
        batch.link_type = link_type
        batch.reserve(capacity)
        return batch

    @classmethod
    def of(cls, frames, timestamps=None, *, link_type=1):
        """A batch over a copy of ``frames``, bytes-like objects.

        Args:
            frames: an iterable of them.
            timestamps: nanoseconds, one per frame; 0 by default.
            link_type: LINKTYPE_ number of all frames.

        Raises:
            ConfigError: timestamps are not as many as frames, or a number is out of range.
        """
        try:
            frames = [bytes(memoryview(frame)) for frame in frames]
        except TypeError as error:
            raise ConfigError(f"frames must be bytes-like: {error}") from error
        if timestamps is None:
            timestamps = [0] * len(frames)
        offsets, position = [], 0
        for frame in frames:
            offsets.append(position)
            position += len(frame)
        return cls(bytearray(b"".join(frames)), offsets, [len(frame) for frame in frames],
                   timestamps, link_type=link_type)

    def __repr__(self):
        return f"<FrameBatch of {self.count} frames, link type {self.link_type}>"

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        """Frame ``index`` as a writable memoryview of its present ``length`` bytes."""
        cdef Py_ssize_t i
        try:
            i = index
        except OverflowError:
            i = PY_SSIZE_T_MAX
        if i < 0:
            i += self.count
        if not 0 <= i < self.count:
            raise IndexError(f"frame {index} of a batch of {self.count}")
        cdef _Column view = _Column()
        view.batch = self
        view.pointer = self.data + self.offset[i]
        view.shape[0] = self.length[i]
        view.strides[0] = 1
        view.format = b"B"
        view.writable = True
        return memoryview(view)

    @property
    def link_type(self):
        """LINKTYPE_ number of all frames."""
        return self.link_type

    @property
    def offset(self):
        """Where each frame begins in the buffer: bytes, uint64, read-only."""
        return column(self, self.offset, sizeof(uint64_t), b"Q", False)

    @property
    def length(self):
        """Bytes of each frame, uint32, read-only; an engine that changes a size changes it here."""
        return column(self, self.length, sizeof(uint32_t), b"I", False)

    @property
    def original_length(self):
        """Bytes that each frame had on the wire, at least its length; uint32, read-only."""
        return column(self, self.original_length, sizeof(uint32_t), b"I", False)

    @property
    def timestamp(self):
        """Nanoseconds, int64, read-only."""
        return column(self, self.timestamp, sizeof(int64_t), b"q", False)

    @property
    def mark(self):
        """Firewall mark of each frame, uint32, writable; 0: none, as before it is set."""
        if self.mark == NULL:
            self.mark = <uint32_t*>PyMem_Calloc(self.capacity if self.capacity else 1,
                                                sizeof(uint32_t))
            if self.mark == NULL:
                raise MemoryError()
        return column(self, self.mark, sizeof(uint32_t), b"I", True)

    @property
    def egress(self):
        """Number of the interface that a Host sends each frame by, uint32, read-only."""
        self.reserve_egress()
        return column(self, self.egress, sizeof(uint32_t), b"I", False)

    @property
    def verdict(self):
        """What became of each frame: Verdict as uint8, writable; 0 before."""
        return column(self, self.verdict, 1, b"B", True)

    @property
    def reason(self):
        """Why: Reason as uint8, writable; 0 before."""
        return column(self, self.reason, 1, b"B", True)
