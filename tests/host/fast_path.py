"""What leaves a Host in batches, and one by one: where the fast path might tell them apart."""

import numpy as np
from lab import ROUTER, SERVER, frame
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6

import lvscore
from lvscore import Verdict
from lvscore._probe_frame import vnet_header_before


def framed(arrivals):
    """(interface, frame) of each (interface, packet), from the station that is on that wire."""
    senders = {"cli": ROUTER, "srv": SERVER}
    return [(name, frame(packet, name, senders[name])) for name, packet in arrivals]


def generally(host):
    """The host, whose packets take the slow path: table mangle has to see them all."""
    host.engine.iptables("-t mangle -A PREROUTING -s 1.2.3.4 -j MARK --set-mark 1")
    return host


def seven_at_a_time(number):
    """The nanosecond in which an arrival comes."""
    return number // 7


def one_by_one(host, arrivals, when=seven_at_a_time):
    """What (interface, frame) each lead to by Host.receive; ``when``: at what time, by number."""
    out = []
    for number, (interface, data) in enumerate(arrivals):
        out += host.receive(interface, data, when(number))
    return out


def leaving(host, batch, interface, now):
    """What a batch leads to, as Host.receive tells it."""
    out = []
    names = {host.number(name): name for name in host.interfaces}
    for start, end, others in host.receive_batch(interface, batch, now):
        for k in range(start, end):
            if batch.verdict[k] == Verdict.FORWARD:
                out.append((names[int(batch.egress[k])], bytes(batch[k])))
        out += others
    return out


def forwarding(host, batch, interface, now):
    """The same where the Host itself lets frames be sent on."""
    out = []
    names = {host.number(name): name for name in host.interfaces}

    def send(part, start, end, number):
        assert part is batch
        assert any(part.egress[start:end] == number)
        out.extend(
            (k, names[number], bytes(part[k]))
            for k in range(start, end)
            if part.verdict[k] == Verdict.FORWARD and part.egress[k] == number
        )

    left = []
    for others in host.forward_batch(
        host.number(interface), batch, now, dict.fromkeys(names, send)
    ):
        left += [(name, data) for _, name, data in sorted(out)] + others
        out.clear()
    return left + [(name, data) for _, name, data in sorted(out)]


def batched(host, arrivals, leaving, when=seven_at_a_time):
    """Frames of one interface that follow each other are a batch."""
    out, start = [], 0
    for end in range(1, len(arrivals) + 1):
        if end == len(arrivals) or arrivals[end][0] != arrivals[start][0]:
            batch = lvscore.FrameBatch.of(
                [data for _, data in arrivals[start:end]], [when(n) for n in range(start, end)]
            )
            # Host.receive_batch takes the latest time first: these are all before a second.
            out += leaving(host, batch, arrivals[start][0], when(start))
            start = end
    return out


def known(host):
    """What a host and its engine have counted."""
    return host.engine.counters, host.engine.reasons


def both(make, arrivals, when=seven_at_a_time):
    """What leaves the hosts that ``make`` makes, which must be the same in all ways; and the host
    of the batches."""
    single, whole = generally(make()), make()
    expected = one_by_one(single, arrivals, when)
    assert one_by_one(make(), arrivals, when) == expected
    assert batched(make(), arrivals, forwarding, when) == expected
    assert batched(whole, arrivals, leaving, when) == expected
    assert known(single) == known(whole)
    assert np.array_equal(
        np.sort(single.engine.connections.snapshot()), np.sort(whole.engine.connections.snapshot())
    )
    servers = [[s.statistics for s in v.servers] for v in single.engine.services]
    assert servers == [[s.statistics for s in v.servers] for v in whole.engine.services]
    return expected, whole


def partial(packet):
    """The segment with a checksum that is left to the interface: the pseudo-header's sum."""
    packet = packet.__class__(bytes(packet))
    addresses = bytes(packet)[12:20] if IP in packet else bytes(packet)[8:40]
    total = sum(int.from_bytes(addresses[n : n + 2], "big") for n in range(0, len(addresses), 2))
    total += 6 + (packet.len - 20 if IP in packet else packet.plen)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    packet[TCP].chksum = total
    return packet


def offloaded(host, name, packet, segment, left, now):
    """What a segment leads to behind a virtio_net_hdr, and what became of its frame.

    Args:
        segment: payload of the segments that it is to be cut into, 0: it is one.
        left: its checksum is; without that nothing is cut.
    """
    version = 6 if IPv6 in packet else 4
    ip_length = 40 if version == 6 else 20
    kind = (4 if version == 6 else 1) if segment and left else 0  # VIRTIO_NET_HDR_GSO_TCPV6, V4
    header = bytes([left, kind]) + b"".join(
        value.to_bytes(2, "little")
        for value in (34 + ip_length, segment if kind else 0, 14 + ip_length, 16)
    )
    [(_, data)] = framed([(name, partial(packet) if left else packet)])
    batch = lvscore.FrameBatch(bytearray(header + data), [10], [len(data)], [now])
    vnet_header_before(batch)
    return leaving(host, batch, name, now), bytes(batch[0])
