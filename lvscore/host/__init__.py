"""The machine that an engine is on: interfaces, routes, neighbours, its own answers."""

from lvscore.host.host import Host

__all__ = ["Host"]
