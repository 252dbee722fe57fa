"""Boot Linux: put kernel, initrd, command line and what the boot protocol asks for into guest memory.

    vmlinux with a PVH note    32-bit entry, start information   (pvh.py)
    vmlinux without            64-bit entry, zero page           (zeropage.py)
    bzImage                    64-bit entry of its decompressor, zero page

Everything is checked and decided first, then copied straight from the files into guest memory.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from bireme.vmm import layout
from bireme.vmm.boot import bzimage, elf
from bireme.vmm.boot.cmdline import MAX_BYTES, encode_cmdline
from bireme.vmm.boot.image import FileImage
from bireme.vmm.boot.placement import check_segments, plan_boot
from bireme.vmm.boot.pvh import pvh_entry, write_start_info
from bireme.vmm.boot.zeropage import long_entry, write_zero_page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bireme.vmm.memory import GuestMemory
    from bireme.vmm.registers import Entry

_INITRD_ALIGNMENT = 4
"""Archives of an initramfs follow each other on words."""
_HEAD = 0x210


def load_linux(memory: GuestMemory, kernel: str | int, initrds: Sequence[str | int], cmdline: str) -> Entry:
    """Where the first vCPU begins. Files are paths or open descriptors.

    Invalid for what is not a kernel, cut off, does not fit or is too long; NotFound and Unavailable for files.
    """
    with ExitStack() as stack:
        file = stack.enter_context(FileImage(kernel))
        parts = [stack.enter_context(FileImage(source)) for source in initrds]
        head = file.read(0, min(file.size, _HEAD))
        if head.startswith(elf.MAGIC):
            return _load_elf(memory, file, parts, cmdline)
        if bzimage.is_bzimage(head):
            return _load_bzimage(memory, file, parts, cmdline)
        raise file.invalid("not a kernel", "a bzImage (vmlinuz) or an ELF vmlinux is needed")


def _load_elf(memory: GuestMemory, file: FileImage, initrds: list[FileImage], cmdline: str) -> Entry:
    kernel = elf.parse_elf(file)
    check_segments(file.name, kernel.segments, memory.regions)
    info = plan_boot(memory.regions, kernel.end, initrd_size(initrds))
    words = encode_cmdline(cmdline, MAX_BYTES)
    for segment in kernel.segments:
        file.copy(segment.offset, segment.size, memory, segment.address)
    _copy_initrds(memory, initrds, info.initrd_address)
    memory.write(layout.COMMAND_LINE, words)
    if kernel.pvh_entry >= 0:
        write_start_info(memory, info)
        return pvh_entry(kernel.pvh_entry)
    write_zero_page(memory, info)
    return long_entry(kernel.entry)


def _load_bzimage(memory: GuestMemory, file: FileImage, initrds: list[FileImage], cmdline: str) -> Entry:
    kernel = bzimage.parse_bzimage(file)
    info = plan_boot(memory.regions, kernel.end, initrd_size(initrds), kernel.initrd_limit)
    words = encode_cmdline(cmdline, min(kernel.cmdline_limit, layout.COMMAND_LINE_END - layout.COMMAND_LINE - 1))
    file.copy(kernel.protected_offset, kernel.protected_size, memory, layout.KERNEL)
    _copy_initrds(memory, initrds, info.initrd_address)
    memory.write(layout.COMMAND_LINE, words)
    write_zero_page(memory, info, kernel.setup)
    return long_entry(layout.KERNEL + bzimage.ENTRY_64)


def _padded(size: int) -> int:
    return size + _INITRD_ALIGNMENT - 1 & ~(_INITRD_ALIGNMENT - 1)


def initrd_size(parts: Sequence[FileImage]) -> int:
    return sum(_padded(part.size) for part in parts)


def _copy_initrds(memory: GuestMemory, parts: Sequence[FileImage], address: int) -> None:
    for part in parts:
        part.copy(0, part.size, memory, address)
        address += _padded(part.size)
