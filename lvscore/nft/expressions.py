"""The expressions of a rule: matches, counter, what it does."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from lvscore.addresses import Address, AddressRange, PortRange
from lvscore.integers import parse_unsigned
from lvscore.model import Mark
from lvscore.nft.model import Action, Match, NftRule, Span, protocol_number
from lvscore.nft.parser import Parser
from lvscore.nft.scanner import Token

__all__ = ["Expressions"]

_ADDRESSES = ("saddr", "daddr")
_TRANSPORTS = ("tcp", "udp", "sctp", "th")
_PORTS = ("sport", "dport")
_VERDICTS = ("accept", "return")
_TRANSLATIONS = ("dnat", "snat", "masquerade", "redirect")
_FLAGS = ("random", "fully-random", "persistent")
_WORDS = {"and": "&", "or": "|", "xor": "^"}
_ALL = 0xFFFFFFFF


class Expressions(Parser):
    """The part of the parser that reads rules."""

    def rule(self, family: str) -> NftRule:
        """Read a rule to its end of line, ``;`` or ``}``."""
        begin = self.peek()
        matches: list[Match] = []
        action: Action | None = None
        counter: tuple[int, int] | None = None
        comment = ""
        while not self.at_end():
            token = self.next()
            if token.text == "comment" and token.kind == "word":
                comment = self.string("a comment")
                if not self.at_end():
                    self.unexpected(self.peek())
                break
            if action is not None:
                self.fail(
                    token, f"{token.text!r} behind {action.name}: one action ends a rule here"
                )
            if token.text == "counter":
                if counter is not None:
                    self.fail(token, "a rule has one counter here")
                counter = self._counter()
                continue
            action = self._action(token, family)
            if action is None:
                if counter is not None:
                    self.fail(token, "counter stands behind the matches here")
                matches.append(self._match(token, family))
        if action is None:
            self.fail(begin, "a rule without verdict is not available", self.last)
        return NftRule(tuple(matches), action, counter, comment)

    def _counter(self) -> tuple[int, int]:
        if self.peek().text != "packets":
            return 0, 0
        self.next()
        packets = self.number("a number of packets")
        self.expect("bytes")
        return packets, self.number("a number of bytes")

    # What a rule does

    def _action(self, token: Token, family: str) -> Action | None:
        """The action that begins here, None if it is a match."""
        if token.text in _VERDICTS:
            return Action(token.text)
        if token.text in ("drop", "reject", "queue", "jump", "goto", "log", "continue", "notrack"):
            self.fail(token, f"{token.text} is not available")
        if token.text in _TRANSLATIONS:
            return self._translation(token.text, family)
        mark = token
        if token.text == "meta" and self.peek().text == "mark":
            mark = self.next()
        if mark.text == "mark" and self.peek().text == "set":
            self.next()
            return Action("mark", mark=self._new_mark())
        if mark is not token:
            self.back()
        return None

    def _translation(self, name: str, family: str) -> Action:
        told = {"ip": 4, "ip6": 6}.get(self.peek().text, 0)
        if told:
            self.next()
        prefix = self.peek().text == "prefix" and name in ("dnat", "snat")
        if prefix:
            self.next()
        addresses, ports = None, None
        if self.peek().text == "to":
            self.next()
            addresses, ports = self._target(name)
        elif name in ("dnat", "snat"):
            if self.at_end():
                self.unexpected(self.peek())
            addresses, ports = self._target(name)
        if addresses is not None:
            version = addresses.first.version
            here = told or {"ip": 4, "ip6": 6}.get(family, version)
            if version != here:
                self.fail(self.last, f"an address of IPv{version} in a rule of IPv{here}")
        flags = self._flags()
        if "random" in flags and "fully-random" in flags:
            self.fail(self.last, "random and fully-random exclude each other here")
        if "fully-random" in flags and name in ("dnat", "redirect"):
            self.fail(self.last, f"fully-random is not available with {name}: random is")
        if "persistent" in flags and name in ("masquerade", "redirect"):
            self.fail(self.last, f"persistent is not available with {name}: it has one address")
        return Action(
            name,
            addresses,
            ports,
            prefix,
            random="fully-random" if "fully-random" in flags else "random" * ("random" in flags),
            persistent="persistent" in flags,
            family=told,
        )

    def _flags(self) -> set[str]:
        flags: set[str] = set()
        while not self.at_end() and self.peek().text in _FLAGS:
            flags.add(self.next().text)
            if self.peek().text != ",":
                break
            self.next()
            if self.peek().text not in _FLAGS:
                self.unexpected(self.peek())
        return flags

    def _target(self, name: str) -> tuple[AddressRange | None, PortRange | None]:
        """``1.2.3.4-1.2.3.9:80-90``, ``[::1]:80``, ``:80``, ``10.0.0.0/24``."""
        token = self.word("an address or a port")
        host, ports = self._split(token)
        if name in ("masquerade", "redirect"):
            if host and ports is None and name == "redirect":
                return None, self._port_range(token, host)
            if host or ports is None:
                self.fail(token, f"{name} takes a port alone, as :80")
            return None, self._port_range(token, ports)
        if not host:
            self.fail(token, f"{name} to a port without an address is not available")
        first, dash, last = host.partition("-")
        if "/" in host:
            try:
                network = ip_network(host, strict=False)
            except ValueError:
                self.fail(token, f"{host!r} is not a prefix")
            addresses = AddressRange(network[0], network[-1])
        else:
            low = self._address(token, first.strip("[]"))
            high = self._address(token, last.strip("[]")) if dash else low
            if low.version != high.version or int(low) > int(high):
                self.fail(token, "Range has zero or negative size")
            addresses = AddressRange(low, high)
        return addresses, None if ports is None else self._port_range(token, ports)

    def _split(self, token: Token) -> tuple[str, str | None]:
        """The addresses and the ports of a target."""
        text = token.text
        if text.startswith("["):
            host, bracket, rest = text.rpartition("]")
            if not bracket or (rest and not rest.startswith(":")):
                self.unexpected(token)
            return host + bracket, rest[1:] if rest else None
        if text.startswith(":") and not text.startswith("::"):
            return "", text[1:]
        if text.count(":") == 1:
            host, _, ports = text.partition(":")
            return host, ports
        return text, None

    def _port_range(self, token: Token, text: str) -> PortRange:
        span = self._port_span(token, text)
        if span.low == 0:
            self.fail(token, "port 0 cannot be translated to")
        return PortRange(span.low, span.high)

    def _new_mark(self) -> Mark:
        """``5``, ``meta mark | 0x10``, ``mark and 0xff0f xor 0x10``: clear bits, toggle bits."""
        if self.peek().text == "meta":
            self.next()
            self.expect("mark")
        elif self.peek().text == "mark":
            self.next()
        else:
            return Mark(self._bits(), _ALL)
        keep, toggle = _ALL, 0
        steps = 0
        while (sign := _WORDS.get(self.peek().text, self.peek().text)) in ("&", "|", "^"):
            self.next()
            bits = self._bits()
            if sign == "&":
                keep, toggle = keep & bits, toggle & bits
            elif sign == "|":
                keep, toggle = keep & ~bits & _ALL, toggle & ~bits | bits
            else:
                toggle ^= bits
            steps += 1
        if not steps:
            self.unexpected(self.peek())
        return Mark(toggle, ~keep & _ALL)

    def _bits(self) -> int:
        token = self.word("a mark")
        return self._mark_value(token, token.text)

    # What it is for

    def _match(self, token: Token, family: str) -> Match:
        key = self._key(token, family)
        mask = None
        negated = False
        if key == "meta mark" and _WORDS.get(self.peek().text, self.peek().text) == "&":
            self.next()
            mask = self._bits()
            if self.peek().text not in ("==", "!="):
                self.unexpected(self.peek())
        if self.peek().text in ("==", "!="):
            negated = self.next().text == "!="
        if self.peek().text in ("<", ">", "<=", ">="):
            self.fail(self.peek(), f"{self.peek().text} is not available")
        if self.peek().kind == "word" and (
            self.peek().text == "vmap" or self.peek().text.startswith(("@", "$"))
        ):
            self.fail(self.peek(), f"{self.peek().text} is not available")
        if self.peek().text != "{":
            return Match(key, (self._value(key),), negated, mask=mask)
        if mask is not None:
            self.fail(self.peek(), "a set of masked marks is not available")
        spans = self._set(key)
        if len(spans) > 1:
            spans = _ordered(spans, key)
        return Match(key, spans, negated, is_set=len(spans) > 1)

    def _key(self, token: Token, family: str) -> str:
        """What is matched; the words that say so are taken."""
        word = token.text
        following = self.peek().text
        if word in ("ip", "ip6") and following in _ADDRESSES:
            if family in ("ip", "ip6") and family != word:
                self.fail(
                    token, f"conflicting protocols specified: {family} vs. {word}", self.peek()
                )
            return f"{word} {self.next().text}"
        if word == "ip" and following == "protocol" and family != "ip6":
            self.next()
            return "ip protocol"
        if word in _TRANSPORTS and following in _PORTS:
            return f"{word} {self.next().text}"
        if word == "meta" and following in ("l4proto", "mark"):
            return f"meta {self.next().text}"
        if word == "meta" and following in ("iifname", "oifname"):
            return self.next().text
        if word in ("iifname", "oifname"):
            return word
        if word == "mark":
            return "meta mark"
        if token.kind != "word":
            self.unexpected(token)
        name = f"{word} {following}" if self.peek().kind == "word" else word
        return self.fail(token, f"{name!r} is not available")

    def _set(self, key: str) -> tuple[Span, ...]:
        self.next()
        spans: list[Span] = []
        while True:
            self.skip_newlines()
            if self.peek().text == "}" and spans:
                break
            spans.append(self._value(key))
            self.skip_newlines()
            if self.peek().text == ",":
                self.next()
            elif self.peek().text != "}":
                self.unexpected(self.peek())
        self.next()
        return tuple(dict.fromkeys(spans))

    def _value(self, key: str) -> Span:
        token = self.next() if self.peek().kind == "string" else self.word("a value")
        if key in ("iifname", "oifname"):
            return self._interface(token)
        if token.kind == "string":
            self.unexpected(token)
        if key.split()[0] in ("ip", "ip6") and key != "ip protocol":
            return self._address_span(token, 4 if key.startswith("ip ") else 6)
        if key == "meta mark":
            value = self._mark_value(token, token.text)
            return Span(value, value)
        if key in ("meta l4proto", "ip protocol"):
            number = protocol_number(token.text)
            if number is None:
                self.fail(token, "Could not resolve protocol name")
            return Span(number, number)
        return self._port_span(token, token.text)

    def _interface(self, token: Token) -> Span:
        name = token.text
        if not name or len(name) > 15 or "/" in name or name == "*" or name.endswith("+"):
            self.fail(token, f"{name!r} is not a name of interfaces")
        return Span(name=name)

    def _address(self, token: Token, text: str) -> Address:
        try:
            return ip_address(text)
        except ValueError:
            self.fail(token, f"{text!r} is not an address")

    def _address_span(self, token: Token, version: int) -> Span:
        text = token.text
        if "/" in text:
            try:
                network = ip_network(text, strict=False)
            except ValueError:
                self.fail(token, f"{text!r} is not a prefix")
            first, last, length = network[0], network[-1], network.prefixlen
            found: tuple[Address, Address, int | None] = first, last, length
            if length == network.max_prefixlen:
                found = first, last, None
        elif "-" in text:
            head, _, tail = text.partition("-")
            found = self._address(token, head), self._address(token, tail), -1
        else:
            found = self._address(token, text), self._address(token, text), None
        low, high, size = found
        if low.version != version or high.version != version:
            self.fail(token, f"{text!r} is not an address of IPv{version}")
        if int(low) > int(high):
            self.fail(token, "Range has zero or negative size")
        return Span(int(low), int(high), size)

    def _port_span(self, token: Token, text: str) -> Span:
        head, dash, tail = text.partition("-")
        low = self._port(token, head)
        high = self._port(token, tail) if dash else low
        if low > high:
            self.fail(token, "Range has zero or negative size")
        return Span(low, high, -1 if dash else None)

    def _port(self, token: Token, text: str) -> int:
        number = parse_unsigned(text, _ALL)
        if number is not None and number > 0xFFFF:
            self.fail(token, "Service out of range")
        if number is not None:
            return number
        try:
            return socket.getservbyname(text)
        except (OSError, ValueError):
            self.fail(token, f"Could not resolve service: {text!r}")

    def _mark_value(self, token: Token, text: str) -> int:
        number = parse_unsigned(text, _ALL)
        if number is None:
            self.fail(token, f"{text!r} is not a mark of 0..0xffffffff")
        return number


def _ordered(spans: tuple[Span, ...], key: str) -> tuple[Span, ...]:
    """A set as nft lists it: ascending, and with ranges in it what touches joined."""
    if key in ("iifname", "oifname"):
        return tuple(sorted(spans, key=lambda span: span.name))
    found = sorted(spans, key=lambda span: (span.low, span.high))
    if all(span.length is None for span in found):
        return tuple(found)
    joined = [found[0]]
    for span in found[1:]:
        before = joined[-1]
        if span.low > before.high + 1:
            joined.append(span)
        elif span.high > before.high or span.low <= before.high:
            joined[-1] = Span(before.low, max(before.high, span.high), -1)
        else:
            joined[-1] = Span(before.low, span.high, -1)
    return tuple(_as_prefix(span, key) for span in joined)


def _as_prefix(span: Span, key: str) -> Span:
    """A range of addresses that is one prefix, as that; of one value, as a value."""
    if span.low == span.high:
        return Span(span.low, span.high)
    if key.split()[-1] not in _ADDRESSES:
        return Span(span.low, span.high, -1)
    width = 32 if key.startswith("ip ") else 128
    kind = IPv4Address if width == 32 else IPv6Address
    length = width - (span.low ^ span.high).bit_length()
    whole = ip_network((kind(span.low), length), strict=False)
    if (int(whole[0]), int(whole[-1])) == (span.low, span.high):
        return Span(span.low, span.high, length)
    return Span(span.low, span.high, -1)
