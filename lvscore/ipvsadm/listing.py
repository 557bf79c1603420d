"""What ipvsadm prints, byte for byte: the table, the connections, the saved rules.

Everything here only reads; trailing blanks are ipvsadm's own.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, TypeVar

from lvscore.addresses import Endpoint
from lvscore.ipvsadm.values import FORWARD, HEADER, PROTOCOLS, format_endpoint

if TYPE_CHECKING:
    from lvscore.connections import Connection
    from lvscore.engine import Engine
    from lvscore.services import Server, Service

__all__ = ["COLUMNS", "format_connections", "format_listing", "format_saved"]

_T = TypeVar("_T")
_METHOD_OPTION = {"masquerade": "-m", "route": "-g", "tunnel": "-i", "local": "-g"}
_STATES = {
    "COOKIE_SENT": "C-SENT",
    "COOKIE_REPLIED": "C-REPLIED",
    "COOKIE_WAIT": "C-WAIT",
    "COOKIE_ECHOED": "C-ECHOED",
    "SHUTDOWN_SENT": "S-SENT",
    "SHUTDOWN_RECEIVED": "S-RECEIVED",
    "SHUTDOWN_ACK_SENT": "S-ACK-SENT",
}
"""States that IPVS prints by another name than the standard's (ip_vs_proto_sctp.c)."""
_SELECTOR = {"tcp": "-t", "udp": "-u", "sctp": "--sctp-service"}

_TITLES = {
    "stats": "{:<33} {:>8} {:>8} {:>8} {:>8} {:>8}".format(
        "Prot LocalAddress:Port", "Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"
    ),
    "rate": "{:<33} {:>8} {:>8} {:>8} {:>8} {:>8}".format(
        "Prot LocalAddress:Port", "CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"
    ),
    "thresholds": "{:<33} {:<10} {:<10} {:<10} {:<10}".format(
        "Prot LocalAddress:Port", "Uthreshold", "Lthreshold", "ActiveConn", "InActConn"
    ),
    "persistent-conn": "{:<33} {:<9} {:<11} {:<10} {:<10}".format(
        "Prot LocalAddress:Port", "Weight", "PersistConn", "ActiveConn", "InActConn"
    ),
}
_TITLE = "Prot LocalAddress:Port Scheduler Flags"
_SERVERS_TITLE = "  -> RemoteAddress:Port"
_SERVERS_TITLES = {
    "": f"{_SERVERS_TITLE}           Forward Weight ActiveConn InActConn",
    "tun-info": f"{_SERVERS_TITLE}           Forward TunnelInfo    Weight ActiveConn InActConn",
}

COLUMNS = ("stats", "rate", "thresholds", "persistent-conn", "tun-info")
"""The sets of columns besides the default one; where several are asked for, the first counts."""


@dataclass(frozen=True, slots=True)
class _Format:
    columns: str
    numeric: bool
    exact: bool
    current: bool

    def service(self, service: "Service") -> str:
        if service.endpoint is None:
            name = f"FWM  {_signed(service.mark)}" + (" IPv6" if service.family == 6 else "")
        else:
            name = f"{service.protocol.upper():<4} {self._name(service.endpoint, service)}"
        if service.family == 4:
            name = name[:33]
        if self.columns in ("stats", "rate"):
            return f"{name:<33}{self._counts(self._numbers(service))}"
        parts = [name, service.scheduler]
        if service.scheduler_flags:
            parts.append(f"({_flags(service)})")
        if service.persistence:
            parts.append(f"persistent {service.persistence}")
            if (mask := netmask(service)) is not None:
                parts.append(f"mask {mask}")
            if service.persistence_engine:
                parts.append(f"pe {service.persistence_engine}")
        if service.one_packet:
            parts.append("ops")
        return " ".join(parts)

    def server(self, server: "Server") -> str:
        name = self._name(server.endpoint, server.service)
        if server.address.version == 4:
            name = name[:28]
        line = f"  -> {name:<28}"
        counts = f"{server.active:<10} {server.inactive:<10}"
        match self.columns:
            case "stats":
                return line + self._counts(self._numbers(server))
            case "rate":
                *rates, inbps, outbps = self._numbers(server)
                return (
                    line + "".join(f" {rate:>8}" for rate in rates) + self._counts((inbps, outbps))
                )
            case "thresholds":
                return f"{line} {server.upper_threshold:<10} {server.lower_threshold:<10} {counts}"
            case "persistent-conn":
                return f"{line} {server.weight:<9} {server.persistent:<11} {counts}"
            case "tun-info":
                tunnel = f" {_tunnel_info(server):<13}"
            case _:
                tunnel = ""
        return f"{line} {FORWARD[server.method]:<7}{tunnel} {server.weight:<6} {counts}"

    def _name(self, endpoint: Endpoint, service: "Service") -> str:
        protocol = PROTOCOLS.get(service.protocol, 0)
        return format_endpoint(endpoint, protocol, numeric=self.numeric)

    def _numbers(self, of: "Service | Server") -> tuple[int, ...]:
        if self.columns == "rate":
            return astuple(of.rate)
        return astuple(of.statistics if self.current else of.listed_statistics)

    def _counts(self, numbers: Iterable[int]) -> str:
        return "".join(format_count(number, exact=self.exact) for number in numbers)


def _signed(mark: int) -> int:
    """A firewall mark as ipvsadm prints it: marks of 2**31 and more are negative."""
    return mark - 2**32 if mark >= 2**31 else mark


def netmask(service: "Service") -> str | None:
    """The mask of a persistent service, or ``None`` if it is the default one."""
    mask = service.netmask
    return None if mask in (128, IPv4Address(2**32 - 1)) else str(mask)


def _tunnel_info(server: "Server") -> str:
    if server.method != "tunnel":
        return "n/a"
    tunnel = server.tunnel
    checksum = {"": "-c", "nocsum": "-c", "csum": "+c", "remcsum": "r+c"}[tunnel.checksum]
    match tunnel.type:
        case "gue":
            return f"gue:{tunnel.port}:{checksum}"
        case "gre":
            return f"gre:{checksum}"
    return tunnel.type


def _tunnel_options(server: "Server") -> str:
    if server.method != "tunnel":
        return ""
    tunnel = server.tunnel
    options = f" --tun-type {tunnel.type}"
    if tunnel.type == "gue":
        options += f" --tun-port {tunnel.port}"
    if tunnel.type != "ipip":
        options += f" --tun-{tunnel.checksum or 'nocsum'}"
    return options


def format_count(number: int, *, exact: bool = False) -> str:
    """Return a counter in a column of nine; large ones cut to thousands, millions ..."""
    if exact:
        return f"{number:>{max(9, len(str(number)) + 1)}}"
    for limit, divisor, unit in (
        (10**8, 1, ""),
        (10**9, 10**3, "K"),
        (10**11, 10**6, "M"),
        (10**14, 10**9, "G"),
    ):
        if number < limit:
            return f"{number // divisor:>{9 - len(unit)}}{unit}"
    return f"{number // 10**12:>8}T"


def format_listing(
    engine: "Engine",
    service: "Service | None" = None,
    *,
    columns: str = "",
    numeric: bool = True,
    exact: bool = False,
    sort: bool = True,
    current: bool = False,
) -> str:
    """Return what ``ipvsadm -L`` prints.

    Args:
        engine: the engine to list.
        service: only this service, without the version line.
        columns: one of :data:`COLUMNS`, or ``""``.
        numeric: ports as numbers (``-n``), not by their names in the services database.
            Addresses are always numeric.
        exact: numbers in full (``--exact``).
        sort: in ipvsadm's order, not in the order of adding (``--nosort``).
        current: statistics as they are now, not as of the latest estimation and since ``-Z``.
    """
    layout = _Format(columns, numeric, exact, current)
    lines = [
        _TITLES.get(columns, _TITLE),
        _SERVERS_TITLES.get(columns, _SERVERS_TITLE if columns else _SERVERS_TITLES[""]),
    ]
    services = engine.services if service is None else [service]
    for listed in sorted_services(services) if sort else services:
        lines.append(layout.service(listed))
        servers = sorted_servers(listed.servers) if sort else listed.servers
        lines += [layout.server(server) for server in servers]
    return ("" if service else HEADER) + "".join(f"{line}\n" for line in lines)


def format_connections(
    engine: "Engine", *, numeric: bool = True, persistence_engines: bool = False
) -> str:
    """Return what ``ipvsadm -L -c`` prints: the connections and templates of services.

    Args:
        engine: the engine to list.
        numeric: ports as numbers (``-n``).
        persistence_engines: with the title's columns for them (``--persistent-conn``).
    """
    title = "pro expire state       source             virtual            destination"
    if persistence_engines:
        title += "        pe name          pe_data"
    lines = ["IPVS connection entries", title]
    for connection in listed_connections(engine):
        protocol = PROTOCOLS.get(connection.protocol, 0)
        client, virtual, server = (
            format_endpoint(endpoint, protocol, numeric=numeric)
            for endpoint in (connection.client, connection.virtual, connection.server)
        )
        minutes, seconds = divmod(max(connection.expires_ns, 0) // 10**9, 60)
        line = (
            f"{connection.protocol.upper():<3} {f'{minutes:02}:{seconds:02}':<6} "
            f"{listed_state(connection):<11} {client:<18} {virtual:<18} "
        )
        if persistence_engines and connection.call_id:
            lines.append(f"{line}{server:<16} {'sip':<18} {connection.call_id}")
        else:
            lines.append(line + server)
    return "".join(f"{line}\n" for line in lines)


def listed_connections(engine: "Engine") -> Iterator["Connection"]:
    """The connections of services, and the templates, in table order."""
    yield from (one for one in engine.connections if one.kind == "service")
    yield from engine.templates


def listed_state(connection: "Connection") -> str:
    """The name of a connection's state as IPVS prints it."""
    return _STATES.get(connection.state, connection.state)


def format_saved(engine: "Engine", *, numeric: bool = True, complete: bool = False) -> str:
    """Return what ``ipvsadm -S`` prints: the commands that make the services again.

    Args:
        engine: the engine to save.
        numeric: ports as numbers (``-n``).
        complete: also what ipvsadm forgets: thresholds, and the order of adding, which
            schedulers go by.
    """
    lines = []
    services = engine.services
    for service in services if complete else sorted_services(services):
        number = PROTOCOLS.get(service.protocol, 0)
        if service.endpoint is None:
            mark = service.mark if complete else _signed(service.mark)
            key = f"-f {mark}" + (" -6" if service.family == 6 else "")
        else:
            key = _SELECTOR[service.protocol]
            key += f" {format_endpoint(service.endpoint, number, numeric=numeric)}"
        lines.append(f"-A {key} -s {service.scheduler}{_service_options(service)}")
        servers = service.servers
        for server in reversed(servers) if complete else sorted_servers(servers):
            name = format_endpoint(server.endpoint, number, numeric=numeric)
            method = _METHOD_OPTION[server.method]
            line = f"-a {key} -r {name} {method} -w {server.weight}{_tunnel_options(server)}"
            if complete and server.upper_threshold:
                line += f" -x {server.upper_threshold} -y {server.lower_threshold}"
            lines.append(line)
    return "".join(f"{line}\n" for line in lines)


def _service_options(service: "Service") -> str:
    options = ""
    if service.persistence:
        options += f" -p {service.persistence}"
        if (mask := netmask(service)) is not None:
            options += f" -M {mask}"
    if service.persistence_engine:
        options += f" --pe {service.persistence_engine}"
    if service.one_packet:
        options += " -o"
    if service.scheduler_flags:
        options += f" -b {_flags(service)}"
    return options


def _flags(service: "Service") -> str:
    """A scheduler's flags; of those of sh and mh ipvsadm knows two."""
    known = service.scheduler not in ("sh", "mh")
    return ",".join(flag for flag in service.scheduler_flags if known or flag != "flag-3")


def sorted_services(services: Iterable["Service"]) -> list["Service"]:
    """Services by mark, family, protocol, address and port (ipvs_cmp_services); the kernel tells
    those of marks last."""
    return _sorted(sorted(services, key=lambda service: service.endpoint is None), _service_numbers)


def _service_numbers(service: "Service") -> tuple[int, ...]:
    if service.endpoint is None:
        return service.mark, service.family
    return 0, service.family, PROTOCOLS[service.protocol], *_numbers(service.endpoint)


def sorted_servers(servers: Iterable["Server"]) -> list["Server"]:
    """Servers by address and port (ipvs_cmp_dests): an address of IPv4 is the first word of one
    of IPv6 then."""
    return _sorted(servers, lambda server: _numbers(server.endpoint))


def _numbers(endpoint: Endpoint) -> tuple[int, ...]:
    """An address in four words of 32 bits, and the port."""
    packed = endpoint.address.packed.ljust(16, b"\0")
    words = (int.from_bytes(packed[i : i + 4], "big") for i in range(0, 16, 4))
    return *words, endpoint.port


def _compare(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """The first difference, taken as a signed number of 32 bits as ipvsadm does: 172.x comes
    before 10.x, and the mark 4294967295 before all others."""
    differences = ((one - other + 2**31) % 2**32 - 2**31 for one, other in zip(a, b, strict=False))
    return next(filter(None, differences), 0)


def _sorted(items: Iterable[_T], numbers: Callable[[_T], tuple[int, ...]]) -> list[_T]:
    """As glibc's qsort does, which halves and merges: three addresses may be in a circle, each
    before the next (10.x, 100.x, 172.x), and then how they are sorted decides."""

    def merged(halves: list[tuple[tuple[int, ...], _T]]) -> list[tuple[tuple[int, ...], _T]]:
        if len(halves) < 2:
            return halves
        middle = len(halves) // 2
        one, other = merged(halves[:middle]), merged(halves[middle:])
        result = []
        i = j = 0
        while i < len(one) and j < len(other):
            if _compare(one[i][0], other[j][0]) <= 0:
                result.append(one[i])
                i += 1
            else:
                result.append(other[j])
                j += 1
        return result + one[i:] + other[j:]

    return [item for _, item in merged([(numbers(item), item) for item in items])]
