"""``lvscore replay`` on the LVS-NAT lab."""

import io
import json
import signal
import time

import pytest
from scapy.layers.inet import IP
from scapy.utils import rdpcap

TRANSLATED = ["172.16.1.8:80", "172.16.1.8:80", "172.16.1.7:80", "192.0.2.1:80"]


def test_the_lab(run_cli, requests, rules, tmp_path, destinations):
    output = tmp_path / "out.pcap"
    status, out, err = run_cli("replay", requests, "-o", output, "-c", rules)
    assert (status, err) == (0, "")
    assert destinations(output) == TRANSLATED
    assert out.startswith(
        "IP Virtual Server version 1.2.1 (size=4096)\n"
        "Prot LocalAddress:Port Scheduler Flags\n"
        "  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n"
        "TCP  172.16.1.100:80 rr\n"
        "  -> 172.16.1.7:80                Masq    1      1          0         \n"
        "  -> 172.16.1.8:80                Masq    1      1          0         \n"
        "\n"
        "IP Virtual Server version 1.2.1 (size=4096)\n"
        "Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes\n"
        "  -> RemoteAddress:Port\n"
        "TCP  172.16.1.100:80                     2        3        0      120        0\n"
        "  -> 172.16.1.7:80                       1        1        0       40        0\n"
        "  -> 172.16.1.8:80                       1        2        0       80        0\n"
        "\n"
        "Service              Server         Connections\n"
        "tcp 172.16.1.100:80  172.16.1.7:80            1\n"
        "tcp 172.16.1.100:80  172.16.1.8:80            1\n"
        "\n"
        "4 frames: 3 forwarded, 1 passed, 2 connections, "
    )
    assert out.count("\n") == 19


def test_commands_instead_of_a_file(run_cli, requests, tmp_path, destinations):
    output = tmp_path / "out.pcap"
    status, _, _ = run_cli(
        "replay", requests, "-o", output,
        "--ipvsadm", "-A -t 172.16.1.100:80",
        "--ipvsadm", "ipvsadm -a -t 172.16.1.100:80 -r 172.16.1.9:8080 -m",
        "--iptables", "-t nat -A PREROUTING -d 192.0.2.1 -j DNAT --to 192.0.2.9",
    )  # fmt: skip
    assert status == 0
    assert destinations(output) == ["172.16.1.9:8080"] * 3 + ["192.0.2.9:80"]


def test_an_nft_file(run_cli, requests, tmp_path, destinations):
    output, rules = tmp_path / "out.pcap", tmp_path / "nat.nft"
    rules.write_text(
        "table ip nat {\n chain pre {\n  type nat hook prerouting priority dstnat\n"
        "  ip daddr 192.0.2.1 tcp dport 80 dnat to 192.0.2.9:8080\n }\n}\n"
    )
    status, out, _ = run_cli("replay", requests, "-o", output, "-c", rules)
    assert status == 0
    assert destinations(output) == ["172.16.1.100:80"] * 3 + ["192.0.2.9:8080"]
    assert "-A PREROUTING -d 192.0.2.1/32 -p tcp" in out


def test_masquerading_takes_the_address_of_the_interface(run_cli, requests, tmp_path):
    output = tmp_path / "out.pcap"
    status, out, _ = run_cli(
        "replay", requests, "-o", output,
        "--interface", "eth0=198.51.100.2/24", "--route", "default=eth0",
        "--iptables", "-t nat -A POSTROUTING -o eth0 -j MASQUERADE",
    )  # fmt: skip
    assert status == 0
    # The second is an ACK that no answer came before: INVALID for netfilter, and untouched.
    masqueraded, untouched = "198.51.100.2", "10.0.0.1"
    assert [packet[IP].src for packet in rdpcap(str(output))] == [
        masqueraded, untouched, masqueraded, masqueraded,
    ]  # fmt: skip
    assert out.startswith("-A POSTROUTING -o eth0 -j MASQUERADE\n\n4 frames: 3 forwarded, ")


def test_drops_are_told(run_cli, requests, tmp_path):
    service = ["--ipvsadm", "-A -t 172.16.1.100:80"]
    _, out, _ = run_cli("replay", requests, "-o", tmp_path / "out.pcap", *service)
    assert "Dropped for     Frames\nNO_REAL_SERVER       2\n" in out
    assert "2 dropped (NO_REAL_SERVER 2)" in out


def test_json(run_cli, requests, rules, tmp_path):
    _, out, err = run_cli("replay", requests, "-o", tmp_path / "o", "-c", rules, "--json")
    values = json.loads(out)
    assert err == ""
    assert values["frames"] == 4
    assert values["verdicts"]["forwarded"] == 3
    (service,) = values["services"]
    assert service["connections"] == 2
    assert [server["server"] for server in service["servers"]] == [
        "172.16.1.7:80",
        "172.16.1.8:80",
    ]


def test_the_same_seed_gives_the_same_bytes(run_cli, requests, rules, tmp_path):
    outputs = [tmp_path / name for name in ("a", "b")]
    for output in outputs:
        run_cli("replay", requests, "-o", output, "-c", rules, "--seed", 7)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_standard_streams(start_cli, requests, rules):
    process = start_cli("replay", "-", "-o", "-", "-c", rules)
    out, err = process.communicate(requests.read_bytes())
    assert process.returncode == 0
    assert len(rdpcap(io.BytesIO(out))) == 4
    assert b"4 frames: " in err


def test_a_truncated_capture(run_cli, requests, rules, tmp_path, destinations):
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(requests.read_bytes()[:-5])
    output = tmp_path / "out.pcap"
    status, out, err = run_cli("replay", cut, "-o", output, "-c", rules)
    assert status == 1
    assert "3 frames: 3 forwarded" in out
    assert destinations(output) == TRANSLATED[:3]
    assert err.startswith("lvscore: error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "status", "named"),
    [
        (["replay"], 2, "Missing argument 'IN'"),
        (["replay", "{in}"], 2, "Missing option '-o'"),
        (["replay", "{in}", "-o", "{out}", "--bogus"], 2, "--bogus"),
        (["replay", "{in}", "-o", "{out}", "--seed", "-1"], 2, "-1"),
        (["replay", "{in}", "-o", "{out}", "--seed", "a"], 2, "'a' is not a valid integer."),
        (["replay", "{in}", "-o", "{out}", "--max-connections", "0"], 2, "max_connections"),
        (["replay", "{in}", "-o", "{out}", "-c", "{dir}/none"], 2, "No such file"),
        (["replay", "{in}", "-o", "{out}", "-c", "{bad}"], 2, "bad.rules:2: illegal weight"),
        (["replay", "{in}", "-o", "{out}", "--ipvsadm", "-A"], 2, "--ipvsadm '-A': You need"),
        (["replay", "{in}", "-o", "{out}", "--ipvsadm", "-L"], 2, "'list' command"),
        (["replay", "{in}", "-o", "{out}", "--iptables", "-F"], 2, "table filter"),
        (["replay", "{in}", "-o", "{out}", "--interface", "eth0"], 2, "NAME=ADDRESS/LENGTH"),
        (["replay", "{in}", "-o", "{out}", "--interface", "eth0=1.2.3.4/99"], 2, "1.2.3.4/99"),
        (["replay", "{in}", "-o", "{out}", "--interface", "eth0=1.2.3.4"], 2, "1.2.3.4"),
        (["replay", "{in}", "-o", "{out}", "--route", "default"], 2, "PREFIX=NAME"),
        (["replay", "{in}", "-o", "{out}", "--route", "default=eth9"], 2, "no interface eth9"),
        (["replay", "{in}", "-o", "{in}"], 2, "requests.pcap"),
        (["replay", "{dir}/none", "-o", "{out}"], 1, "none: No such file"),
        (["replay", "{dir}", "-o", "{out}"], 1, "Is a directory"),
        (["replay", "{bad}", "-o", "{out}"], 1, "bad.rules"),
        (["replay", "{in}", "-o", "{dir}/none/out"], 1, "none/out: No such file"),
        (["replay", "{in}", "-o", ""], 1, "'': No such file"),
        (["replay", "{in}", "-o", "{out}", "-c", ""], 2, "'': No such file"),
        (["explain", "{in}", "--frame", "5"], 2, "has 4 frames"),
        (["explain", "{in}", "--frame", "0"], 2, "--frame"),
        (["bogus"], 2, "bogus"),
        ([], 2, "Missing command"),
    ],
)
def test_errors_are_one_line(run_cli, requests, tmp_path, words, status, named):
    bad = tmp_path / "bad.rules"
    bad.write_text("-A -t 1.2.3.4:80\n-a -t 1.2.3.4:80 -r 1.2.3.5 -m -w x\n")
    output = tmp_path / "out.pcap"
    before = requests.read_bytes()
    names = {"in": requests, "out": output, "bad": bad, "dir": tmp_path}
    got, out, err = run_cli(*(word.format(**names) for word in words))
    assert (got, out) == (status, "")
    assert err.startswith("lvscore: error: ")
    assert named in err
    assert err.count("\n") == 1
    assert not output.exists()
    assert requests.read_bytes() == before


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_leaves_a_valid_capture(
    start_cli, requests, rules, tmp_path, destinations, number, status
):
    output = tmp_path / "out.pcap"
    process = start_cli(
        "replay", "-", "-o", output, "-c", rules,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # ignored after nohup
    )  # fmt: skip
    process.stdin.write(requests.read_bytes())
    process.stdin.flush()
    for _ in range(200):
        if output.exists():
            break
        time.sleep(0.1)
    time.sleep(0.5)  # time enough to come from creating the file to waiting for more
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == status
    assert err == b""
    assert b"(interrupted)" in out
    assert set(destinations(output)) <= set(TRANSLATED)


def test_a_broken_pipe_is_quiet(start_cli, requests, rules):
    process = start_cli("replay", requests, "-o", "-", "-c", rules)
    process.stdout.close()
    assert b"error" not in process.stderr.read()
    process.wait(timeout=20)
    assert process.returncode != 0
