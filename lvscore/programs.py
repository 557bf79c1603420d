"""The programs that administrators have for IPVS, netfilter and conntrack, run on an engine.

Words and standard input in; exit status, standard output and standard error out. The language
of each is read where it is written down: :mod:`lvscore.ipvsadm`, :mod:`lvscore.iptables`,
:mod:`lvscore.nft`, :mod:`lvscore.conntrack`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lvscore import conntrack, iptables, ipvsadm, nft
from lvscore.errors import CommandError
from lvscore.model import Outcome

if TYPE_CHECKING:
    from lvscore.engine import Engine

__all__ = [
    "PROGRAMS",
    "Outcome",
    "execute",
    "lists_connections",
    "reads_standard_input",
    "tells_of_itself",
]

_IPVSADM = ("ipvsadm", "ipvsadm-save", "ipvsadm-restore")
_IPTABLES = ("iptables", "ip6tables")
_SAVE = {"iptables-save": 4, "ip6tables-save": 6}
_RESTORE = {"iptables-restore": 4, "ip6tables-restore": 6}
_CONNTRACK_LISTS = [["-L"], ["--dump"], ["-G"], ["--get"], ["-C"], ["--count"]]
PROGRAMS = (*_IPVSADM, "conntrack", *_IPTABLES, "nft", *_SAVE, *_RESTORE)
"""The names under which :func:`execute` knows a program."""
_NETFILTER = (*_IPTABLES, *_SAVE, *_RESTORE)
# Scripts ask for these before they use a program; they are those of the language spoken here.
_VERSIONS = {
    "conntrack": ("-V", "conntrack v1.4.7 (conntrack-tools)"),
    "nft": ("-v", "nftables v1.0.6 (Lester Gooch #5)"),
    **{program: ("-V", f"{program} v1.8.9 (nf_tables)") for program in _NETFILTER},
}


def execute(engine: "Engine", argv: Sequence[str], stdin: str = "") -> Outcome:
    """Run a program on an engine as a shell would: nothing that it is told raises.

    Args:
        engine: the engine to configure or list.
        argv: one of :data:`PROGRAMS`, and its words.
        stdin: what the program reads, see :func:`reads_standard_input`.
    """
    program, *words = argv or [""]
    option, version = _VERSIONS.get(program, ("", ""))
    if words in ([option], ["--version"]) and version:
        return Outcome(0, f"{version}\n")
    if program in _IPVSADM:
        return ipvsadm.execute(engine, argv, stdin)
    if program == "conntrack":
        return conntrack.execute(engine, words)
    if program == "nft":
        return nft.execute(engine, words, stdin)
    try:
        if program in _IPTABLES:
            return Outcome(0, iptables.run(engine, [program, *words]))
        if program in _SAVE or program in _RESTORE:
            if program in _SAVE:
                return Outcome(0, _saved(engine, program, words))
            if words:
                raise CommandError(f"{program}: option {words[0]} is not available")
            iptables.restore(engine, stdin, _RESTORE[program])
            return Outcome(0)
    except CommandError as error:
        return Outcome(error.status, "", f"{error}\n")
    return Outcome(127, "", f"{program}: command not found\n")


def _saved(engine: "Engine", program: str, words: list[str]) -> str:
    """iptables-save and ip6tables-save: -c, and -t TABLE."""
    table = ""
    counters = False
    while words:
        word = words.pop(0)
        if word in ("-c", "--counters"):
            counters = True
        elif word in ("-t", "--table") and words and words[0] in iptables.ALL_CHAINS:
            table = words.pop(0)
        else:
            raise CommandError(f"{program}: option {word} is not available")
    return iptables.save(engine, _SAVE[program], table=table, counters=counters)


def tells_of_itself(argv: Sequence[str]) -> bool:
    """Whether a program is only asked for its version or its help: an engine has no part in it."""
    program, *words = argv
    if program == "ipvsadm":
        return words[:1] in (["-h"], ["--help"], ["-v"], ["--version"])
    return program in _VERSIONS and words in ([_VERSIONS[program][0]], ["--version"])


def reads_standard_input(argv: Sequence[str]) -> bool:
    """Whether a program reads standard input."""
    program, *words = argv
    if program == "ipvsadm":
        return words[:1] in (["-R"], ["--restore"])
    if program == "nft":
        return words[-1:] == ["-"]
    return program in ("ipvsadm-restore", *_RESTORE)


def lists_connections(argv: Sequence[str]) -> bool:
    """Whether a program's work grows with the connections that there are, and changes nothing."""
    program, *words = argv
    if program == "conntrack":
        return words[:1] in _CONNTRACK_LISTS and not {"-z", "--zero"} & set(words)
    if program != "ipvsadm":
        return False
    try:
        command = ipvsadm.parse(words)
    except CommandError:
        return False
    return command.name == "list" and "connection" in command.options
