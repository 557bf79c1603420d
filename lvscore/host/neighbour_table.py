"""What is known of neighbours' link addresses, and for how long it holds.

The states and times are those of Linux (neighbour.c), which are those of RFC 4861, section 7.3, for
ARP as well. An address that was confirmed holds for a while (REACHABLE), and is then used once more
on trust (STALE, DELAY) before the neighbour itself is asked (PROBE). Packets of an address that
nobody has told yet wait (INCOMPLETE). The compiled stage knows all addresses but the stale ones.
"""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address

from lvscore.host.packets import Address
from lvscore.host.settings import HostSettings

__all__ = ["Failed", "Neighbour", "NeighbourState", "NeighbourTable", "Question"]

SECOND = 1_000_000_000
_MILLISECOND = 1_000_000
_LAZY = 5 * SECOND  # between two collections that a full table makes (neigh_forced_gc)
_LOCKED = SECOND  # an address that was told may not be told otherwise so soon (locktime)

Key = tuple[int, Address]
"""Number of an interface, and an address on its wire."""


class NeighbourState(Enum):
    """As ``ip neighbour`` names them."""

    PERMANENT = "permanent"
    INCOMPLETE = "incomplete"
    REACHABLE = "reachable"
    STALE = "stale"
    DELAY = "delay"
    PROBE = "probe"


_COMPILED = frozenset(NeighbourState) - {NeighbourState.INCOMPLETE, NeighbourState.STALE}


@dataclass(slots=True)
class Neighbour:
    """An entry of the table; times are nanoseconds."""

    state: NeighbourState
    mac: bytes = b""
    source: Address | None = None
    """Whom to ask in the name of."""
    due: int = 0
    """When its timer fires; 0: it has none."""
    queued: int = 0
    """When the table looks at it next, which is not later; 0: it does not."""
    told: bytes | None = None
    """What the compiled stage knows."""
    questions: int = 0
    updated: int = 0
    """When the state or the link address changed last."""
    used: int = 0
    packets: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Question:
    """A neighbour is to be asked: all by ``mac`` None, else itself alone."""

    time: int
    interface: int
    address: Address
    source: Address | None
    mac: bytes | None


@dataclass(frozen=True, slots=True)
class Failed:
    """A neighbour that did not answer, and what waited for it."""

    time: int
    interface: int
    address: Address
    packets: list[bytes]


class NeighbourTable:
    """Neighbours by interface number and address.

    Args:
        settings: ``net.ipv4.neigh.default.*`` and ``net.ipv6.neigh.default.*``.
        compiled: is called with a key and its link address, or None when it is not known any more,
            or not to be relied on.
    """

    def __init__(
        self, settings: HostSettings, compiled: Callable[[Key, bytes | None], None]
    ) -> None:
        self._settings = settings
        self._compiled = compiled
        self._entries: dict[Key, Neighbour] = {}
        self._counts = {4: 0, 6: 0}  # of those that may go
        self._timers: list[tuple[int, int, Key]] = []
        self._order = 0
        self._collected = 0  # when stale entries were looked for last
        self._flushed = 0  # when a full table made room last

    def __getitem__(self, key: Key) -> Neighbour:
        return self._entries[key]

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def compiled(self) -> Iterator[tuple[Key, bytes]]:
        """What the compiled stage is to know."""
        for key, entry in self._entries.items():
            if entry.state in _COMPILED:
                yield key, entry.mac

    # Configuration

    def add(self, key: Key, mac: bytes) -> None:
        """Take a link address that holds for ever."""
        if key in self._entries:
            self.remove(key)
        self._entries[key] = entry = Neighbour(NeighbourState.PERMANENT, mac)
        self._tell(key, entry, mac)

    def remove(self, key: Key) -> None:
        """Forget a neighbour; KeyError: there is none."""
        entry = self._entries.pop(key)
        self._counts[key[1].version] -= entry.state is not NeighbourState.PERMANENT
        self._tell(key, entry, None)

    def forget(self, interface: int) -> None:
        """Forget the neighbours of an interface."""
        for key in [key for key in self._entries if key[0] == interface]:
            self.remove(key)

    # Packets

    def resolve(self, key: Key, now: int) -> bytes | None:
        """The link address for a packet that is sent now; None: it is not known."""
        entry = self._entries.get(key)
        if entry is None or entry.state is NeighbourState.INCOMPLETE:
            return None
        entry.used = now
        if entry.state is NeighbourState.STALE:
            delay = self._of(key, "delay_first_probe_time") * SECOND
            self._change(key, entry, NeighbourState.DELAY, now, now + delay)
        return entry.mac

    def wait(self, key: Key, source: Address, packet: bytes, now: int) -> Question | None:
        """Keep a packet until its neighbour is known; the first question, if it is due.

        In a table that is full of neighbours that are in use the packet is dropped.
        """
        entry = self._entries.get(key)
        question = None
        if entry is None:
            if not self._room(key, now):
                return None
            entry = self._make(key, Neighbour(NeighbourState.INCOMPLETE, source=source))
            question = self._ask(key, entry, now)
        entry.packets.append(packet)
        if len(entry.packets) > self._of(key, "unres_qlen"):
            del entry.packets[0]
        return question

    def learn(
        self, key: Key, mac: bytes, now: int, *, confirmed: bool = False, made: bool = False,
        overrides: bool = True, locked: bool = False,
    ) -> list[bytes]:  # fmt: skip
        """Take what a message says of a neighbour (neigh_update).

        Args:
            key: whose.
            mac: its link address.
            now: when.
            confirmed: it answers a question, so that the neighbour is there and hears this host.
            made: make an entry if there is none.
            overrides: it counts even if another address was known.
            locked: but not if that was told within the last second.

        Returns:
            The packets that waited for it.
        """
        entry = self._entries.get(key)
        if entry is None:
            if not made or not self._room(key, now):
                return []
            entry = self._make(key, Neighbour(NeighbourState.STALE, mac, updated=now))
        elif entry.state is NeighbourState.PERMANENT:
            return []
        moved = entry.mac != mac and entry.state is not NeighbourState.INCOMPLETE
        if moved and not overrides:
            if entry.state is NeighbourState.REACHABLE:  # RFC 4861, section 7.2.5
                self._change(key, entry, NeighbourState.STALE, now, 0)
            return []
        if moved and locked and now < entry.updated + _LOCKED:
            return []
        if confirmed:
            lasting = self._of(key, "base_reachable_time_ms") * _MILLISECOND
            entry.mac = mac
            self._change(key, entry, NeighbourState.REACHABLE, now, now + lasting)
        elif moved or entry.state is NeighbourState.INCOMPLETE:
            entry.mac = mac
            self._change(key, entry, NeighbourState.STALE, now, 0)
        packets, entry.packets = entry.packets, []
        return packets

    def _make(self, key: Key, entry: Neighbour) -> Neighbour:
        self._entries[key] = entry
        self._counts[key[1].version] += 1
        return entry

    # Time

    def waits(self, now: int) -> bool:
        """Whether there is something to be done until ``now``."""
        interval = self._settings["net.ipv4.neigh.default.gc_interval"] * SECOND
        first = self._timers[0][0] if self._timers else now + 1
        return first <= now or now >= self._collected + interval

    def due(self, now: int) -> Iterator[Question | Failed]:
        """What is to be done until ``now``, in order of time."""
        while self._timers and self._timers[0][0] <= now:
            time, _, key = heapq.heappop(self._timers)
            entry = self._entries.get(key)
            if entry is None or entry.queued != time:
                continue
            entry.queued = 0
            if entry.due > time:
                self._start(key, entry, entry.due)
            elif entry.due:
                yield from self._fire(key, entry, time)
        if now >= self._collected + self._settings["net.ipv4.neigh.default.gc_interval"] * SECOND:
            self._collected = now
            self._collect(now)

    def _fire(self, key: Key, entry: Neighbour, time: int) -> Iterator[Question | Failed]:
        """An entry's timer (neigh_timer_handler)."""
        match entry.state:
            case NeighbourState.REACHABLE:
                delay = self._of(key, "delay_first_probe_time") * SECOND
                if time <= entry.used + delay:
                    self._change(key, entry, NeighbourState.DELAY, time, time + delay)
                else:
                    self._change(key, entry, NeighbourState.STALE, time, 0)
            case NeighbourState.DELAY:
                self._change(key, entry, NeighbourState.PROBE, time, 0)
                entry.questions = 0
                yield self._ask(key, entry, time)
            case NeighbourState.PROBE if entry.questions < self._of(key, "ucast_solicit"):
                yield self._ask(key, entry, time)
            case NeighbourState.INCOMPLETE if entry.questions < self._of(key, "mcast_solicit"):
                yield self._ask(key, entry, time)
            case _:
                self.remove(key)
                yield Failed(time, *key, entry.packets)

    def _ask(self, key: Key, entry: Neighbour, time: int) -> Question:
        entry.questions += 1
        self._start(key, entry, time + self._of(key, "retrans_time_ms") * _MILLISECOND)
        alone = entry.mac if entry.state is NeighbourState.PROBE else None
        return Question(time, *key, entry.source, alone)

    def _change(
        self, key: Key, entry: Neighbour, state: NeighbourState, now: int, due: int
    ) -> None:
        entry.state = state
        entry.updated = now
        self._tell(key, entry, entry.mac if state in _COMPILED else None)
        self._start(key, entry, due)

    def _tell(self, key: Key, entry: Neighbour, mac: bytes | None) -> None:
        """Tell the compiled stage, if it is news."""
        if entry.told != mac:
            entry.told = mac
            self._compiled(key, mac)

    def _start(self, key: Key, entry: Neighbour, due: int) -> None:
        """Set a timer; one that is only put off stays where it is in the queue."""
        entry.due = due
        if due and (not entry.queued or due < entry.queued):
            entry.queued = due
            self._order += 1
            heapq.heappush(self._timers, (due, self._order, key))

    # Bounds

    def _collect(self, now: int) -> None:
        """Forget what has not been used for long, where there is much (neigh_periodic_work)."""
        for version in (4, 6):
            if self._counts[version] < self._default(version, "gc_thresh1"):
                continue
            lasting = self._default(version, "gc_stale_time") * SECOND
            for latest, key in self._stale(version):
                if now > latest + lasting:
                    self.remove(key)

    def _stale(self, version: int) -> list[tuple[int, Key]]:
        """Stale entries, the one first that was neither used nor told for longest."""
        found = [
            (max(entry.used, entry.updated), key)
            for key, entry in self._entries.items()
            if entry.state is NeighbourState.STALE and key[1].version == version
        ]
        return sorted(found, key=lambda one: one[0])

    def _room(self, key: Key, now: int) -> bool:
        """Whether there may be another entry, for which a full table may lose stale ones
        (neigh_alloc, neigh_forced_gc)."""
        version = key[1].version
        count = self._counts[version]
        most = self._of(key, "gc_thresh3")
        if count < most and (count < self._of(key, "gc_thresh2") or now < self._flushed + _LAZY):
            return True
        self._flushed = now
        old = [key for _, key in self._stale(version) if now > self._entries[key].updated + _LAZY]
        for one in old[: max(count + 1 - self._of(key, "gc_thresh2"), 0)]:
            self.remove(one)
        return self._counts[version] < most

    def _of(self, key: Key, name: str) -> int:
        return self._default(4 if isinstance(key[1], IPv4Address) else 6, name)

    def _default(self, version: int, name: str) -> int:
        return self._settings[f"net.ipv{version}.neigh.default.{name}"]
