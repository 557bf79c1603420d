"""Files that are replaced as a whole or not at all."""

import os
import tempfile
from collections.abc import Iterable

__all__ = ["replace_file"]


def replace_file(path: str, pieces: Iterable[bytes | bytearray], mode: int | None = None) -> None:
    """Write a file beside the old one, and let it take its place when it is on the disk.

    Args:
        path: what to replace; of a symbolic link what it names, not the link.
        pieces: the content.
        mode: permissions; ``None``: as the old file has them, 0644 for a new one.

    Raises:
        OSError: the file cannot be written; the old one is there as it was.
    """
    path = os.path.realpath(path)
    if mode is None:
        mode = os.stat(path).st_mode & 0o777 if os.path.exists(path) else 0o644
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".lvscore-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
