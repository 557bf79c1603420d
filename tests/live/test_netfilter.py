"""The machine's own nf_conntrack and nf_nat as a witness.

The same packets, seeded and random, go through a network namespace that iptables made a router
and through a Host with the same rules; what leaves must be the same, byte for byte, and so must
what conntrack lists in the end. Where the kernel draws lots, its choice is learnt.
"""

import shutil
import time
from pathlib import Path

import kernel
import pytest
from conformance import compare
from conformance.lots import Lots
from traffic import SCTP, Traffic, packed

import lvscore

ADDRESSES = {"cli": "10.0.0.200/24", "srv": "172.16.1.200/24"}
PEERS = {
    "cli": {f"10.0.0.{n}": f"02:00:00:00:20:{n:02x}" for n in range(1, 10)},
    "srv": {f"172.16.1.{n}": f"02:00:00:00:21:{n:02x}" for n in (*range(7, 17), 100)},
}
REASON = kernel.missing()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

RULES = {
    "dnat and snat": [
        "-t nat -A PREROUTING -d 10.0.0.200 -j DNAT --to 172.16.1.100",
        "-t nat -A POSTROUTING -s 172.16.1.0/24 -o cli -j SNAT --to 10.0.0.200",
    ],
    "ports": [
        "-t nat -A PREROUTING -d 10.0.0.200 -p tcp --dport 80 -j DNAT --to 172.16.1.7:8080",
        "-t nat -A PREROUTING -i cli -p tcp --dport 8080 -j REDIRECT --to-ports 9080",
        "-t nat -A PREROUTING -d 10.0.0.200 -p udp -m multiport --dports 53,5000 -j DNAT --to "
        "172.16.1.8-172.16.1.9:5353",
        "-t nat -A PREROUTING -d 10.0.0.200 ! -p udp -j DNAT --to 172.16.1.100",
        "-t nat -A POSTROUTING -s 172.16.1.8 -o cli -j SNAT --to 10.0.0.202",
        "-t nat -A POSTROUTING -s 172.16.1.0/24 ! -d 10.0.0.3 -o cli -j MASQUERADE",
        "-t nat -A POSTROUTING -s 10.0.0.0/24 -o srv -j MASQUERADE",
    ],
    "networks": [
        "-t nat -A PREROUTING -s 10.0.0.2 -j ACCEPT",
        "-t nat -A PREROUTING -d 10.0.0.200 -p tcp --dport 440:450 -j DNAT --to "
        "172.16.1.100:1440-1450/440",
        "-t nat -A PREROUTING -d 10.0.0.200 -j DNAT --to 172.16.1.7-172.16.1.9 --persistent",
        "-t nat -A POSTROUTING -s 172.16.1.0/24 -o cli -j NETMAP --to 10.0.0.0/24",
    ],
    "tracking alone": ["-t nat -A POSTROUTING -d 192.0.2.0/24 -j SNAT --to 10.0.0.200"],
}


# SCTP's states last three seconds, which a slow machine may need between two packets.
SCTP_TIMEOUTS = [
    f"net.netfilter.nf_conntrack_sctp_timeout_{state}"
    for state in (
        "closed", "cookie_wait", "cookie_echoed", "established", "shutdown_sent",
        "shutdown_recd", "shutdown_ack_sent", "heartbeat_sent",
    )
]  # fmt: skip
SCTP_RULES = {
    "dnat and snat": RULES["dnat and snat"],
    "ports": [
        "-t nat -A PREROUTING -d 10.0.0.200 -p sctp --dport 80 -j DNAT --to 172.16.1.7:8080",
        "-t nat -A PREROUTING -d 10.0.0.200 -p sctp -m multiport --dports 53,5000 -j DNAT --to "
        "172.16.1.8-172.16.1.9:5353",
        "-t nat -A PREROUTING -d 10.0.0.200 -j DNAT --to 172.16.1.100",
        "-t nat -A POSTROUTING -p sctp -s 172.16.1.0/24 -o cli -j MASQUERADE",
        "-t nat -A POSTROUTING -s 10.0.0.0/24 -o srv -p sctp --dport 5353 -j SNAT --to "
        "172.16.1.200:7000-7900",
    ],
}


@pytest.fixture
def router():
    made = kernel.Router(ADDRESSES, PEERS)
    yield made
    made.close()


def host(rules):
    engine = lvscore.Engine(max_connections=65536, seed=0)
    made = lvscore.Host(engine)
    for name, address in ADDRESSES.items():
        made.add_interface(name, addresses=[address], mac=kernel.LINKS[name])
        for neighbour, mac in PEERS[name].items():
            made.add_neighbour(neighbour, mac, name)
    made.sysctl["net.ipv4.ip_forward"] = 1
    for name in ("all", "cli", "srv"):
        made.sysctl[f"net.ipv4.conf.{name}.send_redirects"] = 0
    for rule in rules:
        engine.iptables(rule)
    return made


def ethernet(link, packet):
    return bytes.fromhex(kernel.LINKS[link].replace(":", "")) + b"\x02\0\0\0\x20\1\x08\0" + packet


def shown(sent):
    """What came out as the recordings have it; ARP apart, which the witness may ask for."""
    return [
        [link, frame[:6].hex(), frame[14 : 14 + int.from_bytes(frame[16:18], "big")].hex()]
        for link, frame in sent
        if frame[12:14] == b"\x08\0"
    ]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", RULES)
def test_the_same_bytes_leave(router, name, seed):
    compare_routers(router, RULES[name], Traffic(seed))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", SCTP_RULES)
def test_the_same_bytes_leave_of_sctp(router, name, seed):
    if not Path("/proc/sys", SCTP_TIMEOUTS[0].replace(".", "/")).exists():
        pytest.skip("this kernel's conntrack does not know SCTP")
    settings = dict.fromkeys(SCTP_TIMEOUTS, 300)
    compare_routers(router, SCTP_RULES[name], Traffic(seed, [SCTP]), settings)


def compare_routers(router, rules, traffic, settings=()):
    """Send the traffic through the kernel and through lvscore."""
    for rule in rules:
        router.run(f"iptables {rule}")
    machine = host(rules)
    for name in settings:
        router.run(f"sysctl -qw {name}={settings[name]}")
        machine.engine.sysctl[name] = settings[name]
    # Errors of the router itself may come from whatever a flow was translated to.
    own = {packed(f"{net}.{n}") for net in ("10.0.0", "172.16.1") for n in range(256)}
    lots = Lots(own)
    history = []
    for number in range(700):
        link, packet, flow = traffic.next()
        arrived = lots.incoming(packet)
        now = time.monotonic_ns()
        sent = machine.receive(link, ethernet(link, arrived), now)
        ours = shown(sent)
        theirs = shown(router.receive(link, ethernet(link, packet), len(sent)))
        if len(theirs) == len(ours) == 1 and theirs[0][2][24:32] == ours[0][2][24:32]:
            lots.learn(arrived, theirs[0][2], ours[0][2])
        ours = [[link_, hop, lots.outgoing(hexed)] for link_, hop, hexed in ours]
        history.append((number, link, packet.hex(), theirs))
        assert compare.same_packets(theirs, ours, packet, own), (
            f"packet {number} on {link}: {packet.hex()}\nkernel  {theirs}\nlvscore {ours}\n"
            f"{machine.engine.explain(ethernet(link, arrived), now)}\n"
            f"{machine.engine.conntrack('-L')}\n{router.run('conntrack -L')}"
            + "\n".join(map(str, related(history, packet)))
        )
        if flow is not None and len(theirs) == 1 and bytes.fromhex(theirs[0][2])[9] == packet[9]:
            traffic.saw(flow, bytes.fromhex(theirs[0][2]))
    if shutil.which("conntrack"):
        ours = set(map(lasting, lots.listing(machine.engine.conntrack("-L")).splitlines()))
        theirs = set(map(lasting, router.run("conntrack -L").splitlines()))
        assert (ours - theirs, theirs - ours) == (set(), set())


def related(history, packet):
    """What was sent before by one of the packet's ports, for a failure's report."""
    ports = {packet[20:22], packet[22:24]} - {(n).to_bytes(2, "big") for n in range(10000)}
    return [
        entry for entry in history
        if ports & {bytes.fromhex(entry[2])[20:22], bytes.fromhex(entry[2])[22:24]}
    ][-30:]  # fmt: skip


def lasting(line):
    """A line without the time that is left, and the number of uses."""
    words = line.split()
    return " ".join([*words[:2], *words[3:-1]])
