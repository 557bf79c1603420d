"""Every file of the core has its tests: a part alone through a probe, a stage through the engine.

A part takes what it works on as arguments. A stage takes the whole state of an engine, so that
nothing but an Engine or a Host could call it.
"""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
CORE = sorted(path.stem for path in (TESTS.parent / "lvscore/_core").glob("*.pxd"))

# Parts that are tested in the file of another.
BESIDE = {
    "consts": "test_constants.py",
    "entry": "core/test_connection.py",
    "jiffies": "engine/test_timer_wheel.py",
    "load": "core/test_scheduler_load.py",
    "locality": "engine/test_schedulers_models.py",
    "lookup": "engine/test_ftp.py",
    "machine": "core/test_index.py",
    "rename": "engine/test_ftp.py",
    "scheduler_hash": "core/test_scheduler.py",
    "scheduler_locality": "engine/test_schedulers_models.py",
    "scheduler_maglev": "engine/test_schedulers_vectors.py",
    "scheduler_turn": "core/test_scheduler.py",
    "scheduler_types": "core/test_scheduler.py",
    "segment": "host/test_super_frames.py",
    "service": "core/test_scheduler.py",
}
STAGES = {
    "clock": "engine/test_estimator.py",
    "conntrack": "engine/test_rules.py",
    "defence": "engine/test_defence.py",
    "defragment": "engine/test_fragments.py",
    "director": "engine/test_services.py",
    "early_drop": "engine/test_limits.py",
    "helper": "engine/test_ftp.py",
    "icmp": "engine/test_icmp.py",
    "lane": "engine/test_batches.py",
    "lane6": "engine/test_batches_families.py",
    "lane6_host": "host/test_fast_path.py",
    "lane_open": "engine/test_opening.py",
    "lane_host": "host/test_fast_path.py",
    "lane_track": "engine/test_batches_rules.py",
    "lane_track_host": "host/test_fast_path_rules.py",
    "lifetime": "engine/test_limits.py",
    "nat": "engine/test_rules.py",
    "nfct": "engine/test_full_nat.py",
    "nfct_postrouting": "engine/test_full_nat.py",
    "persistence": "engine/test_persistence.py",
    "pipeline": "engine/test_batches.py",
    "prefault": "engine/test_limits.py",
    "progress": "engine/test_rules.py",
    "related": "engine/test_icmp.py",
    "rule_ftp": "engine/test_rules_ftp.py",
    "schedule": "engine/test_services.py",
    "selfcheck": "engine/test_determinism.py",
    "state": "engine/test_determinism.py",
    "transmit": "engine/test_forwarding_methods.py",
    "tunnel_error": "host/test_tunnel_errors.py",
}


def test_nothing_is_listed_twice_or_gone():
    assert set(BESIDE) | set(STAGES) <= set(CORE)
    assert not set(BESIDE) & set(STAGES)


@pytest.mark.parametrize("name", [name for name in CORE if name != "__init__"])
def test_it_has_tests(name):
    own = TESTS / "core" / f"test_{name}.py"
    listed = BESIDE.get(name) or STAGES.get(name)
    assert own.exists() != bool(listed), f"{name} has no tests, or is listed although it has"
    path = TESTS / listed if listed else own
    text = path.read_text()
    assert re.search(r"^def test_", text, re.M), path
    if not listed:
        assert re.search(r"lvscore._probe|from lvscore import .*_probe", text), path


@pytest.mark.parametrize("name", sorted(STAGES))
def test_a_stage_takes_an_engines_state(name):
    """What does not is a part, and can be tested alone."""
    text = (TESTS.parent / "lvscore/_core" / f"{name}.pxd").read_text()
    assert re.search(r"\bState\b", text), name
