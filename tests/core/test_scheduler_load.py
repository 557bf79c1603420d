"""scheduler_load.pxd: the tournament against the kernel's walk through the list."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from lvscore._probe_scheduler import Scheduler

NONE, RR, LC, WLC, SED, NQ, FO, OVF = 0, 1, 3, 4, 8, 9, 10, 11
KINDS = [LC, WLC, SED, NQ, FO, OVF]
OVERLOADED = 2
weights = st.sampled_from([0, 1, 1, 2, 3, 100, 2**31 - 1])
indices = st.integers(0, 40)


def walk(kind, servers):
    """What ip_vs_<kind>.c finds in (index, active, inactive, weight) in the list's order."""
    best = None
    for server in servers:
        _, active, inactive, weight = server
        if kind == OVF and active > weight:
            continue
        if kind == NQ and active == 0:
            return server[0]
        if kind in (FO, OVF):
            better = best is None or weight > best[3]
        else:
            load = {LC: 256 * active + inactive, WLC: 256 * active + inactive}.get(kind, active + 1)
            over = 1 if kind == LC else weight
            better = best is None or best[4] * over > load * best[5]
            server = (*server, load, over)
        if better:
            best = server
    return None if best is None else best[0]


def test_many_that_moved_between_two_picks():
    """A few play their matches again, many all of them."""
    scheduler = Scheduler(WLC)
    servers = [scheduler.add(bytes([10, 0, 0, i]), 1 + i % 3) for i in range(100)]
    for moved in (1, 5, 30, 100):
        for k in servers[:moved]:
            scheduler.load(k, 7, 7)
        rows = [(k, scheduler.server(k)) for k in reversed(servers)]
        usable = [(k, row["active"], row["inactive"], row["weight"]) for k, row in rows]
        assert scheduler.pick() == walk(WLC, usable)


class Tournament(RuleBasedStateMachine):
    @initialize(kind=st.sampled_from(KINDS))
    def begin(self, kind):
        self.kind = kind
        self.scheduler = Scheduler(kind)
        self.list = []
        self.added = 0

    def at(self, index):
        return self.list[index % len(self.list)]

    @rule(weight=weights, upper=st.sampled_from([0, 0, 0, 3]))
    def add(self, weight, upper):
        self.added += 1
        address = bytes([10, 0, self.added >> 8, self.added & 255])
        self.list.insert(0, self.scheduler.add(address, weight, upper, 0, 0))

    @precondition(lambda self: self.list)
    @rule(index=indices)
    def remove(self, index):
        server = self.at(index)
        self.scheduler.remove(server)
        self.list.remove(server)

    @precondition(lambda self: self.list)
    @rule(index=indices, weight=weights)
    def edit(self, index, weight):
        self.scheduler.edit(self.at(index), weight)

    @precondition(lambda self: self.list)
    @rule(index=indices)
    def bind(self, index):
        self.scheduler.bind(self.at(index))

    @precondition(lambda self: self.list)
    @rule(index=indices)
    def unbind(self, index):
        if self.scheduler.server(self.at(index))["inactive"]:
            self.scheduler.unbind(self.at(index))

    @precondition(lambda self: self.list)
    @rule(index=indices, active=st.integers(0, 4), inactive=st.integers(0, 600))
    def load(self, index, active, inactive):
        self.scheduler.load(self.at(index), active, inactive)

    @rule(kind=st.sampled_from([*KINDS, RR]))
    def become(self, kind):
        self.kind = kind
        self.scheduler.set(kind)

    @rule()
    def copy(self):
        self.scheduler = self.scheduler.copy()

    @precondition(lambda self: self.kind != RR)
    @rule(again=st.integers(1, 3))
    def pick(self, again):
        for _ in range(again):
            rows = [(k, self.scheduler.server(k)) for k in self.list]
            usable = [
                (k, row["active"], row["inactive"], row["weight"])
                for k, row in rows
                if row["weight"] > 0 and not row["flags"] & OVERLOADED
            ]
            picked = self.scheduler.pick()
            assert picked == walk(self.kind, usable)
            if picked is not None:
                self.scheduler.bind(picked)


TestTournament = Tournament.TestCase
