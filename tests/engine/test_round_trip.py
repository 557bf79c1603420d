"""One-sided captures as NAT tests, over every capture with TCP or UDP in it.

What clients sent goes in as it is. What servers answered is first mapped to what a real server
behind NAT would have sent, by a mapper that knows nothing of the engine; the engine must bring
the original back, byte for byte. What the mapper makes is fed as it is taken: wrong checksums
are wrong by the same amount on both sides.
"""

from collections import Counter
from ipaddress import ip_address

import captures
import mapper
import pytest

import lvscore
from lvscore import Reason, Verdict

FILES = captures.files()
MAX_ENDPOINTS = 3000
STRUCTURAL = {
    Reason.TRUNCATED_LINK_HEADER, Reason.TRUNCATED_IP_HEADER, Reason.BAD_IP_VERSION,
    Reason.BAD_IP_HEADER_LENGTH, Reason.BAD_IP_LENGTH, Reason.TOO_MANY_EXTENSIONS,
    Reason.TRUNCATED_TRANSPORT_HEADER,
}  # fmt: skip
UNTRANSLATED = {
    Reason.NO_SERVICE, Reason.LOCAL_ADDRESS, Reason.TCP_NOT_SYN, Reason.SOURCE_PORT_20,
    Reason.INVALID_STATE, Reason.UNTRANSLATED,
}  # fmt: skip


def flow_of(frame, link_type):
    """(protocol, source, destination) with endpoints as packed bytes, or None."""
    found = mapper.locate(frame, link_type)
    if found is None:
        return None
    l3, l4, protocol, fragment = found
    if protocol not in (6, 17) or fragment or len(frame) < l4 + (20 if protocol == 6 else 8):
        return None
    size, at = (4, l3 + 12) if frame[l3] >> 4 == 4 else (16, l3 + 8)
    source, destination = frame[at : at + size], frame[at + size : at + 2 * size]
    return protocol, (source, frame[l4 : l4 + 2]), (destination, frame[l4 + 2 : l4 + 4])


def endpoint(pair):
    return lvscore.Endpoint(ip_address(pair[0]), int.from_bytes(pair[1], "big"))


def server_for(number, size):
    """An invented real server; each virtual endpoint has its own, so that no tuples clash."""
    address = (10 << 24 | 77 << 16) if size == 4 else 0xFD77 << 112
    return ((address + number + 1).to_bytes(size, "big"), (10000 + number).to_bytes(2, "big"))


def conversations(frames, link_type):
    """The virtual endpoints: where the first packet of a conversation went to."""
    openings, endpoints = {}, Counter()
    for frame in frames:
        flow = flow_of(frame.data, link_type)
        if flow is None:
            continue
        protocol, source, destination = flow
        key = (protocol, *sorted((source, destination)))
        if key not in openings:
            openings[key] = (source, destination)
        endpoints[protocol, openings[key][1]] += 1
    busiest = [
        key for key, _ in endpoints.most_common(MAX_ENDPOINTS)
        if key[1][1] != b"\0\0" and ip_address(key[1][0]) != ip_address(bytes(len(key[1][0])))
    ]  # fmt: skip
    servers = {key: server_for(n, len(key[1][0])) for n, key in enumerate(busiest)}
    return openings, servers


def with_services(servers):
    engine = lvscore.Engine(seed=1)
    for (protocol, virtual), server in servers.items():
        engine.add_service(protocol, endpoint(virtual), scheduler="rr").add_server(endpoint(server))
    return engine


def with_rules(servers):
    engine = lvscore.Engine(seed=1)
    for (protocol, virtual), server in servers.items():
        engine.add_dnat(to=endpoint(server), destination=endpoint(virtual).address,
                        protocol=protocol,
                        destination_ports=endpoint(virtual).port)  # fmt: skip
    return engine


def blanked(frame, link_type, udp_too):
    """The frame with one form of zero in its checksums (and without UDP's, if asked)."""
    l3, l4, protocol, _ = mapper.locate(frame, link_type)
    out = bytearray(frame)
    places = [l4 + (16 if protocol == 6 else 6)] + ([l3 + 10] if frame[l3] >> 4 == 4 else [])
    for place in places:
        if out[place : place + 2] == b"\xff\xff" or (udp_too and place == places[0]):
            out[place : place + 2] = b"\0\0"
    return bytes(out)


def no_udp_checksum(frame, link_type):
    _, l4, protocol, _ = mapper.locate(frame, link_type)
    return protocol == 17 and frame[l4 + 6 : l4 + 8] == b"\0\0"


def filled_is_good(frame, link_type):
    """Whether a UDP checksum that was made anew is right (zero: it was snapped)."""
    l3, l4, _, _ = mapper.locate(frame, link_type)
    if frame[l4 + 6 : l4 + 8] == b"\0\0":
        return True
    four = frame[l3] >> 4 == 4
    end = l3 + int.from_bytes(frame[l3 + (2 if four else 4) :][:2], "big") + (0 if four else 40)
    addresses = frame[l3 + 12 : l3 + 20] if four else frame[l3 + 8 : l3 + 40]
    l4_length = end - l4
    pseudo = addresses + l4_length.to_bytes(4, "big") + b"\0\0\0\x11"
    return mapper.ones(pseudo + frame[l4:end]) == 0xFFFF


class Trip:
    """One engine, one capture."""

    def __init__(self, engine, capture, servers, openings, *, services):
        self.engine = engine
        self.link_type = capture.link_type
        self.servers = servers
        self.openings = openings
        self.services = services
        self.counts = Counter()
        self.fed = []

    def send(self, data, frame):
        self.fed.append(frame._replace(data=data))
        batch = captures.batch_of(self.fed[-1:], self.link_type)
        if frame.wire_length == len(frame.data):
            out = bytearray(data)
            verdict = self.engine.process(out, frame.time, self.link_type)
            return verdict, self.engine.last_reason, bytes(out)
        self.engine.process_batch(batch)
        return Verdict(int(batch.verdict[0])), Reason(int(batch.reason[0])), bytes(batch[0])

    def take(self, frame):
        flow = flow_of(frame.data, self.link_type)
        found = mapper.locate(frame.data, self.link_type)
        if found is not None and found[3]:
            self.counts["fragments left out"] += 1
            return
        data, expected, kind = frame.data, frame.data, "other"
        if flow is not None:
            protocol, source, destination = flow
            client, virtual = self.openings[protocol, *sorted((source, destination))]
            server = self.servers.get((protocol, virtual))
            if server is not None and source == client:
                kind = "request"
                expected = mapper.readdress(
                    data, self.link_type, destination=server[0], dport=server[1]
                )
            elif server is not None and self.unknown(protocol, client, virtual, frame.time):
                # Fed all the same it would begin a flow of its own, from the server.
                self.counts["replies without connection left out"] += 1
                return
            elif server is not None:
                kind = "reply"
                data = mapper.readdress(data, self.link_type, source=server[0], sport=server[1])
        verdict, reason, out = self.send(data, frame)
        if reason == Reason.RELATED_ICMP:
            self.counts["ICMP errors"] += 1  # not mapped, so not compared: see test_icmp
            return
        if kind == "other" or reason in UNTRANSLATED or reason in STRUCTURAL:
            assert out == data, (kind, verdict, reason)
            self.counts[f"{kind} {reason.name}"] += 1
            return
        assert verdict == Verdict.FORWARD, reason
        self.compare(out, expected, data)
        self.counts[kind] += 1

    def unknown(self, protocol, client, virtual, now):
        self.engine.expire(max(now, self.engine.now))
        return self.engine.connections.find(protocol, endpoint(client), endpoint(virtual)) is None

    def compare(self, out, expected, data):
        filled = self.services and no_udp_checksum(data, self.link_type)
        assert blanked(out, self.link_type, filled) == blanked(expected, self.link_type, filled)
        if filled:
            assert filled_is_good(out, self.link_type)


def round_trip(path, services):
    """Counts of what happened; the same frames again in batches give the same bytes."""
    total = Counter()
    for capture in captures.load(path):
        openings, servers = conversations(capture.frames, capture.link_type)
        make = with_services if services else with_rules
        trip = Trip(make(servers), capture, servers, openings, services=services)
        for frame in capture.frames:
            trip.take(frame)
        total += trip.counts
        again = make(servers)
        batch = captures.batch_of(trip.fed, capture.link_type)
        again.process_batch(batch)
        assert again.counters == trip.engine.counters
        assert again.reasons == trip.engine.reasons
    return total


# The test could pass with nothing translated: of real traffic nearly all must be.
ALL = "zeek/echo-connections.pcap.gz"  # 500 whole connections
NEARLY_ALL = {"nDPI/gnutella.pcap", "nDPI/alexa-app.pcapng", "nDPI/reddit.pcap"}


@pytest.mark.parametrize("services", [True, False], ids=["services", "rules"])
@pytest.mark.parametrize("name", FILES, ids=str)
def test_round_trip(name, services, record_property):
    counts = round_trip(FILES[name], services)
    for key, value in counts.items():
        record_property(key, value)
    translated = counts["request"] + counts["reply"]
    if name == ALL:
        assert translated == sum(counts.values()) == 82_582
    elif name in NEARLY_ALL and not services:  # services do not take flows from their middle
        assert translated > 0.9 * sum(counts.values()), counts


def test_the_capture_of_500_connections_is_there():
    assert ALL in FILES
