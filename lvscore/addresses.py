"""Addresses, ports, prefixes and ranges: from text to values, and back.

Everywhere in lvscore an endpoint is the text ``"address:port"`` (``"[v6]:port"``); what is
accepted as text is also accepted as :class:`Endpoint` or as the objects of :mod:`ipaddress`.
"""

from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import NamedTuple

from lvscore._arguments import integer
from lvscore.errors import AddressError
from lvscore.integers import parse_decimal

__all__ = [
    "PROTOCOLS",
    "Address",
    "AddressRange",
    "Endpoint",
    "Network",
    "PortRange",
    "parse_address",
    "parse_endpoint",
    "parse_network",
    "parse_ports",
    "parse_protocol",
    "parse_target",
    "protocol_name",
]

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
_ALIASES = {"ipv6-icmp": 58, "icmp6": 58}
_NAMES = {number: name for name, number in PROTOCOLS.items()}


class Endpoint(NamedTuple):
    """An address and a port; ``str()`` gives ``"address:port"`` or ``"[v6]:port"``."""

    address: Address
    port: int

    def __str__(self) -> str:
        if self.address.version == 6:
            return f"[{self.address}]:{self.port}"
        return f"{self.address}:{self.port}"


class PortRange(NamedTuple):
    """Ports ``first`` to ``last``, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


class AddressRange(NamedTuple):
    """Addresses ``first`` to ``last``, both included."""

    first: Address
    last: Address

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


def parse_protocol(protocol: str | int) -> int:
    """Return the IP protocol number of ``"tcp"``, ``"udp"``, ``6`` ...

    Raises:
        AddressError: the protocol is not one that lvscore handles.
    """
    if isinstance(protocol, str):
        name = protocol.lower()
        number = PROTOCOLS.get(name, _ALIASES.get(name, parse_decimal(name, 0, 0xFF)))
        if number in _NAMES:
            return number
    elif not isinstance(protocol, bool):
        number = integer(protocol)
        if number is not None and number in _NAMES:
            return number
    raise AddressError(f"unknown protocol {protocol!r}: expected one of {', '.join(PROTOCOLS)}")


def protocol_name(number: int) -> str:
    """Return the name of an IP protocol number, or the number as text."""
    return _NAMES.get(number, str(number))


def parse_address(value: str | Address) -> Address:
    """Return the address that ``value`` names.

    Raises:
        AddressError: ``value`` is not an IPv4 or IPv6 address, or has a zone index.
    """
    if isinstance(value, IPv4Address | IPv6Address):
        return value
    try:
        address = ip_address(value.strip() if isinstance(value, str) else _refuse(value))
    except ValueError:
        raise AddressError(f"{value!r} is not an IPv4 or IPv6 address") from None
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise AddressError(f"{value!r} has a zone index, which a packet does not carry")
    return address


def _refuse(value: object) -> str:
    raise AddressError(f"expected an address as text or ipaddress object, not {value!r}")


def parse_port(text: str | int, *, whole: str | None = None) -> int:
    """Return a port number 0..65535; ``whole`` is the text to name in the error."""
    shown = text if whole is None else whole
    port = parse_decimal(text, 0, 65535) if isinstance(text, str) else integer(text)
    if port is None or not 0 <= port <= 65535:
        raise AddressError(f"{shown!r}: port {text} is not in 0..65535")
    return port


def parse_ports(value: "str | int | range | tuple[int, int] | PortRange") -> PortRange:
    """Return the ports of ``80``, ``"80"``, ``"8000-8080"``, ``"8000:8080"`` or ``range(...)``.

    Raises:
        AddressError: a port is not in 0..65535, or the range is empty.
    """
    if isinstance(value, range):
        if len(value) == 0 or value.step != 1:
            raise AddressError(f"{value!r} is not a range of ports: expected step 1, not empty")
        first, last = value.start, value.stop - 1
    elif isinstance(value, tuple):
        first, last = value
    elif not isinstance(value, str):
        first = last = value
    else:
        text = value.replace(":", "-")
        head, separator, tail = text.partition("-")
        first = parse_port(head, whole=value)
        last = parse_port(tail, whole=value) if separator else first
    result = PortRange(parse_port(first), parse_port(last))
    if result.first > result.last:
        raise AddressError(f"{value!r} is not a range of ports: the first is above the last")
    return result


def parse_endpoint(
    value: "str | Endpoint | tuple[str | Address, int]", default_port: int | None = None
) -> Endpoint:
    """Return the endpoint of ``"address:port"`` or ``"[v6]:port"``.

    Args:
        value: text, :class:`Endpoint`, or (address, port).
        default_port: the port when the text has none; ``None`` makes a port obligatory.

    Raises:
        AddressError: the address or the port cannot be read, or the port is missing.
    """
    if isinstance(value, tuple):
        if len(value) != 2:
            raise AddressError(f"expected (address, port), not {value!r}")
        return Endpoint(parse_address(value[0]), parse_port(value[1]))
    if isinstance(value, IPv4Address | IPv6Address):
        host, port = str(value), ""
    elif not isinstance(value, str):
        raise AddressError(f"expected 'address:port', not {value!r}")
    else:
        host, port = _split(value)
    address = parse_address(host)
    if port:
        return Endpoint(address, parse_port(port, whole=str(value)))
    if default_port is None:
        raise AddressError(f"{str(value)!r} has no port: expected 'address:port' or '[v6]:port'")
    return Endpoint(address, default_port)


def _split(value: str) -> tuple[str, str]:
    text = value.strip()
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")) or rest == ":":
            raise AddressError(f"{value!r} is not '[v6]:port'")
        return host, rest[1:]
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        if not port:
            raise AddressError(f"{value!r} has no port behind the colon")
        return host, port
    return text, ""


def parse_network(value: str | Address | Network) -> Network:
    """Return the prefix of ``"10.0.0.0/24"``, ``"10.0.0.0/255.255.255.0"`` or an address.

    Host bits are cut off, as iptables does.

    Raises:
        AddressError: ``value`` is not a prefix.
    """
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    if isinstance(value, IPv4Address | IPv6Address):
        return ip_network(value)
    if not isinstance(value, str):
        raise AddressError(f"expected a prefix as text or ipaddress object, not {value!r}")
    try:
        return ip_network(value, strict=False)
    except ValueError:
        raise AddressError(f"{value!r} is not a prefix: expected 'address/length'") from None


def parse_target(
    value: "str | Address | Endpoint | tuple[str | Address, str | Address]",
) -> tuple[AddressRange, PortRange | None]:
    """Return the addresses and ports of a translation target in iptables' notation.

    ``"a"``, ``"a-b"``, ``"a:p"``, ``"a:p-q"``, ``"a-b:p-q"``; IPv6 with ports in brackets.

    Raises:
        AddressError: an address or port cannot be read, or a range is empty or mixes families.
    """
    if isinstance(value, Endpoint):
        return AddressRange(value.address, value.address), PortRange(value.port, value.port)
    if isinstance(value, IPv4Address | IPv6Address):
        return AddressRange(value, value), None
    if isinstance(value, tuple):
        first, last, ports = str(value[0]), str(value[1]), ""
    elif not isinstance(value, str):
        raise AddressError(f"expected an address or range, not {value!r}")
    else:
        first, last, ports = _split_target(value)
    low = parse_address(first)
    high = parse_address(last) if last else low
    if low.version != high.version:
        raise AddressError(f"{value!r} mixes IPv4 and IPv6")
    if int(low) > int(high):
        raise AddressError(f"{value!r}: the first address is above the last")
    port_range = parse_ports(ports) if ports else None
    if port_range is not None and port_range.first == 0:
        raise AddressError(f"{value!r}: port 0 cannot be translated to; expected 1..65535")
    return AddressRange(low, high), port_range


def _split_target(value: str) -> tuple[str, str, str]:
    text = value.strip()
    if text.startswith("["):
        inside, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and (not rest.startswith(":") or rest == ":")):
            raise AddressError(f"{value!r} is not '[v6]:port'")
        ports = rest[1:]
    elif text.count(":") == 1:
        inside, _, ports = text.partition(":")
        if not ports:
            raise AddressError(f"{value!r} has no port behind the colon")
    else:
        inside, ports = text, ""
    first, _, last = inside.partition("-")
    return first.strip("[]"), last.strip("[]"), ports
