"""``lvscore run`` tells what it cannot do; what it does is in tests/live."""

import pytest
from click.testing import CliRunner

import lvscore
from lvscore import open_interface
from lvscore.cli import cli


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "no interface"),
        (["--interface", "eth7"], "NAME=ADDRESS/LENGTH"),
        (["--interface", "nosuch0=172.16.1.3/24"], "no such network interface"),
        (["--interface", "a=172.16.1.3/24", "--route", "default=10.0.0.1"], "cannot be reached"),
        (["--interface", "a=172.16.1.3/24", "--route", "default=172.16.1.3"], "own address"),
        (["--inside", "172.16.1.0/33"], "--inside '172.16.1.0/33': "),
    ],
)
def test_a_wrong_option_is_told(options, said):
    result = CliRunner().invoke(cli, ["run", *options], standalone_mode=False)
    assert isinstance(result.exception, lvscore.LvscoreError)
    assert said in str(result.exception)


def test_a_backend_that_is_not_there():
    with pytest.raises(lvscore.ConfigError, match="auto, ring, copy, tap, tun, xdp"):
        open_interface("lo", backend="tape")


def test_a_name_that_cannot_be():
    for name in ("nosuch0", "a\0b", "x" * 40):
        with pytest.raises(lvscore.InterfaceError, match="no such network interface"):
            open_interface(name)
