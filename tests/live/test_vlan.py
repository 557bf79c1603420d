"""A director in a VLAN of its interface, among neighbours whose ports put and take the tag."""

import subprocess
import sys
from collections import Counter

import pytest
from namespaces import (
    LVS,
    PAGES,
    RS01,
    RS01_6,
    VIP,
    VIP6,
    Lab,
    digest_of,
    frames_of,
    missing,
    services,
    wrong_checksums,
)

_WHY = missing("clang", "tc", "tshark", "tcpdump")
pytestmark = pytest.mark.skipif(bool(_WHY), reason=_WHY or "complete")

TAGS = """
static long (*push)(void *, unsigned short, unsigned short) = (void *)18;  /* linux/bpf.h */
static long (*pop)(void *) = (void *)19;
#define AT(name) __attribute__((section(name), used))
AT("push") int leaves(void *frame) { push(frame, 0x0081, 10); return 0; }
AT("pop") int comes(void *frame) { pop(frame); return 0; }
"""
"""What a port of a VLAN does; the kernel's own VLAN interfaces are not everywhere."""


@pytest.fixture(scope="module")
def tagged(tmp_path_factory):
    """A lab whose LAN is VLAN 10."""
    folder = tmp_path_factory.mktemp("vlan")
    folder.parent.chmod(0o755)
    (folder / "tags.c").write_text(TAGS)
    subprocess.run(
        ["clang", "-O2", "-target", "bpf", "-c", "tags.c", "-o", "tags.o"], cwd=folder, check=True
    )
    lab = Lab(folder)
    try:
        for node in ("route", "rs01", "rs02"):
            lab.run(node, "tc", "qdisc", "add", "dev", "eth1", "clsact")
            for way, section in (("egress", "push"), ("ingress", "pop")):
                lab.run(node, "tc", "filter", "add", "dev", "eth1", way, "bpf", "da", "obj",
                        f"{folder}/tags.o", "sec", section)  # fmt: skip
        yield lab
    finally:
        lab.close()


@pytest.mark.parametrize(
    ("tx", "options"),
    [
        ("on", ["ring"]),
        ("off", ["ring"]),
        ("off", ["copy"]),
    ],
)
def test_a_director_in_a_vlan(tagged, large, tmp_path, tx, options):
    lab = tagged
    for node in PAGES:
        target = lab.folder / node / "large"
        if not target.exists():
            target.hardlink_to(large[0])
    lab.run("director", "ethtool", "-K", "eth1", "tx", tx)
    words = [word.replace("eth1=", "eth1.10=") for word in (*LVS, *services())]
    program = lab.director(*words, "--backend", *options)
    assert "running on eth1.10" in program.said
    with lab.recorded(tmp_path) as captures:
        for host in (VIP, f"[{VIP6}]"):
            pages = Counter(lab.curl(f"http://{host}/") for _ in range(4))
            assert pages == dict.fromkeys(PAGES.values(), 2)
            lab.curl(f"http://{host}/large", "-r", "0-1000000", "-o", "/dev/null")
        for target in (VIP, VIP6, RS01, RS01_6):
            assert " 0% packet loss" in lab.run("client", "ping", "-c", "1", target)
    received = lab.folder / "received"
    assert lab.curl(f"http://{VIP}/large", "-o", str(received), "-w", "%{http_code}") == "200"
    assert digest_of(received) == large[1]
    assert lab.stop(program) == 0
    at_director = captures[2]
    assert frames_of(at_director, "vlan.id == 10 and tcp") > 50
    assert frames_of(at_director, "not vlan and (tcp or arp or icmp)") == 0
    finished = lab.mac("director", "eth1") if tx == "off" else ""
    assert wrong_checksums(at_director, finished) == []


def test_frames_of_other_vlans_are_not_taken(tagged):
    lab = tagged
    words = [word.replace("eth1=", "eth1.11=") for word in (*LVS, *services())]
    program = lab.director(*words)
    assert "Web Page" not in lab.curl(f"http://{VIP}/", "-m", "1")
    assert lab.stop(program) == 0
    assert "eth1.11: 0 received" in program.stderr.read()


@pytest.mark.parametrize("name", ["eth1.0", "eth1.4095", "eth7.10", "eth1.x"])
def test_what_is_no_vlan(lab, name):
    said = lab.run(
        "director", "sh", "-c",
        f"{sys.executable} -m lvscore run --control none "
        f"--interface {name}=172.16.1.3/24 2>&1", check=False,
    )  # fmt: skip
    assert said == f"lvscore: error: {name}: no such network interface\n"
