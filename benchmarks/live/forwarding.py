"""Datagrams of one direction across two wires: a generator, a director, and a port that counts."""

import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from directors import KERNELS_MAC, TAP_MAC, kernel_threads, processor_seconds, stop

VIP, SERVERS = "198.18.1.1", ("203.0.113.7", "203.0.113.8")
FLOWS = 256
_SINK = "02:00:00:00:00:99"
_NFT = f"""
table ip director {{
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        ip daddr {VIP} udp dport 9 dnat to numgen inc mod 2 map {{
            0 : {SERVERS[0]}, 1 : {SERVERS[1]}
        }}
    }}
}}
"""


class Wire:
    """Ports ``in`` and ``out`` of a director, and their far ends elsewhere."""

    def __init__(self, folder: Path, probe: str) -> None:
        self.folder = folder
        self.probe = probe
        self._prefix = f"lvw{os.getpid()}-"
        self.program: subprocess.Popen | None = None
        for node in ("director", "far"):
            subprocess.run(["ip", "netns", "add", self._prefix + node], check=True)
        far = self._prefix + "far"
        for port in ("in", "out"):
            self.run("director", "ip", "link", "add", port, "type", "veth", "peer", "name", port,
                     "netns", far)  # fmt: skip
            for node in ("director", "far"):
                self.run(node, "sysctl", "-qw", f"net.ipv6.conf.{port}.disable_ipv6=1")
                self.run(node, "ip", "link", "set", port, "up")
        # What is translated goes to a link address of its own, which is not the far port's: its
        # kernel has nothing to do but to count.
        self.mac = self.run("director", "cat", "/sys/class/net/in/address").strip()
        for setting in ("all.rp_filter=0", "in.rp_filter=0"):
            self.run("director", "sysctl", "-qw", f"net.ipv4.conf.{setting}")

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        for node in ("director", "far"):
            subprocess.run(["ip", "netns", "del", self._prefix + node], check=False)

    @contextmanager
    def ports(self, backend: str):
        """Names of what a director works on: the ports; or, for "tap", such a device in a bridge
        with each, as a virtual machine has it."""
        if backend != "tap":
            yield "in", "out"
            return
        before, self.mac = self.mac, TAP_MAC
        for port in ("in", "out"):
            self.run("director", "ip", "link", "add", f"br-{port}", "type", "bridge")
            self.run("director", "ip", "tuntap", "add", f"tap-{port}", "mode", "tap")
            for name in (f"br-{port}", f"tap-{port}"):
                self.run("director", "sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=1")
            for name in (port, f"tap-{port}"):
                self.run("director", "ip", "link", "set", name, "master", f"br-{port}", "up")
            self.run("director", "ip", "link", "set", f"br-{port}", "up")
        self.run("director", "ip", "link", "set", "tap-in", "address", KERNELS_MAC)
        for name, mac in (("tap-in", TAP_MAC), ("out", _SINK)):  # who is asked, tells nothing
            self.run("director", "bridge", "fdb", "add", mac, "dev", name, "master", "static")
        try:
            yield "tap-in", "tap-out"
        finally:
            self.mac = before
            for port in ("in", "out"):
                for name in (f"br-{port}", f"tap-{port}"):
                    self.run("director", "ip", "link", "del", name)

    def run(self, node: str, *command: str, text: str | None = None) -> str:
        done = subprocess.run(
            self.on(node, *command), capture_output=True, text=True, input=text, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def on(self, node: str, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self._prefix + node, *command]

    def send(self, seconds: float, rate: int) -> dict[str, float]:
        """Packets sent and received, and seconds of processor time: of the director's process
        and the kernel's threads, and with the generator's."""
        self._generate(0.2, 10_000)  # so that all flows are known
        own = [] if self.program is None else [self.program.pid]
        threads = kernel_threads()
        received, used, others = (
            self._received(),
            processor_seconds(own),
            processor_seconds(threads),
        )
        sent, lasted, generator = self._generate(seconds, rate)
        time.sleep(0.1)
        used, others = processor_seconds(own) - used, processor_seconds(threads) - others
        return {
            "sent": sent, "seconds": lasted, "received": self._received() - received,
            "own": used, "all": used + others + generator,
        }  # fmt: skip

    def _generate(self, seconds: float, rate: int) -> tuple[int, float, float]:
        before = os.times()
        said = self.run("far", self.probe, "generate", "in", self.mac, str(FLOWS), VIP,
                        str(seconds), str(rate))  # fmt: skip
        after = os.times()
        used = after.children_user + after.children_system
        sent, lasted = said.split()
        return (
            int(sent), float(lasted), used - before.children_user - before.children_system
        )  # fmt: skip

    def _received(self) -> int:
        return int(self.run("far", "cat", "/sys/class/net/out/statistics/rx_packets"))


@dataclass
class Forwarder(ABC):
    name: str

    @abstractmethod
    def at_work(self, wire: Wire):
        """Let it work while the context lasts."""

    @contextmanager
    def running(self, wire: Wire, ready: str, *command: str):
        wire.program = program = subprocess.Popen(
            wire.on("director", *command), text=True, stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            line = program.stderr.readline()
            if ready not in line:
                raise RuntimeError(line)
            yield
        finally:
            wire.program = None
            if program.poll() is None:
                stop(program)
            program.stderr.close()


@dataclass
class Lvscore(Forwarder):
    backend: str = "ring"
    options: tuple[str, ...] = ()

    @contextmanager
    def at_work(self, wire):
        run = [sys.executable, "-m", "lvscore", "run", "--control", "none", "--backend",
               self.backend, *self.options]  # fmt: skip
        with wire.ports(self.backend) as (entry, way_out):
            path = self._written(wire.folder / "wire.toml", entry, way_out)
            with self.running(wire, "running on", *run, "-c", str(path)):
                yield

    def _written(self, path: Path, entry: str, way_out: str) -> Path:
        neighbours = "".join(
            f'[[neighbour]]\nto = "{server}"\nlladdr = "{_SINK}"\ndev = "{way_out}"\n'
            for server in SERVERS
        )
        path.write_text(
            f'[interface.{entry}]\naddress = ["192.0.2.1/24", "{VIP}/32"]\n'
            f'[interface.{way_out}]\naddress = ["203.0.113.1/24"]\n{neighbours}'
            f'[[route]]\nto = "198.19.0.0/16"\nvia = "192.0.2.2"\n'
            f'[[service]]\nudp-service = "{VIP}:9"\nscheduler = "rr"\n'
            + "".join(f'[[service.server]]\nreal-server = "{server}:9"\n' for server in SERVERS)
        )
        return path


@dataclass
class Probe(Forwarder):
    backend: str = "ring"

    @contextmanager
    def at_work(self, wire):
        with (
            wire.ports(self.backend) as ports,
            self.running(wire, "ready", wire.probe, "forward", self.backend, *ports, _SINK),
        ):
            yield


@dataclass
class Kernel(Forwarder):
    rules: str = ""

    @contextmanager
    def at_work(self, wire):
        wire.run("director", "ip", "addr", "add", "192.0.2.1/24", "dev", "in")
        wire.run("director", "ip", "addr", "add", "203.0.113.1/24", "dev", "out")
        for server in (*SERVERS, "203.0.113.9"):
            wire.run("director", "ip", "neigh", "replace", server, "lladdr", _SINK, "dev", "out")
        wire.run("director", "ip", "route", "add", f"{VIP}/32", "via", "203.0.113.9")
        wire.run("director", "ip", "route", "add", "198.19.0.0/16", "dev", "in")
        wire.run("director", "sysctl", "-qw", "net.ipv4.ip_forward=1")
        wire.run("director", "nft", "-f", "-", text=self.rules)
        try:
            yield
        finally:
            wire.run("director", "nft", "flush", "ruleset")
            wire.run("director", "sysctl", "-qw", "net.ipv4.ip_forward=0")
            for port in ("in", "out"):
                wire.run("director", "ip", "addr", "flush", "dev", port)
                wire.run("director", "ip", "route", "flush", "dev", port)


FORWARDERS = (
    Kernel("ip_forward"),
    Kernel("nft DNAT", rules=_NFT),
    Probe("probe ring", backend="ring"),
    Probe("probe blocks", backend="blocks"),
    Probe("probe copy", backend="copy"),
    Probe("probe xdp", backend="xdp"),
    Probe("probe tap", backend="tap"),
    Lvscore("lvscore ring"),
    Lvscore("lvscore ring, throughput", options=("--mode", "throughput")),
    Lvscore("lvscore copy", backend="copy"),
    Lvscore("lvscore xdp", backend="xdp"),
    Lvscore("lvscore tap", backend="tap"),
)
