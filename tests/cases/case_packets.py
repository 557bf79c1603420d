"""Packets in words, as the cases write them.

    tcp 10.0.0.9:4000 -> 172.16.1.100:80 flags=S size=15 ttl=1 tos=0x8c id=7 df
    udp [2001:db8::9]:4000 -> [2001:db8::100]:53 size=2000 id=5 bytes=0-800
    icmp 192.0.2.1 -> 172.16.1.100 type=3/4 mtu=1400 { tcp 172.16.1.100:80 -> 10.0.0.9:4000 }

    sctp 10.0.0.9:4000 -> 10.0.0.1:80 chunk=init-ack tag=7 itag=9
    gre 10.0.0.9 -> 10.0.0.1 { udp 1.1.1.1:1 -> 2.2.2.2:2 }

`size` is the payload's, which counts up; `say=227_at_(1,2,3,4,5,6)` is a line of text, where `_`
stands for a blank. `bytes=a-b` is the fragment with these bytes of what
follows the IP header; it has MF unless it ends where the datagram does (`mf`, `last` overrule
that), and `other` gives it other content. `seq`, `ack`, `win` and `scale` (the window's) are
TCP's, `sack=a-b,c-d` are acknowledged blocks, `echo` is the identifier of an echo. `csum=zero` and
`csum=wrong` are transport checksums, `tcpdata` leaves a protocol's header away,
`ext=hop,dest,route` are IPv6 extension headers and `opt=rr,nop,lsrr` IPv4 options.
"""

import re
from ipaddress import ip_address

from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_LSRR, IPOption_NOP, IPOption_RR
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, GRE, Ether
from scapy.layers.sctp import (
    SCTP,
    SCTPChunkAbort,
    SCTPChunkCookieAck,
    SCTPChunkCookieEcho,
    SCTPChunkData,
    SCTPChunkInit,
    SCTPChunkInitAck,
    SCTPChunkSACK,
)
from scapy.packet import Raw

ENDPOINT = re.compile(
    r"(?:\[(?P<six>[^]]+)\]|(?P<four>[\d.]+)|(?P<bare>[\da-f:]+))(?::(?P<port>\d+))?$"
)
OPTIONS = {
    "rr": IPOption_RR(pointer=4, routers=["0.0.0.0", "0.0.0.0"]),
    "nop": IPOption_NOP(),
    "lsrr": IPOption_LSRR(pointer=4, routers=["192.0.2.9"]),
}
EXTENSIONS = {"hop": IPv6ExtHdrHopByHop, "dest": IPv6ExtHdrDestOpt, "route": IPv6ExtHdrRouting}
ERRORS = {1: ICMPv6DestUnreach, 2: ICMPv6PacketTooBig, 3: ICMPv6TimeExceeded}
CHUNKS = {
    "init": SCTPChunkInit, "init-ack": SCTPChunkInitAck, "cookie-echo": SCTPChunkCookieEcho,
    "cookie-ack": SCTPChunkCookieAck, "data": SCTPChunkData, "sack": SCTPChunkSACK,
    "abort": SCTPChunkAbort,
}  # fmt: skip
LINK = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}


def endpoint(text):
    found = ENDPOINT.match(text)
    assert found, f"{text!r} is no address"
    address = found["six"] or found["four"] or found["bare"]
    return ip_address(address), int(found["port"] or 0)


def content(size):
    return bytes(i % 251 for i in range(size))


def words(text):
    """Protocol, the two ends, and a dictionary of the rest; a quoted packet under "quoted"."""
    quoted = re.search(r"\{(.*)\}", text)
    given = {"quoted": quoted[1].strip() if quoted else ""}
    text = text.replace(quoted[0], "") if quoted else text
    protocol, source, arrow, destination, *rest = text.split()
    assert arrow == "->", f"{text!r}: no arrow"
    for word in rest:
        name, _, value = word.partition("=")
        given[name] = value or True
    return protocol, endpoint(source), endpoint(destination), given


def transport(protocol, sport, dport, given, six):
    if protocol == "tcp":
        flags = given.get("flags", "S")
        options = [("WScale", int(given["scale"]))] if "scale" in given else []
        if "sack" in given:
            edges = [int(edge) % 2**32 for edge in re.split("[-,]", given["sack"])]
            options += [("NOP", None), ("NOP", None), ("SAck", tuple(edges))]
        layer = TCP(
            sport=sport,
            dport=dport,
            flags="" if flags == "0" else flags,
            seq=int(given.get("seq", 1000)) % 2**32,
            ack=int(given.get("ack", 0)),
            window=int(given.get("win", 8192)),
            options=options,
        )
    elif protocol == "udp":
        layer = UDP(sport=sport, dport=dport)
    elif protocol == "sctp":
        return SCTP(sport=sport, dport=dport, tag=int(given.get("tag", 0))) / chunk(given)
    else:
        layer = message(given, six)
    payload = content(int(given.get("size", 0)))
    if "say" in given:
        payload = given["say"].replace("_", " ").encode() + b"\r\n"
    if given["quoted"]:
        payload = bytes(ip_packet(given["quoted"]))
        payload = payload[: int(given.get("cut", len(payload)))]
    return layer / Raw(payload)


def chunk(given):
    kind = CHUNKS[given["chunk"]]
    if kind in (SCTPChunkInit, SCTPChunkInitAck):
        return kind(init_tag=int(given["itag"]), a_rwnd=65536, n_out_streams=1, n_in_streams=1)
    if kind is SCTPChunkData:
        return kind(beginning=1, ending=1, data=content(int(given["size"])))
    return kind(cookie=b"cookie  ") if kind is SCTPChunkCookieEcho else kind()


def message(given, six):
    """An ICMP message: type=echo, type=reply, or type/code of an error."""
    kind = given["type"]
    mtu, identifier = int(given.get("mtu", 0)), int(given.get("echo", 9))
    if kind in ("echo", "reply"):
        if six:
            return (ICMPv6EchoRequest if kind == "echo" else ICMPv6EchoReply)(id=identifier, seq=1)
        return ICMP(type=8 if kind == "echo" else 0, id=identifier, seq=1)
    number, code = map(int, kind.split("/"))
    if not six:
        return ICMP(type=number, code=code, nexthopmtu=mtu)
    layer = ERRORS[number](code=code)
    if number == 2:
        layer.mtu = mtu
    return layer


def ip_packet(text):
    """The IP packet that a text describes, as a scapy packet without Ethernet."""
    protocol, (source, sport), (destination, dport), given = words(text)
    six = source.version == 6
    number = {"tcp": 6, "udp": 17, "icmp": 58 if six else 1, "ipip": 4, "ip6ip6": 41,
              "sctp": 132, "gre": 47}[protocol]  # fmt: skip
    identification = int(given.get("id", 1))
    if six:
        ip = IPv6(src=str(source), dst=str(destination), hlim=int(given.get("ttl", 64)),
                  tc=int(given.get("tos", "0"), 0))  # fmt: skip
        for name in filter(None, given.get("ext", "").split(",")):
            ip = ip / EXTENSIONS[name]()
    else:
        options = [OPTIONS[name] for name in filter(None, given.get("opt", "").split(","))]
        ip = IP(src=str(source), dst=str(destination), ttl=int(given.get("ttl", 64)),
                tos=int(given.get("tos", "0"), 0), id=identification, proto=number,
                flags="DF" if "df" in given else 0, options=options)  # fmt: skip
    if protocol in ("ipip", "ip6ip6"):
        return ip / ip_packet(given["quoted"])
    if protocol == "gre":
        return ip / GRE() / ip_packet(given["quoted"])
    body = transport(protocol, sport, dport, given, six)
    whole = ip / body
    if protocol in ("tcp", "udp", "icmp") and given.get("csum"):
        whole = checksum_set(whole, given["csum"])
    if "bytes" not in given and "atomic" not in given:
        return whole
    data = upper_bytes(whole)
    low, high = map(int, given.get("bytes", f"0-{len(data)}").split("-"))
    more = ("mf" in given or high < len(data)) and "last" not in given
    piece = (data + content(high))[low:high] if high > len(data) else data[low:high]
    if "other" in given:
        piece = bytes(byte ^ 255 for byte in piece)
    if six:
        header = IPv6ExtHdrFragment(id=identification, offset=low // 8, m=more, nh=number)
        return ip / header / Raw(piece)
    ip.frag, ip.flags = low // 8, ("MF" if more else 0)
    return ip / Raw(piece)


def checksum_set(whole, kind):
    built = whole.__class__(bytes(whole))
    layer = next(built[kind] for kind in (TCP, UDP, ICMP) if kind in built)
    layer.chksum = 0 if kind == "zero" else (layer.chksum + 0x101) % 0xFFFF
    return built


def upper_bytes(whole):
    """What follows the IP header and the extension headers, checksums made."""
    built = whole.__class__(bytes(whole))
    layer = built
    while layer.__class__ in (IP, IPv6, *EXTENSIONS.values()):
        layer = layer.payload
    return bytes(layer)


def frame(text, link=None):
    """The Ethernet frame that a text describes."""
    link = Ether(**(link or LINK))
    if text == "arp":
        return bytes(link / ARP(pdst="172.16.1.100"))
    given = words(text)[3]
    raw = bytes(link / ip_packet(text))
    if "truncated" in given:
        raw = raw[: int(given["truncated"])]
    return raw + b"\0" * int(given.get("padding", 0))


def identification_place(text):
    """Where an IPv6 fragment's identification lies in the frame; None if there is none."""
    _, (source, _), _, given = words(text)
    if source.version == 4 or not ("bytes" in given or "atomic" in given):
        return None
    extensions = len([name for name in given.get("ext", "").split(",") if name])
    return 14 + 40 + 8 * extensions + 4
