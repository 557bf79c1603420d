"""IPVS's schedulers once more, in plain Python, written from their description.

Slow and short: lists, dictionaries and names instead of arrays and indices.
"""

from dataclasses import dataclass, field
from functools import cache, reduce
from math import gcd

MINUTE, HOUR = 60_000, 3_600_000
WORD = 2**32
MASK = 2**64 - 1


@dataclass(eq=False)
class Server:
    address: int
    port: int
    weight: int = 0
    last_weight: int = 0
    upper: int = 0
    lower: int = 0
    active: int = 0
    inactive: int = 0
    available: bool = True
    overloaded: bool = False
    idle_since: int = 0

    @property
    def usable(self):
        return self.weight > 0 and not self.overloaded

    @property
    def overhead(self):
        return 256 * self.active + self.inactive

    def judge(self):
        total = self.active + self.inactive
        if self.upper and total >= self.upper:
            self.overloaded = True
        elif total < (self.lower or (self.upper * 3 / 4 if self.upper else total + 1)):
            self.overloaded = False

    def edit(self, weight, upper, lower):
        self.weight, self.upper, self.lower = weight, upper, lower
        self.last_weight = weight or self.last_weight
        self.judge()


@dataclass
class Packet:
    source: int
    port: int
    destination: int


@dataclass(eq=False)
class Remembered:
    """What lblc and lblcr know of a destination."""

    servers: list
    used: int
    changed: int


@dataclass
class Service:
    """A service with one scheduler; ``chance`` gives twos its draws."""

    kind: str
    fallback: bool = False
    with_port: bool = False
    chance: object = None
    servers: list = field(default_factory=list)
    trash: list = field(default_factory=list)

    def __post_init__(self):
        self.start(0)

    def start(self, now):
        self.last = None  # rr, wrr: the server picked last; None is the list's head
        self.current, self.greatest, self.step = 0, 0, 1
        if self.kind == "wrr":
            self.measure()
            self.current = self.greatest
        self.cache = {}
        self.checks, self.next_check, self.rover = 1, now + MINUTE, 0

    # servers

    def add(self, address, port, weight, upper, lower, now):
        self.housekeep(now)
        for server in self.trash:
            if (server.address, server.port) == (address, port) and not self.spent(server, now):
                self.trash.remove(server)
                break
        else:
            server = Server(address, port)
        server.available, server.last_weight = True, 0
        server.edit(weight, upper, lower)
        self.servers.insert(0, server)
        self.changed()
        return server

    def spent(self, server, now):
        held = any(server in entry.servers for entry in self.cache.values())
        return not held and not server.overhead and now >= server.idle_since + 2 * MINUTE

    def edit(self, server, weight, upper, lower):
        server.edit(weight, upper, lower)
        self.changed()

    def remove(self, server, now):
        place = self.servers.index(server)
        if self.last is server:
            self.last = self.servers[place - 1] if place else None
        del self.servers[place]
        self.trash.append(server)
        server.available, server.idle_since = False, now
        self.changed()

    def changed(self):
        if self.kind == "wrr":
            self.last = None
            self.measure()
            if self.current > self.greatest or self.current == 0:
                self.current = self.greatest
            elif self.step > 1:
                self.current = self.current // self.step * self.step + 1

    def measure(self):
        weights = [server.weight for server in self.servers if server.weight > 0]
        self.step = reduce(gcd, weights, 0) or 1
        self.greatest = max(weights, default=0) - (self.step - 1)

    # picking

    def pick(self, packet, now):
        self.housekeep(now)
        return getattr(self, f"pick_{self.kind}")(packet, now)

    def usable(self):
        return [server for server in self.servers if server.usable]

    def pick_none(self, packet, now):
        return None

    def pick_rr(self, packet, now):
        place = -1 if self.last is None else self.servers.index(self.last)
        for server in self.servers[place + 1 :] + self.servers:
            if server.usable:
                self.last = server
                return server
        return None

    def pick_wrr(self, packet, now):
        if self.greatest <= 0:
            return None
        last = self.last
        here = -1 if last is None else self.servers.index(last)
        stop, restarted, last_pass = None, False, False
        while True:
            for server in self.servers[here + 1 :]:
                if not server.overloaded and server.weight >= self.current:
                    self.last = server
                    return server
                if server is stop:
                    self.last = server
                    return None
            self.current -= self.step
            if self.current <= 0:
                self.current = self.greatest
                if last_pass or last is None:
                    self.last = None
                    return None
                restarted = True
            last_pass = self.current <= self.step
            if last_pass and restarted and last is not None:
                stop = last
            here = -1

    def pick_lc(self, packet, now):
        return min(self.usable(), key=lambda server: server.overhead, default=None)

    def lightest(self, servers, load):
        """The least of load by weight; the first of equals."""
        best = None
        for server in servers:
            if best is None or load(best) * server.weight > load(server) * best.weight:
                best = server
        return best

    def pick_wlc(self, packet, now):
        return self.lightest(self.usable(), lambda server: server.overhead)

    def pick_sed(self, packet, now):
        return self.lightest(self.usable(), lambda server: server.active + 1)

    def pick_nq(self, packet, now):
        idle = [server for server in self.usable() if server.active == 0]
        return idle[0] if idle else self.pick_sed(packet, now)

    def pick_fo(self, packet, now):
        return max(self.usable(), key=lambda server: server.weight, default=None)

    def pick_ovf(self, packet, now):
        room = [server for server in self.usable() if server.active <= server.weight]
        return max(room, key=lambda server: server.weight, default=None)

    def pick_twos(self, packet, now):
        usable = self.usable()
        if not usable:
            return None
        total = sum(server.weight for server in usable)
        drawn = []
        for _ in range(2):
            lot = self.chance() % (total + 1)
            for server in usable:
                lot -= server.weight
                if lot <= 0:
                    drawn.append(server)
                    break
        first, second = drawn
        better = second.weight * first.overhead > first.weight * second.overhead
        return second if better else first

    def pick_dh(self, packet, now):
        if not self.servers:
            return None
        server = self.servers[hash_32(fold(packet.destination), 8) % len(self.servers)]
        return server if server.usable else None

    def pick_sh(self, packet, now):
        shares = [(server, min(max(server.weight, 1), 256)) for server in self.servers]
        row = [server for server, share in shares for _ in range(share)]
        if not row:
            return None
        port = packet.port if self.with_port else 0
        first = hash_32((port + fold(packet.source)) % WORD, 8)
        tries = [first]
        if self.fallback:
            tries += [(offset + first + first) % 256 for offset in range(256)]
        found = (row[bucket % len(row)] for bucket in tries)
        return next((server for server in found if server.usable), None)

    def pick_mh(self, packet, now):
        if not any(server.last_weight for server in self.servers):
            return None
        table = maglev(tuple((s.address, s.port, s.last_weight) for s in self.servers))
        table = [self.servers[place] for place in table]
        word = fold(packet.source) + (packet.port if self.with_port else 0)
        first = sip_hash(word % WORD, 2654435761) % 4093
        if table[first].usable or not (self.fallback and self.usable()):
            return table[first] if table[first].usable else None
        others = (
            table[sip_hash((word + (offset + first) % 4093) % WORD, 2654435761) % 4093]
            for offset in range(4093)
        )
        return next((server for server in others if server.usable), None)

    # locality

    def is_overloaded(self, server):
        return server.active > server.weight and any(
            2 * other.active < other.weight for other in self.servers
        )

    def pick_lblc(self, packet, now):
        entry = self.cache.get(packet.destination)
        if entry:
            entry.used = now
            (server,) = entry.servers
            if server.available and server.weight > 0 and not self.is_overloaded(server):
                return server
        server = self.pick_wlc(packet, now)
        if server:
            if entry and entry.servers != [server]:
                entry.servers[0].idle_since = now
            self.cache[packet.destination] = Remembered([server], now, now)
        return server

    def pick_lblcr(self, packet, now):
        entry = self.cache.get(packet.destination)
        chosen = None
        if entry:
            entry.used = now
            members = [server for server in entry.servers if server.usable and server.available]
            chosen = self.lightest(members, lambda server: server.overhead)
            if len(entry.servers) > 1 and now > entry.changed + 24 * HOUR:
                most = None
                for server in entry.servers:
                    if server.weight > 0 and (
                        most is None
                        or most.overhead * server.weight < server.overhead * most.weight
                    ):
                        most = server
                if most:
                    entry.servers.remove(most)
                    entry.changed = most.idle_since = now
        if chosen and not self.is_overloaded(chosen):
            return chosen
        server = self.pick_wlc(packet, now)
        if server and not entry:
            self.cache[packet.destination] = Remembered([server], now, now)
        elif server and server not in entry.servers:
            entry.servers.insert(0, server)
            entry.changed = now
        return server

    def housekeep(self, now):
        while self.next_check <= now:
            self.check(self.next_check)
            self.next_check += MINUTE

    def check(self, now):
        if self.checks % 30 == 0:
            self.forget(self.cache, 24 * HOUR, now)
            self.checks = 1
            return
        excess = len(self.cache) - 16384
        if excess <= 0:
            self.checks += 1
            return
        goal = min(excess * 4 // 3, 8192)
        buckets = {}
        for destination in self.cache:
            buckets.setdefault(hash_32(fold(destination), 10), []).append(destination)
        for _ in range(1024):
            self.rover = (self.rover + 1) % 1024
            goal -= self.forget(buckets.get(self.rover, ()), 6 * MINUTE, now)
            if goal <= 0:
                break

    def forget(self, destinations, age, now):
        old = [name for name in destinations if now >= self.cache[name].used + age]
        for name in old:
            for server in self.cache.pop(name).servers:
                server.idle_since = now
        return len(old)


def fold(address):
    """An address as schedulers hash it: its 32-bit words by exclusive or."""
    word = 0
    while address:
        word ^= address % WORD
        address //= WORD
    return word


def hash_32(value, bits):
    return value * 0x61C88647 % WORD >> (32 - bits)


def sip_hash(value, key, rounds=(1, 3), size=4):
    """SipHash of a message below eight bytes; its low 32 bits."""
    return sip_hash_64(value, (key, key), rounds, size) % WORD


def sip_hash_64(value, keys, rounds, size):
    def turn(word, bits):
        return (word << bits | word >> (64 - bits)) & MASK

    def mix(a, b, c, d):
        a = (a + b) & MASK
        c = (c + d) & MASK
        b, d = turn(b, 13) ^ a, turn(d, 16) ^ c
        a = turn(a, 32)
        c = (c + b) & MASK
        a = (a + d) & MASK
        return a, turn(b, 17) ^ c, turn(c, 32), turn(d, 21) ^ a

    text = b"somepseudorandomlygeneratedbytes"
    state = [int.from_bytes(text[i : i + 8]) ^ keys[i // 8 % 2] for i in range(0, 32, 8)]
    last = size << 56 | value
    state[3] ^= last
    for _ in range(rounds[0]):
        state = list(mix(*state))
    state[0] ^= last
    state[2] ^= 0xFF
    for _ in range(rounds[1]):
        state = list(mix(*state))
    return state[0] ^ state[1] ^ state[2] ^ state[3]


@cache
def maglev(servers):
    """The table of mh: 4093 places in the list of (address, port, last weight)."""
    divisor = reduce(gcd, (weight for _, _, weight in servers))
    shift = max(0, (max(weight for _, _, weight in servers) // divisor).bit_length() - 6)
    table = [None] * 4093

    def slots(address, port):
        word = (fold(address) + port) % WORD
        slot = sip_hash(word, 2654435761) % 4093
        step = sip_hash(word, 2654446892) % 4092 + 1
        while True:
            while table[slot] is not None:
                slot = (slot + step) % 4093
            yield slot

    walks = [
        (place, slots(address, port), max(1, weight // divisor >> shift))
        for place, (address, port, weight) in enumerate(servers)
        if weight
    ]
    free = 4093
    while True:
        for place, walk, turns in walks:
            for _ in range(turns):
                table[next(walk)] = place
                free -= 1
                if not free:
                    return table
