"""Compression of layers and archives: gzip, zstd, and bzip2 and xz where an old archive has them.

`decode` turns a reader of raw bytes into a callable of decoded chunks, `encode_gzip` the other way round. A stream may
be several members one after another (pigz, estargz, zstd frames); bytes after the last that are no member are refused.
Output comes in bounded chunks whatever the input promises, so a small bomb costs time and not memory.

isal decodes gzip at twice zlib's speed and encodes at twenty times; where it is absent zlib does the same, slower.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from bireme.errors import Invalid, Unsupported

RAW_CHUNK = 256 << 10
CHUNK = 1 << 20
_WINDOW_LOG_MAX = 27
_XZ_MEMORY_MAX = 256 << 20

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    *((bytes((0x50 + n, 0x2A, 0x4D, 0x18)), "zstd") for n in range(16)),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
)
MAGIC_MAX_BYTES = 6

Chunks = Callable[[], bytes]


class Decompressor(Protocol):
    """The incremental interface that bz2, lzma, zstd and isal share."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _ZlibDecompressor:
    """zlib in that interface."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail and not self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max(max_length, 0))


def compression_of(head: bytes) -> str:
    """What the first bytes of a stream say: "gzip", "zstd", "bzip2", "xz", or "" for none."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    return ""


def open_maker(name: str) -> tuple[Callable[[], Decompressor], tuple[type[Exception], ...]]:
    """A maker of decompressors and the errors they raise on bad data; imports the library now, not at first use."""
    if name == "gzip":
        return _open_gzip()
    if name == "zstd":
        return _open_zstd()
    if name == "bzip2":
        bz2 = importlib.import_module("bz2")
        return bz2.BZ2Decompressor, (OSError, ValueError, EOFError)
    lzma = importlib.import_module("lzma")
    return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY_MAX), (lzma.LZMAError, EOFError)


def _open_gzip() -> tuple[Callable[[], Decompressor], tuple[type[Exception], ...]]:
    try:
        isal: Any = importlib.import_module("isal.igzip_lib")
    except ImportError:
        return _ZlibDecompressor, (zlib.error,)
    return lambda: isal.IgzipDecompressor(flag=isal.DECOMP_GZIP), (isal.IsalError, EOFError)


def _zstd() -> Any:
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise Unsupported("zstd is not supported by this installation", hint="install the Python package backports.zstd")


def _open_zstd() -> tuple[Callable[[], Decompressor], tuple[type[Exception], ...]]:
    zstd = _zstd()
    options = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX}
    return lambda: zstd.ZstdDecompressor(options=options), (zstd.ZstdError, EOFError)


def decode(read: Callable[[int], bytes], head: bytes = b"") -> Chunks:
    """Decoded chunks (b"" at the end) of the stream `head` + what `read(n)` returns.

    The compression is told by the first bytes: `head` is read up to that many when shorter. The chunks raise Invalid
    for corrupt or truncated data.
    """
    while len(head) < MAGIC_MAX_BYTES and (more := read(MAGIC_MAX_BYTES - len(head))):
        head += more
    name = compression_of(head)
    if not name:
        return _plain(read, head)
    maker, failures = open_maker(name)
    generator = _members(read, head, name, maker, failures)
    return lambda: next(generator, b"")


def _plain(read: Callable[[int], bytes], head: bytes) -> Chunks:
    pending = [head] if head else []

    def chunk() -> bytes:
        return pending.pop() if pending else read(RAW_CHUNK)

    return chunk


def _members(
    read: Callable[[int], bytes],
    data: bytes,
    name: str,
    maker: Callable[[], Decompressor],
    failures: tuple[type[Exception], ...],
) -> Iterator[bytes]:
    decompressor = maker()
    while True:
        try:
            out = decompressor.decompress(data, CHUNK)
        except failures as error:
            raise Invalid(f"{name} data is corrupt", place=name) from error
        data = b""
        if out:
            yield out
        if decompressor.eof:
            data = decompressor.unused_data
            while len(data) < MAGIC_MAX_BYTES and (more := read(RAW_CHUNK)):
                data += more
            if not data:
                return
            if compression_of(data) != name:
                raise Invalid(f"{name} data is followed by garbage", place=name)
            decompressor = maker()
        elif decompressor.needs_input or not out:
            data = read(RAW_CHUNK)
            if not data:
                raise Invalid(f"{name} data is truncated", place=name)


class GzipEncoder:
    """A gzip stream of one member, level 1, without a time stamp: same input, same bytes."""

    def __init__(self) -> None:
        try:
            library: Any = importlib.import_module("isal.isal_zlib")
        except ImportError:
            library = zlib
        self._inner = library.compressobj(1, zlib.DEFLATED, 31)

    def encode(self, data: bytes) -> bytes:
        """What is ready after `data`."""
        return bytes(self._inner.compress(data))

    def finish(self) -> bytes:
        """The rest of the stream."""
        return bytes(self._inner.flush())
