"""The FTP helper: data connections that a control connection announces (ip_vs_ftp.c).

A masqueraded connection to one of the helper's ports is looked after from its first packet to
its end. What it announces becomes a connection that depends on it and goes to its server. Where
an answer names the server, it is made to name the virtual address.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from lvscore._core.bytes cimport htons, load16, load_be32, ntohs, store16
from lvscore._core.checksum cimport checksum_update, delta_add16, delta_finish
from lvscore._core.connection cimport (
    FLAG_INACTIVE, FLAG_NO_CPORT, FLAG_SERVICE, FLAG_SLOW, Meta, Table, connection_extension,
    connection_helper, connection_method, connection_open, connection_tuple, table_meta,
)
from lvscore._core.consts cimport (
    IPV4, NIL, ORIGINAL, PROTOCOL_TCP, REASON_BAD_TCP_CHECKSUM, REASON_NONE, REASON_TABLE_FULL,
    REPLY, VERDICT_DROP,
)
from lvscore._core.emit cimport Emitted, emit_reserve
from lvscore._core.flow cimport Tuple, ports_destination, ports_make, ports_source, tuple_inverse
from lvscore._core.ftp cimport (
    FTP_ACTIVE, FTP_OTHER_FAMILY, FtpAnnouncement, FtpControl, active_request,
    announcement_write, ftp_listens, ftp_take, passive_answer, passive_request,
)
from lvscore._core.lifetime cimport connection_end, connection_timer_set, control_add
from lvscore._core.load cimport load_bind
from lvscore._core.lookup cimport table_find_direction, table_find_portless
from lvscore._core.nfct cimport nfct_begin
from lvscore._core.rename cimport connection_client_port
from lvscore._core.sequence cimport TCP_HEADER, sequence_adjust, sequence_edit
from lvscore._core.server cimport METHOD_MASQUERADE
from lvscore._core.state cimport State, TRACE_OPENED, connection_total, table_of, trace_step
from lvscore._core.track cimport SERVICE_TCP_ESTABLISHED, SERVICE_TCP_LISTEN
from lvscore._core.translate cimport tcp_checksum_write
from lvscore._core.verify cimport transport_checksum_good
from lvscore._core.wire cimport Packet, packet_l3, packet_l4


cdef inline void helper_bind(State* s, Table* table, uint32_t i) noexcept nogil:
    """Look after a connection that has just been opened, if it is a control connection
    (tcp_app_conn_bind)."""
    cdef Meta* meta = table_meta(table, i)
    cdef Tuple original
    if (s.ftp.ports == 0 or meta.protocol != PROTOCOL_TCP
            or connection_method(meta) != METHOD_MASQUERADE):
        return
    connection_tuple(table, i, ORIGINAL, &original)
    if ftp_listens(&s.ftp, ports_destination(original.ports)):
        connection_extension(table, i).helper = ftp_take(&s.ftp)
        meta.flags |= FLAG_SLOW


cdef inline bint client_port_take(State* s, Table* table, uint32_t i,
                                  const Tuple* t) noexcept nogil:
    """Take the client's port from the first packet of a passive data connection; False, and the
    connection is gone, if the index is too crowded for it."""
    if connection_client_port(table, &s.key, i, ports_source(t.ports)):
        nfct_begin(s, table, i)
        return True
    connection_end(s, table, i)
    return False


cdef inline uint32_t data_open(State* s, Table* table, uint32_t control, const Tuple* original,
                               const Tuple* reply, uint32_t flags) noexcept nogil:
    """Open a data connection to the server of its control connection; its record, or NIL at a
    bound."""
    cdef uint32_t k = table_meta(table, control).server
    cdef uint32_t i
    if connection_total(s) >= s.max_connections:
        return NIL
    i = connection_open(table, &s.key, original, reply, k, SERVICE_TCP_LISTEN,
                        <uint16_t>(FLAG_SERVICE | FLAG_INACTIVE | flags),
                        s.tick_up + s.tracker.timeout[SERVICE_TCP_LISTEN])
    if i == NIL:
        return NIL
    s.opened += 1
    load_bind(&s.services, k)
    control_add(s, table, i, control)
    helper_bind(s, table, i)
    if not flags & FLAG_NO_CPORT:
        nfct_begin(s, table, i)
    trace_step(s, TRACE_OPENED, i << 1, 0, original)
    return i


cdef inline void data_listen(State* s, Table* table, uint32_t i) noexcept nogil:
    """Let a data connection that is there wait for its next use (ip_vs_tcp_conn_listen)."""
    table_meta(table, i).state = SERVICE_TCP_LISTEN
    connection_timer_set(table, i, s.tick_up + s.tracker.timeout[SERVICE_TCP_LISTEN])


cdef inline uint32_t payload_find(const Packet* packet, const uint8_t** data) noexcept nogil:
    """The length of a segment's payload, and where it is; 0 if it is not all there."""
    cdef uint32_t header = (packet_l4(packet)[12] >> 4) * 4
    if (header < TCP_HEADER or header > packet.l4_length
            or packet.l4_captured < packet.l4_length):
        return 0
    data[0] = packet_l4(packet) + header
    return packet.l4_length - header


cdef inline bint payload_replace(Emitted* emitted, Packet* packet, uint32_t start, uint32_t end,
                                 const uint8_t* text, uint32_t size) noexcept nogil:
    """Put a text in the place of bytes ``start`` to ``end`` of a segment, of whatever length:
    a packet that changes its own becomes a frame that is put out. False if memory ends, or the
    packet would be too long."""
    cdef int32_t difference = <int32_t>size - <int32_t>(end - start)
    cdef uint32_t at = packet.l4 + start
    cdef uint32_t tail = packet.l4_length - end
    cdef uint8_t* room
    cdef uint8_t* ip
    cdef uint16_t length
    if difference:
        if packet.l3_length + difference > 0xFFFF:
            return False
        room = emit_reserve(emitted, packet.l3 + packet.l3_length + difference)
        if room == NULL:
            return False
        memcpy(room, packet.frame, at)
        memcpy(room + at + size, packet.frame + packet.l4 + end, tail)
        packet.frame = room
        packet.l3_length += difference
        packet.l4_length += difference
        packet.l4_captured += difference
        packet.length = packet.l3 + packet.l3_length
        packet.wire_length = packet.length
        ip = packet_l3(packet)
        if packet.family == IPV4:
            length = htons(<uint16_t>packet.l3_length)
            store16(ip + 10, checksum_update(load16(ip + 10), delta_finish(delta_add16(
                0, load16(ip + 2), length))))
            store16(ip + 2, length)
        else:
            store16(ip + 4, htons(<uint16_t>(packet.l3_length - 40)))
    memcpy(packet.frame + at, text, size)
    tcp_checksum_write(packet)
    return True


cdef inline uint8_t request_read(State* s, Table* table, const Packet* packet, uint32_t i,
                                 FtpControl* control) noexcept nogil:
    """Read a segment of the client's (ip_vs_ftp_in); REASON_NONE, or why it is dropped."""
    cdef const uint8_t* data
    cdef FtpAnnouncement announced
    cdef Tuple original, reply
    cdef uint32_t length = payload_find(packet, &data)
    cdef uint32_t mode = passive_request(data, length, packet.family) if length else FTP_ACTIVE
    cdef uint32_t d
    if mode != FTP_ACTIVE:
        if mode != FTP_OTHER_FAMILY:
            control.mode = <uint8_t>mode
        return REASON_NONE
    if length == 0 or not active_request(data, length, packet.family, &announced):
        return REASON_NONE
    control.mode = FTP_ACTIVE
    connection_tuple(table, i, ORIGINAL, &original)
    connection_tuple(table, i, REPLY, &reply)
    original.source = announced.address
    original.ports = ports_make(announced.port, htons(<uint16_t>(
        ntohs(ports_destination(original.ports)) - 1)))
    reply.destination = announced.address
    reply.ports = ports_make(htons(<uint16_t>(ntohs(ports_source(reply.ports)) - 1)),
                             announced.port)
    d = table_find_direction(table, &s.key, &original, ORIGINAL)
    if d == NIL and table.portless:
        d = table_find_portless(table, &s.key, &original)
        d = d >> 1 if d != NIL else NIL
    if d != NIL and table_meta(table, d).flags & FLAG_SERVICE:
        data_listen(s, table, d)
    elif data_open(s, table, i, &original, &reply, 0) == NIL:
        return REASON_TABLE_FULL
    return REASON_NONE


cdef inline bint answer_announces(const Table* table, uint32_t i, const uint8_t* data,
                                  uint32_t length, uint32_t mode,
                                  FtpAnnouncement* announced) noexcept nogil:
    """Read the server's answer to a request."""
    cdef Tuple reply
    connection_tuple(table, i, REPLY, &reply)
    announced.address = reply.source
    return passive_answer(data, length, table.family, mode, announced)


cdef inline bint answer_expect(State* s, Table* table, uint32_t i, FtpControl* control,
                               const FtpAnnouncement* announced) noexcept nogil:
    """Wait for the data connection that an answer announces, and write what the client is told
    to the control's record; False if there is no room for it."""
    cdef Tuple original, reply
    cdef uint32_t d
    connection_tuple(table, i, ORIGINAL, &original)
    original.ports = ports_make(0, announced.port)
    reply = tuple_inverse(&original)
    reply.source = announced.address
    d = table_find_direction(table, &s.key, &reply, REPLY)
    if d != NIL and table_meta(table, d).flags & FLAG_SERVICE:
        connection_tuple(table, d, ORIGINAL, &original)
        data_listen(s, table, d)
    elif data_open(s, table, i, &original, &reply, FLAG_NO_CPORT) == NIL:
        return False
    control.text_length = <uint8_t>announcement_write(
        control.text, control.mode, table.family, &original.destination,
        ports_destination(original.ports))
    return True


cdef inline uint8_t answer_read(State* s, Table* table, Packet* packet, uint32_t i,
                                FtpControl* control) noexcept nogil:
    """Read a segment of the server's, and rewrite an answer in it (ip_vs_ftp_out); REASON_NONE,
    or why it is dropped.

    A retransmission of the answer is rewritten as the answer was, or else the client's stream
    would have a hole; the kernel leaves it as it is.
    """
    cdef const uint8_t* data
    cdef FtpAnnouncement announced
    cdef uint32_t length = payload_find(packet, &data)
    cdef uint32_t number, start, end
    cdef uint32_t skipped = 0
    if length == 0:
        return REASON_NONE
    number = load_be32(packet_l4(packet) + 4)
    if answer_announces(table, i, data, length, control.mode, &announced):
        if not answer_expect(s, table, i, control, &announced):
            return REASON_TABLE_FULL
        control.text_mode = control.mode
        control.mode = FTP_ACTIVE
        control.answered = number
    else:
        skipped = control.answered - number
        if control.text_length == 0 or skipped >= length or not answer_announces(
                table, i, data + skipped, length - skipped, control.text_mode, &announced):
            return REASON_NONE
    start = <uint32_t>(data - packet_l4(packet)) + skipped + announced.start
    end = start + announced.end - announced.start
    if not payload_replace(&s.emitted, packet, start, end, control.text, control.text_length):
        return REASON_TABLE_FULL
    sequence_edit(&control.sequence[REPLY], number,
                  <int32_t>control.text_length - <int32_t>(end - start))
    return REASON_NONE


cdef inline uint8_t helper_request(State* s, Packet* packet, uint32_t i, uint8_t verdict,
                                   uint8_t* reason) noexcept nogil:
    """Look after a request that was translated, whatever its connection; its verdict."""
    cdef Table* table = table_of(s, packet.family)
    cdef uint32_t c = connection_helper(table, i)
    cdef FtpControl* control
    cdef uint8_t failed = REASON_NONE
    if c == NIL or verdict == VERDICT_DROP:
        return verdict
    control = &s.ftp.control[c]
    if not transport_checksum_good(packet):
        failed = REASON_BAD_TCP_CHECKSUM
    elif table_meta(table, i).state == SERVICE_TCP_ESTABLISHED:
        failed = request_read(s, table, packet, i, control)
    if failed:
        reason[0] = failed
        return VERDICT_DROP
    sequence_adjust(packet, &control.sequence[ORIGINAL], &control.sequence[REPLY])
    return verdict


cdef inline uint8_t helper_reply(State* s, Packet* packet, uint32_t i) noexcept nogil:
    """Look after a reply before it is translated, whatever its connection; REASON_NONE, or why
    it is dropped. The packet may become another, in a frame that is to be put out."""
    cdef Table* table = table_of(s, packet.family)
    cdef uint32_t c = connection_helper(table, i)
    cdef FtpControl* control
    cdef uint8_t failed = REASON_NONE
    if c == NIL:
        return REASON_NONE
    control = &s.ftp.control[c]
    if not transport_checksum_good(packet):
        return REASON_BAD_TCP_CHECKSUM
    if table_meta(table, i).state == SERVICE_TCP_ESTABLISHED:
        failed = answer_read(s, table, packet, i, control)
    if failed == REASON_NONE:
        sequence_adjust(packet, &control.sequence[REPLY], &control.sequence[ORIGINAL])
    return failed
