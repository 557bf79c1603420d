"""The director's addresses are the machine's, too: its kernel is kept from answering."""

import sys
import time

import pytest
from namespaces import LVS, PAGES, VIP, VIP6, missing, services

_WHY = missing()
pytestmark = pytest.mark.skipif(bool(_WHY), reason=_WHY or "complete")

OWN = ("172.16.1.3/24", f"{VIP}/32", "172.16.1.4/32", "2001:db8:1::3/64", f"{VIP6}/128")
"""Addresses of the kernel; 172.16.1.4 is not lvscore's."""


@pytest.fixture(scope="module", autouse=True)
def _addresses(lab):
    lab.run("director", "sysctl", "-qw", "net.ipv6.conf.eth1.disable_ipv6=0")
    for address in OWN:
        lab.run("director", "ip", "addr", "add", address, "dev", "eth1",
                *(["nodad"] if ":" in address else []))  # fmt: skip
    lab.run("director", "ip", "route", "add", "default", "via", "172.16.1.200")
    yield
    lab.run("director", "ip", "addr", "flush", "dev", "eth1")
    lab.run("director", "sysctl", "-qw", "net.ipv6.conf.eth1.disable_ipv6=1")


def probe(lab, address, port):
    """How a client fares that connects."""
    text = (
        "import socket, sys\n"
        "try: socket.create_connection((sys.argv[1], int(sys.argv[2])), 2); print('connected')\n"
        "except OSError as error: print(type(error).__name__)"
    )
    return lab.run("client", sys.executable, "-c", text, address, str(port)).strip()


@pytest.mark.parametrize("backend", ["ring", "copy", "xdp"])
def test_the_kernel_keeps_out_of_it(lab, backend):
    assert probe(lab, VIP, 80) == "ConnectionRefusedError"
    program = lab.director(*LVS, *services(), "--shield", "--backend", backend)
    for host in (VIP, f"[{VIP6}]"):
        assert {lab.curl(f"http://{host}/") for _ in range(6)} == set(PAGES.values())
    for address in (VIP, VIP6):
        pings = lab.run("client", "ping", "-c", "3", "-i", "0.2", address)
        assert " 0% packet loss" in pings
        assert "DUP!" not in pings
    if backend != "xdp":  # of which the kernel sees nothing
        assert " 0% packet loss" in lab.run("client", "ping", "-c", "2", "-i", "0.2", "172.16.1.4")
    program.kill()
    program.wait()
    # It answers again, at once.
    assert probe(lab, VIP, 80) == "ConnectionRefusedError"
    assert " 0% packet loss" in lab.run("client", "ping", "-c", "1", VIP)


def test_it_ends_with_the_director(lab):
    program = lab.director(*LVS, *services(), "--shield")
    assert lab.curl(f"http://{VIP}/") in PAGES.values()
    assert lab.stop(program) == 0
    assert probe(lab, VIP, 80) == "ConnectionRefusedError"


def test_an_address_that_is_given_up_is_the_kernels(lab):
    path = lab.folder / "shield.toml"
    toml = """
        director.shield = true
        interface.eth1.address = ["172.16.1.3/24", "{}/32"]
        route = [{{ to = "default", via = "172.16.1.200" }}]
        """
    path.write_text(toml.format(VIP))
    program = lab.director("-c", str(path))
    before = lab.run("client", "ping", "-c", "1", VIP)
    path.write_text(toml.format("172.16.1.5"))
    program.send_signal(1)
    assert "has read" in program.stderr.readline()
    time.sleep(0.1)
    for said in (before, lab.run("client", "ping", "-c", "1", VIP)):
        assert " 0% packet loss" in said  # by the one, then by the other
    with pytest.raises(RuntimeError, match="100% packet loss"):
        lab.run("client", "ping", "-c", "1", "-W", "1", "172.16.1.6")
    assert lab.stop(program) == 0


def test_without_it_the_addresses_are_refused(lab):
    program = lab.start("director", sys.executable, "-m", "lvscore", "run", *LVS, *services())
    assert program.wait(20) == 1
    said = program.stderr.read()
    assert "the kernel has 172.16.1.100, 172.16.1.3, " in said
    assert "keep the kernel from it (shield)" in said


def test_a_kernel_that_forwards_is_refused(lab):
    lab.run("director", "sysctl", "-qw", "net.ipv4.conf.eth1.forwarding=1")
    program = lab.start(
        "director", sys.executable, "-m", "lvscore", "run", *LVS, *services(), "--shield"
    )
    assert program.wait(20) == 1
    assert "set net.ipv4.conf.eth1.forwarding to 0" in program.stderr.read()
    lab.run("director", "sysctl", "-qw", "net.ipv4.conf.eth1.forwarding=0")
