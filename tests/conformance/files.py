"""The files of a recorded director that commands read and write: /proc, /sys, and its own."""

from collections.abc import Callable

from lvscore import ipvsadm

from .topology import Network

_SETTINGS = "/proc/sys/net/ipv4/vs/"

# What the director's kernel says of settings that the engine does not have. They cannot be set
# to anything else here.
_OTHER_SETTINGS = {
    "amemthresh": "1024",
    "backup_only": "0",
    "cache_bypass": "0",
    "conntrack": "0",
    "drop_entry": "0",
    "ignore_tunneled": "0",
    "lblc_expiration": "86400",
    "lblcr_expiration": "86400",
    "pmtu_disc": "1",
    "schedule_icmp": "0",
    "snat_reroute": "1",
    "sync_persist_mode": "0",
    "sync_ports": "1",
    "sync_qlen_max": "7157",
    "sync_refresh_period": "0",
    "sync_retries": "0",
    "sync_sock_size": "0",
    "sync_threshold": "3\t50",
    "sync_version": "1",
}


class Files:
    """Texts by path; those of the kernel are made when they are read."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.written: dict[str, str] = {}

    def _kernel(self) -> dict[str, Callable[[], str]]:
        engine, host = self.network.engine, self.network.host
        files: dict[str, Callable[[], str]] = {
            "/proc/net/ip_vs": lambda: ipvsadm.format_ip_vs(engine),
            "/proc/net/ip_vs_conn": lambda: ipvsadm.format_ip_vs_conn(engine),
            "/proc/net/ip_vs_stats": lambda: ipvsadm.format_ip_vs_stats(engine),
            # The recorder saved the table between two steps, just before it was restored.
            "/tmp/save": lambda: ipvsadm.save(engine),
            "/sys/module/ip_vs/parameters/conn_tab_bits": lambda: "12\n",
        }
        for name, value in _OTHER_SETTINGS.items():
            files[_SETTINGS + name] = f"{value}\n".format
        for settings in (host.sysctl, engine.sysctl):
            for key, value in settings.items():
                files["/proc/sys/" + key.replace(".", "/")] = f"{value}\n".format
        return files

    def read(self, path: str) -> str | None:
        """The text of a file, or None."""
        if path in self.written:
            return self.written[path]
        make = self._kernel().get(path)
        return None if make is None else make()

    def below(self, folder: str) -> list[str]:
        """The paths of all files below a folder, sorted."""
        prefix = folder.rstrip("/") + "/"
        return sorted(path for path in {*self._kernel(), *self.written} if path.startswith(prefix))

    def has_setting(self, key: str, value: str) -> bool:
        """Whether a setting that the engine does not have has this value."""
        other = _OTHER_SETTINGS.get(key.removeprefix("net.ipv4.vs."), "")
        return key not in self.network.engine.sysctl and other.split() == value.split()
