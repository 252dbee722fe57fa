"""Reservations, on the loopback of whoever runs the tests: nobody else's ports are asked for."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from bireme.errors import Conflict, Invalid
from bireme.instance.driver import PortMapping
from bireme.instance.spec import PortRequest
from bireme.network.portmap import ReservedSocket, check_requests, reserve

TARGET = "172.17.0.2"


@contextmanager
def reserved(*requests: PortRequest, taken: Sequence[Sequence[PortMapping]] = ()) -> Iterator[list[ReservedSocket]]:
    held = reserve(requests, TARGET, taken)
    try:
        yield held
    finally:
        for one in held:
            one.close()


def local(host_port: int = 0, **more: object) -> PortRequest:
    return PortRequest(container_port=80, host_ip="127.0.0.1", host_port=host_port, **more)  # type: ignore[arg-type]


def test_any_address_takes_the_same_port_for_both_families() -> None:
    with reserved(PortRequest(container_port=80)) as held:
        ports = {one.mapping.host_port for one in held}
        assert len(ports) == 1
        addresses = [one.mapping.host_ip for one in held]
        assert addresses in (["0.0.0.0", "::"], ["0.0.0.0"])
        assert held[0].target == (TARGET, 80)
        assert held[0].relay


def test_chosen_ports_differ() -> None:
    with reserved(local(), local(), local(protocol="udp")) as held:
        assert len({(one.protocol, one.mapping.host_port) for one in held}) == 3


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_port_can_be_had_once(protocol: str) -> None:
    with reserved(local(protocol=protocol)) as held:
        port = held[0].mapping.host_port
        with pytest.raises(Conflict, match=rf"failed to bind host port for 127.0.0.1:{port}:{TARGET}:80/{protocol}"):
            reserve([local(port, protocol=protocol)], TARGET, ())
        with pytest.raises(Conflict, match=rf"Bind for 127.0.0.1:{port} failed: port is already allocated"):
            reserve([local(port, protocol=protocol)], TARGET, [[one.mapping for one in held]])
    with reserved(local(port, protocol=protocol)):
        pass


def test_the_wildcard_conflicts_with_an_address() -> None:
    with reserved(local()) as held:
        port = held[0].mapping.host_port
        with pytest.raises(Conflict):
            reserve([PortRequest(container_port=80, host_ip="0.0.0.0", host_port=port)], TARGET, ())


def test_others_with_reuse_address_are_refused_too() -> None:
    with reserved(local()) as held, socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", held[0].mapping.host_port))


def test_range_takes_the_first_free_one() -> None:
    with reserved(local()) as held:
        port = held[0].mapping.host_port
        with reserved(local(port, host_port_end=min(port + 100, 65535))) as second:
            assert port < second[0].mapping.host_port <= port + 100


def test_all_or_nothing() -> None:
    with reserved(local()) as held:
        taken = held[0].mapping.host_port
        with pytest.raises(Conflict):
            reserve([local(protocol="udp"), local(taken)], TARGET, ())


def test_address_of_somebody_else() -> None:
    request = PortRequest(container_port=80, host_ip="192.0.2.77", host_port=8080)
    with pytest.raises(Conflict, match="cannot assign requested address"):
        reserve([request], TARGET, ())


@pytest.mark.parametrize(
    "request_",
    [
        PortRequest(container_port=0),
        PortRequest(container_port=65536),
        PortRequest(container_port=80, host_port=-1),
        PortRequest(container_port=80, host_port=70000),
        PortRequest(container_port=80, host_port=9000, host_port_end=8000),
        PortRequest(container_port=80, host_port_end=8000),
        PortRequest(container_port=80, host_ip="nonsense"),
        PortRequest(container_port=80, protocol="icmp"),  # type: ignore[arg-type]
    ],
)
def test_requests_that_cannot_be(request_: PortRequest) -> None:
    with pytest.raises(Invalid):
        check_requests([request_])
