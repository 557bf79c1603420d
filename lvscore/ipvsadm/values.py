"""The values in ipvsadm's language: numbers, addresses, ports, masks; text to value and back.

Ports may be written and are listed by name (the services database); addresses are numeric
only, because an answer from the network must not decide what an engine does.
"""

import re
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

from lvscore.addresses import Address, Endpoint
from lvscore.integers import parse_decimal

__all__ = [
    "FORWARD",
    "HEADER",
    "PROTOCOLS",
    "VERSION",
    "format_address",
    "format_endpoint",
    "parse_address_port",
    "parse_ipv4",
    "parse_number",
    "port_name",
]

TCP, UDP, SCTP = 6, 17, 132
VERSION = "1.2.1"
HEADER = f"IP Virtual Server version {VERSION} (size=4096)\n"
FORWARD = {"masquerade": "Masq", "route": "Route", "tunnel": "Tunnel", "local": "Local"}
"""The names of the forwarding methods in listings."""

PROTOCOLS = {"tcp": TCP, "udp": UDP, "sctp": SCTP}
_BLANKS = " \t\n\v\f\r"  # isspace(3)
_DATABASE_NAMES = {number: name for name, number in PROTOCOLS.items()}


def parse_number(text: str, low: int, high: int) -> int | None:
    """Return a decimal number in ``low..high``, or ``None``; leading blanks are allowed, and a
    sign."""
    digits = text.lstrip(_BLANKS)
    if digits[:1] == "-":
        number = parse_decimal(digits[1:], -high, -low)
        return None if number is None else -number
    return parse_decimal(digits.removeprefix("+"), low, high)


def parse_ipv4(text: str) -> IPv4Address | None:
    """Return an IPv4 address in any form of inet_aton (``10.1`` is 10.0.0.1), or ``None``.

    What stands behind a blank does not matter, as with glibc.
    """
    try:
        return IPv4Address(socket.inet_aton(re.split(f"[{_BLANKS}]", text, maxsplit=1)[0]))
    except (OSError, UnicodeError, ValueError):
        return None


def _parse_port(text: str, protocol: int) -> int | None:
    number = parse_number(text, 0, 65535)
    if number is not None or not text:
        return number
    try:
        return socket.getservbyname(text, _DATABASE_NAMES[protocol])
    except (OSError, UnicodeError, ValueError, KeyError):
        return None


def parse_address_port(text: str, protocol: int) -> tuple[Address, int | None] | None:
    """Return (address, port) of ``a.b.c.d[:port]``, ``[v6]:port`` or ``v6``, or ``None``.

    The port is ``None`` where there is none. Brackets need the colon and port behind them.
    """
    port: str | None
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]:")
        if not bracket:
            return None
    elif text.count(":") > 1:
        host, port = text, None
    else:
        host, colon, port = text.partition(":")
        if not colon:
            port = None
    address: Address | None
    if ":" in host:
        try:
            address = ip_address(host)
        except ValueError:
            return None
        if not isinstance(address, IPv6Address) or address.scope_id is not None:
            return None
    else:
        address = None if text.isdigit() else parse_ipv4(host)
    if address is None or port is None:
        return None if address is None else (address, None)
    number = _parse_port(port, protocol)
    return None if number is None else (address, number)


def format_address(address: Address) -> str:
    """Return the address as inet_ntop writes it, IPv6 in brackets."""
    if address.version == 6:
        # str() of an IPv4-mapped address differs between Python versions
        return f"[{socket.inet_ntop(socket.AF_INET6, address.packed)}]"
    return str(address)


def port_name(port: int, protocol: int) -> str:
    """Return the port's name in the services database, or its number."""
    if port == 0:
        return "0"
    try:
        return socket.getservbyport(port, _DATABASE_NAMES[protocol])
    except (OSError, KeyError):
        return str(port)


def format_endpoint(endpoint: Endpoint, protocol: int, *, numeric: bool) -> str:
    """Return ``address:port``; with ``numeric`` false the port by name where it has one."""
    address, port = endpoint
    shown = str(port) if numeric else port_name(port, protocol)
    return f"{format_address(address)}:{shown}"
