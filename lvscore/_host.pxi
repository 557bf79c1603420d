"""What a Host calls: module-level functions of the compiled engine, a part of _engine.pyx."""


cdef Frames frames_of(FrameBatch batch) noexcept:
    """A batch as the pipeline sees it."""
    cdef Frames frames
    frames.data = batch.data
    frames.offset = batch.offset
    frames.length = batch.length
    # One array less to fetch where it says the same.
    frames.original_length = batch.original_length if batch.snapped else batch.length
    frames.timestamp = batch.timestamp
    frames.mark = batch.mark
    frames.verdict = batch.verdict
    frames.reason = batch.reason
    frames.egress = batch.egress
    frames.count = batch.count
    frames.link_type = batch.link_type
    frames.vnet_header = batch.vnet_header
    return frames


cdef int route_fill(Route* route, object given) except -1:
    """Pack a route of a Host."""
    family, kind, network, length, interface, source, gateway = given
    memset(route, 0, sizeof(Route))
    route.family = family
    route.kind = kind
    route.network = address_from(network)
    route.length = length
    route.interface = interface
    route.has_source = source is not None
    if source is not None:
        route.source = address_from(source)
    route.has_gateway = gateway is not None
    if gateway is not None:
        route.gateway = address_from(gateway)
    return 0


cdef void routes_changed(State* s) noexcept:
    """Forget where addresses lead."""
    paths_clear(&s.paths)
    next_hops_forget(&s.next_hops, &s.table[0], &s.table[1])


cdef int neighbour_tell(State* s, uint8_t family, const Address* address, uint32_t interface,
                        bytes mac) except -1:
    cdef Neighbour entry
    entry.family = family
    entry.address = address[0]
    entry.interface = interface
    memcpy(entry.mac, PyBytes_AS_STRING(mac), 6)
    if not neighbour_put(&s.routes, &entry):
        raise MemoryError("no memory for neighbours")
    return 0


def host_set(EngineCore engine not None, list interfaces, list routes, list neighbours):
    """Replace what a Host has told, and let only its addresses be local.

    Interfaces: (number, mtu, mac, whether a wire to one neighbour, rp_filter, send_redirects,
    accept_source_route, forwarding, forwarding of IPv6, (first IPv4 address or None, first IPv6
    address or None)).
    Routes, local and broadcast ones first and then those of the longest prefix: (family, kind,
    network, length, interface, source or None, gateway or None). Neighbours: (family, address,
    interface, mac).
    """
    cdef State* s = engine.enter()
    cdef uint32_t k, number
    cdef Interface* interface
    cdef Neighbour* table
    cdef Address address
    if len(routes) > MAX_ROUTES:
        raise LimitError(f"{len(routes)} routes; at most {MAX_ROUTES}")
    if any(given[0] >= MAX_INTERFACES for given in interfaces):
        raise LimitError(f"more than {MAX_INTERFACES} interfaces")
    table = <Neighbour*>calloc(2, sizeof(Neighbour))
    if table == NULL:
        raise MemoryError("no memory for neighbours")
    free(s.routes.neighbour)
    s.routes.neighbour = table
    s.routes.neighbour_mask = 1
    s.routes.neighbour_count = 0
    s.routes.hosted = True
    memset(s.routes.interface, 0, sizeof(s.routes.interface))
    for given in interfaces:
        number = given[0]
        interface = &s.routes.interface[number]
        interface.present = True
        (_, interface.mtu, mac, interface.point_to_point, interface.rp_filter,
         interface.send_redirects, interface.accept_source_route, interface.forwarding[0],
         interface.forwarding[1], primaries) = given
        memcpy(interface.mac, PyBytes_AS_STRING(mac), 6)
        for k in range(2):
            if primaries[k] is not None:
                interface.has_primary[k] = True
                interface.primary[k] = address_from(primaries[k])
    for k in range(<uint32_t>len(routes)):
        route_fill(&s.routes.route[k], routes[k])
    s.routes.count = <uint32_t>len(routes)
    for k in range(1, s.services.server_used):
        s.services.server[k].flags &= ~<uint32_t>SERVER_ROUTED
    for family, packed, number, mac in neighbours:
        address = address_from(packed)
        neighbour_tell(s, family, &address, number, mac)
    routes_changed(s)


def host_neighbour(EngineCore engine not None, int family, bytes address, uint32_t interface, mac):
    """Tell a neighbour's link address on an interface; None: it is not known any more."""
    cdef State* s = engine.enter()
    cdef Address a = address_from(address)
    if mac is None:
        neighbour_remove(&s.routes, family, interface, &a)
    else:
        neighbour_tell(s, family, &a, interface, mac)
    paths_clear(&s.paths)
    next_hops_resolve(&s.next_hops, &s.routes, family, interface)


def host_own(EngineCore engine not None, int family, bytes address, int change):
    """Make an address the Host's own (1), or no longer (-1)."""
    cdef State* s = engine.enter()
    cdef Address a = address_from(address)
    if change > 0 and not local_add(&s.routes, family, &a):
        raise MemoryError()
    s.routes.local[local_slot(&s.routes, family, &a)].own += change
    if change < 0:
        local_remove(&s.routes, family, &a)
    routes_changed(s)


def host_receive(EngineCore engine not None, bytearray frame not None, uint32_t interface, now,
                 uint32_t mark=0):
    """Take a frame that came in on an interface through the engine and the route stage.

    Returns:
        verdict, reason, interface that it leaves by (-1: none), next hop, whether its link
        address is known, whether a redirect is due (2: and dropped), MTU of the way out, whether
        it was on its way to a server, offset of a wrong option, what the sender of a packet in a
        tunnel is told (type, code, MTU: 8, 8, 16 bits).
    """
    cdef State* s = engine.enter()
    cdef int64_t time = now
    cdef uint8_t reason = 0
    cdef uint8_t verdict
    cdef uint32_t length = <uint32_t>len(frame)
    if interface >= MAX_INTERFACES or not s.routes.interface[interface].present:
        raise LookupError(f"no interface {interface}")
    clock_set(s, time)
    emitted_clear(&s.emitted)
    s.emitted.link_type = LINK_ETHERNET
    s.forward.now = time
    s.forward.ingress = interface
    s.forward.egress = NO_INTERFACE
    verdict = packet_process(s, <uint8_t*>PyByteArray_AS_STRING(frame), length, length, 1,
                             mark, &reason)
    s.forward.ingress = NO_INTERFACE
    frame_count(s, length, verdict, reason)
    engine.grow()
    s.last_reason = reason
    if s.forward.egress == NO_INTERFACE:
        return (VERDICTS[verdict], REASONS[reason], -1, b"", False, 0, 0,
                s.forward.request, s.forward.option_error, s.forward.tunnel_error)
    return (VERDICTS[verdict], REASONS[reason], s.forward.egress,
            address_bytes(&s.forward.next_hop, s.forward.family), s.forward.resolved,
            s.forward.redirect, s.forward.mtu, s.forward.request, s.forward.option_error,
            s.forward.tunnel_error)


cdef enum:
    QUOTED = 600                # bytes of a packet that an ICMP error quotes at most, and more


cdef bint offloads_read(State* s, FrameBatch batch, uint32_t i) noexcept nogil:
    """Tell the route stage what is left undone of a frame, and do what an engine that edits or
    wraps packets cannot leave undone; False: the frame has to be cut first."""
    cdef uint8_t* frame = batch.data + batch.offset[i]
    cdef const uint8_t* header = frame - VNET_HEADER
    cdef bint finish = s.ftp.ports != 0 or s.masters.count != 0 or s.services.tunnels
    s.forward.partial = False
    s.forward.segment_size = 0
    if not batch.vnet_header:
        return True
    s.forward.segment_size = load16(header + 4) if header[1] else 0
    s.forward.partial = header[0] & VNET_NEEDS_CSUM
    if finish and s.forward.segment_size:
        return False
    if finish and s.forward.partial:
        checksum_complete(frame, batch.length[i])
        s.forward.partial = False
    return True


cdef bint frame_trim(FrameBatch batch, uint32_t i, uint32_t mtu, bint super_frame) noexcept nogil:
    """Cut off what follows the packet that leaves; whether it fits the way out."""
    cdef const uint8_t* ip = batch.data + batch.offset[i] + 14
    cdef uint32_t length = (<uint32_t>load_be16(ip + 4) + 40 if ip[0] >> 4 == 6
                            else <uint32_t>load_be16(ip + 2))
    if length + 14 < batch.length[i]:
        batch.length[i] = length + 14
    return super_frame or length <= mtu


cdef enum Received:
    SENT_ON                     # it only has to be sent on
    TO_DO                       # it needs more
    TO_CUT                      # untouched: it has to be cut into its segments first


cdef Received frame_receive(State* s, FrameBatch batch, uint32_t i, uint32_t interface,
                            uint8_t* original, uint32_t* kept) noexcept nogil:
    """Take a frame, which is counted already, on the slow path."""
    cdef uint8_t* frame = batch.data + batch.offset[i]
    cdef uint8_t reason = 0
    cdef uint8_t verdict
    cdef bint super_frame
    emitted_clear(&s.emitted)
    kept[0] = 0
    if not offloads_read(s, batch, i):
        return TO_CUT
    super_frame = s.forward.segment_size != 0
    if s.routes.interface[interface].send_redirects:
        kept[0] = batch.length[i] if batch.length[i] < QUOTED else QUOTED
        memcpy(original, frame, kept[0])
    s.forward.now = batch.timestamp[i]
    s.forward.ingress = interface
    s.forward.egress = NO_INTERFACE
    verdict = packet_process(s, frame, batch.length[i], batch.length[i], LINK_ETHERNET, 0,
                             &reason)
    s.forward.ingress = NO_INTERFACE
    s.verdicts[verdict] += 1
    s.reasons[reason] += 1
    batch.verdict[i] = verdict
    batch.reason[i] = reason
    if (verdict == VERDICT_FORWARD and s.forward.resolved and not s.forward.redirect
            and s.emitted.count == 0 and frame_trim(batch, i, s.forward.mtu, super_frame)):
        batch.egress[i] = s.forward.egress
        return SENT_ON
    if s.forward.partial and not super_frame:       # each segment will get one of its own
        checksum_complete(frame, batch.length[i])
    return TO_DO


cdef void frames_uncount(State* s, const Frames* frames, uint32_t i, uint32_t end) noexcept nogil:
    """Take back that frames were counted, which will come once more."""
    s.frames -= end - i
    while i < end:
        s.bytes -= frames.length[i]
        i += 1


cdef uint32_t vector_receive(State* s, FrameBatch batch, const Frames* frames,
                             const Ingress* ingress, Vector* vector, uint8_t* original,
                             uint32_t* kept, Received* left) noexcept nogil:
    """Take a vector's frames, as vector_process does, up to the first that needs more than to be
    sent on; its index."""
    cdef Lane* lane = vector.lane
    cdef Table* table = &s.table[0]
    cdef uint32_t shadowings = table.shadowings
    cdef uint32_t first = vector.first
    cdef uint32_t count = vector.count
    cdef uint32_t j = 0
    cdef uint32_t begin, k
    if s.tracking and frames.original_length == frames.length:      # captured whole
        lanes_verify(s, frames, first, lane, count, True)
    while j < count:
        if likely(table.shadowings != shadowings, False):
            shadowings = table.shadowings
            lanes_forget(lane, j, count)
        clock_set(s, frames.timestamp[first + j])
        begin = j
        j = lanes_forward_hosted(s, frames, ingress, first, j, count, lane)
        if s.tracking:
            j = lanes_track_hosted(s, frames, ingress, first, j, count, lane)
        if likely(vector.sixes != 0, False) and j < count:
            k = lanes6_forward_hosted(s, frames, ingress, vector, j)
            if k > j:
                j = k
                continue
        if j == count or (j > begin and frames.timestamp[first + j] != s.now):
            continue
        begin = j
        table.deferring = True
        j = lanes_open_hosted(s, frames, ingress, first, j, count, lane)
        table.deferring = False
        if j > begin:
            continue
        table_settle(table)
        left[0] = frame_receive(s, batch, first + j, ingress.number, original, kept)
        if left[0] != SENT_ON:
            frames_uncount(s, frames, first + j + (left[0] == TO_DO), first + count)
            break
        j += 1
    return first + j


cdef uint32_t frames_receive(State* s, FrameBatch batch, const Frames* frames, uint32_t i,
                             uint32_t interface, uint8_t* original,
                             uint32_t* kept, Received* left) noexcept nogil:
    """Take frames from ``i`` on, vector by vector as batch_process does, up to the first that
    needs more than to be sent on; its index."""
    cdef Ingress ingress = ingress_of(s, interface)
    cdef Vector vector[2]
    cdef Vector* here = &vector[0]
    cdef Vector* ahead = &vector[1]
    vector_empty(here, i)
    while True:
        vector_begin(s, frames, here.first + here.count, ahead, True)
        i = vector_receive(s, batch, frames, &ingress, here, original, kept, left)
        if i < here.first + here.count or not ahead.count:
            break
        here, ahead = ahead, here
        vector_match(s, frames, here)
        if likely(here.sixes != 0, False):
            lanes6_match(s, frames, here)
        if s.tracking:
            lanes_fetch_windows(&s.entries[0], here.lane, here.count)
    table_settle(&s.table[0])
    return i


def host_receive_batch(EngineCore engine not None, FrameBatch batch not None,
                       uint32_t interface, uint32_t start):
    """Take frames from ``start`` on that came in on an interface, as :func:`host_receive`.

    What only has to be sent on has verdict FORWARD then, and ``egress`` says by which
    interface. It ends before the first frame that needs more.

    Returns:
        None at the batch's end; or the index of the frame that needs more, the frame as it came
        in, what became of it, what host_receive returns of it (None: it was not looked at, and
        has to be cut first), and of a super-frame the payload of a segment, or 0.
    """
    cdef State* s = engine.enter()
    cdef uint8_t original[600]
    cdef uint32_t kept = 0
    cdef uint32_t i, size
    cdef Received left = SENT_ON
    cdef Frames frames
    if interface >= MAX_INTERFACES or not s.routes.interface[interface].present:
        raise LookupError(f"no interface {interface}")
    batch.reserve_egress()
    frames = frames_of(batch)
    frames.link_type = LINK_ETHERNET
    engine.busy = True
    with nogil:
        s.emitted.link_type = LINK_ETHERNET
        i = frames_receive(s, batch, &frames, start, interface, original, &kept, &left)
        size = s.forward.segment_size
        s.forward.partial = False
        s.forward.segment_size = 0
    engine.busy = False
    engine.grow()
    if i >= batch.count:
        return None
    verdict, reason = batch.verdict[i], batch.reason[i]
    s.last_reason = reason
    before = <bytes>(<char*>original)[:kept]
    after = bytearray((<char*>batch.data + batch.offset[i])[:batch.length[i]])
    if left == TO_CUT:
        return i, before, after, None, size
    if s.forward.egress == NO_INTERFACE:
        return (i, before, after, (VERDICTS[verdict], REASONS[reason], -1, b"", False, 0, 0,
                s.forward.request, s.forward.option_error, s.forward.tunnel_error), size)
    return (i, before, after, (VERDICTS[verdict], REASONS[reason], s.forward.egress,
            address_bytes(&s.forward.next_hop, s.forward.family), s.forward.resolved,
            s.forward.redirect, s.forward.mtu, s.forward.request, s.forward.option_error,
            s.forward.tunnel_error), size)


def host_forward(EngineCore engine not None, FrameBatch batch not None, uint32_t interface,
                 uint32_t start, dict senders not None):
    """Take frames as :func:`host_receive_batch`, and let those that only have to be sent on be
    sent: by what ``senders`` has for the interface, called with batch, start, end, interface."""
    cdef uint32_t i, end
    cdef bint used[256]         # MAX_INTERFACES
    special = host_receive_batch(engine, batch, interface, start)
    end = batch.count if special is None else <uint32_t>special[0]
    memset(used, 0, sizeof(used))
    for i in range(start, end):
        if batch.verdict[i] == VERDICT_FORWARD and batch.egress[i] < MAX_INTERFACES:
            used[batch.egress[i]] = 1
    for number, send in senders.items():
        if used[<uint8_t>number]:
            send(batch, start, end, number)
    return special


def host_advance(EngineCore engine not None, now):
    """Let time pass until ``now``; whether something has been put out because of it."""
    cdef State* s = engine.enter()
    emitted_clear(&s.emitted)
    clock_set(s, now)
    state_expire(s)
    return s.emitted.count != 0


def host_segments(bytearray frame not None, uint32_t size):
    """The frames that a super-frame of TCP or UDP stands for, each with ``size`` bytes of payload
    at most and whole checksums; none if it is not whole."""
    cdef Segments plan
    cdef uint8_t* data = <uint8_t*>PyByteArray_AS_STRING(frame)
    cdef uint32_t k, length
    if not segments_plan(&plan, data, <uint32_t>len(frame), LINK_ETHERNET, size):
        return []
    cdef bytearray written = bytearray(plan.headers + size)
    cdef uint8_t* out = <uint8_t*>PyByteArray_AS_STRING(written)
    frames = []
    for k in range(plan.count):
        length = segment_write(&plan, data, k, out)
        frames.append(<bytes>(<char*>out)[:length])
    return frames


def host_emitted(EngineCore engine not None):
    """Frames that the latest call put out: verdict, reason, frame."""
    cdef Emitted* e = &engine.enter().emitted
    cdef uint32_t i
    return [(VERDICTS[e.frame[i].verdict], REASONS[e.frame[i].reason],
             <bytes>(<char*>e.data + e.frame[i].offset)[:e.frame[i].length])
            for i in range(e.count)]


def host_is_translated(EngineCore engine not None):
    """Whether the rules gave the latest packet, refused since, another destination; None if
    conntrack knows no flow that it is of."""
    cdef const State* s = engine.enter()
    return bool(s.forward.translated) if s.forward.tracked else None


def host_output(EngineCore engine not None, bytearray packet not None):
    """Let a packet of the Host's own pass the engine, which may translate it; False if it is
    dropped."""
    return packet_output(engine.enter(), <uint8_t*>PyByteArray_AS_STRING(packet),
                         <uint32_t>len(packet))


def route_get(EngineCore engine not None, int family, bytes destination):
    """The way to a destination: kind, interface, next hop, source or None; or None."""
    cdef State* s = engine.enter()
    cdef Address a = address_from(destination)
    cdef const Route* route = route_find(&s.routes, family, &a)
    if route == NULL:
        return None
    return (route.kind, route.interface,
            address_bytes(&route.gateway, family) if route.has_gateway else destination,
            address_bytes(&route.source, family) if route.has_source else None)


def sctp_checksummed(bytes packet not None):
    """An SCTP packet, of 12 bytes at least, with the right checksum."""
    cdef bytearray result = bytearray(packet)
    if len(result) < SCTP_HEADER:
        raise ConfigError(f"SCTP packet of {len(result)} bytes; expected {SCTP_HEADER} at least")
    sctp_checksum_write(<uint8_t*>PyByteArray_AS_STRING(result), <uint32_t>len(result))
    return bytes(result)
