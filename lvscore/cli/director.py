"""A director at work: its configuration, its engine and Host, its interfaces."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

from lvscore.addresses import Address, Network, parse_network
from lvscore.cli.memory import tell_memory
from lvscore.cli.setup import Options
from lvscore.config import Configuration, adopt, reload
from lvscore.control import DEFAULT_PATH, Beside, ControlServer
from lvscore.engine import Engine
from lvscore.errors import ConfigError, LvscoreError, SnapshotError
from lvscore.host import Host
from lvscore.io.fanout import Share
from lvscore.io.interface import interface_mtu
from lvscore.live import Live, attach
from lvscore.model import Outcome
from lvscore.programs import execute, lists_connections
from lvscore.takeover import HANDOVER, StateFile, hand_over, take_over
from lvscore.workers import Worker

__all__ = ["Director", "say"]

_MEMORY_INTERVAL = 1  # seconds (ip_vs_ctl.c, DEFENSE_TIMER_PERIOD)
_MANY_CONNECTIONS = 100  # a listing of them takes as long as to begin another process


class Director:
    """A director that runs.

    Args:
        options: those that all commands share.
        own: those of ``lvscore run``, by the names of a Configuration; None: not given.
        worker: where it is one of several.
    """

    live: Live

    def __init__(
        self,
        options: Options,
        own: Mapping[str, object],
        worker: Worker | None = None,
    ) -> None:
        self.options = options
        self._own = {name: value for name, value in own.items() if value is not None}
        self.configuration = configuration = self._read()
        if not configuration.interfaces:
            raise ConfigError("no interface: expected --interface NAME=ADDRESS/LENGTH")
        self.worker = worker
        self.control = worker.control if worker else configuration.control or DEFAULT_PATH
        self.state = None if configuration.state is None else StateFile(configuration.state)
        self.handed_over = False
        self.engine = Engine(max_connections=configuration.max_connections, seed=configuration.seed)
        self.host = configuration.host(self.engine, forwarding=True)
        self.inside = _inside(self.host, configuration)

    def knows_inside(self) -> bool:
        """Whether it can be told which address of a packet is the outside peer's."""
        return bool(self.configuration.inside) or any(s.servers for s in self.engine.services)

    def _read(self) -> Configuration:
        """The file and the options, which win; an MTU that neither says is the real one's."""
        read = self.options.read(live=True)
        interfaces = tuple(
            entry if entry.mtu else entry._replace(mtu=interface_mtu(entry.name))
            for entry in read.interfaces
        )
        return replace(read, interfaces=interfaces, **self._own)  # type: ignore[arg-type]

    def attach(self, stack: ExitStack) -> Live:
        with ExitStack() as opening:
            opened = [
                opening.enter_context(
                    self.configuration.open_interface(entry, self._share(entry.name))
                )
                for entry in self.configuration.interfaces
            ]
            opening.pop_all()
        first = self.worker is None or self.worker.number == 0
        shield = self.configuration.shield
        self.live = stack.enter_context(
            attach(self.host, opened=opened, announce=first, shield=shield)
        )
        return self.live

    def _share(self, interface: str) -> Share | None:
        if self.worker is None:
            return None
        group = self.worker.groups.get(interface)
        return Share(self.worker.number, tuple(sorted(self.inside, key=str)), group)

    def begin(self) -> None:
        """Wait for the other workers, and let frames come in."""
        self.live.call_every(_MEMORY_INTERVAL, lambda: tell_memory(self.engine))
        if self.worker is not None:
            self.worker.ready({name: i.group for name, i in self.live.interfaces.items()})
            for interface in self.live.interfaces.values():
                interface.begin()
            self.live.add_reader(self.worker.fileno(), self.live.stop)

    def resume(self, takeover: bool) -> None:
        """Go on with the engine of the director that runs, or with the one that was saved.

        Frames that come meanwhile wait at the interfaces, which are open already.
        """
        found = None
        try:
            if takeover and self.control != "none":
                found = take_over(self.control, self.live.now())
            if found is None and self.state is not None:
                found = self.state.load(self.live.now())
        except SnapshotError as error:
            say(f"error: {error}; connections begin anew")
        if found is not None:
            self.host = adopt(found, self.configuration, forwarding=True)
            self.engine = found
            self.live.exchange(self.host)
            say(f"goes on with {len(found.connections)} connections")
        elif takeover:
            say("there is no director to take over from")

    def listen(self, stack: ExitStack, replace: bool) -> None:
        if self.control != "none":
            server = stack.enter_context(
                ControlServer(self.control, self._execute, replace=replace)
            )
            self.live.add_reader(server.fileno(), server.step)
        if self.state is not None:
            self.live.call_every(self.configuration.state_interval, self._save)

    def _execute(self, argv: Sequence[str], stdin: str) -> Outcome | Beside:
        if argv[0] == HANDOVER:
            outcome = hand_over(self.engine, argv, self.live.stop)
            self.handed_over = outcome.status == 0
            return outcome
        return self._carried_out(argv, stdin)

    def _carried_out(self, argv: Sequence[str], stdin: str) -> Outcome | Beside:
        if lists_connections(argv) and len(self.engine.connections) >= _MANY_CONNECTIONS:
            return Beside(lambda: execute(self.engine, argv, stdin))
        outcome = execute(self.engine, argv, stdin)
        self._share_anew()
        return outcome

    def _share_anew(self) -> None:
        """Let the servers that were added be inside, too: it is the first worker that says so."""
        inside = self.inside | _inside(self.host, self.configuration)
        if inside != self.inside:
            self.inside = inside
            if self.worker is not None and self.worker.number == 0:
                for interface in self.live.interfaces.values():
                    interface.share(inside)

    def _save(self) -> None:
        if self.state is not None:
            self.state.save_beside(self.engine)

    def end(self) -> None:
        """Leave the file as the end was, unless another goes on."""
        if self.state is not None and not self.handed_over:
            self.state.save(self.engine)

    def reload(self) -> None:
        """Read the file again, and change to it; or say why not, and go on."""
        file = self.options.config_file
        if file is None:
            say("there is no file to read again: expected -c FILE")
            return
        try:
            after = self._read()
            reload(self.host, self.configuration, after, check=self.live.check, forwarding=True)
        except LvscoreError as error:
            say(f"error: {' '.join(str(error).split())}; nothing was changed")
            return
        self.configuration = after
        self._share_anew()
        self.live.shield()
        self.live.announce()
        say(f"has read {file} again")


def _inside(host: Host, configuration: Configuration) -> frozenset[Network]:
    """What is not a peer's: the networks of the servers, and the director's own addresses."""
    own = [address for name in host.interfaces for address in host.addresses(name)]
    servers = {server.address for service in host.engine.services for server in service.servers}
    alone = {parse_network(str(address)) for address in (*servers, *(a.ip for a in own))}
    wires = {a.network for a in own if any(_contains(a.network, server) for server in servers)}
    return frozenset(alone | wires | {parse_network(text) for text in configuration.inside})


def _contains(network: Network, address: Address) -> bool:
    return network.version == address.version and address in network


def say(message: str) -> None:
    """Tell whoever started the director."""
    sys.stderr.write(f"lvscore: {message}\n")  # at once: workers write to the same
    sys.stderr.flush()
