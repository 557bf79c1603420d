"""What a local stack with SCTP and no associations answers (sm_statefuns.c, input.c).

Every packet is "out of the blue" (RFC 9260, section 8.4).
"""

from lvscore import _engine
from lvscore.host.packets import SCTP, Packet, ipv4, ipv6

__all__ = ["answer"]

_HEADER = 12
_INIT, _ABORT, _SHUTDOWN_ACK, _ERROR = 1, 6, 8, 9
_COOKIE_ECHO, _COOKIE_ACK, _SHUTDOWN_COMPLETE = 10, 11, 14
_SKIPPED = frozenset((_COOKIE_ACK, 12, 13, 0x80, 0x82, 0x84, 0xC1))
"""COOKIE ACK, ECNE, CWR, ASCONF ACK, RE-CONFIG, PAD, ASCONF: the chunk behind them counts."""
_STALE_COOKIE, _PROTOCOL_VIOLATION = 3, 13
_INIT_LENGTH = 20
_T = 1  # the tag is the packet's own, reflected (section 3.3.7)
_ECN_CAPABLE = 2  # ECT(0), RFC 3168: of Linux's SCTP, whatever the packet had
_BAD_LENGTH = b"The following chunk had invalid length:\0"


def answer(packet: Packet, ttl: int) -> bytes | None:
    """The answer to an SCTP packet for this host: ABORT, SHUTDOWN COMPLETE, or nothing."""
    data = packet.payload
    if len(data) < _HEADER + 4 or _engine.sctp_checksummed(data) != data:
        return None
    if _is_discarded(data):
        return None
    due = _chunk_due(data)
    if due is None:
        return None
    tag, chunk = due
    sctp = _engine.sctp_checksummed(data[2:4] + data[0:2] + tag + bytes(4) + chunk)
    source, destination = packet.destination.packed, packet.source.packed
    if packet.version == 6:
        return ipv6(source, destination, SCTP, sctp, tos=_ECN_CAPABLE, ttl=ttl)
    return ipv4(source, destination, SCTP, sctp, tos=_ECN_CAPABLE, ttl=ttl, dont_fragment=True)


def _length(data: bytes, position: int) -> int:
    return int.from_bytes(data[position + 2 : position + 4], "big")


def _end(data: bytes, position: int) -> int:
    """Where a chunk ends, with its padding."""
    return position + (_length(data, position) + 3 & ~3)


def _is_discarded(data: bytes) -> bool:
    """Whether a packet has a chunk that forbids an answer; a wrong length ends the search."""
    position = _HEADER
    while position + 4 <= len(data):
        if _length(data, position) < 4 or _end(data, position) > len(data):
            return False
        kind = data[position]
        if kind in (_ABORT, _SHUTDOWN_COMPLETE) or (kind == _INIT and position > _HEADER):
            return True
        position = _end(data, position)
    return False


def _chunk_due(data: bytes) -> tuple[bytes, bytes] | None:
    """Verification tag and chunk of the answer."""
    tag = data[4:8]
    position = _HEADER
    while True:
        kind, length, end = data[position], _length(data, position), _end(data, position)
        whole = length >= 4 and end <= len(data)
        if kind not in _SKIPPED:
            break
        if not whole:
            return tag, _violation(kind, length)
        if end + 4 > len(data):
            return None
        position = end
    if kind == _INIT:
        # It stands alone, and has no tag yet but the one that it announces.
        if not whole or length < _INIT_LENGTH or end + 4 <= len(data):
            return None
        return data[position + 4 : position + 8], bytes((_ABORT, 0, 0, 4))
    if kind == _COOKIE_ECHO:
        return tag, bytes((_ABORT, _T, 0, 4))
    return _chunks_due(data, position, tag)


def _chunks_due(data: bytes, start: int, tag: bytes) -> tuple[bytes, bytes] | None:
    """The same for any other chunk, by all that follow but a last one that is only a header
    (sctp_sf_ootb)."""
    completes = silent = False
    position = start
    while position == start or position + 4 < len(data):
        kind, end = data[position], _end(data, position)
        if _length(data, position) < 4 or end > len(data):
            return tag, _violation(data[start], _length(data, start))
        completes |= kind == _SHUTDOWN_ACK
        silent |= kind == _COOKIE_ACK or (kind == _ERROR and _is_stale(data[position:end]))
        position = end
    if completes:
        return tag, bytes((_SHUTDOWN_COMPLETE, _T, 0, 4))
    return None if silent else (tag, bytes((_ABORT, _T, 0, 4)))


def _is_stale(chunk: bytes) -> bool:
    """Whether an ERROR chunk has the cause "stale cookie"."""
    position, end = 4, _length(chunk, 0)
    while position + 4 <= end:
        length = _length(chunk, position)
        if length < 4 or position + length > end:
            break
        if int.from_bytes(chunk[position : position + 2], "big") == _STALE_COOKIE:
            return True
        position += length + 3 & ~3
    return False


def _violation(kind: int, length: int) -> bytes:
    """An ABORT for a chunk of wrong length (RFC 9260, section 3.3.10.13)."""
    cause = _BAD_LENGTH + bytes((0, kind)) + length.to_bytes(2, "big")
    head = bytes((0, _PROTOCOL_VIOLATION)) + (4 + len(cause)).to_bytes(2, "big")
    return bytes((_ABORT, _T)) + (8 + len(cause)).to_bytes(2, "big") + head + cause
