"""FTP's commands and answers, sequence numbers, and what is expected, one by one, for tests."""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from lvscore._core.bytes cimport htons, ntohs
from lvscore._core.consts cimport IPV4, NIL, PROTOCOL_TCP
from lvscore._core.expect cimport (
    expectation_begin, expectation_end, expectation_find, master_give, master_take, masters_copy,
    masters_free, masters_init,
)
from lvscore._core.expect cimport Masters as Masters_t
from lvscore._core.expect cimport line_begins as _line_begins
from lvscore._core.expect cimport line_end as _line_end
from lvscore._core.flow cimport Address, Tuple, address_load, ports_make
from lvscore._core.ftp cimport (
    FTP_ACTIVE, FTP_EXTENDED_ACTIVE, FTP_EXTENDED_PASSIVE, FTP_FOUND, FTP_NOTHING,
    FTP_OTHER_FAMILY, FTP_PASSIVE, FtpAnnouncement, MAX_ANNOUNCEMENT,
)
from lvscore._core.ftp cimport active_request as _active_request
from lvscore._core.ftp cimport announcement_write as _announcement_write
from lvscore._core.ftp cimport answer_search as _answer_search
from lvscore._core.ftp cimport command_search as _command_search
from lvscore._core.ftp cimport passive_answer as _passive_answer
from lvscore._core.ftp cimport passive_request as _passive_request
from lvscore._core.hash cimport HashKey, hash_key_init
from lvscore._core.sequence cimport Sequence as Sequence_t
from lvscore._core.sequence cimport (
    sequence_adjust, sequence_back, sequence_edit, sequence_forward,
)
from lvscore._core.wire cimport Packet, packet_parse

__all__ = [
    "MODES", "Masters", "Sequence", "active_request", "adjust", "announcement_write",
    "passive_answer", "passive_request", "search",
]

MODES = {
    "active": <int>FTP_ACTIVE, "PASV": <int>FTP_PASSIVE, "EPSV": <int>FTP_EXTENDED_PASSIVE,
    "other family": <int>FTP_OTHER_FAMILY, "EPRT": <int>FTP_EXTENDED_ACTIVE,
}


cdef object announced(const FtpAnnouncement* a, int family):
    """(packed address, port, start and end of the text)"""
    return ((<const char*>&a.address)[:4 if family == IPV4 else 16], ntohs(a.port), a.start, a.end)


def passive_request(bytes data not None, int family):
    return <int>_passive_request(<const uint8_t*><const char*>data, <uint32_t>len(data), family)


def active_request(bytes data not None, int family):
    cdef FtpAnnouncement a
    if not _active_request(<const uint8_t*><const char*>data, <uint32_t>len(data), family, &a):
        return None
    return announced(&a, family)


def passive_answer(bytes data not None, int mode, bytes server not None):
    cdef FtpAnnouncement a
    cdef int family = 4 if len(server) == 4 else 6
    a.address = address_load(<const uint8_t*><const char*>server, family)
    if not _passive_answer(<const uint8_t*><const char*>data, <uint32_t>len(data), family, mode,
                           &a):
        return None
    return announced(&a, family)


def search(bytes data not None, bytes speaker not None, bint answer):
    """What netfilter finds at a line's beginning: mode and announcement, None, or "partial"."""
    cdef FtpAnnouncement a
    cdef const uint8_t* text = <const uint8_t*><const char*>data
    cdef uint32_t length = <uint32_t>len(data)
    cdef int family = 4 if len(speaker) == 4 else 6
    cdef uint32_t found
    a.address = address_load(<const uint8_t*><const char*>speaker, family)
    if answer:
        found = _answer_search(text, length, family, &a)
    else:
        found = _command_search(text, length, family, &a)
    if found == FTP_NOTHING:
        return None
    return (a.mode, announced(&a, family)) if found == FTP_FOUND else "partial"


def announcement_write(int mode, bytes address not None, int port):
    cdef uint8_t text[50]
    cdef int family = 4 if len(address) == 4 else 6
    cdef Address a = address_load(<const uint8_t*><const char*>address, family)
    cdef uint32_t length = _announcement_write(text, mode, family, &a, htons(port))
    if length > MAX_ANNOUNCEMENT:
        raise AssertionError(f"a text of {length} bytes")
    return (<const char*>text)[:length]


@cython.final
cdef class Sequence:
    """The edits of one direction."""

    cdef Sequence_t sequence

    def edit(self, uint32_t position, int32_t difference):
        sequence_edit(&self.sequence, position, difference)

    def forward(self, uint32_t number):
        return sequence_forward(&self.sequence, number)

    def back(self, uint32_t number):
        return sequence_back(&self.sequence, number)


def adjust(bytes frame not None, Sequence own not None, Sequence other not None):
    """An Ethernet frame with a TCP segment after sequence_adjust; its header must be whole."""
    cdef bytearray out = bytearray(frame)
    cdef Packet packet
    if packet_parse(&packet, <uint8_t*><char*>out, <uint32_t>len(out), <uint32_t>len(out), 1):
        raise ValueError("no packet")
    if packet.l4_captured < 20:
        raise ValueError("no whole header")
    sequence_adjust(&packet, &own.sequence, &other.sequence)
    return bytes(out)


@cython.final
cdef class Masters:
    """Flows with a helper, by number, and what they expect; addresses are IPv4, packed."""

    cdef Masters_t masters
    cdef HashKey key

    def __cinit__(self, uint32_t limit):
        hash_key_init(&self.key, 1, 2)
        if not masters_init(&self.masters, limit):
            raise MemoryError()

    def __dealloc__(self):
        masters_free(&self.masters)

    cdef Tuple tuple(self, bytes source, bytes destination, int sport, int dport):
        cdef Tuple t
        t.source = address_load(<const uint8_t*><const char*>source, IPV4)
        t.destination = address_load(<const uint8_t*><const char*>destination, IPV4)
        t.ports = ports_make(htons(sport), htons(dport))
        t.protocol = PROTOCOL_TCP
        t.family = IPV4
        return t

    def take(self, uint32_t record):
        return master_take(&self.masters, record)

    def give(self, uint32_t m):
        master_give(&self.masters, &self.key, m)

    def expect(self, uint32_t m, uint64_t tick, bytes source, bytes destination, int port):
        cdef Tuple t = self.tuple(source, destination, 0, port)
        return bool(expectation_begin(&self.masters, &self.key, m, tick, &t))

    def find(self, uint64_t tick, bytes source, bytes destination, int sport, int dport):
        """The number of the master that expects a packet, or None."""
        cdef Tuple t = self.tuple(source, destination, sport, dport)
        cdef uint32_t m = expectation_find(&self.masters, &self.key, tick, &t)
        return None if m == NIL else m

    def end(self, uint32_t m):
        expectation_end(&self.masters, &self.key, m)

    def line_end(self, uint32_t m, int direction, uint32_t number):
        _line_end(&self.masters.master[m], direction, number)

    def line_begins(self, uint32_t m, int direction, uint32_t number):
        return bool(_line_begins(&self.masters.master[m], direction, number))

    @property
    def counts(self):
        """Masters, and those that expect, over or not."""
        return self.masters.count, self.masters.expecting

    def copied(self):
        """The same, with memory of its own."""
        cdef Masters other = Masters(self.masters.limit)
        masters_free(&other.masters)
        if not masters_copy(&other.masters, &self.masters):
            raise MemoryError()
        return other
