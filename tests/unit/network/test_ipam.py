from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bireme.errors import Conflict, Invalid, Unavailable
from bireme.network.ipam import EXHAUSTED, Pool, mac_of


def pool(subnet: str = "10.1.0.0/29", gateway: str = "10.1.0.1") -> Pool:
    return Pool(ipaddress.IPv4Network(subnet), gateway, "bridge")


def test_in_order_behind_the_gateway() -> None:
    made = pool()
    assert [made.allocate(holder) for holder in "abc"] == ["10.1.0.2", "10.1.0.3", "10.1.0.4"]


def test_the_same_holder_keeps_its_address() -> None:
    made = pool()
    assert made.allocate("a") == made.allocate("a") == made.lease("a")


def test_freed_addresses_wait_until_the_pool_went_round() -> None:
    made = pool()
    made.allocate("a")
    made.release("a")
    assert [made.allocate(holder) for holder in "bcde"] == ["10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"]
    assert made.allocate("f") == "10.1.0.2"


def test_exhausted() -> None:
    made = pool()
    for holder in "abcde":
        made.allocate(holder)
    with pytest.raises(Unavailable, match=EXHAUSTED):
        made.allocate("f")
    made.release("c")
    assert made.allocate("f") == "10.1.0.4"


def test_requested_address() -> None:
    made = pool()
    assert made.allocate("a", "10.1.0.5") == "10.1.0.5"
    assert made.allocate("b") == "10.1.0.2"
    with pytest.raises(Conflict, match="Address already in use"):
        made.allocate("c", "10.1.0.5")
    with pytest.raises(Conflict):
        made.allocate("c", "10.1.0.1")
    assert made.lease("c") == ""


@pytest.mark.parametrize("address", ["10.2.0.1", "10.1.0.0", "10.1.0.7", "nonsense", "fd00::1", "10.1.0.300"])
def test_addresses_that_do_not_fit(address: str) -> None:
    with pytest.raises(Invalid):
        pool().allocate("a", address)


def test_a_holder_may_move() -> None:
    made = pool()
    made.allocate("a")
    assert made.allocate("a", "10.1.0.6") == "10.1.0.6"
    assert made.allocate("b", "10.1.0.2") == "10.1.0.2"


def test_claims_of_running_instances_come_first() -> None:
    made = pool()
    made.claim("a", "10.1.0.4")
    assert made.allocate("b") == "10.1.0.5"
    with pytest.raises(Conflict):
        made.claim("c", "10.1.0.4")


@pytest.mark.parametrize(("subnet", "gateway"), [("10.1.0.0/31", "10.1.0.1"), ("10.1.0.0/29", "10.2.0.1")])
def test_subnet_without_room(subnet: str, gateway: str) -> None:
    with pytest.raises(Invalid):
        pool(subnet, gateway)


def test_mac_is_derived_from_the_address() -> None:
    assert mac_of("172.17.0.2") == "02:42:ac:11:00:02"


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), max_size=60))
def test_never_the_same_address_twice(steps: list[tuple[str, bool]]) -> None:
    made = pool()
    held: dict[str, str] = {}
    for holder, take in steps:
        if not take:
            made.release(holder)
            held.pop(holder, None)
            continue
        try:
            held[holder] = made.allocate(holder)
        except Unavailable:
            assert len(held) == 5
    assert len(set(held.values())) == len(held)
    assert "10.1.0.1" not in held.values()
