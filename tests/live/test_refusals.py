"""What `lvscore run` is told wrong: one clear line, a status that is not 0, and nothing is left."""

import os
import sys
from pathlib import Path

import pytest
from namespaces import LVS, VIP, missing

_WHY = missing("setpriv")
pytestmark = pytest.mark.skipif(bool(_WHY), reason=_WHY or "complete")

RUN = [sys.executable, "-m", "lvscore", "run"]
INTERFACE = '[interface.eth1]\naddress = ["172.16.1.3/24"]\n'
TUNING = "[[service]]\ntcp-service = '172.16.1.100:80'\n"


def state(lab):
    """All that a director could leave behind on its node."""
    shown = ("ip -d link", "ip addr", "ip neigh", "ip route", "ip -6 route", "nft list ruleset",
             "ss -aH --packet")  # fmt: skip
    return lab.run("director", "sh", "-c", "; ".join(shown))


def refusal(lab, *options, prefix=(), node="director"):
    """The line that a director says which does not begin; it leaves nothing."""
    Path(lab.control).unlink(missing_ok=True)  # of one that was killed
    before = state(lab)
    program = lab.start(node, *prefix, *RUN, "--control", lab.control, *options)
    status = program.wait(20)
    lines = program.stderr.read().splitlines()
    assert status in (1, 2)
    assert len(lines) == 1, lines
    assert lines[0].startswith("lvscore: error: ")
    assert not os.path.exists(lab.control)
    assert state(lab) == before
    return lines[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--interface", "eth7=172.16.1.3/24"], "eth7: no such network interface"),
        (["--interface", "eth1=172.16.1.3/24", "--interface", "eth7=10.0.0.3/24"],
         "eth7: no such network interface"),
        (["--interface", "lo=172.16.1.3/24"], "lo: not an Ethernet interface"),
        ([], "no interface: expected --interface NAME=ADDRESS/LENGTH"),
        (["--interface", "eth1=172.16.1.3"], "expected NAME=ADDRESS/LENGTH"),
        (["--interface", "eth1=172.16.1.300/24"], "172.16.1.300/24"),
        ([*LVS, "--route", "10.9.0.0/16=10.9.0.1"], "gateway 10.9.0.1 cannot be reached"),
        ([*LVS, "--ipvsadm", f"-A -t {VIP}:80 -s nonsense"], "--ipvsadm '-A -t"),
        ([*LVS, "--ipvsadm", f"-a -t {VIP}:80 -r 172.16.1.7:80 -m"], "--ipvsadm '-a -t"),
        ([*LVS, "--iptables", "-t nat -A NOWHERE -j DNAT"], "--iptables '-t nat"),
        (["-c", "/nowhere/director.toml"], "/nowhere/director.toml"),
    ],
)  # fmt: skip
def test_options(lab, options, said):
    assert said in refusal(lab, *options)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[interface.eth1\n", "director.toml: Expected"),
        (INTERFACE + "mtus = 9000\n", "interface eth1: mtus = 9000: no such key"),
        (INTERFACE + "mtu = 'large'\n", "interface eth1: mtu = \"large\": expected a number"),
        (INTERFACE + "mtu = 9000\n", "an MTU of 9000; the real one has 1500"),
        ("[interface.eth1]\naddress = ['172.16.1/24']\n", "172.16.1/24"),
        (INTERFACE + TUNING + "scheduler = 'fastest'\n", "service 1"),
        (INTERFACE + "[[neighbour]]\nto = '172.16.1.200'\nlladdr = 'ff:ff:ff:ff:ff:ff'\n"
         "dev = 'eth1'\n", "neighbour 1"),
        (INTERFACE + "[[neighbour]]\nto = '172.16.1.200'\nlladdr = '02:00:00:00:00:01'\n"
         "dev = 'eth2'\n", "no interface eth2"),
        (INTERFACE + "[[route]]\nto = 'default'\nvia = '172.16.2.1'\n",
         "gateway 172.16.2.1 cannot be reached"),
        (INTERFACE + "[sysctl]\nnet.ipv4.vs.no_such = 1\n", "net.ipv4.vs.no_such"),
    ],
)  # fmt: skip
def test_files(lab, text, said):
    path = lab.folder / "wrong" / "director.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert said in refusal(lab, "-c", str(path))


def test_without_permission(lab):
    """As root without the capability; only the director's own line, and status."""
    said = refusal(lab, *LVS, prefix=("setpriv", "--bounding-set", "-net_raw,-net_admin"))
    assert "eth1: packet sockets need root or CAP_NET_RAW" in said


def test_addresses_of_the_kernel(lab):
    said = refusal(lab, "--interface", "eth1=172.16.1.200/24", node="route")
    assert "the kernel has 172.16.1.200 itself" in said


def test_a_second_director_on_one_socket(lab):
    first = lab.director(*LVS)
    second = lab.start("director", *RUN, "--control", lab.control, *LVS)
    assert second.wait(20) == 1
    assert len(second.stderr.read().splitlines()) == 1
    assert "172.16.1.3" not in lab.run("director", "ip", "addr")
    assert "virtual server" in lab.ask("ipvsadm", "-Ln").lower()
    assert lab.stop(first) == 0


def test_a_neighbour_that_is_not_there(lab):
    """A gateway that nobody has is not known before a packet is for it: the sender is told."""
    director = lab.director("--interface", "eth1=172.16.1.3/24", "--route", "default=172.16.1.250")
    said = lab.run("rs01", "ping", "-c", "1", "-W", "5", "192.0.2.1", check=False)
    assert "From 172.16.1.3 icmp_seq=1 Destination Host Unreachable" in said
    assert lab.stop(director) == 0


def test_an_interface_that_is_down_is_told_of(lab):
    lab.run("director", "ip", "link", "set", "eth1", "down")
    director = lab.director("--interface", "eth1=172.16.1.3/24")
    said = director.stderr.readline()
    lab.run("director", "ip", "link", "set", "eth1", "up")
    assert said == "lvscore: eth1 is down, and passes no frame before ip link set eth1 up\n"
    assert "0% packet loss" in lab.run("rs01", "ping", "-c", "1", "-W", "5", "172.16.1.3")
    assert lab.stop(director) == 0
