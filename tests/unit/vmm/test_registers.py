"""A vCPU's first state: segments as the processor holds them and as the table in memory has them."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from bireme.vmm import layout
from bireme.vmm.machine import Machine
from bireme.vmm.memory import GuestMemory
from bireme.vmm.registers import BOOT_MSRS, Entry, apply_entry, descriptor, segment, write_page_tables


def test_a_flat_code_segment() -> None:
    code = segment(0x10, 0xCF9B)
    assert (code["base"], code["limit"], code["selector"], code["type"]) == (0, 0xFFFFFFFF, 0x10, 0xB)
    assert [code[name] for name in ("present", "s", "dpl", "db", "l", "g")] == [1, 1, 0, 1, 0, 1]
    assert descriptor(0xCF9B) == 0x00CF9B000000FFFF


def test_a_64_bit_code_segment() -> None:
    code = segment(0x10, 0xAF9B)
    assert [code[name] for name in ("db", "l", "g")] == [0, 1, 1]
    assert descriptor(0xAF9B) == 0x00AF9B000000FFFF


def test_a_task_segment_counts_bytes() -> None:
    task = segment(0x20, 0x008B, 0x67)
    assert (task["limit"], task["s"], task["g"], task["type"]) == (0x67, 0, 0, 0xB)
    assert descriptor(0x008B, 0x67) == 0x00008B0000000067


def test_page_tables_map_4_gib_to_themselves() -> None:
    memory = GuestMemory(1 << 20)
    write_page_tables(memory)
    for address in (0, 0x200000, 0x3FFFFFFF, 0xD0001000, 0xFFFFFFFF):
        entry = memory.u64(layout.PAGE_TABLES + (address >> 39) * 8)
        entry = memory.u64((entry & ~0xFFF) + (address >> 30 & 511) * 8)
        entry = memory.u64((entry & ~0xFFF) + (address >> 21 & 511) * 8)
        assert (entry & 0xFFF, entry & ~0x1FFFFF) == (0x83, address & ~0x1FFFFF)
    memory.close()


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine(1 << 20, 2)
    machine.create()
    yield machine
    machine.close()


@pytest.mark.needs_kvm
def test_protected_mode(machine: Machine) -> None:
    vcpu = machine.vcpus[0].vcpu
    apply_entry(vcpu, machine.memory, Entry("protected", {"rip": 0x100200, "rbx": 0x6000}))
    state = vcpu.sregs()
    assert (state["cr0"] & 0x80000001, state["cs"]["db"], state["ds"]["limit"]) == (1, 1, 0xFFFFFFFF)
    table = machine.memory.read(state["gdt"]["base"], state["gdt"]["limit"] + 1)
    assert struct.unpack("<5Q", table)[2:] == (0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00008B0000000067)
    assert (vcpu.regs()["rip"], vcpu.regs()["rbx"]) == (0x100200, 0x6000)


@pytest.mark.needs_kvm
def test_firmwares_registers_and_waiting_vcpus(machine: Machine) -> None:
    for thread in machine.vcpus:
        assert thread.vcpu.msrs(list(BOOT_MSRS)) == BOOT_MSRS
        page = thread.vcpu.lapic()
        assert struct.unpack_from("<I", page, 0x350)[0] & 0x700 == 0x700
        assert struct.unpack_from("<I", page, 0x360)[0] & 0x700 == 0x400
    assert [thread.vcpu.mp_state() for thread in machine.vcpus] == [0, 1]
