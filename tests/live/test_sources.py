"""Every way that frames come in, with real programs around: requests, ping, large files."""

import sys
from collections import Counter

import pytest
from namespaces import LVS, VIP, VIP6, digest_of, in_namespace, missing, services

import lvscore

_WHY = missing()
pytestmark = pytest.mark.skipif(bool(_WHY), reason=_WHY or "complete")


@pytest.fixture(autouse=True)
def _files(large):
    """There is something to fetch."""


SLOW = 10
"""Megabytes a second; where super-frames are refused, TCP crawls at 0.03."""


def fetches(lab, url, node="client"):
    """Megabytes a second of a large file, which arrives intact."""
    received = lab.folder / "received"
    said = lab.curl(url, "-o", str(received), "-w", "%{http_code} %{speed_download}", node=node)
    code, speed = said.split()
    assert code == "200"
    assert digest_of(received) == digest_of(lab.folder / "large")
    return float(speed) / 1e6


def serves(lab):
    """Requests take turns, the gateway answers, and large files go through, fast."""
    for host in (VIP, f"[{VIP6}]"):
        pages = Counter(lab.curl(f"http://{host}/") for _ in range(4))
        assert pages == {"Web Page RS-Node1\n": 2, "Web Page RS-Node2\n": 2}
    for target in (VIP, VIP6, "172.16.1.7", "2001:db8:1::7"):
        assert " 0% packet loss" in lab.run("client", "ping", "-c", "2", "-i", "0.2", target)
    return [fetches(lab, f"http://{host}/large") for host in (VIP, f"[{VIP6}]")]


@pytest.mark.parametrize("tx", ["on", "off"])
def test_a_ring_of_blocks(lab, tx):
    lab.run("director", "ethtool", "-K", "eth1", "tx", tx)
    program = lab.director(*LVS, *services(), "--mode", "throughput")
    assert "eth1 (ring, throughput)" in program.said
    speeds = serves(lab)
    print(f"\nMB/s: {speeds}")
    assert min(speeds) > SLOW
    assert lab.stop(program) == 0
    lab.run("director", "ethtool", "-K", "eth1", "tx", "on")


@pytest.mark.parametrize("tx", ["on", "off"])
def test_a_tap_device_in_a_bridge(lab, tx):
    """It is a port of the LAN's bridge, as a virtual machine's would be; it was there before."""
    lab.run("lan", "ip", "tuntap", "add", "tap0", "mode", "tap")
    lab.run("lan", "sysctl", "-qw", "net.ipv6.conf.tap0.disable_ipv6=1")
    lab.run("lan", "ip", "link", "set", "tap0", "master", "br0", "up")
    options = [word.replace("eth1=", "tap0=") for word in (*LVS, *services())]
    program = lab.director(*options, "--backend", "tap", node="lan")
    lab.run("lan", "ethtool", "-K", "tap0", "tx", tx)
    assert "tap0 (tap)" in program.said
    speeds = serves(lab)
    print(f"\nMB/s: {speeds}")
    assert min(speeds) > SLOW
    assert lab.stop(program) == 0
    assert "tap0" in lab.run("lan", "ip", "link")
    lab.run("lan", "ip", "link", "del", "tap0")


@pytest.mark.parametrize("tx", ["on", "off"])
def test_af_xdp(lab, tx):
    """The kernel of the director sees nothing; nothing is left, even when it is killed."""
    lab.run("director", "ethtool", "-K", "eth1", "tx", tx)
    before = lab.run("director", "ip", "-d", "link", "show", "eth1")
    program = lab.director(*LVS, *services(), "--backend", "xdp")
    assert "eth1 (xdp)" in program.said
    assert "prog/xdp" in lab.run("director", "ip", "-d", "link", "show", "eth1")
    speeds = serves(lab)
    print(f"\nMB/s: {speeds}")
    assert min(speeds) > SLOW
    program.kill()
    program.wait()
    assert lab.run("director", "ip", "-d", "link", "show", "eth1") == before
    lab.run("director", "ethtool", "-K", "eth1", "tx", "on")


TUN = """
[interface.tun0]
address = ["192.0.2.3/24", "192.0.2.100/32", "2001:db8:9::3/64", "2001:db8:9::100/128"]
backend = "tun"
[interface.eth1]
address = ["172.16.1.3/24", "2001:db8:1::3/64"]
backend = "{}"
[[service]]
tcp-service = "192.0.2.100:9000"
scheduler = "rr"
server = [{{ real-server = "172.16.1.7:9000" }}]
[[service]]
tcp-service = "192.0.2.100:80"
scheduler = "rr"
server = [{{ real-server = "172.16.1.7:80" }}, {{ real-server = "172.16.1.8:80" }}]
[[service]]
tcp-service = "[2001:db8:9::100]:80"
scheduler = "rr"
server = [
    {{ real-server = "[2001:db8:1::7]:80" }},
    {{ real-server = "[2001:db8:1::8]:80" }},
]
"""


SEND = """
import socket, sys
with socket.create_connection(("192.0.2.100", 9000)) as one, open(sys.argv[1], "rb") as large:
    one.sendfile(large)
"""
DIGEST = """
import hashlib, socket
with socket.create_server(("0.0.0.0", 9000)) as server, server.accept()[0] as one:
    print(hashlib.file_digest(one.makefile("rb"), "sha256").hexdigest())
"""


@pytest.mark.parametrize("backend", ["ring", "xdp"])
def test_a_tun_device_and_another_interface(lab, large, backend):
    """The machine's own kernel is the client, behind the device, which goes with the director.

    What it sends in super-frames leaves by AF_XDP, which has none, in segments.
    """
    path = lab.folder / "tun.toml"
    path.write_text(TUN.format(backend))
    program = lab.director("-c", str(path))
    assert f"tun0 (tun), eth1 ({backend})" in program.said
    lab.run("director", "ip", "addr", "add", "192.0.2.1/24", "dev", "tun0")
    lab.run("director", "ip", "addr", "add", "2001:db8:9::1/64", "dev", "tun0", "nodad")
    for host in ("192.0.2.100", "[2001:db8:9::100]"):
        pages = Counter(lab.curl(f"http://{host}/", node="director") for _ in range(4))
        assert pages == {"Web Page RS-Node1\n": 2, "Web Page RS-Node2\n": 2}
        assert (
            fetches(lab, f"http://{host}/large", node="director") > 10
        )  # what is sent once and again crawls at some 0.03
    for target in ("192.0.2.100", "2001:db8:9::100"):
        assert " 0% packet loss" in lab.run("director", "ping", "-c", "1", target)
    receiver = lab.start("rs01", sys.executable, "-c", DIGEST, output=True)
    while ":9000" not in lab.run("rs01", "ss", "-ltn"):
        assert receiver.poll() is None
    lab.run("director", sys.executable, "-c", SEND, str(large[0]))
    assert receiver.stdout.read().strip() == large[1]
    assert lab.stop(program) == 0
    assert "tun0" not in lab.run("director", "ip", "link")


def test_devices_that_stay_and_go(lab):
    said = in_namespace(
        lab, "director",
        """
        for persistent in (False, True):
            with lvscore.open_interface("tap7", backend="tap", persistent=persistent) as tap:
                print(tap, tap.mtu, tap.mac[0] & 3, end=" ")
                try:
                    lvscore.open_interface("tap7", backend="tap")
                except lvscore.InterfaceError as error:
                    print(error.strerror, end=" ")
                try:
                    lvscore.open_interface("tap7", backend="tun")
                except lvscore.InterfaceError as error:
                    print(error.strerror)
        """.replace("\n        ", "\n"),
    )  # fmt: skip
    assert (
        said.splitlines()
        == ["tap7 (tap) 1500 2 another program is attached to it not a tun device"] * 2
    )
    assert "tap7" in lab.run("director", "ip", "link")
    lab.run("director", "ip", "link", "del", "tap7")


def test_af_xdp_has_a_socket_for_each_queue(lab):
    said = in_namespace(
        lab, "director",
        """
        import os, socket, subprocess, time
        subprocess.run("ip link add x0 numrxqueues 3 numtxqueues 3 type veth peer name x1 "
                       "numrxqueues 3 numtxqueues 3; sysctl -qw net.ipv6.conf.x1.disable_ipv6=1; "
                       "ip link set x0 up; ip link set x1 up",
                       shell=True, check=True)
        with lvscore.open_interface("x0", backend="xdp") as a:
            b = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            b.bind(("x1", 0x88B5))
            b.settimeout(5)
            sent = [a.mac + b"\\2" * 6 + b"\\x88\\xb5" + bytes([n]) * 50 for n in range(100)]
            came = []
            for number, frame in enumerate(sent):
                os.sched_setaffinity(0, {number % os.cpu_count()})   # and so the queue
                b.send(frame)
                until = time.monotonic() + 5
                while len(came) <= number and time.monotonic() < until:
                    batch = a.receive(0)
                    came += map(bytes, batch)
                    a.write_batch(batch)
            b.send(b"\\2" * 12 + b"\\x88\\xb5" + bytes(50))    # for another host
            time.sleep(0.1)
            a.receive(0)
            a.write([bytes(14)])
            print(came == sent, [b.recv(100) for _ in sent] == sent, a.statistics)
        """.replace("\n        ", "\n"),
    )  # fmt: skip
    counts = {"received": 100, "sent": 101, "refused": 0, "skipped": 1, "dropped": 0}
    assert said == f"True True {counts}"
    lab.run("director", "ip", "link", "del", "x0")


@pytest.mark.parametrize(
    ("kind", "mtu", "said"),
    [
        ("veth peer name x1", "9000", "the MTU is too long for XDP; expected at most 3822"),
        ("bridge", "1500", "its driver runs no XDP programs"),
    ],
)
def test_what_af_xdp_cannot_do_is_told(lab, kind, mtu, said):
    lab.run("director", "ip", "link", "add", "x0", "type", *kind.split())
    lab.run("director", "ip", "link", "set", "x0", "mtu", mtu)
    told = in_namespace(
        lab, "director",
        "try: lvscore.open_interface('x0', backend='xdp')\n"
        "except lvscore.InterfaceError as error: print(error.strerror)",
    )  # fmt: skip
    lab.run("director", "ip", "link", "del", "x0")
    assert told.startswith(said)


def test_what_does_not_fit_together():
    for wrong in (
        {"backend": "copy", "mode": "throughput"}, {"backend": "tap", "mode": "throughput"},
        {"mode": "fast"}, {"backend": "ring", "persistent": True},
    ):  # fmt: skip
        with pytest.raises(lvscore.ConfigError, match=r"mode|left behind"):
            lvscore.open_interface("lo", **wrong)
