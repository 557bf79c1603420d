"""What a configuration file says, read and not yet carried out."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from lvscore import iptables, ipvsadm, nft
from lvscore.addresses import parse_address
from lvscore.errors import CommandError, ConfigError, InterfaceError, LvscoreError
from lvscore.host import Host
from lvscore.io import LiveInterface, open_interface
from lvscore.io.fanout import Share
from lvscore.ipvsadm.commands import apply as apply_ipvsadm
from lvscore.model import TimerWheel

if TYPE_CHECKING:
    from lvscore.engine import Engine

__all__ = [
    "DEFAULT_MAX_CONNECTIONS",
    "Command",
    "Configuration",
    "InterfaceEntry",
    "NeighbourEntry",
    "RouteEntry",
    "located",
]

DEFAULT_MAX_CONNECTIONS = 1_048_576


class Command(NamedTuple):
    """A command of ipvsadm's or iptables', or nft's text, and where it stands."""

    where: str
    command: ipvsadm.Command | iptables.Command | nft.Script


class InterfaceEntry(NamedTuple):
    """An interface, as ``ip address`` and ``ip link`` would be told."""

    where: str
    name: str
    address: tuple[str, ...] = ()
    mtu: int | None = None  # 1500; live, the real one
    backend: str | None = None
    mode: str | None = None
    persistent: bool = False


class RouteEntry(NamedTuple):
    """A route, as ``ip route add`` would be told: to, via, dev; or a local one."""

    where: str
    to: str
    via: str | None = None
    dev: str | None = None
    local: bool = False


class NeighbourEntry(NamedTuple):
    """A neighbour, as ``ip neighbour add`` would be told: to, lladdr, dev."""

    where: str
    to: str
    lladdr: str
    dev: str


@dataclass(frozen=True, slots=True)
class Configuration:
    """A director's configuration. What a file does not say is empty, or ``None``.

    Attributes:
        name: what to call the file in errors.
        commands: services, servers, timeouts and rules, in the order of adding.
        sysctl: settings by the kernel's names: (where it stands, value).
        helpers: ports by the name of a helper.
        port_quota: see :attr:`lvscore.PortPools.quota`.
        timer_wheel: see :attr:`lvscore.Engine.timer_wheel`.
        modules: see :attr:`lvscore.Host.modules`.
        backend, mode, control, state, state_interval, max_connections, seed, workers, inside,
            shield: how ``lvscore run`` starts.
    """

    name: str
    commands: tuple[Command, ...] = ()
    interfaces: tuple[InterfaceEntry, ...] = ()
    routes: tuple[RouteEntry, ...] = ()
    neighbours: tuple[NeighbourEntry, ...] = ()
    sysctl: Mapping[str, tuple[str, int]] = field(default_factory=lambda: MappingProxyType({}))
    helpers: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: MappingProxyType({}))
    port_quota: int | None = None
    timer_wheel: TimerWheel | None = None
    modules: tuple[str, ...] = ()
    backend: str | None = None
    mode: str | None = None
    control: str | None = None
    state: str | None = None
    state_interval: int = 10
    max_connections: int = DEFAULT_MAX_CONNECTIONS
    seed: int | None = None
    workers: int = 1
    inside: tuple[str, ...] = ()
    shield: bool = False

    def apply(self, engine: "Engine") -> None:
        """Give an engine without a Host what concerns it.

        Interfaces and routes become those of :attr:`lvscore.Engine.routes`; what only a Host
        has (MTUs, neighbours, its own settings) is checked, and left out.

        Raises:
            ConfigError: the engine has services or rules already.
            CommandError: a command was refused; the message begins with file and line.
                In either case nothing was changed.
        """
        host = Host(_scratch())
        self.configure(host)
        self._check_empty(engine)
        self._configure(engine)
        for interface in self.interfaces:
            engine.routes.add_interface(interface.name, interface.address)
        for route in self.routes:
            name = route.dev or _interface_of(engine, route)
            if not route.local and name is not None:
                engine.routes.add(route.to, name)
        self._set_sysctl(host, engine)

    def host(self, engine: "Engine", *, forwarding: bool = False) -> Host:
        """Put an engine into a Host, and give both this configuration.

        Args:
            engine: an engine without services, rules and interfaces.
            forwarding: let it be a router that sends no redirects, unless :attr:`sysctl` says
                otherwise.

        Raises: as :meth:`apply`.
        """
        self.configure(Host(_scratch()), forwarding=forwarding)
        self._check_empty(engine)
        host = Host(engine)
        self.configure(host, forwarding=forwarding)
        return host

    def configure(self, host: Host, *, forwarding: bool = False) -> None:
        """Give a Host that has nothing yet, and its engine, everything.

        Raises: as :meth:`apply`, and then it is left half done.
        """
        self._configure(host.engine)
        self.configure_host(host, forwarding=forwarding)

    def configure_host(self, host: Host, *, forwarding: bool = False) -> None:
        """Give a Host that has nothing yet its interfaces, routes and settings.

        Raises: as :meth:`apply`, and then it is left half done.
        """
        for interface in self.interfaces:
            with located(interface.where):
                host.add_interface(
                    interface.name, addresses=interface.address, mtu=interface.mtu or 1500
                )
        for route in self.routes:
            with located(route.where):
                host.add_route(route.to, via=route.via, interface=route.dev, local=route.local)
        for neighbour in self.neighbours:
            with located(neighbour.where):
                host.add_neighbour(neighbour.to, neighbour.lladdr, neighbour.dev)
        with located(f"{self.name}: modules"):
            host.modules = {*self.modules, *({"ip_vs_ftp"} & host.modules)}
        if forwarding:
            host.sysctl["net.ipv4.ip_forward"] = 1
            host.sysctl["net.ipv6.conf.all.forwarding"] = 1
            for name in ("all", *host.interfaces):
                host.sysctl[f"net.ipv4.conf.{name}.send_redirects"] = 0
        self._set_sysctl(host, host.engine)

    def open_interface(
        self, interface: InterfaceEntry, share: Share | None = None
    ) -> LiveInterface:
        """Open an interface as it says, else as all are to be.

        Raises:
            ConfigError: what it says does not fit together.
            InterfaceError: as :func:`lvscore.open_interface`.
        """
        backend = interface.backend or self.backend or "auto"
        mode = interface.mode or self.mode or "latency"
        with located(interface.where):
            return open_interface(
                interface.name, backend=backend, mode=mode, persistent=interface.persistent,
                share=share,
            )  # fmt: skip

    def _check_empty(self, engine: "Engine") -> None:
        if engine.services or engine.rules:
            raise ConfigError(f"{self.name}: the engine has services or rules already")

    def _configure(self, engine: "Engine") -> None:
        for helper, ports in self.helpers.items():
            with located(f"{self.name}: helper {helper}"):
                engine.helpers.add(helper, ports=ports)
        with located(f"{self.name}: port-quota"):
            engine.port_pools.quota = self.port_quota
        if self.timer_wheel is not None:
            engine.timer_wheel = self.timer_wheel
        for where, command in self.commands:
            if isinstance(command, nft.Script):
                nft.apply(engine, command)  # its messages say where
                continue
            with located(where):
                if isinstance(command, iptables.Command):
                    iptables.apply(engine, command)
                else:
                    apply_ipvsadm(engine, command)

    def _set_sysctl(self, host: Host, engine: "Engine") -> None:
        for name, (where, value) in self.sysctl.items():
            settings = host.sysctl if name in host.sysctl else engine.sysctl
            with located(where):
                settings[name] = value


def _scratch() -> "Engine":
    from lvscore.engine import Engine

    return Engine(max_connections=1, seed=0)


def _interface_of(engine: "Engine", route: RouteEntry) -> str | None:
    """The interface whose wire a route's gateway is on."""
    gateway = parse_address(route.via or "")
    for interface in engine.routes.interfaces:
        if any(network.version == gateway.version and gateway in network
               for _, network in interface.addresses):  # fmt: skip
            return interface.name
    return None


@contextmanager
def located(where: str) -> Iterator[None]:
    """Say in an error where the file has what was wrong."""
    try:
        yield
    except CommandError as error:
        raise CommandError(f"{where}: {error}", error.status) from None
    except InterfaceError:
        raise  # it says which, and a system's own number goes with it
    except LvscoreError as error:
        raise ConfigError(f"{where}: {error}") from None
