"""Every engine test ends with a look at the memory of the engines that it made."""

import weakref

import pytest

import lvscore


@pytest.fixture(autouse=True)
def checked_engines(monkeypatch):
    """Also those that go before the test ends: a long history makes thousands of them, and the
    system does not have address space for all at once."""
    engines = weakref.WeakSet()
    faults = []
    original = lvscore.Engine.__init__

    def remember(self, *args, **kwargs):
        original(self, *args, **kwargs)
        engines.add(self)

    def check(self):
        if self in engines:
            faults.append(self._selfcheck())

    monkeypatch.setattr(lvscore.Engine, "__init__", remember)
    monkeypatch.setattr(lvscore.Engine, "__del__", check, raising=False)
    yield
    for engine in list(engines):
        faults.append(engine._selfcheck())
    assert not any(faults)
