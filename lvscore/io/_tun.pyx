"""Frames of a TAP device and packets of a TUN device, with their virtio_net_hdr (tun.c)."""

cimport cython
from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from lvscore._core.consts cimport VERDICT_FORWARD
from lvscore._frames cimport FrameBatch

__all__ = ["TunQueue"]

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len
    Py_ssize_t readv(int fd, const iovec* vectors, int count)
    Py_ssize_t writev(int fd, const iovec* vectors, int count)

cdef enum:
    BATCH = 64
    VNET_HEADER = 10            # struct virtio_net_hdr (linux/virtio_net.h)
    VNET_NEEDS_CSUM = 1
    ETHERNET_HEADER = 14
    SLOT = 131072               # a super-frame of 64 KiB and its headers
    ROOM = 64                   # in front of a packet


@cython.final
cdef class TunQueue:
    """What comes out of a TAP or TUN device and goes into it, as FrameBatches.

    Args:
        descriptor: of the device, which does not block, with IFF_VNET_HDR and IFF_NO_PI; it
            stays the caller's.
        mac: the link address on this side; frames for other hosts are skipped.
        peer: of a TUN device, the link address that its packets seem to come from: they get an
            Ethernet header, and lose it again. None: a TAP device.
    """
    cdef:
        int descriptor
        bint headerless         # it has packets, not frames
        uint8_t ends[12]        # addresses of a frame that comes in
        uint8_t* data
        FrameBatch batch
        readonly uint64_t received, sent, refused, skipped

    def __cinit__(self, int descriptor, bytes mac not None, bytes peer):
        self.descriptor = descriptor
        self.headerless = peer is not None
        ends = mac + (peer or bytes(6))
        memcpy(self.ends, <const uint8_t*>ends, 12)
        self.data = <uint8_t*>calloc(BATCH, SLOT)
        if self.data == NULL:
            raise MemoryError()
        self.batch = FrameBatch.over(self, self.data, <uint64_t>BATCH * SLOT, BATCH, 1)
        self.batch.vnet_header = True

    def __dealloc__(self):
        free(self.data)

    def receive(self, int64_t now):
        """What has come in, up to 64 frames; they are valid until the next call."""
        self.batch.count = 0
        with nogil:
            while self.batch.count < BATCH and self.read(now):
                pass
        self.received += self.batch.count
        return self.batch

    cdef bint read(self, int64_t now) noexcept nogil:
        """Take one frame; False: there is none."""
        cdef uint32_t i = self.batch.count
        cdef uint64_t offset = <uint64_t>i * SLOT + ROOM
        cdef uint8_t* frame
        cdef uint16_t* header
        cdef iovec vectors[2]
        cdef Py_ssize_t size
        if self.headerless:
            offset -= ETHERNET_HEADER
        frame = self.data + offset
        vectors[0].iov_base = frame - VNET_HEADER
        vectors[0].iov_len = VNET_HEADER
        vectors[1].iov_base = self.data + <uint64_t>i * SLOT + ROOM
        vectors[1].iov_len = SLOT - ROOM
        size = readv(self.descriptor, vectors, 2)
        if size < 0:
            return errno == EINTR
        size -= VNET_HEADER
        if self.headerless:
            size += ETHERNET_HEADER
            memcpy(frame, self.ends, 12)
            frame[12] = 0x86 if frame[ETHERNET_HEADER] >> 4 == 6 else 0x08
            frame[13] = 0xDD if frame[ETHERNET_HEADER] >> 4 == 6 else 0x00
            header = <uint16_t*>(frame - VNET_HEADER)
            if header[1]:
                header[1] += ETHERNET_HEADER
            if frame[-VNET_HEADER] & VNET_NEEDS_CSUM:
                header[3] += ETHERNET_HEADER
        if size <= ETHERNET_HEADER or not (frame[0] & 1 or memcmp(frame, self.ends, 6) == 0):
            self.skipped += 1
            return True
        self.batch.offset[i] = offset
        self.batch.length[i] = <uint32_t>size
        self.batch.original_length[i] = <uint32_t>size
        self.batch.timestamp[i] = now
        self.batch.count = i + 1
        return True

    def send(self, FrameBatch batch not None, const uint8_t[::1] select not None):
        """Send the frames of a batch of which ``select`` is true.

        A frame that the device refuses is counted (``refused``), and so is one for a TUN device
        that is not of IP.
        """
        cdef uint32_t i
        if batch.count != select.shape[0] or not batch.vnet_header:
            raise ValueError(f"{select.shape[0]} selected of {batch.count} frames; "
                             "expected as many, with their headers")
        with nogil:
            for i in range(batch.count):
                if select[i]:
                    self.write(batch.data + batch.offset[i], batch.length[i])

    def forward(self, FrameBatch batch not None, uint32_t start, uint32_t end, uint32_t egress):
        """Send the frames from ``start`` to ``end`` that a Host sends on by the interface
        ``egress``, as :meth:`send` does."""
        cdef uint32_t i
        if not (start <= end <= batch.count and batch.vnet_header and batch.egress):
            raise ValueError(f"frames {start}..{end} of {batch.count}; expected their headers "
                             "and interfaces")
        with nogil:
            for i in range(start, end):
                if batch.verdict[i] == VERDICT_FORWARD and batch.egress[i] == egress:
                    self.write(batch.data + batch.offset[i], batch.length[i])

    cdef void write(self, uint8_t* frame, uint32_t length) noexcept nogil:
        cdef uint8_t copied[10]
        cdef uint16_t* header = <uint16_t*>copied
        cdef uint32_t skipped = 0
        cdef iovec vectors[2]
        cdef Py_ssize_t size
        memcpy(copied, frame - VNET_HEADER, VNET_HEADER)
        if self.headerless:
            if not (frame[12] == 0x08 and frame[13] == 0 or frame[12] == 0x86
                    and frame[13] == 0xDD):
                self.refused += 1
                return
            skipped = ETHERNET_HEADER
            if header[1]:
                header[1] -= ETHERNET_HEADER
            if copied[0] & VNET_NEEDS_CSUM:
                header[3] -= ETHERNET_HEADER
        vectors[0].iov_base = copied
        vectors[0].iov_len = VNET_HEADER
        vectors[1].iov_base = frame + skipped
        vectors[1].iov_len = length - skipped
        size = writev(self.descriptor, vectors, 2)
        while size < 0 and errno == EINTR:
            size = writev(self.descriptor, vectors, 2)
        if size < 0:
            self.refused += 1
        else:
            self.sent += 1
