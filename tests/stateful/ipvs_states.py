"""The states of IPVS's connections, as its description prints them, and how long each lasts."""

from ipvs_packets import SCTP, TCP, UDP

NAMES = {
    "NO": "NONE", "ES": "ESTABLISHED", "SS": "SYN_SENT", "SR": "SYN_RECV", "FW": "FIN_WAIT",
    "TW": "TIME_WAIT", "CL": "CLOSE", "CW": "CLOSE_WAIT", "LA": "LAST_ACK", "LI": "LISTEN",
    "SA": "SYNACK",
}  # fmt: skip
SCTP_NAMES = {
    "NO": "NONE", "I1": "INIT1", "IN": "INIT", "CS": "COOKIE_SENT", "CR": "COOKIE_REPLIED",
    "CW": "COOKIE_WAIT", "CO": "COOKIE", "CE": "COOKIE_ECHOED", "ES": "ESTABLISHED",
    "SS": "SHUTDOWN_SENT", "SR": "SHUTDOWN_RECEIVED", "SA": "SHUTDOWN_ACK_SENT", "RJ": "REJECTED",
    "CL": "CLOSED",
}  # fmt: skip
ACTIVE = {TCP: {"ES", "SS", "SR", "SA"}, SCTP: {"ES"}}
OVER = {TCP: ("TW", "CL"), SCTP: ("CL",)}
TIMEOUTS = {
    "NO": 2, "ES": 900, "SS": 120, "SR": 60, "FW": 120, "TW": 120, "CL": 10, "CW": 60, "LA": 30,
    "LI": 120, "SA": 120,
}  # fmt: skip
SCTP_TIMEOUTS = {**dict.fromkeys(SCTP_NAMES, 61), "NO": 2, "I1": 4, "RJ": 4, "ES": 900}


def rows(text, names):
    """``{event: {state: next state}}`` of a table as the description prints it."""
    lines = (line.split() for line in text.strip().splitlines())
    return {event: dict(zip(names, states, strict=True)) for event, *states in lines}


TABLES = {
    "input": rows("""
        S SR ES ES SR SR SR SR SR SR SR SR
        F CL CW SS TW TW TW CL CW LA LI TW
        A ES ES SS ES FW TW CL CW CL LI ES
        R CL CL CL SR CL CL CL CL LA LI SR
    """, NAMES),
    "output": rows("""
        S SS ES SS SR SS SS SS SS SS LI SR
        F TW FW SS TW FW TW CL TW LA LI TW
        A ES ES SS ES FW TW CL CW LA ES ES
        R CL CL SS CL CL TW CL CL CL CL CL
    """, NAMES),
    "input-only": rows("""
        S SR ES ES SR SR SR SR SR SR SR SR
        F CL FW SS TW FW TW CL CW LA LI TW
        A ES ES SS ES FW TW CL CW CL LI ES
        R CL CL CL SR CL CL CL CL LA LI CL
    """, NAMES),
}  # fmt: skip
SECURE_TABLES = {
    "input": rows("""
        S SR ES ES SR SR SR SR SR SR SR SA
        F CL CW SS TW TW TW CL CW LA LI SA
        A ES ES SS SR FW TW CL CW CL LI SA
        R CL CL CL SR CL CL CL CL LA LI CL
    """, NAMES),
    "output": {**TABLES["output"], **rows("S SS ES SS SA SS SS SS SS SS LI SA", NAMES)},
    "input-only": rows("""
        S SA ES ES SR SA SA SA SA SA SA SA
        F CL FW SS TW FW TW CL CW LA LI TW
        A ES ES SS ES FW TW CL CW CL LI ES
        R CL CL CL SR CL CL CL CL LA LI CL
    """, NAMES),
}  # fmt: skip
SCTP_TABLES = {
    "input": rows("""
        DATA              ES I1 IN CS CR CW CO CE ES SS SR SA RJ CL
        INIT              I1 IN IN CS CR CW CO CE ES SS SR SA IN IN
        INIT_ACK          CW CW CW CS CR CO CO CE ES SS SR SA RJ CL
        COOKIE_ECHO       CR IN IN CR CR CW CO CE ES SS SR SA RJ CL
        COOKIE_ACK        ES I1 IN CS CR CW CO ES ES SS SR SA RJ CL
        SHUTDOWN          SR I1 IN CS CR CW CO CE SR SS SR SA RJ CL
        SHUTDOWN_ACK      CL IN IN CS CR CW CO CE ES CL SR CL RJ CL
        SHUTDOWN_COMPLETE CL CL CL CS CR CW CO CE ES SS SR CL RJ CL
        ERROR             CL I1 IN CS CR CW CO CL ES SS SR SA RJ CL
        ABORT             CL CL CL CL CL RJ CL CL CL CL CL CL CL CL
    """, SCTP_NAMES),
    "output": rows("""
        DATA              ES I1 IN CS CR CW CO CE ES SS SR SA RJ CL
        INIT              CW CW CW CW CW CW CW CW ES CW CW CW CW CW
        INIT_ACK          CS CS CS CS CR CW CO CE ES SS SR SA RJ CL
        COOKIE_ECHO       CE CE CE CE CE CE CE CE ES SS SR SA RJ CL
        COOKIE_ACK        ES ES ES ES ES ES ES ES ES SS SR SA RJ CL
        SHUTDOWN          SS SS SS SS SS SS SS SS SS SS SR SA RJ CL
        SHUTDOWN_ACK      SA SA SA SA SA CW CO CE ES SA SA SA RJ CL
        SHUTDOWN_COMPLETE CL I1 IN CS CR CW CO CE ES SS SR SA RJ CL
        ERROR             CL CL CL CL CL CW CO CE ES SS SR SA RJ CL
        ABORT             CL RJ CL CL CL CL CL CL CL CL CL CL CL CL
    """, SCTP_NAMES),
    "input-only": rows("""
        DATA              ES I1 IN CS CR ES CO CE ES SS SR SA RJ CL
        INIT              I1 IN IN IN IN IN CO CE ES SS SR SA IN IN
        INIT_ACK          CE CE CE CE CE CE CO CE ES SS SR SA RJ CL
        COOKIE_ECHO       ES ES ES ES ES ES CO CE ES SS SR SA RJ CL
        COOKIE_ACK        ES I1 IN ES ES CW ES ES ES SS SR SA RJ CL
        SHUTDOWN          SR I1 IN CS CR CW CO CE SR SS SR SA RJ CL
        SHUTDOWN_ACK      CL IN IN CS CR CW CO CE CL CL SR CL RJ CL
        SHUTDOWN_COMPLETE CL CL CL CL CL CW CO CE ES SS CL CL RJ CL
        ERROR             CL I1 IN CS CR CW CO CE ES SS SR SA RJ CL
        ABORT             CL CL CL CL CL RJ CL CL CL CL CL CL CL CL
    """, SCTP_NAMES),
}  # fmt: skip


def next_state(packet, way, state, secure):
    """TCP: the first of RST, SYN, FIN, ACK decides, and a segment with none of them closes. SCTP:
    the first chunk; those that the table does not name are as DATA."""
    if packet.protocol == SCTP:
        table = SCTP_TABLES[way]
        return table.get(packet.flags, table["DATA"])[state]
    event = next((letter for letter in "RSFA" if letter in packet.flags), None)
    tables = SECURE_TABLES if secure else TABLES
    return "CL" if event is None else tables[way][event][state]


def timeout(protocol, state, changed):
    """Seconds; `changed` has those of `ipvsadm --set`."""
    if protocol == UDP:
        return changed["udp"]
    if protocol == SCTP:
        return SCTP_TIMEOUTS[state]
    return {"ES": changed["tcp"], "FW": changed["tcp_fin"]}.get(state, TIMEOUTS[state])


def opens(packet):
    """Whether a packet looks like the first of a connection."""
    if packet.protocol == SCTP:
        return packet.flags == "INIT"
    return packet.protocol == TCP and "S" in packet.flags


def aborts(packet):
    return packet.flags == "ABORT" if packet.protocol == SCTP else "R" in packet.flags


def public_name(protocol, state):
    """The state as it is listed."""
    return (SCTP_NAMES if protocol == SCTP else NAMES).get(state, state)
