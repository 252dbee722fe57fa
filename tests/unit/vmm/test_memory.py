"""Guest memory: bounds, the hole below 4 GiB, sharing by descriptor."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bireme.errors import Invalid
from bireme.vmm.layout import GIB, HIGH, HOLE, PAGE
from bireme.vmm.memory import GuestFault, GuestMemory, Region, plan_regions


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory(16 * PAGE)
    yield memory
    memory.close()


def test_small_memory_is_one_region() -> None:
    assert plan_regions(HOLE) == (Region(0, HOLE, 0),)


def test_memory_beyond_the_hole_goes_on_above_it() -> None:
    assert plan_regions(4 * GIB) == (Region(0, HOLE, 0), Region(HIGH, GIB, HOLE))


def test_what_is_written_is_read(memory: GuestMemory) -> None:
    memory.write(0x1234, b"hello")
    assert memory.read(0x1234, 5) == b"hello"
    assert bytes(memory.view(0x1234, 5)) == b"hello"


def test_views_write_through(memory: GuestMemory) -> None:
    memory.view(8, 4)[:] = b"abcd"
    assert memory.read(8, 4) == b"abcd"


@pytest.mark.parametrize(("bits", "value"), [(16, 0xBEEF), (32, 0xDEADBEEF), (64, 0x0123456789ABCDEF)])
def test_loads_and_stores(memory: GuestMemory, bits: int, value: int) -> None:
    getattr(memory, f"store_u{bits}")(64, value)
    assert getattr(memory, f"u{bits}")(64) == value
    assert memory.read(64, bits // 8) == value.to_bytes(bits // 8, "little")


@pytest.mark.parametrize(
    ("address", "size"),
    [(16 * PAGE, 1), (16 * PAGE - 1, 2), (-1, 2), (0, 16 * PAGE + 1), (0, -1), (HIGH, 1), (1 << 64, 1), (8, -8)],
)
def test_outside_is_a_fault(memory: GuestMemory, address: int, size: int) -> None:
    with pytest.raises(GuestFault):
        memory.view(address, size)


def test_the_hole_is_a_fault_and_high_memory_is_not() -> None:
    memory = GuestMemory(HOLE + 2 * PAGE)
    memory.write(HIGH + PAGE, b"x")
    assert os.pread(memory.fd, 1, HOLE + PAGE) == b"x"
    for address, size in [(HOLE, 1), (HOLE - 1, 2), (HIGH - 1, 2), (HIGH + 2 * PAGE - 1, 2)]:
        with pytest.raises(GuestFault):
            memory.read(address, size)
    memory.close()


@given(st.integers(-(1 << 65), 1 << 65), st.integers(-(1 << 33), 1 << 65))
def test_every_address_is_memory_or_a_fault(address: int, size: int) -> None:
    memory = GuestMemory(2 * PAGE)
    try:
        assert len(memory.view(address, size)) == size
        assert 0 <= address <= address + size <= 2 * PAGE
    except GuestFault:
        assert size < 0 or address < 0 or address + size > 2 * PAGE
    finally:
        memory.close()


def test_another_process_sees_the_same(memory: GuestMemory) -> None:
    other = GuestMemory.attach(os.dup(memory.fd), memory.size)
    memory.write(PAGE, b"shared")
    assert other.read(PAGE, 6) == b"shared"
    other.close()


def test_attach_wants_the_size_it_was_told(memory: GuestMemory) -> None:
    with pytest.raises(Invalid):
        GuestMemory.attach(memory.fd, memory.size - PAGE)


def test_the_size_is_sealed(memory: GuestMemory) -> None:
    for size in (0, memory.size * 2):
        with pytest.raises(PermissionError):
            os.ftruncate(memory.fd, size)


@pytest.mark.parametrize("size", [0, -PAGE, PAGE + 1])
def test_sizes_that_are_no_pages(size: int) -> None:
    with pytest.raises(Invalid):
        GuestMemory(size)
