"""The layout of ipvsadm's listings."""

from types import SimpleNamespace

import pytest

from lvscore import ipvsadm
from lvscore.addresses import Endpoint, parse_endpoint
from lvscore.engine import Engine
from lvscore.ipvsadm import listing
from lvscore.model import Rate, Statistics


@pytest.fixture
def lab():
    """The director of the LVS-NAT lab."""
    engine = Engine(seed=0)
    web = engine.add_service("tcp", "172.16.1.100:80", scheduler="rr")
    web.add_server("172.16.1.7:80")
    web.add_server("172.16.1.8:8080", weight=65535)
    return engine


def test_table(lab):
    assert ipvsadm.run(lab, "ipvsadm -L -n") == (
        "IP Virtual Server version 1.2.1 (size=4096)\n"
        "Prot LocalAddress:Port Scheduler Flags\n"
        "  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n"
        "TCP  172.16.1.100:80 rr\n"
        "  -> 172.16.1.7:80                Masq    1      0          0         \n"
        "  -> 172.16.1.8:8080              Masq    65535  0          0         \n"
    )


def test_no_words_is_a_listing_with_names(lab, monkeypatch):
    monkeypatch.setattr("socket.getservbyport", lambda port, name: f"{name}-{port}")
    text = ipvsadm.run(lab, "")
    assert "TCP  172.16.1.100:tcp-80 rr\n" in text
    assert "  -> 172.16.1.7:tcp-80            Masq    1 " in text


def test_one_service_has_no_version_line(lab):
    text = ipvsadm.run(lab, "-Ln -t 172.16.1.100:80")
    assert text.startswith("Prot LocalAddress:Port Scheduler Flags\n")
    assert "172.16.1.7:80" in text


def test_the_order_of_adding(lab):
    text = ipvsadm.run(lab, "-Ln --nosort")
    assert text.index("172.16.1.8:8080") < text.index("172.16.1.7:80")


@pytest.mark.parametrize(
    ("number", "shown", "exact"),
    [
        (0, "        0", "        0"),
        (99999999, " 99999999", " 99999999"),
        (100035000, "  100035K", " 100035000"),
        (999999999, "  999999K", " 999999999"),
        (1000000000, "    1000M", " 1000000000"),
        (99999999999, "   99999M", " 99999999999"),
        (100000000000, "     100G", " 100000000000"),
        (100000000000000, "     100T", " 100000000000000"),
    ],
)
def test_large_numbers(number, shown, exact):
    assert listing.format_count(number) == shown
    assert listing.format_count(number, exact=True) == exact


def test_rows_are_sorted_by_a_32_bit_difference():
    engine = Engine(seed=0)
    for address in ("9.9.9.9", "10.0.0.1", "172.16.1.1", "[2001:db8::1]"):
        engine.add_service("tcp", f"{address}:80")
    engine.add_service("udp", "172.16.1.1:53")
    engine.add_service("tcp", "172.16.1.1:8")
    engine.add_service("tcp", "[fd00::1]:80")
    engine.add_service("tcp", "[2001:db8::1]:8")
    for mark in (2**32 - 1, 1, 2**31 - 1):
        engine.add_fwmark_service(mark, family=4)
    engine.add_fwmark_service(1, family=6)
    assert [str(service) for service in listing.sorted_services(engine.services)] == [
        "fwmark 4294967295",
        "tcp 172.16.1.1:8",
        "tcp 172.16.1.1:80",
        "tcp 9.9.9.9:80",
        "tcp 10.0.0.1:80",
        "udp 172.16.1.1:53",
        "tcp [fd00::1]:80",
        "tcp [2001:db8::1]:8",
        "tcp [2001:db8::1]:80",
        "fwmark 1",
        "fwmark 1 IPv6",
        "fwmark 2147483647",
    ]


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("10 100 172", "10 100 172"),
        ("10 172 100", "10 100 172"),
        ("100 10 172", "100 172 10"),
        ("100 172 10", "100 172 10"),
        ("172 10 100", "172 10 100"),
        ("172 100 10", "172 10 100"),
    ],
)
def test_addresses_in_a_circle(first, then):
    """10 < 100 < 172 < 10: what is first in the kernel's list stays it, as ipvsadm 1.31 showed."""
    engine = Engine(seed=0)
    service = engine.add_service("tcp", "1.1.1.1:80")
    for number in reversed(first.split()):
        service.add_server(f"{number}.0.0.1:80")
    shown = [str(server.address) for server in listing.sorted_servers(service.servers)]
    assert shown == [f"{number}.0.0.1" for number in then.split()]


def test_servers_of_both_families_are_sorted_by_the_first_word():
    engine = Engine(seed=0)
    service = engine.add_service("tcp", "1.1.1.1:80")
    for address in ("9.9.9.9:80", "[1:2::3]:80", "[2001:db8::1]:80"):
        service.add_server(address, method="tunnel")
    shown = [str(server.address) for server in listing.sorted_servers(service.servers)]
    assert shown == ["1:2::3", "9.9.9.9", "2001:db8::1"]


def test_a_flag_that_its_scheduler_has_no_name_for():
    engine = Engine(seed=0)
    engine.ipvsadm("-A -t 1.2.3.4:80 -s sh -b flag-3,sh-port")
    engine.ipvsadm("-A -t 1.2.3.4:81 -s mh -b flag-3")
    assert "TCP  1.2.3.4:80 sh (sh-port)\nTCP  1.2.3.4:81 mh ()\n" in engine.ipvsadm("-Ln")
    assert ipvsadm.save(engine).splitlines() == [
        "-A -t 1.2.3.4:80 -s sh -b sh-port",
        "-A -t 1.2.3.4:81 -s mh -b ",
    ]


def test_statistics():
    """The counters of a recorded table."""
    numbers = Statistics(2, 7, 4, 1280, 1560)
    server = SimpleNamespace(
        endpoint=parse_endpoint("172.16.1.7:80"),
        address=parse_endpoint("172.16.1.7:80").address,
        listed_statistics=Statistics(1, 3, 2, 1120, 1480),
        rate=Rate(100000001, 1, 2, 100000001, 3),
        active=1,
        inactive=0,
    )
    service = SimpleNamespace(
        protocol="tcp",
        family=4,
        endpoint=parse_endpoint("172.16.1.100:80"),
        listed_statistics=numbers,
        rate=Rate(100000001, 1, 2, 100000001, 3),
        servers=[server],
    )
    server.service = service
    engine = SimpleNamespace(services=[service])
    assert listing.format_listing(engine, columns="stats").splitlines()[1:] == [
        "Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes",
        "  -> RemoteAddress:Port",
        "TCP  172.16.1.100:80                     2        7        4     1280     1560",
        "  -> 172.16.1.7:80                       1        3        2     1120     1480",
    ]
    # A server's connections and packets are never cut (print_service_entry).
    assert listing.format_listing(engine, columns="rate").splitlines()[1:] == [
        "Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS",
        "  -> RemoteAddress:Port",
        "TCP  172.16.1.100:80               100000K        1        2  100000K        3",
        "  -> 172.16.1.7:80                100000001        1        2  100000K        3",
    ]


def connection(protocol, state, client, virtual, server, seconds, kind="service"):
    return SimpleNamespace(
        protocol=protocol,
        state=state,
        client=parse_endpoint(client),
        virtual=parse_endpoint(virtual),
        server=parse_endpoint(server),
        expires_ns=int(seconds * 10**9),
        kind=kind,
    )


def test_connections():
    engine = SimpleNamespace(
        connections=[
            connection("tcp", "TIME_WAIT", "10.0.0.1:40001", "172.16.1.100:80",
                       "172.16.1.8:8080", 92.7),
            connection("tcp", "ESTABLISHED", "[2001:db8:a::1]:40003", "[2001:db8::1]:80",
                       "[2001:db8:1::8]:8080", 872),
            connection("udp", "UDP", "10.0.0.1:4", "172.16.1.100:53", "172.16.1.8:53", 7000),
            connection("tcp", "ESTABLISHED", "10.0.0.1:5", "1.1.1.1:1", "2.2.2.2:2", 1, "rule"),
        ],
        templates=[
            connection("tcp", "ASSURED", "10.0.0.0:0", "172.16.1.101:443", "172.16.1.7:443", 572),
            connection("ip", "NONE", "10.0.0.1:0", "0.0.0.7:0", "172.16.1.8:0", 299, "template"),
        ],
    )  # fmt: skip
    assert listing.format_connections(engine) == (
        "IPVS connection entries\n"
        "pro expire state       source             virtual            destination\n"
        "TCP 01:32  TIME_WAIT   10.0.0.1:40001     172.16.1.100:80    172.16.1.8:8080\n"
        "TCP 14:32  ESTABLISHED [2001:db8:a::1]:40003 [2001:db8::1]:80   [2001:db8:1::8]:8080\n"
        "UDP 116:40 UDP         10.0.0.1:4         172.16.1.100:53    172.16.1.8:53\n"
        "TCP 09:32  ASSURED     10.0.0.0:0         172.16.1.101:443   172.16.1.7:443\n"
        "IP  04:59  NONE        10.0.0.1:0         0.0.0.7:0          172.16.1.8:0\n"
    )


def test_mapped_addresses_are_shown_with_dots():
    engine = Engine(seed=0)
    ipvsadm.run(engine, ["-A", "-t", "[::ffff:1.2.3.4]:80"])
    assert "TCP  [::ffff:1.2.3.4]:80 wlc\n" in ipvsadm.run(engine, "-Ln")
    assert isinstance(engine.services[0].endpoint, Endpoint)
