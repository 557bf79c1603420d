"""``lvscore run``: a director at work on real interfaces."""

import signal
from contextlib import ExitStack, suppress
from typing import Any

import click

from lvscore.addresses import parse_network
from lvscore.cli.director import Director, say
from lvscore.cli.setup import Options, WholeNumber, engine_options
from lvscore.cli.streams import put
from lvscore.config import located
from lvscore.control import DEFAULT_PATH, ControlServer
from lvscore.errors import ConfigError, ControlError
from lvscore.io.interface import BACKENDS, MODES, interface_is_up
from lvscore.workers import Worker, Workers

__all__ = ["run"]


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
@click.option(
    "--workers",
    type=WholeNumber(1, 256),
    metavar="N",
    help="Processes, each with an engine and a share of the clients.  [default: 1]",
)
@click.option(
    "--inside",
    metavar="NETWORK",
    multiple=True,
    help="With --workers: where no client is; the servers' networks always are.",
)
@click.option(
    "--shield",
    is_flag=True,
    help="Keep the kernel from packets for the addresses, which it may then have, too.",
)
def run(
    backend: str | None, mode: str | None, control: str | None, state: str | None,
    takeover: bool, workers: int | None, inside: tuple[str, ...], shield: bool, **options: Any,
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
    own = {
        "backend": backend, "mode": mode, "control": control, "state": state, "workers": workers,
        "inside": inside or None, "shield": shield or None,
    }  # fmt: skip
    for text in inside:
        with located(f"--inside {text!r}"):
            parse_network(text)
    given = Options(**options)
    director = Director(given, own)
    if director.configuration.workers > 1:
        return _run_workers(director, given, own, takeover)
    _work(director, takeover)
    director.end()
    put(director.engine.ipvsadm("-L -n"))
    return 0


def _work(director: Director, takeover: bool = False) -> None:
    """Move packets until SIGINT or SIGTERM."""
    who = "" if director.worker is None else f"worker {director.worker.number} "
    with ExitStack() as stack:
        live = director.attach(stack)
        director.resume(takeover)
        director.listen(stack, replace=takeover or director.worker is not None)
        live.add_signal_handler(signal.SIGHUP, director.reload)
        names = ", ".join(map(str, live.interfaces.values()))
        say(f"{who}takes its share of {names}" if who else f"running on {names}")
        for name in live.interfaces:
            if not who and not interface_is_up(name):
                say(f"{name} is down, and passes no frame before ip link set {name} up")
        director.begin()
        live.run()
        for interface in live.interfaces.values():
            counts = ", ".join(f"{n} {what}" for what, n in interface.statistics.items())
            say(f"{who}{interface.name}: {counts}")


def _run_workers(director: Director, given: Options, own: dict[str, Any], takeover: bool) -> int:
    """Hold the workers together; the director at hand has shown that the configuration is good."""
    configuration = director.configuration
    if takeover or configuration.state is not None:
        raise ConfigError("--workers: neither --takeover nor --state is there for several engines")
    if director.control == "none":
        raise ConfigError("--workers: they are asked by control sockets; expected a --control PATH")
    if not director.knows_inside():
        raise ConfigError("--workers: expected servers, or --inside NETWORK: where no client is")

    def work(worker: Worker) -> None:
        _work(Director(given, own, worker))

    with (
        # First, so that nothing is begun where a director is running.
        ControlServer(director.control, lambda argv, stdin: workers.execute(argv, stdin)) as server,
        Workers(configuration.workers, director.control, work) as workers,
    ):
        names = ", ".join(entry.name for entry in configuration.interfaces)
        say(f"running on {names} with {configuration.workers} workers")
        status = workers.run(server)
        if status == 0:
            with suppress(ControlError):  # they may have been ended as well
                put(workers.execute(["ipvsadm", "-L", "-n"]).stdout)
    return status
