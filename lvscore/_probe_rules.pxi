"""rules.pxd and what they choose, a part of _probe.pyx."""


def jhash2(list words, uint32_t seed):
    cdef uint32_t memory[16]
    for i, word in enumerate(words[:16]):
        memory[i] = word
    return _jhash2(memory, <uint32_t>len(words), seed)


def address_choose(bytes low, bytes high, t, bint persistent=False, bint source=True):
    cdef _rules.Range to
    cdef Tuple u = tuple_from(t)
    to.low = address_from(low)
    to.high = address_from(high)
    to.flags = _rules.RANGE_ADDRESSES
    if persistent:
        to.flags |= _rules.RANGE_PERSISTENT
    cdef Address chosen = _address_choose(&to, &u, source)
    return (<char*>&chosen)[:len(low)]


def rule_match(t, *, int family=4, int protocol=0, bytes source=bytes(4), int source_length=0,
               bytes destination=bytes(4), int destination_length=0, source_ports=(0, 65535),
               destination_ports=(0, 65535), ingress=-1, int egress=-1, int negated=0,
               multiport=(), int multiport_side=0, mark=(0, 0), bytes virtual_address=None,
               int virtual_length=0, came_by=-1, leaves_by=-1, uint32_t marked=0,
               bytes virtual_of=None):
    cdef _rules.Rule rule
    cdef _rules.Seen seen
    cdef Tuple u = tuple_from(t)
    cdef Address address
    memset(&rule, 0, sizeof(rule))
    memset(&seen, 0, sizeof(seen))
    rule.family = family
    rule.protocol = protocol
    rule.source = address_from(source)
    rule.source_length = source_length
    rule.destination = address_from(destination)
    rule.destination_length = destination_length
    rule.source_port_low, rule.source_port_high = source_ports
    rule.destination_port_low, rule.destination_port_high = destination_ports
    if isinstance(ingress, tuple):
        rule.ingress = _rules.SOME_INTERFACES
        for k in ingress:
            rule.ingress_set[k >> 6] |= <uint64_t>1 << (k & 63)
    else:
        rule.ingress = ingress
    rule.egress = egress
    rule.negated = negated
    rule.multiport_side = multiport_side
    rule.multiports = <uint8_t>len(multiport)
    for k in range(len(multiport)):
        rule.multiport[2 * k], rule.multiport[2 * k + 1] = multiport[k]
    rule.mark, rule.mark_mask = mark
    if virtual_address is not None:
        rule.has_virtual = True
        rule.virtual_address = address_from(virtual_address)
        rule.virtual_length = virtual_length
    seen.ingress = came_by
    seen.egress = leaves_by
    seen.mark = marked
    if virtual_of is not None:
        address = address_from(virtual_of)
        seen.virtual_address = &address
    return bool(_rules.rule_matches(&rule, &u, &seen))


def rule_flow_state(int state, bint seen_reply, bint aged):
    return _rule_flow_state(<uint8_t>state, seen_reply, aged)
