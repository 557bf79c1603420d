"""Handles to a virtual service and its real servers: what ``add_service`` returns."""

from collections.abc import Iterator
from ipaddress import ip_address
from typing import TYPE_CHECKING

from lvscore.addresses import Address, Endpoint, parse_endpoint, protocol_name
from lvscore.errors import ConfigError, DuplicateError, NotFoundError
from lvscore.model import SCHEDULER_FLAGS, SCHEDULERS, Rate, Statistics

if TYPE_CHECKING:
    from lvscore.engine import Engine

__all__ = ["FORWARDING_METHODS", "Server", "Service"]

FORWARDING_METHODS = {"masquerade": 0}
"""Forwarding methods and their numbers (include/uapi/linux/ip_vs.h)."""

_SCHEDULER_NAMES = {number: name for name, number in SCHEDULERS.items()}


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
        index = service._engine._server_find(
            service._index(), self.endpoint.address.packed, self.endpoint.port
        )
        if index < 0:
            raise NotFoundError(f"no server {self.endpoint} in service {service}")
        return index

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
        """Forwarding method, one of :data:`FORWARDING_METHODS`."""
        number = self.service._engine._server_get(self._index())[2]
        return next(name for name, value in FORWARDING_METHODS.items() if value == number)

    @property
    def weight(self) -> int:
        """Weight; 0 takes no new connections."""
        return self.service._engine._server_get(self._index())[3]

    @property
    def active(self) -> int:
        """Connections in an active state (ipvsadm's ActiveConn)."""
        return self.service._engine._server_get(self._index())[4]

    @property
    def inactive(self) -> int:
        """Connections in any other state (ipvsadm's InActConn)."""
        return self.service._engine._server_get(self._index())[5]

    @property
    def upper_threshold(self) -> int:
        """Connections, active or not, at which it takes no more; 0: no such bound."""
        return self.service._engine._server_get(self._index())[6]

    @property
    def lower_threshold(self) -> int:
        """Connections below which it takes more again; 0: three quarters of the upper."""
        return self.service._engine._server_get(self._index())[7]

    @property
    def overloaded(self) -> bool:
        """Whether it reached its upper threshold, and has not come below the lower since."""
        return self.service._engine._server_get(self._index())[8]

    @property
    def statistics(self) -> Statistics:
        """Exact counters, since the server was added."""
        return Statistics(*self.service._engine._server_statistics(self._index()))

    @property
    def listed_statistics(self) -> Statistics:
        """What ``ipvsadm --stats`` lists: the counters as of the latest estimation, which comes
        every 2 s of the engine's time, less what they were at the latest ``-Z``."""
        return Statistics(*self.service._engine._server_estimate(self._index())[0])

    @property
    def rate(self) -> Rate:
        """What ``ipvsadm --rate`` lists."""
        return Rate(*self.service._engine._server_estimate(self._index())[1])

    def edit(
        self,
        *,
        weight: int | None = None,
        upper_threshold: int | None = None,
        lower_threshold: int | None = None,
    ) -> None:
        """Change the server; what is ``None`` stays. Live connections are not touched.

        Raises:
            ConfigError: an argument is not in 0..2147483647, or the lower threshold is greater
                than the upper.
            NotFoundError: the server was removed.
        """
        index = self._index()
        record = self.service._engine._server_get(index)
        self.service._engine._server_edit(
            index,
            *_checked(
                record[3] if weight is None else weight,
                record[6] if upper_threshold is None else upper_threshold,
                record[7] if lower_threshold is None else lower_threshold,
            ),
        )

    def remove(self) -> None:
        """Remove the server; packets of its connections are dropped until they expire.

        Raises:
            NotFoundError: the server was removed already.
        """
        self.service._engine._server_remove(self._index())


class Service:
    """A virtual service: a handle that stays good until the service is removed."""

    def __init__(self, engine: "Engine", protocol: int, endpoint: Endpoint) -> None:
        self._engine = engine
        self.protocol = protocol_name(protocol)
        self.endpoint = endpoint
        self._key = (protocol, endpoint)

    def __repr__(self) -> str:
        return f"<Service {self}>"

    def __str__(self) -> str:
        return f"{self.protocol} {self.endpoint}"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Service) and self._engine is other._engine and self._key == other._key
        )

    def __hash__(self) -> int:
        return hash(self._key)

    def __iter__(self) -> Iterator[Server]:
        return iter(self.servers)

    def _index(self) -> int:
        index = self._engine._find(*self._key)
        if index < 0:
            raise NotFoundError(f"no service {self}")
        return index

    @property
    def scheduler(self) -> str:
        """Name of the scheduler."""
        return _SCHEDULER_NAMES[self._engine._service_get(self._index())[4]]

    @property
    def scheduler_flags(self) -> tuple[str, ...]:
        """Those of :data:`lvscore.SCHEDULER_FLAGS` that are set."""
        flags = self._engine._service_get(self._index())[5]
        known = SCHEDULER_FLAGS.get(self.scheduler, {})
        return tuple(name for name, bit in known.items() if flags & bit)

    @property
    def servers(self) -> list[Server]:
        """Real servers in the kernel's order: the one added last comes first."""
        engine = self._engine
        result = []
        for index in engine._server_indices(self._index()):
            record = engine._server_get(index)
            result.append(Server(self, Endpoint(ip_address(record[0]), record[1])))
        return result

    @property
    def statistics(self) -> Statistics:
        """Exact counters, since the service was added."""
        return Statistics(*self._engine._service_statistics(self._index()))

    @property
    def listed_statistics(self) -> Statistics:
        """What ``ipvsadm --stats`` lists: the counters as of the latest estimation, which comes
        every 2 s of the engine's time, less what they were at the latest ``-Z``."""
        return Statistics(*self._engine._service_estimate(self._index())[0])

    @property
    def rate(self) -> Rate:
        """What ``ipvsadm --rate`` lists."""
        return Rate(*self._engine._service_estimate(self._index())[1])

    def zero_statistics(self) -> None:
        """Let listings of the service and its servers begin at 0, as ``ipvsadm -Z`` does.

        They count from the latest estimation on; :attr:`statistics` goes on.
        """
        self._engine._service_zero(self._index())

    def add_server(
        self,
        address: str | Endpoint | tuple[str | Address, int],
        *,
        weight: int = 1,
        method: str = "masquerade",
        upper_threshold: int = 0,
        lower_threshold: int = 0,
    ) -> Server:
        """Add a real server at the head of the list, as ``ipvsadm -a`` does.

        Args:
            address: ``"address:port"``; without a port the service's is taken.
            weight: 0..2147483647; 0 takes no new connections.
            method: forwarding method, one of :data:`FORWARDING_METHODS`.
            upper_threshold: connections, active or not, at which it takes no more; 0: no bound.
            lower_threshold: connections below which it then takes more again, not above the
                upper; 0: three quarters of the upper.

        Raises:
            DuplicateError: the service has this server.
            ConfigError: an argument is not valid.
            NotFoundError: the service was removed.
            LimitError: there are as many servers as can be, or as the scheduler can have.
        """
        endpoint = parse_endpoint(address, self.endpoint.port)
        _check_server(endpoint, self.endpoint)
        if method not in FORWARDING_METHODS:
            expected = ", ".join(FORWARDING_METHODS)
            raise ConfigError(f"unknown forwarding method {method!r}: expected {expected}")
        service = self._index()
        packed = endpoint.address.packed
        if self._engine._server_find(service, packed, endpoint.port) >= 0:
            raise DuplicateError(f"server {endpoint} of service {self} already exists")
        self._engine._server_add(
            service,
            packed,
            endpoint.port,
            FORWARDING_METHODS[method],
            *_checked(weight, upper_threshold, lower_threshold),
        )
        return Server(self, endpoint)

    def find_server(self, address: str | Endpoint | tuple[str | Address, int]) -> Server:
        """Return the server at exactly this address and port.

        Raises:
            NotFoundError: the service has no such server.
        """
        server = Server(self, parse_endpoint(address, self.endpoint.port))
        server._index()
        return server

    def edit_server(
        self,
        address: str | Endpoint | tuple[str | Address, int],
        *,
        weight: int | None = None,
        upper_threshold: int | None = None,
        lower_threshold: int | None = None,
    ) -> Server:
        """Change a server, as :meth:`Server.edit`."""
        server = self.find_server(address)
        server.edit(weight=weight, upper_threshold=upper_threshold, lower_threshold=lower_threshold)
        return server

    def remove_server(self, address: str | Endpoint | tuple[str | Address, int]) -> None:
        """Remove a server, as :meth:`Server.remove`."""
        self.find_server(address).remove()

    def edit(
        self, *, scheduler: str | None = None, scheduler_flags: tuple[str, ...] | None = None
    ) -> None:
        """Change the service, as :meth:`Engine.edit_service`."""
        self._engine.edit_service(*self._key, scheduler=scheduler, scheduler_flags=scheduler_flags)

    def remove(self) -> None:
        """Remove the service, as :meth:`Engine.remove_service`."""
        self._engine.remove_service(*self._key)


def _checked(weight: int, upper: int, lower: int) -> tuple[int, int, int]:
    """Return what ipvsadm would take as weight and thresholds."""
    for name, value in (
        ("weight", weight),
        ("upper_threshold", upper),
        ("lower_threshold", lower),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 2147483647:
            raise ConfigError(f"{name} {value!r} is not in 0..2147483647")
    if lower > upper:
        raise ConfigError(f"lower_threshold {lower} is greater than upper_threshold {upper}")
    return weight, upper, lower


def _check_server(server: Endpoint, service: Endpoint) -> None:
    if server.address.version != service.address.version:
        raise ConfigError(
            f"server {server} and service {service} are of different address families, which "
            "only tunnelling allows"
        )
    address = server.address
    if address.is_multicast or address.is_unspecified or int(address) == 0xFFFFFFFF:
        raise ConfigError(f"server address {address} is not unicast")
