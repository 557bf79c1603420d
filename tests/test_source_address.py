"""Source address selection (RFC 6724): the cases of its section 10.1, and of interfaces."""

from ipaddress import IPv6Interface, IPv6Network

import pytest
from packets import flow, udp

import lvscore
from lvscore.source_address import select_source


@pytest.mark.parametrize(
    ("destination", "own", "selected"),
    [
        ("2001:db8:1::1", ["2001:db8:3::1", "fe80::1"], 0),
        ("2001:db8:1::1", ["fe80::1", "2001:db8:3::1"], 1),
        ("fe80::1", ["2001:db8:3::1", "fe80::2"], 1),
        ("fec0::1", ["fe80::1", "2001:db8:1::1"], 1),
        ("2001:db8:1::1", ["2001:db8:1::2", "2001:db8:3::2"], 0),
        ("2001:db8:1::1", ["2001:db8:3::2", "2001:db8:1::2"], 1),
        ("2002:c633:6401::1", ["2001:db8:1::2", "2002:c633:6401:0:d5e3:7953:13eb:22e8"], 1),
        ("fd00:2::1", ["2001:db8:1::2", "fd00:1::1"], 1),
        ("2001:db8:1::1", ["fd00:1::1", "2001:db8:9::2"], 1),
    ],
)
def test_of_one_interface(destination, own, selected):
    near = [IPv6Interface(f"{text}/64") for text in own]
    assert select_source(IPv6Network(destination), near) == near[selected].ip


def test_of_several_interfaces():
    near, far = IPv6Interface("fe80::1/64"), IPv6Interface("2001:db8::1/64")
    default = IPv6Network("::/0")
    assert select_source(default, [near], [[far]]) == far.ip
    assert select_source(IPv6Network("fe80::/10"), [near], [[far]]) == near.ip
    other = IPv6Interface("2001:db8:5::1/64")
    assert select_source(default, [other], [[far]]) == other.ip
    assert select_source(default, [near], [[far], [other]]) == far.ip


def test_of_equals_the_latest():
    """As recorded of Linux 6.1, which lists an interface's addresses from the latest on."""
    server = [IPv6Interface(text) for text in (
        "2001:db8:1::3/64", "2001:db8::1/128", "2001:db8::2/128")]  # fmt: skip
    near = IPv6Interface("fe80::1/64")
    assert select_source(IPv6Network("2001:db8:f::/48"), [near], [server]) == server[2].ip


def test_of_none_but_a_link_local_address():
    near, default = IPv6Interface("fe80::1/64"), IPv6Network("::/0")
    assert select_source(default, [near]) == near.ip
    assert select_source(default, []) is None


def test_rules_masquerade_with_it():
    engine = lvscore.Engine()
    engine.routes.add_interface("wan", ["fe80::2/64", "fd00:1::2/64", "2001:db8::2/64"])
    engine.routes.add("::/0", "wan")
    engine.routes.add("fd00::/8", "wan")
    engine.add_masquerade(family=6)
    for destination, source in (("2001:db8:7::1", "2001:db8::2"), ("fd00:9::1", "fd00:1::2")):
        frame = udp("2001:db8:a::9", 5000, destination, 53)
        assert engine.process(frame, 0) == lvscore.Verdict.FORWARD
        assert flow(frame)[0] == source
