"""flow.pxd: tuples, and how ICMP queries get ports."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6

from lvscore import _probe

ports = st.integers(0, 0xFFFF)


@st.composite
def tuples(draw):
    size = draw(st.sampled_from([4, 16]))
    address = st.binary(min_size=size, max_size=size)
    return draw(st.integers(0, 255)), draw(address), draw(ports), draw(address), draw(ports)


@given(tuples())
def test_inverse_turns_round_and_back(t):
    protocol, source, sport, destination, dport = t
    assert _probe.inverse(t) == (protocol, destination, dport, source, sport)
    assert _probe.inverse(_probe.inverse(t)) == t


@pytest.mark.parametrize(("request_type", "answer_type"), [(8, 0), (13, 14), (15, 16), (17, 18)])
def test_icmp_answers_are_the_inverse_of_their_request(request_type, answer_type):
    def found(source, destination, kind):
        frame = bytes(IP(src=source, dst=destination) / ICMP(type=kind, id=0x1234))
        return _probe.parse(frame, 101)["tuple"]

    request = found("10.0.0.1", "10.0.0.2", request_type)
    assert request[2] == 0x1234
    assert request[4] == request_type << 8
    assert found("10.0.0.2", "10.0.0.1", answer_type) == _probe.inverse(request)


def test_icmpv6_echo():
    request = bytes(IPv6(src="2001:db8::1", dst="2001:db8::2") / ICMPv6EchoRequest(id=77))
    answer = bytes(IPv6(src="2001:db8::2", dst="2001:db8::1") / ICMPv6EchoReply(id=77))
    t = _probe.parse(request, 101)["tuple"]
    assert (t[2], t[4]) == (77, 128 << 8)
    assert _probe.parse(answer, 101)["tuple"] == _probe.inverse(t)


@given(st.integers(0, 255), ports)
def test_other_icmp_types_have_no_ports(kind, identifier):
    frame = bytes(IP(src="10.0.0.1", dst="10.0.0.2")) + bytes([kind, 0, 0, 0])
    frame += identifier.to_bytes(2, "big") + bytes(2)
    frame = frame[:2] + len(frame).to_bytes(2, "big") + frame[4:9] + b"\1" + frame[10:]
    _, _, sport, _, dport = _probe.parse(frame, 101)["tuple"]
    if kind in (8, 13, 15, 17):
        assert (sport, dport) == (identifier, kind << 8)
    elif kind in (0, 14, 16, 18):
        request = 8 if kind == 0 else kind - 1
        assert (sport, dport) == (request << 8, identifier)
    else:
        assert (sport, dport) == (0, 0)
