"""An engine's memory, of which the garbage collector knows nothing, goes with the engine."""

import gc
import weakref

import lvscore


def test_an_engine_that_nobody_needs_goes_at_once():
    engine = lvscore.Engine(seed=1)
    engine.routes.add_interface("eth0", ["10.0.0.1/24"])
    engine.add_service("tcp", "10.0.0.1:80").add_server("10.0.0.2:80")
    list(engine.port_pools)
    there = weakref.ref(engine)
    gc.disable()
    try:
        del engine
        assert there() is None
    finally:
        gc.enable()
