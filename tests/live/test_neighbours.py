"""Neighbours that change under a running director."""

import sys
import time

import pytest
from namespaces import RS01, VIP, missing

_WHY = missing()
pytestmark = pytest.mark.skipif(bool(_WHY), reason=_WHY or "complete")

TOML = f"""
[interface.eth1]
address = ["172.16.1.3/24", "{VIP}/32"]
[[route]]
to = "default"
via = "172.16.1.200"
[[service]]
tcp-service = "{VIP}:80"
server = [{{ real-server = "{RS01}:80" }}]
[sysctl]
net.ipv4.neigh.default.base_reachable_time_ms = 1000
net.ipv4.neigh.default.delay_first_probe_time = 1
net.ipv4.neigh.default.retrans_time_ms = 200
"""


def test_a_server_that_has_another_link_address_is_found_again(lab):
    """It tells nobody, as a standby in its place might: it is asked, in vain, and then all are."""
    path = lab.folder / "neighbours.toml"
    path.write_text(TOML)
    program = lab.director("-c", str(path))
    assert "Node1" in lab.curl(f"http://{VIP}/")
    before = lab.run("rs01", "cat", "/sys/class/net/eth1/address").strip()
    lab.run("rs01", "sysctl", "-qw", "net.ipv4.conf.eth1.arp_notify=0")
    lab.run("rs01", "ip", "link", "set", "eth1", "address", "02:00:00:00:00:77")
    assert "Node1" not in lab.curl(f"http://{VIP}/", "-m", "0.5")
    began = time.monotonic()
    while "Node1" not in lab.curl(f"http://{VIP}/", "-m", "0.5"):
        assert time.monotonic() < began + 15
    lab.run("rs01", "ip", "link", "set", "eth1", "address", before)
    assert lab.stop(program) == 0


def test_neighbours_that_are_used_for_long_are_asked_without_a_pause(lab):
    """A download goes on while the server and the router are asked again and again."""
    path = lab.folder / "neighbours.toml"
    path.write_text(TOML)
    capture = lab.start(
        "rs01", "tcpdump", "-lnni", "eth1", "-c", "100", "arp and ether dst not ff:ff:ff:ff:ff:ff",
        output=True,
    )  # fmt: skip
    assert "listening" in capture.stderr.readline() + capture.stderr.readline()
    program = lab.director("-c", str(path))
    lab.run("client", sys.executable, "-c", STEADY, VIP)
    assert lab.stop(program) == 0
    capture.terminate()
    asked = [line for line in capture.stdout if f"who-has {RS01} tell 172.16.1.3" in line]
    assert asked


STEADY = """
import socket, sys, time
with socket.create_connection((sys.argv[1], 80), 5) as one:
    until = time.monotonic() + 3
    while time.monotonic() < until:
        before = time.monotonic()
        one.sendall(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
        assert b"Node1" in one.recv(4096)
        assert time.monotonic() < before + 0.5
        time.sleep(0.05)
"""
