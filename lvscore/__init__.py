"""Linux Virtual Server as a library: connection tracking and NAT in compiled Cython.

Three nouns to learn: an :class:`Engine` translates packets, sources and sinks
(:func:`open_pcap`, :func:`create_pcap`) bring and take them, and ``engine.connections`` shows
what it knows.
"""

from lvscore._frames import FrameBatch
from lvscore.addresses import AddressRange, Endpoint, PortRange
from lvscore.connections import Connection, Connections
from lvscore.constants import LinkType, Reason, State, Verdict
from lvscore.engine import Engine
from lvscore.errors import (
    AddressError,
    CaptureError,
    CaptureFileError,
    CommandError,
    ConcurrencyError,
    ConfigError,
    ControlError,
    DuplicateError,
    InterfaceError,
    LimitError,
    LvscoreError,
    NotFoundError,
    SnapshotError,
    TruncatedCapture,
    UnsupportedLinkType,
)
from lvscore.explain import Explanation
from lvscore.host import Host
from lvscore.io import (
    LiveInterface,
    MemorySink,
    MemorySource,
    PcapReader,
    PcapWriter,
    create_pcap,
    open_interface,
    open_pcap,
)
from lvscore.live import Live, attach
from lvscore.model import (
    SCHEDULER_FLAGS,
    SCHEDULERS,
    Rate,
    Rule,
    Statistics,
    Timeouts,
    TimerWheel,
    Tunnel,
)
from lvscore.port_pools import PortPool, PortPoolEvent, PortPools
from lvscore.report import Report
from lvscore.routes import Interface, Route, Routes
from lvscore.runner import run
from lvscore.services import Server, Service

__version__ = "0.1.0"

__all__ = [
    "SCHEDULERS",
    "SCHEDULER_FLAGS",
    "AddressError",
    "AddressRange",
    "CaptureError",
    "CaptureFileError",
    "CommandError",
    "ConcurrencyError",
    "ConfigError",
    "Connection",
    "Connections",
    "ControlError",
    "DuplicateError",
    "Endpoint",
    "Engine",
    "Explanation",
    "FrameBatch",
    "Host",
    "Interface",
    "InterfaceError",
    "LimitError",
    "LinkType",
    "Live",
    "LiveInterface",
    "LvscoreError",
    "MemorySink",
    "MemorySource",
    "NotFoundError",
    "PcapReader",
    "PcapWriter",
    "PortPool",
    "PortPoolEvent",
    "PortPools",
    "PortRange",
    "Rate",
    "Reason",
    "Report",
    "Route",
    "Routes",
    "Rule",
    "Server",
    "Service",
    "SnapshotError",
    "State",
    "Statistics",
    "Timeouts",
    "TimerWheel",
    "TruncatedCapture",
    "Tunnel",
    "UnsupportedLinkType",
    "Verdict",
    "attach",
    "create_pcap",
    "open_interface",
    "open_pcap",
    "run",
]
