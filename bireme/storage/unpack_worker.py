"""The process that reads a layer: `python -I -m bireme.storage.unpack_worker REQUEST`, started by unpack.py.

Layers are decoded and parsed here and nowhere else, after the process has given up what it does not need: its root is
the target directory, its network is empty, it runs as nobody with the file system identity of root and six
capabilities, cannot gain more, cannot start processes, has bounded memory and time, and dies with its parent.
Everything it uses is imported before, since there are no files to import from afterwards.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

from bireme.errors import Internal, Unavailable, to_wire
from bireme.linux import capabilities, namespaces, process
from bireme.linux.process import CloneFlags
from bireme.oci.digest import SHA256, new_hash
from bireme.storage.codec import MAGIC_MAX_BYTES, compression_of, decode
from bireme.storage.layer import LayerWriter
from bireme.storage.tar import TarReader

_NOBODY = 65534
_MEMORY_MAX_BYTES = 2 << 30
_OPEN_FILES_MAX = 256
_CPU_MAX_S = 3600
_PROGRESS_BYTES = 4 << 20
_CAPABILITIES = capabilities.mask_of(
    ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD", "CAP_SETFCAP")
)


def main() -> int:
    request = json.loads(sys.argv[1])
    control = int(request["control"])
    try:
        answer: dict[str, Any] = {"ok": _work(request, lambda done: _tell(control, {"progress": done}))}
    except MemoryError:
        answer = {"error": to_wire(Unavailable("the layer needs too much memory to unpack"))}
    except RecursionError as error:
        answer = {"error": to_wire(Internal(str(error)))}
    except Exception as error:
        answer = {"error": to_wire(error)}
    _tell(control, answer)
    return 0


def _tell(control: int, message: dict[str, Any]) -> None:
    view = memoryview(json.dumps(message).encode() + b"\n")
    while view:
        view = view[os.write(control, view) :]


def _work(request: dict[str, Any], progress: Callable[[int], None]) -> dict[str, Any]:
    source = _HashedSource(int(request["blob"]), progress)
    head = source.read(MAGIC_MAX_BYTES)
    chunks = decode(source.read, head)
    content = _Content(chunks, hashed=bool(compression_of(head)))
    root = int(request["root"])
    _jail(root, int(request["parent"]))
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


def _jail(root: int, parent: int) -> None:
    os.umask(0)
    namespaces.unshare(CloneFlags.CLONE_NEWNET | CloneFlags.CLONE_NEWIPC)
    os.fchdir(root)
    os.chroot(".")
    os.chdir("/")
    for limit, value in (
        (resource.RLIMIT_AS, _MEMORY_MAX_BYTES),
        (resource.RLIMIT_NOFILE, _OPEN_FILES_MAX),
        (resource.RLIMIT_CPU, _CPU_MAX_S),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(limit, (value, value))
    capabilities.keep_over_setuid(True)
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    capabilities.set_effective_to_permitted()
    namespaces.set_filesystem_ids(0, 0)
    capabilities.drop_bounding(0)
    capabilities.set_sets(_CAPABILITIES, _CAPABILITIES, 0)
    process.set_no_new_privs()
    process.set_dumpable(False)
    process.set_pdeathsig(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
