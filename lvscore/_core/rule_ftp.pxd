"""FTP's helper of conntrack: data connections that a tracked control connection announces
(nf_conntrack_ftp.c, nf_nat_ftp.c).

What PORT, EPRT, 227 and 229 announce is expected, if the address is the speaker's own. Where the
control connection is translated, they are made to name the address that the other end knows, and
the data connection is translated as its master is.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memset

from lvscore._core.bytes cimport htons, load_be32, ntohs
from lvscore._core.connection cimport (
    FLAG_SEEN_REPLY, FLAG_UNTRANSLATED, Table, connection_extension, connection_helper,
    connection_tuple, table_meta,
)
from lvscore._core.consts cimport (
    NIL, ORIGINAL, REASON_NONE, REASON_NO_PORT, REASON_PARTIAL_COMMAND, REASON_TABLE_FULL,
)
from lvscore._core.expect cimport (
    Master, expectation_begin, expectation_end, expectation_find, line_begins,
    line_end, master_take,
)
from lvscore._core.flow cimport Tuple, address_equal, ports_destination, ports_make
from lvscore._core.ftp cimport (
    FTP_FOUND, FTP_PARTIAL, FtpAnnouncement, announcement_write, answer_search, command_search,
)
from lvscore._core.hash cimport random_next
from lvscore._core.helper cimport payload_find, payload_replace
from lvscore._core.nat cimport rule_evict
from lvscore._core.rules cimport RANGE_ADDRESSES, RANGE_PORTS, Range
from lvscore._core.sequence cimport sequence_adjust, sequence_edit
from lvscore._core.state cimport State
from lvscore._core.unique_tuple cimport Search, tuple_choose
from lvscore._core.wire cimport Packet, packet_l4

cdef enum:
    EXPECT_ATTEMPTS = 128       # ports that are tried (nf_nat_exp_find_port)


# A flow that a master expected, when its first packet comes.
cdef struct Follow:
    Tuple announced             # of the segment that announced it
    uint16_t port               # that was announced, host order
    bint expected
    bint translated             # so is the master


cdef inline void helper_attach(State* s, Table* table, uint32_t i) noexcept nogil:
    """Look after a flow that has just been opened."""
    connection_extension(table, i).helper = master_take(&s.masters, i)


cdef inline void follow_find(State* s, Table* table, const Tuple* t, Follow* follow) noexcept nogil:
    """Whether a new flow was expected; it is not expected again (nf_ct_find_expectation)."""
    cdef uint32_t m = expectation_find(&s.masters, &s.key, s.tick, t)
    cdef const Master* master
    memset(follow, 0, sizeof(Follow))
    if m == NIL:
        return
    follow.expected = True
    master = &s.masters.master[m]
    connection_tuple(table, master.record, master.direction, &follow.announced)
    follow.port = ntohs(master.port)
    follow.translated = not table_meta(table, master.record).flags & FLAG_UNTRANSLATED
    expectation_end(&s.masters, &s.key, m)


cdef inline void follow_master(State* s, Table* table, Search* search, const Follow* follow,
                               Tuple* wanted) noexcept nogil:
    """Translate an expected flow: its source is whom the announcing end speaks to, its
    destination that end, at the port that it announced (nf_nat_follow_master)."""
    cdef Range to
    to.low = to.high = follow.announced.destination
    to.port_low = to.port_high = to.port_base = 0
    to.flags = RANGE_ADDRESSES
    tuple_choose(search, &to, wanted, True)
    rule_evict(s, table, search)
    to.low = to.high = follow.announced.source
    to.port_low = to.port_high = follow.port
    to.flags = RANGE_ADDRESSES | RANGE_PORTS
    tuple_choose(search, &to, wanted, False)
    rule_evict(s, table, search)


cdef inline bint port_expect(State* s, uint32_t m, Tuple* expected, uint16_t port,
                             bint any_port) noexcept nogil:
    """Expect a connection to a port; if another master does, and ``any_port`` is right, to one
    that is drawn from those above."""
    cdef uint32_t span = 0xFFFF - port
    cdef uint32_t left = span if span < EXPECT_ATTEMPTS else EXPECT_ATTEMPTS
    cdef uint32_t value = port
    while True:
        expected.ports = ports_make(0, htons(<uint16_t>value))
        if expectation_begin(&s.masters, &s.key, m, s.tick, expected):
            return True
        if not any_port or left == 0:
            return False
        left -= 1
        value = port + <uint32_t>(random_next(&s.chance) % span)


cdef inline uint8_t announcement_take(State* s, Table* table, Packet* packet, uint32_t i,
                                      uint32_t direction, uint32_t data,
                                      const FtpAnnouncement* announced) noexcept nogil:
    """Expect what was announced, and tell the other end its address (nf_nat_ftp). ``data``: where
    the payload begins, from the TCP header on. REASON_NONE, or why the packet is dropped."""
    cdef uint32_t m = connection_helper(table, i)
    cdef Master* master = &s.masters.master[m]
    cdef bint translated = not table_meta(table, i).flags & FLAG_UNTRANSLATED
    cdef uint8_t text[50]
    cdef uint32_t size
    cdef uint32_t number = load_be32(packet_l4(packet) + 4)
    cdef Tuple expected
    # What is expected comes from whom this segment goes to, as that end has it.
    connection_tuple(table, i, 1 - direction, &expected)
    if not port_expect(s, m, &expected, ntohs(announced.port), translated):
        return REASON_NO_PORT
    master.direction = <uint8_t>direction
    master.port = announced.port
    if not translated:
        return REASON_NONE
    if announced.port == 0:         # to the kernel it says that none was found
        return REASON_NO_PORT
    size = announcement_write(text, announced.mode, table.family, &expected.destination,
                              ports_destination(expected.ports))
    if not payload_replace(&s.emitted, packet, data + announced.start, data + announced.end, text,
                           size):
        expectation_end(&s.masters, &s.key, m)
        return REASON_TABLE_FULL
    sequence_edit(&master.sequence[direction], number,
                  <int32_t>size - <int32_t>(announced.end - announced.start))
    return REASON_NONE


cdef inline uint8_t payload_read(State* s, Table* table, Packet* packet, uint32_t i,
                                 uint32_t direction) noexcept nogil:
    """Read a segment's payload; REASON_NONE, or why it is dropped: of a line that is cut the next
    segment has the whole, if the sender has to send it again."""
    cdef Master* master = &s.masters.master[connection_helper(table, i)]
    cdef const uint8_t* data
    cdef uint32_t length = payload_find(packet, &data)
    cdef uint32_t number, found
    cdef uint8_t failed = REASON_NONE
    cdef bint line_ends
    cdef FtpAnnouncement announced
    cdef Tuple own
    if length == 0:
        return REASON_NONE
    number = load_be32(packet_l4(packet) + 4)
    line_ends = data[length - 1] == 10
    if line_begins(master, direction, number):
        connection_tuple(table, i, direction, &own)
        announced.address = own.source
        if direction == ORIGINAL:
            found = command_search(data, length, packet.family, &announced)
        else:
            found = answer_search(data, length, packet.family, &announced)
        if found == FTP_PARTIAL:
            return REASON_PARTIAL_COMMAND
        if found == FTP_FOUND and address_equal(&announced.address, &own.source):
            failed = announcement_take(s, table, packet, i, direction,
                                       <uint32_t>(data - packet_l4(packet)), &announced)
    if line_ends:
        line_end(master, direction, number + length)
    return failed


cdef inline uint8_t rule_help(State* s, Table* table, Packet* packet, uint32_t i,
                              uint32_t direction, bint received) noexcept nogil:
    """Let the helper see a translated packet of a flow that it looks after, and let its sequence
    numbers follow the edits (nf_confirm); REASON_NONE, or why it is dropped. The packet may
    become another, in a frame that is to be put out."""
    cdef Master* master = &s.masters.master[connection_helper(table, i)]
    cdef uint8_t failed = REASON_NONE
    if received and table_meta(table, i).flags & FLAG_SEEN_REPLY:
        failed = payload_read(s, table, packet, i, direction)
    if failed == REASON_NONE:
        sequence_adjust(packet, &master.sequence[direction], &master.sequence[1 - direction])
    return failed
