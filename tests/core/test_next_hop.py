"""next_hop.pxd: where the packets of connections go, kept until that may have changed."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lvscore._probe_store import NextHops, Paths

CONNECTIONS = 6
ADDRESSES = [bytes([10, 0, 0, k]) for k in range(1, 6)]


def link(number):
    return bytes([2, 0, 0, 0, 0, number])


def neighbours():
    return {address: link(number) for number, address in enumerate(ADDRESSES)}


class Kept(RuleBasedStateMachine):
    """A connection's next hop is the one that it was given, as its neighbour is now."""

    def __init__(self):
        super().__init__()
        self.neighbours = neighbours()
        self.hops = NextHops(Paths(self.neighbours.items()), CONNECTIONS)
        self.kept = {}

    @rule(
        i=st.integers(0, CONNECTIONS - 1),
        direction=st.integers(0, 1),
        ingress=st.integers(0, 2),
        address=st.sampled_from(ADDRESSES),
    )
    def packet(self, i, direction, ingress, address):
        if address in self.neighbours:  # else it would not leave
            assert self.hops.set(i, direction, ingress, address)
            self.kept[i, direction] = ingress, address

    @rule(address=st.sampled_from(ADDRESSES), mac=st.one_of(st.none(), st.integers(6, 9)))
    def tell(self, address, mac):
        """One that is gone is looked up anew by those who had it, also when it is back."""
        self.hops.tell(address, None if mac is None else link(mac))
        if mac is None:
            self.neighbours.pop(address, None)
            self.kept = {key: value for key, value in self.kept.items() if value[1] != address}
        else:
            self.neighbours[address] = link(mac)

    @rule()
    def forget(self):
        self.hops.forget()
        self.kept.clear()

    @invariant()
    def true(self):
        for i in range(CONNECTIONS):
            for direction in range(2):
                ingress, address = self.kept.get((i, direction), (None, None))
                expected = address and (ingress, self.neighbours[address], 1400)
                assert self.hops.of(i, direction) == expected


Kept.TestCase.settings = settings(max_examples=60)
TestKept = Kept.TestCase


def test_numbers_begin_anew_before_they_end():
    """However often routes change, a connection has its own next hop, or looks again."""
    hops = NextHops(Paths(neighbours().items()), 3)
    for turn in range(30_000):
        for i in range(3):
            assert hops.set(i, turn & 1, 1, ADDRESSES[(turn + i) % 5])
        for i in range(3):
            assert hops.of(i, turn & 1) == (1, link((turn + i) % 5), 1400)
        hops.forget()
        assert [hops.of(i, d) for i in range(3) for d in range(2)] == [None] * 6


def test_connections_with_the_same_next_hop_share_its_number():
    """A million of them leave room for others."""
    hops = NextHops(Paths(neighbours().items()), 1)
    for _ in range(200_000):
        assert hops.set(0, 0, 7, ADDRESSES[0])
    assert hops.of(0, 0) == (7, link(0), 1400)


def test_more_next_hops_than_numbers():
    """A connection that finds none has none, and those of others stay."""
    paths = Paths([(bytes([10, 1, k, k]), link(k)) for k in range(256)])
    hops = NextHops(paths, 2)
    assert hops.set(0, 0, 0, bytes([10, 1, 3, 3]))
    found = sum(
        hops.set(1, 0, ingress, bytes([10, 1, k, k])) for ingress in range(257) for k in range(256)
    )
    assert found == 65535
    assert hops.of(0, 0) == (0, link(3), 1400)
    hops.forget()
    assert hops.of(0, 0) is None
    assert hops.set(0, 0, 300, bytes([10, 1, 4, 4]))
    assert hops.of(0, 0) == (300, link(4), 1400)
