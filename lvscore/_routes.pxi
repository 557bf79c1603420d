"""Routes, interfaces and local addresses: module-level functions, a part of _engine.pyx."""


def routes_set(EngineCore engine not None, list routes):
    """Replace all routes: (family, network, length, interface, source or None)."""
    cdef State* s = engine.enter()
    cdef uint32_t k
    if len(routes) > MAX_ROUTES:
        raise LimitError(f"{len(routes)} routes; at most {MAX_ROUTES}")
    ordered = sorted(routes, key=lambda route: -route[2])
    for k in range(<uint32_t>len(ordered)):
        family, network, length, interface, source = ordered[k]
        route_fill(&s.routes.route[k],
                   (family, ROUTE_UNICAST, network, length, interface, source, None))
    s.routes.count = <uint32_t>len(ordered)


def local_address_add(EngineCore engine not None, int family, bytes address):
    """Make an address local; as often as it is added, it has to be removed."""
    cdef Address a = address_from(address)
    if not local_add(&engine.enter().routes, family, &a):
        raise MemoryError()


def local_address_remove(EngineCore engine not None, int family, bytes address):
    """Make an address local no longer."""
    cdef Address a = address_from(address)
    local_remove(&engine.enter().routes, family, &a)


def interface_present(EngineCore engine not None, uint32_t number):
    """Whether a Host has the interface of this number."""
    cdef State* s = engine.enter()
    return number < MAX_INTERFACES and bool(s.routes.interface[number].present)
