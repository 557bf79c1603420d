"""Commands on an engine: what they do, what is refused, and that a refusal changes nothing."""

import json
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvscore import config, ipvsadm
from lvscore.engine import Engine
from lvscore.errors import CommandError
from lvscore.ipvsadm import grammar
from lvscore.model import SCHEDULERS


def refusal(engine, command):
    before = config.save(engine)
    with pytest.raises(CommandError) as caught:
        ipvsadm.run(engine, command)
    assert config.save(engine) == before
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
        ("--start-daemon backup --syncid 3", "--start-daemon"),
    ],
)
def test_what_is_not_available_is_refused_by_name(command, named):
    engine = Engine(seed=0)
    message, status = refusal(engine, command)
    assert named in message
    assert "is not available" in message
    assert status == 2


def test_no_daemon():
    engine = Engine(seed=0)
    assert refusal(engine, "--stop-daemon backup") == ("No daemon is running", 255)
    assert ipvsadm.run(engine, "-L --daemon") == ""


RICH = """\
-A -f -1 -s rr -p 30
-A -t 172.16.1.100:0 -s wrr -p 360
-A -t 172.16.1.101:443 -s sh -p 600 -M 255.255.255.0 -b sh-fallback,sh-port
-a -t 172.16.1.101:443 -r 172.16.1.7:443 -m -w 1
-A -u 172.16.1.100:53 -s rr -o
-a -u 172.16.1.100:53 -r 172.16.1.8:53 -g -w 0
-a -u 172.16.1.100:53 -r 172.16.1.9:53 -i -w 1 --tun-type ipip
-a -u 172.16.1.100:53 -r 172.16.1.10:53 -i -w 1 --tun-type gue --tun-port 6080 --tun-remcsum
-a -u 172.16.1.100:53 -r 172.16.1.11:53 -i -w 1 --tun-type gre --tun-csum
-a -u 172.16.1.100:53 -r [2001:db8::7]:53 -i -w 65536 --tun-type gre --tun-nocsum
-A --sctp-service 172.16.1.100:132 -s wlc -b flag-1,flag-3
-A -u [2001:db8::1]:53 -s sed -p 100 -M 96
-A -u [2001:db8::1]:5060 -s rr -p 60 --pe sip -o
-A -f 5 -s lblc -o
-a -f 5 -r 172.16.1.8:8080 -m -w 3
-A -f 6 -6 -s lblcr -p 30 -M 64
"""


@pytest.fixture
def rich():
    """An engine with one of everything."""
    engine = Engine(seed=0, max_connections=1)
    ipvsadm.restore(engine, RICH)
    return engine


def test_one_of_everything(rich):
    assert ipvsadm.save(rich) == RICH
    assert ipvsadm.run(rich, "-Ln").splitlines()[3:] == [
        "FWM  -1 rr persistent 30",
        "TCP  172.16.1.100:0 wrr persistent 360",
        "TCP  172.16.1.101:443 sh (sh-fallback,sh-port) persistent 600 mask 255.255.255.0",
        "  -> 172.16.1.7:443               Masq    1      0          0         ",
        "UDP  172.16.1.100:53 rr ops",
        "  -> 172.16.1.8:53                Route   0      0          0         ",
        "  -> 172.16.1.9:53                Tunnel  1      0          0         ",
        "  -> 172.16.1.10:53               Tunnel  1      0          0         ",
        "  -> 172.16.1.11:53               Tunnel  1      0          0         ",
        "  -> [2001:db8::7]:53             Tunnel  65536  0          0         ",
        "SCTP 172.16.1.100:132 wlc (flag-1,flag-3)",
        "UDP  [2001:db8::1]:53 sed persistent 100 mask 96",
        "UDP  [2001:db8::1]:5060 rr persistent 60 pe sip ops",
        "FWM  5 lblc ops",
        "  -> 172.16.1.8:8080              Masq    3      0          0         ",
        "FWM  6 IPv6 lblcr persistent 30 mask 64",
    ]


def test_tunnels_are_told(rich):
    lines = ipvsadm.run(rich, "-Ln --tun-info -u 172.16.1.100:53").splitlines()
    assert lines == [
        "Prot LocalAddress:Port Scheduler Flags",
        "  -> RemoteAddress:Port           Forward TunnelInfo    Weight ActiveConn InActConn",
        "UDP  172.16.1.100:53 rr ops",
        "  -> 172.16.1.8:53                Route   n/a           0      0          0         ",
        "  -> 172.16.1.9:53                Tunnel  ipip          1      0          0         ",
        "  -> 172.16.1.10:53               Tunnel  gue:6080:r+c  1      0          0         ",
        "  -> 172.16.1.11:53               Tunnel  gre:+c        1      0          0         ",
        "  -> [2001:db8::7]:53             Tunnel  gre:-c        65536  0          0         ",
    ]


@pytest.mark.parametrize(
    "line",
    [one.replace("-f -1", "-f 4294967295") for one in RICH.splitlines() if one.startswith("-A")],
)
def test_each_service_is_found_deleted_and_made_again(rich, line):
    key = line.split(" -s ")[0].removeprefix("-A ")
    assert ipvsadm.run(rich, f"-Ln {key}").splitlines()[2:]
    assert refusal(rich, line) == ("Service already exists", 255)
    ipvsadm.run(rich, f"-D {key}")
    assert refusal(rich, f"-D {key}") == ("No such service", 255)
    ipvsadm.run(rich, line)


def test_editing_a_service_puts_everything_back(rich):
    ipvsadm.run(rich, "-E -t 172.16.1.101:443")
    ipvsadm.run(rich, "-E -u 172.16.1.100:53 -s rr -p 5 -M 255.0.0.0")
    ipvsadm.run(rich, "-E -f 6 -6 -o")
    lines = ipvsadm.run(rich, "-Ln").splitlines()
    assert "TCP  172.16.1.101:443 wlc" in lines
    assert "UDP  172.16.1.100:53 rr persistent 5 mask 255.0.0.0" in lines
    assert "FWM  6 IPv6 wlc ops" in lines


def test_editing_a_server_puts_everything_back(rich):
    ipvsadm.run(rich, "-e -u 172.16.1.100:53 -r 172.16.1.10 -m")
    ipvsadm.run(rich, "-e -u 172.16.1.100:53 -r 172.16.1.8 -i --tun-type gue --tun-port 7")
    text = ipvsadm.save(rich)
    assert "-r 172.16.1.10:53 -m -w 1\n" in text
    assert "-r 172.16.1.8:53 -i -w 1 --tun-type gue --tun-port 7 --tun-nocsum\n" in text


def test_what_ipvsadm_forgets_is_kept_in_files(rich):
    ipvsadm.run(rich, "-A -t 1.2.3.4:80 -s sh -b sh-port")
    ipvsadm.run(rich, "-a -t 1.2.3.4:80 -r 1.2.3.6 -m -x 9 -y 4")
    ipvsadm.run(rich, "-a -t 1.2.3.4:80 -r 1.2.3.5 -m")
    ipvsadm.run(rich, "--set 0 0 7")
    lines = config.save(rich).splitlines()
    assert lines[0] == "--set 900 120 7"
    assert "-A -f 4294967295 -s rr -p 30" in lines
    assert lines[-3:] == [
        "-A -t 1.2.3.4:80 -s sh -b sh-port",
        "-a -t 1.2.3.4:80 -r 1.2.3.6:80 -m -w 1 -x 9 -y 4",
        "-a -t 1.2.3.4:80 -r 1.2.3.5:80 -m -w 1",
    ]


def test_only_named_flags_of_sh_and_mh_are_told(rich):
    ipvsadm.run(rich, "-A -t 1.2.3.4:80 -s sh -b flag-2,flag-3")
    ipvsadm.run(rich, "-A -t 1.2.3.4:81 -s mh -b flag-3")
    text = ipvsadm.save(rich)
    assert "-A -t 1.2.3.4:80 -s sh -b sh-port\n" in text
    assert "-A -t 1.2.3.4:81 -s mh -b \n" in text


@pytest.mark.parametrize(
    "address",
    ["0.1.2.3", "224.0.0.1", "255.255.255.255", "[::]", "[ff02::1]", "[fe80::7]",
     "[::ffff:1.2.3.4]"],
)  # fmt: skip
def test_a_server_is_a_host(rich, address):
    key = "-t [::5]:80" if "[" in address else "-t 1.2.3.4:80"
    ipvsadm.run(rich, f"-A {key}")
    message, status = refusal(rich, f"-a {key} -r {address}:80 -m")
    assert message.startswith("Invalid operation.")
    assert status == 255
    for fitting in ("[::1]", "[::1.2.3.4]") if "[" in address else ("127.0.0.1", "240.0.0.1"):
        ipvsadm.run(rich, f"-a {key} -r {fitting}:80 -m")


SAVED = json.loads((Path(__file__).parent.parent / "data/ipvsadm-saved.json").read_text())


@pytest.mark.parametrize("saved", SAVED, ids=[one["from"] for one in SAVED])
def test_text_of_the_real_ipvsadm_survives(saved):
    engine = Engine(seed=0, max_connections=1)
    ipvsadm.restore(engine, saved["text"])
    assert ipvsadm.save(engine) == saved["text"]
    copy = Engine(seed=0, max_connections=1)
    config.parse(config.save(engine)).apply(copy)
    assert ipvsadm.save(copy) == saved["text"]


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
MARKS = st.sampled_from([["-f", "5"], ["-f", "5", "-6"], ["-f", "4294967295"], ["-f", "0"]])
KEYS = st.one_of(st.tuples(st.sampled_from(["-t", "-u"]), FEW).map(list), MARKS)
WORDS = st.one_of(
    st.sampled_from(["-t", "-u", "--sctp-service", "-r"]).flatmap(
        lambda option: ENDPOINTS.map(lambda value: [option, value])
    ),
    MARKS,
    st.sampled_from([*SCHEDULERS, "x"]).map(lambda name: ["-s", name]),
    st.sampled_from(["sh-port", "flag-3", "sh-fallback,sh-port", "x"]).map(lambda x: ["-b", x]),
    st.integers(-1, 2**31).map(lambda weight: ["-w", str(weight)]),
    st.integers(0, 9).map(lambda x: ["-x", str(x)]),
    st.integers(0, 9).map(lambda y: ["-y", str(y)]),
    st.sampled_from(["1", "0", "2678400", "x"]).map(lambda seconds: ["-p", seconds]),
    st.sampled_from(["255.255.255.0", "0", "64", "129", "x"]).map(lambda mask: ["-M", mask]),
    st.sampled_from(["ipip", "gue", "gre", "x"]).map(lambda kind: ["--tun-type", kind]),
    st.sampled_from(["6080", "0"]).map(lambda port: ["--tun-port", port]),
    st.sampled_from(["sip", "x"]).map(lambda name: ["--pe", name]),
    st.sampled_from(
        ["-m", "-g", "-i", "-o", "-n", "-p", "-6", "--stats", "-c", "--tun-csum", "extra"]
    ).map(lambda x: [x]),
)
COMMANDS = st.tuples(
    st.sampled_from(["-A", "-E", "-D", "-a", "-e", "-d", "-L", "-S", "-Z", "--set", "-C"]),
    st.lists(WORDS, max_size=5),
).map(lambda pair: [pair[0], *(word for words in pair[1] for word in words)])
LIKELY = st.one_of(
    st.tuples(st.sampled_from(["-A", "-E"]), KEYS, st.lists(WORDS, max_size=2)).map(
        lambda each: [each[0], *each[1], *(word for words in each[2] for word in words)]
    ),
    st.tuples(
        st.sampled_from(["-a", "-e"]),
        KEYS,
        ENDPOINTS,
        st.sampled_from([["-m"], ["-g"], ["-i"], ["-i", "--tun-type", "gue", "--tun-port", "9"]]),
        st.integers(0, 99),
        st.integers(0, 9),
    ).map(
        lambda each: [each[0], *each[1], "-r", each[2], *each[3],
                      "-w", str(each[4]), "-x", str(each[5])]
    ),
)  # fmt: skip


@given(st.lists(st.one_of(COMMANDS, LIKELY), max_size=12))
def test_a_command_works_or_changes_nothing(commands):
    engine = Engine(seed=0, max_connections=1)
    for words in commands:
        before = config.save(engine)
        refused = None
        try:
            ipvsadm.run(engine, words)
        except CommandError as error:
            refused = error
        if refused is not None:
            assert config.save(engine) == before
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
    complete = config.save(engine)
    copy = Engine(seed=0, max_connections=1)
    config.parse(complete).apply(copy)
    assert config.save(copy) == complete
    assert ipvsadm.run(copy, "-Ln --nosort") == ipvsadm.run(engine, "-Ln --nosort")
