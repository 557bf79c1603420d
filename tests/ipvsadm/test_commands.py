"""Commands on an engine: what they do, what is refused, and that a refusal changes nothing."""

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvscore import ipvsadm
from lvscore.engine import Engine
from lvscore.errors import CommandError
from lvscore.ipvsadm import grammar


def refusal(engine, command):
    before = ipvsadm.save(engine), engine.timeouts
    with pytest.raises(CommandError) as caught:
        ipvsadm.run(engine, command)
    assert (ipvsadm.save(engine), engine.timeouts) == before
    return str(caught.value), caught.value.status


def test_the_lab_of_the_tutorial():
    engine = Engine(seed=0)
    for line in (
        "ipvsadm -A -t 172.16.1.100:80 -s rr",
        "ipvsadm -a -t 172.16.1.100:80 -r 172.16.1.7 -m",
        "ipvsadm -a -t 172.16.1.100:80 -r 172.16.1.8:80 -m",
    ):
        assert ipvsadm.run(engine, line) == ""
    assert ipvsadm.run(engine, "-S -n") == (
        "-A -t 172.16.1.100:80 -s rr\n"
        "-a -t 172.16.1.100:80 -r 172.16.1.7:80 -m -w 1\n"
        "-a -t 172.16.1.100:80 -r 172.16.1.8:80 -m -w 1\n"
    )


def test_edits_fall_back_to_the_defaults():
    engine = Engine(seed=0)
    ipvsadm.run(engine, "-A -t 1.2.3.4:80 -s sh -b sh-port")
    ipvsadm.run(engine, "-a -t 1.2.3.4:80 -r 1.2.3.5 -m -w 9")
    ipvsadm.run(engine, "-E -t 1.2.3.4:80")
    ipvsadm.run(engine, "-e -t 1.2.3.4:80 -r 1.2.3.5 -m")
    assert ipvsadm.save(engine) == (
        "-A -t 1.2.3.4:80 -s wlc\n-a -t 1.2.3.4:80 -r 1.2.3.5:80 -m -w 1\n"
    )


def test_timeouts():
    engine = Engine(seed=0)
    ipvsadm.run(engine, "--set 10 0 30")
    assert ipvsadm.run(engine, "-L --timeout") == "Timeout (tcp tcpfin udp): 10 120 30\n"


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("-R", "-R"),
        ("--start-daemon master", "--start-daemon"),
    ],
)
def test_what_is_not_available_is_refused_by_name(command, named):
    engine = Engine(seed=0)
    ipvsadm.run(engine, "-A -t 1.2.3.4:80")
    ipvsadm.run(engine, "-a -t 1.2.3.4:80 -r 1.2.3.5 -m -w 7")
    message, status = refusal(engine, command)
    assert named in message
    assert "is not available" in message
    assert status == 2


def test_an_open_quote():
    assert "split" in refusal(Engine(seed=0), "-A -t '1.2.3.4:80")[0]


def test_help_names_every_command_and_option():
    text = ipvsadm.run(Engine(seed=0), "--help")
    for option in grammar._ALL_OPTIONS:
        if option.long not in ("version", "sort"):
            assert re.search(rf"--{option.long}\b", text), option.long


def test_host_names_are_not_looked_up(monkeypatch):
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: pytest.fail("looked up"))
    message, status = refusal(Engine(seed=0), "-A -t localhost:80")
    assert (message, status) == ("illegal virtual server address[:port] specified", 2)


ADDRESSES = st.one_of(
    st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(lambda address: f"[{address}]")
)
FEW = st.sampled_from(["1.2.3.4:80", "1.2.3.5:80", "[2001:db8::1]:80", "[2001:db8::2]:80"])
ENDPOINTS = st.one_of(
    FEW, st.tuples(ADDRESSES, st.integers(0, 65536)).map(lambda pair: f"{pair[0]}:{pair[1]}")
)
WORDS = st.one_of(
    st.sampled_from(["-t", "-u", "-r"]).flatmap(
        lambda option: ENDPOINTS.map(lambda value: [option, value])
    ),
    st.sampled_from(["rr", "wlc", "sh", "mh", "x"]).map(lambda name: ["-s", name]),
    st.sampled_from(["sh-port", "sh-fallback,sh-port", "x"]).map(lambda text: ["-b", text]),
    st.integers(-1, 2**31).map(lambda weight: ["-w", str(weight)]),
    st.sampled_from(["-m", "-g", "-n", "-p", "-6", "--stats", "-c", "extra"]).map(lambda x: [x]),
)
COMMANDS = st.tuples(
    st.sampled_from(["-A", "-E", "-D", "-a", "-e", "-d", "-L", "-S", "--set", "-C"]),
    st.lists(WORDS, max_size=5),
).map(lambda pair: [pair[0], *(word for words in pair[1] for word in words)])
LIKELY = st.one_of(
    st.tuples(FEW, st.sampled_from(["rr", "wrr", "sh"])).map(
        lambda pair: ["-A", "-t", pair[0], "-s", pair[1]]
    ),
    st.tuples(FEW, ENDPOINTS, st.integers(0, 99)).map(
        lambda each: ["-a", "-t", each[0], "-r", each[1], "-m", "-w", str(each[2])]
    ),
)


@given(st.lists(st.one_of(COMMANDS, LIKELY), max_size=12))
def test_a_command_works_or_changes_nothing(commands):
    engine = Engine(seed=0, max_connections=1)
    for words in commands:
        before = ipvsadm.save(engine), engine.timeouts
        refused = None
        try:
            ipvsadm.run(engine, words)
        except CommandError as error:
            refused = error
        if refused is not None:
            assert (ipvsadm.save(engine), engine.timeouts) == before
            assert str(refused).strip()
            assert refused.status in (1, 2, 255)


@given(st.lists(LIKELY, max_size=12))
def test_save_and_restore(commands):
    engine = Engine(seed=0, max_connections=1)
    for words in commands:
        with suppress(CommandError):
            ipvsadm.run(engine, words)
    text = ipvsadm.save(engine)
    copy = Engine(seed=0, max_connections=1)
    ipvsadm.restore(copy, text)
    assert ipvsadm.save(copy) == text
    assert ipvsadm.run(copy, "-Ln") == ipvsadm.run(engine, "-Ln")
