"""`make lab` in both forms: the seed's lines, captures of every link, and nothing left."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from namespaces import missing

_WHY = missing("tcpdump")
pytestmark = pytest.mark.skipif(bool(_WHY), reason=_WHY or "complete")

LAB = Path(__file__).parents[2] / "examples" / "lab" / "lab.py"
CURL = "[root@client ~]# curl -HHost:lvs.birenchong.cn http://"
NODES = {"lan", "client", "route", "director", "rs01", "rs02"}


def left():
    """Namespaces of the lab that are there, and processes in them."""
    listed = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in listed.splitlines()} & {f"lab-{node}" for node in NODES}


@pytest.mark.parametrize(
    ("words", "vip", "public", "servers"),
    [
        ([], "172.16.1.100", "10.0.0.200", ("172.16.1.7", "172.16.1.8")),
        (["--ipv6"], "[2001:db8:1::100]", "[2001:db8::200]",
         ("[2001:db8:1::7]", "[2001:db8:1::8]")),
    ],
)  # fmt: skip
def test_the_seeds_lines(tmp_path, words, vip, public, servers):
    done = subprocess.run(
        [sys.executable, str(LAB), *words, str(tmp_path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    refused = lines.pop(5)
    assert refused.startswith("curl: (7)")
    assert lines[:9] == [
        f"{CURL}{vip}", "Web Page RS-Node2", f"{CURL}{vip}", "Web Page RS-Node1", f"{CURL}{vip}",
        f"{CURL}{public}", "Web Page RS-Node2", f"{CURL}{public}", "Web Page RS-Node1",
    ]  # fmt: skip
    assert lines[9] == "[root@lb01 ~]# ipvsadm -L -n"
    assert lines[13] == f"TCP  {vip}:80 rr"
    assert [line.split()[:4] for line in lines[14:16]] == [
        ["->", f"{server}:80", "Masq", "1"] for server in servers
    ]
    captures = sorted(path.stem for path in tmp_path.glob("*.pcap") if path.stat().st_size > 24)
    assert captures == ["client-eth0", "director-eth1", "route-eth1", "rs01-eth1", "rs02-eth1"]
    assert left() == set()


def test_one_that_is_ended_cleans_up(tmp_path):
    lab = subprocess.Popen([sys.executable, str(LAB), str(tmp_path)], stdout=subprocess.PIPE)
    while b"curl" not in lab.stdout.readline():
        assert lab.poll() is None
    assert left() == {f"lab-{node}" for node in NODES}
    second = subprocess.run([sys.executable, str(LAB)], capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert second.stderr.startswith("a lab is running, or was killed: ip netns del lab-")
    lab.send_signal(signal.SIGTERM)
    lab.stdout.read()
    lab.stdout.close()
    assert lab.wait(20) == 143
    assert left() == set()


def test_a_user_is_told_that_it_needs_root(tmp_path):
    """In a copy, for the checkout may be root's alone."""
    copy = tmp_path / "lab.py"
    copy.write_text(LAB.read_text())
    for folder in (tmp_path, *tmp_path.parents):
        if not os.stat(folder).st_mode & 1:
            folder.chmod(0o755)
    done = subprocess.run(
        ["setpriv", "--reuid", "65534", "--clear-groups", "/usr/bin/env", "python3", str(copy)],
        capture_output=True, text=True, cwd="/", check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "the lab makes network namespaces: run it as root\n"
