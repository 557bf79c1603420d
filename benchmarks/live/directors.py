"""The directors between a client and two web servers, and the topology that they share."""

import signal
import subprocess
import time
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from namespaces import LVS, RS01, RS02, VIP, Lab, services

NFT = f"""
table ip director {{
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        ip daddr {VIP} tcp dport 5201 dnat to {RS01}
        ip daddr {VIP} tcp dport 80 dnat to numgen inc mod 2 map {{ 0 : {RS01}, 1 : {RS02} }}
    }}
}}
"""
HAPROXY = f"""
global
    maxconn 4096
    nbthread 2
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen web
    bind {VIP}:80
    server rs01 {RS01}:80
    server rs02 {RS02}:80
listen iperf
    bind {VIP}:5201
    server rs01 {RS01}:5201
"""
NGINX = """
daemon off; worker_processes 2; user root; pid {folder}/stream.pid; error_log {folder}/stream.log;
{module}
events {{ worker_connections 8192; }}
stream {{
    upstream web {{ server {one}:80; server {two}:80; }}
    server {{ listen {vip}:80 backlog=4096; proxy_pass web; }}
    server {{ listen {vip}:5201; proxy_pass {one}:5201; }}
}}
"""
_IPERF = ("--ipvsadm", f"-A -t {VIP}:5201 -s rr",
          "--ipvsadm", f"-a -t {VIP}:5201 -r {RS01}:5201 -m")  # fmt: skip
KERNELS_MAC, TAP_MAC = "02:00:00:00:00:01", "06:00:00:00:00:01"
"""Link addresses at both ends of a TAP device, as lvscore derives its own."""
_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


class Topology:
    """The lab of the live tests, with iperf3 on a server, and pages on both."""

    def __init__(self, folder: Path, probe: str) -> None:
        self.lab = Lab(folder)
        self.folder = folder
        self.probe = probe
        lab = self.lab
        lab.run("client", "sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65000")
        lab.run("director", "sysctl", "-qw", "net.core.somaxconn=4096")
        lab.start("rs01", "iperf3", "-s")

    def __enter__(self) -> "Topology":
        return self

    def __exit__(self, *_: object) -> None:
        self.lab.close()

    def processor_seconds(self) -> float:
        """Of all programs of the lab, and of what the kernel does by itself."""
        return processor_seconds([*self.lab.processes(), *kernel_threads()])


def kernel_threads() -> list[int]:
    """Of the kernel's work on packets that no program's time has."""
    return [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/comm")
        if _text(path).startswith(("ksoftirqd/", "napi/"))
    ]


def processor_seconds(processes: list[int]) -> float:
    """Of these that are still there."""
    return (
        sum(int((_text(Path(f"/proc/{pid}/schedstat")) or "0").split()[0]) for pid in processes)
        / 1e9
    )


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


@dataclass
class Director(ABC):
    """Between client and servers; the client asks ``host``."""

    name: str
    host: str = VIP

    @abstractmethod
    def at_work(self, topology: Topology):
        """Let it work while the context lasts."""


@dataclass
class Port:
    """What a director works on."""

    node: str
    name: str
    mac: str


@contextmanager
def port(topology: Topology, backend: str):
    """The director's port; or, for "tap", such a device in the LAN's bridge, as a virtual machine
    has it."""
    lab = topology.lab
    if backend != "tap":
        yield Port("director", "eth1", lab.mac("director", "eth1"))
        return
    lab.run("lan", "ip", "tuntap", "add", "tap0", "mode", "tap")
    lab.run("lan", "sysctl", "-qw", "net.ipv6.conf.tap0.disable_ipv6=1")
    lab.run("lan", "ip", "link", "set", "tap0", "address", KERNELS_MAC, "master", "br0", "up")
    try:
        yield Port("lan", "tap0", TAP_MAC)
    finally:
        lab.run("lan", "ip", "link", "del", "tap0")


@dataclass
class Lvscore(Director):
    backend: str = "ring"
    options: tuple[str, ...] = ()

    @contextmanager
    def at_work(self, topology):
        with port(topology, self.backend) as place:
            given = [w.replace("eth1=", f"{place.name}=") for w in (*LVS, *services(), *_IPERF)]
            program = topology.lab.director(
                *given, "--backend", self.backend, *self.options, node=place.node
            )
            try:
                yield
            finally:
                topology.lab.stop(program)


@dataclass
class Probe(Director):
    backend: str = "ring"

    @contextmanager
    def at_work(self, topology):
        with port(topology, self.backend) as place, self._at(topology, place):
            yield

    @contextmanager
    def _at(self, topology, place):
        lab = topology.lab
        macs = [lab.mac(node, "eth1") for node in ("rs01", "rs02", "route")]
        known = [("route", VIP), ("rs01", "172.16.1.3"), ("rs02", "172.16.1.3")]
        for node, address in known:
            lab.run(node, "ip", "neigh", "replace", address, "lladdr", place.mac, "dev", "eth1")
        program = lab.start(
            place.node, topology.probe, "nat", self.backend, place.name, VIP, RS01, macs[0], RS02,
            macs[1], macs[2],
        )  # fmt: skip
        assert program.stderr.readline() == "ready\n"
        try:
            yield
        finally:
            stop(program)
            for node, address in known:
                lab.run(node, "ip", "neigh", "del", address, "dev", "eth1")


@dataclass
class Kernel(Director):
    """The director's own kernel, with its addresses, and a program or rules."""

    rules: str = ""

    @contextmanager
    def at_work(self, topology):
        lab = topology.lab
        for address in ("172.16.1.3/24", f"{VIP}/32"):
            lab.run("director", "ip", "addr", "add", address, "dev", "eth1")
        lab.run("director", "ip", "route", "add", "default", "via", "172.16.1.200")
        for setting in ("ip_forward=1", "conf.all.send_redirects=0", "conf.eth1.send_redirects=0"):
            lab.run("director", "sysctl", "-qw", f"net.ipv4.{setting}")
        lab.reset()
        program = None
        try:
            program = self.begin(topology)
            yield
        finally:
            if program is not None:
                stop(program)
            lab.run("director", "nft", "flush", "ruleset")
            lab.run("director", "sysctl", "-qw", "net.ipv4.ip_forward=0")
            lab.run("director", "ip", "addr", "flush", "dev", "eth1")
            lab.reset()

    def begin(self, topology) -> subprocess.Popen | None:
        if self.rules:
            path = topology.folder / "rules.nft"
            path.write_text(self.rules)
            topology.lab.run("director", "nft", "-f", str(path))
        return None


@dataclass
class Forwarding(Kernel):
    """To one server, whose address the client asks; route sends that by the director."""

    host: str = RS01

    @contextmanager
    def at_work(self, topology):
        way = [f"{RS01}/32", "via", "172.16.1.3", "dev", "eth1"]
        topology.lab.run("route", "ip", "route", "add", *way)
        topology.lab.run("route", "sysctl", "-qw", "net.ipv4.conf.all.send_redirects=0")
        try:
            with super().at_work(topology):
                yield
        finally:
            topology.lab.run("route", "ip", "route", "del", *way)


class HAProxy(Kernel):
    def begin(self, topology):
        path = topology.folder / "haproxy.cfg"
        path.write_text(HAPROXY)
        return listening(topology, "haproxy", "-f", str(path))


class Nginx(Kernel):
    def begin(self, topology):
        path = topology.folder / "stream.conf"
        module = f"load_module {_MODULE};" if _MODULE.exists() else ""
        path.write_text(
            NGINX.format(folder=topology.folder, module=module, vip=VIP, one=RS01, two=RS02)
        )
        return listening(topology, "nginx", "-e", f"{topology.folder}/stream.log", "-c", str(path))


def listening(topology: Topology, *command: str) -> subprocess.Popen:
    """A program on the director, when it listens."""
    program = topology.lab.start("director", *command)
    for _ in range(100):
        if f"{VIP}:5201" in topology.lab.run("director", "ss", "-Htln"):
            return program
        time.sleep(0.05)
    program.kill()
    raise RuntimeError(f"{command[0]} does not listen: {program.stderr.read()}")


def stop(program: subprocess.Popen) -> None:
    program.send_signal(signal.SIGTERM)
    program.wait(10)


WEB = (
    Forwarding("ip_forward"),
    Kernel("nft DNAT", rules=NFT),
    HAProxy("HAProxy"),
    Nginx("nginx stream"),
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
