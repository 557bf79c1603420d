"""The IPv4 options of what a host answers: those of the packet, filled in (ip_options.c)."""

from collections.abc import Callable

from lvscore.host.packets import Packet

__all__ = ["echo"]

_RECORD_ROUTE, _TIMESTAMP, _CIPSO = 7, 68, 134
_LEAST = {_RECORD_ROUTE: 3, _TIMESTAMP: 4, _CIPSO: 2}  # bytes of an option
_ONLY, _WITH_ADDRESS, _PRESPECIFIED = 0, 1, 3  # a timestamp option's flag (RFC 791)


def echo(
    packet: Packet, source: bytes, now: int, is_unicast: Callable[[bytes], bool], wrong: int = 0
) -> bytes | None:
    """The options of an answer (__ip_options_echo, ip_options_build): the packet's record route,
    timestamp and CIPSO, in this order, with the answer's ``source`` and the time put in.

    ``is_unicast`` says whether an address is neither this host's nor of many; ``wrong`` is the
    offset of a byte that is not valid, options from there on do not count. None if there is to
    be no answer, since less than a whole entry is left in an option.
    """
    if packet.version == 6 or packet.header == 20:
        return b""
    stamp = (now // 1_000_000 % 86_400_000).to_bytes(4, "big")
    found = _options(packet.data[20 : packet.header], wrong - 20 if wrong else packet.header)
    echoed = bytearray()
    if (route := found.get(_RECORD_ROUTE)) is not None:
        if not _fill(route, [source]):
            return None
        echoed += route
    if (times := found.get(_TIMESTAMP)) is not None:
        if not _stamped(times, source, stamp, is_unicast):
            return None
        echoed += times
    echoed += found.get(_CIPSO, b"")
    return bytes(echoed) + bytes(-len(echoed) % 4)


def _options(data: bytes, wrong: int) -> dict[int, bytearray]:
    """The options that are echoed, by kind; of one that is wrong only CIPSO."""
    found: dict[int, bytearray] = {}
    position = 0
    while position + 1 < len(data) and data[position]:
        kind = data[position]
        length = 1 if kind == 1 else data[position + 1]
        valid = position + length <= wrong or (kind == _CIPSO and position < wrong)
        if not valid or length == 0:
            break
        if length >= _LEAST.get(kind, 256):
            found.setdefault(kind, bytearray(data[position : position + length]))
        position += length
    return found


def _fill(option: bytearray, words: list[bytes]) -> bool:
    """Put words of four bytes where the pointer is, if anything is left there; False if less
    than a word is."""
    for word in words:
        pointer = option[2]
        if not 4 <= pointer <= len(option):
            return True
        if pointer + 3 > len(option):
            return False
        option[pointer - 1 : pointer + 3] = word
        option[2] = pointer + 4
    return True


def _stamped(
    option: bytearray, source: bytes, stamp: bytes, is_unicast: Callable[[bytes], bool]
) -> bool:
    flag, pointer = option[3] & 15, option[2]
    if flag == _ONLY:
        return _fill(option, [stamp])
    if flag == _WITH_ADDRESS:
        return _fill(option, [source, stamp])
    if flag == _PRESPECIFIED and 4 <= pointer <= len(option):
        address = bytes(option[pointer - 1 : pointer + 3])
        if pointer + 7 <= len(option) and not is_unicast(address):
            return _fill(option, [address, stamp])
        return pointer + 3 <= len(option)
    return True
