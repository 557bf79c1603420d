"""What would happen to a frame, and why, step by step."""

from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from lvscore import _engine
from lvscore.addresses import PROTOCOLS, Endpoint, protocol_name
from lvscore.constants import Reason, State, Verdict
from lvscore.services import ServerRecord

if TYPE_CHECKING:
    from lvscore.engine import Engine
    from lvscore.services import Service

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer of :meth:`lvscore.Engine.explain`; ``str()`` gives one line for each step."""

    verdict: Verdict
    reason: Reason
    frame: bytes
    """The frame as it would leave."""
    steps: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.steps)


_TARGETS = {1: "DNAT (PREROUTING)", 2: "SNAT (POSTROUTING)"}
_RULE_TCP = (0, 2, 3, 1, 4, 7, 8, 5, 6, 11, 1)
_RULE_SCTP = (0, 27, 20, 22, 1, 23, 24, 25, 28)
_REQUESTS = (8, 13, 15, 17, 128)  # of ICMP
_SERVICE_SCTP = (0, 16, 17, 18, 19, 20, 21, 22, 1, 23, 24, 25, 26, 27)


def _state_name(state: int) -> str:
    tracker, number = state & 0xF0, state & 0x0F
    if tracker == 0x10:
        return State(number).name
    if tracker == 0x50:
        return State(_RULE_TCP[number]).name
    if tracker == 0x30:
        return State(_SERVICE_SCTP[number]).name
    if tracker == 0xA0:
        return State(_RULE_SCTP[number]).name
    if tracker == 0x20:
        return "UDP"
    if tracker == 0x70:
        return "ICMP"
    return ("UNREPLIED", "REPLIED", "ASSURED")[number]


def _summary(reason: Reason) -> str:
    return _REASON_TEXTS[reason]


def _reason_texts() -> dict[Reason, str]:
    """The sentences that stand behind the members of Reason in its source."""
    return {reason: reason.name.replace("_", " ").lower() for reason in Reason}


_REASON_TEXTS = _reason_texts()


class _Describer:
    """Turns the core's trace into sentences, with the names that the engine knows."""

    def __init__(self, engine: "Engine") -> None:
        self.engine = engine

    def flow(self, protocol: int, source: bytes, sport: int, destination: bytes, dport: int) -> str:
        name = protocol_name(protocol)
        here, there = ip_address(source), ip_address(destination)
        if name in ("tcp", "udp", "sctp"):
            return f"{name} {Endpoint(here, sport)} -> {Endpoint(there, dport)}"
        if protocol in (PROTOCOLS["icmp"], PROTOCOLS["icmpv6"]) and (sport or dport):
            asks = dport >> 8 in _REQUESTS and (sport >> 8 not in _REQUESTS or not dport & 0xFF)
            request, identifier = (dport >> 8, sport) if asks else (sport >> 8, dport)
            return f"{name} {here} -> {there} request type {request} id {identifier}"
        return f"{name} {here} -> {there}"

    def service(self, index: int) -> "Service":
        return next(s for s in self.engine.services if s._index() == index)

    def server(self, index: int) -> str:
        record = ServerRecord(*_engine.server_record(self.engine, index))
        return str(Endpoint(ip_address(record.address), record.port))

    def step(self, code: int, a: int, b: int, flow: str) -> str:
        direction = ("original", "reply")[a & 1]
        match code:
            case 1:
                return f"parsed: {flow}, {a} bytes of IP, {b} of them behind its headers"
            case 2:
                return f"connection found, {direction} direction: {flow}"
            case 3:
                return f"no connection: {flow}"
            case 4:
                return f"an ICMP error that quotes: {flow}"
            case 5:
                return f"virtual service {self.service(a)}, scheduler {self.service(a).scheduler}"
            case 6:
                return "its destination is local, and no service listens there"
            case 7:
                return f"scheduled to {self.server(a)}"
            case 8:
                return "the scheduler found no server that takes connections"
            case 9:
                return "a SYN, and the connection is closed: it begins anew"
            case 10:
                return f"{_TARGETS[b]} rule {a} matches: {flow}"
            case 11:
                return f"no {_TARGETS[b]} rule matches"
            case 12:
                return f"its destination is local: {flow}"
            case 13:
                return f"connection opened: {flow}"
            case 14:
                return f"state {_state_name(a)} -> {_state_name(b)}"
            case 15:
                return f"expires after {a / 1000:g} s without a packet"
            case 17:
                return f"the client's persistence template leads to {self.server(a)}: {flow}"
            case 18:
                return f"sent as it is to {self.server(a) if a else 'its destination'}"
            case 19:
                return f"wrapped for the tunnel to {self.server(a)}"
            case _:
                return f"translated: {flow}"


def explain(
    engine: "Engine",
    frame: bytes,
    now: int,
    link_type: int,
    mark: int = 0,
    ingress: int | None = None,
) -> Explanation:
    """Run ``frame`` through a copy of ``engine`` and describe what happened."""
    verdict, reason, result, trace = engine._explain(frame, now, link_type, mark, ingress)
    describer = _Describer(engine)
    steps = [
        describer.step(code, a, b, describer.flow(protocol, source, sport, destination, dport))
        for code, a, b, protocol, source, sport, destination, dport in trace
    ]
    steps.append(f"{verdict.name}: {_summary(reason)}")
    return Explanation(verdict, reason, result, tuple(steps))
