"""The machine's own netfilter as a router in a network namespace, with raw sockets around it.

Frames go in and come out by packet sockets on the far ends of two veth pairs; the namespace in
between routes them, with the rules that iptables put there. Nothing leaves the two namespaces.
"""

import ctypes
import os
import select
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNET = 0x40000000
ETH_P_ALL = 3
PACKET_OUTGOING = 4
LINKS = {"cli": "02:00:00:00:10:01", "srv": "02:00:00:00:11:01"}
_libc = ctypes.CDLL(None, use_errno=True)


def missing() -> str:
    """Why there can be no router here, or nothing."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    for program in ("ip", "iptables"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    probe = f"lvsprobe{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True).returncode:
        return "network namespaces cannot be made here"
    try:
        ruled = subprocess.run(
            ["ip", "netns", "exec", probe, "iptables", "-t", "nat", "-A", "POSTROUTING",
             "-j", "SNAT", "--to", "1.1.1.1"], capture_output=True, text=True,
        )  # fmt: skip
        return f"no NAT in this kernel: {ruled.stderr.strip()}" if ruled.returncode else ""
    finally:
        subprocess.run(["ip", "netns", "del", probe], check=False)


@contextmanager
def inside(namespace: str):
    """Be in a network namespace, this thread alone."""
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{namespace}") as there:
        if _libc.setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        try:
            yield
        finally:
            _libc.setns(home.fileno(), CLONE_NEWNET)


class Router:
    """A router with interfaces ``cli`` and ``srv``; close() removes it."""

    def __init__(self, addresses: dict[str, str], neighbours: dict[str, dict[str, str]]) -> None:
        self.name = f"lvsr{os.getpid()}"
        self.peers = f"lvsp{os.getpid()}"
        self.sockets: dict[str, socket.socket] = {}
        try:
            self._build(addresses, neighbours)
        except BaseException:
            self.close()
            raise

    def _build(self, addresses: dict[str, str], neighbours: dict[str, dict[str, str]]) -> None:
        for namespace in (self.name, self.peers):
            subprocess.run(["ip", "netns", "add", namespace], check=True)
        for namespace in (self.name, self.peers):
            self._write(namespace, "net/ipv6/conf/all/disable_ipv6", 1)
            self._write(namespace, "net/ipv6/conf/default/disable_ipv6", 1)
        for link, mac in LINKS.items():
            self.run(f"ip link add {link} type veth peer name {link} netns {self.peers}")
            self.run(f"ip link set {link} address {mac}")
            subprocess.run(
                ["ip", "-n", self.peers, "link", "set", link, "up", "arp", "off"], check=True
            )
            self.run(f"ip link set {link} up")
            self.run(f"ip addr add {addresses[link]} dev {link}")
            for address, neighbour in neighbours[link].items():
                self.run(f"ip neigh replace {address} lladdr {neighbour} dev {link} nud permanent")
        self.run("ip link set lo up")
        for name, value in {
            "net/ipv4/ip_forward": 1,
            "net/ipv4/icmp_ratelimit": 0,
            "net/ipv4/conf/all/rp_filter": 0,
            "net/ipv4/conf/cli/rp_filter": 0,
            "net/ipv4/conf/srv/rp_filter": 0,
            "net/ipv4/conf/all/send_redirects": 0,
            "net/ipv4/conf/cli/send_redirects": 0,
            "net/ipv4/conf/srv/send_redirects": 0,
        }.items():
            self._write(self.name, name, value)
        with inside(self.peers):
            for link in LINKS:
                raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
                raw.bind((link, 0))
                self.sockets[link] = raw
        time.sleep(0.2)
        self.take(0.1)

    def _write(self, namespace: str, name: str, value: int) -> None:
        with inside(namespace):
            Path("/proc/sys", name).write_text(str(value))

    def set(self, name: str, value: int) -> None:
        """Set a sysctl of the router, named with dots."""
        self._write(self.name, name.replace(".", "/"), value)

    def run(self, line: str) -> str:
        """Run a command in the router; what it prints."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, *line.split()],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{line}: {done.stderr}")
        return done.stdout

    def receive(self, link: str, frame: bytes, expected: int) -> list[tuple[str, bytes]]:
        """Send a frame to an interface of the router; what comes out on both.

        Waits long for as many frames as are expected, and a little for more.
        """
        self.sockets[link].send(frame)
        came: list[tuple[str, bytes]] = []
        while len(came) < expected:
            late = self.take(1.0)
            if not late:
                break
            came += late
        return came + self.take(0.002)

    def take(self, patience: float) -> list[tuple[str, bytes]]:
        """What has come out: link and frame; waits for the first up to ``patience`` seconds."""
        came = []
        names = {raw: link for link, raw in self.sockets.items()}
        while True:
            ready, _, _ = select.select(list(names), [], [], 0 if came else patience)
            if not ready:
                return came
            for raw in ready:
                frame, (_, _, kind, *_) = raw.recvfrom(65535)
                if kind != PACKET_OUTGOING:
                    came.append((names[raw], frame))

    def close(self) -> None:
        """Remove the namespaces."""
        for raw in self.sockets.values():
            raw.close()
        for namespace in (self.name, self.peers):
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)
