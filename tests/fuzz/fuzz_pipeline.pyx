"""A libFuzzer target for the whole pipeline; no Python runs in it.

The input is a configuration byte, a link type byte and operations. Frames go through two
engines, in batches through one and one by one through the other: outcomes must be the same.
After every few operations both must keep the invariants of selfcheck.pxd.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport abort, calloc, free, malloc
from libc.string cimport memcmp, memcpy

from lvscore._core.bytes cimport htons
from lvscore._core.clock cimport clock_set, state_expire
from lvscore._core.consts cimport (
    IPV4, IPV6, LINK_ETHERNET, LINK_IPV4, LINK_IPV6, LINK_LINUX_SLL, LINK_LINUX_SLL2, LINK_NULL,
    LINK_RAW, NIL, PROTOCOL_MARK, PROTOCOL_TCP, REASON_COUNT,
)
from lvscore._core.emit cimport emitted_clear
from lvscore._core.flow cimport (
    Address, Tuple, address_load, has_ports, packet_tuple, ports_destination,
)
from lvscore._core.pipeline cimport Frames, batch_process, frame_count, packet_process
from lvscore._core.route cimport local_add, local_remove
from lvscore._core.rules cimport (
    ANY_INTERFACE, Chain, RANGE_ADDRESSES, RANGE_PERSISTENT, RANGE_PORTS, RANGE_RANDOM, Rule,
    TARGET_ACCEPT, TARGET_CT, TARGET_DNAT, TARGET_MASQUERADE, TARGET_NETMAP, TARGET_REDIRECT,
    TARGET_SNAT,
)
from lvscore._core.selfcheck cimport state_check
from lvscore._core.server cimport Tunnel
from lvscore._core.service cimport (
    SERVICE_ONE_PACKET, SERVICE_PERSISTENT, ServiceOptions, mark_address, server_add, server_edit,
    server_find, server_remove, service_add, service_find, service_remove,
)
from lvscore._core.state cimport (
    SYSCTL_CONNTRACK, SYSCTL_SLOPPY_SCTP, SYSCTL_SLOPPY_TCP, State, state_copy, state_free,
    state_init,
)
from lvscore._core.translate cimport tcp_checksum_write
from lvscore._core.wire cimport Packet, packet_parse

cdef enum:
    MAX_BATCH = 40
    MAX_FRAME = 512
    CONNECTIONS = 48        # few, so that the bound is reached


cdef struct Input:
    const uint8_t* data
    size_t left


# The two engines and the frames that wait for a batch.
cdef struct Harness:
    State one_by_one
    State batched
    int link_type
    int64_t now
    uint32_t count
    uint8_t* frame[40]
    uint64_t offset[40]
    uint32_t length[40]
    uint32_t wire_length[40]
    int64_t timestamp[40]
    uint32_t mark[40]
    uint8_t verdict[40]
    uint8_t reason[40]
    Tuple last              # of the latest frame that has one
    bint has_last


cdef inline int link_type_of(uint32_t choice) noexcept nogil:
    # No array: what a module's top level assigns is never there without an interpreter.
    if choice == 1:
        return LINK_RAW
    if choice == 2:
        return LINK_IPV4
    if choice == 3:
        return LINK_IPV6
    if choice == 4:
        return LINK_LINUX_SLL
    if choice == 5:
        return LINK_LINUX_SLL2
    if choice == 6:
        return LINK_NULL
    return LINK_ETHERNET


cdef inline uint32_t take(Input* source) noexcept nogil:
    cdef uint32_t value
    if source.left == 0:
        return 0
    value = source.data[0]
    source.data += 1
    source.left -= 1
    return value


cdef inline void require(bint condition) noexcept nogil:
    if not condition:
        abort()


cdef inline Address server_address(uint32_t number, uint8_t family) noexcept nogil:
    """One of few invented servers, so that several services share one."""
    cdef uint8_t raw[16]
    cdef uint32_t i
    for i in range(16):
        raw[i] = 0
    raw[0] = 10
    raw[3 if family == IPV4 else 15] = <uint8_t>(number & 3)
    return address_load(raw, family)


cdef inline void rule_add(State* s, const Harness* h, uint32_t choice) noexcept nogil:
    """A NAT rule that fits the latest frame."""
    cdef Chain* chain = &s.postrouting if choice & 1 else &s.prerouting
    cdef Rule* rules
    cdef Rule* rule
    if chain.count >= 8:
        return
    rules = <Rule*>calloc(chain.count + 1, sizeof(Rule))
    require(rules != NULL)
    if chain.count:
        memcpy(rules, chain.rule, chain.count * sizeof(Rule))
    rule = &rules[chain.count]
    if choice & 2:
        rule.target = TARGET_SNAT if choice & 1 else TARGET_DNAT
    elif choice & 128:
        rule.target = TARGET_MASQUERADE if choice & 1 else TARGET_REDIRECT
    else:
        rule.target = TARGET_NETMAP if choice & 64 else TARGET_ACCEPT
    rule.family = h.last.family
    rule.protocol = h.last.protocol if choice & 4 else 0
    if choice & 8:
        rule.destination = h.last.destination
        rule.destination_length = 32 if rule.family == IPV4 else 128
    rule.source_port_high = 65535
    rule.destination_port_high = 65535
    rule.ingress = ANY_INTERFACE
    rule.egress = ANY_INTERFACE
    rule.number = chain.count + 1
    rule.to.low = server_address(choice >> 4, rule.family)
    rule.to.high = server_address(3 if choice & 16 else choice >> 4, rule.family)
    rule.to.flags = RANGE_ADDRESSES
    if choice & 32:
        rule.to.flags |= RANGE_PORTS
        rule.to.port_low = 1000
        rule.to.port_high = <uint16_t>(1000 + (choice >> 6))
    if choice & 64:
        rule.to.flags |= RANGE_PERSISTENT if choice & 128 else RANGE_RANDOM
    free(chain.rule)
    chain.rule = rules
    chain.count += 1
    s.tracking = True


cdef inline void rules_clear(State* s) noexcept nogil:
    free(s.prerouting.rule)
    free(s.postrouting.rule)
    s.prerouting.rule = NULL
    s.postrouting.rule = NULL
    s.prerouting.count = 0
    s.postrouting.count = 0
    s.tracking = False


cdef inline void service_change(State* s, const Harness* h, uint32_t choice,
                                uint32_t more) noexcept nogil:
    """Add, change or remove the service at the latest frame's destination."""
    cdef Address address = h.last.destination
    cdef uint32_t service, place, server
    cdef uint32_t* servers
    cdef ServiceOptions options
    cdef Tunnel tunnel
    options.flags = more & (SERVICE_PERSISTENT | SERVICE_ONE_PACKET)
    options.timeout = 1000 * (1 + (more >> 4))
    options.netmask.word[0] = <uint64_t>0x00FFFFFFFFFFFFFFULL
    options.netmask.word[1] = <uint64_t>-(more & 1)
    tunnel.type = choice >> 1 & 3
    tunnel.flags = choice >> 3 & 1
    tunnel.port = htons(6080)
    if tunnel.type > 2:
        tunnel.type = 0
    if not has_ports(h.last.protocol):
        return
    if ports_destination(h.last.ports) == 0:
        return
    service = service_find(&s.services, h.last.family, h.last.protocol, &address,
                           ports_destination(h.last.ports))
    if service == NIL:
        if s.services.count < 6 and local_add(&s.routes, h.last.family, &address):
            s.hooked[h.last.family == IPV6] += 1
            require(service_add(&s.services, h.last.family, h.last.protocol, &address,
                                ports_destination(h.last.ports), choice % 15,
                                choice & 0x18, &options, s.tick) != NIL)
            if more & 8 and s.services.marks < 2:
                address = mark_address(1)
                if service_find(&s.services, h.last.family, PROTOCOL_MARK, &address, 0) == NIL:
                    options.flags |= SERVICE_PERSISTENT
                    require(service_add(&s.services, h.last.family, PROTOCOL_MARK, &address, 0,
                                        choice % 15, 0, &options, s.tick) != NIL)
        return
    servers = s.services.service[service].scheduler.list
    place = s.services.service[service].scheduler.count
    if choice & 0xC0 == 0xC0:
        local_remove(&s.routes, h.last.family, &address)
        s.hooked[h.last.family == IPV6] -= 1
        service_remove(&s.services, service, s.tick)
    elif choice & 0x40 and place:
        server = servers[more % place]
        if choice & 1:
            server_remove(&s.services, server, s.tick)
        else:
            server_edit(&s.services, server, more >> 6, <int>(more & 3), more >> 2 & 3, 0,
                        tunnel)
    elif place < 5:
        address = server_address(more, h.last.family)
        for server in range(place):
            if s.services.server[servers[server]].address.word[0] == address.word[0] \
                    and s.services.server[servers[server]].address.word[1] == address.word[1]:
                return
        require(server_add(&s.services, service, &address, h.last.family, htons(8080),
                           choice >> 4 & 3, <int>(1 + (more >> 2) % 3), more >> 4 & 3,
                           more >> 4 & 1, tunnel, s.tick) != NIL)
        if s.services.marks and more & 1:
            address = mark_address(1)
            service = service_find(&s.services, h.last.family, PROTOCOL_MARK, &address, 0)
            address = server_address(more, h.last.family)
            if service != NIL and server_find(&s.services, service, h.last.family, &address,
                                              0) == NIL:
                require(server_add(&s.services, service, &address, h.last.family, 0,
                                   choice >> 4 & 3, 1, 0, 0, tunnel, s.tick) != NIL)


cdef inline void frame_note(Harness* h, const uint8_t* data, uint32_t length,
                            uint32_t wire_length) noexcept nogil:
    """Keep a frame for the batch, in memory of exactly its size."""
    cdef Packet packet
    cdef uint8_t* copy = <uint8_t*>malloc(length if length else 1)
    require(copy != NULL)
    memcpy(copy, data, length)
    if packet_parse(&packet, copy, length, wire_length, h.link_type) == 0:
        # A helper drops what is wrong: half of its segments are right.
        if (h.one_by_one.ftp.ports and packet.protocol == PROTOCOL_TCP and length & 1
                and packet.l4_captured >= 20 and packet.l4_captured == packet.l4_length):
            tcp_checksum_write(&packet)
        packet_tuple(&packet, &h.last)
        h.has_last = True
    h.frame[h.count] = copy
    h.offset[h.count] = <uint64_t>copy - 1  # every frame is memory of its own: data is no base
    h.length[h.count] = length
    h.wire_length[h.count] = wire_length
    h.timestamp[h.count] = h.now
    h.mark[h.count] = h.now & 1
    h.count += 1


cdef inline void emitted_compare(Harness* h) noexcept nogil:
    """What both put out themselves, fragments, must be the same too."""
    cdef uint32_t i
    require(h.one_by_one.emitted.count == h.batched.emitted.count)
    require(h.one_by_one.emitted.used == h.batched.emitted.used)
    if h.batched.emitted.used:
        require(memcmp(h.one_by_one.emitted.data, h.batched.emitted.data,
                       h.batched.emitted.used) == 0)
    for i in range(h.batched.emitted.count):
        require(h.batched.emitted.frame[i].verdict == h.one_by_one.emitted.frame[i].verdict)
        require(h.batched.emitted.frame[i].reason == h.one_by_one.emitted.frame[i].reason)
        require(h.batched.emitted.frame[i].cause < h.count)
    emitted_clear(&h.one_by_one.emitted)
    emitted_clear(&h.batched.emitted)


cdef inline void frames_flush(Harness* h) noexcept nogil:
    """Send what waits, both ways, and compare."""
    cdef Frames frames
    cdef uint32_t i
    cdef uint8_t verdict, reason
    cdef uint8_t* single[40]
    for i in range(h.count):
        single[i] = <uint8_t*>malloc(h.length[i] if h.length[i] else 1)
        require(single[i] != NULL)
        memcpy(single[i], h.frame[i], h.length[i])
    frames.data = <uint8_t*>1
    frames.offset = h.offset
    frames.length = h.length
    frames.original_length = h.wire_length
    frames.timestamp = h.timestamp
    frames.mark = h.mark
    frames.verdict = h.verdict
    frames.reason = h.reason
    frames.count = h.count
    frames.vnet_header = False
    frames.egress = NULL
    frames.link_type = h.link_type
    batch_process(&h.batched, &frames)
    for i in range(h.count):
        reason = 0
        clock_set(&h.one_by_one, h.timestamp[i])
        verdict = packet_process(&h.one_by_one, single[i], h.length[i], h.wire_length[i],
                                 h.link_type, h.mark[i], &reason)
        frame_count(&h.one_by_one, h.length[i], verdict, reason)
        require(verdict == h.verdict[i] and reason == h.reason[i])
        require(reason != 0 and reason < REASON_COUNT and verdict < 5)
        require(memcmp(single[i], h.frame[i], h.length[i]) == 0)
        free(single[i])
        free(h.frame[i])
    emitted_compare(h)
    h.count = 0


cdef inline void harness_check(Harness* h) noexcept nogil:
    require(state_check(&h.one_by_one) == 0)
    require(state_check(&h.batched) == 0)
    require(h.one_by_one.opened == h.batched.opened)
    require(h.one_by_one.expired == h.batched.expired)
    require(h.one_by_one.frames == h.batched.frames)
    require(h.one_by_one.chance == h.batched.chance)
    require(h.one_by_one.table[0].count == h.batched.table[0].count)
    require(h.one_by_one.table[1].count == h.batched.table[1].count)


cdef inline void copy_check(Harness* h) noexcept nogil:
    """A copy, as explain makes it, keeps the same invariants."""
    cdef State* copy = <State*>calloc(1, sizeof(State))
    require(copy != NULL and state_copy(copy, &h.batched))
    require(state_check(copy) == 0)
    state_free(copy)
    free(copy)


cdef inline void operate(Harness* h, Input* source, uint32_t op) noexcept nogil:
    """One operation that is no frame."""
    cdef uint32_t choice = take(source)
    cdef uint32_t more = take(source)
    frames_flush(h)
    if op == 10:
        h.now += <int64_t>(choice + 1) << (more % 40)
    elif op == 11:
        h.now -= <int64_t>choice << (more % 32)
    elif op == 12:
        clock_set(&h.one_by_one, h.now)
        clock_set(&h.batched, h.now)
        require(state_expire(&h.one_by_one) == state_expire(&h.batched))
        harness_check(h)
    elif op == 13 and h.has_last:
        service_change(&h.one_by_one, h, choice, more)
        service_change(&h.batched, h, choice, more)
    elif op == 14 and h.has_last:
        rule_add(&h.one_by_one, h, choice)
        rule_add(&h.batched, h, choice)
    elif choice & 1:
        rules_clear(&h.one_by_one)
        rules_clear(&h.batched)
    else:
        copy_check(h)


cdef inline bint raw_add(State* s) noexcept nogil:
    """Give all TCP flows of the rules a helper."""
    cdef uint32_t k
    s.raw.rule = <Rule*>calloc(2, sizeof(Rule))
    if s.raw.rule == NULL:
        return False
    s.raw.count = 2
    for k in range(2):
        s.raw.rule[k].target = TARGET_CT
        s.raw.rule[k].family = IPV6 if k else IPV4
        s.raw.rule[k].protocol = PROTOCOL_TCP
        s.raw.rule[k].source_port_high = 0xFFFF
        s.raw.rule[k].destination_port_high = 0xFFFF
        s.raw.rule[k].ingress = ANY_INTERFACE
        s.raw.rule[k].egress = ANY_INTERFACE
    return True


cdef inline bint harness_init(Harness* h, uint32_t configuration) noexcept nogil:
    """Two equal engines; some have routes to masquerade by, or take flows from the middle."""
    cdef State* s
    cdef uint32_t k
    cdef uint8_t family
    for k in range(2):
        s = &h.batched if k else &h.one_by_one
        if not state_init(s, CONNECTIONS, configuration, 1):
            return False
        s.sysctl[SYSCTL_SLOPPY_SCTP] = configuration >> 2 & 1
        s.sysctl[SYSCTL_SLOPPY_TCP] = configuration >> 3 & 1
        s.sysctl[SYSCTL_CONNTRACK] = configuration >> 5 & 1
        s.jiffies.hz = 100 if configuration & 64 else 0
        if configuration & 16:
            s.ftp.port[0] = htons(21)
            s.ftp.ports = 1
            require(raw_add(s))
        if configuration & 1:
            for family in range(IPV4, IPV6 + 1, 2):
                s.routes.route[s.routes.count].family = family
                s.routes.route[s.routes.count].has_source = (configuration & 2) == 0
                s.routes.route[s.routes.count].source = server_address(3, family)
                s.routes.count += 1
    return True


cdef public int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) noexcept nogil:
    cdef Input source
    cdef Harness* h
    cdef uint32_t op, length, wire_length, configuration
    source.data = data
    source.left = size
    h = <Harness*>calloc(1, sizeof(Harness))
    configuration = take(&source)
    require(h != NULL and harness_init(h, configuration))
    h.link_type = link_type_of(take(&source) & 7)
    h.now = <int64_t>configuration * 1000000
    while source.left:
        op = take(&source)
        if op & 15 >= 10:
            operate(h, &source, op & 15)
            continue
        length = take(&source) + (op & 128) * 2
        if length > source.left:
            length = <uint32_t>source.left
        if length > MAX_FRAME:
            length = MAX_FRAME
        wire_length = length + (100 if op & 64 else 0)
        frame_note(h, source.data, length, wire_length)
        source.data += length
        source.left -= length
        if h.count == MAX_BATCH:
            frames_flush(h)
    frames_flush(h)
    harness_check(h)
    # Past every timeout nothing is left.
    h.now += <int64_t>500000 * 1000000000
    if h.now < h.batched.now:
        h.now = h.batched.now + <int64_t>500000 * 1000000000
    for op in range(2):
        clock_set(&h.batched if op else &h.one_by_one, h.now)
        state_expire(&h.batched if op else &h.one_by_one)
    harness_check(h)
    require(h.batched.table[0].count + h.batched.table[1].count == 0)
    require(h.batched.fragments.count == 0 and h.batched.fragments.bytes == 0)
    state_free(&h.one_by_one)
    state_free(&h.batched)
    free(h)
    return 0
