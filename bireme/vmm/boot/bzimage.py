"""A kernel as distributions ship it (bzImage): a real-mode part with a header, then a decompressor with its payload.

    0          0x1f1 header            (setup_sects + 1) * 512
    | real-mode code, not used          | 32-bit code ... +0x200: 64-bit entry ... payload (vmlinux, compressed)

We enter the decompressor in 64-bit mode as Documentation/arch/x86/boot.rst (64-bit boot protocol) says. The engine
takes the vmlinux out once, when a kernel is added, and boots that by PVH: the guest is spared the decompression, which
costs it more than anything else it does until its first process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from bireme.errors import Unsupported
from bireme.vmm import layout

if TYPE_CHECKING:
    from bireme.vmm.boot.image import FileImage

HEADER = 0x1F1
SECTOR = 512
_BOOT_FLAG, _MAGIC = 0xAA55, b"HdrS"
_OLDEST = 0x20C
"""The version of the protocol with a 64-bit entry (xloadflags), Linux 3.8."""
_XLF_KERNEL_64 = 1
ENTRY_64 = 0x200

_FIELDS = {
    "setup_sects": (0x1F1, 1),
    "syssize": (0x1F4, 4),
    "boot_flag": (0x1FE, 2),
    "jump": (0x201, 1),
    "version": (0x206, 2),
    "initrd_addr_max": (0x22C, 4),
    "relocatable": (0x234, 1),
    "xloadflags": (0x236, 2),
    "cmdline_size": (0x238, 4),
    "payload_offset": (0x248, 4),
    "payload_length": (0x24C, 4),
    "pref_address": (0x258, 8),
    "init_size": (0x260, 4),
}
_HEADER_END = 0x268


class BzImage(NamedTuple):
    """What the header says, sizes and offsets in bytes; `setup` is the header itself, for the zero page."""

    setup: bytes
    protected_offset: int
    protected_size: int
    initrd_limit: int
    cmdline_limit: int
    end: int
    """Where the memory ends that the decompressor works in."""


def is_bzimage(head: bytes) -> bool:
    return head[0x1FE:0x200] == b"\x55\xaa" and head[0x202:0x206] == _MAGIC


def parse_bzimage(file: FileImage) -> BzImage:
    """Invalid when it is none or is cut off, Unsupported when it is too old for a 64-bit entry."""
    head = file.read(0, _HEADER_END)
    if not is_bzimage(head):
        raise file.invalid("not a kernel")
    value = {name: int.from_bytes(head[at : at + size], "little") for name, (at, size) in _FIELDS.items()}
    if value["version"] < _OLDEST or not value["xloadflags"] & _XLF_KERNEL_64:
        raise Unsupported(
            f"{file.name}: no 64-bit entry", subject=file.name, hint="an x86_64 kernel of Linux 3.8 or newer is needed"
        )
    protected = ((value["setup_sects"] or 4) + 1) * SECTOR
    size = file.size - protected
    needed = max(value["syssize"] * 16, ENTRY_64 + 1, value["payload_offset"] + value["payload_length"])
    file.check(protected, needed)
    return BzImage(
        setup=head[HEADER : min(0x202 + value["jump"], _HEADER_END)],
        protected_offset=protected,
        protected_size=size,
        initrd_limit=value["initrd_addr_max"] + 1,
        cmdline_limit=value["cmdline_size"],
        end=_work_end(value, size),
    )


def _work_end(value: dict[str, int], size: int) -> int:
    """The decompressor moves itself to the end of `init_size` bytes at the preferred address, if we load it lower."""
    start = max(layout.KERNEL, value["pref_address"] if value["relocatable"] else 0)
    return max(start + value["init_size"], layout.KERNEL + size)
