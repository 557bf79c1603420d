"""Scenarios in which lvscore differs from the recorded kernel by default, why, and the setting
with which it does as the kernel did.

Such a scenario is run, expected to differ, and counted apart; with its setting it is run again,
and passes.
"""

from typing import NamedTuple

from lvscore import TimerWheel


class Deviation(NamedTuple):
    """Why a scenario differs, and ``Engine(seed=)`` and ``engine.timer_wheel`` with which it does
    not. The recorded director was booted at some time before, which is not recorded: its jiffies
    at the scenario's start are such as explain what it did."""

    reason: str
    seed: int = 0
    timer_wheel: TimerWheel | None = None


_NOMINAL = (
    "looks at entries within a second or two of their end: the kernel's timer wheel lets them "
    "outlive their timeout by up to an eighth, here they go when it is over"
)

_DRAWN = "which entries drop_entry takes is drawn by chance, in the kernel as here"

DEVIATIONS: dict[str, Deviation] = {
    "misc/drop-entry": Deviation(_DRAWN, seed=28),
    "persist/template-outlives": Deviation(_NOMINAL, timer_wheel=TimerWheel(250, 0)),
    "tcp/timeouts-default": Deviation(_NOMINAL, timer_wheel=TimerWheel(250, 500)),
    "udp/basic": Deviation(_NOMINAL, timer_wheel=TimerWheel(250, 256)),
    "udp/default-timeout": Deviation(_NOMINAL, timer_wheel=TimerWheel(250, 0)),
}
