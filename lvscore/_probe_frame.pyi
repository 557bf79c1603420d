from collections.abc import Iterable
from typing import Self, final

from lvscore._frames import FrameBatch

__all__ = [
    "Fragments",
    "Sequence",
    "atomic_strip",
    "compile_options",
    "is_martian",
    "offloads_guessed",
    "sequence_adjust",
    "ttl_decrease",
    "tunnel",
    "vnet_header_before",
]

@final
class Sequence:
    def edit(self, position: int, difference: int) -> None: ...
    def forward(self, number: int) -> int: ...
    def back(self, number: int) -> int: ...

def sequence_adjust(frame: bytes, own: Sequence, other: Sequence) -> bytes: ...

@final
class Fragments:
    def copy(self) -> Self: ...
    def add(self, frame: bytes, tick: int = 0) -> tuple[int, int]: ...
    def whole(self, datagram: int) -> bytes: ...
    def cut(self, datagram: int, limit: int, identification: int = 0) -> list[bytes]: ...
    def discard(self, datagram: int) -> None: ...
    def due(self, tick: int) -> int | None: ...
    @property
    def held(self) -> tuple[int, int]: ...

def tunnel(
    frame: bytes,
    server: bytes,
    source: bytes,
    kind: int = 0,
    flags: int = 0,
    port: int = 6080,
    keep_df: bool = True,
    identification: int = 0,
    hash: int = 0,
) -> tuple[bytes, int]: ...
def is_martian(address: bytes) -> bool: ...
def ttl_decrease(frame: bytes) -> bytes: ...
def atomic_strip(frame: bytes) -> bytes: ...
def compile_options(
    frame: bytes,
    own: bytes,
    now: int = 0,
    local: Iterable[bytes] = (),
    source_route: bool = False,
) -> tuple[int, int, bytes]: ...
def offloads_guessed(frame: bytes) -> tuple[bytes, bytes]: ...
def vnet_header_before(batch: FrameBatch) -> None: ...
