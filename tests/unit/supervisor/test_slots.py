"""Slots: numbers that never come back, places that do, tear-down in idle time."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any, cast

import pytest

from bireme.errors import Conflict, NotFound, Unavailable
from bireme.supervisor.slots import UID_RANGE, Places, Slots
from tests.support.faketools import FakeKeeper

if TYPE_CHECKING:
    from collections.abc import Iterator


class FakeCgroups:
    """The part of a cgroup manager that slots use; `busy` names cannot be removed yet."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.busy: set[str] = set()
        self.killed: list[str] = []
        self.refuse = False

    def create(self, name: str) -> None:
        if self.refuse:
            raise Conflict("no")
        self.made.append(name)

    def remove(self, name: str) -> bool:
        if name in self.busy:
            return False
        self.made.remove(name)
        return True

    def kill(self, name: str, _signum: int, wait_s: float) -> bool:
        if name not in self.made:
            raise NotFound(name)
        self.killed.append(name)
        return True

    def list(self) -> list[str]:
        return sorted(self.made)


@pytest.fixture
def cgroups() -> FakeCgroups:
    return FakeCgroups()


@pytest.fixture
def keeper() -> FakeKeeper:
    return FakeKeeper()


@pytest.fixture
def slots(cgroups: FakeCgroups, keeper: FakeKeeper) -> Iterator[Slots]:
    made = Slots(cast("Any", keeper))
    made.configure(cast("Any", cgroups), 1_000_000)
    yield made
    made.close_namespaces()


def test_places_are_the_smallest_free_numbers() -> None:
    places = Places()
    assert [places.take() for _ in range(4)] == [0, 1, 2, 3]
    places.give_back(2)
    places.give_back(0)
    places.give_back(0)
    places.give_back(77)
    assert [places.take() for _ in range(3)] == [0, 2, 4]


def test_claimed_places_are_not_given_out() -> None:
    places = Places()
    places.claim(1)
    places.claim(3)
    assert [places.take() for _ in range(3)] == [0, 2, 4]
    places.give_back(3)
    assert places.take() == 3


def test_a_place_of_several_is_free_when_all_gave_it_back() -> None:
    places = Places()
    assert places.take() == 0
    places.claim(0)
    places.give_back(0)
    assert places.take() == 1
    places.give_back(0)
    assert places.take() == 0


def test_cgroups_below_a_parent_have_a_name_of_ours(cgroups: FakeCgroups, keeper: FakeKeeper) -> None:
    made = Slots(cast("Any", keeper))
    made.configure(cast("Any", cgroups), 1_000_000, "bireme-ab")
    slot = made.make("cold", parent="/a/b")
    assert slot.cgroup == f"/a/b/bireme-ab-{slot.number}"
    assert made.make("cold", parent="/").cgroup == f"/bireme-ab-{slot.number + 1}"
    made.close_namespaces()


def test_a_slot_keeps_the_range_it_shares(slots: Slots) -> None:
    target, joiner = slots.make("none"), slots.make("cold")
    slots.places.claim(target.place)
    joiner.range_place = target.place
    slots.dispose(target)
    other = slots.make("none")
    assert other.uid_base not in (target.uid_base, joiner.uid_base)
    slots.dispose(joiner)
    assert slots.make("none").uid_base == target.uid_base
    slots.dispose(other)


def test_ranges_of_live_slots_never_overlap(slots: Slots) -> None:
    alive = [slots.make("none") for _ in range(5)]
    slots.dispose(alive.pop(2))
    alive.append(slots.make("none"))
    bases = sorted(slot.uid_base for slot in alive)
    assert all(b - a >= UID_RANGE for a, b in itertools.pairwise(bases))
    assert len({slot.number for slot in alive}) == 5
    for slot in alive:
        slots.dispose(slot)


def test_numbers_go_on_after_those_of_a_predecessor(slots: Slots) -> None:
    slots.pass_number(41)
    slots.pass_number(7)
    slot = slots.make("none")
    assert slot.number == 42
    slots.dispose(slot)


def test_dispose_closes_everything_and_the_keeper_forgets(
    slots: Slots, keeper: FakeKeeper, cgroups: FakeCgroups
) -> None:
    slot = slots.make("none")
    keeper.hold(slot.to_hold())
    assert set(keeper.held) == {"slot/1/stdout", "slot/1/stderr"}
    ends = [slot.out_read, slot.out_write, slot.err_read, slot.err_write]
    slots.dispose(slot)
    assert keeper.held == {}
    for fd in ends:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)
    assert cgroups.made == ["s1"]
    while slots.tidy():
        pass
    assert cgroups.made == []
    assert slots.backlog == 0


def test_a_place_is_kept_while_output_flows(slots: Slots) -> None:
    slot = slots.make("none")
    slots.dispose(slot, keep_place=True)
    other = slots.make("none")
    assert other.place != slot.place
    slots.places.give_back(slot.place)
    assert slots.make("none").place == slot.place


def test_a_busy_cgroup_is_retried_and_what_stays_in_it_killed(slots: Slots, cgroups: FakeCgroups) -> None:
    slot = slots.make("none")
    cgroups.busy.add("s1")
    slots.dispose(slot)
    for _ in range(5):
        while slots.tidy():
            pass
        assert slots.stuck
        slots.retry()
    assert cgroups.killed
    cgroups.busy.clear()
    while slots.tidy():
        pass
    assert cgroups.made == []
    assert not slots.stuck


def test_a_backlog_is_worked_off_without_idle_time(slots: Slots, cgroups: FakeCgroups) -> None:
    for _ in range(200):
        slots.dispose(slots.make("none"))
    assert len(cgroups.made) < 80


def test_a_slot_that_cannot_be_made_leaves_nothing(slots: Slots, cgroups: FakeCgroups, keeper: FakeKeeper) -> None:
    cgroups.refuse = True
    with pytest.raises(Conflict):
        slots.make("none")
    assert keeper.held == {}
    cgroups.refuse = False
    assert slots.make("none").place == 0


def test_leftovers_are_removed_and_the_living_stay(slots: Slots, cgroups: FakeCgroups) -> None:
    cgroups.made = ["other", "s3", "s8", "sx"]
    slots.remove_leftovers(["s3"])
    while slots.tidy():
        pass
    assert cgroups.made == ["other", "s3", "sx"]
    assert cgroups.killed == ["s8"]
    assert slots.make("none").number == 9


def test_nothing_without_configuration(keeper: FakeKeeper) -> None:
    bare = Slots(cast("Any", keeper))
    assert not bare.configured
    with pytest.raises(Unavailable):
        bare.make("none")
