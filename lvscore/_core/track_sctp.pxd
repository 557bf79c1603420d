"""SCTP as IPVS tracks it (ip_vs_proto_sctp.c): a packet's event, and the states.

The event is the type of the packet's first chunk (RFC 9260, section 3.2); DATA stands for those
that IPVS does not know, and NO_CHUNK for a packet that ends before it.
"""

from libc.stdint cimport uint8_t, uint32_t

from lvscore._core.bytes cimport load_be16

cdef enum SctpChunk:
    SCTP_DATA = 0
    SCTP_INIT = 1
    SCTP_INIT_ACK = 2
    SCTP_HEARTBEAT = 4
    SCTP_HEARTBEAT_ACK = 5
    SCTP_ABORT = 6
    SCTP_SHUTDOWN_ACK = 8
    SCTP_COOKIE_ECHO = 10
    SCTP_COOKIE_ACK = 11
    SCTP_SHUTDOWN_COMPLETE = 14
    SCTP_NO_CHUNK = 15

cdef enum:
    SCTP_FIRST_CHUNK = 12       # behind the common header
    SCTP_CHUNK_HEADER = 4
    SCTP_STATES = 14
    SCTP_ESTABLISHED = 8


cdef extern from *:
    """
    /* A row for each kind of chunk; a column, and a hexadecimal digit, for each state: NONE,
       INIT1, INIT, COOKIE_SENT, COOKIE_REPLIED, COOKIE_WAIT, COOKIE, COOKIE_ECHOED, ESTABLISHED,
       SHUTDOWN_SENT, SHUTDOWN_RECEIVED, SHUTDOWN_ACK_SENT, REJECTED, CLOSED. */
    static const char *const lvs_sctp_states[3][10] = {
        {                       /* to the server */
            "8123456789abcd",   /* DATA and others */
            "1223456789ab22",   /* INIT */
            "5553466789abcd",   /* INIT ACK */
            "4224456789abcd",   /* COOKIE ECHO */
            "8123456889abcd",   /* COOKIE ACK */
            "a1234567a9abcd",   /* SHUTDOWN */
            "d22345678dadcd",   /* SHUTDOWN ACK */
            "ddd3456789adcd",   /* SHUTDOWN COMPLETE */
            "d123456d89abcd",   /* ERROR */
            "dddddcdddddddd",   /* ABORT */
        },
        {                       /* from the server */
            "8123456789abcd",
            "55555555855555",
            "3333456789abcd",
            "7777777789abcd",
            "8888888889abcd",
            "9999999999abcd",
            "bbbbb5678bbbcd",
            "d123456789abcd",
            "ddddd56789abcd",
            "dcdddddddddddd",
        },
        {                       /* to the server, and its answers do not come by here */
            "8123486789abcd",
            "1222226789ab22",
            "7777776789abcd",
            "8888886789abcd",
            "8128858889abcd",
            "a1234567a9abcd",
            "d2234567ddadcd",
            "ddddd56789ddcd",
            "d123456789abcd",
            "dddddcdddddddd",
        },
    };
    /* The row of each type of chunk. */
    static const unsigned char lvs_sctp_row[16] = {0, 1, 2, 0, 0, 0, 9, 5, 6, 8, 3, 4, 0, 0, 7, 0};
    """
    const char* STATES "lvs_sctp_states"[3][10]
    const uint8_t ROW "lvs_sctp_row"[16]


cdef inline uint32_t sctp_chunk(const uint8_t* sctp, uint32_t captured) noexcept nogil:
    """The type of the first chunk of a packet of which ``captured`` bytes are there."""
    if captured < SCTP_FIRST_CHUNK + SCTP_CHUNK_HEADER:
        return SCTP_NO_CHUNK
    return sctp[SCTP_FIRST_CHUNK] if sctp[SCTP_FIRST_CHUNK] < SCTP_NO_CHUNK else SCTP_DATA


cdef inline uint32_t sctp_event(const uint8_t* sctp, uint32_t captured) noexcept nogil:
    """The event that a packet is: its first chunk, but an ABORT right behind a COOKIE ECHO or
    COOKIE ACK, which may be bundled with it (RFC 9260, section 3.3.7), counts more."""
    cdef uint32_t chunk = sctp_chunk(sctp, captured)
    cdef uint32_t length, second
    if chunk == SCTP_COOKIE_ECHO or chunk == SCTP_COOKIE_ACK:
        length = load_be16(sctp + SCTP_FIRST_CHUNK + 2)
        second = SCTP_FIRST_CHUNK + ((length + 3) & ~<uint32_t>3)
        if (length >= SCTP_CHUNK_HEADER and captured >= second + SCTP_CHUNK_HEADER
                and sctp[second] == SCTP_ABORT):
            return SCTP_ABORT
    return chunk


cdef inline uint8_t sctp_state(uint32_t direction, uint32_t event, uint32_t state) noexcept nogil:
    """The state after an event; ``direction`` may be INPUT_ONLY."""
    cdef char digit
    if event == SCTP_NO_CHUNK:
        return <uint8_t>state
    digit = STATES[direction][ROW[event]][state]
    return <uint8_t>(digit - 48 if digit < 58 else digit - 87)


cdef inline uint32_t sctp_timeout(uint32_t state) noexcept nogil:
    """Seconds that a state lasts."""
    if state == 0:
        return 2
    if state == 1 or state == 12:   # INIT1, REJECTED: RTO.Initial, and one
        return 4
    return 900 if state == SCTP_ESTABLISHED else 61     # RTO.Max, and one
