"""Kernel settings by the kernel's names, as mappings that know every name they have."""

from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass

from lvscore.errors import ConfigError, NotFoundError

__all__ = ["ENGINE_SETTINGS", "Setting", "Sysctl"]


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting: its default and the values it takes."""

    default: int
    low: int = 0
    high: int = 1


ENGINE_SETTINGS = {
    "net.ipv4.vs.am_droprate": Setting(10, 1, 2**31 - 1),
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
}
"""What an engine has, in the order of the core's indices."""


class Sysctl(MutableMapping[str, int]):
    """Settings by name: reading, writing and listing; ``del`` puts the default back.

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

    def _setting(self, name: str) -> Setting:
        if name not in self._settings:
            raise NotFoundError(f"no setting {name!r} here")
        return self._settings[name]

    def __getitem__(self, name: str) -> int:
        self._setting(name)
        return self._read(name)

    def __setitem__(self, name: str, value: int) -> None:
        setting = self._setting(name)
        if not isinstance(value, int) or not setting.low <= value <= setting.high:
            raise ConfigError(f"{name}={value!r} is not in {setting.low}..{setting.high}")
        self._write(name, int(value))

    def __delitem__(self, name: str) -> None:
        self[name] = self._setting(name).default

    def __contains__(self, name: object) -> bool:
        return name in self._settings

    def __iter__(self) -> Iterator[str]:
        return iter(self._settings)

    def __len__(self) -> int:
        return len(self._settings)
