"""Engines with one feature of IPVS each, and traffic that makes use of all of them."""

import random

from packets import CLIENT, RS1, RS2, SECOND, VIP, tcp, udp

import lvscore

CLIENTS = (CLIENT, "10.0.0.10", "10.0.1.7", "192.168.0.1")
SERVERS = (RS1, RS2, "172.16.1.9")


def engine_with(*services, seed=1, **settings):
    """An engine with services, each (protocol, port or mark, options, servers' options)."""
    engine = lvscore.Engine(seed=seed)
    engine.routes.add_interface("eth0", [f"{VIP}/24", "172.16.1.3/24"])
    for name, value in settings.items():
        engine.sysctl[f"net.ipv4.vs.{name}"] = value
    for protocol, place, options, members in services:
        if protocol == "mark":
            service = engine.add_fwmark_service(place, **options)
        else:
            service = engine.add_service(protocol, f"{VIP}:{place}", **options)
        for address in SERVERS:
            port = 0 if place == 0 or protocol == "mark" else place
            service.add_server((address, port), **members)
    return engine


def both(options, members=None, places=(80, 53)):
    members = members or {}
    return [("tcp", places[0], options, members), ("udp", places[1], options, members)]


def tunnel(*arguments):
    return {"method": "tunnel", "tunnel": lvscore.Tunnel(*arguments)}


PERSISTENT = {"scheduler": "rr", "persistence": 30, "netmask": 24}
ONE_PACKET = {"scheduler": "rr", "one_packet": True}

FEATURES = {
    "persistence": both(PERSISTENT),
    "any-port": both(PERSISTENT, places=(0, 0)),
    "marks": [("mark", 1, {"scheduler": "wlc"}, {}), ("mark", 2, {"scheduler": "rr"}, {})],
    "persistent-marks": [("mark", 1, PERSISTENT, {}), ("mark", 2, PERSISTENT, {})],
    "one-packet": [("udp", 53, ONE_PACKET, {}), ("tcp", 80, {"scheduler": "wlc"}, {})],
    "persistent-one-packet": [("udp", 53, {**PERSISTENT, **ONE_PACKET}, {})],
    "thresholds": both({"scheduler": "wlc"}, {"upper_threshold": 4, "lower_threshold": 2}),
    "route": both({"scheduler": "lc"}, {"method": "route"}),
    "ipip": both({"scheduler": "rr"}, tunnel()),
    "gue": both(PERSISTENT, tunnel("gue", 6080, "csum")),
    "gre": [("mark", 1, ONE_PACKET, tunnel("gre", 0, "csum")), *both({"scheduler": "sh"})],
}
"""Services by the feature that they show."""


def make(feature, seed=1):
    return engine_with(*FEATURES[feature], seed=seed, expire_nodest_conn=len(feature) % 2)


def traffic(seed, count=400):
    """Frames, their times and marks: requests and answers of few flows, so that they meet."""
    chance = random.Random(seed)
    frames, times, marks = [], [], []
    now = 0
    for _ in range(count):
        client, port = chance.choice(CLIENTS), 1000 + chance.randrange(4)
        server = chance.choice(SERVERS)
        flags = chance.choice(["S", "S", "A", "A", "PA", "FA", "R", "SA"])
        place = chance.choice([80, 53, 53, 7])
        there = chance.random() < 0.7
        ends = (client, port, VIP, place) if there else (server, place, client, port)
        segment = tcp(*ends, flags) if place != 53 else udp(*ends)
        frames.append(bytes(segment))
        now += chance.choice([0, 0, 0, 1, 1000, SECOND, 20 * SECOND])
        times.append(now)
        marks.append(chance.choice([0, 0, 1, 2]))
    return frames, times, marks


def state_of(engine):
    """All that can be seen of an engine."""
    rows = [sorted(row.tobytes() for row in table.snapshot())
            for table in (engine.connections, engine.templates)]  # fmt: skip
    servers = [
        (s.endpoint, s.weight, s.active, s.inactive, s.persistent, s.overloaded, s.statistics)
        for service in engine
        for s in service
    ]
    return engine.counters, engine.reasons, rows, servers, engine.statistics, engine.now


def one_by_one(engine, frames, times, marks):
    """Outcome of each frame: verdict, reason, the frame, and what was put out for it."""
    out = []
    for frame, now, mark in zip(frames, times, marks, strict=True):
        data = bytearray(frame)
        verdict = engine.process(data, now, mark=mark)
        emitted = [bytes(engine.emitted[i]) for i in range(len(engine.emitted))]
        out.append((int(verdict), int(engine.last_reason), bytes(data), emitted))
    return out


def in_batches(engine, frames, times, marks, size):
    """The same, in batches of `size` frames."""
    out = []
    for first in range(0, len(frames), size):
        end = first + size
        batch = lvscore.FrameBatch.of(frames[first:end], times[first:end])
        batch.mark[:] = marks[first:end]
        engine.process_batch(batch)
        emitted = [[] for _ in range(len(batch))]
        for i, cause in enumerate(engine.emitted_cause):
            emitted[cause].append(bytes(engine.emitted[i]))
        out += [
            (int(batch.verdict[i]), int(batch.reason[i]), bytes(batch[i]), emitted[i])
            for i in range(len(batch))
        ]
    return out
