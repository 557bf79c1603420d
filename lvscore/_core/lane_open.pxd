"""The fast path of a packet that opens a connection: schedule.pxd and director.pxd for a plain
service, one without persistence whose server is masqueraded.

What does not fit takes the slow path, as if it had not been here.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from lvscore._core.bytes cimport htons, load16, rotate32
from lvscore._core.clock cimport clock_passes
from lvscore._core.connection cimport (
    Connection4, FLAG_INACTIVE, FLAG_SERVICE, Table, connection4, table_defer, table_fetch,
    table_find4, table_give, table_insert_hashed, table_settle_hash, table_take,
)
from lvscore._core.consts cimport (
    IPV4, NIL, ORIGINAL, PROTOCOL_TCP, REASON_NEW_CONNECTION, REPLY, VERDICT_FORWARD,
)
from lvscore._core.flow cimport (
    Address, Tuple, addresses_unpack, ports_destination, ports_key, ports_make, ports_source,
)
from lvscore._core.hash cimport hash_ipv4
from lvscore._core.index cimport index_insert, index_remove
from lvscore._core.lane cimport Frames, Lane, lane_rewrite, lane_serve
from lvscore._core.load cimport load_open
from lvscore._core.machine cimport likely
from lvscore._core.scheduler cimport scheduler_pick
from lvscore._core.server cimport METHOD_MASQUERADE, Server
from lvscore._core.service cimport (
    FTP_DATA_PORT, SERVICE_ONE_PACKET, SERVICE_PERSISTENT, Service, service_find,
)
from lvscore._core.state cimport State, connection_total
from lvscore._core.track cimport (
    TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, service_state_initial, state_is_active,
)
from lvscore._core.wheel cimport wheel_link


# A connection that is about to be opened, and what choosing its server changed.
cdef struct Opening:
    Service* service
    uint64_t to                 # destination, protocol and port that the service was found by
    uint64_t chance
    int32_t position
    int32_t current_weight
    uint32_t server
    uint32_t address            # of the server, as it lies in memory
    uint32_t ports              # that the packet is to have


cdef inline bint lane_begins(const Lane* lane) noexcept nogil:
    """Whether a packet may open a connection: a SYN and nothing else, or a datagram."""
    if lane.ip == NULL or lane.reference != NIL or (
            ports_source(<uint32_t>lane.key) == htons(FTP_DATA_PORT)):
        return False
    if lane.key >> 32 == PROTOCOL_TCP:
        return lane.ip[33] & (TCP_SYN | TCP_ACK | TCP_FIN | TCP_RST) == TCP_SYN
    return load16(lane.ip + 26) != 0        # one without checksum is for packet_translate


cdef inline bint are_plain(const State* s, const Table* table) noexcept nogil:
    """Whether nothing but services, without helpers, looks at packets that open connections."""
    return not (s.tracking or s.ftp.ports or s.services.sip or table.portless or s.raw.count
                or s.mangle.count or s.drop_rate or s.trace != NULL)


cdef inline Service* plain_service(const State* s, const Lane* lane) noexcept nogil:
    """The plain service that a packet is for, or NULL."""
    cdef Address destination
    cdef uint32_t i
    cdef Service* service
    destination.word[0] = lane.addresses >> 32
    destination.word[1] = 0
    i = service_find(&s.services, IPV4, <uint8_t>(lane.key >> 32), &destination,
                     ports_destination(<uint32_t>lane.key))
    if i == NIL:
        return NULL
    service = &s.services.service[i]
    if (service.options.flags & (SERVICE_PERSISTENT | SERVICE_ONE_PACKET)
            or service.scheduler.cache != NULL):
        return NULL
    return service


cdef inline void opening_undo(State* s, const Opening* opening) noexcept nogil:
    """Let the scheduler be as before it chose."""
    opening.service.scheduler.position = opening.position
    opening.service.scheduler.current_weight = opening.current_weight
    s.chance = opening.chance


cdef inline bint opening_choose(State* s, const Lane* lane, Opening* opening) noexcept nogil:
    """Choose the server for the connection that a packet opens; False, and nothing has changed,
    if it needs the slow path. ``opening`` is that of the vector's packet before, or zero."""
    cdef uint64_t to = lane.addresses >> 32 << 32 | (lane.key >> 16 & 0xFFFF) << 8 | lane.key >> 32
    cdef Service* service = opening.service
    cdef const Server* server
    cdef Tuple t
    if service == NULL or to != opening.to:
        service = plain_service(s, lane)
        if service == NULL:
            return False
        opening.service = service
        opening.to = to
    t.family = IPV4
    t.protocol = service.protocol
    t.ports = <uint32_t>lane.key
    addresses_unpack(&t, lane.addresses)
    opening.position = service.scheduler.position
    opening.current_weight = service.scheduler.current_weight
    opening.chance = s.chance
    opening.server = scheduler_pick(&service.scheduler, s.services.server, &t, s.tick, &s.chance)
    if likely(opening.server != NIL, True):
        server = &s.services.server[opening.server]
        opening.address = <uint32_t>server.address.word[0]
        opening.ports = ports_make(
            ports_source(t.ports), server.port if server.port else ports_destination(t.ports))
        if likely(server.method == METHOD_MASQUERADE and server.family == IPV4
                  and (opening.address != <uint32_t>t.destination.word[0]
                       or opening.ports != t.ports), True):
            return True
    opening_undo(s, opening)
    return False


cdef inline void connection4_fill(Connection4* c, const Lane* lane,
                                  const Opening* opening) noexcept nogil:
    """Write both tuples (connection_fill)."""
    cdef uint32_t client = <uint32_t>lane.addresses
    cdef uint32_t service = <uint32_t>(lane.addresses >> 32)
    cdef uint32_t ports = <uint32_t>lane.key
    c.addresses[ORIGINAL] = <uint64_t>opening.address << 32 | client
    c.addresses[REPLY] = <uint64_t>client << 32 | service
    c.ports[ORIGINAL] = opening.ports
    c.ports[REPLY] = rotate32(ports, 16)
    memset(c.next_hop, 0, sizeof(c.next_hop))


cdef inline bint opening_open(State* s, Table* table, Lane* lane,
                              const Opening* opening) noexcept nogil:
    """Open the connection, in the state that its packet brings it to; False, and nothing
    has changed but for the choice, if the index is too crowded."""
    cdef uint8_t protocol = <uint8_t>(lane.key >> 32)
    cdef uint32_t event = lane.ip[33] & 31 if protocol == PROTOCOL_TCP else 0
    cdef uint8_t state = s.tracker.next[ORIGINAL][event][service_state_initial(protocol)]
    cdef uint64_t reply_hash = hash_ipv4(
        &s.key, <uint64_t>(<uint32_t>lane.addresses) << 32 | opening.address,
        ports_key(protocol, rotate32(opening.ports, 16)))
    cdef bint active = state_is_active(state)
    cdef uint32_t i
    cdef Connection4* c
    table_fetch(table, reply_hash)      # while the rest is done
    i = table_take(table)
    if i == NIL:
        return False
    c = connection4(table, i)
    memset(&c.meta, 0, sizeof(c.meta))
    connection4_fill(c, lane, opening)
    c.meta.protocol = protocol
    c.meta.server = opening.server
    c.meta.state = state
    c.meta.flags = FLAG_SERVICE if active else FLAG_SERVICE | FLAG_INACTIVE
    c.meta.timer.deadline = s.tick_up + s.tracker.timeout[state]
    if likely(not index_insert(&table.index, lane.hash, i << 1 | ORIGINAL), False):
        table_give(table, i)
        return False
    if table.deferring:
        table_defer(table, reply_hash, i << 1 | REPLY)
    elif not table_insert_hashed(table, reply_hash, i << 1 | REPLY):
        index_remove(&table.index, lane.hash, i << 1 | ORIGINAL)
        table_give(table, i)
        return False
    wheel_link(&table.wheel, i)
    load_open(&s.services, opening.server, active)
    s.opened += 1
    lane.reference = i << 1 | ORIGINAL
    return True


cdef inline bint lane_choose(State* s, Table* table, const Lane* lane,
                             Opening* opening) noexcept nogil:
    """opening_choose, of a packet that may open no connection."""
    if not lane_begins(lane) or connection_total(s) >= s.max_connections:
        return False
    table_settle_hash(table, lane.hash)
    return (table_find4(table, lane.hash, lane.addresses, lane.key) == NIL
            and opening_choose(s, lane, opening))


cdef inline uint32_t lanes_open(State* s, Table* table, const Frames* frames, uint32_t first,
                                uint32_t j, uint32_t count, Lane* lane) noexcept nogil:
    """Send on a vector's packets from ``j`` on that open connections, up to the first that does
    not or is not of the present tick; its index."""
    cdef const int64_t* timestamp = frames.timestamp + first
    cdef uint32_t begin = j
    cdef Opening opening
    cdef Connection4* c
    opening.service = NULL
    opening.to = 0
    if not are_plain(s, table) or (frames.mark != NULL and s.services.marks):
        return j
    while j < count and clock_passes(s, timestamp[j]) and lane_choose(
            s, table, &lane[j], &opening):
        if likely(not opening_open(s, table, &lane[j], &opening), False):
            opening_undo(s, &opening)
            break
        c = connection4(table, lane[j].reference >> 1)
        lane_serve(s, &lane[j], c)
        lane_rewrite(&lane[j], c, 0)
        frames.verdict[first + j] = VERDICT_FORWARD
        frames.reason[first + j] = REASON_NEW_CONNECTION
        j += 1
    s.verdicts[VERDICT_FORWARD] += j - begin
    s.reasons[REASON_NEW_CONNECTION] += j - begin
    return j
