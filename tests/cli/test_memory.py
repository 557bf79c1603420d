"""The machine's memory, as lvscore run tells it to an engine."""

import pytest

from lvscore.cli.memory import tell_memory
from lvscore.engine import Engine

MEMINFO = """\
MemTotal:        8000000 kB
MemFree:         {free} kB
MemAvailable:    7000000 kB
Buffers:             100 kB
Cached:          3000000 kB
SwapFree:              0 kB
HugePages_Total:       0
"""


@pytest.mark.parametrize("name", ["drop_entry", "drop_packet", "secure_tcp"])
def test_an_automatic_defence_follows_the_memory(name, tmp_path):
    engine = Engine(seed=0)
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(MEMINFO.format(free=900))
    tell_memory(engine, str(meminfo))
    assert engine.available_memory is None  # nothing goes by it
    engine.sysctl[name] = 1
    tell_memory(engine, str(meminfo))
    assert engine.available_memory == 1000 * 1024  # less than amemthresh, 1024 pages of 4 KiB
    assert engine.sysctl[name] == 2
    meminfo.write_text(MEMINFO.format(free=4096))
    tell_memory(engine, str(meminfo))
    assert engine.sysctl[name] == 1
    engine.sysctl[name] = 3
    tell_memory(engine, str(meminfo))
    assert engine.available_memory is None


def test_the_machine_has_memory():
    engine = Engine(seed=0)
    engine.sysctl["drop_entry"] = 1
    tell_memory(engine)
    assert engine.available_memory > 0
