"""``lvscore run``: a director at work on real interfaces."""

import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import click

from lvscore.cli.setup import Options, engine_options
from lvscore.config import Configuration, reload
from lvscore.control import DEFAULT_PATH, ControlServer
from lvscore.engine import Engine
from lvscore.errors import ConfigError, LvscoreError
from lvscore.live import Live, attach
from lvscore.model import Outcome
from lvscore.programs import execute

__all__ = ["run"]


@click.command("run")
@engine_options
@click.option(
    "--backend",
    type=click.Choice(["auto", "ring", "copy"]),
    help="How frames are read: a ring shared with the kernel, or copies.  [default: auto]",
)
@click.option(
    "--control",
    metavar="PATH",
    help='Socket that lvscore ipvsadm and the others ask; "none": there is none.  '
    f"[default: {DEFAULT_PATH}]",
)
def run(backend: str | None, control: str | None, **options: Any) -> int:
    """Be a director on real interfaces, until SIGINT or SIGTERM.

    They are given by --interface or by a TOML file (-c), are of this machine (or network
    namespace), and have no addresses there: those given here are lvscore's own, which answers ARP
    and Neighbor Discovery for them. --route gives a gateway: default=172.16.1.200. It forwards
    (ip_forward is 1) and sends no redirects (send_redirects is 0). While it runs, lvscore ipvsadm,
    conntrack and iptables list and change it; SIGHUP lets it read the file again. At its end it
    prints what ipvsadm -L -n would. Needs root or CAP_NET_RAW.
    """
    given = Options(**options)
    director = _Director(given, given.read(live=True))
    with ExitStack() as stack:
        live = director.attach(stack, backend)
        director.listen(stack, control)
        live.add_signal_handler(signal.SIGHUP, director.reload)
        backends = ", ".join(f"{i.name} ({i.backend})" for i in live.interfaces.values())
        _say(f"running on {backends}")
        live.run()
        for interface in live.interfaces.values():
            counts = ", ".join(f"{n} {what}" for what, n in interface.statistics.items())
            _say(f"{interface.name}: {counts}")
    print(director.engine.ipvsadm("-L -n"), end="")
    return 0


class _Director:
    """A director that runs: its configuration, its engine and Host, its interfaces."""

    live: Live

    def __init__(self, options: Options, configuration: Configuration) -> None:
        if not configuration.interfaces:
            raise ConfigError("no interface: expected --interface NAME=ADDRESS/LENGTH")
        self.options = options
        self.configuration = configuration
        self.engine = Engine(max_connections=configuration.max_connections, seed=configuration.seed)
        self.host = configuration.host(self.engine, forwarding=True)

    def attach(self, stack: ExitStack, backend: str | None) -> Live:
        backend = backend or self.configuration.backend or "auto"
        self.live = stack.enter_context(attach(self.host, backend=backend))
        return self.live

    def listen(self, stack: ExitStack, path: str | None) -> None:
        path = path or self.configuration.control or DEFAULT_PATH
        if path != "none":
            server = stack.enter_context(ControlServer(path, self._execute))
            self.live.add_reader(server.fileno(), server.step)

    def _execute(self, argv: Sequence[str], stdin: str) -> Outcome:
        return execute(self.engine, argv, stdin)

    def reload(self) -> None:
        """Read the file again, and change to it; or say why not, and go on."""
        file = self.options.config_file
        if file is None:
            _say("there is no file to read again: expected -c FILE")
            return
        try:
            after = self.options.read(live=True)
            reload(self.host, self.configuration, after, check=self.live.check, forwarding=True)
        except LvscoreError as error:
            _say(f"error: {' '.join(str(error).split())}; nothing was changed")
            return
        self.configuration = after
        self.live.announce()
        _say(f"has read {file} again")


def _say(message: str) -> None:
    print(f"lvscore: {message}", file=sys.stderr, flush=True)
