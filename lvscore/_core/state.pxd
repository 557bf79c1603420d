"""The whole state of an engine, and the trace of an explanation."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from lvscore._core.connection cimport Table, table_copy, table_free, table_init
from lvscore._core.consts cimport ALL_PAGES, IPV4, IPV6, TICKS_PER_SECOND
from lvscore._core.emit cimport Emitted, emitted_free
from lvscore._core.entry cimport Entries, entries_copy, entries_free, entries_init
from lvscore._core.estimator cimport ESTIMATOR_TICKS
from lvscore._core.expect cimport Masters, masters_copy, masters_free, masters_init
from lvscore._core.flow cimport Tuple
from lvscore._core.forward cimport Forward
from lvscore._core.ftp cimport Ftp, ftp_copy, ftp_free, ftp_init
from lvscore._core.fragment cimport (
    Fragments, fragments_copy, fragments_free, fragments_init,
)
from lvscore._core.hash cimport HashKey, hash_key_init, random_next
from lvscore._core.jiffies cimport Jiffies
from lvscore._core.next_hop cimport (
    NextHops, next_hops_copy, next_hops_free, next_hops_init,
)
from lvscore._core.path cimport Paths
from lvscore._core.port_pool cimport Pools, pools_copy, pools_free, pools_init
from lvscore._core.route cimport (
    NO_INTERFACE, Routes, routes_copy, routes_free, routes_init,
)
from lvscore._core.rules cimport TARGET_ACCEPT, TARGET_CT, Chain, Rule
from lvscore._core.service cimport Services, services_copy, services_free, services_init
from lvscore._core.sip cimport Dialogs, dialogs_copy, dialogs_free, dialogs_init
from lvscore._core.track cimport Tracker, tracker_init

cdef enum TraceCode:
    TRACE_PARSED = 1
    TRACE_FOUND = 2             # a: reference
    TRACE_NOT_FOUND = 3
    TRACE_ICMP_ERROR = 4        # about the tuple
    TRACE_SERVICE = 5           # a: service
    TRACE_NO_SERVICE = 6
    TRACE_SCHEDULED = 7         # a: server
    TRACE_NO_SERVER = 8
    TRACE_REUSED = 9
    TRACE_RULE = 10             # a: rule number, b: target
    TRACE_NO_RULE = 11          # b: target of the chain
    TRACE_LOCAL = 12
    TRACE_OPENED = 13           # a: reference
    TRACE_STATE = 14            # a: from, b: to
    TRACE_TIMEOUT = 15          # a: ticks
    TRACE_TRANSLATED = 16
    TRACE_TEMPLATE = 17         # a: server
    TRACE_DIRECT = 18           # a: server
    TRACE_TUNNEL = 19           # a: server

cdef enum:
    MAX_TRACE = 32
    TABLES = 4
    DAY_SECONDS = 86400
    TEMPLATES = 2           # where the tables of templates begin

cdef enum:  # net.ipv4.vs.*, indices of State.sysctl
    SYSCTL_AM_DROPRATE = 0
    SYSCTL_AMEMTHRESH = 1
    SYSCTL_CACHE_BYPASS = 2
    SYSCTL_CONN_REUSE_MODE = 3
    SYSCTL_DROP_ENTRY = 4
    SYSCTL_DROP_PACKET = 5
    SYSCTL_EXPIRE_NODEST_CONN = 6
    SYSCTL_EXPIRE_QUIESCENT_TEMPLATE = 7
    SYSCTL_LBLC_EXPIRATION = 8
    SYSCTL_LBLCR_EXPIRATION = 9
    SYSCTL_NAT_ICMP_SEND = 10
    SYSCTL_PMTU_DISC = 11
    SYSCTL_RUN_ESTIMATION = 12
    SYSCTL_SCHEDULE_ICMP = 13
    SYSCTL_SECURE_TCP = 14
    SYSCTL_SLOPPY_SCTP = 15
    SYSCTL_SLOPPY_TCP = 16
    SYSCTL_SNAT_REROUTE = 17
    SYSCTL_CONNTRACK = 18
    SYSCTL_COUNT = 19

cdef enum:  # net.netfilter.nf_conntrack_*, indices of State.conntrack
    CONNTRACK_ACCT = 0
    CONNTRACK_CHECKSUM = 1
    CONNTRACK_MAX = 2
    CONNTRACK_TCP_BE_LIBERAL = 3
    CONNTRACK_TCP_IGNORE_INVALID_RST = 4
    CONNTRACK_TCP_LOOSE = 5
    CONNTRACK_TCP_MAX_RETRANS = 6
    CONNTRACK_TIMESTAMP = 7
    CONNTRACK_SETTINGS = 8


cdef struct TraceStep:
    Tuple t
    uint32_t code
    uint32_t a
    uint32_t b


cdef struct Trace:
    TraceStep step[32]
    uint32_t count


cdef struct State:
    Table table[4]          # connections of IPv4, of IPv6; persistence templates of either
    Entries entries[2]      # what conntrack knows of connections of IPv4, of IPv6
    Tracker tracker
    HashKey key
    uint64_t chance         # state of the random generator
    uint32_t max_connections
    # the clock
    int64_t now             # ns, the latest time given
    int64_t origin          # ns of tick 0: the first time given
    int64_t tick_end        # ns at which the present tick ends
    uint64_t tick           # ms since origin
    uint32_t tick_up        # the present time in ticks, rounded up: no timer fires early
    uint64_t estimation     # tick of the next one
    Jiffies jiffies         # of the kernel whose lateness IPVS's timers are to have
    bint started
    # configuration
    Services services
    uint32_t hooked[2]      # services of IPv4, IPv6
    uint32_t sysctl[19]
    uint64_t defence        # tick of the next look at what floods leave (defence.pxd)
    uint64_t available_pages    # of memory, as told; ALL_PAGES when nobody said
    uint32_t ripe_counter[9]
    uint32_t drop_rate      # one of so many packets that would open a connection goes; 0: none
    uint32_t drop_counter   # until the next packet that drop_packet takes
    bint dropping_entries   # drop_entry acts
    Routes routes
    Paths paths             # where addresses lead, on a Host
    NextHops next_hops
    Forward forward         # of the packet at hand
    Chain prerouting        # of the nat table
    Chain postrouting
    Chain mangle            # PREROUTING of the mangle table
    Chain raw               # PREROUTING of the raw table
    Pools pools             # of ports, that source NAT maps to
    uint32_t conntrack[8]
    bint tracking           # there are rules that translate or give helpers: every flow is tracked
    Dialogs dialogs         # of services with the persistence engine sip
    Fragments fragments
    Ftp ftp
    Masters masters         # flows that conntrack's helpers look after
    Emitted emitted         # frames put out by the latest call
    # counters
    uint64_t frames
    uint64_t bytes
    uint64_t clock_backwards
    uint64_t opened
    uint64_t early_drops    # flows ended to make room for others
    uint64_t invalid        # packets of or for no flow as they are (ctnetlink's invalid)
    uint64_t icmp_errors    # ICMP that conntrack can make nothing of (its error)
    bint collecting         # a flow found no room: more are to end (early_drop.pxd)
    uint64_t expired
    uint64_t verdicts[5]
    uint64_t reasons[57]
    uint8_t last_reason     # of the latest single frame
    Trace* trace            # NULL but while explaining


cdef inline bint state_init(State* s, uint32_t max_connections, uint64_t seed_low,
                            uint64_t seed_high) noexcept nogil:
    cdef uint32_t f
    memset(s, 0, sizeof(State))
    s.max_connections = max_connections
    hash_key_init(&s.key, seed_low, seed_high)
    s.chance = seed_low ^ (seed_high << 1)
    random_next(&s.chance)
    tracker_init(&s.tracker)
    s.forward.ingress = NO_INTERFACE
    s.sysctl[SYSCTL_AM_DROPRATE] = 10
    s.sysctl[SYSCTL_AMEMTHRESH] = 1024
    s.available_pages = ALL_PAGES
    s.sysctl[SYSCTL_CONN_REUSE_MODE] = 1
    s.sysctl[SYSCTL_LBLC_EXPIRATION] = DAY_SECONDS
    s.sysctl[SYSCTL_LBLCR_EXPIRATION] = DAY_SECONDS
    s.sysctl[SYSCTL_PMTU_DISC] = 1
    s.sysctl[SYSCTL_RUN_ESTIMATION] = 1
    s.sysctl[SYSCTL_SNAT_REROUTE] = 1
    s.defence = TICKS_PER_SECOND
    s.estimation = ESTIMATOR_TICKS
    s.conntrack[CONNTRACK_CHECKSUM] = 1
    s.conntrack[CONNTRACK_MAX] = max_connections
    s.conntrack[CONNTRACK_TCP_LOOSE] = 1
    s.conntrack[CONNTRACK_TCP_MAX_RETRANS] = 3
    for f in range(TABLES):
        if not table_init(&s.table[f], IPV6 if f & 1 else IPV4, max_connections):
            return False
    return (entries_init(&s.entries[0], max_connections)
            and entries_init(&s.entries[1], max_connections)
            and pools_init(&s.pools, max_connections)
            and services_init(&s.services) and routes_init(&s.routes)
            and next_hops_init(&s.next_hops)
            and fragments_init(&s.fragments) and dialogs_init(&s.dialogs, max_connections)
            and ftp_init(&s.ftp, max_connections)
            and masters_init(&s.masters, max_connections))


cdef inline void state_free(State* s) noexcept nogil:
    cdef uint32_t f
    for f in range(TABLES):
        table_free(&s.table[f])
    entries_free(&s.entries[0])
    entries_free(&s.entries[1])
    pools_free(&s.pools)
    services_free(&s.services)
    routes_free(&s.routes)
    next_hops_free(&s.next_hops)
    fragments_free(&s.fragments)
    dialogs_free(&s.dialogs)
    ftp_free(&s.ftp)
    masters_free(&s.masters)
    emitted_free(&s.emitted)
    free(s.prerouting.rule)
    free(s.postrouting.rule)
    s.prerouting.rule = NULL
    s.postrouting.rule = NULL
    free(s.mangle.rule)
    s.mangle.rule = NULL
    free(s.raw.rule)
    s.raw.rule = NULL


cdef inline void tracking_update(State* s) noexcept nogil:
    """Targets that translate, and CT, let every flow be tracked (nf_ct_netns_get)."""
    cdef uint32_t k
    s.tracking = False
    for k in range(s.prerouting.count):
        s.tracking = s.tracking or s.prerouting.rule[k].target != TARGET_ACCEPT
    for k in range(s.postrouting.count):
        s.tracking = s.tracking or s.postrouting.rule[k].target != TARGET_ACCEPT
    for k in range(s.raw.count):
        s.tracking = s.tracking or s.raw.rule[k].target == TARGET_CT


cdef inline bint chain_copy(Chain* chain, const Chain* other) noexcept nogil:
    chain[0] = other[0]
    chain.rule = NULL
    if other.count:
        chain.rule = <Rule*>malloc(other.count * sizeof(Rule))
        if chain.rule == NULL:
            return False
        memcpy(chain.rule, other.rule, other.count * sizeof(Rule))
    return True


cdef inline bint state_copy(State* s, const State* other) noexcept nogil:
    """Make ``s`` a copy of ``other``; False if memory ends, then free it all the same."""
    cdef uint32_t f
    s[0] = other[0]
    memset(s.table, 0, sizeof(s.table))
    memset(s.entries, 0, sizeof(s.entries))
    memset(&s.pools, 0, sizeof(Pools))
    memset(&s.services, 0, sizeof(Services))
    memset(&s.routes, 0, sizeof(Routes))
    s.next_hops.hop = NULL
    s.next_hops.address6 = NULL
    memset(&s.fragments, 0, sizeof(Fragments))
    memset(&s.dialogs, 0, sizeof(Dialogs))
    s.ftp.control = NULL
    memset(&s.masters, 0, sizeof(Masters))
    memset(&s.emitted, 0, sizeof(Emitted))
    memset(&s.prerouting, 0, sizeof(Chain))
    memset(&s.postrouting, 0, sizeof(Chain))
    memset(&s.mangle, 0, sizeof(Chain))
    memset(&s.raw, 0, sizeof(Chain))
    s.trace = NULL
    for f in range(TABLES):
        if not table_copy(&s.table[f], &other.table[f]):
            return False
    return (entries_copy(&s.entries[0], &other.entries[0], other.table[0].used)
            and entries_copy(&s.entries[1], &other.entries[1], other.table[1].used)
            and pools_copy(&s.pools, &other.pools)
            and services_copy(&s.services, &other.services)
            and routes_copy(&s.routes, &other.routes)
            and next_hops_copy(&s.next_hops, &other.next_hops)
            and fragments_copy(&s.fragments, &other.fragments)
            and dialogs_copy(&s.dialogs, &other.dialogs)
            and ftp_copy(&s.ftp, &other.ftp)
            and masters_copy(&s.masters, &other.masters)
            and chain_copy(&s.prerouting, &other.prerouting)
            and chain_copy(&s.postrouting, &other.postrouting)
            and chain_copy(&s.mangle, &other.mangle)
            and chain_copy(&s.raw, &other.raw))


cdef inline bint is_hosted(const State* s) noexcept nogil:
    """Whether a Host drives the engine: the route stage is on."""
    return s.forward.ingress != NO_INTERFACE


cdef inline bint is_hooked(const State* s, uint8_t family) noexcept nogil:
    """Whether IPVS sees packets of a family: on a Host, while it has a service."""
    return not s.routes.hosted or s.hooked[family == IPV6] != 0


cdef inline Table* table_of(State* s, uint8_t family) noexcept nogil:
    return &s.table[family == IPV6]


cdef inline Table* templates_of(State* s, uint8_t family) noexcept nogil:
    return &s.table[TEMPLATES + (family == IPV6)]


cdef inline uint32_t connection_total(const State* s) noexcept nogil:
    return s.table[0].count + s.table[1].count


cdef inline void trace_step(State* s, uint32_t code, uint32_t a, uint32_t b,
                            const Tuple* t) noexcept nogil:
    """Note a step for an explanation; nothing otherwise."""
    cdef TraceStep* step
    if s.trace == NULL or s.trace.count == MAX_TRACE:
        return
    step = &s.trace.step[s.trace.count]
    s.trace.count += 1
    step.code = code
    step.a = a
    step.b = b
    step.t = t[0]
