"""A Host's interfaces and routes, and how the compiled stage takes them."""

from collections.abc import Sequence
from ipaddress import IPv4Interface, IPv6Interface, IPv6Network, ip_network
from typing import NamedTuple, Protocol

from lvscore.addresses import Address, Network
from lvscore.source_address import select_source

__all__ = ["UNICAST", "InterfaceLike", "RouteEntry", "compiled", "primaries"]

UNICAST, _LOCAL, _BROADCAST = 0, 1, 2  # _core/route.pxd
_LOOPBACKS = (ip_network("127.0.0.0/8"), ip_network("::1/128"))

_Packed = tuple[int, int, bytes, int, int, bytes | None, bytes | None]
"""Family, kind, network, prefix length, interface, source and gateway."""


class RouteEntry(NamedTuple):
    """A route that was added; those to the interfaces' own prefixes are not among them."""

    network: Network
    gateway: Address | None
    interface: str | None
    local: bool


class InterfaceLike(Protocol):
    """An interface as the Host keeps it."""

    name: str
    number: int
    mac: bytes
    mtu: int
    peer: bytes | None
    addresses: list[IPv4Interface | IPv6Interface]


def primaries(interface: InterfaceLike) -> list[bytes | None]:
    """The first IPv4 address of an interface; of IPv6 the latest, not a link-local one if there is
    another (nf_nat_redirect.c)."""
    first = next((a.ip.packed for a in interface.addresses if a.version == 4), None)
    six = [a.ip for a in interface.addresses if a.version == 6]
    latest = max(reversed(six), key=lambda a: not a.is_link_local, default=None)
    return [first, None if latest is None else latest.packed]


def compiled(interfaces: Sequence[InterfaceLike], routes: Sequence[RouteEntry]) -> list[_Packed]:
    """All routes in the order in which they are looked at: local ones first, then the longest
    prefix; of equals the first that was added."""
    packed: list[_Packed] = []
    by_name = {interface.name: interface for interface in interfaces}
    for interface in interfaces:
        for address in interface.addresses:
            network, own = address.network, address.ip
            packed.append(_packed(UNICAST, network, interface, None, own))
            if address.version == 4 and network.prefixlen < 31:
                packed += [
                    _packed(_BROADCAST, type(network)(end), interface, None, own)
                    for end in (network.network_address, network.broadcast_address)
                ]
    packed += [_local(network) for network in _LOOPBACKS]
    for route in routes:
        if route.local:
            packed.append(_local(route.network))
        elif route.interface in by_name:
            interface = by_name[route.interface]
            source = _source(route, interface, interfaces)
            packed.append(_packed(UNICAST, route.network, interface, route.gateway, source))
    return sorted(packed, key=lambda route: (route[1] == UNICAST, -route[3]))


def _source(
    route: RouteEntry, interface: InterfaceLike, interfaces: Sequence[InterfaceLike]
) -> Address | None:
    """The address that packets by a route come from: of IPv4 the first on the gateway's wire,
    else the interface's first (inet_select_addr)."""
    if isinstance(route.network, IPv6Network):
        near, *far = (
            [a for a in i.addresses if isinstance(a, IPv6Interface)]
            for i in sorted(interfaces, key=lambda i: i is not interface)
        )
        return select_source(route.network, near, far)
    own = [a for a in interface.addresses if a.version == 4]
    wire = [a for a in own if route.gateway is not None and route.gateway in a.network]
    return next((a.ip for a in wire + own), None)


def _packed(
    kind: int, network: Network, interface: InterfaceLike, gateway: Address | None,
    own: Address | None,
) -> _Packed:  # fmt: skip
    return (
        network.version, kind, network.network_address.packed, network.prefixlen, interface.number,
        None if own is None else own.packed, None if gateway is None else gateway.packed,
    )  # fmt: skip


def _local(network: Network) -> _Packed:
    packed = network.network_address.packed
    return network.version, _LOCAL, packed, network.prefixlen, 0, None, None
