"""Writing pcap and pcapng: frames go from a FrameBatch into a buffer, without the GIL."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from lvscore._frames cimport FrameBatch
from lvscore.io cimport _pcap_format as fmt
from lvscore.io._write_behind cimport WriteBehind

import os
import struct
import zlib

from lvscore._arguments import whole_number
from lvscore.constants import LinkType
from lvscore.errors import CaptureError, ConcurrencyError, ConfigError, UnsupportedLinkType
from lvscore.io._selection import selection
from lvscore.io._stream import Output

__all__ = ["PcapWriter"]

cdef enum:
    BUFFER_SIZE = 1 << 18

cdef class PcapWriter:
    """Writes frames into a pcap or pcapng capture; made by ``create_pcap``.

    The headers are written at once. Frames gather in a buffer that holds whole records only and
    is written when it is full, by ``flush`` and by ``close``, so that a capture closed after
    Ctrl-C is whole. A frame longer than ``snaplen`` is cut to it and keeps its original length;
    an original length is never written below the captured one. One thread may use a writer.

    Into a regular file full buffers are written by a thread, while the next one is filled; at most
    4 MiB are on their way. What is refused then is raised by a later call, ``close`` at the latest.

    Raises, from whatever writes:
        CaptureError: a timestamp that the format has no room for, a second link type in a pcap,
            a writer that is closed or failed before.
        UnsupportedLinkType: a link type that is none of LinkType.
        CaptureFileError: the operating system refused to write (disk full, broken pipe); the
            records that did not fit are taken off a regular file again.
    """

    cdef:
        object output
        WriteBehind behind              # what writes, or None: the writer itself
        object pending                  # what is on its way to the file, or None
        dict interfaces                 # of a pcapng, by link type
        bytearray buffer
        size_t used
        uint64_t committed              # bytes of whole records in the file
        uint64_t count
        uint32_t snap
        int first_link_type
        bint pcapng
        bint nanoseconds
        bint closed
        bint failed
        bint finished                   # the compressor wrote its trailer
        bint busy

    def __cinit__(self, *args, **kwargs):
        self.closed = True              # until there is an output

    def __init__(self, target, *, link_type=1, format="pcap", nanosecond=True, snaplen=262144):
        if self.output is not None:
            raise ConfigError("a PcapWriter writes one capture; create another")
        if format not in ("pcap", "pcapng"):
            raise ConfigError(f"format must be 'pcap' or 'pcapng', not {format!r}")
        check_link_type(link_type)
        self.snap = whole_number(snaplen, "snaplen", 1, fmt.MAX_CAPTURED_LENGTH)
        self.first_link_type = link_type
        self.pcapng = format == "pcapng"
        self.nanoseconds = bool(nanosecond)
        self.interfaces = {}
        self.buffer = bytearray(BUFFER_SIZE)
        self.output = Output(target)        # last: it empties a file that is there
        self.closed = False
        if self.pcapng:
            # pcapng 4.1: version 1.0, a section of unknown length.
            self.append(struct.pack("=IIIHHqI", fmt.SECTION_HEADER_BLOCK, 28,
                                    fmt.BYTE_ORDER_MAGIC, 1, 0, -1, 28))
            self.add_interface(link_type)
        else:
            # pcap section 4.
            self.append(struct.pack("=IHHiIII", 0xA1B23C4D if nanosecond else 0xA1B2C3D4, 2, 4,
                                    0, 0, self.snap, link_type))
        try:
            self.drain()
        except BaseException:
            self.failed = True
            self.close()
            raise

    def __del__(self):
        if not self.closed:
            self.close()

    # The buffer --------------------------------------------------------------------------------

    cdef int append(self, bytes record) except -1:
        """Add a header, which is small."""
        if <size_t>len(self.buffer) - self.used < <size_t>len(record):
            self.drain()
        self.buffer[self.used:self.used + len(record)] = record
        self.used += len(record)
        return 0

    cdef int make_room(self, size_t size) except -1:
        if self.behind is None and self.output.regular:
            # Pipes and file objects may keep a thread for ever, so they have none.
            try:
                self.behind = WriteBehind(self.output.file.fileno(), self.committed)
            except RuntimeError:        # no more threads, or none any more as Python ends
                self.output.regular = False
        self.drain()
        if <size_t>len(self.buffer) < size:
            self.buffer = bytearray(size)
        return 0

    cdef int drain(self, object finish=None) except -1:
        """Write the buffer out.

        An interrupt can only come out of ``write`` when that took nothing, so ``pending`` is
        right at any time, and the next call goes on where this one was stopped.
        """
        cdef Py_ssize_t taken
        compressor = self.output.compressor
        if self.behind is not None and self.hand_over(finish is not None):
            return 0
        if self.pending is None:
            data = memoryview(self.buffer)[:self.used]
            if compressor is not None and not self.finished:
                data = compressor.compress(data)
                self.used = 0
                if finish is not None:
                    data += compressor.flush(finish)
                    self.finished = finish == zlib.Z_FINISH
            self.pending = memoryview(data)
        try:
            while len(self.pending):
                result = self.output.write(self.pending)
                taken = -1 if result is None else result
                if not 0 <= taken <= len(self.pending):
                    raise CaptureError(
                        f"{self.output.name}: a write of {len(self.pending)} bytes returned "
                        f"{result}")
                self.committed += taken
                self.pending = self.pending[taken:]
        except CaptureError:
            self.fail()
            raise
        except (OSError, ValueError) as error:
            self.fail()
            raise self.output.refused(error) from error
        self.pending = None
        self.used = 0
        return 0

    cdef bint hand_over(self, bint wait) except -1:
        """Let the thread write the buffer out; False: it is no more, we go on alone."""
        cdef bint alive = self.behind.thread.is_alive()
        cdef int number
        if alive and self.used:
            self.buffer = self.behind.exchange(self.buffer, self.used)
            self.used = 0
        if alive and wait:
            self.behind.settle()
        number = self.behind.error
        if number:
            self.failed = True
            self.output.cut(self.behind.committed)
            self.end_thread()
            error = OSError(number, os.strerror(number))
            raise self.output.refused(error) from error
        if not alive:                   # Python ends, or this is the child of a fork
            self.output.regular = False
            self.committed = self.behind.committed
            self.behind = None
        return alive

    cdef int end_thread(self) except -1:
        if self.behind is not None:
            self.behind.stop()
            self.behind = None
        return 0

    cdef int fail(self) except -1:
        """Give up; leave whole records behind where that can be done."""
        self.failed = True
        if self.output.compressor is None:
            self.output.cut(self.committed - (self.used - len(self.pending)))
        self.pending = None
        self.used = 0
        return 0

    cdef int enter(self) except -1:
        """Begin a call that writes: it clears ``busy`` in the end."""
        if self.busy:
            raise ConcurrencyError(f"{self.output.name} is being written already")
        if self.closed or self.finished:
            raise CaptureError(f"{self.name} is closed")
        if self.failed:
            raise CaptureError(f"{self.output.name}: an earlier write failed")
        self.busy = True
        return 0

    cdef int resume(self) except -1:
        """Write what an interrupt left behind."""
        if self.pending is not None:
            self.drain()
        return 0

    # Interfaces --------------------------------------------------------------------------------

    cdef int add_interface(self, int link_type) except -1:
        """Write an interface description: pcapng 4.2, with if_tsresol and the end of options."""
        self.append(struct.pack("=IIHHIHHBxxxHHI", fmt.INTERFACE_DESCRIPTION_BLOCK, 32, link_type,
                                0, self.snap, 9, 1, 9 if self.nanoseconds else 6, 0, 0, 32))
        self.interfaces[link_type] = len(self.interfaces)
        return 0

    cdef uint32_t interface_of(self, int link_type) except? 0xFFFFFFFF:
        """Number of the interface for ``link_type``, described first where it must be."""
        if not self.pcapng:
            if link_type != self.first_link_type:
                raise CaptureError(
                    f"{self.output.name} is a pcap of link type {self.first_link_type} "
                    f"({LinkType(self.first_link_type).name}) and takes no frames of link type "
                    f"{link_type}; a pcapng has room for several")
            return 0
        if link_type not in self.interfaces:
            check_link_type(link_type)
            self.add_interface(link_type)
        return self.interfaces[link_type]

    # Frames ------------------------------------------------------------------------------------

    def write_batch(self, batch, select=None):
        """Write the frames of ``batch``, or those of which ``select`` is true.

        Args:
            batch: a FrameBatch; its lengths, original lengths and timestamps are those written.
            select: an array of bool or uint8, one per frame (``batch.verdict == FORWARD``).

        Raises:
            ConfigError: ``select`` is anything else.
            CaptureError: see the class; the frames before were written.
        """
        cdef Py_buffer view
        cdef const uint8_t* mask = NULL
        if not isinstance(batch, FrameBatch):
            raise ConfigError(f"expected a FrameBatch, not {type(batch).__name__}")
        if select is not None:
            PyObject_GetBuffer(selection(select, len(batch)), &view, PyBUF_SIMPLE)
            mask = <const uint8_t*>view.buf
        try:
            self.enter()
            try:
                self.resume()
                if len(batch):
                    self.write_frames(batch, mask)
            finally:
                self.busy = False
        finally:
            if select is not None:
                PyBuffer_Release(&view)

    cdef int write_frames(self, FrameBatch batch, const uint8_t* mask) except -1:
        cdef fmt.Status status
        cdef uint32_t i = 0
        cdef uint32_t interface = self.interface_of(batch.link_type)
        while True:
            status = self.pack(batch, mask, interface, &i)
            if status == fmt.BATCH_FULL:
                return 0
            if status == fmt.ARENA_SMALL:
                self.make_room(fmt.record_size(self.pcapng, min(batch.length[i], self.snap)))
            else:
                raise self.no_room_for(batch.timestamp[i], f"frame {i}: ")

    cdef fmt.Status pack(self, FrameBatch batch, const uint8_t* mask, uint32_t interface,
                         uint32_t* index) except *:
        """Put frames from ``index`` on into the buffer, as many as fit."""
        cdef uint8_t* out = <uint8_t*>PyByteArray_AS_STRING(self.buffer)
        cdef size_t capacity = len(self.buffer)
        cdef fmt.Status status = fmt.BATCH_FULL
        cdef size_t size
        cdef uint32_t captured
        cdef size_t used = self.used        # locals: a store of bytes might change any field
        cdef uint32_t snap = self.snap
        cdef bint pcapng = self.pcapng
        cdef bint nanoseconds = self.nanoseconds
        cdef uint32_t written = 0
        cdef uint32_t i = index[0]
        with nogil:
            while i < batch.count:
                if mask != NULL and not mask[i]:
                    i += 1
                    continue
                captured = min(batch.length[i], snap)
                size = fmt.record_size(pcapng, captured)
                if capacity - used < size:
                    status = fmt.ARENA_SMALL
                    break
                status = fmt.write_record(
                    out + used, pcapng, nanoseconds, interface, batch.data + batch.offset[i],
                    captured, max(batch.original_length[i], batch.length[i]), batch.timestamp[i])
                if status != fmt.FRAME:
                    break
                status = fmt.BATCH_FULL
                used += size
                written += 1
                i += 1
        self.used = used
        self.count += written
        index[0] = i
        return status

    def write(self, frame, timestamp, original_length=None):
        """Write one frame of the link type that the capture was created with.

        Args:
            frame: a bytes-like object.
            timestamp: nanoseconds since 1970.
            original_length: bytes on the wire, at least ``len(frame)``; that by default.

        Raises:
            ConfigError: an argument of another type or range.
            CaptureError: see the class.
        """
        cdef Py_buffer view
        cdef uint32_t captured, original
        cdef int64_t time = whole_number(timestamp, "timestamp", -1 << 63, (1 << 63) - 1)
        try:
            PyObject_GetBuffer(frame, &view, PyBUF_SIMPLE)
        except (TypeError, BufferError) as error:
            raise ConfigError(
                f"frame must be a contiguous bytes-like object, not {type(frame).__name__}"
            ) from error
        try:
            if view.len > fmt.MAX_CAPTURED_LENGTH:
                raise ConfigError(f"a frame of {view.len} bytes is longer than the limit of "
                                  f"{fmt.MAX_CAPTURED_LENGTH}")
            original = <uint32_t>view.len
            if original_length is not None:
                original = whole_number(original_length, "original_length", view.len,
                                        (1 << 32) - 1)
            captured = min(<uint32_t>view.len, self.snap)
            self.enter()
            try:
                self.resume()
                self.write_frame(<uint8_t*>view.buf, captured, original, time)
            finally:
                self.busy = False
        finally:
            PyBuffer_Release(&view)

    cdef int write_frame(self, const uint8_t* frame, uint32_t captured, uint32_t original,
                         int64_t timestamp) except -1:
        cdef size_t size = fmt.record_size(self.pcapng, captured)
        if <size_t>len(self.buffer) - self.used < size:
            self.make_room(size)
        if fmt.write_record(<uint8_t*>PyByteArray_AS_STRING(self.buffer) + self.used, self.pcapng,
                            self.nanoseconds, 0, frame, captured, original,
                            timestamp) != fmt.FRAME:
            raise self.no_room_for(timestamp, "")
        self.used += size
        self.count += 1
        return 0

    cdef object no_room_for(self, int64_t timestamp, str which):
        limit = "0..2**63-1" if self.pcapng else "0..2**32-1 seconds"
        return CaptureError(f"{self.output.name}: {which}timestamp {timestamp} ns; a "
                            f"{self.format} holds {limit}")

    def flush(self):
        """Write out what has gathered, compressed data too."""
        self.enter()
        try:
            self.resume()
            self.drain(zlib.Z_SYNC_FLUSH)
        finally:
            self.busy = False

    def close(self):
        """Write out what has gathered and close; a file object that was given stays open.

        May be called again, and goes on when it was interrupted.
        """
        if self.closed:
            return
        if self.busy:
            raise ConcurrencyError(f"{self.output.name} is being written already")
        self.busy = True
        try:
            if not self.failed:
                self.resume()
                self.drain(zlib.Z_FINISH)
            self.end_thread()
            self.closed = True
        except Exception:
            self.closed = True
            raise
        finally:
            self.busy = False
            if self.closed:
                self.output.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback, /):
        self.close()

    # What it is --------------------------------------------------------------------------------

    @property
    def name(self):
        """Path, or what stands for it in messages."""
        return "a capture never created" if self.output is None else self.output.name

    @property
    def format(self):
        """``"pcap"`` or ``"pcapng"``."""
        return "pcapng" if self.pcapng else "pcap"

    @property
    def link_type(self):
        """LINKTYPE_ number that the capture was created with."""
        return self.first_link_type

    @property
    def nanosecond(self):
        """Whether timestamps are written as nanoseconds; as microseconds, rounded down, if not."""
        return bool(self.nanoseconds)

    @property
    def snaplen(self):
        """Most bytes that are written of a frame."""
        return self.snap

    @property
    def frames(self):
        """Frames written so far."""
        return self.count


cdef int check_link_type(link_type) except -1:
    if isinstance(link_type, int) and link_type in LinkType.__members__.values():
        return 0
    known = ", ".join(f"{kind.value} {kind.name}" for kind in LinkType)
    raise UnsupportedLinkType(f"link type {link_type!r} is not supported; supported are {known}")
