"""checksum.pxd against RFC 1071, RFC 1624, the NAT vectors and full recomputation."""

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lvscore import _probe

words = st.integers(0, 0xFFFF)


def plain_checksum(data: bytes) -> int:
    """RFC 1071 as its text has it: big-endian words, carries folded back."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def test_rfc1071_example():
    # RFC 1071, section 3: 00 01 f2 03 f4 f5 f6 f7 sums to ddf2.
    assert _probe.checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2 ^ 0xFFFF


def test_rfc1624_example():
    # RFC 1624, section 4: checksum dd2f, word 5555 becomes 3285: 0000, not ffff.
    change = _probe.delta(bytes.fromhex("55550000"), bytes.fromhex("32850000"))
    assert _probe.checksum_update(0xDD2F, change) == 0x0000
    assert _probe.udp_checksum_update(0xDD2F, change) == 0xFFFF


@given(st.binary(max_size=200))
@example(b"\xff" * 3)
@example(b"")
def test_checksum_equals_the_plain_one(data):
    assert _probe.checksum(data) == plain_checksum(data)


def test_a_long_sum_does_not_lose_carries():
    data = b"\xff" * 65535
    assert _probe.checksum(data) == plain_checksum(data)


@given(st.binary(min_size=20, max_size=60).filter(lambda b: len(b) % 4 == 0), st.data())
def test_update_equals_full_recomputation(data, draw):
    at = draw.draw(st.integers(0, len(data) // 4 - 1)) * 4
    new = draw.draw(st.binary(min_size=4, max_size=4))
    changed = data[:at] + new + data[at + 4 :]
    updated = _probe.checksum_update(plain_checksum(data), _probe.delta(data[at : at + 4], new))
    expected = plain_checksum(changed)
    # All-zero data is the one case where the two forms of zero part (RFC 1624, section 3).
    zero = not any(data) or not any(changed)
    assert updated == expected or (zero and {updated, expected} == {0, 0xFFFF})


@given(words, words, words)
def test_wrong_checksums_stay_wrong_by_the_same_amount(checksum, old, new):
    change = _probe.delta(struct.pack(">HH", old, 0), struct.pack(">HH", new, 0))
    updated = _probe.checksum_update(checksum, change)
    before = (checksum + old) % 0xFFFF
    assert (updated + new) % 0xFFFF == before


@given(st.binary(min_size=8, max_size=8), words)
def test_no_change_leaves_every_checksum(data, checksum):
    assert _probe.delta(data, data) == 0
    assert _probe.checksum_update(checksum, 0) == checksum


@given(words, words)
def test_udp_never_sends_zero(checksum, change):
    change = 0 if change == 0xFFFF else change
    plain = _probe.checksum_update(checksum, change)
    assert _probe.udp_checksum_update(checksum, change) == (plain or 0xFFFF)


NAT_VECTORS = [
    pytest.param(
        "45000028123440004006711f0a000009ac1001649c400050000003e8000000005002faf05cfc0000",
        (6, "0a000009", 40000, "ac100107", 8080),
        "45000028123440004006717c0a000009ac1001079c401f90000003e8000000005002faf03e190000",
        id="tcp-request",
    ),
    pytest.param(
        "45000028123440004006717cac1001070a0000091f909c4000001388000003e95012faf02a800000",
        (6, "ac100164", 80, "0a000009", 40000),
        "45000028123440004006711fac1001640a00000900509c4000001388000003e95012faf049630000",
        id="tcp-reply",
    ),
    pytest.param(
        "4500001f123440004011711d0a000009ac10016414e90035000ba9d3686921",
        (17, "0a000009", 5353, "ac100108", 1053),
        "4500001f12344000401171790a000009ac10010814e9041d000ba647686921",
        id="udp",
    ),
    pytest.param(
        "4500001e123440004011711e0a000009ac10016414e90035000a038c2fb3",
        (17, "0a000009", 5353, "ac100108", 1053),
        "4500001e123440004011717a0a000009ac10010814e9041d000affff2fb3",
        id="udp-result-zero-is-sent-as-ones",
    ),
]


@pytest.mark.parametrize(("frame", "to", "expected"), NAT_VECTORS)
def test_nat_vectors(frame, to, expected):
    protocol, source, sport, destination, dport = to
    to = (protocol, bytes.fromhex(source), sport, bytes.fromhex(destination), dport)
    assert _probe.translate(bytes.fromhex(frame), to, link_type=101).hex() == expected


UDP_WITHOUT = "4500001f123440004011711d0a000009ac10016414e90035000b0000686921"


def test_udp_without_checksum_is_filled_or_kept():
    to = (17, bytes.fromhex("0a000009"), 5353, bytes.fromhex("ac100108"), 1053)
    frame = bytes.fromhex(UDP_WITHOUT)
    kept = _probe.translate(frame, to, link_type=101).hex()
    assert kept == "4500001f12344000401171790a000009ac10010814e9041d000b0000686921"
    filled = _probe.translate(frame, to, fill_udp=True, link_type=101).hex()
    assert filled == "4500001f12344000401171790a000009ac10010814e9041d000ba647686921"


eight, four = st.binary(min_size=8, max_size=8), st.binary(min_size=4, max_size=4)


@given(words, eight, eight, four, four)
@example(0xFFFF, bytes(8), bytes(8), bytes(4), bytes(4))
@example(0xFFFF, b"\n\0\0\1\n\0\0\1", b"\n\1\0\0\n\1\0\0", bytes(4), bytes(4))
@example(0, b"\xff" * 8, bytes(8), b"\xff" * 4, bytes(4))
def test_a_change_of_twelve_bytes_is_an_update_by_its_delta(value, old, new, more_old, more_new):
    change = _probe.delta(old + more_old, new + more_new)
    assert _probe.checksum_change(value, old, new, more_old, more_new) == (
        _probe.checksum_update(value, change),
        _probe.udp_checksum_update(value, change),
    )
