"""conntrack's language: what the conntrack tool says of an engine's connections.

``-L``, ``-G``, ``-D``, ``-U``, ``-F``, ``-C`` and ``-S``, with the tool's filters (``-s``, ``-d``,
``-r``, ``-q``, ``--mask-src``, ``--mask-dst``, ``-p`` and the protocol's own, ``-f``, ``-u``,
``-m``, ``-w``, ``-n``, ``-g``, ``-j``) and formats (``-o extended,timestamp,ktimestamp,labels,
id,xml,save``), its messages and its exit status, as conntrack-tools 1.4.7 has them; ``-L``, ``-F``
and ``-C`` also of table ``expect``. What has no meaning here is refused by name. Different from
the tool:

* ``-o json`` is lvscore's own: the fields of ``-o xml`` as one JSON document.
* ``-o xml`` names SCTP's states by their names; the tool takes TCP's names of the same numbers.
* ``-o save`` knows no SCTP verification tags.
* An address attached to ``-n``, ``-g`` or ``-j`` (``--src-nat=10.0.0.1``) counts; the tool does
  not look at it.
* A port that is no number is refused; the tool takes it for 0.
* ``-S`` is one line, of ``cpu=0``; it has no ``found``.
"""

from lvscore.conntrack.commands import execute, run
from lvscore.conntrack.entries import Entry, Side, entries
from lvscore.conntrack.expectations import Expectation, expectations
from lvscore.conntrack.formats import format_entry

__all__ = [
    "Entry",
    "Expectation",
    "Side",
    "entries",
    "execute",
    "expectations",
    "format_entry",
    "run",
]
