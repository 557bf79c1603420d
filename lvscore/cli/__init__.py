"""The command line: ``lvscore replay``, ``lvscore run``, ``lvscore explain``, and the programs
that list and change a running director: ``lvscore ipvsadm``, ``conntrack``, ``iptables``.

Exit statuses: 0; 1 for a capture that cannot be read or written, an interface or a control socket
that cannot be used; 2 for usage and configuration; 130 after Ctrl-C; the programs have their own.
An error is one line on stderr. Started under the name of such a program, lvscore is it.
"""

import os
import sys
from typing import NoReturn

import click

from lvscore import __version__
from lvscore.cli.explain import explain
from lvscore.cli.programs import as_program, commands
from lvscore.cli.replay import replay
from lvscore.cli.run import run
from lvscore.cli.streams import prepare, put
from lvscore.errors import CaptureError, LvscoreError

__all__ = ["cli", "main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False)
@click.version_option(__version__, prog_name="lvscore", message="%(prog)s %(version)s")
def cli() -> None:
    """Linux Virtual Server as a library: translate captures, or be the director."""


cli.add_command(replay)
cli.add_command(explain)
cli.add_command(run)
for command in commands():
    cli.add_command(command)


def main() -> NoReturn:
    """Run the command line and exit."""
    prepare()
    try:
        own = as_program(sys.argv)
        status = cli.main(prog_name="lvscore", standalone_mode=False) or 0 if own is None else own
        if sys.stdout is not None:
            put("")
    except click.ClickException as error:
        status = _fail(error.format_message(), 2)
    except click.Abort:
        status = 130
    except BrokenPipeError:
        status = _quiet()
    except OSError as error:
        name = "" if error.filename is None else f"{error.filename or repr(error.filename)}: "
        status = _fail(f"{name}{error.strerror or error}", 1)
    except CaptureError as error:
        status = _fail(str(error), 1)
    except LvscoreError as error:
        status = _fail(str(error), 2)
    sys.exit(status)


def _fail(message: str, status: int) -> int:
    print(f"lvscore: error: {' '.join(message.split())}", file=sys.stderr)
    return status


def _quiet() -> int:
    """End without a word when whoever read our output has gone."""
    # Python would complain of it once more, when it flushes stdout at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
