"""What the machine's own iptables prints of the same rules, in a namespace of its own.

The program is whichever ``iptables`` is installed, nf_tables or legacy; both are to print the same.
"""

import os
import shutil
import subprocess
from contextlib import contextmanager

import kernel
import pytest

import lvscore
from lvscore import programs

REASON = kernel.missing() or ("" if shutil.which("ip6tables") else "ip6tables is not installed")
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

RULES = {
    "iptables": [
        "-t nat -A PREROUTING -d 10.0.0.200 -j DNAT --to 172.16.1.100",
        "-t nat -A PREROUTING -d 10.0.0.200 -p tcp --dport 80 -j DNAT --to 172.16.1.7:8080",
        "-t nat -A PREROUTING -d 10.0.0.20 -p udp --dport 53:60 -j DNAT --to 172.16.1.7-172.16.1.9",
        "-t nat -A PREROUTING -p tcp --dport 440:450 -j DNAT --to 172.16.1.7:1440-1450/440",
        "-t nat -A PREROUTING ! -d 10.0.0.200 -p tcp ! --sport 1024: -j DNAT --to 172.16.1.7 "
        "--random --persistent",
        "-t nat -A PREROUTING -i eth0 -p tcp --dport 8080 -j REDIRECT --to-ports 9080",
        "-t nat -A PREROUTING ! -i eth0 -p udp -j REDIRECT",
        "-t nat -A PREROUTING -p sctp --dport 2905 -j DNAT --to 172.16.1.7:2905",
        "-t nat -A PREROUTING -p tcp -m multiport --dports 80,443,8000:8080 -j DNAT --to 1.1.1.1",
        "-t nat -A PREROUTING -p udp -m multiport ! --sports 53,123 -j ACCEPT",
        "-t nat -A PREROUTING -m mark --mark 0x10/0xf0 -j DNAT --to 172.16.1.8",
        "-t nat -A PREROUTING -m mark ! --mark 7 -j RETURN",
        "-t nat -A PREROUTING -p icmp -j DNAT --to 172.16.1.9",
        "-t nat -A PREROUTING ! -p gre -j ACCEPT",
        "-t nat -A PREROUTING -d 10.1.0.0/16 -j NETMAP --to 10.2.0.0/16",
        "-t nat -A POSTROUTING -s 172.16.1.0/24 -o eth0 -j SNAT --to 10.0.0.200-10.0.0.203",
        "-t nat -A POSTROUTING -p udp -j SNAT --to 10.0.0.200:1024-2047 --random-fully",
        "-t nat -A POSTROUTING -s 172.16.1.8 ! -o eth1 -j MASQUERADE",
        "-t nat -A POSTROUTING -p tcp -j MASQUERADE --to-ports 6000-7000 --random",
        "-t nat -I POSTROUTING 2 -s 10.9.0.0/16 -j ACCEPT",
        "-t mangle -A PREROUTING -p tcp --dport 80 -j MARK --set-mark 7",
        "-t mangle -A PREROUTING -d 10.0.0.201 -j MARK --set-xmark 0x10/0xf0",
        "-t mangle -A PREROUTING -j MARK --or-mark 8",
        "-t mangle -A PREROUTING -j MARK --and-mark 0xff",
        "-t mangle -A PREROUTING -j MARK --xor-mark 3",
        "-t raw -A PREROUTING -s 172.16.1.0/24 -p tcp --dport 21 -j CT --helper ftp",
        "-t raw -A PREROUTING ! -s 10.0.0.0/8 -j ACCEPT",
    ],
    "ip6tables": [
        "-t nat -A PREROUTING -d 2001:db8::200 -j DNAT --to 2001:db8:1::7",
        "-t nat -A PREROUTING -d 2001:db8::/64 -p tcp --dport 80 -j DNAT --to [2001:db8:1::7]:8080",
        "-t nat -A PREROUTING -p udp --dport 53 -j REDIRECT --to-ports 5353",
        "-t nat -A POSTROUTING -s fd00::/8 -j SNAT --to 2001:db8::1-2001:db8::9",
        "-t nat -A POSTROUTING -s fd00::/8 -o eth0 -j MASQUERADE",
        "-t nat -A POSTROUTING -p ipv6-icmp -j ACCEPT",
        "-t mangle -A PREROUTING -d 2001:db8::201 -j MARK --set-mark 9",
        "-t raw -A PREROUTING -p tcp -m multiport --dports 21,2121 -j CT --helper ftp",
    ],
}


@contextmanager
def namespace():
    """A namespace without interfaces: a program that runs commands in it."""
    name = f"lvst{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)

    def run(line):
        words = ["ip", "netns", "exec", name, *line.split()]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    try:
        yield run
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


@pytest.mark.parametrize("program", RULES)
def test_the_same_text(program):
    engine = lvscore.Engine(seed=0)
    with namespace() as run:
        for rule in RULES[program]:
            run(f"{program} {rule}")
            engine.iptables(f"{program} {rule}")
        differ = []
        for table in ("nat", "mangle", "raw"):
            for form in ("-S", "-L -n", "-L -n -v", "-L -n -v -x --line-numbers", "-S PREROUTING"):
                line = f"{program} -t {table} {form}"
                theirs, ours = run(line), engine.iptables(line)
                pairs = zip(theirs.splitlines(), ours.splitlines(), strict=False)
                differ += [(line, there, here) for there, here in pairs if there != here]
                if len(theirs.splitlines()) != len(ours.splitlines()):
                    differ.append((line, theirs, ours))
        for line in (f"{program}-save", f"{program}-save -c -t mangle"):
            saved = [row for row in run(line).splitlines() if not row.startswith("#")]
            ours = programs.execute(engine, line.split()).stdout.splitlines()
            differ += [(line, there, here) for there, here in zip(saved, ours, strict=True)
                       if there != here]  # fmt: skip
    assert not differ, "\n".join(f"{line}\n  theirs {a}\n  ours   {b}" for line, a, b in differ)
