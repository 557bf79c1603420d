"""The compiled engine: owns the state and the boundary to Python (memory, GIL, errors)."""

from cpython.buffer cimport PyBuffer_Release, Py_buffer
from cpython.bytearray cimport (
    PyByteArray_AS_STRING, PyByteArray_CheckExact, PyByteArray_GET_SIZE,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.long cimport PyLong_CheckExact
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

from threading import Thread

from lvscore._core.bytes cimport htons, load16, load_be16, ntohs
from lvscore._core.clock cimport clock_set, state_expire
from lvscore._core.connection cimport (
    Extension, FLAG_ASSURED, FLAG_EXTENDED, FLAG_NO_CPORT, FLAG_SEEN_REPLY, FLAG_SERVICE,
    FLAG_TEMPLATE, FLAG_TRACKED, Meta, Table, connection_control, connection_extension,
    connection_fill, connection_helper, connection_method, connection_tuple, table_find,
    table_free_put, table_meta, table_settle,
)
from lvscore._core.consts cimport (
    ALL_PAGES, IPV4, IPV6, LINK_ETHERNET, MAX_CONNECTIONS, MAX_DISPLACEMENT, NIL, NS_PER_TICK,
    ORIGINAL, PROTOCOL_MARK, PROTOCOL_TCP, REASON_COUNT, REPLY, TICKS_PER_SECOND,
    VERDICT_FORWARD,
)
from lvscore._core.crc32c cimport SCTP_HEADER, sctp_checksum_write
from lvscore._core.emit cimport Emitted, emitted_clear
from lvscore._core.entry cimport (
    Entries, Entry, entries_memory, entry_of, entry_open, entry_window,
)
from lvscore._core.estimator cimport Estimator, estimator_count, estimator_rate
from lvscore._core.flow cimport (
    Address, Tuple, address_equal, address_load, ports_destination, ports_make, ports_source,
    tuple_hash,
)
from lvscore._core.defence cimport defence_update
from lvscore._core.expect cimport (
    Master, Masters, expectation_end, expected_head, expects,
)
from lvscore._core.ftp cimport Ftp, FtpControl, MAX_FTP_PORTS, MAX_FTP_TEXT, ftp_take
from lvscore._core.hash cimport HashKey
from lvscore._core.index cimport (
    Bucket, Index, MIN_BUCKETS, SLOTS, SPARE_BUCKETS, hash_tag, index_home, index_used,
)
from lvscore._core.jiffies cimport Jiffies
from lvscore._core.lane cimport (
    Frames, Lane, Vector, lanes_forget, vector_empty, vector_match,
)
from lvscore._core.lane6 cimport lanes6_match, vector_begin
from lvscore._core.lane6_host cimport lanes6_forward_hosted
from lvscore._core.lane_host cimport (
    Ingress, ingress_of, lanes_forward_hosted, lanes_open_hosted,
)
from lvscore._core.lane_track cimport lanes_fetch_windows, lanes_verify
from lvscore._core.lane_track_host cimport lanes_track_hosted
from lvscore._core.lifetime cimport (
    connection_end, connection_timer_set, control_index, control_table, nodest_expire,
    table_horizon, tracking_horizon,
)
from lvscore._core.locality cimport (
    CACHE_BUCKETS, Cache, Entry as Remembered, cache_add, entry_join,
)
from lvscore._core.machine cimport likely
from lvscore._core.nfct cimport nfct_forget, nfct_knows
from lvscore._core.offload cimport VNET_HEADER, VNET_NEEDS_CSUM, checksum_complete
from lvscore._core.next_hop cimport NextHop, next_hops_forget, next_hops_resolve
from lvscore._core.path cimport paths_clear
from lvscore._core.pipeline cimport (
    batch_process, frame_count, frame_process, packet_output, packet_process,
)
from lvscore._core.port_pool cimport (
    MAX_POOL_EVENTS, POOL_LEVELS, Pool, PoolEvent, Pools, pool_head, pool_look, pools_memory,
)
from lvscore._core.prefault cimport (
    connections_ahead, connections_populate, table_needs_memory, table_populated,
)
from lvscore._core.route cimport (
    Interface, MAX_INTERFACES, MAX_ROUTES, NO_INTERFACE, Neighbour, ROUTE_UNICAST, Route,
    local_add, local_remove, local_slot, neighbour_put, neighbour_remove, route_find,
)
from lvscore._core.rules cimport MAX_RULES, SOME_INTERFACES, Chain, Range, Rule
from lvscore._core.scheduler_maglev cimport MAGLEV_SLOTS
from lvscore._core.scheduler_types cimport (
    SCHEDULER_LBLCR, SCHEDULER_MH, SCHEDULER_RR, SCHEDULER_WRR, Scheduler,
)
from lvscore._core.segment cimport Segments, segment_write, segments_plan
from lvscore._core.sequence cimport Sequence
from lvscore._core.server cimport (
    METHOD_BYPASS, METHOD_MASQUERADE, METHOD_TUNNEL, SERVER_AVAILABLE, SERVER_MOVED,
    SERVER_OVERLOADED, SERVER_RANKED,
    SERVER_ROUTED, Server, Tunnel,
)
from lvscore._core.selfcheck cimport state_check
from lvscore._core.service cimport (
    MAX_SERVERS, MAX_SERVICES, Service, ServiceOptions, Services, scheduler_set, server_add,
    server_counters, server_edit, server_find, server_remove, service_add, service_counters,
    service_find, service_remove, service_zero,
    services_counters, services_note, services_rebuild_slots, services_zero,
)
from lvscore._core.sip cimport (
    CallId, Dialog, Dialogs, MAX_CALL_ID, call_id_hash, dialog_add,
)
from lvscore._core.state cimport (
    CONNTRACK_SETTINGS, State, TABLES, TEMPLATES, Trace, TraceStep, state_copy, state_free,
    state_init, tracking_update,
)
from lvscore._core.track cimport (
    RULE_SCTP, RULE_TCP, SERVICE_SCTP, SERVICE_TCP, SERVICE_UDP, TRACKER_MASK,
)
from lvscore._core.tcp_window cimport TcpWindow
from lvscore._core.wheel cimport (
    NO_EVENT, PAST, WHEEL_SLOTS, wheel_next_event, wheel_put,
)
from lvscore._frames cimport FrameBatch, get_writable

from lvscore._arguments import integer, nanoseconds
from lvscore.constants import Reason, Verdict
from lvscore.errors import ConcurrencyError, ConfigError, LimitError, SnapshotError
from lvscore.sysctl import ENGINE_SETTINGS

__all__ = [
    "MOST_RULES", "EngineCore", "available_pages_get", "available_pages_set", "connection_find",
    "connection_layout", "connections_count", "connections_snapshot", "conntrack_end",
    "conntrack_get", "conntrack_set", "conntrack_snapshot", "conntrack_statistics",
    "conntrack_update", "dialog_call_id", "expectations_end", "expectations_list", "ftp_ports",
    "ftp_ports_set", "host_advance", "host_emitted", "host_forward", "host_is_translated",
    "host_neighbour", "host_output", "host_own", "host_receive", "host_receive_batch",
    "host_segments", "host_set", "interface_present", "jiffies_get", "jiffies_set",
    "local_address_add", "local_address_remove", "masquerade_end", "pools_events", "pools_list",
    "pools_quota", "pools_quota_set", "route_get", "routes_set", "rule_counters",
    "rule_counters_set", "rules_append", "rules_set", "rules_zero", "sctp_checksummed",
    "server_counts", "server_estimate", "server_join", "server_leave", "server_lookup",
    "server_record", "server_update", "service_counts", "service_estimate", "service_join",
    "service_leave", "service_members", "service_number", "service_record", "service_update",
    "service_zeroed", "services_all", "services_counts", "services_estimated",
    "services_zeroed", "snapshot_layouts", "snapshot_put", "snapshot_shift", "snapshot_take",
    "sysctl_get", "sysctl_set", "timeouts_get", "timeouts_set", "tracker_timeout_get",
    "tracker_timeout_set",
]

cdef tuple VERDICTS = tuple(Verdict)
cdef tuple REASONS = tuple(Reason)
cdef tuple SYSCTLS = tuple(ENGINE_SETTINGS)


cdef Address address_from(bytes packed) except *:
    if len(packed) not in (4, 16):
        raise ConfigError(f"address of {len(packed)} bytes; expected 4 or 16")
    return address_load(<const uint8_t*>PyBytes_AS_STRING(packed),
                        IPV4 if len(packed) == 4 else IPV6)


cdef bytes address_bytes(const Address* address, uint8_t family):
    return PyBytes_FromStringAndSize(<const char*>address, 4 if family == IPV4 else 16)


cdef tuple estimate(const Estimator* e):
    """The five counters as they are listed, and their rates."""
    return (tuple([estimator_count(e, k) for k in range(5)]),
            tuple([estimator_rate(e, k) for k in range(5)]))


def engine_populate(EngineCore engine not None, uint32_t family, uint32_t connections):
    """Take the memory of so many connections of table ``family``, while packets are processed."""
    with nogil:
        connections_populate(engine.state, family, connections)


cdef inline int64_t time_of(object now) except? -1:
    return now if PyLong_CheckExact(now) else nanoseconds(now)


cdef class EngineCore:
    """What the compiled side offers; use :class:`lvscore.Engine`."""

    cdef State* state
    cdef bint busy
    cdef object populating      # the thread that takes memory ahead, or None

    def __cinit__(self, *args, **kwargs):
        self.state = NULL
        self.populating = None

    def __init__(self, max_connections, seed):
        if self.state != NULL:
            raise ConfigError("an engine is initialised once")
        number = integer(max_connections)
        if number is None or not 1 <= number <= MAX_CONNECTIONS:
            raise ConfigError(
                f"max_connections={max_connections!r} is not in 1..{MAX_CONNECTIONS}")
        self.state = <State*>calloc(1, sizeof(State))
        if self.state == NULL or not state_init(
                self.state, number, int.from_bytes(seed[:8], "little"),
                int.from_bytes(seed[8:16], "little")):
            raise MemoryError(f"no address space for {max_connections} connections")

    def __dealloc__(self):
        if self.state != NULL:
            state_free(self.state)
            free(self.state)

    cdef State* enter(self) except NULL:
        """The state, for a call that may change it."""
        if self.busy:
            raise ConcurrencyError("the engine is at work in another thread; one engine "
                                   "belongs to one thread at a time")
        if self.state == NULL:
            raise ConfigError("the engine was not initialised: call super().__init__()")
        return self.state

    cdef inline int grow(self) except -1:
        """After packets: have the memory taken that a growing table needs next."""
        if table_needs_memory(&self.state.table[0]) or table_needs_memory(&self.state.table[1]):
            self.populate_ahead()
        return 0

    cdef int populate_ahead(self) except -1:
        """Let a thread take the memory that a growing table needs next, one thread at a time."""
        cdef uint32_t f, connections
        if self.populating is not None and self.populating.is_alive():
            return 0
        for f in range(TEMPLATES):
            if table_needs_memory(&self.state.table[f]):
                connections = connections_ahead(&self.state.table[f])
                table_populated(&self.state.table[f], connections)
                self.populating = Thread(target=engine_populate, args=(self, f, connections),
                                         name="lvscore-populate", daemon=True)
                try:
                    self.populating.start()
                except RuntimeError:    # no more threads: memory comes as it is touched
                    self.populating = None
                return 0
        return 0

    # Packets

    def process(self, frame, now, link_type=1, mark=0):
        """Take one frame through the engine; it is rewritten in place.

        Args:
            frame: any writable buffer (bytearray, memoryview, uint8 array) with one frame.
            now: its time in integer nanoseconds, from any origin. Time that runs backwards
                is taken as the latest time given, and counted.
            link_type: LINKTYPE_ number of its link header.
            mark: its firewall mark, 0..4294967295; services on marks go by it.

        Returns:
            What becomes of the frame; :attr:`last_reason` says why.

        Raises:
            ConcurrencyError: the engine is at work in another thread.
            ConfigError: ``frame`` is no writable buffer, or ``now`` no integer.
        """
        cdef State* s = self.enter()
        cdef Py_buffer view
        cdef int64_t time = time_of(now)
        cdef int link = link_type
        cdef uint32_t firewall_mark = mark
        cdef uint8_t verdict
        emitted_clear(&s.emitted)
        s.emitted.link_type = link
        if PyByteArray_CheckExact(frame):
            verdict = frame_process(s, <uint8_t*>PyByteArray_AS_STRING(frame),
                                    <uint32_t>PyByteArray_GET_SIZE(frame), time, link,
                                    firewall_mark, &s.last_reason)
        else:
            get_writable(frame, &view, "frame")
            verdict = frame_process(s, <uint8_t*>view.buf, <uint32_t>view.len, time, link,
                                    firewall_mark, &s.last_reason)
            PyBuffer_Release(&view)
        self.grow()
        return VERDICTS[verdict]

    def process_batch(self, FrameBatch batch not None):
        """Take all frames of a batch through the engine, as one by one, without the GIL.

        Frames are rewritten in place; ``batch.verdict`` and ``batch.reason`` are filled.

        Raises:
            ConcurrencyError: the engine is at work in another thread.
        """
        cdef State* s = self.enter()
        cdef Frames frames = frames_of(batch)
        emitted_clear(&s.emitted)
        s.emitted.link_type = batch.link_type
        self.busy = True
        with nogil:
            batch_process(s, &frames)
        self.busy = False
        self.grow()

    def expire(self, now):
        """Move the time to ``now`` (ns) and remove what has expired; how many were removed."""
        cdef State* s = self.enter()
        cdef int64_t time = time_of(now)
        cdef uint64_t before = s.expired
        emitted_clear(&s.emitted)
        clock_set(s, time)
        state_expire(s)
        return s.expired - before

    def next_deadline(self):
        """A time (ns) before which nothing expires; None if there is nothing to expire."""
        cdef State* s = self.enter()
        cdef uint64_t event = <uint64_t>NO_EVENT
        cdef uint32_t f
        for f in range(TABLES):
            event = min(event, wheel_next_event(&s.table[f].wheel))
        if event == <uint64_t>NO_EVENT:
            return None
        return s.origin + <object>event * NS_PER_TICK

    @property
    def now(self):
        """The latest time given, in nanoseconds."""
        return self.enter().now

    @property
    def last_reason(self):
        """Why the latest frame of :meth:`process` got its verdict."""
        return REASONS[self.enter().last_reason]

    @property
    def emitted(self):
        """Frames that the latest ``process`` or ``process_batch`` put out besides.

        For a frame with verdict STOLEN: the fragments that its datagram was cut into again,
        with verdict FORWARD or PASS, or the whole datagram with verdict LOCAL. A copy, empty
        most of the time; :attr:`emitted_cause` tells which frame each was put out for.
        """
        cdef State* s = self.enter()
        cdef Emitted* e = &s.emitted
        cdef uint32_t i
        batch = FrameBatch(
            bytearray((<char*>e.data)[:e.used] if e.used else b""),
            [e.frame[i].offset for i in range(e.count)],
            [e.frame[i].length for i in range(e.count)],
            [e.frame[i].timestamp for i in range(e.count)], link_type=e.link_type)
        verdict, reason = batch.verdict, batch.reason
        for i in range(e.count):
            verdict[i] = e.frame[i].verdict
            reason[i] = e.frame[i].reason
        return batch

    @property
    def emitted_cause(self):
        """For each frame of :attr:`emitted`, the index in the batch of the frame that caused it."""
        cdef Emitted* e = &self.enter().emitted
        cdef uint32_t i
        return [e.frame[i].cause for i in range(e.count)]

    @property
    def max_connections(self):
        """Bound on the connections held at once."""
        return self.enter().max_connections

    @property
    def counters(self):
        """Exact counters: ``frames``, ``bytes`` (frame lengths), one for each verdict
        (``dropped``, ``forwarded``, ``local``, ``passed``, ``stolen``), ``connections`` (now),
        ``opened``, ``expired``, ``early_drops`` (tracked flows ended to make room),
        ``clock_backwards``, ``fragments_timed_out`` (datagrams).
        """
        cdef State* s = self.enter()
        return {
            "frames": s.frames,
            "bytes": s.bytes,
            "dropped": s.verdicts[0],
            "forwarded": s.verdicts[1],
            "local": s.verdicts[2],
            "passed": s.verdicts[3],
            "stolen": s.verdicts[4],
            "connections": s.table[0].count + s.table[1].count,
            "opened": s.opened,
            "expired": s.expired,
            "early_drops": s.early_drops,
            "clock_backwards": s.clock_backwards,
            "fragments_timed_out": s.fragments.timed_out,
        }

    @property
    def reasons(self):
        """Frames by reason; reasons that did not occur are left out."""
        cdef State* s = self.enter()
        cdef uint32_t i
        return {REASONS[i]: s.reasons[i] for i in range(<uint32_t>REASON_COUNT) if s.reasons[i]}

    def prefault(self, connections, int family=4):
        """Take the memory of so many connections now, so that no packet waits for its first touch.

        Without it, a thread takes a growing table's memory some way ahead of its connections,
        which very many new ones in very little time overtake.

        Args:
            connections: how many; 98 bytes each with IPv4, 162 with IPv6, and more where NAT
                rules track them.
            family: 4 or 6.

        Raises:
            LimitError: more than ``max_connections``.
            ConfigError: another family, or a number that is negative or no integer.
            MemoryError: the system has not so much.
        """
        cdef State* s = self.enter()
        cdef uint32_t count
        if family not in (IPV4, IPV6):
            raise ConfigError(f"family {family}: expected 4 or 6")
        wanted = integer(connections)
        if wanted is None or wanted < 0:
            raise ConfigError(f"{connections!r} connections: expected 0 or more")
        if wanted > s.max_connections:
            raise LimitError(f"{connections} connections; max_connections is {s.max_connections}")
        count = wanted
        with nogil:
            if not connections_populate(s, family == IPV6, count):
                raise MemoryError(f"no memory for {count} connections")
        table_populated(&s.table[family == IPV6], count)

    def memory_usage(self):
        """Bytes in use: by ``connections``, their ``index``, and the ``engine`` itself."""
        cdef State* s = self.enter()
        cdef size_t records = 0
        cdef size_t index = 0
        cdef uint32_t f
        for f in range(TABLES):
            records += <size_t>s.table[f].used * s.table[f].record_size
            records += <size_t>s.table[f].extensions_used * sizeof(s.table[f].extensions[0])
            if f < TEMPLATES:
                records += entries_memory(&s.entries[f])
            index += index_used(&s.table[f].index)
        records += <size_t>s.ftp.used * sizeof(FtpControl) + pools_memory(&s.pools)
        records += <size_t>s.masters.used * sizeof(Master)
        return {"connections": records, "index": index,
                "engine": sizeof(State) + s.next_hops.used * (
                    sizeof(NextHop) + sizeof(Address))}

    def _selfcheck(self):
        """0, or the number of the invariant that does not hold (selfcheck.pxd)."""
        return state_check(self.enter())

    def _explain(self, bytes frame, now, int link_type, uint32_t mark, ingress):
        """Run a frame through a copy; verdict, reason, frame as it would leave, steps.
        ``ingress``: interface of a Host that it comes in by, or None: there is no Host."""
        cdef State* s = self.enter()
        cdef State* copy
        cdef Trace trace
        cdef int64_t time = time_of(now)
        cdef uint8_t reason = 0
        cdef uint8_t verdict
        cdef TraceStep* step
        cdef uint32_t number = NO_INTERFACE if ingress is None else ingress
        cdef uint32_t i
        if ingress is not None and not interface_present(self, number):
            raise LookupError(f"no interface {number}")
        copy = <State*>calloc(1, sizeof(State))
        if copy == NULL:
            raise MemoryError()
        try:
            if not state_copy(copy, s):
                raise MemoryError("no memory for a copy of the engine")
            trace.count = 0
            result = bytearray(frame)
            clock_set(copy, time)
            copy.trace = &trace
            copy.forward.now = time
            copy.forward.ingress = number
            copy.forward.egress = NO_INTERFACE
            verdict = packet_process(copy, <uint8_t*>PyByteArray_AS_STRING(result),
                                     <uint32_t>len(frame), <uint32_t>len(frame), link_type,
                                     mark, &reason)
            steps = []
            for i in range(trace.count):
                step = &trace.step[i]
                steps.append((
                    step.code, step.a, step.b, step.t.protocol,
                    address_bytes(&step.t.source, step.t.family),
                    ntohs(ports_source(step.t.ports)),
                    address_bytes(&step.t.destination, step.t.family),
                    ntohs(ports_destination(step.t.ports)),
                ))
            return VERDICTS[verdict], REASONS[reason], bytes(result), steps
        finally:
            state_free(copy)
            free(copy)

    # Virtual services and real servers: see _services.pxi

    cdef Service* service(self, index) except NULL:
        cdef State* s = self.enter()
        cdef uint32_t i = index
        if i >= s.services.service_used or not s.services.service[i].used:
            raise LookupError(f"no service {index}")
        return &s.services.service[i]

    cdef Server* server(self, index) except NULL:
        cdef State* s = self.enter()
        cdef uint32_t i = index
        if i == 0 or i >= s.services.server_used:
            raise LookupError(f"no server {index}")
        return &s.services.server[i]


include "_settings.pxi"
include "_routes.pxi"
include "_connections.pxi"
include "_services.pxi"
include "_host.pxi"
include "_netfilter.pxi"
include "_port_pools.pxi"
include "_snapshot.pxi"
include "_snapshot_put.pxi"
