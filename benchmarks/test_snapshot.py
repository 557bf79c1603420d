"""How long a restart takes: an engine saved to a file, and loaded from it."""

import pytest
from test_pipeline import established

import lvscore

CONNECTIONS = [1_000, 100_000, 1_000_000]


@pytest.mark.benchmark(group="restart")
@pytest.mark.parametrize("connections", CONNECTIONS)
def test_save(benchmark, connections, tmp_path):
    engine = established(connections)
    benchmark.pedantic(engine.save, (tmp_path / "state",), rounds=3)
    benchmark.extra_info["bytes"] = (tmp_path / "state").stat().st_size


@pytest.mark.benchmark(group="restart")
@pytest.mark.parametrize("connections", CONNECTIONS)
def test_load(benchmark, connections, tmp_path):
    established(connections).save(tmp_path / "state")
    loaded = benchmark.pedantic(lvscore.Engine.load, (tmp_path / "state",), rounds=3)
    assert len(loaded.connections) == connections
