"""Pages, files and datagrams of real programs through a director on a real interface."""

import os
import re
import shutil
import time
from collections import Counter
from itertools import pairwise

import pytest
from namespaces import (
    LVS,
    PAGES,
    RS01,
    RS01_6,
    VIP,
    VIP6,
    digest_of,
    frames_of,
    missing,
    services,
    wrong_checksums,
)

_WHY = missing("wrk", "tcpdump", "tshark", "dig", "dnsmasq", "socat")
pytestmark = pytest.mark.skipif(bool(_WHY), reason=_WHY or "complete")

HOSTS = (VIP, f"[{VIP6}]")


@pytest.fixture(scope="module", params=["ring", "copy"])
def either(lab, offloads, request):
    """A director, with each way to read frames."""
    program = lab.director(*LVS, *services(), "--backend", request.param)
    yield program
    assert lab.stop(program) == 0


def test_requests_alternate(lab, either):
    for host in HOSTS:
        pages = [lab.curl(f"http://{host}/") for _ in range(6)]
        assert Counter(pages) == dict.fromkeys(PAGES.values(), 3)
        assert all(a != b for a, b in pairwise(pages))


def test_100_mb_come_down_intact(lab, either, large):
    received = lab.folder / "received"
    for host in HOSTS:
        said = lab.curl(f"http://{host}/large", "-o", str(received), "-w", "%{http_code}")
        assert said == "200"
        assert digest_of(received) == large[1]
    received.unlink()


def test_100_mb_go_up_intact(lab, either, large):
    for host in HOSTS:
        said = lab.curl(f"http://{host}/sent", "-T", str(large[0]), "-w", "%{http_code}")
        assert said == "201"
        arrived = [lab.folder / node / "sent" for node in PAGES]
        (stored,) = [path for path in arrived if path.exists()]
        assert digest_of(stored) == large[1]
        stored.unlink()


def test_2000_connections_at_once_have_no_error(lab, director):
    client = lab.start(
        "client", "wrk", "-c", "2000", "-t", "2", "-d", "3", "--timeout", "10", f"http://{VIP}/",
        output=True,
    )  # fmt: skip
    said, _ = client.communicate(timeout=30)
    assert "Socket errors" not in said
    assert "Non-2xx" not in said
    assert int(re.search(r"(\d+) requests in", said)[1]) > 2000
    opened = re.findall(r"-> 172\S+\s+(\d+)", lab.ask("ipvsadm", "-Ln", "--stats"))
    assert sorted(opened[:2]) == ["1000", "1001"]  # the one is a trial of wrk's


@pytest.fixture
def resolvers(lab):
    """A DNS server on either real server, which tells its name; 53 at the VIPs, UDP."""
    program = lab.director(*LVS, *services("u", 53))
    for node in PAGES:
        lab.start(
            node, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv",
            "--no-hosts", "--user=root", "--pid-file=", f"--txt-record=whoami,{node}",
        )  # fmt: skip
        for _ in range(100):
            if node in lab.run(node, "dig", "+short", "+tries=1", "+time=1", "whoami", "TXT",
                               "@127.0.0.1", check=False):  # fmt: skip
                break
            time.sleep(0.02)
    yield
    assert lab.stop(program) == 0


def test_names_are_resolved_by_udp(lab, resolvers):
    for vip in (VIP, VIP6):
        answers = [
            lab.run("client", "dig", "+short", "+tries=1", f"@{vip}", "whoami", "TXT")
            for _ in range(4)
        ]
        assert Counter(answers) == {'"rs01"\n': 2, '"rs02"\n': 2}


def test_a_datagram_in_fragments_is_answered_in_fragments(lab, offloads):
    """4000 bytes are three fragments, which the director puts together to know the service."""
    program = lab.director(*LVS, *services("u", 7))
    for node in PAGES:
        for family in ("4", "6"):
            lab.start(node, "socat", "-b8192",
                      f"UDP{family}-RECVFROM:7,fork" + ",ipv6only=1" * (family == "6"),
                      "EXEC:cat")  # fmt: skip
    time.sleep(0.2)
    sent = lab.folder / "datagram"
    sent.write_bytes(os.urandom(4000))
    for host in HOSTS:
        back = lab.folder / "answer"
        lab.run("client", "sh", "-c", f"socat -b8192 -t0.5 - UDP:{host}:7 <{sent} >{back}")
        assert back.read_bytes() == sent.read_bytes()
    assert lab.stop(program) == 0


def test_no_receiver_sees_a_wrong_checksum(lab, director, offloads, tmp_path):
    """Of what tcpdump sees on every link, while all kinds of packets are on their way."""
    data = lab.folder / "megabytes"
    data.write_bytes(os.urandom(1 << 20))
    for node in PAGES:
        shutil.copy(data, lab.folder / node / "megabytes")
    for line in (f"-A -u {VIP}:9 -s rr", f"-a -u {VIP}:9 -r {RS01}:9 -m"):
        lab.ask("ipvsadm", *line.split())
    with lab.recorded(tmp_path) as captures:
        for host in HOSTS:
            lab.curl(f"http://{host}/megabytes", "-o", "/dev/null")
            lab.curl(f"http://{host}/put", "-T", str(data))
            lab.curl(f"http://{host}:81/")  # refused by the director
        for target, size in ((VIP, 2000), (VIP6, 1000), (RS01, 2000), (RS01_6, 2000)):
            lab.run("client", "ping", "-c", "1", "-s", str(size), target)
        # Nothing listens there: an ICMP error, whose quoted packet is translated back.
        lab.run("client", "sh", "-c", f"echo lost | socat -t0.2 - UDP:{VIP}:9", check=False)
    finished = lab.mac("director", "eth1") if offloads == "tx off" else ""
    for capture in captures:
        assert capture.stat().st_size > 1 << 20
        assert wrong_checksums(capture, finished) == []
    assert frames_of(captures[0], "icmp.type == 3 and icmp.code == 3") == 1
