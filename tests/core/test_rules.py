"""rules.pxd: matching."""

from ipaddress import ip_address

import pytest

from lvscore import _probe


def packed(text):
    return ip_address(text).packed


T = (6, packed("10.0.0.9"), 40000, packed("172.16.1.100"), 80)


@pytest.mark.parametrize(
    ("match", "matches"),
    [
        ({}, True),
        ({"protocol": 6}, True),
        ({"protocol": 17}, False),
        ({"family": 6, "source": bytes(16), "destination": bytes(16)}, False),
        ({"source": packed("10.0.0.0"), "source_length": 24}, True),
        ({"source": packed("10.0.1.0"), "source_length": 24}, False),
        ({"source": packed("10.0.0.8"), "source_length": 31}, True),
        ({"destination": packed("172.16.1.100"), "destination_length": 32}, True),
        ({"destination": packed("172.16.1.101"), "destination_length": 32}, False),
        ({"source_ports": (40000, 40000), "destination_ports": (80, 81)}, True),
        ({"source_ports": (40001, 50000)}, False),
        ({"destination_ports": (81, 65535)}, False),
        ({"egress": 3, "leaves_by": 3}, True),
        ({"egress": 3, "leaves_by": 2}, False),
        ({"egress": 3, "leaves_by": -1}, False),
        ({"ingress": 3, "came_by": 3}, True),
        ({"ingress": 3, "came_by": 2}, False),
        ({"protocol": 6, "negated": 0x04}, False),
        ({"protocol": 17, "negated": 0x04}, True),
        ({"source": packed("10.0.0.0"), "source_length": 24, "negated": 0x01}, False),
        ({"source": packed("10.0.1.0"), "source_length": 24, "negated": 0x01}, True),
        ({"destination": packed("172.0.0.0"), "destination_length": 8, "negated": 0x02}, False),
        ({"source_ports": (40000, 40000), "negated": 0x08}, False),
        ({"source_ports": (40001, 40001), "negated": 0x08}, True),
        ({"destination_ports": (80, 90), "negated": 0x10}, False),
        ({"ingress": 3, "came_by": 3, "negated": 0x20}, False),
        ({"egress": 3, "leaves_by": 2, "negated": 0x40}, True),
        ({"mark": (0x10, 0xF0), "marked": 0x1F}, True),
        ({"mark": (0x10, 0xF0), "marked": 0x2F}, False),
        ({"mark": (0x10, 0xF0), "marked": 0x2F, "negated": 0x80}, True),
        ({"multiport": ((22, 22), (80, 90)), "multiport_side": 2}, True),
        ({"multiport": ((22, 22), (80, 90)), "multiport_side": 1}, False),
        ({"multiport": ((22, 22), (80, 90)), "multiport_side": 3}, True),
        ({"multiport": ((22, 22), (80, 90)), "multiport_side": 3, "negated": 0x100}, False),
        ({"multiport": ((40000, 40000),), "multiport_side": 1}, True),
        ({"virtual_address": packed("10.9.0.0"), "virtual_length": 16}, False),
        (
            {
                "virtual_address": packed("10.9.0.0"),
                "virtual_length": 16,
                "virtual_of": packed("10.9.1.1"),
            },
            True,
        ),
        (
            {
                "virtual_address": packed("10.9.0.0"),
                "virtual_length": 16,
                "virtual_of": packed("10.9.1.1"),
                "negated": 0x200,
            },
            False,
        ),
    ],
)
def test_matching(match, matches):
    assert _probe.rule_match(T, **match) is matches


def test_ports_do_not_matter_to_protocols_without():
    icmp = (1, packed("10.0.0.9"), 7, packed("10.0.0.1"), 0x800)
    assert _probe.rule_match(icmp, source_ports=(40000, 40000))
