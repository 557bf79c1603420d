"""The options of a host's answers (lvscore/host/options.py)."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lvscore.host import options
from lvscore.host.packets import Packet

OWN, OTHER = bytes((192, 0, 2, 1)), bytes((198, 51, 100, 9))
NOON = 12 * 3600 * 10**9
STAMP = (12 * 3600 * 1000).to_bytes(4, "big")


def echo(data, wrong=0, unicast=True):
    header = bytearray(20) + data + bytes(-len(data) % 4)
    header[0] = 0x40 | len(header) // 4
    header[2:4] = len(header).to_bytes(2, "big")
    return options.echo(Packet.parse(header), OWN, NOON, lambda _: unicast, wrong)


@pytest.mark.parametrize(("data", "echoed"), [
    (b"\7\x0b\x08" + OTHER + bytes(4), b"\7\x0b\x0c" + OTHER + OWN + b"\0"),
    (b"\7\7\x08" + OTHER, b"\7\7\x08" + OTHER + b"\0"),
    (b"\x44\x0c\x09\0" + OTHER + bytes(4), b"\x44\x0c\x0d\0" + OTHER + STAMP),
    (b"\x44\x0c\x05\1" + bytes(8), b"\x44\x0c\x0d\1" + OWN + STAMP),
    (b"\x44\x0c\x05\3" + OTHER + bytes(4), b"\x44\x0c\x05\3" + OTHER + bytes(4)),
    (b"\x44\x04\x05\2", b"\x44\x04\x05\2"),
    (b"\1\1\1\1\x94\4\0\0", b"")])  # fmt: skip
def test_what_is_filled_in(data, echoed):
    assert echo(data) == echoed


def test_a_time_for_an_address_of_this_host():
    option = b"\x44\x0c\x05\3" + OTHER
    assert echo(option + bytes(4), unicast=False) == b"\x44\x0c\x0d\3" + OTHER + STAMP


def test_their_order_is_the_kernels():
    label, stamps, route = b"\x86\6\0\0\0\1", b"\x44\x04\x05\0", b"\7\3\4"
    assert echo(label + stamps + route) == route + stamps + label + b"\0\0\0"


@pytest.mark.parametrize("data", [
    b"\7\x08\x08" + bytes(5),
    b"\x44\x0a\x09\0" + bytes(6),
    b"\x44\x0a\x09\1" + bytes(6),
])  # fmt: skip
def test_no_answer_where_less_than_an_entry_is_left(data):
    assert echo(data) is None


def test_what_is_wrong_is_not_echoed_but_a_label_is():
    route, label = b"\7\7\4" + bytes(4), b"\x86\4\0\0"
    assert echo(route + b"\x44\3\5", wrong=28) == b"\7\7\x08" + OWN + b"\0"
    assert echo(route + label, wrong=28) == b"\7\7\x08" + OWN + label + b"\0"


@given(st.binary(max_size=40), st.integers(0, 59), st.booleans())
@example(b"\x44\x04\x01\3", 0, False)
@example(b"\7\2", 0, True)
def test_any_options(data, wrong, unicast):
    """Only what the core has found valid gets here; anything else must not raise either."""
    echoed = echo(data, wrong and max(wrong, 20), unicast)
    assert echoed is None or len(echoed) <= 40
