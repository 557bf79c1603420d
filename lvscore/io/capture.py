"""Capture files: ``open_pcap`` to read, ``create_pcap`` to write."""

import contextlib
import os

from lvscore.constants import LinkType
from lvscore.errors import ConfigError
from lvscore.io._pcap import PcapReader
from lvscore.io._pcap_writer import PcapWriter
from lvscore.io._stream import PathOrFile
from lvscore.io.protocols import Source

__all__ = ["create_pcap", "open_pcap"]


def open_pcap(path_or_file: PathOrFile, *, batch_size: int = 1024) -> PcapReader:
    """Open a pcap or pcapng capture, gzip-compressed or not; which it is shows from its bytes.

    Reads what draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng define, in both byte orders:
    pcap with microseconds, nanoseconds or Kuznetzov's longer records; pcapng with any number of
    sections and interfaces, and enhanced, simple and obsolete packet blocks.

    Args:
        path_or_file: a path, ``"-"`` for standard input, or a binary file object (read from
            where it is, and left open).
        batch_size: most frames in a batch, 1 to 1,048,576.

    Returns:
        A context manager and iterator of FrameBatch.

    Raises:
        CaptureFileError: the file is missing, a directory or cannot be read; it is a CaptureError
            and an OSError, with ``errno`` and ``filename``.
        TruncatedCapture: the file ends inside its header.
        UnsupportedLinkType: no interface has a link type of LinkType.
        CaptureError: the file is empty, foreign or corrupt.
        ConfigError: an argument is not what is listed above.
    """
    return PcapReader(path_or_file, batch_size=batch_size)


def create_pcap(
    path_or_file: PathOrFile,
    *,
    like: Source | None = None,
    link_type: int | None = None,
    format: str | None = None,
    nanosecond: bool | None = None,
    snaplen: int = 262144,
) -> PcapWriter:
    """Create a pcap or pcapng capture, replacing a file that is there.

    Args:
        path_or_file: a path (gzip-compressed when it ends in ``.gz``), ``"-"`` for standard
            output, or a binary file object (written from where it is, and left open).
        like: a source whose link type, format and resolution hold where they are not given.
        link_type: of the frames, a LinkType; ETHERNET by default. A pcap has this one only, a
            pcapng gets an interface more for each other that comes.
        format: ``"pcap"`` (the default) or ``"pcapng"``.
        nanosecond: whether timestamps are kept to the nanosecond (the default) or microsecond.
        snaplen: longer frames are cut to so many bytes; more than 262144 libpcap does not read.

    Raises:
        CaptureFileError: the file cannot be created or written.
        UnsupportedLinkType: ``link_type`` is none of LinkType.
        ConfigError: another argument is not what is listed above, or the file is the one that
            ``like`` reads from.
    """
    name = getattr(like, "name", None)
    if name is not None and isinstance(path_or_file, (str, bytes, os.PathLike)):
        same = False
        with contextlib.suppress(OSError, ValueError):
            same = os.path.samefile(name, path_or_file)
        if same:
            raise ConfigError(f"{name} cannot be written while it is read")
    if link_type is None:
        link_type = LinkType.ETHERNET if like is None else getattr(like, "link_type", None)
        if link_type is None:
            raise ConfigError(f"like={like!r} is no source: expected one with a link_type")
    if format is None:
        format = getattr(like, "format", "pcap")
    if nanosecond is None:
        nanosecond = getattr(like, "nanosecond", True)
    return PcapWriter(
        path_or_file, link_type=link_type, format=format, nanosecond=nanosecond, snaplen=snaplen
    )
