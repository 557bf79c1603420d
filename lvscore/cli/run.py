"""``lvscore run``: a director at work on real interfaces."""

import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import click

from lvscore.cli.setup import Options, engine_options
from lvscore.config import Configuration, adopt, reload
from lvscore.control import DEFAULT_PATH, Beside, ControlServer
from lvscore.engine import Engine
from lvscore.errors import ConfigError, LvscoreError, SnapshotError
from lvscore.io.interface import BACKENDS, MODES
from lvscore.live import Live, attach
from lvscore.model import Outcome
from lvscore.programs import execute, lists_connections
from lvscore.takeover import HANDOVER, StateFile, hand_over, take_over

__all__ = ["run"]

_MANY_CONNECTIONS = 100  # a listing of them takes as long as to begin another process


@click.command("run")
@engine_options
@click.option(
    "--backend",
    type=click.Choice(["auto", *BACKENDS]),
    help="How frames are read: a ring shared with the kernel, copies, or a device whose other "
    "end is here.  [default: auto]",
)
@click.option(
    "--mode",
    type=click.Choice(MODES),
    help="What a ring is best at; throughput keeps frames up to a millisecond.  [default: latency]",
)
@click.option(
    "--control",
    metavar="PATH",
    help='Socket that lvscore ipvsadm and the others ask; "none": there is none.  '
    f"[default: {DEFAULT_PATH}]",
)
@click.option(
    "--state",
    metavar="FILE",
    help="Read the engine from FILE, if there is one; save it every 10 s and at the end.",
)
@click.option(
    "--takeover",
    is_flag=True,
    help="Go on where the director is that runs here, with its connections; it ends.",
)
def run(
    backend: str | None, mode: str | None, control: str | None, state: str | None,
    takeover: bool, **options: Any,
) -> int:  # fmt: skip
    """Be a director on real interfaces, until SIGINT or SIGTERM.

    They are given by --interface or by a TOML file (-c), are of this machine (or network
    namespace), and have no addresses there: those given here are lvscore's own, which answers ARP
    and Neighbor Discovery for them. --route gives a gateway: default=172.16.1.200. It forwards
    (ip_forward is 1) and sends no redirects (send_redirects is 0). While it runs, lvscore ipvsadm,
    conntrack and iptables list and change it; SIGHUP lets it read the file again. At its end it
    prints what ipvsadm -L -n would. Needs root or CAP_NET_RAW.

    With --takeover or --state, services and rules become those of the file and the options, where
    these have any; bounds and seed stay those of the engine that is taken over.
    """
    own = {"backend": backend, "mode": mode, "control": control, "state": state}
    director = _Director(Options(**options), own)
    with ExitStack() as stack:
        live = director.attach(stack)
        director.resume(takeover)
        director.listen(stack, replace=takeover)
        live.add_signal_handler(signal.SIGHUP, director.reload)
        _say(f"running on {', '.join(map(str, live.interfaces.values()))}")
        live.run()
        for interface in live.interfaces.values():
            counts = ", ".join(f"{n} {what}" for what, n in interface.statistics.items())
            _say(f"{interface.name}: {counts}")
    director.end()
    print(director.engine.ipvsadm("-L -n"), end="")
    return 0


class _Director:
    """A director that runs: its configuration, its engine and Host, its interfaces."""

    live: Live

    def __init__(self, options: Options, own: dict[str, str | None]) -> None:
        self.options = options
        self._own = {name: value for name, value in own.items() if value is not None}
        self.configuration = configuration = self._read()
        if not configuration.interfaces:
            raise ConfigError("no interface: expected --interface NAME=ADDRESS/LENGTH")
        self.control = configuration.control or DEFAULT_PATH
        self.state = None if configuration.state is None else StateFile(configuration.state)
        self.handed_over = False
        self.engine = Engine(max_connections=configuration.max_connections, seed=configuration.seed)
        self.host = configuration.host(self.engine, forwarding=True)

    def _read(self) -> Configuration:
        """The file and the options, which win."""
        return replace(self.options.read(live=True), **self._own)  # type: ignore[arg-type]

    def attach(self, stack: ExitStack) -> Live:
        with ExitStack() as opening:
            opened = [
                opening.enter_context(self.configuration.open_interface(entry))
                for entry in self.configuration.interfaces
            ]
            opening.pop_all()
        self.live = stack.enter_context(attach(self.host, opened=opened))
        return self.live

    def resume(self, takeover: bool) -> None:
        """Go on with the engine of the director that runs, or with the one that was saved.

        Frames that come meanwhile wait at the interfaces, which are open already.
        """
        found = None
        try:
            if takeover and self.control != "none":
                found = take_over(self.control, self.live.now())
            if found is None and self.state is not None:
                found = self.state.load(self.live.now())
        except SnapshotError as error:
            _say(f"error: {error}; connections begin anew")
        if found is not None:
            self.host = adopt(found, self.configuration, forwarding=True)
            self.engine = found
            self.live.exchange(self.host)
            _say(f"goes on with {len(found.connections)} connections")
        elif takeover:
            _say("there is no director to take over from")

    def listen(self, stack: ExitStack, replace: bool) -> None:
        if self.control != "none":
            server = stack.enter_context(
                ControlServer(self.control, self._execute, replace=replace)
            )
            self.live.add_reader(server.fileno(), server.step)
        if self.state is not None:
            self.live.call_every(self.configuration.state_interval, self._save)

    def _execute(self, argv: Sequence[str], stdin: str) -> Outcome | Beside:
        if argv[0] == HANDOVER:
            outcome = hand_over(self.engine, argv, self.live.stop)
            self.handed_over = outcome.status == 0
            return outcome
        if lists_connections(argv) and len(self.engine.connections) >= _MANY_CONNECTIONS:
            return Beside(lambda: execute(self.engine, argv, stdin))
        return execute(self.engine, argv, stdin)

    def _save(self) -> None:
        if self.state is not None:
            self.state.save_beside(self.engine)

    def end(self) -> None:
        """Leave the file as the end was, unless another goes on."""
        if self.state is not None and not self.handed_over:
            self.state.save(self.engine)

    def reload(self) -> None:
        """Read the file again, and change to it; or say why not, and go on."""
        file = self.options.config_file
        if file is None:
            _say("there is no file to read again: expected -c FILE")
            return
        try:
            after = self._read()
            reload(self.host, self.configuration, after, check=self.live.check, forwarding=True)
        except LvscoreError as error:
            _say(f"error: {' '.join(str(error).split())}; nothing was changed")
            return
        self.configuration = after
        self.live.announce()
        _say(f"has read {file} again")


def _say(message: str) -> None:
    print(f"lvscore: {message}", file=sys.stderr, flush=True)
