"""Whole numbers in text: what C's programs read, wherever lvscore reads one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lvscore
from lvscore import addresses
from lvscore.errors import AddressError, CommandError, ConfigError
from lvscore.integers import parse_decimal, parse_unsigned
from lvscore.io import vlan
from lvscore.ipvsadm.values import parse_number

# Arabic, superscript, full width; what int() takes besides; more digits than it takes.
WRONG = ["\u0662", "\u00b2", "\uff12", "2_2", " 2", "2\u00a0", "+2", "2.", "", "2" * 5000]


@given(st.integers(0, 2**70), st.integers(0, 2**70))
def test_numbers_in_decimal(number, high):
    found = number if number <= high else None
    assert parse_decimal(str(number), 0, high) == found
    assert parse_decimal(f"00{number}", 0, high) == found
    assert parse_unsigned(str(number), high) == found
    assert parse_unsigned(f"{number:#x}", high) == found
    assert parse_unsigned(f"0X{number:X}", high) == found
    assert parse_unsigned(f"0{number:o}", high) == found


@given(st.text(max_size=4))
def test_what_is_no_number(text):
    is_one = text != "" and set(text) <= set("0123456789")
    assert (parse_decimal(text, 0, 10**4) is not None) == is_one


@pytest.mark.parametrize("text", WRONG)
def test_what_int_would_take(text):
    assert parse_decimal(text, 0, 10**9) is None
    assert parse_unsigned(text, 10**9) is None


@pytest.mark.parametrize("text", ["08", "0x", "0xg", "0o7", "0b1", "-1", "0x1_0", "0x0x1"])
def test_what_strtoul_would_not_take_whole(text):
    assert parse_unsigned(text, 2**64) is None


def test_numbers_of_ipvsadm():
    assert [parse_number(text, -5, 80) for text in ("80", " \t80", "+7", "-5", "081")] == [
        80, 80, 7, -5, None]  # fmt: skip
    for text in ("-6", "+-5", "--5", "\u00a05", "5 ", *set(WRONG) - {" 2", "+2"}):
        assert parse_number(text, -5, 80) is None


def of_engine(line):
    """A reader of one number within a command line."""
    program, _, words = line.partition(" ")
    return lambda text: getattr(lvscore.Engine(), program)(words.replace("@", text))


def netmask(text):
    return lvscore.Engine().add_service("tcp", "172.16.1.100:80", netmask=text)


@pytest.mark.parametrize("text", ["\u0662", "\u00b2", "\uff12", "2_2", "2" * 5000])
@pytest.mark.parametrize(
    ("error", "read"),
    [
        (AddressError, addresses.parse_protocol),
        (AddressError, addresses.parse_port),
        (AddressError, addresses.parse_ports),
        (AddressError, lambda text: addresses.parse_network(f"10.0.0.0/{text}")),
        (ConfigError, netmask),
        *(
            (CommandError, of_engine(line))
            for line in (
                "conntrack -L -s 10.0.0.0/@",
                "conntrack -L -p @",
                "conntrack -L -m @",
                "conntrack -L -n 10.0.0.1:@",
                "iptables -t nat -A POSTROUTING -p @ -j ACCEPT",
                "iptables -t nat -A POSTROUTING -p tcp --dport @ -j ACCEPT",
                "iptables -t mangle -A PREROUTING -m mark --mark @ -j MARK --set-mark 1",
                "iptables -t nat -L POSTROUTING @",
                "ipvsadm -A -t 172.16.1.100:@",
                "ipvsadm -A -f @",
                "nft add table t; add chain t c { type nat hook prerouting priority @; }",
                "nft add table t; add chain t c; add rule t c tcp dport @ accept",
                "nft add table t; add chain t c; add rule t c meta mark @ accept",
                "nft add table t; add chain t c; add rule t c ip protocol @ accept",
            )
        ),
    ],
)
def test_who_reads_numbers(error, read, text):
    with pytest.raises(error) as raised:
        read(text)
    assert error is CommandError or text in str(raised.value)


def test_numbers_as_c_reads_them():
    engine = lvscore.Engine()
    engine.iptables("-t mangle -A PREROUTING -m mark --mark 010/0x1f -j MARK --set-mark 0X10")
    (rule,) = engine.rules
    assert (rule.mark, rule.set_mark) == ((8, 31), (16, 0xFFFFFFFF))


@pytest.mark.parametrize("value", [3, True, b"\x0a\0\0\1", None, 80.0])
def test_what_is_no_text(value):
    with pytest.raises(AddressError, match="expected a prefix"):
        addresses.parse_network(value)
    if not isinstance(value, int):
        with pytest.raises(AddressError, match=r"is not in 0\.\.65535"):
            addresses.parse_port(value)


@pytest.mark.parametrize(
    "mac", ["02 00 00 00 00 01", "02:0:00:00:00:001", "\uff10" * 12, "02::00", 6, None]
)
def test_link_addresses(mac):
    host = lvscore.Host(lvscore.Engine())
    with pytest.raises(ConfigError, match="is not the link address"):
        host.add_interface("eth0", addresses=["10.0.0.1/24"], mac=mac)


def test_the_number_of_a_vlan(monkeypatch):
    monkeypatch.setattr(vlan.socket, "if_nameindex", lambda: [(1, "eth1")])
    assert vlan.port_of("eth1.10") == ("eth1", 10)
    for name in ("eth1.\uff11\uff10", "eth1.1_0", "eth1.4095", "eth1.0"):
        assert vlan.port_of(name) == (name, 0)
