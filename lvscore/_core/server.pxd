"""Real servers: what they carry, their weight and their thresholds (ip_vs_ctl.c, ip_vs_conn.c)."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from lvscore._core.estimator cimport Estimator
from lvscore._core.flow cimport Address

cdef enum ServerFlag:
    SERVER_AVAILABLE = 1        # belongs to its service; cleared when it is removed
    SERVER_OVERLOADED = 2       # reached its upper threshold, and is not yet below the lower
    SERVER_ROUTED = 4           # the way to it is cached ...
    SERVER_ROUTED_BY = 8        # ... as one to the server whatever a packet's destination
    SERVER_RANKED = 16          # its scheduler ranks servers by load ...
    SERVER_MOVED = 32           # ... and its load has changed since the latest pick

cdef enum ForwardingMethod:     # include/uapi/linux/ip_vs.h
    METHOD_MASQUERADE = 0
    METHOD_LOCAL = 1
    METHOD_TUNNEL = 2
    METHOD_ROUTE = 3
    METHOD_BYPASS = 4

cdef enum TunnelType:           # IP_VS_CONN_F_TUNNEL_TYPE_*
    TUNNEL_IPIP = 0
    TUNNEL_GUE = 1
    TUNNEL_GRE = 2

cdef enum TunnelFlag:           # IP_VS_TUNNEL_ENCAP_FLAG_*
    TUNNEL_CHECKSUM = 1
    TUNNEL_REMOTE_CHECKSUM = 2


# How packets to a server of METHOD_TUNNEL are wrapped.
cdef struct Tunnel:
    uint8_t type
    uint8_t flags
    uint16_t port               # of GUE, as on the wire


# A real server: its first cache line is what every packet touches.
cdef struct Server:
    uint64_t packets[2]
    uint64_t bytes[2]
    uint64_t connections
    uint32_t active
    uint32_t inactive
    int32_t weight
    uint32_t flags
    uint32_t service
    uint16_t port               # as on the wire
    uint8_t family
    uint8_t method
    # second line: what begin and end of a connection touch
    Address address
    Address virtual_address     # of the service that it belongs or belonged to
    uint64_t service_serial
    uint64_t idle_since         # tick
    uint32_t upper_threshold    # 0: none
    uint32_t lower_threshold    # 0: three quarters of the upper
    uint32_t position           # in its service's list, while it is ranked
    uint16_t virtual_port
    uint8_t virtual_protocol
    uint8_t virtual_family
    # third line
    uint64_t base[5]            # counters when it joined its service; see service.pxd
    uint32_t held               # by the caches of lblc and lblcr
    uint32_t place              # mh, while the table is filled: next slot to try,
    uint32_t skip               # step to the one after,
    uint32_t turns              # and slots to take in a row
    uint32_t persistent         # templates that lead here
    Tunnel tunnel
    # fourth and fifth line
    Estimator estimator
    int32_t last_weight         # the last that was not 0, or 0 if it was added so
    uint32_t reserved_last


cdef inline bint server_usable(const Server* server) noexcept nogil:
    return server.weight > 0 and not server.flags & SERVER_OVERLOADED


cdef inline int64_t server_overhead(const Server* server) noexcept nogil:
    """An active connection weighs as much as 256 inactive ones (ip_vs.h)."""
    return <int64_t>server.active * 256 + server.inactive


cdef inline void server_judge(Server* server) noexcept nogil:
    """Set or clear OVERLOADED: full at the upper threshold, open again only below the lower.

    The same rule holds when a connection comes, when one goes and when thresholds are edited.
    """
    cdef uint64_t total = <uint64_t>server.active + server.inactive
    cdef bint opens = True
    if server.upper_threshold and total >= server.upper_threshold:
        server.flags |= SERVER_OVERLOADED
        return
    if server.lower_threshold:
        opens = total < server.lower_threshold
    elif server.upper_threshold:
        opens = 4 * total < 3 * <uint64_t>server.upper_threshold
    if opens:
        server.flags &= ~<uint32_t>SERVER_OVERLOADED


cdef inline void server_set(Server* server, int32_t weight, uint32_t upper,
                            uint32_t lower) noexcept nogil:
    """Give weight and thresholds, to a new server or another (__ip_vs_update_dest)."""
    server.weight = weight
    if weight:
        server.last_weight = weight
    server.upper_threshold = upper
    server.lower_threshold = lower
    server.flags &= ~<uint32_t>SERVER_ROUTED
    server_judge(server)


cdef inline void server_bind_template(Server* server) noexcept nogil:
    server.persistent += 1
    server_judge(server)


cdef inline void server_unbind_template(Server* server, uint64_t tick) noexcept nogil:
    server.persistent -= 1
    server.idle_since = tick
    server_judge(server)


cdef inline void server_bind(Server* server) noexcept nogil:
    """A connection begins: it is inactive until its state says otherwise (ip_vs_bind_dest)."""
    server.inactive += 1
    server_judge(server)


cdef inline void server_activate(Server* server, int32_t change) noexcept nogil:
    """A connection becomes active (1), or inactive (-1)."""
    server.active += change
    server.inactive -= change


cdef inline void server_unbind(Server* server, bint inactive, uint64_t tick) noexcept nogil:
    """A connection ends (ip_vs_unbind_dest)."""
    if inactive:
        server.inactive -= 1
    else:
        server.active -= 1
    server.idle_since = tick
    server_judge(server)
