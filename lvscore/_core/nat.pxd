"""The NAT rules for the first packet of a flow (nf_nat_core.c): destination NAT before routing,
source NAT behind it. What no rule translates may yet need another port (a null binding)."""

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memset

from lvscore._core.connection cimport Table
from lvscore._core.consts cimport NIL, REASON_NONE
from lvscore._core.entry cimport entries_of
from lvscore._core.flow cimport Tuple
from lvscore._core.lifetime cimport connection_end
from lvscore._core.progress cimport Opening
from lvscore._core.rules cimport (
    ANY_INTERFACE, Rule, Search, Seen, TARGET_DNAT, TARGET_MASQUERADE, TARGET_SNAT, chain_find,
    rule_apply, tuple_keep,
)
from lvscore._core.state cimport State, TRACE_NO_RULE, TRACE_RULE, is_hosted, trace_step
from lvscore._core.track cimport RULE_TCP_SYN_SENT
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
    search.evicted = NIL


cdef inline void rule_evict(State* s, Table* table, Search* search) noexcept nogil:
    """End the connection whose port is taken over."""
    if search.evicted != NIL:
        connection_end(s, table, search.evicted, True)
        search.evicted = NIL


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


cdef inline uint8_t rule_postrouting(State* s, Table* table, Search* search, Seen* seen,
                                     Tuple* wanted, Opening* opening) noexcept nogil:
    """Source NAT of what is forwarded, or none; why the packet is dropped."""
    cdef const Rule* rule
    cdef uint8_t failed = REASON_NONE
    rule = chain_find(&s.postrouting, wanted, seen)
    if rule == NULL:
        trace_step(s, TRACE_NO_RULE, 0, TARGET_SNAT, wanted)
        tuple_keep(search, wanted, True)
    else:
        failed = rule_apply(rule, &s.routes, search, wanted, True, seen.egress)
        trace_step(s, TRACE_RULE, rule.number, TARGET_SNAT, wanted)
        if rule.target == TARGET_MASQUERADE and is_hosted(s):
            opening.masquerade = <uint16_t>(seen.egress + 1)
    rule_evict(s, table, search)
    return failed
