"""The enumerations that Python and the compiled core share.

``lvscore/_core/consts.pxd`` has the same numbers for the core; a test compares the two.
"""

from enum import IntEnum

__all__ = ["LinkType", "Reason", "State", "Verdict"]


class Verdict(IntEnum):
    """What becomes of a frame."""

    DROP = 0
    """Dropped."""
    FORWARD = 1
    """To be sent on: translated, or tracked and left as it is."""
    LOCAL = 2
    """For this host's own stack."""
    PASS = 3
    """Not ours, and untouched."""
    STOLEN = 4
    """Consumed: what leaves for it is in ``engine.emitted``."""


class Reason(IntEnum):
    """Why a frame got its verdict."""

    NONE = 0
    """Not processed yet."""
    REQUEST = 1
    """Belongs to a known connection, in the direction of its first packet: forwarded."""
    REPLY = 2
    """Answers a known connection: forwarded."""
    NEW_CONNECTION = 3
    """Opened a connection: forwarded."""
    CONNECTION_REUSED = 4
    """A SYN that replaced a closed connection of the same tuple: forwarded."""
    RELATED_ICMP = 5
    """An ICMP error about a known connection, translated outside and inside: forwarded."""
    UNTRANSLATED = 6
    """Tracked for the NAT rules, none of which changes it: forwarded."""
    LOCAL_ADDRESS = 7
    """For an address of this host, and no service on it: local."""
    TCP_NOT_SYN = 8
    """For a service, but neither of a known connection nor able to open one: local."""
    SOURCE_PORT_20 = 9
    """From port 20 (FTP data), which IPVS never schedules: local."""
    NOT_IP = 10
    """Neither IPv4 nor IPv6: passed."""
    NO_SERVICE = 11
    """No service, rule or connection has to do with it: passed."""
    NO_PROTOCOL_HANDLER = 12
    """A transport protocol that is not translated: passed."""
    ICMP_NOT_RELATED = 13
    """An ICMP error about no known connection: passed."""
    FRAGMENT = 14
    """A fragment that is not put together: no service or rule has to do with it, or the
    capture has only part of it: passed."""
    INVALID_STATE = 15
    """A segment that no connection state allows (netfilter's INVALID): passed untranslated."""
    TRUNCATED_LINK_HEADER = 16
    """The frame ends inside its link header: dropped."""
    TRUNCATED_IP_HEADER = 17
    """The frame ends inside its IP header or IPv6 extension headers: dropped."""
    BAD_IP_VERSION = 18
    """The IP version is not the one that the link header announced: dropped."""
    BAD_IP_HEADER_LENGTH = 19
    """The IPv4 header length is below 20 or beyond the total length: dropped."""
    BAD_IP_LENGTH = 20
    """The IP length is beyond the frame: dropped."""
    TOO_MANY_EXTENSIONS = 21
    """More IPv6 extension headers than are followed: dropped."""
    TRUNCATED_TRANSPORT_HEADER = 22
    """The packet ends inside its TCP, UDP or SCTP header: dropped if it has to do with a connection
    or service, passed or local if not even its ports are there."""
    NO_REAL_SERVER = 23
    """The scheduler found no server to take a connection: dropped."""
    SERVER_REMOVED = 24
    """Belongs to a connection whose server was removed: dropped."""
    BAD_ICMP_CHECKSUM = 25
    """An ICMP error about a known connection, with a wrong checksum: dropped."""
    TABLE_FULL = 26
    """The connection table is at its bound: dropped."""
    NO_PORT = 27
    """No free port is left to translate a source to: dropped."""
    NO_ROUTE = 28
    """There is no route; masquerading: or no address on the interface: dropped."""
    FRAGMENT_HELD = 29
    """A fragment, kept until its datagram is whole: stolen."""
    FRAGMENT_DUPLICATE = 30
    """A fragment that brings nothing new: dropped."""
    FRAGMENT_OVERLAP = 31
    """A fragment that overlaps another: dropped with its whole datagram."""
    BAD_FRAGMENT = 32
    """A fragment of impossible length or ECN: dropped with its whole datagram."""
    FRAGMENT_MEMORY = 33
    """No room for another fragment: dropped."""
    FRAGMENT_TIMEOUT = 34
    """The fragments of a datagram did not all come in time: dropped, and a Host tells."""
    ROUTED = 35
    """Routed by a Host, and nothing else has to do with it: forwarded."""
    NOT_ADDRESSED = 36
    """The frame is for another link address: dropped."""
    BAD_IP_CHECKSUM = 37
    """The IPv4 header checksum is wrong: dropped."""
    BAD_SOURCE = 38
    """A source that cannot be: an address of this host, a multicast one, or (rp_filter) one
    that packets would not be sent to by the interface it came in on: dropped."""
    BAD_IP_OPTION = 39
    """An IPv4 option that is malformed: dropped, and the sender is told."""
    SOURCE_ROUTE = 40
    """A source route, with accept_source_route=0: dropped."""
    FORWARDING_DISABLED = 41
    """For another host, and ip_forward=0: dropped."""
    TTL_EXPIRED = 42
    """TTL or hop limit was 1 or 0: dropped, and the sender is told."""
    FRAGMENTATION_NEEDED = 43
    """Longer than the MTU, and not to be fragmented: dropped, and the sender is told."""
    UNKNOWN_SERVER_PORT = 44
    """From a real server, of no connection, with nat_icmp_send=1: dropped, and it is told."""
    DROP_RATE = 45
    """Would have opened a connection, but drop_packet takes its share: dropped."""
    NOT_UNICAST = 46
    """For a multicast or broadcast address: for the local stack."""
    SCTP_NOT_INIT = 47
    """For a service, but neither of a known association nor able to open one: local."""
    TUNNEL_MTU = 48
    """The MTU leaves no room for a tunnel's headers, or the packet is too long for them:
    dropped."""
    NO_CALL_ID = 49
    """For a service with the persistence engine sip, and no SIP message that has a Call-ID:
    dropped."""
    BAD_TCP_CHECKSUM = 50
    """A segment of a connection that a helper looks after, with a wrong checksum: dropped."""
    TUNNEL_ERROR = 51
    """An ICMP error about a packet in a tunnel to a server: stolen by a Host, which tells that
    packet's sender."""
    UNTRANSLATABLE = 52
    """An ICMP error about a translated connection that quotes too little of its packet to be
    translated, or a redirect about one: dropped."""
    EGRESS_CHANGED = 53
    """Of a masqueraded connection, but it would leave by another interface: dropped, and the
    connection ends."""
    CONNTRACK_BUSY = 54
    """It would begin a connection anew, but conntrack knows the old one's flow
    (``net.ipv4.vs.conntrack=1``): the old one ended, sent once more it begins the new one."""
    PORT_QUOTA = 55
    """Would open a translated connection, but its client holds as many ports as it may:
    dropped."""
    PARTIAL_COMMAND = 56
    """A line of FTP's that begins to announce a data connection and does not end in this segment,
    or cannot be read, where conntrack's helper looks: dropped, to be sent again whole."""


class State(IntEnum):
    """States of a connection, under the names that IPVS and netfilter share."""

    NONE = 0
    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT = 4
    TIME_WAIT = 5
    CLOSE = 6
    CLOSE_WAIT = 7
    LAST_ACK = 8
    LISTEN = 9
    SYNACK = 10
    SYN_SENT2 = 11
    """Simultaneous open (netfilter only)."""
    UDP = 12
    """A UDP connection of a service: IPVS knows one state."""
    UNREPLIED = 13
    """A UDP or other datagram flow of the NAT rules, not answered yet."""
    REPLIED = 14
    """The same, answered."""
    ASSURED = 15
    """The same, answered and in use for longer than two seconds."""
    INIT1 = 16
    """SCTP: the client's first INIT; the states from here on are of SCTP alone."""
    INIT = 17
    """The client's INIT came again."""
    COOKIE_SENT = 18
    """The server's INIT ACK, with a cookie."""
    COOKIE_REPLIED = 19
    """The client's COOKIE ECHO."""
    COOKIE_WAIT = 20
    """An INIT of the server's."""
    COOKIE = 21
    """The client's INIT ACK to it."""
    COOKIE_ECHOED = 22
    """The server's COOKIE ECHO."""
    SHUTDOWN_SENT = 23
    """The server's SHUTDOWN."""
    SHUTDOWN_RECEIVED = 24
    """The client's SHUTDOWN."""
    SHUTDOWN_ACK_SENT = 25
    """The server's SHUTDOWN ACK."""
    REJECTED = 26
    """An INIT that was answered with ABORT."""
    CLOSED = 27
    """After SHUTDOWN COMPLETE or ABORT; of the NAT rules' flows also what an INIT begins with."""
    HEARTBEAT_SENT = 28
    """A HEARTBEAT over a path that is new (netfilter only)."""


class LinkType(IntEnum):
    """Link-layer header types, by their registered LINKTYPE_ numbers."""

    NULL = 0
    ETHERNET = 1
    RAW = 101
    LOOP = 108
    LINUX_SLL = 113
    IPV4 = 228
    IPV6 = 229
    LINUX_SLL2 = 276
