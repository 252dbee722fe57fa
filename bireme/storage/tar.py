"""Reading tar archives as a stream: POSIX ustar and pax, GNU long names, sparse files and base-256 numbers, old v7.

An archive is a sequence of 512-byte blocks: a header, then the entry's data padded to a block. Some headers describe
the one that follows: pax records (`x`; `g` for all that follow), GNU long name and link (`L`, `K`). Two zero blocks
end it; what comes after them must be zero.

The parser pulls chunks of any size from a callable and holds one chunk, one header and the records of one entry. All
of it is hostile input: every length is checked against a bound before anything is read or kept, numbers against the
range of their field, and the only exception out of here is `Invalid` (or what the callable itself raises).

Sparse files come in four dialects that say the same, where the stored bytes go in the whole file:
    GNU `S`     four extents in the header, more in extension blocks
    pax 0.0     repeated GNU.sparse.offset and GNU.sparse.numbytes records
    pax 0.1     one GNU.sparse.map record
    pax 1.0     decimal lines at the start of the data
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from enum import Enum
from typing import NamedTuple

from bireme.errors import Invalid

BLOCK = 512
PATH_MAX_BYTES = 4096
RECORDS_MAX_BYTES = 1 << 20
GLOBAL_MAX_BYTES = 1 << 16
EXTENTS_MAX = 1 << 17
SIZE_MAX = (1 << 63) - 1
_ID_MAX = (1 << 32) - 2
_TIME_MAX = 1 << 40
_META_HEADERS_MAX = 16

_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_ZERO = bytes(BLOCK)
_XATTR = b"SCHILY.xattr."


class Kind(Enum):
    """What an entry makes."""

    FILE = "file"
    LINK = "hard link"
    SYMLINK = "symbolic link"
    CHARACTER = "character device"
    BLOCK = "block device"
    DIRECTORY = "directory"
    FIFO = "fifo"


_KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"S": Kind.FILE,
    b"1": Kind.LINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.CHARACTER,
    b"4": Kind.BLOCK,
    b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
}


class Entry(NamedTuple):
    """One member. `size` is the file's size, `extents` where its stored bytes go (None: all, from 0)."""

    name: bytes
    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    target: bytes
    device: tuple[int, int]
    xattrs: dict[bytes, bytes]
    extents: tuple[tuple[int, int], ...] | None


class _Raw(NamedTuple):
    name: bytes
    mode: bytes
    uid: bytes
    gid: bytes
    size: bytes
    mtime: bytes
    checksum: bytes
    type: bytes
    target: bytes
    magic: bytes
    uname: bytes
    gname: bytes
    major: bytes
    minor: bytes
    prefix: bytes


class _Input:
    """Exact reads over a callable that returns chunks of any size, b"" at the end."""

    def __init__(self, chunks: Callable[[], bytes]) -> None:
        self._chunks = chunks
        self._chunk = b""
        self._at = 0
        self.offset = 0

    def take(self, count: int) -> bytes:
        """`count` bytes, or fewer at the end of the stream."""
        at = self._at
        data = self._chunk[at : at + count]
        if len(data) == count:
            self._at = at + count
        else:
            parts = [data]
            missing = count - len(data)
            while missing and self._fill():
                part = self._chunk[:missing]
                self._at = len(part)
                missing -= len(part)
                parts.append(part)
            data = b"".join(parts)
        self.offset += len(data)
        return data

    def views(self, count: int) -> Iterator[memoryview]:
        """`count` bytes as views into the chunks, fewer at the end of the stream."""
        while count:
            if self._at == len(self._chunk) and not self._fill():
                return
            view = memoryview(self._chunk)[self._at : self._at + count]
            self._at += len(view)
            self.offset += len(view)
            count -= len(view)
            yield view

    def _fill(self) -> bool:
        self._chunk = self._chunks()
        self._at = 0
        return bool(self._chunk)


class TarReader:
    """Iterate for the entries; `data()` yields the stored bytes of the one just yielded, unread data is skipped."""

    def __init__(self, chunks: Callable[[], bytes]) -> None:
        self._input = _Input(chunks)
        self._data = 0
        self._padding = 0
        self._global: dict[bytes, bytes] = {}
        self.entries = 0

    def __iter__(self) -> Iterator[Entry]:
        while (entry := self._next()) is not None:
            self.entries += 1
            yield entry

    def data(self) -> Iterator[memoryview]:
        """The stored bytes of the current entry. Invalid when the archive ends within them."""
        for view in self._input.views(self._data):
            self._data -= len(view)
            yield view
        if self._data:
            raise self._invalid("truncated")

    def _invalid(self, what: str) -> Invalid:
        return Invalid(f"archive is {what}", place=f"byte {self._input.offset} of the archive")

    def _skip(self) -> None:
        for view in self._input.views(self._data + self._padding):
            taken = min(self._data, len(view))
            self._data -= taken
            self._padding -= len(view) - taken
        if self._data or self._padding:
            raise self._invalid("truncated")

    def _next(self) -> Entry | None:
        records: dict[bytes, bytes] = dict(self._global)
        sparse: list[int] = []
        for _ in range(_META_HEADERS_MAX):
            self._skip()
            block = self._header()
            if block is None:
                if len(records) > len(self._global) or sparse:
                    raise self._invalid("truncated")
                return None
            raw = _Raw._make(_HEADER.unpack(block))
            if raw.type in b"xXgLKV":
                self._meta(raw, records, sparse)
            else:
                return self._entry(raw, block, records, sparse)
        raise self._invalid("malformed: too many headers for one entry")

    def _header(self) -> bytes | None:
        block = self._input.take(BLOCK)
        if not block:
            return None
        if len(block) < BLOCK:
            raise self._invalid("truncated")
        if block == _ZERO:
            self._finish()
            return None
        stored = self._number(block[148:156], "checksum")
        total = sum(block) - sum(block[148:156]) + 256
        if stored != total:
            high = sum(1 for byte in block[:148] + block[156:] if byte > 127)
            if stored != total - 256 * high:
                raise self._invalid("malformed: wrong header checksum")
        return block

    def _finish(self) -> None:
        for view in self._input.views(SIZE_MAX):
            if view.tobytes().count(0) != len(view):
                raise self._invalid("malformed: data after its end")

    def _number(self, field: bytes, what: str) -> int:
        first = field[0]
        if first & 0x80:
            value = int.from_bytes(field, "big")
            bits = len(field) * 8
            return value - (1 << bits) if first & 0x40 else value - (1 << (bits - 1))
        text = field.partition(b"\0")[0].strip(b" ")
        if not text:
            return 0
        try:
            if not text.isdigit():
                raise ValueError
            return int(text, 8)
        except ValueError:
            raise self._invalid(f"malformed: bad {what} in a header") from None

    def _meta(self, raw: _Raw, records: dict[bytes, bytes], sparse: list[int]) -> None:
        size = self._number(raw.size, "size")
        if not 0 <= size <= RECORDS_MAX_BYTES:
            raise self._invalid("malformed: an extended header is too large")
        data = self._input.take(size)
        if len(data) < size:
            raise self._invalid("truncated")
        self._padding = -size % BLOCK
        if raw.type == b"V":
            return
        if raw.type in b"LK":
            text = data.partition(b"\0")[0]
            records[b"path" if raw.type == b"L" else b"linkpath"] = text
        elif raw.type == b"g":
            self._pax(data, self._global, [])
            if sum(len(k) + len(v) for k, v in self._global.items()) > GLOBAL_MAX_BYTES:
                raise self._invalid("malformed: too many global records")
            records.update(self._global)
        else:
            self._pax(data, records, sparse)

    def _pax(self, data: bytes, records: dict[bytes, bytes], sparse: list[int]) -> None:
        at = 0
        while at < len(data):
            space = data.find(b" ", at, at + 20)
            digits = data[at:space] if space > 0 else b""
            if not digits.isdigit():
                if not data[at:].strip(b"\0"):
                    return
                raise self._invalid("malformed: bad pax record")
            end = at + int(digits)
            key, equals, value = data[space + 1 : end - 1].partition(b"=")
            if end > len(data) or end <= space or data[end - 1 : end] != b"\n" or not equals or not key:
                raise self._invalid("malformed: bad pax record")
            if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                self._sparse_pair(key, value, sparse)
            elif value or key.startswith(_XATTR):
                records[key] = value
            else:
                records.pop(key, None)
            at = end

    def _sparse_pair(self, key: bytes, value: bytes, sparse: list[int]) -> None:
        """Dialect 0.0: offset and numbytes take turns."""
        if (key == b"GNU.sparse.offset") != (len(sparse) % 2 == 0) or len(sparse) >= 2 * EXTENTS_MAX:
            raise self._invalid("malformed: bad sparse map")
        sparse.append(self._decimal(value, "sparse map"))

    def _decimal(self, text: bytes, what: str) -> int:
        if not text.isdigit() or len(text) > 19:
            raise self._invalid(f"malformed: bad {what}")
        value = int(text)
        if value > SIZE_MAX:
            raise self._invalid(f"malformed: bad {what}")
        return value

    def _entry(self, raw: _Raw, block: bytes, records: dict[bytes, bytes], sparse: list[int]) -> Entry:
        name = self._name(raw, records)
        kind = _KINDS.get(raw.type)
        if kind is None:
            raise self._invalid(f"malformed: entry of unknown type {raw.type!r}")
        if kind is Kind.FILE and raw.type != b"S" and name.endswith(b"/"):
            kind = Kind.DIRECTORY
        stored = self._bounded(raw.size, records, b"size", 0, SIZE_MAX) if kind is Kind.FILE else 0
        self._data, self._padding = stored, -stored % BLOCK
        target = records.get(b"linkpath") or raw.target.partition(b"\0")[0]
        if len(target) > PATH_MAX_BYTES:
            raise self._invalid("malformed: link target too long")
        size, extents = stored, None
        if kind is Kind.FILE:
            size, extents = self._extents(raw, block, records, sparse)
        device = (0, 0)
        if kind in (Kind.CHARACTER, Kind.BLOCK):
            device = (self._bounded(raw.major, {}, b"", 0, 4095), self._bounded(raw.minor, {}, b"", 0, (1 << 20) - 1))
        return Entry(
            name=name,
            kind=kind,
            mode=self._number(raw.mode, "mode") & 0o7777,
            uid=self._bounded(raw.uid, records, b"uid", 0, _ID_MAX),
            gid=self._bounded(raw.gid, records, b"gid", 0, _ID_MAX),
            size=size,
            mtime_ns=self._time(raw.mtime, records),
            target=target if kind in (Kind.LINK, Kind.SYMLINK) else b"",
            device=device,
            xattrs={k[len(_XATTR) :]: v for k, v in records.items() if k.startswith(_XATTR)} if records else {},
            extents=extents,
        )

    def _name(self, raw: _Raw, records: dict[bytes, bytes]) -> bytes:
        name = records.get(b"GNU.sparse.name") or records.get(b"path")
        if name is None:
            name = raw.name.partition(b"\0")[0]
            if raw.magic == b"ustar\x0000" and raw.prefix[0]:
                name = raw.prefix.partition(b"\0")[0] + b"/" + name
        if not name:
            raise self._invalid("malformed: entry without a name")
        if len(name) > PATH_MAX_BYTES:
            raise self._invalid("malformed: name too long")
        return name

    def _bounded(self, field: bytes, records: dict[bytes, bytes], key: bytes, low: int, high: int) -> int:
        text = records.get(key) if records else None
        value = self._number(field, "number") if text is None else self._decimal(text, key.decode())
        if not low <= value <= high:
            raise self._invalid("malformed: a number is out of range")
        return value

    def _time(self, field: bytes, records: dict[bytes, bytes]) -> int:
        text = records.get(b"mtime")
        if text is None:
            seconds, nanoseconds = self._number(field, "time"), 0
        else:
            whole, _, fraction = text.partition(b".")
            if len(text) > 64 or not whole.removeprefix(b"-").isdigit() or not (fraction + b"0").isdigit():
                raise self._invalid("malformed: bad time")
            seconds, nanoseconds = int(whole), int(fraction[:9].ljust(9, b"0"))
            if whole.startswith(b"-"):
                nanoseconds = -nanoseconds
        if not -_TIME_MAX <= seconds <= _TIME_MAX:
            raise self._invalid("malformed: a time is out of range")
        return seconds * 1_000_000_000 + nanoseconds

    def _extents(
        self, raw: _Raw, block: bytes, records: dict[bytes, bytes], sparse: list[int]
    ) -> tuple[int, tuple[tuple[int, int], ...] | None]:
        """(size of the file, its extents) in whichever dialect, None when it is not sparse."""
        if raw.type == b"S":
            numbers = self._gnu_sparse(block)
            size = self._bounded(block[483:495], {}, b"", 0, SIZE_MAX)
        elif records.get(b"GNU.sparse.major") == b"1":
            size = self._decimal(records.get(b"GNU.sparse.realsize", b""), "sparse size")
            numbers = self._sparse_lines()
        elif sparse or b"GNU.sparse.map" in records or b"GNU.sparse.size" in records:
            size = self._decimal(records.get(b"GNU.sparse.size", b""), "sparse size")
            text = records.get(b"GNU.sparse.map")
            numbers = [self._decimal(n, "sparse map") for n in text.split(b",")] if text else sparse
        else:
            return self._data, None
        return size, self._checked(numbers, size)

    def _gnu_sparse(self, block: bytes) -> list[int]:
        numbers: list[int] = []
        first, count, more = 386, 4, block[482]
        while True:
            for at in range(first, first + 24 * count, 24):
                if block[at + 12] == 0:
                    break
                numbers += (self._number(block[at + i : at + i + 12], "sparse map") for i in (0, 12))
            if not more:
                return numbers
            if len(numbers) > 2 * EXTENTS_MAX:
                raise self._invalid("malformed: sparse map too long")
            block = self._input.take(BLOCK)
            if len(block) < BLOCK:
                raise self._invalid("truncated")
            first, count, more = 0, 21, block[504]

    def _sparse_lines(self) -> list[int]:
        """Dialect 1.0: decimal lines in whole blocks before the data, the first says how many extents follow."""
        numbers: list[int] = []
        expected = 1
        text = b""
        while len(numbers) < expected:
            if self._data < BLOCK or len(text) > BLOCK:
                raise self._invalid("malformed: bad sparse map")
            block = self._input.take(BLOCK)
            if len(block) < BLOCK:
                raise self._invalid("truncated")
            self._data -= BLOCK
            *lines, text = (text + block).split(b"\n")
            for line in lines:
                if len(numbers) < expected:
                    numbers.append(self._decimal(line, "sparse map"))
                    expected = 1 + 2 * numbers[0]
            if expected > 2 * EXTENTS_MAX:
                raise self._invalid("malformed: sparse map too long")
        return numbers[1:]

    def _checked(self, numbers: list[int], size: int) -> tuple[tuple[int, int], ...]:
        if len(numbers) % 2:
            raise self._invalid("malformed: bad sparse map")
        end = stored = 0
        pairs = tuple(zip(numbers[::2], numbers[1::2], strict=True))
        for offset, length in pairs:
            if offset < end or length < 0 or offset + length > size:
                raise self._invalid("malformed: bad sparse map")
            end = offset + length
            stored += length
        if stored != self._data:
            raise self._invalid("malformed: sparse map does not fit the data")
        return pairs
