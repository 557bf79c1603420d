"""Putting a saved state into an engine that has nothing yet: a part of _engine.pyx.

What a snapshot says is not trusted: a number that leads out of an array is refused where it is
used, and at the end all invariants of the core are looked at (selfcheck.pxd).
"""


cdef int need(bint holds, str what) except -1:
    if not holds:
        raise SnapshotError(f"damaged: {what}")
    return 0


cdef dict complete(object given, dict usual):
    """A saved struct as this version has it: what an older one did not know is as usual."""
    need(isinstance(given, dict), f"{str(given)[:40]} is not a struct")
    found = {}
    for name, value in usual.items():
        found[name] = given.get(name, value)
        if isinstance(value, list) and isinstance(found[name], list):
            found[name] = found[name] + value[len(found[name]):]
    return found


def snapshot_put(EngineCore engine not None, dict state, dict rows):
    """Give a new engine what snapshot_take() took of another with as many connections.

    Raises:
        SnapshotError: what is given contradicts itself. The engine is then not to be used.
    """
    cdef State* s = engine.enter()
    cdef uint32_t f
    try:
        scalars_put(s, state["engine"])
        services_put(s, state["services"])
        need(len(state["tables"]) == TABLES, "not four tables")
        for f in range(TABLES):
            table_put(s, f, state["tables"][f], rows)
        pools_put(s, state["pools"], bytes(rows["pools"]))
        for f in range(TEMPLATES):
            entries_put(s, f, bytes(rows[f"{f}.entries"]))
        controls_put(s)
        dialogs_put(s, state["dialogs"])
        ftp_put(s, state["ftp"])
        masters_put(s, state["masters"])
    except SnapshotError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise SnapshotError(f"damaged: {type(error).__name__}: {error}") from None
    fault = state_check(s)
    need(fault == 0, f"invariant {fault} of selfcheck.pxd does not hold")


cdef int scalars_put(State* s, object given) except -1:
    cdef SavedState saved = complete(given, scalars_take(s))
    s.key = saved.key
    memcpy(s.sysctl, saved.sysctl, sizeof(saved.sysctl))
    s.available_pages = saved.available_pages
    memcpy(s.tracker.timeout, saved.timeout, sizeof(saved.timeout))
    defence_update(s)       # takes the table of states that secure_tcp asks for
    memcpy(s.sysctl, saved.sysctl, sizeof(saved.sysctl))
    s.chance = saved.chance
    s.now = saved.now
    s.origin = saved.origin
    s.tick_end = saved.tick_end
    s.tick = saved.tick
    s.tick_up = saved.tick_up
    s.estimation = saved.estimation
    s.jiffies = saved.jiffies
    s.started = saved.started
    s.defence = saved.defence
    memcpy(s.ripe_counter, saved.ripe_counter, sizeof(saved.ripe_counter))
    s.drop_rate = saved.drop_rate
    s.drop_counter = saved.drop_counter
    s.dropping_entries = saved.dropping_entries
    memcpy(s.conntrack, saved.conntrack, sizeof(saved.conntrack))
    s.frames = saved.frames
    s.bytes = saved.bytes
    s.clock_backwards = saved.clock_backwards
    s.opened = saved.opened
    s.early_drops = saved.early_drops
    s.invalid = saved.invalid
    s.icmp_errors = saved.icmp_errors
    s.collecting = saved.collecting
    s.expired = saved.expired
    memcpy(s.verdicts, saved.verdicts, sizeof(saved.verdicts))
    memcpy(s.reasons, saved.reasons, sizeof(saved.reasons))
    s.last_reason = saved.last_reason
    s.fragments.timed_out = saved.timed_out
    need(s.last_reason < <uint32_t>REASON_COUNT, f"reason {s.last_reason}")
    return 0


cdef int services_put(State* s, dict state) except -1:
    cdef Services* services = &s.services
    cdef SavedServices none
    cdef Server empty
    cdef uint32_t i
    cdef uint32_t available = 0
    memset(&none, 0, sizeof(none))
    memset(&empty, 0, sizeof(Server))
    cdef SavedServices saved = complete(state["all"], none)
    need(0 < len(state["servers"]) <= <Py_ssize_t>MAX_SERVERS, "the number of servers")
    need(saved.used <= <uint32_t>MAX_SERVICES, "the number of services")
    services.tunnels = saved.tunnels
    for i, given in enumerate(state["servers"]):
        services.server[i] = complete(given, empty)
        services.server[i].flags &= ~<uint32_t>(SERVER_RANKED | SERVER_MOVED)
        services.server_used = i + 1
        need(services.server[i].service < max(saved.used, 1), f"the service of server {i}")
        available += i > 0 and services.server[i].flags & SERVER_AVAILABLE != 0
        services.tunnels |= services.server[i].method == METHOD_TUNNEL
    services.removed = services.server_used - 1 - available
    services.service_used = saved.used
    services.serial = saved.serial
    memcpy(services.kept, saved.kept, sizeof(saved.kept))
    services.estimator = saved.estimator
    listed = []
    for given in state["services"]:
        service_put(s, given)
        listed += given["servers"]
    need(<uint32_t>len(listed) == available and len(set(listed)) == len(listed),
         "a server is of two services, or of none")
    if not services_rebuild_slots(services):
        raise MemoryError()
    return 0


cdef int service_put(State* s, dict given) except -1:
    cdef Services* services = &s.services
    cdef Service* service
    cdef Scheduler* scheduler
    cdef SavedService none
    cdef uint32_t count = <uint32_t>len(given["servers"])
    cdef uint32_t k, server
    memset(&none, 0, sizeof(none))
    cdef SavedService saved = complete(given["service"], none)
    need(saved.index < services.service_used and not services.service[saved.index].used
         and saved.family in (IPV4, IPV6) and saved.kind <= <uint32_t>SCHEDULER_LBLCR
         and count <= services.server_used, f"service {saved.index}")
    service = &services.service[saved.index]
    scheduler = &service.scheduler
    scheduler.list = <uint32_t*>calloc(count + 1, sizeof(uint32_t))
    if scheduler.list == NULL:
        raise MemoryError()
    scheduler.capacity = count + 1
    service.used = True
    for k, server in enumerate(given["servers"]):
        need(0 < server < services.server_used
             and services.server[server].service == saved.index
             and services.server[server].flags & SERVER_AVAILABLE != 0, f"server {server}")
        scheduler.list[k] = server
        scheduler.count = k + 1
    service.options = saved.options
    service.address = saved.address
    service.estimator = saved.estimator
    memcpy(service.kept, saved.kept, sizeof(saved.kept))
    service.serial = saved.serial
    service.port = saved.port
    service.protocol = saved.protocol
    service.family = saved.family
    if not scheduler_set(services, saved.index, saved.kind, saved.flags, s.tick):
        raise MemoryError()
    scheduler.position = saved.position
    scheduler.current_weight = saved.current_weight
    scheduler.max_weight = saved.max_weight
    scheduler.step = saved.step
    if saved.kind == <uint32_t>SCHEDULER_RR or saved.kind == <uint32_t>SCHEDULER_WRR:
        need(-1 <= saved.position < max(<int>count, 1) and saved.step > 0,
             f"the scheduler of service {saved.index}")
    if scheduler.cache != NULL:
        cache_put(services, scheduler.cache, given["cache"])
    services_note(services, service, 1)
    services.count += 1
    s.hooked[service.family == IPV6] += 1
    if service.protocol != PROTOCOL_MARK and not local_add(
            &s.routes, service.family, &service.address):
        raise MemoryError()
    return 0


cdef int cache_put(Services* services, Cache* cache, dict given) except -1:
    cdef Remembered* entry
    cdef Address address
    cdef SavedCache none
    cdef uint32_t server, held
    memset(&none, 0, sizeof(none))
    cdef SavedCache saved = complete(given["cache"], none)
    cache.check_at = saved.check_at
    cache.expiry = saved.expiry
    cache.checks = saved.checks
    cache.rover = saved.rover
    need(cache.rover < <uint32_t>CACHE_BUCKETS, "a cache's rover")
    for packed, used, changed, servers in reversed(given["entries"]):
        address = packed
        entry = cache_add(cache, &address, used)
        need(entry != NULL, "a cache is too large")
        for server in reversed(servers):
            need(0 < server < services.server_used, f"server {server}")
            held = services.server[server].held     # counts this already
            entry_join(cache, entry, services.server, server, used)
            services.server[server].held = held
        entry.changed = changed
    return 0


cdef int table_put(State* s, uint32_t f, object given, dict rows) except -1:
    cdef Table* table = &s.table[f]
    cdef bytes connections = bytes(rows[f"{f}.connections"])
    cdef bytes free_list = bytes(rows[f"{f}.free"])
    cdef const SavedConnection* row = <const SavedConnection*>PyBytes_AS_STRING(connections)
    cdef const uint32_t* unused = <const uint32_t*>PyBytes_AS_STRING(free_list)
    cdef Py_ssize_t n = len(connections) // sizeof(SavedConnection)
    cdef Py_ssize_t k
    cdef uint32_t i
    cdef SavedTable none
    memset(&none, 0, sizeof(none))
    cdef SavedTable saved = complete(given, none)
    table.used = saved.used
    table.shadowings = saved.shadowings
    need(table.used <= table.limit and n + len(free_list) // <Py_ssize_t>sizeof(uint32_t)
         == table.used, "the number of connections")
    for k in range(n):
        i = row.record
        need(i < table.used and table_meta(table, i).protocol == 0
             and row.meta.protocol != 0 and row.meta.server < s.services.server_used
             and (row.meta.flags & FLAG_TEMPLATE != 0) == (f >= TEMPLATES), f"connection {i}")
        connection_put(table, i, row)
        row += 1
    table.count = <uint32_t>n
    for k in range(len(free_list) // <Py_ssize_t>sizeof(uint32_t) - 1, -1, -1):
        i = unused[k]
        need(i < table.used and table_meta(table, i).protocol == 0, "the list of free records")
        table_free_put(table, i)
    extensions_put(table, bytes(rows[f"{f}.extensions"]))
    table.wheel.tick = saved.tick
    table.wheel.event = saved.event
    need(saved.horizon <= PAST, "how far ahead timers are linked")
    if saved.horizon:       # 0: the file is older
        table.wheel.horizon = <uint32_t>saved.horizon
    timers_put(table, bytes(rows[f"{f}.timers"]))
    table.index.base = saved.base
    table.index.split = saved.split
    table.index.growing = saved.growing
    index_put(table, &s.key, bytes(rows[f"{f}.index"]))
    for i in range(table.used if f >= TEMPLATES else 0):
        need(table_meta(table, i).protocol == 0 or table_meta(table, i).flags & FLAG_EXTENDED != 0,
             f"template {i}")
    return 0


cdef void connection_put(Table* table, uint32_t i, const SavedConnection* row) noexcept:
    cdef Tuple original = row.original
    cdef Tuple reply = row.reply
    cdef Meta* meta = table_meta(table, i)
    original.family = reply.family = table.family
    original.protocol = reply.protocol = row.meta.protocol
    meta[0] = row.meta
    connection_fill(table, i, &original, &reply)
    meta.flags &= ~<uint32_t>(FLAG_EXTENDED | FLAG_TRACKED)
    meta.timer.previous = NIL       # not in the wheel yet
    table.portless += meta.flags & FLAG_NO_CPORT != 0


cdef int extensions_put(Table* table, bytes block) except -1:
    cdef const SavedExtension* row = <const SavedExtension*>PyBytes_AS_STRING(block)
    cdef Extension* extension
    cdef Py_ssize_t k
    cdef uint32_t d, shadowed
    for k in range(len(block) // <Py_ssize_t>sizeof(SavedExtension)):
        need(row.record < table.used and table_meta(table, row.record).protocol != 0
             and not table_meta(table, row.record).flags & FLAG_EXTENDED,
             f"the extension of connection {row.record}")
        extension = connection_extension(table, row.record)
        extension[0] = row.extension
        extension.next = 0
        extension.helper = NIL
        for d in range(2):
            shadowed = extension.shadowed[d]
            need(shadowed == NIL or (shadowed >> 1 < table.used
                                     and table_meta(table, shadowed >> 1).protocol != 0),
                 f"what connection {row.record} shadows")
        row += 1
    return 0


cdef int timers_put(Table* table, bytes block) except -1:
    cdef const SavedTimer* row = <const SavedTimer*>PyBytes_AS_STRING(block)
    cdef Py_ssize_t k
    for k in range(len(block) // <Py_ssize_t>sizeof(SavedTimer) - 1, -1, -1):
        need(row[k].slot < <uint32_t>WHEEL_SLOTS and row[k].record < table.used
             and table_meta(table, row[k].record).protocol != 0
             and table_meta(table, row[k].record).timer.previous == NIL,
             f"the timer of connection {row[k].record}")
        wheel_put(&table.wheel, row[k].slot, row[k].record)
        table.wheel.slot[row[k].slot].linked = row[k].linked
    return 0


cdef int index_put(Table* table, const HashKey* key, bytes block) except -1:
    cdef const SavedSlot* row = <const SavedSlot*>PyBytes_AS_STRING(block)
    cdef Index* index = &table.index
    cdef Py_ssize_t k
    cdef Tuple t
    need(MIN_BUCKETS <= index.base <= index.limit and index.base & (index.base - 1) == 0
         and index.split < index.base
         and <uint64_t>index.base + index.split <= index.limit, "the size of an index")
    for k in range(len(block) // <Py_ssize_t>sizeof(SavedSlot)):
        need(row.reference >> 1 < table.used
             and table_meta(table, row.reference >> 1).protocol != 0, "an entry of an index")
        connection_tuple(table, row.reference >> 1, row.reference & 1, &t)
        need(slot_put(index, tuple_hash(key, &t), row),
             "an entry of an index lies where it is not looked for")
        row += 1
    return 0


cdef bint slot_put(Index* index, uint64_t hash, const SavedSlot* place) noexcept:
    """Put an entry into the slot where it was; False if no search comes by there."""
    cdef uint32_t home = index_home(index, hash)
    cdef uint32_t displacement = place.bucket - home    # of a bucket before it: too large
    cdef uint32_t i
    cdef Bucket* bucket
    if displacement > <uint32_t>MAX_DISPLACEMENT or place.slot >= <uint32_t>SLOTS:
        return False
    bucket = &index.bucket[place.bucket]
    if bucket.tag[place.slot]:
        return False
    slot_fill(bucket, place.slot, displacement, hash, place.reference)
    for i in range(home, place.bucket):
        if index.bucket[i].overflow != 0xFFFF:
            index.bucket[i].overflow += 1
    index.entries += 1
    return True


cdef void slot_fill(Bucket* bucket, uint32_t slot, uint32_t displacement, uint64_t hash,
                    uint32_t reference) noexcept:
    bucket.tag[slot] = hash_tag(hash)
    bucket.bits[slot] = <uint16_t>(hash >> 8)
    bucket.reference[slot] = reference
    bucket.displacement_low |= (displacement & 15) << (4 * slot)
    bucket.displacement_high |= <uint16_t>((displacement >> 4) << (2 * slot))


cdef int pools_put(State* s, dict state, bytes block) except -1:
    cdef Pools* pools = &s.pools
    cdef uint32_t count = <uint32_t>(len(block) // <Py_ssize_t>sizeof(Pool))
    cdef uint32_t p
    cdef uint32_t* head
    cdef Pool* pool
    need(count <= pools.limit, "the number of port pools")
    memcpy(pools.pool, PyBytes_AS_STRING(block), count * sizeof(Pool))
    pools.used = count
    for p in range(count):
        pool = &pools.pool[p]
        pool.next = NIL
        need(pool.level <= POOL_LEVELS, "the level of a port pool")
        if pool.used:
            head = pool_head(pools, &s.key, pool)
            pool.next = head[0] - 1
            head[0] = p + 1
    for p in reversed(state["free"]):
        need(p < count and pools.pool[p].used == 0, "the list of unused port pools")
        pools.pool[p].next = pools.free
        pools.free = p
    unused = sum([pools.pool[p].used == 0 for p in range(count)])
    need(len(set(state["free"])) == len(state["free"]) == unused, "the list of unused port pools")
    pools.quota = state["quota"]
    pools.events = state["events"]
    need(len(state["event"]) == min(pools.events, <uint64_t>MAX_POOL_EVENTS),
         "the events of port pools")
    for p, event in enumerate(state["event"]):
        pools.event[p] = event
    return 0


cdef int entries_put(State* s, uint32_t f, bytes block) except -1:
    cdef const SavedEntry* row = <const SavedEntry*>PyBytes_AS_STRING(block)
    cdef Entries* entries = &s.entries[f]
    cdef Table* table = &s.table[f]
    cdef Py_ssize_t k
    cdef Entry* entry
    cdef Entry links
    for k in range(len(block) // <Py_ssize_t>sizeof(SavedEntry) - 1, -1, -1):
        need(row[k].record < table.used and table_meta(table, row[k].record).protocol != 0
             and not table_meta(table, row[k].record).flags & FLAG_TRACKED
             and (row[k].entry.pool == 0) == (row[k].entry.client == 0)
             and row[k].entry.pool <= s.pools.used and row[k].entry.client <= s.pools.used
             and row[k].entry.masquerade <= MAX_INTERFACES,
             f"what conntrack knows of connection {row[k].record}")
        entry = entry_open(entries, table, &s.key, row[k].record)
        links = entry[0]
        entry[0] = row[k].entry
        entry.next = links.next
        entry.previous = links.previous
        entry.window = NIL
        if row[k].has_window:
            entry_window(entries, entry)[0] = row[k].window
    return 0


cdef int controls_put(State* s) except -1:
    """Look at what connections depend on."""
    cdef uint32_t f, i, control
    cdef const Table* other
    for f in range(TABLES):
        for i in range(s.table[f].used):
            control = NIL if table_meta(&s.table[f], i).protocol == 0 \
                else connection_control(&s.table[f], i)
            if control != NIL:
                other = control_table(s, s.table[f].family, control)
                need(control_index(control) < other.used
                     and table_meta(other, control_index(control)).protocol != 0,
                     f"what connection {i} depends on")
    return 0


cdef int dialogs_put(State* s, list dialogs) except -1:
    cdef CallId id
    cdef Table* templates
    cdef uint32_t family, template, number
    for family, template, text in reversed(dialogs):
        call_id = text.encode("latin-1")
        need(0 < len(call_id) <= MAX_CALL_ID and family in (IPV4, IPV6), "a dialog")
        templates = &s.table[TEMPLATES + (family == IPV6)]
        need(template < templates.used and table_meta(templates, template).protocol != 0
             and table_meta(templates, template).flags & FLAG_EXTENDED
             and templates.extensions[templates.extension_of[template]].next == 0,
             "the template of a dialog")
        id.text = <const uint8_t*>PyBytes_AS_STRING(call_id)
        id.length = <uint32_t>len(call_id)
        number = dialog_add(&s.dialogs, call_id_hash(&s.key, &id), family, &id, template)
        need(number != 0, "the number of dialogs")
        connection_extension(templates, template).next = number
    return 0


cdef int ftp_put(State* s, dict state) except -1:
    cdef uint32_t f, i, c
    need(len(state["ports"]) <= <Py_ssize_t>MAX_FTP_PORTS, "the ports of FTP")
    for i, port in enumerate(state["ports"]):
        s.ftp.port[i] = port
    s.ftp.ports = <uint32_t>len(state["ports"])
    for f, i, given in state["controls"]:
        need(f < 2 and i < s.table[f].used and table_meta(&s.table[f], i).protocol != 0
             and table_meta(&s.table[f], i).flags & FLAG_SERVICE != 0
             and connection_helper(&s.table[f], i) == NIL, "a control connection of FTP")
        c = ftp_take(&s.ftp)
        connection_extension(&s.table[f], i).helper = c
        ftp_control_put(&s.ftp.control[c], given)
    return 0


cdef int ftp_control_put(FtpControl* control, dict given) except -1:
    cdef bytes text = given["text"].encode("latin-1")
    need(len(text) <= <Py_ssize_t>MAX_FTP_TEXT, "the text of an FTP answer")
    control.sequence[0], control.sequence[1] = given["sequence"]
    control.answered = given["answered"]
    memcpy(control.text, PyBytes_AS_STRING(text), len(text))
    control.text_length = <uint8_t>len(text)
    control.text_mode = given["text_mode"]
    control.mode = given["mode"]
    return 0


cdef int masters_put(State* s, dict state) except -1:
    cdef Masters* masters = &s.masters
    cdef SavedMaster none
    cdef SavedMaster saved
    cdef uint32_t m, used
    memset(&none, 0, sizeof(none))
    used = state["used"]
    need(used <= masters.limit and len(state["masters"]) + len(state["free"]) == used,
         "the number of flows with a helper")
    taken = set(state["free"])
    for given in state["masters"]:
        saved = complete(given, none)
        need(saved.table < 2 and saved.record < s.table[saved.table].used
             and table_meta(&s.table[saved.table], saved.record).protocol != 0
             and not table_meta(&s.table[saved.table], saved.record).flags & FLAG_SERVICE
             and connection_helper(&s.table[saved.table], saved.record) == NIL
             and saved.number < used and saved.lines_original <= 2 and saved.lines_reply <= 2
             and saved.direction < 2, "a flow with a helper")
        taken.add(saved.number)
        connection_extension(&s.table[saved.table], saved.record).helper = saved.number
        master_put(s, &masters.master[saved.number], &saved)
    need(len(taken) == used and (not taken or max(taken) < used), "flows with a helper")
    for m in reversed(state["free"]):
        masters.master[m].next = masters.free
        masters.free = m
    masters.used = used
    masters.count = <uint32_t>len(state["masters"])
    return 0


cdef void master_put(State* s, Master* master, const SavedMaster* saved) noexcept:
    cdef uint32_t* head
    memset(master, 0, sizeof(Master))
    master.record = saved.record
    master.sequence[ORIGINAL] = saved.original
    master.sequence[REPLY] = saved.reply
    master.expected.source = saved.source
    master.expected.destination = saved.destination
    master.expected.ports = saved.ports
    master.expected.protocol = PROTOCOL_TCP
    master.expected.family = s.table[saved.table].family
    master.deadline = saved.deadline
    memcpy(master.line, saved.line, sizeof(saved.line))
    master.lines[ORIGINAL] = <uint8_t>saved.lines_original
    master.lines[REPLY] = <uint8_t>saved.lines_reply
    master.direction = <uint8_t>saved.direction
    master.expects = saved.expects
    master.port = <uint16_t>saved.port
    if master.expects:
        head = expected_head(&s.masters, &s.key, &master.expected)
        master.next = head[0] - 1
        head[0] = <uint32_t>(master - s.masters.master) + 1
        s.masters.expecting += 1


def snapshot_shift(EngineCore engine not None, shift):
    """Let an engine's time go on from another origin, ``shift`` nanoseconds later."""
    cdef State* s = engine.enter()
    cdef int64_t end = 0x7FFFFFFFFFFFFFFF
    if s.started:
        s.now = s.now + shift
        s.origin = s.origin + shift
        s.tick_end = min(s.tick_end + shift, end)


def rule_counters_set(EngineCore engine not None, name, dict counters):
    """Set packets and bytes of a chain's rules, by number."""
    cdef Chain* chain = chain_of(engine.enter(), name)
    cdef uint32_t k
    for k in range(chain.count):
        chain.rule[k].packets, chain.rule[k].bytes = counters.get(chain.rule[k].number, (0, 0))
