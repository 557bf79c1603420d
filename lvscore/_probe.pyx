"""The core's inline functions, one by one, for tests and micro-benchmarks.

Tuples are (protocol, source, source port, destination, destination port) with packed
addresses and ports in host order.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from lvscore._core cimport checksum as _checksum
from lvscore._core cimport consts as _consts
from lvscore._core cimport rules as _rules
from lvscore._core cimport scheduler_types as _types
from lvscore._core cimport server as _server
from lvscore._core.bytes cimport htons, load_be16, load_be32, ntohs
from lvscore._core.checksum cimport checksum_finish, sum_bytes
from lvscore._core.connection cimport (
    Connection4, Connection6, Extension, FLAG_TRACKED, connection_close, connection_hash,
    connection_open, connection_shadowed, connection_tuple, table_find, table_free, table_init,
    table_meta,
)
from lvscore._core.connection cimport Table as Table_t
from lvscore._core.consts cimport IPV4, IPV6, NIL, REASON_COUNT
from lvscore._core.crc32c cimport CRC32C_START, crc32c_update, sctp_checksum_write
from lvscore._core.entry cimport (
    Entries, entries_free, entries_init, entry_close, entry_open,
)
from lvscore._core.flow cimport (
    Address, Tuple, address_load, packet_tuple, ports_destination, ports_make, ports_source,
    tuple_hash, tuple_inverse,
)
from lvscore._core.hash cimport HashKey, hash_key_init, random_next
from lvscore._core.hash cimport jhash2 as _jhash2
from lvscore._core.index cimport (
    Bucket, Cursor, index_copy, index_free, index_init, index_insert, index_next, index_remove,
    index_replace, index_seek,
)
from lvscore._core.index cimport Index as Index_t
from lvscore._core.machine cimport lowest_bit, lowest_bit64, match_tags, multiply_fold
from lvscore._core.route cimport (
    Routes, address_is_local, local_add, local_remove, prefix_matches, routes_free, routes_init,
)
from lvscore._core.selfcheck cimport index_check, table_check
from lvscore._core.track cimport Tracker as Tracker_t
from lvscore._core.track cimport rule_flow_state as _rule_flow_state
from lvscore._core.track cimport DATAGRAM, state_is_active, tracker_init, tracker_secure
from lvscore._core.track_sctp cimport sctp_event as _sctp_event
from lvscore._core.translate cimport packet_translate
from lvscore._core.unique_tuple cimport Search, reply_is_free, tuple_choose, tuple_keep
from lvscore._core.unique_tuple cimport address_choose as _address_choose
from lvscore._core.wheel cimport Timer, wheel_unlink
from lvscore._core.wire cimport Packet, packet_parse

__all__ = [
    "Index", "Locals", "Table", "Tracker", "address_choose", "checksum", "checksum_change",
    "checksum_update", "constants", "crc32c", "delta", "hash_tuple", "inverse",
    "jhash2", "load_be", "lowest_bits", "match", "multiply", "parse", "prefix_match",
    "random_numbers", "repeat_checksum", "repeat_crc32c", "repeat_parse", "repeat_update",
    "rule_flow_state", "rule_match", "sctp_checksummed", "sctp_event", "sizes", "translate",
    "udp_checksum_update",
]


cdef Tuple tuple_from(object given) except *:
    cdef Tuple t
    protocol, source, sport, destination, dport = given
    t.family = IPV4 if len(source) == 4 else IPV6
    t.protocol = protocol
    t.source = address_from(source)
    t.destination = address_from(destination)
    t.ports = ports_make(htons(sport), htons(dport))
    return t


cdef object tuple_to(const Tuple* t):
    cdef int size = 4 if t.family == IPV4 else 16
    return (t.protocol, (<const char*>&t.source)[:size], ntohs(ports_source(t.ports)),
            (<const char*>&t.destination)[:size], ntohs(ports_destination(t.ports)))


cdef Address address_from(bytes packed) except *:
    if len(packed) not in (4, 16):
        raise ValueError(f"an address has 4 or 16 bytes, not {len(packed)}")
    return address_load(<const uint8_t*><const char*>packed, IPV4 if len(packed) == 4 else IPV6)


cdef HashKey key_from(object seed) except *:
    cdef HashKey key
    hash_key_init(&key, seed & 0xFFFFFFFFFFFFFFFF, seed >> 64)
    return key


def sizes():
    return {
        "Connection4": sizeof(Connection4), "Connection6": sizeof(Connection6),
        "Bucket": sizeof(Bucket), "Server": sizeof(_server.Server),
        "Extension": sizeof(Extension), "Timer": sizeof(Timer),
    }


def constants():
    """The enumerations of consts.pxd and scheduler.pxd, by name."""
    return {
        "Verdict": {
            "DROP": _consts.VERDICT_DROP, "FORWARD": _consts.VERDICT_FORWARD,
            "LOCAL": _consts.VERDICT_LOCAL, "PASS": _consts.VERDICT_PASS,
            "STOLEN": _consts.VERDICT_STOLEN,
        },
        "LinkType": {
            "NULL": _consts.LINK_NULL, "ETHERNET": _consts.LINK_ETHERNET,
            "RAW": _consts.LINK_RAW, "LOOP": _consts.LINK_LOOP,
            "LINUX_SLL": _consts.LINK_LINUX_SLL, "IPV4": _consts.LINK_IPV4,
            "IPV6": _consts.LINK_IPV6, "LINUX_SLL2": _consts.LINK_LINUX_SLL2,
        },
        "Reason": {"COUNT": REASON_COUNT},
        "Scheduler flag": {
            "sh-fallback": _types.SCHEDULER_FALLBACK, "sh-port": _types.SCHEDULER_PORT,
            "mh-fallback": _types.SCHEDULER_FALLBACK, "mh-port": _types.SCHEDULER_PORT,
        },
        "Scheduler": {
            "none": _types.SCHEDULER_NONE,
            "rr": _types.SCHEDULER_RR,
            "wrr": _types.SCHEDULER_WRR,
            "lc": _types.SCHEDULER_LC,
            "wlc": _types.SCHEDULER_WLC,
            "sh": _types.SCHEDULER_SH,
            "dh": _types.SCHEDULER_DH,
            "mh": _types.SCHEDULER_MH,
            "sed": _types.SCHEDULER_SED,
            "nq": _types.SCHEDULER_NQ,
            "fo": _types.SCHEDULER_FO,
            "ovf": _types.SCHEDULER_OVF,
            "twos": _types.SCHEDULER_TWOS,
            "lblc": _types.SCHEDULER_LBLC,
            "lblcr": _types.SCHEDULER_LBLCR,
        },
    }


# bytes.pxd, machine.pxd

def load_be(bytes data):
    cdef const uint8_t* p = <const uint8_t*><const char*>data
    return load_be16(p) if len(data) == 2 else load_be32(p)


def multiply(uint64_t a, uint64_t b):
    return multiply_fold(a, b)


def match(list tags, uint16_t tag):
    """The mask of match_tags over seven tags and the word behind them."""
    cdef uint16_t memory[16]
    # SSE loads want 16 bytes aligned.
    cdef uint16_t* line = <uint16_t*>((<size_t>memory + 15) & ~<size_t>15)
    for i in range(8):
        line[i] = tags[i]
    return match_tags(line, tag)


def lowest_bits(uint32_t a, uint64_t b):
    return lowest_bit(a), lowest_bit64(b)


# checksum.pxd

def checksum(bytes data, uint64_t total=0):
    return htons(_checksum.checksum_finish(_checksum.sum_bytes(
        <const uint8_t*><const char*>data, <uint32_t>len(data), total)))


def delta(bytes old, bytes new):
    """The canonical delta of a change of 4n bytes, as a word of the packet."""
    return htons(_checksum.delta_finish(_checksum.delta_add_bytes(
        0, <const uint8_t*><const char*>old, <const uint8_t*><const char*>new,
        <uint32_t>len(old))))


def checksum_update(uint16_t value, uint16_t change):
    return htons(_checksum.checksum_update(htons(value), htons(change)))


def udp_checksum_update(uint16_t value, uint16_t change):
    return htons(_checksum.udp_checksum_update(htons(value), htons(change)))


# crc32c.pxd

def crc32c(bytes data):
    cdef const uint8_t* start = data
    return <uint32_t>~crc32c_update(CRC32C_START, start, <uint32_t>len(data))


def checksum_change(uint16_t value, bytes old, bytes new, bytes more_old, bytes more_new):
    """Both parts eight bytes, and four."""
    cdef uint64_t words[2]
    cdef uint32_t more[2]
    memcpy(&words[0], <const char*>old, 8)
    memcpy(&words[1], <const char*>new, 8)
    memcpy(&more[0], <const char*>more_old, 4)
    memcpy(&more[1], <const char*>more_new, 4)
    delta = _checksum.sum_add(~words[0], words[1])
    rest = <uint64_t>~more[0] + more[1]
    return (htons(_checksum.checksum_change(htons(value), delta, rest)),
            htons(_checksum.udp_checksum_change(htons(value), delta, rest)))


def sctp_checksummed(bytes packet):
    """An SCTP packet with the right checksum."""
    result = bytearray(packet)
    if len(packet) < 12:
        raise ValueError("an SCTP packet has 12 bytes at least")
    sctp_checksum_write(<uint8_t*>PyByteArray_AS_STRING(result), <uint32_t>len(packet))
    return bytes(result)


def repeat_crc32c(bytes data, uint32_t count):
    """Take the CRC32c of data ``count`` times; for micro-benchmarks."""
    cdef const uint8_t* start = data
    cdef uint32_t crc = CRC32C_START
    cdef uint32_t length = <uint32_t>len(data)
    cdef uint32_t _
    with nogil:
        for _ in range(count):
            crc = crc32c_update(crc, start, length)
    return crc


# hash.pxd, flow.pxd

def repeat_checksum(bytes data, uint32_t count):
    """Compute a checksum ``count`` times; the sum of all."""
    cdef const uint8_t* start = data
    cdef uint64_t total = 0
    cdef uint32_t length = <uint32_t>len(data)
    cdef uint32_t k
    for k in range(count):
        total += checksum_finish(sum_bytes(start, length, k))
    return total


def repeat_update(uint32_t count):
    """Update a checksum ``count`` times, each from the one before."""
    cdef uint16_t value = 0x1234
    cdef uint32_t k
    for k in range(count):
        value = _checksum.checksum_update(value, <uint16_t>k)
    return value


def repeat_parse(bytes frame, uint32_t count, int link_type=1):
    """Parse a frame ``count`` times; how often that succeeded."""
    cdef Packet packet
    cdef uint8_t* start = <uint8_t*>frame
    cdef uint32_t length = <uint32_t>len(frame)
    cdef uint32_t good = 0
    for _ in range(count):
        good += packet_parse(&packet, start, length, length, link_type) == 0
    return good


def hash_tuple(seed, t):
    cdef HashKey key = key_from(seed)
    cdef Tuple u = tuple_from(t)
    return tuple_hash(&key, &u)


def random_numbers(uint64_t state, int count):
    return [random_next(&state) for _ in range(count)]


def inverse(t):
    cdef Tuple u = tuple_from(t)
    cdef Tuple v = tuple_inverse(&u)
    return tuple_to(&v)


# wire.pxd, translate.pxd

def parse(bytes frame, int link_type=1, wire_length=None):
    """The parsed packet and its tuple, or the reason why there is none."""
    cdef Packet packet
    cdef Tuple t
    # A copy of exactly this size: address sanitizers see what is read beyond it.
    cdef uint32_t length = <uint32_t>len(frame)
    cdef uint8_t* copy = <uint8_t*>calloc(length if length else 1, 1)
    if copy == NULL:
        raise MemoryError()
    try:
        memcpy(copy, <const char*>frame, length)
        reason = packet_parse(&packet, copy, length,
                              length if wire_length is None else wire_length, link_type)
        if reason:
            return reason
        packet_tuple(&packet, &t)
        return {
            "l3": packet.l3, "l4": packet.l4, "l3_length": packet.l3_length,
            "l4_length": packet.l4_length, "l4_captured": packet.l4_captured,
            "fragment": packet.fragment, "fragment_offset": packet.fragment_offset,
            "family": packet.family, "protocol": packet.protocol, "tuple": tuple_to(&t),
        }
    finally:
        free(copy)


def translate(bytes frame, to, bint fill_udp=False, int link_type=1):
    """The frame rewritten from its own tuple to another."""
    cdef Packet packet
    cdef Tuple old
    cdef Tuple new = tuple_from(to)
    result = bytearray(frame)
    if packet_parse(&packet, <uint8_t*>PyByteArray_AS_STRING(result), <uint32_t>len(frame),
                    <uint32_t>len(frame), link_type):
        raise ValueError("not an IP packet")
    packet_tuple(&packet, &old)
    packet_translate(&packet, &old, &new, fill_udp)
    return bytes(result)


# index.pxd

@cython.final
cdef class Index:
    """References by hash; ``max_entries`` bounds its growth."""

    cdef Index_t index

    def __cinit__(self, max_entries):
        if not index_init(&self.index, max_entries):
            raise MemoryError()

    def __dealloc__(self):
        index_free(&self.index)

    def __len__(self):
        return self.index.entries

    @property
    def buckets(self):
        return self.index.base + self.index.split

    @property
    def limit(self):
        return self.index.limit

    def insert(self, uint64_t hash, uint32_t reference):
        return bool(index_insert(&self.index, hash, reference))

    def remove(self, uint64_t hash, uint32_t reference):
        return bool(index_remove(&self.index, hash, reference))

    def replace(self, uint64_t hash, uint32_t reference, uint32_t by):
        return bool(index_replace(&self.index, hash, reference, by))

    def candidates(self, uint64_t hash):
        cdef Cursor cursor = index_seek(&self.index, hash)
        cdef uint32_t reference
        found = []
        while True:
            reference = index_next(&self.index, &cursor)
            if reference == NIL:
                return found
            found.append(reference)

    def copy(self):
        cdef Index other = Index.__new__(Index, 1)
        index_free(&other.index)
        if not index_copy(&other.index, &self.index):
            raise MemoryError()
        return other

    def check(self):
        return index_check(&self.index)


# connection.pxd, rules.pxd

@cython.final
cdef class Table:
    """Connections of one family with their tuples."""

    cdef Table_t table
    cdef Entries entries
    cdef HashKey key
    cdef uint64_t chance

    def __cinit__(self, int family, uint32_t limit, seed=1):
        self.key = key_from(seed)
        self.chance = seed & 0xFFFFFFFFFFFFFFFF
        if not table_init(&self.table, family, limit) or not entries_init(&self.entries, limit):
            raise MemoryError()

    def __dealloc__(self):
        table_free(&self.table)
        entries_free(&self.entries)

    def __len__(self):
        return self.table.count

    def open(self, original, reply, uint32_t deadline=1000):
        """The record of a new connection, or None at the bound."""
        cdef Tuple a = tuple_from(original)
        cdef Tuple b = tuple_from(reply)
        cdef uint32_t i = connection_open(&self.table, &self.key, &a, &b, 0, 0, 0, deadline)
        return None if i == NIL else i

    def track(self, uint32_t i):
        """Give a record an entry, and a place among those of its source."""
        entry_open(&self.entries, &self.table, &self.key, i)

    def close(self, uint32_t i):
        if table_meta(&self.table, i).flags & FLAG_TRACKED:
            entry_close(&self.entries, &self.table, &self.key, i)
        cdef uint64_t hash[2]
        hash[0] = connection_hash(&self.table, &self.key, i << 1)
        hash[1] = connection_hash(&self.table, &self.key, i << 1 | 1)
        wheel_unlink(&self.table.wheel, i)
        connection_close(&self.table, i, hash)

    def find(self, t):
        """(record, direction) or None."""
        cdef Tuple u = tuple_from(t)
        cdef uint32_t reference = table_find(&self.table, tuple_hash(&self.key, &u), &u)
        return None if reference == NIL else (reference >> 1, reference & 1)

    def shadowed(self, uint32_t i, uint32_t direction):
        cdef uint32_t reference = connection_shadowed(&self.table, i << 1 | direction)
        return None if reference == NIL else (reference >> 1, reference & 1)

    def tuples(self, uint32_t i):
        cdef Tuple original, reply
        connection_tuple(&self.table, i, 0, &original)
        connection_tuple(&self.table, i, 1, &reply)
        return tuple_to(&original), tuple_to(&reply)

    def choose(self, t, bint source, addresses=None, ports=None, int flags=0, int base=0):
        """(whether the reply tuple is free, tuple) of tuple_choose, or of tuple_keep."""
        cdef Tuple u = tuple_from(t)
        cdef Search search
        cdef _rules.Range to
        memset(&to, 0, sizeof(to))
        search.table = &self.table
        search.entries = &self.entries
        search.key = &self.key
        search.chance = &self.chance
        search.window = NULL
        search.evicted = NIL
        to.flags = flags
        if addresses is not None:
            to.low, to.high = address_from(addresses[0]), address_from(addresses[1])
            to.flags |= _rules.RANGE_ADDRESSES
        if ports is not None:
            to.port_low, to.port_high = ports
            to.port_base = base
            to.flags |= _rules.RANGE_PORTS
        if to.flags:
            tuple_choose(&search, &to, &u, source)
        else:
            tuple_keep(&search, &u, source)
        return bool(reply_is_free(&search, &u)), tuple_to(&u)

    def check(self):
        return table_check(&self.table, &self.key)

    def fill(self, uint32_t count):
        """Open connections of ``count`` clients to one virtual and one real server."""
        cdef Tuple original, reply
        cdef uint32_t k
        memset(&original, 0, sizeof(Tuple))
        original.family = IPV4
        original.protocol = 6
        original.destination.word[0] = 0x0100000A
        for k in range(count):
            original.source.word[0] = k // 50000 + 11
            original.ports = k % 50000 << 16 | 80
            reply = tuple_inverse(&original)
            reply.source.word[0] = 0x0100A8C0
            connection_open(&self.table, &self.key, &original, &reply, 0, 0, 0, 1000)

    def repeat_find(self, uint32_t count):
        """Find connections one after the other, in an order that caches cannot guess."""
        cdef Tuple t
        cdef uint32_t k, i
        cdef uint32_t found = 0
        for k in range(count):
            i = k * <uint32_t>2654435761U % self.table.used
            connection_tuple(&self.table, i, k & 1, &t)
            found += table_find(&self.table, tuple_hash(&self.key, &t), &t) != NIL
        return found


# route.pxd

def prefix_match(bytes network, uint32_t length, bytes address):
    cdef Address a = address_from(network)
    cdef Address b = address_from(address)
    return bool(prefix_matches(&a, length, &b))


@cython.final
cdef class Locals:
    """The set of local addresses, which counts uses."""

    cdef Routes* routes

    def __cinit__(self):
        self.routes = <Routes*>calloc(1, sizeof(Routes))
        if self.routes == NULL or not routes_init(self.routes):
            raise MemoryError()

    def __dealloc__(self):
        if self.routes != NULL:
            routes_free(self.routes)
            free(self.routes)

    def add(self, bytes address):
        cdef Address a = address_from(address)
        return bool(local_add(self.routes, 4 if len(address) == 4 else 6, &a))

    def remove(self, bytes address):
        cdef Address a = address_from(address)
        local_remove(self.routes, 4 if len(address) == 4 else 6, &a)

    def __contains__(self, bytes address):
        cdef Address a = address_from(address)
        return bool(address_is_local(self.routes, 4 if len(address) == 4 else 6, &a))


# track_sctp.pxd

def sctp_event(bytes packet):
    """The event that an SCTP packet is; in memory of exactly its size."""
    cdef uint32_t length = <uint32_t>len(packet)
    cdef uint8_t* copy = <uint8_t*>calloc(length if length else 1, 1)
    if copy == NULL:
        raise MemoryError()
    memcpy(copy, <const char*>packet, length)
    event = _sctp_event(copy, length)
    free(copy)
    return event


# track.pxd

@cython.final
cdef class Tracker:
    cdef Tracker_t tracker

    def __cinit__(self):
        tracker_init(&self.tracker)

    def next(self, int direction, int flags, int state):
        return self.tracker.next[direction][flags & 31][state & 255]

    def stays(self, int direction, int event, int state):
        """Whether a packet changes nothing of a service's connection; event 32: a datagram."""
        if not 0 <= event <= DATAGRAM:
            raise ValueError(f"{event} is no event")
        return bool(self.tracker.stays[event][state & 255] >> (direction & 1) & 1)

    def secure(self, bint on):
        tracker_secure(&self.tracker, on)

    def timeout(self, int state):
        return self.tracker.timeout[state & 255]

    def is_active(self, int state):
        return bool(state_is_active(<uint8_t>state))


include "_probe_rules.pxi"
