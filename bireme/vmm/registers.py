"""A vCPU's state before its first instruction: the three ways a boot protocol wants to find the processor.

    real        as after reset, but at an address of ours: 16 bits, segments from 0
    protected   32 bits, paging off, flat segments: what PVH asks for
    long        64 bits, the first 4 GiB mapped to themselves: Linux' 64-bit entry

Segments are set in the hidden part of the registers; the table in memory says the same, for when the guest reloads one.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from bireme.errors import Unsupported
from bireme.vmm import layout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bireme.linux.kvm import Vcpu
    from bireme.vmm.memory import GuestMemory

CR0_PE, CR0_ET, CR0_PG = 1 << 0, 1 << 4, 1 << 31
CR4_PAE = 1 << 5
EFER_LME, EFER_LMA = 1 << 8, 1 << 10

CODE, DATA, TASK = 0x10, 0x18, 0x20
"""Selectors; Linux' boot protocol names the first two (__BOOT_CS, __BOOT_DS)."""
_LONG_MODE_CODE = 0xAF9B
_CODE32 = 0xCF9B
_DATA32 = 0xCF93
_TASK32 = 0x008B

MSR_IA32_MISC_ENABLE = 0x1A0
MSR_MTRR_DEF_TYPE = 0x2FF
BOOT_MSRS = {
    MSR_IA32_MISC_ENABLE: 1,  # fast string operations, which firmware turns on
    MSR_MTRR_DEF_TYPE: 1 << 11 | 6,  # ranges on, everything write-back: no firmware set up any
}
_LAPIC_LINT0, _LAPIC_LINT1 = 0x350, 0x360
_DELIVER_NMI, _DELIVER_EXTINT = 0x400, 0x700


class Entry(NamedTuple):
    """Where and how a vCPU begins: general registers not given are zero."""

    mode: Literal["real", "protected", "long"]
    regs: Mapping[str, int]


def segment(selector: int, flags: int, limit: int = 0xFFFFF) -> dict[str, int]:
    """A segment from 0 as kvm_segment has it; `flags`: access byte, and above it limit granularity, size and long."""
    granular = flags >> 15 & 1
    return {
        "base": 0,
        "limit": limit << 12 | 0xFFF if granular else limit,
        "selector": selector,
        "type": flags & 0xF,
        "s": flags >> 4 & 1,
        "dpl": flags >> 5 & 3,
        "present": flags >> 7 & 1,
        "avl": flags >> 12 & 1,
        "l": flags >> 13 & 1,
        "db": flags >> 14 & 1,
        "g": granular,
        "unusable": 0,
        "padding": 0,
    }


def descriptor(flags: int, limit: int = 0xFFFFF) -> int:
    """The same as an entry of a descriptor table."""
    return (flags & 0xF0FF) << 40 | (limit & 0xF0000) << 32 | limit & 0xFFFF


def _flat(values: dict[str, Any], code: int, memory: GuestMemory) -> None:
    values["cs"] = segment(CODE, code)
    for name in ("ds", "es", "fs", "gs", "ss"):
        values[name] = segment(DATA, _DATA32)
    values["tr"] = segment(TASK, _TASK32, 0x67)
    table = struct.pack("<5Q", 0, 0, descriptor(code), descriptor(_DATA32), descriptor(_TASK32, 0x67))
    memory.write(layout.BOOT_GDT, table)
    values["gdt"] = {"base": layout.BOOT_GDT, "limit": len(table) - 1, "padding": b""}
    values["idt"] = {"base": 0, "limit": 0, "padding": b""}


def write_page_tables(memory: GuestMemory) -> None:
    """The first 4 GiB mapped to themselves by 2 MiB pages: present, writable, page size."""
    top, pointers, directories = (layout.PAGE_TABLES + at * layout.PAGE for at in range(3))
    memory.store_u64(top, pointers | 3)
    memory.write(pointers, struct.pack("<4Q", *(directories + at * layout.PAGE | 3 for at in range(4))))
    memory.write(directories, struct.pack("<2048Q", *(at << 21 | 0x83 for at in range(2048))))


def apply_entry(vcpu: Vcpu, memory: GuestMemory, entry: Entry) -> None:
    values = vcpu.sregs()
    if entry.mode == "real":
        values["cs"].update(base=0, selector=0)
    elif entry.mode == "protected":
        _flat(values, _CODE32, memory)
        values.update(cr0=CR0_PE | CR0_ET, cr4=0, efer=0)
    else:
        _flat(values, _LONG_MODE_CODE, memory)
        write_page_tables(memory)
        values.update(cr0=CR0_PE | CR0_ET | CR0_PG, cr3=layout.PAGE_TABLES, cr4=CR4_PAE, efer=EFER_LME | EFER_LMA)
    vcpu.set_sregs(values)
    vcpu.set_regs(**entry.regs)


def apply_reset(vcpu: Vcpu) -> None:
    """What firmware would leave behind on every processor, waiting ones included."""
    vcpu.set_fpu(fcw=0x37F, mxcsr=0x1F80)
    if vcpu.set_msrs(BOOT_MSRS) != len(BOOT_MSRS):
        raise Unsupported("this KVM does not take the registers that a guest boots with", subject="kvm")
    page = vcpu.lapic()
    struct.pack_into("<I", page, _LAPIC_LINT0, _DELIVER_EXTINT)
    struct.pack_into("<I", page, _LAPIC_LINT1, _DELIVER_NMI)
    vcpu.set_lapic(page)
