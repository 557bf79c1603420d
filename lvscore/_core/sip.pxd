"""SIP dialogs: which template a Call-ID belongs to (ip_vs_pe_sip.c; RFC 3261, section 20.8).

Dialogs lie in one array and are found by a keyed hash of their Call-ID; entries of an array
that is reserved as address space take memory as they are touched.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from lvscore._core.bytes cimport load64
from lvscore._core.hash cimport HashKey
from lvscore._core.machine cimport memory_release, memory_reserve, multiply_fold

cdef enum:
    MAX_CALL_ID = 255           # IP_VS_PEDATA_MAXLEN
    UDP_HEADER_LENGTH = 8


cdef struct CallId:
    const uint8_t* text
    uint32_t length


cdef struct Dialog:
    uint64_t hash
    uint32_t template           # record in the table of templates
    uint32_t next               # in its bucket or in the free list: index + 1, 0: none
    uint8_t family
    uint8_t length
    uint8_t call_id[255]


cdef struct Dialogs:
    Dialog* dialog
    uint32_t* bucket            # index + 1 of the first dialog, 0: none
    uint32_t mask
    uint32_t limit
    uint32_t used               # entries that were ever used
    uint32_t free
    uint32_t count


cdef inline bint dialogs_init(Dialogs* d, uint32_t limit) noexcept nogil:
    """Reserve address space for ``limit`` dialogs; False if the system refuses."""
    memset(d, 0, sizeof(Dialogs))
    d.limit = limit
    d.mask = 15
    while d.mask < limit:
        d.mask = 2 * d.mask + 1
    d.dialog = <Dialog*>memory_reserve(<size_t>limit * sizeof(Dialog))
    d.bucket = <uint32_t*>memory_reserve((<size_t>d.mask + 1) * sizeof(uint32_t))
    return d.dialog != NULL and d.bucket != NULL


cdef inline void dialogs_free(Dialogs* d) noexcept nogil:
    memory_release(d.dialog, <size_t>d.limit * sizeof(Dialog))
    memory_release(d.bucket, (<size_t>d.mask + 1) * sizeof(uint32_t))
    memset(d, 0, sizeof(Dialogs))


cdef inline bint dialogs_copy(Dialogs* d, const Dialogs* other) noexcept nogil:
    """Make ``d`` a copy of ``other``; False if memory ends, then free it all the same."""
    if not dialogs_init(d, other.limit):
        return False
    d.used = other.used
    d.free = other.free
    d.count = other.count
    if other.used:
        memcpy(d.dialog, other.dialog, <size_t>other.used * sizeof(Dialog))
        memcpy(d.bucket, other.bucket, (<size_t>d.mask + 1) * sizeof(uint32_t))
    return True


cdef inline bint is_word(uint8_t c) noexcept nogil:
    """Whether a character may stand in a Call-ID (RFC 3261, section 25.1: word)."""
    if 48 <= c <= 57 or 65 <= c <= 90 or 97 <= c <= 122:
        return True
    # - . ! % * _ + ` ' ~ ( ) < > : \ " / [ ] ? { }
    return (c == 33 or c == 34 or c == 37 or 39 <= c <= 43 or 45 <= c <= 47 or c == 58
            or c == 60 or c == 62 or c == 63 or 91 <= c <= 93 or c == 95 or c == 96
            or c == 123 or c == 125 or c == 126)


cdef inline uint8_t lower(uint8_t c) noexcept nogil:
    return c | 0x20 if 65 <= c <= 90 else c


cdef inline uint32_t header_name(const uint8_t* line, uint32_t length) noexcept nogil:
    """How long the name of a Call-ID header is at the start of a line, or 0: "Call-ID" or "i"."""
    cdef const char* name = "call-id"
    cdef uint32_t i
    if length >= 7:
        i = 0
        while i < 7 and lower(line[i]) == <uint8_t>name[i]:
            i += 1
        if i == 7:
            return 7
    if length >= 2 and lower(line[0]) == 105 and not 97 <= lower(line[1]) <= 122:
        return 1
    return 0


cdef inline uint32_t blanks(const uint8_t* text, uint32_t position,
                            uint32_t length) noexcept nogil:
    """Where blanks end."""
    while position < length and (text[position] == 32 or text[position] == 9):
        position += 1
    return position


cdef inline uint32_t words(const uint8_t* text, uint32_t position,
                           uint32_t length) noexcept nogil:
    while position < length and is_word(text[position]):
        position += 1
    return position


cdef inline bint call_id_value(const uint8_t* text, uint32_t position, uint32_t length,
                               CallId* found) noexcept nogil:
    """Read what stands behind a header's name: a word, which an @ and another may follow, and the
    end of the line."""
    cdef uint32_t start
    position = blanks(text, position, length)
    if position >= length or text[position] != 58:
        return False
    start = blanks(text, position + 1, length)
    position = words(text, start, length)
    if position > start and position < length and text[position] == 64:
        position = words(text, position + 1, length)
    if position >= length or (text[position] != 13 and text[position] != 10):
        return False
    found.text = text + start
    found.length = position - start
    return 0 < found.length <= MAX_CALL_ID


cdef inline bint call_id_find(const uint8_t* text, uint32_t length, CallId* found) noexcept nogil:
    """The Call-ID of a SIP message; the first line is no header."""
    cdef uint32_t position = 0
    cdef uint32_t name
    while position < length:
        if text[position] != 10 and text[position] != 13:
            position += 1
            continue
        if text[position] == 13 and position + 1 < length and text[position + 1] == 10:
            position += 1
        position += 1
        name = header_name(text + position, length - position) if position < length else 0
        if name:
            return call_id_value(text, position + name, length, found)
    return False


cdef inline uint64_t call_id_hash(const HashKey* key, const CallId* id) noexcept nogil:
    cdef uint64_t hash = key.word[0] ^ id.length
    cdef uint64_t rest = 0
    cdef uint32_t i = 0
    while i + 8 <= id.length:
        hash = multiply_fold(hash ^ load64(id.text + i), key.word[1] ^ i)
        i += 8
    memcpy(&rest, id.text + i, id.length - i)
    return multiply_fold(hash ^ rest, key.word[2])


cdef inline uint32_t dialog_next(const Dialogs* d, uint64_t hash, uint8_t family,
                                 const CallId* id, uint32_t after) noexcept nogil:
    """The next dialog with a Call-ID, behind ``after`` (0: the first); index + 1, 0: none."""
    cdef uint32_t i = d.bucket[hash & d.mask] if after == 0 else d.dialog[after - 1].next
    cdef const Dialog* dialog
    while i:
        dialog = &d.dialog[i - 1]
        if (dialog.hash == hash and dialog.family == family and dialog.length == id.length
                and memcmp(dialog.call_id, id.text, id.length) == 0):
            return i
        i = dialog.next
    return 0


cdef inline uint32_t dialog_add(Dialogs* d, uint64_t hash, uint8_t family, const CallId* id,
                                uint32_t template) noexcept nogil:
    """Remember a dialog's template; index + 1, 0 at the bound."""
    cdef uint32_t i = d.free
    cdef Dialog* dialog
    if i:
        d.free = d.dialog[i - 1].next
    elif d.used < d.limit:
        d.used += 1
        i = d.used
    else:
        return 0
    dialog = &d.dialog[i - 1]
    dialog.hash = hash
    dialog.template = template
    dialog.family = family
    dialog.length = <uint8_t>id.length
    memcpy(dialog.call_id, id.text, id.length)
    dialog.next = d.bucket[hash & d.mask]
    d.bucket[hash & d.mask] = i
    d.count += 1
    return i


cdef inline void dialog_forget(Dialogs* d, uint32_t i) noexcept nogil:
    """Forget a dialog, by its index + 1."""
    cdef Dialog* dialog = &d.dialog[i - 1]
    cdef uint32_t* link = &d.bucket[dialog.hash & d.mask]
    while link[0] != i:
        link = &d.dialog[link[0] - 1].next
    link[0] = dialog.next
    dialog.next = d.free
    d.free = i
    d.count -= 1
