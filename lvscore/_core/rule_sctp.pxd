"""SCTP as conntrack tracks it: chunks, states and verification tags (nf_conntrack_proto_sctp.c).

All chunks of a packet count, one after the other. What breaks off halfway is INVALID, but what
its first chunks did stays.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memset

from lvscore._core.bytes cimport load32, load_be16
from lvscore._core.consts cimport ORIGINAL, REPLY
from lvscore._core.track cimport RULE_SCTP
from lvscore._core.track_sctp cimport (
    SCTP_ABORT, SCTP_CHUNK_HEADER, SCTP_COOKIE_ACK, SCTP_COOKIE_ECHO, SCTP_DATA, SCTP_FIRST_CHUNK,
    SCTP_HEARTBEAT, SCTP_HEARTBEAT_ACK, SCTP_INIT, SCTP_INIT_ACK, SCTP_SHUTDOWN_ACK,
    SCTP_SHUTDOWN_COMPLETE,
)
from lvscore._core.wire cimport Packet, packet_l4

cdef enum RuleSctpState:        # behind RULE_SCTP
    RULE_SCTP_CLOSED = 1
    RULE_SCTP_ESTABLISHED = 4
    RULE_SCTP_INVALID = 9

cdef enum:
    INIT_HEADER = 16            # behind the chunk's own (RFC 9260, section 3.3.2)
    FLAG_REFLECTED = 1          # T: the tag is the receiver's own (section 3.3.7)
    TAG_OF_VERIFICATION = 4     # offset in the common header


cdef extern from *:
    """
    /* A row for each kind of chunk; a digit for each state: NONE, CLOSED, COOKIE_WAIT,
       COOKIE_ECHOED, ESTABLISHED, SHUTDOWN_SENT, SHUTDOWN_RECD, SHUTDOWN_ACK_SENT,
       HEARTBEAT_SENT; 9: invalid. */
    static const char *const lvs_rule_sctp[2][11] = {
        {                   /* original */
            "112341172",    /* INIT */
            "112345671",    /* INIT ACK */
            "111111111",    /* ABORT */
            "112355671",    /* SHUTDOWN */
            "712347777",    /* SHUTDOWN ACK */
            "112345671",    /* ERROR */
            "113345671",    /* COOKIE ECHO */
            "112445671",    /* COOKIE ACK */
            "112345611",    /* SHUTDOWN COMPLETE */
            "812345678",    /* HEARTBEAT */
            "112345678",    /* HEARTBEAT ACK */
        },
        {                   /* reply */
            "912345679",
            "922345679",
            "911111119",
            "912365679",
            "912347779",
            "912145679",
            "913345679",
            "912445679",
            "912345619",
            "912345678",
            "912345674",
        },
    };
    /* The row of each type of chunk; 11: it changes nothing. */
    static const unsigned char lvs_rule_sctp_row[15] =
        {11, 0, 1, 11, 9, 10, 2, 3, 4, 5, 6, 7, 11, 11, 8};
    """
    const char* RULE_STATES "lvs_rule_sctp"[2][11]
    const uint8_t RULE_ROW "lvs_rule_sctp_row"[15]


# What is known of an association; it lies where a TCP connection has its windows.
cdef struct Association:
    uint32_t tag[2]             # that packets of a direction carry; 0: not known
    uint8_t begun[2]            # an INIT came in this direction
    uint8_t settled             # a COOKIE ACK came: a later INIT does not count (Linux 6.18)
    uint8_t doubted             # a HEARTBEAT had another tag, that its answer may confirm,
    uint8_t doubted_direction   # and where it went


cdef inline bint chunk_at(const Packet* packet, uint32_t at) noexcept nogil:
    return at + SCTP_CHUNK_HEADER <= packet.l4_captured


cdef inline uint32_t chunk_next(const Packet* packet, uint32_t at) noexcept nogil:
    """Where the next chunk begins; chunks are padded to four bytes."""
    return at + ((<uint32_t>load_be16(packet_l4(packet) + at + 2) + 3) & ~<uint32_t>3)


cdef inline bint chunks_are_sound(const Packet* packet, uint32_t* kinds) noexcept nogil:
    """Whether there are chunks that may stand together; ``kinds`` are the types below 32."""
    cdef uint32_t at = SCTP_FIRST_CHUNK
    cdef uint32_t count = 0
    cdef bint alone = False
    cdef uint8_t kind
    kinds[0] = 0
    while chunk_at(packet, at):
        kind = packet_l4(packet)[at]
        if kind == SCTP_INIT or kind == SCTP_INIT_ACK or kind == SCTP_SHUTDOWN_COMPLETE:
            alone = True
        if count and (alone or kind == SCTP_COOKIE_ACK or kind == SCTP_COOKIE_ECHO):
            return False
        if load_be16(packet_l4(packet) + at + 2) == 0:
            return False
        if kind < 32:
            kinds[0] |= <uint32_t>1 << kind
        count += 1
        at = chunk_next(packet, at)
    return count != 0


cdef inline uint32_t rule_sctp_state(uint32_t direction, uint8_t kind,
                                     uint32_t state) noexcept nogil:
    if kind > SCTP_SHUTDOWN_COMPLETE or RULE_ROW[kind] == 11:
        return state
    return <uint32_t>(RULE_STATES[direction][RULE_ROW[kind]][state] - 48)


cdef inline bint kinds_have(uint32_t kinds, uint32_t kind) noexcept nogil:
    return kinds >> kind & 1


cdef inline bint association_open(Association* a, const Packet* packet) noexcept nogil:
    """Whether a packet may open a flow, and which tags are to be expected then."""
    cdef const uint8_t* sctp = packet_l4(packet)
    cdef uint32_t tag = load32(sctp + TAG_OF_VERIFICATION)
    cdef uint32_t at = SCTP_FIRST_CHUNK
    cdef uint32_t kinds
    memset(a, 0, sizeof(Association))
    # Out of the blue: section 8.4.
    if not chunks_are_sound(packet, &kinds) or kinds_have(kinds, SCTP_ABORT) or kinds_have(
            kinds, SCTP_SHUTDOWN_COMPLETE) or kinds_have(kinds, SCTP_COOKIE_ACK):
        return False
    while chunk_at(packet, at):
        if rule_sctp_state(ORIGINAL, sctp[at], 0) == 0:
            return False
        if sctp[at] == SCTP_INIT:
            if tag or at + SCTP_CHUNK_HEADER + INIT_HEADER > packet.l4_captured:
                return False
            a.tag[REPLY] = load32(sctp + at + SCTP_CHUNK_HEADER)
        elif sctp[at] == SCTP_HEARTBEAT:
            a.tag[ORIGINAL] = tag
        else:
            a.tag[REPLY] = tag
        at = chunk_next(packet, at)
    if kinds_have(kinds, SCTP_HEARTBEAT_ACK):
        a.tag[REPLY] = 0        # as Linux 6.18 does: answers with a tag do not fit then
    return True


cdef inline bint tag_is_exempt(uint32_t kinds) noexcept nogil:
    """Whether a packet has a chunk with a rule of its own for the tag (section 8.5.1)."""
    return (kinds_have(kinds, SCTP_INIT) or kinds_have(kinds, SCTP_SHUTDOWN_COMPLETE)
            or kinds_have(kinds, SCTP_COOKIE_ECHO) or kinds_have(kinds, SCTP_ABORT)
            or kinds_have(kinds, SCTP_SHUTDOWN_ACK) or kinds_have(kinds, SCTP_HEARTBEAT)
            or kinds_have(kinds, SCTP_HEARTBEAT_ACK))


cdef inline bint heartbeat_check(Association* a, uint8_t kind, uint32_t direction, uint32_t tag,
                                 bint ignored, uint32_t kinds, bint* passes) noexcept nogil:
    """Whether a HEARTBEAT or its answer fits. One with another tag ``passes`` without effect:
    an association on other paths may have begun anew, which the answer confirms."""
    passes[0] = False
    if a.tag[direction] == 0:
        a.tag[direction] = tag
        return True
    if tag == a.tag[direction]:
        a.doubted = False
        return True
    if kinds_have(kinds, SCTP_DATA) or ignored:
        return False
    if kind == SCTP_HEARTBEAT:
        a.doubted = True
        a.doubted_direction = <uint8_t>direction
        passes[0] = True
        return True
    if not a.doubted or a.doubted_direction == direction:
        return False
    a.doubted = False
    a.tag[direction] = tag
    a.tag[1 - direction] = 0
    return True


cdef inline bint tag_fits(const Association* a, const uint8_t* chunk, uint32_t direction,
                          uint32_t tag) noexcept nogil:
    """Whether the tag is the one that a chunk has to come with (section 8.5.1)."""
    if chunk[0] == SCTP_INIT:
        return tag == 0
    if chunk[0] == SCTP_ABORT or chunk[0] == SCTP_SHUTDOWN_COMPLETE:
        return tag == a.tag[1 - direction if chunk[1] & FLAG_REFLECTED else direction]
    return chunk[0] != SCTP_COOKIE_ECHO or tag == a.tag[direction]


cdef inline bint tag_note(Association* a, const Packet* packet, uint32_t at,
                          uint32_t direction) noexcept nogil:
    """Take the tag that an INIT or INIT ACK asks for; False if it does not fit."""
    cdef const uint8_t* chunk = packet_l4(packet) + at
    cdef uint32_t other = 1 - direction
    cdef uint32_t tag
    if at + SCTP_CHUNK_HEADER + INIT_HEADER > packet.l4_captured:
        return False
    tag = load32(chunk + SCTP_CHUNK_HEADER)
    if chunk[0] == SCTP_INIT:
        if a.begun[direction] and a.begun[other]:
            a.begun[other] = False
        a.begun[direction] = not a.settled
    elif a.tag[other] != tag and (
            (a.begun[direction] and a.begun[other])
            or (not a.begun[other] and a.tag[other])):
        return False
    a.tag[other] = tag
    return True


cdef inline bint association_take(Association* a, const Packet* packet, uint32_t direction,
                                  bint confirmed, uint8_t* state, bint* renews,
                                  bint* established) noexcept nogil:
    """Take a packet whose header is valid into an association; False if it is INVALID.

    ``confirmed``: it is not the first. ``state`` has its tracker in it and is kept up to date.
    ``renews``: the flow's timer; ``established``: now, so that the flow is ASSURED.
    """
    cdef const uint8_t* sctp = packet_l4(packet)
    cdef uint32_t tag = load32(sctp + TAG_OF_VERIFICATION)
    cdef uint32_t at = SCTP_FIRST_CHUNK
    cdef uint32_t kinds, old, new
    cdef bint ignored = False
    cdef bint passes
    established[0] = False
    if not chunks_are_sound(packet, &kinds) or (
            not tag_is_exempt(kinds) and tag != a.tag[direction]):
        return False
    while chunk_at(packet, at):
        if not tag_fits(a, sctp + at, direction, tag):
            return False
        if sctp[at] == SCTP_COOKIE_ACK:
            a.begun[ORIGINAL] = a.begun[REPLY] = False
            a.settled = True
        elif sctp[at] == SCTP_HEARTBEAT or sctp[at] == SCTP_HEARTBEAT_ACK:
            if not heartbeat_check(a, sctp[at], direction, tag, ignored, kinds, &passes):
                return False
            if passes:
                ignored = True
                at = chunk_next(packet, at)
                continue
        old = state[0] & 15
        new = rule_sctp_state(direction, sctp[at], old)
        if new == RULE_SCTP_INVALID:
            return False
        if sctp[at] == SCTP_INIT or sctp[at] == SCTP_INIT_ACK:
            if not tag_note(a, packet, at, direction):
                return False
            # An INIT again and again does not hold its entry.
            if sctp[at] == SCTP_INIT and old == new == RULE_SCTP_CLOSED and confirmed:
                ignored = True
        state[0] = <uint8_t>(RULE_SCTP | new)
        if new == RULE_SCTP_ESTABLISHED and old != new:
            established[0] = True
        at = chunk_next(packet, at)
    renews[0] = not ignored
    return True
