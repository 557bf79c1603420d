"""The enumerations that Python and the compiled core share.

``lvscore/_core/consts.pxd`` has the same numbers for the core; a test compares the two.
"""

from enum import IntEnum

__all__ = ["LinkType", "Reason", "State", "Verdict"]


class Verdict(IntEnum):
    """What becomes of a frame."""

    DROP = 0
    """Dropped."""
    FORWARD = 1
    """To be sent on: translated, or tracked and left as it is."""
    LOCAL = 2
    """For this host's own stack."""
    PASS = 3
    """Not ours, and untouched."""
    STOLEN = 4
    """Consumed: what leaves for it is in ``engine.emitted``."""


class LinkType(IntEnum):
    """Link-layer header types, by their registered LINKTYPE_ numbers."""

    NULL = 0
    ETHERNET = 1
    RAW = 101
    LOOP = 108
    LINUX_SLL = 113
    IPV4 = 228
    IPV6 = 229
    LINUX_SLL2 = 276
