"""Open vSwitch's conntrack with NAT, in user space, measured from outside.

A switch with a netdev datapath, in a folder and a network namespace of its own: nothing of it
touches a switch of the machine. DPDK's pcap driver feeds it from a file again and again, its null
driver takes what leaves; without huge pages. Flows do what LVS-NAT does, but for the choice of a
server, which is by the client's port: a packet goes to conntrack and is translated, is looked up
once more with its state, and is sent out. TCP's sequence numbers are not checked: nor does IPVS.

What is measured is the CPU time of the thread that forwards. Copying into DPDK's buffers, parsing
and looking up flows are in it; they are what is left without conntrack.
"""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from traffic import SERVERS, frames, handshake, write_pcap

PROGRAM = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"  # where Debian has it
SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
FRAMES = 200_000  # DPDK's driver holds all of a file in buffers, of which there are 262,144
CHUNK = 1 << 18
CPU = (os.cpu_count() or 1) - 1
EAL = f"--no-huge --legacy-mem --no-pci -m 1536 --file-prefix=lvscore{os.getpid()}"


def missing():
    """Why this machine has no such switch; None if it has."""
    if not os.path.exists(PROGRAM) or shutil.which("ovsdb-server") is None:
        return "there is no DPDK switch (Debian: openvswitch-switch-dpdk)"
    if os.geteuid():
        return "a network namespace needs root"
    return None


def _clients(numbers):
    """Numbers of clients whose server, by ``frames``, is their port modulo SERVERS."""
    return numbers // 32_768 * 200_000 + numbers % 32_768


def _handshakes(connections):
    for start in range(0, connections, CHUNK):
        clients = _clients(np.arange(start, min(start + CHUNK, connections)))
        yield from handshake(clients)


def _established(connections):
    random = np.random.default_rng(1)
    clients = _clients(random.integers(0, connections, FRAMES))
    yield frames(clients, reply=random.integers(0, 2, FRAMES) == 1)


def _flows():
    yield "table=0,tcp,actions=ct(nat,table=1)"
    yield "table=1,priority=2,tcp,ct_state=+trk+est,actions=output:out"
    for server in range(SERVERS):
        yield (
            f"table=1,priority=1,tcp,ct_state=+trk+new,nw_dst=10.0.0.1,tp_dst=80,"
            f"tp_src={server}/{SERVERS - 1:#x},"
            f"actions=ct(commit,nat(dst=192.168.0.{server + 1}:8080)),output:out"
        )


class OpenVSwitch(contextlib.AbstractContextManager):
    """A switch with so many established connections; a context manager, which ends it."""

    def __init__(self, connections):
        self._processes = []
        self._folder = Path(tempfile.mkdtemp(prefix="lvscore-ovs-"))
        names = ("RUNDIR", "LOGDIR", "DBDIR", "SYSCONFDIR")
        self._environment = {**os.environ, "RUNTIME_DIRECTORY": str(self._folder),
                             **{f"OVS_{name}": str(self._folder) for name in names}}  # fmt: skip
        try:
            self._begin()
            self._open(connections)
            self._replay("work", _established(connections), ",infinite_rx=1")
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_):
        self.close()

    def close(self):
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._folder)

    def nanoseconds(self, seconds=1.0):
        """CPU time per packet over so many seconds."""
        before = self._counted()
        time.sleep(seconds)
        after = self._counted()
        return (after[0] - before[0]) / (after[1] - before[1])

    def sent_and_received(self):
        """Packets that left, and that came in by the port which is fed: equal but for those that
        are on their way, if each was of a connection."""
        ports = re.split(r"\n  port ", self._appctl("dpctl/show", "-s"))
        counts = {}
        for port in ports[1:]:
            name = port.split()[1]
            counts[name] = {way: int(re.search(rf"{way} packets:(\d+)", port)[1])
                            for way in ("RX", "TX")}  # fmt: skip
        return counts["out"]["TX"], counts["work"]["RX"]

    def without_conntrack(self):
        """Let packets be sent out as they come in, from now on."""
        self._rules(["actions=output:out"])
        time.sleep(1)

    # The switch ---------------------------------------------------------------------------------

    def _begin(self):
        self._run("ovsdb-tool", "create", "conf.db", SCHEMA)
        self._start("ovsdb-server", "conf.db", "--remote=punix:db.sock", "--unixctl=db.ctl")
        self._wait(lambda: (self._folder / "db.sock").exists())
        self._vsctl("--no-wait", "init")
        self._vsctl(
            "--no-wait", "set", "Open_vSwitch", ".", "other_config:dpdk-init=true",
            f"other_config:dpdk-extra={EAL}",
            f"other_config:pmd-cpu-mask={1 << CPU + 1:#x}",  # none that exists: _open begins
            "other_config:emc-insert-inv-prob=0",  # an exact-match cache of 8,192 flows only costs
        )  # fmt: skip
        self._start(PROGRAM, "unix:db.sock", "--unixctl=switch.ctl")
        self._vsctl("add-br", "br", "--", "set", "bridge", "br", "datapath_type=netdev")
        self._port("out", "net_null0,no-rx=1")
        self._rules(_flows())
        self._appctl("dpctl/ct-disable-tcp-seq-chk")

    def _open(self, connections):
        self._replay("open", _handshakes(connections))
        # Not before: frames of a port that the bridge does not know yet are lost.
        self._vsctl("set", "Open_vSwitch", ".", f"other_config:pmd-cpu-mask={1 << CPU:#x}")
        self._wait(lambda: self._counted()[1] == 3 * connections)
        found = int(self._appctl("dpctl/ct-get-nconns"))
        assert found == connections, f"{found} connections of {connections}"
        self._vsctl("del-port", "br", "open")

    def _replay(self, name, parts, options=""):
        file = self._folder / f"{name}.pcap"
        write_pcap(file, parts)
        self._port(name, f"net_pcap_{name},rx_pcap={file}{options}")

    def _port(self, name, arguments):
        self._vsctl(
            "add-port", "br", name, "--", "set", "Interface", name, "type=dpdk",
            f"options:dpdk-devargs={arguments}",
        )  # fmt: skip

    def _rules(self, flows):
        (self._folder / "flows").write_text("\n".join(flows) + "\n")
        bridge = f"unix:{self._folder}/br.mgmt"
        self._run("ovs-ofctl", "--bundle", "--names", "replace-flows", bridge, "flows")

    def _counted(self):
        """CPU time of the thread that forwards, in ns, and packets that it took."""
        tasks = Path(f"/proc/{self._processes[-1].pid}/task")
        spent = sum(
            int((task / "schedstat").read_text().split()[0])
            for task in tasks.iterdir()
            if (task / "comm").read_text().startswith("pmd-")
        )
        text = self._appctl("dpif-netdev/pmd-stats-show")
        return spent, sum(map(int, re.findall(r"packets received: (\d+)", text)))

    # Its programs -------------------------------------------------------------------------------

    def _start(self, *command):
        with (self._folder / "log").open("a") as log:
            self._processes.append(
                subprocess.Popen(
                    ["unshare", "--net", *command], cwd=self._folder, env=self._environment,
                    stdout=log, stderr=log,
                )
            )  # fmt: skip

    def _wait(self, ready):
        for _ in range(600):
            if ready():
                return
            assert all(p.poll() is None for p in self._processes), "a program has ended"
            time.sleep(0.1)
        raise TimeoutError((self._folder / "log").read_text())

    def _run(self, *command):
        return subprocess.run(
            command, cwd=self._folder, env=self._environment, check=True, text=True, timeout=60,
            capture_output=True,
        ).stdout  # fmt: skip

    def _vsctl(self, *arguments):
        return self._run("ovs-vsctl", f"--db=unix:{self._folder}/db.sock", *arguments)

    def _appctl(self, *arguments):
        return self._run("ovs-appctl", "-t", f"{self._folder}/switch.ctl", *arguments)
