"""Rules, and which of them a packet matches (x_tables.c).

NAT rules are asked once for a connection: DNAT before routing, SNAT and masquerading behind it.
Rules of the raw table run for every packet and may give its flow a helper; rules of the mangle
table for every packet that a service may be looked up for, and mark it.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from lvscore._core.bytes cimport ntohs
from lvscore._core.flow cimport Address, Tuple, has_ports, ports_destination, ports_source
from lvscore._core.route cimport prefix_matches

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
    uint16_t multiport[30]      # ranges, both ends (xt_multiport.h: 15 ports, a range is two)
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
