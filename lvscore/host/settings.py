"""The settings of a Host: ``net.ipv4.*`` and ``net.ipv6.*``, by the kernel's names."""

from collections.abc import Callable

from lvscore.sysctl import Setting, Sysctl

__all__ = ["HostSettings"]

_GLOBAL = {
    "net.ipv4.icmp_echo_ignore_all": Setting(0),
    "net.ipv4.icmp_errors_use_inbound_ifaddr": Setting(0),
    "net.ipv4.ip_default_ttl": Setting(64, 1, 255),
    "net.ipv4.ip_forward": Setting(0),
    "net.ipv6.conf.all.forwarding": Setting(0),
    "net.ipv6.conf.all.hop_limit": Setting(64, 1, 255),
}
# Of all neighbours (neighbour.c, arp.c, ndisc.c); times in the unit of the kernel's name.
_NEIGHBOURS = {
    "base_reachable_time_ms": Setting(30000, 1, 2**31 - 1),
    "delay_first_probe_time": Setting(5, 1, 86400),
    "gc_interval": Setting(30, 1, 86400),
    "gc_stale_time": Setting(60, 1, 86400),
    "gc_thresh1": Setting(128, 0, 2**31 - 1),
    "gc_thresh2": Setting(512, 1, 2**31 - 1),
    "gc_thresh3": Setting(1024, 1, 2**31 - 1),
    "mcast_solicit": Setting(3, 1, 255),
    "retrans_time_ms": Setting(1000, 1, 2**31 - 1),
    "ucast_solicit": Setting(3, 0, 255),
    "unres_qlen": Setting(101, 1, 2**31 - 1),
}
for _version in (4, 6):
    for _name, _setting in _NEIGHBOURS.items():
        _GLOBAL[f"net.ipv{_version}.neigh.default.{_name}"] = _setting
# Of each interface; "all" has a value of its own, "default" is for interfaces to come.
_CONF = {
    "rp_filter": Setting(0, 0, 2),
    "send_redirects": Setting(1),
    "accept_source_route": Setting(1),
}
_ALL = {"accept_source_route": 0}


class HostSettings:
    """The values, and how ``all`` and an interface's own value make one."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._known = dict(_GLOBAL)
        self._values = {name: setting.default for name, setting in _GLOBAL.items()}
        self.sysctl = Sysctl(self._known, self._values.__getitem__, self._write)
        self.add_interface("all")
        self.add_interface("default")
        for name, value in _ALL.items():
            self._values[f"net.ipv4.conf.all.{name}"] = value

    def __getitem__(self, name: str) -> int:
        return self._values[name]

    def _write(self, name: str, value: int) -> None:
        self._values[name] = value
        self._changed()

    def add_interface(self, interface: str) -> None:
        """Make the settings of an interface, with the values of ``default``."""
        for name, setting in _CONF.items():
            key = f"net.ipv4.conf.{interface}.{name}"
            self._known[key] = setting
            self._values[key] = self._values.get(f"net.ipv4.conf.default.{name}", setting.default)

    def remove_interface(self, interface: str) -> None:
        """Forget the settings of an interface."""
        for name in _CONF:
            del self._known[f"net.ipv4.conf.{interface}.{name}"]
            del self._values[f"net.ipv4.conf.{interface}.{name}"]

    def of(self, interface: str) -> tuple[int, bool, bool, bool, bool]:
        """What holds for an interface: rp_filter, send_redirects, accept_source_route,
        forwarding of IPv4 and of IPv6 (include/linux/inetdevice.h: IN_DEV_MAXCONF, _ORCONF,
        _ANDCONF)."""
        own, every = f"net.ipv4.conf.{interface}.", "net.ipv4.conf.all."
        value = self._values
        return (
            max(value[own + "rp_filter"], value[every + "rp_filter"]),
            bool(value[own + "send_redirects"] or value[every + "send_redirects"]),
            bool(value[own + "accept_source_route"] and value[every + "accept_source_route"]),
            bool(value["net.ipv4.ip_forward"]),
            bool(value["net.ipv6.conf.all.forwarding"]),
        )
