"""What the kernel shows in /proc/net: ip_vs, ip_vs_conn and ip_vs_stats.

Formats of ip_vs_ctl.c and ip_vs_conn.c: hexadecimal; trailing blanks are the kernel's own.
"""

from dataclasses import astuple
from typing import TYPE_CHECKING

from lvscore.addresses import Address, Endpoint
from lvscore.ipvsadm.listing import listed_connections, listed_state
from lvscore.ipvsadm.values import FORWARD, HEADER

if TYPE_CHECKING:
    from lvscore.engine import Engine
    from lvscore.services import Service

__all__ = ["format_ip_vs", "format_ip_vs_conn", "format_ip_vs_stats"]

HZ = 250
"""Clock ticks in a second, in which the kernel tells of persistence."""


def format_ip_vs(engine: "Engine") -> str:
    """Return /proc/net/ip_vs: the services in the order of their adding, and their servers."""
    lines = [
        f"{HEADER}Prot LocalAddress:Port Scheduler Flags",
        "  -> RemoteAddress:Port Forward Weight ActiveConn InActConn",
    ]
    for service in engine.services:
        lines.append(_service(service))
        for server in service.servers:
            lines.append(
                f"  -> {_endpoint(server.endpoint)}      {FORWARD[server.method]:<7} "
                f"{server.weight:<6} {server.active:<10} {server.inactive:<10}"
            )
    return "".join(f"{line}\n" for line in lines)


def _service(service: "Service") -> str:
    flags = "ops " if service.one_packet else ""
    if service.endpoint is None:
        line = f"FWM  {service.mark:08X} {service.scheduler} {flags}"
    else:
        line = f"{service.protocol.upper()}  {_endpoint(service.endpoint)} {service.scheduler} "
        if service.family == 4:
            line += f"{flags} "
    if service.persistence:
        mask = service.netmask
        # The length of a prefix comes in the byte order of an address.
        number = mask << 24 if isinstance(mask, int) else int(mask)
        line += f"persistent {service.persistence * HZ} {number:08X}"
    return line


def format_ip_vs_conn(engine: "Engine") -> str:
    """Return /proc/net/ip_vs_conn: the connections and templates of services, expiry in seconds."""
    lines = [
        "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData",
    ]
    for connection in listed_connections(engine):
        ends = " ".join(
            f"{_address(address)} {port:04X}"
            for address, port in (connection.client, connection.virtual, connection.server)
        )
        seconds = max(connection.expires_ns, 0) // 10**9
        lines.append(
            f"{connection.protocol.upper():<3} {ends} {listed_state(connection):<11} {seconds:>7}"
        )
    return "".join(f"{line}\n" for line in lines)


def format_ip_vs_stats(engine: "Engine") -> str:
    """Return /proc/net/ip_vs_stats: the totals, and what they are in a second."""

    def row(numbers: tuple[int, ...]) -> str:
        return " ".join(f"{n:>{w}X}" for n, w in zip(numbers, (8, 8, 8, 16, 16), strict=True))

    return (
        "   Total Incoming Outgoing         Incoming         Outgoing\n"
        "   Conns  Packets  Packets            Bytes            Bytes\n"
        f"{row(astuple(engine.listed_statistics))}\n\n"
        " Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s\n"
        f"{row(astuple(engine.rate))}\n"
    )


def _endpoint(endpoint: Endpoint) -> str:
    address, port = endpoint
    shown = _address(address) if address.version == 4 else f"[{_address(address)}]"
    return f"{shown}:{port:04X}"


def _address(address: Address) -> str:
    return f"{int(address):08X}" if address.version == 4 else address.exploded
