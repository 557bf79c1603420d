"""What a server behind NAT would have sent: an independent mapper, every checksum made anew.

It knows nothing of the engine. Frames are Ethernet, Linux cooked or raw; only TCP and UDP.
"""

import struct

LINK_HEADER = {0: (4, None), 1: (14, 12), 101: (0, None), 113: (16, 14), 276: (20, 0)}


def locate(frame, link_type):
    """(offset of IP, of the transport, protocol, whether a fragment), or None."""
    if link_type not in LINK_HEADER:
        return None
    l3, kind = LINK_HEADER[link_type]
    while kind is not None and frame[kind : kind + 2] in (b"\x81\x00", b"\x88\xa8", b"\x91\x00"):
        l3, kind = l3 + 4, l3 + 2
    version = frame[l3] >> 4 if len(frame) > l3 else 0
    if kind is not None and frame[kind : kind + 2] != {4: b"\x08\x00", 6: b"\x86\xdd"}.get(version):
        return None
    if version == 4 and len(frame) >= l3 + 20:
        fragment = struct.unpack_from(">H", frame, l3 + 6)[0] & 0x3FFF != 0
        return l3, l3 + (frame[l3] & 15) * 4, frame[l3 + 9], fragment
    if version != 6 or len(frame) < l3 + 40:
        return None
    header, at, fragment = frame[l3 + 6], l3 + 40, False
    while header in (0, 43, 44, 51, 60) and at + 8 <= len(frame):
        if header == 44 and struct.unpack_from(">H", frame, at + 2)[0] & 0xFFF9:
            fragment = True
            break
        size = 8 if header == 44 else (frame[at + 1] + 2) * 4 if header == 51 else \
            (frame[at + 1] + 1) * 8  # fmt: skip
        header, at = frame[at], at + size
    return l3, at, header, fragment


def ones(data):
    """The one's complement sum of big-endian words."""
    total = sum(struct.unpack(f">{len(data) // 2}H", data[: len(data) & ~1]))
    total += data[-1] << 8 if len(data) % 2 else 0
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def readdress(frame, link_type, source=None, sport=None, destination=None, dport=None):
    """The frame with other addresses and ports; a wrong checksum is wrong by the same amount."""
    l3, l4, protocol, _ = locate(frame, link_type)
    out = bytearray(frame)
    four = frame[l3] >> 4 == 4
    size, at = (4, l3 + 12) if four else (16, l3 + 8)
    total = struct.unpack_from(">H", frame, l3 + (2 if four else 4))[0] + (0 if four else 40)
    field = l4 + (16 if protocol == 6 else 6)
    for offset, length, value in ((at, size, source), (at + size, size, destination),
                                  (l4, 2, sport), (l4 + 2, 2, dport)):  # fmt: skip
        if value is not None and offset + length <= len(out):
            out[offset : offset + length] = value

    def fix(place, covered_old, covered_new):
        # Sums that should be ffff: how far the old one was off is how far the new one must be.
        if place + 2 > len(frame):
            return
        error = (0xFFFF - ones(covered_old)) % 0xFFFF
        out[place : place + 2] = b"\0\0"
        value = (0xFFFF - ones(covered_new()) - error) % 0xFFFF
        out[place : place + 2] = struct.pack(">H", value or 0xFFFF)

    if four:
        fix(l3 + 10, frame[l3:l4], lambda: bytes(out[l3:l4]))
    if protocol == 6 or frame[l4 + 6 : l4 + 8] != b"\0\0":
        fix(field, frame[at : at + 2 * size] + frame[l4 : l3 + total],
            lambda: bytes(out[at : at + 2 * size]) + bytes(out[l4 : l3 + total]))  # fmt: skip
    return bytes(out)
