"""The NAT rules for the first packet of a flow (nf_nat_core.c): destination NAT before routing,
source NAT behind it. What no rule translates may yet need another port (a null binding)."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memset

from lvscore._core.connection cimport FLAG_SLOW, Table, connection_count, connection_open
from lvscore._core.consts cimport (
    IPV4, NIL, ORIGINAL, REASON_NONE, REASON_NO_ROUTE, REASON_PORT_QUOTA,
)
from lvscore._core.entry cimport Entries, Entry, entries_of, entry_of, entry_open
from lvscore._core.flow cimport Address, Tuple, tuple_inverse
from lvscore._core.lifetime cimport connection_end
from lvscore._core.port_pool cimport (
    is_pooled, pool_of_client, pool_of_mapping, pool_take, quota_is_reached,
)
from lvscore._core.progress cimport Opening, opening_store
from lvscore._core.route cimport Route, Routes, route_find
from lvscore._core.rules cimport (
    ANY_INTERFACE, RANGE_ADDRESSES, Range, Rule, Seen, TARGET_DNAT, TARGET_MASQUERADE,
    TARGET_NETMAP, TARGET_REDIRECT, TARGET_SNAT, chain_find,
)
from lvscore._core.state cimport State, TRACE_NO_RULE, TRACE_RULE, is_hosted, trace_step
from lvscore._core.track cimport RULE_TCP_SYN_SENT
from lvscore._core.unique_tuple cimport Search, port_range, tuple_choose, tuple_keep
from lvscore._core.wire cimport Packet


cdef inline void seen_fill(const State* s, const Packet* packet, Seen* seen) noexcept nogil:
    memset(seen, 0, sizeof(Seen))
    seen.ingress = <int>s.forward.ingress if is_hosted(s) else ANY_INTERFACE
    seen.egress = ANY_INTERFACE
    seen.mark = packet.mark
    seen.length = packet.l3_length


cdef inline void search_begin(State* s, Table* table, const Opening* opening,
                              Search* search) noexcept nogil:
    """Begin to look for a tuple for a flow that is about to be tracked."""
    search.table = table
    search.entries = entries_of(s.entries, table.family)
    search.key = &s.key
    search.chance = &s.chance
    search.window = &opening.window if opening.state == RULE_TCP_SYN_SENT else NULL
    search.towards = NULL
    search.evicted = NIL


cdef inline void rule_evict(State* s, Table* table, Search* search) noexcept nogil:
    """End the connection whose port is taken over."""
    if search.evicted != NIL:
        connection_end(s, table, search.evicted)
        search.evicted = NIL


cdef inline Address address_mapped(const Range* to, const Address* address) noexcept nogil:
    """The address in NETMAP's network, ``low`` to ``high``, with the same host bits."""
    cdef Address mapped
    cdef uint32_t i
    for i in range(2):
        mapped.word[i] = to.low.word[i] | (address.word[i] & (to.low.word[i] ^ to.high.word[i]))
    return mapped


cdef inline uint8_t rule_apply(const Rule* rule, const Routes* routes, Search* search, Tuple* t,
                               bint source, int ingress) noexcept nogil:
    """Translate a new connection's tuple as the rule says."""
    cdef Range to = rule.to
    cdef const Address* towards = &t.destination
    cdef const Route* route
    if rule.target == TARGET_MASQUERADE:
        if search.towards != NULL:
            towards = search.towards
        route = route_find(routes, t.family, towards)
        if route == NULL or not route.has_source:
            return REASON_NO_ROUTE
        to.low = route.source
    elif rule.target == TARGET_REDIRECT:
        if ingress < 0 or not routes.interface[ingress].has_primary[t.family != IPV4]:
            return REASON_NO_ROUTE
        to.low = routes.interface[ingress].primary[t.family != IPV4]
    elif rule.target == TARGET_NETMAP:
        to.low = address_mapped(&rule.to, &t.source if source else &t.destination)
    if rule.target > TARGET_SNAT:
        to.high = to.low
        to.flags |= RANGE_ADDRESSES
    tuple_choose(search, &to, t, source)
    return REASON_NONE


cdef inline uint8_t rule_prerouting(State* s, Table* table, Search* search, const Seen* seen,
                                    Tuple* wanted) noexcept nogil:
    """Destination NAT, or none; why the packet is dropped."""
    cdef const Rule* rule = chain_find(&s.prerouting, wanted, seen)
    cdef uint8_t failed
    if rule == NULL:
        trace_step(s, TRACE_NO_RULE, 0, TARGET_DNAT, wanted)
        tuple_keep(search, wanted, False)
        return REASON_NONE
    failed = rule_apply(rule, &s.routes, search, wanted, False, seen.ingress)
    rule_evict(s, table, search)
    trace_step(s, TRACE_RULE, rule.number, TARGET_DNAT, wanted)
    return failed


cdef inline uint8_t ports_claim(State* s, const Rule* rule, const Address* client,
                                const Tuple* mapped, Opening* opening) noexcept nogil:
    """Note which pool a mapping is from; REASON_NONE if its client may have another port."""
    cdef uint32_t low, high
    port_range(&rule.to, mapped, True, &low, &high)
    pool_of_mapping(&opening.pool, mapped, low, high)
    pool_of_client(&opening.client, client, mapped.family)
    return (REASON_PORT_QUOTA if quota_is_reached(&s.pools, &s.key, &opening.client)
            else REASON_NONE)


cdef inline void entry_fill(State* s, Entries* entries, Entry* entry, const Opening* opening,
                            uint8_t protocol) noexcept nogil:
    """Let a flow's entry remember what its first packet said and what the rules made of it; a new
    mapping's port counts in its pool and for its client."""
    cdef uint32_t tick = <uint32_t>s.tick
    opening_store(opening, entries, entry, protocol)
    entry.masquerade = opening.masquerade
    if opening.pool.capacity:
        entry.pool = pool_take(&s.pools, &s.key, &opening.pool, tick, s.now) + 1
        entry.client = pool_take(&s.pools, &s.key, &opening.client, tick, s.now) + 1


cdef inline uint32_t flow_begin(State* s, Table* table, const Tuple* t, const Tuple* reply,
                                uint8_t state, uint32_t deadline, uint16_t flags) noexcept nogil:
    """Make the record and the entry of a flow; NIL if there is no room."""
    cdef uint32_t i = connection_open(table, &s.key, t, reply, 0, state, FLAG_SLOW | flags,
                                      deadline)
    if i == NIL:
        return NIL
    s.opened += 1
    entry_open(entries_of(s.entries, table.family), table, &s.key, i)
    return i


cdef inline uint32_t flow_open(State* s, Table* table, const Packet* packet, const Tuple* t,
                               const Tuple* wanted, const Opening* opening,
                               uint16_t flags) noexcept nogil:
    """Track a flow from its first packet on, of tuple ``t``, that leaves as ``wanted``; its
    record, or NIL if there is no room."""
    cdef Entries* entries = entries_of(s.entries, table.family)
    cdef Tuple reply = tuple_inverse(wanted)
    cdef uint32_t i = flow_begin(s, table, t, &reply, opening.state, s.tick_up + opening.timeout,
                                 flags)
    if i == NIL:
        return NIL
    entry_fill(s, entries, entry_of(entries, i), opening, packet.protocol)
    connection_count(table, i, ORIGINAL, packet.l3_length)
    return i


cdef inline bint address_is_none(const Address* address, uint8_t family) noexcept nogil:
    """Whether it is 0.0.0.0, the source of one that has no address yet."""
    return family == IPV4 and address.word[0] == 0


cdef inline uint8_t rule_postrouting(State* s, Table* table, Search* search, Seen* seen,
                                     const Tuple* leaving, Tuple* wanted,
                                     Opening* opening) noexcept nogil:
    """Source NAT of what is forwarded, or none; why the packet is dropped. ``leaving``: what the
    rules see, the packet as it leaves, where conntrack has another destination in ``wanted``."""
    cdef const Rule* rule
    cdef uint8_t failed = REASON_NONE
    cdef Address client = wanted.source
    rule = chain_find(&s.postrouting, leaving, seen)
    if (rule != NULL and rule.target == TARGET_MASQUERADE
            and address_is_none(&client, wanted.family)):
        rule = NULL         # it is asking for an address
    if rule == NULL:
        trace_step(s, TRACE_NO_RULE, 0, TARGET_SNAT, wanted)
        tuple_keep(search, wanted, True)
    else:
        failed = rule_apply(rule, &s.routes, search, wanted, True, seen.egress)
        trace_step(s, TRACE_RULE, rule.number, TARGET_SNAT, wanted)
        if rule.target == TARGET_MASQUERADE and is_hosted(s):
            opening.masquerade = <uint16_t>(seen.egress + 1)
        if failed == REASON_NONE and is_pooled(wanted.protocol):
            failed = ports_claim(s, rule, &client, wanted, opening)
    rule_evict(s, table, search)
    return failed
