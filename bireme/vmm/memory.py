"""Guest memory: one memfd, shared by every process of the machine, addressed as the guest sees it.

Every access names a guest-physical address and is checked against the regions; what lies outside, or crosses the end of
a region, is a `GuestFault`. The guest may write to its memory at any moment: copy once (`read`, `u32`...), check the
copy, use the copy. `view` is for bulk data whose contents do not steer us.

The file is sealed at its size, so that no process can make another's access fault by truncating it.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import NamedTuple

from bireme.errors import Invalid, Unavailable
from bireme.linux import fd as fdlib
from bireme.vmm.layout import HIGH, HOLE, PAGE

_u16 = struct.Struct("=H")
_u32 = struct.Struct("=I")
_u64 = struct.Struct("=Q")


class GuestFault(Exception):
    """The guest named memory that is not there: its fault, never ours."""

    def __init__(self, address: int, size: int) -> None:
        super().__init__(f"guest address {address:#x}, {size} bytes: not memory")
        self.address = address
        self.size = size


class Region(NamedTuple):
    """A stretch of guest-physical memory and where it lies in the file."""

    base: int
    size: int
    offset: int


def plan_regions(size_bytes: int) -> tuple[Region, ...]:
    """Low memory up to the hole, the rest from 4 GiB on."""
    low = Region(0, min(size_bytes, HOLE), 0)
    if size_bytes <= HOLE:
        return (low,)
    return low, Region(HIGH, size_bytes - HOLE, HOLE)


class GuestMemory:
    """Memory of `size_bytes` (a multiple of the page size), zeroed; pages are used when they are touched."""

    def __init__(self, size_bytes: int, *, fd: int = -1) -> None:
        if size_bytes <= 0 or size_bytes % PAGE:
            raise Invalid(f"memory of {size_bytes} bytes is not a number of pages", subject="memory")
        self.size = size_bytes
        self.regions = plan_regions(size_bytes)
        self.fd = fd if fd >= 0 else _make(size_bytes)
        try:
            self.mapping = mmap.mmap(self.fd, size_bytes, mmap.MAP_SHARED)
        except (OSError, ValueError, OverflowError) as error:
            os.close(self.fd)
            raise Unavailable(f"no memory for a guest of {size_bytes} bytes: {error}", subject="memory") from error
        self.mapping.madvise(mmap.MADV_DONTDUMP)
        _wish_huge_pages(self.mapping)
        self._view = memoryview(self.mapping)
        self._low_end = self.regions[0].size
        self._high_end = HIGH + self.regions[1].size if len(self.regions) > 1 else 0

    @classmethod
    def attach(cls, fd: int, size_bytes: int) -> GuestMemory:
        """The same memory in another process; the object owns the descriptor from now on."""
        if os.fstat(fd).st_size != size_bytes:
            raise Invalid("descriptor of another size than the memory", subject="memory")
        return cls(size_bytes, fd=fd)

    def offset(self, address: int, size: int) -> int:
        """Where `size` bytes at a guest address lie in the file and in `mapping`; GuestFault outside memory."""
        if size >= 0:
            if address >= 0 and address + size <= self._low_end:
                return address
            if address >= HIGH and address + size <= self._high_end:
                return address - (HIGH - HOLE)
        raise GuestFault(address, size)

    def view(self, address: int, size: int) -> memoryview:
        """A writable window on guest memory; release it before the memory is closed."""
        if address >= 0 and size >= 0 and address + size <= self._low_end:
            return self._view[address : address + size]
        start = self.offset(address, size)
        return self._view[start : start + size]

    def read(self, address: int, size: int) -> bytes:
        start = self.offset(address, size)
        return self.mapping[start : start + size]

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        start = self.offset(address, len(data))
        self._view[start : start + len(data)] = data

    def u16(self, address: int) -> int:
        """A 16-bit load, in one access when the address is aligned."""
        return int(_u16.unpack_from(self.mapping, self.offset(address, 2))[0])

    def u32(self, address: int) -> int:
        return int(_u32.unpack_from(self.mapping, self.offset(address, 4))[0])

    def u64(self, address: int) -> int:
        return int(_u64.unpack_from(self.mapping, self.offset(address, 8))[0])

    def store_u16(self, address: int, value: int) -> None:
        """A 16-bit store, in one access when the address is aligned."""
        _u16.pack_into(self.mapping, self.offset(address, 2), value)

    def store_u32(self, address: int, value: int) -> None:
        _u32.pack_into(self.mapping, self.offset(address, 4), value)

    def store_u64(self, address: int, value: int) -> None:
        _u64.pack_into(self.mapping, self.offset(address, 8), value)

    def close(self) -> None:
        """Give the memory back, unless views or a VM of this process still hold it: it goes with those then."""
        if self.fd < 0:
            return
        self._view.release()
        try:
            self.mapping.close()
        except BufferError:
            pass
        os.close(self.fd)
        self.fd = -1


def _wish_huge_pages(mapping: mmap.mmap) -> None:
    """A guest's first touch of a page is an exit to KVM: with pages of 2 MiB there are far fewer. The host decides
    (/sys/kernel/mm/transparent_hugepage/shmem_enabled: `advise` grants it, `never` is most distributions' default)."""
    try:
        mapping.madvise(mmap.MADV_HUGEPAGE)
    except OSError:
        return


def _make(size_bytes: int) -> int:
    fd = os.memfd_create("bireme-guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size_bytes)
        fdlib.seal_size(fd)
    except OSError as error:
        os.close(fd)
        raise Unavailable(f"no memory for a guest of {size_bytes} bytes: {error}", subject="memory") from error
    return fd
