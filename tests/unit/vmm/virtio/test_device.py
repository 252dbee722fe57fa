"""The base of the data paths: activation, reset, budgets, and a driver that breaks the rules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bireme.vmm.memory import GuestFault
from bireme.vmm.virtio.device import BUDGET, TRANSPORT_FEATURES, DataPath, VirtioDevice
from bireme.vmm.virtio.queue import QueueBroken, Virtqueue
from bireme.vmm.virtio.registers import Status
from tests.support.virtio import Bench, running


class EchoPath(DataPath):
    """Gives every chain back."""

    QUEUES = (256,)
    turns: list[int]

    def started(self) -> None:
        self.turns = []

    def kick(self, index: int) -> bool:
        before = self.counters["chains"]
        more = self.drain(index, self._echo)
        self.turns.append(self.counters["chains"] - before)
        return more

    def _echo(self, queue: Virtqueue) -> bool:
        chain = queue.pop()
        if chain is None:
            return False
        if chain.readable and bytes(chain.readable[0]) == b"fault":
            raise GuestFault(0, 0)
        queue.push(chain.head, 0)
        return True


@pytest.fixture
def bench() -> Iterator[Bench]:
    path = EchoPath("echo")
    yield from running(VirtioDevice("echo", 42, TRANSPORT_FEATURES, path.QUEUES, b"", path))


def test_a_turn_is_bounded_and_goes_on(bench: Bench) -> None:
    bench.driver.start()
    for _ in range(2 * BUDGET + 5):
        bench.driver.queues[0].add([b"x"])
    assert len(bench.do(0)) == 2 * BUDGET + 5
    path = bench.device.path
    assert isinstance(path, EchoPath)
    assert path.turns == [BUDGET, BUDGET, 5]


def test_no_interrupt_when_nothing_was_done(bench: Bench) -> None:
    bench.driver.start()
    assert bench.do(0) == []
    assert bench.driver.interrupts() == 0


def test_kicks_before_and_after_a_driver_are_ignored(bench: Bench) -> None:
    path = bench.device.path
    assert not path.run(0)
    bench.driver.start()
    bench.driver.write("Status", 0)
    assert not path.run(0)
    assert not path.ready(lambda: pytest.fail("called"))
    assert path.describe()["queues"] == [None]


def test_a_fault_breaks_the_device_until_its_reset(bench: Bench) -> None:
    bench.driver.start()
    queue = bench.driver.queues[0]
    queue.add([b"good"])
    queue.add([b"fault"])
    queue.add([b"late"])
    bench.do(0)
    assert bench.driver.read("Status") == 15 | Status.NEEDS_RESET
    assert bench.driver.interrupts(), "the driver is told"
    found = bench.device.path.describe()
    assert not found["active"]
    assert found["counters"]["broken"] == 1  # type: ignore[index]
    bench.do(0)
    assert found["counters"]["broken"] == 1  # type: ignore[index]
    bench.driver.start()
    bench.driver.queues[0].add([b"again"])
    assert len(bench.do(0)) == 1
    assert bench.device.path.broken == ""


def test_a_queue_that_is_not_set_up_is_left_alone(bench: Bench) -> None:
    bench.driver.begin()
    bench.driver.write("Status", 15)
    assert bench.device.path.active
    assert not bench.device.path.run(0)


def test_what_a_watched_descriptor_meets_is_caught(bench: Bench) -> None:
    bench.driver.start()

    def break_it() -> bool:
        raise QueueBroken("seen")

    assert not bench.device.path.ready(break_it)
    assert bench.device.path.broken == "seen"
