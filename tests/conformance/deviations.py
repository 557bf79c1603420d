"""Scenarios in which lvscore differs from the recorded kernel on purpose, and why.

``"group/scenario": "reason"``; such a scenario is run, expected to differ, and counted apart.
"""

_NOMINAL = (
    "looks at entries within a second or two of their end: the kernel's timer wheel lets them "
    "outlive their timeout by up to an eighth, here they go when it is over"
)

DEVIATIONS: dict[str, str] = {
    "tcp/timeouts-default": _NOMINAL,
    "udp/basic": _NOMINAL,
    "udp/default-timeout": _NOMINAL,
}
