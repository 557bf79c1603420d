"""The connection table as seen from Python: look-up, iteration, NumPy."""

from collections.abc import Iterator
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from lvscore import _engine
from lvscore.addresses import (
    Address,
    Endpoint,
    parse_endpoint,
    parse_protocol,
    protocol_name,
)
from lvscore.constants import State
from lvscore.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lvscore.engine import Engine

__all__ = ["Connection", "Connections"]


class Connection(NamedTuple):
    """One connection, as it was when it was looked at.

    A packet ``client -> virtual`` is translated to ``local -> server``; a packet
    ``server -> local`` to ``virtual -> client``. Under LVS-NAT ``local`` is the client itself.
    For ICMP the ports are the identifier and the request type.
    """

    protocol: str
    state: str
    kind: str
    """``"service"`` or ``"rule"``: what made it; ``"template"`` in ``engine.templates``."""
    client: Endpoint
    virtual: Endpoint
    server: Endpoint
    local: Endpoint
    packets_in: int
    packets_out: int
    bytes_in: int
    bytes_out: int
    expires_ns: int
    """Nanoseconds until it expires if no packet comes."""
    call_id: str = ""
    """Of a template of the persistence engine sip: the Call-ID that it stands for."""


def connection_dtype() -> "np.dtype[np.void]":
    """The structured dtype of :meth:`Connections.snapshot`."""
    import numpy

    layout: Any = _engine.connection_layout()
    return cast("np.dtype[np.void]", numpy.dtype(layout))


def _address(packed: bytes) -> Address:
    address = IPv6Address(packed)
    return address.ipv4_mapped or address


def _connection(engine: "Engine", row: Any) -> Connection:
    def address(name: str) -> Address:
        packed = row[name].tobytes()
        family = row["server_family" if name == "server" else "family"]
        return _address(packed) if family == 4 else IPv6Address(packed)

    def endpoint(name: str) -> Endpoint:
        return Endpoint(address(name), int(row[name + "_port"]))

    return Connection(
        protocol=protocol_name(int(row["protocol"])) if row["protocol"] else "ip",
        state=State(int(row["state"])).name,
        kind=("template" if row["is_template"] else "service" if row["is_service"] else "rule"),
        client=endpoint("client"),
        virtual=endpoint("virtual"),
        server=endpoint("server"),
        local=endpoint("local"),
        packets_in=int(row["packets_in"]),
        packets_out=int(row["packets_out"]),
        bytes_in=int(row["bytes_in"]),
        bytes_out=int(row["bytes_out"]),
        expires_ns=int(row["expires_ns"]),
        call_id=_engine.dialog_call_id(engine, row["dialog"]).decode() if row["dialog"] else "",
    )


class Connections:
    """A live view of an engine's connections."""

    def __init__(self, engine: "Engine", *, templates: bool = False) -> None:
        self._engine = engine
        self._templates = templates

    def __len__(self) -> int:
        return _engine.connections_count(self._engine, self._templates)

    def __repr__(self) -> str:
        kind = "templates" if self._templates else "connections"
        return f"<{len(self)} {kind} of {self._engine!r}>"

    def __contains__(self, key: object) -> bool:
        """Whether there is a connection (protocol, source, destination), or this one as it is."""
        if isinstance(key, Connection):
            return any(key == other for other in self)
        return isinstance(key, tuple) and len(key) == 3 and self.find(*key) is not None

    def __iter__(self) -> Iterator[Connection]:
        """Iterate over a consistent copy, as :class:`Connection` tuples."""
        return (_connection(self._engine, row) for row in self.snapshot())

    def snapshot(self) -> "npt.NDArray[np.void]":
        """Copy all connections into a structured array, in no particular order.

        Fields: ``family`` (4, 6), ``server_family``, ``protocol`` (0: a template of a firewall
        mark, which is its ``virtual``), ``state`` (:class:`lvscore.State`), ``is_service``,
        ``is_template``, ``seen_reply``; ``client``, ``virtual``, ``server``, ``local`` (16
        bytes each, IPv4 in IPv4-mapped form) and ``*_port`` (host order);
        ``server_index``, ``dialog`` (0: none);
        ``packets_in``, ``packets_out``, ``bytes_in``, ``bytes_out`` (IP lengths);
        ``expires_ns`` (from ``engine.now``).
        """
        import numpy

        return numpy.frombuffer(
            _engine.connections_snapshot(self._engine, self._templates), connection_dtype()
        )

    def find(
        self,
        protocol: str | int,
        source: str | Endpoint | tuple[str | Address, int],
        destination: str | Endpoint | tuple[str | Address, int],
    ) -> Connection | None:
        """Return the connection that a packet ``source -> destination`` belongs to, if any.

        Either direction finds it: the client's packets and the server's answers.

        Raises:
            AddressError: an endpoint cannot be read.
        """
        import numpy

        here, there = parse_endpoint(source), parse_endpoint(destination)
        if here.address.version != there.address.version:
            return None
        record = _engine.connection_find(
            self._engine, self._templates, here.address.version, parse_protocol(protocol),
            here.address.packed, here.port, there.address.packed, there.port,
        )  # fmt: skip
        if record is None:
            return None
        return _connection(self._engine, numpy.frombuffer(record, connection_dtype())[0])

    def __getitem__(
        self,
        key: tuple[
            str | int,
            str | Endpoint | tuple[str | Address, int],
            str | Endpoint | tuple[str | Address, int],
        ],
    ) -> Connection:
        """``engine.connections["tcp", "10.0.0.9:40000", "172.16.1.100:80"]``, or KeyError."""
        if not isinstance(key, tuple) or len(key) != 3:
            raise ConfigError(f"[{key!r}]: expected [protocol, source, destination]")
        found = self.find(*key)
        if found is None:
            raise KeyError(key)
        return found
