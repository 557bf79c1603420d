"""NAT rules, and the tuple that they choose for a new connection (nf_nat_core.c).

Rules run once for a connection: DNAT before routing, SNAT and masquerading behind it. The
reply tuple that results must be free, since netfilter's tuples are unique.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from lvscore._core.bytes cimport htonl, htons, ntohl, ntohs, rotate32
from lvscore._core.connection cimport Table, table_find
from lvscore._core.consts cimport (
    IPV4, NIL, PROTOCOL_ICMP, PROTOCOL_ICMPV6, REASON_NONE, REASON_NO_PORT, REASON_NO_ROUTE,
)
from lvscore._core.flow cimport (
    Address, Tuple, address_equal, has_ports, ports_destination, ports_make, ports_source,
    tuple_hash, tuple_inverse,
)
from lvscore._core.hash cimport HashKey, random_next
from lvscore._core.route cimport Route, Routes, prefix_matches, route_find

cdef enum RuleTarget:
    TARGET_DNAT = 1
    TARGET_SNAT = 2
    TARGET_MASQUERADE = 3

cdef enum:
    MAX_RULES = 4096
    ANY_INTERFACE = -1
    PORT_ATTEMPTS = 128     # in a row, before another start is drawn (nf_nat_core.c)


cdef struct Rule:
    Address source
    Address destination
    Address low             # range to translate to
    Address high
    uint64_t packets        # that consulted the chain and matched: one for each connection
    int interface           # the packet leaves by, ANY_INTERFACE
    uint32_t number
    uint16_t source_port_low, source_port_high              # host order
    uint16_t destination_port_low, destination_port_high
    uint16_t port_low, port_high
    uint8_t source_length
    uint8_t destination_length
    uint8_t target
    uint8_t family
    uint8_t protocol        # 0: any
    bint has_ports


cdef struct Chain:
    Rule* rule
    uint32_t count


cdef inline bint rule_matches(const Rule* rule, const Tuple* t, int interface) noexcept nogil:
    cdef uint32_t source, destination
    if rule.family != t.family or (rule.protocol and rule.protocol != t.protocol):
        return False
    if not (prefix_matches(&rule.source, rule.source_length, &t.source)
            and prefix_matches(&rule.destination, rule.destination_length, &t.destination)):
        return False
    if rule.interface != ANY_INTERFACE and rule.interface != interface:
        return False
    if has_ports(t.protocol):
        source = ntohs(ports_source(t.ports))
        destination = ntohs(ports_destination(t.ports))
        return (rule.source_port_low <= source <= rule.source_port_high
                and rule.destination_port_low <= destination <= rule.destination_port_high)
    return True


cdef inline Rule* chain_find(Chain* chain, const Tuple* t, int interface) noexcept nogil:
    """The first rule that matches, or NULL."""
    cdef uint32_t i
    for i in range(chain.count):
        if rule_matches(&chain.rule[i], t, interface):
            return &chain.rule[i]
    return NULL


cdef inline uint32_t jhash2(const uint32_t* word, uint32_t count, uint32_t seed) noexcept nogil:
    """Jenkins' lookup3 over 32-bit words (include/linux/jhash.h)."""
    cdef uint32_t a, b, c
    a = b = c = <uint32_t>0xDEADBEEFU + (count << 2) + seed
    while count > 3:
        a += word[0]
        b += word[1]
        c += word[2]
        a -= c
        a ^= rotate32(c, 4)
        c += b
        b -= a
        b ^= rotate32(a, 6)
        a += c
        c -= b
        c ^= rotate32(b, 8)
        b += a
        a -= c
        a ^= rotate32(c, 16)
        c += b
        b -= a
        b ^= rotate32(a, 19)
        a += c
        c -= b
        c ^= rotate32(b, 4)
        b += a
        word += 3
        count -= 3
    if count == 0:
        return c
    if count == 3:
        c += word[2]
    if count >= 2:
        b += word[1]
    a += word[0]
    c ^= b
    c -= rotate32(b, 14)
    a ^= c
    a -= rotate32(c, 11)
    b ^= a
    b -= rotate32(a, 25)
    c ^= b
    c -= rotate32(b, 16)
    a ^= c
    a -= rotate32(c, 4)
    b ^= a
    b -= rotate32(a, 14)
    c ^= b
    c -= rotate32(b, 24)
    return c


cdef inline Address address_choose(const Rule* rule, const Tuple* t) noexcept nogil:
    """One address of the rule's range, by a hash of source and destination.

    The same pair always gets the same address (nf_nat_core.c, find_best_ips_proto). Behind a
    word that is below the range's last, the following words may take any value.
    """
    cdef uint32_t source[4]
    cdef uint32_t destination[4]
    cdef uint32_t low[4]
    cdef uint32_t high[4]
    cdef uint32_t words = 1 if t.family == IPV4 else 4
    cdef uint32_t i, j, first, distance
    cdef bint free = False
    cdef Address chosen = rule.low
    if address_equal(&rule.low, &rule.high):
        return chosen
    memcpy(source, &t.source, 16)
    memcpy(destination, &t.destination, 16)
    memcpy(low, &rule.low, 16)
    memcpy(high, &rule.high, 16)
    j = jhash2(source, 4, destination[words - 1])
    for i in range(words):
        first = 0 if free else ntohl(low[i])
        distance = 0xFFFFFFFFU if free else ntohl(high[i]) - first + 1
        low[i] = htonl(first + <uint32_t>((<uint64_t>j * distance) >> 32))
        if low[i] != high[i]:
            free = True
        j ^= destination[i]
    memcpy(&chosen, low, 16)
    return chosen


cdef inline bint reply_is_free(const Table* table, const HashKey* key,
                               const Tuple* t) noexcept nogil:
    """Whether no connection uses the tuple that answers to ``t`` would have."""
    cdef Tuple reply = tuple_inverse(t)
    return table_find(table, tuple_hash(key, &reply), &reply) == NIL


cdef inline void port_set(Tuple* t, bint source, uint16_t port) noexcept nogil:
    """Set the source's or the destination's port, given in host order."""
    if source:
        t.ports = ports_make(htons(port), ports_destination(t.ports))
    else:
        t.ports = ports_make(ports_source(t.ports), htons(port))


cdef inline bint port_search(const Table* table, const HashKey* key, uint64_t* chance, Tuple* t,
                             bint source, uint32_t low, uint32_t high,
                             bint any_start) noexcept nogil:
    """Try ports of a range until the reply tuple is free.

    As the kernel does it (nf_nat_l4proto_unique_tuple): from a start drawn by lot, 128
    attempts in a row, then from another 64, and so on down to 8; a range with fewer ports is
    tried out.
    """
    cdef uint32_t size = high - low + 1
    cdef uint32_t attempts = size if size < PORT_ATTEMPTS else PORT_ATTEMPTS
    cdef uint32_t offset = <uint32_t>random_next(chance) & 0xFFFF if any_start else 0
    cdef uint32_t i
    while True:
        for i in range(attempts):
            port_set(t, source, <uint16_t>(low + (offset + i) % size))
            if reply_is_free(table, key, t):
                return True
        if attempts >= size or attempts < 16:
            return False
        attempts //= 2
        offset = <uint32_t>random_next(chance) & 0xFFFF


cdef inline uint8_t tuple_make_free(const Table* table, const HashKey* key, uint64_t* chance,
                                    Tuple* t, bint source, uint32_t low, uint32_t high,
                                    bint ranged) noexcept nogil:
    """Choose the port (ICMP: the identifier) of one side, so that the reply tuple is free.

    ``low``..``high`` count if ``ranged``; else the port is kept if it can be, and a source
    port is otherwise taken from its own class: 1-511, 600-1023 or 1024-65535.
    """
    cdef uint32_t port = ntohs(ports_source(t.ports) if source else ports_destination(t.ports))
    cdef bint icmp = t.protocol == PROTOCOL_ICMP or t.protocol == PROTOCOL_ICMPV6
    if ranged and has_ports(t.protocol):
        if low <= port <= high and (low == high or reply_is_free(table, key, t)):
            return REASON_NONE
    elif reply_is_free(table, key, t):
        return REASON_NONE
    elif icmp and source:
        low = 0
        high = 0xFFFF
    elif not source or not has_ports(t.protocol):
        return REASON_NO_PORT
    elif port < 512:
        low = 1
        high = 511
    elif port < 1024:
        low = 600
        high = 1023
    else:
        low = 1024
        high = 65535
    if port_search(table, key, chance, t, source, low, high, source):
        return REASON_NONE
    return REASON_NO_PORT


cdef inline uint8_t rule_apply(const Rule* rule, const Routes* routes, const Table* table,
                               const HashKey* key, uint64_t* chance, Tuple* t) noexcept nogil:
    """Translate a new connection's tuple as the rule says."""
    cdef bint source = rule.target != TARGET_DNAT
    cdef const Route* route
    cdef uint8_t failed
    if rule.target == TARGET_MASQUERADE:
        route = route_find(routes, t.family, &t.destination)
        if route == NULL or not route.has_source:
            return REASON_NO_ROUTE
        t.source = route.source
    elif source:
        t.source = address_choose(rule, t)
    else:
        t.destination = address_choose(rule, t)
    failed = tuple_make_free(table, key, chance, t, source, rule.port_low, rule.port_high,
                             rule.has_ports)
    # What is taken behind DNAT may become free with another source port.
    return failed if source else REASON_NONE
