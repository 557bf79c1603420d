"""FTP's commands and answers, and sequence numbers, one by one, for tests."""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint32_t

from lvscore._core.bytes cimport htons, ntohs
from lvscore._core.consts cimport IPV4
from lvscore._core.flow cimport Address, address_load
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
from lvscore._core.sequence cimport Sequence as Sequence_t
from lvscore._core.sequence cimport (
    sequence_adjust, sequence_back, sequence_edit, sequence_forward,
)
from lvscore._core.wire cimport Packet, packet_parse

__all__ = [
    "MODES", "Sequence", "active_request", "adjust", "announcement_write", "passive_answer",
    "passive_request", "search",
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
