"""TCP windows and SCTP associations, packet by packet, for tests."""

from typing import final

__all__ = ["FITS", "Association", "Windows"]

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

@final
class Association:
    @property
    def state(self) -> str: ...
    def send(self, direction: int, sctp: bytes) -> bool: ...
