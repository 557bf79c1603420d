"""``lvscore ipvsadm``: ipvsadm's language on a file of rules, without a running director."""

import sys
from pathlib import Path

import click

from lvscore import config
from lvscore.engine import Engine
from lvscore.ipvsadm import execute

__all__ = ["ipvsadm"]


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]})
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="ARGS")
@click.option("--rules", metavar="FILE", required=True, help="The table: made by -A, -R or --set.")
def ipvsadm(words: tuple[str, ...], rules: str) -> int:
    """Carry out one ipvsadm command line on the rules in FILE, as ipvsadm does on a kernel.

    ARGS are ipvsadm's, -h tells them; -R reads standard input. FILE holds what -c of the other
    commands takes. It is read, and when the command changed the table it is replaced as a
    whole, without the comments it had. Messages and exit statuses are ipvsadm's.
    """
    engine = Engine(max_connections=1, seed=0)
    makes = words[:1] and words[0] in ("-A", "--add-service", "-R", "--restore", "--set")
    if Path(rules).exists() or not makes:
        config.load(rules).apply(engine)
    before = config.save(engine)
    stdin = sys.stdin.read() if words[:1] in (("-R",), ("--restore",)) else ""
    outcome = execute(engine, ["ipvsadm", *words], stdin)
    if config.save(engine) != before:
        config.write(engine, rules)
    click.echo(outcome.stdout, nl=False)
    click.echo(outcome.stderr, nl=False, err=True)
    return outcome.status
