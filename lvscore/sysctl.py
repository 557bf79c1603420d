"""Kernel settings by the kernel's names, as mappings that know every name they have."""

import difflib
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

from lvscore._arguments import integer
from lvscore.errors import ConfigError, NotFoundError

__all__ = [
    "CONNTRACK_SETTINGS",
    "CONNTRACK_TIMEOUTS",
    "ENGINE_SETTINGS",
    "Setting",
    "Sysctl",
    "conntrack_settings",
]


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting: its default and the values it takes."""

    default: int
    low: int = 0
    high: int = 1


ENGINE_SETTINGS = {
    "net.ipv4.vs.am_droprate": Setting(10, 1, 2**31 - 1),
    "net.ipv4.vs.amemthresh": Setting(1024, 0, 2**31 - 1),
    "net.ipv4.vs.cache_bypass": Setting(0),
    "net.ipv4.vs.conn_reuse_mode": Setting(1, 0, 3),
    "net.ipv4.vs.drop_entry": Setting(0, 0, 3),
    "net.ipv4.vs.drop_packet": Setting(0, 0, 3),
    "net.ipv4.vs.expire_nodest_conn": Setting(0),
    "net.ipv4.vs.expire_quiescent_template": Setting(0),
    "net.ipv4.vs.lblc_expiration": Setting(86400, 0, 2**31 - 1),
    "net.ipv4.vs.lblcr_expiration": Setting(86400, 0, 2**31 - 1),
    "net.ipv4.vs.nat_icmp_send": Setting(0),
    "net.ipv4.vs.pmtu_disc": Setting(1),
    "net.ipv4.vs.run_estimation": Setting(1),
    "net.ipv4.vs.schedule_icmp": Setting(0),
    "net.ipv4.vs.secure_tcp": Setting(0, 0, 3),
    "net.ipv4.vs.sloppy_sctp": Setting(0),
    "net.ipv4.vs.sloppy_tcp": Setting(0),
    "net.ipv4.vs.snat_reroute": Setting(1),
    "net.ipv4.vs.conntrack": Setting(0),
}
"""What an engine has, in the order of the core's indices."""

CONNTRACK_SETTINGS = {
    "net.netfilter.nf_conntrack_acct": Setting(0),
    "net.netfilter.nf_conntrack_checksum": Setting(1),
    "net.netfilter.nf_conntrack_max": Setting(0, 0, 2**31 - 1),  # default: the engine's own
    "net.netfilter.nf_conntrack_tcp_be_liberal": Setting(0),
    "net.netfilter.nf_conntrack_tcp_ignore_invalid_rst": Setting(0),
    "net.netfilter.nf_conntrack_tcp_loose": Setting(1),
    "net.netfilter.nf_conntrack_tcp_max_retrans": Setting(3, 0, 255),
    "net.netfilter.nf_conntrack_timestamp": Setting(0),
}
"""Settings of conntrack, in the order of the core's indices."""

_TIMEOUTS = {
    # name: default in seconds, the state bytes of the core that it is for
    "tcp_timeout_syn_sent": (120, 0x51, 0x59),
    "tcp_timeout_syn_recv": (60, 0x52),
    "tcp_timeout_established": (432000, 0x53),
    "tcp_timeout_fin_wait": (120, 0x54),
    "tcp_timeout_close_wait": (60, 0x55),
    "tcp_timeout_last_ack": (30, 0x56),
    "tcp_timeout_time_wait": (120, 0x57),
    "tcp_timeout_close": (10, 0x58),
    "tcp_timeout_max_retrans": (300, 0x5A),
    "tcp_timeout_unacknowledged": (300, 0x5B),
    "udp_timeout": (30, 0x60, 0x61),
    "udp_timeout_stream": (120, 0x62),
    "icmp_timeout": (30, 0x70),
    "icmpv6_timeout": (30, 0x71),
    "generic_timeout": (600, 0x80),
    "gre_timeout": (30, 0x90),
    "gre_timeout_stream": (180, 0x91),
    "sctp_timeout_closed": (10, 0xA0, 0xA1),
    "sctp_timeout_cookie_wait": (3, 0xA2),
    "sctp_timeout_cookie_echoed": (3, 0xA3),
    "sctp_timeout_established": (210, 0xA4),
    "sctp_timeout_shutdown_sent": (3, 0xA5),
    "sctp_timeout_shutdown_recd": (3, 0xA6),
    "sctp_timeout_shutdown_ack_sent": (3, 0xA7),
    "sctp_timeout_heartbeat_sent": (30, 0xA8),
}
CONNTRACK_TIMEOUTS = {
    f"net.netfilter.nf_conntrack_{name}": states for name, (_, *states) in _TIMEOUTS.items()
}
"""Timeouts of conntrack: the states of the core that each is for."""

_PREFIXES = ("", "net.ipv4.vs.", "net.netfilter.")
_LONGEST = 2**31 // 1000  # seconds: deadlines are 32 bits of milliseconds, half of them behind


def conntrack_settings(engine: "Bounded") -> dict[str, "Setting"]:
    """The settings of conntrack, as an engine has them."""
    limit = Setting(engine.max_connections, 0, 2**31 - 1)
    return {
        **CONNTRACK_SETTINGS,
        "net.netfilter.nf_conntrack_max": limit,
        **{
            f"net.netfilter.nf_conntrack_{name}": Setting(default, 1, _LONGEST)
            for name, (default, *_) in _TIMEOUTS.items()
        },
    }


class Bounded(Protocol):
    """What has a bound on its connections: an engine."""

    @property
    def max_connections(self) -> int: ...


class Sysctl(MutableMapping[str, int]):
    """Settings by name: reading, writing and listing; ``del`` puts the default back.

    Names are those of sysctl(8). Of IPVS and conntrack the last part will do, as the kernel's
    ipvs-sysctl.rst and nf_conntrack-sysctl.rst call them: ``expire_nodest_conn``.

    Raises:
        NotFoundError: there is no such setting here.
        ConfigError: the value is not one that the setting takes.
    """

    def __init__(
        self,
        settings: dict[str, Setting],
        read: Callable[[str], int],
        write: Callable[[str, int], None],
    ) -> None:
        self._settings = settings
        self._read = read
        self._write = write

    def _name(self, name: object) -> str:
        for prefix in _PREFIXES:
            if f"{prefix}{name}" in self._settings:
                return f"{prefix}{name}"
        near = difflib.get_close_matches(str(name).replace("/", "."), self._settings, 1, 0.8)
        hint = f"; there is {near[0]}" if near else ""
        raise NotFoundError(f"no setting {name!r} here{hint}")

    def __getitem__(self, name: str) -> int:
        return self._read(self._name(name))

    def __setitem__(self, name: str, value: int) -> None:
        full = self._name(name)
        setting = self._settings[full]
        number = integer(value)
        if number is None or not setting.low <= number <= setting.high:
            raise ConfigError(f"{name}={value!r} is not in {setting.low}..{setting.high}")
        self._write(full, number)

    def __delitem__(self, name: str) -> None:
        full = self._name(name)
        self[full] = self._settings[full].default

    def get(self, name: str, default: Any = None) -> Any:
        """A setting's value, or ``default`` where there is no such setting."""
        try:
            return self[name]
        except NotFoundError:
            return default

    def __repr__(self) -> str:
        changed = {name: self[name] for name in self if self[name] != self._settings[name].default}
        return f"<Sysctl: {len(self)} settings, not as by default: {changed}>"

    def __contains__(self, name: object) -> bool:
        return any(f"{prefix}{name}" in self._settings for prefix in _PREFIXES)

    def __iter__(self) -> Iterator[str]:
        return iter(self._settings)

    def __len__(self) -> int:
        return len(self._settings)
