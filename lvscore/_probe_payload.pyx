"""What the core reads in payloads, for tests."""

from libc.stdint cimport uint8_t, uint32_t

from lvscore._core.sip cimport CallId, call_id_find

__all__ = ["call_id"]


def call_id(bytes message not None):
    """The Call-ID of a SIP message, or None."""
    cdef CallId found
    cdef const uint8_t* start = <const uint8_t*><const char*>message
    if not call_id_find(start, <uint32_t>len(message), &found):
        return None
    return <bytes>(<const char*>found.text)[:found.length]
