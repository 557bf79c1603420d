"""Saved text read back: all of it or nothing."""

import pytest

from lvscore import ipvsadm
from lvscore.engine import Engine
from lvscore.errors import CommandError

SAVED = """\
-A -t 172.16.1.100:80 -s rr
-a -t 172.16.1.100:80 -r 172.16.1.7:80 -m -w 1
"""


def test_it_replaces_the_services():
    engine = Engine(seed=0)
    engine.add_service("tcp", "1.2.3.4:80")
    ipvsadm.restore(engine, SAVED)
    assert ipvsadm.save(engine) == SAVED


def test_comments_blank_lines_and_the_program_name():
    engine = Engine(seed=0)
    ipvsadm.restore(engine, "# the lab\n\n   \n  # more\nipvsadm -A -t 172.16.1.100:80 -s rr\n")
    assert ipvsadm.save(engine) == SAVED.splitlines(keepends=True)[0]


@pytest.mark.parametrize(
    ("line", "message", "status"),
    [
        ("-a -t 1.2.3.4:80 -r 1.2.3.5 -m", "Service not defined", 255),
        ("-A -t 172.16.1.100:80", "Service already exists", 255),
        ("-A -t 1.2.3.4:80 -w 1", "Illegal 'weight' option with the 'add-service' command", 2),
        ("-A -t 1.2.3.4:80 # web", "unexpected argument #", 2),
        ("-A -t 1.2.3.4:0 -o", "Zero port specified for non-persistent service", 2),
        ("-A -f -x", "invalid fwmark value `-x' specified", 2),
        ("-L", "the 'list' command has no place in saved rules", 2),
        ("bogus", "Try `ipvsadm -h' or 'ipvsadm --help' for more information.", 255),
    ],
)
def test_a_bad_line_changes_nothing(line, message, status):
    engine = Engine(seed=0)
    engine.add_service("tcp", "9.9.9.9:80")
    before = ipvsadm.save(engine)
    with pytest.raises(CommandError) as caught:
        ipvsadm.restore(engine, SAVED + line + "\n")
    assert str(caught.value) == f"line 3: {message}"
    assert caught.value.status == status
    assert ipvsadm.save(engine) == before
