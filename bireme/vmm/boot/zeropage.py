"""The zero page (struct boot_params): what a kernel finds at the address in RSI when it is entered in 64-bit mode.

Linux Documentation/arch/x86/boot.rst (64-bit boot protocol) and zero-page.rst. It holds a copy of the kernel's own
setup header, in which the boot loader fills its fields, and the memory map.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from bireme.vmm import layout
from bireme.vmm.registers import Entry

if TYPE_CHECKING:
    from bireme.vmm.boot.placement import BootInfo
    from bireme.vmm.memory import GuestMemory

_ACPI_RSDP, _E820_COUNT, _HEADER, _E820 = 0x070, 0x1E8, 0x1F1, 0x2D0
_LOADER, _LOADFLAGS, _RAMDISK, _COMMAND_LINE = 0x210, 0x211, 0x218, 0x228
_BOOT_FLAG, _MAGIC, _CMDLINE_SIZE = 0x1FE, 0x202, 0x238
_UNDEFINED_LOADER, _LOADED_HIGH = 0xFF, 1
_range = struct.Struct("<QQI")
_NO_SETUP = bytes(_BOOT_FLAG - _HEADER) + b"\x55\xaa\xeb\x66HdrS\x0f\x02"
"""For a kernel that comes as ELF and brings no header: the magic numbers and a version of the protocol."""


def write_zero_page(memory: GuestMemory, info: BootInfo, setup: bytes = _NO_SETUP) -> None:
    page = bytearray(layout.PAGE)
    page[_HEADER : _HEADER + len(setup)] = setup
    page[_LOADER] = _UNDEFINED_LOADER
    page[_LOADFLAGS] |= _LOADED_HIGH
    struct.pack_into("<II", page, _RAMDISK, info.initrd_address, info.initrd_size)
    struct.pack_into("<I", page, _COMMAND_LINE, layout.COMMAND_LINE)
    struct.pack_into("<Q", page, _ACPI_RSDP, layout.ACPI)
    page[_E820_COUNT] = len(info.memory_map)
    for number, row in enumerate(info.memory_map):
        _range.pack_into(page, _E820 + number * _range.size, *row)
    memory.write(layout.ZERO_PAGE, page)


def long_entry(address: int) -> Entry:
    return Entry("long", {"rip": address, "rsi": layout.ZERO_PAGE, "rsp": layout.BOOT_STACK})
