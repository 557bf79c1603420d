"""Connections of services that conntrack knows: net.ipv4.vs.conntrack=1 (ip_vs_nfct.c).

Conntrack follows such a connection by its own states and timeouts, which its Entry keeps. Here it
sees a packet before IPVS does, and says whose it is; nfct_postrouting.pxd is its way out.
"""

from libc.stdint cimport int32_t, uint32_t

from lvscore._core.connection cimport (
    FLAG_ASSURED, FLAG_SEEN_REPLY, FLAG_SERVICE, FLAG_SLOW, FLAG_TRACKED, Meta, Table,
    connection_shadowed, connection_translated, connection_tuple, table_find, table_meta,
    table_remove_direction,
)
from lvscore._core.consts cimport NIL, ORIGINAL, PROTOCOL_SCTP, REPLY
from lvscore._core.entry cimport (
    ENTRY_INVALID, ENTRY_NEW, ENTRY_TAKEN, Entries, Entry, entries_of, entry_of, entry_open,
    source_head, source_is_translated, source_next,
)
from lvscore._core.flow cimport (
    Tuple, ports_destination, ports_make, ports_source, tuple_hash, tuple_inverse,
)
from lvscore._core.lifetime cimport ports_give
from lvscore._core.progress cimport Opening, Progress, flow_progress, opening_begins
from lvscore._core.rename cimport connection_reply_set
from lvscore._core.state cimport SYSCTL_CONNTRACK, State, is_hooked
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


cdef inline void nfct_dropped(State* s, Table* table, uint32_t i) noexcept nogil:
    """The packet at hand goes nowhere: a flow that it opened is not confirmed."""
    if nfct_entry(s, table, i).packet == ENTRY_NEW:
        nfct_forget(s, table, i)


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


cdef inline void nfct_translated(const State* s, const Table* table, uint32_t i,
                                 Tuple* translated) noexcept nogil:
    """A request's tuple at its server: what is INVALID passes source NAT by."""
    connection_translated(table, i, ORIGINAL, translated)
    if nfct_entry(s, table, i).packet == ENTRY_INVALID:
        source_restore(table, i, translated)


cdef inline bint nfct_lets_redirect(const State* s, const Table* table, const Packet* packet,
                                    uint32_t i) noexcept nogil:
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
    return not opening_begins(s, packet, True, &opening)


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
