"""IPVS once more, in plain Python, written from its description: services, servers,
connections, templates, states and time. Slow and short; it knows nothing of the engine.

Times are milliseconds, addresses integers. Every timer ends at its nominal time.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import ipvs_states
import scheduler_models
from ipvs_packets import TCP, UDP, IcmpError, Packet

SECOND = 1000
REARMED = 60 * SECOND  # of a template that others still depend on
TRASH = 120 * SECOND  # for which a removed server is remembered once nothing holds it
INVALID_PORT = 65535
FTP_DATA = 20
NEW = 3 * SECOND  # of a connection before its first packet
DROP_RATE = 10
PARAMETER_PROBLEM = 12
WORD = 2**64 - 1


@dataclass(eq=False)
class Dest(scheduler_models.Server):
    """A real server, which outlives its removal while something may refer to it."""

    method: str = "masquerade"
    tunnel: object = None
    persistent: int = 0
    service: object = None
    counts: list = field(default_factory=lambda: [0] * 5)


@dataclass(eq=False)
class Service:
    """A virtual service: `key` is (protocol, address, port) or ("mark", number, 0)."""

    key: tuple
    scheduler: scheduler_models.Service
    persistence: int = 0
    prefix: int = 32
    one_packet: bool = False
    counts: list = field(default_factory=lambda: [0] * 5)

    @property
    def mark(self):
        return self.key[1] if self.key[0] == "mark" else 0

    @property
    def port(self):
        return self.key[2]

    @property
    def dests(self):
        return self.scheduler.servers


@dataclass(eq=False)
class Connection:
    """A connection, or a template (`is_template`) of protocol 0 if it is of a mark."""

    protocol: int
    client: tuple
    virtual: tuple
    dest: Dest
    dport: int
    method: str
    state: str
    timeout: int
    deadline: int = 0
    is_template: bool = False
    no_output: bool = False
    inactive: bool = True
    template: "Connection | None" = None
    packets: list = field(default_factory=lambda: [0, 0])
    bytes: list = field(default_factory=lambda: [0, 0])


class Outcome(NamedTuple):
    verdict: str
    reason: str
    packet: Packet
    tunnel_to: Dest | None = None  # the packet left in a tunnel to this server


class Model:
    """`seed` is the engine's, which everything is drawn from."""

    def __init__(self, family, seed):
        self.family = family
        self.bits = 32 if family == 4 else 128
        self.services = {}
        self.connections = []  # the newest last
        self.templates = []
        self.trash = []
        self.local = set()
        self.counts = [0] * 5
        self.sysctl = dict.fromkeys(
            ("sloppy_tcp", "sloppy_sctp", "expire_nodest_conn", "expire_quiescent_template",
             "schedule_icmp", "secure_tcp", "drop_packet"), 0,
        )  # fmt: skip
        self.sysctl["conn_reuse_mode"] = 1
        self.until_drop = 0
        self.chance = seed
        self.draw()
        self.timeouts = {"tcp": 900, "tcp_fin": 120, "udp": 300}
        self.now = 0

    def draw(self):
        """The next number of SplitMix64 (Steele, Lea, Flood 2014)."""
        self.chance = z = (self.chance + 0x9E3779B97F4A7C15) & WORD
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & WORD
        z = (z ^ z >> 27) * 0x94D049BB133111EB & WORD
        return z ^ z >> 31

    # configuration

    def add_service(self, key, kind, flags, persistence, prefix, one_packet):
        scheduler = scheduler_models.Service(
            kind, f"{kind}-fallback" in flags, f"{kind}-port" in flags, self.draw
        )
        scheduler.start(self.now)
        self.services[key] = Service(key, scheduler, persistence, prefix, one_packet)

    def edit_service(self, key, kind, flags, persistence, prefix, one_packet):
        service = self.services[key]
        service.persistence, service.prefix = persistence, prefix
        service.one_packet = one_packet
        scheduler = service.scheduler
        scheduler.fallback = f"{kind}-fallback" in flags
        scheduler.with_port = f"{kind}-port" in flags
        if scheduler.kind != kind:
            self.forget_localities(scheduler)
            scheduler.kind = kind
            scheduler.start(self.now)

    def forget_localities(self, scheduler):
        """lblc and lblcr hold servers, also such as were removed."""
        for entry in scheduler.cache.values():
            for dest in entry.servers:
                dest.idle_since = self.now
        scheduler.cache = {}

    def remove_service(self, key):
        service = self.services[key]
        for dest in list(service.dests):
            self.remove_dest(service, dest)
        self.forget_localities(service.scheduler)
        del self.services[key]

    def add_dest(self, service, address, port, weight, upper, lower, method, tunnel):
        dest = self.remembered(service.key, address, port)
        if dest is None:
            dest = Dest(address, port)
        if dest.service is not service:
            dest.service, dest.counts = service, [0] * 5
        dest.available, dest.last_weight = True, 0
        dest.method, dest.tunnel = method, tunnel
        dest.edit(weight, upper, lower)
        service.dests.insert(0, dest)
        service.scheduler.changed()

    def is_held(self, dest):
        """Whether connections, templates or what a scheduler remembers are of a server."""
        return dest.active + dest.inactive + dest.persistent > 0 or any(
            dest in entry.servers
            for service in self.services.values()
            for entry in service.scheduler.cache.values()
        )

    def keep_house(self):
        """What schedulers forget, and with it the servers that nothing holds any more."""
        for service in self.services.values():
            service.scheduler.housekeep(self.now)

    def remembered(self, key, address, port):
        self.keep_house()
        self.trash = [d for d in self.trash if self.is_held(d) or self.now < d.idle_since + TRASH]
        for dest in self.trash:
            if (dest.service.key, dest.address, dest.port) == (key, address, port):
                self.trash.remove(dest)
                return dest
        return None

    def edit_dest(self, service, dest, weight, upper, lower, method, tunnel):
        dest.method, dest.tunnel = method, tunnel
        service.scheduler.edit(dest, weight, upper, lower)

    def remove_dest(self, service, dest):
        service.scheduler.remove(dest, self.now)
        self.trash.append(dest)
        if self.sysctl["expire_nodest_conn"]:
            for entry in [*self.connections, *self.templates]:
                if not entry.dest.available:  # also of those that were removed before
                    self.end(entry, self.now)

    # time

    def advance(self, now):
        """End what is due by `now`, each at its own time."""
        while True:
            entry = min([*self.connections, *self.templates], key=lambda e: e.deadline,
                        default=None)  # fmt: skip
            if entry is None or entry.deadline > now:
                break
            if entry.is_template and any(c.template is entry for c in self.connections):
                entry.timeout = REARMED
                entry.deadline += REARMED
            else:
                self.end(entry, entry.deadline)
        self.now = now

    def end(self, entry, when):
        dest = entry.dest
        if entry.is_template:
            self.templates.remove(entry)
            dest.persistent -= 1
        else:
            self.connections.remove(entry)
            self.unbind(dest, entry.inactive)
        dest.idle_since = when

    def bind(self, dest):
        dest.inactive += 1
        dest.judge()

    def unbind(self, dest, inactive):
        if inactive:
            dest.inactive -= 1
        else:
            dest.active -= 1
        dest.judge()

    # packets

    def process(self, packet, now):
        """What becomes of a packet."""
        self.advance(now)
        if isinstance(packet, IcmpError):
            return self.icmp_error(packet)
        connection = self.answered(packet)
        if connection:
            return self.reply(connection, packet)
        connection = self.asked(packet)
        if connection:
            return self.request(connection, packet)
        if packet.destination in self.local:
            return self.schedule(packet)
        return Outcome("PASS", "NO_SERVICE", packet)

    def answered(self, packet):
        """The newest connection that a packet from the servers' side answers."""
        for c in reversed(self.connections):
            here = (c.dest.address, c.dport) if c.method == "masquerade" else c.virtual
            if (c.protocol, c.client) == (packet.protocol, (packet.destination, packet.dport)) \
                    and here == (packet.source, packet.sport):  # fmt: skip
                return c
        return None

    def asked(self, packet):
        for c in reversed(self.connections):
            if (c.protocol, *c.client, *c.virtual) == (
                packet.protocol, packet.source, packet.sport, packet.destination, packet.dport
            ):  # fmt: skip
                return c
        return None

    def reply(self, c, packet):
        self.count(c, packet, 1)
        c.no_output = False
        self.track(c, packet, "output")
        if c.template and c.protocol == UDP:
            c.template.state = "ASSURED"
        if c.method == "masquerade":
            packet = packet.with_source(*c.virtual)
        return Outcome("FORWARD", "REPLY", packet)

    def request(self, c, packet):
        if ipvs_states.opens(packet) and (
            (self.sysctl["expire_nodest_conn"] and c.dest.weight == 0) or self.is_over(c)
        ):
            return self.schedule(packet, c)
        if not c.dest.available:
            if self.sysctl["expire_nodest_conn"]:
                return self.schedule(packet, c)
            return Outcome("DROP", "SERVER_REMOVED", packet)
        self.count(c, packet, 0)
        self.track(c, packet, "input-only" if c.no_output else "input")
        return self.transmit(c.method, c.dest, c.dport, packet, "REQUEST")

    def is_over(self, c):
        mode = self.sysctl["conn_reuse_mode"]
        if mode == 0 or c.template:
            return False
        if c.state in ipvs_states.OVER.get(c.protocol, ()):
            return True
        return mode & 2 and c.protocol == TCP and c.state == "FW" and c.no_output

    def service_for(self, packet):
        keys = [
            ("mark", packet.mark, 0),
            (packet.protocol, packet.destination, packet.dport),
            (packet.protocol, packet.destination, 0),
        ]
        return next((self.services[key] for key in keys if key in self.services), None)

    def schedule(self, packet, old=None):
        """A packet of no connection, or of one that ends for it."""
        service = self.service_for(packet)
        refusal = self.refusal(service, packet)
        choice = None if refusal else self.choose(service, packet)
        if choice:
            self.bind(choice[0])  # before the old one ends, which the kernel leaves to a timer
        if old:
            self.end(old, self.now)
        if refusal:
            return Outcome("DROP" if refusal == "DROP_RATE" else "LOCAL", refusal, packet)
        if choice is None:
            return Outcome("DROP", "NO_REAL_SERVER", packet)
        dest, dport, template = choice
        if service.one_packet and packet.protocol == UDP:
            self.count_new(dest)
            self.count_levels(dest, packet, 0)
            self.unbind(dest, True)
            dest.idle_since = self.now
            return self.transmit(dest.method, dest, dport, packet, "REQUEST")
        c = Connection(
            packet.protocol, (packet.source, packet.sport), (packet.destination, packet.dport),
            dest, dport, dest.method, "UDP" if packet.protocol == UDP else "NO", 0,
            no_output=dest.method != "masquerade", template=template,
        )  # fmt: skip
        self.connections.append(c)
        self.count_new(dest)
        self.count(c, packet, 0)
        self.track(c, packet, "input-only" if c.no_output else "input")
        reason = "CONNECTION_REUSED" if old else "NEW_CONNECTION"
        return self.transmit(c.method, dest, dport, packet, reason)

    def refusal(self, service, packet):
        if service is None:
            return "LOCAL_ADDRESS"
        if packet.protocol != UDP:
            sloppy = self.sysctl["sloppy_tcp" if packet.protocol == TCP else "sloppy_sctp"]
            if ipvs_states.aborts(packet) or not (ipvs_states.opens(packet) or sloppy):
                return "TCP_NOT_SYN" if packet.protocol == TCP else "SCTP_NOT_INIT"
        if self.drops():
            return "DROP_RATE"
        return "SOURCE_PORT_20" if packet.sport == FTP_DATA else None

    def drops(self):
        """drop_packet, always on: of the packets that would open something every tenth."""
        if self.sysctl["drop_packet"] != 3:
            return False
        self.until_drop -= 1
        if self.until_drop > 0:
            return False
        self.until_drop = DROP_RATE
        return True

    def choose(self, service, packet):
        """Server, its port, and the template; None if there is no server."""
        if not service.persistence:
            dest = self.pick(service, packet)
            return dest and (dest, dest.port or packet.dport, None)
        own_port = service.port == packet.dport
        network = packet.source >> self.bits - service.prefix << self.bits - service.prefix
        protocol, address = packet.protocol, packet.destination
        if service.mark:
            protocol, address = 0, service.mark << self.bits - 32
        key = (protocol, (network, 0), (address, service.port if own_port else 0))
        template = next(
            (t for t in self.templates if (t.protocol, t.client, t.virtual) == key), None
        )
        if template and not self.is_valid(template):
            template.virtual, template.dport = (template.virtual[0], INVALID_PORT), INVALID_PORT
            template = None
        if template is None:
            dest = self.pick(service, packet)
            if dest is None:
                return None
            template = Connection(*key, dest, dest.port if own_port else 0, dest.method, "NONE",
                                  service.persistence * SECOND, is_template=True)  # fmt: skip
            dest.persistent += 1
            self.templates.append(template)
        template.deadline = self.now + template.timeout
        dest = template.dest
        return dest, dest.port if own_port and dest.port else packet.dport, template

    def is_valid(self, template):
        if not template.dest.available:
            return False
        return template.dest.weight != 0 or not self.sysctl["expire_quiescent_template"]

    def pick(self, service, packet):
        about = scheduler_models.Packet(packet.source, packet.sport, packet.destination)
        return service.scheduler.pick(about, self.now)

    def track(self, c, packet, table):
        if c.protocol != UDP:
            secure = self.sysctl["secure_tcp"] == 3
            state = ipvs_states.next_state(packet, table, c.state, secure)
            if c.inactive == (state in ipvs_states.ACTIVE[c.protocol]):
                change = 1 if c.inactive else -1
                c.dest.active += change
                c.dest.inactive -= change
                c.inactive = not c.inactive
            if c.template and state == "ES" and c.state != "ES":
                c.template.state = "ASSURED"
            c.state = state
        c.timeout = ipvs_states.timeout(c.protocol, c.state, self.timeouts) * SECOND
        c.deadline = self.now + c.timeout

    def transmit(self, method, dest, dport, packet, reason):
        if method == "tunnel":
            self.draw()  # an identification
            return Outcome("STOLEN", reason, packet, dest)
        if method == "masquerade":
            packet = packet.with_destination(dest.address, dport)
        return Outcome("FORWARD", reason, packet)

    # ICMP errors

    def icmp_error(self, error):
        """One about a packet of a connection, which goes back the way the packet came."""
        about = error.about
        back = replace(
            about, source=about.destination, sport=about.dport, destination=about.source,
            dport=about.sport, mark=error.mark,
        )  # fmt: skip
        local = error.destination in self.local
        known = not (error.family == 4 and error.kind == PARAMETER_PROBLEM)
        from_server = self.answered(back) if known else None
        c = from_server or (self.asked(back) if known else None)
        if c is None and local and known and self.sysctl["schedule_icmp"]:
            c = self.schedule_about(back)
            if isinstance(c, str):
                return Outcome("DROP", c, error)
        if c is None:
            return Outcome("LOCAL" if local else "PASS", "ICMP_NOT_RELATED", error)
        if error.broken and c.method == "masquerade":
            return Outcome("DROP", "BAD_ICMP_CHECKSUM", error)
        self.count(c, error, 1 if from_server else 0)
        if c.method != "masquerade":
            if from_server:
                return Outcome("FORWARD", "RELATED_ICMP", error)
            return self.transmit(c.method, c.dest, c.dport, error, "RELATED_ICMP")
        if from_server:
            error = replace(error, source=c.virtual[0], about=about.with_destination(*c.virtual))
        else:
            inside = about.with_source(c.dest.address, c.dport)
            error = replace(error, destination=c.dest.address, about=inside)
        return Outcome("FORWARD", "RELATED_ICMP", replace(error, transport=about))

    def schedule_about(self, back):
        """schedule_icmp: the connection that an error is about, opened now, or None, or why it is
        not opened. It has seen no packet yet."""
        service = self.service_for(back)
        if service is None or back.sport == FTP_DATA:
            return None
        choice = self.choose(service, back)
        if choice is None:
            return "NO_REAL_SERVER"
        dest, dport, template = choice
        self.bind(dest)
        c = Connection(
            back.protocol, (back.source, back.sport), (back.destination, back.dport), dest, dport,
            dest.method, "UDP" if back.protocol == UDP else "NO", NEW, self.now + NEW,
            no_output=dest.method != "masquerade", template=template,
        )  # fmt: skip
        self.connections.append(c)
        self.count_new(dest)
        return c

    # counters: connections, packets in and out, bytes in and out

    def levels(self, dest):
        return dest.counts, dest.service.counts, self.counts

    def count_new(self, dest):
        for counts in self.levels(dest):
            counts[0] += 1

    def count_levels(self, dest, packet, way):
        if dest.available:
            for counts in self.levels(dest):
                counts[1 + way] += 1
                counts[3 + way] += packet.length

    def count(self, c, packet, way):
        c.packets[way] += 1
        c.bytes[way] += packet.length
        self.count_levels(c.dest, packet, way)
