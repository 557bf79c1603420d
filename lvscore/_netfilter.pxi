"""What the rules and conntrack call: functions of the compiled engine, a part of _engine.pyx."""


cdef int interfaces_fill(int* wanted, uint64_t* set_, given) except -1:
    """An interface's number, or -1 for any; of several their numbers."""
    cdef uint32_t k
    if not isinstance(given, tuple):
        wanted[0] = given
        return 0
    wanted[0] = SOME_INTERFACES
    for k in given:
        if k < 256:
            set_[k >> 6] |= <uint64_t>1 << (k & 63)
    return 0


cdef int rule_fill(Rule* rule, tuple given) except -1:
    """Unpack a rule as lvscore.nat packs it."""
    cdef uint32_t k
    cdef Range* to = &rule.to
    (rule.number, rule.target, rule.family, rule.protocol, source, rule.source_length,
     destination, rule.destination_length, rule.source_port_low, rule.source_port_high,
     rule.destination_port_low, rule.destination_port_high, ingress, egress,
     rule.negated, rule.multiport_side, multiport, rule.mark, rule.mark_mask, virtual_address,
     rule.virtual_length, low, high, to.port_low, to.port_high, to.port_base, to.flags,
     rule.set_mark, rule.set_mask) = given
    interfaces_fill(&rule.ingress, rule.ingress_set, ingress)
    interfaces_fill(&rule.egress, rule.egress_set, egress)
    rule.source = address_from(source)
    rule.destination = address_from(destination)
    to.low = address_from(low)
    to.high = address_from(high)
    rule.has_virtual = virtual_address is not None
    if rule.has_virtual:
        rule.virtual_address = address_from(virtual_address)
    rule.multiports = <uint8_t>len(multiport)
    for k in range(<uint32_t>rule.multiports):
        rule.multiport[2 * k], rule.multiport[2 * k + 1] = multiport[k]
    return 0


# How many rules a chain has at most.
MOST_RULES = MAX_RULES
# Seconds of conntrack's longest timeout: its deadlines are 32 bits of milliseconds, half of them
# behind.
LONGEST = 2**31 // 1000


cdef Chain* chain_of(State* s, name) except NULL:
    """A chain of rules: "nat PREROUTING", "nat POSTROUTING", "mangle PREROUTING" or "raw
    PREROUTING"."""
    if name == "nat PREROUTING":
        return &s.prerouting
    if name == "nat POSTROUTING":
        return &s.postrouting
    if name == "mangle PREROUTING":
        return &s.mangle
    if name == "raw PREROUTING":
        return &s.raw
    raise LookupError(f"no chain {name}")


def rules_append(EngineCore engine not None, name, list rules):
    """Put rules at the end of a chain, which then has MOST_RULES at most."""
    cdef State* s = engine.enter()
    cdef Chain* chain = chain_of(s, name)
    cdef size_t count = chain.count + len(rules)
    cdef Rule* array = <Rule*>realloc(chain.rule, max(count, 1) * sizeof(Rule))
    cdef uint32_t k
    if array == NULL:
        raise MemoryError()
    chain.rule = array
    memset(&array[chain.count], 0, len(rules) * sizeof(Rule))
    for k in range(<uint32_t>len(rules)):
        rule_fill(&array[chain.count + k], rules[k])
    chain.count = <uint32_t>count
    tracking_update(s)
    tracking_horizon(s)


def rules_set(EngineCore engine not None, name, list rules):
    """Replace the rules of a chain, MOST_RULES at most; those that stay (by number) keep their
    counters."""
    cdef State* s = engine.enter()
    cdef Chain* chain = chain_of(s, name)
    cdef Rule* array = NULL
    cdef uint32_t k
    if rules:
        array = <Rule*>calloc(len(rules), sizeof(Rule))
        if array == NULL:
            raise MemoryError()
    counters = rule_counters(engine, name)
    try:
        for k in range(<uint32_t>len(rules)):
            rule_fill(&array[k], rules[k])
            array[k].packets, array[k].bytes = counters.get(array[k].number, (0, 0))
    except BaseException:
        free(array)
        raise
    free(chain.rule)
    chain.rule = array
    chain.count = <uint32_t>len(rules)
    tracking_update(s)
    tracking_horizon(s)


def rule_counters(EngineCore engine not None, name):
    """Packets and bytes of the rules of a chain, by number."""
    cdef Chain* chain = chain_of(engine.enter(), name)
    cdef uint32_t k
    return {chain.rule[k].number: (chain.rule[k].packets, chain.rule[k].bytes)
            for k in range(chain.count)}


def rules_zero(EngineCore engine not None, name):
    """Set the counters of a chain's rules to zero."""
    cdef Chain* chain = chain_of(engine.enter(), name)
    cdef uint32_t k
    for k in range(chain.count):
        chain.rule[k].packets = 0
        chain.rule[k].bytes = 0


def conntrack_get(EngineCore engine not None, uint32_t index):
    """A setting of conntrack's, by its index."""
    return engine.enter().conntrack[index % CONNTRACK_SETTINGS]


def conntrack_set(EngineCore engine not None, uint32_t index, uint32_t value):
    """Change a setting of conntrack's."""
    engine.enter().conntrack[index % CONNTRACK_SETTINGS] = value


def tracker_timeout_get(EngineCore engine not None, uint8_t state):
    """Seconds that a state byte of conntrack's holds."""
    return engine.enter().tracker.timeout[state] // TICKS_PER_SECOND


def tracker_timeout_set(EngineCore engine not None, uint8_t state, uint32_t seconds):
    """From its next packet on; every packet of a tracked flow sets its timer anew."""
    cdef State* s = engine.enter()
    s.tracker.timeout[state] = seconds * TICKS_PER_SECOND
    tracking_horizon(s)


cdef void flow_forget(State* s, Table* table, uint32_t i) noexcept nogil:
    """Conntrack forgets a connection that it tracks."""
    # IPVS keeps its connection; if its old tuple cannot be told any more, it ends as well.
    if not table_meta(table, i).flags & FLAG_SERVICE or not nfct_forget(s, table, i):
        connection_end(s, table, i)


def conntrack_end(EngineCore engine not None, uint32_t id):
    """End the connection with this id of a snapshot's."""
    cdef State* s = engine.enter()
    cdef Table* table = &s.table[id & 1]
    if id >> 1 < table.used and table_meta(table, id >> 1).flags & FLAG_TRACKED:
        flow_forget(s, table, id >> 1)


def masquerade_end(EngineCore engine not None, uint32_t interface, bytes address):
    """End the flows that are masqueraded to an interface, with an address that it loses or,
    if it is None, with any: the interface goes (nf_nat_masquerade.c)."""
    cdef State* s = engine.enter()
    cdef Address lost = address_from(bytes(16) if address is None else address)
    cdef Tuple reply
    cdef uint32_t f, i
    for f in range(2):
        for i in range(s.table[f].used):
            if (not table_meta(&s.table[f], i).flags & FLAG_TRACKED
                    or entry_of(&s.entries[f], i).masquerade != interface + 1):
                continue
            connection_tuple(&s.table[f], i, REPLY, &reply)
            if address is None or (
                    len(address) == (16 if f else 4) and address_equal(&reply.destination, &lost)):
                flow_forget(s, &s.table[f], i)


def conntrack_statistics(EngineCore engine not None):
    """Packets that conntrack found invalid, ICMP that it can make nothing of, early drops."""
    cdef State* s = engine.enter()
    return s.invalid, s.icmp_errors, s.early_drops


def conntrack_update(EngineCore engine not None, uint32_t id, seconds, bint assured):
    """Set the time that is left of the connection with this id of a snapshot's, unless
    ``seconds`` is None, and whether it is assured, which is not taken back. More than LONGEST
    seconds are as many, as the kernel bounds them by an int's jiffies."""
    cdef State* s = engine.enter()
    cdef Table* table = &s.table[id & 1]
    cdef uint32_t i = id >> 1
    cdef uint32_t deadline
    if i >= table.used or not table_meta(table, i).flags & FLAG_TRACKED:
        return
    if assured:
        table_meta(table, i).flags |= FLAG_ASSURED
    if seconds is None:
        return
    deadline = s.tick_up + <uint32_t>min(seconds, LONGEST) * TICKS_PER_SECOND
    if table_meta(table, i).flags & FLAG_SERVICE:
        entry_of(&s.entries[table.family == IPV6], i).deadline = deadline
    else:
        connection_timer_set(table, i, deadline)


cdef void nfct_record(State* s, Table* table, uint32_t i, ConnectionRecord* r) noexcept nogil:
    """A connection of a service as conntrack sees it."""
    cdef const Entry* entry = entry_of(&s.entries[table.family == IPV6], i)
    cdef Meta seen = table_meta(table, i)[0]
    cdef Tuple original, reply
    cdef uint32_t ahead = entry.deadline - <uint32_t>s.tick
    record_fill(s, table, i, r)
    connection_tuple(table, i, REPLY, &reply)
    seen.state = entry.state
    r.state = public_state(&seen)
    r.seen_reply = seen.flags & FLAG_SEEN_REPLY != 0
    record_address(r.server, &reply.source, table.family)
    r.server_family = table.family
    r.server_port = ntohs(ports_source(reply.ports))
    r.expires_ns = <int64_t>(<uint64_t>s.origin + (s.tick + ahead) * NS_PER_TICK
                             - <uint64_t>s.now)
    if not entry.reversed:
        return
    connection_tuple(table, i, ORIGINAL, &original)
    r.packets_in, r.packets_out = r.packets_out, r.packets_in
    r.bytes_in, r.bytes_out = r.bytes_out, r.bytes_in
    record_address(r.client, &reply.source, table.family)
    record_address(r.virtual_address, &reply.destination, table.family)
    record_address(r.server, &original.source, table.family)
    record_address(r.local, &original.destination, table.family)
    r.client_port = ntohs(ports_source(reply.ports))
    r.virtual_port = ntohs(ports_destination(reply.ports))
    r.server_port = ntohs(ports_source(original.ports))
    r.local_port = ntohs(ports_destination(original.ports))


def conntrack_snapshot(EngineCore engine not None):
    """The connections that conntrack knows, as a block of ConnectionRecords."""
    cdef State* s = engine.enter()
    cdef const Meta* meta
    cdef Py_ssize_t count = s.entries[0].count + s.entries[1].count
    block = bytearray(count * sizeof(ConnectionRecord))
    cdef ConnectionRecord* row = <ConnectionRecord*>PyByteArray_AS_STRING(block)
    cdef uint32_t f, i
    for f in range(2):
        for i in range(s.table[f].used):
            meta = table_meta(&s.table[f], i)
            if not meta.flags & FLAG_TRACKED:
                continue
            if not meta.flags & FLAG_SERVICE:
                record_fill(s, &s.table[f], i, row)
                row.has_helper = connection_helper(&s.table[f], i) != NIL
                row.expected = entry_of(&s.entries[f], i).expected
                row += 1
            elif nfct_knows(s, &s.table[f], i):
                nfct_record(s, &s.table[f], i, row)
                row += 1
    return block[:<char*>row - PyByteArray_AS_STRING(block)]


def expectations_list(EngineCore engine not None):
    """What masters expect: source, destination, port, seconds left; and of the master's original
    tuple source, destination and ports."""
    cdef State* s = engine.enter()
    cdef const Master* master
    cdef Tuple t
    cdef uint32_t m
    listed = []
    for m in range(s.masters.used):
        master = &s.masters.master[m]
        if not expects(master, s.tick):
            continue
        connection_tuple(&s.table[master.expected.family == IPV6], master.record, ORIGINAL, &t)
        listed.append((
            address_bytes(&master.expected.source, t.family),
            address_bytes(&master.expected.destination, t.family),
            ntohs(ports_destination(master.expected.ports)),
            (master.deadline - 1 - s.tick) // TICKS_PER_SECOND,
            address_bytes(&t.source, t.family), address_bytes(&t.destination, t.family),
            ntohs(ports_source(t.ports)), ntohs(ports_destination(t.ports))))
    return listed


def expectations_end(EngineCore engine not None):
    """Expect nothing any more."""
    cdef State* s = engine.enter()
    cdef uint32_t m
    for m in range(s.masters.used):
        if s.masters.master[m].expects:
            expectation_end(&s.masters, &s.key, m)
