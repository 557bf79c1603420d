"""The machine's memory, which some settings of IPVS go by."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lvscore.engine import Engine

__all__ = ["tell_memory"]

_DEFENCES = ("net.ipv4.vs.drop_entry", "net.ipv4.vs.drop_packet", "net.ipv4.vs.secure_tcp")
_AUTOMATIC = (1, 2)
_COUNTED = ("MemFree:", "Buffers:")


def tell_memory(engine: "Engine", meminfo: str = "/proc/meminfo") -> None:
    """Tell an engine what memory the machine has left, if one of its defences is automatic.

    It is what the kernel's IPVS counts, every second: free pages and those of buffers
    (ip_vs_ctl.c, update_defense_level).
    """
    if not any(engine.sysctl[name] in _AUTOMATIC for name in _DEFENCES):
        engine.available_memory = None
        return
    with open(meminfo, encoding="ascii") as file:
        lines = [line.split() for line in file]
    engine.available_memory = sum(int(words[1]) << 10 for words in lines if words[0] in _COUNTED)
