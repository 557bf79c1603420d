"""Seeded traffic, made by NumPy: TCP between clients and one service, checksums right."""

from pathlib import Path

import numpy as np

CHUNK = 1 << 18


def fold(total):
    """One's complement sums to 16 bits (RFC 1071)."""
    for _ in range(2):
        total = (total & 0xFFFF) + (total >> 16)
    return total


SERVERS = 64


def frames(
    flows, size=64, *, flags=0x10, reply=False, service=0, servers=SERVERS, sequence=0,
    acknowledgment=0,
):  # fmt: skip
    """An array of (len(flows), size) bytes: Ethernet, IPv4, TCP; ``flows`` numbers the clients.

    A request goes to port 80 of 10.0.0.1, or of the address so many after it as ``service`` says;
    where ``reply`` is true, the frame is the answer of real server ``flow % servers``,
    192.168.0.1 and following, port 8080.
    """
    count = len(flows)
    reply = np.broadcast_to(reply, count)
    out = np.zeros((count, size), np.uint8)
    words = out.view(">u2")
    out[:, :12] = 2
    words[:, 6] = 0x0800
    words[:, 7] = 0x4500
    words[:, 8] = size - 14
    words[:, 10] = 0x4000
    words[:, 11] = 64 << 8 | 6
    client, port = 0x0B000000 + flows // 50_000, 1024 + flows % 50_000
    source = np.where(reply, 0xC0A80001 + flows % servers, client)
    destination = np.where(reply, client, 0x0A000001 + service)
    words[:, 13], words[:, 14] = source >> 16, source & 0xFFFF
    words[:, 15], words[:, 16] = destination >> 16, destination & 0xFFFF
    words[:, 17], words[:, 18] = np.where(reply, 8080, port), np.where(reply, port, 80)
    words[:, 19:21] = np.stack(np.divmod(sequence, 0x10000), -1)
    words[:, 21:23] = np.stack(np.divmod(acknowledgment, 0x10000), -1)
    words[:, 23], words[:, 24] = 0x5000 | flags, 0xFFFF
    sums = words.astype(np.uint32)
    words[:, 12] = 0xFFFF - fold(sums[:, 7:17].sum(1))
    words[:, 25] = 0xFFFF - fold(sums[:, 13:].sum(1) + 6 + size - 34)
    return out


def handshake(flows, make=frames, size=54, **kind):
    """The frames of a handshake for each flow, as arrays to be sent one after the other."""
    for flags, reply, sequence, acknowledgment in (
        (0x02, False, 0, 0), (0x12, True, 0, 1), (0x10, False, 1, 1),
    ):  # fmt: skip
        yield make(
            flows, size, flags=flags, reply=reply, sequence=sequence,
            acknowledgment=acknowledgment, **kind,
        )  # fmt: skip


def handshake6(flows):
    """The same over IPv6."""
    return handshake(flows, frames6, 74)


def conversation(flows, size=64, *, reply, **kind):
    """Yield the frames of these flows, and again, without end, as segments that follow a handshake:
    each goes on where its sender stopped, and acknowledges what has come from the other side."""
    order = np.argsort(flows, kind="stable")
    ordered, answers = flows[order], reply[order]
    first = np.searchsorted(ordered, ordered)
    # By the frame's sender (0: the client) and by the other: segments of the flow before this one,
    # and in all.
    earlier = np.empty((2, len(flows)), np.int64)
    total = np.empty((2, len(flows)), np.int64)
    for k, chosen in enumerate((~answers, answers)):
        count = np.cumsum(chosen) - chosen
        earlier[k, order] = count - count[first]
        total[k] = np.bincount(flows, reply == k)[flows]
    sender = reply.astype(int), np.arange(len(flows))
    other = 1 - sender[0], sender[1]
    while True:
        segments = 1 + earlier * (size - 54)
        yield frames(
            flows, size, reply=reply, sequence=segments[sender], acknowledgment=segments[other],
            **kind,
        )  # fmt: skip
        earlier += total


def frames6(flows, size=84, *, flags=0x10, reply=False, sequence=0, acknowledgment=0):
    """The same over IPv6: requests from 2001:db8:f:: and following to [2001:db8::1]:80, answers of
    2001:db8:1::1 and following, port 8080."""
    count = len(flows)
    reply = np.broadcast_to(reply, count)
    out = np.zeros((count, size), np.uint8)
    words = out.view(">u2")
    out[:, :12] = 2
    words[:, 6], words[:, 7] = 0x86DD, 0x6000
    words[:, 9], words[:, 10] = size - 54, 6 << 8 | 64
    client, port = np.zeros((count, 8), np.uint16), 1024 + flows % 50_000
    client[:, :3] = 0x2001, 0xDB8, 0xF
    client[:, 7] = flows // 50_000
    server = np.zeros((count, 8), np.uint16)
    server[:, :3] = 0x2001, 0xDB8, 1
    server[:, 7] = flows % SERVERS + 1
    virtual = np.array([0x2001, 0xDB8, 0, 0, 0, 0, 0, 1], np.uint16)
    words[:, 11:19] = np.where(reply[:, None], server, client)
    words[:, 19:27] = np.where(reply[:, None], client, virtual)
    words[:, 27], words[:, 28] = np.where(reply, 8080, port), np.where(reply, port, 80)
    words[:, 29:31] = np.stack(np.divmod(sequence, 0x10000), -1)
    words[:, 31:33] = np.stack(np.divmod(acknowledgment, 0x10000), -1)
    words[:, 33], words[:, 34] = 0x5000 | flags, 0xFFFF
    sums = words.astype(np.uint32)
    words[:, 35] = 0xFFFF - fold(sums[:, 11:].sum(1) + 6 + size - 54)
    return out


def write_pcap(path, parts):
    """Write a pcap of these arrays of frames, a microsecond apart; the number of frames."""
    time = 0
    with Path(path).open("wb") as file:
        file.write(np.array([0xA1B2C3D4, 4 << 16 | 2, 0, 0, 65535, 1], "<u4").tobytes())
        for part in parts:
            count, size = part.shape
            times = time + np.arange(count)
            records = np.empty((count, 16 + size), np.uint8)
            header = np.full((count, 4), size, "<u4")
            header[:, 0], header[:, 1] = 1_700_000_000 + times // 10**6, times % 10**6
            records[:, :16] = header.view(np.uint8)
            records[:, 16:] = part
            file.write(records.tobytes())
            time += count
    return time


def pcap(path, count, *, flows=100_000, size=64, flags=0x10, seed=1):
    """Write a pcap of ``count`` frames of random flows, a microsecond apart."""
    random = np.random.default_rng(seed)
    write_pcap(
        path,
        (
            frames(random.integers(0, flows, min(CHUNK, count - start)), size, flags=flags)
            for start in range(0, count, CHUNK)
        ),
    )
    return Path(path)
