"""The engine against a model of IPVS, step by step: services and servers come, change and go,
packets of every kind come in between, and time passes.

`LVSCORE_HYPOTHESIS=long` takes many more and longer histories (CONTRIBUTING.md).
"""

from ipaddress import ip_address

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from ipvs_listing import listing
from ipvs_model import SECOND, Model
from ipvs_packets import ADDRESS, CHUNKS, SCTP, TCP, UDP, IcmpError, Packet, frame, wrapped
from ipvs_states import public_name

import lvscore
from lvscore import FrameBatch, Tunnel

MILLISECOND = 1_000_000
SEED = 7
KINDS = (
    "rr", "wrr", "lc", "wlc", "sed", "nq", "fo", "ovf", "sh", "dh", "mh", "lblc", "lblcr", "twos",
)  # fmt: skip
FLAGS = ("fallback", "port")
TUNNELS = (
    Tunnel(), Tunnel("gue", 6080), Tunnel("gue", 6081, "csum"), Tunnel("gre"),
    Tunnel("gre", 0, "csum"),
)  # fmt: skip
SYSCTLS = {
    "sloppy_tcp": 1, "sloppy_sctp": 1, "expire_nodest_conn": 1, "expire_quiescent_template": 1,
    "conn_reuse_mode": 3, "schedule_icmp": 1, "secure_tcp": 3, "drop_packet": 3,
}  # fmt: skip
PORTS = (80, 81)
PROTOCOLS = (TCP, UDP, SCTP)
MARKS = (1, 2)
# Unreachable, source quench, time exceeded, parameter problem; of ICMPv6 its four.
ICMP_KINDS = {4: (3, 4, 11, 12), 6: (1, 2, 3, 4)}
# No sum of these and of TCP's timeouts meets in the same second modulo a minute, so that a
# template and what depends on it never end in the same millisecond.
PERSISTENCE = (0, 0, 47, 227, 1007)

small = st.integers(0, 15)
keys = st.one_of(
    st.tuples(st.sampled_from(PROTOCOLS), st.integers(0, 1), st.sampled_from(PORTS)),
    st.tuples(st.sampled_from(PROTOCOLS), st.integers(0, 1), st.just(0)),
    st.tuples(st.just("mark"), st.sampled_from(MARKS), st.just(0)),
)
options = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(KINDS),
        "flags": st.sets(st.sampled_from(FLAGS)),
        "persistence": st.sampled_from(PERSISTENCE),
        "narrow": st.integers(0, 3),
        "one_packet": st.integers(0, 3).map(lambda n: n == 0),
    }
)
weights = st.sampled_from([0, 1, 1, 2, 3, 4, 10])
thresholds = st.one_of(
    st.just((0, 0)), st.tuples(st.integers(0, 5), st.integers(0, 5)).map(sorted).map(tuple)
).map(lambda pair: (pair[1], pair[0]))
methods = st.one_of(
    st.sampled_from(["masquerade", "masquerade", "masquerade", "route"]).map(lambda m: (m, None)),
    st.tuples(st.just("tunnel"), st.sampled_from(TUNNELS)),
)
letters = st.sampled_from(["S", "A", "A", "PA", "FA", "F", "SA", "R", "RA", "", "SF", "SR", "P"])
chunks = st.sampled_from(sorted(CHUNKS))
openings = st.sampled_from(["S", "S", "S", "S", "SA", "A", "F", "R", "", "SF", "SR"])
sizes = st.sampled_from([0, 1, 7])
pauses = st.sampled_from([0, 1, 5, 9, 11, 31, 59, 61, 119, 121, 299, 301, 901, 7_000])


# Where packets of any protocol are drawn, what a segment is to SCTP.
AS_CHUNKS = {
    "S": "INIT", "SA": "INIT_ACK", "A": "COOKIE_ACK", "PA": "DATA", "FA": "SHUTDOWN",
    "F": "SHUTDOWN_ACK", "R": "ABORT", "RA": "SHUTDOWN_COMPLETE", "": "ERROR", "SF": "COOKIE_ECHO",
    "SR": "HEARTBEAT", "P": "SACK",
}  # fmt: skip


class Director(RuleBasedStateMachine):
    """One address family; `twin` takes the same packets in batches."""

    family = 4
    vips = ("172.16.1.100", "172.16.1.101")
    clients = ("10.0.0.1", "10.0.0.2", "10.0.1.1", "192.168.7.130")
    servers = ("172.16.1.7", "172.16.1.8", "172.16.1.9", "172.16.1.10")
    prefixes = (32, 32, 24, 0)

    def __init__(self):
        super().__init__()
        self.model = Model(self.family, SEED)
        self.engines = [lvscore.Engine(seed=SEED), lvscore.Engine(seed=SEED)]
        self.engine, self.twin = self.engines
        self.queue = []
        self.steps = 0
        self.now = 0
        for engine in self.engines:
            engine.routes.add_interface("eth0", list(self.vips))
        self.model.local = {int(ip_address(vip)) for vip in self.vips}

    # choosing

    def address(self, names, n):
        return int(ip_address(names[n % len(names)]))

    def key(self, drawn):
        kind, n, port = drawn
        return drawn if kind == "mark" else (kind, self.address(self.vips, n), port)

    def service(self, n):
        """A service there is: of the model, and of both engines."""
        services = list(self.model.services.values())
        service = services[n % len(services)]
        return service, [self.handle(engine, service.key) for engine in self.engines]

    def handle(self, engine, key):
        kind, address, port = key
        if kind == "mark":
            return engine.find_fwmark_service(address, self.family)
        return engine.find_service(kind, (ADDRESS[self.family](address), port))

    def checked(self, key, options):
        """What the API takes of the options for this key."""
        kind, _, port = key
        persistence = options["persistence"]
        if kind != "mark" and port == 0:
            persistence = persistence or 47
        scheduler = options["kind"]
        names = options["flags"] if scheduler in ("sh", "mh") else ()
        flags = tuple(f"{scheduler}-{name}" for name in sorted(names))
        one_packet = options["one_packet"] and kind in (UDP, "mark")
        return scheduler, flags, persistence, self.prefixes[options["narrow"]], one_packet

    def dest(self, service, n):
        return service.dests[n % len(service.dests)]

    # configuration

    def settle(self):
        """Let the twin catch up before anything but a packet."""
        if not self.queue:
            return
        packets, times, outcomes = zip(*self.queue, strict=True)
        batch = FrameBatch.of([frame(packet) for packet in packets], list(times))
        batch.mark[:] = [packet.mark for packet in packets]
        self.twin.process_batch(batch)
        for i, (verdict, reason, data, _) in enumerate(outcomes):
            assert (batch.verdict[i], batch.reason[i], bytes(batch[i])) == (verdict, reason, data)
        assert [
            (cause, bytes(out))
            for cause, out in zip(self.twin.emitted_cause, self.twin.emitted, strict=True)
        ] == [(i, out) for i, (*_, emitted) in enumerate(outcomes) for out in emitted]
        self.queue = []

    @initialize(drawn=st.lists(st.tuples(keys, options, st.lists(weights, max_size=4)),
                               min_size=1, max_size=4))  # fmt: skip
    def begin(self, drawn):
        for key, given_options, given_weights in drawn:
            self.add_service(key, given_options)
            service, handles = self.service(-1)
            for n, weight in enumerate(given_weights):
                self.put_server(service, handles, n, 0, weight, (0, 0), ("masquerade", None))

    @rule(drawn=keys, options=options)
    def add_service(self, drawn, options):
        self.settle()
        key = self.key(drawn)
        if key in self.model.services:
            return
        kind, flags, persistence, prefix, one_packet = self.checked(key, options)
        self.model.add_service(key, kind, flags, persistence, prefix, one_packet)
        given = {"scheduler": kind, "scheduler_flags": flags, "persistence": persistence,
                 "netmask": prefix, "one_packet": one_packet}  # fmt: skip
        for engine in self.engines:
            if key[0] == "mark":
                engine.add_fwmark_service(key[1], family=self.family, **given)
            else:
                engine.add_service(key[0], (ADDRESS[self.family](key[1]), key[2]), **given)

    @precondition(lambda self: self.model.services)
    @rule(n=small, options=options)
    def edit_service(self, n, options):
        self.settle()
        service, handles = self.service(n)
        kind, flags, persistence, prefix, one_packet = self.checked(service.key, options)
        self.model.edit_service(service.key, kind, flags, persistence, prefix, one_packet)
        for handle in handles:
            handle.edit(scheduler=kind, scheduler_flags=flags, persistence=persistence,
                        netmask=prefix, one_packet=one_packet)  # fmt: skip

    @precondition(lambda self: self.model.services)
    @rule(n=small)
    def remove_service(self, n):
        self.settle()
        service, handles = self.service(n)
        self.model.remove_service(service.key)
        for handle in handles:
            handle.remove()

    def put_server(self, service, handles, n, port, weight, limits, method):
        address = self.address(self.servers, n)
        # Only masquerading may have another port than the service.
        method, tunnel = method
        port = service.port if method != "masquerade" else (8080, 8081, service.port)[port % 3]
        if any((d.address, d.port) == (address, port) for d in service.dests):
            return
        if self.is_half_forgotten(service.key, address, port):
            return
        self.model.add_dest(service, address, port, weight, *limits, method, tunnel or Tunnel())
        for handle in handles:
            handle.add_server((ADDRESS[self.family](address), port), weight=weight, method=method,
                              tunnel=tunnel, upper_threshold=limits[0],
                              lower_threshold=limits[1])  # fmt: skip

    def is_half_forgotten(self, key, address, port):
        """The trash is looked through once a minute: between two and four minutes after the
        last connection of a removed server nothing says whether it is remembered."""
        self.model.keep_house()
        return any(
            (d.service.key, d.address, d.port) == (key, address, port) and not self.model.is_held(d)
            and 118 * SECOND <= self.model.now - d.idle_since <= 241 * SECOND
            for d in self.model.trash
        )  # fmt: skip

    @precondition(lambda self: self.model.services)
    @rule(n=small, server=small, port=small, weight=weights, limits=thresholds, method=methods)
    def add_server(self, n, server, port, weight, limits, method):
        self.settle()
        service, handles = self.service(n)
        self.put_server(service, handles, server, port, weight, limits, method)

    @precondition(lambda self: any(s.dests for s in self.model.services.values()))
    @rule(n=small, server=small, weight=weights, limits=thresholds, method=methods)
    def edit_server(self, n, server, weight, limits, method):
        self.settle()
        service, handles = self.service(n)
        if not service.dests:
            return
        dest = self.dest(service, server)
        method, tunnel = method if dest.port == service.port else ("masquerade", None)
        self.model.edit_dest(service, dest, weight, *limits, method, tunnel or Tunnel())
        for handle in handles:
            handle.edit_server((ADDRESS[self.family](dest.address), dest.port), weight=weight,
                               method=method, tunnel=tunnel, upper_threshold=limits[0],
                               lower_threshold=limits[1])  # fmt: skip

    @precondition(lambda self: any(s.dests for s in self.model.services.values()))
    @rule(n=small, server=small)
    def remove_server(self, n, server):
        self.settle()
        service, handles = self.service(n)
        if not service.dests:
            return
        dest = self.dest(service, server)
        self.model.remove_dest(service, dest)
        for handle in handles:
            handle.remove_server((ADDRESS[self.family](dest.address), dest.port))

    @rule(name=st.sampled_from(sorted(SYSCTLS)), value=st.integers(0, 3))
    def set_sysctl(self, name, value):
        self.settle()
        value = min(value, SYSCTLS[name])
        self.model.sysctl[name] = value
        for engine in self.engines:
            engine.sysctl[f"net.ipv4.vs.{name}"] = value

    @rule(name=st.sampled_from(["tcp", "tcp_fin", "udp"]), minutes=st.integers(1, 10))
    def set_timeout(self, name, minutes):
        self.settle()
        self.model.timeouts[name] = minutes * 60
        for engine in self.engines:
            engine.set_timeouts(**{name: minutes * 60})

    # packets

    def send(self, packet, explained=False):
        """Every packet has a millisecond of its own, so that no two deadlines of different
        packets meet."""
        self.steps += 1
        self.now += (self.steps - self.now) % SECOND
        now = self.now * MILLISECOND
        expected = self.model.process(packet, self.now)
        if explained:
            explanation = self.engine.explain(frame(packet), now, mark=packet.mark)
        data = bytearray(frame(packet))
        verdict = self.engine.process(data, now, mark=packet.mark)
        reason = self.engine.last_reason
        emitted = [bytes(out) for out in self.engine.emitted]
        assert (verdict.name, reason.name) == expected[:2]
        assert bytes(data) == frame(expected.packet)
        self.compare_tunnel(expected, emitted)
        if explained:
            told = (explanation.verdict, explanation.reason, explanation.frame)
            assert told == (verdict, reason, bytes(data))
        self.queue.append((packet, now, (verdict, reason, bytes(data), emitted)))

    def compare_tunnel(self, expected, emitted):
        """What left in a tunnel; the port that tells a GUE flow apart is the engine's choice."""
        if not expected.tunnel_to:
            assert emitted == []
            return
        (out,) = emitted
        place = 14 + (20 if self.family == 4 else 40)
        port = int.from_bytes(out[place : place + 2], "big")
        tunnel = expected.tunnel_to.tunnel
        assert tunnel.type != "gue" or 32768 <= port <= 60999
        assert out == wrapped(expected.packet, expected.tunnel_to.address, tunnel, port)

    def packet(self, protocol, source, sport, destination, dport, flags, size, mark=0):
        """With the letters of a TCP segment, or as many as there are kinds of SCTP chunks."""
        if protocol == UDP:
            flags = ""
        elif protocol == SCTP and flags not in CHUNKS:
            flags = AS_CHUNKS[flags]
        return Packet(self.family, protocol, source, sport, destination, dport, flags, size, mark)

    def virtual(self, n, vip, port):
        """Protocol, address, port and mark of a service there is, mostly."""
        services = list(self.model.services.values())
        port = (*PORTS, 82, 443)[port % 4]
        if not services or n == 15:
            return PROTOCOLS[vip % 3], self.address(self.vips, vip), port, 0
        service = services[n % len(services)]
        if service.mark:
            return PROTOCOLS[vip // 2 % 3], self.address(self.vips, vip), port, service.mark
        return service.key[0], service.key[1], service.port or port, 0

    @rule(n=small, vip=small, port=small, client=small, cport=st.sampled_from([1000, 1001, 1002]),
          flags=openings, size=sizes, count=st.integers(1, 4), explained=st.booleans())  # fmt: skip
    def open(self, n, vip, port, client, cport, flags, size, count, explained):
        protocol, address, port, mark = self.virtual(n, vip, port)
        for extra in range(count):
            source = self.address(self.clients, client + extra)
            self.send(self.packet(protocol, source, cport + extra % 2, address, port, flags, size,
                                  mark), explained)  # fmt: skip

    @rule(n=small, vip=small, port=small, client=small, flags=openings)
    def from_port_20(self, n, vip, port, client, flags):
        protocol, address, port, mark = self.virtual(n, vip, port)
        source = self.address(self.clients, client)
        self.send(self.packet(protocol, source, 20, address, port, flags, 0, mark))

    @precondition(lambda self: self.model.connections)
    @rule(n=st.integers(0, 63), flags=letters, size=sizes, explained=st.booleans())
    def request(self, n, flags, size, explained):
        c = self.model.connections[n % len(self.model.connections)]
        self.send(self.packet(c.protocol, *c.client, *c.virtual, flags, size), explained)

    @precondition(lambda self: self.model.connections)
    @rule(n=st.integers(0, 63), flags=letters, size=sizes, explained=st.booleans())
    def reply(self, n, flags, size, explained):
        c = self.model.connections[n % len(self.model.connections)]
        here = (c.dest.address, c.dport) if c.method == "masquerade" else c.virtual
        self.send(self.packet(c.protocol, *here, *c.client, flags, size), explained)

    @precondition(lambda self: self.model.connections)
    @rule(n=st.integers(0, 63), ways=st.lists(st.tuples(st.booleans(), letters), max_size=6))
    def talk(self, n, ways):
        """A client and its server talk, whatever they say."""
        c = self.model.connections[n % len(self.model.connections)]
        here = (c.dest.address, c.dport) if c.method == "masquerade" else c.virtual
        for out, flags in ways:
            ends = (*here, *c.client) if out else (*c.client, *c.virtual)
            self.send(self.packet(c.protocol, *ends, flags, 0))

    @rule(server=small, port=st.sampled_from([80, 8080, 8081]), client=small, flags=letters,
          protocol=st.sampled_from(PROTOCOLS))  # fmt: skip
    def stray_from_a_server(self, server, port, client, flags, protocol):
        self.send(self.packet(protocol, self.address(self.servers, server), port,
                              self.address(self.clients, client), 9, flags, 0))  # fmt: skip

    @precondition(lambda self: self.model.connections)
    @rule(n=st.integers(0, 63), out=st.booleans(), chunk=chunks, size=sizes)
    def chunk(self, n, out, chunk, size):
        """Any chunk of SCTP, either way."""
        connections = [c for c in self.model.connections if c.protocol == SCTP]
        if not connections:
            return
        c = connections[n % len(connections)]
        here = (c.dest.address, c.dport) if c.method == "masquerade" else c.virtual
        ends = (*here, *c.client) if out else (*c.client, *c.virtual)
        self.send(self.packet(SCTP, *ends, chunk, size))

    # ICMP errors

    def icmp_error(self, about, to_server, kind, code, sender, quoted, broken, mark=0):
        """From the packet's receiver or from a router, to its sender, or also to a virtual address
        that the packet did not come from."""
        kind = ICMP_KINDS[self.family][kind]
        source = about.destination if sender == 0 else self.address(self.clients, sender)
        destination = about.source if not to_server else self.address(self.vips, to_server - 1)
        return IcmpError(self.family, kind, code, source, destination, about, quoted, broken, mark)

    @precondition(lambda self: self.model.connections)
    @rule(n=st.integers(0, 63), out=st.booleans(), kind=st.integers(0, 3), code=st.integers(0, 4),
          sender=st.integers(0, 3), quoted=st.sampled_from([4, 7, 8, 12, 28]), size=sizes,
          broken=st.booleans(), explained=st.booleans())  # fmt: skip
    def error_about(self, n, out, kind, code, sender, quoted, size, broken, explained):
        """About a packet of a connection: one that went to the server, or to the client."""
        c = self.model.connections[n % len(self.model.connections)]
        here = (c.dest.address, c.dport) if c.method == "masquerade" else c.virtual
        ends = (*c.client, *here) if out else (*c.virtual, *c.client)
        about = self.packet(c.protocol, *ends, "A", size)
        broken = broken and kind == 0
        self.send(self.icmp_error(about, 0, kind, code, sender, quoted, broken), explained)

    @rule(n=small, vip=small, port=small, client=small, kind=st.integers(0, 3),
          to_server=st.integers(0, 2), broken=st.booleans())  # fmt: skip
    def error_about_nothing(self, n, vip, port, client, kind, to_server, broken):
        """About a packet from a virtual service that no connection is known of."""
        protocol, address, port, mark = self.virtual(n, vip, port)
        about = self.packet(protocol, address, port, self.address(self.clients, client), 1000 + n,
                            "A", 0)  # fmt: skip
        self.send(self.icmp_error(about, to_server, kind, 1, 1, 8, broken and kind == 0, mark))

    # time

    def pass_until(self, now):
        self.settle()
        self.now = now
        self.model.advance(now)
        for engine in self.engines:
            engine.expire(now * MILLISECOND)

    @rule(seconds=pauses)
    def pass_time(self, seconds):
        self.pass_until(self.now + seconds * SECOND)

    @precondition(lambda self: self.model.connections or self.model.templates)
    @rule(n=st.integers(0, 63))
    def pass_until_one_ends(self, n):
        """It is there a nanosecond before its time, and gone on time."""
        entries = [*self.model.connections, *self.model.templates]
        deadline = entries[n % len(entries)].deadline
        self.settle()
        for engine in self.engines:
            engine.expire(deadline * MILLISECOND - 1)
        self.model.advance(deadline - 1)
        self.compare()
        self.pass_until(deadline)

    # comparing

    @invariant()
    def compare(self):
        self.compare_engine(self.engine)
        if not self.queue:
            self.compare_engine(self.twin)
        self.compare_listings()

    def compare_engine(self, engine):
        self.compare_tables(engine)
        self.compare_counters(engine)
        assert engine._selfcheck() == 0

    def endpoint(self, pair):
        return ADDRESS[self.family](pair[0]), pair[1]

    def compare_tables(self, engine):
        protocols = {TCP: "tcp", UDP: "udp", SCTP: "sctp", 0: "ip"}
        found = sorted(
            (c.protocol, c.state, c.client, c.virtual, c.server, c.packets_in, c.packets_out,
             c.bytes_in, c.bytes_out, -(-(engine.now + c.expires_ns) // MILLISECOND))
            for c in engine.connections
        )  # fmt: skip
        assert found == sorted(
            (protocols[c.protocol], public_name(c.protocol, c.state), self.endpoint(c.client),
             self.endpoint(c.virtual), self.endpoint((c.dest.address, c.dport)), *c.packets,
             *c.bytes, c.deadline)
            for c in self.model.connections
        )  # fmt: skip
        found = sorted(
            (t.protocol, t.state, t.client, t.virtual, t.server,
             -(-(engine.now + t.expires_ns) // MILLISECOND))
            for t in engine.templates
        )  # fmt: skip
        assert found == sorted(
            (protocols[t.protocol], t.state, self.endpoint(t.client),
             self.endpoint(t.virtual),
             self.endpoint((t.dest.address, t.dport)), t.deadline)
            for t in self.model.templates
        )  # fmt: skip

    def compare_counters(self, engine):
        def numbers(counted):
            return [counted.connections, counted.packets_in, counted.packets_out,
                    counted.bytes_in, counted.bytes_out]  # fmt: skip

        assert numbers(engine.statistics) == self.model.counts
        for key, service in self.model.services.items():
            handle = self.handle(engine, key)
            assert numbers(handle.statistics) == service.counts
            servers = handle.servers
            assert [(int(s.address), s.port) for s in servers] == [
                (d.address, d.port) for d in service.dests
            ]
            for server, dest in zip(servers, service.dests, strict=True):
                assert (server.active, server.inactive, server.persistent, server.overloaded) == (
                    dest.active, dest.inactive, dest.persistent, dest.overloaded
                )  # fmt: skip
                assert numbers(server.statistics) == dest.counts

    def compare_listings(self):
        for columns in ("", "--persistent-conn", "--thresholds"):
            lines = self.engine.ipvsadm(f"-L -n {columns}").splitlines()
            assert lines[3:] == listing(self.model, columns)

    def teardown(self):
        """When all is over the tables are empty. Engines go at once: there may be thousands."""
        try:
            self.pass_until(self.now + 10_000 * SECOND)
            self.compare()
        finally:
            self.engines = []
            self.engine = self.twin = None


class DirectorIPv6(Director):
    """The same on IPv6."""

    family = 6
    vips = ("2001:db8::100", "2001:db8::101")
    clients = ("2001:db8:a::1", "2001:db8:a::2", "2001:db8:b::1", "fd00::8000:0:1")
    servers = ("2001:db8:1::7", "2001:db8:1::8", "2001:db8:1::9", "2001:db8:1::10")
    prefixes = (128, 128, 48, 1)


TestDirector = Director.TestCase
TestDirectorIPv6 = DirectorIPv6.TestCase
for case in (TestDirector, TestDirectorIPv6):
    case.settings = settings(max_examples=settings().max_examples // 4)
del case  # which pytest would take for one more
