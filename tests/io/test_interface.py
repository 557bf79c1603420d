"""Which backend "auto" takes; tests/live has the interfaces themselves."""

import errno

import pytest

import lvscore
from lvscore.io import interface


class Socket:
    """Stands for a packet socket, which needs root."""

    refuses: int | None = None

    def __init__(self, name, backend, mode="latency", share=None):
        if backend == "ring" and self.refuses is not None:
            raise lvscore.InterfaceError(self.refuses, "no ring")
        self.backend, self.mode = backend, mode


@pytest.mark.parametrize(
    ("refuses", "backend"),
    [(None, "ring"), (errno.ENOMEM, "copy"), (errno.EINVAL, "copy"), (errno.ENOPROTOOPT, "copy")],
)
def test_auto_takes_the_ring_where_there_is_one(monkeypatch, refuses, backend):
    monkeypatch.setattr(interface, "PacketInterface", Socket)
    monkeypatch.setattr(Socket, "refuses", refuses)
    assert lvscore.open_interface("eth1").backend == backend


def test_an_interface_that_is_not_there_is_not_up():
    assert interface.interface_is_up("lo")
    for name in ("nosuch0", "x" * 40, "a\0b"):
        assert not interface.interface_is_up(name)


def test_auto_hides_no_other_refusal(monkeypatch):
    monkeypatch.setattr(interface, "PacketInterface", Socket)
    monkeypatch.setattr(Socket, "refuses", errno.EPERM)
    with pytest.raises(lvscore.InterfaceError):
        lvscore.open_interface("eth1")
