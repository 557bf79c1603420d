"""crc32c.pxd against published vectors, the definition bit by bit, and scapy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.sctp import SCTP, SCTPChunkInit

from lvscore import _probe


def by_definition(data):
    """Division by the reflected Castagnoli polynomial (RFC 9260, appendix A), bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


# RFC 3720, appendix B.4, and the check value of the catalogue of CRCs.
@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_published_vectors(data, crc):
    assert _probe.crc32c(data) == crc == by_definition(data)


@given(st.binary(max_size=100))
def test_any_data(data):
    assert _probe.crc32c(data) == by_definition(data)


def test_every_entry_of_every_table():
    for behind in range(8):
        for byte in range(256):
            data = bytes((byte,)) + bytes(behind)
            assert _probe.crc32c(data) == by_definition(data)


@given(st.binary(max_size=60), st.integers(0, 2**32 - 1))
def test_as_scapy_puts_it_into_a_packet(payload, tag):
    packet = bytes(SCTP(sport=5, dport=6, tag=tag) / SCTPChunkInit() / payload)
    broken = packet[:8] + b"\1\2\3\4" + packet[12:]
    assert _probe.sctp_checksummed(broken) == packet


@pytest.mark.parametrize("length", range(12))
def test_a_header_that_is_cut(length):
    with pytest.raises(ValueError, match="12 bytes"):
        _probe.sctp_checksummed(bytes(length))
