"""Arguments that sources and sinks share, checked."""

import numpy as np
import numpy.typing as npt

from lvscore.errors import ConfigError

__all__ = ["selection"]


def selection(select: object, count: int) -> npt.NDArray[np.uint8]:
    """``select`` as contiguous uint8, one per frame of a batch of ``count``."""
    try:
        given = np.asarray(select)
    except ValueError as error:
        raise ConfigError(f"select must be {count} bool or uint8: {error}") from error
    if given.shape != (count,) or given.dtype not in (np.bool_, np.uint8):
        raise ConfigError(
            f"select must be {count} bool or uint8, one per frame, not an array of "
            f"{given.dtype} and shape {given.shape}"
        )
    return np.ascontiguousarray(given).view(np.uint8)
