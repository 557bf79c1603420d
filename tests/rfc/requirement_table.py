"""docs/rfc-nat.md: the requirements of three RFCs, and the tests that show what becomes of them.

``python tests/rfc/requirement_table.py`` runs those tests and writes the page. A case of
``tests/cases`` says by its field ``requirement`` what it shows, a test by
``@pytest.mark.requirement("RFC n REQ-m")``.
"""

import ast
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

TESTS = Path(__file__).parents[1]
DOCUMENT = TESTS.parent / "docs" / "rfc-nat.md"
TITLES = {
    "RFC 4787": "NAT of UDP",
    "RFC 5382": "NAT of TCP",
    "RFC 5508": "NAT of ICMP",
}
HEAD = """\
# Requirements of NAT

What RFC 4787, RFC 5382 and RFC 5508 require of a NAT, in our own words, and what lvscore does about
it. It translates as Linux's netfilter does, so that it deviates where netfilter does; the reason
says how. This page is written by `python tests/rfc/requirement_table.py`, which runs the tests
named; a test compares the page with them, and has every requirement of the three RFCs in it.
"""


def requirements():
    """The requirements, in order."""
    content = tomllib.loads((Path(__file__).parent / "requirements.toml").read_text())
    return content["requirement"]


def shown():
    """Node ids of the tests that show a requirement, by its id."""
    found = defaultdict(list)
    for path in sorted((TESTS / "cases").glob("*.toml")):
        for case in tomllib.loads(path.read_text())["case"]:
            for name in case.get("requirement", []):
                found[name].append(
                    f"tests/cases/test_cases.py::test_case[{path.stem}/{case['name']}]"
                )
    for path in sorted(TESTS.rglob("test_*.py")):
        text = path.read_text()
        if "mark.requirement(" in text:
            for function, name in marked(ast.parse(text)):
                found[name].append(f"{path.relative_to(TESTS.parent)}::{function}")
    return found


def marked(tree):
    """The functions of a module that are marked, and with what."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for decorator in function.decorator_list:
                if isinstance(decorator, ast.Call) and "requirement" in ast.dump(decorator.func):
                    yield from ((function.name, word.value) for word in decorator.args)


def status(requirement, failed):
    """What a row says: pass, deviation or not applicable, or which tests fail."""
    if failed:
        return "FAILS"
    if "deviation" in requirement:
        return "deviation"
    return "not applicable" if "not_applicable" in requirement else "pass"


def short(node):
    """A test as the page names it: a case by its file and name."""
    path, _, name = node.partition("::")
    if name.startswith("test_case["):
        return f"`{name[10:-1]}`"
    return f"`{path.removeprefix('tests/')}::{name}`"


def text(failed=frozenset()):
    """The page, given the node ids that failed."""
    tests = shown()
    lines = [HEAD]
    group = ""
    for requirement in requirements():
        rfc, _, number = requirement["id"].rpartition(" ")
        if rfc != group:
            group = rfc
            lines.append(f"\n## {rfc}: {TITLES[rfc]}\n\n{tally(rfc, tests, failed)}\n")
            lines.append(
                "| | Level | Requirement | | Tests, reason |\n| --- | --- | --- | --- | --- |"
            )
        nodes = tests[requirement["id"]]
        reason = requirement.get("deviation") or requirement.get("not_applicable", "")
        cell = " ".join(filter(None, [reason, ", ".join(map(short, nodes))]))
        word = status(requirement, failed & set(nodes))
        lines.append(
            f"| {number} | {requirement['level']} | {requirement['text']} | {word} | {cell} |"
        )
    return "\n".join(lines) + "\n"


def tally(rfc, tests, failed):
    """How many requirements of an RFC are met, and so on."""
    words = [
        status(requirement, failed & set(tests[requirement["id"]]))
        for requirement in requirements()
        if requirement["id"].startswith(rfc)
    ]
    counts = [
        (word, words.count(word)) for word in ("pass", "deviation", "not applicable", "FAILS")
    ]
    return ", ".join(f"{count} {word}" for word, count in counts if count) + "."


def main():
    """Run the tests and write the page; the status is pytest's."""
    import pytest

    nodes = sorted({node for found in shown().values() for node in found})
    failures = Failures()
    code = pytest.main(["-q", "-p", "no:cacheprovider", *nodes], plugins=[failures])
    DOCUMENT.write_text(text(failures.failed))
    return code


class Failures:
    """A plugin of pytest's that notes what fails."""

    def __init__(self):
        self.failed = set()

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.add(report.nodeid)


if __name__ == "__main__":
    sys.exit(main())
