"""The director's side of an engine: its virtual services."""

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address

from lvscore import _engine
from lvscore._arguments import integer
from lvscore.addresses import (
    Address,
    Endpoint,
    parse_address,
    parse_endpoint,
    parse_protocol,
    protocol_name,
)
from lvscore.errors import ConfigError, DuplicateError, NotFoundError
from lvscore.integers import parse_decimal
from lvscore.model import SCHEDULER_FLAGS, SCHEDULERS, Rate, Statistics
from lvscore.services import (
    ANY_SCHEDULER_FLAGS,
    MARK,
    PERSISTENCE_ENGINES,
    Service,
    ServiceKey,
    ServiceRecord,
)

__all__ = ["Director"]

EndpointLike = str | Endpoint | tuple[str | Address, int]
NetmaskLike = str | Address | int

MAX_PERSISTENCE = 31 * 24 * 60 * 60
_PERSISTENT, _ONE_PACKET = 1, 4  # IP_VS_SVC_F_*, include/uapi/linux/ip_vs.h


class Director(_engine.EngineCore):
    """Virtual services: adding, changing, finding and removing them."""

    def add_service(
        self,
        protocol: str | int,
        address: EndpointLike,
        *,
        scheduler: str = "wlc",
        scheduler_flags: tuple[str, ...] = (),
        persistence: int | None = None,
        netmask: NetmaskLike | None = None,
        one_packet: bool = False,
        persistence_engine: str | None = None,
    ) -> Service:
        """Add a virtual service, as ``ipvsadm -A`` does.

        Args:
            protocol: ``"tcp"``, ``"udp"`` or ``"sctp"``.
            address: the virtual address and port; port 0 stands for all ports and needs
                ``persistence``.
            scheduler: one of :data:`lvscore.SCHEDULERS`.
            scheduler_flags: flags of that scheduler, see :data:`lvscore.SCHEDULER_FLAGS`.
            persistence: seconds, 1..2678400, for which a client keeps its server; ``None`` or 0:
                each connection is scheduled by itself.
            netmask: clients that are one client to persistence: a mask, or a prefix length.
            one_packet: schedule every datagram by itself, and keep no connection; UDP only.
            persistence_engine: ``"sip"``: to persistence a client is a SIP dialog, by its Call-ID;
                UDP only, other packets go by address. ``None`` or ``""``: none.

        Returns:
            A handle; :meth:`Service.add_server` adds real servers to it.

        Raises:
            DuplicateError: the service exists.
            ConfigError: an argument is not valid.
            LimitError: there are as many services as can be.
        """
        return self._put(
            self._service_key(protocol, address),
            scheduler, scheduler_flags, persistence, netmask, one_packet, persistence_engine,
        )  # fmt: skip

    def add_fwmark_service(
        self,
        mark: int,
        *,
        family: int = 4,
        scheduler: str = "wlc",
        scheduler_flags: tuple[str, ...] = (),
        persistence: int | None = None,
        netmask: NetmaskLike | None = None,
        one_packet: bool = False,
        persistence_engine: str | None = None,
    ) -> Service:
        """Add a virtual service on a firewall mark, as ``ipvsadm -A -f`` does.

        It takes packets by the mark that comes with them (``FrameBatch.mark``,
        ``process(..., mark=)``) or that a rule gives them, whatever their protocol and port.

        Args: as :meth:`add_service`; ``mark`` is in 1..4294967295, ``family`` 4 or 6.

        Raises: as :meth:`add_service`.
        """
        return self._put(
            _mark_key(mark, family),
            scheduler, scheduler_flags, persistence, netmask, one_packet, persistence_engine,
        )  # fmt: skip

    def _put(
        self,
        key: ServiceKey,
        scheduler: str,
        scheduler_flags: tuple[str, ...],
        persistence: int | None,
        netmask: NetmaskLike | None,
        one_packet: bool,
        persistence_engine: str | None,
    ) -> Service:
        service = Service(self, key)
        if self._find(key) >= 0:
            raise DuplicateError(f"service {service} already exists")
        number, flags = _scheduler(scheduler, scheduler_flags)
        options = _options(key, persistence or 0, netmask, one_packet, persistence_engine or "")
        _engine.service_join(
            self, key.family, key.protocol, key.packed, key.port, number, flags, options
        )
        return service

    def edit_service(
        self,
        protocol: str | int,
        address: EndpointLike,
        *,
        scheduler: str | None = None,
        scheduler_flags: tuple[str, ...] | None = None,
        persistence: int | None = None,
        netmask: NetmaskLike | None = None,
        one_packet: bool | None = None,
        persistence_engine: str | None = None,
    ) -> Service:
        """Change a virtual service; what is ``None`` stays as it is, ``persistence=0`` ends it.

        The scheduler starts afresh when its name changes, and only then (ip_vs_ctl.c).

        Raises:
            NotFoundError: there is no such service.
            ConfigError: an argument is not valid.
            LimitError: the scheduler is "mh", and the service has more than 4093 servers.
        """
        service = self.find_service(protocol, address)
        service.edit(
            scheduler=scheduler, scheduler_flags=scheduler_flags, persistence=persistence,
            netmask=netmask, one_packet=one_packet, persistence_engine=persistence_engine,
        )  # fmt: skip
        return service

    def _edit(
        self,
        service: Service,
        scheduler: str | None,
        scheduler_flags: tuple[str, ...] | None,
        persistence: int | None,
        netmask: NetmaskLike | None,
        one_packet: bool | None,
        persistence_engine: str | None,
    ) -> None:
        index = service._index()
        name = service.scheduler if scheduler is None else scheduler
        if scheduler_flags is None:
            scheduler_flags = service.scheduler_flags if name == service.scheduler else ()
        number, flags = _scheduler(name, scheduler_flags)
        options = _options(
            service._key,
            service.persistence if persistence is None else persistence,
            service.netmask if netmask is None else netmask,
            service.one_packet if one_packet is None else one_packet,
            service.persistence_engine if persistence_engine is None else persistence_engine,
        )
        _engine.service_update(self, index, number, flags, options)

    def remove_service(self, protocol: str | int, address: EndpointLike) -> None:
        """Remove a virtual service and its servers; its connections stay until they expire.

        Raises:
            NotFoundError: there is no such service.
        """
        self.find_service(protocol, address).remove()

    def remove_fwmark_service(self, mark: int, family: int = 4) -> None:
        """Remove the virtual service on a firewall mark, as :meth:`remove_service`."""
        self.find_fwmark_service(mark, family).remove()

    def clear_services(self) -> None:
        """Remove all virtual services, as ``ipvsadm -C`` does."""
        for index in _engine.services_all(self):
            _engine.service_leave(self, index)

    def find_service(self, protocol: str | int, address: EndpointLike) -> Service:
        """Return the service on exactly this protocol, address and port.

        Raises:
            NotFoundError: there is no such service.
        """
        return self._found(self._service_key(protocol, address))

    def find_fwmark_service(self, mark: int, family: int = 4) -> Service:
        """Return the service on a firewall mark.

        Raises:
            NotFoundError: there is no such service.
        """
        return self._found(_mark_key(mark, family))

    @property
    def services(self) -> list[Service]:
        """All virtual services, in the order of their adding."""
        result = []
        for index in _engine.services_all(self):
            record = ServiceRecord(*_engine.service_record(self, index))
            address = ip_address(record.address)
            result.append(
                Service(self, ServiceKey(record.family, record.protocol, address, record.port))
            )
        return result

    @property
    def statistics(self) -> Statistics:
        """Totals over all virtual services, also those that were removed."""
        return Statistics(*_engine.services_counts(self))

    @property
    def listed_statistics(self) -> Statistics:
        """What ``ipvsadm --stats`` lists: the counters as of the latest estimation, which comes
        every 2 s of the engine's time, less what they were at the latest ``-Z``."""
        return Statistics(*_engine.services_estimated(self)[0])

    @property
    def rate(self) -> Rate:
        """What ``ipvsadm --rate`` lists."""
        return Rate(*_engine.services_estimated(self)[1])

    def zero_statistics(self) -> None:
        """Let listings of all services and of the totals begin at 0, as
        :meth:`Service.zero_statistics`."""
        _engine.services_zeroed(self)

    def __iter__(self) -> Iterator[Service]:
        return iter(self.services)

    def _service_key(self, protocol: str | int, address: EndpointLike) -> ServiceKey:
        number = parse_protocol(protocol)
        if number not in (6, 17, 132):
            raise ConfigError(
                f"a virtual service is on tcp, udp or sctp, not on {protocol_name(number)}"
            )
        endpoint = parse_endpoint(address)
        return ServiceKey(endpoint.address.version, number, endpoint.address, endpoint.port)

    def _find(self, key: ServiceKey) -> int:
        return _engine.service_number(self, key.family, key.protocol, key.packed, key.port)

    def _found(self, key: ServiceKey) -> Service:
        service = Service(self, key)
        if self._find(key) < 0:
            raise NotFoundError(f"no service {service}")
        return service


def _mark_key(mark: int, family: int) -> ServiceKey:
    number = None if isinstance(mark, bool) else integer(mark)
    if number is None or not 1 <= number <= 0xFFFFFFFF:
        raise ConfigError(f"mark {mark!r} is not in 1..4294967295")
    if family not in (4, 6):
        raise ConfigError(f"family {family!r} is neither 4 nor 6")
    return ServiceKey(family, MARK, IPv4Address(number), 0)


def _options(
    key: ServiceKey, persistence: int, netmask: NetmaskLike | None, one_packet: bool, engine: str
) -> tuple[int, int, bytes, int]:
    """The options as the core takes them."""
    seconds = None if isinstance(persistence, bool) else integer(persistence)
    if seconds is None:
        raise ConfigError(f"persistence {persistence!r} is not a number of seconds")
    if persistence and not 1 <= persistence <= MAX_PERSISTENCE:
        raise ConfigError(f"persistence {persistence} is not in 1..{MAX_PERSISTENCE} seconds")
    if key.protocol != MARK and key.port == 0 and not persistence:
        raise ConfigError("a service on port 0 must be persistent: give persistence=SECONDS")
    if one_packet and key.protocol not in (17, MARK):
        raise ConfigError("one-packet scheduling is for udp services")
    if engine not in PERSISTENCE_ENGINES:
        raise ConfigError(f"unknown persistence engine {engine!r}: expected 'sip'")
    flags = (_PERSISTENT if persistence else 0) | (_ONE_PACKET if one_packet else 0)
    return flags, seconds, _netmask(netmask, key.family), PERSISTENCE_ENGINES.index(engine)


def _netmask(netmask: NetmaskLike | None, family: int) -> bytes:
    bits = 32 if family == 4 else 128
    if netmask is None:
        netmask = bits
    if isinstance(netmask, int):
        if not 0 <= netmask <= bits:
            raise ConfigError(f"netmask {netmask}: a prefix length is in 0..{bits}")
        return ((1 << bits) - (1 << bits - netmask)).to_bytes(bits // 8, "big")
    if isinstance(netmask, str):
        length = parse_decimal(netmask, 0, 2**32)
        if length is not None:
            return _netmask(length, family)
    mask = parse_address(netmask)
    if mask.version != family:
        raise ConfigError(f"netmask {mask} is not one of IPv{family}")
    if isinstance(mask, IPv6Address) and _prefix_length(mask.packed) is None:
        raise ConfigError(f"netmask {mask} is not a prefix, as IPv6 needs")
    return mask.packed


def _prefix_length(packed: bytes) -> int | None:
    bits = f"{int.from_bytes(packed, 'big'):0{8 * len(packed)}b}"
    length = bits.count("1")
    return length if bits.startswith("1" * length) else None


def _scheduler(name: str, flags: tuple[str, ...]) -> tuple[int, int]:
    if name not in SCHEDULERS:
        raise ConfigError(f"unknown scheduler {name!r}: expected one of {', '.join(SCHEDULERS)}")
    known: Mapping[str, int] = SCHEDULER_FLAGS.get(name, {})
    bits = 0
    if isinstance(flags, str):
        raise ConfigError(f"scheduler flags {flags!r}: expected a tuple of names")
    for flag in flags:
        if flag not in known and flag not in ANY_SCHEDULER_FLAGS:
            expected = f"expected one of {', '.join(known)}" if known else "it has none"
            raise ConfigError(f"unknown flag {flag!r} of scheduler {name}: {expected}")
        bits |= known.get(flag, 0) or ANY_SCHEDULER_FLAGS[flag]
    return SCHEDULERS[name], bits
