"""The LVS-NAT lab as a capture, and the command line to send it through."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.utils import rdpcap, wrpcap

import lvscore
from lvscore import cli

RULES = """\
# the director of the lab
-A -t 172.16.1.100:80 -s rr
-a -t 172.16.1.100:80 -r 172.16.1.7:80 -m
-a -t 172.16.1.100:80 -r 172.16.1.8:80 -m
"""


def packet(source, destination, flags, seconds):
    """A TCP segment from ``address:port`` to ``address:port``."""
    (src, sport), (dst, dport) = (text.split(":") for text in (source, destination))
    frame = (
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        / IP(src=src, dst=dst)
        / TCP(sport=int(sport), dport=int(dport), flags=flags)
    )
    frame.time = 1_700_000_000 + seconds
    return frame


@pytest.fixture
def requests(tmp_path):
    """A capture of two requests to the virtual service, and a frame that is none of ours."""
    path = tmp_path / "requests.pcap"
    wrpcap(
        str(path),
        [
            packet("10.0.0.1:40000", "172.16.1.100:80", "S", 0.0),
            packet("10.0.0.1:40000", "172.16.1.100:80", "A", 0.1),
            packet("10.0.0.1:40001", "172.16.1.100:80", "S", 0.2),
            packet("10.0.0.1:40001", "192.0.2.1:80", "S", 0.3),
        ],
    )
    return path


@pytest.fixture
def rules(tmp_path):
    """The director's configuration file."""
    path = tmp_path / "lvs.rules"
    path.write_text(RULES)
    return path


@pytest.fixture
def run_cli(monkeypatch, capfd):
    """Run the command line in this process; return (status, stdout, stderr)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["lvscore", *map(str, words)])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        out, err = capfd.readouterr()
        return exited.value.code, out, err

    return run


@pytest.fixture
def start_cli():
    """Start the command line as a process."""

    def start(*words, **options):
        root = str(Path(lvscore.__file__).parent.parent)
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, "-m", "lvscore", *map(str, words)],
            **{"stdin": pipe, "stdout": pipe, "stderr": pipe, **options},
            env={**os.environ, "PYTHONPATH": root},
        )

    return start


@pytest.fixture
def destinations():
    """A function that gives the destinations of a capture's frames."""
    return lambda path: [f"{p[IP].dst}:{p[TCP].dport}" for p in rdpcap(str(path))]
