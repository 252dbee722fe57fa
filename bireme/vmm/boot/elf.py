"""A kernel as an ELF file (vmlinux): segments to copy, and where to begin. System V gABI, chapters 4 and 5.

Two ways in: the 64-bit entry (e_entry, a physical address in a kernel), and PVH, a 32-bit entry that a note of owner
"Xen" names (XEN_ELFNOTE_PHYS32_ENTRY) although no Xen is involved.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bireme.vmm.boot.image import FileImage

MAGIC = b"\x7fELF"
_HEADER = struct.Struct("<4sBBB9xHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_NOTE = struct.Struct("<III")
_CLASS_64, _LITTLE = 2, 1
_EXECUTABLE = (2, 3)
_X86_64 = 62
_PT_LOAD, _PT_NOTE = 1, 4
_MAX_SEGMENTS = 64
_MAX_NOTES_BYTES = 1 << 16
_PHYS32_ENTRY = 18


class Segment(NamedTuple):
    """Bytes of the file for a guest-physical address; memory beyond them up to `memory_size` is zero."""

    offset: int
    size: int
    address: int
    memory_size: int

    @property
    def end(self) -> int:
        return self.address + self.memory_size


class ElfKernel(NamedTuple):
    """`pvh_entry` is -1 where the kernel has none."""

    segments: tuple[Segment, ...]
    entry: int
    pvh_entry: int

    @property
    def end(self) -> int:
        return max(segment.end for segment in self.segments)


def parse_elf(file: FileImage) -> ElfKernel:
    """Invalid for anything but a 64-bit x86 executable whose segments lie in the file and do not overlap."""
    fields = _HEADER.unpack(file.read(0, _HEADER.size))
    kind, machine, entry, at, entry_size, count = (fields[index] for index in (4, 5, 7, 8, 12, 13))
    if fields[1:3] != (_CLASS_64, _LITTLE) or machine != _X86_64 or kind not in _EXECUTABLE:
        raise file.invalid("not an x86_64 kernel", "a kernel of this machine's architecture is needed")
    if entry_size != _PROGRAM.size or not 0 < count <= _MAX_SEGMENTS:
        raise file.invalid("not a kernel: its program headers make no sense")
    table = file.read(at, count * _PROGRAM.size)
    segments, pvh_entry = [], -1
    for kind, _, offset, _, address, size, memory_size, _ in _PROGRAM.iter_unpack(table):
        if kind == _PT_LOAD and memory_size:
            segments.append(_checked(file, Segment(offset, size, address, memory_size)))
        elif kind == _PT_NOTE and size <= _MAX_NOTES_BYTES:
            pvh_entry = max(pvh_entry, _pvh_entry(file.read(offset, size)))
    _check_layout(file, segments)
    return ElfKernel(tuple(segments), entry, pvh_entry)


def _checked(file: FileImage, segment: Segment) -> Segment:
    if segment.size > segment.memory_size:
        raise file.invalid("not a kernel: a segment is larger in the file than in memory")
    file.check(segment.offset, segment.size)
    return segment


def _check_layout(file: FileImage, segments: list[Segment]) -> None:
    if not segments:
        raise file.invalid("not a kernel: nothing to load")
    ordered = sorted(segments, key=lambda segment: segment.address)
    for lower, upper in pairwise(ordered):
        if lower.end > upper.address:
            raise file.invalid("not a kernel: its segments overlap in memory")


def iter_notes(block: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """Owner, type and description of each note; ends quietly where the block does not go on as one."""
    at = 0
    while at + _NOTE.size <= len(block):
        name_size, size, kind = _NOTE.unpack_from(block, at)
        start = at + _NOTE.size + (name_size + 3 & ~3)
        if start + size > len(block):
            return
        owner = block[at + _NOTE.size : at + _NOTE.size + name_size]
        yield owner.rstrip(b"\0"), kind, block[start : start + size]
        at = start + (size + 3 & ~3)


def _pvh_entry(block: bytes) -> int:
    for owner, kind, content in iter_notes(block):
        if owner == b"Xen" and kind == _PHYS32_ENTRY and len(content) in (4, 8):
            entry = int.from_bytes(content, "little")
            return entry if entry < 1 << 32 else -1
    return -1
