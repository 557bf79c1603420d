"""Every example runs, and shows what it is there to show."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
FILES = sorted(EXAMPLES.glob("*.py"))
LAB = EXAMPLES / "lvs_nat_lab.py"

EXPECTED = {
    "connections_to_dataframe": "10 in TIME_WAIT",
    "embed_on_a_capture": "395 frames: 393 forwarded, 2 local, 10 connections",
    "lvs_nat_lab": "  -> 172.16.1.8:80                Masq    1      0          4         ",
    "nat_router": "10.0.0.100:40000 -> 10.0.0.200:80  becomes  10.0.0.100:40000 -> 172.16.1.100:80",
    "scapy_in_and_out": "checksum 0x57bb, scapy says 0x57bb",
    "your_own_loop": "393 frames to send, 10 connections",
}


def run(example: Path, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(example)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("example", FILES, ids=lambda path: path.stem)
def test_runs(example, tmp_path):
    assert EXPECTED[example.stem] in run(example, tmp_path)


@pytest.mark.parametrize("example", [f for f in FILES if f != LAB], ids=lambda path: path.stem)
def test_is_short(example):
    assert len(example.read_text().splitlines()) < 80


def test_lab_alternates_and_the_server_added_last_answers_first(tmp_path):
    output = run(LAB, tmp_path).splitlines()
    pages = [line for line in output if line.startswith("Web Page")]
    assert pages == ["Web Page RS-Node2", "Web Page RS-Node1"] * 4


def test_lab_shows_each_hop(tmp_path):
    output = run(LAB, tmp_path)
    request = [
        "│ client   │ route    │ 10.0.0.100:40004 │ 10.0.0.200:80    │ SYN             │",
        "│ route    │ director │ 10.0.0.100:40004 │ 172.16.1.100:80  │ SYN             │",
        "│ director │ rs02     │ 10.0.0.100:40004 │ 172.16.1.8:80    │ SYN             │",
        "│ rs02     │ director │ 172.16.1.8:80    │ 10.0.0.100:40004 │ SYN+ACK         │",
        "│ director │ route    │ 172.16.1.100:80  │ 10.0.0.100:40004 │ SYN+ACK         │",
        "│ route    │ client   │ 10.0.0.200:80    │ 10.0.0.100:40004 │ SYN+ACK         │",
    ]
    assert "\n".join(request) in output


CONVERSATIONS = {"client": 8, "route-in": 8, "director": 16, "rs01": 4, "rs02": 4}
FRAMES_PER_CONVERSATION = 9

needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="no tshark here")


@pytest.fixture(scope="module")
def lab_captures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    run(LAB, folder)
    return folder / "out" / "lab"


def tshark(capture, *arguments):
    checks = ("-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE")
    command = ["tshark", "-r", str(capture), *checks, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@needs_tshark
@pytest.mark.parametrize("link", CONVERSATIONS)
def test_lab_captures_have_nothing_wrong(lab_captures, link):
    wrong = "ip.checksum.status==0 || tcp.checksum.status==0 || tcp.analysis.flags"
    assert tshark(lab_captures / f"{link}.pcap", "-Y", wrong) == ""
    good = tshark(lab_captures / f"{link}.pcap", "-Y", "tcp.checksum.status==1")
    assert len(good.splitlines()) == FRAMES_PER_CONVERSATION * CONVERSATIONS[link]


@needs_tshark
@pytest.mark.parametrize("link", CONVERSATIONS)
def test_lab_captures_have_all_conversations(lab_captures, link):
    listing = tshark(lab_captures / f"{link}.pcap", "-q", "-z", "conv,tcp")
    assert listing.count("<->") == CONVERSATIONS[link]
