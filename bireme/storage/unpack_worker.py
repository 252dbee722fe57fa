"""The process that reads a layer: `python -I -m bireme.storage.unpack_worker REQUEST`, started by unpack.py.

Layers are decoded and parsed here and nowhere else, after the process jailed itself in the target directory with the
six capabilities it needs to write files of any owner and kind (jail.py).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from bireme.oci.digest import SHA256, new_hash, prepare_for_long
from bireme.storage import jail
from bireme.storage.answering import Say, serve
from bireme.storage.codec import MAGIC_MAX_BYTES, compression_of, decode
from bireme.storage.layer import LayerWriter
from bireme.storage.tar import TarReader

_PROGRESS_BYTES = 4 << 20


def main() -> int:
    return serve(_work, "the layer needs too much memory to unpack")


def _work(request: dict[str, Any], progress: Say) -> dict[str, Any]:
    source = _HashedSource(int(request["blob"]), progress)
    head = source.read(MAGIC_MAX_BYTES)
    chunks = decode(source.read, head)
    content = _Content(chunks, hashed=bool(compression_of(head)))
    root = int(request["root"])
    prepare_for_long()
    jail.enter(root, int(request["parent"]), jail.WRITER)
    writer = LayerWriter(root, request["style"])
    archive = TarReader(content.read)
    try:
        writer.apply(archive)
    finally:
        writer.close()
    content.drain()
    return {
        "digest": source.digest(),
        "size_bytes": source.size,
        "diff_id": content.digest() or source.digest(),
        "content_bytes": content.size,
        "files_bytes": writer.size_bytes,
        "entries": archive.entries,
        "opaque": [os.fsdecode(path) for path in writer.opaque],
        "implied": [os.fsdecode(path) for path in writer.implied],
    }


class _HashedSource:
    """The blob, hashed as it is read."""

    def __init__(self, fd: int, progress: Callable[[int], None]) -> None:
        self._fd = fd
        self._hash = new_hash()
        self._progress = progress
        self._told = 0
        self.size = 0

    def read(self, count: int) -> bytes:
        data = os.read(self._fd, count)
        self._hash.update(data)
        self.size += len(data)
        if self.size - self._told >= _PROGRESS_BYTES or not data:
            self._told = self.size
            self._progress(self.size)
        return data

    def digest(self) -> str:
        return f"{SHA256}:{self._hash.hexdigest()}"


class _Content:
    """The decoded archive, hashed as it is parsed unless it is the blob itself."""

    def __init__(self, chunks: Callable[[], bytes], *, hashed: bool) -> None:
        self._chunks = chunks
        self._hash = new_hash() if hashed else None
        self.size = 0

    def read(self) -> bytes:
        data = self._chunks()
        if self._hash is not None:
            self._hash.update(data)
        self.size += len(data)
        return data

    def drain(self) -> None:
        """Read what the archive's reader left."""
        while self.read():
            pass

    def digest(self) -> str:
        """Of everything read, "" when it was not hashed."""
        return f"{SHA256}:{self._hash.hexdigest()}" if self._hash is not None else ""


if __name__ == "__main__":
    sys.exit(main())
