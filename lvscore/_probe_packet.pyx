"""What is read of a packet beside its addresses, for tests: verify, event and quote."""

from libc.string cimport memcpy

from lvscore._core.bytes cimport ntohs
from lvscore._core.checksum cimport checksum_update, delta_finish
from lvscore._core.consts cimport LINK_RAW, REASON_NONE
from lvscore._core.event cimport (
    header_is_whole, is_opening, is_reset, opening_is_whole, service_event,
)
from lvscore._core.flow cimport Tuple, packet_tuple, ports_destination, ports_source
from lvscore._core.quote cimport (
    icmp_is_error, icmp_is_redirect, quote_parse, quote_translate,
)
from lvscore._core.verify cimport packet_is_valid
from lvscore._core.wire cimport Packet, packet_l4, packet_parse

__all__ = ["facts", "quote", "quote_readdress"]


cdef bint parsed(Packet* packet, bytearray frame, wire_length):
    cdef unsigned int length = <unsigned int>len(frame)
    return packet_parse(packet, <unsigned char*>frame, length,
                        length if wire_length is None else wire_length, LINK_RAW) == REASON_NONE


def facts(frame, wire_length=None):
    """What conntrack and the trackers make of an IP packet; None if it is none."""
    cdef Packet packet
    data = bytearray(frame)
    if not parsed(&packet, data, wire_length):
        return None
    whole = header_is_whole(&packet)
    return {
        "valid": packet_is_valid(&packet, True),
        "well_formed": packet_is_valid(&packet, False),
        "whole": whole,
        "event": service_event(&packet) if whole else None,
        "opening": whole and is_opening(&packet),
        "opening_is_whole": opening_is_whole(&packet),
        "reset": is_reset(&packet),
        "error": icmp_is_error(&packet),
        "redirect": icmp_is_redirect(&packet),
    }


def quote(frame):
    """(protocol, source port, destination port) of what an ICMP error quotes, or None."""
    cdef Packet packet, quoted
    cdef Tuple t
    data = bytearray(frame)
    if not parsed(&packet, data, None) or not quote_parse(&packet, &quoted):
        return None
    packet_tuple(&quoted, &t)
    return t.protocol, ntohs(ports_source(t.ports)), ntohs(ports_destination(t.ports))


def quote_readdress(frame, bytes source, bint service):
    """The ICMP error with another source (four bytes) in the packet that it quotes, its own
    checksum brought up by what that adds."""
    cdef Packet packet, quoted
    cdef Tuple old, new
    cdef unsigned short checksum
    data = bytearray(frame)
    if not parsed(&packet, data, None) or not quote_parse(&packet, &quoted) or len(source) != 4:
        raise ValueError("no quote of IPv4")
    packet_tuple(&quoted, &old)
    new = old
    memcpy(&new.source, <const char*>source, 4)
    delta = quote_translate(&quoted, &old, &new, service)
    memcpy(&checksum, packet_l4(&packet) + 2, 2)
    checksum = checksum_update(checksum, delta_finish(delta))
    memcpy(packet_l4(&packet) + 2, &checksum, 2)
    return bytes(data)
