"""Collects recordings: ``--corpus DIR`` names a folder of them, else those kept here."""

import json
from collections import Counter
from pathlib import Path

import pytest

from lvscore.ipvsadm import values

from .deviations import DEVIATIONS

# Ports that have a name on Debian, and had none on the recorded director.
NAMELESS = {444}

HERE = Path(__file__).parent


def pytest_addoption(parser):
    parser.addoption("--corpus", type=Path, help="folder with recordings of a Linux director")


def recordings(folder):
    """All scenarios of a folder; a file is one, or a group of them."""
    found = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        group = content.get("group", path.stem)
        found += [
            {**scenario, "id": f"{group}/{scenario['name']}"}
            for scenario in content.get("scenarios", [content])
        ]
    return found


def saved_texts(found):
    """Every different text that ``ipvsadm -S`` or ``-Sn`` printed, with the listing beside it."""
    texts = {}
    for scenario in found:
        for number, step in enumerate(scenario["steps"]):
            printed = step.get("Sn") or step.get("stdout") or ""
            if printed.startswith("-A "):
                listing = step.get("Ln") if "Sn" in step else None
                texts.setdefault(printed, (f"{scenario['id']} #{number}", printed, listing))
    return list(texts.values())


def pytest_generate_tests(metafunc):
    wanted = {"recording", "alike", "deviating", "saved"} & set(metafunc.fixturenames)
    if not wanted:
        return
    folder = metafunc.config.getoption("--corpus", None) or HERE / "corpus"
    found = recordings(folder)
    if not found:
        raise pytest.UsageError(f"no recordings in {folder}")
    if "saved" in wanted:
        texts = saved_texts(found)
        metafunc.parametrize("saved", texts, ids=[where for where, *_ in texts])
    elif "deviating" in wanted:
        found = [scenario for scenario in found if scenario["id"] in DEVIATIONS]
        metafunc.parametrize("deviating", found, ids=[scenario["id"] for scenario in found])
    elif "alike" in wanted:
        found = [scenario for scenario in found if scenario["id"] not in DEVIATIONS]
        metafunc.parametrize("alike", found, ids=[scenario["id"] for scenario in found])
    else:
        metafunc.parametrize("recording", found, ids=[scenario["id"] for scenario in found])


def pytest_terminal_summary(terminalreporter):
    """Passed and deviating scenarios, by group."""
    counts = {}
    for outcome in ("passed", "xfailed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            if "test_scenario[" in report.nodeid and getattr(report, "when", "call") == "call":
                group = report.nodeid.split("[", 1)[1].split("/")[0]
                counts.setdefault(group, Counter())[outcome] += 1
    if counts:
        terminalreporter.section("conformance")
        for group, outcomes in sorted(counts.items()):
            total = sum(outcomes.values())
            terminalreporter.write_line(
                f"{group:<16} {outcomes['passed']:>4} of {total:<4} passed, "
                f"{outcomes['xfailed']} deviating"
            )


@pytest.fixture(autouse=True)
def names_of_ports(monkeypatch):
    """Listings name ports as the recorded director did."""
    name = values.port_name
    monkeypatch.setattr(
        values, "port_name", lambda port, *of: str(port) if port in NAMELESS else name(port, *of)
    )
