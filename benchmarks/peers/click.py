"""The IPRewriter of the Click modular router, in user space, measured from outside.

No distribution has it. It is built from https://github.com/kohler/click with

    ./configure --disable-linuxmodule && make userlevel

and found as userlevel/click by the environment variable CLICK, or as ``click`` on the PATH.

Click reads packets from a file, again and again: each is a clone of the file's buffer, which has to
be copied before it is rewritten; a NIC's would not. So IPRewriter is compared with what the same
process needs without it, but with the copy. Servers are chosen by RoundRobinIPMapper. It follows no
TCP state but whether a side is done, and moves the connection in a heap of timeouts each time.
"""

import contextlib
import functools
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from traffic import SERVERS, write_pcap

# What is done to a packet: the numbers of outputs of the element ``way``.
REWRITE, COPY, NOTHING = WAYS = range(3)

CONFIGURATION = """
servers :: RoundRobinIPMapper({servers});
rewriter :: IPRewriter(servers, TCP_TIMEOUT 86400, TCP_NODATA_TIMEOUT 86400);
again :: Script(TYPE PASSIVE, write work.filepos 24, write work.active true);

open :: FromDump(open.pcap);
once :: FromDump(work.pcap, ACTIVE false);
work :: FromDump(work.pcap, ACTIVE false, END_CALL again.run);
open, once, work -> MarkIPHeader(14) -> way :: Switch(0);

out :: Switch(0);
way[0] -> rewriter;
rewriter[0] -> out;
rewriter[1] -> out;
way[1] -> StoreData(0, \\<02>) -> out;
way[2] -> out;

out[0] -> gone :: Discard;
out[1] -> ToDump(out.pcap, UNBUFFERED true);
"""


def _program():
    return shutil.which(os.environ.get("CLICK", "click"))


@functools.cache
def missing():
    """Why there is no such router; None if there is."""
    program = _program()
    if program is None:
        return "there is no Click modular router: see benchmarks/peers/click.py"
    version = subprocess.run([program, "--version"], check=False, capture_output=True, text=True)
    if "(Click)" not in version.stdout:
        return f"{program} is not the Click modular router"
    return None


def random_clients(connections):
    """Numbers of clients at random, but that the server of each, by ``frames``, is the next."""
    random = np.random.default_rng(5)
    drawn = np.unique(random.integers(0, (50_000 << 24) // SERVERS, connections * 11 // 10 + 64))
    chosen = random.permutation(drawn)[:connections]
    return chosen * SERVERS + np.arange(connections) % SERVERS


class Click(contextlib.AbstractContextManager):
    """A router that the frames of ``opening``, an array after the other, have gone through, and
    that gets ``work`` while it is measured; a context manager, which ends it."""

    def __init__(self, opening, work):
        self._folder = Path(tempfile.mkdtemp(prefix="lvscore-click-"))
        self._process = None
        self._control = None
        try:
            opened = write_pcap(self._folder / "open.pcap", opening)
            write_pcap(self._folder / "work.pcap", [work])
            self._frames = work.shape
            self._start()
            self._wait("open.count", opened)
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()  # at its end, it would take every connection apart
            self._process.wait()
        shutil.rmtree(self._folder)

    @property
    def connections(self):
        return int(self._read("rewriter.table_size"))

    def translated(self):
        """What becomes of the frames of the work, once."""
        self._write("out.switch 1")
        self._write("once.active true")
        self._wait("once.count", self._frames[0])
        self._write("out.switch 0")
        count, size = self._frames
        data = np.fromfile(self._folder / "out.pcap", np.uint8, offset=24)
        return data.reshape(count, 16 + size)[:, 16:]

    def nanoseconds(self, way, seconds=0.7):
        """CPU time per packet over so many seconds, of one of WAYS."""
        self._write(f"way.switch {way}")
        self._write("work.active true")
        time.sleep(0.1)
        before = self._counted()
        time.sleep(seconds)
        after = self._counted()
        self._write("work.active false")
        return (after[0] - before[0]) / (after[1] - before[1])

    def _counted(self):
        """CPU time of the process, in ns, and packets that left it."""
        packets = int(self._read("gone.count"))
        spent = Path(f"/proc/{self._process.pid}/schedstat").read_text().split()[0]
        return int(spent), packets

    # The process --------------------------------------------------------------------------------

    def _start(self):
        servers = ", ".join(f"- - 192.168.0.{i + 1} 8080 0 1" for i in range(SERVERS))
        (self._folder / "router").write_text(CONFIGURATION.format(servers=servers))
        with (self._folder / "log").open("w") as log:
            self._process = subprocess.Popen(
                [_program(), "--unix-socket", "socket", "router"], cwd=self._folder, stdout=log,
                stderr=log,
            )  # fmt: skip
        for _ in range(600):
            if (self._folder / "socket").exists():
                break
            assert self._process.poll() is None, (self._folder / "log").read_text()
            time.sleep(0.1)
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(60)
            control.connect(str(self._folder / "socket"))
            self._control = control.makefile("rwb")  # which keeps it open
        assert self._control.readline().startswith(b"Click::ControlSocket/")

    def _command(self, command):
        """Send a command and read its answer; a line of it that another follows has ``200-``."""
        self._control.write(command.encode() + b"\r\n")
        self._control.flush()
        lines = [self._control.readline()]
        while lines[-1][3:4] == b"-":
            lines.append(self._control.readline())
        assert lines[-1].startswith(b"200 "), b"".join(lines)

    def _read(self, handler):
        self._command(f"READ {handler}")
        length = int(self._control.readline().split()[1])
        return self._control.read(length).decode()

    def _write(self, command):
        self._command(f"WRITE {command}")

    def _wait(self, handler, count):
        """Until so many have been counted."""
        for _ in range(3000):
            if int(self._read(handler)) == count:
                return
            time.sleep(0.1)
        raise TimeoutError((self._folder / "log").read_text())
