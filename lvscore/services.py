"""Handles to a virtual service and its real servers: what ``add_service`` returns."""

from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING, NamedTuple

from lvscore import _engine
from lvscore._arguments import integer
from lvscore.addresses import Address, Endpoint, parse_endpoint, protocol_name
from lvscore.errors import ConfigError, DuplicateError, NotFoundError
from lvscore.model import SCHEDULER_FLAGS, SCHEDULERS, Rate, Statistics, Tunnel

if TYPE_CHECKING:
    from lvscore.director import Director

__all__ = ["FORWARDING_METHODS", "Server", "Service"]

FORWARDING_METHODS = {"masquerade": 0, "local": 1, "tunnel": 2, "route": 3}
"""Forwarding methods and their numbers (include/uapi/linux/ip_vs.h)."""

MARK = 255  # in place of a protocol: a service on a firewall mark (_core/consts.pxd)
_METHOD_NAMES = {number: name for name, number in FORWARDING_METHODS.items()}
_SCHEDULER_NAMES = {number: name for name, number in SCHEDULERS.items()}
ANY_SCHEDULER_FLAGS = {"flag-1": 8, "flag-2": 16, "flag-3": 32}
PERSISTENCE_ENGINES = ("", "sip")
_TUNNEL_TYPES = ("ipip", "gue", "gre")
_TUNNEL_FLAGS = {"": 0, "nocsum": 0, "csum": 1, "remcsum": 2}  # IP_VS_TUNNEL_ENCAP_FLAG_*
_TUNNEL_CHECKSUMS = {"ipip": ("",), "gue": ("", "nocsum", "csum", "remcsum"),
                     "gre": ("", "nocsum", "csum")}  # fmt: skip


class ServiceKey(NamedTuple):
    """What selects a virtual service; of a mark, the address is the mark."""

    family: int
    protocol: int
    address: Address
    port: int

    @property
    def packed(self) -> bytes:
        return self.address.packed


class ServiceRecord(NamedTuple):
    """A virtual service as the core has it."""

    family: int
    protocol: int
    address: bytes
    port: int
    scheduler: int
    scheduler_flags: int
    options: tuple[int, int, bytes, int]


class ServerRecord(NamedTuple):
    """A real server as the core has it."""

    address: bytes
    port: int
    method: int
    weight: int
    active: int
    inactive: int
    persistent: int
    upper_threshold: int
    lower_threshold: int
    overloaded: bool
    tunnel: tuple[int, int, int]


class Server:
    """One real server of a virtual service."""

    def __init__(self, service: "Service", endpoint: Endpoint) -> None:
        self.service = service
        self.endpoint = endpoint

    def __repr__(self) -> str:
        return f"<Server {self.endpoint} of {self.service!r}>"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Server)
            and self.service == other.service
            and self.endpoint == other.endpoint
        )

    def __hash__(self) -> int:
        return hash((self.service, self.endpoint))

    def _index(self) -> int:
        service = self.service
        index = _engine.server_lookup(
            service._engine, service._index(), self.endpoint.address.packed, self.endpoint.port
        )
        if index < 0:
            raise NotFoundError(f"no server {self.endpoint} in service {service}")
        return index

    def _record(self) -> ServerRecord:
        return ServerRecord(*_engine.server_record(self.service._engine, self._index()))

    @property
    def address(self) -> Address:
        """Its address."""
        return self.endpoint.address

    @property
    def port(self) -> int:
        """Its port."""
        return self.endpoint.port

    @property
    def method(self) -> str:
        """Forwarding method of new connections, one of :data:`FORWARDING_METHODS`."""
        return _METHOD_NAMES[self._record().method]

    @property
    def tunnel(self) -> Tunnel:
        """How packets are wrapped if the method is ``"tunnel"``."""
        kind, port, flags = self._record().tunnel
        checksum = {0: "nocsum", 1: "csum", 2: "remcsum"}[flags] if kind else ""
        return Tunnel(_TUNNEL_TYPES[kind], port, checksum)

    @property
    def weight(self) -> int:
        """Weight; 0 takes no new connections."""
        return self._record().weight

    @property
    def active(self) -> int:
        """Connections in an active state (ipvsadm's ActiveConn)."""
        return self._record().active

    @property
    def inactive(self) -> int:
        """Connections in any other state (ipvsadm's InActConn)."""
        return self._record().inactive

    @property
    def persistent(self) -> int:
        """Persistence templates that lead here (ipvsadm's PersistConn)."""
        return self._record().persistent

    @property
    def upper_threshold(self) -> int:
        """Connections, active or not, at which it takes no more; 0: no such bound."""
        return self._record().upper_threshold

    @property
    def lower_threshold(self) -> int:
        """Connections below which it takes more again; 0: three quarters of the upper."""
        return self._record().lower_threshold

    @property
    def overloaded(self) -> bool:
        """Whether it reached its upper threshold, and has not come below the lower since."""
        return self._record().overloaded

    @property
    def statistics(self) -> Statistics:
        """Exact counters, since the server was added."""
        return Statistics(*_engine.server_counts(self.service._engine, self._index()))

    @property
    def listed_statistics(self) -> Statistics:
        """What ``ipvsadm --stats`` lists: the counters as of the latest estimation, which comes
        every 2 s of the engine's time, less what they were at the latest ``-Z``."""
        return Statistics(*_engine.server_estimate(self.service._engine, self._index())[0])

    @property
    def rate(self) -> Rate:
        """What ``ipvsadm --rate`` lists."""
        return Rate(*_engine.server_estimate(self.service._engine, self._index())[1])

    def edit(
        self,
        *,
        weight: int | None = None,
        method: str | None = None,
        tunnel: Tunnel | None = None,
        upper_threshold: int | None = None,
        lower_threshold: int | None = None,
    ) -> None:
        """Change the server; what is ``None`` stays. Live connections are not touched, and keep
        their forwarding method.

        Raises:
            ConfigError: an argument is not in 0..2147483647, the lower threshold is greater than
                the upper, or the method or tunnel is not valid.
            NotFoundError: the server was removed.
        """
        index = self._index()
        record = self._record()
        method = _METHOD_NAMES[record.method] if method is None else method
        if tunnel is None and method == "tunnel":
            tunnel = self.tunnel
        _check_method(self.endpoint, self.service, method)
        packed = _tunnel(method, tunnel)
        weight, upper, lower = _checked(
            record.weight if weight is None else weight,
            record.upper_threshold if upper_threshold is None else upper_threshold,
            record.lower_threshold if lower_threshold is None else lower_threshold,
        )
        _engine.server_update(
            self.service._engine, index, FORWARDING_METHODS[method], weight, upper, lower, packed
        )

    def remove(self) -> None:
        """Remove the server; packets of its connections are dropped until they expire.

        Raises:
            NotFoundError: the server was removed already.
        """
        _engine.server_leave(self.service._engine, self._index())


class Service:
    """A virtual service: a handle that stays good until the service is removed."""

    def __init__(self, engine: "Director", key: ServiceKey) -> None:
        self._engine = engine
        self._key = key

    def __repr__(self) -> str:
        return f"<Service {self}>"

    def __str__(self) -> str:
        if self.endpoint is None:
            return f"fwmark {self.mark}" + (" IPv6" if self.family == 6 else "")
        return f"{self.protocol} {self.endpoint}"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Service) and self._engine is other._engine and self._key == other._key
        )

    def __hash__(self) -> int:
        return hash(self._key)

    def __iter__(self) -> Iterator[Server]:
        return iter(self.servers)

    @property
    def family(self) -> int:
        """4 or 6."""
        return self._key.family

    @property
    def protocol(self) -> str:
        """``"tcp"``, ``"udp"`` or ``"sctp"``; ``""`` of a service on a firewall mark."""
        return "" if self._key.protocol == MARK else protocol_name(self._key.protocol)

    @property
    def endpoint(self) -> Endpoint | None:
        """Virtual address and port; ``None`` of a service on a firewall mark."""
        return None if self._key.protocol == MARK else Endpoint(self._key.address, self._key.port)

    @property
    def mark(self) -> int:
        """The firewall mark that selects the service; 0: its protocol, address and port do."""
        return int(self._key.address) if self._key.protocol == MARK else 0

    def _index(self) -> int:
        index = self._engine._find(self._key)
        if index < 0:
            raise NotFoundError(f"no service {self}")
        return index

    def _record(self) -> ServiceRecord:
        return ServiceRecord(*_engine.service_record(self._engine, self._index()))

    @property
    def scheduler(self) -> str:
        """Name of the scheduler."""
        return _SCHEDULER_NAMES[self._record().scheduler]

    @property
    def scheduler_flags(self) -> tuple[str, ...]:
        """The flags that are set: those of :data:`lvscore.SCHEDULER_FLAGS`, ``"flag-1"`` to
        ``"flag-3"`` of a scheduler that has none there, and ``"flag-3"`` of all."""
        flags = self._record().scheduler_flags
        known = {**ANY_SCHEDULER_FLAGS, **SCHEDULER_FLAGS.get(self.scheduler, {})}
        names = {bit: name for name, bit in known.items()}
        return tuple(names[bit] for bit in sorted(names) if flags & bit)

    @property
    def persistence(self) -> int:
        """Seconds for which a client keeps its server; 0: connections are scheduled singly."""
        return self._record().options[1]

    @property
    def netmask(self) -> Address | int:
        """Clients that are one client to persistence: of IPv4 a mask, of IPv6 a prefix length."""
        packed = self._record().options[2]
        return IPv4Address(packed) if len(packed) == 4 else int.from_bytes(packed).bit_count()

    @property
    def one_packet(self) -> bool:
        """Whether every datagram is scheduled by itself."""
        return bool(self._record().options[0] & 4)

    @property
    def persistence_engine(self) -> str:
        """Name of the persistence engine; ``""``: none."""
        return PERSISTENCE_ENGINES[self._record().options[3]]

    @property
    def servers(self) -> list[Server]:
        """Real servers in the kernel's order: the one added last comes first."""
        engine = self._engine
        result = []
        for index in _engine.service_members(engine, self._index()):
            record = ServerRecord(*_engine.server_record(engine, index))
            result.append(Server(self, Endpoint(ip_address(record.address), record.port)))
        return result

    @property
    def statistics(self) -> Statistics:
        """Exact counters, since the service was added."""
        return Statistics(*_engine.service_counts(self._engine, self._index()))

    @property
    def listed_statistics(self) -> Statistics:
        """What ``ipvsadm --stats`` lists: the counters as of the latest estimation, which comes
        every 2 s of the engine's time, less what they were at the latest ``-Z``."""
        return Statistics(*_engine.service_estimate(self._engine, self._index())[0])

    @property
    def rate(self) -> Rate:
        """What ``ipvsadm --rate`` lists."""
        return Rate(*_engine.service_estimate(self._engine, self._index())[1])

    def zero_statistics(self) -> None:
        """Let listings of the service and its servers begin at 0, as ``ipvsadm -Z`` does.

        They count from the latest estimation on; :attr:`statistics` goes on.
        """
        _engine.service_zeroed(self._engine, self._index())

    def add_server(
        self,
        address: str | Endpoint | tuple[str | Address, int],
        *,
        weight: int = 1,
        method: str = "masquerade",
        tunnel: Tunnel | None = None,
        upper_threshold: int = 0,
        lower_threshold: int = 0,
    ) -> Server:
        """Add a real server at the head of the list, as ``ipvsadm -a`` does.

        Args:
            address: ``"address:port"``; without a port the service's is taken.
            weight: 0..2147483647; 0 takes no new connections.
            method: forwarding method, one of :data:`FORWARDING_METHODS`.
            tunnel: how packets are wrapped, with method ``"tunnel"``; default IPIP.
            upper_threshold: connections, active or not, at which it takes no more; 0: no bound.
            lower_threshold: connections below which it then takes more again, not above the
                upper; 0: three quarters of the upper.

        Raises:
            DuplicateError: the service has this server.
            ConfigError: an argument is not valid.
            NotFoundError: the service was removed.
            LimitError: there are as many servers as can be, or as the scheduler can have.
        """
        endpoint = parse_endpoint(address, self._key.port)
        _check_method(endpoint, self, method)
        _check_unicast(endpoint)
        packed_tunnel = _tunnel(method, tunnel)
        service = self._index()
        packed = endpoint.address.packed
        if _engine.server_lookup(self._engine, service, packed, endpoint.port) >= 0:
            raise DuplicateError(f"server {endpoint} of service {self} already exists")
        weight, upper, lower = _checked(weight, upper_threshold, lower_threshold)
        _engine.server_join(
            self._engine, service, packed, endpoint.port, FORWARDING_METHODS[method],
            weight, upper, lower, packed_tunnel,
        )  # fmt: skip
        return Server(self, endpoint)

    def find_server(self, address: str | Endpoint | tuple[str | Address, int]) -> Server:
        """Return the server at exactly this address and port.

        Raises:
            NotFoundError: the service has no such server.
        """
        server = Server(self, parse_endpoint(address, self._key.port))
        server._index()
        return server

    def edit_server(
        self,
        address: str | Endpoint | tuple[str | Address, int],
        *,
        weight: int | None = None,
        method: str | None = None,
        tunnel: Tunnel | None = None,
        upper_threshold: int | None = None,
        lower_threshold: int | None = None,
    ) -> Server:
        """Change a server, as :meth:`Server.edit`."""
        server = self.find_server(address)
        server.edit(
            weight=weight, method=method, tunnel=tunnel,
            upper_threshold=upper_threshold, lower_threshold=lower_threshold,
        )  # fmt: skip
        return server

    def remove_server(self, address: str | Endpoint | tuple[str | Address, int]) -> None:
        """Remove a server, as :meth:`Server.remove`."""
        self.find_server(address).remove()

    def edit(
        self,
        *,
        scheduler: str | None = None,
        scheduler_flags: tuple[str, ...] | None = None,
        persistence: int | None = None,
        netmask: str | Address | int | None = None,
        one_packet: bool | None = None,
        persistence_engine: str | None = None,
    ) -> None:
        """Change the service, as :meth:`Engine.edit_service`."""
        self._engine._edit(
            self, scheduler, scheduler_flags, persistence, netmask, one_packet, persistence_engine
        )

    def remove(self) -> None:
        """Remove the service, as :meth:`Engine.remove_service`."""
        _engine.service_leave(self._engine, self._index())


def _checked(weight: int, upper: int, lower: int) -> tuple[int, int, int]:
    """Return what ipvsadm would take as weight and thresholds."""
    names = ("weight", "upper_threshold", "lower_threshold")
    for name, value in zip(names, (weight, upper, lower), strict=True):
        number = None if isinstance(value, bool) else integer(value)
        if number is None or not 0 <= number <= 2147483647:
            raise ConfigError(f"{name} {value!r} is not in 0..2147483647")
    if lower > upper:
        raise ConfigError(f"lower_threshold {lower} is greater than upper_threshold {upper}")
    return int(weight), int(upper), int(lower)


def _tunnel(method: str, tunnel: Tunnel | None) -> tuple[int, int, int]:
    """The tunnel as the core takes it."""
    if method != "tunnel":
        if tunnel is not None:
            raise ConfigError(f"a tunnel goes with the method 'tunnel', not with {method!r}")
        return 0, 0, 0
    tunnel = Tunnel() if tunnel is None else tunnel
    if not isinstance(tunnel, Tunnel):
        raise ConfigError(f"tunnel {tunnel!r}: expected a lvscore.Tunnel")
    if tunnel.type not in _TUNNEL_TYPES:
        raise ConfigError(
            f"unknown tunnel type {tunnel.type!r}: expected one of {', '.join(_TUNNEL_TYPES)}"
        )
    if tunnel.checksum not in _TUNNEL_CHECKSUMS[tunnel.type]:
        expected = ", ".join(map(repr, _TUNNEL_CHECKSUMS[tunnel.type]))
        raise ConfigError(
            f"tunnel checksum {tunnel.checksum!r} of {tunnel.type}: expected {expected}"
        )
    if not (1 <= tunnel.port <= 65535 if tunnel.type == "gue" else tunnel.port == 0):
        expected = "1..65535" if tunnel.type == "gue" else "0"
        raise ConfigError(f"tunnel port {tunnel.port} of {tunnel.type}: expected {expected}")
    return _TUNNEL_TYPES.index(tunnel.type), tunnel.port, _TUNNEL_FLAGS[tunnel.checksum]


def _check_method(server: Endpoint, service: Service, method: str) -> None:
    if method not in FORWARDING_METHODS:
        expected = ", ".join(FORWARDING_METHODS)
        raise ConfigError(f"unknown forwarding method {method!r}: expected {expected}")
    if server.address.version != service.family and method != "tunnel":
        raise ConfigError(
            f"server {server} and service {service} are of different address families, which "
            "only tunnelling allows"
        )


def _check_unicast(server: Endpoint) -> None:
    address = server.address
    if address.is_multicast or address.is_unspecified or int(address) == 0xFFFFFFFF:
        raise ConfigError(f"server address {address} is not unicast")
