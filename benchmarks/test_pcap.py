"""Frames a second from and to captures, the file in page cache: ``pytest benchmarks``."""

import pytest
from traffic import pcap

from lvscore.io import create_pcap, open_pcap

FRAMES = 2_000_000


@pytest.fixture(scope="module")
def captures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captures")
    made = {}
    for size in (64, 1500):
        made["pcap", size] = pcap(folder / f"{size}.pcap", FRAMES * 64 // size, size=size)
        made["pcapng", size] = folder / f"{size}.pcapng"
        with (
            open_pcap(made["pcap", size]) as source,
            create_pcap(made["pcapng", size], format="pcapng") as sink,
        ):
            for batch in source:
                sink.write_batch(batch)
    return made


def measure(benchmark, work):
    frames = benchmark.pedantic(work, rounds=7, warmup_rounds=1)
    benchmark.extra_info["frames/s"] = round(frames / benchmark.stats.stats.median)


@pytest.mark.parametrize("size", [64, 1500])
@pytest.mark.parametrize("format", ["pcap", "pcapng"])
def test_read(benchmark, captures, format, size):
    def work():
        with open_pcap(captures[format, size]) as source:
            for _ in source:
                pass
            return source.frames

    measure(benchmark, work)


@pytest.mark.parametrize("target", ["/dev/null", "file"])
@pytest.mark.parametrize("format", ["pcap", "pcapng"])
def test_read_and_write(benchmark, captures, format, target, tmp_path):
    path = tmp_path / "out" if target == "file" else target

    def work():
        with open_pcap(captures[format, 64]) as source, create_pcap(path, like=source) as sink:
            for batch in source:
                sink.write_batch(batch)
            return sink.frames

    measure(benchmark, work)
