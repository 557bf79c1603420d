"""Standard input, output and error: there, closed, or full."""

import errno
import io
import os
import sys
from typing import TextIO

__all__ = ["prepare", "put", "read_input"]


def prepare() -> None:
    """Make the standard streams such that nothing is written to the wrong place.

    The number of a stream that was closed when the process began is kept from the files that are
    opened later. Bytes that are no text come in as they are, for the languages to refuse, and what
    the terminal has no letters for goes out escaped, as on stderr.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (until the end)
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def put(text: str, file: TextIO | None = None) -> None:
    """Write to standard output, or to ``file``, at once.

    Raises:
        BrokenPipeError: whoever read it has gone.
        OSError: it is closed, or cannot be written; names the stream.
    """
    file = file or sys.stdout
    if file is None:
        raise _closed("standard output")
    try:
        file.write(text)
        file.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        name = "standard error" if file is sys.stderr else "standard output"
        raise OSError(error.errno, error.strerror, name) from None


def read_input() -> str:
    """All of standard input.

    Raises:
        OSError: it is closed, or cannot be read; names the stream.
    """
    if sys.stdin is None:
        raise _closed("standard input")
    try:
        return sys.stdin.read()
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard input") from None


def _closed(name: str) -> OSError:
    return OSError(errno.EBADF, os.strerror(errno.EBADF), name)
