"""What an engine is set to: module-level functions, a part of _engine.pyx."""


def sysctl_get(EngineCore engine not None, name):
    """A setting of IPVS's, by the kernel's name."""
    return engine.enter().sysctl[SYSCTLS.index(name)]


def sysctl_set(EngineCore engine not None, name, uint32_t value):
    """Change a setting of IPVS's."""
    cdef State* s = engine.enter()
    s.sysctl[<uint32_t>SYSCTLS.index(name)] = value
    defence_update(s)


def available_pages_get(EngineCore engine not None):
    """Pages of memory left, or None when nobody said."""
    cdef uint64_t pages = engine.enter().available_pages
    return None if pages == ALL_PAGES else pages


def available_pages_set(EngineCore engine not None, pages):
    """Tell the pages of memory left, or None for enough."""
    cdef State* s = engine.enter()
    s.available_pages = ALL_PAGES if pages is None else pages
    defence_update(s)


def jiffies_get(EngineCore engine not None):
    """Jiffies per second, 0 for none, and those at time 0."""
    cdef State* s = engine.enter()
    return s.jiffies.hz, s.jiffies.at_zero


def jiffies_set(EngineCore engine not None, uint32_t hz, uint64_t at_zero):
    """Let timers be as late as a kernel's of so many jiffies per second; 0: not at all."""
    cdef State* s = engine.enter()
    s.jiffies.hz = hz
    s.jiffies.at_zero = at_zero


def timeouts_get(EngineCore engine not None):
    """IPVS's timeouts in seconds: TCP, TCP behind a FIN, UDP."""
    cdef State* s = engine.enter()
    return (s.tracker.timeout[SERVICE_TCP + 1] // TICKS_PER_SECOND,
            s.tracker.timeout[SERVICE_TCP + 4] // TICKS_PER_SECOND,
            s.tracker.timeout[SERVICE_UDP] // TICKS_PER_SECOND)


def timeouts_set(EngineCore engine not None, uint32_t tcp, uint32_t tcp_fin, uint32_t udp):
    """Change IPVS's timeouts, in seconds; 0 keeps one."""
    cdef State* s = engine.enter()
    cdef uint32_t f, seconds
    cdef uint32_t least = PAST
    if tcp:
        s.tracker.timeout[SERVICE_TCP + 1] = tcp * TICKS_PER_SECOND
    if tcp_fin:
        s.tracker.timeout[SERVICE_TCP + 4] = tcp_fin * TICKS_PER_SECOND
    if udp:
        s.tracker.timeout[SERVICE_UDP] = udp * TICKS_PER_SECOND
    for seconds in (tcp, tcp_fin, udp):
        if seconds and seconds * TICKS_PER_SECOND < least:
            least = seconds * TICKS_PER_SECOND
    for f in range(2):
        table_horizon(&s.table[f], least)
