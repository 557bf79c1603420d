"""The progress bar of ``lvscore replay``: on a terminal, and nowhere else."""

import os
import pty
import subprocess
import sys


def on_a_terminal(*words):
    """What a terminal gets as standard error of the command, and its exit status."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "lvscore", *map(str, words)], stdout=subprocess.DEVNULL,
        stderr=follower, env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
    )  # fmt: skip
    os.close(follower)
    seen = b""
    try:
        while piece := os.read(leader, 4096):
            seen += piece
    except OSError:  # EIO: the other end is closed
        pass
    finally:
        os.close(leader)
    return seen, process.wait(20)


def test_on_a_terminal_it_comes_to_the_end(requests, rules, tmp_path):
    seen, status = on_a_terminal("replay", requests, "-o", tmp_path / "out.pcap", "-c", rules)
    assert status == 0
    assert b"100%" in seen
    assert b"4 frames" in seen


def test_not_where_it_is_not_wanted(requests, rules, tmp_path):
    words = ("replay", requests, "-o", tmp_path / "out.pcap", "-c", rules, "--no-progress")
    assert on_a_terminal(*words) == (b"", 0)


def test_not_where_there_is_no_terminal(start_cli, requests, rules, tmp_path):
    process = start_cli("replay", requests, "-o", tmp_path / "out.pcap", "-c", rules)
    assert process.communicate(timeout=20)[1] == b""
    assert process.returncode == 0
