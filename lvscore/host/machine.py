"""What a Host does with packets: the compiled stage's verdicts carried out, errors, answers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING

from lvscore import _engine
from lvscore._frames import FrameBatch
from lvscore.addresses import Address, Network
from lvscore.constants import Reason, Verdict
from lvscore.host import answers, neighbours, sctp
from lvscore.host.neighbour_table import Failed, NeighbourTable, Question
from lvscore.host.options import echo
from lvscore.host.packets import ICMPV6, SCTP, UDP, Packet, fragments, put_together
from lvscore.host.routing import UNICAST, InterfaceLike, RouteEntry, compiled, primaries
from lvscore.host.settings import HostSettings

if TYPE_CHECKING:
    from lvscore.engine import Engine

__all__ = ["Machine", "Senders"]

Senders = dict[int, Callable[[FrameBatch, int, int, int], None]]
"""What sends frames of a batch, from start to end, by an interface, whose number it is told."""

_NOTHING: Iterator[list[tuple[str, bytes]]] = iter(())
_EMITTING = (Verdict.STOLEN, Verdict.DROP)
_MILLISECOND = 1_000_000
_SECOND = 1000 * _MILLISECOND
# Redirects to one host (route.c): 20 ms after the first, then twice as long each time; after
# nine of them silence, until 20.48 s have passed without a reason to send one.
_REDIRECT_LOAD = 20 * _MILLISECOND
_REDIRECT_SILENCE = _REDIRECT_LOAD << 10
_REDIRECTS = 9
_REDIRECT_DROPPED = 2
_MOST_TOLD = 65_664  # hosts that are remembered, those told last (inetpeer.c, inet_peer_threshold)


@dataclass
class _Told:
    """Redirects and unreachables sent to one host (struct inet_peer); times in ns."""

    latest: int
    redirects: int = 0
    unused: int = 0


class Machine:
    """The working part of a Host."""

    def __init__(self, engine: "Engine", settings: HostSettings) -> None:
        self.engine = engine
        self.settings = settings
        self.modules: set[str] = set()
        self.neighbours = NeighbourTable(settings, self._compile)
        self.now = 0
        self._interfaces: dict[int, InterfaceLike] = {}
        self._own: set[Address] = set()
        self._local: list[Network] = []
        self._entries: list[RouteEntry] = []
        self._told: dict[Address, _Told] = {}
        self._identification = 0
        self._sent: list[tuple[str, bytes]] = []

    def configure(self, interfaces: Sequence[InterfaceLike], routes: list[RouteEntry]) -> None:
        """Compile interfaces, routes and neighbours into the engine's tables."""
        self._interfaces = {interface.number: interface for interface in interfaces}
        self._own = {a.ip for interface in interfaces for a in interface.addresses}
        self._local = [route.network for route in routes if route.local]
        self._entries = routes
        _engine.host_set(self.engine, [
                (i.number, i.mtu, i.mac, i.peer is not None, *self.settings.of(i.name),
                 primaries(i))
                for i in interfaces
            ],
            compiled(interfaces, routes),
            [
                (address.version, address.packed, number, mac)
                for (number, address), mac in self.neighbours.compiled()
            ] + [
                (version, bytes(size), i.number, i.peer)
                for i in interfaces if i.peer is not None for version, size in ((4, 4), (6, 16))
            ],
        )  # fmt: skip

    def _compile(self, key: tuple[int, Address], mac: bytes | None) -> None:
        """Tell the compiled stage of one neighbour."""
        number, address = key
        _engine.host_neighbour(self.engine, address.version, address.packed, number, mac)

    def take(self) -> list[tuple[str, bytes]]:
        """What has been sent since the last call."""
        sent, self._sent = self._sent, []
        return sent

    # Packets that come in

    def receive(self, number: int, frame: bytes | bytearray | memoryview, now: int) -> None:
        """Take a frame through engine and host."""
        self.now = max(self.now, now)
        data = bytearray(frame)
        self._act(number, frame, data, _engine.host_receive(self.engine, data, number, now))

    def receive_batch(
        self, number: int, batch: FrameBatch
    ) -> Iterator[tuple[int, int, list[tuple[str, bytes]]]]:
        """Take a batch through engine and host, in parts: the frames of each that have verdict
        FORWARD are to be sent as they lie, then what else is told."""
        start = 0
        if self._sent:
            yield 0, 0, self.take()
        while start < len(batch):
            special = _engine.host_receive_batch(self.engine, batch, number, start)
            end = len(batch) if special is None else self._handle(number, batch, special)
            yield start, end, self.take()
            start = end + 1

    def forward_batch(
        self, number: int, batch: FrameBatch, senders: Senders
    ) -> Iterator[list[tuple[str, bytes]]]:
        """Take a batch, let those frames be sent that only have to be sent on, and say what else
        is to be sent before the next part of it."""
        special = None
        if not self._sent:
            special = _engine.host_forward(self.engine, batch, number, 0, senders)
            if special is None:
                return _NOTHING
        return self._forward_rest(number, batch, senders, special)

    def _forward_rest(
        self, number: int, batch: FrameBatch, senders: Senders, special: "_engine._Special | None"
    ) -> Iterator[list[tuple[str, bytes]]]:
        if special is None:
            yield self.take()
            special = _engine.host_forward(self.engine, batch, number, 0, senders)
        while special is not None:
            start = self._handle(number, batch, special) + 1
            yield self.take()
            special = _engine.host_forward(self.engine, batch, number, start, senders)

    def _handle(self, number: int, batch: FrameBatch, special: "_engine._Special") -> int:
        """Do what is due for a frame that needs more than to be sent on; its index."""
        index, before, data, outcome, segment = special
        batch.verdict[index] = Verdict.STOLEN
        if outcome is None:
            for frame in _engine.host_segments(data, segment):
                self.receive(number, frame, self.now)
        else:
            self._act(number, before, data, outcome, segment)
        return index

    def _act(
        self, number: int, frame: bytes | bytearray | memoryview, data: bytearray,
        outcome: "_engine._Outcome", segment: int = 0,
    ) -> None:  # fmt: skip
        """Do what is due for a frame: as it came in, and as the engine has left it; of a
        super-frame with the payload of its segments."""
        (verdict, reason, egress, next_hop, resolved, redirect, mtu, request, wrong, told) = outcome
        emitted = _engine.host_emitted(self.engine) if verdict in _EMITTING else ()
        packet = Packet.parse(frame[14:]) if redirect else None
        if packet and Verdict.FORWARD in (verdict, *(one[0] for one in emitted)):
            if packet.fragment_offset or packet.more_fragments:
                packet = self._put_together([whole for *_, whole in emitted])
            if packet is not None:
                self._redirect(packet, next_hop, redirect == _REDIRECT_DROPPED)
        for verdict, reason, whole in emitted:
            if reason == Reason.TUNNEL_ERROR:
                kind, code, info = told >> 24, told >> 16 & 0xFF, told & 0xFFFF
                self.send_error(number, Packet.parse(whole[14:]), kind, code, info)
                continue
            # A datagram put together: its fragments, or all of it; an answer of another length.
            self._carry_out(number, bytearray(whole), verdict, reason, egress, next_hop, resolved,
                            mtu, request, wrong)  # fmt: skip
        if not emitted:
            self._carry_out(number, data, verdict, reason, egress, next_hop, resolved, mtu,
                            request, wrong, segment)  # fmt: skip

    def _carry_out(
        self, number: int, data: bytearray, verdict: Verdict, reason: Reason, egress: int,
        next_hop: bytes, resolved: bool, mtu: int, request: bool, wrong: int, segment: int = 0,
    ) -> None:  # fmt: skip
        """Do what the engine decided about a frame."""
        if verdict == Verdict.FORWARD:
            frames = _engine.host_segments(data, segment) if segment else (data,)
            for frame in frames:
                self._forward(frame, egress, next_hop, resolved, mtu)
        elif reason == Reason.NOT_IP:
            if data[12:14] == neighbours.ETHERTYPE_ARP:
                self._arp(number, bytes(data))
        elif verdict == Verdict.LOCAL:
            # Of a super-frame the first segment: what it is due is due once.
            local = _engine.host_segments(data, segment)[0] if segment else bytes(data)
            self._local_packet(number, local, reason)
        elif verdict == Verdict.DROP and data and not data[0] & 1:
            self._refuse(number, data, reason, mtu, request, wrong)

    def _forward(
        self, data: bytes | bytearray, egress: int, next_hop: bytes, resolved: bool, mtu: int
    ) -> None:
        packet = Packet.parse(data[14:]).data
        if not resolved:
            self._transmit(egress, ip_address(next_hop), packet)
            return
        name = self._interfaces[egress].name
        for piece in fragments(packet, mtu):
            self._sent.append((name, bytes(data[:14]) + piece))

    def _refuse(
        self, number: int, data: bytearray, reason: Reason, mtu: int, request: bool, wrong: int
    ) -> None:
        """Tell the sender of a packet why it was dropped, where the kernel does."""
        if reason not in _ERRORS:
            return
        packet = Packet.parse(data[14:])
        if reason == Reason.NO_ROUTE and packet.version == 4 and not (
            request or self._may_tell(packet.source)
        ):  # fmt: skip
            return
        four, six = _ERRORS[reason]
        kind, code = four if packet.version == 4 else six
        info = 0
        if reason == Reason.NO_ROUTE and request:
            code = 1 if packet.version == 4 else 3  # host unreachable, address unreachable
        elif reason == Reason.FRAGMENTATION_NEEDED:
            info = mtu if request or packet.version == 4 else max(mtu, 1280)
        elif reason == Reason.BAD_IP_OPTION:
            info = wrong << 24
        # Conntrack takes the flow that the error is about from its packet (nf_conntrack_attach).
        translated = _engine.host_is_translated(self.engine)
        source = packet.destination if translated else None
        self.send_error(number, packet, kind, code, info, source, done=translated is not None)

    # The local stack

    def is_own(self, address: Address) -> bool:
        """Whether an address is this host's."""
        return address in self._own or any(address in network for network in self._local)

    def _local_packet(self, number: int, data: bytes, reason: Reason) -> None:
        if reason == Reason.NOT_UNICAST or data[0] & 1:
            self._group_packet(number, data)
            return
        packet = Packet.parse(data[14:])
        if packet.fragment_offset or packet.more_fragments:
            return
        if packet.protocol == ICMPV6 and packet.version == 6 and self._discovery(number, packet):
            return
        if packet.protocol == UDP:
            packet = answers.datagram(packet)
        sent: bytes | None = None
        due = answers.answer(packet)
        options = self._options(packet, packet.destination)
        if packet.protocol == SCTP and "sctp" in self.modules:
            sent = sctp.answer(packet, self._ttl(packet.version))
        elif options is None:
            return
        elif due == "reset":
            sent = answers.tcp_reset(packet, ttl=self._ttl(packet.version), options=options)
        elif due == "echo":
            if not (packet.version == 4 and self.settings["net.ipv4.icmp_echo_ignore_all"]
                    and packet.payload[0] == 8):  # fmt: skip
                sent = answers.icmp_echo(
                    packet, self.now, ttl=self._ttl(packet.version),
                    identification=self._next_identification(), options=options,
                )  # fmt: skip
        elif due:
            assert not isinstance(due, str)
            self.send_error(number, packet, *due)
        if sent is not None:
            self.output(packet.source, sent)

    def _group_packet(self, number: int, data: bytes) -> None:
        """A packet for a group or for everybody: nothing but solicitations is answered."""
        packet = Packet.parse(data[14:])
        if packet.protocol == ICMPV6 and packet.version == 6:
            self._discovery(number, packet)

    def _options(self, packet: Packet, source: Address, wrong: int = 0) -> bytes | None:
        return echo(packet, source.packed, self.now, self._is_unicast, wrong)

    def _is_unicast(self, packed: bytes) -> bool:
        """As ``inet_addr_type`` has it: of one host, and not this one."""
        address = IPv4Address(packed)
        return not (packed[0] in (0, 127) or address.is_multicast or packed == b"\xff" * 4
                    or self.is_own(address))  # fmt: skip

    def _ttl(self, version: int) -> int:
        name = "net.ipv4.ip_default_ttl" if version == 4 else "net.ipv6.conf.all.hop_limit"
        return self.settings[name]

    def _next_identification(self) -> int:
        self._identification = (self._identification + 1) & 0xFFFF
        return self._identification

    # Packets that this host makes

    def send_error(
        self, number: int, packet: Packet, kind: int, code: int, info: int,
        source: Address | None = None, *, done: bool = False,
    ) -> None:  # fmt: skip
        """Send an ICMP error about a packet that came in on an interface.

        ``done``: as the packet came in it is to be quoted; else as the engine left it, which
        then translates the error.
        """
        if not answers.error_allowed(packet):
            return
        source = source or self._error_source(number, packet)
        if source is None:
            return
        options = self._options(packet, source, info >> 24 if kind == 12 else 0)
        if options is None:
            return
        message = answers.icmp_error(
            packet, source, kind, code, info, ttl=self._ttl(packet.version),
            identification=self._next_identification(), options=options,
        )  # fmt: skip
        if done:
            self._send(packet.source, message)
        else:
            self.output(packet.source, message)

    def _error_source(self, number: int, packet: Packet) -> Address | None:
        """The packet's destination if it is this host's, else the address towards its sender."""
        if self.is_own(packet.destination):
            return packet.destination
        if packet.version == 4 and self.settings["net.ipv4.icmp_errors_use_inbound_ifaddr"]:
            for address in self._interfaces[number].addresses:
                if address.version == 4:
                    return address.ip
        route = _engine.route_get(self.engine, packet.version, packet.source.packed)
        return None if route is None or route[3] is None else ip_address(route[3])

    def output(self, destination: Address, packet: bytes | bytearray) -> None:
        """Send a packet of this host's own; it passes the engine, which may translate it."""
        leaving = bytearray(packet)
        if _engine.host_output(self.engine, leaving):
            self._send(Packet.parse(leaving).destination, bytes(leaving))

    def _send(self, destination: Address, packet: bytes) -> None:
        route = _engine.route_get(self.engine, destination.version, destination.packed)
        if route is None or route[0] != UNICAST or self.is_own(destination):
            return
        self._transmit(route[1], ip_address(route[2]), packet)

    def _transmit(self, number: int, next_hop: Address, packet: bytes) -> None:
        """Put a packet in frames for the next hop, when its link address is known."""
        interface = self._interfaces[number]
        mac = interface.peer or self.neighbours.resolve((number, next_hop), self.now)
        if mac is None:
            source = self._asking_address(interface, next_hop, packet)
            if source is not None:
                question = self.neighbours.wait((number, next_hop), source, packet, self.now)
                if question is not None:
                    self._ask(question)
            return
        for piece in fragments(packet, interface.mtu):
            self._sent.append((interface.name, neighbours.ethernet(mac, interface.mac, piece)))

    def _told_at(self, address: Address) -> tuple[_Told, int]:
        """What a host was told, and the time as the kernel counts it, in jiffies."""
        wheel = self.engine.timer_wheel
        now = self.now if wheel is None else self.now - self.now % (_SECOND // wheel.hz)
        told = self._told.pop(address, None) or _Told(now - 60 * _SECOND)
        if len(self._told) >= _MOST_TOLD:
            del self._told[next(iter(self._told))]
        self._told[address] = told
        return told, now

    def _may_tell(self, address: Address) -> bool:
        """Whether a host may be told once more that there is no route: five times at once, then
        once a second (ip_error)."""
        told, now = self._told_at(address)
        told.unused = min(told.unused + now - told.latest, 5 * _SECOND)
        told.latest = now
        if told.unused < _SECOND:
            return False
        told.unused -= _SECOND
        return True

    def _put_together(self, pieces: list[bytes]) -> Packet | None:
        """The datagram that came in as fragments and leaves as these: if conntrack has put it
        together, for IPVS does only behind the router (ip_vs_out)."""
        if not pieces or not self.engine.rules or pieces[0][14] >> 4 != 4:
            return None
        return put_together([Packet.parse(piece[14:]) for piece in pieces])

    def _redirect(self, packet: Packet, next_hop: bytes, dropped: bool) -> None:
        """Tell a host on the same wire of the nearer way (ip_rt_send_redirect). What conntrack
        drops counts as sent."""
        if packet.version == 6:
            return
        sent, now = self._told_at(packet.source)
        if now > sent.latest + _REDIRECT_SILENCE:
            sent.redirects = sent.unused = 0
        if sent.redirects >= _REDIRECTS:
            sent.latest = now
        elif sent.redirects == 0 or now > sent.latest + (_REDIRECT_LOAD << sent.redirects):
            sent.latest = now
            sent.redirects += 1
            if dropped:
                return
            quoted = bytearray(packet.data)
            quoted[8] -= 1
            total = int.from_bytes(quoted[10:12], "big") + 0x100
            quoted[10:12] = ((total & 0xFFFF) + (total >> 16)).to_bytes(2, "big")
            route = _engine.route_get(self.engine, 4, packet.source.packed)
            number = 0 if route is None else route[1]
            self.send_error(number, Packet.parse(quoted), 5, 1, int.from_bytes(next_hop, "big"))

    # Neighbours

    def _asking_address(
        self, interface: InterfaceLike, target: Address, packet: bytes | None
    ) -> Address | None:
        """The address to ask from: the packet's own if it is ours, else one of that wire."""
        if packet is not None:
            source = Packet.parse(packet).source
            if source.version == 4 and source in self._own:
                return source
        candidates = [a for a in interface.addresses if a.version == target.version]
        near = [a.ip for a in candidates if target in a.network]
        return near[0] if near else candidates[0].ip if candidates else None

    def _ask(self, question: Question) -> None:
        interface = self._interfaces[question.interface]
        source = question.source
        if source is None:
            source = self._asking_address(interface, question.address, None)
        if source is not None:
            frame = neighbours.question(interface.mac, source, question.address, question.mac)
            self._sent.append((interface.name, frame))

    def advance(self, now: int) -> None:
        """Let time pass: ask again, give up, expire."""
        for due in self.neighbours.due(now) if self.neighbours.waits(now) else ():
            self.now = max(self.now, due.time)
            if isinstance(due, Failed):
                unreachable = (3, 1) if due.address.version == 4 else (1, 3)
                for packet in due.packets:
                    self.send_error(due.interface, Packet.parse(packet), *unreachable, 0)
            else:
                self._ask(due)
        if now > self.now:
            self.now = now
        if not _engine.host_advance(self.engine, now):
            return
        for _, reason, frame in _engine.host_emitted(self.engine):
            if reason == Reason.FRAGMENT_TIMEOUT:
                first = Packet.parse(frame[14:])
                route = _engine.route_get(self.engine, first.version, first.source.packed)
                exceeded = 11 if first.version == 4 else 3
                self.send_error(0 if route is None else route[1], first, exceeded, 1, 0)

    def announce(self) -> None:
        """Tell all neighbours of the own addresses (arp_notify, ndisc_notify)."""
        for interface in self._interfaces.values():
            if interface.peer is not None:
                continue  # nobody there asks for link addresses
            self._sent += [
                (interface.name, neighbours.announcement(interface.mac, address.ip))
                for address in interface.addresses
            ]

    def _arp(self, number: int, frame: bytes) -> None:
        """Answer an ARP request for an own address; learn from what is meant for this host."""
        parsed = neighbours.arp_target(frame)
        if parsed is None:
            return
        operation, mac, sender, target = parsed
        interface = self._interfaces[number]
        own = self.is_own(ip_address(target)) and any(sender)
        if own and operation == 1:
            reply = neighbours.arp(2, (interface.mac, target), (mac, sender))
            self._sent.append((interface.name, reply))
        # An asker is taken as a neighbour; of others only news is (arp_process).
        answered = operation == 2 and frame[:6] == interface.mac
        self._learn((number, IPv4Address(sender)), mac, confirmed=answered,
                    made=own and operation == 1, locked=sender != target)  # fmt: skip

    def _discovery(self, number: int, packet: Packet) -> bool:
        """Neighbor Discovery (RFC 4861): answer solicitations, learn from advertisements."""
        message = packet.payload
        if len(message) < 24 or message[0] not in (135, 136) or packet.data[7] != 255:
            return False
        interface = self._interfaces[number]
        target = ip_address(message[8:24])
        option = message[24:32] if len(message) >= 32 else b""
        if message[0] == 136:
            key = number, target
            if option[:2] == b"\2\1":
                mac = option[2:8]
            elif key in self.neighbours:  # an answer to one that is asked alone may leave it away
                mac = self.neighbours[key].mac
            else:
                return True
            if mac:
                self._learn(key, mac, confirmed=bool(message[4] & 0x40),
                            overrides=bool(message[4] & 0x20))  # fmt: skip
            return True
        if self.is_own(target) and option[:2] == b"\1\1" and not packet.source.is_unspecified:
            frame = neighbours.advertise(interface.mac, target, option[2:8], packet.source)
            self._sent.append((interface.name, frame))
            self._learn((number, packet.source), option[2:8], made=True)
        return True

    def _learn(
        self, key: tuple[int, Address], mac: bytes, *, confirmed: bool = False,
        made: bool = False, overrides: bool = True, locked: bool = False,
    ) -> None:  # fmt: skip
        """Take a link address, and send what waited for it."""
        waited = self.neighbours.learn(
            key, mac, self.now, confirmed=confirmed, made=made, overrides=overrides, locked=locked
        )
        for packet in waited:
            self._transmit(*key, packet)


_ERRORS = {
    Reason.TTL_EXPIRED: ((11, 0), (3, 0)),
    Reason.FRAGMENTATION_NEEDED: ((3, 4), (2, 0)),
    Reason.NO_ROUTE: ((3, 0), (1, 0)),
    Reason.NO_REAL_SERVER: ((3, 3), (1, 4)),
    Reason.UNKNOWN_SERVER_PORT: ((3, 3), (1, 4)),
    Reason.BAD_IP_OPTION: ((12, 0), (4, 0)),
}
"""Reasons that the sender is told of: ICMP and ICMPv6 type and code."""
