"""FTP's commands and answers, and sequence numbers, one by one, for tests."""

from typing import final

__all__ = [
    "MODES",
    "Sequence",
    "active_request",
    "adjust",
    "announcement_write",
    "passive_answer",
    "passive_request",
    "search",
]

MODES: dict[str, int]

_Announcement = tuple[bytes, int, int, int]

def passive_request(data: bytes, family: int) -> int: ...
def active_request(data: bytes, family: int) -> _Announcement | None: ...
def passive_answer(data: bytes, mode: int, server: bytes) -> _Announcement | None: ...
def search(data: bytes, speaker: bytes, answer: bool) -> tuple[int, _Announcement] | str | None: ...
def announcement_write(mode: int, address: bytes, port: int) -> bytes: ...

@final
class Sequence:
    def edit(self, position: int, difference: int) -> None: ...
    def forward(self, number: int) -> int: ...
    def back(self, number: int) -> int: ...

def adjust(frame: bytes, own: Sequence, other: Sequence) -> bytes: ...
