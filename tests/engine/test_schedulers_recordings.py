"""What a real director's schedulers picked (kernel 6.1, ipvsadm 1.31), packet by packet.

Each recording is a list of steps at times in milliseconds: a command with its status and text, a
listing, or a packet (without link header) and the addresses of what came out on the other side.
"""

import gzip
import json
from ipaddress import ip_address
from pathlib import Path

import pytest

from lvscore import Engine, Verdict
from lvscore.errors import CommandError

FILE = Path(__file__).parent.parent / "data" / "scheduler-recordings.json.gz"
RECORDINGS = {
    one["name"]: one["steps"] for one in json.loads(gzip.decompress(FILE.read_bytes()))
    # What has rules, too, is replayed by tests/conformance.
    if not any("iptables" in step.get("cmd", "") for step in one["steps"])
}  # fmt: skip

LISTINGS = {"Ln": "-L -n", "Sn": "-S -n", "thresholds": "-L -n --thresholds"}
LINK = {4: bytes(12) + b"\x08\x00", 6: bytes(12) + b"\x86\xdd"}


def ends(packet):
    """Source and destination, as text."""
    start, size = (12, 4) if packet[0] >> 4 == 4 else (8, 16)
    source, destination = packet[start : start + size], packet[start + size : start + 2 * size]
    return f"{ip_address(source)} > {ip_address(destination)}"


def run(engine, command):
    """Status, output and messages of one command line."""
    try:
        return 0, engine.ipvsadm(command), ""
    except CommandError as error:
        return error.status, "", f"{error}\n"


def send(engine, packet, now):
    """The addresses with which a packet leaves, if it does."""
    frame = bytearray(LINK[packet[0] >> 4] + packet)
    verdict = engine.process(frame, now)
    return [ends(bytes(frame[14:]))] if verdict in (Verdict.FORWARD, Verdict.PASS) else []


@pytest.mark.parametrize("name", sorted(RECORDINGS))
def test_recording(name):
    engine = Engine(seed=0)
    for number, step in enumerate(RECORDINGS[name]):
        now = step["t"] * 1_000_000
        engine.expire(now)
        if "packet" in step:
            got, expected = send(engine, bytes.fromhex(step["packet"]), now), step["out"]
        elif "cmd" in step:
            got = run(engine, step["cmd"])
            expected = step["rc"], step.get("stdout", ""), step.get("stderr", "")
        else:
            shown = step.keys() & LISTINGS.keys()
            got = {key: engine.ipvsadm(LISTINGS[key]) for key in shown}
            expected = {key: step[key] for key in shown}
        assert got == expected, f"step {number}: {step}"
