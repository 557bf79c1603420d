"""Carries out a parsed command on an engine, or refuses it by name.

Where the kernel would refuse a command, its message and status are given; what the kernel
would do but this engine cannot is refused with "... is not available". Both leave the engine
as it was.
"""

from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any, NoReturn

from lvscore.addresses import Address, Endpoint
from lvscore.errors import CommandError, ConfigError, DuplicateError, LimitError, NotFoundError
from lvscore.ipvsadm.grammar import Command, ServiceKey
from lvscore.ipvsadm.help import HELP, VERSION_TEXT
from lvscore.ipvsadm.listing import (
    COLUMNS,
    format_connections,
    format_listing,
    format_saved,
)
from lvscore.model import SCHEDULERS
from lvscore.services import PERSISTENCE_ENGINES

if TYPE_CHECKING:
    from lvscore.engine import Engine
    from lvscore.services import Service

__all__ = ["CONFIGURING", "apply"]

CONFIGURING = frozenset(
    {
        "add-service",
        "edit-service",
        "delete-service",
        "flush",
        "add-server",
        "edit-server",
        "delete-server",
        "set",
    }
)
"""Commands that change the configuration, and can therefore stand in a file of it."""


def apply(engine: "Engine", command: Command) -> str:
    """Carry out one command and return what it prints.

    Raises:
        CommandError: the command was refused; nothing was changed.
    """
    try:
        return _apply(engine, command)
    except CommandError:
        raise
    except (ConfigError, LimitError) as error:
        raise CommandError(str(error)) from None


def _apply(engine: "Engine", command: Command) -> str:
    match command.name:
        case "add-service" | "edit-service":
            _put_service(engine, command)
        case "delete-service":
            _find(engine, command.service, "No such service").remove()
        case "flush":
            engine.clear_services()
        case "add-server":
            _add_server(engine, command)
        case "edit-server" | "delete-server":
            _change_server(engine, command)
        case "set":
            tcp, tcp_fin, udp = (seconds or None for seconds in command.timeouts)
            engine.set_timeouts(tcp=tcp, tcp_fin=tcp_fin, udp=udp)
        case "list":
            return _list(engine, command)
        case "save":
            return format_saved(engine, numeric="numeric" in command.options)
        case "version":
            return VERSION_TEXT
        case "help":
            return HELP
        case "stop-daemon":
            raise CommandError("No daemon is running", 255)
        case "start-daemon":
            _unavailable("the connection sync daemon (--start-daemon)")
        case "zero":
            if command.service:
                _find(engine, command.service, "No such service").zero_statistics()
            else:
                engine.zero_statistics()
        case "restore":
            _unavailable("-R, which reads standard input,", "give the text to restore()")
    return ""


def _unavailable(what: str, instead: str = "") -> NoReturn:
    raise CommandError(f"{what} is not available" + (f": {instead}" if instead else ""))


def _lookup(engine: "Engine", key: ServiceKey) -> "Service | None":
    try:
        if key.address is None:
            return engine.find_fwmark_service(key.mark, key.family)
        return engine.find_service(key.protocol, Endpoint(key.address, key.port))
    except NotFoundError:
        return None


def _find(engine: "Engine", key: ServiceKey | None, message: str, status: int = 255) -> "Service":
    service = None if key is None else _lookup(engine, key)
    if service is None:
        raise CommandError(message, status)
    return service


def _put_service(engine: "Engine", command: Command) -> None:
    key = command.service
    assert key is not None
    service = _lookup(engine, key)
    adding = command.name == "add-service"
    if adding == (service is not None):
        raise CommandError("Service already exists" if adding else "No such service", 255)
    if command.scheduler not in SCHEDULERS or command.persistence_engine not in (
        "",
        *PERSISTENCE_ENGINES,
    ):
        raise CommandError("Scheduler or persistence engine not found", 255)
    # What was not written out goes back to its default, also in an edit.
    settings: dict[str, Any] = {
        "scheduler": command.scheduler,
        "scheduler_flags": command.scheduler_flags,
        "persistence": command.persistence,
        "netmask": command.netmask or (32 if key.family == 4 else 128),
        "one_packet": command.one_packet,
        "persistence_engine": command.persistence_engine,
    }
    if service is not None:
        service.edit(**settings)
    elif key.address is None:
        engine.add_fwmark_service(key.mark, family=key.family, **settings)
    else:
        engine.add_service(key.protocol, Endpoint(key.address, key.port), **settings)


def _server_settings(command: Command) -> dict[str, Any]:
    if command.lower_threshold > command.upper_threshold:
        raise CommandError("Numerical result out of range", 255)
    return {
        "weight": command.weight,
        "method": command.method,
        "tunnel": command.tunnel if command.method == "tunnel" else None,
        "upper_threshold": command.upper_threshold,
        "lower_threshold": command.lower_threshold,
    }


def _add_server(engine: "Engine", command: Command) -> None:
    service = _find(engine, command.service, "Service not defined")
    settings = _server_settings(command)
    assert command.server is not None
    if not _is_unicast(command.server[0]):
        raise CommandError(
            "Invalid operation.  Possibly wrong module version, address not unicast, ...", 255
        )
    try:
        service.add_server(Endpoint(*command.server), **settings)
    except DuplicateError:
        raise CommandError("Destination already exists", 255) from None


def _is_unicast(address: Address) -> bool:
    """Whether the kernel takes an address for a host's (inet_addr_type, ipv6_addr_type)."""
    if isinstance(address, IPv4Address):
        return not (address.is_multicast or address.packed[0] == 0 or int(address) == 2**32 - 1)
    return not (
        address.is_multicast
        or address.is_unspecified
        or address.is_link_local
        or address.ipv4_mapped is not None
    )


def _change_server(engine: "Engine", command: Command) -> None:
    service = _find(engine, command.service, "Service not defined")
    editing = command.name == "edit-server"
    settings = _server_settings(command) if editing else {}
    assert command.server is not None
    try:
        server = service.find_server(Endpoint(*command.server))
    except NotFoundError:
        raise CommandError("No such destination", 255) from None
    if editing:
        server.edit(**settings)
    else:
        server.remove()


def _list(engine: "Engine", command: Command) -> str:
    options = command.options
    numeric = "numeric" in options
    if "timeout" in options:
        timeouts = engine.timeouts
        values = f"{timeouts.tcp} {timeouts.tcp_fin} {timeouts.udp}"
        return f"Timeout (tcp tcpfin udp): {values}\n"
    if "daemon" in options:
        return ""  # one line for each that runs, and none can
    if "connection" in options:
        return format_connections(
            engine, numeric=numeric, persistence_engines="persistent-conn" in options
        )
    service = None
    if command.service is not None:
        service = _find(engine, command.service, "No such service", 1)
    columns = next((name for name in COLUMNS if name in options), "")
    return format_listing(
        engine,
        service,
        columns=columns,
        numeric=numeric,
        exact="exact" in options,
        sort=command.sort,
    )
