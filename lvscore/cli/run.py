"""``lvscore run``: a director at work on real interfaces."""

import sys
from contextlib import ExitStack
from typing import Any

import click

from lvscore.cli.setup import engine_options, host_of, make_engine
from lvscore.control import DEFAULT_PATH, ControlServer
from lvscore.live import attach
from lvscore.programs import execute

__all__ = ["run"]


@click.command("run")
@engine_options
@click.option(
    "--backend",
    type=click.Choice(["auto", "ring", "copy"]),
    default="auto",
    show_default=True,
    help="How frames are read: a ring shared with the kernel, or copies.",
)
@click.option(
    "--control",
    metavar="PATH",
    default=DEFAULT_PATH,
    show_default=True,
    help='Socket that lvscore ipvsadm and the others ask; "none": there is none.',
)
def run(backend: str, control: str, **options: Any) -> int:
    """Be a director on the interfaces that --interface names, until SIGINT or SIGTERM.

    The interfaces are of this machine (or network namespace), and have no addresses there: those
    given here are lvscore's own, which answers ARP and Neighbor Discovery for them. --route
    gives a gateway: default=172.16.1.200. It forwards (ip_forward is 1) and sends no redirects
    (send_redirects is 0). While it runs, lvscore ipvsadm, conntrack and iptables list and change
    it. At its end it prints what ipvsadm -L -n would. Needs root or CAP_NET_RAW.
    """
    interfaces, routes = options.pop("interfaces"), options.pop("routes")
    engine = make_engine(interfaces=(), routes=(), **options)
    host = host_of(engine, interfaces, routes)
    host.sysctl["net.ipv4.ip_forward"] = 1
    host.sysctl["net.ipv6.conf.all.forwarding"] = 1
    for name in ("all", *host.interfaces):
        host.sysctl[f"net.ipv4.conf.{name}.send_redirects"] = 0
    with ExitStack() as stack:
        live = stack.enter_context(attach(host, backend=backend))
        if control != "none":
            server = stack.enter_context(
                ControlServer(control, lambda argv, stdin: execute(engine, argv, stdin))
            )
            live.add_reader(server.fileno(), server.step)
        backends = ", ".join(f"{i.name} ({i.backend})" for i in live.interfaces.values())
        print(f"lvscore: running on {backends}", file=sys.stderr, flush=True)
        live.run()
        for interface in live.interfaces.values():
            counts = ", ".join(f"{n} {what}" for what, n in interface.statistics.items())
            print(f"lvscore: {interface.name}: {counts}", file=sys.stderr)
    print(engine.ipvsadm("-L -n"), end="")
    return 0
