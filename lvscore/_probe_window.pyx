"""TCP windows and SCTP associations, packet by packet, for tests."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from lvscore._core cimport rule_sctp as _sctp
from lvscore._core.bytes cimport htonl, htons, store16, store32
from lvscore._core.consts cimport IPV4, PROTOCOL_TCP, REPLY
from lvscore._core.tcp_window cimport (
    FIT_IGNORED, FIT_INVALID, FIT_REOPENS, FIT_TAKEN, Segment, TcpWindow, segment_load,
    segment_timeout, segment_track, window_open,
)
from lvscore._core.track cimport RULE_SCTP, RULE_TCP, RULE_TCP_ESTABLISHED, Tracker, tracker_init
from lvscore._core.wire cimport Packet

__all__ = ["FITS", "Association", "Windows"]

FITS = {
    <int>FIT_INVALID: "invalid", <int>FIT_IGNORED: "ignored", <int>FIT_TAKEN: "taken",
    <int>FIT_REOPENS: "reopens",
}
STATES = ("NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK",
          "TIME_WAIT", "CLOSE", "SYN_SENT2")


@cython.final
cdef class Windows:
    """A connection that segments go through; the first opens it."""

    cdef TcpWindow window
    cdef Tracker tracker
    cdef uint8_t now
    cdef bint opened, replied, assured, liberal, trusting

    def __init__(self, bint liberal=False, bint ignore_invalid_rst=False):
        tracker_init(&self.tracker)
        memset(&self.window, 0, sizeof(TcpWindow))
        self.now = RULE_TCP
        self.liberal = liberal
        self.trusting = ignore_invalid_rst

    @property
    def state(self):
        return STATES[self.now & 15]

    def side(self, int direction):
        """(end, max_end, max_window, scale) of what a side has sent."""
        side = self.window.side[direction & 1]
        return side.end, side.max_end, side.max_window, side.scale

    def send(self, int direction, int flags, seq, ack=0, *, int length=0,
             int window=1000, bytes options=b""):
        """Take a segment; how it fits."""
        cdef uint8_t frame[80]
        cdef Packet packet
        cdef Segment segment
        cdef uint32_t header = 20 + <uint32_t>len(options)
        cdef uint32_t i
        cdef uint8_t fit
        cdef uint8_t new = self.now
        if header > 60 or header & 3:
            raise ValueError(f"options of {len(options)} bytes")
        memset(frame, 0, sizeof(frame))
        store32(frame + 4, htonl(<uint32_t>(seq & 0xFFFFFFFF)))
        store32(frame + 8, htonl(<uint32_t>(ack & 0xFFFFFFFF)))
        frame[12] = <uint8_t>(header << 2)
        frame[13] = <uint8_t>flags
        store16(frame + 14, htons(<uint32_t>window & 0xFFFF))
        for i in range(header - 20):
            frame[20 + i] = options[i]
        memset(&packet, 0, sizeof(Packet))
        packet.frame = frame
        packet.l4_length = header + length
        packet.l4_captured = header
        packet.family = IPV4
        packet.protocol = PROTOCOL_TCP
        segment_load(&packet, &segment)
        if not self.opened:
            window_open(&self.window, &segment)
        fit = segment_track(&self.window, &self.tracker, &segment, <uint32_t>direction,
                            self.now, self.replied, self.assured, self.liberal, self.trusting,
                            &new)
        if fit == FIT_TAKEN:
            self.opened = True
            if self.replied and new == RULE_TCP_ESTABLISHED:
                self.assured = True
            self.now = new
        if fit != FIT_INVALID and direction == REPLY:
            self.replied = True
        self.segment_seconds = segment_timeout(&self.window, &self.tracker, &segment, self.now,
                                               3) // 1000
        return FITS[fit]

    cdef readonly uint32_t segment_seconds


SCTP_STATES = ("NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED", "SHUTDOWN_SENT",
               "SHUTDOWN_RECD", "SHUTDOWN_ACK_SENT", "HEARTBEAT_SENT")


@cython.final
cdef class Association:
    """An association that packets go through; the first that may opens it."""

    cdef _sctp.Association association
    cdef uint8_t now
    cdef bint opened

    def __cinit__(self):
        memset(&self.association, 0, sizeof(self.association))
        self.now = RULE_SCTP

    @property
    def state(self):
        return SCTP_STATES[self.now & 15]

    def send(self, int direction, bytes sctp):
        """Whether a packet fits; in memory of exactly its size."""
        cdef Packet packet
        cdef bint established
        cdef bint renews = True
        cdef bint fits = False
        cdef uint32_t length = <uint32_t>len(sctp)
        cdef uint8_t* copy
        if length < 12:
            raise ValueError("no whole SCTP header")
        copy = <uint8_t*>calloc(length, 1)
        if copy == NULL:
            raise MemoryError()
        memcpy(copy, <const char*>sctp, length)
        memset(&packet, 0, sizeof(packet))
        packet.frame = copy
        packet.length = packet.l4_length = packet.l4_captured = length
        if self.opened or (direction == 0 and _sctp.association_open(&self.association, &packet)):
            fits = _sctp.association_take(&self.association, &packet, direction & 1, self.opened,
                                          &self.now, &renews, &established)
            self.opened = self.opened or fits
        free(copy)
        if not self.opened:
            self.now = RULE_SCTP
        return fits
