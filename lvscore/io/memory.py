"""Frames in memory, for tests and for programs that hold them already."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lvscore._arguments import whole_number
from lvscore._frames import FrameBatch
from lvscore.constants import LinkType
from lvscore.errors import ConfigError
from lvscore.io._selection import selection

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["MemorySink", "MemorySource"]


class MemorySource:
    """Frames from bytes objects; may be iterated any number of times, each time from the start.

    Args:
        frames: bytes-like objects, copied at once, so that an engine cannot change them.
        timestamps: nanoseconds, one per frame; 0 by default.
        link_type: LINKTYPE_ number of all frames.
        batch_size: most frames in a batch, 1 to 1,048,576.

    Raises:
        ConfigError: timestamps are not as many as frames, or a number is out of range.
    """

    def __init__(
        self,
        frames: "Iterable[Buffer]",
        timestamps: Sequence[int] | npt.NDArray[np.integer] | None = None,
        link_type: int = LinkType.ETHERNET,
        *,
        batch_size: int = 1024,
    ) -> None:
        try:
            self._frames = [bytes(memoryview(frame)) for frame in frames]
        except TypeError as error:
            raise ConfigError(f"frames must be bytes-like: {error}") from error
        try:
            self._timestamps = [0] * len(self._frames) if timestamps is None else list(timestamps)
        except TypeError as error:
            raise ConfigError(f"timestamps must be integers: {error}") from error
        if len(self._timestamps) != len(self._frames):
            raise ConfigError(f"{len(self._timestamps)} timestamps for {len(self._frames)} frames")
        self._batch_size = whole_number(batch_size, "batch_size", 1, 1 << 20)
        self._link_type = link_type

    @property
    def link_type(self) -> int:
        """LINKTYPE_ number of the frames."""
        return self._link_type

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[FrameBatch]:
        for start in range(0, len(self._frames), self._batch_size):
            part = slice(start, start + self._batch_size)
            yield FrameBatch.of(
                self._frames[part], self._timestamps[part], link_type=self._link_type
            )


class MemorySink:
    """Collects frames.

    Attributes:
        frames: ``(frame, timestamp)`` of each, bytes and nanoseconds, in order.
    """

    def __init__(self) -> None:
        self.frames: list[tuple[bytes, int]] = []

    def write_batch(
        self, batch: FrameBatch, select: npt.NDArray[np.bool_ | np.uint8] | None = None
    ) -> None:
        """Collect the frames of ``batch``, or those of which ``select`` is true."""
        timestamps = batch.timestamp.tolist()
        chosen = (
            range(len(batch))
            if select is None
            else np.flatnonzero(selection(select, len(batch))).tolist()
        )
        self.frames.extend((bytes(batch[i]), timestamps[i]) for i in chosen)

    def close(self) -> None:
        """Nothing to let go of; what was collected stays."""
