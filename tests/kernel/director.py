"""What runs on the emulated machine: the director of a scenario, and the wire around it.

It reads scenarios from the first disk and writes what came of them to the second.

Ports that the kernel draws by lot are not those that lvscore drew when a scenario was made: where a
step tells what lvscore made of it ("expected"), the ports in all that follows are exchanged.
"""

import ctypes
import json
import os
import socket
import struct
import subprocess
import time
import traceback

from lots import Lots

MACS = {"cli": "02:00:00:00:10:01", "srv": "02:00:00:00:11:01"}
SIDES = {"cli": "client", "srv": "server"}
SERVERS = {f"rs{n}": (f"172.16.1.{n}", f"2001:db8:1::{n}") for n in range(7, 16)}
SERVERS |= {"rs16": ("172.16.1.16",), "rs166": ("2001:db8:1::16",)}
VIPS = [f"172.16.1.{n}/32" for n in (100, 101, 102)] + ["2001:db8::1/128", "2001:db8::2/128"]
DIRECTOR = ["172.16.1.3/24", "2001:db8:1::3/64", *VIPS]
CLIENTS = {f"c{n}": (f"10.0.0.{n}", f"2001:db8:a::{n}") for n in range(1, 10)}
TOPOLOGIES = {  # interfaces, neighbours, router
    "two-arm": (
        {"cli": ["172.16.0.3/24", "2001:db8:c::3/64"], "srv": DIRECTOR},
        {"cli": {"router": ("172.16.0.1", "2001:db8:c::1")}, "srv": SERVERS},
    ),
    "one-arm": (
        {"srv": DIRECTOR},
        {"srv": {"router": ("172.16.1.200", "2001:db8:1::200"), **SERVERS}},
    ),
    "route-node": (
        {
            "cli": ["10.0.0.200/24", "2001:db8:a::200/64"],
            "srv": ["172.16.1.200/24", "2001:db8:1::200/64"],
        },
        {"cli": CLIENTS, "srv": {"director": ("172.16.1.100",), **SERVERS}},
    ),
}
SETTINGS = (
    "net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0 "
    "net.ipv6.conf.all.accept_dad=0 net.ipv4.icmp_ratemask=0 net.ipv4.conf.all.rp_filter=0 "
    "net.ipv4.conf.default.rp_filter=0 net.ipv6.icmp.ratelimit=0"
)
LISTS = {
    "Ln": "ipvsadm -Ln",
    "Lnc": "ipvsadm -Lnc",
    "stats": "ipvsadm -Ln --stats --exact",
    "rate": "ipvsadm -Ln --rate --exact",
    "Sn": "ipvsadm -Sn",
    "thresholds": "ipvsadm -Ln --thresholds",
    "persistent": "ipvsadm -Ln --persistent-conn",
    "timeout": "ipvsadm -Ln --timeout",
    "vs": "cat /proc/net/ip_vs",
    "vs_conn": "cat /proc/net/ip_vs_conn",
    "vs_stats": "cat /proc/net/ip_vs_stats",
    "conntrack": "conntrack -L 2>/dev/null",
}
OF_THE_MACHINE = ("net.netfilter.nf_conntrack_max",)  # read-only in other namespaces
NEWNET = 0x40000000
IPV4, IPV6, ARP = b"\x08\x00", b"\x86\xdd", b"\x08\x06"
SETTLE = 0.0008  # s, until what a packet causes has come out
libc = ctypes.CDLL(None, use_errno=True)


def shell(line, text=""):
    return subprocess.run(line, shell=True, capture_output=True, text=True, input=text)


def do(line):
    done = shell(line)
    if done.returncode:
        print(f"{line}: {done.stderr}")


def namespace():
    """A new network namespace, entered; a descriptor of it."""
    if libc.unshare(NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    do("ip link set lo up")
    return os.open("/proc/self/ns/net", os.O_RDONLY)


def enter(descriptor):
    if libc.setns(descriptor, NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def jiffies():
    with open("/proc/timer_list") as text:
        return next(int(line.split()[1]) for line in text if line.startswith("jiffies:"))


class Network:
    """The director in a namespace, and sockets at the other ends of its wires in another."""

    def __init__(self, name):
        self.interfaces, self.neighbours = TOPOLOGIES[name]
        self.names, self.macs, self.sockets = {}, {}, {}
        self.wire = namespace()
        do("sysctl -w net.ipv6.conf.default.disable_ipv6=1")
        self.director = namespace()
        do(f"sysctl -w {SETTINGS}")
        for interface in self.interfaces:
            self.connect(interface)
        enter(self.director)
        for interface, addresses in self.interfaces.items():
            for address in addresses:
                do(f"ip addr add {address} dev {interface}" + " nodad" * (":" in address))
            for neighbour, known in self.neighbours[interface].items():
                mac = f"02:00:00:00:20:{len(self.names) + 1:02x}"
                self.names[mac], self.macs[neighbour] = neighbour, mac
                for address in known:
                    do(f"ip neigh replace {address} lladdr {mac} dev {interface} nud permanent")
        for known in self.neighbours.values():
            if "router" in known:
                four, six = known["router"]
                do(f"ip route add default via {four}; ip route add 10.0.0.0/24 via {four}")
                do(f"ip -6 route add default via {six}; ip -6 route add 2001:db8:a::/64 via {six}")
        time.sleep(3)  # what IPv6 says of itself
        self.collect()

    def connect(self, interface):
        plain = "rx off tx off sg off tso off gso off gro off"
        other = f"w{interface}"
        do(f"ip link add {interface} address {MACS[interface]} type veth peer name {other}")
        do(f"ip link set {other} netns /proc/{os.getpid()}/fd/{self.wire}")
        shell(f"ethtool -K {interface} {plain}")
        do(f"ip link set {interface} up")
        enter(self.wire)
        shell(f"ethtool -K {other} {plain}")
        do(f"ip link set {other} up promisc on")
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        wire.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        wire.bind((other, 3))
        wire.setblocking(False)
        self.sockets[interface] = wire
        enter(self.director)

    def send(self, side, packet, sender):
        interface = {"client": "cli", "server": "srv"}[side]
        if interface not in self.interfaces:
            interface = "srv"
        known = self.neighbours[interface]
        six = packet[:1] != b"" and packet[0] >> 4 == 6
        if sender is None:
            source = None
            if six and len(packet) >= 40:
                source = socket.inet_ntop(socket.AF_INET6, packet[8:24])
            elif len(packet) >= 20:
                source = socket.inet_ntop(socket.AF_INET, packet[12:16])
            sender = next((n for n, own in known.items() if source in own), next(iter(known)))
        macs = bytes.fromhex((MACS[interface] + self.macs[sender]).replace(":", ""))
        self.sockets[interface].send(macs + (IPV6 if six else IPV4) + packet)

    def collect(self):
        """What came out: side, next hop, packet."""
        out = []
        for interface, wire in self.sockets.items():
            while True:
                try:
                    frame, address = wire.recvfrom(65536)
                except BlockingIOError:
                    break
                kind = frame[12:14]
                if (address[2] == socket.PACKET_OUTGOING or kind not in (IPV4, IPV6, ARP)
                        or (kind == IPV6 and is_chatter(frame[14:]))):  # fmt: skip
                    continue
                mac = ":".join(f"{byte:02x}" for byte in frame[:6])
                hop = "ARP" if kind == ARP else self.names.get(mac, mac)
                out.append(
                    ["client" if hop == "router" else SIDES[interface], hop, frame[14:].hex()]
                )
        return out

    def close(self):
        for wire in self.sockets.values():
            wire.close()
        os.close(self.wire)
        os.close(self.director)


def is_chatter(packet):
    """Neighbour discovery and multicast listeners."""
    header, rest = packet[6], packet[40:]
    if header == 0:
        header, rest = rest[0], rest[8:]
    return header == 58 and (130 <= rest[0] <= 137 or rest[0] == 143)


def perform(network, lots, step, now):
    """Do a step; what is recorded of it."""
    if "in" in step:
        time.sleep(step.get("gap", 0))
        packet = lots.outgoing(step["hex"])
        done = {"t": now(), **{k: step[k] for k in ("in", "hex", "from", "note") if k in step}}
        network.collect()
        network.send(step["in"], bytes.fromhex(packet), step.get("from"))
        time.sleep(SETTLE)
        out = network.collect()
        if "expected" in step and out:
            lots.learn(bytes.fromhex(packet), out[0][2], step["expected"])
        return {**done, "hex": packet, "out": out}
    if "show" in step:
        done = {"t": now(), "show": step["show"]}
        for kind in step.get("what") or [k for k in step if k in LISTS]:
            text = shell(LISTS[kind]).stdout
            if kind == "Lnc":
                lines = text.splitlines(keepends=True)
                text = "".join(lines[:2] + sorted(lines[2:]))
            done[kind] = text
        return done
    if "cmd" in step:
        done = {"t": now(), **{k: step[k] for k in ("cmd", "stdin") if k in step}}
        result = shell(step["cmd"], step.get("stdin", ""))
        done["rc"] = result.returncode
        done |= {"stdout": result.stdout} if result.stdout else {}
        done |= {"stderr": result.stderr} if result.stderr else {}
    elif "sleep" in step:
        done = {"t": now(), "sleep": step["sleep"]}
        time.sleep(step["sleep"])
    else:
        return dict(step)
    out = network.collect()
    return {**done, "out": out} if out else done


def configure(network, settings):
    """Set sysctls; what to do to undo those of the whole machine."""
    undo = []
    first = os.open("/proc/1/ns/net", os.O_RDONLY)
    for key, value in settings.items():
        key = key if "/" in key else key.replace(".", "/")
        if key.replace("/", ".") in OF_THE_MACHINE:
            enter(first)
            undo.append(f"sysctl -w {key}={shell(f'sysctl -n {key}').stdout}")
        do(f"sysctl -w {key}={value}")
        enter(network.director)
    os.close(first)
    return undo


def record(scenario):
    for module in scenario.get("modules") or ():
        do(f"modprobe {module}")
    network = Network(scenario.get("topology") or "two-arm")
    shell("ipvsadm -L")
    undo = configure(network, scenario.get("sysctl") or {})
    for line in scenario.get("setup") or ():
        do(line)
    before = jiffies()
    while (begun := jiffies()) == before:
        pass
    start = time.monotonic()
    lots = Lots({socket.inet_aton(address) for address in scenario.get("lots") or ()})
    steps = [
        perform(network, lots, step, lambda: int((time.monotonic() - start) * 1000))
        for step in scenario["steps"]
    ]
    network.close()
    with open("/proc/1/ns/net") as first:
        enter(first.fileno())
    for line in undo:
        do(line)
    return {**scenario, "jiffies": begun, "steps": steps}


def main():
    first = os.open("/proc/self/ns/net", os.O_RDONLY)
    with open("/dev/vda", "rb") as disk:
        group = json.loads(disk.read(struct.unpack(">Q", disk.read(8))[0]))
    done = []
    for scenario in group["scenarios"]:
        try:
            done.append(record(scenario))
        except Exception:
            print(f"{scenario['name']}:")
            traceback.print_exc()
        enter(first)
        for module in scenario.get("modules") or ():
            shell(f"rmmod {module}")
        time.sleep(2)
    version = {"kernel": f"{os.uname().release} {os.uname().version}"}
    version["ipvsadm"] = shell("ipvsadm -v").stdout.strip()
    blob = json.dumps({**group, **version, "scenarios": done}).encode()
    with open("/dev/vdb", "wb") as disk:
        disk.write(struct.pack(">Q", len(blob)) + blob)
        disk.flush()
        os.fsync(disk.fileno())


if __name__ == "__main__":
    main()
