"""Direct routing and tunnels: what leaves, and what is remembered."""

import pytest
from packets import CLIENT, RS1, VIP, checksums_good, tcp, udp
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE, Ether

import lvscore
from lvscore import Reason, Tunnel, Verdict
from lvscore.errors import ConfigError

VIP6, RS6, CLIENT6 = "2001:db8::1", "2001:db8:1::7", "2001:db8:a::9"


def service(vip=VIP, server=f"{RS1}:80", **options):
    engine = lvscore.Engine(seed=1)
    endpoint = f"[{vip}]:80" if ":" in vip else f"{vip}:80"
    web = engine.add_service("tcp", endpoint, scheduler="rr")
    web.add_server(server, **options)
    return engine, web


def wrapped(engine, frame):
    """The frame that leaves for one that is wrapped."""
    before = bytes(frame)
    assert engine.process(frame, 0) == Verdict.STOLEN
    assert bytes(frame) == before
    emitted = engine.emitted
    assert list(emitted.verdict) == [Verdict.FORWARD]
    return bytes(emitted[0])


def test_direct_routing_changes_nothing():
    engine, web = service(method="route")
    frame = tcp(CLIENT, 1000, VIP, 80)
    before = bytes(frame)
    assert engine.process(frame, 0) == Verdict.FORWARD
    assert bytes(frame) == before
    connection = engine.connections["tcp", f"{CLIENT}:1000", f"{VIP}:80"]
    assert (connection.state, str(connection.server)) == ("SYN_RECV", f"{RS1}:80")
    assert [s.active for s in web.servers] == [1]


def test_half_of_a_connection_is_tracked_by_the_tables_for_it():
    """INPUT_ONLY: the client's FIN ends what the director sees (FIN_WAIT, not CLOSE_WAIT)."""
    engine, _ = service(method="route")
    for flags, state in (("S", "SYN_RECV"), ("A", "ESTABLISHED"), ("FA", "FIN_WAIT")):
        engine.process(tcp(CLIENT, 1000, VIP, 80, flags), 0)
        assert [c.state for c in engine.connections] == [state]


def test_reuse_mode_2_takes_a_half_connection_in_fin_wait():
    engine, _ = service(method="route")
    for flags in ("S", "A", "FA"):
        engine.process(tcp(CLIENT, 1000, VIP, 80, flags), 0)
    engine.process(tcp(CLIENT, 1000, VIP, 80, "S"), 0)
    assert engine.last_reason == Reason.REQUEST
    engine.process(tcp(CLIENT, 1000, VIP, 80, "FA"), 0)
    engine.process(tcp(CLIENT, 1000, VIP, 80, "A"), 0)
    engine.process(tcp(CLIENT, 1000, VIP, 80, "FA"), 0)
    engine.sysctl["net.ipv4.vs.conn_reuse_mode"] = 2
    engine.process(tcp(CLIENT, 1000, VIP, 80, "S"), 0)
    assert engine.last_reason in (Reason.CONNECTION_REUSED, Reason.REQUEST)


@pytest.mark.parametrize(
    ("tos", "outer"), [(0, 0), (0xB8, 0xB8), (0x01, 0x01), (0x02, 0x02), (0x03, 0x02)]
)
def test_ipip(tos, outer):
    engine, _ = service(method="tunnel")
    inner = IP(src=CLIENT, dst=VIP, tos=tos, flags="DF", ttl=9) / TCP(sport=1000, dport=80)
    frame = bytearray(bytes(Ether() / inner))
    out = wrapped(engine, frame)
    packet = Ether(out)
    assert (packet[IP].src, packet[IP].dst, packet[IP].proto) == (VIP, RS1, 4)
    assert (packet[IP].tos, packet[IP].ttl, packet[IP].flags, packet[IP].id) == (outer, 9, "DF", 0)
    assert out[34:] == bytes(frame[14:])
    assert packet[IP].len == len(frame) - 14 + 20
    rebuilt = IP(out[14:])
    del rebuilt.chksum
    assert bytes(rebuilt)[:20] == out[14:34]


def test_without_df_the_outer_header_has_an_identification():
    engine, _ = service(method="tunnel")
    frame = bytearray(bytes(Ether() / IP(src=CLIENT, dst=VIP) / TCP(sport=1, dport=80)))
    assert Ether(wrapped(engine, frame))[IP].flags == 0
    engine.sysctl["net.ipv4.vs.pmtu_disc"] = 0
    frame = bytearray(bytes(Ether() / IP(src=CLIENT, dst=VIP, flags="DF") / TCP(sport=1, dport=80)))
    assert Ether(wrapped(engine, frame))[IP].flags == 0


@pytest.mark.parametrize("checksum", ["nocsum", "csum", "remcsum"])
def test_gue(checksum):
    engine, web = service(method="tunnel", tunnel=Tunnel("gue", 6080, checksum))
    frame = tcp(CLIENT, 1000, VIP, 80, payload=b"odd")
    out = wrapped(engine, frame)
    packet = Ether(out)
    assert (packet[IP].proto, packet[UDP].dport) == (17, 6080)
    assert 32768 <= packet[UDP].sport <= 60999
    assert out[42:46] == bytes((0, 4, 0, 0))  # GUE: version 0, IPv4 in IP
    assert out[46:] == bytes(frame[14:])
    assert (packet[UDP].chksum != 0) == (checksum != "nocsum")
    assert checksum == "nocsum" or checksums_good(bytearray(out))
    assert web.servers[0].tunnel == Tunnel("gue", 6080, checksum)


@pytest.mark.parametrize("checksum", ["nocsum", "csum"])
def test_gre(checksum):
    engine, _ = service(method="tunnel", tunnel=Tunnel("gre", 0, checksum))
    frame = tcp(CLIENT, 1000, VIP, 80, payload=b"abc")
    out = wrapped(engine, frame)
    packet = Ether(out)
    assert (packet[IP].proto, packet[GRE].proto) == (47, 0x0800)
    assert packet[GRE].chksum_present == (checksum == "csum")
    header = 8 if checksum == "csum" else 4
    assert out[34 + header :] == bytes(frame[14:])
    if checksum == "csum":
        given, packet[GRE].chksum = packet[GRE].chksum, None
        assert GRE(bytes(packet[GRE])).chksum == given


@pytest.mark.parametrize(
    ("vip", "server", "client", "protocol", "ethertype"),
    [
        (VIP6, f"[{RS6}]:80", CLIENT6, 41, 0x86DD),
        (VIP, f"[{RS6}]:80", CLIENT, 4, 0x86DD),
        (VIP6, f"{RS1}:80", CLIENT6, 41, 0x0800),
    ],
)
def test_tunnels_of_and_through_ipv6(vip, server, client, protocol, ethertype):
    engine, _ = service(vip, server, method="tunnel")
    # The tunnel begins at an address of this host that is of the server's family.
    engine.routes.add_interface("eth0", addresses=["172.16.1.3/24", "2001:db8:1::3/64"])
    frame = tcp(client, 1000, vip, 80)
    out = wrapped(engine, frame)
    packet = Ether(out)
    assert packet.type == ethertype
    outer = packet[IPv6] if ethertype == 0x86DD else packet[IP]
    assert (outer.nh if ethertype == 0x86DD else outer.proto) == protocol
    assert outer.dst == server.rsplit(":", 1)[0].strip("[]")
    assert out.endswith(bytes(frame[14:]))
    connection = next(iter(engine.connections))
    assert str(connection.server.address) == outer.dst


def test_without_an_address_of_the_servers_family_there_is_no_tunnel():
    engine, _ = service(VIP, f"[{RS6}]:80", method="tunnel")
    assert engine.process(tcp(CLIENT, 1, VIP, 80), 0) == Verdict.DROP
    assert engine.last_reason == Reason.NO_ROUTE


def test_an_icmp_error_goes_to_the_server_in_the_connections_own_way():
    engine, _ = service(method="tunnel")
    engine.process(tcp(CLIENT, 1000, VIP, 80), 0)
    quote = IP(src=VIP, dst=CLIENT) / TCP(sport=80, dport=1000)
    error = Ether() / IP(src="10.0.0.254", dst=VIP) / ICMP(type=3, code=4) / quote
    frame = bytearray(bytes(error))
    assert wrapped(engine, frame)[34:] == bytes(frame[14:])
    assert engine.last_reason == Reason.RELATED_ICMP


def test_an_edit_leaves_live_connections_their_method():
    engine, web = service(method="masquerade")
    engine.process(tcp(CLIENT, 1000, VIP, 80), 0)
    web.edit_server(f"{RS1}:80", method="route")
    assert web.servers[0].method == "route"
    old, new = tcp(CLIENT, 1000, VIP, 80, "A"), tcp(CLIENT, 1001, VIP, 80)
    before = bytes(new)
    engine.process(old, 0)
    engine.process(new, 0)
    assert Ether(bytes(old))[IP].dst == RS1
    assert bytes(new) == before


def test_other_link_types():
    engine, _ = service(method="tunnel")
    for link_type, header in ((101, b""), (113, bytes(14) + b"\x08\x00"), (0, b"\2\0\0\0")):
        packet = bytes(tcp(CLIENT, 5, VIP, 80)[14:])
        frame = bytearray(header + packet)
        assert engine.process(frame, 0, link_type) == Verdict.STOLEN
        out = bytes(engine.emitted[0])
        assert out[: len(header)] == header
        assert out[len(header) + 20 :] == packet


def test_a_packet_too_long_to_be_wrapped():
    engine, _ = service(method="tunnel")
    engine.process(tcp(CLIENT, 1000, VIP, 80), 0)
    frame = tcp(CLIENT, 1000, VIP, 80, "A", payload=bytes(65535 - 40 - 10))
    assert engine.process(frame, 0) == Verdict.DROP
    assert engine.last_reason == Reason.TUNNEL_MTU


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"method": "x"}, "'x'"),
        ({"method": "tunnel", "tunnel": Tunnel("vxlan")}, "vxlan"),
        ({"method": "tunnel", "tunnel": Tunnel("gue")}, "port 0"),
        ({"method": "tunnel", "tunnel": Tunnel("ipip", 5)}, "port 5"),
        ({"method": "tunnel", "tunnel": Tunnel("gre", 0, "remcsum")}, "remcsum"),
        ({"method": "route", "tunnel": Tunnel()}, "'route'"),
    ],
)
def test_bad_methods_are_named(options, named):
    engine = lvscore.Engine()
    web = engine.add_service("tcp", f"{VIP}:80")
    with pytest.raises(ConfigError, match=named):
        web.add_server(f"{RS1}:80", **options)
    assert web.servers == []


def test_only_tunnels_cross_families():
    engine = lvscore.Engine()
    web = engine.add_service("tcp", f"{VIP}:80")
    with pytest.raises(ConfigError, match="families"):
        web.add_server(f"[{RS6}]:80", method="route")
    server = web.add_server(f"[{RS6}]:80", method="tunnel")
    with pytest.raises(ConfigError, match="families"):
        server.edit(method="masquerade")
    assert server.method == "tunnel"


def test_udp_through_a_tunnel_keeps_its_checksum():
    """Only translation fills in a checksum that was left away."""
    engine = lvscore.Engine(seed=1)
    engine.add_service("udp", f"{VIP}:53").add_server(f"{RS1}:53", method="tunnel")
    frame = udp(CLIENT, 1, VIP, 53, chksum=0)
    assert wrapped(engine, frame)[34:] == bytes(frame[14:])
