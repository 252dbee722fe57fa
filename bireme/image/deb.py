"""Reading Debian packages as a stream, deb(5): an ar archive with a compressed tar of control files and one of data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from bireme.errors import Invalid
from bireme.storage.codec import decode
from bireme.storage.tar import TarReader

MAGIC = b"!<arch>\n"
_CONTROL_MAX_BYTES = 1 << 20

Read = Callable[[int], bytes]


class Member(NamedTuple):
    """A member of the ar archive, to be read before the next is asked for."""

    name: str
    read: Read


def iter_members(read: Read) -> Iterator[Member]:
    """The members of an ar archive, ar(5): 60-byte headers, data padded to even. Invalid when it is none or cut off."""
    if _exactly(read, len(MAGIC)) != MAGIC:
        raise Invalid("not a Debian package")
    while header := read(60):
        header += _exactly(read, 60 - len(header)) if len(header) < 60 else b""
        size = header[48:58].strip()
        if header[58:60] != b"`\n" or not size.isdigit():
            raise Invalid("not a Debian package")
        body = _Body(read, int(size))
        yield Member(header[:16].rstrip(b" /").decode("ascii", "replace"), body.read)
        body.skip()
        if int(size) % 2:
            read(1)


class _Body:
    def __init__(self, read: Read, size: int) -> None:
        self._read = read
        self._left = size

    def read(self, count: int) -> bytes:
        data = self._read(min(count, self._left))
        if not data and self._left and count:
            raise Invalid("the package is truncated")
        self._left -= len(data)
        return data

    def skip(self) -> None:
        while self._left:
            self.read(1 << 20)


def _exactly(read: Read, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = read(count - len(data))
        if not more:
            raise Invalid("the package is truncated" if data else "not a Debian package")
        data += more
    return data


def read_control(read: Read) -> dict[str, str]:
    """The fields of a control.tar member: Package, Version, Depends..."""
    archive = TarReader(decode(read))
    for entry in archive:
        if entry.name.removeprefix(b"./") == b"control" and entry.size <= _CONTROL_MAX_BYTES:
            text = b"".join(archive.data()).decode("utf-8", "replace")
            lines = [line.partition(":") for line in text.splitlines() if line and not line[0].isspace()]
            return {key: value.strip() for key, _, value in lines}
    return {}


def reader_of(data: bytes) -> Read:
    """`read(n)` over bytes."""
    view, at = memoryview(data), 0

    def read(count: int) -> bytes:
        nonlocal at
        part = bytes(view[at : at + count])
        at += len(part)
        return part

    return read
