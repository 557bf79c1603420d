"""TCP windows: whether a segment fits what both sides have said (nf_conntrack_proto_tcp.c).

The boundaries are those of van Rooij's "Real Stateful TCP Packet Filtering in IP Filter": a
segment must touch the window that its receiver announced, and must not acknowledge what its
receiver has not sent.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memset

from lvscore._core.bytes cimport load_be16, load_be32
from lvscore._core.consts cimport ORIGINAL, REPLY
from lvscore._core.machine cimport likely
from lvscore._core.track cimport (
    RULE_TCP_CLOSE, RULE_TCP_ESTABLISHED, RULE_TCP_FIN_WAIT, RULE_TCP_LAST_ACK, RULE_TCP_SYN_RECV,
    RULE_TCP_SYN_SENT, RULE_TCP_SYN_SENT2, RULE_TCP_TIME_WAIT, STATE_IGNORED, STATE_INVALID,
    STATE_REOPENED, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, TIMEOUT_TCP_RETRANS,
    TIMEOUT_TCP_UNACKNOWLEDGED, Tracker,
)
from lvscore._core.wire cimport Packet, packet_l4

cdef enum SegmentKind:
    SEGMENT_SYN = 0
    SEGMENT_SYN_ACK = 1
    SEGMENT_FIN = 2
    SEGMENT_ACK = 3
    SEGMENT_RST = 4
    SEGMENT_NONE = 5

cdef enum SideFlag:
    SIDE_SCALES = 0x01              # its SYN had a window scale option
    SIDE_SACKS = 0x02               # and one that permits SACK
    SIDE_CLOSES = 0x04              # it sent the first FIN
    SIDE_LIBERAL = 0x08             # what it sends is not held against the window
    SIDE_UNACKNOWLEDGED = 0x10      # it sent data that the other side has not acknowledged
    SIDE_HAS_ACKNOWLEDGED = 0x20    # max_ack holds
    # of last_flags
    EXPECT_CHALLENGE_ACK = 0x40     # a SYN in LAST_ACK, to be answered so (RFC 5961, section 4)
    SIMULTANEOUS_OPEN = 0x80

cdef enum:
    MAX_ACK_WINDOW = 66000          # how far an acknowledgment may lag behind
    MAX_SCALE = 14                  # RFC 7323, section 2.3
    OPTION_END = 0
    OPTION_NOOP = 1
    OPTION_SCALE = 3
    OPTION_SACK_PERMITTED = 4
    OPTION_SACK = 5

cdef enum SegmentFit:
    FIT_INVALID = 0
    FIT_IGNORED = 1                 # belongs to the connection, and changes nothing
    FIT_TAKEN = 2
    FIT_REOPENS = 3                 # a SYN that begins the connection anew


# What one side has sent.
cdef struct TcpSide:
    uint32_t end                    # highest sequence number, plus one
    uint32_t max_end                # up to where the other side lets it send
    uint32_t max_window             # largest window it announced; 0: it has sent nothing yet
    uint32_t max_ack                # highest acknowledgment
    uint8_t scale
    uint8_t flags
    uint16_t reserved


cdef struct TcpWindow:
    TcpSide side[2]                 # by direction
    uint32_t last_sequence          # of the latest segment
    uint32_t last_ack
    uint32_t last_end
    uint16_t last_window
    uint8_t last_scale
    uint8_t last_flags
    uint8_t last_direction
    uint8_t last_kind
    uint8_t retransmissions
    uint8_t reserved
    uint32_t reserved_last


cdef struct Segment:
    const uint8_t* options
    uint32_t options_length
    uint32_t sequence
    uint32_t ack
    uint32_t end                    # sequence number behind its last byte
    int32_t offset                  # by which edits moved what it acknowledges (sequence.pxd)
    uint16_t window
    uint8_t flags
    uint8_t kind


cdef inline bint sequence_before(uint32_t a, uint32_t b) noexcept nogil:
    return <int32_t>(a - b) < 0


cdef inline bint sequence_after(uint32_t a, uint32_t b) noexcept nogil:
    return <int32_t>(b - a) < 0


cdef inline uint32_t sequence_later(uint32_t a, uint32_t b) noexcept nogil:
    """The later of two; not by a branch, since segments come either way at random."""
    cdef int32_t ahead = <int32_t>(a - b)
    return b + (<uint32_t>ahead & ~<uint32_t>(ahead >> 31))


cdef inline void segment_read(const uint8_t* tcp, uint32_t header, uint32_t length,
                              Segment* g) noexcept nogil:
    """Read the fields of a segment that has neither SYN nor FIN."""
    g.options = tcp + 20
    g.options_length = header - 20
    g.sequence = load_be32(tcp + 4)
    g.ack = load_be32(tcp + 8)
    g.window = load_be16(tcp + 14)
    g.flags = tcp[13]
    g.offset = 0
    g.end = g.sequence + length - header


cdef inline void segment_load(const Packet* packet, Segment* g) noexcept nogil:
    """Read a segment whose fixed header was captured and whose data offset is right."""
    cdef const uint8_t* tcp = packet_l4(packet)
    cdef uint32_t header = (tcp[12] >> 4) * 4
    cdef uint8_t flags = tcp[13]
    segment_read(tcp, header, packet.l4_length, g)
    if header > packet.l4_captured:
        g.options_length = packet.l4_captured - 20
    if flags & TCP_SYN:
        g.end += 1
    if flags & TCP_FIN:
        g.end += 1
    if flags & TCP_RST:
        g.kind = SEGMENT_RST
    elif flags & TCP_SYN:
        g.kind = SEGMENT_SYN_ACK if flags & TCP_ACK else SEGMENT_SYN
    elif flags & TCP_FIN:
        g.kind = SEGMENT_FIN
    elif flags & TCP_ACK:
        g.kind = SEGMENT_ACK
    else:
        g.kind = SEGMENT_NONE


cdef inline void side_options(const Segment* g, TcpSide* side) noexcept nogil:
    """Take window scale and SACK permission from a SYN; one without any options says nothing, even
    if an earlier one did (tcp_options)."""
    cdef const uint8_t* p = g.options
    cdef uint32_t left = g.options_length
    cdef uint32_t size
    if left == 0:
        return
    side.scale = 0
    side.flags &= SIDE_LIBERAL
    while left and p[0] != OPTION_END:
        if p[0] == OPTION_NOOP:
            size = 1
        else:
            if left < 2 or p[1] < 2 or p[1] > left:
                return
            size = p[1]
            if p[0] == OPTION_SACK_PERMITTED and size == 2:
                side.flags |= SIDE_SACKS
            elif p[0] == OPTION_SCALE and size == 3:
                side.scale = p[2] if p[2] < MAX_SCALE else MAX_SCALE
                side.flags |= SIDE_SCALES
        p += size
        left -= size


cdef inline uint32_t segment_sack(const Segment* g) noexcept nogil:
    """The highest acknowledgment, of the header and of the SACK blocks (RFC 2018)."""
    cdef const uint8_t* p = g.options
    cdef uint32_t left = g.options_length
    cdef uint32_t highest = g.ack
    cdef uint32_t size, i
    while left and p[0] != OPTION_END:
        size = 1
        if p[0] != OPTION_NOOP:
            if left < 2 or p[1] < 2 or p[1] > left:
                break
            size = p[1]
            if p[0] == OPTION_SACK and size >= 10 and (size - 2) % 8 == 0:
                for i in range(6, size, 8):
                    if sequence_after(load_be32(p + i), highest):
                        highest = load_be32(p + i)
                break
        p += size
        left -= size
    return highest


cdef inline void side_begin(TcpSide* sender, TcpSide* receiver, const Segment* g,
                            uint32_t direction) noexcept nogil:
    """The first SYN of a side. Windows are scaled only if both sides said so, which the answer
    tells (tcp_init_sender)."""
    sender.end = g.end
    sender.max_end = g.end
    sender.max_window = g.window if g.window else 1
    side_options(g, sender)
    if direction == REPLY and not sender.flags & receiver.flags & SIDE_SCALES:
        sender.scale = 0
        receiver.scale = 0


cdef inline void window_open(TcpWindow* w, const Segment* g) noexcept nogil:
    """The first segment of a connection: a SYN, or one from the middle, whose windows are
    then not held against it."""
    cdef TcpSide* sender = &w.side[ORIGINAL]
    memset(w, 0, sizeof(TcpWindow))
    sender.end = g.end
    sender.max_end = g.end
    sender.max_window = g.window if g.window else 1
    if g.kind == SEGMENT_SYN:
        side_options(g, sender)
    else:
        sender.max_end += sender.max_window
        sender.flags = SIDE_SACKS | SIDE_LIBERAL
        w.side[REPLY].flags = SIDE_SACKS | SIDE_LIBERAL
    w.last_kind = SEGMENT_NONE


cdef inline void window_update(TcpWindow* w, const Segment* g, uint32_t direction,
                               uint32_t sequence, uint32_t end, uint32_t ack,
                               uint32_t sack) noexcept nogil:
    """Take a segment that fits."""
    cdef TcpSide* sender = &w.side[direction]
    cdef TcpSide* receiver = &w.side[1 - direction]
    cdef uint32_t window = g.window
    cdef uint32_t largest = sender.max_window
    cdef uint32_t last = sender.end
    cdef uint32_t flags = sender.flags
    cdef uint32_t difference
    if not g.flags & TCP_SYN:
        window <<= sender.scale
    sender.max_window = window + (sack - ack) if largest < window + (sack - ack) else largest
    sender.end = sequence_later(end, last)
    flags |= SIDE_UNACKNOWLEDGED if sequence_after(end, last) else 0
    if g.flags & TCP_ACK:
        sender.max_ack = (sequence_later(ack, sender.max_ack)
                          if likely(flags & SIDE_HAS_ACKNOWLEDGED != 0, True) else ack)
        flags |= SIDE_HAS_ACKNOWLEDGED
    sender.flags = <uint8_t>flags
    if receiver.max_window and sequence_after(end, sender.max_end):
        receiver.max_window += end - sender.max_end
    receiver.max_end = sequence_later(sack + window + (0 if window else 1), receiver.max_end)
    flags = receiver.flags
    receiver.flags = <uint8_t>(flags & ~<uint32_t>SIDE_UNACKNOWLEDGED if ack == receiver.end
                               else flags)
    if g.kind != SEGMENT_ACK:
        return
    difference = ((w.last_direction ^ direction) | (w.last_sequence ^ sequence)
                  | (w.last_ack ^ ack) | (w.last_end ^ end) | (w.last_window ^ g.window))
    if difference == 0:
        if w.retransmissions < 255:
            w.retransmissions += 1
        return
    w.last_direction = <uint8_t>direction
    w.last_sequence = sequence
    w.last_ack = ack
    w.last_end = end
    w.last_window = g.window
    w.retransmissions = 0


cdef inline uint32_t segment_highest(const Segment* g, const TcpSide* receiver) noexcept nogil:
    """The highest acknowledgment that counts: of the SACK blocks too, if both sides use them."""
    return segment_sack(g) if receiver.flags & SIDE_SACKS else g.ack


cdef inline bint acknowledges_in_time(const TcpSide* sender, const TcpSide* receiver,
                                      uint32_t sack) noexcept nogil:
    """Whether an acknowledgment is not of the distant past."""
    cdef uint32_t limit = (sender.max_window if sender.max_window > MAX_ACK_WINDOW
                           else MAX_ACK_WINDOW)
    return sequence_after(sack, receiver.end - limit - 1)


cdef inline bint window_fits(const TcpSide* sender, const TcpSide* receiver, uint32_t sequence,
                             uint32_t end, uint32_t sack) noexcept nogil:
    """Whether a segment is within all bounds of its sender's and its receiver's window."""
    return (sequence_before(sequence, sender.max_end + 1)
            and sequence_before(sack, receiver.end + 1)
            and acknowledges_in_time(sender, receiver, sack)
            and (receiver.max_window == 0
                 or sequence_after(end, sender.end - receiver.max_window - 1)))


cdef inline uint8_t window_check(TcpWindow* w, const Segment* g, uint32_t direction,
                                 uint8_t state, bint liberal) noexcept nogil:
    """Whether a segment fits the windows, and then what they are behind it."""
    cdef TcpSide* sender = &w.side[direction]
    cdef TcpSide* receiver = &w.side[1 - direction]
    cdef uint32_t sequence = g.sequence
    cdef uint32_t end = g.end
    cdef uint32_t ack = g.ack - <uint32_t>g.offset
    cdef uint32_t sack = segment_highest(g, receiver) - <uint32_t>g.offset
    liberal = liberal or sender.flags & SIDE_LIBERAL
    if sender.max_window == 0:
        if g.flags & TCP_SYN:
            side_begin(sender, receiver, g, direction)
            if not g.flags & TCP_ACK:
                return FIT_TAKEN            # simultaneous open
        else:
            # From the middle: what there is to know is in this segment.
            sender.end = end
            sender.max_window = <uint32_t>g.window << sender.scale
            if sender.max_window == 0:
                sender.max_window = 1
            sender.max_end = end + sender.max_window
            if receiver.max_window == 0:
                receiver.end = sack
                receiver.max_end = sack
            elif sack == receiver.end + 1:
                receiver.end += 1           # answers a keep-alive
    elif (g.flags & TCP_SYN and sequence_after(end, sender.end)
            and (state == RULE_TCP_SYN_SENT or state == RULE_TCP_SYN_RECV)):
        side_begin(sender, receiver, g, direction)      # begun once more, with other numbers
        if direction == REPLY and not g.flags & TCP_ACK:
            return FIT_TAKEN
    if not g.flags & TCP_ACK or (g.flags & TCP_RST and ack == 0):
        ack = receiver.end
        sack = ack
    if g.flags & TCP_RST and sequence == 0 and state == RULE_TCP_SYN_SENT:
        sequence = sender.end               # answers a SYN
        end = sequence
    if window_fits(sender, receiver, sequence, end, sack):
        window_update(w, g, direction, sequence, end, ack, sack)
        return FIT_TAKEN
    if not sequence_before(sequence, sender.max_end + 1):
        if (receiver.max_window and acknowledges_in_time(sender, receiver, sack)
                and sequence_after(end, sender.end - receiver.max_window - 1)
                and end - sender.max_end + 1 <= receiver.max_window
                and sequence_before(sack, receiver.end + 1)):
            # A little too much: it may pass, and may be acknowledged.
            sender.end = end
            sender.flags |= SIDE_UNACKNOWLEDGED
            return FIT_TAKEN if liberal else FIT_IGNORED
        return FIT_TAKEN if liberal else FIT_INVALID
    if liberal:
        return FIT_TAKEN
    return FIT_IGNORED if sequence_before(sack, receiver.end + 1) else FIT_INVALID


cdef inline void segment_note(TcpWindow* w, const Segment* g, uint32_t direction,
                              uint8_t state) noexcept nogil:
    """Keep what an ignored segment said: its answer may show that it was right."""
    cdef TcpSide seen
    w.last_kind = g.kind
    w.last_direction = <uint8_t>direction
    w.last_sequence = g.sequence
    w.last_end = g.end
    w.last_window = g.window
    if g.kind == SEGMENT_SYN and direction == ORIGINAL:
        memset(&seen, 0, sizeof(seen))
        side_options(g, &seen)
        w.last_flags = seen.flags
        w.last_scale = seen.scale
        if state == RULE_TCP_LAST_ACK:
            w.last_flags |= EXPECT_CHALLENGE_ACK
    if state == RULE_TCP_SYN_SENT and g.kind == SEGMENT_ACK and direction == REPLY:
        w.last_ack = g.ack


cdef inline bint reset_is_exact(const TcpWindow* w, const Segment* g, uint32_t direction,
                                bint established) noexcept nogil:
    """Whether a RST closes a connection whose other side has acknowledged something: else
    that side answers it with a challenge (RFC 5961, section 3)."""
    return (not established or g.sequence == w.side[1 - direction].max_ack
            or (w.last_kind == SEGMENT_ACK and w.last_direction == direction
                and g.sequence == w.last_end))


cdef inline bint is_closing(uint8_t state) noexcept nogil:
    """FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT, CLOSE."""
    return RULE_TCP_FIN_WAIT <= state <= RULE_TCP_CLOSE


cdef inline bint answers_challenge(const TcpWindow* w, const Segment* g, uint32_t direction,
                                   uint8_t old) noexcept nogil:
    """Whether a RST answers an acknowledgment by which the other side challenged a SYN, since
    it still has the connection before (RFC 5961, section 4.2)."""
    return (old == RULE_TCP_SYN_SENT and direction == ORIGINAL and w.last_kind == SEGMENT_ACK
            and w.last_direction == REPLY and g.sequence == w.last_ack)


cdef inline uint8_t segment_track(TcpWindow* w, const Tracker* tracker, const Segment* g,
                                  uint32_t direction, uint8_t old, bint seen_reply,
                                  bint assured, bint liberal, bint trust_resets,
                                  uint8_t* new) noexcept nogil:
    """What a segment makes of a connection in state ``old``: ``new``, if it is taken."""
    cdef TcpSide* other = &w.side[1 - direction]
    cdef uint8_t state = tracker.next[direction][g.flags & 31][old]
    cdef uint8_t fit
    cdef bint established = old == RULE_TCP_ESTABLISHED and assured
    cdef bint skip_windows = False
    if state == STATE_INVALID:
        return FIT_INVALID
    if state == STATE_REOPENED:
        if ((w.side[ORIGINAL].flags | w.side[REPLY].flags) & SIDE_CLOSES
                or (w.last_direction == direction and w.last_kind == SEGMENT_RST)):
            return FIT_REOPENS
        state = STATE_IGNORED
    if state == STATE_IGNORED:
        if not (g.kind == SEGMENT_SYN_ACK and w.last_kind == SEGMENT_SYN
                and w.last_direction != direction and g.ack == w.last_end):
            segment_note(w, g, direction, old)
            return FIT_IGNORED
        # It answers a SYN that was ignored: both sides are in step, we were not.
        state = RULE_TCP_SYN_RECV
        other.end = w.last_end
        other.max_end = w.last_end
        other.max_window = w.last_window if w.last_window else 1
        other.scale = w.last_scale
        w.last_flags &= ~<uint32_t>EXPECT_CHALLENGE_ACK
        other.flags = w.last_flags
        memset(&w.side[direction], 0, sizeof(TcpSide))
    elif state == RULE_TCP_TIME_WAIT:
        if (old == RULE_TCP_LAST_ACK and g.kind == SEGMENT_ACK
                and w.last_direction != direction and w.last_kind == SEGMENT_SYN
                and w.last_flags & EXPECT_CHALLENGE_ACK):
            w.last_flags &= ~<uint32_t>EXPECT_CHALLENGE_ACK
            return FIT_IGNORED
    elif state == RULE_TCP_SYN_SENT2:
        w.last_flags |= SIMULTANEOUS_OPEN
    elif state == RULE_TCP_SYN_RECV:
        if (direction == REPLY and g.kind == SEGMENT_ACK
                and w.last_flags & SIMULTANEOUS_OPEN):
            state = RULE_TCP_ESTABLISHED
    elif state == RULE_TCP_CLOSE and g.kind == SEGMENT_RST:
        # Both ends may have begun anew by now: windows say nothing of a closing connection.
        if is_closing(old) or answers_challenge(w, g, direction, old):
            skip_windows = True
        elif not other.flags & SIDE_HAS_ACKNOWLEDGED or w.last_kind == SEGMENT_SYN:
            # Perhaps it answers a SYN or an acknowledgment that was let through out of step.
            skip_windows = (g.ack == w.last_end and w.last_direction != direction
                            and ((seen_reply and w.last_kind == SEGMENT_SYN)
                                 or (not assured and w.last_kind == SEGMENT_ACK)))
        elif g.sequence or established:
            if sequence_before(g.sequence, other.max_ack) and not trust_resets:
                return FIT_INVALID
            if not reset_is_exact(w, g, direction, established):
                state = old
    if not skip_windows:
        fit = window_check(w, g, direction, old, liberal)
        if fit != FIT_TAKEN:
            return fit
    w.last_kind = g.kind
    w.last_direction = <uint8_t>direction
    if state != old and state == RULE_TCP_FIN_WAIT:
        w.side[direction].flags |= SIDE_CLOSES
    new[0] = state
    return FIT_TAKEN


cdef inline uint32_t segment_timeout(const TcpWindow* w, const Tracker* tracker,
                                     const Segment* g, uint8_t state,
                                     uint32_t max_retrans) noexcept nogil:
    """For how long (ticks) a segment that was taken holds a connection."""
    cdef uint32_t timeout = tracker.timeout[state]
    cdef uint32_t retrans = tracker.timeout[TIMEOUT_TCP_RETRANS]
    cdef uint32_t unacknowledged = tracker.timeout[TIMEOUT_TCP_UNACKNOWLEDGED]
    if w.retransmissions >= max_retrans and timeout > retrans:
        return retrans
    if g.kind == SEGMENT_RST:
        return tracker.timeout[RULE_TCP_CLOSE]
    if w.last_window == 0 and timeout > retrans and not (
            (w.side[ORIGINAL].flags | w.side[REPLY].flags) & SIDE_UNACKNOWLEDGED
            and timeout > unacknowledged):
        return retrans
    if timeout <= unacknowledged:
        return timeout
    return (unacknowledged if (w.side[ORIGINAL].flags | w.side[REPLY].flags) & SIDE_UNACKNOWLEDGED
            else timeout)       # selected: data and acknowledgments come in turn
