"""server.pxd: thresholds, the weight that is remembered, and what a server carries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvscore._probe_server import Server

STEPS = st.lists(
    st.sampled_from(["bind", "activate", "end active", "end inactive", "set", "template", "gone"]),
    max_size=60,
)
LIMITS = st.integers(0, 6)


def step(server, name, tick, limits):
    """Take a step if the server can; whether its load or its thresholds changed."""
    active, inactive, persistent = server.carried
    if name == "bind":
        server.bind()
    elif name == "template":
        server.bind_template()
    elif name == "set":
        server.set(1, *limits)
    elif name == "activate" and inactive:
        server.activate()
        return False  # a change of state alone is no reason to judge
    elif name == "end active" and active:
        server.unbind(False, tick)
    elif name == "end inactive" and inactive:
        server.unbind(True, tick)
    elif name == "gone" and persistent:
        server.unbind_template(tick)
    else:
        return False
    return True


@given(STEPS, LIMITS, LIMITS, st.lists(st.tuples(LIMITS, LIMITS), min_size=60, max_size=60))
def test_overload_follows_the_load(steps, upper, lower, edits):
    """Full at the upper threshold; open again below the lower, or below three quarters."""
    server = Server(1, upper, lower)
    overloaded = server.overloaded
    for tick, (name, limits) in enumerate(zip(steps, edits, strict=False)):
        changed = step(server, name, tick, limits)
        if changed and name == "set":
            upper, lower = limits
        active, inactive, _ = server.carried
        total = active + inactive
        assert server.overhead == 256 * active + inactive
        if changed:
            if upper and total >= upper:
                overloaded = True
            elif total < lower if lower else not upper or total < 0.75 * upper:
                overloaded = False
        assert server.overloaded == overloaded, (tick, name)
        assert server.usable == (not overloaded)


def test_a_new_server_is_idle_and_open():
    server = Server(3, upper=2, lower=1)
    assert (server.carried, server.overhead, server.usable) == ((0, 0, 0), 0, True)


@pytest.mark.parametrize("weight", [0, -1])
def test_without_weight_it_is_not_usable(weight):
    assert not Server(weight).usable


def test_the_weight_before_0_is_remembered():
    server = Server(0)
    assert server.last_weight == 0
    for weight, remembered in [(7, 7), (0, 7), (2, 2), (0, 2)]:
        server.set(weight)
        assert (server.last_weight, server.usable) == (remembered, weight > 0)


def test_idle_since_the_latest_end():
    server = Server()
    server.bind()
    server.bind()
    server.bind_template()
    for tick, end in enumerate([lambda t: server.unbind(True, t), server.unbind_template], 40):
        end(tick)
        assert server.idle_since == tick
    assert server.carried == (0, 1, 0)
