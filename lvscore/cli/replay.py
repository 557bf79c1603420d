"""``lvscore replay``: a capture in, the translated capture out."""

import json
import os
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import FrameType
from typing import Any, TextIO

import click

from lvscore.cli.output import format_summary, summary
from lvscore.cli.progress import Progress
from lvscore.cli.setup import Options, engine_options
from lvscore.cli.streams import put
from lvscore.errors import CaptureError, ConfigError
from lvscore.io import create_pcap, open_pcap
from lvscore.report import Report
from lvscore.runner import run

__all__ = ["replay"]


@click.command()
@click.argument("source", metavar="IN")
@click.option(
    "-o", "--output", metavar="OUT", required=True, help="The capture to write; - is stdout."
)
@engine_options
@click.option("--json", "as_json", is_flag=True, help="Report as one JSON object.")
@click.option("--no-progress", is_flag=True, help="No progress bar on a terminal.")
def replay(source: str, output: str, as_json: bool, no_progress: bool, **options: Any) -> int:
    """Send the frames of capture IN through a director, and write what it sends on to OUT.

    Time is the capture's own. Dropped frames and those for the director itself are not
    written. IN and OUT may be - for stdin and stdout; the report then goes to stderr. OUT is
    created once the configuration and the beginning of IN are known to be good, and written in
    place: what was translated before an error, Ctrl-C or SIGTERM is there, as a valid capture.
    """
    engine = Options(**options).engine()
    _check_distinct(output, source, options["config_file"])
    report_to = sys.stderr if output == "-" else sys.stdout
    error: CaptureError | None = None
    with ExitStack() as stack:
        ended_by = stack.enter_context(_signals())
        reader = stack.enter_context(open_pcap(source))
        writer = stack.enter_context(create_pcap(output, like=reader))
        shown = not no_progress and sys.stderr.isatty()
        progress = stack.enter_context(Progress(reader) if shown else nullcontext())
        try:
            report = run(engine, reader, writer, progress=progress)
        except CaptureError as caught:
            so_far = getattr(caught, "report", None)
            if not isinstance(so_far, Report):
                raise
            report, error = so_far, caught
    _print(engine, report, report_to, as_json)
    if error is not None:
        raise error
    return 128 + ended_by[0] if report.interrupted else 0


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Let SIGTERM and SIGHUP end a run as Ctrl-C does; the first number is that of what came.

    What is ignored, as after nohup, stays ignored.
    """
    came = [int(signal.SIGINT)]

    def end(number: int, frame: FrameType | None) -> None:
        came.insert(0, number)
        interrupt = signal.getsignal(signal.SIGINT)
        if not callable(interrupt):
            raise KeyboardInterrupt
        interrupt(signal.SIGINT, frame)

    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) == signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, end)
    try:
        yield came
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _print(engine: Any, report: Report, file: TextIO | None, as_json: bool) -> None:
    text = f"{json.dumps(summary(engine, report))}\n" if as_json else format_summary(engine, report)
    put(text, file)


def _check_distinct(output: str, source: str, rules: str | None) -> None:
    for path, standard, what in ((source, 0, "IN"), (rules, None, "-c FILE")):
        try:
            read = os.fstat(0) if path == "-" and standard == 0 else os.stat(path or "")
            written = os.fstat(1) if output == "-" else os.stat(output)
        except (OSError, ValueError):
            continue  # one of them is not there, which opening it will tell better
        if os.path.samestat(read, written) and stat.S_ISREG(read.st_mode):
            raise ConfigError(
                f"OUT {output} is the file {what}, which would be lost: expected another"
            )
