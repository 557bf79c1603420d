"""Files that are replaced as a whole or not at all."""

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterable

__all__ = ["replace_file"]


def replace_file(path: str, pieces: Iterable[bytes | bytearray], mode: int | None = None) -> None:
    """Write a file beside the old one, and let it take its place when it is on the disk.

    Args:
        path: what to replace; of a symbolic link what it names, not the link.
        pieces: the content.
        mode: permissions; ``None``: as the old file has them, and its owner, where this process
            may give files away; 0644 for a new one.

    Raises:
        OSError: the file cannot be written, or is a device or the like; the old one is there as
            it was.
    """
    if not path:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    path = os.path.realpath(path)
    old = os.stat(path) if os.path.exists(path) else None
    if old is not None and not stat.S_ISREG(old.st_mode):
        if stat.S_ISDIR(old.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        raise OSError(errno.EINVAL, "is there, and no regular file", path)
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".lvscore-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        if mode is None and old is not None:
            with contextlib.suppress(OSError):
                os.chown(temporary, old.st_uid, old.st_gid)
        os.chmod(temporary, mode or (0o644 if old is None else old.st_mode & 0o777))
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
