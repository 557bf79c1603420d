"""Super-frames that cannot be left to an interface: cut, as the sender would have cut them."""

import pytest
from fast_path import leaving, one_by_one
from hypothesis import given
from hypothesis import strategies as st
from lab import CLI, ROUTER, SERVER, VIP, director, frame, reply, request
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether

import lvscore
from lvscore import _engine
from lvscore._probe_frame import vnet_header_before

SEGMENT = 1000


def rebuilt(packet):
    """With lengths and checksums made anew."""
    return type(packet)(bytes(packet))


def cut(packet, size):
    """The segments of a packet, by scapy."""
    layer = TCP if TCP in packet else UDP
    payload = bytes(packet[layer].payload)
    for start in range(0, len(payload), size):
        one = packet.copy()
        one[layer].remove_payload()
        one = one / payload[start : start + size]
        last = start + size >= len(payload)
        if layer is TCP:
            one[TCP].seq = (packet[TCP].seq + start) % 2**32
            one[TCP].flags = (
                int(packet[TCP].flags) & ~(0 if last else 0x09) & ~(0x80 if start else 0)
            )
            one[TCP].chksum = None
        else:
            one[UDP].len = one[UDP].chksum = None
        if IP in one:
            one[IP].id = (packet[IP].id + start // size) % 2**16
            one[IP].len = one[IP].chksum = None
        else:
            one[IPv6].plen = None
        yield bytes(one)


@given(
    st.sampled_from([IP(src="10.0.0.1", dst="10.0.0.2", id=65530), IPv6(src="::1", dst="::2")]),
    st.sampled_from([
        TCP(sport=1, dport=2, seq=2**32 - 100, flags="PAFC", options=[("Timestamp", (1, 2))]),
        TCP(sport=1, dport=2, flags="A"), UDP(sport=1, dport=2),
    ]),
    st.booleans(),
    st.binary(min_size=1, max_size=5000),
    st.integers(1, 1500),
)  # fmt: skip
def test_segments(network, transport, tagged, payload, size):
    link = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    packet = (link / Dot1Q(vlan=7) if tagged else link) / network / transport / payload
    packet = rebuilt(packet)
    assert _engine.host_segments(bytearray(bytes(packet)), size) == list(cut(packet, size))


def test_what_is_no_super_frame_has_no_segments():
    whole = Ether() / IP(src="10.0.0.1", dst="10.0.0.2") / TCP(flags="A") / bytes(2000)
    for wrong in (
        bytes(whole)[:1000], bytes(Ether() / IP(proto=47) / bytes(2000)), b"", bytes(14),
        bytes(Ether() / IP(src="10.0.0.1", dst="10.0.0.2") / TCP(flags="A")),
    ):  # fmt: skip
        assert _engine.host_segments(bytearray(wrong), 500) == []
    assert _engine.host_segments(bytearray(bytes(whole)), 0) == []


def arrives(host, name, data):
    """What leaves when a super-frame comes in whose checksum is partial."""
    header = bytes([1, 1]) + b"".join(n.to_bytes(2, "little") for n in (54, SEGMENT, 34, 16))
    batch = lvscore.FrameBatch(bytearray(header + data), [10], [len(data)], [10])
    vnet_header_before(batch)
    return leaving(host, batch, name, 10)


def partial(packet):
    """With the sum of the pseudo-header alone where the checksum is."""
    packet = rebuilt(packet)
    ends = bytes(packet[IP])[12:20]
    total = sum(int.from_bytes(ends[i : i + 2], "big") for i in range(0, 8, 2))
    total += 6 + packet[IP].len - 20
    packet[TCP].chksum = (total & 0xFFFF) + (total >> 16)
    return bytes(packet)


def both_ways(make, before, name, packet, mac, after=(), change=None):
    """What comes of a super-frame, which is the same as of its segments one by one."""
    hosts = make(), make()
    for host in hosts:
        one_by_one(host, before)
        if change:
            change(host)
    whole, unfinished = frame(packet, name, mac), frame(IP(partial(packet)), name, mac)
    cuts = list(cut(Ether(whole), SEGMENT))
    assert len(cuts) > 2
    out = arrives(hosts[0], name, unfinished)
    one = [sent for data in cuts for sent in hosts[1].receive(name, data, 10)]
    for interface, data in after:
        out += hosts[0].receive(interface, data, 20)
        one += hosts[1].receive(interface, data, 20)
    assert out == one
    return out


def test_it_waits_for_a_link_address_in_segments():
    def forgetful():
        host = director()
        host.remove_neighbour("172.16.0.1", "cli")
        return host

    answer = Ether(dst=CLI, src=ROUTER) / ARP(
        op=2, hwsrc=ROUTER, psrc="172.16.0.1", hwdst=CLI, pdst="172.16.0.3"
    )
    out = both_ways(
        forgetful, [("cli", frame(request()))], "srv", reply(flags="PA", size=4500), SERVER,
        after=[("cli", bytes(answer))],
    )  # fmt: skip
    assert [name for name, _ in out] == ["cli"] * 6  # a question, and five segments


def test_its_sender_is_told_of_a_nearer_way_once():
    def made():
        host = director()
        host.add_route("10.9.0.0/16", via="172.16.1.8")
        return host

    packet = IP(src="172.16.1.7", dst="10.9.0.1", id=1) / TCP(flags="A") / bytes(3500)
    whole, unfinished = frame(packet, "srv", SERVER), frame(IP(partial(packet)), "srv", SERVER)
    out = arrives(made(), "srv", unfinished)
    redirects = [data for _, data in out if data[23] == 1]
    assert len(redirects) == 1
    one = made()
    expected = [
        sent for data in cut(Ether(whole), SEGMENT) for sent in one.receive("srv", data, 10)
    ]
    assert [sent for sent in out if sent[1][23] != 1] == [
        sent for sent in expected if sent[1][23] != 1
    ]


@pytest.mark.parametrize("method", ["tunnel", "masquerade"])
def test_a_tunnel_takes_segments(method):
    """Also when the server has another method by now, which its connections do not get."""

    def tunnelling():
        host = director()
        service = host.engine.add_service("tcp", f"{VIP}:81", scheduler="rr")
        service.add_server("172.16.1.8:81", method="tunnel")
        return host

    packet = request(flags="PA", size=4500)
    packet[TCP].dport = 81
    opening = request()
    opening[TCP].dport = 81

    def change(host):
        [server] = host.engine.find_service("tcp", f"{VIP}:81").servers
        server.edit(method=method)

    out = both_ways(tunnelling, [("cli", frame(opening))], "cli", packet, ROUTER, change=change)
    assert [len(data) for _, data in out] == [14 + 20 + 40 + 1000] * 4 + [14 + 20 + 40 + 500]


def test_a_closed_port_is_told_once():
    out = arrives(director(), "cli", frame(
        IP(partial(IP(src="10.0.0.1", dst=VIP) / TCP(dport=99, flags="A") / bytes(3000)))
    ))  # fmt: skip
    assert [Ether(data)[TCP].flags for _, data in out] == ["R"]
