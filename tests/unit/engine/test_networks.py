"""What an instance's network mode means, and a host whose kernel cannot do the default network."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from bireme.engine.networks import Networks, port_requests
from bireme.engine.record import Definition, Instance
from bireme.errors import Invalid, NotFound, Unavailable, Unsupported
from bireme.instance.driver import Endpoint, PortMapping, RootFilesystem
from bireme.instance.spec import InstanceId, NetworkRequest, PortRequest
from bireme.network.driver import Published
from tests.support.engine import spec


class FakeBridge:
    """Remembers what it was asked; `broken` makes `ensure` fail as without nf_tables."""

    gateway = "10.0.0.1"

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken
        self.calls: list[tuple[Any, ...]] = []

    def ensure(self) -> None:
        if self.broken:
            raise Unavailable("this kernel has no nf_tables")

    def warnings(self) -> list[str]:
        return ["chain x drops"]

    def allocate(self, instance_id: str, address: str = "", mac: str = "") -> Endpoint:
        self.calls.append(("allocate", instance_id, address, mac))
        return Endpoint(network="bridge", bridge="b0", address=address or "10.0.0.2", prefix_len=24)

    def publish(self, instance_id: str, endpoint: Endpoint, requests: Sequence[PortRequest], name: str) -> Published:
        self.calls.append(("publish", instance_id, len(requests), name))
        return Published((PortMapping(container_port=80, protocol="tcp", host_ip="", host_port=8080),))

    def unpublish(self, instance_id: str) -> None:
        self.calls.append(("unpublish", instance_id))

    def release(self, instance_id: str) -> None:
        self.calls.append(("release", instance_id))

    def restore(self, instance_id: str, endpoint: Endpoint, ports: Sequence[PortMapping] = ()) -> None:
        self.calls.append(("restore", instance_id, endpoint.address))


async def _nothing(*_: object) -> None:
    return None


async def _fail(*_: object) -> None:
    raise Unavailable("no relay")


def instance(**settings: Any) -> Instance:
    made = spec(**{"network": NetworkRequest(name="bridge"), **settings})
    return Instance(InstanceId("1" * 64), "one", Definition(spec=made, root=RootFilesystem(lower=())), 1, "/x")


def networks(bridge: Any, hold: Any = _nothing) -> Networks:
    return Networks(bridge, hold, _nothing)


def test_modes() -> None:
    bridge = FakeBridge()
    made = networks(bridge)
    assert made.take(instance(network=NetworkRequest(name="none"))) == ()
    assert made.take(instance(network=NetworkRequest(name="host"))) == ()
    assert made.take(instance(network=NetworkRequest(name="bridge", address="10.0.0.9")))[0].address == "10.0.0.9"
    with pytest.raises(NotFound, match="network other not found"):
        made.take(instance(network=NetworkRequest(name="other")))
    assert made.take(instance(network=NetworkRequest(name="container:x"))) == ()


def test_ports_are_given_back_when_nobody_holds_them() -> None:
    bridge = FakeBridge()
    one = instance(ports=(PortRequest(container_port=80),))
    with pytest.raises(Unavailable, match="no relay"):
        asyncio.run(networks(bridge, _fail).publish(one, networks(bridge).take(one)))
    assert bridge.calls[-1] == ("unpublish", one.id)
    asyncio.run(networks(bridge).give_back(one))
    assert bridge.calls[-1] == ("release", one.id)


def test_publish_all_adds_exposed_ports_that_are_not_named() -> None:
    named = PortRequest(container_port=80, host_port=8080)
    one = instance(ports=(named,), exposed_ports=("80/tcp", "53/udp", "443"), publish_all=True)
    assert port_requests(one) == (
        named,
        PortRequest(container_port=53, protocol="udp"),
        PortRequest(container_port=443),
    )
    with pytest.raises(Invalid, match="invalid protocol"):
        port_requests(instance(exposed_ports=("80/nonsense",), publish_all=True))


def test_a_host_without_firewall_still_has_an_engine() -> None:
    made = networks(FakeBridge(broken=True))
    made.restore([])
    assert made.bridge is None
    assert "no nf_tables" in made.warnings()[0]
    with pytest.raises(Unsupported, match="no nf_tables"):
        made.check(instance())
    with pytest.raises(Unsupported, match="no nf_tables"):
        made.take(instance())


def test_running_instances_keep_their_addresses() -> None:
    bridge = FakeBridge()
    one = instance()
    one.state.endpoints = (Endpoint(network="bridge", address="10.0.0.7"),)
    made = networks(bridge)
    made.restore([one])
    assert bridge.calls == [("restore", one.id, "10.0.0.7")]
    assert made.warnings() == ("chain x drops",)
