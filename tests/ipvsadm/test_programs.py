"""The programs as a shell sees them: status, standard output, standard error."""

import pytest

from lvscore import ipvsadm
from lvscore.engine import Engine

HELP = "Try `ipvsadm -h' or 'ipvsadm --help' for more information.\n"
A, B = "-A -t 1.2.3.4:80 -s rr\n", "-A -t 1.2.3.5:80 -s rr\n"


def restored(text, program=("ipvsadm", "-R"), engine=None):
    engine = engine or Engine(seed=0, max_connections=1)
    status, out, errors = ipvsadm.execute(engine, program, text)
    assert out == ""
    return status, errors, ipvsadm.save(engine)


@pytest.mark.parametrize(
    ("text", "status", "errors", "left"),
    [
        (A + B, 0, "", A + B),
        (f"\n  \n{A}\t ipvsadm   {B}", 0, "", A + B),
        # What the kernel refuses is told; the status is that of the last line.
        (A + A + B, 0, "Service already exists\n", A + B),
        (A + B + B, 255, "Service already exists\n", A + B),
        (f"{A}-Z -t 1.1.1.1:1\n\n", 255, "No such service\n", A),
        # So it is with what the option parser refuses.
        (f"{A}-A -t 1.2.3.5:80 -p -5\n{B}", 0, "-5: unknown option\n", A + B),
        # ipvsadm itself ends at once.
        (f"{A}-A -t 1.2.3.5\n{B}", 2, "Zero port specified for non-persistent service\n", A),
        (f"{A}# more\n{B}", 255, HELP, A),
        (f"{A}-R\n{B}", 255, HELP, A),
        (f"{A}-L -t 1.1.1.1:1\n{B}", 1, "No such service\n", A),
        (f"{A}-A -t 1.2.3.5:80 # more\n{B}", 2, "unexpected argument #\n", A),
    ],
)
def test_restore_goes_line_by_line(text, status, errors, left):
    assert restored(text) == (status, errors, left)


def test_restore_lists_too():
    status, out, errors = ipvsadm.execute(
        Engine(seed=0, max_connections=1), ["ipvsadm", "-R"], f"{A}-S -n\n-v\n{B}"
    )
    assert (status, errors) == (0, "")
    assert out == A + ipvsadm.run(Engine(seed=0, max_connections=1), "-v")


def test_the_restoring_program_clears_first_and_skips_comments():
    engine = Engine(seed=0, max_connections=1)
    engine.add_service("tcp", "9.9.9.9:80")
    text = f"# saved\n{A}"
    assert restored(text, ["ipvsadm-restore"], engine) == (0, "", A)


def test_the_saving_program():
    engine = Engine(seed=0, max_connections=1)
    assert ipvsadm.execute(engine, ["ipvsadm", *A.split()]) == (0, "", "")
    assert ipvsadm.execute(engine, ["ipvsadm-save", "-n"]) == (0, A, "")
    assert ipvsadm.execute(engine, ["ipvsadm-save"]).stdout == A.replace(":80", ":http")
    assert ipvsadm.execute(engine, ["ipvsadm-save", "-x"]).status == 1


def test_errors_are_told_on_standard_error():
    engine = Engine(seed=0, max_connections=1)
    assert ipvsadm.execute(engine, ["ipvsadm", "-X"]) == (255, "", HELP)
    assert ipvsadm.execute(engine, ["ipvsadm", "-D", "-t", "1.1.1.1:1"]) == (
        255, "", "No such service\n"
    )  # fmt: skip
    assert ipvsadm.execute(engine, ["ipvs"]).status == 127
