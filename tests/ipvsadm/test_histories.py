"""Random command lines, good and bad: each is carried out whole, or leaves everything as it was."""

from hypothesis import given, settings
from hypothesis import strategies as st

from lvscore import ipvsadm
from lvscore.engine import Engine
from lvscore.errors import CommandError

SERVICES = st.sampled_from(
    ["-t 1.2.3.4:80", "-t 1.2.3.4:443", "-u 1.2.3.4:53", "-t 1.2.3.4:0", "-f 7", "-f 0",
     "-t [2001:db8::1]:80", "-t 1.2.3.400:80", "-t 1.2.3.4", ""]
)  # fmt: skip
SERVERS = st.sampled_from(
    ["-r 10.0.0.1:80", "-r 10.0.0.2:80", "-r 10.0.0.2", "-r [2001:db8::2]:80", "-r 10.0.0.x", ""]
)
OPTIONS = st.lists(
    st.sampled_from(
        ["-s rr", "-s wlc", "-s none", "-p", "-p 60", "-p -1", "-o", "-M 255.255.255.0", "-m", "-g",
         "-i", "-w 0", "-w 5", "-w -1", "-x 10", "-y 20", "-y 5", "-b sh-port", "--set 1 2 3",
         "-n", "-c", "--bogus", "extra"]
    ),
    max_size=3,
)  # fmt: skip
COMMANDS = st.sampled_from(["-A", "-E", "-D", "-a", "-e", "-d", "-C", "-Z", "-R", "--set", ""])
# Most lines are near to good ones, so that there is something to spoil.
LINES = st.one_of(
    st.builds(" ".join, st.tuples(st.just("-A"), SERVICES, st.just("-s rr"))),
    st.builds(" ".join, st.tuples(st.just("-a"), SERVICES, SERVERS, st.just("-m"))),
    st.builds(
        lambda command, service, server, options: " ".join([command, service, server, *options]),
        COMMANDS, SERVICES, SERVERS, OPTIONS,
    ),
)  # fmt: skip


def seen(engine):
    """All that ipvsadm tells of an engine."""
    forms = ("-L -n", "-L -n --stats --exact", "-L -n --thresholds", "-L -n -c", "-L --timeout")
    return (ipvsadm.save(engine), *(engine.ipvsadm(form) for form in forms))


@settings(max_examples=150)
@given(st.lists(LINES, max_size=12))
def test_no_command_leaves_half_an_effect(lines):
    engine = Engine(seed=0, max_connections=1)
    for line in lines:
        before = seen(engine)
        try:
            engine.ipvsadm(line)
        except CommandError:
            assert seen(engine) == before, line
        assert engine._selfcheck() == 0
    # What is there can be said again, and is the same then.
    copy = Engine(seed=0, max_connections=1)
    ipvsadm.restore(copy, ipvsadm.save(engine))
    assert ipvsadm.save(copy) == ipvsadm.save(engine)


@given(SERVICES.filter(lambda text: text.startswith(("-t 1.2.3.4:4", "-u", "-f 7", "-t ["))))
def test_a_command_that_succeeds_is_seen(service):
    engine = Engine(seed=0, max_connections=1)
    empty = seen(engine)
    engine.ipvsadm(f"-A {service} -s rr")
    one = seen(engine)
    assert one[0] != empty[0]
    assert one[1] != empty[1]
    assert f"-A {service}" in one[0]
    engine.ipvsadm(f"-E {service} -s wlc")
    assert f"-A {service} -s wlc" in ipvsadm.save(engine)
    engine.ipvsadm(f"-D {service}")
    assert seen(engine) == empty
