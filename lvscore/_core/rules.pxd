"""Rules, and the tuple that they choose for a new connection (nf_nat_core.c, x_tables.c).

NAT rules run once for a connection: DNAT before routing, SNAT and masquerading behind it. The
reply tuple that results must be free, since netfilter's tuples are unique. Rules of the
raw table run for every packet and may give its flow a helper; rules of the mangle table for
every packet that a service may be looked up for, and mark it.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from lvscore._core.bytes cimport htonl, htons, ntohl, ntohs, rotate32
from lvscore._core.connection cimport Table, connection_tuple, table_find, table_meta
from lvscore._core.consts cimport (
    IPV4, NIL, ORIGINAL, PROTOCOL_ICMP, PROTOCOL_ICMPV6, REASON_NONE, REASON_NO_ROUTE, REPLY,
)
from lvscore._core.entry cimport Entries, source_head, source_next, window_of
from lvscore._core.flow cimport (
    Address, Tuple, address_equal, has_ports, ports_destination, ports_make, ports_source,
    tuple_hash, tuple_inverse,
)
from lvscore._core.hash cimport HashKey, random_next
from lvscore._core.index cimport Cursor, index_home, index_next, index_seek
from lvscore._core.machine cimport prefetch
from lvscore._core.route cimport Route, Routes, prefix_matches, route_find
from lvscore._core.tcp_window cimport TcpWindow, sequence_after
from lvscore._core.track cimport RULE_TCP_TIME_WAIT

cdef enum RuleTarget:
    TARGET_DNAT = 1
    TARGET_SNAT = 2
    TARGET_MASQUERADE = 3
    TARGET_REDIRECT = 4
    TARGET_NETMAP = 5
    TARGET_ACCEPT = 6           # no rule of the chain is consulted further
    TARGET_MARK = 7
    TARGET_CT = 8               # --helper ftp

cdef enum RuleMatch:            # a rule's matches that are negated
    MATCH_SOURCE = 0x01
    MATCH_DESTINATION = 0x02
    MATCH_PROTOCOL = 0x04
    MATCH_SOURCE_PORTS = 0x08
    MATCH_DESTINATION_PORTS = 0x10
    MATCH_INGRESS = 0x20
    MATCH_EGRESS = 0x40
    MATCH_MARK = 0x80
    MATCH_MULTIPORT = 0x100
    MATCH_VIRTUAL = 0x200

cdef enum MultiportSide:
    MULTIPORT_NONE = 0
    MULTIPORT_SOURCE = 1
    MULTIPORT_DESTINATION = 2
    MULTIPORT_EITHER = 3

cdef enum RangeFlag:            # include/uapi/linux/netfilter/nf_nat.h
    RANGE_ADDRESSES = 1
    RANGE_PORTS = 2
    RANGE_RANDOM = 4            # also --random-fully
    RANGE_PERSISTENT = 8
    RANGE_OFFSET = 32

cdef enum:
    MAX_RULES = 4096
    ANY_INTERFACE = -1
    SOME_INTERFACES = -2        # those whose names begin alike ("eth+")
    MULTIPORT_MAX = 15          # ports or ranges (xt_multiport.h: 15 ports, a range is two)
    PORT_ATTEMPTS = 128         # in a row, before another start is drawn (nf_nat_core.c)
    PORTS_AHEAD = 16
    HARD_ATTEMPTS = 32          # of these the last, which may evict a connection in TIME_WAIT


# What to translate to.
cdef struct Range:
    Address low
    Address high
    uint16_t port_low
    uint16_t port_high
    uint16_t port_base          # of RANGE_OFFSET: the port that port_low stands for
    uint16_t flags


cdef struct Rule:
    Address source
    Address destination
    Address virtual_address     # of the IPVS connection that the packet belongs to
    Range to
    uint64_t packets            # that consulted the chain and matched
    uint64_t bytes
    uint64_t ingress_set[4]     # bits of interfaces, for SOME_INTERFACES
    uint64_t egress_set[4]
    int ingress                 # the packet came by, ANY_INTERFACE or SOME_INTERFACES
    int egress                  # the packet leaves by, the same
    uint32_t number
    uint32_t mark
    uint32_t mark_mask          # 0: any mark
    uint32_t set_mark           # MARK: exclusive or, of what set_mask left
    uint32_t set_mask           # MARK: bits that are cleared
    uint16_t source_port_low, source_port_high              # host order
    uint16_t destination_port_low, destination_port_high
    uint16_t multiport[30]      # ranges, both ends
    uint16_t negated
    uint8_t multiports
    uint8_t multiport_side
    uint8_t source_length
    uint8_t destination_length
    uint8_t virtual_length
    uint8_t target
    uint8_t family
    uint8_t protocol            # 0: any
    bint has_virtual


cdef struct Chain:
    Rule* rule
    uint32_t count


# What rules see of a packet besides its tuple.
cdef struct Seen:
    const Address* virtual_address      # NULL: of no IPVS connection
    int ingress
    int egress
    uint32_t mark
    uint32_t length
    bint helped                         # a rule of the raw table gives its flow a helper


cdef inline bint port_in(uint32_t port, uint32_t low, uint32_t high) noexcept nogil:
    return low <= port <= high


cdef inline bint multiport_matches(const Rule* rule, uint32_t source,
                                   uint32_t destination) noexcept nogil:
    cdef uint32_t i
    for i in range(rule.multiports):
        if ((rule.multiport_side & MULTIPORT_SOURCE
             and port_in(source, rule.multiport[2 * i], rule.multiport[2 * i + 1]))
                or (rule.multiport_side & MULTIPORT_DESTINATION
                    and port_in(destination, rule.multiport[2 * i], rule.multiport[2 * i + 1]))):
            return True
    return False


cdef inline bint ports_match(const Rule* rule, const Tuple* t) noexcept nogil:
    cdef uint32_t source = ntohs(ports_source(t.ports))
    cdef uint32_t destination = ntohs(ports_destination(t.ports))
    if (port_in(source, rule.source_port_low, rule.source_port_high)
            == (rule.negated & MATCH_SOURCE_PORTS != 0)):
        return False
    if (port_in(destination, rule.destination_port_low, rule.destination_port_high)
            == (rule.negated & MATCH_DESTINATION_PORTS != 0)):
        return False
    return rule.multiport_side == MULTIPORT_NONE or (
        multiport_matches(rule, source, destination) != (rule.negated & MATCH_MULTIPORT != 0))


cdef inline bint interface_matches(int wanted, const uint64_t* set_, int given,
                                   bint negated) noexcept nogil:
    if wanted == SOME_INTERFACES:
        return (0 <= given < 256 and (set_[given >> 6] >> (given & 63)) & 1 != 0) != negated
    return wanted == ANY_INTERFACE or (wanted == given) != negated


cdef inline bint virtual_matches(const Rule* rule, const Seen* seen) noexcept nogil:
    """-m ipvs --vaddr: never of a packet that is of no IPVS connection (xt_ipvs.c)."""
    return seen.virtual_address != NULL and (
        prefix_matches(&rule.virtual_address, rule.virtual_length, seen.virtual_address)
        != (rule.negated & MATCH_VIRTUAL != 0))


cdef inline bint rule_matches(const Rule* rule, const Tuple* t, const Seen* seen) noexcept nogil:
    if rule.family != t.family:
        return False
    if rule.protocol and (rule.protocol == t.protocol) == (rule.negated & MATCH_PROTOCOL != 0):
        return False
    if (prefix_matches(&rule.source, rule.source_length, &t.source)
            == (rule.negated & MATCH_SOURCE != 0)):
        return False
    if (prefix_matches(&rule.destination, rule.destination_length, &t.destination)
            == (rule.negated & MATCH_DESTINATION != 0)):
        return False
    if not (interface_matches(rule.ingress, rule.ingress_set, seen.ingress,
                              rule.negated & MATCH_INGRESS != 0)
            and interface_matches(rule.egress, rule.egress_set, seen.egress,
                                  rule.negated & MATCH_EGRESS != 0)):
        return False
    if rule.mark_mask and (seen.mark & rule.mark_mask == rule.mark) == (
            rule.negated & MATCH_MARK != 0):
        return False
    if rule.has_virtual and not virtual_matches(rule, seen):
        return False
    return not has_ports(t.protocol) or ports_match(rule, t)


cdef inline Rule* chain_find(Chain* chain, const Tuple* t, const Seen* seen) noexcept nogil:
    """The first rule that matches and translates, or NULL; it counts the packet."""
    cdef uint32_t i
    cdef Rule* rule
    for i in range(chain.count):
        rule = &chain.rule[i]
        if rule_matches(rule, t, seen):
            rule.packets += 1
            rule.bytes += seen.length
            return NULL if rule.target == TARGET_ACCEPT else rule
    return NULL


cdef inline void chain_pass(Chain* chain, const Tuple* t, Seen* seen) noexcept nogil:
    """Let the raw or the mangle table note something about a packet; all rules are consulted."""
    cdef uint32_t i
    cdef Rule* rule
    for i in range(chain.count):
        rule = &chain.rule[i]
        if rule_matches(rule, t, seen):
            rule.packets += 1
            rule.bytes += seen.length
            if rule.target == TARGET_ACCEPT:
                return
            seen.helped |= rule.target == TARGET_CT
            seen.mark = (seen.mark & ~rule.set_mask) ^ rule.set_mark    # of CT: both are 0


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


cdef inline Address address_choose(const Range* to, const Tuple* t, bint source) noexcept nogil:
    """One address of the range, by a hash of source and destination: the same pair always gets the
    same, with RANGE_PERSISTENT the same source (nf_nat_core.c, find_best_ips_proto). Behind a word
    that is below the range's last, the following words may take any value."""
    cdef uint32_t from_[4]
    cdef uint32_t destination[4]
    cdef uint32_t low[4]
    cdef uint32_t high[4]
    cdef uint32_t words = 1 if t.family == IPV4 else 4
    cdef uint32_t i, j, first, distance
    cdef bint free = False
    cdef bint persistent = to.flags & RANGE_PERSISTENT != 0
    cdef Address chosen = to.low
    if not to.flags & RANGE_ADDRESSES:
        return t.source if source else t.destination
    if address_equal(&to.low, &to.high):
        return chosen
    memcpy(from_, &t.source, 16)
    memcpy(destination, &t.destination, 16)
    memcpy(low, &to.low, 16)
    memcpy(high, &to.high, 16)
    j = jhash2(from_, 4, 0 if persistent else destination[words - 1])
    for i in range(words):
        first = 0 if free else ntohl(low[i])
        distance = 0xFFFFFFFFU if free else ntohl(high[i]) - first + 1
        low[i] = htonl(first + <uint32_t>((<uint64_t>j * distance) >> 32))
        if low[i] != high[i]:
            free = True
        if not persistent:
            j ^= destination[i]
    memcpy(&chosen, low, 16)
    return chosen


# A search for a tuple whose answers no other connection gets.
cdef struct Search:
    const Table* table
    const Entries* entries
    const HashKey* key
    uint64_t* chance
    const TcpWindow* window     # of the new connection, whose first segment is a SYN; or NULL
    const Address* towards      # where its packets go, if not to their destination; or NULL
    uint32_t evicted            # the connection that has to go first, or NIL


cdef inline bint reply_is_free(const Search* search, const Tuple* t) noexcept nogil:
    """Whether no connection uses the tuple that answers to ``t`` would have."""
    cdef Tuple reply = tuple_inverse(t)
    return table_find(search.table, tuple_hash(search.key, &reply), &reply) == NIL


cdef inline bint address_within(const Address* low, const Address* high, const Address* address,
                                uint8_t family) noexcept nogil:
    cdef const uint8_t* a = <const uint8_t*>address
    cdef uint32_t size = 4 if family == IPV4 else 16
    return bytes_compare(a, <const uint8_t*>low, size) >= 0 and bytes_compare(
        a, <const uint8_t*>high, size) <= 0


cdef inline int bytes_compare(const uint8_t* a, const uint8_t* b, uint32_t size) noexcept nogil:
    cdef uint32_t i
    for i in range(size):
        if a[i] != b[i]:
            return -1 if a[i] < b[i] else 1
    return 0


cdef inline bint port_within(const Range* to, const Tuple* t, bint source) noexcept nogil:
    """Whether the port is within the range's, or the ICMP identifier."""
    cdef uint32_t port
    if t.protocol == PROTOCOL_ICMP or t.protocol == PROTOCOL_ICMPV6:
        source = True
    elif not has_ports(t.protocol):
        return True
    port = ntohs(ports_source(t.ports) if source else ports_destination(t.ports))
    return port_in(port, to.port_low, to.port_high)


cdef inline bint source_within(const Range* to, const Tuple* t) noexcept nogil:
    """Whether a source is one that the range may translate to (in_range)."""
    if to.flags & RANGE_ADDRESSES and not address_within(&to.low, &to.high, &t.source, t.family):
        return False
    return not to.flags & RANGE_PORTS or port_within(to, t, True)


cdef inline bint mapping_find(const Search* search, const Range* to, const Tuple* t,
                              Tuple* mapped) noexcept nogil:
    """What another connection of this source is translated to, if the range has it."""
    cdef uint32_t e = source_head(search.entries, search.key, t)[0] - 1
    cdef uint32_t i = source_next(search.entries, search.table, e, t)
    cdef Tuple reply
    while i != NIL:
        connection_tuple(search.table, i, REPLY, &reply)
        mapped[0] = t[0]
        mapped.source = reply.destination
        mapped.ports = ports_make(ports_destination(reply.ports), ports_destination(t.ports))
        if source_within(to, mapped):
            return True
        e = search.entries.entry[search.entries.entry_of[i]].next
        i = source_next(search.entries, search.table, e, t)
    return False


cdef inline bint translates_source(const Table* table, uint32_t i) noexcept nogil:
    cdef Tuple original, reply
    connection_tuple(table, i, ORIGINAL, &original)
    connection_tuple(table, i, REPLY, &reply)
    return not address_equal(&original.source, &reply.destination) or (
        ports_source(original.ports) != ports_destination(reply.ports))


cdef inline bint may_evict(Search* search, const Tuple* t) noexcept nogil:
    """Whether the connection that has the reply tuple is over and translated, and the new one
    is of a later sequence (nf_nat_used_tuple_harder)."""
    cdef Tuple reply = tuple_inverse(t)
    cdef uint32_t reference = table_find(search.table, tuple_hash(search.key, &reply), &reply)
    cdef uint32_t i = reference >> 1
    cdef const TcpWindow* window
    if reference & 1 == ORIGINAL or table_meta(search.table, i).state < RULE_TCP_TIME_WAIT:
        return False
    window = window_of(search.entries, i)
    if window == NULL or not translates_source(search.table, i) or not sequence_after(
            search.window.side[ORIGINAL].end, window.side[ORIGINAL].end):
        return False
    search.evicted = i
    return True


cdef inline void port_set(Tuple* t, bint source, uint16_t port) noexcept nogil:
    """Set the source's or the destination's port, given in host order."""
    if source:
        t.ports = ports_make(htons(port), ports_destination(t.ports))
    else:
        t.ports = ports_make(ports_source(t.ports), htons(port))


cdef inline uint16_t port_at(uint32_t low, uint32_t size, uint32_t offset) noexcept nogil:
    return <uint16_t>(low + (offset & 0xFFFF) % size)


cdef inline bint port_scan(const Search* search, Tuple* t, bint source, uint32_t low,
                           uint32_t size, uint32_t offset, uint32_t attempts) noexcept nogil:
    """Find a port whose reply tuple is free for sure, since no tag in the index is like its own.

    One of some ten thousand free ports is passed by, for another tuple's tag. Buckets are
    fetched ahead, more and more of them, for most searches end soon.
    """
    cdef uint64_t hash[16]
    cdef Tuple candidate = t[0]
    cdef Tuple reply
    cdef Cursor cursor
    cdef uint32_t ahead = 1
    cdef uint32_t i = 0
    cdef uint32_t k, count
    while i < attempts:
        count = ahead if ahead < attempts - i else attempts - i
        for k in range(count):
            port_set(&candidate, source, port_at(low, size, offset + i + k))
            reply = tuple_inverse(&candidate)
            hash[k] = tuple_hash(search.key, &reply)
            prefetch(&search.table.index.bucket[index_home(&search.table.index, hash[k])])
        for k in range(count):
            cursor = index_seek(&search.table.index, hash[k])
            if index_next(&search.table.index, &cursor) == NIL:
                port_set(t, source, port_at(low, size, offset + i + k))
                return True
        i += count
        if ahead < PORTS_AHEAD:
            ahead *= 2
    return False


cdef inline void port_search(Search* search, Tuple* t, bint source, uint32_t low, uint32_t high,
                             uint32_t offset, bint drawn) noexcept nogil:
    """Try ports of a range until the reply tuple is free; if none is, the last one stays.

    As the kernel does it (nf_nat_l4proto_unique_tuple): 128 attempts in a row, then from
    another start, drawn by lot, 64, and so on down to 8; a range with fewer ports is tried out.
    ``drawn``: so was the start, and any free port of those is as good as the first.
    """
    cdef uint32_t size = high - low + 1
    cdef uint32_t attempts = size if size < PORT_ATTEMPTS else PORT_ATTEMPTS
    cdef uint32_t i, plain
    while True:
        # Of the last attempts each may take over a connection that is in TIME_WAIT.
        plain = attempts if search.window == NULL else (
            attempts - HARD_ATTEMPTS if attempts > HARD_ATTEMPTS else 0)
        if drawn and port_scan(search, t, source, low, size, offset, plain):
            return
        for i in range(attempts):
            port_set(t, source, port_at(low, size, offset + i))
            if reply_is_free(search, t):
                return
            if attempts - i <= HARD_ATTEMPTS and search.window != NULL and may_evict(search, t):
                return
        if attempts >= size or attempts < 16:
            return
        attempts //= 2
        offset = <uint32_t>random_next(search.chance) & 0xFFFF
        drawn = True


cdef inline void port_range(const Range* to, const Tuple* t, bint source, uint32_t* low,
                            uint32_t* high) noexcept nogil:
    """The ports (ICMP: identifiers) that a mapping may choose from: the rule's range, or a source
    port's own class, 1-511, 600-1023 or 1024-65535 (nf_nat_l4proto_unique_tuple)."""
    cdef uint32_t port = ntohs(ports_source(t.ports) if source else ports_destination(t.ports))
    if to.flags & RANGE_PORTS:
        low[0] = to.port_low
        high[0] = to.port_high
    elif not has_ports(t.protocol):
        low[0] = 0
        high[0] = 0xFFFF
    elif port < 512:
        low[0] = 1
        high[0] = 511
    elif port < 1024:
        low[0] = 600
        high[0] = 1023
    else:
        low[0] = 1024
        high[0] = 65535
    if high[0] < low[0]:
        low[0], high[0] = high[0], low[0]


cdef inline void port_choose(Search* search, const Range* to, Tuple* t,
                             bint source) noexcept nogil:
    """Choose the port (ICMP: the identifier) of one side, so that the reply tuple is free.

    Without a range a destination port stays; from one it is drawn by lot as a source port is.
    """
    cdef uint32_t port, low, high, offset
    cdef bint drawn = False
    cdef bint icmp = t.protocol == PROTOCOL_ICMP or t.protocol == PROTOCOL_ICMPV6
    if not icmp and not has_ports(t.protocol):
        return
    if icmp:
        source = True
    if not source and not to.flags & RANGE_PORTS:
        return
    port = ntohs(ports_source(t.ports) if source else ports_destination(t.ports))
    port_range(to, t, source, &low, &high)
    offset = 0
    if to.flags & RANGE_OFFSET:
        offset = (port - to.port_base) & 0xFFFF
    else:
        offset = <uint32_t>random_next(search.chance) & 0xFFFF
        drawn = True
    port_search(search, t, source, low, high, offset, drawn)


cdef inline void tuple_choose(Search* search, const Range* to, Tuple* t,
                              bint source) noexcept nogil:
    """Translate one side of a new connection's tuple into a range (get_unique_tuple).

    Where nothing is free the last candidate stays: another translation may yet free it, else
    the packet is dropped in the end.
    """
    cdef Tuple given = t[0]
    if source and not to.flags & RANGE_RANDOM:
        if source_within(to, t):
            if reply_is_free(search, t):
                return
        elif mapping_find(search, to, &given, t) and reply_is_free(search, t):
            return
        t[0] = given
    if source:
        t.source = address_choose(to, &given, True)
    else:
        t.destination = address_choose(to, &given, False)
    if not to.flags & RANGE_RANDOM:
        if to.flags & RANGE_PORTS:
            if (not to.flags & RANGE_OFFSET and port_within(to, t, source)
                    and (to.port_low == to.port_high or reply_is_free(search, t))):
                return
        elif reply_is_free(search, t):
            return
    port_choose(search, to, t, source)


cdef inline void tuple_keep(Search* search, Tuple* t, bint source) noexcept nogil:
    """Translate nothing, but for a port where the reply tuple is taken (a null binding)."""
    cdef Range to
    to.low = t.source if source else t.destination
    to.high = to.low
    to.port_low = to.port_high = to.port_base = 0
    to.flags = RANGE_ADDRESSES
    tuple_choose(search, &to, t, source)


cdef inline Address address_mapped(const Range* to, const Address* address,
                                   uint8_t family) noexcept nogil:
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
    cdef const Route* route
    if rule.target == TARGET_MASQUERADE:
        route = route_find(routes, t.family,
                           &t.destination if search.towards == NULL else search.towards)
        if route == NULL or not route.has_source:
            return REASON_NO_ROUTE
        to.low = route.source
    elif rule.target == TARGET_REDIRECT:
        if ingress < 0 or not routes.interface[ingress].has_primary[t.family != IPV4]:
            return REASON_NO_ROUTE
        to.low = routes.interface[ingress].primary[t.family != IPV4]
    elif rule.target == TARGET_NETMAP:
        to.low = address_mapped(&rule.to, &t.source if source else &t.destination, t.family)
    if rule.target > TARGET_SNAT:
        to.high = to.low
        to.flags |= RANGE_ADDRESSES
    tuple_choose(search, &to, t, source)
    return REASON_NONE
