"""nft's text of rules, chains and tables, as nft 1.0.6 prints it."""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

from lvscore.addresses import AddressRange, PortRange
from lvscore.model import Mark
from lvscore.nft.grammar import STANDARD_PRIORITIES
from lvscore.nft.model import Action, BaseChain, Match, NftRule, Span, protocol_name
from lvscore.nft.translate import as_network

__all__ = ["format_base", "format_rule"]

_NEAR = 10  # of a standard priority, which is then named
_ALL = 0xFFFFFFFF


def format_base(base: BaseChain) -> str:
    """The line that makes a chain a base chain."""
    priority = str(base.priority)
    for name, standard in STANDARD_PRIORITIES.items():
        of_hook = {"dstnat": "prerouting", "srcnat": "postrouting"}.get(name, base.hook)
        offset = base.priority - standard
        if of_hook == base.hook and abs(offset) <= _NEAR:
            sign = "+" if offset > 0 else "-"
            priority = name if not offset else f"{name} {sign} {abs(offset)}"
            break
    return f"type {base.type} hook {base.hook} priority {priority}; policy accept;"


def format_rule(rule: NftRule, family: str, counted: tuple[int, int] = (0, 0)) -> str:
    """A rule of a table of this family; ``counted`` comes on top of what it began with."""
    words = [
        _match(match)
        for place, match in enumerate(rule.matches)
        if not _is_told_later(match, rule.matches[place + 1 :], family)
    ]
    if rule.counter is not None:
        packets, size = (n + m for n, m in zip(rule.counter, counted, strict=True))
        words.append(f"counter packets {packets} bytes {size}")
    words.append(" ".join(_action(rule.action, family)))
    if rule.comment:
        words.append(f'comment "{rule.comment}"')
    return " ".join(words)


def _is_told_later(match: Match, others: tuple[Match, ...], family: str) -> bool:
    """Whether a match says no more than a match of ports behind it: nft leaves it out."""
    if match.negated or match.is_set:
        return False
    if match.key != "meta l4proto" and (match.key, family) != ("ip protocol", "ip"):
        return False
    name = protocol_name(match.spans[0].low)
    return any(other.key.split()[0] == name for other in others)


def _match(match: Match) -> str:
    values = ", ".join(_span(match.key, span) for span in match.spans)
    if match.is_set:
        values = f"{{ {values} }}"
    if match.mask is not None:
        return f"{match.key} & {match.mask:#010x} {'!=' if match.negated else '=='} {values}"
    return f"{match.key} {'!= ' if match.negated else ''}{values}"


def _span(key: str, span: Span) -> str:
    if span.name:
        return f'"{span.name}"'
    if key == "meta mark":
        return f"{span.low:#010x}"
    if key in ("meta l4proto", "ip protocol"):
        return protocol_name(span.low)
    if key.startswith("ip "):
        low, high = str(IPv4Address(span.low)), str(IPv4Address(span.high))
    elif key.startswith("ip6 "):
        low, high = str(IPv6Address(span.low)), str(IPv6Address(span.high))
    else:
        low, high = str(span.low), str(span.high)
    if span.length is None:
        return low
    return f"{low}-{high}" if span.length < 0 else f"{low}/{span.length}"


def _action(action: Action, family: str) -> Iterator[str]:
    if action.name == "mark":
        assert action.mark is not None
        yield f"meta mark set {_new_mark(action.mark)}"
        return
    yield action.name
    if action.addresses is not None:
        if family == "inet":
            yield "ip" if action.addresses.first.version == 4 else "ip6"
        if action.prefix:
            yield "prefix"
    if action.addresses is not None or action.ports is not None:
        yield f"to {_target(action)}"
    flags = [action.random] if action.random else []
    flags += ["persistent"] if action.persistent else []
    if flags:
        yield ",".join(flags)


def _target(action: Action) -> str:
    text = "" if action.addresses is None else _addresses(action.addresses, action.ports)
    return text if action.ports is None else f"{text}:{_ports(action.ports)}"


def _ports(ports: PortRange) -> str:
    return str(ports.first) if ports.first == ports.last else f"{ports.first}-{ports.last}"


def _addresses(addresses: AddressRange, ports: PortRange | None) -> str:
    first, last = (
        f"[{address}]" if address.version == 6 and ports is not None else str(address)
        for address in addresses
    )
    if addresses.first == addresses.last:
        return first
    network = as_network(addresses)
    if network is not None and (ports is None or first[0] != "["):
        return str(network)
    return f"{first}-{last}"


def _new_mark(mark: Mark) -> str:
    """What the bits under the mask are cleared of and toggled by, as nft says it."""
    if mark.mask == _ALL:
        return f"{mark.value:#010x}"
    keep = ~mark.mask & _ALL
    if mark.value == 0:
        return f"meta mark & {keep:#010x}"
    if mark.mask == 0:
        return f"meta mark ^ {mark.value:#010x}"
    if mark.mask == mark.value:
        return f"meta mark | {mark.value:#010x}"
    if mark.mask & mark.value == mark.value:
        return f"meta mark & {keep | mark.value:#010x} | {mark.value:#010x}"
    return f"meta mark & {keep:#010x} ^ {mark.value:#010x}"
