"""What conntrack makes of a packet of a service as it leaves (ip_vs_nfct.c, ip_vs_xmit.c).

When a packet goes to its server for the first time, the rules of POSTROUTING may translate its
source: the record's reply tuple then has both translations, and the server answers this host.
A flow that conntrack has by other tuples than IPVS has a record of its own, as one of the rules.
So has that of a connection of one-packet scheduling, which ends with its packet while its flow
does not.
"""

from libc.stdint cimport uint8_t, uint32_t

from lvscore._core.connection cimport (
    FLAG_ONE_PACKET, FLAG_SERVICE, Meta, Table, connection_count, connection_extension,
    connection_method, connection_translated, connection_tuple, table_insert_direction,
    table_meta, table_remove_direction,
)
from lvscore._core.consts cimport (
    NIL, ORIGINAL, REASON_EGRESS_CHANGED, REASON_NONE, REASON_NO_PORT, REASON_TABLE_FULL, REPLY,
)
from lvscore._core.early_drop cimport has_room
from lvscore._core.entry cimport (
    ENTRY_INVALID, ENTRY_NEW, ENTRY_TAKEN, Entries, Entry, entries_of, entry_of, entry_window,
)
from lvscore._core.flow cimport Address, Tuple, tuple_inverse
from lvscore._core.lifetime cimport connection_end
from lvscore._core.lookup cimport table_find_direction
from lvscore._core.nat cimport (
    entry_fill, flow_begin, flow_open, rule_evict, rule_postrouting, search_begin, seen_fill,
)
from lvscore._core.nfct cimport (
    BEHIND_TRANSLATION, BETWEEN_TRANSLATIONS, nfct_entry, nfct_follow, nfct_forget,
    nfct_knows, source_take,
)
from lvscore._core.progress cimport Opening, opening_begins, rule_track
from lvscore._core.rename cimport connection_reply_set
from lvscore._core.route cimport Route, address_is_local, route_find
from lvscore._core.rules cimport Seen
from lvscore._core.server cimport METHOD_MASQUERADE, METHOD_ROUTE, METHOD_TUNNEL
from lvscore._core.state cimport State, table_of
from lvscore._core.tcp_window cimport FIT_INVALID, FIT_REOPENS
from lvscore._core.translate cimport tuples_equal
from lvscore._core.unique_tuple cimport Search, reply_is_free, tuple_keep
from lvscore._core.wire cimport Packet


cdef inline const Address* server_address(const State* s, uint32_t k, uint32_t method,
                                          const Tuple* leaving) noexcept nogil:
    """Where a request goes that leaves as ``leaving``, which may name the virtual address still;
    NULL: into a tunnel, past the rules."""
    if method == METHOD_TUNNEL:
        return NULL
    if method == METHOD_ROUTE:
        return &s.services.server[k].address
    return &leaving.destination


cdef inline bint egress_is_other(const State* s, const Entry* entry, uint32_t k, uint32_t method,
                                 const Tuple* leaving) noexcept nogil:
    """Whether a request leaves by another interface than its flow was masqueraded for: it would
    carry the wrong address (nf_nat_oif_changed)."""
    cdef const Route* route
    if not entry.masquerade or entry.reversed:      # then requests are its answers
        return False
    route = route_find(&s.routes, leaving.family, server_address(s, k, method, leaving))
    return route != NULL and route.interface + 1 != entry.masquerade


cdef inline uint8_t nfct_postrouting(State* s, Table* table, const Packet* packet,
                                     const Address* virtual_address, const Address* towards,
                                     const Tuple* leaving, Tuple* wanted,
                                     Opening* opening) noexcept nogil:
    """Let the rules translate the source of what leaves ``towards`` an address; REASON_NONE, or
    why it is dropped. ``leaving``: as in rule_postrouting. The rules do not see what goes into a
    tunnel (NULL), nor what stays here, which may need another port all the same: the nat table
    has a hook in LOCAL_IN, too (ip_vs_xmit.c)."""
    cdef Search search
    cdef Seen seen
    cdef const Route* route
    cdef uint8_t failed = REASON_NONE
    search_begin(s, table, opening, &search)
    search.towards = towards
    if towards != NULL and address_is_local(&s.routes, wanted.family, towards):
        tuple_keep(&search, wanted, True)
        rule_evict(s, table, &search)
    elif towards != NULL:
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
    failed = nfct_postrouting(
        s, table, packet, &original.destination,
        server_address(s, meta.server, connection_method(meta), &wanted), &wanted, &wanted,
        opening)
    if failed == REASON_NONE:
        reply = tuple_inverse(&wanted)
    if not connection_reply_set(table, &s.key, i, &reply):
        return REASON_TABLE_FULL
    return failed


cdef inline void nfct_confirm(State* s, Table* table, const Packet* packet, uint32_t i,
                              const Opening* opening) noexcept nogil:
    """Conntrack knows a connection from this packet on."""
    cdef Entries* entries = entries_of(s.entries, table.family)
    cdef Entry* entry = entry_of(entries, i)
    entry.created = table.wheel.tick
    entry.state = opening.state
    entry.deadline = s.tick_up + opening.timeout
    entry_fill(s, entries, entry, opening, packet.protocol)


cdef inline uint8_t nfct_open(State* s, Table* table, const Packet* packet,
                              uint32_t i) noexcept nogil:
    """A request goes to its server; if conntrack does not know its connection yet, it may from
    here on. To a server that is routed to, LOCAL_OUT sees it by the same tuple once more, and
    does not look at its checksum. REASON_NONE, or why the packet is dropped."""
    cdef const Meta* meta = table_meta(table, i)
    cdef const Entry* entry = nfct_entry(s, table, i)
    cdef Opening opening
    cdef Tuple leaving
    cdef uint8_t failed
    cdef bint routed = connection_method(meta) == METHOD_ROUTE
    if entry.packet == ENTRY_INVALID and routed:
        nfct_follow(s, table, packet, i, ORIGINAL, False)
    connection_translated(table, i, ORIGINAL, &leaving)
    if entry.packet == ENTRY_TAKEN and egress_is_other(
            s, entry, meta.server, connection_method(meta), &leaving):
        nfct_forget(s, table, i)
        return REASON_EGRESS_CHANGED
    if entry.packet != ENTRY_NEW or not opening_begins(s, packet, not routed, &opening):
        return REASON_NONE
    failed = nfct_source(s, table, packet, i, &opening)
    if failed == REASON_NONE:
        nfct_confirm(s, table, packet, i, &opening)
    return failed


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
    j = flow_begin(s, table, t, &reply, entry.state, entry.deadline, 0)
    if j == NIL:
        return False
    connection_extension(table, j)      # it never takes the fast path
    own = entry_of(entries, j)
    own.redirected = BETWEEN_TRANSLATIONS
    own.masquerade = entry.masquerade
    own.pool = entry.pool
    own.client = entry.client
    if entry.window != NIL:
        entry_window(entries, own)[0] = entries.window[i]
    entry.pool = entry.client = 0
    connection_count(table, j, ORIGINAL, packet.l3_length)
    if nfct_forget(s, table, i):
        return True
    connection_end(s, table, j)
    return False


cdef inline uint8_t answer_open(State* s, Table* table, const Packet* packet, const Tuple* t,
                                uint32_t i, Tuple* translated) noexcept nogil:
    """A server's packet opens a flow to conntrack. Translates POSTROUTING its virtual address,
    the flow has a record of its own, as one of the rules: what answers it goes to the server
    past IPVS, as in the kernel, since netfilter aims at the tuple that the flow began with."""
    cdef Opening opening
    cdef Tuple original
    cdef Tuple wanted = translated[0]
    cdef uint8_t failed
    cdef bint known = nfct_knows(s, table, i)       # the connection, by other tuples
    if not opening_begins(s, packet, True, &opening):
        return REASON_NONE
    # Otherwise IPVS's own tuple of the client's packets is none of conntrack's.
    connection_tuple(table, i, ORIGINAL, &original)
    if not known:
        table_remove_direction(table, &s.key, i << 1 | ORIGINAL)
    # -m ipvs looks for requests on their way to a server (xt_ipvs.c).
    failed = nfct_postrouting(s, table, packet, NULL, &translated.destination, &wanted, &wanted,
                              &opening)
    if not known and not table_insert_direction(table, &s.key, &original, i << 1 | ORIGINAL):
        return REASON_TABLE_FULL
    if failed:
        return failed
    if tuples_equal(&wanted, translated):
        nfct_entry(s, table, i).reversed = True
        nfct_confirm(s, table, packet, i, &opening)
        return REASON_NONE
    if not has_room(s, table, t) or flow_open(
            s, table, packet, t, &wanted, &opening, 0) == NIL:
        return REASON_TABLE_FULL
    translated[0] = wanted
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
    if nfct_entry(s, table, i).packet != ENTRY_NEW:
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


cdef inline uint8_t nfct_local_out(State* s, const Packet* packet, uint32_t i,
                                   Tuple* translated, uint32_t* opened) noexcept nogil:
    """A request that conntrack took for INVALID as it came in is looked at once more as it leaves
    for its server, as what this host sends: without a look at its checksum, and by the server's
    address, which is of another flow. Where answers in that would be those of the connection,
    and conntrack knows it, its source gets another port. REASON_NONE, or why the packet is
    dropped; ``opened`` is the record of a flow that begins with it, or NIL."""
    cdef Table* table = table_of(s, translated.family)
    cdef const Meta* meta = table_meta(table, i)
    cdef uint32_t j
    cdef Opening opening
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
    failed = nfct_postrouting(s, table, packet, &original.destination, &translated.destination,
                              translated, &wanted, &opening)
    if not known and not table_insert_direction(table, &s.key, &reply, i << 1 | REPLY):
        return REASON_TABLE_FULL
    if failed:
        return failed
    j = flow_open(s, table, packet, translated, &wanted, &opening, 0)
    if j == NIL:
        return REASON_TABLE_FULL
    connection_extension(table, j)      # it never takes the fast path
    nfct_entry(s, table, j).redirected = BEHIND_TRANSLATION
    translated[0] = wanted
    opened[0] = j
    return REASON_NONE


cdef inline uint8_t nfct_once(State* s, const Packet* packet, const Tuple* t, uint32_t k,
                              uint32_t method, Tuple* translated,
                              uint32_t* opened) noexcept nogil:
    """Let conntrack know a datagram of one-packet scheduling that goes to server ``k``: its flow
    keeps the source that the rules gave its first, whoever gets it, and no server's answer is an
    answer in it (ip_vs_update_conntrack); for -m ipvs it is of no connection (ip_vs_conn_hash).
    REASON_NONE, or why the packet is dropped; ``opened`` is the record of a flow that begins with
    it, or NIL."""
    cdef Table* table = table_of(s, t.family)
    cdef uint32_t i = table_find_direction(table, &s.key, t, ORIGINAL)
    cdef Opening opening
    cdef Tuple request
    cdef Tuple wanted = t[0]
    cdef uint8_t failed
    opened[0] = NIL
    if i != NIL and table_meta(table, i).flags & FLAG_ONE_PACKET:
        if nfct_entry(s, table, i).packet != ENTRY_TAKEN:
            return REASON_NONE
        connection_translated(table, i, ORIGINAL, &request)
        source_take(translated, &request)
        if not egress_is_other(s, nfct_entry(s, table, i), k, method, translated):
            return REASON_NONE
        connection_end(s, table, i)
        return REASON_EGRESS_CHANGED
    if not opening_begins(s, packet, True, &opening):
        return REASON_NONE
    if not has_room(s, table, t):
        return REASON_TABLE_FULL
    failed = nfct_postrouting(s, table, packet, NULL, server_address(s, k, method, translated),
                              translated, &wanted, &opening)
    if failed:
        return failed
    source_take(translated, &wanted)
    opened[0] = flow_open(s, table, packet, t, &wanted, &opening, FLAG_ONE_PACKET)
    return REASON_TABLE_FULL if opened[0] == NIL else REASON_NONE
