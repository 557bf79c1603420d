"""Numbers that the core shares with Python (lvscore/constants.py has the same) and bounds."""

cdef enum:  # lvscore.Verdict
    VERDICT_DROP = 0
    VERDICT_FORWARD = 1
    VERDICT_LOCAL = 2
    VERDICT_PASS = 3
    VERDICT_STOLEN = 4

cdef enum:  # lvscore.Reason
    REASON_NONE = 0
    # forwarded
    REASON_REQUEST = 1
    REASON_REPLY = 2
    REASON_NEW_CONNECTION = 3
    REASON_CONNECTION_REUSED = 4
    REASON_RELATED_ICMP = 5
    REASON_UNTRANSLATED = 6
    # for the local stack
    REASON_LOCAL_ADDRESS = 7
    REASON_TCP_NOT_SYN = 8
    REASON_SOURCE_PORT_20 = 9
    # passed
    REASON_NOT_IP = 10
    REASON_NO_SERVICE = 11
    REASON_NO_PROTOCOL_HANDLER = 12
    REASON_ICMP_NOT_RELATED = 13
    REASON_FRAGMENT = 14
    REASON_INVALID_STATE = 15
    # dropped
    REASON_TRUNCATED_LINK_HEADER = 16
    REASON_TRUNCATED_IP_HEADER = 17
    REASON_BAD_IP_VERSION = 18
    REASON_BAD_IP_HEADER_LENGTH = 19
    REASON_BAD_IP_LENGTH = 20
    REASON_TOO_MANY_EXTENSIONS = 21
    REASON_TRUNCATED_TRANSPORT_HEADER = 22
    REASON_NO_REAL_SERVER = 23
    REASON_SERVER_REMOVED = 24
    REASON_BAD_ICMP_CHECKSUM = 25
    REASON_TABLE_FULL = 26
    REASON_NO_PORT = 27
    REASON_NO_ROUTE = 28
    # fragments
    REASON_FRAGMENT_HELD = 29
    REASON_FRAGMENT_DUPLICATE = 30
    REASON_FRAGMENT_OVERLAP = 31
    REASON_BAD_FRAGMENT = 32
    REASON_FRAGMENT_MEMORY = 33
    REASON_FRAGMENT_TIMEOUT = 34
    # of a Host
    REASON_ROUTED = 35
    REASON_NOT_ADDRESSED = 36
    REASON_BAD_IP_CHECKSUM = 37
    REASON_BAD_SOURCE = 38
    REASON_BAD_IP_OPTION = 39
    REASON_SOURCE_ROUTE = 40
    REASON_FORWARDING_DISABLED = 41
    REASON_TTL_EXPIRED = 42
    REASON_FRAGMENTATION_NEEDED = 43
    REASON_UNKNOWN_SERVER_PORT = 44
    REASON_DROP_RATE = 45
    REASON_NOT_UNICAST = 46
    REASON_SCTP_NOT_INIT = 47
    REASON_TUNNEL_MTU = 48
    REASON_NO_CALL_ID = 49
    REASON_BAD_TCP_CHECKSUM = 50
    REASON_TUNNEL_ERROR = 51
    # of conntrack
    REASON_UNTRANSLATABLE = 52
    REASON_EGRESS_CHANGED = 53
    REASON_CONNTRACK_BUSY = 54
    REASON_PORT_QUOTA = 55
    REASON_PARTIAL_COMMAND = 56
    REASON_COUNT = 57

cdef enum:
    IPV4 = 4
    IPV6 = 6

cdef enum:  # lvscore.LinkType
    LINK_NULL = 0
    LINK_ETHERNET = 1
    LINK_RAW = 101
    LINK_LOOP = 108
    LINK_LINUX_SLL = 113
    LINK_IPV4 = 228
    LINK_IPV6 = 229
    LINK_LINUX_SLL2 = 276

cdef enum:  # IP protocol numbers
    PROTOCOL_ICMP = 1
    PROTOCOL_TCP = 6
    PROTOCOL_UDP = 17
    PROTOCOL_GRE = 47
    PROTOCOL_ICMPV6 = 58
    PROTOCOL_SCTP = 132
    PROTOCOL_MARK = 255         # of services on a firewall mark, which have no protocol

cdef enum:  # direction of a packet in its connection
    ORIGINAL = 0
    REPLY = 1
    INPUT_ONLY = 2                  # to the tracker: ORIGINAL, and replies do not come by here

cdef enum:
    NIL = 0xFFFFFFFF                # no index
    TICKS_PER_SECOND = 1000         # timers count milliseconds
    NS_PER_TICK = 1000000
    MAX_VLAN_TAGS = 4
    MAX_IPV6_EXTENSIONS = 16
    MAX_DISPLACEMENT = 63           # buckets that an entry may lie behind its own
    MAX_CONNECTIONS = 33554432      # 2**25: their 2**26 tuples fill 2**24 buckets to 0.57
    ALL_PAGES = 0xFFFFFFFFFFFFFFFF  # memory without end
    VECTOR = 16                     # packets that go through the pipeline side by side
