"""Connections of services that conntrack knows: net.ipv4.vs.conntrack=1 (ip_vs_nfct.c).

Conntrack follows such a connection by its own states and timeouts, which its Entry keeps. When
a packet goes to its server for the first time, the rules of POSTROUTING may translate its
source: the record's reply tuple then has both translations, and the server answers this host.

A connection of one-packet scheduling ends with its packet, its flow does not: conntrack has that
in a record of its own, as one of the rules.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t

from lvscore._core.connection cimport (
    FLAG_ASSURED, FLAG_ONE_PACKET, FLAG_SEEN_REPLY, FLAG_SERVICE,
    FLAG_SLOW, FLAG_TRACKED, Meta, Table, connection_count, connection_extension, connection_method,
    connection_open, connection_shadowed, connection_translated, connection_tuple, table_find,
    table_insert_direction, table_meta, table_remove_direction,
)
from lvscore._core.consts cimport (
    NIL, ORIGINAL, PROTOCOL_SCTP, REASON_NONE, REASON_NO_PORT, REASON_TABLE_FULL, REPLY,
)
from lvscore._core.early_drop cimport has_room
from lvscore._core.entry cimport (
    ENTRY_INVALID, ENTRY_NEW, ENTRY_TAKEN, Entries, Entry, entries_of, entry_of, entry_open,
    entry_window, source_head, source_next,
)
from lvscore._core.flow cimport (
    Address, Tuple, address_equal, ports_destination, ports_make, ports_source, tuple_hash,
    tuple_inverse,
)
from lvscore._core.lifetime cimport connection_end, connection_timer_set, ports_give
from lvscore._core.lookup cimport table_find_direction
from lvscore._core.nat cimport ports_take, rule_postrouting, search_begin, seen_fill
from lvscore._core.progress cimport (
    Opening, Progress, flow_progress, opening_admits, opening_begins, opening_store,
)
from lvscore._core.rename cimport connection_reply_set
from lvscore._core.route cimport Route, address_is_local, route_find
from lvscore._core.rules cimport Search, Seen, reply_is_free
from lvscore._core.server cimport METHOD_MASQUERADE, METHOD_ROUTE, METHOD_TUNNEL
from lvscore._core.state cimport (
    SYSCTL_CONNTRACK, State, TRACE_STATE, TRACE_TIMEOUT, is_hooked, table_of, trace_step,
)
from lvscore._core.tcp_window cimport FIT_INVALID, FIT_REOPENS, FIT_TAKEN
from lvscore._core.translate cimport tuples_equal
from lvscore._core.wire cimport Packet


cdef enum Between:              # what an Entry says of a flow whose answers IPVS sees
    BETWEEN_TRANSLATIONS = 1    # a DNAT rule led it to a service
    BEHIND_TRANSLATION = 2      # it began in LOCAL_OUT, on the way to a server


cdef inline void nfct_begin(State* s, Table* table, uint32_t i) noexcept nogil:
    """Let conntrack know a connection that has just been opened, from the next packet on that
    goes to its server; nothing while there are no rules, or with conntrack=0."""
    if s.tracking and s.sysctl[SYSCTL_CONNTRACK]:
        entry_open(entries_of(s.entries, table.family), table, &s.key, i)
        table_meta(table, i).flags |= FLAG_SLOW


cdef inline Entry* nfct_entry(const State* s, const Table* table, uint32_t i) noexcept nogil:
    return entry_of(entries_of(<Entries*>s.entries, table.family), i)


cdef inline bint nfct_knows(const State* s, const Table* table, uint32_t i) noexcept nogil:
    """Whether conntrack knows the connection now."""
    cdef const Entry* entry
    if not table_meta(table, i).flags & FLAG_TRACKED:
        return False
    entry = nfct_entry(s, table, i)
    return entry.state != 0 and <int32_t>(entry.deadline - <uint32_t>s.tick) > 0


cdef inline bint nfct_is_old(const State* s, const Table* table, uint32_t i) noexcept nogil:
    """Whether the packet at hand is of a flow that conntrack knew before it
    (ip_vs_conn_uses_old_conntrack)."""
    return (table_meta(table, i).flags & FLAG_TRACKED
            and nfct_entry(s, table, i).packet == ENTRY_TAKEN)


cdef inline bint source_is_translated(const Table* table, uint32_t i) noexcept nogil:
    cdef Tuple original, reply
    connection_tuple(table, i, ORIGINAL, &original)
    connection_tuple(table, i, REPLY, &reply)
    return not (address_equal(&original.source, &reply.destination)
                and ports_source(original.ports) == ports_destination(reply.ports))


cdef inline bint rules_translate(const State* s, const Table* table, uint32_t i) noexcept nogil:
    """Whether rules translate the source of a service's connection that conntrack knows."""
    return s.tracking and nfct_knows(s, table, i) and source_is_translated(table, i)


cdef inline void source_take(Tuple* translated, const Tuple* other) noexcept nogil:
    """Give a tuple the source of another."""
    translated.source = other.source
    translated.ports = ports_make(ports_source(other.ports), ports_destination(translated.ports))


cdef inline void source_restore(const Table* table, uint32_t i, Tuple* translated) noexcept nogil:
    """Take source NAT out of a translated request."""
    cdef Tuple original
    connection_tuple(table, i, ORIGINAL, &original)
    source_take(translated, &original)


cdef inline bint nfct_forget(State* s, Table* table, uint32_t i) noexcept nogil:
    """Conntrack forgets a connection, IPVS does not; its source is translated no more. False if
    the index is too crowded for the tuple that it had before."""
    cdef Tuple request, reply
    nfct_entry(s, table, i).state = 0
    nfct_entry(s, table, i).reversed = False
    ports_give(s, nfct_entry(s, table, i))
    table_meta(table, i).flags &= ~<uint32_t>(FLAG_SEEN_REPLY | FLAG_ASSURED)
    if not source_is_translated(table, i):
        return True
    connection_translated(table, i, ORIGINAL, &request)
    source_restore(table, i, &request)
    reply = tuple_inverse(&request)
    table_remove_direction(table, &s.key, i << 1 | REPLY)
    return connection_reply_set(table, &s.key, i, &reply)


cdef inline uint8_t rule_track(State* s, Table* table, const Packet* packet, const Tuple* t,
                               uint32_t reference, bint received, bint* ends) noexcept nogil:
    """Take a packet into its flow's state; how it fits.

    ``received``: it came in, else it is this host's own, whose checksum is not looked at.
    ``ends``: the flow is over with this packet.
    """
    cdef uint32_t i = reference >> 1
    cdef uint32_t direction = reference & 1
    cdef Meta* meta = table_meta(table, i)
    cdef uint8_t old = meta.state
    cdef Progress progress
    ends[0] = False
    flow_progress(s, table, packet, i, direction, received, old, meta.timer.deadline, &progress)
    if packet.protocol == PROTOCOL_SCTP:
        meta.state = progress.state
    if progress.fit == FIT_INVALID and progress.renews:
        connection_timer_set(table, i, s.tick_up + progress.timeout)
    if progress.fit == FIT_INVALID or progress.fit == FIT_REOPENS:
        return progress.fit
    if direction == REPLY:
        meta.flags |= FLAG_SEEN_REPLY
    if progress.fit == FIT_TAKEN:
        if progress.renews or progress.ends:
            connection_count(table, i, direction, packet.l3_length)
        ends[0] = progress.ends
        trace_step(s, TRACE_STATE, old, progress.state, t)
        meta.state = progress.state
        if progress.renews:
            trace_step(s, TRACE_TIMEOUT, progress.timeout, 0, t)
            connection_timer_set(table, i, s.tick_up + progress.timeout)
    return progress.fit


cdef inline bint nfct_follow(State* s, Table* table, const Packet* packet, uint32_t i,
                             uint32_t direction, bint received) noexcept nogil:
    """Conntrack sees a packet of a connection, before IPVS does; False if the packet is none of
    the connection's then: an answer to this host that conntrack takes for no flow's."""
    cdef Meta* meta = table_meta(table, i)
    cdef Entry* entry = nfct_entry(s, table, i)
    cdef bint alone = direction == REPLY and source_is_translated(table, i)
    cdef uint32_t seen = direction ^ entry.reversed         # as conntrack has it
    cdef Progress progress
    if not s.tracking:
        entry.packet = ENTRY_INVALID
        return not alone
    entry.packet = ENTRY_NEW
    if not nfct_knows(s, table, i):
        return nfct_forget(s, table, i) and not alone
    flow_progress(s, table, packet, i, seen, received, entry.state, entry.deadline, &progress)
    if progress.fit == FIT_REOPENS:
        return nfct_forget(s, table, i) and not alone
    entry.packet = ENTRY_INVALID if progress.fit == FIT_INVALID else ENTRY_TAKEN
    if progress.fit == FIT_TAKEN or packet.protocol == PROTOCOL_SCTP:
        entry.state = progress.state
    if progress.renews:
        entry.deadline = s.tick_up + progress.timeout
    if progress.ends:
        entry.deadline = <uint32_t>s.tick       # behind this packet, which is translated still
    if entry.packet == ENTRY_INVALID:
        return not alone
    if seen == REPLY:
        meta.flags |= FLAG_SEEN_REPLY
    return True


cdef inline uint8_t nfct_postrouting(State* s, Table* table, const Packet* packet,
                                     const Address* virtual_address, uint32_t k, uint32_t method,
                                     const Tuple* leaving, Tuple* wanted,
                                     Opening* opening) noexcept nogil:
    """Let the rules translate the source of a request as it leaves; REASON_NONE, or why it is
    dropped. What goes into a tunnel they do not see, nor what stays here (ip_vs_xmit.c).
    ``leaving``: as in rule_postrouting."""
    cdef Search search
    cdef Seen seen
    cdef const Route* route
    cdef const Address* towards = &leaving.destination
    cdef uint8_t failed = REASON_NONE
    search_begin(s, table, opening, &search)
    if method == METHOD_ROUTE:
        towards = &s.services.server[k].address
    search.towards = towards
    if method != METHOD_TUNNEL and not address_is_local(&s.routes, wanted.family, towards):
        seen_fill(s, packet, &seen)
        seen.virtual_address = virtual_address
        route = route_find(&s.routes, wanted.family, towards)
        if route != NULL:
            seen.egress = <int>route.interface
        failed = rule_postrouting(s, table, &search, &seen, leaving, wanted, opening)
    if failed == REASON_NONE and not reply_is_free(&search, wanted):
        return REASON_NO_PORT
    return failed


cdef inline uint8_t nfct_source(State* s, Table* table, const Packet* packet, uint32_t i,
                                Opening* opening) noexcept nogil:
    """Let the rules translate the source of a connection; REASON_NONE, or why the packet is
    dropped. If the index is too crowded, answers are not found any more."""
    cdef const Meta* meta = table_meta(table, i)
    cdef Tuple original, wanted, reply
    cdef uint8_t failed
    connection_tuple(table, i, ORIGINAL, &original)
    connection_tuple(table, i, REPLY, &reply)
    wanted = tuple_inverse(&reply)
    # Its own tuple is not in its way.
    table_remove_direction(table, &s.key, i << 1 | REPLY)
    failed = nfct_postrouting(s, table, packet, &original.destination, meta.server,
                              connection_method(meta), &wanted, &wanted, opening)
    if failed == REASON_NONE:
        reply = tuple_inverse(&wanted)
    if not connection_reply_set(table, &s.key, i, &reply):
        return REASON_TABLE_FULL
    return failed


cdef inline uint8_t nfct_open(State* s, Table* table, const Packet* packet, const Tuple* t,
                              uint32_t i) noexcept nogil:
    """A request goes to its server; if conntrack does not know its connection yet, it may from
    here on. To a server that is routed to, LOCAL_OUT sees it by the same tuple once more, and
    does not look at its checksum. REASON_NONE, or why the packet is dropped."""
    cdef Entries* entries = entries_of(s.entries, table.family)
    cdef Entry* entry = entry_of(entries, i)
    cdef Opening opening
    cdef uint8_t failed
    cdef bint routed = connection_method(table_meta(table, i)) == METHOD_ROUTE
    if entry.packet == ENTRY_INVALID and routed:
        nfct_follow(s, table, packet, i, ORIGINAL, False)
    if entry.packet != ENTRY_NEW or not opening_begins(s, packet, not routed, &opening):
        return REASON_NONE
    failed = nfct_source(s, table, packet, i, &opening)
    if failed:
        return failed
    entry.created = table.wheel.tick
    entry.state = opening.state
    entry.deadline = s.tick_up + opening.timeout
    entry.masquerade = opening.masquerade
    opening_store(&opening, entries, entry, packet.protocol)
    ports_take(s, entry, &opening)
    return REASON_NONE


cdef inline uint32_t flow_begin(State* s, Table* table, const Tuple* t, const Tuple* reply,
                                uint8_t state, uint32_t deadline,
                                Between redirected) noexcept nogil:
    """Make a record of a flow whose answers IPVS sees; NIL if there is no room."""
    cdef uint32_t i = connection_open(table, &s.key, t, reply, 0, state, FLAG_SLOW, deadline)
    if i == NIL:
        return NIL
    s.opened += 1
    connection_extension(table, i)      # it never takes the short way
    entry_open(entries_of(s.entries, table.family), table, &s.key, i).redirected = redirected
    return i


cdef inline bint nfct_redirect(State* s, Table* table, const Packet* packet, const Tuple* t,
                               uint32_t i) noexcept nogil:
    """A request of tuple ``t`` went to its server behind a DNAT rule that led it to the service.
    The flow that it opened to conntrack goes from here on by a record of its own, as one of the
    rules: requests pass IPVS by, whose view of the connection stays in record ``i``. False if
    there is no room."""
    cdef Entries* entries = entries_of(s.entries, table.family)
    cdef Entry* entry
    cdef Entry* own
    cdef Tuple reply
    cdef uint32_t j
    if connection_method(table_meta(table, i)) != METHOD_MASQUERADE or not (
            nfct_knows(s, table, i) and nfct_entry(s, table, i).packet == ENTRY_NEW):
        return True
    entry = nfct_entry(s, table, i)
    connection_tuple(table, i, REPLY, &reply)
    j = flow_begin(s, table, t, &reply, entry.state, entry.deadline, BETWEEN_TRANSLATIONS)
    if j == NIL:
        return False
    own = entry_of(entries, j)
    own.masquerade = entry.masquerade
    own.pool = entry.pool
    own.client = entry.client
    if entry.window != NIL:
        entry_window(entries, own)[0] = entries.window[i]
    entry.pool = entry.client = 0
    connection_count(table, j, ORIGINAL, packet.l3_length)
    return nfct_forget(s, table, i)


cdef inline uint32_t service_seen(const Table* table, uint32_t reference) noexcept nogil:
    """Of what has a tuple, the newest that is a service's, or NIL: without a rule that translates
    there is no conntrack, and flows are left alone (nf_ct_netns_put)."""
    while reference != NIL and not table_meta(table, reference >> 1).flags & FLAG_SERVICE:
        reference = connection_shadowed(table, reference)
    return reference


cdef inline uint32_t redirected_flow(const State* s, const Table* table,
                                     uint32_t reference) noexcept nogil:
    """The redirected flow whose answers have the tuple of a service's connection, too, or NIL:
    conntrack sees them first."""
    reference = connection_shadowed(table, reference)
    while reference != NIL and (
            reference & 1 == ORIGINAL or table_meta(table, reference >> 1).flags & FLAG_SERVICE
            or not nfct_entry(s, table, reference >> 1).redirected):
        reference = connection_shadowed(table, reference)
    return reference


cdef inline uint32_t source_service(const State* s, const Table* table,
                                    const Tuple* answer) noexcept nogil:
    """The connection of a service that a server's answer to its client is of, though rules
    translate its source, too, so that its own answers have another tuple; or NIL."""
    cdef Entries* entries = entries_of(<Entries*>s.entries, table.family)
    cdef Tuple request = tuple_inverse(answer)
    cdef Tuple translated
    cdef uint32_t e = source_head(entries, &s.key, &request)[0] - 1
    cdef uint32_t i = source_next(entries, table, e, &request)
    while i != NIL:
        connection_translated(table, i, ORIGINAL, &translated)
        source_take(&translated, &request)
        if table_meta(table, i).flags & FLAG_SERVICE and tuples_equal(&translated, &request):
            return i << 1 | REPLY
        e = entries.entry[entries.entry_of[i]].next
        i = source_next(entries, table, e, &request)
    return NIL


cdef inline uint32_t answer_service(const State* s, const Table* table,
                                    const Tuple* t) noexcept nogil:
    """IPVS's connection of an answer to its client itself, which conntrack expects at the address
    that rules translate the client to; or NIL."""
    cdef uint32_t reference = NIL
    if s.tracking and s.sysctl[SYSCTL_CONNTRACK] and is_hooked(s, t.family):
        reference = source_service(s, table, t)
    return reference


cdef inline uint32_t answered_service(const State* s, const Table* table, const Tuple* t,
                                      const Tuple* translated) noexcept nogil:
    """IPVS's connection that an answer of a redirected flow belongs to, or NIL: it has the tuple
    between conntrack's two translations (ip_vs_out in FORWARD)."""
    cdef Tuple between = t[0]
    cdef uint32_t reference
    between.destination = translated.destination
    between.ports = ports_make(ports_source(t.ports), ports_destination(translated.ports))
    reference = table_find(table, tuple_hash(&s.key, &between), &between)
    while reference != NIL and not (reference & 1 == REPLY and table_meta(
            table, reference >> 1).flags & FLAG_SERVICE):
        reference = connection_shadowed(table, reference)
    if reference == NIL:
        reference = source_service(s, table, &between)
    if reference != NIL and not is_hooked(s, t.family):
        return NIL
    return reference


cdef inline uint32_t flow_service(const State* s, const Table* table, uint32_t reference,
                                  const Tuple* t) noexcept nogil:
    """IPVS's connection of an answer of tuple ``t``, or of an error about what is answered so, in
    a flow of the rules; NIL if the flow is not redirected."""
    cdef Tuple translated
    if reference & 1 == ORIGINAL or (
            nfct_entry(s, table, reference >> 1).redirected != BETWEEN_TRANSLATIONS):
        return NIL
    connection_translated(table, reference >> 1, REPLY, &translated)
    return answered_service(s, table, t, &translated)


cdef inline uint8_t answer_open(State* s, Table* table, const Packet* packet, const Tuple* t,
                                uint32_t i, Tuple* translated) noexcept nogil:
    """A server's packet opens a flow to conntrack. Translates POSTROUTING its virtual address,
    the flow has a record of its own, as one of the rules: what answers it goes to the server
    past IPVS, as in the kernel, since netfilter aims at the tuple that the flow began with."""
    cdef Entries* entries = entries_of(s.entries, table.family)
    cdef Entry* entry = entry_of(entries, i)
    cdef Opening opening
    cdef Tuple original, reply
    cdef Tuple wanted = translated[0]
    cdef uint8_t failed
    cdef uint32_t j
    cdef bint known = nfct_knows(s, table, i)       # the connection, by other tuples
    if not opening_admits(s, packet, t, &opening):
        return REASON_NONE
    # Otherwise IPVS's own tuple of the client's packets is none of conntrack's.
    connection_tuple(table, i, ORIGINAL, &original)
    if not known:
        table_remove_direction(table, &s.key, i << 1 | ORIGINAL)
    # -m ipvs looks for requests on their way to a server (xt_ipvs.c).
    failed = nfct_postrouting(s, table, packet, NULL, table_meta(table, i).server,
                              connection_method(table_meta(table, i)), &wanted, &wanted, &opening)
    if not known and not table_insert_direction(table, &s.key, &original, i << 1 | ORIGINAL):
        return REASON_TABLE_FULL
    if failed:
        return failed
    if tuples_equal(&wanted, translated):
        entry.reversed = True
    elif has_room(s, table, t):
        reply = tuple_inverse(&wanted)
        j = connection_open(table, &s.key, t, &reply, 0, opening.state, FLAG_SLOW,
                            s.tick_up + opening.timeout)
        if j == NIL:
            return REASON_TABLE_FULL
        s.opened += 1
        connection_count(table, j, ORIGINAL, packet.l3_length)
        entry = entry_open(entries, table, &s.key, j)
        entry.masquerade = opening.masquerade
        translated[0] = wanted
    else:
        return REASON_TABLE_FULL
    entry.created = table.wheel.tick
    entry.state = opening.state
    entry.deadline = s.tick_up + opening.timeout
    opening_store(&opening, entries, entry, packet.protocol)
    ports_take(s, entry, &opening)
    return REASON_NONE


cdef inline uint8_t nfct_answer(State* s, Table* table, const Packet* packet, const Tuple* t,
                                uint32_t i, Tuple* translated) noexcept nogil:
    """A server's packet goes to the client; if conntrack does not know its connection, as of
    FTP's active data, it does from here on, begun by the server (ip_vs_update_conntrack), and
    the rules of POSTROUTING may translate the virtual address. REASON_NONE, or why the packet is
    dropped."""
    cdef uint32_t j
    cdef uint8_t fit
    cdef bint ends
    if entry_of(entries_of(s.entries, table.family), i).packet != ENTRY_NEW:
        return REASON_NONE
    j = table_find_direction(table, &s.key, t, ORIGINAL)
    if j == NIL or table_meta(table, j).flags & FLAG_SERVICE:
        return answer_open(s, table, packet, t, i, translated)
    fit = rule_track(s, table, packet, t, j << 1 | ORIGINAL, True, &ends)
    if fit == FIT_REOPENS:
        connection_end(s, table, j)
        return answer_open(s, table, packet, t, i, translated)
    if fit != FIT_INVALID:
        connection_translated(table, j, ORIGINAL, translated)
    if ends:
        connection_end(s, table, j)
    return REASON_NONE


cdef inline void nfct_translated(const State* s, const Table* table, uint32_t i,
                                 Tuple* translated) noexcept nogil:
    """A request's tuple at its server: what is INVALID passes source NAT by."""
    connection_translated(table, i, ORIGINAL, translated)
    if nfct_entry(s, table, i).packet == ENTRY_INVALID:
        source_restore(table, i, translated)


cdef inline uint8_t nfct_local_out(State* s, const Packet* packet, uint32_t i,
                                   Tuple* translated, uint32_t* opened) noexcept nogil:
    """A request that conntrack took for INVALID as it came in is looked at once more as it leaves
    for its server, as what this host sends: without a look at its checksum, and by the server's
    address, which is of another flow. Where answers in that would be those of the connection,
    and conntrack knows it, its source gets another port. REASON_NONE, or why the packet is
    dropped; ``opened`` is the record of a flow that begins with it, or NIL."""
    cdef Table* table = table_of(s, translated.family)
    cdef Entries* entries = entries_of(s.entries, translated.family)
    cdef const Meta* meta = table_meta(table, i)
    cdef uint32_t j
    cdef Opening opening
    cdef Entry* entry
    cdef Tuple original, reply
    cdef Tuple wanted = translated[0]
    cdef uint8_t fit, failed
    cdef bint ends
    cdef bint known = nfct_knows(s, table, i)
    opened[0] = NIL
    if (not s.tracking or connection_method(meta) != METHOD_MASQUERADE
            or nfct_entry(s, table, i).packet != (ENTRY_INVALID if known else ENTRY_NEW)):
        return REASON_NONE
    j = table_find_direction(table, &s.key, translated, ORIGINAL)
    if j != NIL and table_meta(table, j).flags & FLAG_SERVICE:
        return REASON_NONE
    if j != NIL:
        fit = rule_track(s, table, packet, translated, j << 1 | ORIGINAL, False, &ends)
        if fit == FIT_INVALID:
            return REASON_NONE
        connection_translated(table, j, ORIGINAL, &wanted)
        if ends or fit == FIT_REOPENS:
            connection_end(s, table, j)
        if fit != FIT_REOPENS:
            translated[0] = wanted
            return REASON_NONE
        wanted = translated[0]
    if not opening_begins(s, packet, False, &opening):
        return REASON_NONE
    if not has_room(s, table, translated):
        return REASON_TABLE_FULL
    connection_tuple(table, i, ORIGINAL, &original)
    connection_tuple(table, i, REPLY, &reply)
    if not known:
        table_remove_direction(table, &s.key, i << 1 | REPLY)
    failed = nfct_postrouting(s, table, packet, &original.destination, meta.server,
                              METHOD_MASQUERADE, translated, &wanted, &opening)
    if not known and not table_insert_direction(table, &s.key, &reply, i << 1 | REPLY):
        return REASON_TABLE_FULL
    if failed:
        return failed
    reply = tuple_inverse(&wanted)
    j = flow_begin(s, table, translated, &reply, opening.state, s.tick_up + opening.timeout,
                   BEHIND_TRANSLATION)
    if j == NIL:
        return REASON_TABLE_FULL
    entry = entry_of(entries, j)
    entry.masquerade = opening.masquerade
    opening_store(&opening, entries, entry, packet.protocol)
    ports_take(s, entry, &opening)
    connection_count(table, j, ORIGINAL, packet.l3_length)
    translated[0] = wanted
    opened[0] = j
    return REASON_NONE


cdef inline bint nfct_lets_redirect(State* s, const Table* table, const Packet* packet,
                                    const Tuple* t, uint32_t i) noexcept nogil:
    """Whether a redirect goes out that tells who sent the answer at hand of a nearer way: not for
    a flow that rules translate, or that begins with it (nf_nat_icmp_reply_translation). IPVS
    takes the flows of connections that conntrack does not know from it, which then are new."""
    cdef Opening opening
    if not s.tracking:
        return True
    if table_meta(table, i).flags & FLAG_TRACKED:
        if nfct_entry(s, table, i).packet == ENTRY_INVALID:
            return True
        if nfct_entry(s, table, i).packet == ENTRY_TAKEN:
            return not source_is_translated(table, i)
    return not opening_admits(s, packet, t, &opening)


cdef inline void nfct_dropped(State* s, Table* table, uint32_t i) noexcept nogil:
    """The packet at hand goes nowhere: a flow that it opened is not confirmed."""
    if nfct_entry(s, table, i).packet == ENTRY_NEW:
        nfct_forget(s, table, i)


cdef inline uint8_t nfct_once(State* s, const Packet* packet, const Tuple* t, uint32_t k,
                              uint32_t method, Tuple* translated,
                              uint32_t* opened) noexcept nogil:
    """Let conntrack know a datagram of one-packet scheduling that goes to server ``k``: its flow
    keeps the source that the rules gave its first, whoever gets it, and no server's answer is an
    answer in it (ip_vs_update_conntrack); for -m ipvs it is of no connection (ip_vs_conn_hash).
    REASON_NONE, or why the packet is dropped; ``opened`` is the record of a flow that begins with
    it, or NIL."""
    cdef Table* table = table_of(s, t.family)
    cdef Entries* entries = entries_of(s.entries, t.family)
    cdef uint32_t i = table_find_direction(table, &s.key, t, ORIGINAL)
    cdef Opening opening
    cdef Entry* entry
    cdef Tuple request, reply
    cdef Tuple wanted = t[0]
    cdef uint8_t failed
    opened[0] = NIL
    if i != NIL and table_meta(table, i).flags & FLAG_ONE_PACKET:
        if entry_of(entries, i).packet == ENTRY_TAKEN:
            connection_translated(table, i, ORIGINAL, &request)
            source_take(translated, &request)
        return REASON_NONE
    if not opening_admits(s, packet, t, &opening):
        return REASON_NONE
    if not has_room(s, table, t):
        return REASON_TABLE_FULL
    failed = nfct_postrouting(s, table, packet, NULL, k, method, translated, &wanted,
                              &opening)
    if failed:
        return failed
    source_take(translated, &wanted)
    reply = tuple_inverse(&wanted)
    i = connection_open(table, &s.key, t, &reply, 0, opening.state, FLAG_SLOW | FLAG_ONE_PACKET,
                        s.tick_up + opening.timeout)
    if i == NIL:
        return REASON_TABLE_FULL
    s.opened += 1
    entry = entry_open(entries, table, &s.key, i)
    opening_store(&opening, entries, entry, packet.protocol)
    ports_take(s, entry, &opening)
    connection_count(table, i, ORIGINAL, packet.l3_length)
    opened[0] = i
    return REASON_NONE
