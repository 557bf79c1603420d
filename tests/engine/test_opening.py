"""Connections opened on the fast path (lane_open.pxd) are those that the slow path opens."""

import random

import features
import pytest
from packets import CLIENT, RS1, SECOND, VIP, tcp, udp

import lvscore
from lvscore import Reason

PLAIN = {
    **{name: features.both({"scheduler": name}) for name in lvscore.SCHEDULERS},
    "sh-port": features.both({"scheduler": "sh", "scheduler_flags": ("sh-port",)}),
    "thresholds": features.FEATURES["thresholds"],
    "weight 0": features.both({"scheduler": "wrr"}, {"weight": 0}),
    "persistence": features.FEATURES["persistence"],
    "any-port": features.FEATURES["any-port"],
    "marks": features.FEATURES["marks"],
    "one-packet": features.FEATURES["one-packet"],
    "route": features.FEATURES["route"],
    "no server": [("tcp", 80, {"scheduler": "rr"}, {})],
}


def general(engine):
    """Keep packets from the fast path by a rule that matches none."""
    engine.iptables("-t mangle -A PREROUTING -d 9.9.9.9 -j MARK --set-mark 7")
    return engine


def openings(seed, count=500):
    """Mostly packets that open connections, some of which are there already."""
    chance = random.Random(seed)
    frames, times, marks = [], [], []
    now = 0
    for _ in range(count):
        client, port = chance.choice(features.CLIENTS), chance.choice([20, *range(1000, 1060)])
        flags = chance.choice(["S"] * 12 + ["SA", "SE", "SF", "SR", "A", "R"])
        place = chance.choice([80, 80, 53, 53, 7])
        packet = udp(client, port, VIP, place) if place == 53 else tcp(
            client, port, VIP, place, flags)  # fmt: skip
        frame = bytearray(bytes(packet))
        if place == 53 and chance.random() < 0.2:
            frame[40:42] = bytes(2)  # no checksum
        frames.append(bytes(frame))
        now += chance.choice([0] * 40 + [1000, SECOND, 70 * SECOND])
        times.append(now)
        marks.append(chance.choice([0] * 9 + [1]))
    return frames, times, marks


@pytest.mark.parametrize("feature", PLAIN)
def test_the_fast_path_is_the_general_way(feature):
    frames, times, marks = openings(feature)
    expected = None
    for size in (1, 16, len(frames)):
        engines = [features.engine_with(*PLAIN[feature], seed=3) for _ in range(2)]
        if feature == "no server":
            for engine in engines:
                for service in engine.services:
                    for server in list(service.servers):
                        service.remove_server(server.endpoint)
        general(engines[1])
        short, long = (
            features.in_batches(engine, frames, times, marks, size) for engine in engines
        )
        assert short == long
        assert features.state_of(engines[0]) == features.state_of(engines[1])
        expected = expected or short
        assert short == expected


def test_at_the_bound():
    outcomes = []
    for make in (lambda engine: engine, general):
        engine = make(lvscore.Engine(seed=1, max_connections=40))
        engine.add_service("tcp", f"{VIP}:80", scheduler="wlc").add_server(f"{RS1}:80")
        frames = [bytes(tcp(CLIENT, 2000 + i, VIP, 80, "S")) for i in range(60)]
        outcome = features.in_batches(engine, frames, [0] * 60, [0] * 60, 60)
        assert [reason for _, reason, _, _ in outcome].count(Reason.NEW_CONNECTION) == 40
        outcomes.append((outcome, features.state_of(engine)))
    assert outcomes[0] == outcomes[1]


def test_a_server_at_its_services_address_is_not_translated():
    outcomes = []
    for make in (lambda engine: engine, general):
        engine = make(lvscore.Engine(seed=1))
        engine.add_service("tcp", f"{VIP}:80", scheduler="rr").add_server(f"{VIP}:80")
        frames = [bytes(tcp(CLIENT, 2000 + i % 2, VIP, 80, "S")) for i in range(4)]
        outcome = features.in_batches(engine, frames, [0] * 4, [0] * 4, 4)
        outcomes.append((outcome, features.state_of(engine)))
    assert outcomes[0] == outcomes[1]


def test_an_explanation_tells_every_step():
    engine = lvscore.Engine(seed=1)
    engine.add_service("tcp", f"{VIP}:80", scheduler="wlc").add_server(f"{RS1}:80")
    text = str(engine.explain(bytes(tcp(CLIENT, 2000, VIP, 80, "S"))))
    assert "wlc" in text
    assert RS1 in text
