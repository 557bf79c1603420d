"""Others at the same work, in the same run, where this machine has them."""

import atexit
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path


def _flags(*arguments):
    command = ["pkg-config", *arguments, "libdpdk"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


@functools.cache
def _rte_hash_program():
    """The program, or None without a compiler and DPDK's development files."""
    if shutil.which("pkg-config") is None or shutil.which("cc") is None:
        return None
    if subprocess.run(["pkg-config", "--exists", "libdpdk"], check=False).returncode:
        return None
    folder = tempfile.mkdtemp(prefix="lvscore-peers-")
    atexit.register(shutil.rmtree, folder)
    program = Path(folder) / "rte_hash"
    source = Path(__file__).parent / "rte_hash.c"
    command = ["cc", "-O3", "-march=native", *_flags("--cflags"), str(source), "-o", str(program)]
    subprocess.run([*command, *_flags("--libs")], check=True)
    return program


def rte_hash(connections):
    """ns of a look-up in DPDK's hash table, in bulks of 32; None where it cannot be built."""
    program = _rte_hash_program()
    if program is None:
        return None
    output = subprocess.run(
        [program, str(connections)], check=True, capture_output=True, text=True
    ).stdout
    return float(output.split()[-1])


def tcprewrite():
    """The program's path, or None."""
    return shutil.which("tcprewrite")
