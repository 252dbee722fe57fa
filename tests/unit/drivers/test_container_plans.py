"""A plan made at create is the plan of the start, or is made anew."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bireme.drivers.container.config import Host, check, plan_instance
from bireme.drivers.container.plans import KEPT, Plans
from bireme.instance.driver import Endpoint, Placement, RootFilesystem
from bireme.instance.spec import DeviceRequest, InstanceId, InstanceSpec, ProcessSpec, Security

HOST = Host()
ENDPOINT = Endpoint(network="bridge", bridge="br0", address="10.0.0.2", prefix_len=24, gateway="10.0.0.1")


def placement(number: int = 0, **fields: Any) -> Placement:
    return Placement(
        id=InstanceId(f"{number:064x}"),
        name="name",
        spec=InstanceSpec(image="x", process=ProcessSpec(args=("true",)), **fields),
        root=RootFilesystem(lower=("/lower",), upper="/upper", work="/work"),
        directory="/nowhere",
        hostname="host",
        files=(("/nowhere/hosts", "/etc/hosts"),),
    )


def kept(*placements: Placement) -> Plans:
    plans = Plans()
    for one in placements:
        plans.keep(one, check(one, HOST))
    return plans


@pytest.mark.parametrize("endpoints", [(), (ENDPOINT,)])
def test_it_is_what_would_be_planned_at_the_start(endpoints: tuple[Endpoint, ...]) -> None:
    starting = msgspec.structs.replace(placement(), endpoints=endpoints)
    plans = kept(placement())
    assert plans.take(starting) == plan_instance(starting, HOST)
    assert plans.take(starting) is None  # one start each


def test_another_placement_has_no_plan() -> None:
    assert kept(placement()).take(msgspec.structs.replace(placement(), hostname="other")) is None
    assert kept(placement()).take(placement(1)) is None


@pytest.mark.parametrize(
    "fields",
    [{"security": Security(privileged=True)}, {"devices": (DeviceRequest(host_path="/dev/null", path="/dev/x"),)}],
)
def test_what_depends_on_devices_is_looked_up_again(fields: dict[str, Any]) -> None:
    one = placement(**fields)
    assert kept(one).take(one) is None


def test_the_oldest_go() -> None:
    many = [placement(number) for number in range(KEPT + 1)]
    plans = kept(*many)
    assert plans.take(many[0]) is None
    assert plans.take(many[1]) is not None
