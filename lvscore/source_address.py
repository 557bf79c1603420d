"""Which of a host's own addresses its packets to a network come from."""

from collections.abc import Iterable, Sequence
from ipaddress import IPv6Address, IPv6Interface, IPv6Network

__all__ = ["select_source"]

# RFC 6724, section 2.1; what is of none of these has the label of the rest.
_LABELS = [
    IPv6Network(text)
    for text in ("::1/128", "::ffff:0:0/96", "2002::/16", "2001::/32", "fc00::/7", "::/96",
                 "fec0::/10", "3ffe::/16")
]  # fmt: skip
_SOMEWHERE = IPv6Address("2000::")  # what a default route leads to
_LINK_LOCAL, _SITE_LOCAL, _GLOBAL = 2, 5, 14


def select_source(
    network: IPv6Network,
    near: Sequence[IPv6Interface],
    far: Iterable[Sequence[IPv6Interface]] = (),
) -> IPv6Address | None:
    """Return the address that packets to a network come from (RFC 6724, section 5), or ``None``.

    Args:
        network: where they go.
        near: addresses of the interface that they leave by, as they were added. Of equals the
            kernel takes the latest (ipv6_link_dev_addr).
        far: those of the other interfaces, taken where none of the former has the scope.
    """
    destination = network.network_address if network.prefixlen > 2 else _SOMEWHERE
    candidates = [(one, True) for one in reversed(near)]
    candidates += [(one, False) for addresses in far for one in reversed(addresses)]

    def preference(candidate: tuple[IPv6Interface, bool]) -> tuple[bool, int, bool, bool, int]:
        one, is_near = candidate
        scope = _scope(one.ip)
        reaches = scope >= _scope(destination)
        return (
            reaches,
            -scope if reaches else scope,
            is_near,
            _label(one.ip) == _label(destination),
            min(_common_bits(one.ip, destination), one.network.prefixlen, network.prefixlen),
        )

    return max(candidates, key=preference)[0].ip if candidates else None


def _scope(address: IPv6Address) -> int:
    if address.is_link_local or address.is_loopback:
        return _LINK_LOCAL
    return _SITE_LOCAL if address.is_site_local else _GLOBAL


def _label(address: IPv6Address) -> IPv6Network | None:
    return next((network for network in _LABELS if address in network), None)


def _common_bits(one: IPv6Address, other: IPv6Address) -> int:
    return 128 - (int(one) ^ int(other)).bit_length()
