"""Writing tar archives: ustar headers, pax records for what does not fit, no time stamps or names of ours.

Same entries, same bytes: numbers are written one way, pax records in sorted order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bireme.errors import Invalid
from bireme.storage.tar import BLOCK, Entry, Kind

_TYPES = {
    Kind.FILE: b"0",
    Kind.LINK: b"1",
    Kind.SYMLINK: b"2",
    Kind.CHARACTER: b"3",
    Kind.BLOCK: b"4",
    Kind.DIRECTORY: b"5",
    Kind.FIFO: b"6",
}
_OCTAL_12 = 1 << 33
_OCTAL_8 = 1 << 21
_END = bytes(2 * BLOCK)


def make_entry(
    name: bytes,
    kind: Kind = Kind.FILE,
    *,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime_ns: int = 0,
    target: bytes = b"",
    device: tuple[int, int] = (0, 0),
    xattrs: dict[bytes, bytes] | None = None,
) -> Entry:
    """An Entry with the usual values filled in."""
    return Entry(name, kind, mode, uid, gid, size, mtime_ns, target, device, xattrs or {}, None)


class TarWriter:
    """Writes members to `sink`, then `finish`."""

    def __init__(self, sink: Callable[[bytes], object]) -> None:
        self._sink = sink

    def add(self, entry: Entry, data: Iterable[bytes | memoryview] = ()) -> None:
        """One member with its data; Invalid when the data is not `entry.size` long."""
        self._sink(encode_header(entry))
        written = 0
        for chunk in data:
            written += len(chunk)
            self._sink(bytes(chunk))
        if written != (entry.size if entry.kind is Kind.FILE else 0):
            raise Invalid("member has another size than its header says", subject=entry.name.decode("utf-8", "replace"))
        self._sink(bytes(-written % BLOCK))

    def add_bytes(self, name: bytes, data: bytes, *, mode: int = 0o644, mtime_ns: int = 0) -> None:
        """A regular file from memory."""
        self.add(make_entry(name, mode=mode, size=len(data), mtime_ns=mtime_ns), (data,) if data else ())

    def finish(self) -> None:
        """The two zero blocks."""
        self._sink(_END)


def encode_header(entry: Entry) -> bytes:
    """The header blocks of a member: a pax header first when something does not fit."""
    records = {b"SCHILY.xattr." + name: value for name, value in entry.xattrs.items()}
    name = entry.name
    if entry.kind is Kind.DIRECTORY and not name.endswith(b"/"):
        name += b"/"
    prefix, short = _split(name)
    if len(short) > 100:
        records[b"path"] = name
    if len(entry.target) > 100:
        records[b"linkpath"] = entry.target
    for key, value, limit in (
        (b"size", entry.size, _OCTAL_12),
        (b"uid", entry.uid, _OCTAL_8),
        (b"gid", entry.gid, _OCTAL_8),
    ):
        if value >= limit:
            records[key] = b"%d" % value
    seconds, nanoseconds = divmod(entry.mtime_ns, 1_000_000_000)
    if nanoseconds or not 0 <= seconds < _OCTAL_12:
        records[b"mtime"] = _format_time(entry.mtime_ns)
    header = _block(entry, short[:100], prefix, max(0, min(seconds, _OCTAL_12 - 1)))
    return _pax(records) + header if records else header


def _format_time(mtime_ns: int) -> bytes:
    seconds, nanoseconds = divmod(abs(mtime_ns), 1_000_000_000)
    fraction = b".%09d" % nanoseconds if nanoseconds else b""
    return (b"-" if mtime_ns < 0 else b"") + b"%d" % seconds + fraction.rstrip(b"0")


def _split(name: bytes) -> tuple[bytes, bytes]:
    if len(name) <= 100:
        return b"", name
    cut = name.rfind(b"/", 0, 156)
    if cut <= 0 or len(name) - cut - 1 > 100 or len(name) - cut - 1 == 0:
        return b"", name
    return name[:cut], name[cut + 1 :]


def _block(entry: Entry, name: bytes, prefix: bytes, seconds: int) -> bytes:
    size = entry.size if entry.kind is Kind.FILE else 0
    block = b"".join(
        (
            name.ljust(100, b"\0"),
            b"%07o\0" % (entry.mode & 0o7777),
            b"%07o\0" % (entry.uid if entry.uid < _OCTAL_8 else 0),
            b"%07o\0" % (entry.gid if entry.gid < _OCTAL_8 else 0),
            b"%011o\0" % (size if size < _OCTAL_12 else 0),
            b"%011o\0" % seconds,
            b" " * 8,
            _TYPES[entry.kind],
            entry.target[:100].ljust(100, b"\0"),
            b"ustar\x0000",
            bytes(64),
            b"%07o\0" % entry.device[0],
            b"%07o\0" % entry.device[1],
            prefix.ljust(155, b"\0"),
            bytes(12),
        )
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _pax(records: dict[bytes, bytes]) -> bytes:
    body = b"".join(_record(key, records[key]) for key in sorted(records))
    entry = make_entry(b"././@PaxHeader", size=len(body))
    block = _block(entry, entry.name, b"", 0)
    block = block[:156] + b"x" + block[157:]
    block = block[:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(block) + block[156:] + body + bytes(-len(body) % BLOCK)


def _record(key: bytes, value: bytes) -> bytes:
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)
