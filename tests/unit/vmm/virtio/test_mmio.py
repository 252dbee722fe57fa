"""Registers: the handshake over all pairs of statuses, when each register may be written, what reads say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from bireme.vmm.memory import GuestMemory
from bireme.vmm.virtio.device import TRANSPORT_FEATURES, VERSION_1, DataPath, VirtioDevice
from bireme.vmm.virtio.mmio import MmioTransport
from bireme.vmm.virtio.queue import QueuePlace
from bireme.vmm.virtio.registers import (
    ABSORBED,
    CONFIG,
    CONFIG_CHANGED,
    FRESH,
    HANDSHAKE,
    LIVE,
    OFFSETS,
    REGISTERS,
    USED_BUFFER,
    Status,
)
from tests.support.virtio import Bench, running

FEATURE = 1 << 5
STATUSES = [FRESH, *HANDSHAKE.values()]


class NullPath(DataPath):
    QUEUES = (8, 4)

    def kick(self, index: int) -> bool:
        return False


def device() -> VirtioDevice:
    path = NullPath("null")
    return VirtioDevice("null", 42, TRANSPORT_FEATURES | FEATURE, path.QUEUES, b"configuration", path)


@pytest.fixture
def bench() -> Iterator[Bench]:
    yield from running(device())


def bring_to(bench: Bench, status: Status) -> None:
    driver = bench.driver
    driver.write("Status", 0)
    at = FRESH
    while at != status:
        following = HANDSHAKE[at]
        if following & Status.FEATURES_OK and not at & Status.FEATURES_OK:
            driver.accept(VERSION_1)
        driver.write("Status", following)
        at = following
    assert driver.read("Status") == status


def test_identity(bench: Bench) -> None:
    assert bench.transport.read(0, 4).to_bytes(4, "little") == b"virt"
    assert [bench.driver.read(name) for name in ("Version", "DeviceID", "Status")] == [2, 42, 0]
    assert bench.driver.read("SHMLenLow") == 0xFFFFFFFF
    assert bench.driver.sizes() == [8, 4]


def test_all_pairs_of_statuses(bench: Bench) -> None:
    for old in STATUSES:
        for new in (*STATUSES, *map(Status, range(16)), Status.NEEDS_RESET):
            bring_to(bench, old)
            if HANDSHAKE.get(old) == new and new & Status.FEATURES_OK and not old & Status.FEATURES_OK:
                bench.driver.accept(VERSION_1)
            bench.driver.write("Status", new)
            legal = new in (FRESH, old, HANDSHAKE.get(old))
            assert bench.driver.read("Status") == (new if legal else old), (old, new)


def test_a_failed_driver_starts_over(bench: Bench) -> None:
    for old in STATUSES:
        bring_to(bench, old)
        bench.driver.write("Status", old | Status.FAILED)
        assert bench.driver.read("Status") == old | Status.FAILED
        for following in HANDSHAKE.values():
            bench.driver.write("Status", following)
        assert bench.driver.read("Status") == old | Status.FAILED
        bench.driver.write("Status", 0)
        assert bench.driver.read("Status") == 0


def test_every_register_is_writable_in_its_statuses_only(bench: Bench) -> None:
    for register in REGISTERS:
        if register.name in ("Status", "InterruptACK"):
            continue
        for status in STATUSES:
            bring_to(bench, status)
            bench.driver.write("QueueSel", 0)
            before = bench.transport.refused
            bench.driver.write(register.name, 1)
            assert (bench.transport.refused == before) == (status in register.writable), (register, status)


def test_features_word_by_word(bench: Bench) -> None:
    assert bench.driver.offered() == TRANSPORT_FEATURES | FEATURE
    bench.driver.write("DeviceFeaturesSel", 2)
    assert bench.driver.read("DeviceFeatures") == 0


@pytest.mark.parametrize("features", [0, FEATURE, VERSION_1 | 1, VERSION_1 | 1 << 63, (1 << 64) - 1])
def test_features_that_are_not_agreed(bench: Bench, features: int) -> None:
    bring_to(bench, Status(3))
    bench.driver.accept(features)
    bench.driver.write("Status", 11)
    assert bench.driver.read("Status") == 3


def test_a_third_word_of_features_is_refused(bench: Bench) -> None:
    bring_to(bench, Status(3))
    bench.driver.write("DriverFeaturesSel", 2)
    bench.driver.write("DriverFeatures", 0)
    assert bench.transport.refused == 0
    bench.driver.write("DriverFeatures", 1)
    assert bench.transport.refused == 1


def test_widths_and_unknown_offsets(bench: Bench) -> None:
    for offset, size in ((OFFSETS["Status"], 1), (OFFSETS["Status"], 8), (0x71, 4), (CONFIG, 4), (0xFFF, 1), (4, 4)):
        before = bench.transport.refused
        bench.transport.write(offset, size, 1)
        assert bench.transport.refused == before + 1
    assert bench.driver.read("Status") == 0
    assert bench.transport.read(0xFFF, 8) == 0


def test_queues_that_do_not_exist(bench: Bench) -> None:
    bring_to(bench, Status(11))
    bench.driver.write("QueueSel", 2)
    assert bench.driver.read("QueueNumMax") == 0
    for name in ("QueueNum", "QueueReady", "QueueDescLow"):
        before = bench.transport.refused
        bench.driver.write(name, 1)
        assert bench.transport.refused == before + 1


def test_a_ready_queue_keeps_its_place(bench: Bench) -> None:
    bring_to(bench, Status(11))
    bench.driver.set_queue(0, QueuePlace(8, 0x1000, 0x2000, 0x3000))
    assert bench.driver.read("QueueReady") == 1
    bench.driver.write("QueueDescLow", 0x5000)
    assert bench.transport.refused == 1
    bench.driver.write("QueueNum", 9)
    assert bench.transport.refused == 2
    bench.driver.write("QueueSel", 1)
    assert bench.driver.read("QueueReady") == 0
    bench.driver.write("Status", 15)
    queues = bench.device.path.queues
    assert queues[0] is not None
    assert queues[0].place == QueuePlace(8, 0x1000, 0x2000, 0x3000)
    assert queues[1] is None


def test_a_queue_outside_memory_needs_a_reset(bench: Bench) -> None:
    bring_to(bench, Status(11))
    bench.driver.set_queue(0, QueuePlace(8, 1 << 40, 0x2000, 0x3000))
    bench.driver.write("Status", 15)
    assert bench.driver.read("Status") == 15 | Status.NEEDS_RESET
    assert bench.driver.read("InterruptStatus") == USED_BUFFER | CONFIG_CHANGED
    assert bench.driver.interrupts()
    assert "not memory" in bench.transport.reason
    for status in (*STATUSES[1:], Status.NEEDS_RESET):
        bench.driver.write("Status", status)
        assert bench.driver.read("Status") == 15 | Status.NEEDS_RESET
    bring_to(bench, LIVE)


def test_used_buffers_stay_announced(bench: Bench) -> None:
    bring_to(bench, LIVE)
    assert bench.driver.read("InterruptStatus") == USED_BUFFER
    offset, size, value = ABSORBED
    bench.transport.write(offset, size, value)
    assert bench.driver.read("InterruptStatus") == USED_BUFFER
    bench.driver.write("Status", 0)
    assert bench.driver.read("InterruptStatus") == 0


def test_a_change_of_configuration(bench: Bench) -> None:
    generation = bench.driver.read("ConfigGeneration")
    bench.transport.set_config(b"KON")
    assert not bench.driver.interrupts()
    bring_to(bench, LIVE)
    bench.transport.set_config(b"F", offset=3)
    assert bench.driver.interrupts()
    assert bytes(bench.transport.page[CONFIG : CONFIG + 13]) == b"KONFiguration"
    assert bench.driver.read("ConfigGeneration") not in (generation, generation + 1)
    assert bench.driver.read("InterruptStatus") == USED_BUFFER | CONFIG_CHANGED
    bench.driver.write("InterruptACK", CONFIG_CHANGED)
    assert bench.driver.read("InterruptStatus") == USED_BUFFER


def test_configuration_by_bytes(bench: Bench) -> None:
    read = bench.transport.read
    assert [read(CONFIG + at, 1) for at in range(4)] == list(b"conf")
    assert read(CONFIG, 8).to_bytes(8, "little") == b"configur"


def test_notify_without_ioeventfd(bench: Bench) -> None:
    bench.driver.start()
    kicks: list[int] = []
    bench.device.path.kick = lambda index: bool(kicks.append(index))  # type: ignore[method-assign,func-returns-value]
    bench.driver.write("QueueNotify", 1)
    bench.driver.write("QueueNotify", 7)
    bench.in_process.work()
    assert kicks == [1]


class RecordingBackend:
    def __init__(self) -> None:
        self.calls: list[object] = []
        self.reason = ""

    def watch(self, path: DataPath, broken: Callable[[str], None]) -> None:
        self.broken = broken

    def activate(self, path: DataPath, features: int, queues: Sequence[QueuePlace | None]) -> str:
        self.calls.append(("activate", features, tuple(queues)))
        return self.reason

    def reset(self, path: DataPath) -> None:
        self.calls.append("reset")


def test_the_data_path_hears_of_activation_and_reset_only() -> None:
    backend = RecordingBackend()
    transport = MmioTransport(device(), backend)
    memory = GuestMemory(4096)
    for status in (0, 1, 3):
        transport.write(OFFSETS["Status"], 4, status)
    transport.write(OFFSETS["DriverFeaturesSel"], 4, 1)
    transport.write(OFFSETS["DriverFeatures"], 4, 1)
    transport.write(OFFSETS["Status"], 4, 0)
    assert backend.calls == []
    for status in (1, 3):
        transport.write(OFFSETS["Status"], 4, status)
    transport.write(OFFSETS["DriverFeatures"], 4, 1)
    transport.write(OFFSETS["Status"], 4, 11)
    assert transport.status == 3, "what was agreed before the reset is forgotten: this word was the lower one"
    transport.write(OFFSETS["DriverFeatures"], 4, 0)
    transport.write(OFFSETS["DriverFeaturesSel"], 4, 1)
    transport.write(OFFSETS["DriverFeatures"], 4, 1)
    transport.write(OFFSETS["Status"], 4, 11)
    transport.write(OFFSETS["Status"], 4, 15)
    transport.write(OFFSETS["Status"], 4, 0)
    transport.write(OFFSETS["Status"], 4, 0)
    assert backend.calls == [("activate", VERSION_1, (None, None)), "reset"]
    backend.broken("late news of a driver that is gone")
    assert transport.status == 0
    memory.close()
