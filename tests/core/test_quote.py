"""quote.pxd: which ICMP packets are errors, what they quote, and how that is rewritten."""

from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from lvscore._probe_packet import facts, quote, quote_readdress

INNER = IP(src="10.0.0.2", dst="10.0.0.9", ttl=9)


def error(inner, kind=3, code=1):
    return bytes(
        IP(src="10.0.0.1", dst="10.0.0.2") / ICMP(type=kind, code=code) / Raw(bytes(inner))
    )


def ones_sum(data):
    data = bytes(data) + b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_which_types_are_errors():
    for kind in range(256):
        four = facts(error(INNER / UDP(), kind))
        assert four["error"] == (kind in (3, 4, 11, 12)), kind
        assert four["redirect"] == (kind == 5), kind
        six = facts(bytes(IPv6(nh=58) / Raw(bytes((kind, 0, 0, 0, 0, 0, 0, 0)))))
        assert six["error"] == (kind < 128), kind


def test_every_truncation():
    """Of TCP and UDP the four bytes of the ports are enough."""
    inner = bytes(INNER / TCP(sport=1000, dport=80))
    for length in range(len(inner) + 1):
        said = quote(error(inner[:length]))
        assert said == ((6, 1000, 80) if length >= 24 else None), length


def test_a_later_fragment_quotes_no_ports():
    assert quote(error(IP(src="10.0.0.2", dst="10.0.0.9", frag=5, proto=17) / b"12345678")) is None


@settings(deadline=None)
@given(st.booleans(), st.booleans(), st.binary(min_size=4, max_size=4), st.binary(max_size=30),
       st.integers(0, 28))  # fmt: skip
def test_checksums_after_a_rewrite(tcp, service, source, payload, cut):
    """The error's own is right again however much is quoted; the quoted IP header's too. A
    service leaves the quoted transport's as it is, netfilter brings it up (RFC 5508, REQ-4)."""
    whole = bytes(INNER / (TCP(sport=1000, dport=80) if tcp else UDP(sport=1000, dport=80))
                  / Raw(payload))  # fmt: skip
    inner = whole[: max(28, len(whole) - cut)]
    before = error(inner)
    after = quote_readdress(before, source, service)
    assert after[40:44] == source
    assert ones_sum(after[20:]) == ones_sum(after[28:48]) == 0xFFFF
    field = 48 + (16 if tcp else 6)
    if len(before) < field + 4:
        return
    if service:
        assert after[field : field + 2] == before[field : field + 2]
    elif len(inner) == len(whole):
        pseudo = after[40:48] + bytes((0, 6 if tcp else 17)) + (len(whole) - 20).to_bytes(2, "big")
        assert ones_sum(pseudo + after[48:]) == 0xFFFF
