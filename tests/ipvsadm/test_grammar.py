"""ipvsadm's grammar against recorded command lines of ipvsadm 1.31."""

import json
import shlex
from ipaddress import ip_address
from pathlib import Path

import pytest

from lvscore.errors import CommandError
from lvscore.ipvsadm.grammar import parse

LINES = json.loads((Path(__file__).parent.parent / "data/ipvsadm-lines.json").read_text())


@pytest.mark.parametrize(("line", "status", "message"), LINES, ids=[line[0] for line in LINES])
def test_recorded_line(line, status, message):
    """A usage error is told with the same words and status; any other line is read."""
    words = shlex.split(line)[1:]
    if status == 0:
        parse(words)
        return
    with pytest.raises(CommandError) as caught:
        parse(words)
    assert (caught.value.status, f"{caught.value}\n") == (status, message)


@pytest.mark.parametrize(
    ("words", "port"),
    [
        ("-t 1.2.3.4:80 -r 1.2.3.5 -m", 80),
        ("-t 1.2.3.4:80 -r 1.2.3.5:0 -m", 0),
        ("-r 1.2.3.5 -t 1.2.3.4:80 -m", 0),  # the service is not known yet
        ("-t 1.2.3.4:80 -r 1.2.3.5:8080 -m", 8080),
        ("-t 1.2.3.4:80 -r 1.2.3.5:8080", 80),  # only masquerading maps ports
        ("-t 1.2.3.4:80 -r 1.2.3.5:8080 -i", 80),
        ("-f 5 -r 1.2.3.5 -m", 0),
        ("-f 5 -r 1.2.3.5:8080 -g", 8080),
        ("-f 5 -r 1.2.3.5:http -m", 80),  # a mark takes TCP's names
        ("-u 1.2.3.4:53 -r 1.2.3.5:domain -m", 53),
    ],
)
def test_the_port_of_a_server(words, port):
    assert parse(["-a", *words.split()]).server == (ip_address("1.2.3.5"), port)


def test_deleting_takes_the_port_as_it_is():
    words = ["-d", "-t", "1.2.3.4:80", "-r", "1.2.3.5:8080"]
    assert parse(words).server == (ip_address("1.2.3.5"), 8080)


@pytest.mark.parametrize(
    ("words", "mask"),
    [
        ("-t 1.2.3.4:80 -p", None),
        ("-t 1.2.3.4:80 -p -M 255.255.255.0", ip_address("255.255.255.0")),
        ("-M 255.255.255.0 -t 1.2.3.4:80 -p", ip_address("255.255.255.0")),
        ("-t [2001:db8::1]:80 -p -M 64", 64),
        ("-M 255.255.255.0 -t [2001:db8::1]:80 -p", None),
        ("-t [2001:db8::1]:80 -p -M 5a", 5),  # as atoi reads it
        ("-t [2001:db8::1]:80 -p -M 10.1", 10),
        ("-M 64 -f 5 -6 -p", None),
        ("-f 5 -6 -M 64 -p", 64),
        ("-f 5 -M 64 -p", ip_address("0.0.0.64")),
    ],
)
def test_a_mask_is_read_as_the_service_before_it_says(words, mask):
    assert parse(["-A", *words.split()]).netmask == mask


@pytest.mark.parametrize(
    ("words", "message"),
    [
        # Flags are looked at before what does not go with the command.
        ("-a -t 1.2.3.4:80 -b mh-port", "incompatible scheduler flag `mh-port'"),
        ("-A -b bogus", "invalid scheduler flag `bogus'"),
        ("-Z -b sh-port -n", "incompatible scheduler flag `sh-port'"),
        ("-A -b sh-port extra", "unexpected argument extra"),
        ("-L -b flag-1", "Illegal 'sched-flags' option with the 'list' command"),
        # A group is an address alone, in four full numbers.
        *(
            (f"--stop-daemon master --mcast-group {group}", f"invalid IPv{n} mcast-group `{group}'")
            for group, n in (
                ("239.1.1.1:0", 6), ("[ff02::1]", 6), ("[ff02::1]:0", 6), ("239.1", 4),
                ("010.1.1.1", 4), ("1.2.3.4", 4), ("2001:db8::1", 6), ("ff02::1%lo", 6),
            )
        ),
        # Of a second command it is the value that is named, if it has one.
        ("-Z --start-daemon backup", "invalid option `backup'"),
        ("-Z --start-daemon=backup", "invalid option `--start-daemon=backup'"),
        ("-A -t 1.2.3.4:80 -Z", "invalid option `-Z'"),
        ("-t 1.2.3.4:80", "Try `ipvsadm -h' or 'ipvsadm --help' for more information."),
    ],
)  # fmt: skip
def test_messages_that_no_recording_has(words, message):
    """As ipvsadm 1.31 gave them here, with a libnl in place of the kernel."""
    with pytest.raises(CommandError) as caught:
        parse(words.split())
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["1.2.3.4 :80", "1.2.3.4 x:80", "1.2.3.4\t:80"])
def test_what_stands_behind_an_address_and_a_blank_does_not_matter(text):
    assert parse(["-A", "-t", text]).service[1:3] == (ip_address("1.2.3.4"), 80)
    with pytest.raises(CommandError, match="illegal virtual server address"):
        parse(["-A", "-t", f" {text}"])
