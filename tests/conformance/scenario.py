"""Runs one recorded scenario on a Host and raises at the first difference."""

import difflib
from ipaddress import ip_address

from lvscore import Explanation, FrameBatch, TimerWheel, Verdict
from lvscore.conntrack.entries import Entry, entries

from . import compare
from .lots import ICMP, Endpoint, Lots
from .shell import Shell
from .topology import Network

MILLISECOND = 1_000_000
START = 1_000_000_000
HZ = 250  # Debian's kernels

LISTS = {
    "Ln": ("ipvsadm -Ln", compare.same_text),
    "Lnc": ("ipvsadm -Lnc", compare.same_rows),
    "stats": ("ipvsadm -Ln --stats --exact", compare.same_text),
    "rate": ("ipvsadm -Ln --rate --exact", compare.same_text),
    "Sn": ("ipvsadm -Sn", compare.same_text),
    "thresholds": ("ipvsadm -Ln --thresholds", compare.same_text),
    "persistent": ("ipvsadm -Ln --persistent-conn", compare.same_text),
    "timeout": ("ipvsadm -Ln --timeout", compare.same_text),
    "vs": ("cat /proc/net/ip_vs", compare.same_lines),
    "vs_conn": ("cat /proc/net/ip_vs_conn", compare.same_rows),
    "vs_stats": ("cat /proc/net/ip_vs_stats", compare.same_text),
    "conntrack": ("conntrack -L 2>/dev/null", compare.same_entries),
}


# Where the kernel drew lots (the recordings' own list), and the addresses that it translated to.
LOTS = {
    "snat-ports": ("10.0.0.200",),
    "snat-range": ("10.0.0.200", "10.0.0.201", "10.0.0.202", "10.0.0.203", "10.0.0.204"),
    "icmp-echo": ("10.0.0.200",),
    "icmp-errors": ("10.0.0.200",),
    "dnat-ports": ("10.0.0.200",),
    "masquerade": ("10.0.0.200",),
}


class DifferenceError(AssertionError):
    """A step that did not go as recorded."""


class Own:
    """The addresses, packed, of the director: also those of local routes, which come and go."""

    def __init__(self, network: Network) -> None:
        self.machine = network.host._machine

    def __contains__(self, packed: bytes) -> bool:
        return self.machine.is_own(ip_address(packed))


class Scenario:
    """One recording, and the Host that it is replayed on.

    ``seed`` is the engine's, which drop_entry draws by; ``timer_wheel`` that of the kernel.
    ``in_batches``: each frame comes as a batch, whose established packets have a fast path.
    """

    def __init__(
        self, recording: dict, seed: int = 0, timer_wheel: TimerWheel | None = None,
        *, in_batches: bool = False,
    ) -> None:  # fmt: skip
        self.recording = recording
        self.receive = self._receive_batch if in_batches else self._receive_frame
        self.network = Network(recording.get("topology") or "two-arm", seed)
        if timer_wheel is None and "jiffies" in recording:
            # Of the director when the scenario began, one second after the engine's first.
            timer_wheel = TimerWheel(HZ, recording["jiffies"] - HZ)
        self.network.engine.timer_wheel = timer_wheel
        self.shell = Shell(self.network)
        drawn = recording.get("lots")
        if recording["id"].startswith("nat/"):
            drawn = LOTS.get(recording["name"])
        self.lots = Lots({ip_address(text).packed for text in drawn or ()}, self._is_mapped)
        self.own = Own(self.network)

    def run(self) -> None:
        """Play all steps; raises DifferenceError at the first that differs."""
        host = self.network.host
        host.advance(START)
        host.modules |= set(self.recording.get("modules") or ())
        for key, value in (self.recording.get("sysctl") or {}).items():
            self.shell.set(key, str(value))
        for line in self.recording.get("setup") or ():
            status, _, errors = self.shell.run(line)
            if status:
                raise DifferenceError(f"setup: {line}: status {status}: {errors}")
        steps = self.recording["steps"]
        for number, step in enumerate(steps):
            now = START + step.get("t", 0) * MILLISECOND
            try:
                if "in" in step:
                    self._receive(step, now)
                elif "sleep" in step:
                    self._sleep(step, now, steps[number + 1 :])
                elif "cmd" in step:
                    self._command(step, now)
                elif "show" in step:
                    self._show(step, now)
                elif "note" not in step:
                    raise DifferenceError(f"unknown kind of step: {sorted(step)}")
            except AssertionError as error:
                raise DifferenceError(
                    f"{self.recording['name']} #{number} t={step.get('t')} ms: {error}"
                ) from error

    def _receive(self, step: dict, now: int) -> None:
        network = self.network
        self._passed([], network.host.advance(now))
        packet = self.lots.incoming(bytes.fromhex(step["hex"]))
        interface, frame = network.frame(step["in"], packet, step.get("from"))
        explanation = network.engine.explain(frame, now)
        emitted = [network.emitted(*sent) for sent in self.receive(interface, frame, now)]
        if len(emitted) == len(step["out"]) > 0 and _opens(explanation):
            self.lots.learn(packet, step["out"][0][2], emitted[0][2])
        emitted = [[side, hop, self.lots.outgoing(sent)] for side, hop, sent in emitted]
        if not compare.same_packets(step["out"], emitted, packet, self.own):
            raise DifferenceError(
                f"{step['in']} {step.get('note', '')}\n{dissected(step['hex'])}\n\n"
                f"{side_by_side(step['out'], emitted)}\n\nexplain:\n{explanation}"
            )

    def _receive_frame(self, interface: str, frame: bytes, now: int) -> list[tuple[str, bytes]]:
        return self.network.host.receive(interface, frame, now)

    def _receive_batch(self, interface: str, frame: bytes, now: int) -> list[tuple[str, bytes]]:
        host = self.network.host
        names = {host.number(name): name for name in host.interfaces}
        batch = FrameBatch.of([frame], [now])
        sent = []
        for start, end, others in host.receive_batch(interface, batch, now):
            for k in range(start, end):
                if batch.verdict[k] == Verdict.FORWARD:
                    sent.append((names[int(batch.egress[k])], bytes(batch[k])))
            sent += others
        return sent

    def _is_mapped(self, source: Endpoint, drawn: Endpoint) -> bool:
        """Whether a flow that is still there translates this source to this end."""
        return any(
            entry.protocol == source.protocol
            and (entry.original.source.packed, entry.original.source_port)
            == (source.address, int.from_bytes(source.port, "big"))
            and entry.source_nat == ip_address(drawn.address)
            and _answered_at(entry) == int.from_bytes(drawn.port, "big")
            for entry in entries(self.network.engine)
        )

    def _sleep(self, step: dict, now: int, following: list[dict]) -> None:
        host = self.network.host
        self._passed([], host.advance(now))
        end = next(
            (START + later["t"] * MILLISECOND for later in following if "t" in later),
            now + int(step["sleep"] * 1000) * MILLISECOND,
        )
        self._passed(step.get("out", []), host.advance(end))

    def _passed(self, expected: list, sent: list) -> None:
        emitted = [self.network.emitted(*one) for one in sent]
        if not compare.same_packets(expected, emitted, None, self.own):
            raise DifferenceError(f"as time passed\n\n{side_by_side(expected, emitted)}")

    def _command(self, step: dict, now: int) -> None:
        self._passed(step.get("out", []), self.network.host.advance(now))
        line = step["cmd"]
        status, out, errors = self.shell.run(line, step.get("stdin", ""))
        wanted = (step["rc"], step.get("stdout", ""), step.get("stderr", ""))
        tracked = line.startswith("conntrack ")
        if tracked:
            out = self.lots.listing(out)
        unordered = "Lnc" in line or "Lc" in line or "ip_vs" in line or "--nosort" in line
        same = compare.same_rows if unordered else compare.same_text
        if tracked:
            same = compare.same_entries
        if (status, errors) != (wanted[0], wanted[2]) or not same(wanted[1], out):
            raise DifferenceError(
                f"{line}\nstatus {status}, recorded {wanted[0]}\n"
                f"{text_difference(wanted[1] + wanted[2], out + errors)}"
            )

    def _show(self, step: dict, now: int) -> None:
        self._passed([], self.network.host.advance(now))
        for kind, wanted in step.items():
            if kind in ("show", "t"):
                continue
            if kind not in LISTS:
                raise DifferenceError(f"unknown kind of list: {kind}")
            command, same = LISTS[kind]
            status, out, errors = self.shell.run(command)
            if kind == "conntrack":
                out = self.lots.listing(out)
            if status or errors or not same(wanted, out):
                raise DifferenceError(
                    f"{step['show']}: {command}: {errors}\n{text_difference(wanted, out)}"
                )


def _opens(explanation: Explanation) -> bool:
    """Whether the packet that was explained is the first of a flow."""
    return any("opened" in step or "(POSTROUTING)" in step for step in explanation.steps)


def _answered_at(entry: Entry) -> int:
    """The port that a flow's answers go to, or their identifier."""
    return entry.reply.source_port if entry.protocol == ICMP else entry.reply.destination_port


def text_difference(recorded: str, printed: str) -> str:
    """Both texts as a difference by line."""
    return "\n".join(
        difflib.ndiff(
            [f"{line}|" for line in recorded.splitlines()],
            [f"{line}|" for line in printed.splitlines()],
        )
    )


def dissected(packet: str) -> str:
    """A packet in scapy's words, and its bytes."""
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6

    data = bytes.fromhex(packet)
    if not data or data[0] >> 4 not in (4, 6):
        return packet
    try:
        layers = (IP if data[0] >> 4 == 4 else IPv6)(data).show(dump=True)
    except Exception as error:  # scapy gives up on cut packets in many ways
        layers = f"not dissected: {error!r}"
    return f"{layers}\n{packet}"


def side_by_side(recorded: list[list[str]], emitted: list[list[str]]) -> str:
    """Recorded packets on the left, emitted ones on the right."""
    text = []
    for number in range(max(len(recorded), len(emitted))):
        columns = [
            [f"{name}: {packet[0]} -> {packet[1]}", *dissected(packet[2]).splitlines()]
            for name, packet in (
                ("recorded", recorded[number] if number < len(recorded) else ["-", "-", ""]),
                ("emitted", emitted[number] if number < len(emitted) else ["-", "-", ""]),
            )
        ]
        height = max(map(len, columns))
        left, right = ([*column, *[""] * (height - len(column))] for column in columns)
        text += [
            f"{a[:60]:<60} {'|' if a == b else '#'} {b}" for a, b in zip(left, right, strict=True)
        ]
    return "\n".join(text) or "(nothing came out, nothing was recorded)"
