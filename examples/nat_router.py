"""DNAT and SNAT without load balancing: the router in front of the LVS lab.

python examples/nat_router.py
"""

from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

import lvscore

router = lvscore.Engine(seed=0)
# iptables -t nat -A PREROUTING -d 10.0.0.200 -p tcp --dport 2222 -j DNAT --to 172.16.1.7:22
router.add_dnat("172.16.1.7:22", destination="10.0.0.200", protocol="tcp", destination_ports=2222)
# iptables -t nat -A PREROUTING -d 10.0.0.200 -j DNAT --to 172.16.1.100
router.add_dnat("172.16.1.100", destination="10.0.0.200")
# iptables -t nat -A POSTROUTING -s 172.16.1.0/24 -j SNAT --to 10.0.0.200
router.iptables("-t nat -A POSTROUTING -s 172.16.1.0/24 -j SNAT --to 10.0.0.200")


def show(packet: Packet, now: int) -> None:
    """Send a packet through the router and print it before and after."""
    frame = bytearray(bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / packet))
    before = Ether(bytes(frame))[IP].summary()
    verdict = router.process(frame, now)
    print(f"{before}\n    -> {Ether(bytes(frame))[IP].summary()}   {verdict.name}")


def main() -> None:
    web = TCP(sport=40000, dport=80, flags="S")
    show(IP(src="10.0.0.100", dst="10.0.0.200") / web, 1)
    answer = TCP(sport=80, dport=40000, flags="SA")
    show(IP(src="172.16.1.100", dst="10.0.0.100") / answer, 2)
    show(IP(src="10.0.0.100", dst="10.0.0.200") / TCP(sport=40001, dport=2222, flags="S"), 3)
    # Two hosts that use the same port: the second gets another one.
    for host in ("172.16.1.7", "172.16.1.8"):
        show(IP(src=host, dst="198.51.100.1") / TCP(sport=5000, dport=443, flags="S"), 4)
    show(IP(src="172.16.1.8", dst="198.51.100.1") / ICMP(id=7, seq=1), 5)
    for connection in router.connections:
        print(f"{connection.protocol:5} {connection.client} -> {connection.virtual}"
              f"  becomes  {connection.local} -> {connection.server}")  # fmt: skip


if __name__ == "__main__":
    main()
