"""scapy packets in, scapy packets out: lengths and checksums come out right.

python examples/scapy_in_and_out.py
"""

from collections.abc import Iterable, Iterator

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

import lvscore

# Without link addresses scapy would ask the network for them.
ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


def translate(engine: lvscore.Engine, packets: Iterable[Packet]) -> Iterator[Packet]:
    """Yield what leaves the engine for each packet that it sends on."""
    for packet in packets:
        frame = bytearray(bytes(packet))
        verdict = engine.process(frame, int(packet.time * 1_000_000_000))
        if verdict in (lvscore.Verdict.FORWARD, lvscore.Verdict.PASS):
            translated = packet.__class__(bytes(frame))
            translated.time = packet.time
            yield translated


def main() -> None:
    engine = lvscore.Engine(seed=0)
    engine.add_service("udp", "172.16.1.100:53", scheduler="sh").add_server("172.16.1.7:5353")
    engine.add_service("tcp", "[2001:db8::1]:80").add_server("[2001:db8:1::7]:8080")
    client, server = "10.0.0.9", "172.16.1.7"
    packets = [
        ETHER / IP(src=client, dst="172.16.1.100") / UDP(sport=4000, dport=53) / Raw(b"ask"),
        ETHER / IP(src=server, dst=client) / UDP(sport=5353, dport=4000) / Raw(b"answer"),
        ETHER / IPv6(src="2001:db8:a::9", dst="2001:db8::1") / TCP(sport=4000, dport=80),
    ]
    for before, after in zip(packets, translate(engine, packets), strict=True):
        print(before.summary(), "\n    ->", after.summary())
        rebuilt = after.__class__(bytes(after))
        del rebuilt.payload.payload.chksum  # let scapy compute it, to compare
        computed = after.__class__(bytes(rebuilt)).payload.payload.chksum
        print(f"    checksum {after.payload.payload.chksum:#06x}, scapy says {computed:#06x}")


if __name__ == "__main__":
    main()
