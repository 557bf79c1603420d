"""Every recorded scenario: what a real Linux director did, bytes and text."""

import pytest

from .deviations import DEVIATIONS
from .scenario import Scenario


def test_scenario(recording, request):
    deviation = DEVIATIONS.get(recording["id"])
    if deviation is not None:
        request.node.add_marker(pytest.mark.xfail(reason=deviation, strict=True))
    Scenario(recording).run()
