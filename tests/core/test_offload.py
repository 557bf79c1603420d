"""What is undone of frames of which nobody tells."""

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether

from lvscore._probe_frame import offloads_guessed


def pseudo_sum(packet):
    """The sum of a pseudo-header, which is what a sender leaves where the checksum is to be."""
    transport = packet[TCP] if TCP in packet else packet[UDP]
    length, protocol = len(transport), 6 if TCP in packet else 17
    ip = bytes(packet[1])
    ends = ip[12:20] if IP in packet else ip[8:40]
    total = sum(int.from_bytes(ends[i : i + 2], "big") for i in range(0, len(ends), 2))
    total += length + protocol
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@given(
    st.sampled_from([IP(src="10.0.0.1", dst="10.0.0.2"), IPv6(src="2001:db8::1", dst="::2")]),
    st.sampled_from([TCP, UDP]),
    st.binary(max_size=200),
)
def test_a_checksum_that_is_the_sum_of_the_pseudo_header_is_partial(network, transport, payload):
    packet = Ether(bytes(Ether() / network / transport(sport=1, dport=2) / payload))
    whole = bytes(packet)
    header, done = offloads_guessed(whole)
    if packet[transport].chksum != pseudo_sum(packet):
        assert header == bytes(10)
    assert done == whole
    packet[transport].chksum = pseudo_sum(packet)
    header, done = offloads_guessed(bytes(packet))
    start = 14 + (20 if IP in packet else 40)
    field = 16 if transport is TCP else 6
    assert header == bytes([1, 0, 0, 0, 0, 0, start, 0, field, 0])
    assert done == whole


def test_all_else_is_left_alone():
    udp = Ether() / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(chksum=0) / b"data"
    fragment = Ether() / IP(src="10.0.0.1", dst="10.0.0.2", frag=1) / TCP()
    for frame in (udp, fragment, Ether() / IP() / ICMP(), Ether() / ARP(), Ether() / IP(), Ether()):
        assert offloads_guessed(bytes(frame)) == (bytes(10), bytes(frame))
    for length in range(60):
        cut = bytes(Ether() / IP() / TCP())[:length]
        assert offloads_guessed(cut) == (bytes(10), cut)
