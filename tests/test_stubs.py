"""The stubs say what the compiled modules are."""

import subprocess
import sys

import pytest

MODULES = [
    "_engine", "_frames", "_probe", "_probe_frame", "_probe_ftp", "_probe_packet",
    "_probe_payload", "_probe_scheduler", "_probe_server", "_probe_store", "_probe_window",
    "io._packet", "io._pcap", "io._pcap_writer", "io._tun", "io._write_behind",
    "io._xdp", "_tally",
]  # fmt: skip


def test_stubtest():
    pytest.importorskip("mypy.stubtest")
    names = [f"lvscore.{module}" for module in MODULES]
    result = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", *names], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
