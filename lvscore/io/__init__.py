"""Sources and sinks of frames: captures, memory, interfaces. Nothing here knows of an engine."""

from lvscore.io._pcap import PcapReader
from lvscore.io._pcap_writer import PcapWriter
from lvscore.io.capture import create_pcap, open_pcap
from lvscore.io.device import LiveInterface
from lvscore.io.interface import open_interface
from lvscore.io.memory import MemorySink, MemorySource
from lvscore.io.protocols import Sink, Source

__all__ = [
    "LiveInterface",
    "MemorySink",
    "MemorySource",
    "PcapReader",
    "PcapWriter",
    "Sink",
    "Source",
    "create_pcap",
    "open_interface",
    "open_pcap",
]
