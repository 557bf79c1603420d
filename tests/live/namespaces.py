"""The lab of LVS-NAT in network namespaces, with real programs on its nodes.

::

    client 10.0.0.100 -- 10.0.0.200 route 172.16.1.200 --+
                                                         | LAN 172.16.1.0/24
    director: port without kernel addresses -------------+
    rs01 172.16.1.7, rs02 172.16.1.8, gateway 172.16.1.3 +
"""

import hashlib
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from ipaddress import ip_address
from itertools import count
from pathlib import Path

VIP, VIP6 = "172.16.1.100", "2001:db8:1::100"
CLIENT, CLIENT6 = "10.0.0.100", "2001:db8:0::100"
RS01, RS02, RS01_6, RS02_6 = "172.16.1.7", "172.16.1.8", "2001:db8:1::7", "2001:db8:1::8"
PAGES = {"rs01": "Web Page RS-Node1\n", "rs02": "Web Page RS-Node2\n"}
LVS = ["--interface", "eth1=172.16.1.3/24", "--interface", f"eth1={VIP}/32",
       "--interface", "eth1=2001:db8:1::3/64", "--interface", f"eth1={VIP6}/128",
       "--route", "default=172.16.1.200", "--route", "2001:db8::/64=2001:db8:1::200"]  # fmt: skip
"""The director's addresses and routes."""
_NODES = ("lan", "client", "route", "director", "rs01", "rs02")
_PORTS = (("client", "eth0"), ("route", "eth1"), ("director", "eth1"), ("rs01", "eth1"),
          ("rs02", "eth1"))  # fmt: skip
_OPEN_FILES = 16384
_NUMBER = count()


def services(protocol: str = "t", port: int = 80) -> list[str]:
    """Options of ``lvscore run``: round robin over both servers, in both families."""
    commands = [
        line
        for vip, servers in ((VIP, (RS01, RS02)), (f"[{VIP6}]", (f"[{RS01_6}]", f"[{RS02_6}]")))
        for line in (
            f"-A -{protocol} {vip}:{port} -s rr",
            *(f"-a -{protocol} {vip}:{port} -r {server}:{port} -m" for server in servers),
        )
    ]
    return [word for command in commands for word in ("--ipvsadm", command)]


def missing(*programs: str) -> str:
    """Why there can be no lab here, or nothing."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    for program in ("ip", "nginx", "curl", "ethtool", "ping", *programs):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return ""


class Lab:
    """Client, route, LAN and two web servers; close() removes all of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.control = str(folder / "director.sock")
        self._prefix = f"lvl{os.getpid()}-{next(_NUMBER)}-"
        self.web: dict[str, subprocess.Popen] = {}
        self._started: list[subprocess.Popen] = []
        self._director: subprocess.Popen | None = None
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def run(self, node: str, *command: str, check: bool = True, timeout: float = 30) -> str:
        """What a command prints that runs on a node."""
        done = subprocess.run(
            ["ip", "netns", "exec", self._prefix + node, *command],
            capture_output=True, text=True, timeout=timeout, preexec_fn=_many_files,
        )  # fmt: skip
        if check and done.returncode:
            raise RuntimeError(f"{node}: {' '.join(command)}: {done.stderr or done.stdout}")
        return done.stdout

    def start(self, node: str, *command: str, output: bool = False) -> subprocess.Popen:
        """A program that goes on running on a node until close(); ``output``: its own is read."""
        started = subprocess.Popen(
            ["ip", "netns", "exec", self._prefix + node, *command],
            stdout=subprocess.PIPE if output else subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True, preexec_fn=_many_files,
        )  # fmt: skip
        self._started.append(started)
        return started

    def director(self, *options: str, node: str = "director") -> subprocess.Popen:
        """``lvscore run`` on a node, ready; ``said`` is what it has told by then. One that another
        test has left there is gone."""
        if self._director is not None and self._director.poll() is None:
            self._director.kill()
            self._director.wait()
        self._director = program = self.start(
            node, sys.executable, "-m", "lvscore", "run", "--control", self.control, *options
        )
        said = ""
        while "running on" not in said:
            line = program.stderr.readline()
            said += line
            if not line:
                raise RuntimeError(f"lvscore run: {said}")
        program.said = said
        return program

    def stop(self, program: subprocess.Popen) -> int:
        """End a program by SIGTERM; its status."""
        program.send_signal(signal.SIGTERM)
        return program.wait(10)

    def curl(self, url: str, *options: str, node: str = "client") -> str:
        """What curl gets, or why it gets nothing."""
        return self.run(
            node, "curl", "-sS", "--stderr", "-", "-m", "20", *options, url, check=False, timeout=60
        )

    def ask(self, *words: str) -> str:
        """What a program prints that asks the running director."""
        return self.run(
            "client", sys.executable, "-m", "lvscore", *words, "--control", self.control
        )

    def processes(self) -> list[int]:
        """All that run on the nodes."""
        listed = [
            subprocess.run(["ip", "netns", "pids", self._prefix + node], capture_output=True,
                           text=True, check=True).stdout.split()
            for node in _NODES
        ]  # fmt: skip
        return [int(process) for node in listed for process in node]

    def mac(self, node: str, interface: str) -> str:
        """The link address of an interface."""
        return self.run(node, "cat", f"/sys/class/net/{interface}/address").strip()

    def reset(self) -> None:
        """Let no node remember what it has learned of MTUs and neighbours."""
        for node in ("client", "route", "rs01", "rs02"):
            for family in ("-4", "-6"):
                self.run(node, "ip", family, "route", "flush", "cache")
                self.run(node, "ip", family, "neigh", "flush", "all")

    @contextmanager
    def recorded(self, folder: Path):
        """tcpdump on every node's port meanwhile: the captures."""
        files = [folder / f"{node}.pcap" for node, _ in _PORTS]
        programs = [
            self.start(
                node, "tcpdump", "-Z", "root", "-B", "65536", "--immediate-mode", "-Uni", interface,
                "-w", str(file),
            )
            for (node, interface), file in zip(_PORTS, files, strict=True)
        ]  # fmt: skip
        for program in programs:
            while "listening" not in program.stderr.readline():
                assert program.poll() is None
        yield files
        time.sleep(0.3)  # the last frames are on their way to the files
        for program in programs:
            program.send_signal(signal.SIGINT)
            program.wait(10)

    def close(self) -> None:
        for program in reversed(self._started):
            if program.poll() is None:
                program.terminate()
                try:
                    program.wait(5)
                except subprocess.TimeoutExpired:
                    program.kill()
                    program.wait()
            for pipe in (program.stdout, program.stderr):
                if pipe is not None:
                    pipe.close()
        for node in _NODES:
            subprocess.run(
                ["ip", "netns", "del", self._prefix + node], capture_output=True, check=False
            )

    def _build(self) -> None:
        for node in _NODES:
            subprocess.run(["ip", "netns", "add", self._prefix + node], check=True)
            self._ip(node, "link set lo up")
        self._ip("lan", "link add br0 type bridge")
        self._ip("lan", "link set br0 up")
        for node in ("route", "director", "rs01", "rs02"):
            self._ip(
                "lan", f"link add p-{node} type veth peer name eth1 netns {self._prefix}{node}"
            )
            self._ip("lan", f"link set p-{node} master br0 up")
            if node == "director":  # no address of the kernel's own
                self.run(node, "sysctl", "-qw", "net.ipv6.conf.eth1.disable_ipv6=1")
            self._ip(node, "link set eth1 up")
        self._ip("client", f"link add eth0 type veth peer name eth0 netns {self._prefix}route")
        for node, interface, addresses in (
            ("client", "eth0", ("10.0.0.100/24", "2001:db8:0::100/64")),
            ("route", "eth0", ("10.0.0.200/24", "2001:db8:0::200/64")),
            ("route", "eth1", ("172.16.1.200/24", "2001:db8:1::200/64")),
            ("rs01", "eth1", ("172.16.1.7/24", "2001:db8:1::7/64")),
            ("rs02", "eth1", ("172.16.1.8/24", "2001:db8:1::8/64")),
        ):
            self._ip(node, f"link set {interface} up")
            for address in addresses:
                self._ip(node, f"addr add {address} dev {interface}"
                         + (" nodad" if ":" in address else ""))  # fmt: skip
        self._ip("client", "route add default via 10.0.0.200")
        self._ip("client", "-6 route add default via 2001:db8:0::200")
        for node, page in PAGES.items():
            self._ip(node, "route add default via 172.16.1.3")
            self._ip(node, "-6 route add default via 2001:db8:1::3")
            self.serve(node, page)
        for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            self.run("route", "sysctl", "-qw", f"{name}=1")

    def _ip(self, node: str, command: str) -> None:
        self.run(node, "ip", *command.split())

    def serve(self, node: str, page: str) -> None:
        """nginx on a node, with one page, unless it is there."""
        if node in self.web and self.web[node].poll() is None:
            return
        root = self.folder / node
        root.mkdir(exist_ok=True)
        (root / "index.html").write_text(page)
        self.folder.chmod(0o755)
        (root / "nginx.conf").write_text(
            f"""
            daemon off; worker_processes 1; user root; pid {root}/pid; error_log {root}/log warn;
            worker_rlimit_nofile {_OPEN_FILES}; events {{ worker_connections {_OPEN_FILES}; }}
            http {{
                client_max_body_size 0; dav_methods PUT; keepalive_requests 1000000;
                access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;
                fastcgi_temp_path {root}/fastcgi; uwsgi_temp_path {root}/uwsgi;
                scgi_temp_path {root}/scgi;
                server {{ listen 80 backlog=4096; listen [::]:80 backlog=4096;
                    server_name lvs.birenchong.cn; root {root}; }}
            }}
            """
        )
        self.run(node, "sysctl", "-qw", "net.core.somaxconn=4096")
        self.web[node] = self.start(
            node, "nginx", "-p", str(root), "-e", f"{root}/log", "-c", f"{root}/nginx.conf"
        )
        for _ in range(100):
            if page in self.curl("http://127.0.0.1/", node=node):
                return
            time.sleep(0.05)
        raise RuntimeError(f"nginx does not answer on {node}: {(root / 'log').read_text()}")


class Download:
    """A download by the client that has begun, and stands still until the rest is asked for."""

    def __init__(self, lab: Lab, url: str) -> None:
        self._client = lab.start("client", "curl", "-sS", "-m", "30", url, output=True)
        self._pipe = self._client.stdout.fileno()
        self._hash = hashlib.sha256(self._read(1000))

    def rest(self) -> str:
        """SHA-256 of the whole."""
        while data := self._read(1 << 20):
            self._hash.update(data)
        assert self._client.wait(10) == 0, self._client.stderr.read()
        return self._hash.hexdigest()

    def _read(self, size: int) -> bytes:
        ready, _, _ = select.select([self._pipe], [], [], 31)
        assert ready, "curl does not end"
        return os.read(self._pipe, size)


def in_namespace(lab, node, text):
    """What a piece of Python prints on a node."""
    return lab.run(node, sys.executable, "-c", f"import lvscore\n{text}").strip()


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def wrong_checksums(capture: Path, finished_by: str = "") -> list[str]:
    """Frames of a capture with a checksum that is neither right nor, for the receiver's kernel to
    finish, the pseudo-header's; frames from the link address ``finished_by`` have to be finished.
    """
    fields = ["frame.number", "eth.src", "ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "tcp.checksum",
              "udp.checksum", "tcp.len", "tcp.hdr_len", "udp.length"]  # fmt: skip
    wrong = (
        "ip.checksum.status == 0 or icmp.checksum.status == 0 or icmpv6.checksum.status == 0 or "
        "not icmp and not icmpv6 and (tcp.checksum.status == 0 or udp.checksum.status == 0) "
        "and not tcp.checksum.ffff"  # which is 0 to a receiver; the kernel writes it
    )
    words = [word for field in fields for word in ("-e", field)]
    words += [
        word for name in ("ip", "tcp", "udp") for word in ("-o", f"{name}.check_checksum:TRUE")
    ]
    found = []
    for line in _tshark(capture, wrong, "-T", "fields", *words):
        _number, mac, *rest = line.split("\t")
        if mac == finished_by or not _is_partial(*rest):
            found.append(line)
    return found


def _is_partial(
    source: str, destination: str, source6: str, destination6: str, tcp: str, udp: str,
    length: str, header: str, datagram: str,
) -> bool:  # fmt: skip
    """Whether a checksum is that of the pseudo-header."""
    if not tcp + udp:
        return False
    protocol, size = (6, int(length) + int(header)) if tcp else (17, int(datagram))
    addresses = (
        ip_address(source or source6).packed + ip_address(destination or destination6).packed
    )
    words = range(0, len(addresses), 2)
    total = protocol + size + sum(int.from_bytes(addresses[at : at + 2], "big") for at in words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total == int(tcp or udp, 16)


def frames_of(capture: Path, shown: str) -> int:
    """How many frames of a capture match a display filter of tshark's."""
    return len(_tshark(capture, shown))


def _tshark(capture: Path, shown: str, *words: str) -> list[str]:
    done = subprocess.run(
        ["tshark", "-nr", str(capture), "-Y", shown, *words],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


def _many_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
