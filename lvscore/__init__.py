"""Linux Virtual Server as a library: connection tracking and NAT in compiled Cython.

Three nouns to learn: an :class:`Engine` translates packets, sources and sinks
(:func:`open_pcap`, :func:`create_pcap`) bring and take them, and ``engine.connections`` shows
what it knows.
"""

from lvscore._frames import FrameBatch
from lvscore.addresses import Endpoint
from lvscore.connections import Connection
from lvscore.constants import LinkType, Reason, State, Verdict
from lvscore.engine import Engine
from lvscore.errors import (
    AddressError,
    CaptureError,
    CommandError,
    ConcurrencyError,
    ConfigError,
    DuplicateError,
    InterfaceError,
    LimitError,
    LvscoreError,
    NotFoundError,
    TruncatedCapture,
    UnsupportedLinkType,
)
from lvscore.explain import Explanation
from lvscore.model import SCHEDULERS, Rule, Statistics, Timeouts
from lvscore.services import Server, Service

__version__ = "0.1.0"
