"""A file that is going to be loaded into a guest: read by position, never past its end.

`copy` moves tens of megabytes at every start, so it is done the short way: the file is mapped and written to the
memory's file, which allocates its pages without a fault for each; and holes are left out, since new memory is zero
already. (A kernel's .bss is a third of its vmlinux, and the engine keeps vmlinux with holes.)
"""

from __future__ import annotations

import errno
import mmap
import os
from typing import TYPE_CHECKING, Self

from bireme.errors import Invalid, NotFound, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from bireme.vmm.memory import GuestMemory


class FileImage:
    """An open file with its size when it was opened. Given a descriptor, it belongs to the caller still."""

    def __init__(self, source: str | int) -> None:
        self._owned = isinstance(source, str)
        self.name = source if isinstance(source, str) else f"descriptor {source}"
        try:
            self.fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC) if isinstance(source, str) else source
            self.size = os.fstat(self.fd).st_size
        except FileNotFoundError as error:
            raise NotFound(f"no such file: {self.name}", subject=self.name) from error
        except OSError as error:
            raise self._unavailable(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._owned:
            os.close(self.fd)

    def invalid(self, what: str, hint: str = "") -> Invalid:
        """An error about this file."""
        return Invalid(f"{self.name}: {what}", subject=self.name, hint=hint)

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes; Invalid when the file ends before."""
        self.check(offset, size)
        try:
            data = os.pread(self.fd, size, offset)
        except OSError as error:
            raise self._unavailable(error) from error
        if len(data) != size:
            raise self._truncated()
        return data

    def copy(self, offset: int, size: int, memory: GuestMemory, address: int) -> None:
        """Put a part of the file into fresh guest memory. Invalid when the file ends before; GuestFault."""
        self.check(offset, size)
        target = memory.offset(address, size) - offset
        try:
            for start, end in self._data(offset, offset + size):
                self._copy(start, end, memory.fd, start + target)
        except OSError as error:
            if error.errno == errno.EFAULT:
                raise self._truncated() from error
            raise self._unavailable(error) from error

    def _data(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Where the file has something between two positions."""
        while start < end:
            try:
                start = os.lseek(self.fd, start, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            if start >= end:
                return
            stop = min(os.lseek(self.fd, start, os.SEEK_HOLE), end)
            yield start, stop
            start = stop

    def _copy(self, start: int, end: int, target_fd: int, target: int) -> None:
        first = start - start % mmap.ALLOCATIONGRANULARITY
        try:
            mapped = mmap.mmap(self.fd, end - first, mmap.MAP_PRIVATE, mmap.PROT_READ, offset=first)
        except ValueError as error:
            raise self._truncated() from error
        with mapped, memoryview(mapped) as view:
            done = start
            while done < end:
                with view[done - first : end - first] as rest:
                    done += os.pwrite(target_fd, rest, target + done - start)

    def check(self, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > self.size:
            raise self._truncated()

    def _unavailable(self, error: OSError) -> Unavailable:
        return Unavailable(f"{self.name}: {(error.strerror or '').lower()}", subject=self.name)

    def _truncated(self) -> Invalid:
        return self.invalid("the file is cut off", "copy it again, or take it anew from the distribution's package")
