"""A director that is told to read its file, is replaced, or killed, with downloads on their way."""

import hashlib
import os
import signal
import sys
import time

import pytest
from namespaces import LVS, PAGES, VIP, Download, missing, services

import lvscore

_WHY = missing()
pytestmark = [
    pytest.mark.skipif(bool(_WHY), reason=_WHY or "complete"),
    pytest.mark.usefixtures("offloads"),
]

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
    for node in PAGES:
        (lab.folder / node / "file").write_bytes(data)
    path = lab.folder / "director.toml"
    path.write_text(TOML)
    return path, hashlib.sha256(data).hexdigest()


def test_it_reads_its_file_again_without_losing_a_connection(lab, file):
    path, digest = file
    director = lab.director("-c", str(path))
    client = Download(lab, f"http://{VIP}/file")
    path.write_text(TOML.replace("172.16.1.7", "172.16.1.9") + "wait = 1\n")
    director.send_signal(signal.SIGHUP)
    assert "wait = 1: no such key" in director.stderr.readline()
    assert "172.16.1.7" in lab.ask("ipvsadm", "-Ln")
    path.write_text(TOML + '[[service.server]]\nreal-server = "172.16.1.8:80"\n')
    director.send_signal(signal.SIGHUP)
    assert "has read" in director.stderr.readline()
    assert "RS-Node2" in lab.curl(f"http://{VIP}/")
    assert "172.16.1.7:80                Masq    1      1" in lab.ask("ipvsadm", "-Ln")
    assert client.rest() == digest
    assert lab.stop(director) == 0


def test_another_process_takes_over(lab, file):
    path, digest = file
    old = lab.director("-c", str(path))
    client = Download(lab, f"http://{VIP}/file")
    new = lab.start("director", sys.executable, "-m", "lvscore", "run", "--takeover",
                    "--control", lab.control, "-c", str(path))  # fmt: skip
    assert old.wait(10) == 0
    assert "goes on with 1 connections" in new.stderr.readline()
    assert "running on" in new.stderr.readline()
    assert "172.16.1.7:80                Masq    1      1" in lab.ask("ipvsadm", "-Ln")
    assert client.rest() == digest
    assert "RS-Node1" in lab.curl(f"http://{VIP}/")
    assert lab.stop(new) == 0
    assert not os.path.exists(lab.control)


def test_one_that_was_killed_is_followed_by_its_state(lab, file):
    path, digest = file
    state = lab.folder / "director.state"
    state.unlink(missing_ok=True)
    path.write_text(f"[director]\nstate = '{state}'\nstate-interval = 1\n{TOML}")
    first = lab.director("-c", str(path))
    client = Download(lab, f"http://{VIP}/file")
    for _ in range(100):
        if state.exists() and len(lvscore.Engine.load(state).connections):
            break
        time.sleep(0.05)
    first.kill()
    first.wait()
    second = lab.director("-c", str(path))
    assert client.rest() == digest
    assert "ActiveConn" in lab.ask("ipvsadm", "-Ln")
    assert lab.stop(second) == 0
    assert len(lvscore.Engine.load(state).connections) == 1


def test_nothing_is_left_when_it_is_killed(lab):
    before = lab.run("director", "ip", "-d", "link", "show", "eth1")
    program = lab.director(*LVS, *services())
    program.kill()
    program.wait()
    assert lab.run("director", "ip", "-d", "link", "show", "eth1") == before
    assert "Web Page" not in lab.curl(f"http://{VIP}/", "-m", "1")
