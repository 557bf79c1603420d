"""The page of requirements is whole and up to date; what cases cannot show of them."""

import re

import pytest
import requirement_table as table

import lvscore

# How many requirements each RFC numbers, and the letters below them.
NUMBERS = {
    "RFC 4787": {3: "a", 5: "abc", 6: "a", 8: "a", 9: "a", 10: "a", 12: "ab", 13: "a", 14: "a"},
    "RFC 5382": {2: "a", 3: "ab", 4: "a", 5: "a", 8: "a", 10: ""},
    "RFC 5508": {1: "a", 2: "a", 3: "abcd", 4: "abc", 5: "abc", 7: "a", 10: "abcdef", 11: ""},
}


def test_every_requirement_is_there_once_and_in_order():
    expected = []
    for rfc, letters in NUMBERS.items():
        for number in range(1, max(letters) + 1):
            whole = [] if (rfc, number) == ("RFC 5508", 10) else [f"{rfc} REQ-{number}"]
            expected += whole + [f"{rfc} REQ-{number}{k}" for k in letters.get(number, "")]
    assert [requirement["id"] for requirement in table.requirements()] == expected


def test_each_is_met_and_shown_or_has_a_reason():
    tests = table.shown()
    for requirement in table.requirements():
        reasons = {"deviation", "not_applicable"} & requirement.keys()
        assert len(reasons) <= 1, requirement["id"]
        if reasons:
            assert requirement[reasons.pop()].endswith("."), requirement["id"]
        else:
            assert tests[requirement["id"]], f"nothing shows {requirement['id']}"
    assert tests.keys() <= {requirement["id"] for requirement in table.requirements()}


def test_the_page_is_up_to_date():
    """Its tests pass, or the whole run fails."""
    assert table.DOCUMENT.read_text() == table.text()
    assert not re.search("FAILS", table.DOCUMENT.read_text())


@pytest.mark.requirement("RFC 4787 REQ-10")
@pytest.mark.requirement("RFC 5382 REQ-6")
def test_helpers_are_off_by_default():
    assert list(lvscore.Engine(seed=1).helpers) == []


@pytest.mark.requirement("RFC 4787 REQ-10a")
def test_helpers_are_switched_one_by_one():
    engine = lvscore.Engine(seed=1)
    engine.helpers.add("ftp", ports=(21, 2121))
    assert list(engine.helpers) == ["ftp"]
    engine.helpers.remove("ftp")
    assert list(engine.helpers) == []
