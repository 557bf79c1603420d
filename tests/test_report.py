"""The line and the values that a run is summed up with."""

import json

from lvscore.report import Report


def test_the_line():
    report = Report(
        frames=82582,
        bytes=1,
        verdicts={"FORWARD": 82570, "DROP": 12},
        drops={"NO_PORT": 2, "NO_REAL_SERVER": 10},
        connections=500,
        elapsed=0.02664,
    )
    assert str(report) == (
        "82582 frames: 82570 forwarded, 12 dropped (NO_REAL_SERVER 10, NO_PORT 2), "
        "500 connections, 3.1 Mpps"
    )


def test_one_of_each_and_interrupted():
    report = Report(frames=1, verdicts={"PASS": 1}, connections=1, elapsed=2, interrupted=True)
    assert str(report) == "1 frame: 1 passed, 1 connection, 0 pps (interrupted)"


def test_nothing():
    assert str(Report()) == "0 frames: 0 connections"
    assert Report().frames_per_second == 0


def test_values_for_json():
    report = Report(frames=4, bytes=400, verdicts={"LOCAL": 4}, elapsed=0.002)
    values = json.loads(json.dumps(report.to_dict()))
    assert values["frames_per_second"] == 2000
    assert values["verdicts"] == {
        "forwarded": 0, "passed": 0, "local": 4, "stolen": 0, "dropped": 0,
    }  # fmt: skip
