"""Host ports: reserved by sockets, so that the kernel arbitrates with everybody else on the machine.

The firewall sends packets for a published port to the instance before any socket sees them, yet a bound socket is
kept for each: another program that wants the port is told that it is taken, and we are told when it is taken already.
TCP sockets listen as well, because only a listening socket conflicts with another one that has SO_REUSEADDR, which we
need ourselves: connections in TIME_WAIT would block a restart otherwise. UDP has no such state and no option.

A socket bound to an IPv6 address, or to 127/8 after somebody flushed the rules, does get connections: the relay, which
holds the sockets for as long as the instance runs, passes them on.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from bireme.errors import BiremeError, Conflict, Invalid, Unsupported
from bireme.instance.driver import PortMapping
from bireme.instance.spec import PortRequest

_ANY4, _ANY6 = "0.0.0.0", "::"
_RANDOM_TRIES = 64
_BACKLOG = 4096
_IPPROTO_SCTP = 132


Taken = Iterable[Sequence[PortMapping]]


class ReservedSocket(NamedTuple):
    """A bound socket (TCP: listening) for `mapping`, to be held by the relay while the instance runs."""

    mapping: PortMapping
    socket: socket.socket
    address: str
    """The instance's, where the relay sends what arrives."""

    @property
    def fd(self) -> int:
        return self.socket.fileno()

    @property
    def protocol(self) -> str:
        return self.mapping.protocol

    @property
    def target(self) -> tuple[str, int]:
        return self.address, self.mapping.container_port

    @property
    def relay(self) -> bool:
        """Whether the relay passes on what arrives (else it only holds the socket)."""
        return self.mapping.protocol in ("tcp", "udp")

    def close(self) -> None:
        self.socket.close()


def check_requests(requests: Sequence[PortRequest]) -> None:
    """Invalid when a port, range or address cannot be; nothing is opened."""
    for request in requests:
        if request.protocol not in ("tcp", "udp", "sctp"):
            raise Invalid(f"invalid protocol: {request.protocol}", subject=request.protocol)
        if not 0 < request.container_port < 65536:
            raise Invalid(f"invalid container port: {request.container_port}", subject="port")
        end = request.host_port_end or request.host_port
        if not 0 <= request.host_port <= end < 65536 or (request.host_port_end and not request.host_port):
            raise Invalid(f"invalid host port range: {request.host_port}-{request.host_port_end}", subject="port")
        if request.host_ip and _family(request.host_ip) is None:
            raise Invalid(f"invalid IP address: {request.host_ip}", subject=request.host_ip)


def reserve(requests: Sequence[PortRequest], target_address: str, taken: Taken) -> list[ReservedSocket]:
    """A socket for every port and address asked for, or none at all.

    `taken` are the ports of other instances (for the message alone, the kernel decides). Conflict when a port is in
    use, Denied when binding is not allowed, Unsupported for a protocol the kernel lacks.
    """
    held: list[ReservedSocket] = []
    try:
        for request in requests:
            held += _reserve_one(request, target_address, taken)
    except BaseException:
        for reserved in held:
            reserved.socket.close()
        raise
    return held


def _reserve_one(request: PortRequest, target: str, taken: Taken) -> list[ReservedSocket]:
    """The first port of the range that is free on every address."""
    failure: BiremeError | None = None
    for port in _candidates(request):
        held: list[ReservedSocket] = []
        try:
            for host_ip in _addresses(request.host_ip):
                chosen = held[0].mapping.host_port if held else port
                opened = _open(request, host_ip, chosen, target, taken)
                if opened is not None:
                    held.append(opened)
        except Conflict as error:
            failure = error
            for reserved in held:
                reserved.socket.close()
            continue
        except BaseException:
            for reserved in held:
                reserved.socket.close()
            raise
        return held
    if failure is None:
        raise Conflict("no free host port", subject=str(request.container_port))
    raise failure


def _candidates(request: PortRequest) -> Iterator[int]:
    if request.host_port:
        yield from range(request.host_port, max(request.host_port_end, request.host_port) + 1)
    else:
        yield from [0] * _RANDOM_TRIES


def _addresses(host_ip: str) -> tuple[str, ...]:
    return (host_ip,) if host_ip else (_ANY4, _ANY6)


def _family(host_ip: str) -> int | None:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host_ip)
        except OSError:
            continue
        return family
    return None


def _open(request: PortRequest, host_ip: str, port: int, target: str, taken: Taken) -> ReservedSocket | None:
    """One bound socket; None for the unasked-for IPv6 twin on a host without IPv6."""
    family = _family(host_ip)
    try:
        bound = open_bound(family or socket.AF_INET, request.protocol, host_ip, port)
    except OSError as error:
        if not request.host_ip and family == socket.AF_INET6 and error.errno in _NO_IPV6:
            return None
        raise _explain(error, request, host_ip, port, target, taken) from error
    mapping = PortMapping(
        container_port=request.container_port,
        protocol=request.protocol,
        host_ip=host_ip,
        host_port=bound.getsockname()[1],
    )
    return ReservedSocket(mapping, bound, target)


_NO_IPV6 = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


def open_bound(family: int, protocol: str, host_ip: str, port: int) -> socket.socket:
    """A socket bound to host_ip:port (0 lets the kernel choose), listening for TCP and SCTP. OSError as bind(2)."""
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    bound = socket.socket(family, kind | socket.SOCK_CLOEXEC, _IPPROTO_SCTP if protocol == "sctp" else 0)
    try:
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if protocol == "tcp":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setblocking(False)
        bound.bind((host_ip, port))
        if protocol != "udp":
            bound.listen(_BACKLOG)
    except BaseException:
        bound.close()
        raise
    return bound


def _explain(error: OSError, request: PortRequest, host_ip: str, port: int, target: str, taken: Taken) -> BiremeError:
    """Docker's words for a port that cannot be had."""
    shown = f"[{host_ip}]" if ":" in host_ip else host_ip
    if error.errno == errno.EADDRINUSE and _is_ours(request.protocol, host_ip, port, taken):
        return Conflict(f"Bind for {shown}:{port} failed: port is already allocated", subject=f"{shown}:{port}")
    if error.errno in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):
        return Unsupported(f"{request.protocol} ports cannot be published: the kernel lacks the protocol")
    reason = os.strerror(error.errno or 0).lower()
    if error.errno == errno.EADDRNOTAVAIL:
        reason = "cannot assign requested address"
    text = f"failed to bind host port for {shown}:{port}:{target}:{request.container_port}/{request.protocol}: {reason}"
    return Conflict(text, subject=f"{shown}:{port}")


def _is_ours(protocol: str, host_ip: str, port: int, taken: Taken) -> bool:
    for mapping in chain.from_iterable(taken):
        if mapping.protocol != protocol or mapping.host_port != port:
            continue
        if mapping.host_ip == host_ip or {mapping.host_ip, host_ip} & {_ANY4, _ANY6}:
            return True
    return False
