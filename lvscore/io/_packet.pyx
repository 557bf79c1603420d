"""Frames of a packet socket, many at once: a ring that is shared with the kernel, or copies.

Every frame has its virtio_net_hdr before it, as the kernel wrote it: what is left undone of a
frame (checksum, segmentation) goes back to the kernel unchanged when the frame is sent.
"""

cimport cython
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memmove, memset, strerror

from lvscore._core.consts cimport VERDICT_FORWARD
from lvscore._frames cimport FrameBatch
from lvscore.io._ring cimport lvs_load_acquire, lvs_store_release

__all__ = ["PacketQueue"]

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <linux/if_packet.h>
    #include <sys/socket.h>
    """

cdef extern from "<linux/if_packet.h>" nogil:
    cdef struct tpacket2_hdr:
        uint32_t tp_status
        uint32_t tp_len
        uint32_t tp_snaplen
        uint16_t tp_mac
        uint32_t tp_sec
        uint32_t tp_nsec
        uint16_t tp_vlan_tci
        uint16_t tp_vlan_tpid
    cdef struct tpacket_hdr_variant1:
        uint32_t tp_vlan_tci
        uint16_t tp_vlan_tpid
    cdef struct tpacket3_hdr:
        uint32_t tp_next_offset
        uint32_t tp_snaplen
        uint32_t tp_len
        uint32_t tp_status
        uint16_t tp_mac
        tpacket_hdr_variant1 hv1
    cdef struct tpacket_hdr_v1:
        uint32_t block_status
        uint32_t num_pkts
        uint32_t offset_to_first_pkt
    cdef union tpacket_bd_header_u:
        tpacket_hdr_v1 bh1
    cdef struct tpacket_block_desc:
        tpacket_bd_header_u hdr
    cdef struct tpacket_auxdata:
        uint32_t tp_status
        uint16_t tp_vlan_tci
        uint16_t tp_vlan_tpid
    cdef struct sockaddr_ll:
        uint8_t sll_pkttype
    enum:
        PACKET_AUXDATA
        PACKET_OTHERHOST
        PACKET_OUTGOING
        TP_STATUS_COPY
        TP_STATUS_KERNEL
        TP_STATUS_USER
        TP_STATUS_VLAN_VALID
        SOL_PACKET

cdef extern from "<sys/socket.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len
    struct msghdr:
        void* msg_name
        uint32_t msg_namelen
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
        int msg_flags
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    struct cmsghdr:
        int cmsg_level
        int cmsg_type
    cmsghdr* CMSG_FIRSTHDR(msghdr* message)
    unsigned char* CMSG_DATA(cmsghdr* message)
    int recvmmsg(int fd, mmsghdr* messages, unsigned int count, int flags, void* timeout)
    int sendmmsg(int fd, mmsghdr* messages, unsigned int count, int flags)
    enum:
        MSG_DONTWAIT
        MSG_TRUNC

cdef extern from "<sys/mman.h>" nogil:
    void* mmap(void* address, size_t length, int protection, int flags, int fd, long offset)
    int munmap(void* address, size_t length)
    enum:
        MAP_ANONYMOUS
        MAP_FIXED
        MAP_NORESERVE
        MAP_PRIVATE
        MAP_SHARED
        PROT_READ
        PROT_WRITE

cdef enum:
    BATCH = 64
    VNET_HEADER = 10            # struct virtio_net_hdr (linux/virtio_net.h)
    VNET_NEEDS_CSUM = 1
    COPY = 131072               # a super-frame of 64 KiB and its headers
    BLOCK = 1048576             # of TPACKET_V3, for as many frames as fit
    HEAD = 26                   # of a frame with a tag: VNET_HEADER, addresses, the tag
    ROOM = 64                   # in front of a copied frame
    CONTROL = 64                # bytes of ancillary data for each
    SENDER = 32                 # where a ring's slot has its sockaddr_ll: TPACKET_ALIGN(header)
    BLOCK_SENDER = 48           # and a frame in a block


# Slots of TPACKET_V2, in blocks of memory, each for a frame.
cdef struct Ring:
    uint64_t start              # of the first block
    uint64_t next               # the slot that is looked at next
    uint32_t size               # of a slot
    uint32_t each               # slots of a block
    uint32_t gap                # bytes of a block after its slots
    uint32_t left               # slots of this block that are still to be looked at
    uint32_t block              # its number
    uint32_t blocks


@cython.final
cdef class PacketQueue:
    """What a packet socket takes in and sends, as FrameBatches.

    Args:
        descriptor: the socket, bound, with PACKET_VNET_HDR; it stays the caller's.
        sender: one to send by; a socket that is waited for would wake up at every frame sent.
        slots: of its ring, or blocks; 0: it has none, frames are copied.
        size: bytes of a slot or block.
        vlan: the socket takes frames of this VLAN alone, which have no tag here; 0: of none.
        version: of the ring: 2 is TPACKET_V2, with PACKET_COPY_THRESH: a frame longer than a slot
            is copied; 3 is TPACKET_V3.
        long: a second socket with a ring of TPACKET_V2, for the frames that are longer than the
            slots of the first; -1: there is none.
        blocks: of the second ring.
        block: bytes of each.
        long_size: bytes of a slot in them.

    Raises:
        OSError: the ring cannot be mapped.
        MemoryError: there is none for the copies.
    """
    cdef:
        int descriptor
        int sender
        int vlan
        uint8_t* data           # the ring, then room for copies
        uint64_t ring           # bytes of the rings
        uint8_t* control
        int version
        Ring rings[2]
        uint32_t count          # of rings that are there
        int copier              # the socket whose longest frames are copied
        uint64_t taken[64]      # slots that are not given back
        uint32_t held           # how many
        uint32_t slots          # blocks of TPACKET_V3
        uint32_t head           # the block that is looked at next
        uint32_t left           # frames of the block that are still to be looked at
        bint opened             # the block is this side's
        uint64_t next           # where the first of these is
        FrameBatch batch
        mmsghdr messages[64]
        iovec vectors[64]
        iovec pieces[128]       # of frames that get a tag
        uint8_t heads[1664]     # HEAD for each
        sockaddr_ll* senders
        readonly uint64_t received, sent, refused, skipped

    def __cinit__(self, int descriptor, int sender, uint32_t slots=0, uint32_t size=0,
                  int version=2, int vlan=0, int long=-1, uint32_t blocks=0, uint32_t block=0,
                  uint32_t long_size=0):
        cdef void* place
        cdef uint64_t all
        cdef uint64_t first = <uint64_t>slots * size
        self.descriptor = descriptor
        self.sender = sender
        self.vlan = vlan
        self.version = version
        self.slots = slots
        self.copier = descriptor if long < 0 else long
        if slots and version == 2:
            ring_make(&self.rings[0], 0, 1, slots * size, size)
            self.count = 1
        if long >= 0:
            ring_make(&self.rings[1], first, blocks, block, long_size)
            self.count = 2
        self.ring = first + <uint64_t>blocks * block
        all = self.ring + <uint64_t>BATCH * COPY
        self.senders = <sockaddr_ll*>calloc(BATCH, 32)
        self.control = <uint8_t*>calloc(BATCH, CONTROL)
        # One stretch, so that one batch has frames of both; a page is there when it is touched.
        place = mmap(NULL, all, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if place == <void*>-1 or self.senders == NULL or self.control == NULL:
            raise MemoryError()
        self.data = <uint8_t*>place
        if slots:
            ring_map(self.data, first, descriptor)
        if long >= 0:
            ring_map(self.data + first, self.ring - first, long)
        self.batch = FrameBatch.over(self, self.data, all, BATCH, 1)
        self.batch.vnet_header = True

    def __dealloc__(self):
        free(self.senders)
        free(self.control)
        if self.data != NULL:
            munmap(self.data, self.ring + <uint64_t>BATCH * COPY)

    def receive(self, int64_t now):
        """What has come in, up to 64 frames; they are valid until the next call.

        Frames for other hosts, and own ones, are skipped. A VLAN tag that the driver took is
        in the frame again.
        """
        self.batch.count = 0
        with nogil:
            if not self.slots:
                self.receive_copies(now)
            elif self.version == 3:
                self.receive_block(now)
            else:
                self.release()
                self.receive_ring(now)
        self.received += self.batch.count
        return self.batch

    cdef void release(self) noexcept nogil:
        """Give the slots of the latest batch back to the kernel."""
        cdef uint32_t k
        for k in range(self.held):
            lvs_store_release(&(<tpacket2_hdr*>(self.data + self.taken[k])).tp_status,
                              TP_STATUS_KERNEL)
        self.held = 0

    cdef void receive_ring(self, int64_t now) noexcept nogil:
        cdef Ring* ring
        cdef uint32_t copies = 0
        cdef uint32_t copied, k
        while self.held < BATCH:
            ring = self.earliest()
            if ring == NULL:
                break
            self.taken[self.held] = ring.next
            self.held += 1
            copies += self.status(ring) & TP_STATUS_COPY != 0
            ring_step(ring)
        copied = self.read_copies(self.copier, copies) if copies else 0
        copies = 0
        for k in range(self.held):
            copies += self.take_slot(self.taken[k], copies, copied, now)

    cdef uint32_t status(self, const Ring* ring) noexcept nogil:
        return lvs_load_acquire(&(<tpacket2_hdr*>(self.data + ring.next)).tp_status)

    cdef Ring* earliest(self) noexcept nogil:
        """The ring whose next frame has come in first; NULL: there is none.

        Frames of one flow come one after the other: what is before a frame that is there, is
        there when it is looked for afterwards.
        """
        cdef const tpacket2_hdr* one
        cdef const tpacket2_hdr* other
        cdef bint there = self.status(&self.rings[0]) & TP_STATUS_USER != 0
        if self.count == 1 or not self.status(&self.rings[1]) & TP_STATUS_USER:
            return &self.rings[0] if there else NULL
        if not there and not self.status(&self.rings[0]) & TP_STATUS_USER:
            return &self.rings[1]
        one = <tpacket2_hdr*>(self.data + self.rings[0].next)
        other = <tpacket2_hdr*>(self.data + self.rings[1].next)
        if one.tp_sec == other.tp_sec:
            return &self.rings[one.tp_nsec > other.tp_nsec]
        return &self.rings[one.tp_sec > other.tp_sec]

    cdef uint32_t take_slot(self, uint64_t start, uint32_t copy, uint32_t copies,
                            int64_t now) noexcept nogil:
        """Add the frame of a slot, or the copy of it that has the number ``copy``, to the batch;
        1: there is such a copy."""
        cdef tpacket2_hdr* header = <tpacket2_hdr*>(self.data + start)
        cdef uint64_t offset = start + header.tp_mac
        cdef uint32_t length = header.tp_snaplen
        cdef bint longer = header.tp_status & TP_STATUS_COPY != 0
        if longer and copy < copies and not self.messages[copy].msg_hdr.msg_flags & MSG_TRUNC:
            offset = self.ring + <uint64_t>copy * COPY + ROOM
            length = self.messages[copy].msg_len - VNET_HEADER
        self.take(offset, length, header.tp_len,
                  (<sockaddr_ll*>(self.data + start + SENDER)).sll_pkttype,
                  header.tp_status & TP_STATUS_VLAN_VALID != 0, header.tp_vlan_tci,
                  header.tp_vlan_tpid, now)
        return longer

    cdef uint32_t read_copies(self, int descriptor, uint32_t count) noexcept nogil:
        """Read frames that wait beside the ring, or instead of it; how many there were."""
        cdef msghdr* message
        cdef uint32_t k
        cdef int read
        for k in range(count):
            self.vectors[k].iov_base = (self.data + self.ring + <uint64_t>k * COPY
                                        + ROOM - VNET_HEADER)
            self.vectors[k].iov_len = COPY - ROOM
            message = &self.messages[k].msg_hdr
            memset(message, 0, sizeof(msghdr))
            message.msg_iov = &self.vectors[k]
            message.msg_iovlen = 1
            message.msg_name = <uint8_t*>self.senders + k * 32
            message.msg_namelen = 32
            message.msg_control = self.control + k * CONTROL
            message.msg_controllen = CONTROL
        read = recvmmsg(descriptor, self.messages, count, MSG_DONTWAIT, NULL)
        return 0 if read < 0 else read

    cdef void receive_block(self, int64_t now) noexcept nogil:
        """Take frames of the block that is open, or else of the next one."""
        cdef uint64_t start = <uint64_t>self.head * BLOCK
        cdef tpacket_block_desc* block = <tpacket_block_desc*>(self.data + start)
        cdef tpacket3_hdr* header
        cdef uint32_t looked = 0
        if self.opened and not self.left:       # the frames of the latest batch were its last
            lvs_store_release(&block.hdr.bh1.block_status, TP_STATUS_KERNEL)
            self.opened = False
            self.head = (self.head + 1) % self.slots
            start = <uint64_t>self.head * BLOCK
            block = <tpacket_block_desc*>(self.data + start)
        if not self.opened:
            if not lvs_load_acquire(&block.hdr.bh1.block_status) & TP_STATUS_USER:
                return
            self.opened = True
            self.left = block.hdr.bh1.num_pkts
            self.next = start + block.hdr.bh1.offset_to_first_pkt
        while self.left and looked < BATCH:
            header = <tpacket3_hdr*>(self.data + self.next)
            self.take(self.next + header.tp_mac, header.tp_snaplen, header.tp_len,
                      (<sockaddr_ll*>(self.data + self.next + BLOCK_SENDER)).sll_pkttype,
                      header.tp_status & TP_STATUS_VLAN_VALID != 0,
                      <uint16_t>header.hv1.tp_vlan_tci, header.hv1.tp_vlan_tpid, now)
            self.next += header.tp_next_offset
            self.left -= 1
            looked += 1

    cdef void receive_copies(self, int64_t now) noexcept nogil:
        cdef msghdr* message
        cdef cmsghdr* control
        cdef tpacket_auxdata* aux
        cdef uint32_t k
        cdef uint32_t length
        for k in range(self.read_copies(self.descriptor, BATCH)):
            message = &self.messages[k].msg_hdr
            length = self.messages[k].msg_len
            if length < VNET_HEADER:
                continue
            length -= VNET_HEADER
            aux = NULL
            control = CMSG_FIRSTHDR(message)
            if (control != NULL and control.cmsg_level == SOL_PACKET
                    and control.cmsg_type == PACKET_AUXDATA):
                aux = <tpacket_auxdata*>CMSG_DATA(control)
            self.take(<uint64_t>k * COPY + ROOM, length,
                      length + 1 if message.msg_flags & MSG_TRUNC else length,
                      (<sockaddr_ll*>message.msg_name).sll_pkttype,
                      aux != NULL and aux.tp_status & TP_STATUS_VLAN_VALID != 0,
                      0 if aux == NULL else aux.tp_vlan_tci,
                      0 if aux == NULL else aux.tp_vlan_tpid, now)

    cdef void take(self, uint64_t offset, uint32_t length, uint32_t whole, uint8_t kind,
                   bint tagged, uint16_t tci, uint16_t tpid, int64_t now) noexcept nogil:
        """Add a frame to the batch."""
        cdef uint8_t* frame = self.data + offset
        cdef uint16_t* fields
        if kind == PACKET_OTHERHOST or kind == PACKET_OUTGOING or length < whole or length < 14:
            self.skipped += 1
            return
        if tagged and not self.vlan:    # header and addresses move forward by a tag's length
            memmove(frame - VNET_HEADER - 4, frame - VNET_HEADER, VNET_HEADER + 12)
            frame[8] = <uint8_t>(tpid >> 8)
            frame[9] = <uint8_t>tpid
            frame[10] = <uint8_t>(tci >> 8)
            frame[11] = <uint8_t>tci
            frame -= 4
            offset -= 4
            length += 4
            fields = <uint16_t*>(frame - VNET_HEADER)
            if fields[1]:
                fields[1] += 4
            if frame[-VNET_HEADER] & VNET_NEEDS_CSUM:
                fields[3] += 4
        self.batch.offset[self.batch.count] = offset
        self.batch.length[self.batch.count] = length
        self.batch.original_length[self.batch.count] = length
        self.batch.timestamp[self.batch.count] = now
        self.batch.count += 1

    def send(self, FrameBatch batch not None, const uint8_t[::1] select not None):
        """Send the frames of a batch, of 64 at most, of which ``select`` is true.

        A frame that the kernel refuses is counted (``refused``).
        """
        cdef uint32_t i
        cdef uint32_t count = 0
        if batch.count != select.shape[0] or batch.count > BATCH or not batch.vnet_header:
            raise ValueError(f"{select.shape[0]} selected of {batch.count} frames; "
                             f"expected as many, {BATCH} at most, with their headers")
        with nogil:
            for i in range(batch.count):
                if select[i]:
                    self.put(batch, i, count)
                    count += 1
            self.flush(count)

    def forward(self, FrameBatch batch not None, uint32_t start, uint32_t end, uint32_t egress):
        """Send the frames from ``start`` to ``end``, of 64 at most, that a Host sends on by the
        interface ``egress``, as :meth:`send` does."""
        cdef uint32_t i
        cdef uint32_t count = 0
        if not (start <= end <= batch.count <= BATCH and batch.vnet_header and batch.egress):
            raise ValueError(f"frames {start}..{end} of {batch.count}; expected {BATCH} at most, "
                             "with their headers and interfaces")
        with nogil:
            for i in range(start, end):
                if batch.verdict[i] == VERDICT_FORWARD and batch.egress[i] == egress:
                    self.put(batch, i, count)
                    count += 1
            self.flush(count)

    cdef void put(self, FrameBatch batch, uint32_t i, uint32_t k) noexcept nogil:
        """Let a frame be the one with the number ``k`` that is sent next."""
        cdef msghdr* message = &self.messages[k].msg_hdr
        self.vectors[k].iov_base = batch.data + batch.offset[i] - VNET_HEADER
        self.vectors[k].iov_len = batch.length[i] + VNET_HEADER
        memset(message, 0, sizeof(msghdr))
        message.msg_iov = &self.vectors[k]
        message.msg_iovlen = 1
        if self.vlan:
            self.tag(k)

    cdef void tag(self, uint32_t k) noexcept nogil:
        """Send a frame with the tag of the VLAN: beside it, for there may be no room before it."""
        cdef uint8_t* head = self.heads + k * HEAD
        cdef uint16_t* fields = <uint16_t*>head
        memcpy(head, self.vectors[k].iov_base, HEAD - 4)
        if fields[1]:
            fields[1] += 4
        if head[0] & VNET_NEEDS_CSUM:
            fields[3] += 4
        head[HEAD - 4] = 0x81
        head[HEAD - 3] = 0
        head[HEAD - 2] = <uint8_t>(self.vlan >> 8)
        head[HEAD - 1] = <uint8_t>self.vlan
        self.pieces[2 * k].iov_base = head
        self.pieces[2 * k].iov_len = HEAD
        self.pieces[2 * k + 1].iov_base = <uint8_t*>self.vectors[k].iov_base + HEAD - 4
        self.pieces[2 * k + 1].iov_len = self.vectors[k].iov_len - (HEAD - 4)
        self.messages[k].msg_hdr.msg_iov = &self.pieces[2 * k]
        self.messages[k].msg_hdr.msg_iovlen = 2

    cdef void flush(self, uint32_t count) noexcept nogil:
        cdef uint32_t done = 0
        cdef int sent
        while done < count:
            sent = sendmmsg(self.sender, &self.messages[done], count - done, 0)
            if sent > 0:
                self.sent += sent
                done += sent
            elif errno != EINTR and errno != EAGAIN:
                self.refused += 1
                done += 1


cdef void ring_make(Ring* ring, uint64_t start, uint32_t blocks, uint32_t block,
                    uint32_t size) noexcept nogil:
    ring.start = ring.next = start
    ring.blocks = blocks
    ring.block = 0
    ring.size = size
    ring.each = ring.left = block // size
    ring.gap = block - ring.each * size


cdef void ring_step(Ring* ring) noexcept nogil:
    """Go to the next slot."""
    ring.next += ring.size
    ring.left -= 1
    if ring.left == 0:
        ring.left = ring.each
        ring.next += ring.gap
        ring.block += 1
        if ring.block == ring.blocks:
            ring.block = 0
            ring.next = ring.start


cdef int ring_map(uint8_t* place, uint64_t length, int descriptor) except -1:
    if mmap(place, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, descriptor,
            0) == <void*>-1:
        raise OSError(errno, strerror(errno).decode())
    return 0
