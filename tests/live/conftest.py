"""Helpers stand beside the tests, and what compares packets beside the recordings' runner."""

import hashlib
import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from namespaces import LVS, PAGES, Lab, missing, services  # noqa: E402


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """Namespaces with real programs; the director is not there yet."""
    why = missing()
    if why:
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("lab")
    folder.parent.chmod(0o755)
    lab = Lab(folder)
    yield lab
    lab.close()


@pytest.fixture(scope="session")
def large(lab):
    """100 MB that compress badly, in a file of its own and on both servers; and their digest."""
    data = os.urandom(1 << 20) * 100
    path = lab.folder / "large"
    path.write_bytes(data)
    for node in PAGES:
        shutil.copy(path, lab.folder / node / "large")
    return path, hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module", params=["offloads", "tx off"])
def offloads(lab, request):
    """What the director's own port may leave undone: veth hides a wrong partial checksum from
    receivers, until the port has to finish it."""
    lab.run("director", "ethtool", "-K", "eth1", "tx", "off" if request.param == "tx off" else "on")
    yield request.param
    lab.run("director", "ethtool", "-K", "eth1", "tx", "on")


@pytest.fixture
def director(lab, offloads):
    """A director for both web servers, in IPv4 and IPv6."""
    program = lab.director(*LVS, *services())
    yield program
    if program.poll() is None:
        assert lab.stop(program) == 0


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """What a machine cannot do is skipped, with the reason; CI's can do all."""
    report = (yield).get_result()
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("LVSCORE_CI"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr[2]}"
