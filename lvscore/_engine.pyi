"""The compiled engine: owns the state and the boundary to Python (memory, GIL, errors)."""

from typing import Any

from typing_extensions import Buffer, disjoint_base

from lvscore._frames import FrameBatch
from lvscore.constants import Reason, Verdict

__all__ = ["EngineCore", "connection_layout"]

def connection_layout() -> dict[str, Any]: ...
@disjoint_base
class EngineCore:
    def __init__(self, max_connections: int, seed: bytes) -> None: ...
    def process(self, frame: Buffer, now: int, link_type: int = 1) -> Verdict:
        """Take one frame through the engine; it is rewritten in place.

        Args:
            frame: any writable buffer (bytearray, memoryview, uint8 array) with one frame.
            now: its time in integer nanoseconds, from any origin. Time that runs backwards
                is taken as the latest time given, and counted.
            link_type: LINKTYPE_ number of its link header.

        Returns:
            What becomes of the frame; :attr:`last_reason` says why.

        Raises:
            ConcurrencyError: the engine is at work in another thread.
        """
    def process_batch(self, batch: FrameBatch) -> None:
        """Take all frames of a batch through the engine, as one by one, without the GIL.

        Frames are rewritten in place; ``batch.verdict`` and ``batch.reason`` are filled.

        Raises:
            ConcurrencyError: the engine is at work in another thread.
        """
    def expire(self, now: int) -> int:
        """Move the time to ``now`` (ns) and remove what has expired; how many were removed."""
    def next_deadline(self) -> int | None:
        """A time (ns) before which nothing expires; None if there is nothing to expire."""
    def memory_usage(self) -> dict[str, int]:
        """Bytes in use: by ``connections``, their ``index``, and the ``engine`` itself."""
    @property
    def now(self) -> int:
        """The latest time given, in nanoseconds."""
    @property
    def last_reason(self) -> Reason:
        """Why the latest frame of :meth:`process` got its verdict."""
    @property
    def max_connections(self) -> int:
        """Bound on the connections held at once."""
    @property
    def counters(self) -> dict[str, int]:
        """Exact counters: ``frames``, ``bytes`` (frame lengths), one for each verdict
        (``dropped``, ``forwarded``, ``local``, ``passed``, ``stolen``), ``connections`` (now),
        ``opened``, ``expired``, ``clock_backwards``.
        """
    @property
    def reasons(self) -> dict[Reason, int]:
        """Frames by reason; reasons that did not occur are left out."""
    def _selfcheck(self) -> int: ...
    def _explain(
        self, frame: bytes, now: int, link_type: int
    ) -> tuple[
        Verdict, Reason, bytes, list[tuple[int, int, int, int, bytes, int, bytes, int]]
    ]: ...
    def _service_find(self, family: int, protocol: int, address: bytes, port: int) -> int: ...
    def _service_add(
        self, family: int, protocol: int, address: bytes, port: int, scheduler: int, flags: int
    ) -> int: ...
    def _service_edit(self, index: int, scheduler: int, flags: int) -> None: ...
    def _service_remove(self, index: int) -> None: ...
    def _service_indices(self) -> list[int]: ...
    def _service_get(self, index: int) -> tuple[int, int, bytes, int, int, int]: ...
    def _service_statistics(self, index: int) -> tuple[int, int, int, int, int]: ...
    def _total_statistics(self) -> tuple[int, int, int, int, int]: ...
    def _server_find(self, service: int, address: bytes, port: int) -> int: ...
    def _server_add(
        self, service: int, address: bytes, port: int, method: int, weight: int
    ) -> int: ...
    def _server_edit(self, index: int, weight: int) -> None: ...
    def _server_remove(self, index: int) -> None: ...
    def _server_indices(self, service: int) -> list[int]: ...
    def _server_get(self, index: int) -> tuple[bytes, int, int, int, int, int]: ...
    def _server_statistics(self, index: int) -> tuple[int, int, int, int, int]: ...
    def _rules_set(self, prerouting: bool, rules: list[tuple[object, ...]]) -> None: ...
    def _rule_packets(self, prerouting: bool) -> dict[int, int]: ...
    def _routes_set(self, routes: list[tuple[int, bytes, int, int, bytes | None]]) -> None: ...
    def _local_add(self, family: int, address: bytes) -> None: ...
    def _local_remove(self, family: int, address: bytes) -> None: ...
    def _timeouts_get(self) -> tuple[int, int, int]: ...
    def _timeouts_set(self, tcp: int, tcp_fin: int, udp: int) -> None: ...
    def _connections_count(self) -> int: ...
    def _connections_snapshot(self) -> bytearray: ...
    def _connection_find(
        self,
        family: int,
        protocol: int,
        source: bytes,
        source_port: int,
        destination: bytes,
        destination_port: int,
    ) -> bytearray | None: ...
