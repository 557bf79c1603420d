"""State tracking: what a packet makes of a connection's state, and for how long that holds.

There are two trackers, IPVS's (ip_vs_proto_tcp.c, _udp.c, _sctp.c) for connections of services
and netfilter's (nf_conntrack_proto_tcp.c, _udp.c, _icmp.c) for those of the NAT rules. A state
byte holds the tracker in its high half. One table answers for both: by direction, event
(the low five TCP flags; of SCTP the chunk, track_sctp.pxd) and state byte.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memset

from lvscore._core.consts cimport (
    ORIGINAL, PROTOCOL_GRE, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_SCTP, PROTOCOL_TCP,
    PROTOCOL_UDP, REPLY, TICKS_PER_SECOND,
)
from lvscore._core.track_sctp cimport (
    SCTP_ESTABLISHED, SCTP_NO_CHUNK, SCTP_STATES, sctp_state, sctp_timeout,
)

cdef enum TcpFlag:
    TCP_FIN = 0x01
    TCP_SYN = 0x02
    TCP_RST = 0x04
    TCP_PSH = 0x08
    TCP_ACK = 0x10

cdef enum:  # tracker and state in one byte
    # Answers of the table that are no states: the packet needs a closer look.
    STATE_NONE = 0x00
    STATE_INVALID = 0x01        # netfilter's INVALID: not translated
    STATE_IGNORED = 0x02        # translated, changes nothing
    STATE_REOPENED = 0x03       # a SYN that begins the connection anew

    # IPVS's numbers: NONE, ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT, TIME_WAIT, CLOSE,
    # CLOSE_WAIT, LAST_ACK, LISTEN, SYNACK
    SERVICE_TCP = 0x10
    SERVICE_TCP_ESTABLISHED = 0x11
    SERVICE_TCP_SYN_SENT = 0x12
    SERVICE_TCP_SYN_RECV = 0x13
    SERVICE_TCP_FIN_WAIT = 0x14
    SERVICE_TCP_TIME_WAIT = 0x15
    SERVICE_TCP_CLOSE = 0x16
    SERVICE_TCP_LISTEN = 0x19
    SERVICE_TCP_SYNACK = 0x1A
    SERVICE_UDP = 0x20
    SERVICE_SCTP = 0x30         # track_sctp.pxd has the numbers
    SERVICE_SCTP_INIT1 = 0x31
    SERVICE_SCTP_INIT = 0x32
    SERVICE_SCTP_ESTABLISHED = 0x38
    SERVICE_SCTP_CLOSED = 0x3D

    # netfilter's numbers: NONE, SYN_SENT, SYN_RECV, ESTABLISHED, FIN_WAIT, CLOSE_WAIT,
    # LAST_ACK, TIME_WAIT, CLOSE, SYN_SENT2
    RULE_TCP = 0x50
    RULE_TCP_SYN_SENT = 0x51
    RULE_TCP_SYN_RECV = 0x52
    RULE_TCP_ESTABLISHED = 0x53
    RULE_TCP_FIN_WAIT = 0x54
    RULE_TCP_CLOSE_WAIT = 0x55
    RULE_TCP_LAST_ACK = 0x56
    RULE_TCP_TIME_WAIT = 0x57
    RULE_TCP_CLOSE = 0x58
    RULE_TCP_SYN_SENT2 = 0x59
    # No states, but timeouts: of a segment sent again and again, of data not acknowledged.
    TIMEOUT_TCP_RETRANS = 0x5A
    TIMEOUT_TCP_UNACKNOWLEDGED = 0x5B
    RULE_UDP_UNREPLIED = 0x60
    RULE_UDP_REPLIED = 0x61
    RULE_UDP_ASSURED = 0x62
    RULE_ICMP = 0x70
    RULE_ICMPV6 = 0x71
    RULE_GENERIC = 0x80
    RULE_GRE_UNREPLIED = 0x90
    RULE_GRE_REPLIED = 0x91
    # NONE, CLOSED, COOKIE_WAIT, COOKIE_ECHOED, ESTABLISHED, SHUTDOWN_SENT, SHUTDOWN_RECD,
    # SHUTDOWN_ACK_SENT, HEARTBEAT_SENT (rule_sctp.pxd)
    RULE_SCTP = 0xA0

cdef enum:
    TRACKER_MASK = 0xF0
    EVENTS = 32
    DATAGRAM = 32               # an event of stays alone
    ASSURED_AFTER = 2 * TICKS_PER_SECOND


cdef struct Tracker:
    uint8_t next[3][32][256]    # ORIGINAL, REPLY, INPUT_ONLY
    # By event and state: directions whose packets change nothing of a service's connection. For
    # states of another protocol than the event's there are none.
    uint8_t stays[33][256]
    uint32_t timeout[256]       # ticks


cdef extern from *:
    """
    /* Rows: SYN, FIN, ACK, RST; columns: NO ES SS SR FW TW CL CW LA LI SA (IPVS). */
    static const char *const lvs_service_tcp[6][4] = {
        {"SR ES ES SR SR SR SR SR SR SR SR", "CL CW SS TW TW TW CL CW LA LI TW",
         "ES ES SS ES FW TW CL CW CL LI ES", "CL CL CL SR CL CL CL CL LA LI SR"},
        {"SS ES SS SR SS SS SS SS SS LI SR", "TW FW SS TW FW TW CL TW LA LI TW",
         "ES ES SS ES FW TW CL CW LA ES ES", "CL CL SS CL CL TW CL CL CL CL CL"},
        {"SR ES ES SR SR SR SR SR SR SR SR", "CL FW SS TW FW TW CL CW LA LI TW",
         "ES ES SS ES FW TW CL CW CL LI ES", "CL CL CL SR CL CL CL CL LA LI CL"},
        /* The same with secure_tcp on (tcp_states_dos). */
        {"SR ES ES SR SR SR SR SR SR SR SA", "CL CW SS TW TW TW CL CW LA LI SA",
         "ES ES SS SR FW TW CL CW CL LI SA", "CL CL CL SR CL CL CL CL LA LI CL"},
        {"SS ES SS SA SS SS SS SS SS LI SA", "TW FW SS TW FW TW CL TW LA LI TW",
         "ES ES SS ES FW TW CL CW LA ES ES", "CL CL SS CL CL TW CL CL CL CL CL"},
        {"SA ES ES SR SA SA SA SA SA SA SA", "CL FW SS TW FW TW CL CW LA LI TW",
         "ES ES SS ES FW TW CL CW CL LI ES", "CL CL CL SR CL CL CL CL LA LI CL"},
    };
    static const char lvs_service_tcp_names[] = "NO ES SS SR FW TW CL CW LA LI SA";
    /* Rows: SYN, SYN+ACK, FIN, ACK, RST, none; columns: NO SS SR ES FW CW LA TW CL S2
       (netfilter); IG ignored, IV invalid. */
    static const char *const lvs_rule_tcp[2][6] = {
        {"SS SS IG IG IG IG IG SS SS S2", "IV IV SR IV IV IV IV IV IV SR",
         "IV IV FW FW LA LA LA TW CL IV", "ES IV ES ES CW CW TW TW CL IV",
         "IV CL CL CL CL CL CL CL CL CL", "IV IV IV IV IV IV IV IV IV IV"},
        {"IV S2 IV IV IV IV IV SS IV S2", "IV SR IG IG IG IG IG IG IG SR",
         "IV IV FW FW LA LA LA TW CL IV", "IV IG SR ES CW CW TW TW CL IG",
         "IV CL CL CL CL CL CL CL CL CL", "IV IV IV IV IV IV IV IV IV IV"},
    };
    static const char lvs_rule_tcp_names[] = "NO SS SR ES FW CW LA TW CL S2";

    static int lvs_state_named(const char *names, const char *cell)
    {
        for (int i = 0; names[0]; i++, names += 3) {
            if (names[0] == cell[0] && names[1] == cell[1]) return i;
            if (!names[2]) break;
        }
        return -1;
    }
    static int lvs_service_tcp_next(int direction, int row, int column)
    { return lvs_state_named(lvs_service_tcp_names, lvs_service_tcp[direction][row] + 3 * column); }
    static int lvs_rule_tcp_next(int direction, int row, int column)
    {
        const char *cell = lvs_rule_tcp[direction][row] + 3 * column;
        if (cell[0] == 'I') return cell[1] == 'V' ? -1 : -2;
        return lvs_state_named(lvs_rule_tcp_names, cell);
    }
    """
    int service_tcp_next "lvs_service_tcp_next"(int direction, int row, int column) noexcept nogil
    int rule_tcp_next "lvs_rule_tcp_next"(int direction, int row, int column) noexcept nogil


cdef inline uint8_t service_tcp_state(uint32_t direction, uint32_t flags,
                                      uint32_t state) noexcept nogil:
    """IPVS: the first that is set of RST, SYN, FIN, ACK counts; none closes.

    ``direction`` + 3 takes the table of secure_tcp.
    """
    if flags & TCP_RST:
        return <uint8_t>(SERVICE_TCP | service_tcp_next(direction, 3, state))
    if flags & TCP_SYN:
        return <uint8_t>(SERVICE_TCP | service_tcp_next(direction, 0, state))
    if flags & TCP_FIN:
        return <uint8_t>(SERVICE_TCP | service_tcp_next(direction, 1, state))
    if flags & TCP_ACK:
        return <uint8_t>(SERVICE_TCP | service_tcp_next(direction, 2, state))
    return SERVICE_TCP_CLOSE


cdef inline uint8_t rule_tcp_state(uint32_t direction, uint32_t flags,
                                   uint32_t state) noexcept nogil:
    """netfilter: PSH does not count; of the rest only legal combinations do."""
    cdef uint32_t kind = flags & ~<uint32_t>TCP_PSH
    cdef int row, new
    if kind == TCP_SYN:
        row = 0
    elif kind == TCP_SYN | TCP_ACK:
        row = 1
    elif kind == TCP_FIN | TCP_ACK:
        row = 2
    elif kind == TCP_ACK:
        row = 3
    elif kind == TCP_RST or kind == TCP_RST | TCP_ACK:
        row = 4
    else:
        return STATE_INVALID
    new = rule_tcp_next(direction, row, state)
    if new == -1:
        return STATE_INVALID
    if new == -2:
        return STATE_IGNORED
    if new == 1 and state >= 7:
        return STATE_REOPENED
    return <uint8_t>(RULE_TCP | new)


cdef inline void tracker_timeouts(Tracker* tracker) noexcept nogil:
    """Default timeouts, in seconds (ip_vs_proto_*.c, nf_conntrack_proto_*.c)."""
    cdef uint32_t i
    memset(tracker.timeout, 0, sizeof(tracker.timeout))
    tracker.timeout[SERVICE_TCP + 0] = 2
    tracker.timeout[SERVICE_TCP + 1] = 900
    tracker.timeout[SERVICE_TCP + 2] = 120
    tracker.timeout[SERVICE_TCP + 3] = 60
    tracker.timeout[SERVICE_TCP + 4] = 120
    tracker.timeout[SERVICE_TCP + 5] = 120
    tracker.timeout[SERVICE_TCP + 6] = 10
    tracker.timeout[SERVICE_TCP + 7] = 60
    tracker.timeout[SERVICE_TCP + 8] = 30
    tracker.timeout[SERVICE_TCP + 9] = 120
    tracker.timeout[SERVICE_TCP + 10] = 120
    tracker.timeout[SERVICE_UDP] = 300
    for i in range(SCTP_STATES):
        tracker.timeout[SERVICE_SCTP + i] = sctp_timeout(i)
    tracker.timeout[RULE_TCP + 1] = 120
    tracker.timeout[RULE_TCP + 2] = 60
    tracker.timeout[RULE_TCP + 3] = 432000
    tracker.timeout[RULE_TCP + 4] = 120
    tracker.timeout[RULE_TCP + 5] = 60
    tracker.timeout[RULE_TCP + 6] = 30
    tracker.timeout[RULE_TCP + 7] = 120
    tracker.timeout[RULE_TCP + 8] = 10
    tracker.timeout[RULE_TCP + 9] = 120
    tracker.timeout[TIMEOUT_TCP_RETRANS] = 300
    tracker.timeout[TIMEOUT_TCP_UNACKNOWLEDGED] = 300
    tracker.timeout[RULE_UDP_UNREPLIED] = 30
    tracker.timeout[RULE_UDP_REPLIED] = 30
    tracker.timeout[RULE_UDP_ASSURED] = 120
    tracker.timeout[RULE_ICMP] = 30
    tracker.timeout[RULE_ICMPV6] = 30
    tracker.timeout[RULE_GENERIC] = 600
    tracker.timeout[RULE_GRE_UNREPLIED] = 30
    tracker.timeout[RULE_GRE_REPLIED] = 180
    tracker.timeout[RULE_SCTP + 0] = 10
    tracker.timeout[RULE_SCTP + 1] = 10
    for i in range(2, 8):
        tracker.timeout[RULE_SCTP + i] = 3
    tracker.timeout[RULE_SCTP + 4] = 210
    tracker.timeout[RULE_SCTP + 8] = 30
    for i in range(256):
        tracker.timeout[i] *= TICKS_PER_SECOND


cdef inline void tracker_secure(Tracker* tracker, bint secure) noexcept nogil:
    """Take IPVS's TCP table, or the one against floods of half-open connections."""
    cdef uint32_t direction, event, state
    for direction in range(3):
        for event in range(EVENTS):
            for state in range(11):
                tracker.next[direction][event][SERVICE_TCP | state] = service_tcp_state(
                    direction + (3 if secure else 0), event, state)
    for event in range(EVENTS):
        for state in range(11):
            tracker.stays[event][SERVICE_TCP | state] = 0
            for direction in range(2):
                # A RST with SYN leaves a closed connection closed, but also ends it.
                if (tracker.next[direction][event][SERVICE_TCP | state] == SERVICE_TCP | state
                        and event & (TCP_SYN | TCP_RST) != (TCP_SYN | TCP_RST)):
                    tracker.stays[event][SERVICE_TCP | state] |= <uint8_t>(1 << direction)


cdef inline void tracker_services(Tracker* tracker) noexcept nogil:
    """Fill in what does not depend on secure_tcp: SCTP, and UDP's only state."""
    cdef uint32_t direction, event, state
    tracker.stays[DATAGRAM][SERVICE_UDP] = 1 << ORIGINAL | 1 << REPLY
    for direction in range(3):
        for event in range(EVENTS):
            tracker.next[direction][event][SERVICE_UDP] = SERVICE_UDP
        for event in range(SCTP_NO_CHUNK + 1):
            for state in range(SCTP_STATES):
                tracker.next[direction][event][SERVICE_SCTP | state] = (
                    <uint8_t>(SERVICE_SCTP | sctp_state(direction, event, state)))


cdef inline void tracker_init(Tracker* tracker) noexcept nogil:
    cdef uint32_t direction, event, state
    memset(tracker.next, STATE_INVALID, sizeof(tracker.next))
    memset(tracker.stays, 0, sizeof(tracker.stays))
    tracker_secure(tracker, False)
    tracker_services(tracker)
    for direction in range(2):
        for event in range(EVENTS):
            for state in range(10):
                tracker.next[direction][event][RULE_TCP | state] = rule_tcp_state(
                    direction, event, state)
    tracker_timeouts(tracker)


cdef inline bint state_is_active(uint8_t state) noexcept nogil:
    """Whether IPVS counts the state as an active connection (ip_vs_proto_tcp.c, _sctp.c)."""
    return (state == SERVICE_TCP_ESTABLISHED or state == SERVICE_TCP_SYN_SENT
            or state == SERVICE_TCP_SYN_RECV or state == SERVICE_TCP_SYNACK
            or state == SERVICE_SCTP | SCTP_ESTABLISHED)


cdef inline uint8_t service_state_initial(uint8_t protocol) noexcept nogil:
    if protocol == PROTOCOL_TCP:
        return SERVICE_TCP
    return SERVICE_SCTP if protocol == PROTOCOL_SCTP else SERVICE_UDP


cdef inline uint8_t rule_state_initial(uint8_t protocol) noexcept nogil:
    """The state before the first packet."""
    if protocol == PROTOCOL_TCP:
        return RULE_TCP
    if protocol == PROTOCOL_UDP:
        return RULE_UDP_UNREPLIED
    if protocol == PROTOCOL_ICMP:
        return RULE_ICMP
    if protocol == PROTOCOL_ICMPV6:
        return RULE_ICMPV6
    if protocol == PROTOCOL_GRE:
        return RULE_GRE_UNREPLIED
    if protocol == PROTOCOL_SCTP:
        return RULE_SCTP
    return RULE_GENERIC


cdef inline uint8_t rule_flow_state(uint8_t state, bint seen_reply, bint aged) noexcept nogil:
    """What a packet makes of a flow other than TCP. Like nf_conntrack_proto_udp.c, it goes by
    answers that came before: the first answer counts from the next packet on."""
    if not seen_reply:
        return state
    if state == RULE_UDP_UNREPLIED or state == RULE_UDP_REPLIED:
        return RULE_UDP_ASSURED if aged else RULE_UDP_REPLIED
    if state == RULE_GRE_UNREPLIED:
        return RULE_GRE_REPLIED
    return state
