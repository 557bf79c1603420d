"""Where the bytes of a capture come from and go to: paths, standard streams, file objects."""

import contextlib
import gzip
import io
import os
import stat
import sys
import zlib
from collections.abc import Callable
from typing import Any, Protocol, cast

from lvscore.errors import CaptureError, CaptureFileError, ConfigError

__all__ = ["BinaryFile", "Input", "Output", "PathOrFile"]

GZIP_MAGIC = b"\x1f\x8b"  # RFC 1952 section 2.3.1


class BinaryFile(Protocol):
    """A binary file object; a reader needs ``readinto`` or ``read``, a writer ``write``."""

    def close(self) -> None: ...


PathOrFile = str | bytes | os.PathLike[str] | os.PathLike[bytes] | BinaryFile


def refused(error: OSError | ValueError, name: str) -> CaptureError:
    """The exception for what the operating system, or else a file object, answered."""
    if isinstance(error, OSError) and error.errno is not None:
        return CaptureFileError(error.errno, error.strerror or str(error), name)
    return CaptureError(f"{name}: {error}")


def open_raw(target: PathOrFile, mode: str) -> tuple[Any, str, bool]:
    """The unbuffered file of ``target``, its name, and whether it is ours to close."""
    if target == "-":
        name = "standard input" if mode == "rb" else "standard output"
        text = sys.stdin if mode == "rb" else sys.stdout
        if text is None:
            raise CaptureError(f"{name} is closed")
        if mode == "wb":
            text.flush()
        return (
            text.buffer if mode == "rb" else getattr(text.buffer, "raw", text.buffer),
            name,
            False,
        )
    if isinstance(target, (str, bytes, os.PathLike)):
        name = os.fsdecode(target)
        try:
            return io.FileIO(target, mode), name, True
        except OSError as error:
            raise refused(error, name) from error
        except ValueError as error:  # a NUL in the name
            raise CaptureError(f"{name!r} cannot be opened: {error}") from error
    given = getattr(target, "name", None)
    name = given if isinstance(given, str) else f"<{type(target).__name__}>"
    if isinstance(target, io.TextIOBase):
        raise CaptureError(f"{name} is open as text; a capture is binary")
    wanted = ("readinto", "read") if mode == "rb" else ("write",)
    if not any(callable(getattr(target, method, None)) for method in wanted):
        raise ConfigError(
            f"expected a path, '-' or a binary file object, not {type(target).__name__}"
        )
    return target, name, False


def chunk_reader(file: Any) -> Callable[[memoryview], int | None]:
    """What fills a buffer with whatever ``file`` has, waiting for no more than its first bytes."""
    # Not readinto1: given more room than its buffer, a BufferedReader waits for more bytes even
    # where it has some to give, and a capture that comes through a pipe would lag behind.
    read = getattr(file, "read1", None)
    readinto = getattr(file, "readinto", None)
    if read is None and readinto is not None:
        return cast(Callable[[memoryview], int | None], readinto)
    read = read or file.read

    def fill(buffer: memoryview) -> int | None:
        data = read(len(buffer))
        if data is None:
            return None
        buffer[: len(data)] = data
        return len(data)

    return fill


class _Counted(io.RawIOBase):
    """A stream whose first bytes were read already; counts what it hands out."""

    def __init__(self, head: bytes, fill: Callable[[memoryview], int | None]) -> None:
        self.head = head
        self.fill = fill
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        view = memoryview(buffer)
        if self.head:
            size: int | None = min(len(view), len(self.head))
            view[:size], self.head = self.head[:size], self.head[size:]
        else:
            size = self.fill(view)
        self.count += size or 0
        return size


class Input:
    """The bytes of a capture, unpacked when they are gzip, in whatever pieces come.

    Attributes:
        name: for messages.
        size: bytes of the file as it lies on disk, None for anything but a regular file's path.
        compressed: it is gzip.
        live: more may come while we wait, so what is there should not be held back.
        truncated: the gzip stream broke off.
    """

    def __init__(self, source: PathOrFile) -> None:
        self.file, self.name, self.owned = open_raw(source, "rb")
        self.size: int | None = None
        self.truncated = False
        try:
            if self.owned:
                status = os.fstat(self.file.fileno())
                if stat.S_ISREG(status.st_mode):
                    self.size = status.st_size
            seekable = getattr(self.file, "seekable", None)
            self.live = seekable is None or not seekable()
            fill = chunk_reader(self.file)
            head = self._head(fill)
            self._counted = _Counted(head, fill)
            self.compressed = head[:2] == GZIP_MAGIC
            self._fill = (
                chunk_reader(gzip.GzipFile(fileobj=self._counted))
                if self.compressed
                else self._counted.readinto
            )
        except CaptureError:
            self.close()
            raise
        except (OSError, ValueError) as error:
            self.close()
            raise refused(error, self.name) from error
        except BaseException:
            self.close()
            raise

    def _head(self, fill: Callable[[memoryview], int | None]) -> bytes:
        """Enough of the beginning to know gzip by."""
        head = b""
        while len(head) < len(GZIP_MAGIC):
            buffer = bytearray(len(GZIP_MAGIC) - len(head))
            size = self._checked(fill(memoryview(buffer)), len(buffer))
            if not size:
                break
            head += buffer[:size]
        return head

    def _checked(self, size: int | None, room: int) -> int:
        if size is None:
            raise CaptureError(f"{self.name} is not ready; captures are read from blocking files")
        if not 0 <= size <= room:
            raise CaptureError(f"{self.name}: a read of {room} bytes returned {size}")
        return size

    def readinto(self, buffer: memoryview) -> int:
        """Read up to ``len(buffer)`` bytes; 0 at the end."""
        try:
            return self._checked(self._fill(buffer), len(buffer))
        except EOFError:
            self.truncated = True
            return 0
        except (zlib.error, gzip.BadGzipFile) as error:
            raise CaptureError(f"{self.name}: corrupt gzip data: {error}") from error
        except CaptureError:
            raise
        except (OSError, ValueError) as error:
            raise refused(error, self.name) from error

    @property
    def count(self) -> int:
        """Bytes read so far from the file as it lies on disk."""
        return self._counted.count

    def close(self) -> None:
        if self.owned:
            self.file.close()


class Output:
    """Where a capture goes.

    Attributes:
        name: for messages.
        write: of the unbuffered file; may take less than it is given.
        compressor: zlib's, for a path that ends in ``.gz``.
        regular: a path's regular file, written as it is: a write of it ends, be it with an error.
    """

    def __init__(self, target: PathOrFile) -> None:
        self.file, self.name, self.owned = open_raw(target, "wb")
        self.write: Callable[[memoryview], int | None] = self.file.write
        # wbits 31: a gzip wrapper. It holds no time, so equal captures make equal files.
        self.compressor = (
            zlib.compressobj(wbits=31) if self.owned and self.name.lower().endswith(".gz") else None
        )
        self.regular = (
            self.owned
            and self.compressor is None
            and stat.S_ISREG(os.fstat(self.file.fileno()).st_mode)
        )

    def refused(self, error: OSError | ValueError) -> CaptureError:
        return refused(error, self.name)

    def cut(self, size: int) -> None:
        """Take a partial record off the end of a regular file."""
        with contextlib.suppress(OSError):  # what made it necessary is raised
            if self.owned and stat.S_ISREG(os.fstat(self.file.fileno()).st_mode):
                os.ftruncate(self.file.fileno(), size)

    def close(self) -> None:
        try:
            if self.owned:
                self.file.close()
            elif hasattr(self.file, "flush") and not getattr(self.file, "closed", False):
                self.file.flush()
        except (OSError, ValueError) as error:
            raise refused(error, self.name) from error
