"""The command line as a whole."""

import re


def test_version(run_cli):
    status, out, _ = run_cli("--version")
    assert status == 0
    assert re.fullmatch(r"lvscore \d+\.\d+\.\d+\n", out)


def test_help_lists_the_commands(run_cli):
    status, out, _ = run_cli("--help")
    assert status == 0
    assert "replay" in out
    assert "explain" in out


def test_as_a_module(start_cli):
    process = start_cli("--help")
    out, err = process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert out.startswith(b"Usage: lvscore ")


def test_explain(run_cli, requests, rules):
    """The ACK goes where the SYN before it went."""
    status, out, err = run_cli("explain", requests, "--frame", 2, "-c", rules)
    assert (status, err) == (0, "")
    assert "172.16.1.8:80" in out
