"""Where the cases come from: docs/cases.md, written by ``python tests/cases/origins.py``."""

import tomllib
from collections import Counter
from pathlib import Path

FOLDER = Path(__file__).parent
DOCUMENT = FOLDER.parents[1] / "docs" / "cases.md"
NAT = ("Click", "Linux", "OVS", "VPP")
"""Whose tests of address translation are told anew; of VPP those of nat44."""

HEAD = """\
# Situations of other projects, told anew

`tests/cases/*.toml` tells situations that other projects test: what goes in, what comes out, and
why, in our own words and with our own values; the expectation is netfilter's and IPVS's. Each names
its original, which was read. This page is written by `python tests/cases/origins.py`, and a test
compares it with the files; another lets each case of NAT fail by taking its rules away. What of a
suite is not told, and why, stands at the head of its file.

"""


def cases():
    """Project and original of every case that has one."""
    for path in sorted(FOLDER.glob("*.toml")):
        for case in tomllib.loads(path.read_text())["case"]:
            project, _, original = case["origin"].partition(": ")
            yield path.stem, project, original


def is_nat(stem, project, original):
    """Whether a case is told from one of the test suites of address translation."""
    return project in NAT and (project != "VPP" or original.startswith("TestNAT44"))


def text():
    """The page."""
    told = [case for case in cases() if case[1] != "lvscore"]
    nat = [case for case in told if is_nat(*case)]
    lines = [
        HEAD,
        f"{len(told)} cases are told from originals, {len(nat)} of them from tests of NAT:\n\n",
        "| Project | Cases | of them of NAT |\n| --- | ---: | ---: |\n",
    ]
    counts, of_nat = Counter(case[1] for case in told), Counter(case[1] for case in nat)
    for project in sorted(counts):
        lines.append(f"| {project} | {counts[project]} | {of_nat[project]} |\n")
    lines.append("\n| Original | Cases |\n| --- | ---: |\n")
    for (project, original), count in sorted(Counter(case[1:] for case in told).items()):
        lines.append(f"| {project}: {original} | {count} |\n")
    return "".join(lines)


if __name__ == "__main__":
    DOCUMENT.write_text(text())
