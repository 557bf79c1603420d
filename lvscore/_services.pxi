"""Virtual services and real servers: module-level functions, a part of _engine.pyx."""


cdef int options_fill(ServiceOptions* options, object given) except -1:
    """Pack (IP_VS_SVC_F_* flags, persistence in seconds, netmask, persistence engine)."""
    flags, seconds, netmask, options.engine = given
    options.flags = flags
    options.timeout = seconds * <uint32_t>TICKS_PER_SECOND
    options.netmask = address_from(netmask)
    return 0


cdef Tunnel tunnel_from(object given) except *:
    """Pack (type, port, flags)."""
    cdef Tunnel tunnel
    tunnel.type, port, tunnel.flags = given
    tunnel.port = htons(port)
    return tunnel


def service_number(EngineCore engine not None, int family, int protocol, bytes address, int port):
    """The index of the service on exactly this; -1: there is none. Protocol 255: a mark, as an
    IPv4 address is written."""
    cdef State* s = engine.enter()
    cdef Address a = address_from(address)
    cdef uint32_t i = service_find(&s.services, family, protocol, &a, htons(port))
    return -1 if i == NIL else <object>i


def service_join(EngineCore engine not None, int family, int protocol, bytes address, int port,
                 uint32_t scheduler, uint32_t flags, tuple options):
    """Add a service that is not there; its index."""
    cdef State* s = engine.enter()
    cdef Address a = address_from(address)
    cdef ServiceOptions packed
    cdef uint32_t i
    options_fill(&packed, options)
    if protocol != PROTOCOL_MARK and not local_add(&s.routes, family, &a):
        raise MemoryError()
    i = service_add(&s.services, family, protocol, &a, htons(port), scheduler, flags, &packed,
                    s.tick)
    if i == NIL:
        if protocol != PROTOCOL_MARK:
            local_remove(&s.routes, family, &a)
        raise LimitError("no room for another virtual service")
    s.hooked[family == IPV6] += 1
    return i


def service_update(EngineCore engine not None, index, uint32_t scheduler, uint32_t flags,
                   tuple options):
    """Change a service's scheduler, flags and options."""
    cdef Service* service = engine.service(index)
    cdef ServiceOptions packed
    options_fill(&packed, options)
    if scheduler == <uint32_t>SCHEDULER_MH and service.scheduler.count > MAGLEV_SLOTS:
        raise LimitError(f"{service.scheduler.count} real servers; the scheduler mh has at "
                         f"most {MAGLEV_SLOTS}")
    if not scheduler_set(&engine.state.services, index, scheduler, flags, engine.state.tick):
        raise MemoryError()
    services_note(&engine.state.services, service, -1)
    service.options = packed
    services_note(&engine.state.services, service, 1)


def service_leave(EngineCore engine not None, index):
    """Remove a service and its servers."""
    cdef Service* service = engine.service(index)
    cdef State* s = engine.state
    cdef bint served = bool(service_members(engine, index))
    if service.protocol != PROTOCOL_MARK:
        local_remove(&s.routes, service.family, &service.address)
    s.hooked[service.family == IPV6] -= 1
    service_remove(&s.services, index, s.tick)
    if served:      # it is the removal of a server that starts this job (__ip_vs_del_dest)
        nodest_expire(s)


def services_all(EngineCore engine not None):
    """The indices of all services, in the order of adding."""
    cdef State* s = engine.enter()
    cdef uint32_t i
    found = [(s.services.service[i].serial, i) for i in range(s.services.service_used)
             if s.services.service[i].used]
    return [i for _, i in sorted(found)]


def service_record(EngineCore engine not None, index):
    """Family, protocol, address, port, scheduler, its flags, options."""
    cdef Service* service = engine.service(index)
    return (
        service.family, service.protocol,
        address_bytes(&service.address, IPV4 if service.protocol == PROTOCOL_MARK
                      else service.family),
        ntohs(service.port), service.scheduler.kind, service.scheduler.flags,
        (service.options.flags, service.options.timeout // <uint32_t>TICKS_PER_SECOND,
         address_bytes(&service.options.netmask, service.family), service.options.engine),
    )


def service_members(EngineCore engine not None, service):
    """The indices of a service's servers, the one added last first."""
    cdef Service* owner = engine.service(service)
    cdef uint32_t i
    return [owner.scheduler.list[i] for i in range(owner.scheduler.count)]


def service_counts(EngineCore engine not None, index):
    """Connections, packets in and out, bytes in and out of a service."""
    cdef uint64_t c[5]
    engine.service(index)
    service_counters(&engine.state.services, index, c)
    return c[0], c[1], c[2], c[3], c[4]


def services_counts(EngineCore engine not None):
    """The same of all services, also those that were removed."""
    cdef uint64_t c[5]
    services_counters(&engine.enter().services, c)
    return c[0], c[1], c[2], c[3], c[4]


def server_lookup(EngineCore engine not None, service, bytes address, int port):
    """The index of a service's server at exactly this address and port, or -1."""
    cdef Address a = address_from(address)
    cdef uint8_t family = IPV4 if len(address) == 4 else IPV6
    engine.service(service)
    cdef uint32_t i = server_find(&engine.state.services, service, family, &a, htons(port))
    return -1 if i == NIL else <object>i


def server_join(EngineCore engine not None, service, bytes address, int port, int method,
                int weight, uint32_t upper_threshold, uint32_t lower_threshold, tuple tunnel):
    """Put a server at the head of a service's list; its index."""
    cdef Address a = address_from(address)
    cdef uint8_t family = IPV4 if len(address) == 4 else IPV6
    cdef Tunnel packed = tunnel_from(tunnel)
    cdef Service* owner = engine.service(service)
    if (owner.scheduler.kind == <uint32_t>SCHEDULER_MH
            and owner.scheduler.count >= MAGLEV_SLOTS):
        raise LimitError(f"the scheduler mh has at most {MAGLEV_SLOTS} real servers")
    cdef uint32_t i = server_add(
        &engine.state.services, service, &a, family, htons(port), method, weight,
        upper_threshold, lower_threshold, packed, engine.state.tick)
    if i == NIL:
        raise LimitError("no room for another real server")
    return i


def server_update(EngineCore engine not None, index, int method, int weight,
                  uint32_t upper_threshold, uint32_t lower_threshold, tuple tunnel):
    """Change a server; its connections keep their forwarding method."""
    cdef Tunnel packed = tunnel_from(tunnel)
    engine.server(index)
    server_edit(&engine.state.services, index, method, weight, upper_threshold, lower_threshold,
                packed)


def server_leave(EngineCore engine not None, index):
    """Remove a server from its service."""
    engine.server(index)
    server_remove(&engine.state.services, index, engine.state.tick)
    nodest_expire(engine.state)


def server_record(EngineCore engine not None, index):
    """Address, port, method, weight, active, inactive and persistent connections, upper and
    lower threshold, whether it is overloaded, tunnel."""
    cdef Server* server = engine.server(index)
    return (address_bytes(&server.address, server.family), ntohs(server.port),
            server.method, server.weight, server.active, server.inactive, server.persistent,
            server.upper_threshold, server.lower_threshold,
            server.flags & SERVER_OVERLOADED != 0,
            (server.tunnel.type, ntohs(server.tunnel.port), server.tunnel.flags))


def server_counts(EngineCore engine not None, index):
    """Connections, packets in and out, bytes in and out of a server."""
    cdef uint64_t c[5]
    server_counters(engine.server(index), c)
    return c[0], c[1], c[2], c[3], c[4]


def service_estimate(EngineCore engine not None, index):
    """Counters and rates of a service, as of the estimator's last tick."""
    return estimate(&engine.service(index).estimator)


def services_estimated(EngineCore engine not None):
    """The same of all services together."""
    return estimate(&engine.enter().services.estimator)


def server_estimate(EngineCore engine not None, index):
    """The same of a server."""
    return estimate(&engine.server(index).estimator)


def service_zeroed(EngineCore engine not None, index):
    """Show a service's counters and its servers' from zero on."""
    engine.service(index)
    service_zero(&engine.state.services, index)


def services_zeroed(EngineCore engine not None):
    """Show all counters from zero on."""
    services_zero(&engine.enter().services)


def dialog_call_id(EngineCore engine not None, uint32_t dialog):
    """The Call-ID of a template's dialog."""
    cdef State* s = engine.enter()
    if dialog == 0 or dialog > s.dialogs.used:
        raise LookupError(f"no dialog {dialog}")
    return <bytes>(<char*>s.dialogs.dialog[dialog - 1].call_id)[
        :s.dialogs.dialog[dialog - 1].length]


# Helpers

def ftp_ports(EngineCore engine not None):
    """The ports of the FTP helper; none: it is off."""
    cdef Ftp* ftp = &engine.enter().ftp
    cdef uint32_t k
    return tuple([ntohs(ftp.port[k]) for k in range(ftp.ports)])


def ftp_ports_set(EngineCore engine not None, tuple ports):
    """Let the FTP helper look after connections to these ports from now on."""
    cdef Ftp* ftp = &engine.enter().ftp
    cdef uint32_t k
    if len(ports) > MAX_FTP_PORTS:
        raise LimitError(f"{len(ports)} ports; the helper takes at most {MAX_FTP_PORTS}")
    for k in range(<uint32_t>len(ports)):
        ftp.port[k] = htons(ports[k])
    ftp.ports = <uint32_t>len(ports)
