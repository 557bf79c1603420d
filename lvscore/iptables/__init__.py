"""iptables' language, as far as it exists here: rules of the nat, mangle and raw tables.

``-A``, ``-I``, ``-D``, ``-C``, ``-R``, ``-F``, ``-Z``, ``-S`` and ``-L`` on PREROUTING and
POSTROUTING of ``-t nat``, and on PREROUTING of ``-t mangle`` and ``-t raw``;
``-P CHAIN ACCEPT``; ``-X`` of what is empty. Matches:
``-s``, ``-d``, ``-p``, ``-i``, ``-o``, ``--sport``, ``--dport``, ``-m multiport``, ``-m mark``,
``-m ipvs --vaddr``, each with ``!``. Targets: DNAT, SNAT, MASQUERADE, REDIRECT, NETMAP, MARK,
``CT --helper ftp``, ACCEPT, RETURN. Long options may be abbreviated, as iptables takes them
(``--to``). Anything else is refused by name. What is printed is what iptables 1.8.9 prints.

A leading ``iptables`` or ``ip6tables`` tells the address family; without it the addresses do,
and ``-F``, ``-S``, ``-L`` and rule numbers are about the rules of both families.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lvscore.iptables.commands import apply, restore, save
from lvscore.iptables.grammar import ALL_CHAINS, Command, parse, split
from lvscore.iptables.listing import format_rule

if TYPE_CHECKING:
    from lvscore.engine import Engine

__all__ = [
    "ALL_CHAINS",
    "Command",
    "apply",
    "format_rule",
    "parse",
    "restore",
    "run",
    "save",
    "split",
]


def run(engine: "Engine", command: str | Sequence[str]) -> str:
    """Carry out one iptables command line and return what it prints.

    Args:
        engine: the engine whose rules to change or list.
        command: a line as a shell would take it, or its words.

    Raises:
        CommandError: the command was refused; nothing was changed.
    """
    words = split(command) if isinstance(command, str) else command
    return apply(engine, parse(words))
