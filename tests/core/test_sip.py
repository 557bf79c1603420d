"""Finding the Call-ID of a SIP message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvscore import _probe_payload

INVITE = (
    b"INVITE sip:bob@example.com SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP pc33.example.com;branch=z9hG4bK776asdhds\r\n"
    b"Call-ID: a84b4c76e66710@pc33.example.com\r\n"
    b"CSeq: 314159 INVITE\r\n\r\n"
)


def test_a_message_of_rfc_3261():
    assert _probe_payload.call_id(INVITE) == b"a84b4c76e66710@pc33.example.com"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"Call-ID: x\r\n", b"x"),
        (b"call-id:x\r\n", b"x"),
        (b"CALL-ID \t : \t x@y\n", b"x@y"),
        (b"i: f81d4fae-7dec\r\n", b"f81d4fae-7dec"),
        (b"i:(1)<2>@[3]\r", b"(1)<2>@[3]"),
        (b"Call-ID: x", None),  # no end of line
        (b"Call-ID: x y\r\n", None),
        (b"Call-ID: \r\n", None),
        (b"Call-ID x\r\n", None),
        (b"Call-ID: x@y@z\r\n", None),
        (b"info: x\r\n", None),
        (b" Call-ID: x\r\n", None),  # continues the line before
        (b"Call-ID: " + b"x" * 255 + b"\r\n", b"x" * 255),
        (b"Call-ID: " + b"x" * 256 + b"\r\n", None),
    ],
)
def test_headers(header, expected):
    assert _probe_payload.call_id(b"OPTIONS sip:a SIP/2.0\r\n" + header) == expected


def test_the_first_line_is_no_header():
    assert _probe_payload.call_id(b"Call-ID: x\r\n") is None


@given(st.integers(0, len(INVITE)))
def test_a_message_that_is_cut(length):
    whole = length > INVITE.index(b"example.com\r\nCSeq") + len(b"example.com")
    assert (_probe_payload.call_id(INVITE[:length]) is not None) == whole


@given(st.binary(max_size=300))
def test_anything_else(data):
    found = _probe_payload.call_id(data)
    assert found is None or (0 < len(found) <= 255 and found in data)
