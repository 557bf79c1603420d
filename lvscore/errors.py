"""The exceptions of lvscore: one tree, and each is also the fitting builtin.

They tell what the *caller* got wrong. What a packet got wrong never raises: it ends with a
verdict, a reason and a counter.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lvscore.report import Report

__all__ = [
    "AddressError",
    "CaptureError",
    "CaptureFileError",
    "CommandError",
    "ConcurrencyError",
    "ConfigError",
    "ControlError",
    "DuplicateError",
    "InterfaceError",
    "LimitError",
    "LvscoreError",
    "NotFoundError",
    "SnapshotError",
    "TruncatedCapture",
    "UnsupportedLinkType",
]


class LvscoreError(Exception):
    """Base of every exception that lvscore raises on purpose."""


class ConfigError(LvscoreError, ValueError):
    """What was asked for is not valid; nothing was changed."""


class AddressError(ConfigError):
    """An address, prefix, port or range that cannot be read."""


class DuplicateError(ConfigError):
    """A service, server or rule that is there already."""


class CommandError(ConfigError):
    """A command line in ipvsadm's or iptables' language that was refused.

    Attributes:
        status: the exit status that the command would have ended with (2 for usage).
    """

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(message)
        self.status = status


class NotFoundError(LvscoreError, LookupError):
    """No such service, server, rule or connection."""


class LimitError(LvscoreError):
    """A bound on the configuration was reached."""


class CaptureError(LvscoreError, ValueError):
    """A capture file that cannot be read or written.

    Attributes:
        report: what became of the frames before it, where :func:`lvscore.run` met it.
    """

    report: "Report | None" = None


class CaptureFileError(OSError, CaptureError):
    """A capture file that the operating system refused to open, read or write.

    Attributes:
        errno, strerror, filename: as of the ``OSError`` that it was raised from, its ``__cause__``.
    """


class TruncatedCapture(CaptureError):  # noqa: N818  (reads as what it is)
    """A capture that ends inside a record; every whole frame before it was delivered.

    Attributes:
        offset: where the broken record begins, in bytes from the start of the file.
    """

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


class UnsupportedLinkType(CaptureError):  # noqa: N818
    """A capture whose link type lvscore does not read."""


class InterfaceError(LvscoreError, OSError):
    """A network interface that cannot be used."""


class ConcurrencyError(LvscoreError, RuntimeError):
    """An engine entered by a second thread, or again from inside a call."""


class ControlError(LvscoreError, OSError):
    """A control socket that cannot be used, or at which nobody answers."""


class SnapshotError(LvscoreError, ValueError):
    """A saved engine that cannot be read, or is damaged, or is of another version."""
