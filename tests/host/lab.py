"""A director with two arms, and packets for it."""

from ipaddress import ip_address

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

import lvscore

SECOND = 1_000_000_000
ROUTER, SERVER, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:07", "02:00:00:00:00:08"
CLI, SRV = "02:00:00:00:10:01", "02:00:00:00:11:01"
VIP, DIP, CLIENT = "172.16.1.100", "172.16.1.3", "10.0.0.1"


def director(**settings):
    """A Host that forwards, with a service on its VIP; settings are names of sysctls."""
    host = lvscore.Host(lvscore.Engine(seed=0))
    host.add_interface("cli", addresses=["172.16.0.3/24", "2001:db8:c::3/64"], mac=CLI)
    host.add_interface(
        "srv", addresses=[f"{DIP}/24", f"{VIP}/32", "2001:db8:1::3/64", "2001:db8::1/128"], mac=SRV
    )
    host.add_route("default", via="172.16.0.1")
    host.add_route("2001:db8:a::/64", via="2001:db8:c::1")
    for address in ("172.16.0.1", "2001:db8:c::1"):
        host.add_neighbour(address, ROUTER, "cli")
    for n, mac in ((7, SERVER), (8, OTHER)):
        host.add_neighbour(f"172.16.1.{n}", mac, "srv")
        host.add_neighbour(f"2001:db8:1::{n}", mac, "srv")
    host.sysctl["net.ipv4.ip_forward"] = 1
    host.sysctl["net.ipv6.conf.all.forwarding"] = 1
    host.engine.add_service("tcp", f"{VIP}:80", scheduler="rr").add_server("172.16.1.7:8080")
    return host


def frame(packet, interface="cli", sender=ROUTER):
    """A frame of a scapy packet for an interface of the director."""
    return bytes(Ether(dst=CLI if interface == "cli" else SRV, src=sender) / packet)


def request(ttl=64, size=0, port=40000, flags="S", fragment="DF", destination=VIP):
    """A client's segment for the service."""
    return (
        IP(src=CLIENT, dst=destination, ttl=ttl, flags=fragment, id=7)
        / TCP(sport=port, dport=80, flags=flags, seq=1000)
        / (b"x" * size)
    )


def reply(ttl=64, size=0, flags="SA", server="172.16.1.7", port=40000):
    """The server's answer."""
    return (
        IP(src=server, dst=CLIENT, ttl=ttl, flags="DF", id=7)
        / TCP(sport=8080, dport=port, flags=flags, seq=5000, ack=1001)
        / (b"x" * size)
    )


def datagram(source=CLIENT, destination=VIP, port=53, **fields):
    return IP(src=source, dst=destination, **fields) / UDP(sport=40000, dport=port) / b"data"


def address(text):
    return ip_address(text)
