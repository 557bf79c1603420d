"""The LVS-NAT lab with real programs: network namespaces, nginx, curl, and lvscore as route and
director. Needs root, iproute2, nginx and curl; with tcpdump, every link is recorded to FOLDER.

    python examples/lab/lab.py [FOLDER]
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

VIP, PUBLIC = "172.16.1.100", "10.0.0.200"
RULES = f"""\
-A -t {VIP}:80 -s rr
-a -t {VIP}:80 -r 172.16.1.7:80 -m
-a -t {VIP}:80 -r 172.16.1.8:80 -m
"""
MAPPING = [
    "--iptables", f"-t nat -A PREROUTING -d {PUBLIC} -j DNAT --to {VIP}",
    "--iptables", f"-t nat -A POSTROUTING -s 172.16.1.0/24 -j SNAT --to {PUBLIC}",
]  # fmt: skip
NGINX = """daemon off; user root; pid {0}/pid; error_log {0}/log; events {{}}
http {{ access_log off; client_body_temp_path {0}/b; proxy_temp_path {0}/p; fastcgi_temp_path {0}/f;
  uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;
  server {{ listen 80; server_name lvs.birenchong.cn; root {0}; index index.html; }} }}"""


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


def build(stack):
    """The nodes and wires; route and director have ports without addresses of the kernel."""
    for node in ("lan", "client", "route", "director", "rs01", "rs02"):
        ip(f"netns add lab-{node}")
        stack.callback(ip, f"netns del lab-{node}")
        ip(f"-n lab-{node} link set lo up")
    ip("-n lab-lan link add br0 type bridge")
    ip("-n lab-lan link set br0 up")
    for node in ("route", "director", "rs01", "rs02"):
        ip(f"-n lab-lan link add {node} type veth peer name eth1 netns lab-{node}")
        ip(f"-n lab-lan link set {node} master br0 up")
        ip(f"-n lab-{node} link set eth1 up")
    ip("-n lab-client link add eth0 type veth peer name eth0 netns lab-route")
    ip("-n lab-client addr add 10.0.0.100/24 dev eth0")
    ip("-n lab-client link set eth0 up")
    ip("-n lab-route link set eth0 up")
    for node, address in (("rs01", "172.16.1.7"), ("rs02", "172.16.1.8")):
        ip(f"-n lab-{node} addr add {address}/24 dev eth1")
        ip(f"-n lab-{node} route add default via 172.16.1.3")


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


def main(folder):
    missing = [program for program in ("ip", "nginx", "curl") if shutil.which(program) is None]
    if missing:
        raise SystemExit(f"the lab needs {', '.join(missing)}")
    with ExitStack() as stack:
        folder = Path(folder or stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        pages = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pages.chmod(0o755)
        (pages / "lvs.rules").write_text(RULES)
        build(stack)
        serve(stack, "rs01", "Web Page RS-Node1", pages)
        serve(stack, "rs02", "Web Page RS-Node2", pages)
        if shutil.which("tcpdump"):
            record(stack, folder)
        time.sleep(0.5)  # nginx, too, has to begin
        director = lvscore(
            stack, "director", "--interface", "eth1=172.16.1.3/24", "--interface", f"eth1={VIP}/32",
            "--route", "default=172.16.1.200", "-c", f"{pages}/lvs.rules",
        )  # fmt: skip
        arms = ["--interface", f"eth0={PUBLIC}/24", "--interface", "eth1=172.16.1.200/24"]
        route = lvscore(stack, "route", *arms)

        print("# The client's gateway is the route node. Of equal servers the one added last")
        print("# answers first, as in the kernel.")
        ip(f"-n lab-client route add default via {PUBLIC}")
        answers = [curl(VIP), curl(VIP)]

        print("# Without a gateway there is no way to the VIP; route maps its public address.")
        ip("-n lab-client route del default")
        answers.append(curl(VIP))
        stop(route)
        lvscore(stack, "route", *arms, *MAPPING)
        answers += [curl(PUBLIC), curl(PUBLIC)]

        print("[root@lb01 ~]# ipvsadm -L -n", flush=True)
        listing = [sys.executable, "-m", "lvscore", "ipvsadm", "-L", "-n"]
        subprocess.run([*listing, "--control", "/run/lvscore/lab-director.sock"], check=True)
        stop(director)
        two, one = "Web Page RS-Node2", "Web Page RS-Node1"
        return answers == [two, one, "", two, one]


if __name__ == "__main__":
    if os.geteuid() != 0:
        raise SystemExit("the lab makes network namespaces: run it as root")
    sys.exit(0 if main(sys.argv[1] if len(sys.argv) > 1 else None) else 1)
