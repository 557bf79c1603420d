"""What edits and writes frames, part by part, for tests: sequence, fragment, tunnel, forward.

Frames are IP packets without a link header.
"""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from lvscore._frames cimport FrameBatch
from lvscore._core cimport fragment as _fragment
from lvscore._core cimport sequence as _sequence
from lvscore._core.bytes cimport htons
from lvscore._core.consts cimport IPV4, IPV6, LINK_RAW, NIL, REASON_NONE
from lvscore._core.flow cimport Address, address_load
from lvscore._core.forward cimport (
    Forward, address_is_martian, atomic_strip as _atomic_strip, options_compile,
    ttl_decrease as _ttl_decrease,
)
from lvscore._core.offload cimport VNET_HEADER, checksum_complete, offloads_guess
from lvscore._core.route cimport Routes, local_add, routes_free, routes_init
from lvscore._core.server cimport Server
from lvscore._core.tunnel cimport MAX_TUNNEL_HEADERS, tunnel_overhead, tunnel_write
from lvscore._core.wire cimport Packet, packet_parse

__all__ = [
    "Fragments", "Sequence", "atomic_strip", "compile_options", "is_martian", "offloads_guessed",
    "sequence_adjust", "ttl_decrease", "tunnel", "vnet_header_before",
]


cdef uint8_t family_of(bytes packed):
    return IPV4 if len(packed) == 4 else IPV6


cdef Address address_from(bytes packed):
    return address_load(<const uint8_t*><const char*>packed, family_of(packed))


cdef int parse(Packet* packet, bytearray frame) except -1:
    reason = packet_parse(packet, <uint8_t*>frame, <uint32_t>len(frame), <uint32_t>len(frame),
                          LINK_RAW)
    if reason != REASON_NONE:
        raise ValueError(f"no IP packet: reason {reason}")
    return 0


# sequence.pxd

@cython.final
cdef class Sequence:
    """The edits of one direction of a stream."""

    cdef _sequence.Sequence sequence

    def __cinit__(self):
        memset(&self.sequence, 0, sizeof(self.sequence))

    def edit(self, uint32_t position, int32_t difference):
        _sequence.sequence_edit(&self.sequence, position, difference)

    def forward(self, uint32_t number):
        return _sequence.sequence_forward(&self.sequence, number)

    def back(self, uint32_t number):
        return _sequence.sequence_back(&self.sequence, number)


def sequence_adjust(frame, Sequence own, Sequence other):
    """The TCP packet as its receiver shall see it."""
    cdef Packet packet
    data = bytearray(frame)
    parse(&packet, data)
    if packet.l4_captured < 20:
        raise ValueError("no whole TCP header")
    _sequence.sequence_adjust(&packet, &own.sequence, &other.sequence)
    return bytes(data)


# fragment.pxd

@cython.final
cdef class Fragments:
    """Datagrams that are put together; numbers stand for them."""

    cdef _fragment.Fragments fragments

    def __cinit__(self):
        if not _fragment.fragments_init(&self.fragments):
            raise MemoryError()

    def __dealloc__(self):
        _fragment.fragments_free(&self.fragments)

    def copy(self):
        cdef Fragments other = Fragments()
        _fragment.fragments_free(&other.fragments)
        if not _fragment.fragments_copy(&other.fragments, &self.fragments):
            raise MemoryError()
        return other

    def add(self, frame, uint64_t tick=0):
        """(reason, datagram)"""
        cdef Packet packet
        cdef uint32_t datagram = NIL
        data = bytearray(frame)
        parse(&packet, data)
        if not packet.fragment:
            raise ValueError("no fragment")
        reason = _fragment.fragment_add(&self.fragments, &packet, tick, &datagram)
        return reason, datagram

    cdef _fragment.Datagram* of(self, uint32_t datagram) except NULL:
        if datagram >= self.fragments.used or not self.fragments.datagram[datagram].used:
            raise ValueError(f"no datagram {datagram}")
        return &self.fragments.datagram[datagram]

    def whole(self, uint32_t datagram):
        cdef uint32_t length
        cdef uint8_t* frame = _fragment.datagram_frame(self.of(datagram), &length)
        return (<char*>frame)[:length]

    def cut(self, uint32_t datagram, uint32_t limit, uint32_t identification=0):
        """The fragments of at most ``limit`` bytes that a whole datagram is cut into."""
        cdef _fragment.Datagram* d = self.of(datagram)
        cdef uint32_t length, size, written
        cdef uint32_t offset = 0
        cdef uint8_t* frame = _fragment.datagram_frame(d, &length)
        cdef uint8_t* room = <uint8_t*>calloc(
            1, _fragment.MAX_HEADERS + _fragment.FRAGMENT_HEADER + d.total)
        if room == NULL:
            raise MemoryError()
        said = []
        while offset < d.total:
            size = _fragment.fragment_data(d, offset, limit)
            written = _fragment.fragment_cut(d, frame, offset, size, identification, room)
            said.append((<char*>room)[:written])
            offset += size
        free(room)
        return said

    def discard(self, uint32_t datagram):
        self.of(datagram)
        _fragment.datagram_discard(&self.fragments, datagram)

    def due(self, uint64_t tick):
        """The datagram whose time is over, or None."""
        cdef uint32_t i = _fragment.fragments_due(&self.fragments, tick)
        return None if i == NIL else i

    @property
    def held(self):
        """(datagrams, bytes)"""
        return self.fragments.count, self.fragments.bytes


# tunnel.pxd

def tunnel(frame, bytes server, bytes source, int kind=0, int flags=0, int port=6080,
           bint keep_df=True, uint16_t identification=0, uint64_t hash=0):
    """(frame wrapped for a server, overhead)"""
    cdef Packet packet
    cdef Server to
    cdef Address a = address_from(source)
    cdef uint32_t length
    data = bytearray(frame)
    parse(&packet, data)
    memset(&to, 0, sizeof(to))
    to.family = family_of(server)
    to.address = address_from(server)
    to.tunnel.type = kind
    to.tunnel.flags = flags
    to.tunnel.port = htons(port)
    room = bytearray(len(data) + MAX_TUNNEL_HEADERS)
    length = tunnel_write(<uint8_t*>room, &packet, &to, &a, LINK_RAW, keep_df,
                          htons(identification), hash)
    return bytes(room[:length]), tunnel_overhead(&to)


# forward.pxd

def is_martian(bytes address):
    cdef Address a = address_from(address)
    return bool(address_is_martian(family_of(address), &a))


def ttl_decrease(frame):
    cdef Packet packet
    data = bytearray(frame)
    parse(&packet, data)
    _ttl_decrease(<uint8_t*>data, packet.family)
    return bytes(data)


def atomic_strip(frame):
    """An IPv6 packet without the fragment header that it does not need."""
    cdef Packet packet
    data = bytearray(frame)
    parse(&packet, data)
    _atomic_strip(&packet)
    return bytes(data[:packet.l3_length])


def compile_options(frame, bytes own, int64_t now=0, local=(), bint source_route=False):
    """(reason, offset of the wrong byte, frame) of an IPv4 packet with options, at a host with
    these further addresses."""
    cdef Packet packet
    cdef Forward forward
    cdef Address a
    cdef uint8_t reason
    cdef Routes* routes = <Routes*>calloc(1, sizeof(Routes))
    data = bytearray(frame)
    memset(&forward, 0, sizeof(forward))
    if routes == NULL or not routes_init(routes):
        raise MemoryError()
    try:
        parse(&packet, data)
        if packet.family != IPV4:
            raise ValueError("not IPv4")
        for address in local:
            a = address_from(address)
            local_add(routes, IPV4, &a)
        routes.interface[0].accept_source_route = source_route
        a = address_from(own)
        forward.now = now
        reason = options_compile(&packet, routes, &a, &forward)
    finally:
        routes_free(routes)
        free(routes)
    return reason, forward.option_error, bytes(data)


# What an interface says of its frames

def offloads_guessed(bytes frame not None):
    """The virtio_net_hdr that is guessed of an Ethernet frame, and the frame with what it says
    is undone done."""
    cdef bytearray room = bytearray(VNET_HEADER) + frame
    cdef uint8_t* data = <uint8_t*>room + VNET_HEADER
    offloads_guess(data, <uint32_t>len(frame))
    header = bytes(room[:VNET_HEADER])
    checksum_complete(data, <uint32_t>len(frame))
    return header, bytes(room[VNET_HEADER:])


def vnet_header_before(FrameBatch batch not None):
    """Say that a virtio_net_hdr of 10 bytes lies before each frame, as io._packet does."""
    cdef uint32_t i
    for i in range(batch.count):
        if batch.offset[i] < 10:
            raise ValueError(f"no room before frame {i}")
    batch.vnet_header = True
