"""Scenarios in which lvscore differs from the recorded kernel on purpose, and why.

``"group/scenario": "reason"``; such a scenario is run, expected to differ, and counted apart.
"""

DEVIATIONS: dict[str, str] = {}
