"""Writing a file in a thread, so that translating goes on while the kernel takes what is done."""

from typing import final

__all__ = ["WriteBehind"]

@final
class WriteBehind:
    def __init__(self, descriptor: int, committed: int) -> None: ...
    def run(self) -> None: ...
    def stop(self) -> None: ...
