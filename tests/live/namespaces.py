"""The lab of LVS-NAT in network namespaces, with real programs on its nodes.

::

    client 10.0.0.100 -- 10.0.0.200 route 172.16.1.200 --+
                                                         | LAN 172.16.1.0/24
    director: port without kernel addresses -------------+
    rs01 172.16.1.7, rs02 172.16.1.8, gateway 172.16.1.3 +
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

VIP, VIP6 = "172.16.1.100", "2001:db8:1::100"
_NODES = ("lan", "client", "route", "director", "rs01", "rs02")


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
        self._prefix = f"lvl{os.getpid()}-"
        self._started: list[subprocess.Popen] = []
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def run(self, node: str, *command: str, check: bool = True, timeout: float = 30) -> str:
        """What a command prints that runs on a node."""
        done = subprocess.run(
            ["ip", "netns", "exec", self._prefix + node, *command],
            capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip
        if check and done.returncode:
            raise RuntimeError(f"{node}: {' '.join(command)}: {done.stderr or done.stdout}")
        return done.stdout

    def start(self, node: str, *command: str) -> subprocess.Popen:
        """A program that goes on running on a node until close()."""
        started = subprocess.Popen(
            ["ip", "netns", "exec", self._prefix + node, *command],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._started.append(started)
        return started

    def director(self, *options: str, node: str = "director") -> subprocess.Popen:
        """``lvscore run`` on a node, ready; ``said`` is what it has told by then."""
        program = self.start(
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
        return self.run(node, "curl", "-sS", "-m", "20", *options, url, check=False, timeout=60)

    def close(self) -> None:
        for program in reversed(self._started):
            if program.poll() is None:
                program.terminate()
                try:
                    program.wait(5)
                except subprocess.TimeoutExpired:
                    program.kill()
                    program.wait()
            program.stderr.close()
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
        for node, page in (("rs01", "Web Page RS-Node1"), ("rs02", "Web Page RS-Node2")):
            self._ip(node, "route add default via 172.16.1.3")
            self._ip(node, "-6 route add default via 2001:db8:1::3")
            self._web(node, page)
        for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            self.run("route", "sysctl", "-qw", f"{name}=1")

    def _ip(self, node: str, command: str) -> None:
        self.run(node, "ip", *command.split())

    def _web(self, node: str, page: str) -> None:
        root = self.folder / node
        root.mkdir()
        (root / "index.html").write_text(page + "\n")
        self.folder.chmod(0o755)
        (root / "nginx.conf").write_text(
            f"""
            daemon off; worker_processes 1; user root; pid {root}/pid; error_log {root}/log warn;
            events {{ worker_connections 4096; }}
            http {{
                access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;
                fastcgi_temp_path {root}/fastcgi; uwsgi_temp_path {root}/uwsgi;
                scgi_temp_path {root}/scgi;
                server {{ listen 80 backlog=1024; listen [::]:80 backlog=1024;
                    server_name lvs.birenchong.cn; root {root}; }}
            }}
            """
        )
        self.start(node, "nginx", "-p", str(root), "-e", f"{root}/log", "-c", f"{root}/nginx.conf")
        for _ in range(100):
            if page in self.curl("http://127.0.0.1/", node=node):
                return
            time.sleep(0.05)
        raise RuntimeError(f"nginx does not answer on {node}: {(root / 'log').read_text()}")
