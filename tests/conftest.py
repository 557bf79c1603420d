"""Shared by all tests. In CI a skip is a failure, but for captures that are not ours to copy."""

import os
import signal
import sys
from pathlib import Path

from hypothesis import settings
from scapy.layers.l2 import conf

# Helpers stand beside the tests that use them and are imported by name.
for folder in ("engine", "io", "core", "cli", "host", "stateful", "cases", "rfc", "nft"):
    sys.path.insert(0, str(Path(__file__).parent / folder))

# A shell starts what it puts into the background with SIGINT ignored, and that is inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)

# For a frame without link addresses scapy asks the network that this machine is on, as root.
conf.neighbor.resolve = lambda *layers: "02:00:00:00:00:02"

# Compiled with sanitizers everything takes ten times as long.
settings.register_profile("brief", max_examples=15, deadline=None)
settings.register_profile("default", deadline=None)
# What lands is told apart by its code alone; new examples are looked for everywhere else.
settings.register_profile("ci", deadline=None, derandomize=True)
# On demand, for hours: LVSCORE_HYPOTHESIS=long pytest tests/stateful
settings.register_profile("long", max_examples=5000, stateful_step_count=100, deadline=None)
usual = "ci" if os.environ.get("LVSCORE_CI") else "default"
settings.load_profile(os.environ.get("LVSCORE_HYPOTHESIS", usual))

ALLOWED = "captures"


def pytest_sessionfinish(session):
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not os.environ.get("CI"):
        return
    refused = [
        report
        for report in reporter.stats.get("skipped", [])
        if ALLOWED not in str(report.longrepr)
    ]
    for report in refused:
        reporter.write_line(f"skipped in CI, which counts as failed: {report.nodeid}", red=True)
    if refused:
        session.exitstatus = 1
