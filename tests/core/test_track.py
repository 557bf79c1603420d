"""track.pxd against the state tables of the kernel's documentation, cell by cell."""

import pytest

from lvscore import _probe

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
SERVICE = ["NO", "ES", "SS", "SR", "FW", "TW", "CL", "CW", "LA", "LI", "SA"]
SERVICE_INPUT = {
    "syn": "SR ES ES SR SR SR SR SR SR SR SR",
    "fin": "CL CW SS TW TW TW CL CW LA LI TW",
    "ack": "ES ES SS ES FW TW CL CW CL LI ES",
    "rst": "CL CL CL SR CL CL CL CL LA LI SR",
}
SERVICE_OUTPUT = {
    "syn": "SS ES SS SR SS SS SS SS SS LI SR",
    "fin": "TW FW SS TW FW TW CL TW LA LI TW",
    "ack": "ES ES SS ES FW TW CL CW LA ES ES",
    "rst": "CL CL SS CL CL TW CL CL CL CL CL",
}
SERVICE_INPUT_ONLY = {
    "syn": "SR ES ES SR SR SR SR SR SR SR SR",
    "fin": "CL FW SS TW FW TW CL CW LA LI TW",
    "ack": "ES ES SS ES FW TW CL CW CL LI ES",
    "rst": "CL CL CL SR CL CL CL CL LA LI CL",
}
# With secure_tcp on.
SECURE_INPUT = {
    "syn": "SR ES ES SR SR SR SR SR SR SR SA",
    "fin": "CL CW SS TW TW TW CL CW LA LI SA",
    "ack": "ES ES SS SR FW TW CL CW CL LI SA",
    "rst": "CL CL CL SR CL CL CL CL LA LI CL",
}
SECURE_OUTPUT = {**SERVICE_OUTPUT, "syn": "SS ES SS SA SS SS SS SS SS LI SA"}
SECURE_INPUT_ONLY = {
    "syn": "SA ES ES SR SA SA SA SA SA SA SA",
    "fin": "CL FW SS TW FW TW CL CW LA LI TW",
    "ack": "ES ES SS ES FW TW CL CW CL LI ES",
    "rst": "CL CL CL SR CL CL CL CL LA LI CL",
}
SERVICE_TIMEOUTS = [2, 900, 120, 60, 120, 120, 10, 60, 30, 120, 120]

RULE = ["NO", "SS", "SR", "ES", "FW", "CW", "LA", "TW", "CL", "S2"]
RULE_ORIGINAL = {
    SYN: "SS SS IG IG IG IG IG SS SS S2",
    SYN | ACK: "IV IV SR IV IV IV IV IV IV SR",
    FIN | ACK: "IV IV FW FW LA LA LA TW CL IV",
    ACK: "ES IV ES ES CW CW TW TW CL IV",
    RST: "IV CL CL CL CL CL CL CL CL CL",
}
RULE_REPLY = {
    SYN: "IV S2 IV IV IV IV IV SS IV S2",
    SYN | ACK: "IV SR IG IG IG IG IG IG IG SR",
    FIN | ACK: "IV IV FW FW LA LA LA TW CL IV",
    ACK: "IV IG SR ES CW CW TW TW CL IG",
    RST: "IV CL CL CL CL CL CL CL CL CL",
}
RULE_TIMEOUTS = [0, 120, 60, 432000, 120, 60, 30, 120, 10, 120]
INVALID, IGNORED, REOPENED = 1, 2, 3
RETRANS, UNACKNOWLEDGED = 0x5A, 0x5B  # timeouts, no states

tracker = _probe.Tracker()


def service_event(flags):
    for bit, event in ((RST, "rst"), (SYN, "syn"), (FIN, "fin"), (ACK, "ack")):
        if flags & bit:
            return event
    return None


@pytest.mark.parametrize(
    ("secure", "direction", "table"),
    [
        (False, 0, SERVICE_INPUT),
        (False, 1, SERVICE_OUTPUT),
        (False, 2, SERVICE_INPUT_ONLY),
        (True, 0, SECURE_INPUT),
        (True, 1, SECURE_OUTPUT),
        (True, 2, SECURE_INPUT_ONLY),
    ],
)
def test_service_tcp(secure, direction, table):
    tracker = _probe.Tracker()
    tracker.secure(secure)
    for flags in range(32):
        event = service_event(flags)
        for state in range(11):
            expected = SERVICE.index(table[event].split()[state]) if event else 6
            assert tracker.next(direction, flags, 0x10 | state) == 0x10 | expected


def test_service_timeouts_and_activity():
    assert [tracker.timeout(0x10 | s) for s in range(11)] == [1000 * t for t in SERVICE_TIMEOUTS]
    assert tracker.timeout(0x20) == 300_000
    active = [name for number, name in enumerate(SERVICE) if tracker.is_active(0x10 | number)]
    assert active == ["ES", "SS", "SR", "SA"]
    assert not tracker.is_active(0x20)


@pytest.mark.parametrize(("direction", "table"), [(0, RULE_ORIGINAL), (1, RULE_REPLY)])
@pytest.mark.parametrize("push", [0, PSH])
def test_rule_tcp(direction, table, push):
    for flags in range(32):
        if flags & PSH:
            continue
        kind = RST if flags == RST | ACK else flags
        for state in range(10):
            cell = table[kind].split()[state] if kind in table else "IV"
            expected = {"IV": INVALID, "IG": IGNORED}.get(cell)
            if expected is None:
                expected = 0x50 | RULE.index(cell)
            if kind == SYN and RULE[state] in ("TW", "CL") and cell == "SS":
                expected = REOPENED
            found = tracker.next(direction, flags | push, 0x50 | state)
            assert found == expected, (direction, flags, RULE[state])


def test_rule_timeouts():
    assert [tracker.timeout(0x50 | s) for s in range(10)] == [1000 * t for t in RULE_TIMEOUTS]
    assert tracker.timeout(RETRANS) == tracker.timeout(UNACKNOWLEDGED) == 300_000
    assert [tracker.timeout(s) for s in (0x60, 0x61, 0x62)] == [30_000, 30_000, 120_000]
    assert [tracker.timeout(s) for s in (0x70, 0x71, 0x80)] == [30_000, 30_000, 600_000]
    assert [tracker.timeout(s) for s in (0x90, 0x91)] == [30_000, 180_000]


@pytest.mark.parametrize("secure", [False, True])
def test_what_stays_is_of_its_own_protocol(secure):
    """The fast path asks no more: not whether a record of the same tuple is of the packet's
    protocol, nor whether it is free (state 0)."""
    tracker = _probe.Tracker()
    tracker.secure(True)
    tracker.secure(secure)
    datagram = 32
    for direction in range(2):
        for event in range(33):
            states = range(0x10, 0x1B) if event & (SYN | RST) != SYN | RST else []
            expected = {n for n in states if tracker.next(direction, event, n) == n}
            if event == datagram:
                expected = {0x20}
            assert expected == {n for n in range(256) if tracker.stays(direction, event, n)}


def test_datagrams_of_services():
    assert {tracker.next(direction, 0, 0x20) for direction in range(3)} == {0x20}


@pytest.mark.parametrize(
    ("state", "replied", "aged", "new"),
    [
        (0x60, False, False, 0x60),
        (0x60, False, True, 0x60),
        (0x60, True, False, 0x61),
        (0x61, True, False, 0x61),
        (0x61, True, True, 0x62),
        (0x62, True, True, 0x62),
        (0x70, True, True, 0x70),
        (0x80, True, True, 0x80),
        (0x90, False, True, 0x90),
        (0x90, True, False, 0x91),
    ],
)
def test_flows_of_the_rules(state, replied, aged, new):
    assert _probe.rule_flow_state(state, replied, aged) == new


def test_bytes_that_are_no_state_are_invalid():
    known = {0x10 | s for s in range(11)} | {0x50 | s for s in range(10)} | {0x20}
    known |= {0x30 | s for s in range(14)}
    for state in set(range(256)) - known:
        assert tracker.next(0, SYN, state) == INVALID
