"""What an instance changed: its root compared with that of its image, the way dockerd compares.

    modified   mode, owner or device differ; of what is no directory also size or time; and every directory in which
               something changed
    added      not in the image
    deleted    in the image and gone

With an overlay only what is in the upper directory can differ, so the walk goes no deeper than that: what the merged
view has and the upper directory does not comes from below.
"""

from __future__ import annotations

import errno
import os
import stat
from enum import IntEnum
from typing import NamedTuple

from bireme.errors import Invalid
from bireme.storage.pack import DEPTH_MAX, VANISHED

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CAPABILITY = "security.capability"


class ChangeKind(IntEnum):
    """As Docker numbers them."""

    MODIFIED = 0
    ADDED = 1
    DELETED = 2


class Change(NamedTuple):
    """One path, absolute, that differs."""

    path: bytes
    kind: ChangeKind


def compare(new: int, old: int, upper: int = -1) -> list[Change]:
    """Differences between two open directories, parents before children; `old` -1 for an empty one.

    `upper`: the directory that holds every difference, -1 when it is not known.
    """
    walk = _Comparison()
    walk.directory(b"", new, old, upper, 0)
    return walk.changes


class _Comparison:
    def __init__(self) -> None:
        self.changes: list[Change] = []

    def directory(self, path: bytes, new: int, old: int, upper: int, depth: int) -> None:
        if depth > DEPTH_MAX // 3:
            raise Invalid("tree is too deep to compare", subject=os.fsdecode(path[:200]))
        names_old = set(_names(old)) if old >= 0 else set()
        written = set(_names(upper)) if upper >= 0 else None
        for name in _names(new):
            known = name in names_old
            names_old.discard(name)
            if written is None or name in written:
                self._entry(path + b"/" + name, name, (new, old if known else -1, upper), depth)
        for name in sorted(names_old):
            self.changes.append(Change(path + b"/" + name, ChangeKind.DELETED))

    def _entry(self, path: bytes, name: bytes, directories: tuple[int, int, int], depth: int) -> None:
        new, old, _ = directories
        at = len(self.changes)
        try:
            found = os.stat(name, dir_fd=new, follow_symlinks=False)
        except FileNotFoundError:
            return
        before = os.stat(name, dir_fd=old, follow_symlinks=False) if old >= 0 else None
        if before is None:
            self.changes.append(Change(path, ChangeKind.ADDED))
        elif _differs(found, before) or _capability(new, name, found) != _capability(old, name, before):
            self.changes.append(Change(path, ChangeKind.MODIFIED))
        if not stat.S_ISDIR(found.st_mode):
            return
        recorded = len(self.changes) > at
        self._inside(path, name, directories, before, depth)
        if len(self.changes) > at and not recorded:
            self.changes.insert(at, Change(path, ChangeKind.MODIFIED))

    def _inside(
        self, path: bytes, name: bytes, directories: tuple[int, int, int], before: os.stat_result | None, depth: int
    ) -> None:
        new, old, upper = directories
        fds = [-1, -1, -1]
        try:
            try:
                fds[0] = os.open(name, _OPEN, dir_fd=new)
                if before is not None and stat.S_ISDIR(before.st_mode):
                    fds[1] = os.open(name, _OPEN, dir_fd=old)
                    fds[2] = os.open(name, _OPEN, dir_fd=upper) if upper >= 0 else -1
            except OSError as error:
                if error.errno in VANISHED:
                    return
                raise
            self.directory(path, fds[0], fds[1], fds[2], depth + 1)
        finally:
            for fd in fds:
                if fd >= 0:
                    os.close(fd)


def _names(directory: int) -> list[bytes]:
    return sorted(os.fsencode(name) for name in os.listdir(directory))


def _differs(new: os.stat_result, old: os.stat_result) -> bool:
    if (new.st_mode, new.st_uid, new.st_gid, new.st_rdev) != (old.st_mode, old.st_uid, old.st_gid, old.st_rdev):
        return True
    if stat.S_ISDIR(old.st_mode):
        return False
    return new.st_size != old.st_size or not _same_time(new.st_mtime_ns, old.st_mtime_ns)


def _same_time(one: int, other: int) -> bool:
    """A time in whole seconds came out of an archive that has no fractions."""
    if one % 10**9 and other % 10**9:
        return one == other
    return one // 10**9 == other // 10**9


def _capability(directory: int, name: bytes, found: os.stat_result) -> bytes:
    if not stat.S_ISREG(found.st_mode):
        return b""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        if error.errno in VANISHED:
            return b""
        raise
    try:
        return os.getxattr(fd, _CAPABILITY)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return b""
        raise
    finally:
        os.close(fd)
