"""tcp_window.pxd by itself: what fits a connection's windows (nf_conntrack_proto_tcp.c)."""

import struct

import pytest

from lvscore._probe_window import Windows

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
C, S = 0, 1  # the client's direction, the server's
ISN, ISS = 1000, 9000
LARGE = 66000  # how far an acknowledgment may lag behind


def scale(shift):
    return bytes((3, 3, shift, 1))


SACKS = b"\x04\x02\x01\x01"


def sack(*blocks):
    body = b"".join(
        struct.pack(">II", first & 0xFFFFFFFF, last & 0xFFFFFFFF) for first, last in blocks
    )
    return b"\x01\x01\x05" + bytes((2 + len(body),)) + body


def opened(*, isn=ISN, iss=ISS, client=b"", server=b"", window=1000, **settings):
    w = Windows(**settings)
    assert w.send(C, SYN, isn, window=window, options=client) == "taken"
    assert w.state == "SYN_SENT"
    assert w.send(S, SYN | ACK, iss, isn + 1, window=window, options=server) == "taken"
    assert w.state == "SYN_RECV"
    assert w.send(C, ACK, isn + 1, iss + 1, window=window) == "taken"
    assert w.state == "ESTABLISHED"
    return w


def test_the_sides_after_a_handshake():
    w = opened()
    assert w.side(C) == (ISN + 1, ISN + 1001, 1000, 0)
    assert w.side(S) == (ISS + 1, ISS + 1001, 1000, 0)


@pytest.mark.parametrize(
    ("offset", "length", "fit"),
    [
        (0, 1000, "taken"),  # all of the window
        (999, 1, "taken"),
        (1000, 0, "taken"),  # right behind it, with nothing in it
        (1000, 500, "taken"),  # begins at its edge
        (1001, 500, "ignored"),  # too much, but by less than the window: it passes
        (1500, 400, "ignored"),
        (2001, 0, "invalid"),  # beyond that
        (100_000, 10, "invalid"),
        (-1000, 1000, "taken"),  # sent again
        (-1001, 1, "taken"),
        (-1002, 1, "ignored"),  # older than a window
        (-5000, 10, "ignored"),
    ],
)
def test_the_window_of_data(offset, length, fit):
    w = opened()
    assert w.send(C, ACK, ISN + 1 + offset, ISS + 1, length=length) == fit


@pytest.mark.parametrize(
    ("ack", "fit"),
    [
        (ISS + 1, "taken"),
        (ISS + 2, "invalid"),  # of what was never sent
        (ISS + 1 - LARGE, "taken"),
        (ISS - LARGE, "ignored"),
    ],
)
def test_what_may_be_acknowledged(ack, fit):
    w = opened()
    assert w.send(C, ACK, ISN + 1, ack & 0xFFFFFFFF) == fit


@pytest.mark.parametrize("isn", [0xFFFFFFFF, 0xFFFFFE00, 0x7FFFFFFF])
def test_numbers_that_wrap(isn):
    w = opened(isn=isn, iss=isn)
    seq = isn + 1
    for _ in range(20):
        assert w.send(C, ACK, seq & 0xFFFFFFFF, (isn + 1) & 0xFFFFFFFF, length=500) == "taken"
        seq += 500
        assert w.send(S, ACK, (isn + 1) & 0xFFFFFFFF, seq & 0xFFFFFFFF) == "taken"
    assert w.send(C, ACK, (seq + 100_000) & 0xFFFFFFFF, (isn + 1) & 0xFFFFFFFF) == "invalid"


def test_windows_are_scaled_if_both_say_so():
    w = opened(client=scale(7), server=scale(2))
    assert w.side(C)[3] == 7
    assert w.side(S)[3] == 2
    # The client's next window is 1000 << 7; the SYN's own was not scaled.
    assert w.send(C, ACK, ISN + 1, ISS + 1) == "taken"
    assert w.send(S, ACK, ISS + 1 + 100_000, ISN + 1, length=100) == "taken"
    assert w.send(S, ACK, ISS + 1 + 400_000, ISN + 1, length=100) == "invalid"


@pytest.mark.parametrize(("client", "server"), [(scale(7), b""), (b"", scale(7))])
def test_one_side_alone_does_not_scale(client, server):
    w = opened(client=client, server=server)
    assert w.side(C)[3] == w.side(S)[3] == 0
    assert w.send(S, ACK, ISS + 1 + 50_000, ISN + 1, length=100) == "invalid"


def test_a_shift_above_14_is_14():
    w = opened(client=scale(200), server=scale(1))
    assert w.side(C)[3] == 14


def test_a_broken_option_ends_the_reading():
    w = opened(client=b"\x08\x00\x03\x03\x07\x01\x01\x01", server=scale(7))
    assert w.side(C)[3] == 0


def test_selective_acknowledgments_count():
    """A SACK of what was never sent is as wrong as an acknowledgment of it."""
    w = opened(client=SACKS, server=SACKS)
    for start in (0, 100, 300):
        assert w.send(S, ACK, ISS + 1 + start, ISN + 1, length=100) == "taken"
    got = sack((ISS + 301, ISS + 401))
    assert w.send(C, ACK, ISN + 1, ISS + 201, options=got) == "taken"
    never = sack((ISS + 301, ISS + 402))
    assert w.send(C, ACK, ISN + 1, ISS + 201, options=never) == "invalid"


def test_without_permission_blocks_are_not_read():
    w = opened()
    never = sack((ISS + 301, ISS + 402))
    assert w.send(C, ACK, ISN + 1, ISS + 1, options=never) == "taken"


def test_liberal_takes_what_is_outside():
    w = opened(liberal=True)
    assert w.send(C, ACK, ISN + 100_000, ISS + 1, length=10) == "taken"
    assert w.send(C, ACK, ISN + 1, ISS + 100) == "taken"
    assert w.send(C, ACK, ISN + 1, (ISS - 2 * LARGE) & 0xFFFFFFFF) == "taken"
    # Yet no state allows these.
    assert w.send(C, SYN | ACK, ISN, ISS + 1) == "invalid"


def test_from_the_middle_windows_are_not_known():
    w = Windows()
    assert w.send(C, ACK, 5000, 7000, length=10) == "taken"
    assert w.state == "ESTABLISHED"
    assert w.send(C, ACK, 500_000, 7000, length=10) == "taken"
    assert w.send(S, ACK, 7000, 5010) == "taken"
    assert w.send(S, ACK, 900_000, 5010, length=10) == "taken"


@pytest.mark.parametrize("flags", [SYN | ACK, FIN | ACK, RST, RST | ACK])
def test_what_opens_nothing(flags):
    assert Windows().send(C, flags, ISN, 1) == "invalid"


def test_a_simultaneous_open():
    w = Windows()
    assert w.send(C, SYN, ISN) == "taken"
    assert w.send(S, SYN, ISS) == "taken"
    assert w.state == "SYN_SENT2"
    assert w.send(C, SYN | ACK, ISN, ISS + 1) == "taken"
    assert w.state == "SYN_RECV"
    assert w.send(S, SYN | ACK, ISS, ISN + 1) == "ignored"
    assert w.send(S, ACK, ISS + 1, ISN + 1) == "taken"
    assert w.state == "ESTABLISHED"


def test_a_syn_again_with_other_numbers():
    w = Windows()
    assert w.send(C, SYN, ISN) == "taken"
    assert w.send(C, SYN, ISN + 64000) == "taken"
    assert w.send(S, SYN | ACK, ISS, ISN + 64001) == "taken"
    assert w.state == "SYN_RECV"


def test_an_answer_to_a_syn_that_was_ignored():
    """The client forgot its connection, and the server too: netfilter did not."""
    w = opened()
    assert w.send(C, SYN, 50_000, options=scale(3)) == "ignored"
    assert w.state == "ESTABLISHED"
    assert w.send(S, SYN | ACK, 70_000, 50_001, options=scale(4)) == "taken"
    assert w.state == "SYN_RECV"
    assert w.send(C, ACK, 50_001, 70_001) == "taken"
    assert w.state == "ESTABLISHED"
    assert w.side(C)[3] == 3


def test_a_reset_must_be_exact():
    """RFC 5961, section 3: within the window it only provokes a challenge."""
    w = opened()
    assert w.send(S, ACK, ISS + 1, ISN + 1, length=100) == "taken"
    assert w.send(C, ACK, ISN + 1, ISS + 101) == "taken"
    assert w.send(S, RST, ISS + 150) == "taken"
    assert w.state == "ESTABLISHED"
    assert w.segment_seconds == 10  # yet it is not trusted for long
    assert w.send(S, RST, ISS + 101) == "taken"
    assert w.state == "CLOSE"


@pytest.mark.parametrize(("trusting", "fit"), [(False, "invalid"), (True, "taken")])
def test_a_reset_from_before_what_was_acknowledged(trusting, fit):
    w = opened(ignore_invalid_rst=trusting)
    assert w.send(S, ACK, ISS + 1, ISN + 1, length=100) == "taken"
    assert w.send(C, ACK, ISN + 1, ISS + 101) == "taken"
    assert w.send(S, RST, ISS + 50) == fit
    assert w.state == "ESTABLISHED"


def test_a_reset_answers_a_syn():
    w = Windows()
    assert w.send(C, SYN, ISN) == "taken"
    assert w.send(S, RST | ACK, 0, ISN + 1, window=0) == "taken"
    assert w.state == "CLOSE"


@pytest.mark.parametrize(
    ("first", "names"),
    [(C, ["FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT"]),
     (S, ["FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT"])],
)  # fmt: skip
def test_the_end(first, names):
    w = opened()
    number = {C: ISN + 1, S: ISS + 1}
    other = 1 - first
    seen = []
    for direction, flags in ((first, FIN | ACK), (other, ACK), (other, FIN | ACK), (first, ACK)):
        # What a side has acknowledged is all that the other has sent.
        assert w.send(direction, flags, number[direction], number[1 - direction]) == "taken"
        number[direction] += flags & FIN
        seen.append(w.state)
    assert seen == names


def test_a_new_syn_reopens_what_is_over():
    w = opened()
    assert w.send(C, FIN | ACK, ISN + 1, ISS + 1) == "taken"
    assert w.send(S, FIN | ACK, ISS + 1, ISN + 2) == "taken"
    assert w.send(C, ACK, ISN + 2, ISS + 2) == "taken"
    assert w.state == "TIME_WAIT"
    assert w.send(C, SYN, 500_000) == "reopens"


def test_segments_sent_again_and_again_are_counted():
    w = opened()
    assert w.send(C, ACK | PSH, ISN + 1, ISS + 1, length=10) == "taken"
    assert w.segment_seconds == 300  # data that is not acknowledged
    assert w.send(S, ACK, ISS + 1, ISN + 11) == "taken"
    assert w.segment_seconds == 432000
    for _ in range(4):
        assert w.send(S, ACK, ISS + 1, ISN + 11) == "taken"
    assert w.segment_seconds == 300


def test_a_closed_window_does_not_last():
    w = opened()
    assert w.send(S, ACK, ISS + 1, ISN + 1, window=0) == "taken"
    assert w.segment_seconds == 300
    # One byte may be sent to probe it.
    assert w.send(C, ACK, ISN + 1, ISS + 1, length=1) == "taken"


@pytest.mark.parametrize("flags", [0, SYN | FIN, SYN | RST, FIN, FIN | RST | ACK])
def test_flags_that_mean_nothing(flags):
    w = opened()
    assert w.send(C, flags, ISN + 1, ISS + 1) == "invalid"
    assert w.state == "ESTABLISHED"


@pytest.mark.parametrize(
    ("first", "again", "client"),
    [
        (scale(3), b"", 3),  # without any options it says nothing new
        (scale(3), scale(5), 5),  # before the answer nothing is off
        (scale(3), SACKS, 0),
        (b"", scale(5), 5),
        (b"", b"", 0),
    ],
)
def test_a_syn_sent_again_with_another_number(first, again, client):
    """The side begins anew (tcp_init_sender, tcp_options; as the kernel beside it did)."""
    w = Windows()
    assert w.send(C, SYN, ISN, options=first) == "taken"
    assert w.send(C, SYN, ISN + 1, options=again) == "taken"
    assert w.send(S, SYN | ACK, ISS, ISN + 2, options=scale(4)) == "taken"
    assert (w.side(C)[3], w.side(S)[3]) == (client, 4 if client else 0)
