"""The networks that the recordings were made in, built on a Host.

A recording names neighbours, not link addresses; here each has one. Link addresses of the
director's own interfaces are those of the recordings, since its ARP requests carry them.
"""

from dataclasses import dataclass, field
from ipaddress import ip_address

import lvscore

MACS = {"cli": "02:00:00:00:10:01", "srv": "02:00:00:00:11:01"}
SIDES = {"cli": "client", "srv": "server"}

_SERVERS = {f"rs{n}": (f"172.16.1.{n}", f"2001:db8:1::{n}") for n in range(7, 16)}
# The recordings call the last one by another name where it has its IPv6 address.
_SERVERS |= {"rs16": ("172.16.1.16",), "rs166": ("2001:db8:1::16",)}
_VIPS = [f"172.16.1.{n}/32" for n in (100, 101, 102)] + ["2001:db8::1/128", "2001:db8::2/128"]


@dataclass(frozen=True)
class Topology:
    """Interfaces with their addresses, neighbours and routes."""

    interfaces: dict[str, list[str]]
    neighbours: dict[str, dict[str, tuple[str, ...]]]  # interface -> name -> addresses
    routes: list[tuple[str, str]] = field(default_factory=list)  # prefix, gateway


def _behind(router: tuple[str, str]) -> list[tuple[str, str]]:
    return [
        ("10.0.0.0/24", router[0]),
        ("default", router[0]),
        ("2001:db8:a::/64", router[1]),
        ("::/0", router[1]),
    ]


TOPOLOGIES = {
    "two-arm": Topology(
        {
            "cli": ["172.16.0.3/24", "2001:db8:c::3/64"],
            "srv": ["172.16.1.3/24", "2001:db8:1::3/64", *_VIPS],
        },
        {"cli": {"router": ("172.16.0.1", "2001:db8:c::1")}, "srv": _SERVERS},
        _behind(("172.16.0.1", "2001:db8:c::1")),
    ),
    "one-arm": Topology(
        {"srv": ["172.16.1.3/24", "2001:db8:1::3/64", *_VIPS]},
        {"srv": {"router": ("172.16.1.200", "2001:db8:1::200"), **_SERVERS}},
        _behind(("172.16.1.200", "2001:db8:1::200")),
    ),
    "route-node": Topology(
        {
            "cli": ["10.0.0.200/24", "2001:db8:a::200/64"],
            "srv": ["172.16.1.200/24", "2001:db8:1::200/64"],
        },
        {
            "cli": {f"c{n}": (f"10.0.0.{n}", f"2001:db8:a::{n}") for n in range(1, 10)},
            "srv": {"director": ("172.16.1.100",), **_SERVERS},
        },
    ),
}


class Network:
    """A Host in its topology, and the names of what surrounds it."""

    def __init__(self, name: str, seed: int = 0) -> None:
        if name not in TOPOLOGIES:
            raise AssertionError(f"unknown topology {name!r}")
        self.topology = TOPOLOGIES[name]
        self.engine = lvscore.Engine(max_connections=65536, seed=seed)
        self.host = lvscore.Host(self.engine)
        self.names: dict[str, str] = {}  # link address -> neighbour
        self.macs: dict[str, str] = {}
        self.addresses = set()
        for interface, addresses in self.topology.interfaces.items():
            self.host.add_interface(interface, addresses=addresses, mtu=1500, mac=MACS[interface])
            self.addresses |= {ip_address(text.split("/")[0]) for text in addresses}
        for interface, neighbours in self.topology.neighbours.items():
            for name_, known in neighbours.items():
                mac = f"02:00:00:00:20:{len(self.names) + 1:02x}"
                self.names[mac] = name_
                self.macs[name_] = mac
                for address in known:
                    self.host.add_neighbour(address, mac, interface)
        for prefix, gateway in self.topology.routes:
            self.host.add_route(prefix, via=gateway)
        # The recordings' own settings: a router, without limits on its ICMP.
        self.host.sysctl["net.ipv4.ip_forward"] = 1
        self.host.sysctl["net.ipv6.conf.all.forwarding"] = 1

    def interface(self, side: str) -> str:
        """The interface on a side; a director with one arm has both sides on it."""
        name = {"client": "cli", "server": "srv"}[side]
        return name if name in self.topology.interfaces else "srv"

    def neighbour(self, interface: str, packet: bytes, name: str | None) -> str:
        """The link address of who sends a packet: the one named, else who has its source."""
        neighbours = self.topology.neighbours[interface]
        if name is None:
            source = _source(packet)
            name = next(
                (n for n, known in neighbours.items() if source in map(ip_address, known)),
                next(iter(neighbours)),
            )
        return self.macs[name]

    def frame(self, side: str, packet: bytes, sender: str | None) -> tuple[str, bytes]:
        """The interface on which, and the Ethernet frame in which a packet comes in."""
        interface = self.interface(side)
        version = packet[0] >> 4 if packet else 4
        header = _mac(MACS[interface]) + _mac(self.neighbour(interface, packet, sender))
        return interface, header + (b"\x86\xdd" if version == 6 else b"\x08\x00") + packet

    def emitted(self, interface: str, frame: bytes) -> list[str]:
        """What came out, as a recording has it: side, next hop, packet in hexadecimal."""
        mac = ":".join(f"{byte:02x}" for byte in frame[:6])
        hop = "ARP" if frame[12:14] == b"\x08\x06" else self.names.get(mac, mac)
        side = "client" if hop == "router" else SIDES[interface]  # a single arm has both
        return [side, hop, frame[14:].hex()]


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _source(packet: bytes) -> object:
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        return ip_address(packet[12:16])
    if len(packet) >= 40 and packet[0] >> 4 == 6:
        return ip_address(packet[8:24])
    return None
