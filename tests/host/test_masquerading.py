"""Masquerading on a Host: whose address it is when the way out changes (nf_nat_masquerade.c)."""

import pytest
from lab import CLIENT, ROUTER, SECOND, SERVER, VIP, datagram, director, frame, reply, request
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from lvscore import Reason, Verdict

DIP, OUTSIDE, THIRD = "172.16.1.3", "172.16.0.3", "172.16.2.3"


def three_arms():
    """The director with one more interface, which leads to the servers' network as well."""
    host = director()
    host.add_interface("alt", addresses=[f"{THIRD}/24"], mac="02:00:00:00:12:01")
    host.add_neighbour("172.16.2.1", SERVER, "alt")
    return host


def sent(host, packet, now, interface="cli"):
    """(interface, IP packet) that leaves for one that came in; None if nothing does."""
    out = host.receive(interface, frame(packet, interface), now)
    assert host.engine._selfcheck() == 0
    if not out:
        return None
    ((name, raw),) = out
    return name, Ether(raw)[IP]


def flows(host):
    return [entry for entry in host.engine.conntrack("-L").splitlines() if "use=1" in entry]


def test_masquerading_towards_a_router_that_has_a_link_local_address():
    """As IPv6 routers announce themselves: the flow leaves with an address that reaches further."""
    host = director()
    host.add_address("cli", "fe80::3/64")
    host.add_route("::/0", via="fe80::1", interface="cli")
    host.add_neighbour("fe80::1", ROUTER, "cli")
    host.engine.add_masquerade(family=6)
    out = IPv6(src="2001:db8:1::7", dst="2001:db8:f::9") / UDP(sport=5000, dport=53)
    ((name, raw),) = host.receive("srv", frame(out, "srv"), 0)
    assert (name, Ether(raw)[IPv6].src) == ("cli", "2001:db8:c::3")


def test_a_flow_that_leaves_by_another_interface_is_dropped_and_ends():
    host = three_arms()
    host.engine.add_masquerade(source="172.16.1.0/24")
    out = IP(src="172.16.1.7", dst="10.9.9.9") / UDP(sport=5000, dport=53)
    name, packet = sent(host, out, 0, "srv")
    assert (name, packet.src) == ("cli", OUTSIDE)
    host.add_route("10.9.0.0/16", via="172.16.2.1")
    assert sent(host, out, SECOND, "srv") is None
    assert host.engine.last_reason == Reason.EGRESS_CHANGED
    assert flows(host) == []
    name, packet = sent(host, out, 2 * SECOND, "srv")
    assert (name, packet.src) == ("alt", THIRD)


def test_flows_end_with_the_address_that_masquerades_them():
    host = three_arms()
    host.add_address("cli", "172.16.0.4/24")
    host.engine.add_masquerade(source="172.16.1.0/24")
    host.engine.add_snat(source="172.16.2.0/24", to=OUTSIDE)
    out = IP(src="172.16.1.7", dst="10.9.9.9") / UDP(sport=5000, dport=53)
    static = IP(src="172.16.2.7", dst="10.9.9.9") / UDP(sport=6000, dport=53)
    assert sent(host, out, 0, "srv")[1].src == OUTSIDE
    assert sent(host, static, 0, "srv")[1].src == OUTSIDE
    host.remove_address("cli", "172.16.0.4")
    assert len(flows(host)) == 2
    host.remove_address("cli", OUTSIDE)
    (line,) = flows(host)  # what a rule translates to the address stays
    assert "src=172.16.2.7" in line
    host.add_address("cli", "172.16.0.5/24")
    assert sent(host, out, SECOND, "srv")[1].src == "172.16.0.5"


def test_flows_end_with_the_interface_that_they_are_masqueraded_to():
    host = three_arms()
    engine = host.engine
    engine.sysctl["net.ipv4.vs.conntrack"] = 1
    engine.add_masquerade(source=CLIENT)
    host.add_route("172.16.1.7/32", via="172.16.2.1")
    assert sent(host, request(), 0)[1].src == THIRD
    host.remove_interface("srv")
    assert len(flows(host)) == 1
    host.remove_interface("alt")
    assert flows(host) == []
    assert len(engine.connections) == 1  # IPVS keeps its own
    assert engine._selfcheck() == 0


@pytest.mark.parametrize("method", ["masquerade", "route"])
def test_so_is_a_connection_of_a_service_that_conntrack_knows(method):
    host = three_arms()
    engine = host.engine
    engine.sysctl["net.ipv4.vs.conntrack"] = 1
    (service,) = engine.services
    (server,) = service.servers
    server.remove()
    service.add_server("172.16.1.7:80", method=method)
    engine.add_masquerade(source=CLIENT)
    name, packet = sent(host, request(), 0)
    assert (name, packet.src) == ("srv", DIP)
    host.add_route("172.16.1.7/32", via="172.16.2.1")
    assert sent(host, request(), SECOND) is None
    assert engine.last_reason == Reason.EGRESS_CHANGED
    assert flows(host) == []
    assert len(engine.connections) == 1  # IPVS keeps its own
    # The next packet begins a flow with the other address.
    name, packet = sent(host, request(), 2 * SECOND)
    assert (name, packet.src) == ("alt", THIRD)
    (line,) = flows(host)
    assert f"dst={THIRD}" in line


def test_a_flow_that_the_server_began_is_masqueraded_towards_the_client():
    """The client's packets are its answers: they may leave by any interface."""
    host = three_arms()
    engine = host.engine
    engine.sysctl["net.ipv4.vs.conntrack"] = 1
    engine.add_service("udp", f"{OUTSIDE}:53").add_server("172.16.1.7:53")
    engine.add_masquerade(source=OUTSIDE)
    asked = datagram(destination=OUTSIDE)
    answer = IP(src="172.16.1.7", dst=CLIENT) / UDP(sport=53, dport=40000) / b"data"
    assert sent(host, asked, 0)[0] == "srv"
    engine.conntrack("-D -p udp")
    assert sent(host, answer, SECOND, "srv")[0] == "cli"
    (line,) = flows(host)
    assert f"src=172.16.1.7 dst={CLIENT}" in line.split("[")[0]
    assert sent(host, asked, 2 * SECOND)[0] == "srv"
    host.add_route("172.16.1.7/32", via="172.16.2.1")
    assert sent(host, asked, 3 * SECOND)[0] == "alt"


def test_one_packet_scheduling_over_two_interfaces():
    """Its flow is the first datagram's, whichever server the others go to: every other one is of
    another interface, and ends it."""
    host = three_arms()
    engine = host.engine
    engine.sysctl["net.ipv4.vs.conntrack"] = 1
    service = engine.add_service("udp", f"{VIP}:53", scheduler="rr", one_packet=True)
    for address in ("172.16.1.7", "172.16.2.1"):
        service.add_server(f"{address}:53")
    engine.add_masquerade(source=CLIENT)
    seen = []
    for number in range(6):
        out = sent(host, datagram(), number * SECOND)
        seen.append(out and (out[0], out[1].src))
        assert out or engine.last_reason == Reason.EGRESS_CHANGED
    one, other = ("srv", DIP), ("alt", THIRD)
    assert seen in ([one, None] * 3, [other, None] * 3)


def test_an_interface_of_a_host_can_be_named_to_explain():
    host = director()
    engine = host.engine
    engine.iptables("-t mangle -A PREROUTING -i cli -j MARK --set-mark 9")
    engine.add_fwmark_service(9).add_server("172.16.1.7")
    raw = frame(request(destination="172.16.1.3"))
    assert "firewall mark 9" not in str(engine.explain(raw))
    told = engine.explain(raw, ingress="cli")
    assert told.verdict == Verdict.FORWARD
    assert Ether(told.frame)[IP].dst == "172.16.1.7"
    assert engine.explain(raw, ingress="srv").verdict != Verdict.FORWARD
    assert len(engine.connections) == 0
    # It says what the Host does then.
    ((name, out),) = host.receive("cli", raw, 0)
    assert name == "srv"
    assert out[14:] == told.frame[14:]
    # Answers are routed by the Host, too.
    host.receive("cli", frame(request()), SECOND)
    told = engine.explain(frame(reply(), "srv"), ingress="srv")
    assert told.frame[8 + 14] == 63  # TTL
