"""A connection as Python sees it, flat and with the states' public names: a part of _engine.pyx."""


# One row of a snapshot; connection_layout() tells NumPy about it.
cdef struct ConnectionRecord:
    uint64_t packets_in
    uint64_t packets_out
    uint64_t bytes_in
    uint64_t bytes_out
    int64_t expires_ns
    uint8_t client[16]
    uint8_t virtual_address[16]
    uint8_t server[16]
    uint8_t local[16]
    uint32_t server_index
    uint32_t dialog
    uint16_t client_port
    uint16_t virtual_port
    uint16_t server_port
    uint16_t local_port
    uint8_t family
    uint8_t protocol
    uint8_t state
    uint8_t is_service
    uint8_t seen_reply
    uint8_t is_template
    uint8_t server_family
    uint8_t assured
    int64_t created_ns
    uint32_t id
    uint8_t has_helper
    uint8_t expected
    uint16_t reserved


def connection_layout():
    """The dtype arguments of a snapshot's rows, taken from the compiled struct."""
    cdef ConnectionRecord r
    cdef char* start = <char*>&r
    fields = [
        ("family", "u1", <char*>&r.family - start),
        ("protocol", "u1", <char*>&r.protocol - start),
        ("state", "u1", <char*>&r.state - start),
        ("is_service", "?", <char*>&r.is_service - start),
        ("seen_reply", "?", <char*>&r.seen_reply - start),
        ("is_template", "?", <char*>&r.is_template - start),
        ("server_family", "u1", <char*>&r.server_family - start),
        ("client", "(16,)u1", <char*>&r.client - start),
        ("client_port", "u2", <char*>&r.client_port - start),
        ("virtual", "(16,)u1", <char*>&r.virtual_address - start),
        ("virtual_port", "u2", <char*>&r.virtual_port - start),
        ("server", "(16,)u1", <char*>&r.server - start),
        ("server_port", "u2", <char*>&r.server_port - start),
        ("local", "(16,)u1", <char*>&r.local - start),
        ("local_port", "u2", <char*>&r.local_port - start),
        ("server_index", "u4", <char*>&r.server_index - start),
        ("dialog", "u4", <char*>&r.dialog - start),
        ("packets_in", "u8", <char*>&r.packets_in - start),
        ("packets_out", "u8", <char*>&r.packets_out - start),
        ("bytes_in", "u8", <char*>&r.bytes_in - start),
        ("bytes_out", "u8", <char*>&r.bytes_out - start),
        ("expires_ns", "i8", <char*>&r.expires_ns - start),
        ("assured", "?", <char*>&r.assured - start),
        ("created_ns", "i8", <char*>&r.created_ns - start),
        ("id", "u4", <char*>&r.id - start),
        ("has_helper", "?", <char*>&r.has_helper - start),
        ("expected", "?", <char*>&r.expected - start),
    ]
    return {
        "names": [name for name, _, _ in fields],
        "formats": [kind for _, kind, _ in fields],
        "offsets": [offset for _, _, offset in fields],
        "itemsize": sizeof(ConnectionRecord),
    }


cdef enum:
    STATE_TEMPLATE_ASSURED = 15     # lvscore.State.ASSURED

# State numbers of lvscore.State for netfilter's TCP states.
cdef uint8_t* RULE_TCP_STATES = [0, 2, 3, 1, 4, 7, 8, 5, 6, 11]
# And for IPVS's SCTP states.
cdef uint8_t* SERVICE_SCTP_STATES = [0, 16, 17, 18, 19, 20, 21, 22, 1, 23, 24, 25, 26, 27]
# And for netfilter's.
cdef uint8_t* RULE_SCTP_STATES = [0, 27, 20, 22, 1, 23, 24, 25, 28]


cdef uint8_t public_state(const Meta* meta) noexcept nogil:
    """The lvscore.State of a connection."""
    cdef uint8_t tracker = meta.state & TRACKER_MASK
    if tracker == SERVICE_TCP:
        return meta.state & 15
    if tracker == SERVICE_UDP:
        return 12
    if tracker == SERVICE_SCTP:
        return SERVICE_SCTP_STATES[meta.state & 15]
    if tracker == RULE_TCP:
        return RULE_TCP_STATES[meta.state & 15]
    if tracker == RULE_SCTP:
        return RULE_SCTP_STATES[meta.state & 15]
    if meta.flags & FLAG_ASSURED:
        return 15
    return 14 if meta.flags & FLAG_SEEN_REPLY else 13


cdef void record_address(uint8_t* to, const Address* address, uint8_t family) noexcept nogil:
    """An address as 16 bytes; IPv4 in its IPv4-mapped form (RFC 4291, section 2.5.5.2)."""
    if family == IPV6:
        memcpy(to, address, 16)
        return
    memset(to, 0, 10)
    to[10] = 0xFF
    to[11] = 0xFF
    memcpy(to + 12, address, 4)


cdef uint64_t connection_bytes(const Table* table, uint32_t i, uint32_t direction) noexcept nogil:
    cdef const Meta* meta = table_meta(table, i)
    cdef uint64_t total = meta.bytes[direction]
    if meta.flags & FLAG_EXTENDED:
        total += <uint64_t>table.extensions[table.extension_of[i]].bytes_high[direction] << 32
    return total


cdef void record_fill(State* s, Table* table, uint32_t i, ConnectionRecord* r) noexcept nogil:
    cdef const Meta* meta = table_meta(table, i)
    cdef const Server* server
    cdef Address none
    cdef Tuple original, reply
    cdef uint64_t ahead
    cdef uint16_t local_port
    memset(r, 0, sizeof(ConnectionRecord))
    memset(&none, 0, sizeof(Address))
    connection_tuple(table, i, ORIGINAL, &original)
    connection_tuple(table, i, REPLY, &reply)
    r.family = table.family
    r.protocol = meta.protocol
    r.state = public_state(meta)
    r.is_template = meta.flags & FLAG_TEMPLATE != 0
    if r.is_template:
        r.dialog = table.extensions[table.extension_of[i]].next
        r.state = STATE_TEMPLATE_ASSURED if meta.flags & FLAG_ASSURED else 0
        if meta.protocol == PROTOCOL_MARK:
            r.protocol = 0
    r.is_service = meta.flags & FLAG_SERVICE != 0
    # A service sees no reply bit; that anything went out says the same.
    r.seen_reply = meta.flags & FLAG_SEEN_REPLY != 0 or meta.packets[REPLY] != 0
    record_address(r.client, &original.source, table.family)
    record_address(r.virtual_address, &original.destination, table.family)
    local_port = ntohs(ports_destination(reply.ports))
    server = &s.services.server[meta.server]
    if connection_method(meta) == METHOD_BYPASS:
        reply.ports = 0
        r.server_family = table.family
        if table.family == IPV4:
            record_address(r.server, &none, IPV4)
    elif connection_method(meta) != METHOD_MASQUERADE or (
            server.family != 0 and server.family != table.family):
        # Not in the reply tuple, which is what the server says as the virtual service.
        record_address(r.server, &server.address, server.family)
        r.server_family = server.family
        if server.port and not r.is_template:
            reply.ports = ports_make(server.port, 0)
    else:
        record_address(r.server, &reply.source, table.family)
        r.server_family = table.family
    record_address(r.local, &reply.destination, table.family)
    r.client_port = ntohs(ports_source(original.ports))
    r.virtual_port = ntohs(ports_destination(original.ports))
    r.server_port = ntohs(ports_source(reply.ports))
    r.local_port = local_port
    r.server_index = meta.server
    r.packets_in = meta.packets[ORIGINAL]
    r.packets_out = meta.packets[REPLY]
    r.bytes_in = connection_bytes(table, i, ORIGINAL)
    r.bytes_out = connection_bytes(table, i, REPLY)
    r.assured = meta.flags & FLAG_ASSURED != 0
    r.id = i << 1 | (table.family == IPV6)
    if meta.flags & FLAG_TRACKED:
        r.created_ns = <int64_t>(<uint64_t>s.origin + NS_PER_TICK * entry_of(
            &s.entries[table.family == IPV6], i).created)
    ahead = <uint32_t>(meta.timer.deadline - <uint32_t>s.tick)
    r.expires_ns = <int64_t>(<uint64_t>s.origin + (s.tick + ahead) * NS_PER_TICK
                             - <uint64_t>s.now)
    if ahead >= 0xF0000000U or r.expires_ns < 0:
        r.expires_ns = 0    # its time is over: the kernel's timer wheel is late


def connections_count(EngineCore engine not None, bint templates):
    """How many connections there are, or templates."""
    cdef State* s = engine.enter()
    cdef uint32_t first = TEMPLATES if templates else 0
    return s.table[first].count + s.table[first + 1].count


def connections_snapshot(EngineCore engine not None, bint templates):
    """All connections, or all templates, as one block of ConnectionRecords."""
    cdef State* s = engine.enter()
    cdef uint32_t first = TEMPLATES if templates else 0
    cdef Py_ssize_t count = s.table[first].count + s.table[first + 1].count
    block = bytearray(count * sizeof(ConnectionRecord))
    cdef ConnectionRecord* row = <ConnectionRecord*>PyByteArray_AS_STRING(block)
    cdef uint32_t f, i
    with nogil:
        for f in range(first, first + 2):
            for i in range(s.table[f].used):
                if table_meta(&s.table[f], i).protocol:
                    record_fill(s, &s.table[f], i, row)
                    row += 1
    return block


def connection_find(EngineCore engine not None, bint templates, int family, int protocol,
                    bytes source, int source_port, bytes destination, int destination_port):
    """The ConnectionRecord that a packet with this tuple belongs to, or None."""
    cdef State* s = engine.enter()
    cdef Tuple t
    cdef ConnectionRecord record
    cdef uint32_t reference
    t.family = family
    t.protocol = protocol if protocol else <int>PROTOCOL_MARK
    t.source = address_from(source)
    t.destination = address_from(destination)
    t.ports = ports_make(htons(source_port), htons(destination_port))
    cdef Table* table = &s.table[(TEMPLATES if templates else 0) + (t.family == IPV6)]
    reference = table_find(table, tuple_hash(&s.key, &t), &t)
    if reference == NIL:
        return None
    record_fill(s, table, reference >> 1, &record)
    return bytearray((<char*>&record)[:sizeof(ConnectionRecord)])
