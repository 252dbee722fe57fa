"""The guest-physical map: what lies where, as one table.

A PC's first megabyte is history (real-mode vectors, BIOS, video), the last gigabyte below 4 GiB belongs to devices and
interrupt controllers, so memory has a hole there and what does not fit below goes on above 4 GiB.

    0x0000_0000  low memory: boot structures in the first 640 KiB, kernel from 1 MiB on
    0xc000_0000  end of low memory at the latest: the hole begins
    0xd000_0000  virtio-mmio windows, one page each
    0xfec0_0000  I/O APIC (KVM's)
    0xfee0_0000  local APICs (KVM's)
    0xfffb_c000  four pages that KVM keeps for real mode on Intel
    0x1_0000_0000  high memory

The boot structures are read by the kernel before it manages memory, and never again.
"""

from __future__ import annotations

PAGE = 0x1000
MIB = 1 << 20
GIB = 1 << 30

HOLE = 3 * GIB
"""Low memory ends here at the latest."""
HIGH = 4 * GIB

BOOT_GDT = 0x500
PVH_START_INFO = 0x6000
ZERO_PAGE = 0x7000
BOOT_STACK = 0x8FF0
PAGE_TABLES = 0x9000
"""Six pages: the top level, the next, and four that map 4 GiB by 2 MiB pages."""
COMMAND_LINE = 0x20000
COMMAND_LINE_END = 0x30000
LOW_RAM_END = 0x9FC00
"""Where a BIOS would keep its extended data: memory ends here for the guest, up to the first megabyte."""
ACPI = 0xE0000
"""The root pointer and the tables: in the BIOS area, where a kernel also scans for it."""
ACPI_END = 0x100000
KERNEL = 0x100000

VIRTIO_MMIO = 0xD000_0000
VIRTIO_MMIO_STRIDE = 0x1000
VIRTIO_QUEUE_NOTIFY = 0x50
IO_APIC = 0xFEC0_0000
LOCAL_APIC = 0xFEE0_0000
KVM_IDENTITY_MAP = 0xFFFB_C000
KVM_TSS = KVM_IDENTITY_MAP + PAGE

PORT_DEBUG_EXIT = 0xF4
PORT_I8042 = 0x60
PORT_CMOS = 0x70
PORT_SERIAL = 0x3F8
PORT_POWER = 0x600
"""Reset, sleep control and sleep status: three bytes that the FADT names."""

GSI_SERIAL = 4
GSIS_VIRTIO: tuple[int, ...] = (5, 6, 7, 9, 10, 11, 12, 14, 15, *range(16, 24))
"""Interrupt lines that no legacy device of a PC expects to own; shared in turn when there are more devices."""
