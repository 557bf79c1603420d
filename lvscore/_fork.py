"""A process beside this one, with its memory as it is now: what takes long keeps nobody waiting."""

import os
import signal
import traceback
from collections.abc import Callable

__all__ = ["fork"]

_OPEN = 3  # standard input, output and error stay open


def fork(work: Callable[[], None], keep: int = 2) -> int:
    """Let a child carry out ``work`` and end; its process id.

    The child has none of this process's descriptors but the standard ones and ``keep``: nobody
    takes its listening sockets for those of a process that still answers. Its exit status is 0,
    or 1 if ``work`` raised, which is told on stderr.
    """
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.closerange(_OPEN, keep)
        os.closerange(max(keep + 1, _OPEN), os.sysconf("SC_OPEN_MAX"))
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
