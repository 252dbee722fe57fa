"""Builds tar archives field by field, so that a test can write what no honest program writes."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable

BLOCK = 512
END = bytes(2 * BLOCK)


def octal(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value)


def base256(value: int, width: int) -> bytes:
    if value < 0:
        return ((1 << (8 * width)) + value).to_bytes(width, "big")
    return bytes([0x80]) + value.to_bytes(width - 1, "big")


def header(
    name: bytes,
    kind: bytes = b"0",
    *,
    mode: bytes = b"0000644\0",
    uid: bytes = b"0000000\0",
    gid: bytes = b"0000000\0",
    size: int | bytes = 0,
    mtime: int | bytes = 0,
    target: bytes = b"",
    magic: bytes = b"ustar\x0000",
    major: int = 0,
    minor: int = 0,
    prefix: bytes = b"",
    tail: bytes = b"",
    checksum: bytes | None = None,
) -> bytes:
    """One header block; `tail` replaces everything from the prefix on."""
    block = b"".join(
        (
            name.ljust(100, b"\0")[:100],
            mode,
            uid,
            gid,
            size if isinstance(size, bytes) else octal(size, 12),
            mtime if isinstance(mtime, bytes) else octal(mtime, 12),
            b" " * 8,
            kind,
            target.ljust(100, b"\0")[:100],
            magic,
            bytes(64),
            octal(major, 8),
            octal(minor, 8),
            tail.ljust(167, b"\0") if tail else prefix.ljust(155, b"\0") + bytes(12),
        )
    )
    assert len(block) == BLOCK
    shown = b"%06o\0 " % sum(block) if checksum is None else checksum
    return block[:148] + shown + block[156:]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def file(name: bytes, data: bytes = b"", **fields: object) -> bytes:
    return header(name, size=len(data), **fields) + padded(data)  # type: ignore[arg-type]


def directory(name: bytes, mode: int = 0o755, **fields: object) -> bytes:
    return header(name, b"5", mode=octal(mode, 8), **fields)  # type: ignore[arg-type]


def symlink(name: bytes, target: bytes) -> bytes:
    return header(name, b"2", target=target, mode=b"0000777\0")


def link(name: bytes, target: bytes) -> bytes:
    return header(name, b"1", target=target)


def record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while len(body) + len(b"%d" % length) != length:
        length = len(body) + len(b"%d" % length)
    return b"%d" % length + body


def pax(records: Iterable[tuple[bytes, bytes]], kind: bytes = b"x") -> bytes:
    data = b"".join(record(key, value) for key, value in records)
    return header(b"PaxHeaders/x", kind, size=len(data)) + padded(data)


def long_name(name: bytes, kind: bytes = b"L") -> bytes:
    return header(b"././@LongLink", kind, size=len(name) + 1, magic=b"ustar  \0") + padded(name + b"\0")


def archive(*members: bytes) -> bytes:
    return b"".join(members) + END


def compressed(data: bytes) -> bytes:
    return gzip.compress(data, 1, mtime=0)


def chunks(data: bytes, size: int = 1 << 20) -> Callable[[], bytes]:
    """What TarReader pulls from."""
    at = 0

    def chunk() -> bytes:
        nonlocal at
        part = data[at : at + size]
        at += len(part)
        return part

    return chunk


def reader(data: bytes, most: int = 1 << 20) -> Callable[[int], bytes]:
    """A `read(n)` over bytes that returns at most `most` at a time."""
    at = 0

    def read(count: int) -> bytes:
        nonlocal at
        part = data[at : at + min(count, most)]
        at += len(part)
        return part

    return read
