from types import TracebackType
from typing import Literal, Self, final

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

from lvscore._frames import FrameBatch
from lvscore.io._stream import PathOrFile

__all__ = ["PcapWriter"]

@final
class PcapWriter:
    def __init__(
        self,
        target: PathOrFile,
        *,
        link_type: int = 1,
        format: str = "pcap",
        nanosecond: bool = True,
        snaplen: int = 262144,
    ) -> None: ...
    def __del__(self) -> None: ...
    def write_batch(
        self, batch: FrameBatch, select: npt.NDArray[np.bool_ | np.uint8] | None = None
    ) -> None: ...
    def write(self, frame: Buffer, timestamp: int, original_length: int | None = None) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def format(self) -> Literal["pcap", "pcapng"]: ...
    @property
    def link_type(self) -> int: ...
    @property
    def nanosecond(self) -> bool: ...
    @property
    def snaplen(self) -> int: ...
    @property
    def frames(self) -> int: ...
