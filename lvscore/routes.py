"""Interfaces and routes of an engine: what the NAT rules need to know of them."""

from ipaddress import IPv6Address, IPv6Interface, IPv6Network, ip_interface
from typing import TYPE_CHECKING, NamedTuple

from lvscore import _engine
from lvscore.addresses import Address, Network, parse_network
from lvscore.errors import AddressError, ConfigError, DuplicateError, NotFoundError
from lvscore.source_address import select_source

if TYPE_CHECKING:
    from lvscore.engine import Engine

__all__ = ["Interface", "Route", "Routes"]


class Interface(NamedTuple):
    """An interface by name, with its addresses and their prefixes."""

    name: str
    addresses: tuple[tuple[Address, Network], ...]


class Route(NamedTuple):
    """Packets for ``network`` leave by ``interface``."""

    network: Network
    interface: str


class RouteTables:
    """What an engine was told; :class:`Routes` looks at it. It does not know its engine, so that
    an engine that nobody needs goes at once, with its memory."""

    def __init__(self) -> None:
        self.interfaces: dict[str, Interface] = {}
        self.routes: list[Route] = []
        self.numbers: dict[str, int] = {}


class Routes:
    """The engine's interfaces, addresses and routes.

    Addresses of interfaces count as local; a packet leaves by the interface of the longest
    prefix that its destination lies in. Masquerading and ``-o`` matches need this, nothing
    else does: an engine without routes forwards all the same.
    """

    def __init__(self, engine: "Engine", tables: RouteTables) -> None:
        self._engine = engine
        self._tables = tables

    @property
    def interfaces(self) -> list[Interface]:
        """All interfaces, in the order of their adding."""
        return list(self._tables.interfaces.values())

    @property
    def routes(self) -> list[Route]:
        """The routes that were added; those to the interfaces' own prefixes go without."""
        return list(self._tables.routes)

    def index(self, name: str) -> int:
        """The number of an interface name; a name gets one when it is first heard."""
        if name not in self._tables.numbers:
            self._tables.numbers[name] = len(self._tables.numbers)
            self._engine._interface_named()
        return self._tables.numbers[name]

    def indices(self, prefix: str) -> tuple[int, ...]:
        """The numbers of the interface names that begin so."""
        return tuple(
            number for name, number in self._tables.numbers.items() if name.startswith(prefix)
        )

    def add_interface(self, name: str, addresses: list[str] | tuple[str, ...] = ()) -> Interface:
        """Add an interface with addresses ``"10.0.0.200/24"``; of IPv4 the first is
        primary, of IPv6 each where RFC 6724 takes it.

        Raises:
            DuplicateError: there is an interface of this name.
            AddressError: an address is not ``"address/length"``.
        """
        if name in self._tables.interfaces:
            raise DuplicateError(f"interface {name} already exists")
        parsed: list[tuple[Address, Network]] = []
        for text in addresses:
            try:
                given = ip_interface(text)
            except ValueError:
                raise AddressError(f"{text!r} is not 'address/length'") from None
            parsed.append((given.ip, given.network))
        interface = Interface(name, tuple(parsed))
        self._apply({**self._tables.interfaces, name: interface}, self._tables.routes)
        for address, _ in interface.addresses:
            _engine.local_address_add(self._engine, address.version, address.packed)
        return interface

    def remove_interface(self, name: str) -> None:
        """Remove an interface with its addresses.

        Raises:
            NotFoundError: there is no such interface.
            ConfigError: a route still leads out of it.
        """
        if name not in self._tables.interfaces:
            raise NotFoundError(f"no interface {name}")
        if any(route.interface == name for route in self._tables.routes):
            raise ConfigError(f"a route still leads out of interface {name}")
        gone = self._tables.interfaces[name]
        self._apply(
            {n: i for n, i in self._tables.interfaces.items() if n != name}, self._tables.routes
        )
        for address, _ in gone.addresses:
            _engine.local_address_remove(self._engine, address.version, address.packed)

    def add(self, network: str | Address | Network, interface: str) -> Route:
        """Add a route: packets for ``network`` (``"default"``: all of IPv4) leave by ``interface``.

        Raises:
            NotFoundError: there is no such interface.
            DuplicateError: there is a route for this prefix.
            AddressError: ``network`` is not a prefix.
        """
        if interface not in self._tables.interfaces:
            raise NotFoundError(f"no interface {interface}")
        prefix = parse_network("0.0.0.0/0" if network == "default" else network)
        if any(route.network == prefix for route in self._tables.routes):
            raise DuplicateError(f"route {prefix} already exists")
        route = Route(prefix, interface)
        self._apply(self._tables.interfaces, [*self._tables.routes, route])
        return route

    def remove(self, network: str | Address | Network) -> None:
        """Remove the route for a prefix.

        Raises:
            NotFoundError: there is no such route.
        """
        prefix = parse_network("0.0.0.0/0" if network == "default" else network)
        rest = [route for route in self._tables.routes if route.network != prefix]
        if len(rest) == len(self._tables.routes):
            raise NotFoundError(f"no route {prefix}")
        self._apply(self._tables.interfaces, rest)

    def _apply(self, interfaces: dict[str, Interface], routes: list[Route]) -> None:
        packed: list[tuple[int, bytes, int, int, bytes | None]] = []
        connected = [
            Route(network, interface.name)
            for interface in interfaces.values()
            for _, network in interface.addresses
        ]
        for route in [*connected, *routes]:
            version = route.network.version
            source = _source(route, interfaces)
            packed.append(
                (
                    version,
                    route.network.network_address.packed,
                    route.network.prefixlen,
                    self.index(route.interface),
                    None if source is None else source.packed,
                )
            )
        _engine.routes_set(self._engine, packed)
        self._tables.interfaces = interfaces
        self._tables.routes = routes


def _source(route: Route, interfaces: dict[str, Interface]) -> Address | None:
    """The address that packets by a route come from: of IPv4 the interface's first."""
    if isinstance(route.network, IPv6Network):
        near = interfaces[route.interface].addresses
        return select_source(route.network, [
            IPv6Interface((address, network.prefixlen))
            for address, network in near if isinstance(address, IPv6Address)])  # fmt: skip
    return next((a for a, _ in interfaces[route.interface].addresses if a.version == 4), None)
