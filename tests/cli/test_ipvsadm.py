"""``lvscore ipvsadm``: the language on a file of rules."""

import errno
import io
import os
import shlex

import pytest

TABLE = """\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  172.16.1.100:80 rr
  -> 172.16.1.7:80                Masq    1      0          0         
  -> 172.16.1.8:80                Masq    1      0          0         
"""  # noqa: W291


def test_a_listing_leaves_the_file_alone(run_cli, rules):
    before = rules.read_text(), rules.stat().st_ino
    assert run_cli("ipvsadm", "-Ln", "--rules", rules) == (0, TABLE, "")
    assert (rules.read_text(), rules.stat().st_ino) == before


def test_a_change_replaces_the_file(run_cli, rules):
    rules.chmod(0o640)
    words = shlex.split("-a -t 172.16.1.100:80 -r 172.16.1.6:80 -m -w 2 -x 9 -y 3")
    assert run_cli("ipvsadm", *words, f"--rules={rules}") == (0, "", "")
    assert rules.read_text() == (
        "-A -t 172.16.1.100:80 -s rr\n"
        "-a -t 172.16.1.100:80 -r 172.16.1.7:80 -m -w 1\n"
        "-a -t 172.16.1.100:80 -r 172.16.1.8:80 -m -w 1\n"
        "-a -t 172.16.1.100:80 -r 172.16.1.6:80 -m -w 2 -x 9 -y 3\n"
    )
    assert rules.stat().st_mode & 0o777 == 0o640
    assert list(rules.parent.iterdir()) == [rules]


def test_rules_of_iptables_and_timeouts_stay(run_cli, rules):
    line = "iptables -t nat -A PREROUTING -d 10.0.0.200/32 -j DNAT --to-destination 172.16.1.100\n"
    rules.write_text(line)
    assert run_cli("ipvsadm", "--set", "100", "0", "0", "--rules", rules)[0] == 0
    assert run_cli("ipvsadm", "-A", "-t", "1.2.3.4:80", "--rules", rules)[0] == 0
    assert rules.read_text() == f"--set 100 120 300\n-A -t 1.2.3.4:80 -s wlc\n{line}"


def test_messages_and_statuses_are_those_of_ipvsadm(run_cli, rules):
    before = rules.read_text()
    assert run_cli("ipvsadm", "-D", "-t", "1.2.3.4:80", "--rules", rules) == (
        255, "", "No such service\n"
    )  # fmt: skip
    assert run_cli("ipvsadm", "-A", "-t", "1.2.3.4", "--rules", rules)[0] == 2
    assert run_cli("ipvsadm", "-L", "-t", "1.2.3.4:80", "--rules", rules)[0] == 1
    assert rules.read_text() == before


def test_restore_reads_standard_input(run_cli, tmp_path, monkeypatch):
    text = "-A -t 1.2.3.4:80 -s rr\n-a -t 1.2.3.4:80 -r 1.2.3.5:80 -m -w 1\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    path = tmp_path / "new.rules"
    assert run_cli("ipvsadm", "-R", "--rules", path) == (0, "", "")
    assert path.read_text() == text


def test_a_link_stays_one(run_cli, rules, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(rules)
    assert run_cli("ipvsadm", "-C", "--rules", link)[0] == 0
    assert link.is_symlink()
    assert rules.read_text() == ""


@pytest.mark.parametrize("words", [["-L"], ["-D", "-t", "1.2.3.4:80"], []])
def test_a_file_that_is_not_there(run_cli, tmp_path, words):
    status, out, errors = run_cli("ipvsadm", *words, "--rules", tmp_path / "none")
    assert (status, out) == (2, "")
    assert "No such file" in errors


def test_a_folder_that_cannot_be_written(run_cli, rules, monkeypatch):
    """Root may write anywhere, so the system's answer is given here."""

    def refuse(*_args, **_options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    before = rules.read_text()
    monkeypatch.setattr("tempfile.mkstemp", refuse)
    status, _, errors = run_cli("ipvsadm", "-C", "--rules", rules)
    assert status == 2
    assert "Permission denied" in errors
    assert rules.read_text() == before


def test_a_bad_file(run_cli, rules):
    rules.write_text("-A -t 1.2.3.4\n")
    status, _, errors = run_cli("ipvsadm", "-L", "--rules", rules)
    assert status == 2
    assert "lvs.rules:1: Zero port" in errors
