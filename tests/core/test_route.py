"""route.pxd: prefixes against ipaddress, and the set of local addresses against a model."""

import random
from collections import Counter
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from hypothesis import given
from hypothesis import strategies as st

from lvscore import _probe


@given(st.integers(0, 2**32 - 1), st.integers(0, 32), st.integers(0, 31), st.integers(0, 2**32 - 1))
def test_ipv4_prefixes(network, length, bit, noise):
    prefix = IPv4Network((network, length), strict=False)
    for address in (noise, network, network ^ 1 << bit):
        expected = IPv4Address(address) in prefix
        packed = IPv4Address(address).packed
        assert _probe.prefix_match(prefix.network_address.packed, length, packed) == expected


@given(st.integers(0, 2**128 - 1), st.integers(0, 128), st.integers(0, 127))
def test_ipv6_prefixes(network, length, bit):
    prefix = IPv6Network((network, length), strict=False)
    for address in (network, network ^ 1 << bit):
        expected = IPv6Address(address) in prefix
        packed = IPv6Address(address).packed
        assert _probe.prefix_match(prefix.network_address.packed, length, packed) == expected


def test_local_addresses_are_counted():
    random_ = random.Random(3)
    addresses = [random_.randbytes(random_.choice([4, 16])) for _ in range(200)]
    # The same first bytes in both families are two addresses.
    addresses += [bytes(16), bytes(4), b"\x0a\0\0\1", b"\x0a\0\0\1" + bytes(12)]
    locals_ = _probe.Locals()
    model = Counter()
    for _ in range(5000):
        address = random_.choice(addresses)
        if random_.random() < 0.55:
            assert locals_.add(address)
            model[address] += 1
        else:
            locals_.remove(address)
            model[address] = max(0, model[address] - 1)
        probe = random_.choice(addresses)
        assert (probe in locals_) == (model[probe] > 0)
    for address in addresses:
        assert (address in locals_) == (model[address] > 0)
