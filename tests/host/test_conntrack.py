"""What conntrack sees on a Host: what is refused before routing, and what stays here."""

import pytest
from lab import CLIENT, DIP, SECOND, SERVER, VIP, director, frame, request
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.l2 import Ether

from lvscore import Reason
from lvscore.conntrack import expectations

RS, OWN = "172.16.1.7", "172.16.0.3"
BAD_OPTION = IPOption(b"\x07\x07\x01" + bytes(5))  # its pointer lies inside its header


def send(host, packet, interface="cli", now=SECOND, sender=SERVER):
    """What leaves for a packet, without its Ethernet headers."""
    out = host.receive(interface, frame(packet, interface, sender), now)
    assert host.engine._selfcheck() == 0
    return [Ether(bytes(data)).payload for _, data in out]


def refused(packet):
    """The packet with options for which it is dropped before it is routed."""
    packet = packet.copy()
    packet[IP].options = [BAD_OPTION]
    del packet[IP].ihl, packet[IP].len, packet[IP].chksum
    return packet


def entries(host):
    return host.engine.conntrack("-L").splitlines()


def test_what_is_refused_is_expected_no_more():
    """An expectation ends with the first packet that fits it (init_conntrack), though that is
    dropped before it is confirmed."""
    host = director()
    host.engine.iptables("-t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp")

    def say(source, destination, flags, seq, ack, text=b""):
        ports = {"sport": 40000, "dport": 21} if source == CLIENT else {"sport": 21, "dport": 40000}
        header = TCP(**ports, flags=flags, seq=seq, ack=ack, window=64240)
        interface = "cli" if source == CLIENT else "srv"
        assert len(send(host, IP(src=source, dst=destination) / header / text, interface)) == 1

    say(CLIENT, RS, "S", 1000, 0)
    say(RS, CLIENT, "SA", 5000, 1001)
    say(CLIENT, RS, "A", 1001, 5001)
    say(CLIENT, RS, "PA", 1001, 5001, b"NOOP\r\n")
    say(CLIENT, RS, "PA", 1007, 5001, b"PORT 10,0,0,1,13,5\r\n")
    assert [one.destination_port for one in expectations(host.engine)] == [3333]
    data = IP(src=RS, dst=CLIENT) / TCP(sport=20, dport=3333, flags="S", seq=1)
    known = len(entries(host))
    send(host, refused(data), "srv")
    assert host.engine.last_reason == Reason.BAD_IP_OPTION
    assert expectations(host.engine) == []
    assert len(entries(host)) == known
    send(host, data, "srv")
    assert host.engine.conntrack("-L -u EXPECTED") == ""


def test_rules_of_the_mangle_table_count_what_is_refused():
    host = director()
    host.engine.iptables(f"-t mangle -A PREROUTING -s {CLIENT} -j MARK --set-mark 5")
    (rule,) = host.engine.rules
    send(host, request())
    send(host, refused(request()))
    assert host.engine.last_reason == Reason.BAD_IP_OPTION
    assert host.engine.rule_counters(rule) == (2, 40 + 48)


def test_a_refused_segment_of_a_service_moves_conntracks_state_alone():
    host = director()
    host.engine.sysctl["net.ipv4.vs.conntrack"] = 1
    host.engine.add_masquerade(source="192.0.2.0/24")

    def segment(flags, seq, ack=0):
        header = TCP(sport=40000, dport=80, flags=flags, seq=seq, ack=ack, window=64240)
        return IP(src=CLIENT, dst=VIP) / header

    answer = TCP(sport=8080, dport=40000, flags="SA", seq=5000, ack=1001, window=64240)
    send(host, segment("S", 1000))
    send(host, IP(src=RS, dst=CLIENT) / answer, "srv")
    send(host, segment("A", 1001, 5001))
    send(host, refused(segment("FA", 1001, 5001)))
    assert host.engine.last_reason == Reason.BAD_IP_OPTION
    assert entries(host)[0].split()[3] == "FIN_WAIT"
    assert next(iter(host.engine.connections)).state == "ESTABLISHED"


def test_a_server_on_this_host_whose_client_is_known_already():
    """The nat table's hook in LOCAL_IN gives the second flow another port (a null binding)."""
    host = director()
    host.engine.sysctl["net.ipv4.vs.conntrack"] = 1
    host.engine.add_masquerade(source="192.0.2.0/24")
    host.engine.add_service("udp", f"{VIP}:53").add_server(f"{DIP}:5353")
    direct = IP(src=CLIENT, dst=DIP) / UDP(sport=40000, dport=5353) / b"direct"
    send(host, direct)
    (answer,) = send(host, IP(src=CLIENT, dst=VIP) / UDP(sport=40000, dport=53) / b"query")
    assert host.engine.last_reason != Reason.NO_PORT
    ports = [line.split("dport=")[2].split()[0] for line in entries(host)]
    assert len(ports) == len(set(ports)) == 2
    assert "40000" in ports
    # The local stack has no such port: what it says of that finds its way back.
    assert (answer[ICMP].type, answer[ICMP].code, answer.dst) == (3, 3, CLIENT)
    quoted = answer[ICMP].payload
    assert (quoted.src, quoted.dst) == (CLIENT, VIP)
    assert (quoted.payload.sport, quoted.payload.dport) == (40000, 53)


def dnat(host, destination):
    """Send what a client calls the director by, port 9000, to another address."""
    for protocol in ("tcp", "udp"):
        host.engine.add_dnat(
            destination=OWN, protocol=protocol, destination_ports=9000, to=destination
        )


def called(flags="S", seq=1000):
    return IP(src=CLIENT, dst=OWN) / TCP(sport=40000, dport=9000, flags=flags, seq=seq, ack=5)


def test_what_ipvs_leaves_to_the_local_stack_is_answered_by_the_address_that_was_called():
    """Out of state for the service, but a flow to conntrack (LOCAL_IN)."""
    host = director()
    dnat(host, f"{VIP}:80")
    (answer,) = send(host, called("A"))
    assert host.engine.last_reason == Reason.TCP_NOT_SYN
    assert (answer.src, answer.dst, answer[TCP].flags) == (OWN, CLIENT, "R")
    assert (answer[TCP].sport, answer[TCP].dport) == (9000, 40000)
    assert entries(host) == []  # nothing but a reset came back
    (out,) = send(host, called("S", 2000))
    assert (out.dst, out[TCP].dport) == (RS, 8080)


@pytest.mark.parametrize("on", [0, 1])
@pytest.mark.parametrize("dport", [53, 9000])
def test_a_service_that_is_added_takes_flows_that_are_known(on, dport):
    host = director()
    host.engine.sysctl["net.ipv4.vs.conntrack"] = on
    dnat(host, f"{VIP}:53")
    query = IP(src=CLIENT, dst=VIP if dport == 53 else OWN) / UDP(sport=40000, dport=dport) / b"q"
    (answer,) = send(host, query)
    assert (answer[ICMP].type, answer[ICMP].payload.dst) == (3, query.dst)
    service = host.engine.add_service("udp", f"{VIP}:53")
    (answer,) = send(host, query)
    assert host.engine.last_reason == Reason.NO_REAL_SERVER
    assert (answer[ICMP].type, answer[ICMP].payload.dst) == (3, query.dst)
    service.add_server(f"{RS}:5353")
    for _ in range(3):
        (out,) = send(host, query)
        assert (out.dst, out[UDP].dport) == (RS, 5353)
    assert len(host.engine.ipvsadm("-L -c -n").splitlines()) == 3  # two of titles
    answer = IP(src=RS, dst=CLIENT) / UDP(sport=5353, dport=40000) / b"a"
    (out,) = send(host, answer, "srv")
    # With conntrack=1 the flow is the client's, else IPVS has taken it from netfilter.
    assert (out.src, out[UDP].sport) == ((OWN, 9000) if on and dport == 9000 else (VIP, 53))
    assert len(entries(host)) == 1


def test_a_service_that_is_added_leaves_what_is_no_beginning():
    host = director()
    host.engine.add_masquerade(source="192.0.2.0/24")

    def segment(flags, seq):
        return IP(src=CLIENT, dst=VIP) / TCP(sport=40000, dport=99, flags=flags, seq=seq, ack=1)

    assert len(send(host, segment("A", 1000))) == 1
    host.engine.add_service("tcp", f"{VIP}:99").add_server(f"{RS}:99")
    (answer,) = send(host, segment("A", 1000))
    assert (answer.src, answer[TCP].flags) == (VIP, "R")
    (out,) = send(host, segment("S", 5000))
    assert out.dst == RS


def test_a_server_on_this_host_behind_a_dnat_rule():
    host = director()
    host.engine.sysctl["net.ipv4.vs.conntrack"] = 1
    dnat(host, f"{VIP}:53")
    host.engine.add_service("udp", f"{VIP}:53").add_server(f"{DIP}:5353")
    query = IP(src=CLIENT, dst=OWN) / UDP(sport=40000, dport=9000) / b"query"
    for _ in range(2):
        (answer,) = send(host, query)
        assert (answer.src, answer[ICMP].type) == (OWN, 3)
        assert (answer[ICMP].payload.dst, answer[ICMP].payload.payload.dport) == (OWN, 9000)
    (line,) = entries(host)
    assert f"dst={OWN} sport=40000 dport=9000" in line
    assert f"src={DIP} dst={CLIENT} sport=5353 dport=40000" in line
