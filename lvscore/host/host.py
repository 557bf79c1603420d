"""The Host: frames in per interface, frames out per interface, and time with them."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import TYPE_CHECKING, NoReturn

from lvscore import _engine
from lvscore._arguments import integer, nanoseconds
from lvscore._frames import FrameBatch
from lvscore.addresses import Address, Network, parse_address, parse_network
from lvscore.errors import (
    AddressError,
    ConfigError,
    DuplicateError,
    LimitError,
    NotFoundError,
)
from lvscore.host.machine import Machine, Senders
from lvscore.host.routing import RouteEntry
from lvscore.host.settings import HostSettings
from lvscore.sysctl import Sysctl

if TYPE_CHECKING:
    from lvscore.engine import Engine

__all__ = ["Host"]

_MAC = re.compile("(?:[0-9a-fA-F]{2}:?){5}[0-9a-fA-F]{2}")
_MIN_MTU, _MAX_MTU = 68, 65535
MODULES = frozenset(("sctp", "ip_vs_ftp"))


@dataclass
class _Interface:
    name: str
    number: int
    mac: bytes
    mtu: int
    addresses: list[IPv4Interface | IPv6Interface] = field(default_factory=list)
    peer: bytes | None = None


class Host:
    """The machine that an engine is on, free of I/O: a router with addresses of its own.

    It does what Linux does around IPVS: takes frames that are for its link address, routes,
    decrements TTLs, minds MTUs, finds the next hop's link address, answers for its own
    addresses, and sends ICMP errors and redirects. With a Host only its addresses are local:
    a service on another address sees no packet.

    Args:
        engine: the engine; it belongs to this host from now on.

    Raises:
        ConfigError: the engine has interfaces or routes of its own (:attr:`Engine.routes`).
    """

    def __init__(self, engine: "Engine") -> None:
        if engine.routes.interfaces:
            raise ConfigError("the engine has interfaces of its own: give them to the Host instead")
        self.engine = engine
        self._interfaces: dict[str, _Interface] = {}
        self._routes: list[RouteEntry] = []
        self._settings = HostSettings(self._update)
        self._machine = Machine(engine, self._settings)
        self._update()

    def __repr__(self) -> str:
        return f"<Host with {', '.join(self._interfaces) or 'no interfaces'}, of {self.engine!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Host is not copied: copy its engine, and give the copy a Host of its own"
        )

    # Configuration

    @property
    def interfaces(self) -> list[str]:
        """The names of all interfaces, in the order of their adding."""
        return list(self._interfaces)

    @property
    def modules(self) -> frozenset[str]:
        """Kernel modules that are loaded: with ``"sctp"`` the local stack speaks SCTP, and
        answers what is of no association with ABORT instead of protocol unreachable;
        ``"ip_vs_ftp"`` is the engine's helper ``"ftp"``.

        Raises:
            ConfigError: when set: there is no such module here.
        """
        helped = {"ip_vs_ftp"} if "ftp" in self.engine.helpers else set()
        return frozenset(self._machine.modules | helped)

    @modules.setter
    def modules(self, names: Iterable[str]) -> None:
        given = set(names)
        for name in given - MODULES:
            raise ConfigError(f"no module {name!r} here; known are {', '.join(sorted(MODULES))}")
        if "ip_vs_ftp" in given and "ftp" not in self.engine.helpers:
            self.engine.helpers.add("ftp")
        elif "ip_vs_ftp" not in given and "ftp" in self.engine.helpers:
            self.engine.helpers.remove("ftp")
        self._machine.modules = given - {"ip_vs_ftp"}

    @property
    def sysctl(self) -> Sysctl:
        """Kernel settings by name: ``host.sysctl["net.ipv4.ip_forward"] = 1``."""
        return self._settings.sysctl

    def add_interface(
        self, name: str, *, addresses: Iterable[str] = (), mtu: int = 1500,
        mac: str | bytes = b"\x02\0\0\0\0\1",
    ) -> None:  # fmt: skip
        """Add an Ethernet interface.

        Args:
            name: any name; ``iptables -o`` and routes use it.
            addresses: ``"172.16.1.3/24"``; without a length an address stands alone.
            mtu: longest IP packet, 68..65535.
            mac: its link address.

        Raises:
            DuplicateError: there is an interface of this name.
            LimitError: there are 256 interfaces, or 1024 routes.
            ConfigError: an address, the MTU or the link address is not valid.
        """
        if name in self._interfaces:
            raise DuplicateError(f"interface {name} already exists")
        if not isinstance(name, str) or not name:
            raise ConfigError(f"an interface {name!r}: expected a name")
        if isinstance(addresses, str):
            raise AddressError(f"addresses={addresses!r}: expected a list of them")
        parsed = [_interface_address(text) for text in addresses]
        interface = _Interface(name, self.engine.routes.index(name), _mac(mac), _mtu(mtu))
        self._interfaces[name] = interface
        self._settings.add_interface(name)
        for address in parsed:
            self._own(interface, address)
        try:
            self._update()
        except LimitError:
            self.remove_interface(name)
            raise

    def remove_interface(self, name: str) -> None:
        """Remove an interface with its addresses, routes and neighbours, and with the flows that
        are masqueraded to it.

        Raises:
            NotFoundError: there is no such interface.
        """
        interface = self._interface(name)
        for address in interface.addresses:
            _engine.host_own(self.engine, address.version, address.ip.packed, -1)
        _engine.masquerade_end(self.engine, interface.number, None)
        del self._interfaces[name]
        self._settings.remove_interface(name)
        self._routes = [route for route in self._routes if route.interface != name]
        self._machine.neighbours.forget(interface.number)
        self._update()

    def add_address(self, interface: str, address: str) -> None:
        """Give an interface one more address.

        Raises:
            NotFoundError: there is no such interface.
            DuplicateError: it has the address already.
            AddressError: it is not an address.
        """
        target = self._interface(interface)
        given = _interface_address(address)
        if any(given.ip == known.ip for known in target.addresses):
            raise DuplicateError(f"interface {interface} has {given.ip} already")
        self._own(target, given)
        self._update()

    def remove_address(self, interface: str, address: str) -> None:
        """Take an address from an interface; ``address`` may leave its length away. Flows that
        are masqueraded with it end.

        Raises:
            NotFoundError: there is no such interface, or it does not have the address.
        """
        target = self._interface(interface)
        given = _interface_address(address).ip
        for known in target.addresses:
            if known.ip == given:
                target.addresses.remove(known)
                _engine.host_own(self.engine, given.version, given.packed, -1)
                _engine.masquerade_end(self.engine, target.number, given.packed)
                self._update()
                return
        raise NotFoundError(f"interface {interface} has no address {given}")

    @property
    def routes(self) -> list[RouteEntry]:
        """The routes that were added; those to the interfaces' own prefixes go without."""
        return list(self._routes)

    def add_route(
        self,
        prefix: str | Address | Network,
        *,
        via: str | Address | None = None,
        interface: str | None = None,
        local: bool = False,
    ) -> None:
        """Add a route, as ``ip route add`` does.

        Args:
            prefix: ``"default"`` (of IPv4, or of the gateway's family), a prefix or an address.
            via: the gateway; it must be on the wire of an interface.
            interface: the interface that the packets leave by; default: the gateway's.
            local: the whole prefix is this host's own (``ip route add local ... dev lo``).

        Raises:
            NotFoundError: there is no such interface.
            DuplicateError: there is a route for this prefix.
            LimitError: there are 1024 routes, those of the interfaces among them.
            ConfigError: the gateway cannot be reached, or neither it nor an interface is given.
        """
        gateway = None if via is None else parse_address(via)
        network = _prefix(prefix, 4 if gateway is None else gateway.version)
        if local:
            if gateway is not None or interface is not None:
                raise ConfigError("a local route has neither gateway nor interface")
        elif gateway is not None:
            interface = self._towards(gateway, interface)
            if gateway.version != network.version:
                raise ConfigError(f"route {network} via {gateway} mixes IPv4 and IPv6")
        elif interface is None:
            raise ConfigError(f"route {network} needs a gateway or an interface")
        else:
            self._interface(interface)
        if any(route.network == network and route.local == local for route in self._routes):
            raise DuplicateError(f"route {network} already exists")
        self._routes.append(RouteEntry(network, gateway, interface, local))
        try:
            self._update()
        except LimitError:
            del self._routes[-1]
            self._update()
            raise

    def remove_route(self, prefix: str | Address | Network) -> None:
        """Remove the route for a prefix.

        Raises:
            NotFoundError: there is no such route.
        """
        network = _prefix(prefix, 4)
        for route in self._routes:
            if route.network == network:
                self._routes.remove(route)
                self._update()
                return
        raise NotFoundError(f"no route {network}")

    def add_neighbour(self, address: str | Address, mac: str | bytes, interface: str) -> None:
        """Tell a neighbour's link address, which is then not asked for.

        Raises:
            NotFoundError: there is no such interface.
            ConfigError: the address or the link address is not valid.
        """
        number = self._interface(interface).number
        self._machine.neighbours.add((number, parse_address(address)), _mac(mac))

    def remove_neighbour(self, address: str | Address, interface: str) -> None:
        """Forget a neighbour's link address.

        Raises:
            NotFoundError: there is no such interface, or it has no such neighbour.
        """
        key = self._interface(interface).number, parse_address(address)
        if key not in self._machine.neighbours:
            raise NotFoundError(f"interface {interface} has no neighbour {key[1]}")
        self._machine.neighbours.remove(key)

    def set_mtu(self, interface: str, mtu: int) -> None:
        """Set the longest IP packet of an interface.

        Raises:
            NotFoundError: there is no such interface.
            ConfigError: it is not in 68..65535.
        """
        self._interface(interface).mtu = _mtu(mtu)
        self._update()

    def set_mac(self, interface: str, mac: str | bytes) -> None:
        """Set the link address of an interface.

        Raises:
            NotFoundError: there is no such interface.
            ConfigError: it is not the address of one interface.
        """
        self._interface(interface).mac = _mac(mac)
        self._update()

    def set_peer(self, interface: str, mac: str | bytes | None) -> None:
        """Make an interface a wire to one neighbour (a TUN device): all that leaves by it is for
        this link address, and nobody is asked for another. None: an Ethernet interface again.

        Raises:
            NotFoundError: there is no such interface.
            ConfigError: it is not the address of one interface.
        """
        self._interface(interface).peer = None if mac is None else _mac(mac)
        self._update()

    def addresses(self, interface: str) -> list[IPv4Interface | IPv6Interface]:
        """The addresses of an interface.

        Raises:
            NotFoundError: there is no such interface.
        """
        return list(self._interface(interface).addresses)

    def mtu(self, interface: str) -> int:
        """The longest IP packet of an interface.

        Raises:
            NotFoundError: there is no such interface.
        """
        return self._interface(interface).mtu

    # Packets

    def receive(
        self, interface: str, frame: bytes | bytearray | memoryview, now: int
    ) -> list[tuple[str, bytes]]:
        """Take a frame that came in.

        Args:
            interface: where.
            frame: the Ethernet frame.
            now: its time in integer nanoseconds.

        Returns:
            What leaves because of it, and because of the time that has passed, in order of
            emission: interface and frame.

        Raises:
            NotFoundError: there is no such interface.
            ConfigError: ``now`` is no integer.
        """
        number = self._interface(interface).number
        memoryview(frame).release()  # a TypeError: bytearray(5) would be a frame of five zeros
        now = nanoseconds(now)
        self._machine.advance(now)
        self._machine.receive(number, frame, now)
        return self._machine.take()

    def receive_batch(
        self, interface: str, batch: FrameBatch, now: int
    ) -> Iterator[tuple[int, int, list[tuple[str, bytes]]]]:
        """Take frames that came in, all at once; they are rewritten where they lie.

        Frames may be super-frames, and have partial checksums, as their virtio_net_hdr says
        where the batch has these.

        Args:
            interface: where.
            batch: the frames.
            now: the latest time in it.

        Yields:
            start and end of a part of the batch, of which the frames with verdict FORWARD are to
            be sent, each by interface ``batch.egress`` (a number, see :meth:`number`); and what
            is to be sent after these, interface and frame.

        Raises:
            NotFoundError: there is no such interface.
        """
        number = self._interface(interface).number
        self._machine.advance(nanoseconds(now))
        return self._machine.receive_batch(number, batch)

    def forward_batch(
        self, number: int, batch: FrameBatch, now: int, senders: Senders
    ) -> Iterator[list[tuple[str, bytes]]]:
        """Take frames as :meth:`receive_batch`, and let those be sent that only have to be sent
        on.

        Args:
            number: of the interface (:meth:`number`).
            batch, now: as there.
            senders: by an interface's number, what sends frames by it: called with the batch,
                start and end of a part, and the number, it sends those frames of the part that
                have verdict FORWARD and this ``egress``. Others go nowhere.

        Yields:
            what else is to be sent, interface and frame, before the next part is.
        """
        self._machine.advance(nanoseconds(now))
        return self._machine.forward_batch(number, batch, senders)

    def number(self, interface: str) -> int:
        """What an interface is called in ``FrameBatch.egress``.

        Raises:
            NotFoundError: there is no such interface.
        """
        return self._interface(interface).number

    def announce(self) -> list[tuple[str, bytes]]:
        """Frames that tell the neighbours of all addresses: gratuitous ARP, and unsolicited
        neighbor advertisements."""
        self._machine.announce()
        return self._machine.take()

    def advance(self, now: int) -> list[tuple[str, bytes]]:
        """Let time pass until ``now``; what leaves because of it, as :meth:`receive` has it."""
        self._machine.advance(nanoseconds(now))
        return self._machine.take()

    def _interface(self, name: str) -> _Interface:
        if name not in self._interfaces:
            raise NotFoundError(f"no interface {name}")
        return self._interfaces[name]

    def _own(self, interface: _Interface, address: IPv4Interface | IPv6Interface) -> None:
        interface.addresses.append(address)
        _engine.host_own(self.engine, address.version, address.ip.packed, 1)

    def _towards(self, gateway: Address, interface: str | None) -> str:
        """The interface whose wire a gateway is on."""
        if any(gateway == a.ip for known in self._interfaces.values() for a in known.addresses):
            raise ConfigError(f"gateway {gateway} is this host's own address: expected another's")
        for known in self._interfaces.values():
            if interface in (None, known.name) and any(
                gateway in address.network for address in known.addresses
            ):
                return known.name
        where = "" if interface is None else f" by interface {interface}"
        raise ConfigError(f"gateway {gateway} cannot be reached{where}")

    def _update(self) -> None:
        self._machine.configure(list(self._interfaces.values()), self._routes)


def _prefix(prefix: str | Address | Network, version: int) -> Network:
    if prefix == "default":
        return parse_network("0.0.0.0/0" if version == 4 else "::/0")
    return parse_network(prefix)


def _interface_address(text: str) -> IPv4Interface | IPv6Interface:
    try:
        return ip_interface(text)
    except ValueError:
        raise AddressError(f"{text!r} is not 'address/length'") from None


def _mtu(mtu: int) -> int:
    number = integer(mtu)
    if number is None or not _MIN_MTU <= number <= _MAX_MTU:
        raise ConfigError(f"mtu={mtu!r} is not in {_MIN_MTU}..{_MAX_MTU}")
    return number


def _mac(mac: str | bytes) -> bytes:
    if isinstance(mac, str):
        packed = bytes.fromhex(mac.replace(":", "")) if _MAC.fullmatch(mac) else b""
    else:
        packed = bytes(mac) if isinstance(mac, bytes | bytearray | memoryview) else b""
    if len(packed) != 6 or packed[0] & 1:
        raise ConfigError(
            f"mac={mac!r} is not the link address of one interface: expected one as "
            "'02:00:00:00:00:01', and no group's"
        )
    return packed
