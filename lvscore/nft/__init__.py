"""nft's language, as far as it exists here: rules of nat and mangle, as iptables has them.

Tables of families ``ip``, ``ip6`` and ``inet``; base chains of ``type nat`` at the hooks
prerouting and postrouting, and of ``type filter`` at prerouting with priority mangle, one for each
hook and family, policy accept. Matches: ``ip``/``ip6 saddr`` and ``daddr``, ``iifname``,
``oifname``, ``meta l4proto``, ``ip protocol``, ``tcp``/``udp``/``sctp``/``th sport`` and
``dport``, ``meta mark``, with prefixes, ranges, anonymous sets and ``!=``. Then ``counter``, and
one of ``dnat``, ``snat``, ``masquerade``, ``redirect``, ``meta mark set``, ``accept``,
``return``; ``comment``. Commands: ``add``, ``create``, ``insert``, ``replace``, ``delete``,
``flush``, ``list``; ``table`` with a block. Anything else is refused by name, with its place.

The rules are those of :attr:`Engine.rules`, which iptables' language lists and changes, too: a
match that they cannot say becomes several of them. Rules that nft did not make are listed in
tables ``nat`` and ``mangle``, in chains of iptables' names, as iptables-nft has them. What is
printed is what nft 1.0.6 prints.

Different from nft: all commands of a text are carried out, or none; ``counter`` stands behind the
matches, and every rule has a verdict or a mark to set.
"""

from lvscore.nft.commands import Script, apply, run, scan
from lvscore.nft.program import execute
from lvscore.nft.scanner import is_open

__all__ = ["Script", "apply", "execute", "is_open", "run", "scan"]
