"""Every engine test ends with a look at the engine's own memory."""

import pytest

import lvscore


@pytest.fixture(autouse=True)
def checked_engines(monkeypatch):
    engines = []
    original = lvscore.Engine.__init__

    def remember(self, *args, **kwargs):
        original(self, *args, **kwargs)
        engines.append(self)

    monkeypatch.setattr(lvscore.Engine, "__init__", remember)
    yield engines
    for engine in engines:
        assert engine._selfcheck() == 0
