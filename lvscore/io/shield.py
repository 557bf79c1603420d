"""Keeps the kernel from answering for addresses that it has, too.

A BPF program where packets come in lets those for such an address go no further; packet sockets,
which are before it, see them all. Program and set of addresses go with the process.
"""

import contextlib
import os
import socket
from collections.abc import Iterable
from pathlib import Path

from lvscore.addresses import Address
from lvscore.errors import InterfaceError
from lvscore.io import bpf

__all__ = ["Shield"]


class Shield:
    """The programs on some interfaces, and the addresses that are not the kernel's meanwhile.

    Args:
        interfaces: their names.

    Raises:
        InterfaceError: no permission, a kernel older than 6.6, or one that forwards packets of
            the interface, as the director does.
    """

    def __init__(self, interfaces: Iterable[str]) -> None:
        self._there: frozenset[Address] = frozenset()
        with contextlib.ExitStack() as opened:
            name = ""
            try:
                self._addresses = bpf.make_address_map()
                opened.callback(os.close, self._addresses)
                program = bpf.load_drop(self._addresses)
                opened.callback(os.close, program)
                for name in interfaces:
                    _refuse_forwarding(name)
                    place = bpf.attach_ingress(program, socket.if_nametoindex(name))
                    opened.callback(os.close, place)
            except InterfaceError:
                raise
            except OSError as error:
                raise InterfaceError(error.errno, _reason(error), name or None) from None
            self._opened = opened.pop_all()

    def set(self, addresses: Iterable[Address]) -> None:
        """Let it be about these addresses."""
        wanted = frozenset(addresses)
        for address in wanted - self._there:
            bpf.put_address(self._addresses, address.packed)
        for address in self._there - wanted:
            bpf.remove_address(self._addresses, address.packed)
        self._there = wanted

    def close(self) -> None:
        """Let the kernel have its packets again."""
        self._opened.close()


def _refuse_forwarding(name: str) -> None:
    for version in ("ipv4", "ipv6"):
        path = Path("/proc/sys/net", version, "conf", name, "forwarding")
        if path.exists() and path.read_text().strip() == "1":
            raise InterfaceError(
                98, "the kernel forwards its packets, as the director does: set "
                f"net.{version}.conf.{name}.forwarding to 0", name,
            )  # fmt: skip


def _reason(error: OSError) -> str:
    if error.errno == 1:
        return "keeping the kernel from its addresses needs root, or CAP_BPF and CAP_NET_ADMIN"
    if error.errno == 22:
        return "keeping the kernel from its addresses needs Linux 6.6 or later"
    return error.strerror or str(error)
