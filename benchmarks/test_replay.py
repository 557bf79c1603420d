"""A capture through the director, end to end: read, translate, write."""

import subprocess

import peers
import pytest
from test_pipeline import director
from traffic import pcap

import lvscore

FRAMES = 1_000_000


@pytest.mark.benchmark(group="replay")
@pytest.mark.parametrize("target", ["/dev/null", "file"])
def test_replay(benchmark, tmp_path, target):
    capture = pcap(tmp_path / "in.pcap", FRAMES, flows=50_000, flags=0x02)
    out = tmp_path / "out.pcap" if target == "file" else target

    def replay():
        with (
            lvscore.open_pcap(capture) as source,
            lvscore.create_pcap(out, like=source) as sink,
        ):
            return lvscore.run(director(100_000), source, sink)

    report = benchmark.pedantic(replay, rounds=5, warmup_rounds=1)
    assert report.frames == FRAMES
    rate = FRAMES / benchmark.stats.stats.median
    benchmark.extra_info.update(frames=FRAMES, frames_per_second=round(rate))


@pytest.mark.skipif(peers.tcprewrite() is None, reason="there is no tcprewrite (Debian: tcpreplay)")
@pytest.mark.benchmark(group="replay")
def test_tcprewrite(benchmark, tmp_path):
    """The same file with addresses mapped and checksums made anew, but no connections."""
    capture = pcap(tmp_path / "in.pcap", FRAMES, flows=50_000, flags=0x02)
    command = [
        peers.tcprewrite(), f"--infile={capture}", f"--outfile={tmp_path / 'out.pcap'}",
        "--pnat=10.0.0.1/32:192.168.0.1/32", "--fixcsum",
    ]  # fmt: skip
    benchmark.pedantic(subprocess.run, args=(command,), kwargs={"check": True}, rounds=3)
    rate = FRAMES / benchmark.stats.stats.median
    benchmark.extra_info.update(frames=FRAMES, frames_per_second=round(rate))
