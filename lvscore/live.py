"""A Host on real interfaces: frames from the wire, time from the clock."""

import contextlib
import math
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Self

from lvscore.errors import ConfigError, InterfaceError
from lvscore.io.device import LiveInterface
from lvscore.io.interface import kernel_addresses, open_interface
from lvscore.io.shield import Shield

if TYPE_CHECKING:
    from lvscore.host import Host
    from lvscore.host.machine import Senders

__all__ = ["Live", "attach"]

_ANNOUNCE_INTERVAL = 2.0  # seconds
_ERRORS = select.EPOLLERR | select.EPOLLHUP
_ROUNDS = 16  # batches that one interface may have before the others, and the clock, are looked at


def attach(
    host: "Host",
    *,
    backend: str = "auto",
    mode: str = "latency",
    only: Iterable[str] | None = None,
    opened: Iterable[LiveInterface] = (),
    announce: bool = True,
    shield: bool = False,
) -> "Live":
    """Put a Host on the interfaces of this machine that have the names of its own.

    The Host takes their link addresses, and tells the neighbours of its addresses. The kernel
    must not have these: it would answer too, with resets. Give the addresses to the Host alone.

    Args:
        host: the director.
        backend, mode: how frames are read and written; see :func:`lvscore.open_interface`.
        only: names of the interfaces to attach; all by default.
        opened: interfaces that are open already, and belong to what is returned from now on.
        announce: tell the neighbours; False: another process does, with the same addresses.
        shield: keep the kernel from packets for addresses that it has, too (needs Linux 6.6).

    Raises:
        ConfigError: the Host has no interface, not one that is open, or one with a larger MTU
            than the real one.
        InterfaceError: no such interface, no permission, an interface that is not Ethernet, or
            the kernel has an address of the Host.
    """
    there = {interface.name: interface for interface in opened}
    with contextlib.ExitStack() as stack:
        for interface in there.values():
            stack.callback(interface.close)
        for name in there:
            host.number(name)
        for name in list(host.interfaces) if only is None else only:
            # What the kernel sends to itself does not come by the wire, which ends here.
            if not shield or (name in there and there[name].backend in ("tap", "tun")):
                _refuse_shared(host, name)
            if name not in there:
                there[name] = open_interface(name, backend=backend, mode=mode)
                stack.callback(there[name].close)
        live = Live(host, list(there.values()), announce, shield)
        stack.pop_all()
    return live


class Live:
    """A Host at work; :func:`attach` makes it. A context manager, which lets go at its end.

    Nothing of the machine is changed: when the process ends, in whatever way, nothing is left.
    """

    def __init__(
        self, host: "Host", interfaces: list[LiveInterface], announce: bool, shield: bool
    ) -> None:
        if not interfaces:
            raise ConfigError("the host has no interface to attach")
        self.host = host
        self.interfaces: dict[str, LiveInterface] = {}
        self._announces = announce
        self._shield: Shield | None = None
        self._again = math.inf  # when to announce once more
        self._due = math.inf  # when there is that to do, or something of _repeated
        self._stopped = False
        self._senders: Senders = {}
        self._ports: dict[int, LiveInterface] = {}
        self._readers: dict[int, Callable[[], None]] = {}
        self._repeated: list[_Repeated] = []
        # Seconds and days as of the epoch, but with no step back when the clock is set.
        self._epoch = time.time_ns() - time.monotonic_ns()
        with contextlib.ExitStack() as opened:
            self._poll = select.epoll()
            opened.callback(self._poll.close)
            self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            opened.callback(os.close, self._wake)
            self._poll.register(self._wake, select.EPOLLIN)
            for interface in interfaces:
                self._adopt(interface)
            if shield:
                self._shield = Shield(self.interfaces)
                opened.callback(self._shield.close)
                self.shield()
            self.announce()
            for interface in interfaces:
                opened.callback(interface.close)
            self._close = opened.pop_all()

    def check(self, host: "Host") -> None:
        """Say whether a Host could be on these interfaces with its addresses and MTUs.

        Raises:
            ConfigError: it has a larger MTU than the real interface.
            InterfaceError: the kernel has one of its addresses.
        """
        for name, interface in self.interfaces.items():
            if self._shield is None:
                _refuse_shared(host, name)
            _refuse_longer(host, interface)

    def shield(self) -> None:
        """Keep the kernel from those addresses that the Host has now, where it is to be kept."""
        if self._shield is not None:
            self._shield.set(a.ip for name in self.interfaces for a in self.host.addresses(name))

    def announce(self) -> None:
        """Tell the neighbours of all addresses, and 2 s later once more (RFC 5227, section 2.3):
        a port that has just come up may lose the first. Unless another process does."""
        if self._announces:
            self._send(self.host.announce())
            self._again = time.monotonic() + _ANNOUNCE_INTERVAL
            self._due = min(self._due, self._again)

    def _adopt(self, interface: LiveInterface) -> None:
        name = interface.name
        _refuse_longer(self.host, interface)
        _introduce(self.host, interface)
        self.interfaces[name] = interface
        self._senders[self.host.number(name)] = interface.forward
        for descriptor in interface.descriptors():
            self._ports[descriptor] = interface
            self._poll.register(descriptor, select.EPOLLIN)

    def now(self) -> int:
        """The time that packets get: nanoseconds since 1970, without steps back."""
        return self._epoch + time.monotonic_ns()

    def fileno(self) -> int:
        """What a loop of your own waits on (readable: call :meth:`step`)."""
        return self._poll.fileno()

    def step(self, timeout: float | None = 0) -> int:
        """Wait for frames, and take what is there.

        Args:
            timeout: seconds to wait at most; None: until there is something to do. Timers are
                looked at after at most a second.

        Returns:
            How many frames came in.

        Raises:
            InterfaceError: an interface is gone.
        """
        wait = 1.0 if timeout is None else min(timeout, 1.0)
        count = 0
        others = []
        for descriptor, events in self._poll.poll(wait):
            interface = self._ports.get(descriptor)
            if interface is None:
                others.append(descriptor)
                continue
            count += self._drain(interface)
            if events & _ERRORS:
                interface.recover()
        if not count:  # frames let time pass, too
            self._send(self.host.advance(self.now()))
        for descriptor in others:
            if descriptor in self._readers:
                self._readers[descriptor]()
        if time.monotonic() >= self._due:
            self._do_due()
        return count

    def _do_due(self) -> None:
        """Announce once more, and call what is called again and again, if it is time."""
        if time.monotonic() >= self._again:
            self._again = math.inf
            self._send(self.host.announce())
        for repeated in self._repeated:
            if time.monotonic() >= repeated.due:
                repeated.due = time.monotonic() + repeated.seconds
                repeated.callback()
        self._due = min([self._again, *(repeated.due for repeated in self._repeated)])

    def add_reader(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Let :meth:`step` call ``callback`` between two batches when a descriptor is readable."""
        self._readers[descriptor] = callback
        self._poll.register(descriptor, select.EPOLLIN)

    def remove_reader(self, descriptor: int) -> None:
        """Let it be again."""
        del self._readers[descriptor]
        self._poll.unregister(descriptor)

    def call_every(self, seconds: float, callback: Callable[[], None]) -> None:
        """Let :meth:`step` call ``callback`` between two batches, so often, to about a second."""
        repeated = _Repeated(time.monotonic() + seconds, seconds, callback)
        self._repeated.append(repeated)
        self._due = min(self._due, repeated.due)

    def exchange(self, host: "Host") -> None:
        """Let another Host with interfaces of the same names take the place of this one.

        Raises:
            ConfigError: its interfaces have other names, or it is refused as by :meth:`check`.
            InterfaceError: it is refused as by :meth:`check`.
        """
        if list(host.interfaces) != list(self.interfaces):
            raise ConfigError(f"a Host with other interfaces than {', '.join(self.interfaces)}")
        self.check(host)
        for interface in self.interfaces.values():
            _introduce(host, interface)
        self._senders = {host.number(name): i.forward for name, i in self.interfaces.items()}
        self.host = host
        self.shield()

    def add_signal_handler(self, number: int, callback: Callable[[], None]) -> None:
        """Let :meth:`step` call ``callback`` between two batches after a signal (in the main
        thread); what the signal did before holds again after :meth:`close`."""
        descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        before = signal.signal(number, lambda *_: os.eventfd_write(descriptor, 1))

        def handle() -> None:
            os.eventfd_read(descriptor)
            callback()

        self.add_reader(descriptor, handle)
        self._close.callback(os.close, descriptor)
        self._close.callback(signal.signal, number, before)

    def run(self) -> None:
        """Work until :meth:`stop`, SIGINT or SIGTERM (in the main thread)."""
        with _StoppedBySignals(self):
            while not self._stopped:
                self.step(None)

    def stop(self) -> None:
        """Let :meth:`run` end; may be called from a signal handler or another thread."""
        self._stopped = True
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Let go of the interfaces; may be called again."""
        self._close.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drain(self, interface: LiveInterface) -> int:
        count = 0
        number = self.host.number(interface.name)
        for _ in range(_ROUNDS):
            now = self.now()
            batch = interface.receive(now)
            if not len(batch):
                break
            count += len(batch)
            for others in self.host.forward_batch(number, batch, now, self._senders):
                self._send(others)
        return count

    def _send(self, frames: list[tuple[str, bytes]]) -> None:
        for name, frame in frames:
            if name in self.interfaces:
                self.interfaces[name].write((frame,))


@dataclass
class _Repeated:
    """What is called again and again."""

    due: float
    seconds: float
    callback: Callable[[], None]


def _refuse_shared(host: "Host", name: str) -> None:
    shared = {str(a.ip) for a in host.addresses(name)}.intersection(kernel_addresses())
    if shared:
        raise InterfaceError(
            98, f"the kernel has {', '.join(sorted(shared))} itself, and would answer too: "
            "remove it from the machine (ip address del), or keep the kernel from it (shield)",
            name,
        )  # fmt: skip


def _introduce(host: "Host", interface: LiveInterface) -> None:
    """Tell a Host of the link addresses of a wire."""
    host.set_mac(interface.name, interface.mac)
    host.set_peer(interface.name, interface.peer)


def _refuse_longer(host: "Host", interface: LiveInterface) -> None:
    if host.mtu(interface.name) > interface.mtu:
        raise ConfigError(
            f"interface {interface.name}: an MTU of {host.mtu(interface.name)}; the real one has "
            f"{interface.mtu}"
        )


class _StoppedBySignals:
    """SIGINT and SIGTERM end the loop between two steps, and are as before afterwards."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._before: dict[int, object] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._live.stop()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
