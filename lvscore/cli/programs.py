"""``lvscore ipvsadm`` and the other programs: on the running director, or on a file of rules.

Started under a program's own name, through a symbolic link, lvscore is that program.
"""

import re
from pathlib import Path

import click

from lvscore import config, control
from lvscore.cli.streams import put, read_input
from lvscore.engine import Engine
from lvscore.errors import ConfigError
from lvscore.model import Outcome
from lvscore.programs import PROGRAMS, execute, reads_standard_input, tells_of_itself

__all__ = ["as_program", "commands"]

_MAKES = ("-A", "--add-service", "-R", "--restore", "--set")  # a file that is not there yet
_FILE_OPTION = re.compile("-[acn]*f|--file")  # of nft: the next word is a file
_STDIN = "/dev/stdin:"
_SHOWN = ("ipvsadm", "conntrack", "iptables", "ip6tables", "nft")
_HELP = """Carry out one {name} command line on the director that is running.

ARGS are those of {name}; what it prints, and its exit status, are {name}'s own. With --rules
it works on a file instead, which holds what -c of the other commands takes: it is read, and when
the command changed it, it is replaced as a whole, without the comments it had."""


class _InputError(Exception):
    """The file that a program is to read is not there, in the words of nft."""


def as_program(argv: list[str]) -> int | None:
    """Be the program under whose name lvscore was started; None: it was started as lvscore."""
    name = Path(argv[0]).name
    return None if name not in PROGRAMS else _carry_out([name, *argv[1:]], None, None)


def commands() -> list[click.Command]:
    """A command of the command line for each program."""
    return [_command(name) for name in PROGRAMS]


def _command(name: str) -> click.Command:
    def run(words: tuple[str, ...], control: str | None, rules: str | None) -> int:
        return _carry_out([name, *words], control, rules)

    return click.Command(
        name,
        callback=run,
        context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]},
        params=[
            click.Argument(["words"], nargs=-1, type=click.UNPROCESSED, metavar="ARGS"),
            click.Option(["--control"], metavar="PATH", help="The director's control socket."),
            click.Option(["--rules"], metavar="FILE", help="A file instead of a director."),
        ],
        help=_HELP.format(name=name),
        hidden=name not in _SHOWN,
    )


def _carry_out(argv: list[str], path: str | None, rules: str | None) -> int:
    if tells_of_itself(argv):
        outcome = execute(Engine(max_connections=1, seed=0), argv)
    else:
        try:
            outcome = _ask(argv, path) if rules is None else _on_file(argv, rules)
        except _InputError as error:
            outcome = Outcome(1, "", f"{error}\n")
    put(outcome.stdout)
    errors = outcome.stderr
    file = _file_of_nft(argv)
    if file is not None:  # which was sent as standard input
        errors = "".join(
            f"{file}:{line.removeprefix(_STDIN)}" if line.startswith(_STDIN) else line
            for line in errors.splitlines(keepends=True)
        )
    click.echo(errors, nl=False, err=True)
    return outcome.status


def _ask(argv: list[str], path: str | None) -> Outcome:
    argv, stdin = _with_input(argv)
    return control.call(control.path_of(path), argv, stdin)


def _on_file(argv: list[str], rules: str) -> Outcome:
    if argv[0] == "conntrack":
        raise ConfigError("--rules: a file has no connections, which conntrack is about")
    engine = Engine(max_connections=1, seed=0)
    if Path(rules).exists() or argv[1:2] not in [[word] for word in _MAKES]:
        config.load(rules).apply(engine)
    before = config.save(engine)
    argv, stdin = _with_input(argv)
    outcome = execute(engine, argv, stdin)
    if config.save(engine) != before:
        config.write(engine, rules)
    return outcome


def _file_of_nft(argv: list[str]) -> str | None:
    given = argv[0] == "nft" and len(argv) > 2 and _FILE_OPTION.fullmatch(argv[-2])
    return argv[-1] if given and argv[-1] != "-" else None


def _with_input(argv: list[str]) -> tuple[list[str], str]:
    """The words, and what the program reads: standard input, or the file of ``nft -f``."""
    file = _file_of_nft(argv)
    if file is not None:
        could_not = f'internal:0:0-0: Error: Could not open file "{file}": '
        try:
            return [*argv[:-1], "-"], Path(file).read_text(encoding="utf-8")
        except OSError as error:
            raise _InputError(f"{could_not}{error.strerror or error}") from None
        except UnicodeDecodeError as error:
            raise _InputError(f"{could_not}byte {error.start} is not UTF-8 text") from None
    return argv, read_input() if reads_standard_input(argv) else ""
