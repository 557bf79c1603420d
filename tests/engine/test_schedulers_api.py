"""Schedulers, their flags and thresholds, as the API and ipvsadm offer them."""

import packets
import pytest

from lvscore import (
    SCHEDULER_FLAGS,
    SCHEDULERS,
    ConfigError,
    Engine,
    LimitError,
    Reason,
    Verdict,
)
from lvscore.errors import CommandError

VIP = "172.16.1.100:80"


@pytest.fixture
def engine():
    return Engine(seed=1)


def syn(port, client="10.0.0.1"):
    return packets.tcp(client, port, "172.16.1.100", 80)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_is_listed_saved_and_restored(engine, name):
    engine.ipvsadm(f"-A -t {VIP} -s {name}")
    engine.ipvsadm(f"-a -t {VIP} -r 172.16.1.7 -m")
    (service,) = engine.services
    assert service.scheduler == name
    assert f"TCP  {VIP} {name}\n" in engine.ipvsadm("-Ln")
    assert f"-A -t {VIP} -s {name}\n" in engine.ipvsadm("-Sn")
    expected = Verdict.DROP if name == "none" else Verdict.FORWARD
    assert engine.process(syn(1000), 0) == expected
    assert engine.explain(syn(1001)).verdict == expected


@pytest.mark.parametrize("name", SCHEDULER_FLAGS)
def test_flags(engine, name):
    service = engine.add_service("tcp", VIP, scheduler=name, scheduler_flags=(f"{name}-port",))
    assert service.scheduler_flags == (f"{name}-port",)
    engine.ipvsadm(f"-E -t {VIP} -s {name} -b {name}-port,{name}-fallback")
    assert service.scheduler_flags == (f"{name}-fallback", f"{name}-port")
    assert f"{name} ({name}-fallback,{name}-port)\n" in engine.ipvsadm("-Ln")
    assert f"-s {name} -b {name}-fallback,{name}-port\n" in engine.ipvsadm("-Sn")
    service.edit(scheduler="rr")
    assert service.scheduler_flags == ()


def test_flags_belong_to_their_scheduler(engine):
    with pytest.raises(ConfigError, match="unknown flag 'sh-port' of scheduler mh: expected one"):
        engine.add_service("tcp", VIP, scheduler="mh", scheduler_flags=("sh-port",))
    with pytest.raises(CommandError, match="incompatible scheduler flag `mh-port'"):
        engine.ipvsadm(f"-A -t {VIP} -s sh -b mh-port")


def test_thresholds_in_the_api(engine):
    service = engine.add_service("tcp", VIP)
    server = service.add_server("172.16.1.7", upper_threshold=2, lower_threshold=1)
    assert (server.upper_threshold, server.lower_threshold, server.overloaded) == (2, 1, False)
    for port in (1000, 1001):
        assert engine.process(syn(port), 0) == Verdict.FORWARD
    assert server.overloaded
    assert engine.process(syn(1002), 0) == Verdict.DROP
    assert engine.last_reason == Reason.NO_REAL_SERVER
    service.edit_server("172.16.1.7", weight=3)
    assert (server.weight, server.upper_threshold, server.overloaded) == (3, 2, True)
    server.edit(upper_threshold=5, lower_threshold=0)
    assert not server.overloaded
    engine.expire(60_000_000_000)
    assert (server.active, server.overloaded) == (0, False)


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ({"lower_threshold": 1}, "lower_threshold 1 is greater than upper_threshold 0"),
        ({"upper_threshold": -1}, "upper_threshold -1 is not in 0..2147483647"),
        ({"upper_threshold": 2**31}, "upper_threshold 2147483648 is not in"),
        ({"upper_threshold": 2, "lower_threshold": "1"}, "lower_threshold '1' is not in"),
        ({"weight": True}, "weight True is not in"),
    ],
)
def test_refused_values_change_nothing(engine, thresholds, message):
    service = engine.add_service("tcp", VIP)
    with pytest.raises(ConfigError, match=message):
        service.add_server("172.16.1.7", **thresholds)
    assert service.servers == []
    server = service.add_server("172.16.1.7")
    with pytest.raises(ConfigError, match=message):
        server.edit(**thresholds)
    assert (server.weight, server.upper_threshold, server.lower_threshold) == (1, 0, 0)


def test_thresholds_in_ipvsadm(engine):
    engine.ipvsadm(f"-A -t {VIP}")
    engine.ipvsadm(f"-a -t {VIP} -r 172.16.1.7 -m -x 20 -y 5")
    assert "  -> 172.16.1.7:80                20         5          0          0         \n" in (
        engine.ipvsadm("-Ln --thresholds")
    )
    for command in ("-e", "-a"):
        with pytest.raises(CommandError, match="Numerical result out of range") as caught:
            engine.ipvsadm(f"{command} -t {VIP} -r 172.16.1.7 -m -x 5 -y 6")
        assert caught.value.status == 255
    engine.ipvsadm(f"-e -t {VIP} -r 172.16.1.7 -m")  # without -x there is none
    (server,) = engine.services[0].servers
    assert (server.upper_threshold, server.lower_threshold) == (0, 0)


def test_a_full_server_stays_full_through_the_trash(engine):
    service = engine.add_service("tcp", VIP)
    service.add_server("172.16.1.7", upper_threshold=4)
    for port in range(4):
        engine.process(syn(1000 + port), 0)
    service.remove_server("172.16.1.7")
    server = service.add_server("172.16.1.7", upper_threshold=5)
    assert (server.active, server.overloaded) == (4, True)  # not below three quarters


def test_a_connection_that_begins_anew_counts_while_its_server_is_chosen(engine):
    service = engine.add_service("tcp", VIP)
    server = service.add_server("172.16.1.7", upper_threshold=1)
    engine.process(syn(1000), 0)
    reset = packets.tcp("172.16.1.7", 80, "10.0.0.1", 1000, flags="R")
    assert engine.process(reset, 0) == Verdict.FORWARD
    assert engine.process(syn(1000), 1) == Verdict.DROP
    assert len(engine.connections) == 0
    assert not server.overloaded
    assert engine.process(syn(1000), 2) == Verdict.FORWARD


def test_explaining_changes_no_scheduler(engine):
    for name in ("twos", "lblc", "lblcr", "wrr", "mh"):
        service = engine.add_service("tcp", VIP, scheduler=name)
        for last in (7, 8, 9):
            service.add_server(f"172.16.1.{last}", weight=last)
        picks = [engine.explain(syn(port), 0).frame[30:34] for port in (1000, 1000, 1000)]
        frame = syn(1000)
        engine.process(frame, 0)
        assert picks == [frame[30:34]] * 3
        service.remove()
        engine.expire(engine.now + 10**12)


def test_mh_is_bounded_by_its_table(engine):
    service = engine.add_service("tcp", VIP, scheduler="rr")
    for number in range(4094):
        service.add_server(f"10.1.{number // 250}.{1 + number % 250}")
    with pytest.raises(LimitError, match="4094 real servers; the scheduler mh has at most 4093"):
        service.edit(scheduler="mh")
    service.remove_server("10.1.0.1")
    service.edit(scheduler="mh")
    with pytest.raises(LimitError, match="the scheduler mh has at most 4093"):
        service.add_server("10.1.0.1")
