"""What lies around a live director: pings, MTUs on the way, jumbo frames, links that fail."""

import re
import time
from pathlib import Path

import pytest
from namespaces import (
    CLIENT,
    CLIENT6,
    LVS,
    PAGES,
    RS01,
    RS01_6,
    VIP,
    VIP6,
    Download,
    digest_of,
    frames_of,
    missing,
    services,
)

_WHY = missing("tcpdump", "tshark")
pytestmark = pytest.mark.skipif(bool(_WHY), reason=_WHY or "complete")

HOSTS = (VIP, f"[{VIP6}]")


def fetch(lab, host, large):
    """The large file comes down, intact."""
    received = lab.folder / "received"
    said = lab.curl(f"http://{host}/large", "-o", str(received), "-w", "%{http_code}")
    assert said == "200"
    assert digest_of(received) == large[1]


def send(lab, host, large):
    """The large file goes up, intact."""
    said = lab.curl(f"http://{host}/sent", "-T", str(large[0]), "-w", "%{http_code}")
    assert said == "201"
    (stored,) = [
        lab.folder / node / "sent" for node in PAGES if (lab.folder / node / "sent").exists()
    ]
    assert digest_of(stored) == large[1]
    stored.unlink()


def test_ping_of_the_director_and_through_it(lab, director):
    """The real servers' way to everywhere leads over the director, and so does the way back."""
    for target in (VIP, VIP6, RS01, RS01_6):
        assert " 0% packet loss" in lab.run("client", "ping", "-c", "2", "-i", "0.2", target)
    for target in (CLIENT, CLIENT6):
        assert " 0% packet loss" in lab.run("rs01", "ping", "-c", "2", "-i", "0.2", target)


@pytest.fixture
def narrow(lab, director):
    """1400 bytes are the most that route has a way for to the client."""
    lab.reset()
    lab.run("route", "ip", "route", "add", f"{CLIENT}/32", "dev", "eth0", "mtu", "1400")
    lab.run("route", "ip", "route", "add", f"{CLIENT6}/128", "dev", "eth0", "mtu", "1400")
    yield
    lab.run("route", "ip", "route", "del", f"{CLIENT}/32", "dev", "eth0")
    lab.run("route", "ip", "route", "del", f"{CLIENT6}/128", "dev", "eth0")
    lab.reset()


def test_a_router_behind_tells_the_real_server_of_a_smaller_mtu(lab, narrow, large, tmp_path):
    """Its error is for the VIP, about a packet that the real server sent: it reaches that one,
    in the words that it knows (RFC 1191, RFC 8201)."""
    with lab.recorded(tmp_path) as captures:
        for host in HOSTS:
            lab.curl(f"http://{host}/large", "-r", "0-1000000", "-o", "/dev/null")
    for host in HOSTS:
        fetch(lab, host, large)
    told = [frames_of(capture, "icmp.type == 3 and icmp.code == 4 and icmp.mtu == 1400")
            for capture in captures[3:]]  # fmt: skip
    told6 = [frames_of(capture, "icmpv6.type == 2 and icmpv6.mtu == 1400")
             for capture in captures[3:]]  # fmt: skip
    assert max(told) > 0
    assert max(told6) > 0
    for server, client in (("-4", CLIENT), ("-6", CLIENT6)):
        known = [lab.run(node, "ip", server, "route", "get", client) for node in PAGES]
        assert any("mtu 1400" in line for line in known)


def test_the_director_tells_the_client_of_its_own_smaller_mtu(lab, offloads, large):
    """Its wire to the real servers takes 1400 bytes: the client sends no longer ones then."""
    lab.reset()
    path = lab.folder / "narrow.toml"
    path.write_text(
        '[interface.eth1]\nmtu = 1400\naddress = ["172.16.1.3/24", "172.16.1.100/32", '
        '"2001:db8:1::3/64", "2001:db8:1::100/128"]\n'
    )
    program = lab.director("-c", str(path), *LVS[LVS.index("--route"):], *services())  # fmt: skip
    for host in HOSTS:
        send(lab, host, large)
    assert "mtu 1400" in lab.run("client", "ip", "route", "get", VIP)
    assert "mtu 1400" in lab.run("client", "ip", "-6", "route", "get", VIP6)
    assert lab.stop(program) == 0
    lab.reset()


@pytest.fixture
def jumbo(lab, offloads):
    """Every link takes 9000 bytes; the director takes its interface's MTU as it finds it."""
    ports = [("client", "eth0"), ("route", "eth0"), ("lan", "br0"),
             *((node, "eth1") for node in ("route", "director", "rs01", "rs02")),
             *(("lan", f"p-{node}") for node in ("route", "director", "rs01", "rs02"))]  # fmt: skip

    def set_mtu(mtu):
        for node, port in ports:
            lab.run(node, "ip", "link", "set", port, "mtu", str(mtu))

    set_mtu(9000)
    lab.reset()
    program = lab.director(*LVS, *services())
    yield
    assert lab.stop(program) == 0
    set_mtu(1500)
    lab.reset()


def test_frames_of_9000_bytes(lab, jumbo, large, tmp_path):
    lab.run("client", "ping", "-c", "1", "-M", "do", "-s", "8972", VIP)
    lab.run("client", "ping", "-c", "1", "-M", "do", "-s", "8972", RS01)
    lab.run("client", "ping", "-6", "-c", "1", "-M", "do", "-s", "8952", RS01_6)
    for host in HOSTS:
        fetch(lab, host, large)
    send(lab, VIP, large)
    with lab.recorded(tmp_path) as captures:
        lab.curl(f"http://{VIP}/large", "-o", "/dev/null", "-r", "0-1000000")
    assert frames_of(captures[0], "tcp.options.mss_val == 8960") == 2
    assert all(frames_of(capture, "icmp.type == 3") == 0 for capture in captures)


def processor_time(program):
    """Seconds of processor time that a program has had."""
    fields = Path(f"/proc/{program.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.parametrize(
    ("backend", "node", "port"),
    [("ring", "lan", "p-director"), ("ring", "director", "eth1"), ("copy", "director", "eth1")],
)
def test_a_link_that_goes_down_and_up(lab, offloads, large, backend, node, port):
    """A download stands still meanwhile, the director does not spin, and all goes on."""
    program = lab.director(*LVS, *services(), "--backend", backend)
    download = Download(lab, f"http://{VIP}/large")
    lab.run(node, "ip", "link", "set", port, "down")
    assert "Web Page" not in lab.curl(f"http://{VIP}/", "-m", "0.5")
    before = processor_time(program)
    time.sleep(0.5)
    assert processor_time(program) - before < 0.1
    lab.run(node, "ip", "link", "set", port, "up")
    assert {lab.curl(f"http://{VIP}/") for _ in range(4)} == set(PAGES.values())
    assert {lab.curl(f"http://[{VIP6}]/") for _ in range(4)} == set(PAGES.values())
    assert download.rest() == large[1]
    assert re.search(r"eth1: \d+ received", stopped(lab, program))


def stopped(lab, program):
    """What a director says at its end."""
    assert lab.stop(program) == 0
    return program.stderr.read()


def test_an_interface_that_is_removed(lab, offloads):
    """The director ends, in one line."""
    lab.run("director", "ip", "link", "add", "gone0", "type", "veth", "peer", "name", "gone1")
    lab.run("director", "ip", "link", "set", "gone0", "up")
    program = lab.director("--interface", "gone0=192.0.2.1/24")
    lab.run("director", "ip", "link", "del", "gone0")
    assert program.wait(5) == 1
    assert program.stderr.read().splitlines()[-1].startswith("lvscore: error: gone0: ")
