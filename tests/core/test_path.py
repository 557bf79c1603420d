"""path.pxd: a small cache of where addresses lead says what is true, however many there are."""

from hypothesis import given
from hypothesis import strategies as st

from lvscore._probe_store import Paths

NEIGHBOURS = {bytes([10, 0, k, k]): bytes([2, 0, 0, 0, 1, k]) for k in range(200)}
OWN = b"\n\0\0\xfe"
ADDRESSES = st.one_of(
    st.sampled_from([*NEIGHBOURS, OWN, b"\x7f\0\0\1", b"\xe0\0\0\1", bytes(4)]),
    st.binary(min_size=4, max_size=4),
)


def truth(address):
    martian = address[0] in (0, 127) or address[0] >= 224
    inside = address[0] == 10
    return address == OWN, martian, inside, NEIGHBOURS.get(address), 1400 if inside else 0


@given(st.lists(st.one_of(st.none(), ADDRESSES), max_size=60))
def test_it_says_what_is_true(asked):
    """Also behind a clearing, and of addresses that come again and again."""
    paths = Paths(NEIGHBOURS.items(), [OWN])
    for address in asked:
        if address is None:
            paths.clear()
        else:
            assert paths.of(address) == truth(address)


def test_more_addresses_than_there_are_places():
    paths = Paths(NEIGHBOURS.items(), [OWN])
    for _ in range(2):
        for n in range(20_000):
            address = bytes([10, n >> 8 & 255, n & 255, n & 255])
            assert paths.of(address) == truth(address)


@given(st.lists(st.tuples(ADDRESSES, ADDRESSES), max_size=60))
def test_a_servers_address_together_with_a_services(asked):
    paths = Paths(NEIGHBOURS.items(), [OWN])
    for server, service in asked:
        if bytes(4) not in (server, service):
            assert paths.of_pair(server, service) == (truth(server), service == OWN)


def test_more_pairs_than_there_are_places():
    paths = Paths(NEIGHBOURS.items(), [OWN])
    for _ in range(2):
        for n in range(1, 5000):
            server, service = bytes([10, n >> 8, n & 255, n & 255]), (OWN, b"\n\0\1\1")[n & 1]
            assert paths.of_pair(server, service) == (truth(server), service == OWN)
