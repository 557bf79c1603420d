"""What a run is summed up with, as text and as one JSON object."""

from typing import TYPE_CHECKING, Any

from lvscore import iptables, ipvsadm

if TYPE_CHECKING:
    from lvscore.engine import Engine
    from lvscore.model import Statistics
    from lvscore.report import Report

__all__ = ["format_summary", "summary"]


def format_summary(engine: "Engine", report: "Report") -> str:
    """The tables as ipvsadm prints them, the rules, what was dropped and why, and the totals."""
    blocks = []
    if engine.services:
        blocks.append(ipvsadm.format_listing(engine))
        blocks.append(ipvsadm.format_listing(engine, columns="stats", current=True))
        blocks.append(_connections(engine))
    if engine.rules:
        blocks.append("".join(f"{iptables.format_rule(rule)}\n" for rule in engine.rules))
    if report.drops:
        blocks.append(_drops(report))
    blocks.append(f"{report}\n")
    return "\n".join(blocks)


def _connections(engine: "Engine") -> str:
    rows = [
        (str(service), str(server.endpoint), server.statistics.connections)
        for service in engine.services
        for server in reversed(service.servers)
    ]
    return _table(("Service", "Server", "Connections"), rows)


def _drops(report: "Report") -> str:
    rows = sorted(report.drops.items(), key=lambda item: (-item[1], item[0]))
    return _table(("Dropped for", "Frames"), rows)


def _table(title: tuple[str, ...], rows: "list[tuple[Any, ...]]") -> str:
    """Columns as wide as their widest cell: text to the left, numbers to the right."""
    cells = [title, *(tuple(str(cell) for cell in row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(title))]
    lines = []
    for row in cells:
        *texts, number = row
        line = [text.ljust(width) for text, width in zip(texts, widths, strict=False)]
        lines.append("  ".join([*line, number.rjust(widths[-1])]))
    return "".join(f"{line}\n" for line in lines)


def summary(engine: "Engine", report: "Report") -> dict[str, object]:
    """Return the same as plain values."""
    services = [
        {
            "service": str(service),
            "scheduler": service.scheduler,
            **_statistics(service.statistics),
            "servers": [
                {
                    "server": str(server.endpoint),
                    "method": server.method,
                    "weight": server.weight,
                    "active": server.active,
                    "inactive": server.inactive,
                    **_statistics(server.statistics),
                }
                for server in reversed(service.servers)
            ],
        }
        for service in engine.services
    ]
    rules = [iptables.format_rule(rule) for rule in engine.rules]
    return {**report.to_dict(), "services": services, "rules": rules}


def _statistics(statistics: "Statistics") -> dict[str, int]:
    return {
        "connections": statistics.connections,
        "packets_in": statistics.packets_in,
        "packets_out": statistics.packets_out,
        "bytes_in": statistics.bytes_in,
        "bytes_out": statistics.bytes_out,
    }
