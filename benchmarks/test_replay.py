"""A capture through the director, end to end: read, translate, write.

Each round writes a new file, whoever writes it: to empty one that is still on its way to the disk
takes longer than to write it.
"""

import itertools
import resource
import subprocess

import peers
import pytest
from test_pipeline import director
from traffic import pcap

import lvscore

FRAMES = 1_000_000


def measure(benchmark, work, output, rounds):
    """Time rounds of ``work``: wall time, and the CPU time of all threads and programs."""

    def spent():
        return sum(
            usage.ru_utime + usage.ru_stime
            for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        )

    def fresh():
        output.unlink(missing_ok=True)
        times.append(spent())

    times = []
    benchmark.pedantic(work, setup=fresh, rounds=rounds, warmup_rounds=1)
    times.append(spent())
    processor = sorted(after - before for before, after in itertools.pairwise(times[1:]))
    benchmark.extra_info.update(
        frames=FRAMES,
        frames_per_second=round(FRAMES / benchmark.stats.stats.median),
        cpu_ns_per_frame=round(processor[rounds // 2] * 1e9 / FRAMES, 1),
    )


@pytest.mark.benchmark(group="replay")
@pytest.mark.parametrize("target", ["/dev/null", "file"])
def test_replay(benchmark, tmp_path, target):
    capture = pcap(tmp_path / "in.pcap", FRAMES, flows=50_000, flags=0x02)
    new = tmp_path / "out.pcap"

    def replay():
        with (
            lvscore.open_pcap(capture) as source,
            lvscore.create_pcap(new if target == "file" else target, like=source) as sink,
        ):
            report = lvscore.run(director(100_000), source, sink)
        assert report.frames == report.verdicts["FORWARD"] == FRAMES

    measure(benchmark, replay, new, rounds=9)


@pytest.mark.skipif(peers.tcprewrite() is None, reason="there is no tcprewrite (Debian: tcpreplay)")
@pytest.mark.benchmark(group="replay")
def test_tcprewrite(benchmark, tmp_path):
    """The same file with addresses mapped and checksums made anew, but no connections."""
    capture = pcap(tmp_path / "in.pcap", FRAMES, flows=50_000, flags=0x02)
    new = tmp_path / "out.pcap"
    command = [
        peers.tcprewrite(), f"--infile={capture}", f"--outfile={new}",
        "--pnat=10.0.0.1/32:192.168.0.1/32", "--fixcsum",
    ]  # fmt: skip
    measure(benchmark, lambda: subprocess.run(command, check=True), new, rounds=5)
