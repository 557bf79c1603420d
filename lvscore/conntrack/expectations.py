"""What helpers of conntrack expect, and how the tool prints it (libnetfilter_conntrack,
expect/snprintf_default.c, snprintf_xml.c)."""

from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from lvscore import _engine
from lvscore.addresses import Address
from lvscore.conntrack.entries import Side

if TYPE_CHECKING:
    from lvscore.engine import Engine

__all__ = ["Expectation", "expectations", "format_expectations"]


@dataclass(frozen=True, slots=True)
class Expectation:
    """A connection that a helper waits for: TCP from ``source``, whatever its port."""

    source: Address
    destination: Address
    destination_port: int
    seconds: int
    """Until it is not waited for any more."""
    master: Side
    """The original tuple of the connection that announced it."""
    helper: str = "ftp"

    @property
    def mask(self) -> str:
        """All bits of an address."""
        return "255.255.255.255" if self.source.version == 4 else ":".join(["ffff"] * 8)


def expectations(engine: "Engine") -> list[Expectation]:
    """What helpers of conntrack wait for, in no particular order."""
    return [
        Expectation(
            ip_address(source), ip_address(destination), port, seconds,
            Side(ip_address(here), ip_address(there), sport, dport),
        )
        for source, destination, port, seconds, here, there, sport, dport
        in _engine.expectations_list(engine)
    ]  # fmt: skip


def format_expectations(expected: list[Expectation], *, xml: bool = False) -> str:
    """Return what ``conntrack -L expect`` prints."""
    lines = [_xml(one) if xml else _line(one) for one in expected]
    if xml and lines:
        lines = ['<?xml version="1.0" encoding="utf-8"?>', "<expect>", *lines, "</expect>"]
    return "".join(f"{line}\n" for line in lines)


def _line(one: Expectation) -> str:
    return (
        f"{one.seconds} proto=6 src={one.source} dst={one.destination} sport=0 "
        f"dport={one.destination_port} mask-src={one.mask} mask-dst={one.mask} sport=0 dport=65535 "
        f"master-src={one.master.source} master-dst={one.master.destination} "
        f"sport={one.master.source_port} dport={one.master.destination_port} class=0 "
        f"helper={one.helper}"
    )


def _xml(one: Expectation) -> str:
    four = one.source.version == 4
    master = one.master
    layer3 = (
        f"<expected><src>{one.source}</src><dst>{one.destination}</dst></expected>"
        f"<mask><src>{one.mask}</src><dst>{one.mask}</dst></mask>"
        f"<master><src>{master.source}</src><dst>{master.destination}</dst></master>"
    )
    layer4 = (
        f"<expected><sport>0</sport><dport>{one.destination_port}</dport></expected>"
        "<mask><sport>0</sport><dport>65535</dport></mask>"
        f"<master><sport>{master.source_port}</sport><dport>{master.destination_port}</dport>"
        "</master>"
    )
    return (
        f'<flow><layer3 protonum="{2 if four else 10}" protoname="ipv{4 if four else 6}">{layer3}'
        f'</layer3><layer4 protonum="6" protoname="tcp">{layer4}</layer4><meta>'
        f"<helper-name>{one.helper}</helper-name><timeout>{one.seconds}</timeout><class>0</class>"
        "</meta></flow>"
    )
