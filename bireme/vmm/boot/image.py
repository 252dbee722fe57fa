"""A file that is going to be loaded into a guest: read by position, never past its end."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

from bireme.errors import Invalid, NotFound, Unavailable

if TYPE_CHECKING:
    from types import TracebackType

_CHUNK = 1 << 30
"""The kernel moves at most 2 GiB - 4 KiB at once."""


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
            raise Unavailable(f"{self.name}: {(error.strerror or '').lower()}", subject=self.name) from error

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
        data = bytearray(size)
        self.read_into(offset, memoryview(data))
        return bytes(data)

    def read_into(self, offset: int, target: memoryview) -> None:
        self.check(offset, len(target))
        done = 0
        while done < len(target):
            try:
                count = os.preadv(self.fd, [target[done : done + _CHUNK]], offset + done)
            except OSError as error:
                raise Unavailable(f"{self.name}: {(error.strerror or '').lower()}", subject=self.name) from error
            if count == 0:
                raise self._truncated()
            done += count

    def check(self, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > self.size:
            raise self._truncated()

    def _truncated(self) -> Invalid:
        return self.invalid("the file is cut off", "copy it again, or take it anew from the distribution's package")
