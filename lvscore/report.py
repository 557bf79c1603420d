"""What a run did, in numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Report"]

_VERBS = {
    "FORWARD": "forwarded",
    "PASS": "passed",
    "LOCAL": "local",
    "STOLEN": "stolen",
    "DROP": "dropped",
}


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the frames of a run.

    ``str()`` gives one line. Bytes are those of the frames as they came in.
    """

    frames: int = 0
    bytes: int = 0
    verdicts: Mapping[str, int] = field(default_factory=dict)
    """Frames by the name of their verdict; a verdict that no frame got is missing."""
    drops: Mapping[str, int] = field(default_factory=dict)
    """Dropped frames by the name of the reason."""
    connections: int = 0
    """Connections opened, those that no rule translates too."""
    elapsed: float = 0.0
    """Seconds of real time, reading and writing included."""
    interrupted: bool = False
    """Whether the run was ended by the keyboard before its source was."""

    @property
    def frames_per_second(self) -> float:
        """Frames per second of real time; 0 where no time passed."""
        return self.frames / self.elapsed if self.elapsed > 0 else 0.0

    def to_dict(self) -> dict[str, object]:
        """Return plain values, as JSON takes them."""
        return {
            "frames": self.frames,
            "bytes": self.bytes,
            "verdicts": {verb: self.verdicts.get(name, 0) for name, verb in _VERBS.items()},
            "drops": dict(self.drops),
            "connections": self.connections,
            "elapsed": self.elapsed,
            "frames_per_second": self.frames_per_second,
            "interrupted": self.interrupted,
        }

    def __str__(self) -> str:
        parts = [
            f"{count} {verb}" for name, verb in _VERBS.items() if (count := self.verdicts.get(name))
        ]
        if self.drops:
            by_count = sorted(self.drops.items(), key=lambda item: (-item[1], item[0]))
            parts[-1] += f" ({', '.join(f'{name} {count}' for name, count in by_count)})"
        parts.append(_plural(self.connections, "connection"))
        if self.elapsed > 0:
            parts.append(_rate(self.frames_per_second))
        line = f"{_plural(self.frames, 'frame')}: {', '.join(parts)}"
        return f"{line} (interrupted)" if self.interrupted else line


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _rate(per_second: float) -> str:
    for limit, unit in ((1e6, "Mpps"), (1e3, "kpps")):
        if per_second >= limit:
            return f"{per_second / limit:.1f} {unit}"
    return f"{per_second:.0f} pps"
