"""The LVS-NAT lab with real programs: network namespaces, nginx, curl, and lvscore as route and
director. Needs root, iproute2, nginx and curl; with tcpdump, every link is recorded to FOLDER.

    python examples/lab/lab.py [--ipv6] [FOLDER]
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Form:
    """The lab's addresses in one of the two families."""

    iptables: str
    length: int
    client: str
    public: str
    lan: str
    route: str
    director: str
    vip: str
    servers: tuple[str, str]

    def written(self, address):
        """An address before a port, and in a URL."""
        return f"[{address}]" if ":" in address else address

    @property
    def rules(self):
        service = f"{self.written(self.vip)}:80"
        lines = [f"-a -t {service} -r {self.written(server)}:80 -m" for server in self.servers]
        return "\n".join([f"-A -t {service} -s rr", *lines, ""])

    @property
    def mapping(self):
        nat = f"{self.iptables} -t nat -A"
        rules = (f"{nat} PREROUTING -d {self.public} -j DNAT --to {self.vip}",
                 f"{nat} POSTROUTING -s {self.lan} -j SNAT --to {self.public}")  # fmt: skip
        return [word for rule in rules for word in ("--iptables", rule)]


IPV4 = Form(
    "iptables", 24, "10.0.0.100", "10.0.0.200", "172.16.1.0/24", "172.16.1.200", "172.16.1.3",
    "172.16.1.100", ("172.16.1.7", "172.16.1.8"),
)  # fmt: skip
IPV6 = Form(
    "ip6tables", 64, "2001:db8::100", "2001:db8::200", "2001:db8:1::/64", "2001:db8:1::200",
    "2001:db8:1::3", "2001:db8:1::100", ("2001:db8:1::7", "2001:db8:1::8"),
)  # fmt: skip
NODES = ("lan", "client", "route", "director", "rs01", "rs02")
NGINX = """daemon off; user root; pid {0}/pid; error_log {0}/log; events {{}}
http {{ access_log off; client_body_temp_path {0}/b; proxy_temp_path {0}/p; fastcgi_temp_path {0}/f;
  uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;
  server {{ listen 80; listen [::]:80;
    server_name lvs.birenchong.cn; root {0}; index index.html; }} }}"""


def ip(command):
    subprocess.run(["ip", *command.split()], check=True)


def on(node, *command):
    return ["ip", "netns", "exec", f"lab-{node}", *command]


def start(stack, command, ready=""):
    """Run a program until the lab ends, or until it is told to stop."""
    program = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    stack.callback(stop, program)
    while ready:
        line = program.stderr.readline()
        if not line:
            raise SystemExit(f"{' '.join(command)}: ended")
        if ready in line:
            break
    return program


def stop(program):
    if program.poll() is None:
        program.send_signal(signal.SIGTERM)
    output, _ = program.communicate(timeout=10)
    return output


def lvscore(stack, node, *options):
    command = ["run", "--control", f"/run/lvscore/lab-{node}.sock", *options]
    return start(stack, on(node, sys.executable, "-m", "lvscore", *command), "running on")


def build(stack, form):
    """The nodes and wires; route and director have ports without addresses of the kernel."""
    for node in NODES:
        ip(f"netns add lab-{node}")
        stack.callback(ip, f"netns del lab-{node}")
        ip(f"-n lab-{node} link set lo up")
    ip("-n lab-lan link add br0 type bridge")
    ip("-n lab-lan link set br0 up")
    for node in ("route", "director", "rs01", "rs02"):
        ip(f"-n lab-lan link add {node} type veth peer name eth1 netns lab-{node}")
        ip(f"-n lab-lan link set {node} master br0 up")
        if node in ("route", "director"):
            without_addresses(node, "eth1")
        ip(f"-n lab-{node} link set eth1 up")
    ip("-n lab-client link add eth0 type veth peer name eth0 netns lab-route")
    without_addresses("route", "eth0")
    ip("-n lab-client link set eth0 up")
    ip("-n lab-route link set eth0 up")
    own(form, "client", "eth0", form.client)
    for node, address in zip(("rs01", "rs02"), form.servers, strict=True):
        own(form, node, "eth1", address)
        ip(f"-n lab-{node} route add default via {form.director}")


def own(form, node, interface, address):
    """An address of the kernel's; of IPv6 it may be used at once."""
    at_once = " nodad" if form is IPV6 else ""
    ip(f"-n lab-{node} addr add {address}/{form.length} dev {interface}{at_once}")


def without_addresses(node, interface):
    """Let the kernel make no link-local address of its own."""
    setting = f"net.ipv6.conf.{interface}.disable_ipv6=1"
    subprocess.run(on(node, "sysctl", "-qw", setting), check=True)


def serve(stack, node, page, folder):
    root = folder / node
    root.mkdir()
    (root / "index.html").write_text(page + "\n")
    (root / "nginx.conf").write_text(NGINX.format(root))
    start(stack, on(node, "nginx", "-e", f"{root}/log", "-c", f"{root}/nginx.conf"))


def curl(address):
    print(f"[root@client ~]# curl -HHost:lvs.birenchong.cn http://{address}", flush=True)
    command = on(
        "client", "curl", "-sS", "-m", "5", "-HHost:lvs.birenchong.cn", f"http://{address}"
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout or done.stderr, end="", flush=True)
    return done.stdout.strip()


def record(stack, folder):
    for node, interface in (
        ("client", "eth0"), ("route", "eth1"), ("director", "eth1"), ("rs01", "eth1"),
        ("rs02", "eth1"),
    ):  # fmt: skip
        file = f"{folder}/{node}-{interface}.pcap"
        start(stack, on(node, "tcpdump", "-Z", "root", "-Uni", interface, "-w", file), "listening")


def check():
    if os.geteuid() != 0:
        raise SystemExit("the lab makes network namespaces: run it as root")
    missing = [program for program in ("ip", "nginx", "curl") if shutil.which(program) is None]
    if missing:
        raise SystemExit(f"the lab needs {', '.join(missing)}")
    there = [node for node in NODES if Path(f"/run/netns/lab-{node}").exists()]
    if there:
        raise SystemExit(f"a lab is running, or was killed: ip netns del lab-{there[0]} and so on")


def main(form, folder):
    check()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and all is cleaned up
    with ExitStack() as stack:
        folder = Path(folder or stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        pages = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pages.chmod(0o755)
        (pages / "lvs.rules").write_text(form.rules)
        build(stack, form)
        serve(stack, "rs01", "Web Page RS-Node1", pages)
        serve(stack, "rs02", "Web Page RS-Node2", pages)
        if shutil.which("tcpdump"):
            record(stack, folder)
        time.sleep(0.5)  # nginx, too, has to begin
        director = lvscore(
            stack, "director", "--interface", f"eth1={form.director}/{form.length}",
            "--interface", f"eth1={form.vip}/{32 if form is IPV4 else 128}",
            "--route", f"default={form.route}", "-c", f"{pages}/lvs.rules",
        )  # fmt: skip
        arms = ["--interface", f"eth0={form.public}/{form.length}",
                "--interface", f"eth1={form.route}/{form.length}"]  # fmt: skip
        route = lvscore(stack, "route", *arms)

        print("# The client's gateway is the route node. Of equal servers the one added last")
        print("# answers first, as in the kernel. Director and route send no redirects.")
        vip, public = form.written(form.vip), form.written(form.public)
        ip(f"-n lab-client route add default via {form.public}")
        answers = [curl(vip), curl(vip)]

        print("# Without a gateway there is no way to the VIP; route maps its public address.")
        ip(f"-n lab-client route del default via {form.public}")
        answers.append(curl(vip))
        stop(route)
        lvscore(stack, "route", *arms, *form.mapping)
        answers += [curl(public), curl(public)]

        print("[root@lb01 ~]# ipvsadm -L -n", flush=True)
        listing = [sys.executable, "-m", "lvscore", "ipvsadm", "-L", "-n"]
        subprocess.run([*listing, "--control", "/run/lvscore/lab-director.sock"], check=True)
        stop(director)
        two, one = "Web Page RS-Node2", "Web Page RS-Node1"
        return answers == [two, one, "", two, one]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--ipv6", action="store_true", help="the same lab in IPv6")
    parser.add_argument("folder", nargs="?", help="where the links are recorded to")
    given = parser.parse_args()
    sys.exit(0 if main(IPV6 if given.ipv6 else IPV4, given.folder) else 1)
