"""Comparing what came out with what was recorded, but for what the kernel draws or measures."""

import re
from collections.abc import Container

ICMP, IPIP, TCP, UDP, GRE, ICMPV6 = 1, 4, 6, 17, 47, 58

_ERRORS = {3, 4, 5, 11, 12}
_TEMPLATE_SLACK = 3  # seconds: see the recordings' notes on templates that are armed again
_ENTRY = re.compile(r"^((?:ipv[46] +\d+ )?\S+ +\d+ )(\d+)( .*)$")
_ROW = re.compile(r"^(\S+) +(\d\d+):(\d\d) +(.*)$")
_KERNEL_ROW = re.compile(r"^(\S+ +(?:[0-9A-Fa-f:]+ [0-9A-F]{4} ){3})(\S+) +(\d+)(.*)$")


def masked(packet: str, arrived: bytes | None, own: Container[bytes]) -> bytes:
    """A packet without the bytes that cannot be compared.

    Of packets that the director makes: IPv4 identification (and with it the header checksum)
    of ICMP and tunnels, source port of GUE, the flow label of ICMPv6, clocks in ICMP timestamp
    replies. Of all:
    identification of IPv6 fragments, clocks in IP timestamp options, those that are quoted too.
    """
    data = bytearray.fromhex(packet)
    if len(data) >= 20 and data[0] >> 4 == 4:
        _mask_ipv4(data, arrived, own)
    elif len(data) >= 40 and data[0] >> 4 == 6:
        _mask_ipv6(data, arrived, own)
    return bytes(data)


def _mask_ipv4(data: bytearray, arrived: bytes | None, own: Container[bytes]) -> None:
    header = (data[0] & 15) * 4
    if bytes(data[12:16]) in own and (data[9] in (IPIP, GRE) or _is_gue(data, header)):
        data[4:6] = data[10:12] = b"\0\0"
    if _is_gue(data, header):
        _mask_gue(data, header)
    if data[9] == ICMP and not _passed_on(data, arrived) and (
        bytes(data[12:16]) in own or _quotes(data, header, arrived)
    ):  # fmt: skip
        data[4:6] = data[10:12] = b"\0\0"
        if data[header] == 14:
            data[header + 2 : header + 4] = b"\0\0"
            data[header + 12 : header + 20] = bytes(8)
    _mask_clocks(data, 0)
    quote = header + 8
    if data[9] == ICMP and len(data) >= quote + 20 and data[header] in _ERRORS:
        _mask_clocks(data, quote)
        if data[quote + 10 : quote + 12] == b"\0\0":
            data[header + 2 : header + 4] = b"\0\0"


def _mask_clocks(data: bytearray, start: int) -> None:
    """Mask the timestamps that the options of an IPv4 header have, and its checksum with them."""
    position = start + 20
    end = min(start + (data[start] & 15) * 4, len(data))
    while position < end:
        kind = data[position]
        if kind == 0:
            break
        length = 1 if kind == 1 or position + 1 == end else data[position + 1]
        if kind == 68 and length >= 8:
            data[position + 4 : position + length] = bytes(length - 4)
            data[start + 10 : start + 12] = b"\0\0"
        position += max(length, 1)


def _is_gue(data: bytearray, header: int) -> bool:
    """Whether a packet is one that the director wrapped in GUE: UDP, then version 0, no flags, and
    an IP header."""
    gue = header + 8
    return (
        data[9 if data[0] >> 4 == 4 else 6] == UDP
        and len(data) > gue + 24
        and data[gue : gue + 4] in (b"\0\4\0\0", b"\0\x29\0\0")
        and data[gue + 4] >> 4 in (4, 6)
    )


def _mask_gue(data: bytearray, header: int) -> None:
    """The source port is drawn by flow; a checksum that covers it is there or not."""
    data[header : header + 2] = b"\0\0"
    if any(data[header + 6 : header + 8]):
        data[header + 6 : header + 8] = b"\xff\xff"


def _mask_ipv6(data: bytearray, arrived: bytes | None, own: Container[bytes]) -> None:
    quotes = arrived is not None and data[56:60] + data[62:88] == arrived[8:12] + arrived[14:40]
    if data[6] == ICMPV6 and (bytes(data[8:24]) in own or (data[40] < 128 and quotes)):
        data[1] &= 0xF0
        data[2:4] = b"\0\0"
    if _is_gue(data, 40):
        _mask_gue(data, 40)
    # A reset of the host's own stack has one, too.
    if data[6] == TCP and data[7] == 64 and data[53] & 4 and bytes(data[8:24]) in own:
        data[1] &= 0xF0
        data[2:4] = b"\0\0"
    if data[6] == 44 and len(data) >= 48:
        data[44:48] = b"\0\0\0\0"


def _passed_on(data: bytearray, arrived: bytes | None) -> bool:
    """Whether an ICMP packet is the one that arrived, translated."""
    return (
        arrived is not None and len(arrived) > 9 and arrived[9] == ICMP
        and arrived[4:6] == data[4:6]
    )  # fmt: skip


def _quotes(data: bytearray, header: int, arrived: bytes | None) -> bool:
    """Whether an ICMP error tells of the packet that arrived: the director made it, though its
    source may be one that rules give it."""
    quote = bytes(data[header + 8 :])
    if data[header] not in _ERRORS or arrived is None or min(len(quote), len(arrived)) < 28:
        return False
    length, arrived_length = ((one[0] & 15) * 4 for one in (quote, arrived))
    return quote[4:6] == arrived[4:6] and (
        quote[length:][4:8] == arrived[arrived_length:][4:8]
    )  # fmt: skip


def by_side(packets: list[list[str]]) -> dict[str, list[list[str]]]:
    """Packets by side: their order is known for each interface only."""
    sides: dict[str, list[list[str]]] = {}
    for packet in packets:
        sides.setdefault(packet[0], []).append(packet)
    return sides


def same_packets(
    expected: list[list[str]],
    emitted: list[list[str]],
    arrived: bytes | None,
    own: Container[bytes],
) -> bool:
    """Whether the same packets came out, on the same sides, to the same neighbours."""
    wanted, came = by_side(expected), by_side(emitted)
    return wanted.keys() == came.keys() and all(
        len(wanted[side]) == len(came[side])
        and all(
            a[1] == b[1] and masked(a[2], arrived, own) == masked(b[2], arrived, own)
            for a, b in zip(wanted[side], came[side], strict=True)
        )
        for side in wanted
    )


def same_text(expected: str, printed: str) -> bool:
    return expected == printed


def same_rows(expected: str, printed: str) -> bool:
    """Two lists of connections, ipvsadm's or the kernel's: rows as a set, expiry to a second."""
    wanted = sorted(map(_row, expected.splitlines()))
    came = sorted(map(_row, printed.splitlines()))
    return len(wanted) == len(came) and all(
        a[0] == b[0] and abs(a[1] - b[1]) <= (_TEMPLATE_SLACK if a[2] else 1)
        for a, b in zip(wanted, came, strict=True)
    )


def _row(line: str) -> tuple[str, int, bool]:
    """A row without its time; the time in seconds; whether it is a template."""
    if match := _ROW.match(line):
        protocol, minutes, seconds, rest = match.groups()
        template = rest.startswith(("NONE", "ASSURED"))
        return f"{protocol} {rest}", int(minutes) * 60 + int(seconds), template
    if match := _KERNEL_ROW.match(line):
        ends, state, seconds, rest = match.groups()
        return f"{ends} {state} {rest}", int(seconds), state in ("NONE", "ASSURED")
    return line, 0, False


def same_entries(expected: str, printed: str) -> bool:
    """Two lists of conntrack's: lines as a set, the time that is left to a second."""
    wanted = sorted(map(_entry, expected.splitlines()))
    came = sorted(map(_entry, printed.splitlines()))
    return len(wanted) == len(came) and all(
        a[0] == b[0] and abs(a[1] - b[1]) <= 1 for a, b in zip(wanted, came, strict=True)
    )


def _entry(line: str) -> tuple[str, int]:
    """A line without its time and who holds the entry now (packets that wait for an address, or
    for their flow's end), and the time in seconds."""
    line = re.sub(r" use=\d+", "", line)
    match = _ENTRY.match(line)
    if not match:
        return line, 0
    return match[1] + match[3], int(match[2])


def same_lines(expected: str, printed: str) -> bool:
    """Two texts whose lines come in no order."""
    return sorted(expected.splitlines()) == sorted(printed.splitlines())
