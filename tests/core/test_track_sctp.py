"""track_sctp.pxd against the kernel's state tables, cell by cell, and events of packets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvscore import _probe

TRACKER = 0x30
STATES = ["NO", "I1", "IN", "CS", "CR", "CW", "CO", "CE", "ES", "SS", "SR", "SA", "RJ", "CL"]
CHUNKS = {
    "d": (0, 3, 4, 5, 12, 13), "i": (1,), "i_a": (2,), "c_e": (10,), "c_a": (11,), "s": (7,),
    "s_a": (8,), "s_c": (14,), "err": (9,), "ab": (6,),
}  # fmt: skip
ORIGINAL = """
d    ES I1 IN CS CR CW CO CE ES SS SR SA RJ CL
i    I1 IN IN CS CR CW CO CE ES SS SR SA IN IN
i_a  CW CW CW CS CR CO CO CE ES SS SR SA RJ CL
c_e  CR IN IN CR CR CW CO CE ES SS SR SA RJ CL
c_a  ES I1 IN CS CR CW CO ES ES SS SR SA RJ CL
s    SR I1 IN CS CR CW CO CE SR SS SR SA RJ CL
s_a  CL IN IN CS CR CW CO CE ES CL SR CL RJ CL
s_c  CL CL CL CS CR CW CO CE ES SS SR CL RJ CL
err  CL I1 IN CS CR CW CO CL ES SS SR SA RJ CL
ab   CL CL CL CL CL RJ CL CL CL CL CL CL CL CL
"""
REPLY = """
d    ES I1 IN CS CR CW CO CE ES SS SR SA RJ CL
i    CW CW CW CW CW CW CW CW ES CW CW CW CW CW
i_a  CS CS CS CS CR CW CO CE ES SS SR SA RJ CL
c_e  CE CE CE CE CE CE CE CE ES SS SR SA RJ CL
c_a  ES ES ES ES ES ES ES ES ES SS SR SA RJ CL
s    SS SS SS SS SS SS SS SS SS SS SR SA RJ CL
s_a  SA SA SA SA SA CW CO CE ES SA SA SA RJ CL
s_c  CL I1 IN CS CR CW CO CE ES SS SR SA RJ CL
err  CL CL CL CL CL CW CO CE ES SS SR SA RJ CL
ab   CL RJ CL CL CL CL CL CL CL CL CL CL CL CL
"""
INPUT_ONLY = """
d    ES I1 IN CS CR ES CO CE ES SS SR SA RJ CL
i    I1 IN IN IN IN IN CO CE ES SS SR SA IN IN
i_a  CE CE CE CE CE CE CO CE ES SS SR SA RJ CL
c_e  ES ES ES ES ES ES CO CE ES SS SR SA RJ CL
c_a  ES I1 IN ES ES CW ES ES ES SS SR SA RJ CL
s    SR I1 IN CS CR CW CO CE SR SS SR SA RJ CL
s_a  CL IN IN CS CR CW CO CE CL CL SR CL RJ CL
s_c  CL CL CL CL CL CW CO CE ES SS CL CL RJ CL
err  CL I1 IN CS CR CW CO CE ES SS SR SA RJ CL
ab   CL CL CL CL CL RJ CL CL CL CL CL CL CL CL
"""
INVALID, NO_CHUNK = 1, 15

tracker = _probe.Tracker()


@pytest.mark.parametrize(("direction", "table"), [(0, ORIGINAL), (1, REPLY), (2, INPUT_ONLY)])
def test_every_cell(direction, table):
    rows = [line.split() for line in table.strip().splitlines()]
    assert {row[0] for row in rows} == set(CHUNKS)
    for event, *cells in rows:
        for chunk in CHUNKS[event]:
            for state, cell in enumerate(cells):
                found = tracker.next(direction, chunk, TRACKER | state)
                assert found == TRACKER | STATES.index(cell), (event, STATES[state])


@pytest.mark.parametrize("direction", range(3))
def test_a_packet_without_chunk_changes_nothing(direction):
    for state in range(14):
        assert tracker.next(direction, NO_CHUNK, TRACKER | state) == TRACKER | state


@pytest.mark.parametrize("direction", range(3))
def test_what_is_no_event_or_state_is_invalid(direction):
    assert {tracker.next(direction, e, TRACKER | s) for e in range(16, 32) for s in range(14)} == {
        INVALID
    }
    assert {tracker.next(direction, e, 0x3E) for e in range(32)} == {INVALID}


def test_timeouts_and_activity():
    seconds = [tracker.timeout(TRACKER | state) // 1000 for state in range(14)]
    assert seconds == [2, 4, 61, 61, 61, 61, 61, 61, 900, 61, 61, 61, 4, 61]
    active = [name for n, name in enumerate(STATES) if tracker.is_active(TRACKER | n)]
    assert active == ["ES"]


def chunk(kind, length=4, data=b""):
    return bytes((kind, 0)) + length.to_bytes(2, "big") + data


HEADER = bytes(12)


@pytest.mark.parametrize("length", range(16))
def test_a_packet_that_ends_before_its_chunk(length):
    assert _probe.sctp_event(bytes(length)) == NO_CHUNK


@pytest.mark.parametrize("kind", range(256))
def test_the_first_chunk_is_the_event(kind):
    expected = kind if kind < 15 else 0
    assert _probe.sctp_event(HEADER + chunk(kind)) == expected
    if kind not in (10, 11):
        assert _probe.sctp_event(HEADER + chunk(kind) + chunk(6)) == expected


@pytest.mark.parametrize("kind", [10, 11])
def test_an_abort_behind_a_cookie(kind):
    for length in range(4, 30):
        padded = length + 3 & ~3
        packet = HEADER + chunk(kind, length, bytes(padded - 4)) + chunk(6)
        assert _probe.sctp_event(packet) == 6
        # Cut, the second chunk is not seen; and only the second counts.
        assert all(_probe.sctp_event(packet[:-cut]) == kind for cut in range(1, 5))
        packet = HEADER + chunk(kind, length, bytes(padded - 4)) + chunk(3) + chunk(6)
        assert _probe.sctp_event(packet) == kind
    for length in range(4):
        assert _probe.sctp_event(HEADER + chunk(kind, length) + chunk(6)) == kind
    assert _probe.sctp_event(HEADER + chunk(kind, 65535) + chunk(6)) == kind


@given(st.binary(max_size=60))
def test_any_bytes_are_an_event(data):
    assert 0 <= _probe.sctp_event(data) <= NO_CHUNK
