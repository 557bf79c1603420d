"""The progress bar of a run."""

from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

__all__ = ["Progress", "Sized"]


class Sized(Protocol):
    """A source that knows how far it is; its size is ``None`` where it has none."""

    @property
    def position(self) -> int: ...
    @property
    def size(self) -> int | None: ...


class Progress:
    """A bar on stderr that follows a source's position; call it after each batch."""

    def __init__(self, source: Sized) -> None:
        self._source = source
        self._bar = RichProgress(
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[frames]} frames"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )

    def __enter__(self) -> Self:
        self._bar.start()
        self._task = self._bar.add_task("", total=self._source.size, frames=0)
        return self

    def __call__(self, frames: int) -> None:
        self._bar.update(self._task, completed=self._source.position, frames=frames)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()
