"""The end-to-end tests that IPVS has in the kernel's tree, of direct routing, masquerading and
tunnelling, with lvscore as the director.

::

    client br0 10.0.0.2 --+-- 10.0.0.1 wan  director  172.16.0.1 lan --+
                          |                                            |
                          +-- 10.0.0.3 wan  server    172.16.0.2 lan --+

The client knows the VIP behind 10.0.0.1. The server answers it by its own port to the client's
bridge, if it has one. `ipvsadm` is a symbolic link to lvscore's program. What is sent is longer
than in the kernel's tests, so that segments fill the MTU (of the tunnel, too).
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from namespaces import missing

_WHY = missing("socat")
pytestmark = pytest.mark.skipif(bool(_WHY), reason=_WHY or "complete")

VIP = "207.175.44.110"
SERVICE, SERVER = f"{VIP}:8080", "172.16.0.2:8080"
LVSCORE = Path(sys.executable).parent / "lvscore"
DECAPSULATE = """
import fcntl, socket, struct
device = open("/dev/net/tun", "r+b", buffering=0)
fcntl.ioctl(device, 0x400454CA, struct.pack("16sH22x", b"tunnel", 0x1001))  # TUNSETIFF: TUN, NO_PI
outer = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IPIP)
print("ready", flush=True)
while True:
    packet = outer.recv(65535)
    device.write(packet[(packet[0] & 15) * 4 :])
"""
"""IPIP's far end, for kernels that have none."""


class Selftest:
    """Client, director and server; close() removes them."""

    def __init__(self, folder: Path) -> None:
        self._prefix = f"lvt{os.getpid()}-"
        self._programs: list[subprocess.Popen] = []
        self._environment = os.environ | {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "LVSCORE_CONTROL": str(folder / "director.sock"),
        }
        (folder / "ipvsadm").symlink_to(LVSCORE)
        self._folder = folder
        for node in ("client", "director", "server"):
            subprocess.run(["ip", "netns", "add", self._prefix + node], check=True)

    def __call__(self, node: str, line: str) -> str:
        """What a command prints on a node."""
        done = subprocess.run(
            self._on(node, line), capture_output=True, text=True, timeout=20,
            env=self._environment, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}: {done.stderr}"
        return done.stdout

    def build(self) -> None:
        """Wires and addresses."""
        director, server = self._prefix + "director", self._prefix + "server"
        self("client", "ip link add br0 type bridge")
        self("client", f"ip link add p0 type veth peer name wan netns {director}")
        self("client", f"ip link add p1 type veth peer name wan netns {server}")
        self("director", f"ip link add lan type veth peer name lan netns {server}")
        for port in ("p0", "p1"):
            self("client", f"ip link set {port} master br0 up")
        self("client", "ip link set br0 up")
        self("client", "ip addr add 10.0.0.2/24 dev br0")
        for port in ("wan", "lan"):
            self("director", f"sysctl -qw net.ipv6.conf.{port}.disable_ipv6=1")
            for node in ("director", "server"):
                self(node, f"ip link set {port} up")
        self("server", "ip addr add 172.16.0.2/24 dev lan")
        self("server", "ip addr add 10.0.0.3/24 dev wan")
        self("server", "ip link set lo up")
        self("client", f"ip route add {VIP} via 10.0.0.1 dev br0")

    def start(self, node: str, *command: str, **options: object) -> subprocess.Popen:
        program = subprocess.Popen(
            [*self._on(node, ""), *command], text=True, env=self._environment,
            stderr=subprocess.PIPE, **options,
        )  # fmt: skip
        self._programs.append(program)
        return program

    def direct(self, forwarding: int = 1) -> None:
        """Start the director; it has no service yet."""
        path = self._folder / "director.toml"
        path.write_text(
            f'[interface.wan]\naddress = ["10.0.0.1/24", "{VIP}/32"]\n'
            '[interface.lan]\naddress = ["172.16.0.1/24"]\n'
            f"[sysctl]\nnet.ipv4.ip_forward = {forwarding}\n"
        )
        control = self._environment["LVSCORE_CONTROL"]
        program = self.start("director", str(LVSCORE), "run", "-c", str(path), "--control", control)
        line = program.stderr.readline()
        assert "running on" in line, line

    def own_the_vip(self) -> None:
        """Let the server take packets for the VIP, and tell nobody of it."""
        for setting in ("all.arp_ignore=1", "all.arp_announce=2", "all.rp_filter=0",
                        "lan.rp_filter=0"):  # fmt: skip
            self("server", f"sysctl -qw net.ipv4.conf.{setting}")
        self("server", f"ip addr add {VIP}/32 dev lo")

    def decapsulate(self) -> None:
        """Let the server take what comes in IPIP."""
        # It is read from a raw socket, which does not say that a checksum is not finished yet.
        self("director", "ethtool -K lan tx off")
        far_end = self.start("server", sys.executable, "-c", DECAPSULATE, stdout=subprocess.PIPE)
        assert far_end.stdout.readline() == "ready\n"
        self("server", "ip link set tunnel up")
        self("server", "sysctl -qw net.ipv4.conf.tunnel.rp_filter=0")

    def exchange(self) -> None:
        """What the client sends to the VIP arrives at the server, and its answer at the client."""
        sent, answer = self._folder / "sent", self._folder / "answer"
        sent.write_bytes(os.urandom(1 << 20))
        answer.write_bytes(os.urandom(1 << 20))
        arrived, returned = self._folder / "arrived", self._folder / "returned"
        server = self.start(
            "server", "socat", "-t5", "TCP4-LISTEN:8080,reuseaddr",
            f"OPEN:{answer},rdonly!!CREATE:{arrived}",
        )  # fmt: skip
        for _ in range(100):
            if ":8080" in self("server", "ss -Htln"):
                break
            time.sleep(0.02)
        self("client", f"timeout 10 socat -t5 OPEN:{sent},rdonly!!CREATE:{returned} TCP:{SERVICE}")
        assert server.wait(10) == 0, server.stderr.read()
        assert arrived.read_bytes() == sent.read_bytes()
        assert returned.read_bytes() == answer.read_bytes()

    def close(self) -> None:
        for program in self._programs:
            if program.poll() is None:
                program.terminate()
                program.wait(10)
            for pipe in (program.stdout, program.stderr):
                if pipe is not None:
                    pipe.close()
        for node in ("client", "director", "server"):
            subprocess.run(["ip", "netns", "del", self._prefix + node], check=False)

    def _on(self, node: str, line: str) -> list[str]:
        return ["ip", "netns", "exec", self._prefix + node, *line.split()]


@pytest.fixture
def net(tmp_path):
    net = Selftest(tmp_path)
    try:
        net.build()
        yield net
    finally:
        net.close()


def test_direct_routing(net):
    net.direct()
    net("director", f"ipvsadm -A -t {SERVICE} -s rr")
    net("director", f"ipvsadm -a -t {SERVICE} -r {SERVER}")
    net.own_the_vip()
    net.exchange()
    assert f"-> {SERVER}              Route   1      0          1" in net("director", "ipvsadm -Ln")


def test_masquerading(net):
    net.direct()
    net("director", f"ipvsadm -A -t {SERVICE} -s rr")
    net("director", f"ipvsadm -a -m -t {SERVICE} -r {SERVER}")
    net("server", "ip link del wan")
    net("server", "ip route add default via 172.16.0.1 dev lan")
    net.exchange()
    assert f"-> {SERVER}              Masq    1      0          1" in net("director", "ipvsadm -Ln")


def test_tunnelling(net):
    net.direct(forwarding=0)
    net("director", f"ipvsadm -A -t {SERVICE} -s rr")
    net("director", f"ipvsadm -a -i -t {SERVICE} -r {SERVER}")
    net.own_the_vip()
    net.decapsulate()
    net.exchange()
    assert f"-> {SERVER}              Tunnel  1      0          1" in net("director", "ipvsadm -Ln")
