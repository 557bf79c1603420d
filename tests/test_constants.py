"""The numbers that Python and the core share are the same."""

import re
from pathlib import Path

import pytest

import lvscore
from lvscore import LinkType, Reason, Verdict, _probe

CONSTS = (Path(__file__).parents[1] / "lvscore" / "_core" / "consts.pxd").read_text()


@pytest.mark.parametrize(
    ("enumeration", "prefix"), [(Verdict, "VERDICT"), (Reason, "REASON"), (LinkType, "LINK")]
)
def test_members_are_those_of_the_core(enumeration, prefix):
    found = re.findall(rf"^ +{prefix}_(\w+) = (\d+)", CONSTS, re.M)
    core = {name: int(value) for name, value in found if name != "COUNT"}
    assert core == {member.name: member.value for member in enumeration}


def test_the_compiled_numbers_are_those_of_the_source():
    compiled = _probe.constants()
    assert compiled["Verdict"] == {member.name: member.value for member in Verdict}
    assert compiled["LinkType"] == {member.name: member.value for member in LinkType}
    assert compiled["Reason"]["COUNT"] == len(Reason)
    assert compiled["Scheduler"] == dict(lvscore.SCHEDULERS)
    assert compiled["Scheduler flag"] == {
        name: bit for flags in lvscore.SCHEDULER_FLAGS.values() for name, bit in flags.items()
    }


def test_reasons_are_without_gaps():
    assert [int(reason) for reason in Reason] == list(range(len(Reason)))


def test_scheduler_flags_are_read_back():
    engine = lvscore.Engine(seed=1)
    for flags in ((), ("sh-fallback",), ("sh-port",), ("sh-fallback", "sh-port")):
        service = engine.add_service("tcp", "10.0.0.1:80", scheduler="sh", scheduler_flags=flags)
        assert service.scheduler_flags == flags
        service.remove()
