"""Reading pcap and pcapng: frames go from a buffer of the file into a FrameBatch, without the GIL.

Files are read, not mapped: a read into a buffer that stays in cache costs what touching a mapped
page costs, pipes and gzip take the same way, and a file that shrinks is no SIGBUS.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memmove, memset

from lvscore._frames cimport FrameBatch
from lvscore.io cimport _pcap_format as fmt

from lvscore._arguments import whole_number
from lvscore.constants import LinkType
from lvscore.errors import (
    CaptureError,
    ConcurrencyError,
    ConfigError,
    TruncatedCapture,
    UnsupportedLinkType,
)
from lvscore.io._stream import Input

cdef extern from "<stdlib.h>" nogil:
    void* aligned_alloc(size_t alignment, size_t size)

__all__ = ["PcapReader"]

cdef enum:
    BUFFER_SIZE = 1 << 18
    ARENA_SIZE = 1 << 20
    MAX_BATCH_SIZE = 1 << 20


cdef class _Arena:
    """Memory for the frames of a batch, aligned for a cache line."""
    cdef uint8_t* data
    cdef uint64_t size

    def __cinit__(self, uint64_t size):
        self.size = (size + 63) & ~<uint64_t>63
        self.data = <uint8_t*>aligned_alloc(64, self.size)
        if self.data == NULL:
            raise MemoryError(f"no memory for {size} bytes of frames")

    def __dealloc__(self):
        free(self.data)


cdef class PcapReader:
    """Frames of a pcap or pcapng capture, as an iterator of FrameBatch; made by ``open_pcap``.

    Each batch has up to ``batch_size`` frames of one link type: it ends early where the link type
    changes, where a mebibyte is full, and on a pipe where no more has arrived. Frames begin at
    multiples of 16 in writable memory. The reader fills **the same batch again** each time: frames
    and arrays of a batch are valid until the next one comes.

    Timestamps are nanoseconds since 1970; those of simple packet blocks, which have none, count
    as 0. An original length below the captured one is raised to it; a captured length above the
    snapshot length is accepted, since real captures have them. One thread may use a reader.

    Raises, from the iterator, after every whole frame before was delivered, and once:
        TruncatedCapture: the capture ends inside a record.
        UnsupportedLinkType: the next frame's link type is none of LinkType.
        CaptureError: a length or number that the format does not allow, with its offset.
        CaptureFileError: the operating system refused to read.
    """

    cdef:
        fmt.Capture capture
        fmt.Interface* interfaces       # room that a section's interfaces use again
        uint32_t room
        fmt.Interface first
        FrameBatch batch
        uint32_t batch_size
        object input
        bytearray buffer
        size_t start                    # of what was not read yet, in buffer
        size_t end
        uint64_t base                   # of buffer[0], in bytes from the start of the capture
        uint64_t count
        object failure
        bint delivered
        bint ended
        bint closed
        bint busy

    def __cinit__(self, *args, **kwargs):
        self.closed = True              # until __init__ is through

    def __init__(self, source, *, batch_size=1024):
        if self.input is not None:
            raise ConfigError("a PcapReader reads one capture; open another")
        self.batch_size = whole_number(batch_size, "batch_size", 1, MAX_BATCH_SIZE)
        self.buffer = bytearray(BUFFER_SIZE)
        self.delivered = True
        self.input = Input(source)
        try:
            self.read_header()
        except BaseException:
            self.close()
            raise
        self.make_arena(ARENA_SIZE)
        self.closed = False

    def __dealloc__(self):
        PyMem_Free(self.interfaces)

    # The buffer --------------------------------------------------------------------------------

    cdef bint refill(self, uint64_t wanted) except -1:
        """Read on until ``wanted`` bytes are there; False at the end of the capture.

        The buffer grows only as bytes come, so a length that lies takes no memory.
        """
        cdef size_t left = self.end - self.start
        cdef Py_ssize_t size
        cdef bytearray larger
        cdef uint8_t* data = <uint8_t*>PyByteArray_AS_STRING(self.buffer)
        memmove(data, data + self.start, left)
        self.base += self.start
        self.start = 0
        self.end = left
        while self.end < wanted:
            PyErr_CheckSignals()
            if self.end == <size_t>len(self.buffer):
                larger = bytearray(2 * len(self.buffer))
                larger[:self.end] = memoryview(self.buffer)[:self.end]
                self.buffer = larger
            try:
                size = self.input.readinto(memoryview(self.buffer)[self.end:])
            except CaptureError as error:
                self.failure = error
                return False
            if size == 0:
                if self.end or self.input.truncated:
                    self.failure = TruncatedCapture(
                        f"{self.input.name}: the capture ends inside the "
                        f"{'record' if self.base else 'header'} at offset "
                        f"{self.base}: {self.end} bytes of at least {wanted}", self.base)
                return False
            self.end += size
        return True

    # Headers -----------------------------------------------------------------------------------

    cdef int read_header(self) except -1:
        """Read up to the first interface whose link type is known."""
        cdef fmt.Record record
        cdef fmt.Status status
        cdef uint8_t* data
        cdef uint32_t i
        if not self.refill(4):
            raise self.failure or CaptureError(
                f"{self.input.name} is empty; expected a pcap or pcapng capture")
        data = <uint8_t*>PyByteArray_AS_STRING(self.buffer)
        if fmt.load32(data, False) != fmt.SECTION_HEADER_BLOCK:
            status = fmt.pcap_header(data, self.end, &self.capture, &self.first, &record)
            if status == fmt.NEED_MORE:
                if not self.refill(record.size):
                    raise self.failure
                data = <uint8_t*>PyByteArray_AS_STRING(self.buffer)
                status = fmt.pcap_header(data, self.end, &self.capture, &self.first, &record)
            if status != fmt.SKIP:
                raise self.problem(status, &record)
            if self.first.link_type < 0:
                record.value = self.first.declared
                raise self.problem(fmt.BAD_LINK_TYPE, &record)
            self.start = fmt.PCAP_HEADER_LENGTH
            return 0
        self.capture.pcapng = True
        while True:
            data = <uint8_t*>PyByteArray_AS_STRING(self.buffer)
            status = fmt.pcapng_block(data + self.start, self.end - self.start, &self.capture,
                                      &record)
            if status == fmt.SECTION or status == fmt.INTERFACE:
                status = self.describe(status, &record)
                for i in range(self.capture.interface_count):
                    if self.capture.interfaces[i].link_type >= 0:
                        self.first = self.capture.interfaces[i]
                        return 0
            elif status == fmt.SKIP:
                self.start += record.size
            elif status == fmt.NEED_MORE:
                if self.refill(record.size):
                    continue
                if self.failure is None and self.capture.interface_count:
                    status = fmt.FRAME
                else:
                    raise self.failure or CaptureError(
                        f"{self.input.name} ends at offset {self.base} without describing an "
                        "interface")
            if status == fmt.FRAME:
                record.value = self.capture.interfaces[0].declared
                raise self.problem(fmt.BAD_LINK_TYPE, &record)
            if status >= fmt.BAD_MAGIC:
                raise self.problem(status, &record)

    cdef fmt.Status describe(self, fmt.Status status, fmt.Record* record) except *:
        """Take in a section header or interface description at ``start``."""
        cdef uint32_t count = self.capture.interface_count
        cdef uint32_t room
        cdef void* larger
        if status == fmt.SECTION:
            self.capture.swapped = record.swapped
            self.capture.interface_count = 0
            self.start += record.size
            return fmt.SKIP
        if count == fmt.MAX_INTERFACES:
            record.value = count
            return fmt.BAD_INTERFACE
        if count == self.room:
            room = 2 * count if count else 4
            larger = PyMem_Realloc(self.interfaces, room * sizeof(fmt.Interface))
            if larger == NULL:
                raise MemoryError()
            self.interfaces = <fmt.Interface*>larger
            self.capture.interfaces = self.interfaces
            self.room = room
        status = fmt.pcapng_interface(
            <uint8_t*>PyByteArray_AS_STRING(self.buffer) + self.start, record.size,
            record.swapped, &self.interfaces[count], record)
        if status == fmt.INTERFACE:
            self.capture.interface_count = count + 1
            self.start += record.size
            return fmt.SKIP
        return status

    cdef object problem(self, fmt.Status status, const fmt.Record* record):
        """The exception for a status, about what begins at ``start``."""
        cdef uint64_t offset = self.base + self.start
        name = self.input.name
        where = f"{name}: at offset {offset}:"
        value = record.value
        if status == fmt.BAD_MAGIC:
            magic = bytes(self.buffer[:4]).hex(" ")
            return CaptureError(f"{name} is neither pcap nor pcapng: it begins with {magic}")
        if status == fmt.BAD_VERSION:
            kind, wanted = ("pcapng", "1.x") if self.capture.pcapng else ("pcap", "2.0 to 2.4")
            return CaptureError(f"{where} {kind} version {value >> 16}.{value & 0xFFFF}; "
                                f"{wanted} can be read")
        if status == fmt.BAD_LINK_TYPE:
            known = ", ".join(f"{kind.value} {kind.name}" for kind in LinkType)
            return UnsupportedLinkType(f"{where} link type {value} is not supported; "
                                       f"supported are {known}")
        if status == fmt.BAD_CAPTURED_LENGTH:
            return CaptureError(f"{where} captured length {value} exceeds "
                                + ("its block" if self.capture.pcapng
                                   and value <= fmt.MAX_CAPTURED_LENGTH
                                   else f"the limit of {fmt.MAX_CAPTURED_LENGTH}"))
        if status == fmt.BAD_BLOCK_LENGTH:
            return CaptureError(f"{where} block length {value}; expected a multiple of 4, enough "
                                f"for the block's fields and at most {fmt.MAX_BLOCK_LENGTH}")
        if status == fmt.BAD_TRAILING_LENGTH:
            return CaptureError(f"{where} the block's length is {record.size}, but {value} stands "
                                "at its end")
        if status == fmt.BAD_BYTE_ORDER:
            return CaptureError(f"{where} byte-order magic {value:#010x}; expected "
                                f"{fmt.BYTE_ORDER_MAGIC:#010x} in either order")
        if status == fmt.BAD_INTERFACE:
            return CaptureError(f"{where} interface {value}; {self.capture.interface_count} are "
                                f"described in this section, of at most {fmt.MAX_INTERFACES}")
        if status == fmt.BAD_TIMESTAMP:
            return CaptureError(f"{where} timestamp {value} is beyond 64-bit nanoseconds")
        return CaptureError(f"{where} interface option {value} has a bad length or value")

    # Frames ------------------------------------------------------------------------------------

    cdef int make_arena(self, uint64_t size) except -1:
        """A batch over new memory; views of frames of the one before keep theirs."""
        cdef _Arena arena = _Arena(size)
        self.batch = FrameBatch.over(arena, arena.data, arena.size, self.batch_size, -1)
        return 0

    cdef fmt.Status fill(self, fmt.Record* record) except *:
        """Add frames from the buffer to the batch."""
        cdef fmt.Arena arena
        cdef fmt.Status status
        cdef size_t consumed
        cdef FrameBatch batch = self.batch
        cdef const uint8_t* data = <uint8_t*>PyByteArray_AS_STRING(self.buffer) + self.start
        cdef uint32_t last
        arena.data = batch.data
        arena.size = batch.data_length
        arena.offset = batch.offset
        arena.length = batch.length
        arena.original_length = batch.original_length
        arena.timestamp = batch.timestamp
        arena.capacity = batch.capacity
        arena.count = batch.count
        arena.link_type = batch.link_type
        arena.snapped = batch.snapped
        arena.used = 0
        if batch.count:
            last = batch.count - 1
            arena.used = batch.offset[last] + batch.length[last]
        with nogil:
            status = fmt.scan(data, self.end - self.start, &self.capture, &arena, record, &consumed)
        batch.count = arena.count
        batch.link_type = arena.link_type
        batch.snapped = arena.snapped
        self.start += consumed
        return status

    cdef int read_batch(self) except -1:
        """Fill the batch, or set ``ended`` and perhaps ``failure``."""
        cdef fmt.Record record
        cdef fmt.Status status
        if not self.capture.pcapng:
            self.capture.interfaces = &self.first
        while True:
            status = self.fill(&record)
            if status == fmt.SECTION or status == fmt.INTERFACE:
                status = self.describe(status, &record)
            if status == fmt.SKIP:
                continue
            if status == fmt.BATCH_FULL:
                return 0
            if status == fmt.ARENA_SMALL:
                self.make_arena(record.captured)
            elif status == fmt.NEED_MORE:
                if self.batch.count and self.input.live:
                    return 0
                if not self.refill(record.size):
                    self.ended = True
                    return 0
            else:
                self.failure = self.problem(status, &record)
                self.ended = True
                return 0

    def __iter__(self):
        return self

    def __next__(self):
        cdef FrameBatch last = self.batch
        cdef uint32_t count
        cdef bint snapped
        if self.closed:
            raise CaptureError(f"{self.name} is closed")
        if self.busy:
            raise ConcurrencyError(f"{self.input.name} is being read already")
        count = last.count
        snapped = last.snapped
        if self.delivered:
            self.batch.count = 0
            self.batch.snapped = False
            self.delivered = False
        if not self.ended:
            self.busy = True
            try:
                self.read_batch()
            finally:
                self.busy = False
        self.delivered = True
        if self.batch.count:
            memset(self.batch.verdict, 0, self.batch.capacity)
            memset(self.batch.reason, 0, self.batch.capacity)
            self.count += self.batch.count
            return self.batch
        last.count = count                  # nothing came: the last batch remains
        last.snapped = snapped
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        raise StopIteration

    def close(self):
        """Close the capture; a file object that was given stays open. May be called again."""
        if self.busy:
            raise ConcurrencyError(f"{self.input.name} is being read already")
        self.closed = True
        if self.input is not None:
            self.input.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback, /):
        self.close()

    # What it is --------------------------------------------------------------------------------

    @property
    def name(self):
        """Path, or what stands for it in messages."""
        return "a capture never opened" if self.input is None else self.input.name

    @property
    def format(self):
        """``"pcap"`` or ``"pcapng"``."""
        return "pcapng" if self.capture.pcapng else "pcap"

    @property
    def link_type(self):
        """LINKTYPE_ number of the first interface that can be read.

        A pcap has one; in a pcapng each batch has its own ``link_type``.
        """
        return self.first.link_type

    @property
    def nanosecond(self):
        """Whether ticks of the first interface are anything but whole microseconds."""
        if self.first.shift:
            return self.first.shift > 6         # 10**6 is a multiple of 2**6
        return self.first.multiplier < 1000

    @property
    def snaplen(self):
        """Most bytes that were captured of a frame, by the first interface; 0 is no limit."""
        return self.first.snaplen

    @property
    def frames(self):
        """Frames delivered so far."""
        return self.count

    @property
    def position(self):
        """Bytes read of the file as it lies on disk, compressed where it is; for progress."""
        cdef uint64_t count = self.input.count
        return count if self.input.compressed else count - (self.end - self.start)

    @property
    def size(self):
        """Bytes of the file as it lies on disk; None for pipes and file objects."""
        return self.input.size
