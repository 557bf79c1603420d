"""The LVS-NAT lab in memory: client, route node, director and two real servers. No root needed.

                10.0.0.0/24                          172.16.1.0/24
    client ------------------- route ------------------+--------+--------+
    10.0.0.100    10.0.0.200 | 172.16.1.200        director   rs01     rs02
                                                  .3, VIP .100  .7       .8

The director is an Engine with a round robin service, the route node an Engine with a DNAT and
an SNAT rule. The client's TCP conversations are real, packet by packet; every link's frames
are written to a pcap file.

    python examples/lvs_nat_lab.py [DIRECTORY FOR THE CAPTURES]
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

import lvscore

CLIENT, ROUTE_OUT, ROUTE_IN = "10.0.0.100", "10.0.0.200", "172.16.1.200"
VIP, DIP, RS01, RS02 = "172.16.1.100", "172.16.1.3", "172.16.1.7", "172.16.1.8"
PAGES = {RS01: b"Web Page RS-Node1\n", RS02: b"Web Page RS-Node2\n"}
MAC = {name: f"02:00:00:00:00:{i:02x}" for i, name in enumerate(
    ("client", "route-out", "route-in", "director", "rs01", "rs02"), 1)}  # fmt: skip

# Where a node sends a packet: who has the address, or its gateway. The real servers' gateway
# is the director, as LVS-NAT needs; the director's gateway is the route node.
NEXT_HOP = {
    "client": lambda destination: "route",
    "route": lambda destination: "client" if destination == CLIENT else "director",
    "director": lambda destination: {RS01: "rs01", RS02: "rs02"}.get(destination, "route"),
    "rs01": lambda destination: "director",
    "rs02": lambda destination: "director",
}


def director() -> lvscore.Engine:
    """The seed's director; of two servers the one added last answers first, as in the kernel."""
    engine = lvscore.Engine(seed=0)
    engine.ipvsadm(f"-A -t {VIP}:80 -s rr")
    engine.ipvsadm(f"-a -t {VIP}:80 -r {RS01}:80 -m")
    engine.ipvsadm(f"-a -t {VIP}:80 -r {RS02}:80 -m")
    return engine


def route_node() -> lvscore.Engine:
    """The seed's route node: the VIP behind its public address, and shared internet access."""
    engine = lvscore.Engine(seed=0)
    engine.iptables(f"-t nat -A PREROUTING -d {ROUTE_OUT} -j DNAT --to {VIP}")
    engine.iptables(f"-t nat -A POSTROUTING -s 172.16.1.0/24 -j SNAT --to {ROUTE_OUT}")
    return engine


@dataclass
class Lab:
    """Carries frames from node to node, each through its engine, and records every link."""

    captures: dict[str, lvscore.PcapWriter]
    engines: dict[str, lvscore.Engine] = field(
        default_factory=lambda: {"director": director(), "route": route_node()}
    )
    now: int = 1_700_000_000_000_000_000
    hops: list[tuple[str, str, str, str, str]] = field(default_factory=list)

    def send(self, node: str, packet: Packet) -> tuple[str, Packet]:
        """Bring ``packet`` from ``node`` to its receiver, hop by hop; receiver and packet."""
        frame = bytearray(bytes(Ether() / packet))
        while True:
            following = NEXT_HOP[node](Ether(bytes(frame))[IP].dst)
            frame = self.cross(node, following, frame)
            engine = self.engines.get(following)
            if engine is None:
                return following, Ether(bytes(frame))[IP]
            verdict = engine.process(frame, self.now)
            if verdict is not lvscore.Verdict.FORWARD:
                raise SystemExit(f"{following}: {verdict.name} ({engine.last_reason.name})")
            node = following

    def cross(self, node: str, following: str, frame: bytearray) -> bytearray:
        """Put a frame on the wire: an engine leaves MAC addresses and TTL to its host."""
        outside = "client" in (node, following)
        source = f"route-{'out' if outside else 'in'}" if node == "route" else node
        target = f"route-{'out' if outside else 'in'}" if following == "route" else following
        frame[:12] = bytes.fromhex((MAC[target] + MAC[source]).replace(":", ""))
        self.now += 50_000
        packet = Ether(bytes(frame))
        for end in {source, target} - ({"route-out"} if outside else set()):
            self.captures[end].write(bytes(frame), self.now)
        self.hops.append(
            (
                node,
                following,
                f"{packet[IP].src}:{packet[TCP].sport}",
                f"{packet[IP].dst}:{packet[TCP].dport}",
                describe(packet[TCP]),
            )
        )
        return frame


def describe(segment: TCP) -> str:
    """``SYN``, ``ACK``, or the first line of what is carried."""
    names = {"S": "SYN", "SA": "SYN+ACK", "A": "ACK", "FA": "FIN+ACK"}
    data = bytes(segment.payload)
    return data.split(b"\r\n")[0].decode() if data else names[str(segment.flags)]


def real_server(address: str) -> Iterator[Packet | None]:
    """A web server's side of one connection: takes a segment, gives its answer."""
    segment = yield None
    seq = 5000
    while True:
        answer = IP(src=address, dst=segment[IP].src) / TCP(
            sport=segment[TCP].dport, dport=segment[TCP].sport, window=64240
        )
        data = bytes(segment[TCP].payload)
        answer[TCP].ack = segment[TCP].seq + len(data) + (1 if segment[TCP].flags & 3 else 0)
        answer[TCP].seq = seq
        if segment[TCP].flags.S:
            answer[TCP].flags = "SA"
        elif data:
            page = PAGES[address]
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(page)}\r\n\r\n".encode()
            answer = answer / Raw(head + page)
            answer[TCP].flags = "PA"
        elif segment[TCP].flags.F:
            answer[TCP].flags = "FA"
        else:
            segment = yield None
            continue
        seq += len(answer[TCP].payload) + (1 if answer[TCP].flags & 3 else 0)
        segment = yield answer


def curl(lab: Lab, address: str, port: int) -> str:
    """Fetch http://address/ as curl does: handshake, request, response, close."""
    servers = {"rs01": real_server(RS01), "rs02": real_server(RS02)}
    for server in servers.values():
        next(server)
    request = b"GET / HTTP/1.1\r\nHost: lvs.birenchong.cn\r\nUser-Agent: lab\r\n\r\n"
    seq, ack, page = 1000, 0, b""
    none = b""
    for flags, data in zip(
        ("S", "A", "PA", "A", "FA", "A"), (none, none, request, none, none, none), strict=True
    ):
        segment = IP(src=CLIENT, dst=address) / TCP(
            sport=port, dport=80, flags=flags, seq=seq, ack=ack, window=64240
        )
        node, arrived = lab.send("client", segment / Raw(data) if data else segment)
        seq += len(data) + (1 if segment[TCP].flags & 3 else 0)
        answer = servers[node].send(arrived)
        if answer is None:
            continue
        node, reply = lab.send(node, answer)
        if (reply[IP].src, reply[TCP].dport) != (address, port):
            raise SystemExit(f"the answer came from {reply[IP].src}, not {address}")
        page += bytes(reply[TCP].payload)
        ack = reply[TCP].seq + len(reply[TCP].payload) + (1 if reply[TCP].flags & 3 else 0)
    return page.partition(b"\r\n\r\n")[2].decode().strip()


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    console = Console(width=110)
    ends = ("client", "route-in", "director", "rs01", "rs02")
    captures = {end: lvscore.create_pcap(directory / f"{end}.pcap") for end in ends}
    lab = Lab(captures)
    port = 40000
    try:
        for title, address in (("the VIP itself", VIP), ("the route node", ROUTE_OUT)):
            for attempt in range(4):
                lab.hops.clear()
                page = curl(lab, address, port)
                port += 1
                if attempt == 0:
                    table = Table(title=f"One conversation with {title}, hop by hop")
                    for column in ("from", "to", "source", "destination", "what"):
                        table.add_column(column, no_wrap=True)
                    for hop in lab.hops:
                        table.add_row(*hop)
                    console.print(table)
                print(f"[root@client ~]# curl -HHost:lvs.birenchong.cn http://{address}\n{page}")
    finally:
        for capture in captures.values():
            capture.close()
    print("\nThe server that was added last (RS-Node2) answers first, as in the kernel.")
    print(f"\n[root@lb01 ~]# ipvsadm -L -n\n{lab.engines['director'].ipvsadm('-L -n')}")
    print("Captures, one for each link:", *(f"{directory / end}.pcap" for end in ends))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/lab"))
