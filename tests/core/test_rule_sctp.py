"""rule_sctp.pxd: an association packet by packet (RFC 9260; nf_conntrack_proto_sctp.c)."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.sctp import (
    SCTP,
    SCTPChunkAbort,
    SCTPChunkCookieAck,
    SCTPChunkCookieEcho,
    SCTPChunkData,
    SCTPChunkHeartbeatAck,
    SCTPChunkHeartbeatReq,
    SCTPChunkInit,
    SCTPChunkInitAck,
    SCTPChunkSACK,
    SCTPChunkShutdown,
    SCTPChunkShutdownAck,
    SCTPChunkShutdownComplete,
)

from lvscore._probe_window import Association

CLIENT, SERVER = 0x11111111, 0x22222222  # each one's own tag
OPENING = [
    (0, 0, SCTPChunkInit(init_tag=CLIENT), "CLOSED"),
    (1, CLIENT, SCTPChunkInitAck(init_tag=SERVER), "COOKIE_WAIT"),
    (0, SERVER, SCTPChunkCookieEcho(cookie=b"cake"), "COOKIE_ECHOED"),
    (1, CLIENT, SCTPChunkCookieAck(), "ESTABLISHED"),
]
CLOSING = [
    (0, SERVER, SCTPChunkShutdown(), "SHUTDOWN_SENT"),
    (1, CLIENT, SCTPChunkShutdownAck(), "SHUTDOWN_ACK_SENT"),
    (0, SERVER, SCTPChunkShutdownComplete(), "CLOSED"),
]


def packet(tag, *chunks):
    """The common header and chunks, each padded."""
    data = b""
    for chunk in chunks:
        raw = bytes(chunk)
        data += raw + bytes(-len(raw) % 4)
    return struct.pack("!HHII", 1, 2, tag, 0) + data


def opened():
    association = Association()
    for direction, tag, chunk, _ in OPENING:
        assert association.send(direction, packet(tag, chunk))
    return association


def test_from_init_to_shutdown_complete():
    association = Association()
    for direction, tag, chunk, state in OPENING + CLOSING:
        assert association.send(direction, packet(tag, chunk)), chunk.summary()
        assert association.state == state


@pytest.mark.parametrize("step", range(len(OPENING)))
def test_a_wrong_tag_is_invalid_and_changes_nothing(step):
    association = Association()
    for direction, tag, chunk, _ in OPENING[:step]:
        association.send(direction, packet(tag, chunk))
    before = association.state
    direction, tag, chunk, state = OPENING[step]
    assert not association.send(direction, packet(tag ^ 5, chunk))
    assert association.state == before
    assert association.send(direction, packet(tag, chunk))
    assert association.state == state


@pytest.mark.parametrize("chunk", [
    SCTPChunkAbort(), SCTPChunkShutdownComplete(), SCTPChunkCookieAck()])  # fmt: skip
def test_out_of_the_blue(chunk):
    """RFC 9260, section 8.4: these open nothing."""
    association = Association()
    assert not association.send(0, packet(SERVER, chunk))
    assert association.state == "NONE"


@pytest.mark.parametrize(("direction", "tag", "flags", "fits"), [
    (0, SERVER, 0, True), (0, CLIENT, 0, False), (0, CLIENT, 1, True), (0, SERVER, 1, False),
    (1, CLIENT, 0, True), (1, SERVER, 1, True), (1, SERVER, 0, False)])  # fmt: skip
def test_an_abort_may_reflect_the_tag(direction, tag, flags, fits):
    """With the T bit the tag is the one that the sender was sent (section 8.5.1)."""
    chunk = bytearray(bytes(SCTPChunkAbort()))
    chunk[1] = flags
    association = opened()
    assert association.send(direction, packet(tag, bytes(chunk))) == fits
    assert association.state == ("CLOSED" if fits else "ESTABLISHED")


@pytest.mark.parametrize("chunks", [
    (SCTPChunkInit(init_tag=1), SCTPChunkData(data=b"x")),
    (SCTPChunkData(data=b"x"), SCTPChunkCookieEcho(cookie=b"x")),
    (SCTPChunkData(data=b"x"), SCTPChunkShutdownComplete()),
    (), (b"\0\0\0\0",)])  # fmt: skip
def test_what_may_not_stand_together(chunks):
    association = opened()
    assert not association.send(0, packet(SERVER, *chunks))
    assert association.state == "ESTABLISHED"


def test_data_behind_the_cookie_may():
    association = Association()
    for direction, tag, chunk, _ in OPENING[:2]:
        association.send(direction, packet(tag, chunk))
    cookie = SCTPChunkCookieEcho(cookie=b"cake")
    assert association.send(0, packet(SERVER, cookie, SCTPChunkData(data=b"early")))
    assert association.state == "COOKIE_ECHOED"


def test_heartbeats_alone_establish():
    """The second path of an association that is multi-homed."""
    association = Association()
    assert association.send(0, packet(SERVER, SCTPChunkHeartbeatReq()))
    assert association.state == "HEARTBEAT_SENT"
    assert association.send(1, packet(CLIENT, SCTPChunkHeartbeatAck()))
    assert association.state == "ESTABLISHED"
    assert association.send(0, packet(SERVER, SCTPChunkData(data=b"x")))


def test_a_heartbeat_with_another_tag_waits_for_its_answer():
    association = opened()
    assert not association.send(1, packet(7, SCTPChunkHeartbeatAck()))
    assert association.send(0, packet(SERVER + 1, SCTPChunkHeartbeatReq()))
    assert not association.send(0, packet(SERVER + 1, SCTPChunkData(data=b"x")))
    assert association.send(1, packet(7, SCTPChunkHeartbeatAck()))
    assert association.send(1, packet(7, SCTPChunkData(data=b"x")))


@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from([0, CLIENT, SERVER]), st.sampled_from(
    [chunk for _, _, chunk, _ in OPENING + CLOSING]
    + [SCTPChunkData(data=b"x"), SCTPChunkSACK(), SCTPChunkAbort(), SCTPChunkHeartbeatReq()])),
    max_size=12))  # fmt: skip
def test_only_with_the_right_tag(steps):
    """Whatever came before: without a chunk of special rules, another tag never passes."""
    association = opened()
    for direction, tag, chunk in steps:
        before = association.state
        fits = association.send(direction, packet(tag, chunk))
        if not fits and not isinstance(chunk, (SCTPChunkInit, SCTPChunkInitAck)):
            assert association.state == before
        if type(chunk) is SCTPChunkInit and tag:
            assert not fits


@given(st.binary(max_size=60), st.integers(0, 1))
def test_any_bytes(data, direction):
    """In memory of exactly their size; the sanitizers look on."""
    for association in Association(), opened():
        association.send(direction, bytes(SCTP()) + data)


def test_every_truncation():
    for length in range(12, 32):
        association = Association()
        whole = packet(0, SCTPChunkInit(init_tag=CLIENT))
        assert association.send(0, whole[:length]) == (length >= 32)
