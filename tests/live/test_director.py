"""A director on a real interface, with real nginx and real curl around it."""

import hashlib
import os
import signal
import sys
import time
from collections import Counter

import pytest
from namespaces import VIP, VIP6, Lab, missing

import lvscore

_WHY = missing()
pytestmark = pytest.mark.skipif(bool(_WHY), reason=_WHY or "complete")

LVS = ["--interface", "eth1=172.16.1.3/24", "--interface", f"eth1={VIP}/32",
       "--interface", "eth1=2001:db8:1::3/64", "--interface", f"eth1={VIP6}/128",
       "--route", "default=172.16.1.200", "--route", "2001:db8::/64=2001:db8:1::200"]  # fmt: skip
SERVICES = [
    word
    for command in (
        f"-A -t {VIP}:80 -s rr", f"-a -t {VIP}:80 -r 172.16.1.7:80 -m",
        f"-a -t {VIP}:80 -r 172.16.1.8:80 -m",
        f"-A -t [{VIP6}]:80 -s rr", f"-a -t [{VIP6}]:80 -r [2001:db8:1::7]:80 -m",
        f"-a -t [{VIP6}]:80 -r [2001:db8:1::8]:80 -m",
    )
    for word in ("--ipvsadm", command)
]  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    folder.parent.chmod(0o755)
    lab = Lab(folder)
    yield lab
    lab.close()


@pytest.fixture(params=["ring", "copy"])
def director(lab, request):
    program = lab.director(*LVS, *SERVICES, "--backend", request.param)
    yield program
    if program.poll() is None:
        assert lab.stop(program) == 0


@pytest.fixture(params=["on", "off"])
def offloads(lab, request):
    """What the director's own port may leave undone: veth hides a wrong partial checksum from
    receivers, until the port has to finish it."""
    lab.run("director", "ethtool", "-K", "eth1", "tx", request.param)
    yield request.param
    lab.run("director", "ethtool", "-K", "eth1", "tx", "on")


def test_requests_alternate(lab, director, offloads):
    for host in (VIP, f"[{VIP6}]"):
        pages = Counter(lab.curl(f"http://{host}/") for _ in range(6))
        assert pages == {"Web Page RS-Node1\n": 3, "Web Page RS-Node2\n": 3}


def test_a_large_file_arrives_intact(lab, director, offloads):
    data = os.urandom(1 << 20) * 100
    for node in ("rs01", "rs02"):
        (lab.folder / node / "large").write_bytes(data)
    received = lab.folder / "received"
    for host in (VIP, f"[{VIP6}]"):
        said = lab.curl(f"http://{host}/large", "-o", str(received), "-w", "%{http_code}")
        assert said == "200"
        digest = hashlib.sha256(received.read_bytes()).digest()
        assert digest == hashlib.sha256(data).digest()


def test_the_director_answers_ping_and_is_the_servers_gateway(lab, director):
    for target in (VIP, VIP6, "172.16.1.7", "2001:db8:1::7"):
        assert " 0% packet loss" in lab.run("client", "ping", "-c", "2", "-i", "0.2", target)
    assert " 0% packet loss" in lab.run("rs01", "ping", "-c", "2", "-i", "0.2", "10.0.0.100")


TOML = f"""
[interface.eth1]
address = ["172.16.1.3/24", "{VIP}/32"]
[[route]]
to = "default"
via = "172.16.1.200"
[[service]]
tcp-service = "{VIP}:80"
[[service.server]]
real-server = "172.16.1.7:80"
"""


@pytest.fixture
def file(lab):
    """A director's configuration, and a large file on either server."""
    data = os.urandom(1 << 20) * 20
    for node in ("rs01", "rs02"):
        (lab.folder / node / "large").write_bytes(data)
    path = lab.folder / "director.toml"
    path.write_text(TOML)
    return path, hashlib.sha256(data).hexdigest()


class Download:
    """A download that has begun, and stands still until the rest is asked for."""

    def __init__(self, lab):
        pipe = lab.folder / "received"
        pipe.unlink(missing_ok=True)
        os.mkfifo(pipe)
        self._client = lab.start(
            "client", "curl", "-sS", "-m", "30", f"http://{VIP}/large", "-o", str(pipe)
        )
        self._stream = pipe.open("rb")
        self._hash = hashlib.sha256(self._stream.read(1000))

    def rest(self):
        """SHA-256 of the whole."""
        with self._stream:
            for piece in iter(lambda: self._stream.read(1 << 20), b""):
                self._hash.update(piece)
        assert self._client.wait(10) == 0, self._client.stderr.read()
        return self._hash.hexdigest()


def ask(lab, *words):
    """What a program prints that asks the running director."""
    return lab.run("client", sys.executable, "-m", "lvscore", *words, "--control", lab.control)


def test_it_reads_its_file_again_without_losing_a_connection(lab, file):
    path, digest = file
    director = lab.director("-c", str(path))
    client = Download(lab)
    path.write_text(TOML.replace("172.16.1.7", "172.16.1.9") + "wait = 1\n")
    director.send_signal(signal.SIGHUP)
    assert "wait = 1: no such key" in director.stderr.readline()
    assert "172.16.1.7" in ask(lab, "ipvsadm", "-Ln")
    path.write_text(TOML + '[[service.server]]\nreal-server = "172.16.1.8:80"\n')
    director.send_signal(signal.SIGHUP)
    assert "has read" in director.stderr.readline()
    assert "RS-Node2" in lab.curl(f"http://{VIP}/")
    assert "172.16.1.7:80                Masq    1      1" in ask(lab, "ipvsadm", "-Ln")
    assert client.rest() == digest
    assert lab.stop(director) == 0


def test_another_process_takes_over(lab, file):
    path, digest = file
    old = lab.director("-c", str(path))
    client = Download(lab)
    new = lab.start("director", sys.executable, "-m", "lvscore", "run", "--takeover",
                    "--control", lab.control, "-c", str(path))  # fmt: skip
    assert old.wait(10) == 0
    assert "goes on with 1 connections" in new.stderr.readline()
    assert "running on" in new.stderr.readline()
    assert "172.16.1.7:80                Masq    1      1" in ask(lab, "ipvsadm", "-Ln")
    assert client.rest() == digest
    assert "RS-Node1" in lab.curl(f"http://{VIP}/")
    assert lab.stop(new) == 0
    assert not os.path.exists(lab.control)


def test_one_that_was_killed_is_followed_by_its_state(lab, file):
    path, digest = file
    state = lab.folder / "director.state"
    path.write_text(f"[director]\nstate = '{state}'\nstate-interval = 1\n{TOML}")
    first = lab.director("-c", str(path))
    client = Download(lab)
    for _ in range(100):
        if state.exists() and len(lvscore.Engine.load(state).connections):
            break
        time.sleep(0.05)
    first.kill()
    first.wait()
    second = lab.director("-c", str(path))
    assert client.rest() == digest
    assert "ActiveConn" in ask(lab, "ipvsadm", "-Ln")
    assert lab.stop(second) == 0
    assert len(lvscore.Engine.load(state).connections) == 1


def test_nothing_is_left_when_it_is_killed(lab):
    before = lab.run("director", "ip", "-d", "link", "show", "eth1")
    program = lab.director(*LVS, *SERVICES)
    program.kill()
    program.wait()
    assert lab.run("director", "ip", "-d", "link", "show", "eth1") == before
    assert "Web Page" not in lab.curl(f"http://{VIP}/", "-m", "1")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--interface", "eth7=172.16.1.3/24"], "no such network interface"),
        (["--interface", "lo=172.16.1.3/24"], "not an Ethernet interface"),
        ([], "no interface"),
    ],
)
def test_what_cannot_be_is_told(lab, options, said):
    program = lab.start("director", sys.executable, "-m", "lvscore", "run", *options)
    assert program.wait(20) != 0
    lines = program.stderr.read().splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def test_addresses_of_the_kernel_are_refused(lab):
    program = lab.start(
        "route", sys.executable, "-m", "lvscore", "run", "--interface", "eth1=172.16.1.200/24"
    )
    assert program.wait(20) != 0
    assert "the kernel has 172.16.1.200 itself" in program.stderr.read()
