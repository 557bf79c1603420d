"""Segments of FTP's control connections: made by scapy, read back."""

import struct
from dataclasses import dataclass
from ipaddress import ip_address

from packets import checksums_good, flow, ip
from scapy.layers.inet import TCP
from scapy.packet import Raw

import lvscore


def endpoint(address, port):
    return str(lvscore.Endpoint(ip_address(address), port))


def segment(source, sport, destination, dport, flags="A", payload=b"", seq=0, ack=0, options=()):
    header = TCP(sport=sport, dport=dport, flags=flags, seq=seq % 2**32, ack=ack % 2**32,
                 options=list(options))  # fmt: skip
    return bytearray(bytes(ip(source, destination) / header / Raw(payload)))


@dataclass
class Segment:
    """What a frame says, as its receiver reads it."""

    flow: tuple
    seq: int
    ack: int
    flags: int
    options: bytes
    payload: bytes

    @classmethod
    def read(cls, frame):
        assert checksums_good(frame)
        four = frame[14] >> 4 == 4
        total = struct.unpack_from(">H", frame, 16 if four else 18)[0] + (0 if four else 40)
        assert len(frame) == 14 + total
        l4 = 34 if four else 54
        seq, ack = struct.unpack_from(">II", frame, l4 + 4)
        header = (frame[l4 + 12] >> 4) * 4
        return cls(flow(frame), seq, ack, frame[l4 + 13], bytes(frame[l4 + 20 : l4 + header]),
                   bytes(frame[l4 + header :]))  # fmt: skip


def plain(address, port):
    return f"{address},{port >> 8},{port & 255}".replace(".", ",").encode()
