"""Buses: offsets, overlaps, and what nobody answers."""

from __future__ import annotations

import pytest

from bireme.vmm.bus import Bus


class Recorder:
    def __init__(self, answer: int = 0) -> None:
        self.answer = answer
        self.seen: list[tuple[int, ...]] = []

    def read(self, offset: int, size: int) -> int:
        self.seen.append((offset, size))
        return self.answer

    def write(self, offset: int, size: int, value: int) -> None:
        self.seen.append((offset, size, value))


@pytest.mark.parametrize(("base", "size"), [(0x3F8, 8), (0xD0001000, 0x1000), (0xD0000000, 0x3000)])
def test_a_device_sees_offsets(base: int, size: int) -> None:
    bus, device = Bus("test"), Recorder(0x12)
    bus.add(base, size, device, "device")
    assert bus.read(base, 1) == 0x12
    bus.write(base + size - 1, 1, 7)
    assert device.seen == [(0, 1), (size - 1, 1, 7)]
    assert bus.describe()["windows"] == [{"name": "device", "base": base, "size": size, "reads": 1, "writes": 1}]


def test_nobody_answers_with_ones_and_it_is_counted() -> None:
    bus = Bus("test")
    bus.add(0x10, 4, Recorder(), "device")
    assert [bus.read(address, size) for address, size in [(0xF, 1), (0x14, 2), (0x20, 4)]] == [0xFF, 0xFFFF, 0xFFFFFFFF]
    bus.write(0xF, 1, 0)
    assert (bus.unclaimed_reads, bus.unclaimed_writes) == (3, 1)
    assert bus.describe()["unclaimed"] == {"0xf": 2, "0x14": 1, "0x20": 1}


def test_counted_addresses_are_bounded() -> None:
    bus = Bus("test")
    for address in range(1000):
        bus.write(address, 1, 0)
    assert bus.unclaimed_writes == 1000
    assert len(bus.unclaimed) == 64


def test_an_answer_is_cut_to_what_was_asked() -> None:
    bus = Bus("test")
    bus.add(0, 8, Recorder(-1), "device")
    assert bus.read(0, 2) == 0xFFFF


@pytest.mark.parametrize(("base", "size"), [(0x3F0, 9), (0x3FF, 1), (0x3F8, 8), (0, 0x1000), (0x3F8, 0), (-1, 1)])
def test_windows_do_not_overlap(base: int, size: int) -> None:
    bus = Bus("test")
    bus.add(0x3F8, 8, Recorder(), "serial")
    with pytest.raises(ValueError, match=r"overlaps|no window"):
        bus.add(base, size, Recorder(), "other")
