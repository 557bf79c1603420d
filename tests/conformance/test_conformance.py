"""Every recorded scenario: what a real Linux director did, bytes and text."""

import pytest

from lvscore import ipvsadm
from lvscore.engine import Engine

from .deviations import DEVIATIONS
from .scenario import Scenario


def test_scenario(recording, request):
    deviation = DEVIATIONS.get(recording["id"])
    if deviation is not None:
        request.node.add_marker(pytest.mark.xfail(reason=deviation.reason, strict=True))
    Scenario(recording).run()


def test_scenario_in_batches(alike):
    """Established packets of services then take the fast path."""
    Scenario(alike, in_batches=True).run()


def test_setting_of_a_deviation(deviating):
    """With its setting, what differs by default is as recorded, too."""
    deviation = DEVIATIONS[deviating["id"]]
    Scenario(deviating, deviation.seed, deviation.timer_wheel).run()


def test_what_was_saved_goes_round(saved):
    """``ipvsadm -R`` of a recorded ``-S`` makes services that are saved and listed the same."""
    _, text, listing = saved
    engine = Engine(seed=0, max_connections=1)
    ipvsadm.restore(engine, text)
    assert text in (engine.ipvsadm("-S"), engine.ipvsadm("-Sn"))
    if listing is not None:
        assert services(engine.ipvsadm("-Ln")) == services(listing)


def services(listing):
    """The lines of a listing without its heading and the counts of connections."""
    lines = (line.split() for line in listing.splitlines()[1:])
    return [words[:-2] if words[0] == "->" else words for words in lines]
