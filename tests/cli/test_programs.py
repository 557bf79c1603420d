"""A script of administrators, with lvscore under the programs' own names."""

import subprocess
import sys
import threading

import pytest

from lvscore.control import ControlServer
from lvscore.engine import Engine
from lvscore.programs import execute, lists_connections

SCRIPT = """\
set -e
ipvsadm -C
ipvsadm -A -t 172.16.1.100:80 -s rr
for node in 7 8; do
    ipvsadm -a -t 172.16.1.100:80 -r 172.16.1.$node:80 -m
done
ipvsadm -Ln --stats
ipvsadm-save -n > saved
ipvsadm -C
ipvsadm -R < saved
ipvsadm-save -n | diff - saved
iptables -t nat -A POSTROUTING -s 172.16.1.0/24 -j MASQUERADE
iptables -t nat -S POSTROUTING
conntrack -C
ipvsadm -D -t 1.1.1.1:1 || exit $?
"""

PRINTED = """\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes
  -> RemoteAddress:Port
TCP  172.16.1.100:80                     0        0        0        0        0
  -> 172.16.1.7:80                       0        0        0        0        0
  -> 172.16.1.8:80                       0        0        0        0        0
-P POSTROUTING ACCEPT
-A POSTROUTING -s 172.16.1.0/24 -j MASQUERADE
0
"""


@pytest.fixture
def director(tmp_path):
    """A director's control socket, and its engine."""
    engine = Engine(seed=0, max_connections=64)
    ended = threading.Event()
    path = str(tmp_path / "director.sock")
    with ControlServer(path, lambda argv, stdin: execute(engine, argv, stdin)) as server:

        def work():
            while not ended.is_set():
                server.step(0.01)

        thread = threading.Thread(target=work)
        thread.start()
        yield path, engine
        ended.set()
        thread.join()


def test_a_script_for_ipvs_works_unchanged(director, tmp_path):
    path, engine = director
    program = tmp_path / "lvscore"  # as an installed console script is
    program.write_text(f"#!{sys.executable}\nfrom lvscore.cli import main\nmain()\n")
    program.chmod(0o755)
    for name in ("ipvsadm", "ipvsadm-save", "iptables", "conntrack"):
        (tmp_path / name).symlink_to(program)
    done = subprocess.run(
        ["sh", "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "LVSCORE_CONTROL": path},
    )  # fmt: skip
    assert done.stdout == PRINTED
    assert (done.returncode, done.stderr) == (255, "No such service\n")
    assert [len(service.servers) for service in engine.services] == [2]


def test_commands_of_lvscore(director, run_cli):
    path, engine = director
    assert run_cli("ipvsadm", "-A", "-t", "1.2.3.4:80", "--control", path) == (0, "", "")
    assert len(engine.services) == 1
    assert run_cli("iptables", "-t", "nat", "-S", "PREROUTING", f"--control={path}") == (
        0, "-P PREROUTING ACCEPT\n", ""
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "many"),
    [
        ("ipvsadm -Lnc", True), ("ipvsadm --list --connection", True), ("ipvsadm -Ln", False),
        ("ipvsadm -Z", False), ("ipvsadm -x", False), ("conntrack -L -p tcp", True),
        ("conntrack -L -z", False), ("conntrack -D", False), ("conntrack", False),
        ("iptables -t nat -L", False),
    ],
)  # fmt: skip
def test_what_takes_long_with_many_connections(line, many):
    assert lists_connections(line.split()) == many


def test_nobody_there(run_cli, tmp_path):
    path = tmp_path / "none"
    status, out, errors = run_cli("ipvsadm", "-Ln", "--control", path)
    assert (status, out) == (1, "")
    assert errors == f"lvscore: error: {path}: no director is running here\n"


def test_rules_have_no_connections(run_cli, rules):
    status, _, errors = run_cli("conntrack", "-L", "--rules", rules)
    assert status == 2
    assert "a file has no connections" in errors


def test_iptables_on_a_file(run_cli, rules):
    words = ["-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE"]
    assert run_cli("iptables", *words, "--rules", rules) == (0, "", "")
    assert rules.read_text().endswith("iptables -t nat -A POSTROUTING -j MASQUERADE\n")


NFT = """\
table ip nat {
\tchain prerouting {
\t\ttype nat hook prerouting priority dstnat; policy accept;
\t\tip daddr 10.0.0.200 tcp dport 80 dnat to 172.16.1.100:8080
\t}
}
"""


def test_nft_on_a_director(director, run_cli, tmp_path):
    path, engine = director
    file = tmp_path / "nat.nft"
    file.write_text(NFT)
    assert run_cli("nft", "--control", path, "-f", file) == (0, "", "")
    assert run_cli("nft", "--control", path, "list", "ruleset") == (0, NFT, "")
    status, out, errors = run_cli("nft", "--control", path, "add", "rule", "ip", "x", "y", "drop")
    assert (status, out) == (1, "")
    assert errors == "Error: drop is not available\nadd rule ip x y drop\n                ^^^^\n"
    assert len(engine.rules) == 1
    assert run_cli("nft", "--control", path, "-cf", file)[0] == 0
    assert run_cli("nft", "--control", path, "flush", "ruleset") == (0, "", "")
    assert run_cli("nft", "--control", path, "--file", file) == (0, "", "")
    file.write_text(NFT.replace("dnat to", "dnat at"))
    status, _, errors = run_cli("nft", "--control", path, "-af", file)
    assert status == 1
    assert errors.startswith(f"{file}:4:41-42: Error: 'at' is not an address")
    assert run_cli("nft", "--control", path)[2] == "nft: no command specified\n"
    assert len(engine.rules) == 1


def test_the_file_of_nft_is_not_there(run_cli, tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff")
    for name, why in (("none", "No such file or directory"), ("bytes", "byte 0 is not UTF-8 text")):
        file = tmp_path / name
        said = f'internal:0:0-0: Error: Could not open file "{file}": {why}\n'
        assert run_cli("nft", "-f", file) == (1, "", said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("ipvsadm -v", "ipvsadm v1.31"),
        ("ipvsadm -h", "ipvsadm v1.31"),
        ("conntrack -V", "conntrack v1.4.7 "),
        ("iptables --version", "iptables v1.8.9 "),
        ("iptables-save -V", "iptables-save v1.8.9 "),
        ("nft -v", "nftables v1.0.6 "),
    ],
)
def test_what_needs_no_director(run_cli, words, said, monkeypatch, tmp_path):
    monkeypatch.setenv("LVSCORE_CONTROL", str(tmp_path / "none"))
    status, out, errors = run_cli(*words.split())
    assert (status, errors) == (0, "")
    assert out.startswith(said)


def test_nft_on_a_file(run_cli, rules):
    chain = "{ type nat hook postrouting priority 100; }"
    words = ["table", "ip6", "x", "{ chain p", chain, "};", "add", "rule", "ip6", "x", "p"]
    words.append("masquerade")
    assert run_cli("nft", "--rules", rules, *words) == (0, "", "")
    assert rules.read_text().endswith("ip6tables -t nat -A POSTROUTING -j MASQUERADE\n")
