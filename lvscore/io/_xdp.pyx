"""Frames of an AF_XDP socket: chunks of one memory that go round between kernel and engine.

A frame is received, rewritten and sent in its chunk. The kernel says nothing of what a sender left
undone of it, and does nothing of it: checksums are finished and super-frames cut before sending.
"""

cimport cython
from libc.errno cimport EAGAIN, EBUSY, EINTR, ENOBUFS, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from lvscore._core.bytes cimport load16
from lvscore._core.consts cimport LINK_ETHERNET, VERDICT_FORWARD
from lvscore._core.offload cimport VNET_HEADER, checksum_complete, offloads_guess
from lvscore._core.segment cimport Segments, segment_write, segments_plan
from lvscore._frames cimport FrameBatch
from lvscore.io._ring cimport lvs_load_acquire, lvs_store_release

__all__ = ["XdpQueue"]

cdef extern from "<sys/socket.h>" nogil:
    Py_ssize_t sendto(int fd, const void* data, size_t length, int flags, const void* to,
                      unsigned int size)
    enum:
        MSG_DONTWAIT

cdef enum:
    BATCH = 64
    CHUNK = 4096
    ROOM = 256                  # before a frame that is sent from here: XDP_PACKET_HEADROOM
    RESERVE = 1024              # chunks that are kept for sending
    NEED_WAKEUP = 1             # XDP_RING_NEED_WAKEUP
    KICKS = 64                  # tries to have a ring sent, of 32 frames each


# struct xdp_desc (linux/if_xdp.h)
cdef struct Descriptor:
    uint64_t address
    uint32_t length
    uint32_t options


cdef struct Ring:
    uint32_t* producer
    uint32_t* consumer
    uint32_t* flags
    void* entries
    uint32_t size               # a power of two


@cython.final
cdef class XdpQueue:
    """What an AF_XDP socket takes in and sends, as FrameBatches.

    Args:
        descriptor: the socket, bound; it stays the caller's.
        memory: its UMEM, in chunks of 4096 bytes.
        rings: the fill, completion, receive and transmit ring: each mapped memory, offsets of
            producer, consumer, entries and flags in it, and how many entries there are.
        mac: the link address; frames for other hosts are skipped.
    """
    cdef:
        readonly int descriptor
        object owned            # keeps all the memory mapped
        uint8_t* data
        uint64_t size
        Ring fill, completion, incoming, outgoing
        uint64_t* chunks        # those that are free
        uint32_t spare          # how many
        uint64_t held[64]       # chunks of the latest batch
        bint given[64]          # which of these were sent
        uint8_t mac[6]
        FrameBatch batch
        readonly uint64_t received, sent, refused, skipped

    def __cinit__(self, int descriptor, memory, rings, bytes mac not None):
        cdef uint8_t[::1] view = memory
        cdef uint32_t k
        self.descriptor = descriptor
        self.owned = memory, rings
        self.data = &view[0]
        self.size = view.shape[0]
        memcpy(self.mac, <const uint8_t*>mac, 6)
        fill, completion, incoming, outgoing = rings
        ring_at(&self.fill, fill)
        ring_at(&self.completion, completion)
        ring_at(&self.incoming, incoming)
        ring_at(&self.outgoing, outgoing)
        self.spare = <uint32_t>(self.size // CHUNK)
        self.chunks = <uint64_t*>calloc(self.spare, sizeof(uint64_t))
        if self.chunks == NULL:
            raise MemoryError()
        for k in range(self.spare):
            self.chunks[k] = <uint64_t>k * CHUNK
        self.batch = FrameBatch.over(self, self.data, self.size, BATCH, 1)
        self.batch.vnet_header = True
        self.refill()

    def __dealloc__(self):
        free(self.chunks)

    def receive(self, int64_t now):
        """What has come in, up to 64 frames; they are valid until the next call."""
        with nogil:
            self.release()
            self.reap()
            self.refill()
            self.take(now)
        self.received += self.batch.count
        return self.batch

    cdef void release(self) noexcept nogil:
        """Chunks of the latest batch that were not sent are free again."""
        cdef uint32_t k
        for k in range(self.batch.count):
            if not self.given[k]:
                self.chunks[self.spare] = self.held[k]
                self.spare += 1
        self.batch.count = 0

    cdef void reap(self) noexcept nogil:
        """Chunks that have been sent are free again."""
        cdef uint32_t at = self.completion.consumer[0]
        cdef uint32_t end = lvs_load_acquire(self.completion.producer)
        while at != end:
            self.chunks[self.spare] = (<uint64_t*>self.completion.entries)[
                at & (self.completion.size - 1)] & ~<uint64_t>(CHUNK - 1)
            self.spare += 1
            at += 1
        lvs_store_release(self.completion.consumer, at)

    cdef void refill(self) noexcept nogil:
        """Give the kernel chunks to receive in, but keep some to send from."""
        cdef uint32_t at = self.fill.producer[0]
        cdef uint32_t room = self.fill.size - (at - lvs_load_acquire(self.fill.consumer))
        while room and self.spare > RESERVE:
            self.spare -= 1
            (<uint64_t*>self.fill.entries)[at & (self.fill.size - 1)] = self.chunks[self.spare]
            at += 1
            room -= 1
        lvs_store_release(self.fill.producer, at)

    cdef void take(self, int64_t now) noexcept nogil:
        cdef uint32_t at = self.incoming.consumer[0]
        cdef uint32_t end = lvs_load_acquire(self.incoming.producer)
        cdef uint32_t i = 0
        cdef Descriptor* entry
        cdef uint8_t* frame
        while at != end and i < BATCH:
            entry = &(<Descriptor*>self.incoming.entries)[at & (self.incoming.size - 1)]
            at += 1
            frame = self.data + entry.address
            if entry.length < 14 or not (frame[0] & 1 or memcmp(frame, self.mac, 6) == 0):
                self.skipped += 1
                self.chunks[self.spare] = entry.address & ~<uint64_t>(CHUNK - 1)
                self.spare += 1
                continue
            offloads_guess(frame, entry.length)
            self.held[i] = entry.address & ~<uint64_t>(CHUNK - 1)
            self.given[i] = False
            self.batch.offset[i] = entry.address
            self.batch.length[i] = entry.length
            self.batch.original_length[i] = entry.length
            self.batch.timestamp[i] = now
            i += 1
        lvs_store_release(self.incoming.consumer, at)
        self.batch.count = i

    def send(self, FrameBatch batch not None, const uint8_t[::1] select not None):
        """Send the frames of a batch of which ``select`` is true: those of this socket where they
        lie, others as copies.

        A frame for which there is no room is counted (``refused``).
        """
        cdef uint32_t i
        cdef bint own = batch is self.batch
        if batch.count != select.shape[0] or not batch.vnet_header:
            raise ValueError(f"{select.shape[0]} selected of {batch.count} frames; "
                             "expected as many, with their headers")
        with nogil:
            self.reap()
            for i in range(batch.count):
                if select[i]:
                    self.put_frame(batch, i, own)
            self.kick()

    def forward(self, FrameBatch batch not None, uint32_t start, uint32_t end, uint32_t egress):
        """Send the frames from ``start`` to ``end`` that a Host sends on by the interface
        ``egress``, as :meth:`send` does."""
        cdef uint32_t i
        cdef bint own = batch is self.batch
        if not (start <= end <= batch.count and batch.vnet_header and batch.egress):
            raise ValueError(f"frames {start}..{end} of {batch.count}; expected their headers "
                             "and interfaces")
        with nogil:
            self.reap()
            for i in range(start, end):
                if batch.verdict[i] == VERDICT_FORWARD and batch.egress[i] == egress:
                    self.put_frame(batch, i, own)
            self.kick()

    cdef void put_frame(self, FrameBatch batch, uint32_t i, bint own) noexcept nogil:
        """Queue a frame where it lies, if that is in this memory, or else a copy."""
        if own and not self.given[i]:
            checksum_complete(self.data + batch.offset[i], batch.length[i])
            self.given[i] = self.put(batch.offset[i], batch.length[i])
        else:
            self.copy(batch.data + batch.offset[i], batch.length[i])

    def write(self, const uint8_t[::1] frame not None):
        """Send a whole frame; whether there was room."""
        cdef uint64_t before = self.refused
        with nogil:
            self.reap()
            self.copy_plain(&frame[0], <uint32_t>frame.shape[0])
            self.kick()
        return self.refused == before

    cdef bint put(self, uint64_t address, uint32_t length) noexcept nogil:
        """Queue what lies in the memory; False: there is no room."""
        cdef uint32_t at = self.outgoing.producer[0]
        cdef Descriptor* entry
        if at - lvs_load_acquire(self.outgoing.consumer) == self.outgoing.size:
            self.kick()
            if at - lvs_load_acquire(self.outgoing.consumer) == self.outgoing.size:
                self.refused += 1
                return False
        entry = &(<Descriptor*>self.outgoing.entries)[at & (self.outgoing.size - 1)]
        entry.address = address
        entry.length = length
        entry.options = 0
        lvs_store_release(self.outgoing.producer, at + 1)
        self.sent += 1
        return True

    cdef void copy(self, uint8_t* frame, uint32_t length) noexcept nogil:
        """Queue a copy of another interface's frame: its segments, if it is a super-frame."""
        cdef Segments plan
        cdef uint32_t size = load16(frame - VNET_HEADER + 4) if frame[-VNET_HEADER + 1] else 0
        cdef uint32_t k
        cdef uint64_t chunk
        if size == 0:
            checksum_complete(frame, length)
            self.copy_plain(frame, length)
            return
        if not segments_plan(&plan, frame, length, LINK_ETHERNET, size) or (
                plan.headers + size > CHUNK - ROOM):
            self.refused += 1
            return
        for k in range(plan.count):
            chunk = self.spare_chunk()
            if chunk == self.size:
                continue
            self.put_spare(chunk, segment_write(&plan, frame, k, self.data + chunk + ROOM))

    cdef void copy_plain(self, const uint8_t* frame, uint32_t length) noexcept nogil:
        cdef uint64_t chunk
        if length > CHUNK - ROOM:
            self.refused += 1
            return
        chunk = self.spare_chunk()
        if chunk != self.size:
            memcpy(self.data + chunk + ROOM, frame, length)
            self.put_spare(chunk, length)

    cdef uint64_t spare_chunk(self) noexcept nogil:
        """A free chunk, or, if there is none, the size of the memory."""
        if self.spare == 0:
            self.kick()
            self.reap()
        if self.spare == 0:
            self.refused += 1
            return self.size
        self.spare -= 1
        return self.chunks[self.spare]

    cdef void put_spare(self, uint64_t chunk, uint32_t length) noexcept nogil:
        if not self.put(chunk + ROOM, length):
            self.chunks[self.spare] = chunk
            self.spare += 1

    cdef void kick(self) noexcept nogil:
        """Let the kernel send what is queued: in copy mode it does so in this call."""
        cdef uint32_t tries = 0
        while (lvs_load_acquire(self.outgoing.consumer) != self.outgoing.producer[0]
               and lvs_load_acquire(self.outgoing.flags) & NEED_WAKEUP and tries < KICKS):
            if sendto(self.descriptor, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0:
                if errno == ENOBUFS:
                    self.reap()
                elif errno != EAGAIN and errno != EBUSY and errno != EINTR:
                    return
            tries += 1


cdef int ring_at(Ring* ring, given) except -1:
    cdef uint8_t[::1] view
    cdef Py_ssize_t producer, consumer, entries, flags
    mapped, producer, consumer, entries, flags, size = given
    view = mapped
    ring.producer = <uint32_t*>&view[producer]
    ring.consumer = <uint32_t*>&view[consumer]
    ring.entries = &view[entries]
    ring.flags = <uint32_t*>&view[flags]
    ring.size = size
    return 0
