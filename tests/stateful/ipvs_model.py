"""IPVS once more, in plain Python, written from its description: services, servers,
connections, templates, states and time. Slow and short; it knows nothing of the engine.

Times are milliseconds, addresses integers. Every timer ends at its nominal time.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import scheduler_models
from ipvs_packets import TCP, UDP, Packet

SECOND = 1000
REARMED = 60 * SECOND  # of a template that others still depend on
TRASH = 120 * SECOND  # for which a removed server is remembered once nothing holds it
INVALID_PORT = 65535
FTP_DATA = 20

NAMES = {
    "NO": "NONE", "ES": "ESTABLISHED", "SS": "SYN_SENT", "SR": "SYN_RECV", "FW": "FIN_WAIT",
    "TW": "TIME_WAIT", "CL": "CLOSE", "CW": "CLOSE_WAIT", "LA": "LAST_ACK", "LI": "LISTEN",
    "SA": "SYNACK",
}  # fmt: skip
ACTIVE = {"ES", "SS", "SR", "SA"}
TCP_TIMEOUTS = {
    "NO": 2, "ES": 900, "SS": 120, "SR": 60, "FW": 120, "TW": 120, "CL": 10, "CW": 60, "LA": 30,
    "LI": 120, "SA": 120,
}  # fmt: skip


def rows(text):
    """``{event: {state: next state}}`` of a table as the description prints it."""
    columns = list(NAMES)
    lines = (line.split() for line in text.strip().splitlines())
    return {event: dict(zip(columns, states, strict=True)) for event, *states in lines}


TABLES = {
    "input": rows("""
        S SR ES ES SR SR SR SR SR SR SR SR
        F CL CW SS TW TW TW CL CW LA LI TW
        A ES ES SS ES FW TW CL CW CL LI ES
        R CL CL CL SR CL CL CL CL LA LI SR
    """),
    "output": rows("""
        S SS ES SS SR SS SS SS SS SS LI SR
        F TW FW SS TW FW TW CL TW LA LI TW
        A ES ES SS ES FW TW CL CW LA ES ES
        R CL CL SS CL CL TW CL CL CL CL CL
    """),
    "input-only": rows("""
        S SR ES ES SR SR SR SR SR SR SR SR
        F CL FW SS TW FW TW CL CW LA LI TW
        A ES ES SS ES FW TW CL CW CL LI ES
        R CL CL CL SR CL CL CL CL LA LI CL
    """),
}


def next_state(table, state, flags):
    """The first of RST, SYN, FIN, ACK decides; a segment with none of them closes."""
    event = next((letter for letter in "RSFA" if letter in flags), None)
    return "CL" if event is None else TABLES[table][event][state]


@dataclass(eq=False)
class Dest(scheduler_models.Server):
    """A real server, which outlives its removal while something may refer to it."""

    method: str = "masquerade"
    persistent: int = 0
    service: object = None
    counts: list = field(default_factory=lambda: [0] * 5)

    @property
    def held(self):
        return self.active + self.inactive + self.persistent > 0


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


class Model:
    def __init__(self, family):
        self.family = family
        self.bits = 32 if family == 4 else 128
        self.services = {}
        self.connections = []  # the newest last
        self.templates = []
        self.trash = []
        self.local = set()
        self.counts = [0] * 5
        self.sysctl = dict.fromkeys(
            ("sloppy_tcp", "expire_nodest_conn", "expire_quiescent_template"), 0
        )
        self.sysctl["conn_reuse_mode"] = 1
        self.timeouts = {"tcp": 900, "tcp_fin": 120, "udp": 300}
        self.now = 0

    # configuration

    def add_service(self, key, kind, flags, persistence, prefix, one_packet):
        scheduler = scheduler_models.Service(kind, "sh-fallback" in flags, "sh-port" in flags)
        scheduler.start(self.now)
        self.services[key] = Service(key, scheduler, persistence, prefix, one_packet)

    def edit_service(self, key, kind, flags, persistence, prefix, one_packet):
        service = self.services[key]
        service.persistence, service.prefix = persistence, prefix
        service.one_packet = one_packet
        scheduler = service.scheduler
        scheduler.fallback, scheduler.with_port = "sh-fallback" in flags, "sh-port" in flags
        if scheduler.kind != kind:
            scheduler.kind = kind
            scheduler.start(self.now)

    def remove_service(self, key):
        service = self.services[key]
        for dest in list(service.dests):
            self.remove_dest(service, dest)
        del self.services[key]

    def add_dest(self, service, address, port, weight, upper, lower, method):
        dest = self.remembered(service.key, address, port)
        if dest is None:
            dest = Dest(address, port)
        if dest.service is not service:
            dest.service, dest.counts = service, [0] * 5
        dest.available, dest.last_weight, dest.method = True, 0, method
        dest.edit(weight, upper, lower)
        service.dests.insert(0, dest)
        service.scheduler.changed()

    def remembered(self, key, address, port):
        self.trash = [d for d in self.trash if d.held or self.now < d.idle_since + TRASH]
        for dest in self.trash:
            if (dest.service.key, dest.address, dest.port) == (key, address, port):
                self.trash.remove(dest)
                return dest
        return None

    def edit_dest(self, service, dest, weight, upper, lower, method):
        dest.method = method
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
        opening = c.protocol == TCP and "S" in packet.flags
        if opening and (
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
        return c.state in ("TW", "CL") or (mode & 2 and c.state == "FW" and c.no_output)

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
            return Outcome("LOCAL", refusal, packet)
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
            dest, dport, dest.method, "NO", 0, no_output=dest.method != "masquerade",
            template=template,
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
        if packet.protocol == TCP and (
            "R" in packet.flags or not ("S" in packet.flags or self.sysctl["sloppy_tcp"])
        ):
            return "TCP_NOT_SYN"
        return "SOURCE_PORT_20" if packet.sport == FTP_DATA else None

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
        if c.protocol == UDP:
            c.state, c.timeout = "UDP", self.timeouts["udp"] * SECOND
        else:
            state = next_state(table, c.state, packet.flags)
            if c.inactive == (state in ACTIVE):
                change = 1 if c.inactive else -1
                c.dest.active += change
                c.dest.inactive -= change
                c.inactive = not c.inactive
            if c.template and state == "ES" and c.state != "ES":
                c.template.state = "ASSURED"
            changed = {"ES": self.timeouts["tcp"], "FW": self.timeouts["tcp_fin"]}
            c.state, c.timeout = state, changed.get(state, TCP_TIMEOUTS[state]) * SECOND
        c.deadline = self.now + c.timeout

    def transmit(self, method, dest, dport, packet, reason):
        if method == "masquerade":
            packet = packet.with_destination(dest.address, dport)
        return Outcome("FORWARD", reason, packet)

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
