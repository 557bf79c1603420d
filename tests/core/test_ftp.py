"""What FTP's commands and answers announce, and sequence numbers behind an edit."""

import re
import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from lvscore import _probe_ftp as ftp

PASV, EPSV = ftp.MODES["PASV"], ftp.MODES["EPSV"]
SERVER, SERVER6 = ip_address("172.16.1.7").packed, ip_address("2001:db8:1::7").packed
CLIENT, CLIENT6 = ip_address("10.0.0.9").packed, ip_address("2001:db8:a::9").packed
octets = st.lists(st.integers(0, 255), min_size=6, max_size=6)
ports = st.integers(1, 65535)
addresses = {4: st.ip_addresses(v=4), 6: st.ip_addresses(v=6)}


def plain(numbers):
    return ",".join(map(str, numbers)).encode()


def anycase(data):
    """Words of a command in any case."""
    return st.sampled_from([data, data.lower(), data.title(), data.swapcase()])


@given(octets, anycase(b"PORT "), st.sampled_from([b"\r", b"\r\n", b" ", b")", b".\r\n", b",7"]))
def test_port(numbers, word, end):
    found = ftp.active_request(word + plain(numbers) + end, 4)
    port = numbers[4] << 8 | numbers[5]
    if port == 0:
        assert found is None
    else:
        assert found == (bytes(numbers[:4]), port, 5, 5 + len(plain(numbers)))


@given(
    octets,
    st.sampled_from([b"227 Entering Passive Mode (", b"227 (", b"227 =", b"227 ((", b"227 at "]),
)
def test_227(numbers, words):
    data = words + plain(numbers) + b").\r\n"
    found = ftp.passive_answer(data, PASV, SERVER)
    if numbers[4:] == [0, 0]:
        assert found is None
        return
    address, port, start, end = found
    assert (address, port) == (bytes(numbers[:4]), numbers[4] << 8 | numbers[5])
    assert data[start:end] == plain(numbers)
    assert ftp.passive_answer(data, EPSV, SERVER) is None
    assert ftp.announcement_write(PASV, address, port) == plain(numbers)


@given(st.sampled_from([4, 6]).flatmap(lambda v: st.tuples(st.just(v), addresses[v])), ports,
       st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="0123456789.:abcdef"),
       anycase(b"EPRT "))  # fmt: skip
def test_eprt(given_address, port, delimiter, word):
    version, address = given_address
    family = 1 if version == 4 else 2
    text = delimiter.join(("", str(family), str(address), str(port), "")).encode()
    data = word + text + b"\r\n"
    assert ftp.active_request(data, version) == (address.packed, port, 5, 5 + len(text))
    assert ftp.active_request(data, 10 - version) is None
    for cut in range(len(data) - 2):
        assert ftp.active_request(data[:cut], version) is None


@given(octets, anycase(b"PORT"), st.sampled_from([b" ", b"\t "]))
def test_netfilter_finds_port(numbers, word, blank):
    line = word + blank + plain(numbers) + b"\r\n"
    mode, (address, port, start, end) = ftp.search(line, CLIENT, False)
    assert (mode, address, port) == (0, bytes(numbers[:4]), numbers[4] << 8 | numbers[5])
    assert line[start:end] == plain(numbers)
    assert ftp.search(line, CLIENT, True) is None
    for cut in range(1, len(line) - 1):
        assert ftp.search(line[:cut], CLIENT, False) == "partial"


@given(octets, st.sampled_from([b"Entering Passive Mode (", b"", b"(((", b"at "]), st.binary())
def test_netfilter_finds_227(numbers, words, rest):
    line = b"227 " + words + plain(numbers) + b")" + rest
    mode, (_, _, start, end) = ftp.search(line, SERVER, True)
    assert (mode, line[start:end]) == (PASV, plain(numbers))


@given(
    st.sampled_from([4, 6]).flatmap(lambda v: st.tuples(st.just(v), addresses[v])),
    ports,
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="0123456789.:abcdef"),
)
def test_netfilter_finds_eprt_and_229(given_address, port, delimiter):  # fmt: skip
    version, address = given_address
    speaker = CLIENT if version == 4 else CLIENT6
    text = delimiter.join(("", "1" if version == 4 else "2", str(address), str(port), "")).encode()
    line = b"EPRT " + text + b"\r\n"
    assert ftp.search(line, speaker, False) == (
        ftp.MODES["EPRT"], (address.packed, port, 5, 5 + len(text)),
    )  # fmt: skip
    assert ftp.search(line, CLIENT6 if version == 4 else CLIENT, False) == "partial"
    text = f"{delimiter * 3}{port}{delimiter}".encode()
    found = ftp.search(b"229 x (" + text, speaker, True)
    assert found == (EPSV, (speaker, port, 7, 7 + len(text)))
    for cut in range(1, 7 + len(text)):
        assert ftp.search((b"229 x (" + text)[:cut], speaker, True) == "partial"
    line = ftp.announcement_write(ftp.MODES["EPRT"], address.packed, port)
    full = address.exploded
    assert line == f"|{1 if version == 4 else 2}|{full}|{port}|".encode()


@given(st.binary(min_size=1, max_size=60), st.booleans(), st.sampled_from([CLIENT, CLIENT6]))
def test_netfilter_finds_nothing_elsewhere(data, answer, speaker):
    words = (b"227 ", b"229 ") if answer else (b"PORT", b"EPRT")
    found = ftp.search(data, speaker, answer)
    cut = data[:4].upper()
    assert (found is None) == (not any(word.startswith(cut) for word in words))


@pytest.mark.parametrize(
    ("line", "answer"),
    [(b"PORT 1,2,3,4,5,6 \r\n", False), (b"PORT 1,2,3,4,5\r\n", False),
     (b"PORT 1,2,3,4,5,6,7\r\n", False), (b"EPRT 111.2.3.4151\r\n", False),
     (b"EPRT |||5|\r\n", False), (b"EPRT |1|1.2.3.4|65536|\r\n", False),
     (b"229 (|1|1.2.3.4|5|)\r\n", True), (b"229 (|| 5|)\r\n", True), (b"229 (1115|1)", True),
     (b"229 |||5|\r\n", True)],
)  # fmt: skip
def test_netfilter_drops_what_it_cannot_read(line, answer):
    assert ftp.search(line, CLIENT, answer) == "partial"


@pytest.mark.parametrize(
    ("numbers", "address", "port"),
    [(b"1,2,3,4,5,256", "1.2.3.4", 5 << 8 | 256), (b"1,,3,4,5,6", "1.0.3.4", 5 << 8 | 6),
     (b"1,2,3,300,256,7", "1.2.3.44", 7), (b"1,2,256,4,5,6", "1.3.0.4", 5 << 8 | 6)],
)  # fmt: skip
def test_netfilter_puts_numbers_together_by_their_bits(numbers, address, port):
    _, found = ftp.search(b"PORT " + numbers + b"\r\n", CLIENT, False)
    assert found[:2] == (ip_address(address).packed, port)


@given(ports, st.sampled_from([SERVER, SERVER6]))
def test_229(port, server):
    data = f"229 Entering Extended Passive Mode (|||{port}|)\r\n".encode()
    address, found, start, end = ftp.passive_answer(data, EPSV, server)
    assert (address, found, data[start:end]) == (server, port, f"|||{port}|".encode())
    assert ftp.announcement_write(EPSV, server, port) == data[start:end]
    assert ftp.passive_answer(data, PASV, server) is None
    for cut in range(data.index(b")")):
        assert ftp.passive_answer(data[:cut], EPSV, server) is None


@given(ports, st.sampled_from(["172.16.1.9", "2001:db8:1::9", "::", "::ffff:1.2.3.4"]))
def test_229_with_an_address(port, text):
    address = ip_address(text)
    family, server = (1, SERVER) if address.version == 4 else (2, SERVER6)
    data = f"229 ok (|{family}|{text}|{port}|)".encode()
    assert ftp.passive_answer(data, EPSV, server)[:2] == (address.packed, port)
    assert ftp.passive_answer(data.replace(b"(|", b"(|3"), EPSV, server) is None


@pytest.mark.parametrize(
    "data",
    [
        b"227 Entering Passive Mode (172,16,1,7,200,10)",
        b"229 Entering Extended Passive Mode (|||51210|)",
        b"PORT 10,0,0,1,200,20\r",
        b"EPRT |1|10.0.0.1|51220|",
    ],
)
def test_every_truncation_announces_nothing(data):
    def read(text):
        return (
            ftp.passive_answer(text, PASV, SERVER)
            or ftp.passive_answer(text, EPSV, SERVER)
            or ftp.active_request(text, 4)
        )

    assert read(data)
    end = read(data)[3]
    # Behind the last number something must stand, or it may go on.
    needed = end if data[end - 1 : end] == b"|" else end + 1
    for cut in range(needed):
        assert read(data[:cut]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"PORT 10,0,0,256,200,20\r\n",
        b"PORT 10,0,0,1,200,4294967316\r\n",
        b"PORT 10,0,0,99999999999999999999,200,20\r\n",
        b"PORT 10,,0,1,200,20\r\n",
        b"PORT 10,0,0,1,200,\r\n",
        b"PORT 10,0,0,1,200\r\n",
        b"PORT 10.0.0.1,200,20\r\n",
        b"PORT -10,0,0,1,200,20\r\n",
        b"PORT 10,0,0,1,0,0\r\n",
        b"PORT\r\n",
        b"XPORT 10,0,0,1,200,20\r\n",
        b"EPRT |1|10.0.0.1|65536|\r\n",
        b"EPRT |1|10.0.0.1|0|\r\n",
        b"EPRT |1|10.0.0.1||\r\n",
        b"EPRT |1|10.0.0|80|\r\n",
        b"EPRT |1|10.0.0.1.2|80|\r\n",
        b"EPRT |1|10.0.0.1,80|\r\n",
        b"EPRT |||51210|\r\n",
        b"EPRT  \r\n",
        b"EPRT \x201\x2010.0.0.1\x2080\x20\r\n",
    ],
)
def test_commands_that_announce_nothing(data):
    assert ftp.active_request(data, 4) is None


@pytest.mark.parametrize(
    "text", [b"1::2::3", b"g::1", b"1:2:3:4:5:6:7:8:9", b"1" * 46, b"", b"::1%e"]
)
def test_ipv6_addresses_that_are_none(text):
    assert ftp.active_request(b"EPRT |2|" + text + b"|80|\r\n", 6) is None


@given(st.binary(max_size=80), st.sampled_from([4, 6]), st.sampled_from([PASV, EPSV, 0, 3]))
def test_any_bytes(data, family, mode):
    server = SERVER if family == 4 else SERVER6
    for text in (data, b"227 (" + data, b"229 (|" + data, b"PORT " + data, b"EPRT |" + data):
        for found in (ftp.active_request(text, family), ftp.passive_answer(text, mode, server)):
            if found is not None:
                address, port, start, end = found
                assert len(address) == len(server)
                assert 1 <= port <= 65535
                assert 4 <= start < end <= len(text)


@given(st.binary(max_size=12), st.binary(max_size=12), st.sampled_from([4, 6]),
       st.sampled_from([b"PASV\r\n", b"EPSV\r\n", b"EPSV 1\r\n", b"EPSV 2\r\n", b"EPSV ALL\r\n",
                        b"PASV", b"PASV\n"]).flatmap(anycase))  # fmt: skip
def test_passive_requests(before, after, family, command):
    data = before + command + after
    model = {4: rb"(?i)(pasv\r\n)|epsv(?:\r| 1\r|( ))", 6: rb"(?i)((?!))|epsv(?:\r| 2\r|( ))"}
    wanted = ftp.MODES["active"]
    for match in re.finditer(model[family], data):
        if match.start() + 6 <= len(data):
            wanted = PASV if match[1] else ftp.MODES["other family"] if match[2] else EPSV
            break
    assert ftp.passive_request(data, family) == wanted


@given(octets.filter(lambda n: n[4] or n[5]))
def test_the_text_is_what_python_writes(numbers):
    address, port = bytes(numbers[:4]), numbers[4] << 8 | numbers[5]
    assert ftp.announcement_write(PASV, address, port) == plain(numbers)
    assert ftp.announcement_write(EPSV, address, port) == f"|||{port}|".encode()


# sequence.pxd

edits = st.lists(st.tuples(st.integers(1, 300), st.integers(-8, 8)), max_size=5)


@given(st.integers(0, 2**32 - 1), edits, st.integers(0, 400))
def test_numbers_since_the_edit_before_the_last_go_both_ways(start, plan, ahead):
    """Positions around the wrap of sequence numbers too."""
    sequence = ftp.Sequence()
    position, offset, latest = start, 0, (start, 0)
    for step, difference in plan:
        position += step
        sequence.edit(position % 2**32, difference)
        if difference:
            latest = (position, offset)
            offset += difference
    number = latest[0] + ahead
    moved = number + (latest[1] if number <= latest[0] else offset)
    if offset or latest[1]:
        assert sequence.forward(number % 2**32) == moved % 2**32
        assert sequence.back(moved % 2**32) == number % 2**32 or ahead <= 8
    else:
        assert sequence.forward(number % 2**32) == number % 2**32


def test_the_same_segment_again_and_one_before_it_are_no_new_edits():
    sequence = ftp.Sequence()
    sequence.edit(1000, 2)
    sequence.edit(1000, 2)
    sequence.edit(900, 2)
    assert [sequence.forward(n) for n in (900, 1000, 1001)] == [900, 1000, 1003]
    sequence.edit(2000, -5)
    assert [sequence.forward(n) for n in (1500, 2000, 2001)] == [1502, 2002, 1998]
    assert [sequence.back(n) for n in (1502, 2002, 2040)] == [1500, 2000, 2043]


def segment(*options, flags="A", seq=5000, ack=7000):
    header = TCP(sport=21, dport=40000, flags=flags, seq=seq, ack=ack, options=list(options))
    return bytes(Ether() / IP(src="10.0.0.1", dst="10.0.0.2") / header / b"payload")


@pytest.mark.parametrize("nops", range(4))
def test_selective_acknowledgements_at_any_offset(nops):
    other = ftp.Sequence()
    other.edit(6990, 3)
    sack = ("SAck", (6980, 6990, 7003, 7103))
    frame = segment(*[("NOP", None)] * nops, sack, ack=6990)
    moved = ("SAck", (6980, 6990, 7000, 7100))
    assert ftp.adjust(frame, ftp.Sequence(), other) == segment(
        *[("NOP", None)] * nops, moved, ack=6990
    )


def test_without_edits_nothing_is_touched():
    frame = bytearray(segment(("SAck", (1, 2))))
    frame[50:52] = b"\xff\xff"
    assert ftp.adjust(bytes(frame), ftp.Sequence(), ftp.Sequence()) == frame


def test_without_ack_the_field_is_none():
    other = ftp.Sequence()
    other.edit(100, 9)
    frame = segment(flags="R", ack=7000)
    assert ftp.adjust(frame, ftp.Sequence(), other) == frame


@given(st.binary(min_size=40, max_size=40), st.integers(0, 15))
def test_options_of_any_bytes(options, offset):
    """No option, whatever its length says, is followed out of the header; the checksum holds."""
    own, other = ftp.Sequence(), ftp.Sequence()
    own.edit(1, 5)
    other.edit(1, 5)
    frame = bytearray(segment())[:54] + options
    frame[14 + 2 : 14 + 4] = struct.pack(">H", len(frame) - 14)
    frame[46] = offset << 4
    header = max(20, offset * 4)
    out = ftp.adjust(bytes(frame), own, other)
    assert out[34 + header :] == frame[34 + header :]
    assert (ones(frame[34 : 34 + header]) - ones(out[34 : 34 + header])) % 0xFFFF == 0


def ones(data):
    return sum(struct.unpack(f">{len(data) // 2}H", bytes(data)))
