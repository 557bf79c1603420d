"""The rate estimator: what listings show, and when (ip_vs_est.c)."""

import pytest
from packets import CLIENT, RS1, SECOND, VIP, tcp, udp

import lvscore
from lvscore.model import Rate, Statistics


@pytest.fixture
def engine():
    engine = lvscore.Engine(seed=1)
    dns = engine.add_service("udp", f"{VIP}:53", scheduler="rr")
    dns.add_server(f"{RS1}:53")
    engine.expire(0)
    return engine


def send(engine, port, now, length=28):
    """One datagram of this length from a client's port."""
    frame = udp(CLIENT, port, VIP, 53, payload=bytes(length - 28))
    assert engine.process(frame, now) == lvscore.Verdict.FORWARD


def everything(engine):
    (service,) = engine.services
    (server,) = service.servers
    return server, service, engine


def test_the_published_sequence(engine):
    """100 connections and 100,000 bytes in each 2 s: figures worked out from the rule."""
    shown = []
    for step in range(10):
        for n in range(100):
            send(engine, 1000 + 100 * step + n, (2 * step + 1) * SECOND, 1000)
        engine.expire((2 * step + 2) * SECOND)
        shown.append(engine.rate)
    assert [rate.cps for rate in shown] == [12, 22, 29, 34, 38, 41, 43, 45, 46, 47]
    assert [rate.inpps for rate in shown] == [12, 22, 29, 34, 38, 41, 43, 45, 46, 47]
    assert [rate.inbps for rate in shown[:6]] == [12500, 21875, 28906, 34180, 38135, 41101]
    assert all(rate.outpps == rate.outbps == 0 for rate in shown)
    assert len({one.rate for one in everything(engine)}) == 1


def test_listings_are_as_of_the_latest_estimation(engine):
    send(engine, 1000, SECOND)
    nothing, one = Statistics(), Statistics(1, 1, 0, 28, 0)
    for of in everything(engine):
        assert (of.statistics, of.listed_statistics, of.rate) == (one, nothing, Rate())
    engine.expire(2 * SECOND - 1)
    assert engine.listed_statistics == nothing
    engine.expire(2 * SECOND)
    for of in everything(engine):
        assert (of.listed_statistics, of.rate) == (one, Rate(0, 0, 0, 3, 0))


def test_the_packet_that_brings_the_time_is_not_yet_counted(engine):
    send(engine, 1000, SECOND)
    send(engine, 1001, 3 * SECOND)
    assert engine.listed_statistics.connections == 1
    assert engine.statistics.connections == 2


@pytest.mark.parametrize("steps", [[9], [2, 9], [2, 4, 6, 8], [3, 5, 7, 9]])
def test_many_at_once_are_as_one_by_one(engine, steps):
    for port in range(1000, 1200):
        send(engine, port, SECOND)
    for step in steps:
        engine.expire(step * SECOND)
    # A quarter of 100 a second, and three times a quarter less; in the scale of 2**10.
    assert engine.rate.cps == (25600 - 6400 - 4800 - 3600 + 511) >> 10


def test_an_average_ends_at_nothing(engine):
    send(engine, 1000, SECOND)
    engine.expire(10**9 * SECOND)
    assert engine.rate == Rate()
    assert engine.listed_statistics.connections == 1


def test_run_estimation(engine):
    assert "net.ipv4.vs.run_estimation" in engine.sysctl
    assert "net.ipv4.vs.run" not in engine.sysctl
    engine.sysctl["net.ipv4.vs.run_estimation"] = 0
    send(engine, 1000, SECOND)
    engine.expire(9 * SECOND)
    assert engine.listed_statistics == Statistics()
    engine.sysctl["net.ipv4.vs.run_estimation"] = 1
    engine.expire(10 * SECOND)
    assert engine.listed_statistics.connections == 1


def test_zero(engine):
    server, service, _ = everything(engine)
    send(engine, 1000, SECOND)
    engine.expire(2 * SECOND)
    send(engine, 1001, 3 * SECOND)
    service.zero_statistics()
    assert service.listed_statistics == server.listed_statistics == Statistics()
    assert service.rate == server.rate == Rate()
    assert engine.listed_statistics.connections == 1  # the totals are not the service's
    engine.expire(4 * SECOND)
    # Zero is what was listed: what came after the estimation is listed with the next one.
    assert service.listed_statistics == server.listed_statistics == Statistics(1, 1, 0, 28, 0)
    assert service.statistics.connections == 2
    engine.zero_statistics()
    for of in everything(engine):
        assert (of.listed_statistics, of.rate) == (Statistics(), Rate())


def test_a_server_that_comes_back_goes_on(engine):
    server, service, _ = everything(engine)
    send(engine, 1000, SECOND)
    engine.expire(2 * SECOND)
    server.remove()
    engine.expire(4 * SECOND)
    back = service.add_server(f"{RS1}:53")
    assert back.listed_statistics.connections == 1
    assert service.listed_statistics.connections == 1


def test_a_server_of_a_new_service_begins_anew(engine):
    """Its counters are zeroed at what was listed, as the kernel's are."""
    send(engine, 1000, SECOND)
    engine.expire(2 * SECOND)
    send(engine, 1001, 3 * SECOND)
    engine.clear_services()
    service = engine.add_service("udp", f"{VIP}:53", scheduler="rr")
    server = service.add_server(f"{RS1}:53")
    assert server.listed_statistics == server.statistics == Statistics()
    send(engine, 1002, 3 * SECOND)
    engine.expire(4 * SECOND)
    assert server.statistics.connections == 1
    assert server.listed_statistics.connections == 2
    assert service.listed_statistics.connections == 1
    assert engine.listed_statistics.connections == 3


def test_explaining_has_no_effect(engine):
    send(engine, 1000, SECOND)
    engine.explain(tcp(CLIENT, 1, VIP, 80), 9 * SECOND)
    assert engine.listed_statistics == Statistics()
