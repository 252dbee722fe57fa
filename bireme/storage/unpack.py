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

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bireme.errors import Internal, Invalid, from_wire
from bireme.linux.libc import SyscallError
from bireme.storage.layer import open_beneath
from bireme.storage.snapshot import WhiteoutStyle

_LINE_MAX_BYTES = 256 << 20
_NOISE_MAX_BYTES = 4000

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
    read_end, write_end = os.pipe()
    request = {"blob": blob, "root": root, "control": write_end, "style": style, "parent": os.getpid()}
    command = [sys.executable, "-I", "-m", "bireme.storage.unpack_worker", json.dumps(request)]
    try:
        worker = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=write_end,
            pass_fds=(blob, root, write_end),
            cwd="/",
        )
    except OSError:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    try:
        with open(read_end, "rb") as control:
            reply, noise = _listen(control.readline, progress)
        code = worker.wait()
    finally:
        if worker.returncode is None:
            worker.kill()
            worker.wait()
    if "error" in reply:
        raise from_wire(reply["error"])
    if code or "ok" not in reply:
        how = f"signal {-code}" if code < 0 else f"code {code}"
        raise Internal(f"unpack worker ended with {how}", place="unpack worker", hint=noise.strip()[-500:])
    answer: dict[str, Any] = reply["ok"]
    return answer


def _listen(readline: Callable[[int], bytes], progress: Progress | None) -> tuple[dict[str, Any], str]:
    """The last word of the worker, and whatever else it (or its interpreter) printed."""
    reply: dict[str, Any] = {}
    noise = b""
    while line := readline(_LINE_MAX_BYTES):
        try:
            message = json.loads(line)
        except ValueError:
            noise = (noise + line)[-_NOISE_MAX_BYTES:]
            continue
        if "progress" not in message:
            reply = message
        elif progress is not None:
            progress(int(message["progress"]))
    return reply, noise.decode("utf-8", "replace")


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
