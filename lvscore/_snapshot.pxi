"""An engine's state, taken apart and put together again: a part of _engine.pyx.

What is saved is what the parts of the core know, not how they find it: hash slots, chains and
links are made anew. Only where an order can be seen (which record is used next, which timer
comes up first, which flows are near each other when conntrack is full) is that order saved.
Many rows of one kind are blocks of structs, whose layout snapshot_layouts() tells NumPy; all else
is a dictionary, as Cython makes one of a struct.
"""


# A connection, or a template.
cdef struct SavedConnection:
    uint32_t record
    Tuple original
    Tuple reply
    Meta meta


cdef struct SavedExtension:
    uint32_t record
    Extension extension


# What conntrack knows of a connection; of the chains of sources the newest comes first.
cdef struct SavedEntry:
    uint32_t record
    uint8_t has_window
    Entry entry
    TcpWindow window


# A timer, in the order of the wheel's slots.
cdef struct SavedTimer:
    uint32_t record
    uint32_t slot               # its number over all levels
    uint32_t linked             # what the slot says of how many it holds


# A flow of the rules that a helper looks after.
cdef struct SavedMaster:
    uint32_t number
    uint32_t table
    uint32_t record
    Sequence original
    Sequence reply
    Address source              # of what is expected
    Address destination
    uint32_t ports
    uint64_t deadline
    uint32_t line[4]            # two of each direction
    uint32_t lines_original
    uint32_t lines_reply
    uint32_t direction
    bint expects
    uint32_t port


cdef struct SavedSlot:
    uint32_t reference
    uint32_t bucket
    uint32_t slot


# What there is once.
cdef struct SavedState:
    HashKey key
    uint64_t chance
    int64_t now
    int64_t origin
    int64_t tick_end
    uint64_t tick
    uint32_t tick_up
    uint64_t estimation
    Jiffies jiffies
    bint started
    uint32_t sysctl[19]
    uint64_t defence
    uint64_t available_pages
    uint32_t ripe_counter[9]
    uint32_t drop_rate
    uint32_t drop_counter
    bint dropping_entries
    uint32_t conntrack[8]
    uint32_t timeout[256]
    uint64_t frames
    uint64_t bytes
    uint64_t clock_backwards
    uint64_t opened
    uint64_t early_drops
    uint64_t invalid
    uint64_t icmp_errors
    bint collecting
    uint64_t expired
    uint64_t verdicts[5]
    uint64_t reasons[56]
    uint8_t last_reason
    uint64_t timed_out


cdef struct SavedTable:
    uint32_t used
    uint32_t shadowings
    uint64_t tick
    uint64_t event
    uint64_t horizon
    uint32_t base
    uint32_t split
    bint growing


cdef struct SavedServices:
    uint32_t used
    uint64_t serial
    uint64_t kept[5]
    Estimator estimator
    bint tunnels


cdef struct SavedService:
    uint32_t index
    ServiceOptions options
    Address address
    Estimator estimator
    uint64_t kept[5]
    uint64_t serial
    uint16_t port
    uint8_t protocol
    uint8_t family
    uint32_t kind
    uint32_t flags
    int32_t position
    int32_t current_weight
    int32_t max_weight
    int32_t step


cdef struct SavedCache:
    uint64_t check_at
    uint64_t expiry
    uint32_t checks
    uint32_t rover


cdef dict layout_of(list fields, Py_ssize_t size):
    """The dtype arguments of rows that are structs."""
    return {
        "names": [name for name, _, _ in fields],
        "formats": [kind for _, kind, _ in fields],
        "offsets": [offset for _, _, offset in fields],
        "itemsize": size,
    }


cdef tuple whole(str name, Py_ssize_t offset, size_t size):
    """A field that is a whole number, not negative."""
    return name, f"u{size}", offset


cdef list tuple_layout(str name, const Tuple* t, const char* start):
    return [
        (f"{name}.source", "V16", <const char*>&t.source - start),
        (f"{name}.destination", "V16", <const char*>&t.destination - start),
        whole(f"{name}.ports", <const char*>&t.ports - start, sizeof(t.ports)),
    ]


cdef list window_layout(const TcpWindow* w, const char* start):
    cdef uint32_t d
    fields = [
        whole("window.last_sequence", <const char*>&w.last_sequence - start,
              sizeof(w.last_sequence)),
        whole("window.last_ack", <const char*>&w.last_ack - start, sizeof(w.last_ack)),
        whole("window.last_end", <const char*>&w.last_end - start, sizeof(w.last_end)),
        whole("window.last_window", <const char*>&w.last_window - start, sizeof(w.last_window)),
        whole("window.last_scale", <const char*>&w.last_scale - start, sizeof(w.last_scale)),
        whole("window.last_flags", <const char*>&w.last_flags - start, sizeof(w.last_flags)),
        whole("window.last_direction", <const char*>&w.last_direction - start,
              sizeof(w.last_direction)),
        whole("window.last_kind", <const char*>&w.last_kind - start, sizeof(w.last_kind)),
        whole("window.retransmissions", <const char*>&w.retransmissions - start,
              sizeof(w.retransmissions)),
    ]
    for d in range(2):
        fields += [
            whole(f"window.{d}.end", <const char*>&w.side[d].end - start, sizeof(w.side[d].end)),
            whole(f"window.{d}.max_end", <const char*>&w.side[d].max_end - start,
                  sizeof(w.side[d].max_end)),
            whole(f"window.{d}.max_window", <const char*>&w.side[d].max_window - start,
                  sizeof(w.side[d].max_window)),
            whole(f"window.{d}.max_ack", <const char*>&w.side[d].max_ack - start,
                  sizeof(w.side[d].max_ack)),
            whole(f"window.{d}.scale", <const char*>&w.side[d].scale - start,
                  sizeof(w.side[d].scale)),
            whole(f"window.{d}.flags", <const char*>&w.side[d].flags - start,
                  sizeof(w.side[d].flags)),
        ]
    return fields


def snapshot_layouts():
    """The dtype arguments of each kind of rows, from the compiled structs."""
    cdef SavedConnection c
    cdef SavedExtension x
    cdef SavedEntry e
    cdef SavedTimer t
    cdef SavedSlot b
    cdef Pool p
    cdef char* start = <char*>&c
    layouts = {"free": layout_of([("record", "u4", 0)], sizeof(uint32_t))}
    layouts["connections"] = layout_of([
        whole("record", <char*>&c.record - start, sizeof(c.record)),
        *tuple_layout("original", &c.original, start), *tuple_layout("reply", &c.reply, start),
        whole("deadline", <char*>&c.meta.timer.deadline - start, sizeof(c.meta.timer.deadline)),
        whole("server", <char*>&c.meta.server - start, sizeof(c.meta.server)),
        ("packets", "(2,)u4", <char*>&c.meta.packets - start),
        ("bytes", "(2,)u4", <char*>&c.meta.bytes - start),
        whole("protocol", <char*>&c.meta.protocol - start, sizeof(c.meta.protocol)),
        whole("state", <char*>&c.meta.state - start, sizeof(c.meta.state)),
        whole("flags", <char*>&c.meta.flags - start, sizeof(c.meta.flags)),
    ], sizeof(c))
    start = <char*>&x
    layouts["extensions"] = layout_of([
        whole("record", <char*>&x.record - start, sizeof(x.record)),
        whole("created", <char*>&x.extension.created - start, sizeof(x.extension.created)),
        ("shadowed", "(2,)u4", <char*>&x.extension.shadowed - start),
        ("bytes_high", "(2,)u4", <char*>&x.extension.bytes_high - start),
        whole("control", <char*>&x.extension.control - start, sizeof(x.extension.control)),
        whole("controls", <char*>&x.extension.controls - start, sizeof(x.extension.controls)),
        whole("timeout", <char*>&x.extension.timeout - start, sizeof(x.extension.timeout)),
    ], sizeof(x))
    start = <char*>&e
    layouts["entries"] = layout_of([
        whole("record", <char*>&e.record - start, sizeof(e.record)),
        whole("has_window", <char*>&e.has_window - start, sizeof(e.has_window)),
        whole("created", <char*>&e.entry.created - start, sizeof(e.entry.created)),
        whole("deadline", <char*>&e.entry.deadline - start, sizeof(e.entry.deadline)),
        whole("pool", <char*>&e.entry.pool - start, sizeof(e.entry.pool)),
        whole("client", <char*>&e.entry.client - start, sizeof(e.entry.client)),
        whole("masquerade", <char*>&e.entry.masquerade - start, sizeof(e.entry.masquerade)),
        whole("state", <char*>&e.entry.state - start, sizeof(e.entry.state)),
        whole("packet", <char*>&e.entry.packet - start, sizeof(e.entry.packet)),
        whole("expected", <char*>&e.entry.expected - start, sizeof(e.entry.expected)),
        whole("reversed", <char*>&e.entry.reversed - start, sizeof(e.entry.reversed)),
        whole("redirected", <char*>&e.entry.redirected - start, sizeof(e.entry.redirected)),
        *window_layout(&e.window, start),
    ], sizeof(e))
    start = <char*>&t
    layouts["timers"] = layout_of([
        whole("record", <char*>&t.record - start, sizeof(t.record)),
        whole("slot", <char*>&t.slot - start, sizeof(t.slot)),
        whole("linked", <char*>&t.linked - start, sizeof(t.linked)),
    ], sizeof(t))
    start = <char*>&b
    layouts["index"] = layout_of([
        whole("reference", <char*>&b.reference - start, sizeof(b.reference)),
        whole("bucket", <char*>&b.bucket - start, sizeof(b.bucket)),
        whole("slot", <char*>&b.slot - start, sizeof(b.slot)),
    ], sizeof(b))
    start = <char*>&p
    layouts["pools"] = layout_of([
        ("address", "V16", <char*>&p.address - start), ("remote", "V16", <char*>&p.remote - start),
        whole("used", <char*>&p.used - start, sizeof(p.used)),
        whole("capacity", <char*>&p.capacity - start, sizeof(p.capacity)),
        whole("marked", <char*>&p.marked - start, sizeof(p.marked)),
        whole("marked_tick", <char*>&p.marked_tick - start, sizeof(p.marked_tick)),
        ("growth", "f4", <char*>&p.growth - start),
        whole("remote_port", <char*>&p.remote_port - start, sizeof(p.remote_port)),
        whole("low", <char*>&p.low - start, sizeof(p.low)),
        whole("high", <char*>&p.high - start, sizeof(p.high)),
        whole("protocol", <char*>&p.protocol - start, sizeof(p.protocol)),
        whole("family", <char*>&p.family - start, sizeof(p.family)),
        whole("level", <char*>&p.level - start, sizeof(p.level)),
    ], sizeof(p))
    return layouts


# Taking apart


def snapshot_take(EngineCore engine not None):
    """The state of an engine: a dictionary of what there is once, and blocks of rows, by name."""
    cdef State* s = engine.enter()
    cdef uint32_t f
    rows = {}
    for f in range(TABLES):
        rows.update({f"{f}.{name}": block for name, block in table_rows(&s.table[f]).items()})
        if f < TEMPLATES:
            rows[f"{f}.entries"] = entry_rows(&s.entries[f])
    rows["pools"] = bytes((<char*>s.pools.pool)[:s.pools.used * sizeof(Pool)])
    return {
        "engine": scalars_take(s),
        "tables": [table_take(&s.table[f]) for f in range(TABLES)],
        "pools": pools_state(&s.pools),
        "services": services_state(&s.services),
        "dialogs": dialogs_state(&s.dialogs),
        "ftp": ftp_state(s),
        "masters": masters_state(s),
    }, rows


cdef SavedState scalars_take(const State* s) noexcept:
    cdef SavedState saved
    memset(&saved, 0, sizeof(saved))
    saved.key = s.key
    saved.chance = s.chance
    saved.now = s.now
    saved.origin = s.origin
    saved.tick_end = s.tick_end
    saved.tick = s.tick
    saved.tick_up = s.tick_up
    saved.estimation = s.estimation
    saved.jiffies = s.jiffies
    saved.started = s.started
    memcpy(saved.sysctl, s.sysctl, sizeof(saved.sysctl))
    saved.defence = s.defence
    saved.available_pages = s.available_pages
    memcpy(saved.ripe_counter, s.ripe_counter, sizeof(saved.ripe_counter))
    saved.drop_rate = s.drop_rate
    saved.drop_counter = s.drop_counter
    saved.dropping_entries = s.dropping_entries
    memcpy(saved.conntrack, s.conntrack, sizeof(saved.conntrack))
    memcpy(saved.timeout, s.tracker.timeout, sizeof(saved.timeout))
    saved.frames = s.frames
    saved.bytes = s.bytes
    saved.clock_backwards = s.clock_backwards
    saved.opened = s.opened
    saved.early_drops = s.early_drops
    saved.invalid = s.invalid
    saved.icmp_errors = s.icmp_errors
    saved.collecting = s.collecting
    saved.expired = s.expired
    memcpy(saved.verdicts, s.verdicts, sizeof(saved.verdicts))
    memcpy(saved.reasons, s.reasons, sizeof(saved.reasons))
    saved.last_reason = s.last_reason
    saved.timed_out = s.fragments.timed_out
    return saved


cdef SavedTable table_take(const Table* table) noexcept:
    cdef SavedTable saved
    saved.used = table.used
    saved.shadowings = table.shadowings
    saved.tick = table.wheel.tick
    saved.event = table.wheel.event
    saved.horizon = table.wheel.horizon
    saved.base = table.index.base
    saved.split = table.index.split
    saved.growing = table.index.growing
    return saved


cdef dict table_rows(Table* table):
    """A table's connections, and the orders they are in."""
    cdef uint32_t extended = 0
    cdef uint32_t i, slot, b
    cdef const Bucket* bucket
    for i in range(table.used):
        extended += (table_meta(table, i).protocol != 0
                     and table_meta(table, i).flags & FLAG_EXTENDED != 0)
    connections = bytearray(table.count * sizeof(SavedConnection))
    extensions = bytearray(extended * sizeof(SavedExtension))
    free_list = bytearray((table.used - table.count) * sizeof(uint32_t))
    timers = bytearray(table.count * sizeof(SavedTimer))
    index = bytearray(table.index.entries * sizeof(SavedSlot))
    cdef SavedConnection* row = <SavedConnection*>PyByteArray_AS_STRING(connections)
    cdef SavedExtension* extension = <SavedExtension*>PyByteArray_AS_STRING(extensions)
    cdef uint32_t* next_free = <uint32_t*>PyByteArray_AS_STRING(free_list)
    cdef SavedTimer* timer = <SavedTimer*>PyByteArray_AS_STRING(timers)
    cdef SavedSlot* place = <SavedSlot*>PyByteArray_AS_STRING(index)
    with nogil:
        for i in range(table.used):
            if table_meta(table, i).protocol == 0:
                continue
            row.record = i
            connection_tuple(table, i, ORIGINAL, &row.original)
            connection_tuple(table, i, REPLY, &row.reply)
            row.meta = table_meta(table, i)[0]
            if row.meta.flags & FLAG_EXTENDED:
                extension.record = i
                extension.extension = table.extensions[table.extension_of[i]]
                extension += 1
            row += 1
        i = table.free
        while i != NIL:
            next_free[0] = i
            next_free += 1
            i = table_meta(table, i).timer.next
        for slot in range(WHEEL_SLOTS):
            i = table.wheel.slot[slot].head
            while i != NIL:
                timer.record = i
                timer.slot = slot
                timer.linked = table.wheel.slot[slot].linked
                timer += 1
                i = table_meta(table, i).timer.next
        for b in range(table.index.base + table.index.split + SPARE_BUCKETS):
            bucket = &table.index.bucket[b]
            for slot in range(SLOTS):
                if bucket.tag[slot]:
                    place.reference = bucket.reference[slot]
                    place.bucket = b
                    place.slot = slot
                    place += 1
    return {"connections": connections, "extensions": extensions, "free": free_list,
            "timers": timers, "index": index}


cdef bytearray entry_rows(const Entries* entries):
    """The entries, chain by chain."""
    block = bytearray(entries.count * sizeof(SavedEntry))
    cdef SavedEntry* row = <SavedEntry*>PyByteArray_AS_STRING(block)
    cdef uint32_t head, e
    for head in range(entries.heads if entries.count else 0):
        e = entries.head[head] - 1
        while e != NIL:
            row.record = entries.record_of[e]
            row.entry = entries.entry[e]
            row.has_window = row.entry.window != NIL
            if row.has_window:
                row.window = entries.window[row.entry.window]
            row += 1
            e = entries.entry[e].next
    return block


cdef dict pools_state(const Pools* pools):
    cdef uint32_t p = pools.free
    unused = []
    while p != NIL:
        unused.append(p)
        p = pools.pool[p].next
    kept = min(pools.events, <uint64_t>MAX_POOL_EVENTS)
    return {"quota": pools.quota, "free": unused, "events": pools.events,
            "event": [pools.event[i] for i in range(kept)]}


cdef dict services_state(const Services* services):
    cdef SavedServices saved
    cdef uint32_t i
    saved.used = services.service_used
    saved.serial = services.serial
    memcpy(saved.kept, services.kept, sizeof(saved.kept))
    saved.estimator = services.estimator
    saved.tunnels = services.tunnels
    return {
        "all": saved,
        "servers": [services.server[i] for i in range(services.server_used)],
        "services": [service_state(services, i) for i in range(services.service_used)
                     if services.service[i].used],
    }


cdef dict service_state(const Services* services, uint32_t i):
    cdef const Service* service = &services.service[i]
    cdef const Scheduler* scheduler = &service.scheduler
    cdef SavedService saved
    cdef uint32_t k
    saved.index = i
    saved.options = service.options
    saved.address = service.address
    saved.estimator = service.estimator
    memcpy(saved.kept, service.kept, sizeof(saved.kept))
    saved.serial = service.serial
    saved.port = service.port
    saved.protocol = service.protocol
    saved.family = service.family
    saved.kind = scheduler.kind
    saved.flags = scheduler.flags
    saved.position = scheduler.position
    saved.current_weight = scheduler.current_weight
    saved.max_weight = scheduler.max_weight
    saved.step = scheduler.step
    return {"service": saved, "servers": [scheduler.list[k] for k in range(scheduler.count)],
            "cache": cache_state(scheduler.cache)}


cdef object cache_state(const Cache* cache):
    """What lblc or lblcr remembers, bucket by bucket; the servers of each destination."""
    cdef uint32_t b, i, m
    cdef const Remembered* entry
    cdef SavedCache saved
    if cache == NULL:
        return None
    saved.check_at = cache.check_at
    saved.expiry = cache.expiry
    saved.checks = cache.checks
    saved.rover = cache.rover
    entries = []
    for b in range(CACHE_BUCKETS):
        i = cache.bucket[b]
        while i != NIL:
            entry = &cache.entry[i]
            servers = []
            m = entry.members
            while m != NIL:
                servers.append(cache.member[m].server)
                m = cache.member[m].next
            entries.append([entry.address, entry.used, entry.changed, servers])
            i = entry.next
    return {"cache": saved, "entries": entries}


cdef list dialogs_state(const Dialogs* dialogs):
    """(family, template, Call-ID) of each dialog, bucket by bucket."""
    cdef uint32_t b, i
    cdef const Dialog* dialog
    found = []
    for b in range(dialogs.mask + 1 if dialogs.count else 0):
        i = dialogs.bucket[b]
        while i:
            dialog = &dialogs.dialog[i - 1]
            found.append([dialog.family, dialog.template,
                          (<const char*>dialog.call_id)[:dialog.length].decode("latin-1")])
            i = dialog.next
    return found


cdef dict ftp_state(State* s):
    cdef uint32_t f, i, c
    controls = []
    for f in range(2):
        for i in range(s.table[f].used):
            c = NIL if table_meta(&s.table[f], i).protocol == 0 \
                else connection_helper(&s.table[f], i)
            if c != NIL and table_meta(&s.table[f], i).flags & FLAG_SERVICE:
                controls.append([f, i, ftp_control_state(&s.ftp.control[c])])
    return {"ports": [s.ftp.port[i] for i in range(s.ftp.ports)], "controls": controls}


cdef dict ftp_control_state(const FtpControl* control):
    return {
        "sequence": [control.sequence[0], control.sequence[1]], "answered": control.answered,
        "text": (<const char*>control.text)[:control.text_length].decode("latin-1"),
        "text_mode": control.text_mode, "mode": control.mode,
    }


cdef dict masters_state(State* s):
    """Flows of the rules that a helper looks after, and what it expects of each."""
    cdef uint32_t m = s.masters.free
    cdef uint32_t f, i
    unused = []
    while m != NIL:
        unused.append(m)
        m = s.masters.master[m].next
    masters = []
    for f in range(2):
        for i in range(s.table[f].used):
            m = NIL if table_meta(&s.table[f], i).protocol == 0 \
                else connection_helper(&s.table[f], i)
            if m != NIL and not table_meta(&s.table[f], i).flags & FLAG_SERVICE:
                masters.append(master_take_apart(&s.masters.master[m], m, f))
    return {"used": s.masters.used, "free": unused, "masters": masters}


cdef SavedMaster master_take_apart(const Master* master, uint32_t number, uint32_t f) noexcept:
    cdef SavedMaster saved
    saved.number = number
    saved.table = f
    saved.record = master.record
    saved.original = master.sequence[ORIGINAL]
    saved.reply = master.sequence[REPLY]
    saved.source = master.expected.source
    saved.destination = master.expected.destination
    saved.ports = master.expected.ports
    saved.deadline = master.deadline
    memcpy(saved.line, master.line, sizeof(saved.line))
    saved.lines_original = master.lines[ORIGINAL]
    saved.lines_reply = master.lines[REPLY]
    saved.direction = master.direction
    saved.expects = master.expects
    saved.port = master.port
    return saved
