"""PVH: the start information that a kernel finds at the address in EBX. Xen docs/misc/pvh.pandoc, start_info.h.

The kernel begins in 32-bit protected mode without paging and sets up everything else itself. It learns the memory map,
the command line, the initial RAM disk and where ACPI's root pointer is; there is no real-mode heritage in it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from bireme.vmm import layout
from bireme.vmm.registers import Entry

if TYPE_CHECKING:
    from bireme.vmm.boot.placement import BootInfo
    from bireme.vmm.memory import GuestMemory

_MAGIC = 0x336EC578
_start_info = struct.Struct("<IIIIQQQQII")
_module = struct.Struct("<QQQQ")
_range = struct.Struct("<QQII")


def write_start_info(memory: GuestMemory, info: BootInfo) -> None:
    modules = layout.PVH_START_INFO + _start_info.size
    ranges = modules + _module.size
    memory.write(
        layout.PVH_START_INFO,
        _start_info.pack(
            _MAGIC,
            1,
            0,
            1 if info.initrd_size else 0,
            modules,
            layout.COMMAND_LINE,
            layout.ACPI,
            ranges,
            len(info.memory_map),
            0,
        ),
    )
    memory.write(modules, _module.pack(info.initrd_address, info.initrd_size, 0, 0))
    memory.write(ranges, b"".join(_range.pack(*row, 0) for row in info.memory_map))


def pvh_entry(address: int) -> Entry:
    return Entry("protected", {"rip": address, "rbx": layout.PVH_START_INFO})
