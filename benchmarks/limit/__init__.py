"""The least that a core of this machine needs for the same work: limit.c, built and run here."""

import functools
import platform
import subprocess
import tempfile
from pathlib import Path


@functools.cache
def _program():
    folder = tempfile.mkdtemp(prefix="lvscore-limit-")
    program = Path(folder) / "limit"
    source = Path(__file__).parent / "limit.c"
    command = ["cc", "-O3", "-march=native", "-pthread", str(source), "-o", str(program)]
    subprocess.run(command, check=True)
    return program


def _run(connections, processes=1):
    """ns per packet, in CPU time and in wall time, of each of so many processes at once: the better
    of sub-batches 16 and 32."""
    command = [_program(), "quick", str(connections)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    outputs = [process.communicate()[0] for process in running]
    assert not any(process.returncode for process in running)
    figures = [list(map(float, output.split())) for output in outputs]
    return [(min(of[:2]), min(of[2:])) for of in figures]


def nanoseconds(connections):
    """CPU time per packet; None where it does not build."""
    if platform.machine() != "x86_64":
        return None
    return _run(connections)[0][0]


def factors(connections):
    """What two processes at once get done in the time of one alone, by CPU time and by wall time;
    None where it does not build. Each has so many connections.

    It is less than 2 by what they take from each other, of a shared cache and of the memory's
    bandwidth; in wall time, also by what other programs take of a core.
    """
    if platform.machine() != "x86_64":
        return None
    (alone,) = _run(connections)
    both = _run(connections, processes=2)
    return tuple(sum(alone[clock] / each[clock] for each in both) for clock in range(2))
