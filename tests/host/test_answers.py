"""What a Host answers itself: echo, resets, unreachables, redirects, ARP."""

import pytest
from lab import (
    CLIENT,
    DIP,
    OTHER,
    ROUTER,
    SECOND,
    SERVER,
    SRV,
    VIP,
    datagram,
    director,
    frame,
    reply,
    request,
)  # fmt: skip
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption, fragment
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Ether
from test_forwarding import receive

import lvscore


def built_anew(packet, layer):
    """Whether scapy computes the same checksums."""
    anew = packet.copy()
    del anew[IP].chksum, anew[layer].chksum
    return bytes(anew) == bytes(packet)


def test_echo_and_timestamp():
    host = director()
    ((_, answer),) = receive(host, IP(src=CLIENT, dst=VIP) / ICMP(id=1, seq=2) / b"abcdefg")
    assert (answer[IP].src, answer[ICMP].type, answer[ICMP].id) == (VIP, 0, 1)
    assert bytes(answer[ICMP].payload) == b"abcdefg"
    assert built_anew(answer, ICMP)
    ((_, answer),) = receive(host, IP(src=CLIENT, dst=VIP) / ICMP(type=13, id=1), now=5 * SECOND)
    assert (answer[ICMP].type, answer[ICMP].ts_rx) == (14, 5000)
    host.sysctl["net.ipv4.icmp_echo_ignore_all"] = 1
    assert receive(host, IP(src=CLIENT, dst=VIP) / ICMP(), now=5 * SECOND) == []


def test_echo_ipv6():
    packet = IPv6(src="2001:db8:a::1", dst="2001:db8::1") / ICMPv6EchoRequest(id=3, data=b"x")
    ((_, answer),) = receive(director(), packet)
    assert answer[ICMPv6EchoReply].id == 3
    assert answer[IPv6].src == "2001:db8::1"


@pytest.mark.parametrize(
    ("flags", "answer"), [("S", "RA"), ("A", "R"), ("FA", "R"), ("", "RA"), ("R", None)]
)
def test_reset_from_a_closed_port(flags, answer):
    packet = IP(src=CLIENT, dst=VIP) / TCP(sport=4, dport=99, flags=flags, seq=7, ack=8) / b"xy"
    sent = receive(director(), packet)
    if answer is None:
        assert sent == []
        return
    ((_, reset),) = sent
    assert (reset[TCP].flags, reset[TCP].sport, reset[IP].flags) == (answer, 99, "DF")
    wanted = (8, 0) if answer == "R" else (0, 7 + 2 + flags.count("S"))
    assert (reset[TCP].seq, reset[TCP].ack) == wanted
    assert built_anew(reset, TCP)


def test_unreachables():
    host = director()
    ((_, error),) = receive(host, datagram(port=99))
    assert (error[ICMP].type, error[ICMP].code, error[IP].src) == (3, 3, VIP)
    ((_, error),) = receive(host, IP(src=CLIENT, dst=VIP, proto=47) / b"payload.")
    assert (error[ICMP].type, error[ICMP].code) == (3, 2)
    broken = bytearray(bytes(datagram(port=99)))
    broken[-1] ^= 1
    assert receive(host, IP(bytes(broken))) == []


def test_an_error_about_a_flow_comes_from_where_its_packet_went():
    """Conntrack takes the flow from the packet (nf_conntrack_attach), and its NAT the source."""
    host = director()
    for rule in (
        "-t nat -A PREROUTING -d 192.0.2.1 -j DNAT --to 172.16.1.7",
        "-t nat -A POSTROUTING -s 172.16.1.8 -o cli -j SNAT --to 192.0.2.2",
    ):
        host.engine.iptables(rule)

    def told(source, destination, interface="cli", sport=9, dport=9, **fields):
        packet = IP(src=source, dst=destination, **fields) / UDP(sport=sport, dport=dport)
        ((_, sent),) = receive(host, packet, interface)
        assert bytes(sent[ICMP].payload)[:28] == bytes(packet)[:28]
        return sent[ICMP].type, sent[IP].src, sent[IP].dst

    bad = IPOption(b"\x07\x07\x03\0\0\0\0\0")  # a pointer into the option itself
    # The rules are asked for what would open a flow, too.
    assert told(CLIENT, "192.0.2.1", ttl=1) == (11, "192.0.2.1", CLIENT)
    assert told(CLIENT, "192.0.2.1", options=[bad]) == (12, "192.0.2.1", CLIENT)
    assert told("172.16.1.8", "192.0.2.1", "srv", ttl=1) == (11, "192.0.2.1", "172.16.1.8")
    assert told("172.16.1.8", CLIENT, "srv", ttl=1) == (11, DIP, "172.16.1.8")
    # An answer to an address that only source NAT has.
    opening = IP(src="172.16.1.8", dst=CLIENT) / UDP(sport=53, dport=1000)
    assert len(receive(host, opening, "srv")) == 1
    answer = {"sport": 1000, "dport": 53}
    assert told(CLIENT, "192.0.2.2", ttl=1, **answer) == (11, "192.0.2.2", CLIENT)
    assert told(CLIENT, "192.0.2.2", options=[bad], **answer) == (12, "192.0.2.2", CLIENT)


@pytest.mark.parametrize(("option", "wrong"), [("86040000", 21), ("860a00000001010400010000", 22)])
def test_cipso_is_of_no_domain_that_is_known(option, wrong):
    """cipso_v4_validate: an error, which has the option itself."""
    options = [IPOption(bytes.fromhex(option))]
    packet = IP(bytes(IP(src=CLIENT, dst=VIP, options=options) / UDP() / b"data"))
    ((_, sent),) = receive(director(), packet)
    assert (sent[ICMP].type, sent[ICMP].code, sent[ICMP].ptr) == (12, 0, wrong)
    assert bytes(sent[IP])[20 : 20 + len(option) // 2].hex() == option


def test_a_datagram_whose_largest_piece_must_not_be_cut():
    """It must not be cut itself (ip_frag_reasm): IPVS looks at its length, a router sends back what
    IPVS has put together, and sends on what conntrack has."""
    host = director()

    def pieces(destination, size, *flags, port=80):
        whole = IP(src=CLIENT, dst=destination, id=9) / UDP(sport=7, dport=port) / bytes(1600)
        sent = []
        for piece, flag in zip(fragment(IP(bytes(whole)), size), flags, strict=True):
            piece.flags = piece.flags | flag
            del piece.chksum
            sent += receive(host, IP(bytes(piece)))
        return sent

    host.engine.add_service("udp", f"{VIP}:80", scheduler="rr").add_server("172.16.1.7:80")
    ((_, error),) = pieces(VIP, 1400, "DF", "DF")
    assert (error[ICMP].type, error[ICMP].code, error[ICMP].nexthopmtu) == (3, 4, 1500)
    assert IP(bytes(error[ICMP].payload)[:28]).flags == "DF"
    sent = pieces(VIP, 1400, 0, "DF")
    assert [frame[IP].flags for _, frame in sent] == ["MF", 0]
    ((_, error),) = pieces("172.16.1.7", 1400, "DF", "DF")
    assert (error[ICMP].type, error[ICMP].code, error[ICMP].nexthopmtu) == (3, 4, 1500)
    host.engine.iptables("-t nat -A POSTROUTING -s 192.0.2.99 -j MASQUERADE")
    sent = pieces("172.16.1.7", 1400, "DF", "DF")
    assert [frame[IP].flags for _, frame in sent] == ["MF", 0]
    host.engine.iptables("-t nat -F POSTROUTING")
    ((_, error),) = pieces(VIP, 1400, "DF", "DF", port=9)
    assert (error[ICMP].type, error[ICMP].code) == (3, 3)
    assert IP(bytes(error[ICMP].payload)[:28]).flags == "DF"


def test_groups_are_the_kernels_own_affair():
    """IGMP and PIM have handlers (igmp.c, ipmr.c): what they cannot use they drop."""
    for protocol, answers in ((2, 0), (103, 0), (50, 1)):
        packet = IP(src=CLIENT, dst=VIP, proto=protocol) / bytes(8)
        assert len(receive(director(), packet)) == answers
    for protocol, answers in ((103, 0), (50, 1)):
        packet = IPv6(src="2001:db8:a::1", dst="2001:db8::1", nh=protocol) / bytes(16)
        assert len(receive(director(), packet)) == answers


def test_no_errors_about_what_may_be_an_error():
    """Types of ICMP that the kernel has no use for, or does not know (icmp.c, icmp_pointers)."""
    answered = {
        kind
        for kind in range(256)
        if receive(director(), IP(src=CLIENT, dst="172.16.1.7", ttl=1) / ICMP(type=kind, code=0))
    }
    assert answered == {0, 8, 13, 14, 15, 16, 17, 18}


def test_hosts_that_were_told_something_are_forgotten_in_time(monkeypatch):
    """A flood of sources does not take memory for ever; those told last are remembered."""
    monkeypatch.setattr("lvscore.host.machine._MOST_TOLD", 3)
    host = director()
    host.remove_route("default")
    for number in (1, 2, 3, 1, 4, 5):
        packet = IP(src=f"172.16.0.{number}", dst="198.51.100.1") / UDP() / b"data"
        assert receive(host, packet, now=number * SECOND)  # asks for it, or tells it
        assert len(host._machine._told) <= 3
    assert [str(address)[-1] for address in host._machine._told] == ["1", "4", "5"]


def test_no_server_is_port_unreachable_also_for_tcp():
    host = director()
    host.engine.find_service("tcp", f"{VIP}:80").find_server("172.16.1.7:8080").edit(weight=0)
    ((_, error),) = receive(host, request())
    assert (error[ICMP].type, error[ICMP].code, error[IP].src) == (3, 3, VIP)


@pytest.mark.requirement("RFC 5508 REQ-10e")
def test_errors_are_not_sent_about_errors_fragments_and_groups():
    host = director()
    about = IP(src=CLIENT, dst="10.9.9.9", ttl=1)
    assert receive(host, about / ICMP(type=11) / bytes(request())) == []
    assert receive(host, IP(src=CLIENT, dst="10.9.9.9", ttl=1, frag=3) / b"12345678") == []
    assert receive(host, datagram(destination="224.0.0.1", port=99)) == []
    assert receive(host, datagram(destination="172.16.0.255", port=99)) == []


def test_that_there_is_no_route_is_told_five_times_at_once_then_once_a_second():
    host = director()
    host.remove_route("default")
    packet = datagram(source="172.16.1.7", destination="10.9.9.9", ttl=64)

    def told(now, count):
        return sum(len(receive(host, packet, "srv", SERVER, now=now)) for _ in range(count))

    assert told(SECOND, 9) == 5
    assert told(SECOND * 3 // 2, 2) == 0
    assert told(2 * SECOND, 2) == 1
    assert told(10 * SECOND, 9) == 5


def test_a_redirect_for_who_could_go_directly_and_only_as_often_as_the_kernel():
    host = director()
    host.add_route("10.9.0.0/16", via="172.16.1.8")
    packet = datagram(source="172.16.1.7", destination="10.9.9.9", ttl=64)
    (_, redirect), (_, there) = receive(host, packet, "srv", SERVER)
    assert (redirect[ICMP].type, redirect[ICMP].code, redirect[ICMP].gw) == (5, 1, "172.16.1.8")
    assert (redirect[IP].src, redirect[ICMP].payload.ttl) == (DIP, 63)
    assert there[IP].dst == "10.9.9.9"
    assert len(receive(host, packet, "srv", SERVER)) == 1
    assert len(receive(host, packet, "srv", SERVER, now=2 * SECOND)) == 2
    for name in ("all", "srv"):
        host.sysctl[f"net.ipv4.conf.{name}.send_redirects"] = 0
    assert len(receive(host, packet, "srv", SERVER, now=9 * SECOND)) == 1


@pytest.mark.parametrize("translates", [False, True])
def test_no_redirect_is_told_of_a_new_or_translated_flow(translates):
    """Conntrack drops it, and still it counts as sent (nf_nat_icmp_reply_translation)."""
    host = director()
    host.add_route("10.9.0.0/16", via="172.16.1.8")
    source = "172.16.1.7" if translates else "172.16.1.9"
    host.engine.iptables(f"iptables -t nat -A POSTROUTING -s {source} -j SNAT --to-source {DIP}")
    packet = datagram(source="172.16.1.7", destination="10.9.9.9", ttl=64)

    def told(now):
        return sum(ICMP in out for _, out in receive(host, packet, "srv", SERVER, now=now))

    assert told(SECOND) == 0
    assert told(SECOND + SECOND // 50) == 0  # too early for another
    assert told(2 * SECOND) == (0 if translates else 1)


def test_a_redirect_is_told_of_a_datagram_that_conntrack_puts_together():
    host = director()
    host.add_route("10.9.0.0/16", via="172.16.1.8")
    host.engine.iptables("iptables -t nat -A POSTROUTING -s 192.0.2.1 -j MASQUERADE")
    whole = datagram(source="172.16.1.7", destination="10.9.9.9", ttl=64, id=9) / (b"x" * 40)
    receive(host, whole, "srv", SERVER)
    pieces = fragment(whole, 24)
    for piece in pieces[:-1]:
        assert receive(host, piece, "srv", SERVER, now=2 * SECOND) == []
    (_, redirect), *sent = receive(host, pieces[-1], "srv", SERVER, now=2 * SECOND)
    assert (redirect[ICMP].type, redirect[ICMP].gw) == (5, "172.16.1.8")
    quoted = redirect[ICMP].payload
    assert (quoted.ttl, quoted.len, quoted.flags, quoted.frag) == (63, len(whole), 0, 0)
    assert len(sent) == len(pieces)


def test_no_redirect_about_what_a_translated_flow_is_answered_with():
    """It would be of that flow to conntrack, though what it tells of is INVALID."""
    host = director()
    host.add_route("10.9.0.0/16", via="172.16.1.8")
    host.engine.iptables(
        "iptables -t nat -A POSTROUTING -s 10.9.0.0/16 -j SNAT --to-source 10.1.1.1"
    )
    request = IP(src="10.9.9.9", dst="172.16.1.7") / TCP(sport=7, dport=80, flags="S")
    assert len(receive(host, request, "srv", OTHER)) == 1
    invalid = IP(src="172.16.1.7", dst="10.9.9.9") / TCP(sport=80, dport=7, flags="SA", ack=9)
    ((_, packet),) = receive(host, invalid, "srv", SERVER, now=2 * SECOND)
    assert packet[IP].src == "172.16.1.7"


def test_an_error_to_an_address_that_rules_translate_clients_to():
    """The server knows its client by it; netfilter takes the error on to the client."""
    host = director()
    host.engine.sysctl["net.ipv4.vs.conntrack"] = 1
    host.engine.iptables(f"iptables -t nat -A POSTROUTING -o srv -j SNAT --to-source {DIP}")
    ((_, sent),) = receive(host, request())
    assert sent[IP].src == DIP
    error = IP(src="172.16.1.7", dst=DIP) / ICMP(type=11) / bytes(sent[IP])[:28]
    ((name, told),) = receive(host, error, "srv", SERVER)
    assert (name, told[IP].src, told[IP].dst, told[IP].ttl) == ("cli", VIP, CLIENT, 63)
    quoted = IP(bytes(told[ICMP].payload))
    assert (quoted.src, quoted.dst) == (CLIENT, VIP)


def test_a_redirect_is_told_of_an_answer_in_a_flow_that_conntrack_knows():
    host = director()
    host.engine.sysctl["net.ipv4.vs.conntrack"] = 1
    host.engine.iptables("iptables -t nat -A POSTROUTING -s 192.0.2.1 -j MASQUERADE")
    host.add_route("10.0.0.0/24", via="172.16.1.8")
    receive(host, request())
    (_, redirect), _ = receive(host, reply(), "srv", SERVER)
    assert (redirect[ICMP].type, redirect[ICMP].gw) == (5, "172.16.1.8")
    host.engine.sysctl["net.ipv4.vs.conntrack"] = 0
    receive(host, request(port=40001))
    ((_, packet),) = receive(host, reply(port=40001, flags="A"), "srv", SERVER, now=9 * SECOND)
    assert packet[IP].src == VIP  # to conntrack each answer begins a flow


def test_arp_is_answered_for_own_addresses():
    host = director()
    question = Ether(dst="ff:ff:ff:ff:ff:ff", src=SERVER) / ARP(
        op=1, hwsrc=SERVER, psrc="172.16.1.7", pdst=VIP
    )
    ((name, sent),) = host.receive("srv", bytes(question), SECOND)
    answer = Ether(sent)
    assert (name, answer.dst, answer[ARP].op, answer[ARP].hwsrc) == ("srv", SERVER, 2, SRV)
    question[ARP].pdst = "172.16.1.99"
    assert host.receive("srv", bytes(question), SECOND) == []


def test_a_neighbour_is_asked_for_and_what_waited_is_sent():
    host = director()
    ((name, question),) = receive(host, datagram(destination="172.16.1.50"))
    assert (name, question[ARP].psrc, question[ARP].pdst) == ("srv", DIP, "172.16.1.50")
    mac = "02:00:00:00:00:50"
    answer = Ether(dst=SRV, src=mac) / ARP(op=2, hwsrc=mac, psrc="172.16.1.50", hwdst=SRV, pdst=DIP)
    ((name, sent),) = host.receive("srv", bytes(answer), SECOND + 1000)
    assert (name, Ether(sent).dst, Ether(sent)[IP].ttl) == ("srv", mac, 63)
    assert len(receive(host, datagram(destination="172.16.1.50"), now=2 * SECOND)) == 1


def test_a_neighbour_that_does_not_answer_is_unreachable_after_three_questions():
    host = director()
    receive(host, datagram(destination="172.16.1.50"))
    assert len(host.advance(2 * SECOND)) == 1
    assert len(host.advance(3 * SECOND)) == 1
    ((name, sent),) = host.advance(4 * SECOND)
    error = Ether(sent)
    assert (name, error.dst, error[ICMP].type, error[ICMP].code) == ("cli", ROUTER, 3, 1)
    assert host.advance(60 * SECOND) == []


def test_an_incomplete_datagram_is_reported_to_who_sent_it():
    host = director()
    first = IP(src=CLIENT, dst=VIP, flags="MF", id=9, proto=17) / (b"x" * 64)
    assert receive(host, first) == []
    ((_, sent),) = host.advance(40 * SECOND)
    error = Ether(sent)
    assert (error[ICMP].type, error[ICMP].code, error[IP].src) == (11, 1, VIP)
    assert bytes(error[ICMP].payload) == bytes(first)


def test_last_service_gone_and_replies_leave_as_they_are():
    host = director()
    receive(host, request())
    host.engine.clear_services()
    ((_, back),) = receive(host, reply(), "srv", SERVER)
    assert back[IP].src == "172.16.1.7"
    ((_, reset),) = receive(host, request(flags="A"))
    assert reset[TCP].flags == "R"


def test_configuration_mistakes_name_the_value():
    host = director()
    with pytest.raises(lvscore.DuplicateError, match="cli"):
        host.add_interface("cli")
    with pytest.raises(lvscore.NotFoundError, match="eth9"):
        host.receive("eth9", frame(request()), SECOND)
    with pytest.raises(lvscore.ConfigError, match=r"192\.0\.2\.1"):
        host.add_route("10.1.0.0/16", via="192.0.2.1")
    with pytest.raises(lvscore.ConfigError, match="mtu=10"):
        host.set_mtu("cli", 10)
    with pytest.raises(lvscore.ConfigError, match="zz"):
        host.add_neighbour("172.16.1.9", "zz", "srv")
    with pytest.raises(lvscore.NotFoundError, match=r"172\.16\.9\.9"):
        host.remove_address("srv", "172.16.9.9")
    host.remove_address("srv", VIP)
    ((name, asked),) = receive(host, request())
    assert (name, asked[ARP].pdst) == ("srv", VIP)  # not its own any more: routed


def test_limits_leave_the_host_as_it_was():
    host = director()

    def fill():
        for n in range(2000):
            host.add_route(f"10.{n >> 8}.{n & 255}.0/24", via="172.16.0.1")

    with pytest.raises(lvscore.LimitError, match="1024"):
        fill()
    ((name, there),) = receive(host, request())
    assert (name, there[IP].dst) == ("srv", "172.16.1.7")


def test_random_frames_never_raise():
    import random

    host = director()
    host.engine.add_service("udp", f"{VIP}:53", scheduler="rr").add_server("172.16.1.7")
    chance = random.Random(1)
    seeds = [frame(request()), frame(datagram()), frame(request(flags="A", size=40))]
    for n in range(4000):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(4)):
            data[chance.randrange(12, len(data))] = chance.randrange(256)
        if chance.random() < 0.5:  # let most pass the first check
            size = (data[14] & 15) * 4
            data[24:26] = b"\0\0"
            data[24:26] = lvscore.host.packets.checksum(data[14 : 14 + size]).to_bytes(2, "big")
        host.receive("cli", data[: chance.randrange(14, len(data) + 1)], SECOND + n)
