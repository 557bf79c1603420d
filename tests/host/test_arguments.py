"""What a Host is given: frames of any length, and what is of another kind."""

import pytest
from lab import ROUTER, director, frame, request

import lvscore


@pytest.mark.parametrize("interface", ["cli", "tun"])
def test_frames_of_any_length(interface):
    """Nothing that comes in raises: not an empty frame, nor one that ends in its link header."""
    host = director()
    host.add_interface("tun", addresses=["192.0.2.3/24"])
    host.set_peer("tun", ROUTER)
    whole = frame(request())
    for length in range(len(whole)):
        for data in (whole[:length], bytes(length), b"\xff" * length):
            host.receive(interface, data, 1)
            batch = lvscore.FrameBatch.of([data, whole, data])
            assert len(list(host.receive_batch(interface, batch, 1))) >= 1
            list(host.forward_batch(host.number(interface), batch, 1, {}))
    assert host.engine.reasons[lvscore.Reason.TRUNCATED_LINK_HEADER] > 0


@pytest.mark.parametrize("now", [1.5, "1", None])
def test_a_time_that_is_no_integer(now):
    host = director()
    batch = lvscore.FrameBatch.of([frame(request())])
    for call in (
        lambda: host.receive("cli", frame(request()), now),
        lambda: host.receive_batch("cli", batch, now),
        lambda: host.forward_batch(host.number("cli"), batch, now, {}),
        lambda: host.advance(now),
    ):
        with pytest.raises(lvscore.ConfigError, match="is not an integer, in nanoseconds"):
            call()
    assert host.engine.counters["frames"] == 0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda host: host.add_interface(None), "an interface None: expected a name"),
        (lambda host: host.add_interface(""), "an interface '': expected a name"),
        (lambda host: host.add_interface("a", addresses="10.0.0.1/24"), "expected a list"),
        (lambda host: host.add_interface("a", mac="zz"), "mac='zz' .* '02:00:00:00:00:01'"),
        (lambda host: host.add_interface("a", mtu=1500.0), "mtu=1500.0 is not in"),
        (lambda host: host.add_route("default", via="172.16.0.3"), "own address"),
        (lambda host: host.engine.helpers.add("ftp", ports=21), "ports=21: expected a list"),
        (lambda host: host.engine.set_timeouts(tcp=1.5), "timeout tcp=1.5 is not in"),
        (lambda host: host.engine.set_timeouts(udp=0), "timeout udp=0 is not in"),
        (lambda host: setattr(host.engine, "timer_wheel", 250), "expected a TimerWheel"),
        (lambda host: host.engine.prefault("x"), "'x' connections: expected"),
    ],
)
def test_arguments_of_the_wrong_kind(call, said):
    host = director()
    before = host.interfaces, host.routes, host.engine.timeouts
    with pytest.raises(lvscore.ConfigError, match=said):
        call(host)
    assert (host.interfaces, host.routes, host.engine.timeouts) == before


def test_a_frame_is_bytes():
    for wrong in (5, "text", None):  # bytearray(5) would be five zeros
        with pytest.raises(TypeError, match="bytes-like"):
            director().receive("cli", wrong, 1)
    assert director().receive("cli", memoryview(frame(request())), 1)[0][0] == "srv"
