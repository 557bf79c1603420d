"""Changing a director that is at work to another configuration, without losing a connection.

The new configuration is first carried out as a whole on an engine and a Host of its own, and what
is there is then compared with them: what is the same is not touched, so that a scheduler goes on
where it was; what differs is edited; what is gone is deleted, as ``ipvsadm -e`` and ``-d`` do.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from lvscore import _engine
from lvscore.config.configuration import Configuration
from lvscore.errors import ConfigError
from lvscore.host import Host
from lvscore.nat import CHAINS
from lvscore.services import Server, Service

if TYPE_CHECKING:
    from lvscore.engine import Engine

__all__ = ["adopt", "change_engine", "reload"]

_AT_START = (
    "backend", "mode", "control", "max_connections", "seed", "state", "state_interval", "workers",
    "inside", "shield",
)  # fmt: skip


def reload(
    host: Host,
    before: Configuration,
    after: Configuration,
    *,
    check: Callable[[Host], None] = lambda host: None,
    forwarding: bool = False,
) -> None:
    """Change a Host and its engine to another configuration.

    Services, servers and rules that were changed meanwhile by other means are as ``after`` has
    them, too.

    Args:
        host: the director.
        before: the configuration that it was given before.
        after: the new one.
        check: is called with a Host that has the new configuration, and may refuse it.
        forwarding: as of :meth:`Configuration.host`.

    Raises:
        ConfigError: the new configuration is not valid, or changes what holds from start to end
            (interfaces, backend, control socket, bounds); nothing was changed.
    """
    for name in _AT_START:
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            key = name.replace("_", "-")
            raise ConfigError(
                f"{after.name}: {key} changes from {old} to {new}, which needs another start"
            )
    target = _configured(host.engine, after, forwarding)
    if target.interfaces != host.interfaces:
        raise ConfigError(
            f"{after.name}: the interfaces change from {', '.join(host.interfaces)} to "
            f"{', '.join(target.interfaces) or 'none'}, which needs another start"
        )
    check(target)
    change_engine(host.engine, target.engine)
    _change_host(host, target)
    for neighbour in before.neighbours:
        if (neighbour.to, neighbour.dev) not in [(n.to, n.dev) for n in after.neighbours]:
            host.remove_neighbour(neighbour.to, neighbour.dev)
    for neighbour in after.neighbours:
        host.add_neighbour(neighbour.to, neighbour.lladdr, neighbour.dev)


def adopt(engine: "Engine", configuration: Configuration, *, forwarding: bool = False) -> Host:
    """Put an engine that another process had, with its connections, into a Host.

    Its services, rules and settings are changed to those of the configuration, as
    :func:`reload` does; if it has no commands and settings, they stay.

    Args:
        engine: as it was loaded, without interfaces.
        configuration: what the Host gets.
        forwarding: as of :meth:`Configuration.host`.

    Raises:
        ConfigError: the configuration is not valid; nothing was changed.
    """
    target = _configured(engine, configuration, forwarding)
    if configuration.commands or configuration.sysctl or configuration.helpers:
        change_engine(engine, target.engine)
    host = Host(engine)
    configuration.configure_host(host, forwarding=forwarding)
    return host


def _configured(engine: "Engine", configuration: Configuration, forwarding: bool) -> Host:
    """A Host of its own with a configuration, and the same bounds as an engine."""
    target = Host(type(engine)(max_connections=engine.max_connections, seed=0))
    configuration.configure(target, forwarding=forwarding)
    return target


def change_engine(engine: "Engine", target: "Engine") -> None:
    """Give an engine the services, rules and settings of another; connections stay."""
    for name in engine.sysctl:
        if engine.sysctl[name] != target.sysctl[name]:
            engine.sysctl[name] = target.sysctl[name]
    timeouts = target.timeouts
    if engine.timeouts != timeouts:
        engine.set_timeouts(tcp=timeouts.tcp, tcp_fin=timeouts.tcp_fin, udp=timeouts.udp)
    engine.port_pools.quota = target.port_pools.quota
    engine.timer_wheel = target.timer_wheel
    for helper in list(engine.helpers):
        if helper not in target.helpers or engine.helpers[helper] != target.helpers[helper]:
            engine.helpers.remove(helper)
    for helper in target.helpers:
        if helper not in engine.helpers:
            engine.helpers.add(helper, ports=target.helpers[helper])
    _change_services(engine, target)
    _change_rules(engine, target)


def _change_services(engine: "Engine", target: "Engine") -> None:
    there = {service._key: service for service in engine.services}
    wanted = {service._key: service for service in target.services}
    for key, service in there.items():
        if key not in wanted:
            service.remove()
    for key, service in wanted.items():
        record = service._record()
        if key not in there:
            there[key] = Service(engine, key)
            _engine.service_join(
                engine, key.family, key.protocol, key.packed, key.port,
                record.scheduler, record.scheduler_flags, record.options,
            )  # fmt: skip
        elif there[key]._record() != record:
            _engine.service_update(
                engine, there[key]._index(), record.scheduler, record.scheduler_flags,
                record.options,
            )  # fmt: skip
        _change_servers(there[key], service)


def _change_servers(service: Service, target: Service) -> None:
    engine, index = service._engine, service._index()
    there = {server.endpoint: server for server in service.servers}
    wanted = {server.endpoint: server for server in reversed(target.servers)}  # as added
    for endpoint, server in there.items():
        if endpoint not in wanted:
            server.remove()
    for endpoint, server in wanted.items():
        method, weight, upper, lower, tunnel = _settings(server)
        if endpoint not in there:
            _engine.server_join(
                engine, index, endpoint.address.packed, endpoint.port, method, weight, upper,
                lower, tunnel,
            )  # fmt: skip
        elif _settings(there[endpoint]) != _settings(server):
            _engine.server_update(
                engine, there[endpoint]._index(), method, weight, upper, lower, tunnel
            )


def _settings(server: Server) -> tuple[int, int, int, int, tuple[int, int, int]]:
    record = server._record()
    return (
        record.method, record.weight, record.upper_threshold, record.lower_threshold,
        record.tunnel,
    )  # fmt: skip


def _change_rules(engine: "Engine", target: "Engine") -> None:
    """A rule that stays, if in another place, keeps its number, and so its counters."""
    for key in CHAINS:
        there = list(engine._chains[key])
        chain = []
        for wanted in target._chains[key]:
            if wanted in there:
                chain.append(there.pop(there.index(wanted)))
            else:
                chain.append(engine._number_rule(wanted))
        if chain != engine._chains[key]:
            engine._install_rules(key, chain)


def _change_host(host: Host, target: Host) -> None:
    for name in target.interfaces:
        _change_addresses(host, name, [str(address) for address in target.addresses(name)])
        if host.mtu(name) != target.mtu(name):
            host.set_mtu(name, target.mtu(name))
    if host.routes != target.routes:
        for route in host.routes:
            host.remove_route(route.network)
        for route in target.routes:
            host.add_route(
                route.network, via=route.gateway, interface=route.interface, local=route.local
            )
    host.modules = target.modules
    for name, value in target.sysctl.items():
        if host.sysctl[name] != value:
            host.sysctl[name] = value


def _change_addresses(host: Host, name: str, wanted: list[str]) -> None:
    there = [str(address) for address in host.addresses(name)]
    stay = [address for address in there if address in wanted]
    if stay != wanted[: len(stay)]:
        stay = []  # the first of a family is the primary one: the order counts
    for address in there:
        if address not in stay:
            host.remove_address(name, address)
    for address in wanted:
        if address not in stay:
            host.add_address(name, address)
