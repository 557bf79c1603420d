"""FTP's control connection: what commands and answers announce, and what is known of it.

PASV, PORT and their answers are of RFC 959, EPSV and EPRT of RFC 2428. IPVS reads them where
ip_vs_ftp.c does: PASV and EPSV anywhere in a segment, all others at its beginning. What is cut, or
has a number that is too large, announces nothing. netfilter reads what announces a connection
where a line begins, and what is cut cannot pass (nf_conntrack_ftp.c).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from lvscore._core.bytes cimport htonl, htons
from lvscore._core.consts cimport IPV4, NIL
from lvscore._core.flow cimport Address, address_load
from lvscore._core.machine cimport memory_release, memory_reserve
from lvscore._core.sequence cimport Sequence

cdef extern from "<arpa/inet.h>" nogil:
    int AF_INET6
    int inet_pton(int family, const char* text, void* address) noexcept

cdef enum:
    MAX_FTP_PORTS = 8           # IP_VS_APP_MAX_PORTS
    MAX_FTP_TEXT = 24           # "255,255,255,255,255,255"
    MAX_IPV6_TEXT = 45
    MAX_ANNOUNCEMENT = 50       # of EPRT with an IPv6 address in full
    FTP_WORD = 4                # "PORT", "227 "

cdef enum FtpMode:              # what the client asked for
    FTP_ACTIVE = 0              # PORT
    FTP_PASSIVE = 1             # PASV
    FTP_EXTENDED_PASSIVE = 2    # EPSV
    FTP_OTHER_FAMILY = 3        # EPSV of an address family that this is not: nothing
    FTP_EXTENDED_ACTIVE = 4     # EPRT

cdef enum FtpMatch:             # what netfilter finds at the beginning of a line
    FTP_NOTHING = 0
    FTP_PARTIAL = 1             # a word of those that announce, and then no announcement
    FTP_FOUND = 2


# Where a data connection goes, and the text that says so.
cdef struct FtpAnnouncement:
    Address address
    uint16_t port               # as on the wire
    uint32_t start              # of the text, in the payload
    uint32_t end
    uint32_t mode               # netfilter: how it is written, FTP_*


# A control connection.
cdef struct FtpControl:
    Sequence sequence[2]
    uint32_t next               # of the free list
    uint32_t answered           # sequence number of the answer that was rewritten last
    uint8_t text[24]            # what was written then,
    uint8_t text_length         # 0: nothing yet
    uint8_t text_mode           # and to which request
    uint8_t mode                # an answer is awaited, or FTP_ACTIVE


# The helper: where it listens, and the control connections that it looks after.
cdef struct Ftp:
    FtpControl* control
    uint32_t limit
    uint32_t used               # records that were ever used
    uint32_t free
    uint16_t port[8]            # as on the wire
    uint32_t ports              # 0: the helper is off


cdef inline bint ftp_init(Ftp* ftp, uint32_t limit) noexcept nogil:
    """Reserve address space for ``limit`` control connections."""
    memset(ftp, 0, sizeof(Ftp))
    ftp.limit = limit
    ftp.free = NIL
    ftp.control = <FtpControl*>memory_reserve(<size_t>limit * sizeof(FtpControl))
    return ftp.control != NULL


cdef inline void ftp_free(Ftp* ftp) noexcept nogil:
    memory_release(ftp.control, <size_t>ftp.limit * sizeof(FtpControl))
    ftp.control = NULL


cdef inline bint ftp_copy(Ftp* ftp, const Ftp* other) noexcept nogil:
    """Make ``ftp`` a copy of ``other``; False if memory ends, then free it all the same."""
    ftp[0] = other[0]
    ftp.control = <FtpControl*>memory_reserve(<size_t>ftp.limit * sizeof(FtpControl))
    if ftp.control == NULL:
        return False
    memcpy(ftp.control, other.control, <size_t>other.used * sizeof(FtpControl))
    return True


cdef inline bint ftp_listens(const Ftp* ftp, uint16_t port) noexcept nogil:
    """Whether connections to a virtual port (as on the wire) are control connections."""
    cdef uint32_t k
    for k in range(ftp.ports):
        if ftp.port[k] == port:
            return True
    return False


cdef inline uint32_t ftp_take(Ftp* ftp) noexcept nogil:
    """A new control connection; there are as many records as connections."""
    cdef uint32_t c = ftp.free
    if c != NIL:
        ftp.free = ftp.control[c].next
    else:
        c = ftp.used
        ftp.used += 1
    memset(&ftp.control[c], 0, sizeof(FtpControl))
    return c


cdef inline void ftp_give(Ftp* ftp, uint32_t c) noexcept nogil:
    ftp.control[c].next = ftp.free
    ftp.free = c


cdef inline bint is_digit(uint8_t c) noexcept nogil:
    return 48 <= c <= 57


cdef inline bint text_begins(const uint8_t* data, uint32_t length, const char* word,
                             uint32_t size) noexcept nogil:
    """Whether a text begins with a word in lower case, whatever its own case."""
    cdef uint32_t i
    cdef uint8_t c
    if length < size:
        return False
    for i in range(size):
        c = data[i]
        if 65 <= c <= 90:
            c += 32
        if c != <uint8_t>word[i]:
            return False
    return True


cdef inline bint number_read(const uint8_t* data, uint32_t length, uint32_t* at, uint32_t highest,
                             uint32_t* value) noexcept nogil:
    """Read a decimal number of at most ``highest``, behind which something must stand: else it
    may go on in the next segment."""
    cdef uint32_t first = at[0]
    value[0] = 0
    while at[0] < length and is_digit(data[at[0]]):
        value[0] = value[0] * 10 + data[at[0]] - 48
        if value[0] > highest:
            return False
        at[0] += 1
    return first < at[0] < length


cdef inline bint octets_read(const uint8_t* data, uint32_t length, uint32_t* at, uint8_t separator,
                             uint32_t count, uint8_t* octets) noexcept nogil:
    """Read ``count`` numbers of eight bits."""
    cdef uint32_t i, value
    for i in range(count):
        if i:
            if data[at[0]] != separator:
                return False
            at[0] += 1
        if not number_read(data, length, at, 255, &value):
            return False
        octets[i] = <uint8_t>value
    return True


cdef inline uint32_t argument_find(const uint8_t* data, uint32_t length, uint32_t at,
                                   uint8_t opening, bint digits) noexcept nogil:
    """Where an argument begins: behind ``opening``, or with ``digits`` at a digit before it."""
    while at < length and data[at] != opening:
        if digits and is_digit(data[at]):
            return at
        at += 1
    while at < length and data[at] == opening:
        at += 1
    return at


cdef inline bint plain_read(const uint8_t* data, uint32_t length, uint32_t at,
                            FtpAnnouncement* announced) noexcept nogil:
    """Read h1,h2,h3,h4,p1,p2 (RFC 959, section 4.1.2)."""
    cdef uint8_t octets[6]
    announced.start = at
    if at >= length or not octets_read(data, length, &at, 44, 6, octets):
        return False
    announced.end = at
    announced.address = address_load(octets, IPV4)
    memcpy(&announced.port, octets + 4, 2)
    return announced.port != 0


cdef inline bint numbers_read(const uint8_t* data, uint32_t length, uint32_t at,
                              uint8_t terminator, FtpAnnouncement* announced) noexcept nogil:
    """Read h1,h2,h3,h4,p1,p2 and its terminator (0: any) as netfilter does: numbers of any size,
    put together by their bits (try_number, try_rfc959)."""
    cdef uint32_t number[6]
    cdef uint32_t i = 0
    cdef uint32_t address
    memset(number, 0, sizeof(number))
    announced.start = at
    while at < length and i < 6:
        if is_digit(data[at]):
            number[i] = number[i] * 10 + data[at] - 48
        elif data[at] == 44:
            i += 1
        else:
            break
        at += 1
    if at >= length or i != 5 or (terminator and data[at] != terminator):
        return False
    announced.end = at
    address = htonl(number[0] << 24 | number[1] << 16 | number[2] << 8 | number[3])
    announced.address = address_load(<uint8_t*>&address, IPV4)
    announced.port = htons(<uint16_t>(number[4] << 8 | number[5]))
    return True


cdef inline bint address6_read(const uint8_t* data, uint32_t length, uint32_t* at,
                               uint8_t delimiter, Address* address) noexcept nogil:
    cdef char text[46]
    cdef uint32_t size = 0
    while at[0] + size < length and data[at[0] + size] != delimiter:
        if size == MAX_IPV6_TEXT:
            return False
        text[size] = <char>data[at[0] + size]
        size += 1
    text[size] = 0
    at[0] += size
    return at[0] < length and inet_pton(AF_INET6, text, address) == 1


cdef inline bint extended_read(const uint8_t* data, uint32_t length, uint32_t at, uint8_t family,
                               bint answer, FtpAnnouncement* announced) noexcept nogil:
    """Read |family|address|port| with any delimiter (RFC 2428, section 2). Without family and
    address, as an ``answer`` has it, the address stays what it was."""
    cdef uint8_t octets[4]
    cdef uint8_t delimiter
    cdef uint32_t port
    announced.start = at
    if at + 3 > length:
        return False
    delimiter = data[at]
    if delimiter < 33 or delimiter > 126:
        return False
    if data[at + 1] == delimiter:
        if not answer or data[at + 2] != delimiter:
            return False
        at += 3
    else:
        if data[at + 1] != (49 if family == IPV4 else 50) or data[at + 2] != delimiter:
            return False
        at += 3
        if family == IPV4:
            if not octets_read(data, length, &at, 46, 4, octets):
                return False
            announced.address = address_load(octets, IPV4)
        elif not address6_read(data, length, &at, delimiter, &announced.address):
            return False
        if data[at] != delimiter:
            return False
        at += 1
    if not number_read(data, length, &at, 0xFFFF, &port) or data[at] != delimiter or port == 0:
        return False
    announced.end = at + 1
    announced.port = htons(<uint16_t>port)
    return True


cdef inline uint32_t passive_request(const uint8_t* data, uint32_t length,
                                     uint8_t family) noexcept nogil:
    """The mode that a segment of the client's asks for; FTP_ACTIVE if it asks for none."""
    cdef uint32_t at
    for at in range(length - 5 if length > 5 else 0):
        if family == IPV4 and text_begins(data + at, length - at, b"pasv\r\n", 6):
            return FTP_PASSIVE
        if not text_begins(data + at, length - at, b"epsv", 4):
            continue
        if data[at + 4] == 13:
            return FTP_EXTENDED_PASSIVE
        if data[at + 4] == 32:
            if (at + 7 <= length and data[at + 5] == (49 if family == IPV4 else 50)
                    and data[at + 6] == 13):
                return FTP_EXTENDED_PASSIVE
            return FTP_OTHER_FAMILY
    return FTP_ACTIVE


cdef inline bint active_request(const uint8_t* data, uint32_t length, uint8_t family,
                                FtpAnnouncement* announced) noexcept nogil:
    """Read PORT or EPRT: where the client waits for the data connection."""
    if family == IPV4 and text_begins(data, length, b"port", 4):
        return plain_read(data, length, argument_find(data, length, 4, 32, True), announced)
    if text_begins(data, length, b"eprt", 4):
        return extended_read(data, length, argument_find(data, length, 4, 32, False), family,
                             False, announced)
    return False


cdef inline bint passive_answer(const uint8_t* data, uint32_t length, uint8_t family,
                                uint32_t mode, FtpAnnouncement* announced) noexcept nogil:
    """Read the answer to a request: where the server waits. ``announced.address`` is the
    server's own, which the answer to EPSV does not tell."""
    if mode == FTP_PASSIVE and text_begins(data, length, b"227 ", 4):
        return plain_read(data, length, argument_find(data, length, 4, 40, True), announced)
    if mode == FTP_EXTENDED_PASSIVE and text_begins(data, length, b"229 ", 4):
        return extended_read(data, length, argument_find(data, length, 4, 40, False), family,
                             True, announced)
    return False


cdef inline uint32_t word_match(const uint8_t* data, uint32_t length,
                                const char* word) noexcept nogil:
    """Whether a line begins with a word of four letters, of which the end may be missing."""
    if length > FTP_WORD:
        return FTP_FOUND if text_begins(data, length, word, FTP_WORD) else FTP_NOTHING
    return FTP_PARTIAL if text_begins(data, length, word, length) else FTP_NOTHING


cdef inline bint delimiters_read(const uint8_t* data, uint32_t length, uint32_t at,
                                 bint answer) noexcept nogil:
    """Whether |1| or, of an ``answer``, ||| begins here, with any delimiter but a digit."""
    if at + 3 >= length or is_digit(data[at]) or data[at + 2] != data[at]:
        return False
    return (data[at + 1] == data[at]) == answer


cdef inline uint32_t command_search(const uint8_t* data, uint32_t length, uint8_t family,
                                    FtpAnnouncement* announced) noexcept nogil:
    """Look for PORT or EPRT at the beginning of a client's line."""
    cdef uint32_t at = FTP_WORD
    cdef uint32_t match = word_match(data, length, b"port")
    announced.mode = FTP_ACTIVE
    if match == FTP_NOTHING:
        match = word_match(data, length, b"eprt")
        announced.mode = FTP_EXTENDED_ACTIVE
    if match != FTP_FOUND:
        return match
    while at < length and data[at] != 32:
        at += 1
    at += 1
    if announced.mode == FTP_ACTIVE:
        return FTP_FOUND if numbers_read(data, length, at, 13, announced) else FTP_PARTIAL
    return FTP_FOUND if (delimiters_read(data, length, at, False) and extended_read(
        data, length, at, family, False, announced)) else FTP_PARTIAL


cdef inline uint32_t answer_search(const uint8_t* data, uint32_t length, uint8_t family,
                                   FtpAnnouncement* announced) noexcept nogil:
    """Look for 227 or 229 at the beginning of a server's line. What 227 announces begins with
    the first digit (RFC 1123, section 4.1.2.6); 229 does not tell the address."""
    cdef uint32_t at = FTP_WORD
    cdef uint32_t match = word_match(data, length, b"227 ")
    announced.mode = FTP_PASSIVE
    if match == FTP_NOTHING:
        match = word_match(data, length, b"229 ")
        announced.mode = FTP_EXTENDED_PASSIVE
    if match != FTP_FOUND:
        return match
    if announced.mode == FTP_PASSIVE:
        while at < length and not is_digit(data[at]):
            at += 1
        return FTP_FOUND if numbers_read(data, length, at, 0, announced) else FTP_PARTIAL
    while at < length and data[at] != 40:
        at += 1
    at += 1
    return FTP_FOUND if (delimiters_read(data, length, at, True) and extended_read(
        data, length, at, family, True, announced)) else FTP_PARTIAL


cdef inline uint32_t number_write(uint8_t* text, uint32_t value) noexcept nogil:
    """Write a decimal number; its length."""
    cdef uint8_t digits[10]
    cdef uint32_t count = 0
    cdef uint32_t i
    while True:
        digits[count] = <uint8_t>(48 + value % 10)
        count += 1
        value //= 10
        if value == 0:
            break
    for i in range(count):
        text[i] = digits[count - 1 - i]
    return count


cdef inline uint32_t octets_write(uint8_t* text, const uint8_t* octets, uint32_t count,
                                  uint8_t separator) noexcept nogil:
    """Write numbers of eight bits; the length."""
    cdef uint32_t length = 0
    cdef uint32_t i
    for i in range(count):
        if i:
            text[length] = separator
            length += 1
        length += number_write(text + length, octets[i])
    return length


cdef inline uint32_t address6_write(uint8_t* text, const uint8_t* octets) noexcept nogil:
    """Write an IPv6 address in full, as the kernel does (%pI6); the length."""
    cdef const char* digits = b"0123456789abcdef"
    cdef uint32_t length = 0
    cdef uint32_t i
    for i in range(16):
        if i and i % 2 == 0:
            text[length] = 58
            length += 1
        text[length] = <uint8_t>digits[octets[i] >> 4]
        text[length + 1] = <uint8_t>digits[octets[i] & 15]
        length += 2
    return length


cdef inline uint32_t announcement_write(uint8_t* text, uint32_t mode, uint8_t family,
                                        const Address* address, uint16_t port) noexcept nogil:
    """Write where a data connection goes (``port`` as on the wire) as a command or an answer has
    it, in at most MAX_ANNOUNCEMENT bytes, without EPRT in MAX_FTP_TEXT; the length."""
    cdef uint8_t octets[6]
    cdef uint32_t length = 3
    memcpy(octets, address, 4)
    memcpy(octets + 4, &port, 2)
    if mode != FTP_EXTENDED_PASSIVE and mode != FTP_EXTENDED_ACTIVE:
        return octets_write(text, octets, 6, 44)
    memset(text, 124, 3)
    if mode == FTP_EXTENDED_ACTIVE:
        text[1] = 49 if family == IPV4 else 50
        if family == IPV4:
            length += octets_write(text + 3, octets, 4, 46)
        else:
            length += address6_write(text + 3, <const uint8_t*>address)
        text[length] = 124
        length += 1
    length += number_write(text + length, <uint32_t>octets[4] << 8 | octets[5])
    text[length] = 124
    return length + 1
