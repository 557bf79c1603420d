"""The persistence engine sip: a dialog keeps its server, whoever its packets come from."""

from packets import CLIENT, RS1, RS2, SECOND, VIP, flow, tcp, udp

import lvscore
from lvscore import Reason, Verdict


def director(**options):
    engine = lvscore.Engine(seed=1)
    options = {"persistence": 50, "scheduler": "rr", "persistence_engine": "sip", **options}
    service = engine.add_service("udp", f"{VIP}:5060", **options)
    for server in (RS1, RS2):
        service.add_server(f"{server}:5060")
    return engine, service


def message(call_id):
    return b"INVITE sip:a@b SIP/2.0\r\nCall-ID: " + call_id + b"\r\n\r\n"


def invite(engine, call_id, client=CLIENT, port=5060, now=0):
    frame = udp(client, port, VIP, 5060, payload=message(call_id))
    assert engine.process(frame, now) == Verdict.FORWARD, engine.last_reason
    return flow(frame)[2]


def test_a_dialog_keeps_its_server_from_any_client():
    engine, service = director()
    first = invite(engine, b"one@x")
    assert invite(engine, b"two@x", port=5061) != first
    assert invite(engine, b"one@x", client="10.0.0.77") == first
    assert service.persistence_engine == "sip"
    assert sorted(t.call_id for t in engine.templates) == ["one@x", "two@x"]
    assert len(engine.connections) == 3


def test_two_dialogs_of_one_client_are_two():
    engine, _ = director()
    assert invite(engine, b"a", port=1) != invite(engine, b"b", port=2)
    assert {str(t.client) for t in engine.templates} == {f"{CLIENT}:0"}


def test_what_has_no_call_id_is_dropped():
    engine, _ = director()
    for payload in (b"", b"hello", b"INVITE a\r\nCall-ID: x"):
        assert engine.process(udp(CLIENT, 1, VIP, 5060, payload=payload), 0) == Verdict.DROP
        assert engine.last_reason == Reason.NO_CALL_ID
    engine.add_service("tcp", f"{VIP}:5060", persistence=9, persistence_engine="sip")
    assert engine.process(tcp(CLIENT, 1, VIP, 5060), 0) == Verdict.DROP
    assert engine.last_reason == Reason.NO_CALL_ID


def test_without_persistence_the_engine_is_not_asked():
    engine, _ = director(persistence=0)
    assert engine.process(udp(CLIENT, 1, VIP, 5060, payload=b"x"), 0) == Verdict.FORWARD


def test_a_dialog_is_forgotten_with_its_template():
    engine, _ = director()
    first = invite(engine, b"one")
    engine.expire(400 * SECOND)
    assert len(engine.templates) == 0
    assert invite(engine, b"one", now=400 * SECOND) != first


def test_a_server_may_begin():
    """Its message leaves from the virtual service, and answers come back to it."""
    engine, service = director()
    frame = udp(RS1, 5060, CLIENT, 5060, payload=message(b"out@rs"))
    assert engine.process(frame, 0) == Verdict.FORWARD
    assert flow(frame) == (VIP, 5060, CLIENT, 5060)
    answer = udp(CLIENT, 5060, VIP, 5060, payload=message(b"out@rs"))
    engine.process(answer, 0)
    assert flow(answer) == (CLIENT, 5060, RS1, 5060)
    assert [t.call_id for t in engine.templates] == ["out@rs"]
    assert service.statistics.connections == 1


def test_what_a_server_says_without_call_id_passes():
    engine, _ = director()
    frame = udp(RS1, 5060, CLIENT, 5060, payload=b"hello")
    assert engine.process(frame, 0) == Verdict.PASS
    assert engine.process(udp("172.16.1.99", 5060, CLIENT, 1, payload=message(b"x")), 0) == (
        Verdict.PASS
    )


def test_a_dialog_follows_the_server_that_takes_it_over():
    engine, _ = director()
    invite(engine, b"x")  # goes to RS2
    engine.process(udp(RS1, 5060, "10.0.0.50", 7, payload=message(b"x")), 0)
    assert invite(engine, b"x", client="10.0.0.51") == RS1


def test_listing():
    engine, _ = director()
    invite(engine, b"a84b4c76e66710")
    rows = engine.ipvsadm("-L -n -c --persistent-conn").splitlines()
    assert f"UDP 00:50  NONE        {CLIENT}:0         {VIP}:5060  {RS2}:5060  sip" in rows[-1]
    assert rows[-1].endswith("a84b4c76e66710")
    assert "persistent 50 pe sip" in engine.ipvsadm("-L -n")


def test_explain_copies_dialogs():
    engine, _ = director()
    invite(engine, b"one")
    frame = udp(CLIENT, 9, VIP, 5060, payload=message(b"one"))
    assert any("template" in step for step in engine.explain(frame).steps)
    assert len(engine.templates) == 1
