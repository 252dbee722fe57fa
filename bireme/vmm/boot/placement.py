"""What goes where in a guest's memory before it boots: decided here, as a value, before anything is copied."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from bireme.errors import Invalid
from bireme.vmm import layout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bireme.vmm.boot.elf import Segment
    from bireme.vmm.memory import Region

RAM, RESERVED = 1, 2
"""Types of the memory map (E820; PVH uses the same)."""
SLACK = 16 * layout.MIB
"""A kernel needs room beside itself and its initrd before it can complain about anything."""


class BootInfo(NamedTuple):
    """The memory map (address, size, type) and the initial RAM disk, for both boot protocols."""

    memory_map: tuple[tuple[int, int, int], ...]
    initrd_address: int
    initrd_size: int


def memory_map(regions: Sequence[Region]) -> tuple[tuple[int, int, int], ...]:
    """Memory but for the BIOS area, in which the ACPI tables lie."""
    low, *high = regions
    first = (
        (0, layout.LOW_RAM_END, RAM),
        (layout.ACPI, layout.ACPI_END - layout.ACPI, RESERVED),
        (layout.KERNEL, low.size - layout.KERNEL, RAM),
    )
    return first + tuple((region.base, region.size, RAM) for region in high)


def _mebibytes(size: int) -> int:
    return -(-size // layout.MIB)


def plan_boot(
    regions: Sequence[Region], kernel_end: int, initrd_size: int, initrd_limit: int = layout.HOLE
) -> BootInfo:
    """The initial RAM disk goes as high below `initrd_limit` as low memory allows. Invalid when memory is too small."""
    top = regions[0].size
    needed = kernel_end + initrd_size + SLACK
    if needed > top:
        if top == layout.HOLE:
            raise Invalid(f"kernel and initrd need {_mebibytes(needed)} MiB: too large to boot", subject="initrd")
        raise Invalid(
            f"too little memory: {top // layout.MIB} MiB",
            subject="memory",
            hint=f"this kernel and its initrd need at least {_mebibytes(needed)} MiB",
        )
    address = min(top, initrd_limit) - initrd_size & ~(layout.PAGE - 1)
    if initrd_size and address < kernel_end:
        raise Invalid(
            f"the initrd of {_mebibytes(initrd_size)} MiB does not fit between kernel and {initrd_limit:#x}",
            subject="initrd",
        )
    return BootInfo(memory_map(regions), address if initrd_size else 0, initrd_size)


def check_segments(name: str, segments: Sequence[Segment], regions: Sequence[Region]) -> None:
    """Invalid for a segment outside memory, or over what lies in the first megabyte."""
    for segment in segments:
        if segment.address < layout.KERNEL:
            raise Invalid(f"{name}: not a kernel: a segment lies at {segment.address:#x}, below 1 MiB", subject=name)
        if segment.end > layout.HOLE:
            raise Invalid(f"{name}: not a kernel: a segment lies at {segment.address:#x}", subject=name)
    end = max(segment.end for segment in segments)
    if end > regions[0].size:
        raise Invalid(
            f"too little memory: {regions[0].size // layout.MIB} MiB",
            subject="memory",
            hint=f"this kernel alone needs at least {_mebibytes(end)} MiB",
        )
