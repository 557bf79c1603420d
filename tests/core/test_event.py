"""event.pxd: what a packet says to the trackers, and whether all of that is there."""

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.sctp import SCTP, SCTPChunkAbort, SCTPChunkData, SCTPChunkInit

from lvscore._probe_packet import facts

NET = IP(src="10.0.0.1", dst="10.0.0.2")


def test_tcp():
    for flags in range(256):
        said = facts(bytes(NET / TCP(flags=flags)))
        assert said["event"] == flags & 31
        assert said["opening"] == bool(flags & 2), flags
        assert said["reset"] == bool(flags & 4), flags


@pytest.mark.parametrize(("chunk", "opening", "reset"), [
    (SCTPChunkInit(), True, False), (SCTPChunkAbort(), False, True),
    (SCTPChunkData(data=b"x"), False, False)])  # fmt: skip
def test_sctp(chunk, opening, reset):
    said = facts(bytes(NET / SCTP() / chunk))
    assert (said["opening"], said["reset"], said["opening_is_whole"]) == (opening, reset, True)


def test_udp_says_nothing():
    said = facts(bytes(NET / UDP() / (b"\xff" * 20)))
    assert (said["event"], said["opening"], said["reset"]) == (0, False, False)


@pytest.mark.parametrize(("header", "size", "opens"), [
    (TCP(flags="SR"), 20, 20), (UDP(), 8, 8), (SCTP() / SCTPChunkInit(), 12, 16)])  # fmt: skip
def test_every_truncation(header, size, opens):
    """A header that is cut says nothing, a reset included; SCTP's first chunk counts too."""
    frame = bytes(NET / header / b"")
    for length in range(len(frame) - 20 + 1):
        said = facts(frame[: 20 + length], len(frame))
        assert said["whole"] == (length >= size), length
        assert said["opening_is_whole"] == (length >= opens), length
        assert not said["reset"] or length >= size
