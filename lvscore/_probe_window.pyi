"""TCP windows, segment by segment, for tests."""

from typing import final

__all__ = ["FITS", "Windows"]

FITS: dict[int, str]

@final
class Windows:
    def __init__(self, liberal: bool = False, ignore_invalid_rst: bool = False) -> None: ...
    @property
    def state(self) -> str: ...
    @property
    def segment_seconds(self) -> int: ...
    def side(self, direction: int) -> tuple[int, int, int, int]: ...
    def send(
        self,
        direction: int,
        flags: int,
        seq: int,
        ack: int = 0,
        *,
        length: int = 0,
        window: int = 1000,
        options: bytes = b"",
    ) -> str: ...
