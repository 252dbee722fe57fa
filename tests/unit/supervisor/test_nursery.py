"""The pool: refill, claims, deaths, rest after failures, shrinking; with a nursery that does what the test says."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, cast

import pytest

from bireme.errors import Conflict, Unavailable
from bireme.linux import fd as fdlib
from bireme.runtime.sync import StartFailed
from bireme.supervisor.nursery import Pool, as_failure, base36, failure
from bireme.supervisor.slots import Slot
from tests.support.faketools import ManualLoop

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Sequence

BRIDGE: Any = {"name": "eth0", "bridge": "br0", "address": "", "prefix_len": 0, "gateway": "", "mac": "", "mtu": 1500}


class FakeSlots:
    """Slots without a kernel."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)
        self.disposed: list[int] = []
        self.refuse = False

    def make(self, kind: str) -> Slot:
        if self.refuse:
            raise Conflict("no more")
        number = next(self.numbers)
        return Slot(number, number, kind, 1000 * number)

    def dispose(self, slot: Slot) -> None:
        self.disposed.append(slot.number)
        if slot.ctl is not None:
            slot.ctl.close()
            slot.ctl = None


class FakeNursery:
    """Births that end when the test says how."""

    def __init__(self) -> None:
        self.births: list[tuple[Slot, Callable[[Slot, Any], None]]] = []
        self.batches: list[int] = []
        self.interfaces: list[int] = []
        self.others: list[socket.socket] = []

    def spawn_spares(self, slots: Sequence[Slot], interfaces: Sequence[Any], done: Callable[[Slot, Any], None]) -> None:
        self.batches.append(len(slots))
        for slot in slots:
            self.births.append((slot, done))
            self.interfaces.append(len(interfaces))

    def finish(self, error: Exception | None = None) -> Slot:
        slot, done = self.births.pop(0)
        if error is None:
            slot.ctl, other = fdlib.seqpacket_pair()
            self.others.append(other)
            slot.ready = True
        done(slot, error)
        return slot


class Yard:
    def __init__(self, shrink_after_s: float = 1e9) -> None:
        self.loop = ManualLoop()
        self.slots = FakeSlots()
        self.nursery = FakeNursery()
        self.pool = Pool(
            cast("Any", self.loop), cast("Any", self.nursery), cast("Any", self.slots), shrink_after_s=shrink_after_s
        )

    def fill(self) -> None:
        while self.pool.refill():
            self.nursery.finish()

    def close(self) -> None:
        self.pool.discard_all()
        for sock in self.nursery.others:
            sock.close()


@pytest.fixture
def yard() -> Iterator[Yard]:
    made = Yard()
    yield made
    made.close()


@pytest.mark.parametrize(("number", "text"), [(0, "0"), (35, "z"), (36, "10"), (36**3 - 1, "zzz")])
def test_base36(number: int, text: str) -> None:
    assert base36(number) == text


def test_nothing_is_made_before_it_is_wanted(yard: Yard) -> None:
    assert not yard.pool.refill()
    assert yard.pool.claim("none", "") is None


def test_one_spare_at_a_time_until_there_are_enough(yard: Yard) -> None:
    yard.pool.configure({"none": 3, "bridge": 2}, BRIDGE)
    assert yard.pool.refill()
    assert len(yard.nursery.births) == 1
    yard.nursery.finish()
    yard.fill()
    assert (yard.pool.ready("none"), yard.pool.ready("bridge")) == (3, 2)
    assert yard.nursery.interfaces == [0, 0, 0, 1, 1]
    assert not yard.pool.refill()


def test_no_bridge_no_spares_for_it(yard: Yard) -> None:
    yard.pool.configure({"none": 0, "bridge": 2}, None)
    assert not yard.pool.refill()
    yard.pool.configure({"none": 0, "bridge": 2}, BRIDGE)
    yard.fill()
    assert yard.pool.claim("bridge", "other") is None
    claimed = yard.pool.claim("bridge", "br0")
    assert claimed is not None
    yard.slots.dispose(claimed)
    yard.pool.configure({"none": 0, "bridge": 2}, {**BRIDGE, "mtu": 1400})
    assert yard.pool.ready("bridge") == 0


def test_the_oldest_is_claimed_and_several_are_made_when_few_are_left(yard: Yard) -> None:
    yard.pool.configure({"none": 8, "bridge": 0}, None)
    yard.fill()
    yard.nursery.batches.clear()
    claimed = [yard.pool.claim("none", "") for _ in range(4)]
    assert [slot.number for slot in claimed if slot] == [1, 2, 3, 4]
    yard.loop.fire()
    assert yard.nursery.batches == []
    claimed += [yard.pool.claim("none", "") for _ in range(2)]
    assert yard.nursery.batches == [], "the start comes first"
    yard.loop.fire()
    assert yard.nursery.batches == [4]
    for slot in claimed:
        assert slot is not None
        yard.slots.dispose(slot)


def test_in_a_busy_time_nothing_is_made_while_half_are_left(yard: Yard) -> None:
    yard.pool.configure({"none": 4, "bridge": 0}, None)
    yard.fill()
    claimed = yard.pool.claim("none", "")
    assert claimed is not None
    assert not yard.pool.refill()
    woken = yard.loop.idle_wakes
    yard.loop.fire()
    assert yard.loop.idle_wakes == woken + 1
    yard.slots.dispose(claimed)


def test_one_on_its_way_can_be_claimed(yard: Yard) -> None:
    yard.pool.configure({"none": 1, "bridge": 0}, None)
    yard.pool.refill()
    slot = yard.pool.claim("none", "")
    assert slot is not None
    assert not slot.ready
    seen: list[Any] = []
    yard.pool.when_ready(slot, lambda born, error: seen.append((born.number, error)))
    yard.nursery.finish()
    assert seen == [(1, None)]
    assert yard.pool.ready("none") == 0
    yard.slots.dispose(slot)


def test_one_that_is_claimed_and_fails_is_the_claimant_s(yard: Yard) -> None:
    yard.pool.configure({"none": 1, "bridge": 0}, None)
    yard.pool.refill()
    slot = yard.pool.claim("none", "")
    assert slot is not None
    seen: list[Any] = []
    yard.pool.when_ready(slot, lambda born, error: seen.append(error))
    error = Unavailable("died")
    yard.nursery.finish(error)
    assert seen == [error]
    assert yard.slots.disposed == []


def test_a_spare_that_dies_is_replaced(yard: Yard) -> None:
    yard.pool.configure({"none": 2, "bridge": 0}, None)
    yard.fill()
    (fd, callback), *_ = yard.loop.callbacks.items()
    callback(0)
    assert yard.slots.disposed == [1]
    assert fd not in yard.loop.callbacks
    assert yard.pool.ready("none") == 1
    yard.fill()
    assert yard.pool.ready("none") == 2


def test_after_failures_the_pool_rests_then_tries_again(yard: Yard) -> None:
    yard.pool.configure({"none": 2, "bridge": 0}, None)
    for _ in range(3):
        assert yard.pool.refill()
        yard.nursery.finish(Unavailable("no"))
    assert not yard.pool.refill()
    assert len(yard.slots.disposed) == 3
    wakes = yard.loop.idle_wakes
    yard.loop.fire()
    assert yard.loop.idle_wakes > wakes


def test_a_slot_that_cannot_be_made_is_a_failure_too(yard: Yard) -> None:
    yard.pool.configure({"none": 2, "bridge": 0}, None)
    yard.slots.refuse = True
    for _ in range(4):
        assert not yard.pool.refill()
    assert yard.pool.claim("none", "") is None


def test_quiet_leaves_one_of_a_kind() -> None:
    yard = Yard(shrink_after_s=0.0)
    yard.pool.configure({"none": 6, "bridge": 1}, BRIDGE)
    for _ in range(6):
        yard.pool._build("none")
        yard.nursery.finish()
    yard.pool._build("bridge")
    yard.nursery.finish()
    assert yard.pool.ready("none") == 6
    yard.loop.fire()
    assert (yard.pool.ready("none"), yard.pool.ready("bridge")) == (1, 1)
    assert not yard.pool.refill()
    yard.close()


def test_at_the_end_everything_goes_also_what_arrives_late(yard: Yard) -> None:
    yard.pool.configure({"none": 3, "bridge": 0}, None)
    for _ in range(2):
        yard.pool.refill()
        yard.nursery.finish()
    yard.pool.refill()
    yard.pool.discard_all()
    assert yard.pool.building == 1
    yard.nursery.finish()
    assert (yard.pool.building, yard.pool.ready("none")) == (0, 0)
    assert not yard.pool.refill()


def test_failures_keep_stage_and_errno() -> None:
    error = failure({"m": "error", "stage": "exec", "errno": 2, "subject": "/x", "message": "no such file"})
    assert (error.stage, error.errno, error.code) == ("exec", 2, 127)
    own = Conflict("mine")
    assert as_failure("start", own) is own
    other = as_failure("start", OSError(24, "too many open files"))
    assert isinstance(other, StartFailed)
    assert (other.stage, other.errno) == ("start", 24)
