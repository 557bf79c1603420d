"""A director of several processes: each client has one, and one control socket speaks for all."""

import os
import re
import signal
import sys
import time
from collections import Counter

import pytest
from namespaces import VIP, VIP6, missing

_WHY = missing()
pytestmark = pytest.mark.skipif(bool(_WHY), reason=_WHY or "complete")

CLIENTS = 50
TOML = f"""
[director]
workers = 2
[interface.eth1]
address = ["172.16.1.3/24", "{VIP}/32", "2001:db8:1::3/64", "{VIP6}/128"]
[[route]]
to = "default"
via = "172.16.1.200"
[[route]]
to = "2001:db8::/64"
via = "2001:db8:1::200"
[[service]]
tcp-service = "{VIP}:80"
scheduler = "rr"
server = [{{ real-server = "172.16.1.7:80" }}, {{ real-server = "172.16.1.8:80" }}]
[[service]]
tcp-service = "[{VIP6}]:80"
scheduler = "rr"
server = [{{ real-server = "[2001:db8:1::7]:80" }}, {{ real-server = "[2001:db8:1::8]:80" }}]
"""
ASK = """
import socket, sys
sources, target, count = sys.argv[1].split(","), sys.argv[2], int(sys.argv[3])
for number in range(count):
    with socket.create_connection((target, 80), 5, (sources[number % len(sources)], 0)) as one:
        one.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        print(b"".join(iter(lambda: one.recv(4096), b"")).splitlines()[-1].decode())
"""


@pytest.fixture(scope="module", autouse=True)
def _clients(lab):
    """The client has many addresses."""
    addresses = [
        address
        for number in range(CLIENTS)
        for address in (f"10.0.0.{101 + number}/24", f"2001:db8:0::1:{number:x}/64")
    ]
    for address in addresses:
        lab.run("client", "ip", "addr", "add", address, "dev", "eth0",
                *(["nodad"] if ":" in address else []))  # fmt: skip
    yield
    for address in addresses:
        lab.run("client", "ip", "addr", "del", address, "dev", "eth0")


def ask(lab, *words, worker=None):
    """What a program prints that asks the director, or one of its workers."""
    path = lab.control if worker is None else f"{lab.control}.{worker}"
    return lab.run("client", sys.executable, "-m", "lvscore", *words, "--control", path)


def connections(lab, worker=None):
    """Client address and port of every connection."""
    lines = ask(lab, "ipvsadm", "-Lnc", worker=worker).splitlines()[2:]
    found = [re.match(r"(\w+) +\S+ +(\S+) +(\S+):(\d+) ", line) for line in lines]
    return Counter((match[3], match[4]) for match in found), {match[2] for match in found}


def counted(lab, worker=None):
    """Connections of the service, as of the latest estimation."""
    listing = ask(lab, "ipvsadm", "-Ln", "--stats", worker=worker)
    return int(re.search(rf"TCP  {VIP}:80 +(\d+) ", listing)[1])


def test_both_directions_meet_one_engine(lab):
    path = lab.folder / "director.toml"
    path.write_text(TOML)
    program = lab.director("-c", str(path))
    for target, sources, count in (
        (VIP, [f"10.0.0.{101 + n}" for n in range(CLIENTS)], 200),
        (VIP6, [f"2001:db8:0::1:{n:x}" for n in range(CLIENTS)], 100),
    ):
        said = lab.run("client", sys.executable, "-c", ASK, ",".join(sources), target, str(count))
        pages = Counter(said.splitlines())
        assert set(pages) == {"Web Page RS-Node1", "Web Page RS-Node2"}
        assert pages.total() == count
    (first, states), (second, others) = connections(lab, 0), connections(lab, 1)
    assert 280 < len(first) + len(second) <= 300  # on a slow machine the first are over
    assert min(len(first), len(second)) > 60
    assert not {client for client, _ in first} & {client for client, _ in second}
    # Who sees one direction alone never gets so far.
    assert states | others <= {"TIME_WAIT", "CLOSE", "FIN_WAIT"}, (states, others)
    assert set(connections(lab)[0]) <= set(first | second)
    for _ in range(40):  # an estimator's tick
        total, *shares = (counted(lab, worker) for worker in (None, 0, 1))
        if total == 200:
            break
        time.sleep(0.1)
    assert (total, sum(shares)) == (200, 200)
    for target in (VIP, VIP6, "172.16.1.7"):
        assert " 0% packet loss" in lab.run("client", "ping", "-c", "2", "-i", "0.2", target)
    assert lab.stop(program) == 0


def test_one_control_socket_speaks_for_all(lab):
    path = lab.folder / "director.toml"
    path.write_text(TOML)
    program = lab.director("-c", str(path))
    assert "with 2 workers" in program.said
    ask(lab, "ipvsadm", "-A", "-t", f"{VIP}:81", "-s", "wrr")
    ask(lab, "ipvsadm", "-a", "-t", f"{VIP}:81", "-r", "172.16.1.7:80", "-m", "-w", "3")
    for worker in (None, 0, 1):
        assert "172.16.1.7:80                Masq    3      0 " in ask(
            lab, "ipvsadm", "-Ln", "-t", f"{VIP}:81", worker=worker
        )
    path.write_text(TOML.replace('"rr"', '"wlc"'))
    program.send_signal(signal.SIGHUP)
    said = ""
    while said.count("has read") < 2:
        said += program.stderr.readline()
    for worker in (0, 1):
        listing = ask(lab, "ipvsadm", "-Ln", worker=worker)
        assert f"{VIP}:80 wlc" in listing
        assert f"{VIP}:81" not in listing
    assert lab.stop(program) == 0
    assert not [name for name in os.listdir(lab.folder) if name.startswith("director.sock")]


def test_a_link_goes_down_and_up(lab):
    path = lab.folder / "director.toml"
    path.write_text(TOML)
    program = lab.director("-c", str(path))
    children = lab.run("director", "pgrep", "-P", str(program.pid)).split()
    lab.run("director", "ip", "link", "set", "eth1", "down")
    time.sleep(0.1)
    before = [used(child) for child in children]
    time.sleep(0.5)
    assert max(used(child) - b for child, b in zip(children, before, strict=True)) < 0.3
    lab.run("director", "ip", "link", "set", "eth1", "up")
    sources = ",".join(f"10.0.0.{101 + n}" for n in range(10))
    said = lab.run("client", sys.executable, "-c", ASK, sources, VIP, "10")
    assert said.count("RS-Node") == 10
    assert lab.stop(program) == 0


def used(process):
    """Seconds of processor time."""
    with open(f"/proc/{process}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_server_of_another_network_is_inside_from_then_on(lab):
    """Its answers come from where clients might be: the shares are told."""
    lab.run("rs01", "ip", "addr", "add", "10.99.0.7/32", "dev", "lo")
    path = lab.folder / "director.toml"
    path.write_text(TOML + '[[route]]\nto = "10.99.0.0/24"\nvia = "172.16.1.7"\n')
    program = lab.director("-c", str(path))
    ask(lab, "ipvsadm", "-A", "-t", f"{VIP}:82", "-s", "rr")
    ask(lab, "ipvsadm", "-a", "-t", f"{VIP}:82", "-r", "10.99.0.7:80", "-m")
    sources = ",".join(f"10.0.0.{101 + n}" for n in range(20))
    said = lab.run("client", sys.executable, "-c", ASK.replace("80)", "82)"), sources, VIP, "20")
    assert said.count("RS-Node1") == 20
    assert lab.stop(program) == 0
    lab.run("rs01", "ip", "addr", "del", "10.99.0.7/32", "dev", "lo")


def test_all_end_with_one(lab):
    path = lab.folder / "director.toml"
    path.write_text(TOML)
    program = lab.director("-c", str(path))
    children = lab.run("director", "pgrep", "-P", str(program.pid)).split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    assert program.wait(10) == 1
    assert "worker 1 ended by signal 9; all end" in program.stderr.read()
    # A service manager may tell all of them.
    program = lab.director("-c", str(path))
    children = lab.run("director", "pgrep", "-P", str(program.pid)).split()
    for process in (*children, program.pid):
        os.kill(int(process), signal.SIGTERM)
    assert program.wait(10) == 0
    # And the workers go with who held them together.
    program = lab.director("-c", str(path))
    children = lab.run("director", "pgrep", "-P", str(program.pid)).split()
    program.kill()
    program.wait()
    for _ in range(100):
        if not any(os.path.exists(f"/proc/{child}") for child in children):
            break
        time.sleep(0.05)
    assert not any(os.path.exists(f"/proc/{child}") for child in children)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--backend", "tap"], "cannot be shared"),
        (["--takeover"], "neither --takeover nor --state"),
        (["--control", "none"], "expected a --control PATH"),
        ([], "expected servers, or --inside"),
    ],
)
def test_what_workers_cannot_do_is_told(lab, options, said):
    own = ["--interface", "eth1=172.16.1.3/24", "--workers", "2", "--control", lab.control]
    if options:
        own += ["--inside", "172.16.1.0/24"]
    program = lab.start("director", sys.executable, "-m", "lvscore", "run", *own, *options)
    assert program.wait(20) != 0
    assert said in program.stderr.read()
