"""sequence.pxd: numbers of a stream in which a text grew or shrank on its way."""

import struct

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP

from lvscore._probe_frame import Sequence, sequence_adjust

NUMBERS = st.integers(0, 2**32 - 1)
DIFFERENCES = st.integers(-40, 40).filter(bool)
MODULUS = 2**32


def edited(*edits):
    sequence = Sequence()
    for position, difference in edits:
        sequence.edit(position % MODULUS, difference)
    return sequence


@given(NUMBERS, DIFFERENCES, st.integers(0, 2**30))
def test_before_and_behind_one_edit(position, difference, far):
    """Numbers up to the edit stay, those behind it move, whereever counting wraps around."""
    sequence = edited((position, difference))
    before, behind = (position - far) % MODULUS, (position + 1 + far) % MODULUS
    assert sequence.forward(before) == before
    assert sequence.forward(behind) == (behind + difference) % MODULUS


@given(NUMBERS, st.lists(st.tuples(st.integers(100, 5000), DIFFERENCES), max_size=12),
       st.integers(100, 2**20))  # fmt: skip
def test_what_comes_next_is_moved_by_all_edits_and_back(start, steps, next_text):
    position, edits = start, []
    for step, difference in steps:
        position = (position + step) % MODULUS
        edits.append((position, difference))
    sequence = edited(*edits)
    number = (position + next_text) % MODULUS
    moved = (number + sum(difference for _, difference in edits)) % MODULUS
    assert sequence.forward(number) == moved
    assert sequence.back(moved) == number


@given(NUMBERS, DIFFERENCES, DIFFERENCES, st.integers(1, 2**30))
def test_a_segment_sent_again_is_one_edit(position, first, second, step):
    once = edited((position, first), (position + step, second))
    again = edited((position, first), (position + step, second), (position + step, second),
                   (position, first))  # fmt: skip
    for number in (
        range(position - 2, position + 3),
        range(position + step - 2, position + step + 3),
    ):
        for n in number:
            assert once.forward(n % MODULUS) == again.forward(n % MODULUS)


@st.composite
def segments(draw):
    options = draw(st.lists(st.sampled_from(["NOP", "MSS", "SAck", "Timestamp"]), max_size=3))
    edge = st.integers(0, 2**32 - 1)
    values = {
        "NOP": None,
        "MSS": 1460,
        "Timestamp": (1, 2),
        "SAck": tuple(draw(st.lists(edge, min_size=2, max_size=2))),
    }
    tcp = TCP(seq=draw(NUMBERS), ack=draw(NUMBERS), flags=draw(st.sampled_from(["A", "PA", "S"])),
              options=[(name, values[name]) for name in options])  # fmt: skip
    return IP(bytes(IP(src="10.0.0.1", dst="10.0.0.2") / tcp / draw(st.binary(max_size=20))))


@given(segments(), NUMBERS, DIFFERENCES, NUMBERS, DIFFERENCES, st.booleans())
def test_adjust(packet, own_at, own_by, other_at, other_by, wrong):
    """Number, acknowledgement and every block of SACK; the checksum stays as right as it was."""
    own, other = edited((own_at, own_by)), edited((other_at, other_by))
    right = packet[TCP].chksum
    if wrong:
        packet[TCP].chksum = right ^ 0x1234
    seen = IP(sequence_adjust(bytes(packet), own, other))
    want = packet.copy()
    want[TCP].seq = own.forward(packet[TCP].seq)
    if packet[TCP].flags.A:
        want[TCP].ack = other.back(packet[TCP].ack)
        want[TCP].options = [
            (name, tuple(map(other.back, value)) if name == "SAck" else value)
            for name, value in packet[TCP].options
        ]
    sum_seen = seen[TCP].chksum
    want[TCP].chksum = sum_seen
    assert bytes(seen) == bytes(want)
    del want[TCP].chksum
    correct = IP(bytes(want))[TCP].chksum
    moved = (right ^ 0x1234 if wrong else right) - right
    assert (sum_seen - correct - moved) % 0xFFFF == 0


def test_no_edits_change_nothing():
    packet = bytes(IP() / TCP(seq=5, ack=6, flags="A", chksum=7))
    assert sequence_adjust(packet, Sequence(), Sequence()) == packet


def test_options_that_say_nonsense_are_left_alone():
    """A length of 0 or 1, one beyond the header, half a block: no block is read there."""
    for options in b"\x05\x00\x01\x01", b"\x05\x01\0\0", b"\x05\x0a\0\0", b"\x05\x04\0\0", b"\x05":
        tcp = struct.pack("!HHIIBBHHH", 1, 2, 3, 4, 6 << 4, 16, 5, 0, 0) + options.ljust(4, b"\1")
        packet = bytes(IP(src="10.0.0.1", dst="10.0.0.2", proto=6) / tcp)
        seen = sequence_adjust(packet, edited((1, 4)), edited((1, 4)))
        assert seen[40:] == packet[40:]
