"""What a Host forwards: TTL, MTU, routes, link addresses, settings."""

import pytest
from lab import (
    CLI,
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
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_RR
from scapy.layers.inet6 import ICMPv6PacketTooBig as TooBig
from scapy.layers.inet6 import ICMPv6TimeExceeded as TimeExceeded6
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

import lvscore
from lvscore import Reason


def receive(host, packet, interface="cli", sender=ROUTER, now=SECOND):
    """What leaves for a packet: interfaces and dissected frames."""
    sent = host.receive(interface, frame(packet, interface, sender), now)
    return [(name, Ether(data)) for name, data in sent]


def test_both_directions_lose_a_hop_and_get_new_link_addresses():
    host = director()
    ((name, there),) = receive(host, request(ttl=64))
    assert (name, there.src, there.dst) == ("srv", SRV, SERVER)
    assert (there[IP].dst, there[TCP].dport, there[IP].ttl) == ("172.16.1.7", 8080, 63)
    ((name, back),) = receive(host, reply(ttl=9), "srv", SERVER)
    assert (name, back.src, back.dst) == ("cli", CLI, ROUTER)
    assert (back[IP].src, back[TCP].sport, back[IP].ttl) == (VIP, 80, 8)
    for packet in (there, back):  # checksums are right: building anew changes nothing
        anew = packet.copy()
        del anew[IP].chksum, anew[TCP].chksum
        assert bytes(anew) == bytes(packet)


@pytest.mark.parametrize("ttl", [0, 1])
def test_ttl_of_a_request_runs_out_after_it_opened_a_connection(ttl):
    host = director()
    ((name, error),) = receive(host, request(ttl=ttl))
    assert (name, error.dst, error[IP].src, error[IP].dst) == ("cli", ROUTER, VIP, CLIENT)
    assert (error[ICMP].type, error[ICMP].code, error[IP].tos, error[IP].ttl) == (11, 0, 0xC0, 64)
    assert bytes(error[ICMP].payload) == bytes(request(ttl=ttl))  # as it was received
    assert len(host.engine.connections) == 1


def test_ttl_of_a_reply_runs_out_before_it_changes_a_state():
    host = director()
    receive(host, request())
    receive(host, reply(), "srv", SERVER)
    receive(host, request(flags="A"))
    ((name, error),) = receive(host, reply(ttl=1, flags="FA"), "srv", SERVER)
    assert (name, error[IP].src, error[IP].dst) == ("srv", DIP, "172.16.1.7")
    assert bytes(error[ICMP].payload) == bytes(reply(ttl=1, flags="FA"))
    assert [c.state for c in host.engine.connections] == ["ESTABLISHED"]


def test_mtu_towards_the_server_quotes_one_hop_less():
    host = director()
    host.set_mtu("srv", 600)
    ((_, error),) = receive(host, request(size=700))
    assert (error[ICMP].type, error[ICMP].code, error[ICMP].nexthopmtu) == (3, 4, 600)
    assert len(error[IP]) == 576
    assert bytes(error[IP])[28:] == bytes(request(size=700, ttl=63))[: 576 - 28]


def test_mtu_towards_the_client_quotes_what_was_received():
    host = director()
    receive(host, request())
    host.set_mtu("cli", 600)
    ((_, error),) = receive(host, reply(size=700), "srv", SERVER)
    assert (error[IP].src, error[ICMP].type, error[ICMP].code) == (DIP, 3, 4)
    assert bytes(error[IP])[28:] == bytes(reply(size=700))[: 576 - 28]


def test_without_df_it_is_cut():
    host = director()
    host.set_mtu("srv", 576)
    sent = receive(host, request(size=1000, fragment=0))
    assert [len(packet[IP]) for _, packet in sent] == [572, 488]
    assert [packet[IP].frag for _, packet in sent] == [0, 69]
    assert all(packet.dst == SERVER for _, packet in sent)


def test_ipv6_errors_and_hop_limit():
    host = director()
    service = host.engine.add_service("udp", "[2001:db8::1]:53", scheduler="rr")
    service.add_server("[2001:db8:1::7]:53")

    def packet(hops, size):
        return IPv6(src="2001:db8:a::1", dst="2001:db8::1", hlim=hops) / UDP(
            sport=40000, dport=53
        ) / (b"x" * size)  # fmt: skip

    ((name, there),) = receive(host, packet(5, 10))
    assert (name, there[IPv6].hlim, there[IPv6].dst) == ("srv", 4, "2001:db8:1::7")
    ((name, error),) = receive(host, packet(1, 10))
    assert (name, error[IPv6].src, error[TimeExceeded6].code) == ("cli", "2001:db8::1", 0)
    host.set_mtu("srv", 1280)
    ((_, error),) = receive(host, packet(5, 1300))
    assert (error[TooBig].mtu, len(error[IPv6])) == (1280, 1280)


def test_the_longest_prefix_wins_and_local_comes_before_all():
    host = director()
    packet = datagram(destination="10.9.9.9")
    assert receive(host, packet, "srv", SERVER)[0][0] == "cli"
    host.add_route("10.9.0.0/16", via="172.16.1.8")
    ((name, there),) = receive(host, packet)
    assert (name, there.dst) == ("srv", OTHER)
    host.add_route("10.9.9.9", via="172.16.0.1")
    assert receive(host, packet, "srv", SERVER)[0][0] == "cli"
    host.add_route("10.9.0.0/20", local=True)
    host.remove_route("10.9.9.9/32")
    ((_, error),) = receive(host, packet)
    assert (error[ICMP].type, error[ICMP].code, error[IP].src) == (3, 3, "10.9.9.9")


def test_no_route_is_told_apart_for_requests_and_for_what_passes():
    host = director()
    host.add_route("10.0.0.0/24", via="172.16.0.1")
    host.remove_route("default")
    host.engine.find_service("tcp", f"{VIP}:80").add_server("192.168.9.9:80")
    ((_, error),) = receive(host, request())
    assert (error[ICMP].type, error[ICMP].code, error[IP].src) == (3, 1, VIP)
    ((_, error),) = receive(host, datagram(destination="192.168.9.9"))
    assert (error[ICMP].type, error[ICMP].code, error[IP].src) == (3, 0, "172.16.0.3")


def test_settings_have_the_kernels_defaults():
    host = lvscore.Host(lvscore.Engine(seed=0))
    assert host.sysctl["net.ipv4.ip_forward"] == 0
    assert host.sysctl["net.ipv4.conf.all.accept_source_route"] == 0
    assert host.sysctl["net.ipv4.ip_default_ttl"] == 64
    assert host.engine.sysctl["net.ipv4.vs.conn_reuse_mode"] == 1
    with pytest.raises(lvscore.NotFoundError, match="no setting"):
        host.sysctl["net.ipv4.no_such"] = 1
    with pytest.raises(lvscore.ConfigError, match=r"0\.\.1"):
        host.sysctl["net.ipv4.ip_forward"] = 2


def test_forwarding_off_keeps_requests_and_stops_replies():
    host = director()
    host.sysctl["net.ipv4.ip_forward"] = 0
    assert receive(host, request())[0][0] == "srv"
    assert receive(host, reply(), "srv", SERVER) == []
    assert host.engine.reasons[Reason.FORWARDING_DISABLED] == 1


def test_reverse_path_filter():
    host = director()
    host.sysctl["net.ipv4.conf.srv.rp_filter"] = 1
    packet = datagram(source="10.0.0.5", destination="172.16.0.9")
    assert receive(host, packet, "srv", SERVER) == []
    assert host.engine.reasons[Reason.BAD_SOURCE] == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: b"\x02\0\0\0\0\x99" + f[6:], Reason.NOT_ADDRESSED),
        (lambda f: f[:24] + bytes((f[24] ^ 1,)) + f[25:], Reason.BAD_IP_CHECKSUM),
        (lambda f: f[:40], Reason.BAD_IP_LENGTH),
    ],
)
def test_frames_that_are_not_taken_in(change, reason):
    host = director()
    assert host.receive("cli", change(frame(request())), SECOND) == []
    assert host.engine.reasons[reason] == 1


def test_record_route_is_filled_in_both_directions():
    host = director()
    receive(host, request())
    option = IPOption_RR(length=11, pointer=4, routers=["0.0.0.0", "0.0.0.0"])
    packet = request(flags="A")
    packet[IP].options = [option]
    ((_, there),) = receive(host, packet)
    assert there[IP].options[0].routers[0] == VIP
    back = reply()
    back[IP].options = [option]
    ((_, there),) = receive(host, back, "srv", SERVER)
    assert there[IP].options[0].routers[0] == VIP


def test_padding_is_cut():
    host = director()
    data = frame(request()) + bytes(6)
    ((_, sent),) = host.receive("cli", data, SECOND)
    assert len(sent) == len(data) - 6


def test_settings_by_their_last_part():
    """As ipvs-sysctl.rst and nf_conntrack-sysctl.rst name them."""
    settings = director().engine.sysctl
    settings["expire_nodest_conn"] = 1
    assert settings["net.ipv4.vs.expire_nodest_conn"] == 1
    del settings["expire_nodest_conn"]
    assert settings["expire_nodest_conn"] == 0
    assert "nf_conntrack_tcp_loose" in settings
    assert "expire" not in settings
    assert "expire_nodest_conn" not in list(settings)
