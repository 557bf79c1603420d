"""VLANs (IEEE 802.1Q) on an interface, where the machine has no interface of its own for them."""

import socket
import struct

from lvscore.integers import parse_decimal

__all__ = ["port_of", "vlan_filter"]

_LD, _AND, _JEQ, _RET = 0x20, 0x54, 0x15, 0x06  # classic BPF (linux/filter.h)
_TAG, _PRESENT, _PROTOCOL = (0x100000000 - 0x1000 + at for at in (44, 48, 60))  # SKF_AD_VLAN_...
_ETHERTYPE = 0x8100


def port_of(name: str) -> tuple[str, int]:
    """The interface that frames come by, and the VLAN that theirs are of; 0: they have no tag.

    Args:
        name: of an interface; ``"eth1.10"`` (as ip-link(8) has it) is VLAN 10 of eth1 if there
            is no interface of this name.
    """
    parent, _, number = name.rpartition(".")
    there = {known for _, known in socket.if_nameindex()}
    vlan = parse_decimal(number, 1, 4094)
    return (name, 0) if name in there or parent not in there or vlan is None else (parent, vlan)


def vlan_filter(vlan: int) -> bytes:
    """The program of a socket that takes the frames of a VLAN alone."""
    program = (
        (_LD, 0, 0, _PRESENT), (_JEQ, 6, 0, 0),
        (_LD, 0, 0, _PROTOCOL), (_JEQ, 0, 4, _ETHERTYPE),
        (_LD, 0, 0, _TAG), (_AND, 0, 0, 0xFFF), (_JEQ, 0, 1, vlan),
        (_RET, 0, 0, 0x40000), (_RET, 0, 0, 0),
    )  # fmt: skip
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)
