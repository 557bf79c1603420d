"""Helpers: what looks into protocols that announce further connections."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from lvscore import _engine
from lvscore._arguments import whole_number
from lvscore.errors import ConfigError, DuplicateError, NotFoundError

if TYPE_CHECKING:
    from lvscore.engine import Engine

__all__ = ["Helpers"]

_MOST_PORTS = 8  # IP_VS_APP_MAX_PORTS


class Helpers:
    """The helpers of an engine, by name; ``"ftp"`` (ip_vs_ftp.c) is the one there is.

    These are IPVS's own; conntrack's, for flows of the NAT rules, is given by a rule
    (:meth:`Engine.add_ct`).

    The FTP helper looks after masqueraded TCP connections to its ports that begin while it is
    on, to their end. A data connection that the client announces (PORT, EPRT) or the server
    (the answers 227 and 229) becomes one that goes to the same server, and the server's address
    in the answer becomes the virtual one; sequence numbers follow. Segments of these
    connections with a wrong checksum are dropped with ``Reason.BAD_TCP_CHECKSUM``.

    An answer that becomes longer or shorter gets verdict STOLEN, and what leaves for it is in
    :attr:`Engine.emitted`. Two things are not the kernel's: a retransmitted answer is rewritten
    again, and numbers that are out of range announce nothing instead of being cut to size.
    """

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine

    def __repr__(self) -> str:
        return f"Helpers({', '.join(f'{name}={self[name]}' for name in self)})"

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __iter__(self) -> Iterator[str]:
        """The names of those that are on."""
        if _engine.ftp_ports(self._engine):
            yield "ftp"

    def __contains__(self, name: object) -> bool:
        return name in tuple(self)

    def __getitem__(self, name: str) -> tuple[int, ...]:
        """The virtual ports of a helper.

        Raises:
            NotFoundError: it is not on.
        """
        if name not in self:
            raise NotFoundError(f"no helper {name!r}")
        return _engine.ftp_ports(self._engine)

    def add(self, name: str, *, ports: Iterable[int] = (21,)) -> None:
        """Switch a helper on; connections that there are already stay as they are.

        Args:
            name: ``"ftp"``.
            ports: virtual ports of control connections, at most 8.

        Raises:
            ConfigError: there is no such helper, or a port is not valid.
            DuplicateError: it is on.
        """
        if name != "ftp":
            raise ConfigError(f"no helper {name!r}; there is 'ftp'")
        if name in self:
            raise DuplicateError(f"helper {name} is on, for ports {self[name]}")
        if isinstance(ports, int):
            raise ConfigError(f"ports={ports!r}: expected a list of them")
        given = tuple(dict.fromkeys(whole_number(port, "port", 1, 65535) for port in ports))
        if not 1 <= len(given) <= _MOST_PORTS:
            raise ConfigError(f"{len(given)} ports; expected 1..{_MOST_PORTS}")
        _engine.ftp_ports_set(self._engine, given)

    def remove(self, name: str) -> None:
        """Switch a helper off; connections that it looks after keep it until they end.

        Raises:
            NotFoundError: it is not on.
        """
        if name not in self:
            raise NotFoundError(f"no helper {name!r}")
        _engine.ftp_ports_set(self._engine, ())
