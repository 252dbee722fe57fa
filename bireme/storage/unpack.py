"""Unpacking a layer, seen from the engine: a worker process does it, here it is started, watched and judged.

    engine                                     worker (unpack_worker.py)
      | descriptors: blob, target, control        |
      |------------------------------------------>| reads the head, loads the codec, then jails itself
      |                     {"progress": bytes}   | in the target: no network, no other files, six capabilities
      |<------------------------------------------|
      |        {"ok": {...}} or {"error": {...}}  |
      |<------------------------------------------| ends
      | checks the digests, marks opaque directories, gives implied ones their attributes

The worker has no right to set trusted.* attributes and no sight of the layers below, so what needs those is left to
this side, which never trusts a path it is told: each is opened with openat2(RESOLVE_BENEATH).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bireme.errors import Invalid
from bireme.linux.libc import SyscallError
from bireme.storage.layer import open_beneath
from bireme.storage.snapshot import WhiteoutStyle
from bireme.storage.worker import run_worker

Progress = Callable[[int], None]


class Unpacked(NamedTuple):
    """What was read and written: digest and size of the blob, diff_id and size of its content, bytes of its files."""

    digest: str
    size_bytes: int
    diff_id: str
    content_bytes: int
    files_bytes: int
    entries: int


def unpack(
    blob: int,
    target: str,
    style: WhiteoutStyle,
    *,
    digest: str = "",
    diff_id: str = "",
    parents: Sequence[str] = (),
    progress: Progress | None = None,
) -> Unpacked:
    """Unpack the layer that descriptor `blob` reads into the empty or inherited directory `target`. Blocks.

    With `digest` or `diff_id` given, Invalid when they are not what was read. `parents` are the layers below, topmost
    first. After an error the contents of `target` are undefined: discard it.
    """
    root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        reply = _run(blob, root, style, progress)
        done = Unpacked(*(reply[field] for field in Unpacked._fields))
        if digest and done.digest != digest:
            raise Invalid(f"layer has digest {done.digest}, expected {digest}", subject=digest)
        if diff_id and done.diff_id != diff_id:
            raise Invalid(f"layer has diff id {done.diff_id}, expected {diff_id}", subject=diff_id)
        if style == "overlay":
            _mark_opaque(root, [os.fsencode(path) for path in reply["opaque"]])
            _inherit(root, [os.fsencode(path) for path in reply["implied"]], parents)
    finally:
        os.close(root)
    return done


def _run(blob: int, root: int, style: str, progress: Progress | None) -> dict[str, Any]:
    request = {"blob": blob, "root": root, "style": style}
    return run_worker("bireme.storage.unpack_worker", request, (blob, root), progress)


def _mark_opaque(root: int, paths: list[bytes]) -> None:
    for path in paths:
        if (fd := _open(root, path)) is None:
            continue
        try:
            os.setxattr(fd, "trusted.overlay.opaque", b"y")
        finally:
            os.close(fd)


def _inherit(root: int, paths: list[bytes], parents: Sequence[str]) -> None:
    """Give directories that no entry described the attributes they have in the layers below."""
    below: list[int] = []
    try:
        below += (os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for parent in parents)
        for path in sorted(paths, reverse=True):
            fd = _open(root, path)
            if fd is None:
                continue
            try:
                _inherit_one(fd, path, below)
            finally:
                os.close(fd)
    finally:
        for fd in below:
            os.close(fd)


def _inherit_one(target: int, path: bytes, below: list[int]) -> None:
    for layer in below:
        fd = _open(layer, path)
        if fd is None:
            continue
        try:
            found = os.fstat(fd)
        finally:
            os.close(fd)
        os.chown(target, found.st_uid, found.st_gid)
        os.chmod(target, stat.S_IMODE(found.st_mode))
        os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
        return


def _open(root: int, path: bytes) -> int | None:
    try:
        return open_beneath(root, path, os.O_RDONLY | os.O_NOFOLLOW)
    except SyscallError:
        return None
